package main

// HTTP as it is in the field: redirects, cookies, overload, servers that are
// not there, connections that break, compression.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// redirects answers with a redirect.
func redirects(status int, to string) fakeAnswer {
	return func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("Location", to)
		w.WriteHeader(status)
		return true
	}
}

// 307 and 308 are followed within the origin, with the message, the token and the user's headers.
func TestRedirectWithinTheOrigin(t *testing.T) {
	for _, status := range []int{307, 308} {
		for _, absolute := range []bool{false, true} {
			status, absolute := status, absolute
			t.Run(fmt.Sprintf("%d absolute %v", status, absolute), func(t *testing.T) {
				t.Parallel()
				server, auth := startProtected(t)
				server.resource = server.base + "/"
				auth.resource = server.resource
				to := ""
				if absolute {
					to = server.base
				}
				server.on("POST /old", redirects(status, to+"/older?x=1"))
				server.on("GET /old", redirects(status, to+"/mcp"))
				server.on("POST /older", redirects(status, to+"/mcp"))
				server.on("DELETE /old", redirects(status, to+"/mcp"))
				server.listens = true
				p := newUser(t, auth, server).start("-u", server.base+"/old", "-H", "X-Mine: yes")
				p.initialize()
				p.echo("hello")
				call := server.await("tools/call echo", 1)
				if got := call.Header.Get("X-Mine"); got != "yes" || call.URL.Path != "/mcp" {
					t.Errorf("got X-Mine %q on %s", got, call.URL)
				}
				server.await("GET", 1)
				p.closeStdin()
				p.wait()
				if got := server.count("DELETE"); got != 1 {
					t.Errorf("got %d DELETE, want 1", got)
				}
			})
		}
	}
}

// Anywhere else would see the token: nobody is asked, and the user is told.
func TestRedirectElsewhere(t *testing.T) {
	foreign := startOrigin(t)
	plain := startOrigin(t, "plain")
	for name, test := range map[string]struct {
		status int
		to     string // <own>: the server's host and port
	}{
		"another port":      {307, foreign.base + "/mcp"},
		"308":               {308, foreign.base + "/mcp"},
		"another name":      {307, strings.Replace(foreign.base, "127.0.0.1", "localhost", 1) + "/mcp"},
		"http":              {307, "http://<own>/mcp"},
		"http elsewhere":    {308, plain.base + "/mcp"},
		"without a scheme":  {307, strings.TrimPrefix(foreign.base, "https:") + "/mcp"},
		"302 in the origin": {302, "/other"},
		"303 in the origin": {303, "/other"},
		"301 elsewhere":     {301, foreign.base + "/mcp"},
		"for ever":          {307, "/mcp"},
		"nowhere":           {307, ""},
		"not a URL":         {307, "https://[::1"},
		"a script":          {307, "javascript:alert(1)"},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.anyToken = true
			to := strings.ReplaceAll(test.to, "<own>", strings.TrimPrefix(server.base, "https://"))
			server.on("*", redirects(test.status, to))
			p := startProxy(t, "-u", server.url, "-H", "Authorization: Bearer topsecret", "-H", "Cookie: id=topsecret")
			got := p.failure(p.request("initialize", initializeParams))
			if got.Code != -32000 || !strings.Contains(got.Message, "127.0.0.1") || strings.Contains(got.Message, "topsecret") {
				t.Errorf("got %d %q", got.Code, got.Message)
			}
			if strings.Contains(to, foreign.base) && !strings.Contains(got.Message, foreign.base) {
				t.Errorf("got %q, want it to name %s", got.Message, foreign.base)
			}
			for _, r := range server.requests("GET /other") {
				t.Errorf("the message became %s %s", r.Method, r.URL)
			}
			if n := len(server.labels()); n > 1+maxRedirects {
				t.Errorf("got %d requests", n)
			}
		})
	}
	t.Cleanup(func() {
		if got := fakeStory(foreign, plain); len(got) != 0 {
			t.Errorf("the others got %q", got)
		}
	})
}

