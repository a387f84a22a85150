package main

// The other side of the wire, for the tests: a certificate authority and an
// origin that records all it is asked. What is served there is in
// fake_mcp_test.go and fake_oauth_test.go: they check what they receive and
// report what is wrong in the test that runs them. None of the fakes knows how
// the program works.

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakePKI is the certificate authority that every process of a test trusts,
// and the certificate of all the fakes.
type fakePKI struct {
	dir, file string // the root as PEM, alone in its directory
	roots     *x509.CertPool
	leaf      tls.Certificate
}

func newFakePKI(dir string) (*fakePKI, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mcp-proxy test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "mcp-proxy test server"},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		DNSNames:    []string{"localhost", "mcp.test", "accounts.google.com", "oauth2.googleapis.com"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), key)
	if err != nil {
		return nil, err
	}
	p := &fakePKI{dir: dir, file: filepath.Join(dir, "ca.pem"), roots: x509.NewCertPool()}
	p.leaf = tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}
	rootPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER})
	p.roots.AppendCertsFromPEM(rootPEM)
	return p, os.WriteFile(p.file, rootPEM, 0o600)
}

// watched is state that tests wait for: every change wakes those who wait.
type watched struct {
	mu      sync.Mutex    // guards changed and the state of whoever embeds it
	changed chan struct{} // closed at the next change
}

// change runs f, which changes the state, with the lock held.
func (w *watched) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// wait reports whether cond, called with the lock held, came true before ctx ended.
func (w *watched) wait(ctx context.Context, cond func() bool) bool {
	for {
		w.mu.Lock()
		if cond() {
			w.mu.Unlock()
			return true
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// testPatience is how long a test waits for what ought to happen soon: nobody waits for it where all
// is well, and a slow machine that others use as well is no defect.
const testPatience = time.Minute

// soonOver is the time for a sign-in that nobody answers. A slow machine shows its page by then.
const soonOver = "8s"

func patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), testPatience)
}

// fakeRequest is one request that an origin received.
type fakeRequest struct {
	*http.Request
	label string // what it was, as the part that serves it calls it: "tools/call echo", "token refresh_token"
	body  []byte
	msg   testMessage // what was POSTed to the MCP server
	conn  int         // the connection it came on, counted from 1
	order int64       // its place among the requests of all origins
	at    time.Time   // when it came
	done  bool        // its handler has returned
	part  fakePart    // who serves it; nil: nobody
}

// fakeAnswer answers a request, or leaves it (false) to whoever comes next.
type fakeAnswer func(w http.ResponseWriter, r *fakeRequest) bool

// fakePart is what an origin offers: the MCP server, the authorization server, or both.
type fakePart interface {
	label(r *fakeRequest) string // "" when the request is for somebody else
	serve(w http.ResponseWriter, r *fakeRequest)
}

// fakeOrigin is a server socket on loopback that records every request
// before it is answered.
type fakeOrigin struct {
	watched
	t      testing.TB
	base   string // https://127.0.0.1:PORT
	parts  []fakePart
	seen   []*fakeRequest
	gates  map[string]chan struct{}
	hooks  map[string][]fakeAnswer
	conns  int
	active int
	closed bool
	server *http.Server
	begin  func(net.Listener) // starts another server there
}

// fakeOrder counts the requests of all origins, so that they can be told in order.
var fakeOrder atomic.Int64

// startOrigin serves https, with HTTP/2 unless the protocol is "http/1.1".
// "plain" is http.
func startOrigin(t testing.TB, protocols ...string) *fakeOrigin {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &fakeOrigin{t: t, gates: map[string]chan struct{}{}, hooks: map[string][]fakeAnswer{}}
	ctx, cancel := context.WithCancel(context.Background())
	o.begin = func(listener net.Listener) {
		server := &http.Server{
			Handler:     o,
			ErrorLog:    log.New(io.Discard, "", 0), // refused handshakes are a scenario
			BaseContext: func(net.Listener) context.Context { return ctx },
			ConnContext: o.countConn,
		}
		o.change(func() { o.server = server })
		o.listen(server, listener, protocols)
	}
	o.begin(listener)
	t.Cleanup(func() {
		cancel()
		o.change(func() { o.closed = true })
		o.server.Close()
		wait, done := patience()
		defer done()
		if !o.wait(wait, func() bool { return o.active == 0 }) {
			t.Errorf("a handler of %s did not end", o.base)
		}
	})
	return o
}

// restart breaks all connections; after a while the server is there again, at the same address.
func (o *fakeOrigin) restart(away time.Duration) {
	o.server.Close()
	<-time.After(away)
	_, address, _ := strings.Cut(o.base, "://")
	eventually(o.t, "the address "+address, func() bool {
		listener, err := net.Listen("tcp", address)
		if err == nil {
			o.begin(listener)
		}
		return err == nil
	})
}

func (o *fakeOrigin) listen(server *http.Server, listener net.Listener, protocols []string) {
	if len(protocols) == 1 && protocols[0] == "plain" {
		o.base = "http://" + listener.Addr().String()
		go server.Serve(listener)
		return
	}
	if len(protocols) > 0 && protocols[0] != "h2" {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // no HTTP/2
	}
	o.base = "https://" + listener.Addr().String()
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{testShared().pki.leaf},
		NextProtos: protocols, ClientAuth: tls.RequestClientCert}
	go server.ServeTLS(listener, "", "")
}

