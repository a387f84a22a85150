package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// heldConn shows every write, and holds it until it is told how that ends.
type heldConn struct {
	net.Conn
	writes chan []byte
	ends   chan error
}

func (c *heldConn) Write(p []byte) (int, error) {
	c.writes <- bytes.Clone(p)
	if err := <-c.ends; err != nil {
		return 0, err
	}
	return len(p), nil
}

// hold joins the writes to one end of a pipe; peer is the other end.
func hold(t *testing.T, flying int32) (c *joinedConn, held *heldConn, peer net.Conn) {
	near, far := net.Pipe()
	held = &heldConn{Conn: near, writes: make(chan []byte), ends: make(chan error)}
	t.Cleanup(func() { near.Close(); far.Close() })
	var count atomic.Int32
	count.Store(flying)
	dial := func(context.Context, string, string) (net.Conn, error) { return held, nil }
	conn, err := joinWrites(&count, dial)(context.Background(), "tcp", "mcp.example:443")
	fatal(t, err)
	return conn.(*joinedConn), held, far
}

func mustWrite(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if n, err := io.WriteString(c, text); n != len(text) || err != nil {
		t.Fatalf("write %q: %d, %v", text, n, err)
	}
}

func (c *heldConn) expect(t *testing.T, want string) {
	t.Helper()
	if got := <-c.writes; string(got) != want {
		t.Fatalf("written together: %q, want %q", got, want)
	}
}

// A server that reads no more and hangs up is noticed while a write to it waits.
func TestHangUpIsReadDuringWrite(t *testing.T) {
	t.Parallel()
	for _, flying := range []int32{1, 2} {
		c, held, peer := hold(t, flying)
		written := make(chan error)
		go func() { _, err := io.WriteString(c, "request"); written <- err }()
		held.expect(t, "request")
		peer.Close()
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("with %d requests under way: read: %v", flying, err)
		}
		held.ends <- nil
		fatal(t, <-written)
	}
}

// A request that is alone learns from its own write that the connection is gone:
// only then may it go out again on another one.
func TestRequestAloneWritesForItself(t *testing.T) {
	t.Parallel()
	c, held, _ := hold(t, 1)
	for _, want := range []error{nil, net.ErrClosed} {
		written := make(chan error)
		go func() { _, err := io.WriteString(c, "request"); written <- err }()
		held.expect(t, "request")
		held.ends <- want
		if err := <-written; err != want {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
}

func TestRequestsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	c, held, _ := hold(t, 2)
	mustWrite(t, c, "headers 1, ")
	held.expect(t, "headers 1, ")
	for _, text := range []string{"body 1, ", "headers 2, ", "body 2"} { // while the first is on its way
		mustWrite(t, c, text)
	}
	c.flying.Store(1) // the last one keeps its place
	mustWrite(t, c, ".")
	held.ends <- nil
	held.expect(t, "body 1, headers 2, body 2.")
	held.ends <- nil
}

// What a server does not take is not piled up.
func TestWritesWaitForRoom(t *testing.T) {
	t.Parallel()
	c, held, _ := hold(t, 2)
	mustWrite(t, c, "first")
	held.expect(t, "first")
	mustWrite(t, c, strings.Repeat("x", maxJoined+1))
	written := make(chan error)
	go func() { _, err := io.WriteString(c, "last"); written <- err }()
	select {
	case <-written:
		t.Fatal("there was room for more than there may be")
	case <-time.After(50 * time.Millisecond): // that nothing happens can only be waited for
	}
	held.ends <- nil
	held.expect(t, strings.Repeat("x", maxJoined+1))
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	held.ends <- nil
	held.expect(t, "last")
	held.ends <- nil
}

// Whoever handed over what could not be written learns it from the next write
// and from reading, after what the server still said.
func TestFailedWriteIsTold(t *testing.T) {
	t.Parallel()
	c, held, peer := hold(t, 2)
	broken := &net.OpError{Op: "write", Net: "tcp", Err: errors.New("broken pipe")}
	mustWrite(t, c, "headers")
	held.expect(t, "headers")
	mustWrite(t, c, strings.Repeat("x", maxJoined+1))
	waiting := make(chan error)
	go func() { _, err := io.WriteString(c, "body"); waiting <- err }()
	held.ends <- broken
	if err := <-waiting; err != broken {
		t.Errorf("who waited for room was told %v", err)
	}
	if n, err := io.WriteString(c, "more"); n != 0 || err != broken {
		t.Errorf("the next write: %d, %v", n, err)
	}
	go func() { io.WriteString(peer, "413 too large") }()
	answer := make([]byte, 13)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "413 too large" {
		t.Errorf("the server's last words: %q, %v", answer, err)
	}
	if _, err := c.Read(answer); err != broken {
		t.Errorf("reading on: %v", err)
	}
}

func TestRequestsUnderWayAreCounted(t *testing.T) {
	t.Parallel()
	cfg, err := parseArgs([]string{"-u", "https://mcp.test/"}, func(string) string { return "" })
	fatal(t, err)
	transport, err := newTransport(cfg)
	fatal(t, err)
	a := newAwake(transport)
	var both sync.WaitGroup
	both.Add(2)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		both.Done()
		both.Wait()
		if got := a.flying.Load(); got != 2 {
			t.Errorf("with two requests under way: %d", got)
		}
	}))
	defer server.Close()
	var answered sync.WaitGroup
	for i := 0; i < 2; i++ {
		answered.Add(1)
		go func() {
			defer answered.Done()
			resp, err := (&http.Client{Transport: a}).Get(server.URL)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		}()
	}
	answered.Wait()
	if got := a.flying.Load(); got != 0 {
		t.Errorf("with both answered: %d", got)
	}
}
