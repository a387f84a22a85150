package main

// The story of the messages: what a host says, what the server answers, and
// what happens when things go wrong or come to an end. Told against the real
// program in its own process.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		for _, events := range []bool{false, true} {
			protocol, events := protocol, events
			t.Run(fmt.Sprintf("%s events %v", protocol, events), func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.events = events
				p := startProxy(t, "-u", server.url)
				p.initialize()
				p.call("tools/call", `{"name":"echo","arguments":{"text":"x"},"_meta":{"progressToken":"t"}}`)
				if progress := slices.IndexFunc(p.lines,
					func(line string) bool {
						return strings.Contains(line,
							`"progressToken":"t"`)
					}); events != (progress == 1) {
					t.Errorf("got %q, want progress before the result: %v", p.lines, events)
				}
				if got := server.requests("initialize")[0].Proto; (got == "HTTP/2.0") != (protocol == "h2") {
					t.Errorf("got %s, want %s", got, protocol)
				}
			})
		}
	}
}

func TestSlowCallBesideFastOnes(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	release := server.hold("tools/call slow")
	p := startProxy(t, "-u", server.url)
	p.initialize()
	slow := p.request("tools/call", `{"name":"slow","arguments":{"text":"slow"}}`)
	server.await("tools/call slow", 1)
	var fast []string
	for i := 0; i < 50; i++ {
		fast = append(fast, p.request("tools/call", echoParams("fast")))
	}
	for _, id := range fast {
		p.echoed(id, "fast")
	}
	release()
	p.echoed(slow, "slow")
}

// Whatever is wrong on the other side, the request is answered and the next one is tried.
func TestErrors(t *testing.T) {
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	answering := func(status int, media, body string) string {
		server := startMCP(t)
		server.on("*", func(w http.ResponseWriter, _ *fakeRequest) bool {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(status)
			io.WriteString(w, body)
			return true
		})
		return server.url
	}
	impossible := strings.Repeat("nonexistent", 6) + ".invalid" // too long for DNS: nobody is asked
	const html = "<!DOCTYPE html><title>Oops</title>"
	for _, test := range []struct {
		name, url, says string
		status          int
	}{
		{"server down", fmt.Sprintf("https://127.0.0.1:%d/mcp", freePort(t)), "127.0.0.1", 0},
		{"no such host", "https://" + impossible + "/mcp", impossible, 0},
		{"not trusted", untrusted.URL + "/mcp", "127.0.0.1", 0},
		{"HTML 500", answering(500, "text/html", html), "500", 500},
		{"HTML 200", answering(200, "text/html; charset=utf-8", html), "127.0.0.1", 200},
		{"403", answering(403, "text/plain", "no"), "403", 403},
		{"empty", answering(200, "application/json", ""), "127.0.0.1", 200},
		{"no stream", answering(200, "text/event-stream", ": nothing\n\n"), "127.0.0.1", 0},
		{"accepted", answering(202, "", ""), "202", 202},
		{"half", answering(200, "application/json", `{"jsonrpc":"2.0","id":1,"result":{`), "127.0.0.1",
			0},
		{"not JSON-RPC", answering(200, "application/json", `{"hello":"world"}`), "127.0.0.1", 0},
	} {
		test := test
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, "-u", test.url)
			for i := 0; i < 2; i++ {
				got := p.failure(p.request("initialize", initializeParams))
				if got.Code != -32000 || !strings.Contains(got.Message, test.says) ||
					strings.Contains(got.Message+string(got.Data), "Oops") {
					t.Errorf("got error %d %q %s, want -32000 naming %q", got.Code, got.Message, got.Data,
						test.says)
				}
				var data struct{ HTTPStatus int }
				if json.Unmarshal(got.Data, &data); test.status >= 400 && data.HTTPStatus != test.status {
					t.Errorf("got data %s, want httpStatus %d", got.Data, test.status)
				}
			}
		})
	}
}

