package main

// The twin of private_unix.go.

import (
	"errors"
	"io/fs"
	"syscall"
	"time"
)

// warily has no flags here: a symbolic link needs a privilege to be made, and pipes are not files.
const warily = 0

// isOurs and isLoose hold for every file: access lists, which a new file inherits from the user's own
// profile directory, take the place of owner and mode, and Go's mode bits do not show them.
func isOurs(fs.FileInfo) bool  { return true }
func isLoose(fs.FileInfo) bool { return false }

const errorSharingViolation = syscall.Errno(32)

// patiently repeats op for up to a second while it fails because another process has the file open: a
// file that is being read cannot be replaced or removed, one that is being replaced cannot be read.
func patiently(op func() error) error {
	err := op()
	for wait := time.Millisecond; wait < 600*time.Millisecond; wait *= 2 {
		if !errors.Is(err, errorSharingViolation) && !errors.Is(err, syscall.ERROR_ACCESS_DENIED) {
			break
		}
		<-time.After(wait)
		err = op()
	}
	return err
}
