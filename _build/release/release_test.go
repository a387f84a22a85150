package main

// The promise of a release, kept by "make release-check": the same commit gives the
// same bytes, in another folder, with other settings and without the build cache.

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/macho"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	root           = "../.."
	releaseVersion = "v1.2.3"
)

func TestReleaseIsReproducible(t *testing.T) {
	targets := strings.Fields(os.Getenv("MCP_PROXY_RELEASE_TARGETS"))
	if len(targets) == 0 {
		t.Skip("it builds everything twice: make release-check runs it")
	}
	here := t.TempDir()
	there := filepath.Join(t.TempDir(), "a longer path", "with spaces")
	first := buildRelease(t, here, targets, "umask 022",
		"GOFLAGS=-buildvcs=false", "TZ=UTC", "LC_ALL=C")
	second := buildRelease(t, there, targets, "umask 077", "GOFLAGS=", "TZ=Asia/Tokyo",
		"LC_ALL=C.UTF-8", "GOAMD64=v3", "GOARM=7", "GOCACHE="+t.TempDir())

	want := []string{"SHA256SUMS", "mcp-proxy-source.tar.gz", "mcp-proxy.cdx.json",
		"mcp-proxy.json", "mcp-proxy.rb"}
	for _, target := range targets {
		names := []string{".tar.gz", ".mcpb"}
		switch system, _, _ := strings.Cut(target, "/"); system {
		case "windows":
			names[0] = ".zip"
		case "freebsd":
			names = names[:1] // no host there knows bundles
		}
		for _, ending := range names {
			want = append(want, "mcp-proxy-"+strings.ReplaceAll(target, "/", "-")+ending)
		}
	}
	slices.Sort(want)
	for _, files := range []map[string][]byte{first, second} {
		if got := sortedNames(files); !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	for _, name := range want {
		if !bytes.Equal(first[name], second[name]) {
			t.Errorf("%s: two builds differ", name)
		}
	}
	checkSums(t, first)
	checkSource(t, first)
	checkBill(t, first)
	checkPackages(t, first, targets)
	for _, target := range targets {
		checkArchive(t, first, target)
	}
}

func sortedNames(files map[string][]byte) (names []string) {
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// buildRelease clones the last commit into dir, tags it and releases it there.
func buildRelease(t *testing.T, dir string, targets []string, setup string,
	env ...string) map[string][]byte {
	t.Helper()
	source, err := filepath.Abs(root)
	fatal(t, err)
	folder := filepath.Join(dir, "checkout")
	for _, args := range [][]string{
		{"git", "clone", "-q", "--no-tags", source, folder},
		{"git", "-C", folder, "-c", "tag.gpgSign=false", "-c", "tag.forceSignAnnotated=false",
			"tag", releaseVersion},
		{"sh", "-c", setup + ` && exec make -C "$1" release VERSION="$2" TARGETS="$3"`,
			"sh", folder, releaseVersion, strings.Join(targets, " ")},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	files := map[string][]byte{}
	dist := filepath.Join(folder, "dist")
	entries, err := os.ReadDir(dist)
	fatal(t, err)
	for _, entry := range entries {
		files[entry.Name()] = readFile(t, filepath.Join(dist, entry.Name()))
	}
	return files
}

// checkSums does what "sha256sum -c" does.
func checkSums(t *testing.T, files map[string][]byte) {
	t.Helper()
	var want strings.Builder
	sums := string(files["SHA256SUMS"])
	for _, line := range strings.SplitAfter(sums, "\n") {
		if _, name, ok := strings.Cut(line, "  "); ok {
			fmt.Fprintf(&want, "%x  %s", sha256.Sum256(files[strings.TrimSpace(name)]), name)
		}
	}
	if sums != want.String() || strings.Count(sums, "\n") != len(files)-1 {
		t.Errorf("SHA256SUMS: got %q, want %q", sums, want.String())
	}
}

// checkSource compares the source archive with what git knows.
func checkSource(t *testing.T, files map[string][]byte) {
	t.Helper()
	var got []string
	members := untar(t, files["mcp-proxy-source.tar.gz"])
	for name, member := range members {
		got = append(got, strings.TrimPrefix(name, "mcp-proxy-source/"))
		if script := strings.HasSuffix(name, ".ci/run"); script != (member.Mode == 0o755) {
			t.Errorf("%s: got mode %v", name, member.Mode)
		}
	}
	list := exec.Command("git", "ls-tree", "-r", "--name-only", "HEAD")
	list.Dir = root
	out, err := list.Output()
	fatal(t, err)
	slices.Sort(got)
	if want := strings.Fields(string(out)); !slices.Equal(got, want) {
		t.Errorf("the source archive has %d files, want %d", len(got), len(want))
	}
	if member := members["mcp-proxy-source/README.md"]; member != nil &&
		!bytes.Equal(member.Data, readFile(t, filepath.Join(root, "README.md"))) {
		t.Error("the source archive has another README.md")
	}
}

func checkBill(t *testing.T, files map[string][]byte) {
	t.Helper()
	var bill struct {
		BOMFormat, SpecVersion string
		Metadata               struct {
			Component struct{ Version, PURL string }
		}
		Components []struct{ Name, Version, PURL string }
	}
	fatal(t, json.Unmarshal(files["mcp-proxy.cdx.json"], &bill))
	version := runtime.Version()
	if bill.BOMFormat != "CycloneDX" || bill.SpecVersion != "1.6" ||
		bill.Metadata.Component.Version != releaseVersion || len(bill.Components) != 1 ||
		bill.Metadata.Component.PURL != "pkg:golang/github.com/smorand/mcp-proxy@"+releaseVersion ||
		bill.Components[0].PURL != "pkg:golang/std@"+strings.TrimPrefix(version, "go") {
		t.Errorf("got %s", files["mcp-proxy.cdx.json"])
	}
}

// checkPackages looks for the archives in the formula and the manifest, by their checksums.
func checkPackages(t *testing.T, files map[string][]byte, targets []string) {
	t.Helper()
	formula, manifest := string(files["mcp-proxy.rb"]), string(files["mcp-proxy.json"])
	if !json.Valid(files["mcp-proxy.json"]) {
		t.Errorf("not JSON: %s", manifest)
	}
	for _, target := range targets {
		system, arch, _ := strings.Cut(target, "/")
		where, archive := formula, "mcp-proxy-"+system+"-"+arch+".tar.gz"
		switch {
		case system == "windows":
			where, archive = manifest, "mcp-proxy-"+system+"-"+arch+".zip"
		case system == "freebsd", arch == "arm":
			continue // Homebrew knows no such machine
		}
		address := `"https://github.com/smorand/mcp-proxy/releases/download/v1.2.3/` + archive + `"`
		sum := fmt.Sprintf("%x", sha256.Sum256(files[archive]))
		if !strings.Contains(where, address) || !strings.Contains(where, sum) {
			t.Errorf("%s: not with its checksum in %s", archive, where)
		}
	}
}

// checkArchive opens an archive, and the bundle, as their users will.
func checkArchive(t *testing.T, files map[string][]byte, target string) {
	t.Helper()
	system, arch, _ := strings.Cut(target, "/")
	folder, executable := "mcp-proxy-"+system+"-"+arch, "mcp-proxy"
	var members fstest.MapFS
	if system == "windows" {
		executable += ".exe"
		members = unzip(t, files[folder+".zip"])
	} else {
		members = untar(t, files[folder+".tar.gz"])
	}
	want := map[string]fs.FileMode{executable: 0o755, "README.md": 0o644, "LICENSE": 0o644,
		"CHANGELOG.md": 0o644, "mcp-proxy.1": 0o644}
	for name, mode := range want {
		got := members[folder+"/"+name]
		switch {
		case got == nil || len(got.Data) == 0 || got.Mode != mode:
			t.Fatalf("%s: got %v for %s, want it with mode %v", target, got, name, mode)
		case name == executable:
			checkBinary(t, target, got.Data)
		case name == "mcp-proxy.1":
			checkManual(t, got.Data)
		case !bytes.Equal(got.Data, readFile(t, filepath.Join(root, name))):
			t.Errorf("%s: %s differs", target, name)
		}
	}
	if len(members) != len(want) {
		t.Errorf("%s: got %d members, want %d", target, len(members), len(want))
	}
	if bundle := files[folder+".mcpb"]; bundle != nil {
		checkBundle(t, unzip(t, bundle), executable, members[folder+"/"+executable].Data)
	}
}

func checkBundle(t *testing.T, members fstest.MapFS, executable string, binary []byte) {
	t.Helper()
	program, manifest := members[executable], members["manifest.json"]
	if len(members) != 2 || program == nil || manifest == nil ||
		program.Mode != 0o755 || !bytes.Equal(program.Data, binary) {
		t.Fatalf("got %d members", len(members))
	}
	var got struct {
		Version string
		Server  struct {
			EntryPoint string                   `json:"entry_point"`
			MCPConfig  struct{ Command string } `json:"mcp_config"`
		}
		UserConfig map[string]struct{ Required, Sensitive bool } `json:"user_config"`
	}
	fatal(t, json.Unmarshal(manifest.Data, &got))
	if got.Version != releaseVersion[1:] || got.Server.EntryPoint != executable ||
		got.Server.MCPConfig.Command != "${__dirname}/"+executable || !got.UserConfig["url"].Required ||
		got.UserConfig["client_id"].Required || !got.UserConfig["client_secret"].Sensitive {
		t.Errorf("got %s", manifest.Data)
	}
}

// checkManual wants every option of every command in the manual page.
func checkManual(t *testing.T, page []byte) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "mcp-proxy.exe")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	options := map[string]bool{}
	for _, args := range [][]string{{"-h"}, {"login", "-h"}, {"logout", "-h"}, {"status", "-h"},
		{"doctor", "-h"}} {
		usage, err := exec.Command(program, args...).Output()
		fatal(t, err)
		flags := regexp.MustCompile(`(?m)^ .*?(--[a-z-]+)`)
		for _, found := range flags.FindAllStringSubmatch(string(usage), -1) {
			options[found[1]] = true
		}
	}
	if len(options) < 25 || !options["--json"] || !options["--all"] {
		t.Fatalf("got %v", options)
	}
	for option := range options {
		if !regexp.MustCompile(`(?m)^\\fB.*` + regexp.QuoteMeta(roff(option)) + `\b`).Match(page) {
			t.Errorf("the manual page lacks %s", option)
		}
	}
}

func checkBinary(t *testing.T, target string, binary []byte) {
	t.Helper()
	info, err := buildinfo.Read(bytes.NewReader(binary))
	fatal(t, err)
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["GOOS"]+"/"+settings["GOARCH"] != target || info.Main.Version != releaseVersion ||
		settings["vcs.modified"] != "false" || len(info.Deps) != 0 {
		t.Errorf("%s: got %v", target, info)
	}
	if strings.HasPrefix(target, "darwin/") && !hasUUID(t, binary) {
		t.Errorf("%s: no LC_UUID, macOS 26 would not start it", target)
	}
	if target != runtime.GOOS+"/"+runtime.GOARCH {
		return
	}
	path := filepath.Join(t.TempDir(), "mcp-proxy.exe") // the ending is for Windows
	fatal(t, os.WriteFile(path, binary, 0o700))
	out, err := exec.Command(path, "--version").Output()
	if want := "mcp-proxy " + releaseVersion; err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("--version: got %q, %v, want %q", out, err, want)
	}
}

