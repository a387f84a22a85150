package main

// One exchange with the server: overload, servers that are not there, answers that are not what the
// specification shows, servers and networks that break at every point of it. Whatever happens, each
// request is answered once, and stdout holds whole lines of JSON-RPC alone.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 7, 28, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		status int
		value  string
		want   time.Duration // -1: do not try again
	}{
		{429, "1", time.Second}, {503, "60", time.Minute}, {503, " 2 ", 2 * time.Second},
		{429, "0", firstBackoff},
		{429, "61", -1}, {429, "99999999999999999999", -1}, {429, "-1", -1}, {429, "", -1},
		{429, "soon", -1}, {429, "1.5", -1},
		{503, "Tue, 28 Jul 2026 12:00:05 GMT", 5 * time.Second},
		{503, "Tuesday, 28-Jul-26 12:00:05 GMT", 5 * time.Second},
		{503, "Tue, 28 Jul 2026 11:00:00 GMT", firstBackoff},
		{503, "Tue, 28 Jul 2026 13:00:00 GMT", -1},
		{500, "1", -1}, {502, "1", -1}, {504, "1", -1}, {200, "1", -1}, {301, "1", -1},
	} {
		resp := &http.Response{StatusCode: test.status, Header: http.Header{"Retry-After": {test.value}}}
		wait, ok := retryAfter(resp, func() time.Time { return now })
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
		} else if got := p.failure(id); !strings.Contains(got.Message, fmt.Sprint(test.status)) ||
			test.name == "too long" && !strings.Contains(string(got.Data), `"retryAfter":"61"`) {
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
	eventually(t, "the server to be busy",
		func() bool { return server.answered("tools/call busy") == 1 })
	p.signal(syscall.SIGTERM)
	p.wait()
	p.failure(id)
}

// dialing replaces how the proxy of a test gets its connections.
func dialing(p *proxy, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	p.session.client.via.(*traced).RoundTripper.(*redialer).own.DialContext = dial
}

