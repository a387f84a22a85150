package main

// Revisions 2025-03-26 to 2025-11-25: the stream that is listened to, what the
// server asks, streams that break off, sessions that end.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestListening(t *testing.T) {
	for _, sessions := range []bool{true, false} {
		for _, protocol := range []string{"h2", "http/1.1"} {
			sessions, protocol := sessions, protocol
			t.Run(fmt.Sprintf("%s sessions %v", protocol, sessions), func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.listens, server.sessions = true, sessions
				p := startProxy(t, "-u", server.url)
				p.call("initialize", initializeParams)
				if got := server.count("GET"); got != 0 {
					t.Errorf("got %d GET before notifications/initialized", got)
				}
				p.notify("notifications/initialized", "")
				get := server.await("GET", 1)
				initialized := server.requests("notifications/initialized")
				if len(initialized) != 1 || initialized[0].order > get.order {
					t.Errorf("got %q, want GET after notifications/initialized", server.labels())
				}
				if got := get.Header.Get("Mcp-Session-Id"); (got != "") != sessions {
					t.Errorf("GET: got session id %q", got)
				}
				if got := get.Header.Get("Mcp-Protocol-Version"); got != "2025-11-25" {
					t.Errorf("GET: got protocol version %q", got)
				}
				const question = `{"jsonrpc":"2.0","id":"q/1","method":"roots/list"}`
				server.push(question)
				if got := p.received("roots/list", 1)[0].line; got != question {
					t.Errorf("got  %s\nwant %s", got, question)
				}
				const answer = `{"jsonrpc":"2.0","id":"q/1","result":{"roots":[{"uri":"file:///home"}]}}`
				p.send(answer)
				if got := string(server.await("response", 1).body); got != answer {
					t.Errorf("got  %s\nwant %s", got, answer)
				}
				p.echo("meanwhile")
			})
		}
	}
}

