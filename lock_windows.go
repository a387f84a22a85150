package main

// A kernel file lock by LockFileEx, the twin of lock_unix.go. It knows nothing of what is locked.

import (
	"errors"
	"os"
	"syscall"
	"unsafe"
)

var (
	kernel32     = syscall.NewLazyDLL("kernel32.dll")
	lockFileEx   = kernel32.NewProc("LockFileEx")
	unlockFileEx = kernel32.NewProc("UnlockFileEx")
)

const (
	lockfileFailImmediately = 0x1
	lockfileExclusiveLock   = 0x2

	errorLockViolation = syscall.Errno(33)
)

// lockedByte is the place of the one byte that is locked. Locks are mandatory on Windows, so it lies far
// beyond any content: others can still read the file.
func lockedByte() *syscall.Overlapped {
	return &syscall.Overlapped{OffsetHigh: 1 << 30}
}

// tryLock takes the exclusive lock on f if nobody has it, and never waits: false means that another
// holder has it. Closing f or the end of the process, however it ends, gives the lock back.
//
// The lock belongs to the handle, so two opens of one file in one process exclude each other too. Go's
// handles are not inheritable: a child does not get it.
func tryLock(f *os.File) (bool, error) {
	ok, _, err := lockFileEx.Call(f.Fd(), lockfileExclusiveLock|lockfileFailImmediately, 0, 1, 0,
		uintptr(unsafe.Pointer(lockedByte())))
	if ok != 0 {
		return true, nil
	}
	if errors.Is(err, errorLockViolation) || errors.Is(err, syscall.ERROR_IO_PENDING) {
		return false, nil
	}
	return false, os.NewSyscallError("LockFileEx", err)
}

// unlock gives the lock back and closes f. After a mere close the system unlocks when it finds the time
// (LockFileEx, remarks).
func unlock(f *os.File) {
	_, _, _ = unlockFileEx.Call(f.Fd(), 0, 1, 0, uintptr(unsafe.Pointer(lockedByte())))
	f.Close()
}
