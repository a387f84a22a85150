//go:build go1.23

package main

import "net"

// keepAlive makes the system look after silent peers. Since Go 1.23 the dialer's
// KeepAlive is the time before the first probe alone.
func keepAlive(d *net.Dialer) {
	d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: keepAliveInterval, Interval: keepAliveInterval}
}