// The server asks in the middle of a call and goes on when it has the answer.
func TestServerAsksDuringCall(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.reply("tools/call asks", func(w http.ResponseWriter, r *fakeRequest) bool {
		stream := startEvents(w)
		for i, method := range []string{"sampling/createMessage", "elicitation/create"} {
			stream.send(fmt.Sprintf(`data: {"jsonrpc":"2.0","id":%d,"method":%q,"params":{}}`, i, method))
			got := string(server.await("response", i+1).body)
			if want := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":{"n":%d}}`, i, i); i == 0 &&
				got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		stream.send("data: " + r.msg.result(`{"content":[]}`))
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	id := p.request("tools/call", `{"name":"asks"}`)
	p.received("sampling/createMessage", 1)
	p.send(`{"jsonrpc":"2.0","id":0,"result":{"n":0}}`)
	p.received("elicitation/create", 1)
	p.send(`{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"User rejected"}}`)
	p.result(id)
}

// MCP 2025-11-25, Transports, "Resumability and Redelivery": from where it
// broke off, not before the server's retry has passed, and on GET.
func TestStreamIsResumed(t *testing.T) {
	progress := func(n int) string {
		return fmt.Sprintf(`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":%d}}`, n)
	}
	const done = `data: {"jsonrpc":"2.0","id":<id>,"result":{"content":[]}}`
	for _, test := range []struct {
		name   string
		pieces [][]string
		from   []string // Last-Event-ID of each resumption
		waits  []time.Duration
		moves  int // progress notifications
	}{
		{"after the priming event", [][]string{{"id: p\nretry: 40\ndata: "}, {done}}, []string{"p"},
			[]time.Duration{40 * time.Millisecond}, 0},
		{"after an event of comments and an id alone",
			[][]string{{": hello", "id: p\nretry: 1", ": bye"}, {done}}, []string{"p"}, nil, 0},
		{"in the middle of an event",
			[][]string{{"id: p\nretry: 1\n" + progress(1),
				"id: q\ndata: {\"jsonrpc\":\"2.0\",\ndata: \"method\":"}, {done}}, []string{"q"}, nil, 1},
		{"polled", [][]string{
			{"id: a\nretry: 30\ndata: "}, {"id: b\n" + progress(1)}, {"id: c\nretry: 50\n" + progress(2)},
			{"id: d\n" + progress(3)},
			{"id: e\n" + progress(4)}, {"id: f\n" + progress(5)}, {"id: g\n" + progress(6)},
			{"id: h\n" + progress(7)}, {done},
		}, strings.Split("abcdefgh", ""),
			[]time.Duration{30 * time.Millisecond, 30 * time.Millisecond, 50 * time.Millisecond,
				50 * time.Millisecond}, 7},
		{"with nothing new in between", [][]string{{"id: p\nretry: 1\ndata: "}, {}, {}, {done}},
			[]string{"p", "p", "p"}, nil, 0},
	} {
		test := test
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.inPieces("tools/call long", test.pieces...)
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.call("tools/call", `{"name":"long"}`)
			if got := len(p.received("notifications/progress", test.moves)); got != test.moves {
				t.Errorf("got %d notifications, want %d", got, test.moves)
			}
			if got := server.count("tools/call long"); got != 1 {
				t.Errorf("got %d calls, want 1", got)
			}
			resumed := slices.DeleteFunc(server.requests("GET"),
				func(r *fakeRequest) bool { return r.Header.Get("Last-Event-Id") == "" })
			var from []string
			before := server.requests("tools/call long")[0].at
			for i, r := range resumed {
				from = append(from, r.Header.Get("Last-Event-Id"))
				if i < len(test.waits) && r.at.Sub(before) < test.waits[i] {
					t.Errorf("resumption %d: got it after %v, want at least %v", i, r.at.Sub(before),
						test.waits[i])
				}
				before = r.at
			}
			if !slices.Equal(from, test.from) {
				t.Errorf("Last-Event-ID: got %q, want %q", from, test.from)
			}
		})
	}
}

// What cannot be resumed is answered at once.
func TestStreamIsNotResumed(t *testing.T) {
	for name, test := range map[string]struct {
		piece string
		get   int // status of the resumption
		gets  int
	}{
		"no event id": {`data: {"jsonrpc":"2.0","method":"notifications/message"}`, 500, 0},
		"refused":     {"id: p\nretry: 1\ndata: ", http.StatusMethodNotAllowed, 1},
		"forgotten":   {"id: p\nretry: 1\ndata: ", http.StatusNotFound, 1},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.reply("tools/call long", func(w http.ResponseWriter, _ *fakeRequest) bool {
				startEvents(w).send(test.piece)
				return true
			})
			server.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
				if r.Header.Get("Last-Event-Id") == "" {
					return false
				}
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(test.get)
				return true
			})
			p := startProxy(t, "-u", server.url)
			p.initialize()
			id := p.request("tools/call", `{"name":"long"}`)
			if got := p.failure(id); !strings.Contains(got.Message, "before the answer") {
				t.Errorf("got %q", got.Message)
			}
			resumed := slices.DeleteFunc(server.requests("GET"),
				func(r *fakeRequest) bool { return r.Header.Get("Last-Event-Id") == "" })
			if len(resumed) != test.gets || server.count("tools/call long") != 1 {
				t.Errorf("got %d resumptions and %d calls, want %d and 1", len(resumed),
					server.count("tools/call long"), test.gets)
			}
			p.echo("the next one")
		})
	}
}

// After so many resumptions in a row that bring nothing it is over.
func TestResumingIsBounded(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.inPieces("tools/call long", []string{"id: p\nretry: 1\ndata: "}) // and never more
	p := startProxy(t, "-u", server.url)
	p.initialize()
	server.await("GET", 1)
	p.failure(p.request("tools/call", `{"name":"long"}`))
	if got := server.count("GET") - 1; got != maxResumes {
		t.Errorf("got %d resumptions, want %d", got, maxResumes)
	}
}

// The listening stream is opened again from where it was cut, and nothing comes twice or is lost.
func TestListeningStreamIsReopened(t *testing.T) {
	for name, cut := range map[string]func(){"ended": func() {},
		"cut": func() { panic(http.ErrAbortHandler) }} {
		cut := cut
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const streams = 5
			server := startMCP(t)
			server.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
				next := 0
				fmt.Sscanf(r.Header.Get("Last-Event-Id"), "g%d", &next)
				stream := startEvents(w)
				stream.send(fmt.Sprintf("id: g%d\nretry: 20\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"n\":%d}}", next+1, next))
				if next+1 == streams {
					<-r.Context().Done()
				}
				cut()
				return true
			})
			p := startProxy(t, "-u", server.url)
			p.initialize()
			for i, m := range p.received("notifications/message", streams) {
				if want := fmt.Sprintf(`{"n":%d}`, i); string(m.Params) != want {
					t.Errorf("got %s, want %s", m.Params, want)
				}
			}
			gets := server.requests("GET")
			for i := 1; i < len(gets); i++ {
				if waited := gets[i].at.Sub(gets[i-1].at); waited < 20*time.Millisecond {
					t.Errorf("GET %d: came after %v, want the server's retry, 20ms", i, waited)
				}
				if gets[i].Header.Get("Mcp-Session-Id") != gets[0].Header.Get("Mcp-Session-Id") {
					t.Errorf("GET %d: another session", i)
				}
			}
		})
	}
}

