package main

// The network between the program and an origin, for the tests: connections
// that pass through here are counted, led elsewhere, cut, or refused.

import (
	"bufio"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
)

// fakeWire forwards TCP connections.
type fakeWire struct {
	watched
	t        testing.TB
	listener net.Listener
	to       string           // address that new connections are led to
	refuse   int              // how many of the next connections break
	after    int              // so many bytes from the origin
	reset    bool             // breaking is a reset
	conns    map[net.Conn]int // open ones of the program, and their numbers
	accepted int
	connects []*http.Request // what was asked of it as a CONNECT proxy
	proxy    bool            // it is one
	status   string          // of the proxy's refusal; "" when it accepts
}

// startWire starts a wire to an origin.
func startWire(t testing.TB, to *fakeOrigin) *fakeWire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(t, err)
	w := &fakeWire{t: t, listener: listener, conns: map[net.Conn]int{}}
	w.lead(to)
	go w.serve()
	t.Cleanup(func() {
		listener.Close()
		w.cut()
	})
	return w
}

// base is the wire's end as an origin: the certificate is good for it.
func (w *fakeWire) base() string { return "https://" + w.listener.Addr().String() }

// lead leads new connections to another origin.
func (w *fakeWire) lead(to *fakeOrigin) {
	_, address, _ := strings.Cut(to.base, "://")
	w.change(func() { w.to = address })
}

// dialed counts the connections so far.
func (w *fakeWire) dialed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.accepted
}

// asked lists what was asked of it as a proxy.
func (w *fakeWire) asked() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*http.Request{}, w.connects...)
}

// cut closes all connections.
func (w *fakeWire) cut() {
	w.change(func() {
		for conn := range w.conns {
			w.closeConn(conn)
		}
	})
}

func (w *fakeWire) closeConn(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok && w.reset {
		tcp.SetLinger(0)
	}
	conn.Close()
}

func (w *fakeWire) serve() {
	for {
		conn, err := w.listener.Accept()
		if err != nil {
			return
		}
		limit := int64(math.MaxInt64)
		w.change(func() {
			w.accepted++
			w.conns[conn] = w.accepted
			if w.refuse > 0 {
				w.refuse--
				limit = int64(w.after)
			}
		})
		go w.forward(conn, limit)
	}
}

// forward passes bytes on, so many of the origin's.
func (w *fakeWire) forward(conn net.Conn, limit int64) {
	defer w.change(func() {
		w.closeConn(conn)
		delete(w.conns, conn)
	})
	if limit == 0 {
		return
	}
	in := bufio.NewReader(conn)
	w.mu.Lock()
	to, proxy, status := w.to, w.proxy, w.status
	w.mu.Unlock()
	if proxy {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		w.change(func() { w.connects = append(w.connects, req) })
		if status != "" {
			io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	}
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	go func() {
		io.Copy(out, in)
		out.Close()
	}()
	io.CopyN(conn, out, limit)
	out.Close()
}
