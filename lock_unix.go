//go:build unix && !aix && (!solaris || illumos)

package main

// A kernel file lock by flock, for every unix that has it. It knows nothing of what is locked.
// lock_fcntl.go is its twin for the two that have not, lock_windows.go the one for Windows.

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes the exclusive lock on f if nobody has it, and never waits: false means that another
// holder has it. Closing f or the end of the process, however it ends, gives the lock back.
//
// The lock belongs to the open file, not to the process, so two opens of one file in one process exclude
// each other too. Go opens files close-on-exec: a child, the browser above all, does not inherit it.
func tryLock(f *os.File) (bool, error) {
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, os.NewSyscallError("flock", err)
		}
	}
}

// unlock gives the lock back and closes f. Closing alone would leave the lock with a child that is
// between its fork and its exec at that moment.
func unlock(f *os.File) {
	syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	f.Close()
}