// shutdown makes the server go away politely; what it returns is closed when it is gone.
func (o *fakeOrigin) shutdown() <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		ctx, cancel := patience()
		defer cancel()
		o.server.Shutdown(ctx)
	}()
	return gone
}

type fakeConnKey struct{}

func (o *fakeOrigin) countConn(ctx context.Context, _ net.Conn) context.Context {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conns++
	return context.WithValue(ctx, fakeConnKey{}, o.conns)
}

func (o *fakeOrigin) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the client gave up before the request was whole
	}
	r := &fakeRequest{Request: req, body: body, order: fakeOrder.Add(1), at: time.Now()}
	r.conn = req.Context().Value(fakeConnKey{}).(int)
	r.part = o.partFor(r)
	if !o.record(r) {
		return
	}
	defer o.change(func() { o.active--; r.done = true })
	if !o.pass(r) || o.hooked(w, r) {
		return
	}
	if r.part == nil {
		http.NotFound(w, req)
		return
	}
	r.part.serve(w, r)
}

func (o *fakeOrigin) partFor(r *fakeRequest) fakePart {
	for _, part := range o.parts {
		if r.label = part.label(r); r.label != "" {
			return part
		}
	}
	r.label = r.Method + " " + r.URL.Path
	return nil
}

func (o *fakeOrigin) record(r *fakeRequest) (open bool) {
	o.change(func() {
		if open = !o.closed; open {
			o.seen = append(o.seen, r)
			o.active++
		}
	})
	return open
}

// pass waits at the gate of the request's label, if a test closed it.
func (o *fakeOrigin) pass(r *fakeRequest) bool {
	o.mu.Lock()
	gate := o.gates[r.label]
	o.mu.Unlock()
	if gate == nil {
		return true
	}
	select {
	case <-gate:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (o *fakeOrigin) hooked(w http.ResponseWriter, r *fakeRequest) bool {
	o.mu.Lock()
	hooks := append(append([]fakeAnswer{}, o.hooks[r.label]...), o.hooks["*"]...)
	o.mu.Unlock()
	for _, hook := range hooks {
		if hook(w, r) {
			return true
		}
	}
	return false
}

// on lets answer handle the requests of that label ("*": all), instead of
// every check and every ordinary answer.
func (o *fakeOrigin) on(label string, answer fakeAnswer) {
	o.change(func() { o.hooks[label] = append(o.hooks[label], answer) })
}

// hold keeps requests of that label unanswered (they are recorded at once)
// until release is called.
func (o *fakeOrigin) hold(label string) (release func()) {
	gate := make(chan struct{})
	o.change(func() { o.gates[label] = gate })
	return func() {
		o.change(func() { delete(o.gates, label) })
		close(gate)
	}
}

// answerLate has the requests of that label served at once, and answered when
// release is called: what a client that has gone meanwhile will never know.
func (o *fakeOrigin) answerLate(label string) (release func()) {
	gate := make(chan struct{})
	o.on(label, func(w http.ResponseWriter, r *fakeRequest) bool {
		answer := httptest.NewRecorder()
		r.part.serve(answer, r)
		select {
		case <-gate:
		case <-r.Context().Done():
			return true
		}
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
		return true
	})
	return sync.OnceFunc(func() { close(gate) })
}

// await waits until n requests of that label have come in and returns the last of them.
func (o *fakeOrigin) await(label string, n int) *fakeRequest {
	o.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	if !o.wait(ctx, func() bool { return len(labelled(o.seen, label)) >= n }) {
		o.t.Fatalf("%s: got %d requests %q, want %d; saw %q", o.base, o.count(label), label, n,
			o.labels())
	}
	return o.requests(label)[n-1]
}

func labelled(all []*fakeRequest, label string) (some []*fakeRequest) {
	for _, r := range all {
		if r.label == label {
			some = append(some, r)
		}
	}
	return some
}

// requests lists the requests of that label so far.
func (o *fakeOrigin) requests(label string) []*fakeRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	return labelled(o.seen, label)
}

func (o *fakeOrigin) count(label string) int { return len(o.requests(label)) }

// answered counts the requests of that label that are answered.
func (o *fakeOrigin) answered(label string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range labelled(o.seen, label) {
		if r.done {
			n++
		}
	}
	return n
}

// labels lists what has been requested so far, in order.
func (o *fakeOrigin) labels() []string { return fakeStory(o) }

// fakeStory lists what has been requested of several origins, in order.
func fakeStory(origins ...*fakeOrigin) []string {
	var all []*fakeRequest
	for _, o := range origins {
		o.mu.Lock()
		all = append(all, o.seen...)
		o.mu.Unlock()
	}
	sort.Slice(all, func(i, j int) bool { return all[i].order < all[j].order })
	story := []string{}
	for _, r := range all {
		story = append(story, r.label)
	}
	return story
}

func writeJSON(w http.ResponseWriter, status int, doc any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(doc) // the client may have gone
}

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
