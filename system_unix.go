//go:build !windows

package main

// What differs between systems, for all but Windows (system_windows.go): whose a file is, how to
// open it, how to lock it, what a socket is told, how a child outlives us. It knows nothing of
// their use.

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"syscall"
)

// warily are open flags for a path that somebody else may have put there: no symbolic link is
// followed, and no open waits for the other end of a fifo.
const warily = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// isOurs reports whether the file belongs to the user that this process runs as.
func isOurs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// isLoose reports whether anybody but the owner has access.
func isLoose(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }

// patiently calls op. Only Windows refuses to change a file because somebody is reading it.
func patiently(op func() error) error { return op() }

// tryLock takes the exclusive lock on f if nobody has it, and never waits: false means that another
// holder has it. Closing f or the end of the process, however it ends, releases the lock.
//
// The lock belongs to the open file, not to the process, so two opens of one file in one process
// exclude each other too. Go opens files close-on-exec: no child inherits the lock.
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

// unlock releases the lock and closes f. Closing alone would leave the lock with a child that is
// between its fork and its exec at that moment.
func unlock(f *os.File) {
	syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	f.Close()
}

// socketOptions are those of TCP that let a connection fail within a minute if its peer is gone:
// seconds of silence before the first probe, between probes, the number of probes, and how long
// what was sent may stay unacknowledged. Without the last one Linux repeats it for a quarter of an
// hour, and sends no probe meanwhile. Package syscall does not have all of the names.
var socketOptions = map[string][][2]int{
	"linux":   {{4, 5}, {5, 5}, {6, 8}, {18, 45_000}},          // tcp(7); the last in milliseconds
	"darwin":  {{0x10, 5}, {0x101, 5}, {0x102, 8}, {0x80, 45}}, // netinet/tcp.h
	"freebsd": {{256, 5}, {512, 5}, {1024, 8}},                 // netinet/tcp.h
}

// controlSocket ignores errors: a kernel that does not know an option keeps its own time.
func controlSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
		for _, o := range socketOptions[runtime.GOOS] {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, o[0], o[1])
		}
	})
}

func setNonblock(fd uintptr, on bool) error { return syscall.SetNonblock(int(fd), on) }

const maxInherited = 1024 // file descriptors beyond are not looked at

// detachedProcess puts a child into a session of its own: a host that kills its server's process
// group, or closes its terminal, does not reach it. What the host forgot to close goes no further
// either: a pipe would have no end for the host as long as the child lives.
func detachedProcess() []*syscall.SysProcAttr {
	for fd := 3; fd < maxInherited; fd++ {
		syscall.CloseOnExec(fd) // Go's own are that already
	}
	return []*syscall.SysProcAttr{{Setsid: true}}
}