// A server refuses with a JSON-RPC error in a 4xx: the client must see it whole.
func TestErrorOfTheServerIsRelayed(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"jsonrpc":"2.0","id":null,"error":{"code":-32022,"message":"Unsupported","data":{"supported":["x"]}}}`)
		return true
	})
	p := startProxy(t, "-u", server.url)
	got := p.failure(p.request("initialize", initializeParams))
	if got.Code != -32022 || got.Message != "Unsupported" ||
		string(got.Data) != `{"supported":["x"]}` {
		t.Errorf("got %+v", got)
	}
}

// What was said first arrives first: notifications among themselves and before requests.
func TestNotificationsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	var want, got []string
	for i := 0; i < 100; i++ {
		p.notify(fmt.Sprintf("notifications/%d", i), "")
		want = append(want, fmt.Sprintf("notifications/%d", i))
		if i%10 == 9 {
			p.request("tools/call", fmt.Sprintf(`{"name":"after%d"}`, i))
		}
	}
	server.await("tools/call after99", 1)
	for _, label := range server.labels() {
		if name := strings.TrimPrefix(label, "notifications/"); name != label && name != "initialized" {
			got = append(got, label)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := 9; i < 100; i += 10 {
		server.await(fmt.Sprintf("tools/call after%d", i), 1)
		labels := server.labels()
		before := slices.Index(labels, fmt.Sprintf("notifications/%d", i))
		if after := slices.Index(labels, fmt.Sprintf("tools/call after%d", i)); after < before {
			t.Errorf("the request after notification %d overtook it", i)
		}
	}
}

// A host may say more than the server takes: what there is no room for waits on stdin, for a while.
func TestRoomForNotifications(t *testing.T) {
	p := newTestProxy(t, "https://127.0.0.1:1/mcp")
	ctx, stop := context.WithCancel(context.Background())
	p.delivered = make(chan struct{})
	large := &message{method: "notifications/x", raw: make([]byte, 1<<20)}
	for i := 0; i < maxUntaken>>20; i++ {
		if !p.hasRoom(ctx, large) {
			t.Fatalf("there is no room for %d MiB", i+1)
		}
	}
	for _, m := range []*message{
		{method: "ping", id: []byte("1")}, {response: true, id: []byte("1")}, {method: "notifications/cancelled"},
	} {
		if !p.hasRoom(ctx, m) {
			t.Errorf("there is no room for %s", nameOf(m))
		}
		p.makeRoom(m)
	}
	room := make(chan bool)
	for i := 0; i < 3; i++ { // a slow server is no stuck one: each that it takes makes room for another
		go func() { room <- p.hasRoom(ctx, large) }()
		select {
		case <-room:
			t.Error("it did not wait")
		case <-time.After(100 * time.Millisecond):
		}
		p.makeRoom(large)
		if !<-room {
			t.Error("it was lost, although the server had taken another")
		}
	}
	stop() // as floodWait does
	for i := 0; i < 2; i++ {
		if p.hasRoom(ctx, large) || p.delivered != nil {
			t.Error("it is kept, or holds up what follows")
		}
	}
	p.makeRoom(large)
	if !p.hasRoom(context.Background(), large) {
		t.Error("there is no room again")
	}
	for p.untaken.Load() > 0 { // it was taken whole, and another as large comes
		p.makeRoom(large)
	}
	for p.untaken.Load() <= maxUntaken {
		p.hasRoom(ctx, large)
	}
	go func() { room <- p.hasRoom(context.Background(), large) }()
	select {
	case <-room:
		t.Fatal("the next flood is lost without a wait")
	case <-time.After(100 * time.Millisecond):
	}
	p.makeRoom(large)
	<-room
}

// A server that takes none does not keep the host's answers, pings and cancellations behind them.
func TestFloodBeforeStuckServer(t *testing.T) {
	t.Parallel()
	const most = maxUntaken >> 20
	server := startMCP(t)
	release := make(chan struct{})
	taken := 0
	server.on("*", func(w http.ResponseWriter, r *fakeRequest) bool {
		if number := strings.TrimPrefix(r.msg.Method, "notifications/"); number != "" && isDigit(number[0]) {
			server.change(func() { taken++ })
			<-release
		}
		return false
	})
	server.hold("tools/call slow")
	p := startProxy(t, "-u", server.url)
	p.initialize()
	slow := p.request("tools/call", `{"name":"slow"}`)
	server.await("tools/call slow", 1)
	for i := 0; i < most+6; i++ {
		p.notify(fmt.Sprintf("notifications/%d", i), `{"x":"`+strings.Repeat("x", 1<<20)+`"}`)
	}
	p.unexpect(slow)
	p.notify("notifications/cancelled", `{"requestId":`+slow+`}`)
	p.send(`{"jsonrpc":"2.0","id":"s1","result":{}}`)
	p.call("ping", "")
	server.await("notifications/cancelled", 1)
	server.await("response", 1)
	p.awaitStderr("takes no notifications")
	server.mu.Lock()
	if taken > most {
		t.Errorf("%d MiB of notifications were held, want %d at most", taken, most)
	}
	server.mu.Unlock()
	close(release)
	eventually(t, "notifications again", func() bool {
		p.notify("notifications/again", "")
		return server.count("notifications/again") > 0
	})
}

func TestNothingIsSentBeforeInitializeIsAnswered(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	release := server.hold("initialize")
	p := startProxy(t, "-u", server.url)
	hello := p.request("initialize", initializeParams)
	p.notify("notifications/initialized", "")
	early := p.request("tools/call", echoParams("early"))
	p.send("not JSON")
	p.refusals(1) // so all before it was read
	server.await("initialize", 1)
	if got := server.labels(); len(got) != 1 {
		t.Errorf("got %q before initialize was answered", got)
	}
	release() // the server complains about what came too early
	p.result(hello)
	p.echoed(early, "early")
}

// What a message brings about must find the subscription that was asked for before it.
func TestListenIsNotOvertaken(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.lenient = true // it speaks no modern revision
	release := server.hold("subscriptions/listen")
	p := startProxy(t, "-u", server.url)
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`
	listen := p.request("subscriptions/listen", `{`+meta+`,"notifications":{}}`)
	grow := p.request("tools/call", `{`+meta+`,"name":"grow"}`)
	p.send("not JSON")
	p.refusals(1) // so both before it were read
	server.await("subscriptions/listen", 1)
	if got := server.labels(); len(got) != 1 {
		t.Errorf("got %q before the server had begun to answer subscriptions/listen", got)
	}
	release()
	server.await("tools/call grow", 1)
	p.answer(listen)
	p.answer(grow)
}

