//go:build aix || (solaris && !illumos)

package main

// The twin of lock_unix.go for the systems where Go has no flock.

import (
	"errors"
	"os"
	"syscall"
)

// tryLock is as in lock_unix.go, with one difference: a POSIX lock belongs to the process and the file,
// and closing any descriptor of that file gives it back. Two takers in one process do not exclude each
// other here; the store sees to that before it opens the file.
func tryLock(f *os.File) (bool, error) {
	for {
		whole := syscall.Flock_t{Type: syscall.F_WRLCK}
		switch err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &whole); {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, os.NewSyscallError("fcntl", err)
		}
	}
}

// unlock gives the lock back and closes f.
func unlock(f *os.File) {
	f.Close()
}
