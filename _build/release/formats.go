package main

// What other tools read: the software bill of materials (CycloneDX 1.6), the Homebrew
// formula, the Scoop manifest, and the manifest of an MCP bundle (0.3).

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
)

const (
	repository  = "https://github.com/smorand/mcp-proxy"
	description = "Lets any MCP client use a remote MCP server that asks for OAuth 2.1"
)

// bundlePlatforms has the systems that there are bundles for, under the format's names.
var bundlePlatforms = map[string]string{"darwin": "darwin", "linux": "linux", "windows": "win32"}

type object = map[string]any

// describe returns the files that say what the others are.
func describe(host *build, files []file) ([]file, error) {
	sums := map[string]string{}
	for _, f := range files {
		sums[f.name] = fmt.Sprintf("%x", sha256.Sum256(f.data))
	}
	bill, err := billOfMaterials(host)
	if err != nil {
		return nil, err
	}
	manifest, err := scoopManifest(host.version, sums)
	return []file{
		{program + ".cdx.json", 0o644, bill},
		{program + ".rb", 0o644, homebrewFormula(host.version, sums)},
		{program + ".json", 0o644, manifest},
	}, err
}

// billOfMaterials lists the one component that the program contains: Go's standard library.
func billOfMaterials(host *build) ([]byte, error) {
	license := func(id string) []object { return []object{{"license": object{"id": id}}} }
	module := "pkg:golang/" + strings.TrimPrefix(repository, "https://") + "@v" + host.version
	library := "pkg:golang/std@" + host.goVersion
	return marshal(object{
		"bomFormat":   "CycloneDX",
		"specVersion": "1.6",
		"version":     1,
		"metadata": object{
			"timestamp": host.modified.Format("2006-01-02T15:04:05Z"),
			"component": object{"type": "application", "bom-ref": module, "purl": module,
				"name": program, "version": "v" + host.version, "description": description,
				"licenses":           license("MIT"),
				"externalReferences": []object{{"type": "vcs", "url": repository}}},
		},
		"components": []object{{"type": "library", "bom-ref": library, "purl": library,
			"name": "std", "version": "go" + host.goVersion, "licenses": license("BSD-3-Clause")}},
		"dependencies": []object{{"ref": module, "dependsOn": []string{library}}, {"ref": library}},
	})
}

func homebrewFormula(version string, sums map[string]string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "class McpProxy < Formula\n  desc %q\n  homepage %q\n", description, repository)
	fmt.Fprintf(&b, "  version %q\n  license \"MIT\"\n", version)
	for _, system := range []struct{ name, goName string }{{"macos", "darwin"}, {"linux", "linux"}} {
		fmt.Fprintf(&b, "\n  on_%s do\n", system.name)
		for _, cpu := range []struct{ name, goName string }{{"arm", "arm64"}, {"intel", "amd64"}} {
			archive := program + "-" + system.goName + "-" + cpu.goName + ".tar.gz"
			if sum := sums[archive]; sum != "" {
				fmt.Fprintf(&b, "    on_%s do\n      url %q\n      sha256 %q\n    end\n",
					cpu.name, download(version, archive), sum)
			}
		}
		b.WriteString("  end\n")
	}
	b.WriteString(`
  def install
    bin.install "mcp-proxy"
    man1.install "mcp-proxy.1"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/mcp-proxy --version")
  end
end
`)
	return b.Bytes()
}

func scoopManifest(version string, sums map[string]string) ([]byte, error) {
	architectures := object{}
	for name, arch := range map[string]string{"64bit": "amd64", "arm64": "arm64"} {
		folder := program + "-windows-" + arch
		if sum := sums[folder+".zip"]; sum != "" {
			architectures[name] = object{"url": download(version, folder+".zip"), "hash": sum,
				"extract_dir": folder}
		}
	}
	return marshal(object{"version": version, "description": description, "homepage": repository,
		"license": "MIT", "architecture": architectures, "bin": program + ".exe"})
}

func download(version, name string) string {
	return repository + "/releases/download/v" + version + "/" + name
}

// bundleManifest is what a host reads that installs the bundle. The client goes by the
// environment and has a default, because a host leaves out neither an argument nor a variable
// whose value the user did not give.
func bundleManifest(b *build) ([]byte, error) {
	return marshal(object{
		"manifest_version": "0.3",
		"name":             program,
		"display_name":     "Remote MCP server (OAuth 2.1)",
		"version":          b.version,
		"description":      description,
		"author":           object{"name": "the mcp-proxy authors", "url": repository},
		"repository":       object{"type": "git", "url": repository},
		"homepage":         repository,
		"license":          "MIT",
		"compatibility":    object{"platforms": []string{bundlePlatforms[b.system]}},
		"tools_generated":  true, // by the server
		"server": object{
			"type":        "binary",
			"entry_point": b.executable().name,
			"mcp_config": object{
				"command": "${__dirname}/" + b.executable().name,
				"args":    []string{"-u", "${user_config.url}"},
				"env": object{
					"GOOGLE_CLIENT_ID":     "${user_config.client_id}",
					"GOOGLE_CLIENT_SECRET": "${user_config.client_secret}",
				},
			},
		},
		"user_config": userConfig,
	})
}

// userConfig is what the user is asked for, in this order.
var userConfig = struct {
	URL    object `json:"url"`
	ID     object `json:"client_id"`
	Secret object `json:"client_secret"`
}{
	object{"type": "string", "title": "URL of the MCP server", "required": true,
		"description": "Begins with https:// and often ends in /mcp"},
	object{"type": "string", "title": "OAuth client id", "required": false, "default": "",
		"description": "Only for a server that registers no clients"},
	object{"type": "string", "title": "OAuth client secret", "required": false, "default": "",
		"sensitive": true, "description": "If one belongs to the client id"},
}

func marshal(v object) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(v)
	return b.Bytes(), err
}
