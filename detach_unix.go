//go:build unix

package main

import "syscall"

const maxInherited = 1024 // file descriptors beyond are not looked at

// detachedProcess puts a child into a session of its own: a host that kills
// its server's process group, or closes its terminal, does not reach it. What
// the host forgot to close goes no further either: a pipe would have no end for
// the host, as long as the child lives.
func detachedProcess() []*syscall.SysProcAttr {
	for fd := 3; fd < maxInherited; fd++ {
		syscall.CloseOnExec(fd) // Go's own are that already
	}
	return []*syscall.SysProcAttr{{Setsid: true}}
}