func hasUUID(t *testing.T, binary []byte) bool {
	t.Helper()
	const loadUUID = 0x1b // LC_UUID of mach-o/loader.h
	f, err := macho.NewFile(bytes.NewReader(binary))
	fatal(t, err)
	return slices.ContainsFunc(f.Loads, func(l macho.Load) bool {
		return f.ByteOrder.Uint32(l.Raw()) == loadUUID
	})
}

func untar(t *testing.T, archive []byte) fstest.MapFS {
	t.Helper()
	unpacked, err := gzip.NewReader(bytes.NewReader(archive))
	fatal(t, err)
	members := fstest.MapFS{}
	for r := tar.NewReader(unpacked); ; {
		header, err := r.Next()
		if err == io.EOF {
			return members
		}
		fatal(t, err)
		data, err := io.ReadAll(r)
		fatal(t, err)
		members[header.Name] = &fstest.MapFile{Data: data, Mode: header.FileInfo().Mode()}
	}
}

func unzip(t *testing.T, archive []byte) fstest.MapFS {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	fatal(t, err)
	members := fstest.MapFS{}
	for _, f := range r.File {
		data, err := fs.ReadFile(r, f.Name)
		fatal(t, err)
		members[f.Name] = &fstest.MapFile{Data: data, Mode: f.Mode()}
	}
	return members
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	fatal(t, err)
	return data
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A tag can be moved, a commit cannot.
func TestWorkflowActionsArePinned(t *testing.T) {
	uses := regexp.MustCompile(`uses: (\S+)(.*)`).FindAllStringSubmatch(
		string(readFile(t, filepath.Join(root, ".github/workflows/ci.yml"))), -1)
	for _, use := range uses {
		if !regexp.MustCompile(`@[0-9a-f]{40} # v\d`).MatchString(use[1] + use[2]) {
			t.Errorf("%s is not pinned by its commit", use[1])
		}
	}
	if len(uses) < 5 {
		t.Errorf("got %q", uses)
	}
}
