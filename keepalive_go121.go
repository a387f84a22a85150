//go:build !go1.23

package main

import "net"

// keepAlive makes the system look after silent peers.
func keepAlive(d *net.Dialer) { d.KeepAlive = keepAliveInterval }