// A server whose streams end before they bring anything is asked less and less often.
func TestListeningBacksOff(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.on("GET", func(w http.ResponseWriter, _ *fakeRequest) bool {
		if server.count("GET") == 2 {
			w.WriteHeader(http.StatusBadGateway) // no reason to give up
			return true
		}
		stream := startEvents(w)
		if server.count("GET") == 1 {
			stream.send("retry: 10\ndata: ")
		}
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	server.await("GET", 5)
	gets := server.requests("GET")
	at := cursor{retry: 10 * time.Millisecond}
	for i := 1; i < len(gets); i++ {
		if waited := gets[i].at.Sub(gets[i-1].at); waited < at.wait(i) {
			t.Errorf("GET %d: came after %v, want %v at least", i, waited, at.wait(i))
		}
	}
}

// A gateway that holds the request for a while before it refuses it has opened no stream.
func TestListeningBehindAGateway(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	var refused []time.Time
	server.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
		switch server.count("GET") {
		case 1:
			startEvents(w)
			return true
		case 2: // longer than a stream that was worth opening
			select {
			case <-time.After(steadyStream + 100*time.Millisecond):
			case <-r.Context().Done():
			}
		case 4:
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		refused = append(refused, time.Now())
		w.WriteHeader(http.StatusGatewayTimeout)
		return true
	})
	listening(t, server)()
	at := cursor{}
	for i, asked := range server.requests("GET")[2:] {
		if waited := asked.at.Sub(refused[i]); waited < at.wait(i+2) {
			t.Errorf("it is asked again after %v, want %v at least", waited, at.wait(i+2))
		}
	}
}

func TestCursorWait(t *testing.T) {
	for _, test := range []struct {
		retry time.Duration
		n     int
		want  time.Duration
	}{
		{firstReconnect, 1, firstReconnect},
		{firstReconnect, 2, 2 * firstReconnect},
		{500 * time.Millisecond, 1, 500 * time.Millisecond},
		{500 * time.Millisecond, 2, time.Second},
		{time.Hour, 1, longestRetry},
		{time.Hour, 9, longestRetry},
	} {
		at := cursor{retry: test.retry}
		if got := at.wait(test.n); got != test.want {
			t.Errorf("retry %v, attempt %d: got %v, want %v", test.retry, test.n, got, test.want)
		}
	}
	for _, retry := range []time.Duration{firstReconnect, 0, time.Millisecond, time.Minute} {
		at := cursor{retry: retry}
		if got := at.wait(1); got < shortestRetry {
			t.Errorf("retry %v: got %v: a server would be asked without pause", retry, got)
		}
		for n := 1; n < 100; n++ {
			if this, next := at.wait(n), at.wait(n+1); next < this || next > 2*maxReconnect+time.Second {
				t.Errorf("retry %v: got %v after %v", retry, next, this)
			}
		}
	}
}

// A stream that lived for a while is worth opening again soon, and so is one that brought
// something.
func TestCursorPause(t *testing.T) {
	at := cursor{retry: firstReconnect}
	for i, test := range []struct {
		moved bool
		lived time.Duration
		want  int // attempt in a row that brought nothing
	}{
		{false, 0, 1}, {false, 0, 2}, {false, time.Second, 3}, {false, steadyStream, 1}, {false, 0, 2},
		{true, 0, 1}, {false, 0, 2}, {false, 0, 3}, {true, time.Hour, 1},
	} {
		at.moved, at.lived = test.moved, test.lived
		if got, want := at.pause(), at.wait(test.want); got != want || at.vain != test.want {
			t.Errorf("step %d: got %v and %d in a row, want %v and %d", i, got, at.vain, want, test.want)
		}
	}
}

// listening returns a function that listens as the program does, and returns when it gives up.
func listening(t *testing.T, server *fakeMCP) func() {
	p := newTestProxy(t, server.url)
	return func() {
		ctx, cancel := patience()
		defer cancel()
		p.session.keepListening(ctx, sessionState{}, cursor{}) // whose pauses are short
		if ctx.Err() != nil {
			t.Error("it is still listening")
		}
	}
}

// newTestProxy is a proxy inside the test's own process, its stdout discarded.
func newTestProxy(t *testing.T, server string) *proxy {
	t.Helper()
	cfg, err := parseArgs([]string{"-u", server, "--no-trace", "--ca-cert", testShared().pki.file},
		func(string) string { return "" })
	fatal(t, err)
	a, err := newApp(cfg, nil)
	fatal(t, err)
	_, stop := context.WithCancelCause(context.Background())
	return newProxy(cfg, a.client, nil, &lineWriter{w: io.Discard, stop: stop}, nil, nil)
}

// A server that says that it has no stream is asked once, one that refuses it
// three times, and one that has had one for as long as it takes.
func TestListeningIsGivenUp(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		media  string
		gets   int
	}{
		"405": {http.StatusMethodNotAllowed, "", 1}, "501": {http.StatusNotImplemented, "", 1},
		"204":  {http.StatusNoContent, "", 1},
		"HTML": {http.StatusOK, "text/html; charset=utf-8", 1},
		"JSON": {http.StatusOK, "application/json", 1},
		"404":  {http.StatusNotFound, "text/plain", 3}, "406": {http.StatusNotAcceptable, "", 3},
		"400":      {http.StatusBadRequest, "application/json", 3},
		"redirect": {http.StatusFound, "", 3}, "504": {http.StatusGatewayTimeout, "", 3},
		"401": {http.StatusUnauthorized, "", 3},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.on("GET", func(w http.ResponseWriter, _ *fakeRequest) bool {
				w.Header().Set("Content-Type", test.media)
				w.WriteHeader(test.status)
				return true
			})
			listening(t, server)()
			if got := server.count("GET"); got != test.gets {
				t.Errorf("got %d GET, want %d", got, test.gets)
			}
		})
	}
	t.Run("after a stream", func(t *testing.T) {
		t.Parallel()
		server := startMCP(t)
		server.on("GET", func(w http.ResponseWriter, _ *fakeRequest) bool {
			switch n := server.count("GET"); {
			case n == 1:
				startEvents(w)
			case n < 6:
				w.WriteHeader(http.StatusForbidden)
			default:
				w.WriteHeader(http.StatusMethodNotAllowed)
			}
			return true
		})
		listening(t, server)()
		if got := server.count("GET"); got != 6 {
			t.Errorf("got %d GET, want 6", got)
		}
	})
}

