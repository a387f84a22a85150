package main

import "syscall"

const (
	tcpConnDropTime = 0x80 // TCP_RXT_CONNDROPTIME, netinet/tcp.h
	deadPeerSeconds = 45   // what was sent must be acknowledged within this time
)

// controlSocket lets a connection fail whose peer is gone; macOS would repeat
// what was sent for minutes.
func controlSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// A kernel that does not know it keeps its own time.
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpConnDropTime, deadPeerSeconds)
	})
}
