package main

// What differs between systems, for Windows: the twin of system_unix.go.

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// warily has no flags here: a symbolic link needs a privilege to be made, and pipes are not files.
const warily = 0

// isOurs and isLoose hold for every file: access lists, which a new file inherits from the user's
// own profile directory, take the place of owner and mode, and Go's mode bits do not show them.
func isOurs(fs.FileInfo) bool  { return true }
func isLoose(fs.FileInfo) bool { return false }

// Of winerror.h, minwinbase.h and winbase.h, where package syscall does not have them.
const (
	errorSharingViolation   = syscall.Errno(32)
	errorLockViolation      = syscall.Errno(33)
	lockfileFailImmediately = 0x1
	lockfileExclusiveLock   = 0x2
	detachedProcessFlag     = 0x00000008 // DETACHED_PROCESS: no console of the host's
	newProcessGroup         = 0x00000200 // CREATE_NEW_PROCESS_GROUP: not reached by its Ctrl-C
	breakawayFromJob        = 0x01000000 // CREATE_BREAKAWAY_FROM_JOB: not ended with its job
)

// patiently repeats op for up to a second while it fails because another process has the file open:
// a file that is being read cannot be replaced or removed, one that is being replaced cannot be
// read.
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

var (
	kernel32     = syscall.NewLazyDLL("kernel32.dll")
	lockFileEx   = kernel32.NewProc("LockFileEx")
	unlockFileEx = kernel32.NewProc("UnlockFileEx")
)

// lockedByte is the place of the one byte that is locked. Locks are mandatory on Windows, so it
// lies far beyond any content: others can still read the file.
func lockedByte() *syscall.Overlapped { return &syscall.Overlapped{OffsetHigh: 1 << 30} }

// tryLock is as in system_unix.go: the lock belongs to the handle, and Go's are not inheritable.
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

// unlock releases the lock and closes f. After a mere close the system unlocks when it finds the
// time (LockFileEx, remarks).
func unlock(f *os.File) {
	_, _, _ = unlockFileEx.Call(f.Fd(), 0, 1, 0, uintptr(unsafe.Pointer(lockedByte())))
	f.Close()
}

// controlSocket has the system look after silent peers: seconds before the first probe, between
// probes, and their number (ws2ipdef.h). It gives up on what is not acknowledged by itself after
// some 20 seconds.
func controlSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		socket := syscall.Handle(fd)
		_ = syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
		for _, o := range [][2]int{{3, 5}, {17, 5}, {16, 8}} {
			_ = syscall.SetsockoptInt(socket, syscall.IPPROTO_TCP, o[0], o[1])
		}
	})
}

// setNonblock: Windows has no such mode.
func setNonblock(uintptr, bool) error { return errors.ErrUnsupported }

// detachedProcess lets a child outlive the host that started its parent. A job that does not allow
// its processes to leave refuses to start one that would: hence the second.
func detachedProcess() []*syscall.SysProcAttr {
	const flags = detachedProcessFlag | newProcessGroup
	return []*syscall.SysProcAttr{
		{HideWindow: true, CreationFlags: flags | breakawayFromJob},
		{HideWindow: true, CreationFlags: flags},
	}
}
