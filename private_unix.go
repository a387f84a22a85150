//go:build unix

package main

// What private.go asks the system beyond package os: whose a file is, who may read it, how to open it
// warily. It knows nothing of what the file holds.

import (
	"io/fs"
	"os"
	"syscall"
)

// warily are open flags for a path that somebody else may have put there: no symbolic link is followed,
// and no open waits for the other end of a fifo.
const warily = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// isOurs tells whether the file belongs to the user this process runs as.
func isOurs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// isLoose tells whether anybody but the owner has access.
func isLoose(info fs.FileInfo) bool {
	return info.Mode().Perm()&0o077 != 0
}

// patiently calls op. Only Windows refuses to touch a file because somebody is reading it.
func patiently(op func() error) error {
	return op()
}
