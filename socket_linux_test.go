package main

// What Linux is told about connections whose peer may be gone. That it keeps
// to it is its own business; that it is told is ours.

import (
	"syscall"
	"testing"
	"time"
)

// A half-open connection is found out within a minute: what was sent by
// TCP_USER_TIMEOUT, silence by probes.
func TestDeadPeerIsFoundOut(t *testing.T) {
	raw, err := dialed(t).SyscallConn()
	fatal(t, err)
	option := func(level, name int) (value int) {
		t.Helper()
		fatal(t, raw.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), level, name) }))
		fatal(t, err)
		return value
	}
	if got := option(syscall.IPPROTO_TCP, tcpUserTimeout); got < 10_000 || got > 60_000 {
		t.Errorf("TCP_USER_TIMEOUT: got %d ms, want less than a minute and more than a hiccup", got)
	}
	if got := option(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); got != 1 {
		t.Errorf("SO_KEEPALIVE: got %d, want it on", got)
	}
	idle, interval, count := option(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE), option(syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL), option(syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT)
	if found := time.Duration(idle+interval*count) * time.Second; found > time.Minute {
		t.Errorf("keep-alive: got %d s and then %d probes of %d s, want %v at most", idle, count, interval, time.Minute)
	}
}