func TestBadLines(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("one")
	sent := len(server.labels())
	for i, test := range []struct {
		line string
		code int
	}{
		{`{"jsonrpc":"2.0","method":`, -32700},
		{`hello`, -32700},
		{`{"jsonrpc":"2.0","method":"ping","id":1} {}`, -32700},
		{"\xff", -32700},
		{`[{"jsonrpc":"2.0","method":"notifications/batch"}]`, -32600},
		{`[]`, -32600},
		{`{}`, -32600},
		{`42`, -32600},
		{`null`, -32600},
		{`{"jsonrpc":"1.0","method":"notifications/old"}`, -32600},
		{`{"jsonrpc":"2.0","method":7}`, -32600},
	} {
		p.send(test.line)
		if got := p.refusals(i + 1)[i]; got.Error == nil || got.Error.Code != test.code {
			t.Errorf("%s: got %s, want error %d", test.line, got.line, test.code)
		}
	}
	if log := p.stderr(); strings.Count(log, "not forwarded") != 11 ||
		strings.Contains(log, "hello") || strings.Contains(log, "old") {
		t.Errorf("want 11 warnings that do not repeat the line, got:\n%s", log)
	}
	p.send("", "  ", "\t\r")
	if got := slices.DeleteFunc(server.labels()[sent:],
		func(l string) bool { return l == "GET" }); len(got) != 0 {
		t.Errorf("forwarded: %q", got)
	}
	p.echo("two")
	p.expect("999")
	io.WriteString(p.stdin, `{"jsonrpc":"2.0","id":999,"method":"ping"}`) // a last line without its end
	p.closeStdin()
	p.result("999")
}

// What the program need not understand passes as it is.
func TestRawJSONPasses(t *testing.T) {
	t.Parallel()
	const odd = `{"zeta":12345678901234567890123,"alpha":1.0,"e":1E400,"html":"<a href=\"x\">&</a>","u":"\u2028` + "\u2028" + `\ud83d\ude00😀","dup":1,"dup":2, "space" : [ ] }`
	server := startMCP(t)
	server.reply("tools/call odd", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, `{"unknown":true,"result":`+odd+`,"id":"\u0061/1","jsonrpc":"2.0"}`)
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	line := `{"id":"\u0061/1","params":{"name":"odd","arguments":` + odd +
		`},"method":"tools/call","jsonrpc":"2.0","extra":null}`
	p.send(line)
	want := `{"unknown":true,"result":` + odd + `,"id":"\u0061/1","jsonrpc":"2.0"}`
	if got := p.answer(`"\u0061/1"`).line; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(server.await("tools/call odd", 1).body); got != line {
		t.Errorf("got  %s\nwant %s", got, line)
	}
}