// A session that the server forgot is opened again with the client's own
// words, once for all the calls that meet its end, and the client need not know.
func TestForgottenSession(t *testing.T) {
	t.Parallel()
	const calls = 20
	server := startMCP(t)
	server.listens = true
	p := startProxy(t, "-u", server.url)
	p.initialize()
	first := server.await("GET", 1).Header.Get("Mcp-Session-Id")
	release := server.hold("tools/call echo")
	var ids []string
	for i := 0; i < calls; i++ {
		ids = append(ids, p.request("tools/call", echoParams("again")))
	}
	server.await("tools/call echo", calls)
	server.endSessions()
	release()
	for _, id := range ids {
		p.echoed(id, "again")
	}
	hello := server.requests("initialize")
	if len(hello) != 2 || server.count("notifications/initialized") != 2 {
		t.Fatalf("got %q, want one more initialize and one more notifications/initialized",
			server.labels())
	}
	own := hello[1].msg
	if got := strings.Replace(own.line, `"id":`+string(own.ID), `"id":1`,
		1); got != hello[0].msg.line {
		t.Errorf("got  %s\nwant %s", got, hello[0].msg.line)
	}
	second := server.await("GET", 2).Header.Get("Mcp-Session-Id")
	if second == first || second == "" {
		t.Errorf("the stream is listened to in session %q, want the new one", second)
	}
	server.push(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
	p.received("notifications/tools/list_changed", 1)
	p.closeStdin()
	p.wait()
	if got := server.await("DELETE", 1).Header.Get("Mcp-Session-Id"); got != second {
		t.Errorf("DELETE: got session %q, want the new one", got)
	}
}

// lostForms are the ways in which servers say that they do not know a session.
func lostForms() map[string]fakeAnswer {
	const json = "application/json"
	rpc := func(status, code int, text string) fakeAnswer {
		return says(status, json,
			fmt.Sprintf(`{"jsonrpc":"2.0","id":<id>,"error":{"code":%d,"message":%q}}`, code, text))
	}
	refusing := func(challenge string) fakeAnswer {
		return func(w http.ResponseWriter, r *fakeRequest) bool {
			w.Header().Set("WWW-Authenticate", challenge)
			return says(401, json, `{"error":"invalid_token"}`)(w, r)
		}
	}
	return map[string]fakeAnswer{
		"404":                      says(404, "text/plain", "404 page not found"),
		"404 with a code":          rpc(404, -32001, "Session not found"),
		"404 as an unknown method": rpc(404, -32601, "Session not found"),
		"410":                      says(410, "text/html", "<p>Gone"),
		"400 text":                 says(400, "text/plain", "Invalid session ID"),
		"400 empty":                says(400, "", ""),
		"400 -32000":               rpc(400, -32000, "Bad Request: No valid session ID provided"),
		"400 -32600":               rpc(400, -32600, "Session not found"),
		"400 -32001":               rpc(400, -32001, "Bad Request: Server not initialized"),
		"400 -32602":               rpc(400, -32602, "Missing sessionId"),
		"400 header":               rpc(400, -32000, "Bad Request: Mcp-Session-Id header is required"),
		"400 with an event stream": says(400, "text/event-stream",
			"event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600,\"message\":\"Session has been terminated\"}}\n\n"),
		"400 with an endless stream": neverEnding(400, "text/event-stream",
			": hello\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"Unknown session\"}}\n\n"),
		"422": says(422, "text/plain",
			"Unexpected message, expect initialize request"),
		"401 without a challenge": says(401, "text/plain", "Unauthorized: Session not found"),
		"401 with a challenge":    refusing(`Bearer error="invalid_token"`),
		"500":                     rpc(500, -32603, "Invalid or missing session"),
		"200":                     rpc(200, -32000, "Session expired"),
		"200 before initialized": rpc(200, -32002,
			"Received request before initialization was complete"),
		"200 uninitialized": rpc(200, -32603, "Server has not been initialized yet"),
		"200 in an event stream": says(200, "text/event-stream",
			"data: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"error\":{\"code\":-32000,\"message\":\"session not found\"}}\n\n"),
	}
}

// forgets makes the server answer everything that is said in the sessions so far
// in this way.
func (s *fakeMCP) forgets(answer fakeAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := s.live
	s.live = map[string]bool{}
	s.hooks["*"] = append(s.hooks["*"], func(w http.ResponseWriter, r *fakeRequest) bool {
		return lost[r.Header.Get("Mcp-Session-Id")] && answer(w, r)
	})
}

func TestLostSession(t *testing.T) {
	for name, answer := range lostForms() {
		answer := answer
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.anyToken = true
			p := startProxy(t, "-u", server.url, "-H", "Authorization: Bearer of-the-user")
			p.initialize()
			p.echo("before")
			server.forgets(answer)
			p.echo("after")
			if server.count("initialize") != 2 || server.count("notifications/initialized") != 2 ||
				server.count("tools/call echo") != 3 {
				t.Errorf("got %q, want one more session and the call again", server.labels())
			}
		})
	}
}