// roundTripped sends a tools/call and says what becomes of it.
func roundTripped(p *proxy) error {
	m, _, _ := parseMessage([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}`))
	return p.session.deliver(context.Background(), m, func(resp *http.Response, _ sessionState) error {
		discard(resp)
		return nil
	})
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
					return nil, &net.OpError{Op: "dial", Net: network,
						Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
				}
				return (&net.Dialer{}).DialContext(ctx, network, address)
			})
			err := roundTripped(p)
			if (err == nil) != (refusals < maxSends) ||
				server.count("tools/call echo") != maxSends-refusals {
				t.Errorf("got %v and %d calls after %d refusals", err, server.count("tools/call echo"),
					refusals)
			}
		})
	}
}

// A connection that breaks before the request is written is like a refused one; a wrong certificate
// is not.
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
			// Another connection of the program's may be closed without its knowledge so far.
			eventually(t, "a connection",
				func() bool { return p.answer(p.request("ping", "")).Error == nil })
			p.echo("after")
			if got := server.count("tools/call pay"); got != 1 {
				t.Errorf("the server got %d calls, want 1", got)
			}
		})
	}
}

// A server that goes away politely (GOAWAY) finishes what it has, and the rest goes to the next
// one.
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
	if next.count("tools/call echo") == 0 || old.count("tools/call slow") != 1 ||
		next.count("tools/call slow") != 0 {
		t.Errorf("the old server got %q, the next %q", old.labels(), next.labels())
	}
}

func TestNotSent(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"refused": {&url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}},
			true},
		"reset": {&url.Error{Op: "Post", Err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}},
			false},
		"EOF":    {&url.Error{Op: "Post", Err: io.EOF}, false},
		"unsent": {&url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Err: io.EOF}}, true},
		"closed": {&url.Error{Op: "Post", Err: errors.New("http: server closed idle connection")}, true},
		"other":  {errors.New("x"), false},
		"none":   {nil, false},
	} {
		if got := notSent(test.err); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
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
				t.Errorf("%d calls, %d at a time, took %d connections, want %d at most", rounds*calls, calls,
					len(conns), most)
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
		if got := strings.Join(r.Header["X-Key"], " "); got != "1 2" ||
			r.Header.Get("User-Agent") != "mine" {
			t.Errorf("%s: got X-Key %q, User-Agent %q", label, got, r.Header.Get("User-Agent"))
		}
	}
}

// says answers with a status, a content type ("" for none) and a body.
func says(status int, media, body string) fakeAnswer {
	return func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header()["Content-Type"] = nil // no guessing
		if media != "" {
			w.Header().Set("Content-Type", media)
		}
		w.WriteHeader(status)
		io.WriteString(w, strings.ReplaceAll(body, "<id>", string(r.msg.ID)))
		return true
	}
}

// neverEnding answers with headers and part of a body, and keeps the rest to itself.
func neverEnding(status int, media, body string) fakeAnswer {
	return func(w http.ResponseWriter, r *fakeRequest) bool {
		says(status, media, body)(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
}

// Whatever a server says to a notification, it is delivered, and what follows is not held up.
func TestOddAnswersToNotifications(t *testing.T) {
	t.Parallel()
	server := startMCP(t, "http/1.1") // where a body that is not read costs the connection
	server.sessions = false           // none is lost
	p := startProxy(t, "-u", server.url)
	p.initialize()
	const json, events = "application/json", "text/event-stream"
	for name, answer := range map[string]fakeAnswer{
		"200 empty":                says(200, "", ""),
		"200 null":                 says(200, json, "null"),
		"200 HTML":                 says(200, "text/html; charset=utf-8", "<!DOCTYPE html><p>ok"),
		"200 text":                 says(200, "text/plain", "ok"),
		"200 JSON-RPC":             says(200, json, `{"jsonrpc":"2.0","id":null,"result":{}}`),
		"202 text":                 says(202, "text/plain", "Accepted"),
		"204":                      says(204, "", ""),
		"200 stream that ends":     says(200, events, ": nothing\n\n"),
		"200 stream without end":   neverEnding(200, events, ": nothing\n\n"),
		"200 body without end":     neverEnding(200, json, "{"),
		"500 body without end":     neverEnding(500, "text/html", "<p>"),
		"400 JSON-RPC without end": neverEnding(400, json, `{"jsonrpc":"2.0","error":{"code":-1,`),
	} {
		answer := answer
		t.Run(name, func(t *testing.T) {
			method := "notifications/" + name
			server.reply(method, answer)
			began := time.Now()
			p.notify(method, "")
			p.echo("the next message")
			if took := time.Since(began); took > deliveryWait {
				t.Errorf("it held up the next message for %v", took)
			}
			if got := server.count(method); got != 1 {
				t.Errorf("got %d notifications, want 1", got)
			}
		})
	}
}

// A server may say something of its own even there.
func TestMessagesOnTheAnswerToNotification(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.reply("notifications/initialized",
		neverEnding(200, "text/event-stream",
			`data: {"jsonrpc":"2.0","id":"s1","method":"roots/list"}`+"\n\n"))
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.received("roots/list", 1)
	p.send(`{"jsonrpc":"2.0","id":"s1","result":{"roots":[]}}`)
	server.await("response", 1)
}

// What is no answer becomes an error, at once.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.sessions = false
	p := startProxy(t, "-u", server.url)
	p.initialize()
	const json, events = "application/json", "text/event-stream"
	for name, answer := range map[string]fakeAnswer{
		"200 empty":            says(200, json, ""),
		"200 white space":      says(200, json, " \n"),
		"200 null":             says(200, json, "null"),
		"200 HTML":             says(200, "text/html", "<!DOCTYPE html><p>secret"),
		"200 text":             says(200, "text/plain", "secret"),
		"200 string":           says(200, json, `"secret"`),
		"200 empty batch":      says(200, json, `[]`),
		"200 batch for others": says(200, json, `[{"jsonrpc":"2.0","id":"secret","result":{}}]`),
		"202 empty":            says(202, "", ""),
		"202 text":             says(202, "text/plain", "Accepted, secret"),
		"204":                  says(204, "", ""),
		"error that is text": says(200, json,
			`{"error":"invalid_token","error_description":"secret"}`),
		"error without code": says(200, json,
			`{"jsonrpc":"2.0","id":<id>,"error":{"message":"secret"}}`),
		"error without message": says(200, json, `{"jsonrpc":"2.0","id":<id>,"error":{"code":-1}}`),
		"null error alone":      says(200, json, `{"jsonrpc":"2.0","id":<id>,"error":null}`),
		"another request's id":  says(200, json, `{"jsonrpc":"2.0","id":"secret","result":{}}`),
		"a request":             says(200, json, `{"jsonrpc":"2.0","id":1,"method":"secret"}`),
		"duplicate of the request": says(200, json,
			`{"jsonrpc":"2.0","id":<id>,"method":"tools/call","params":{}}`),
		"two bodies": says(200, json,
			`{"jsonrpc":"2.0","id":<id>,"result":{}}{"jsonrpc":"2.0","id":<id>,"result":{}}`),
		"result beside a method": says(200, json,
			`{"jsonrpc":"2.0","id":<id>,"method":"secret","result":{}}`),
		"stream without answer":  says(200, events, ": secret\n\ndata: secret\n\n"),
		"stream of HTML":         says(200, events, "<!DOCTYPE html><p>secret"),
		"stream that breaks off": says(200, events, `data: {"jsonrpc":"2.0","id":<id>,"result":{`),
		"event without a blank":  says(200, events, `data: {"jsonrpc":"2.0","id":<id>,"result":{}}`),
		"answer in an other event": says(200, events,
			"event: secret\ndata: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{}}\n\n"),
		"400 HTML": says(400, "text/html", "<p>secret"),
		"400 error that is text": says(400, json,
			`{"error":"invalid_request","error_description":"secret"}`),
		"400 error without message": says(400, json, `{"jsonrpc":"2.0","id":<id>,"error":{"code":-1}}`),
		"400 without end":           neverEnding(400, json, `{"jsonrpc":"2.0","id":<id>,"error":{`),
		"500 HTML without end":      neverEnding(500, "text/html", "<p>secret"),
		"418":                       says(418, "", ""),
		"599":                       says(599, "", ""),
		"301":                       says(301, "text/html", "secret"),
	} {
		answer := answer
		t.Run(name, func(t *testing.T) {
			server.reply("tools/call "+name, answer)
			got := p.failure(p.request("tools/call", fmt.Sprintf(`{"name":%q}`, name)))
			if got.Code != -32000 || !strings.Contains(got.Message, "127.0.0.1") ||
				strings.Contains(got.Message+string(got.Data), "secret") {
				t.Errorf("got error %d %q %s, want -32000 that names the host and quotes nothing", got.Code,
					got.Message, got.Data)
			}
			if got := server.count("tools/call " + name); got != 1 {
				t.Errorf("got %d calls, want 1", got)
			}
		})
	}
	p.echo("the next one")
}

// Answers that are not quite what they should be, and what the client gets.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.sessions = false
	p := startProxy(t, "-u", server.url)
	p.initialize()
	const json, events = "application/json", "text/event-stream"
	const plain = `{"jsonrpc":"2.0","id":<id>,"result":{"n":1}}`
	const refused = `{"jsonrpc":"2.0","id":<id>,"error":{"code":-7,"message":"no","data":[1]}}`
	for _, test := range []struct {
		name   string
		id     string // of the request, raw
		answer fakeAnswer
		want   string
	}{
		{"plain", `1`, says(200, json, plain), plain},
		{"pretty-printed", `1`, says(200, json,
			"{\r\n  \"jsonrpc\": \"2.0\",\r\n\t\"id\": <id>,\n  \"result\": {\n    \"n\": 1\n  }\n}\n"),
			"{    \"jsonrpc\": \"2.0\",  \t\"id\": <id>,   \"result\": {     \"n\": 1   } }"},
		{"pretty-printed event", `1`,
			says(200, events, "data: {\ndata:   \"jsonrpc\": \"2.0\", \"id\": <id>,\ndata:   \"result\": {}\ndata: }\n\n"),
			`{   "jsonrpc": "2.0", "id": <id>,   "result": {} }`},
		{"a body without end", `1`, neverEnding(200, json, plain), plain},
		{"not UTF-8", `1`, says(200, json,
			"{\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"caf\xe9\":\"\xff\xfe é\"}}"),
			"{\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"caf\ufffd\":\"\ufffd é\"}}"},
		{"not UTF-8, in an event", `1`,
			says(200, events, "data: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":\"caf\xe9\"}\n\n"),
			"{\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":\"caf\ufffd\"}"},
		{"byte order mark", `1`, says(200, json, byteOrderMark+plain), plain},
		{"byte order mark before events", `1`, says(200, events, byteOrderMark+"data: "+plain+"\n\n"),
			plain},
		{"id null in an error", `1`,
			says(200, json, `{"jsonrpc":"2.0","id":null,"error":{"code":-7,"message":"no","data":[1]}}`),
			refused},
		{"id null in a 400", `"x"`,
			says(400, json, `{"jsonrpc":"2.0","id":null,"error":{"code":-7,"message":"no","data":[1]}}`),
			refused},
		{"no id in a 400", `1`, says(400, json,
			`{"jsonrpc":"2.0","error":{"code":-7,"message":"no","data":[1]}}`),
			`{"jsonrpc":"2.0","error":{"code":-7,"message":"no","data":[1]},"id":<id>}`},
		{"a made-up id in a 400", `1`,
			says(400, json, `{"jsonrpc":"2.0","id":"server-error","error":{"code":-7,"message":"no","data":[1]}}`), refused},
		{"error in a 500", `1`, says(500, json, refused), refused},
		{"error as text/plain", `1`, says(404, "text/plain", refused), refused},
		{"id as a string", `7`, says(200, json, `{"jsonrpc":"2.0","id":"7","result":{"n":1}}`), plain},
		{"id as a number", `"7"`, says(200, json, `{"jsonrpc":"2.0","id":7,"result":{"n":1}}`), plain},
		{"id as a double", `7`, says(200, json, `{"jsonrpc":"2.0","id":7.0,"result":{"n":1}}`), plain},
		{"id rounded to a double", `9007199254740993`,
			says(200, json, `{"jsonrpc":"2.0","id":9007199254740992,"result":{"n":1}}`), plain},
		{"id kept beyond 2^53", `12345678901234567890123`, says(200, json, plain), plain},
		{"id written by PHP", `"a/b"`, says(200, json, `{"jsonrpc":"2.0","id":"a\/b","result":{"n":1}}`),
			plain},
		{"id written by Python", `"é"`,
			says(200, json, `{"jsonrpc":"2.0","id":"\u00e9","result":{"n":1}}`), plain},
		{"error null beside the result", `1`,
			says(200, json, `{"jsonrpc":"2.0","id":<id>,"result":{"n":1},"error":null}`), plain},
		{"result null beside the error", `1`,
			says(200, json, `{"jsonrpc":"2.0","id":<id>,"result":null,"error":{"code":-7,"message":"no","data":[1]}}`), refused},
		{"no version", `1`, says(200, json, `{"id":<id>,"result":{"n":1}}`), plain},
		{"another version", `1`, says(200, events,
			"data: {\"jsonrpc\":2.0,\"id\":<id>,\"result\":{\"n\":1}}\n\n"), plain},
		{"batch of one", `1`, says(200, json, `[`+plain+`]`), plain},
		{"batch in an event", `1`,
			says(200, events, `data: [{"jsonrpc":"2.0","method":"notifications/message"},`+plain+"]\n\n"),
			plain},
		{"charset", `1`, says(200, "application/json; charset=utf-8", plain), plain},
		{"content type in capitals", `1`, says(200, "Application/JSON", plain), plain},
		{"no content type", `1`, says(200, "", plain), plain},
		{"text/plain", `1`, says(200, "text/plain", plain), plain},
		{"201", `1`, says(201, json, plain), plain},
		{"byte order mark", `1`, says(200, json, byteOrderMark+plain), plain},
		{"byte order mark in a 400", `1`, says(400, json, byteOrderMark+refused), refused},
		{"byte order mark before events", `1`, says(200, events, byteOrderMark+"data: "+plain+"\n\n"),
			plain},
		{"event stream as JSON", `1`, says(200, json, "data: "+plain+"\n\n"), plain},
		{"event stream as nothing", `1`, says(200, "", ": hello\n\nevent: message\ndata: "+plain+"\n\n"),
			plain},
		{"event stream as text", `1`, says(200, "text/plain", "id:\n\nretry: 1\n\ndata: "+plain+"\n\n"),
			plain},
		{"event stream in a 400", `1`, says(400, events, "data: "+refused+"\n\n"), refused},
		{"JSON as an event stream", `1`, says(200, events, "\n"+plain), plain},
		{"202 with the answer", `1`, says(202, json, plain), plain},
		{"event stream with a charset", `1`,
			says(200, `text/event-stream;charset="utf-8"`, "data: "+plain+"\n\n"), plain},
		{"event stream in capitals", `1`, says(200, `Text/Event-Stream`, "data: "+plain+"\n\n"), plain},
		{"event of no name", `1`, says(200, events, "event:\ndata: "+plain+"\n\n"), plain},
		{"other events", `1`, says(200, events,
			"event: ping\ndata: "+plain[:9]+"\n\ndata:\n\ndata: [DONE]\n\ndata: x\n\nevent: message\ndata: "+plain+"\n\ndata: [DONE]\n\n"), plain},
		{"answered twice", `1`, says(200, events,
			"data: "+plain+"\n\ndata: "+plain+"\n\ndata: "+refused+"\n\n"), plain},
		{"line separators", `1`, says(200, events,
			"data: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"t\":\"a\u2028b\u2029c\u0085d\\u2028e\"}}\n\n"),
			"{\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"t\":\"a\u2028b\u2029c\u0085d\\u2028e\"}}"},
		{"large integers", `1`, says(200, json,
			`{"jsonrpc":"2.0","id":<id>,"result":{"n":9007199254740993,"m":-18446744073709551617,"e":1e400}}`),
			`{"jsonrpc":"2.0","id":<id>,"result":{"n":9007199254740993,"m":-18446744073709551617,"e":1e400}}`},
	} {
		for era, meta := range map[string]string{"session": `"_meta":{}`, "modern": modernMeta} {
			name, meta, test := test.name+" "+era, meta, test
			t.Run(name, func(t *testing.T) {
				server.reply("tools/call "+name, test.answer)
				p.change(func() {
					p.sent, p.answered = map[string]bool{},
						map[string][]testMessage{}
				}) // ids come again
				p.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,%s}}`,
					test.id, name, meta))
				if got, want := p.answer(test.id).line,
					strings.ReplaceAll(test.want, "<id>", test.id); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		}
	}
}

// One stream may bring the answers to other requests as well.
func TestAnswersToSeveralRequestsInOneStream(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	var answers string
	server.reply("tools/call silent", func(w http.ResponseWriter, r *fakeRequest) bool {
		server.change(func() {
			answers += "data: " + strings.Replace(r.msg.result(`{"content":[]}`), `"id":3`, `"id":"3"`, 1) +
				"\n\n"
		})
		<-r.Context().Done()
		return true
	})
	server.reply("tools/call talks", func(w http.ResponseWriter, r *fakeRequest) bool {
		says(200, "text/event-stream", answers+"data: "+r.msg.result(`{"content":[]}`)+"\n\n")(w, r)
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	ids := []string{p.request("tools/call", `{"name":"silent"}`),
		p.request("tools/call", `{"name":"silent"}`)}
	server.await("tools/call silent", 2)
	eventually(t, "both answers are ready", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return strings.Count(answers, "data:") == 2
	})
	for _, id := range append(ids, p.request("tools/call", `{"name":"talks"}`)) {
		p.result(id)
	}
}

// A server may accept a request and answer on the stream that is listened to.
func TestAnswerOnListeningStream(t *testing.T) {
	for _, body := range []string{"", "Accepted"} {
		body := body
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.listens = true
			server.reply("tools/call later", func(w http.ResponseWriter, r *fakeRequest) bool {
				says(http.StatusAccepted, "text/plain", body)(w, r)
				server.push(strings.Replace(r.msg.result(`{"content":[]}`), `"id":2`, `"id":"2"`, 1))
				return true
			})
			server.reply("tools/call never", says(http.StatusOK, "application/json", ""))
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.call("tools/call", `{"name":"later"}`)
			p.failure(p.request("tools/call", `{"name":"never"}`)) // only 202 means that it comes there
		})
	}
}

// What is not JSON-RPC does not reach the client, on whichever stream it comes.
func TestServerMessagesAreChecked(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.listens = true
	p := startProxy(t, "-u", server.url)
	p.initialize()
	for _, line := range []string{
		`hello`, `{}`, `[]`, `null`, `{"jsonrpc":"1.0","method":"notifications/message"}`,
		`{"method":"notifications/message"}`, `{"jsonrpc":"2.0","method":7}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list","result":{}}`,
		`{"jsonrpc":"2.0","method":"notifications/message","error":{"code":-1,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":99,"result":{}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":"mcp-proxy:x","result":{}}`,
		`[{"jsonrpc":"2.0","method":"notifications/message","params":{"n":0}},{"jsonrpc":"2.0","method":"notifications/message","params":{"n":1}}]`,
		`{"jsonrpc":"2.0","method":"notifications/message","params":{"n":2}}`,
	} {
		server.push(line)
	}
	for i, m := range p.received("notifications/message", 3) {
		if want := fmt.Sprintf(`{"n":%d}`, i); string(m.Params) != want {
			t.Errorf("got %s, want %s", m.Params, want)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := len(p.lines); got != 4 { // and the answer to initialize
		t.Errorf("got %d lines, want 4: %q", got, p.lines)
	}
	if got := strings.Count(p.stderr(), "\n"); got != 1 {
		t.Errorf("got %d lines on stderr, want 1 a stream: %s", got, p.stderr())
	}
}

// A stream that goes on after its answer does not hold up the answer, may say
// more for a little, and is closed then.
func TestStreamWithoutEnd(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	closed := make(chan struct{})
	server.reply("tools/call endless", func(w http.ResponseWriter, r *fakeRequest) bool {
		neverEnding(200, "text/event-stream",
			"data: "+r.msg.result(`{"content":[]}`)+"\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n")(w, r)
		close(closed)
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.call("tools/call", `{"name":"endless"}`)
	p.received("notifications/message", 1)
	p.echo("meanwhile")
	select { // after lingerTime
	case <-closed:
	case <-time.After(testPatience):
		t.Error("the stream is still open")
	}
}

func TestBodyCutInTheMiddle(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		for _, media := range []string{"application/json", "text/event-stream"} {
			protocol, media := protocol, media
			t.Run(protocol+" "+media, func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.reply("tools/call cut", func(w http.ResponseWriter, r *fakeRequest) bool {
					w.Header().Set("Content-Length", "1000")
					says(200, media, `{"jsonrpc":"2.0","id":<id>,"result":{"a":"b`)(w, r)
					return true
				})
				p := startProxy(t, "-u", server.url)
				p.initialize()
				if got := p.failure(p.request("tools/call", `{"name":"cut"}`)); got.Code != -32000 ||
					!strings.Contains(got.Message, "127.0.0.1") {
					t.Errorf("got %+v", got)
				}
			})
		}
	}
}

func TestManyNotificationsInOneStream(t *testing.T) {
	t.Parallel()
	const n = 10000
	server := startMCP(t)
	server.reply("tools/call talkative", func(w http.ResponseWriter, r *fakeRequest) bool {
		var b strings.Builder
		for i := 0; i < n; i++ {
			fmt.Fprintf(&b, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"n\":%d}}\n\n", i)
		}
		says(200, "text/event-stream", b.String()+"data: "+r.msg.result(`{"content":[]}`)+"\n\n")(w, r)
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.call("tools/call", `{"name":"talkative"}`)
	got := p.received("notifications/message", n)
	if len(got) != n {
		t.Errorf("got %d notifications, want %d", len(got), n)
	}
	for i, m := range got {
		if want := fmt.Sprintf(`{"n":%d}`, i); string(m.Params) != want {
			t.Fatalf("notification %d: got %s", i, m.Params)
		}
	}
}

func TestSameID(t *testing.T) {
	for _, test := range []struct {
		got, want string
		same      bool
	}{
		{`1`, `1`, true}, {`"1"`, `1`, true}, {`1`, `"1"`, true}, {`1.0`, `1`, true},
		{`1e2`, `100`, true}, {`"a"`, `"a"`, true}, {`"\u0061"`, `"a"`, true},
		{`9007199254740992`, `9007199254740993`, true}, {`"a\/b"`, `"a/b"`, true},
		{`1`, `2`, false}, {`"a"`, `"b"`, false}, {`null`, `1`, false}, {``, `1`, false},
		{`""`, `1`, false}, {`"1 "`, `1`, false}, {`{}`, `1`, false}, {`-1`, `1`, false},
		{`"A"`, `"a"`, false}, {`9007199254740995`, `9007199254740993`, false},
	} {
		if got := looseID([]byte(test.got)) == looseID([]byte(test.want)); got != test.same {
			t.Errorf("%s for %s: got %v, want %v", test.got, test.want, got, test.same)
		}
	}
}

// Whose answer an id is costs no more than reading it once, however many calls are open.
func TestAnswerToNobodyIsCheap(t *testing.T) {
	pending := &calls{open: map[string]*call{}}
	for i := 0; i < 1000; i++ {
		id := []byte(fmt.Sprintf(`"\u0061%d"`, i))
		pending.open[string(id)] = &call{m: &message{id: id}, loose: looseID(id)}
	}
	for _, size := range []int{10, maxID, 1 << 20} {
		id := []byte(`"\u0062` + strings.Repeat("1", size-8) + `"`)
		if got := testing.AllocsPerRun(10, func() {
			if pending.find(nil, id) != nil {
				t.Error("it answers a call")
			}
		}); got > 20 {
			t.Errorf("an id of %d bytes: %v allocations", size, got)
		}
	}
	if pending.find(nil, []byte(`"a7"`)) == nil {
		t.Error("an id that is written in another way answers none")
	}
}

// largeServer says what it is told, and remembers how much that was. It looks
// at no message: the tests would take longer than the program.
type largeServer struct {
	got    bytes.Buffer
	media  string
	answer string
}

func (s *largeServer) label(*fakeRequest) string { return "large" }

func (s *largeServer) serve(w http.ResponseWriter, r *fakeRequest) {
	s.got.Reset()
	s.got.Write(r.body)
	says(200, s.media, s.answer)(w, r)
}

// A message of 64 MiB (fewer under the race detector) passes either way, whole and unchanged.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("0123456789abcde\u00e9", largeSize/17+1)
	request := `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"large":"` + large + `"}}`
	answer := `{"jsonrpc":"2.0","id":1,"result":{"large":"` + large + `"}}`
	const small, pong = `{"jsonrpc":"2.0","id":1,"method":"ping"}`,
		`{"jsonrpc":"2.0","id":1,"result":{}}`
	server := &largeServer{}
	origin := startOrigin(t)
	origin.parts = []fakePart{server}
	user := newUser(t)
	cmd := user.command("-u", origin.base+"/mcp", "--no-trace")
	stdin, err := cmd.StdinPipe()
	fatal(t, err)
	stdout, err := cmd.StdoutPipe()
	fatal(t, err)
	fatal(t, cmd.Start())
	kill := time.AfterFunc(3*testPatience, func() { cmd.Process.Kill() })
	defer kill.Stop()
	out := bufio.NewReaderSize(stdout, 1<<20)
	for _, test := range []struct{ name, request, media, answer, want string }{
		{"request", request, "application/json", pong, pong},
		{"JSON", small, "application/json", answer, answer},
		{"event", small, "text/event-stream", "data: " + answer + "\n\n", answer},
	} {
		server.media, server.answer = test.media, test.answer
		_, err := io.WriteString(stdin, test.request+"\n")
		fatal(t, err)
		line, err := out.ReadString('\n')
		fatal(t, err)
		if line != test.want+"\n" {
			t.Errorf("%s: got %d bytes, want %d unchanged", test.name, len(line), len(test.want))
		}
		if server.got.String() != test.request {
			t.Errorf("%s: the server got %d bytes, want %d unchanged", test.name, server.got.Len(),
				len(test.request))
		}
	}
	stdin.Close()
	fatal(t, cmd.Wait())
}

// faultStep is a piece of an answer, and the name of the point before it.
type faultStep struct {
	point string
	write func(w http.ResponseWriter)
}

// faultKinds are what may happen at a point.
var faultKinds = []string{
	"cut",      // the connection (HTTP/1.1) or the stream (HTTP/2) is torn down
	"truncate", // the body ends there, in all order
	"stall",    // nothing comes any more
	"delay",    // nothing comes until the test lets it go on
}

// faultVariant is a kind of server.
type faultVariant struct {
	name      string
	modern    bool
	steps     func(id, name string) []faultStep
	resumable bool // from the point "before progress" on
}

func writes(text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Write([]byte(text))
		w.(http.Flusher).Flush()
	}
}

func begins(media string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", media)
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
	}
}

// faultyJSON is an answer as a body of JSON.
func faultyJSON(id, name string) []faultStep {
	body := faultResult(id, name)
	half := len(body) / 2
	return []faultStep{
		{"before headers", begins("application/json")},
		{"after headers", writes(body[:half])},
		{"in the body", writes(body[half : len(body)-1])},
		{"before the last byte", writes(body[len(body)-1:])},
		{"after it", nil},
	}
}

func faultResult(id, name string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":%q}]}}`,
		id, name)
}

const faultProgress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`

// faultyStream is an answer as a stream of events; prefix begins each event.
func faultyStream(prefix string) func(id, name string) []faultStep {
	return func(id, name string) []faultStep {
		prefix := strings.ReplaceAll(prefix, "<id>", id)
		last := faultResult(id, name)
		half := len(last) / 2
		return []faultStep{
			{"before headers", begins("text/event-stream")},
			{"after headers", writes(prefix + "data: \n\n")},
			{"before progress", writes(prefix + "data: " + faultProgress[:30])},
			{"in progress", writes(faultProgress[30:] + "\n")},
			{"before the end of progress", writes("\n")},
			{"before the final event", writes(prefix + "data: " + last[:half])},
			{"in the final event", writes(last[half:] + "\n")},
			{"before the end of the final event", writes("\n")},
			{"after it", nil},
		}
	}
}

// succeeds tells whether the client may expect a result.
func (v faultVariant) succeeds(kind, point string) bool {
	switch {
	case kind == "delay" || point == "after it":
		return true
	case kind == "stall":
		return false
	}
	return v.resumable && point != "before headers" && point != "after headers"
}

// injectFaults makes the server answer the tool "KIND, POINT" with that fault.
// What is delayed goes on when release is closed.
func (v faultVariant) injectFaults(server *fakeMCP, release <-chan struct{}) (names []string) {
	points := v.steps("", "")
	for _, kind := range faultKinds {
		for _, at := range points {
			kind, point := kind, at.point
			name := kind + ", " + point
			names = append(names, name)
			server.reply("tools/call "+name, func(w http.ResponseWriter, r *fakeRequest) bool {
				for _, step := range v.steps(string(r.msg.ID), name) {
					if step.point == point {
						if done := happens(kind, r, release); done {
							return true
						}
					}
					if step.write != nil {
						step.write(w)
					}
				}
				return true
			})
		}
	}
	if v.resumable {
		server.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
			id := r.Header.Get("Last-Event-Id")
			if id == "" {
				return false
			}
			begins("text/event-stream")(w)
			writes("data: " + faultResult(id, "resumed") + "\n\n")(w)
			return true
		})
	}
	return names
}

// happens is the fault; true when nothing follows it.
func happens(kind string, r *fakeRequest, release <-chan struct{}) bool {
	switch kind {
	case "cut":
		panic(http.ErrAbortHandler)
	case "stall":
		<-r.Context().Done()
	case "delay":
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return false
	}
	return true
}

func TestFaults(t *testing.T) {
	for _, v := range []faultVariant{
		{"session, JSON", false, faultyJSON, false},
		{"session, stream", false, faultyStream(""), false},
		{"session, stream with ids", false, faultyStream("id: <id>\nretry: 1\n"), true},
		{"modern, JSON", true, faultyJSON, false},
		{"modern, stream with ids", true, faultyStream("id: <id>\nretry: 1\n"), false},
	} {
		for _, protocol := range []string{"h2", "http/1.1"} {
			v, protocol := v, protocol
			t.Run(v.name+" "+protocol, func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.sessions = !v.modern
				release := make(chan struct{})
				names := v.injectFaults(server, release)
				p := startProxy(t, "-u", server.url)
				call := func(name string) string {
					return p.modern("tools/call",
						fmt.Sprintf(`"name":%q`, name))
				}
				if !v.modern {
					p.initialize()
					call = func(name string) string {
						return p.request("tools/call",
							fmt.Sprintf(`{"name":%q}`, name))
					}
				}
				ids := map[string]string{}
				for _, name := range names {
					ids[name] = call(name)
				}
				p.result(call("echo")) // beside all that stalls
				for _, name := range names {
					server.await("tools/call "+name, 1)
				}
				close(release)
				var stalled []string
				for _, name := range names {
					kind, point, _ := strings.Cut(name, ", ")
					switch {
					case v.succeeds(kind, point):
						p.result(ids[name])
					case kind == "stall":
						stalled = append(stalled, ids[name])
					default:
						if got := p.failure(ids[name]); got.Code != -32000 ||
							!strings.Contains(got.Message, "127.0.0.1") || strings.Contains(got.Message, "stream ID") {
							t.Errorf("%s: got error %d %q", name, got.Code, got.Message)
						}
					}
				}
				p.result(call("echo")) // after all that broke
				for _, id := range stalled {
					p.mu.Lock()
					if len(p.answered[id]) != 0 {
						t.Errorf("got %q before the server said anything", p.answered[id][0].line)
					}
					p.mu.Unlock()
				}
				p.signal(syscall.SIGTERM)
				p.wait()
				for _, id := range stalled {
					p.failure(id)
				}
				for _, name := range names {
					if got := server.count("tools/call " + name); got != 1 {
						t.Errorf("%s: the call was sent %d times, want once", name, got)
					}
				}
			})
		}
	}
}

// The network breaks after any number of bytes, of the handshake, the headers
// or the body, again and again: there is an answer all the same.
func TestConnectionBreaksAnywhere(t *testing.T) {
	for protocol, reset := range map[string]bool{"h2": false, "http/1.1": true} {
		for _, limit := range []int{300, 1200, 1500, 1800, 2400} {
			protocol, limit, reset := protocol, limit, reset
			t.Run(fmt.Sprintf("%s %d bytes", protocol, limit), func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.events, server.lenient = true, true
				wire := startWire(t, server.fakeOrigin)
				wire.change(func() { wire.refuse, wire.after, wire.reset = math.MaxInt, limit, reset })
				p := startProxy(t, "-u", wire.base()+"/mcp")
				p.answer(p.request("initialize", initializeParams))
				p.notify("notifications/initialized", "")
				var ids []string
				for i := 0; i < 5; i++ {
					ids = append(ids, p.request("tools/call",
						`{"name":"echo","arguments":{"text":"x"},"_meta":{"progressToken":1}}`))
				}
				for _, id := range ids {
					p.answer(id)
				}
				if got := server.count("tools/call echo"); got > 5 {
					t.Errorf("5 calls were sent %d times", got)
				}
			})
		}
	}
}

// What a body or an event holds becomes the one answer to a request, or none.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"id":"1","result":null,"error":null}`, `{"jsonrpc":"2.0","error":{"code":-1,"message":"x"},"result":1}`, `{"result":1,"result":2,"id":1,"id":2,"jsonrpc":"2.0"}`,
		"{\r\n\"jsonrpc\" : \"2.0\",\n\"id\" : null,\n\"error\" : {\"code\":1.5e1,\"message\":\"\\u0000\"}}", `{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":"x"}}`, `{}`, `{"jsonrpc":"1.0","id":1,"error":"x","result":[1,2]}`, `{"error":{"code":-,"message":""}}`,
	} {
		f.Add([]byte(body), 7)
		f.Add([]byte(body), 1)
	}
	ids := [][]byte{[]byte("1"), []byte(`"a\"b"`), []byte("-1.50e3"), []byte(`"\u00e9"`)}
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		n &= 0x7fffffff
		id := ids[n%len(ids)]
		d := newDocument(bytes.Clone(body))
		if !isAnswer(d) {
			return
		}
		had := decodeMembers(t, strings.ToValidUTF8(strings.TrimPrefix(string(body), byteOrderMark), "\ufffd"))
		out := inOrder(d, id)
		has := decodeMembers(t, string(out))
		if bytes.ContainsAny(out, "\r\n") || !bytes.Equal(has["id"], id) || string(has["jsonrpc"]) == "" {
			t.Fatalf("%q became %q", body, out)
		}
		if version, _ := unquote(has["jsonrpc"]); version != "2.0" || (has["result"] == nil) == (has["error"] == nil) {
			t.Fatalf("%q became %q", body, out)
		}
		for _, name := range []string{"result", "error"} {
			want := strings.NewReplacer("\r", " ", "\n", " ").Replace(string(had[name]))
			if has[name] != nil && string(has[name]) != want {
				t.Fatalf("%q: got %s %q, want %q", body, name, has[name], want)
			}
		}
		if isError(has["error"]) == (has["result"] != nil) {
			t.Fatalf("%q became %q", body, out)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"0", "1", "60", "61", "-1", "+5", "1.5", "1_0", "99999999999999999999", "00030", "", "Fri, 31 Dec 1999 23:59:59 GMT", "soon", "Sun Nov  6 08:49:37 1994"} {
		f.Add(429, value, int64(30))
	}
	f.Add(200, "1", int64(1))
	f.Add(503, "1", int64(-1<<40))
	now := time.Date(2026, 7, 28, 10, 0, 0, 0, time.UTC)
	seconds := regexp.MustCompile(`^[0-9]+$`)
	f.Fuzz(func(t *testing.T, status int, value string, from int64) {
		answer := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {value}}}
		wait, ok := retryAfter(answer, func() time.Time { return now })
		if ok && (status != 429 && status != 503 || wait < firstBackoff || wait > maxRetryAfter) {
			t.Fatalf("%d %q: got %v", status, value, wait)
		}
		if trimmed := strings.TrimSpace(value); seconds.MatchString(trimmed) && (status == 429 || status == 503) {
			n, _ := new(big.Int).SetString(trimmed, 10)
			if want := n.Cmp(big.NewInt(60)) <= 0; ok != want || want && wait != max(time.Duration(n.Int64())*time.Second, firstBackoff) {
				t.Fatalf("%q: got %v, %v", value, wait, ok)
			}
		}
		from %= 1 << 33 // a few hundred years
		if date := now.Add(time.Duration(from) * time.Second); date.Year() > 0 && date.Year() < 10000 {
			answer.StatusCode = http.StatusServiceUnavailable
			answer.Header.Set("Retry-After", date.Format(http.TimeFormat))
			if wait, ok := retryAfter(answer, func() time.Time { return now }); ok != (from <= 60) || ok && wait != max(time.Duration(from)*time.Second, firstBackoff) {
				t.Fatalf("%v: got %v, %v", date, wait, ok)
			}
		}
	})
}

