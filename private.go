package main

// Files that are this user's alone: read warily, replaced in one step, in a directory that is closed to
// others. It knows nothing of what the files hold.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	maxPrivateFile = 1 << 20 // bytes; the tokens of an overzealous issuer have some KiB
	tempPrefix     = ".tmp-"
	tempLife       = 10 * time.Minute // older temporary files belong to a writer that was killed
)

// makePrivateDir makes the directory, closes it to others where it is the user's, and clears away what
// killed writers left in it. An error means that nothing can be written there.
func makePrivateDir(dir string, warn func(format string, args ...any)) error {
	if dir == "" {
		return errors.New("no cache directory is known")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	// A sticky directory is /tmp or its like, shared on purpose: to close it, as root could, would
	// shut everybody else out.
	if isOurs(info) && isLoose(info) && info.Mode()&fs.ModeSticky == 0 {
		warn("%s is open to others (mode %#o), closing it", dir, info.Mode().Perm())
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	sweep(dir)
	return probe(dir)
}

func sweep(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), tempPrefix) && time.Since(info.ModTime()) > tempLife {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// probe finds out whether the directory can be written, which modes alone do not tell.
func probe(dir string) error {
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}

// readPrivate returns the content of a file and what it was when it was read. It refuses what is no regular
// file or belongs to somebody else, and never waits for a fifo.
func readPrivate(path string, warn func(format string, args ...any)) (data []byte, info fs.FileInfo, err error) {
	if info, err = os.Lstat(path); err != nil { // before any open: opening a device may do something
		return nil, nil, err
	}
	if err = acceptable(info); err != nil {
		return nil, nil, err
	}
	var f *os.File
	err = patiently(func() error {
		f, err = os.OpenFile(path, os.O_RDONLY|warily, 0)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	if err = acceptable(info); err != nil { // the path may have changed hands since the first look
		return nil, nil, err
	}
	if isLoose(info) {
		warn("%s is open to others (mode %#o), closing it", path, info.Mode().Perm())
		if err = f.Chmod(0o600); err != nil {
			return nil, nil, err
		}
	}
	data, err = io.ReadAll(io.LimitReader(f, maxPrivateFile+1))
	if len(data) > maxPrivateFile {
		err = fmt.Errorf("it is larger than %d bytes", maxPrivateFile)
	}
	return data, info, err
}

func acceptable(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("it is no regular file")
	}
	if !isOurs(info) {
		return errors.New("it belongs to another user")
	}
	return nil
}

// replacePrivate writes the file anew and in one step: whoever reads it, or kills this process, finds the
// old content or the new.
func replacePrivate(path string, data []byte) error {
	if len(data) > maxPrivateFile {
		return fmt.Errorf("%s would be larger than %d bytes", path, maxPrivateFile)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil { // the user may have removed it meanwhile
		return err
	}
	f, err := os.CreateTemp(dir, tempPrefix+"*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync() // else a power cut may leave the new name with nothing in it
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = patiently(func() error { return os.Rename(f.Name(), path) })
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// removePrivate is content when there is no such file.
func removePrivate(path string) error {
	err := patiently(func() error { return os.Remove(path) })
	if _, gone := os.Lstat(path); gone != nil {
		return nil
	}
	return err
}

// unchanged tells whether a path still leads to the file seen before, nil standing for no file. Every
// replacing makes another file, so that a clock that jumps back hides no change.
func unchanged(before, now fs.FileInfo) bool {
	if before == nil || now == nil {
		return before == nil && now == nil
	}
	return os.SameFile(before, now) && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size()
}