// The host stops the program: what is in flight is answered, the session is ended.
func TestTermination(t *testing.T) {
	for name, s := range stopSignals() {
		s := s
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.hold("tools/call slow")
			p := startProxy(t, "-u", server.url)
			p.initialize()
			slow := p.request("tools/call", `{"name":"slow"}`)
			server.await("tools/call slow", 1)
			p.signal(s)
			p.wait()
			p.failure(slow)
			if got := server.count("DELETE"); got != 1 {
				t.Errorf("got %d DELETE, want 1", got)
			}
		})
	}
}

func TestEndOfInputWithCallInFlight(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	release := server.hold("tools/call slow")
	p := startProxy(t, "-u", server.url)
	p.initialize()
	slow := p.request("tools/call", `{"name":"slow","arguments":{"text":"at last"}}`)
	server.await("tools/call slow", 1)
	p.closeStdin()
	release()
	p.echoed(slow, "at last")
	p.wait()
	if got := server.labels(); got[len(got)-1] != "DELETE" {
		t.Errorf("got %q, want DELETE at the end", got)
	}
}

// A host that dies closes both pipes; one that only stops reading is as good as dead.
func TestClosedStdoutEndsTheProgram(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.closeStdout()
	p.change(func() { p.killed = true }) // no answers, and any exit code
	p.send(`{"jsonrpc":"2.0","id":99,"method":"ping"}`)
	p.wait()
}

// Goroutines are used again, so that their stacks need not grow again. Few are kept, none keeps the
// message that it had, and none is left at the end.
func TestIdleGoroutines(t *testing.T) {
	const rounds = 50
	s := &calls{next: make(chan func()), idle: make(turn, 2)}
	seen := map[string]bool{} // goroutines
	forgotten := make(chan struct{})
	for i := 0; i < rounds; i++ {
		release, names := make(chan struct{}), make(chan string)
		m := &message{raw: make([]byte, 1<<20)}
		if i == rounds-1 {
			runtime.SetFinalizer(m, func(*message) { close(forgotten) })
		}
		for j := 0; j < 3; j++ {
			s.start(func() {
				stack := make([]byte, 64) // "goroutine 18 [running]:"
				names <- strings.Fields(string(stack[:runtime.Stack(stack, false)]))[1]
				<-release
				runtime.KeepAlive(m)
			})
		}
		working := map[string]bool{}
		for j := 0; j < 3; j++ {
			name := <-names
			working[name], seen[name] = true, true
		}
		if len(working) != 3 {
			t.Fatalf("got goroutines %v for 3 messages", working)
		}
		close(release)
		s.routines.Wait()
		eventually(t, "two to be idle", func() bool { return len(s.idle) == 2 })
	}
	if len(seen) == 3*rounds {
		t.Error("no goroutine was used again")
	}
	eventually(t, "the message to be forgotten", func() bool {
		runtime.GC()
		return awaitClosed(context.Background(), forgotten, 0)
	})
	s.stop()
	if s.start(func() {}) {
		t.Error("something began after the end")
	}
	eventually(t, "all to end", func() bool { return len(s.idle) == 0 })
}

// One cause is said once, whatever it fails; and again when it is back after an answer.
func TestCauseIsSaidOnce(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	p := startProxy(t, "-u", server.url)
	out := true
	server.on("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return out && says(http.StatusBadGateway, "text/html", "<p>oops")(w, r)
	})
	fails := func() { p.failure(p.modernEcho("x")) }
	fails()
	fails()
	server.change(func() { out = false })
	p.echoed(p.modernEcho("x"), "x")
	server.change(func() { out = true })
	fails()
	if got := linesWith(p.stderr(), "502"); got != 2 {
		t.Errorf("said %d times, want twice: %s", got, p.stderr())
	}

	p = startProxy(t, "-u", fmt.Sprintf("https://127.0.0.1:%d/mcp", freePort(t)))
	p.failure(p.request("initialize", initializeParams))
	p.notify("notifications/initialized", "")
	p.failure(p.request("tools/list", ""))
	p.closeStdin()
	p.wait()
	if got := linesWith(p.stderr(), "dial"); got != 1 {
		t.Errorf("said %d times, want once: %s", got, p.stderr())
	}
}