// A server that takes the initialized of another session and does not answer it holds nothing up
// for good.
func TestLostSessionStuckInBetween(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("before")
	server.hold("notifications/initialized")
	server.endSessions()
	p.echo("after")
}

// A server that initializes nobody any more is asked once for each message, and
// its own word reaches the host.
func TestLostSessionForGood(t *testing.T) {
	for name, answer := range lostForms() {
		answer := answer
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.anyToken = true
			p := startProxy(t, "-u", server.url, "-H", "Authorization: Bearer of-the-user")
			p.initialize()
			p.echo("before")
			server.on("initialize", says(503, "", ""))
			server.forgets(answer)
			for i := 1; i <= 3; i++ {
				got := p.failure(p.request("tools/call", echoParams("x")))
				if strings.Contains(got.Message, "answered 503") || server.count("initialize") != 1+i ||
					server.count("tools/call echo") != 1+i {
					t.Errorf("got %q and %q, want the refusal of the call", got.Message, server.labels())
				}
			}
		})
	}
}

// What a live session is told is relayed, and no request is sent twice.
func TestSessionIsNotLost(t *testing.T) {
	const json = "application/json"
	rpc := func(status, code int, text string) fakeAnswer {
		return says(status, json,
			fmt.Sprintf(`{"jsonrpc":"2.0","id":<id>,"error":{"code":%d,"message":%q}}`, code, text))
	}
	for name, test := range map[string]struct {
		tool   string
		answer fakeAnswer
	}{
		"unknown tool":           {"odd", rpc(200, -32602, "Unknown tool: odd")},
		"unknown tool as 400":    {"odd", rpc(400, -32602, "Unknown tool: odd")},
		"session as a parameter": {"odd", rpc(200, -32602, "Invalid params: session not found")},
		"session of the tool":    {"session", rpc(200, -32000, "No such session: 7")},
		"failed to initialize":   {"odd", rpc(200, -32603, "Failed to initialize the database")},
		"internal error":         {"odd", rpc(500, -32603, "Internal error")},
		"unknown method":         {"odd", rpc(404, -32601, "Method not found")},
		"forbidden":              {"odd", says(403, "text/plain", "no")},
		"in the midst of the work": {"odd",
			says(200, "text/event-stream",
				"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"error\":{\"code\":-32000,\"message\":\"Session expired\"}}\n\n")},
		"the tool says it": {"odd",
			says(200, json, `{"jsonrpc":"2.0","id":<id>,"result":{"isError":true,"content":[{"type":"text","text":"Session not found"}]}}`)},
		"an answer without an end": {"odd",
			neverEnding(400, json, `{"jsonrpc":"2.0","id":<id>,"error":{"code":-1,"message":"x"}}`)},
		"an unprocessed 400 of old": {"odd", rpc(400, -32600, "Invalid request")},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.reply("tools/call "+test.tool, test.answer)
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.echo("before")
			p.answer(p.request("tools/call", fmt.Sprintf(`{"name":%q}`, test.tool)))
			p.echo("after")
			if server.count("initialize") != 1 || server.count("tools/call "+test.tool) != 1 {
				t.Errorf("got %q, want one session and one call", server.labels())
			}
		})
	}
}

