package main

import "syscall"

const (
	detachedProcessFlag = 0x00000008 // DETACHED_PROCESS: no console of the host's
	newProcessGroup     = 0x00000200 // CREATE_NEW_PROCESS_GROUP: not reached by its Ctrl-C
	breakawayFromJob    = 0x01000000 // CREATE_BREAKAWAY_FROM_JOB: not ended with its job
)

// detachedProcess lets a child outlive the host that started its parent. A job
// that does not allow its processes to leave refuses to start one that would.
func detachedProcess() []*syscall.SysProcAttr {
	const flags = detachedProcessFlag | newProcessGroup
	return []*syscall.SysProcAttr{
		{HideWindow: true, CreationFlags: flags | breakawayFromJob},
		{HideWindow: true, CreationFlags: flags},
	}
}
