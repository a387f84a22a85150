//go:build ignore

// Release builds the archives of a release into dist, with their checksums:
//
//	go run release.go [-version v1.2.3] [-o DIR] OS/ARCH...
//
// The same commit and the same version of Go give the same bytes, wherever and
// by whomever it is built: nothing here depends on the folder, the environment,
// the clock, or on the tar, gzip and zip of the machine.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const program = "mcp-proxy"

// buildEnvironment overrides all that would change the bytes. GOENV=off is for
// what "go env -w" has set: an empty variable would not override that.
var buildEnvironment = []string{
	"GOENV=off", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off", "CGO_ENABLED=0",
}

// file is a member of an archive.
type file struct {
	name string
	mode os.FileMode
	data []byte
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("release: ")
	version := flag.String("version", "", "refuse to build anything but this version")
	dir := flag.String("o", "dist", "where the archives go")
	flag.Parse()
	if err := release(*dir, *version, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

func release(dir, version string, targets []string) error {
	if len(targets) == 0 {
		return fmt.Errorf("nothing to build: want OS/ARCH")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, program+"-*"))
	if err != nil {
		return err
	}
	for _, archive := range old { // what is published is this release alone
		if err := os.Remove(archive); err != nil {
			return err
		}
	}
	var sums bytes.Buffer
	for _, target := range targets {
		name, archive, err := build(target, version)
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), archive, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(archive), name)
		fmt.Println(name, len(archive))
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), sums.Bytes(), 0o644)
}

// build returns the archive for a target, and its name.
func build(target, version string) (name string, archive []byte, err error) {
	system, arch, ok := strings.Cut(target, "/")
	if !ok {
		return "", nil, fmt.Errorf("want OS/ARCH")
	}
	binary, modified, err := compile(system, arch, version)
	if err != nil {
		return "", nil, err
	}
	executable := program
	if system == "windows" {
		executable += ".exe"
	}
	folder := program + "-" + system + "-" + arch
	files := []file{{folder + "/" + executable, 0o755, binary}}
	for _, text := range []string{"LICENSE", "README.md"} {
		data, err := os.ReadFile(text)
		if err != nil {
			return "", nil, err
		}
		files = append(files, file{folder + "/" + text, 0o644, data})
	}
	if system == "windows" { // what its users expect and can open
		archive, err = zipped(files, modified)
		return folder + ".zip", archive, err
	}
	archive, err = tarred(files, modified)
	return folder + ".tar.gz", archive, err
}

// compile builds the program. The time is that of the commit.
func compile(system, arch, version string) (binary []byte, modified time.Time, err error) {
	out, err := os.CreateTemp("", program+"-")
	if err != nil {
		return nil, modified, err
	}
	out.Close()
	defer os.Remove(out.Name())
	// No -buildid=: macOS 26 starts no program without LC_UUID, and the linker
	// makes that from the build id.
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", "-s -w", "-o", out.Name(), ".")
	cmd.Env = append(append(os.Environ(), buildEnvironment...), "GOOS="+system, "GOARCH="+arch)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, modified, fmt.Errorf("go build: %w", err)
	}
	info, err := buildinfo.ReadFile(out.Name())
	if err != nil {
		return nil, modified, err
	}
	if version != "" && info.Main.Version != version {
		return nil, modified, fmt.Errorf("this would be version %s, not %s: the tag must be on HEAD, the folder clean, and Go 1.24 or newer", info.Main.Version, version)
	}
	modified = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) // the oldest that zip knows
	for _, setting := range info.Settings {
		if setting.Key == "vcs.time" {
			if modified, err = time.Parse(time.RFC3339, setting.Value); err != nil {
				return nil, modified, err
			}
		}
	}
	binary, err = os.ReadFile(out.Name())
	return binary, modified.UTC(), err
}

func tarred(files []file, modified time.Time) ([]byte, error) {
	var archive bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&archive, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(compressed)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: int64(f.mode), Size: int64(len(f.data)), ModTime: modified, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	return closed(&archive, w, compressed)
}

func zipped(files []file, modified time.Time) ([]byte, error) {
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for _, f := range files {
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: modified}
		header.SetMode(f.mode)
		member, err := w.CreateHeader(header)
		if err != nil {
			return nil, err
		}
		if _, err := member.Write(f.data); err != nil {
			return nil, err
		}
	}
	return closed(&archive, w)
}

// closed is the archive once its writers, innermost first, have ended.
func closed(archive *bytes.Buffer, writers ...io.Closer) ([]byte, error) {
	for _, w := range writers {
		if err := w.Close(); err != nil {
			return nil, err
		}
	}
	return archive.Bytes(), nil
}