// A good token that is refused is a lost session, and no reason for a browser;
// a real 401 is authorization's.
func TestLostSessionBehindAuthorization(t *testing.T) {
	for name, test := range map[string]struct {
		refreshes bool // there is a refresh token
		forgets   bool
		sessions  int
		tokens    int // refreshes
	}{
		"lost, with a refresh token":    {true, true, 2, 1},
		"lost, without a refresh token": {false, true, 2, 0},
		"expired":                       {true, false, 1, 1},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			if !test.refreshes {
				auth.answers = func(_ http.ResponseWriter, _ *fakeRequest, reply oauthReply) bool {
					delete(reply.doc, "refresh_token")
					return false
				}
			}
			p := newUser(t, auth, server).start("-u", server.url)
			p.initialize()
			p.echo("before")
			if test.forgets {
				server.forgets(func(w http.ResponseWriter, r *fakeRequest) bool {
					w.Header().Set("WWW-Authenticate",
						bearerChallenge(server.base+server.prmPath, "invalid_token", ""))
					return says(401, "", "")(w, r)
				})
			} else {
				auth.expireAccess()
			}
			p.echo("after")
			if server.count("initialize") != 1+test.sessions || // the first is 401
				auth.count("token refresh_token") != test.tokens || auth.count("authorize") != 1 {
				t.Errorf("got %q and %q", server.labels(), auth.labels())
			}
		})
	}
}

// The stream that was listened to is refused as of an unknown session: another
// is opened before any message needs it.
func TestLostSessionOfTheListener(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.listens = true
	server.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
		if server.count("GET") == 1 {
			startEvents(w).send("retry: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}")
			server.endSessions()
			return true
		}
		return false
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	server.await("GET", 3)
	server.push(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
	p.received("notifications/tools/list_changed", 1)
	if got := server.count("initialize"); got != 2 {
		t.Errorf("got %d initialize, want 2", got)
	}
	p.echo("after")
}

// A second initialize ends the first session.
func TestSecondInitialize(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.listens = true
	p := startProxy(t, "-u", server.url)
	p.initialize()
	first := server.await("GET", 1).Header.Get("Mcp-Session-Id")
	p.initialize()
	if got := server.await("DELETE", 1).Header.Get("Mcp-Session-Id"); got != first {
		t.Errorf("DELETE: got session %q, want the first", got)
	}
	if second := server.await("GET", 2).Header.Get("Mcp-Session-Id"); second == first {
		t.Error("the stream is listened to in the first session")
	}
	p.echo("in the second")
}

func TestForgottenSessionMeetsNotification(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("before")
	server.endSessions()
	p.notify("notifications/roots/list_changed", "")
	p.echo("after")
	if got := server.count("initialize"); got != 2 ||
		server.count("notifications/roots/list_changed") != 2 {
		t.Errorf("got %q, want initialize and the notification again", server.labels())
	}
}

// 404 is also what a method that the server does not know may be answered with.
func TestUnknownMethodIsNoEndOfSession(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	unknown := func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, r.msg.failure(-32601, "Method not found"))
		return true
	}
	server.reply("some/method", unknown)
	server.reply("notifications/some", unknown)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	if got := p.failure(p.request("some/method", "")); got.Code != -32601 {
		t.Errorf("got error %d", got.Code)
	}
	p.notify("notifications/some", "")
	p.echo("the session lives")
	if got := server.count("initialize"); got != 1 {
		t.Errorf("got %d initialize, want 1", got)
	}
}

