//go:build unix

package main

import "syscall"

// detachedProcess puts a child into a session of its own: a host that kills
// its server's process group, or closes its terminal, does not reach it.
func detachedProcess() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