// Load balancers stick by cookie: it comes back with everything that is sent to
// the origin, unless mcp-remote's --disable-cookies is given.
func TestCookies(t *testing.T) {
	for _, args := range [][]string{nil, {"--disable-cookies"}} {
		args := args
		t.Run(strings.Join(args, ""), func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.listens = true
			server.reply("initialize", func(w http.ResponseWriter, _ *fakeRequest) bool {
				http.SetCookie(w, &http.Cookie{Name: "route", Value: "b", Path: "/", Secure: true, HttpOnly: true})
				http.SetCookie(w, &http.Cookie{Name: "elsewhere", Value: "x", Path: "/other"})
				return false
			})
			p := startProxy(t, append(args, "-u", server.url)...)
			p.initialize()
			p.echo("x")
			server.await("GET", 1)
			p.closeStdin()
			p.wait()
			want := map[bool]string{true: "route=b"}[args == nil]
			for _, label := range []string{"notifications/initialized", "GET", "tools/call echo", "DELETE"} {
				if got := server.await(label, 1).Header.Get("Cookie"); got != want {
					t.Errorf("%s: got cookies %q, want %q", label, got, want)
				}
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 7, 28, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		status int
		value  string
		want   time.Duration // -1: do not try again
	}{
		{429, "1", time.Second}, {503, "60", time.Minute}, {503, " 2 ", 2 * time.Second}, {429, "0", firstBackoff},
		{429, "61", -1}, {429, "99999999999999999999", -1}, {429, "-1", -1}, {429, "", -1}, {429, "soon", -1}, {429, "1.5", -1},
		{503, "Tue, 28 Jul 2026 12:00:05 GMT", 5 * time.Second},
		{503, "Tuesday, 28-Jul-26 12:00:05 GMT", 5 * time.Second},
		{503, "Tue, 28 Jul 2026 11:00:00 GMT", firstBackoff},
		{503, "Tue, 28 Jul 2026 13:00:00 GMT", -1},
		{500, "1", -1}, {502, "1", -1}, {504, "1", -1}, {200, "1", -1}, {301, "1", -1},
	} {
		resp := &http.Response{StatusCode: test.status, Header: http.Header{"Retry-After": {test.value}}}
		wait, ok := retryAfter(resp, now)
		if ok != (test.want >= 0) || ok && wait != test.want {
			t.Errorf("%d %q: got %v %v, want %v", test.status, test.value, wait, ok, test.want)
		}
	}
}

// A server that asks for patience gets it, also for tools/call: it has not processed it.
func TestOverload(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	date := func() string { return time.Now().Add(1500 * time.Millisecond).UTC().Format(http.TimeFormat) }
	for _, test := range []struct {
		name   string
		status int
		after  func() string
		sends  int
		works  bool
		wait   time.Duration
	}{
		{"seconds", 429, func() string { return "1" }, 2, true, time.Second},
		{"date", 503, date, 2, true, firstBackoff}, // to the second
		{"at once", 429, func() string { return "0" }, 2, true, firstBackoff},
		{"too long", 503, func() string { return "61" }, 1, false, 0},
		{"not said", 503, func() string { return "" }, 1, false, 0},
		{"always", 429, func() string { return "0" }, maxSends, false, (maxSends - 1) * firstBackoff},
	} {
		test := test
		label := "tools/call " + test.name
		server.reply(label, func(w http.ResponseWriter, r *fakeRequest) bool {
			if test.works && server.count(label) == test.sends {
				return false
			}
			if after := test.after(); after != "" {
				w.Header().Set("Retry-After", after)
			}
			return says(test.status, "text/plain", "busy")(w, r)
		})
		began := time.Now()
		id := p.request("tools/call", fmt.Sprintf(`{"name":%q}`, test.name))
		if test.works {
			p.result(id)
		} else if got := p.failure(id); !strings.Contains(got.Message, fmt.Sprint(test.status)) || test.name == "too long" && !strings.Contains(string(got.Data), `"retryAfter":"61"`) {
			t.Errorf("%s: got %q %s", test.name, got.Message, got.Data)
		}
		if took := time.Since(began); took < test.wait {
			t.Errorf("%s: it took %v, want at least %v", test.name, took, test.wait)
		}
		if got := server.count(label); got != test.sends {
			t.Errorf("%s: it was sent %d times, want %d", test.name, got, test.sends)
		}
	}
}

// Whoever waits for an overloaded server is answered when the program ends.
func TestEndDuringOverload(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.reply("tools/call busy", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("Retry-After", "60")
		return says(429, "", "")(w, r)
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	id := p.request("tools/call", `{"name":"busy"}`)
	eventually(t, "the server to be busy", func() bool { return server.answered("tools/call busy") == 1 })
	p.signal(syscall.SIGTERM)
	p.wait()
	p.failure(id)
}

// dialing replaces how the proxy of a test gets its connections.
func dialing(p *proxy, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	p.client.Transport.(traced).RoundTripper.(*awake).transport.DialContext = dial
}

// roundTripped sends a tools/call and says what becomes of it.
func roundTripped(p *proxy) error {
	m, _, _ := parseMessage([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}`))
	resp, _, err := p.post(context.Background(), m)
	if err != nil {
		return err
	}
	discard(resp)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// What never left this machine is tried again: the server may be starting.
func TestRefusedConnectionIsTriedAgain(t *testing.T) {
	for _, refusals := range []int{maxSends - 1, maxSends} {
		refusals := refusals
		t.Run(fmt.Sprint(refusals), func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.lenient = true // no initialize
			server.sessions = false
			p := newTestProxy(t, server.url)
			var dials atomic.Int32
			dialing(p, func(ctx context.Context, network, address string) (net.Conn, error) {
				if dials.Add(1) <= int32(refusals) {
					return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
				}
				return (&net.Dialer{}).DialContext(ctx, network, address)
			})
			err := roundTripped(p)
			if (err == nil) != (refusals < maxSends) || server.count("tools/call echo") != maxSends-refusals {
				t.Errorf("got %v and %d calls after %d refusals", err, server.count("tools/call echo"), refusals)
			}
		})
	}
}

// A connection that breaks before the request is written is like a refused one; a wrong certificate is not.
func TestConnectionClosedInTheHandshake(t *testing.T) {
	for name, after := range map[string]int{"at once": 0, "reset": 0, "in the middle": 300} {
		name, after := name, after
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			wire := startWire(t, server.fakeOrigin)
			wire.change(func() { wire.refuse, wire.after, wire.reset = 2, after, name == "reset" })
			p := startProxy(t, "-u", wire.base()+"/mcp")
			p.initialize()
			if got := server.count("initialize"); got != 1 || wire.dialed() < 3 {
				t.Errorf("got %d initialize on %d connections, want 1 after 2 were closed", got, wire.dialed())
			}
		})
	}
	t.Run("certificate", func(t *testing.T) {
		t.Parallel()
		server := startMCP(t)
		wire := startWire(t, server.fakeOrigin)
		user := newUser(t)
		user.env["SSL_CERT_FILE"], user.env["SSL_CERT_DIR"] = "", ""
		p := user.start("-u", wire.base()+"/mcp")
		p.failure(p.request("initialize", initializeParams))
		if got := wire.dialed(); got != 1 {
			t.Errorf("got %d connections, want 1", got)
		}
	})
}

// What may have been processed is not sent again, whatever the error and on
// whichever connection.
func TestToolCallIsNotSentTwice(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		for name, fault := range map[string]fakeAnswer{
			"stream cut":       func(http.ResponseWriter, *fakeRequest) bool { panic(http.ErrAbortHandler) },
			"502":              says(502, "text/html", "<p>"),
			"504":              says(504, "text/html", "<p>"),
			"503 without time": says(503, "", ""),
			"500":              says(500, "", ""),
			"408":              says(408, "", ""),
		} {
			protocol, fault := protocol, fault
			t.Run(name+" "+protocol, func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.reply("tools/call pay", fault)
				p := startProxy(t, "-u", server.url)
				p.initialize()
				for i := 1; i <= 3; i++ { // on a connection that has been used before
					p.failure(p.request("tools/call", `{"name":"pay"}`))
					if got := server.count("tools/call pay"); got != i {
						t.Errorf("the server got %d calls, want %d", got, i)
					}
					p.echo("next")
				}
			})
		}
		protocol := protocol
		t.Run("connection cut "+protocol, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t, protocol)
			wire := startWire(t, server.fakeOrigin)
			server.hold("tools/call pay")
			p := startProxy(t, "-u", wire.base()+"/mcp")
			p.initialize()
			p.echo("before")
			id := p.request("tools/call", `{"name":"pay"}`)
			server.await("tools/call pay", 1)
			wire.cut()
			if got := p.failure(id); !strings.Contains(got.Message, "127.0.0.1") {
				t.Errorf("got %q", got.Message)
			}
			p.echo("after")
			if got := server.count("tools/call pay"); got != 1 {
				t.Errorf("the server got %d calls, want 1", got)
			}
		})
	}
}

// A server that goes away politely (GOAWAY) finishes what it has, and the rest goes to the next one.
func TestGoAway(t *testing.T) {
	t.Parallel()
	old, next := startMCP(t, "h2"), startMCP(t, "h2")
	for _, server := range []*fakeMCP{old, next} {
		server.sessions, server.ready, server.spoken = false, true, "2025-11-25"
	}
	wire := startWire(t, old.fakeOrigin)
	release := old.hold("tools/call slow")
	p := startProxy(t, "-u", wire.base()+"/mcp")
	p.initialize()
	slow := p.request("tools/call", `{"name":"slow","arguments":{"text":"finished"}}`)
	old.await("tools/call slow", 1)
	wire.lead(next.fakeOrigin)
	gone := old.shutdown()
	for i := 0; i < 5; i++ {
		p.echo("to whoever is there")
	}
	release()
	p.echoed(slow, "finished")
	<-gone
	p.echo("to the next")
	if next.count("tools/call echo") == 0 || old.count("tools/call slow") != 1 || next.count("tools/call slow") != 0 {
		t.Errorf("the old server got %q, the next %q", old.labels(), next.labels())
	}
}

func TestNotSent(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"refused": {&url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, true},
		"reset":   {&url.Error{Op: "Post", Err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}}, false},
		"EOF":     {&url.Error{Op: "Post", Err: io.EOF}, false},
		"unsent":  {&url.Error{Op: "Post", Err: unsentError{io.EOF}}, true},
		"closed":  {&url.Error{Op: "Post", Err: errors.New("http: server closed idle connection")}, true},
		"other":   {errors.New("x"), false},
		"none":    {nil, false},
	} {
		if got := notSent(test.err); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestCompressedAnswers(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		protocol := protocol
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t, protocol)
			next := make(chan struct{})
			server.reply("tools/call JSON", func(w http.ResponseWriter, r *fakeRequest) bool {
				if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
					t.Errorf("got Accept-Encoding %q", r.Header.Get("Accept-Encoding"))
				}
				w, _, end := encoded(w, "gzip")
				defer end()
				return says(200, "application/json", r.msg.result(`{"text":"`+strings.Repeat("a", 1<<20)+`"}`))(w, r)
			})
			server.reply("tools/call events", func(w http.ResponseWriter, r *fakeRequest) bool {
				w, flush, end := encoded(w, "gzip")
				defer end()
				says(200, "text/event-stream", "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n")(w, r)
				flush()
				<-next // the first event must be there by now
				io.WriteString(w, "data: "+r.msg.result(`{"content":[]}`)+"\n\n")
				return true
			})
			server.reply("tools/call half", func(w http.ResponseWriter, r *fakeRequest) bool {
				w.Header().Set("Content-Encoding", "gzip")
				return says(200, "application/json", "\x1f\x8b\x08\x00\x00\x00\x00\x00")(w, r)
			})
			p := startProxy(t, "-u", server.url)
			p.initialize()
			if got := len(p.call("tools/call", `{"name":"JSON"}`)); got < 1<<20 {
				t.Errorf("got %d bytes", got)
			}
			id := p.request("tools/call", `{"name":"events"}`)
			p.received("notifications/progress", 1)
			close(next)
			p.result(id)
			p.failure(p.request("tools/call", `{"name":"half"}`))
		})
	}
}

// However many calls are in flight, their connections are kept and used again.
func TestConnectionsAreUsedAgain(t *testing.T) {
	const calls, rounds = 40, 4
	for protocol, most := range map[string]int{"h2": 2, "http/1.1": calls + 2} {
		protocol, most := protocol, most
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t, protocol)
			p := startProxy(t, "-u", server.url)
			p.initialize()
			for round := 1; round <= rounds; round++ {
				release := server.hold("tools/call echo")
				var ids []string
				for i := 0; i < calls; i++ {
					ids = append(ids, p.request("tools/call", echoParams("x")))
				}
				server.await("tools/call echo", round*calls)
				release()
				for _, id := range ids {
					p.echoed(id, "x")
				}
			}
			var conns []int
			for _, r := range server.requests("tools/call echo") {
				if !slices.Contains(conns, r.conn) {
					conns = append(conns, r.conn)
				}
			}
			if len(conns) > most {
				t.Errorf("%d calls, %d at a time, took %d connections, want %d at most", rounds*calls, calls, len(conns), most)
			}
		})
	}
}

// The user's headers go with everything.
func TestUserHeaders(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.listens = true
	p := startProxy(t, "-u", server.url, "-H", "X-Key: 1", "-H", "x-key: 2", "-H", "User-Agent: mine")
	p.initialize()
	server.await("GET", 1)
	p.closeStdin()
	p.wait()
	for _, label := range server.labels() {
		r := server.requests(label)[0]
		if got := strings.Join(r.Header["X-Key"], " "); got != "1 2" || r.Header.Get("User-Agent") != "mine" {
			t.Errorf("%s: got X-Key %q, User-Agent %q", label, got, r.Header.Get("User-Agent"))
		}
	}
}