// Where no other session is to be had every message is answered, and the
// server is asked once for all that waited, then again for the next message.
func TestForgottenSessionCannotBeRenewed(t *testing.T) {
	t.Parallel()
	const calls = 10
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("before")
	release := server.hold("tools/call echo")
	var ids []string
	for i := 0; i < calls; i++ {
		ids = append(ids, p.request("tools/call", echoParams("again")))
	}
	server.await("tools/call echo", 1+calls)
	server.endSessions()
	openGate := server.hold("initialize")
	refuse := true
	server.on("initialize", func(w http.ResponseWriter, _ *fakeRequest) bool {
		if refuse {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return refuse
	})
	release()
	server.await("initialize", 2)
	eventually(t, "all calls wait for the new session",
		func() bool { return server.answered("tools/call echo") == 1+calls })
	openGate()
	for _, id := range ids {
		if got := p.failure(id); got.Message != "Not Found" { // as the server refused the call
			t.Errorf("got %q", got.Message)
		}
	}
	if got := server.count("initialize"); got != 2 {
		t.Errorf("got %d initialize, want 2", got)
	}
	server.change(func() { refuse = false })
	p.echo("at last")
}

// A server that forgets sessions as soon as they are opened is not asked for ever.
func TestSessionForgottenAtOnce(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("before")
	server.reply("tools/call echo", func(w http.ResponseWriter, _ *fakeRequest) bool {
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	if got := p.failure(p.request("tools/call", echoParams("x"))); !strings.Contains(got.Message,
		"404") {
		t.Errorf("got %q", got.Message)
	}
	if got := server.count("initialize"); got != 2 {
		t.Errorf("got %d initialize, want 2", got)
	}
}

func TestCancelledIsForwarded(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	closed := make(chan struct{})
	server.reply("tools/call ignores", func(_ http.ResponseWriter, r *fakeRequest) bool {
		<-r.Context().Done()
		close(closed)
		return true
	})
	server.reply("tools/call answers", func(w http.ResponseWriter, r *fakeRequest) bool {
		server.await("notifications/cancelled", 1)
		io.WriteString(w, r.msg.result(`{"content":[]}`))
		return true
	})
	server.reply("tools/call waits", func(w http.ResponseWriter, r *fakeRequest) bool {
		server.await("notifications/cancelled", 4)
		io.WriteString(w, r.msg.result(`{"content":[]}`))
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	for i, name := range []string{"answers", "ignores"} {
		id := p.request("tools/call", fmt.Sprintf(`{"name":%q}`, name))
		server.await("tools/call "+name, 1)
		p.unexpect(id) // whatever the server says
		p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s,"reason":"enough"}`, id))
		want := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s,"reason":"enough"}}`, id)
		if got := string(server.await("notifications/cancelled", i+1).body); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	p.notify("notifications/cancelled", `{"requestId":"long ago"}`)
	server.await("notifications/cancelled", 3)
	open := p.request("tools/call", `{"name":"waits"}`)
	p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":"%s"}`, open)) // another than the number
	server.await("notifications/cancelled", 4)
	p.result(open)
	p.echo("meanwhile")
	select { // after cancelGrace: the server may still want to say something
	case <-closed:
	case <-time.After(testPatience):
		t.Error("the POST of the cancelled call stays open")
	}
}

// Nobody asked for the stream of the server's own messages: it opens no browser.
func TestListeningOpensNoBrowser(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.answers = func(_ http.ResponseWriter, _ *fakeRequest, reply oauthReply) bool {
		delete(reply.doc, "refresh_token")
		return false
	}
	server.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("WWW-Authenticate",
			bearerChallenge(server.base+server.prmPath, "invalid_token", ""))
		return says(401, "", "")(w, r)
	})
	p := newUser(t, auth, server).start("-u", server.url)
	p.initialize()
	server.await("GET", 3) // and then it is given up
	p.echo("meanwhile")
	if got := auth.count("authorize"); got != 1 {
		t.Errorf("got %d sign-ins, want 1", got)
	}
}

// The end of the session is told, and a server that does not answer is not waited for.
func TestSessionIsEnded(t *testing.T) {
	for name, end := range endings() {
		for _, stuck := range []bool{false, true} {
			end, stuck := end, stuck
			t.Run(fmt.Sprintf("%s stuck %v", name, stuck), func(t *testing.T) {
				t.Parallel()
				server := startMCP(t)
				server.listens = true
				if stuck {
					server.hold("DELETE")
				}
				p := startProxy(t, "-u", server.url)
				p.initialize()
				id := server.await("GET", 1).Header.Get("Mcp-Session-Id")
				began := time.Now()
				end(p)
				p.wait()
				if took := time.Since(began); stuck && (took < endTime || took >= drainTime) {
					t.Errorf("the end took %v, want %v where the server is stuck", took, endTime)
				}
				deletes := server.requests("DELETE")
				if len(deletes) != 1 || deletes[0].Header.Get("Mcp-Session-Id") != id ||
					deletes[0].Header.Get("Mcp-Protocol-Version") != "2025-11-25" {
					t.Errorf("got %q, want one DELETE of the session", server.labels())
				}
			})
		}
	}
}

// A host may go on talking while the program ends.
func TestMessagesDuringTheEnd(t *testing.T) {
	for name, s := range stopSignals() {
		s := s
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.echo("x")
			p.change(func() { p.killed = true }) // answers to what came too late may be missing
			p.signal(s)
			for ended := false; !ended; {
				_, err := io.WriteString(p.stdin,
					strings.Repeat(`{"jsonrpc":"2.0","method":"notifications/x"}`+"\n", 100))
				ended = err != nil
			}
			p.wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.exit != 0 {
				t.Errorf("exit code: got %d, want 0", p.exit)
			}
		})
	}
}

