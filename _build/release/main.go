// Release writes what a release consists of into dist, with the checksums:
//
//	go run ./_build/release [-version v1.2.3] [-o DIR] OS/ARCH...
//
// The same commit and the same version of Go give the same bytes, wherever and
// by whomever it is built: nothing here depends on the folder, the environment,
// the clock, or on the tar, gzip and zip of the machine. This file builds, collects
// and packs; formats.go writes what other tools read, manual.go the manual page.
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
	"runtime"
	"strings"
	"time"
)

const program = "mcp-proxy"

// buildEnvironment overrides everything that would change the bytes. GOENV=off is for
// what "go env -w" has set: an empty variable would not override that. GOARM=6 also runs
// on the smallest Raspberry Pi.
var buildEnvironment = []string{
	"GOENV=off", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOAMD64=v1", "GOARM64=v8.0", "GOARM=6",
	"GOFIPS140=off", "CGO_ENABLED=0",
}

// file is a member of an archive, or a file of the release.
type file struct {
	name string
	mode os.FileMode
	data []byte
}

// build is the program for one system, and what the compiler recorded in it.
type build struct {
	system, arch       string
	binary             []byte
	version, goVersion string
	modified           time.Time // of the commit
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("release: ")
	version := flag.String("version", "", "refuse to build anything but this version")
	dir := flag.String("o", "dist", "where the files go")
	flag.Parse()
	if err := release(*dir, *version, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

func release(dir, version string, targets []string) error {
	if len(targets) == 0 {
		return fmt.Errorf("nothing to build: want OS/ARCH")
	}
	host, err := compile(runtime.GOOS+"/"+runtime.GOARCH, version)
	if err != nil {
		return err
	}
	page, err := manual(host)
	if err != nil {
		return fmt.Errorf("manual page: %w", err)
	}
	texts := []file{{program + ".1", 0o644, page}}
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md"} {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		texts = append(texts, file{name, 0o644, data})
	}
	files, err := sources(host)
	if err != nil {
		return fmt.Errorf("source archive: %w", err)
	}
	for _, target := range targets {
		b := host
		if target != host.target() {
			if b, err = compile(target, version); err != nil {
				return fmt.Errorf("%s: %w", target, err)
			}
		}
		packed, err := b.pack(texts)
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		files = append(files, packed...)
	}
	formats, err := describe(host, files)
	if err != nil {
		return err
	}
	return write(dir, append(files, formats...))
}

// write makes dir hold this release alone: what lies there is what gets published.
func write(dir string, files []file) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, program+"*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	var sums bytes.Buffer
	for _, f := range files {
		fmt.Println(f.name, len(f.data))
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(f.data), f.name)
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), sums.Bytes(), 0o644)
}

func (b *build) target() string { return b.system + "/" + b.arch }

// name is the name of the archive and of the bundle, without the ending.
func (b *build) name() string { return program + "-" + b.system + "-" + b.arch }

func (b *build) executable() file {
	name := program
	if b.system == "windows" {
		name += ".exe"
	}
	return file{name, 0o755, b.binary}
}

// pack returns the archive for a system, and the bundle if there are bundles for it.
func (b *build) pack(texts []file) (packed []file, err error) {
	archive := b.name() + ".tar.gz"
	packer := tarred
	if b.system == "windows" { // what its users expect and can open
		archive, packer = b.name()+".zip", zipped
	}
	var members []file
	for _, f := range append([]file{b.executable()}, texts...) {
		members = append(members, file{b.name() + "/" + f.name, f.mode, f.data})
	}
	data, err := packer(members, b.modified)
	if err != nil {
		return nil, err
	}
	packed = append(packed, file{archive, 0o644, data})
	if bundlePlatforms[b.system] == "" {
		return packed, nil
	}
	manifest, err := bundleManifest(b)
	if err != nil {
		return nil, err
	}
	data, err = zipped([]file{{"manifest.json", 0o644, manifest}, b.executable()}, b.modified)
	return append(packed, file{b.name() + ".mcpb", 0o644, data}), err
}

// compile builds the program.
func compile(target, version string) (*build, error) {
	system, arch, ok := strings.Cut(target, "/")
	if !ok {
		return nil, fmt.Errorf("want OS/ARCH")
	}
	out, err := os.CreateTemp("", program+"-")
	if err != nil {
		return nil, err
	}
	out.Close()
	defer os.Remove(out.Name())
	// No -buildid=: macOS 26 starts no program without LC_UUID, and the linker
	// makes that from the build id.
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", "-s -w",
		"-o", out.Name(), ".")
	cmd.Env = append(append(os.Environ(), buildEnvironment...), "GOOS="+system, "GOARCH="+arch)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go build: %w", err)
	}
	info, err := buildinfo.ReadFile(out.Name())
	if err != nil {
		return nil, err
	}
	if version != "" && info.Main.Version != version {
		return nil, fmt.Errorf("this would be version %s, not %s: the tag must be on HEAD, "+
			"the folder clean, and Go 1.24 or newer", info.Main.Version, version)
	}
	b := &build{system: system, arch: arch, version: strings.TrimPrefix(info.Main.Version, "v"),
		goVersion: strings.TrimPrefix(info.GoVersion, "go")}
	b.modified = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) // the oldest that zip knows
	for _, setting := range info.Settings {
		if setting.Key == "vcs.time" {
			if b.modified, err = time.Parse(time.RFC3339, setting.Value); err != nil {
				return nil, err
			}
		}
	}
	b.modified = b.modified.UTC()
	b.binary, err = os.ReadFile(out.Name())
	return b, err
}

// sources returns the archive of the last commit. There are no dependencies, so that
// it is all that is needed to build the program without a network. Only the list of files
// comes from git: how it packs them differs between its versions.
func sources(host *build) ([]file, error) {
	archive, err := exec.Command("git", "archive", "--format=tar", "HEAD").Output()
	if err != nil {
		return nil, err
	}
	const folder = program + "-source/"
	var members []file
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		mode := os.FileMode(0o644) // whatever tar.umask says
		if header.Mode&0o100 != 0 {
			mode = 0o755
		}
		members = append(members, file{folder + header.Name, mode, data})
	}
	data, err := tarred(members, host.modified)
	return []file{{program + "-source.tar.gz", 0o644, data}}, err
}

func tarred(files []file, modified time.Time) ([]byte, error) {
	var archive bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&archive, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(compressed)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: int64(f.mode), Size: int64(len(f.data)),
			ModTime: modified, Typeflag: tar.TypeReg}
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

// closed returns the archive after its writers, innermost first, have ended.
func closed(archive *bytes.Buffer, writers ...io.Closer) ([]byte, error) {
	for _, w := range writers {
		if err := w.Close(); err != nil {
			return nil, err
		}
	}
	return archive.Bytes(), nil
}
