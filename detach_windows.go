package main

import "syscall"

const (
	detachedProcessFlag = 0x00000008 // DETACHED_PROCESS: no console of the host's
	newProcessGroup     = 0x00000200 // CREATE_NEW_PROCESS_GROUP: not reached by its Ctrl-C
)

// detachedProcess lets a child outlive the host that started its parent.
func detachedProcess() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{HideWindow: true, CreationFlags: detachedProcessFlag | newProcessGroup}
}
