package main

import "syscall"

const (
	tcpUserTimeout = 0x12      // TCP_USER_TIMEOUT, tcp(7)
	deadPeerMillis = 45 * 1000 // what was sent must be acknowledged within this time
)

// controlSocket lets a connection fail whose peer is gone. Without it Linux
// repeats what was sent for a quarter of an hour, and keep-alive probes only
// start when nothing is waiting to be acknowledged.
func controlSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// A kernel that does not know it keeps its own time.
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, deadPeerMillis)
	})
}
