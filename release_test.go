package main

// The promise of release.go, kept by "make release-check": the same commit
// gives the same bytes, in another folder, with other settings and without the build cache.

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/macho"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const releaseVersion = "v1.2.3"

func TestReleaseIsReproducible(t *testing.T) {
	targets := os.Getenv("MCP_PROXY_RELEASE_TARGETS")
	if targets == "" {
		return // it builds everything twice: "make release-check" asks for it
	}
	here, there := t.TempDir(), filepath.Join(t.TempDir(), "a longer path", "with spaces")
	first := buildRelease(t, here, targets, "umask 022", "GOFLAGS=-buildvcs=false", "TZ=UTC", "LC_ALL=C")
	second := buildRelease(t, there, targets, "umask 077", "GOFLAGS=", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8", "GOAMD64=v3", "GOCACHE="+t.TempDir())

	var names []string
	for name := range first {
		names = append(names, name)
		if !bytes.Equal(first[name], second[name]) {
			t.Errorf("%s: two builds differ", name)
		}
	}
	if len(first) != len(second) {
		t.Errorf("got %d and %d files", len(first), len(second))
	}
	slices.Sort(names)
	if want := len(strings.Fields(targets)) + 1; len(names) != want {
		t.Errorf("got %q, want %d files", names, want)
	}
	checkSums(t, first)
	for _, target := range strings.Fields(targets) {
		checkArchive(t, first, target)
	}
}

// buildRelease clones the last commit into dir, tags it and releases it there.
func buildRelease(t *testing.T, dir, targets, setup string, env ...string) map[string][]byte {
	t.Helper()
	source, err := os.Getwd()
	fatal(t, err)
	folder := filepath.Join(dir, "checkout")
	for _, args := range [][]string{
		{"git", "clone", "-q", "--no-tags", source, folder},
		{"git", "-C", folder, "-c", "tag.gpgSign=false", "-c", "tag.forceSignAnnotated=false", "tag", releaseVersion},
		{"sh", "-c", setup + ` && exec make -C "$1" release VERSION="$2" TARGETS="$3"`, "sh", folder, releaseVersion, targets},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	files := map[string][]byte{}
	fatal(t, fs.WalkDir(os.DirFS(filepath.Join(folder, "dist")), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files[path], err = os.ReadFile(filepath.Join(folder, "dist", path))
		}
		return err
	}))
	return files
}

// checkSums does what "sha256sum -c" does.
func checkSums(t *testing.T, files map[string][]byte) {
	t.Helper()
	var want strings.Builder
	for _, line := range strings.SplitAfter(string(files["SHA256SUMS"]), "\n") {
		if _, name, ok := strings.Cut(line, "  "); ok {
			fmt.Fprintf(&want, "%x  %s", sha256.Sum256(files[strings.TrimSpace(name)]), name)
		}
	}
	if got := string(files["SHA256SUMS"]); got != want.String() || strings.Count(got, "\n") != len(files)-1 {
		t.Errorf("SHA256SUMS: got %q, want %q", got, want.String())
	}
}

// checkArchive opens an archive as its users will.
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
	for name, mode := range map[string]fs.FileMode{executable: 0o755, "README.md": 0o644, "LICENSE": 0o644} {
		got := members[folder+"/"+name]
		switch {
		case got == nil || len(got.Data) == 0 || got.Mode != mode:
			t.Errorf("%s: got %v for %s, want it with mode %v", target, got, name, mode)
		case name != executable && !bytes.Equal(got.Data, readFile(t, name)):
			t.Errorf("%s: %s differs", target, name)
		}
	}
	if len(members) != 3 {
		t.Errorf("%s: got %d members, want 3", target, len(members))
	}
	checkBinary(t, target, members[folder+"/"+executable].Data)
}

func checkBinary(t *testing.T, target string, binary []byte) {
	t.Helper()
	info, err := buildinfo.Read(bytes.NewReader(binary))
	fatal(t, err)
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if got := settings["GOOS"] + "/" + settings["GOARCH"]; got != target || info.Main.Version != releaseVersion || settings["vcs.modified"] != "false" || len(info.Deps) != 0 {
		t.Errorf("%s: got a binary for %s, version %s, modified: %s", target, got, info.Main.Version, settings["vcs.modified"])
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
	return slices.ContainsFunc(f.Loads, func(l macho.Load) bool { return f.ByteOrder.Uint32(l.Raw()) == loadUUID })
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