// Without a session there is nothing to end.
func TestNoSessionNoDelete(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.sessions = false
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("x")
	p.closeStdin()
	p.wait()
	if got := server.count("DELETE"); got != 0 {
		t.Errorf("got %d DELETE, want none", got)
	}
}

// What a server could smuggle into a header of ours is not sent back.
func TestSessionStateIsChecked(t *testing.T) {
	for id, want := range map[string]string{
		"abc": "abc", "!~": "!~", "": "", "a b": "", "a\tb": "", "é": "", "a\x7f": "",
		strings.Repeat("x", maxSessionID):   strings.Repeat("x", maxSessionID),
		strings.Repeat("x", maxSessionID+1): "",
	} {
		if got := visibleASCII(id, maxSessionID); got != want {
			t.Errorf("session id %.20q: got %.20q, want %.20q", id, got, want)
		}
	}
	for version, want := range map[string]string{"2025-11-25": "2025-11-25", "DRAFT": "DRAFT", "": "",
		"a b": "", "a\r\nb: c": "", strings.Repeat("1", 65): ""} {
		if got := visibleASCII(version, maxVersion); got != want {
			t.Errorf("version %q: got %q, want %q", version, got, want)
		}
	}
}

// Session ids, event ids and versions come back as headers.
func FuzzSessionHeaders(f *testing.F) {
	for _, value := range []string{"1868a90c-0b2d", "2025-11-25", "a\r\nEvil: 1", "", " ", "é", "\x7f", "a\x00", strings.Repeat("x", 5000), "\u0085"} {
		f.Add(value, value, value)
	}
	f.Fuzz(func(t *testing.T, id, version, eventID string) {
		h := http.Header{}
		sessionState{id: visibleASCII(id, maxSessionID), version: visibleASCII(version, maxVersion)}.set(h)
		checkHeader(t, h)
		for name, want := range map[string]string{"Mcp-Session-Id": id, "Mcp-Protocol-Version": version} {
			if got := h.Get(name); got != "" && got != want {
				t.Fatalf("got %s %q, want %q", name, got, want)
			}
		}
		var wire bytes.Buffer
		var at cursor
		at.move(&event{id: eventID, hasID: true})
		fatal(t, http.Header{"Last-Event-Id": {at.id}}.Write(&wire))
		if line := strings.TrimSuffix(wire.String(), "\r\n"); strings.ContainsAny(line, "\r\n\x00") {
			t.Fatalf("%q became %q", eventID, wire.String())
		}
	})
}

// oldBody ends when it has been open for a while.
type oldBody struct{ opened time.Time }

func (oldBody) Close() error { return nil }

func (b *oldBody) Read([]byte) (int, error) {
	for b.opened = time.Now(); time.Since(b.opened) < time.Millisecond; {
		runtime.Gosched()
	}
	return 0, io.EOF
}

// How long a stream lived decides how soon it is opened again.
func TestStreamLived(t *testing.T) {
	p := newTestProxy(t, "https://a.test/mcp")
	var at cursor
	err := p.session.events(context.Background(), nil, &oldBody{}, &at)
	if at.lived < time.Millisecond || !errors.Is(err, errStreamEnded) {
		t.Errorf("got %v and error %v, want a millisecond at least and its end", at.lived, err)
	}
}