// Who is told that a call was cut off is told that it may still be running, but not of one that
// never reached the server.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http/1.1", "h2"} {
		server := startModern(t, protocol)
		p := startProxy(t, "-u", server.url)
		for name, answer := range map[string]fakeAnswer{
			"before the answer": func(http.ResponseWriter, *fakeRequest) bool { panic(http.ErrAbortHandler) },
			"before the body": func(w http.ResponseWriter, _ *fakeRequest) bool {
				w.Header().Set("Content-Type", "application/json")
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			},
			"within the body": func(w http.ResponseWriter, _ *fakeRequest) bool {
				io.WriteString(w, `{"jsonrpc":"2.0","id":`)
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			},
			"stream": says(200, "text/event-stream", ": hello\n\n"),
			"within a stream": func(w http.ResponseWriter, _ *fakeRequest) bool {
				startEvents(w).send(": hello")
				panic(http.ErrAbortHandler)
			},
		} {
			server.reply("tools/call "+name, answer)
			got := p.failure(p.modern("tools/call", fmt.Sprintf(`"name":%q`, name))).Message
			if !strings.HasSuffix(got, "; hint: the call may still be running at the server") {
				t.Errorf("%s: %s: got %q", protocol, name, got)
			}
		}
		p.closeStdin()
	}
	p := startProxy(t, "-u", fmt.Sprintf("https://127.0.0.1:%d/mcp", freePort(t)))
	if got := p.failure(p.modern("tools/call", `"name":"x"`)).Message; strings.Contains(got, "still be running") {
		t.Errorf("not sent: got %q", got)
	}
}
