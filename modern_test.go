package main

// Revision 2026-07-28 on the wire: the mirrored headers, what is learnt from
// tools/list, cancelling by closing, subscriptions, and hosts that try a modern
// message on a server of an earlier revision. What each header must be is
// told in headers_test.go.

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// startModern starts a server without sessions. The fake checks the standard
// headers of every modern request.
func startModern(t *testing.T, protocols ...string) *fakeMCP {
	server := startMCP(t, protocols...)
	server.sessions = false
	return server
}

// lists answers tools/list with these tools, a page each.
func (s *fakeMCP) lists(pages ...string) {
	s.reply("tools/list", func(w http.ResponseWriter, r *fakeRequest) bool {
		page, next := 0, ""
		if i := strings.Index(r.msg.line, `"cursor":"`); i >= 0 {
			fmt.Sscanf(r.msg.line[i:], `"cursor":"%d"`, &page)
		}
		if page+1 < len(pages) {
			next = fmt.Sprintf(`,"nextCursor":"%d"`, page+1)
		}
		io.WriteString(w, r.msg.result(`{"tools":[`+pages[page]+`]`+next+`}`))
		return true
	})
}

const (
	annotatedTool = `{"name":"sql","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"},"query":{"type":"string"}}}}`
	invalidTool   = `{"name":"broken","inputSchema":{"type":"object","properties":{"a":{"type":"object","x-mcp-header":"A"}}}}`
	plainTool     = `{"name" : "plain", "inputSchema":{"type":"object"}}`
)

// paramHeaders are the mirrored parameters of a request.
func paramHeaders(r *fakeRequest) map[string]string {
	got := map[string]string{}
	for name := range r.Header {
		if strings.HasPrefix(name, "Mcp-Param-") {
			got[name] = r.Header.Get(name)
		}
	}
	return got
}

func TestModernHeadersOnTheWire(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		protocol := protocol
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := startModern(t, protocol)
			server.lists(annotatedTool)
			p := startProxy(t, "-u", server.url)
			p.result(p.modern("tools/list", ""))
			p.result(p.modern("tools/call", `"name":"sql","arguments":{"region":" Z\u00fcrich","n":42.0,"query":"SELECT 1"}`))
			call := server.await("tools/call sql", 1)
			want := map[string]string{"Mcp-Param-Region": "=?base64?IFrDvHJpY2g=?=", "Mcp-Param-N": "42"}
			if got := paramHeaders(call); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", got, want)
			}
			for name, want := range map[string]string{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "sql"} {
				if got := call.Header.Get(name); got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
			for method, params := range map[string]string{"prompts/get": `"name":"日本"`, "resources/read": `"uri":"file:///a b"`, "server/discover": "", "ping": ""} {
				p.answer(p.modern(method, params)) // the fake checks
			}
			p.closeStdin()
			p.wait()
			if server.count("GET")+server.count("DELETE")+server.count("initialize") != 0 {
				t.Errorf("got %q, want POSTs of the client's alone", server.labels())
			}
		})
	}
}

func TestInvalidToolsAreTakenOut(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	server.lists(annotatedTool+" , "+invalidTool+","+plainTool, invalidTool+","+annotatedTool)
	p := startProxy(t, "-u", server.url)
	for _, test := range []struct{ params, want string }{
		{"", `{"tools":[` + annotatedTool + `,` + plainTool + `],"nextCursor":"1"}`},
		{`"cursor":"1"`, `{"tools":[` + annotatedTool + `]}`},
	} {
		if got := p.result(p.modern("tools/list", test.params)); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
	p.awaitStderr("the tool broken is left out")
	// In the earlier eras the annotation means nothing, and the list passes as it is.
	p.initialize()
	if got, want := p.call("tools/list", ""), `{"tools":[`+annotatedTool+" , "+invalidTool+","+plainTool+`],"nextCursor":"1"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAnnotationsOfAllPages(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	server.events = true
	server.lists(plainTool, annotatedTool, plainTool)
	p := startProxy(t, "-u", server.url)
	for _, params := range []string{"", `"cursor":"1"`, `"cursor":"2"`} {
		p.result(p.modern("tools/list", params))
	}
	p.result(p.modern("tools/call", `"name":"sql","arguments":{"region":"eu"}`))
	if got := paramHeaders(server.await("tools/call sql", 1)); len(got) != 1 || got["Mcp-Param-Region"] != "eu" {
		t.Errorf("got %v", got)
	}
}

// A server that wants other headers than the proxy knows of makes it list the
// tools itself, once, and try again, once, if that taught it anything.
func TestHeaderMismatch(t *testing.T) {
	const call = `"name":"sql","arguments":{"region":"eu"}`
	for _, test := range []struct {
		name    string
		pages   []string // of the proxy's own list
		accepts bool     // the server takes the headers of the second attempt
		lists   int
		calls   int
	}{
		{"unknown", []string{annotatedTool}, true, 1, 2},
		{"on the last page", []string{plainTool, plainTool, annotatedTool}, true, 3, 2},
		{"still wrong", []string{annotatedTool}, false, 1, 2},
		{"nothing new", []string{plainTool}, true, 1, 1},
		{"no list", nil, true, 1, 1},
	} {
		test := test
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := startModern(t)
			if test.pages != nil {
				server.lists(test.pages...)
			} else {
				server.reply("tools/list", says(500, "text/html", "<p>"))
			}
			server.reply("tools/call sql", func(w http.ResponseWriter, r *fakeRequest) bool {
				if test.accepts && r.Header.Get("Mcp-Param-Region") == "eu" {
					return false
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, r.msg.failure(-32020, "Header mismatch"))
				return true
			})
			p := startProxy(t, "-u", server.url)
			id := p.modern("tools/call", call)
			if test.accepts && test.calls == 2 {
				p.result(id)
			} else if got := p.failure(id); got.Code != -32020 || got.Message != "Header mismatch" {
				t.Errorf("got %+v, want the server's error", got)
			}
			if lists, calls := server.count("tools/list"), server.count("tools/call sql"); lists != test.lists || calls != test.calls {
				t.Errorf("got %d tools/list and %d calls, want %d and %d", lists, calls, test.lists, test.calls)
			}
			if len(p.lines) != 1 {
				t.Errorf("got %q, want nothing of the proxy's own requests", p.lines)
			}
			for _, r := range server.requests("tools/list") {
				if r.msg.params().Meta.Modern != "2026-07-28" || !strings.HasPrefix(string(r.msg.ID), `"mcp-proxy:`) {
					t.Errorf("got %s", r.body)
				}
			}
		})
	}
}

// A tool that the server changed is called with the headers of its new schema.
func TestHeaderMismatchOfChangedTool(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	changed := false
	server.reply("tools/list", func(w http.ResponseWriter, r *fakeRequest) bool {
		tool := annotatedTool
		if changed {
			tool = strings.Replace(tool, `"x-mcp-header":"Region"`, `"x-mcp-header":"Place"`, 1)
		}
		io.WriteString(w, r.msg.result(`{"tools":[`+tool+`]}`))
		return true
	})
	server.reply("tools/call sql", func(w http.ResponseWriter, r *fakeRequest) bool {
		if r.Header.Get("Mcp-Param-Place") == "eu" {
			return false
		}
		changed = true
		return says(400, "application/json", r.msg.failure(-32020, "Header mismatch"))(w, r)
	})
	p := startProxy(t, "-u", server.url)
	p.result(p.modern("tools/list", ""))
	p.result(p.modern("tools/call", `"name":"sql","arguments":{"region":"eu"}`))
	if got := paramHeaders(server.await("tools/call sql", 2)); len(got) != 1 {
		t.Errorf("got %v, want the new header alone", got)
	}
}

// Closing the POST is the cancellation, there is nothing else to send and nothing to answer.
func TestModernCancellation(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		for _, begun := range []bool{false, true} {
			protocol, begun := protocol, begun
			t.Run(fmt.Sprintf("%s stream begun %v", protocol, begun), func(t *testing.T) {
				t.Parallel()
				server := startModern(t, protocol)
				closed := make(chan struct{})
				server.reply("tools/call slow", func(w http.ResponseWriter, r *fakeRequest) bool {
					if begun {
						startEvents(w).send(`data: {"jsonrpc":"2.0","method":"notifications/progress"}`)
					}
					<-r.Context().Done()
					close(closed)
					return true
				})
				p := startProxy(t, "-u", server.url)
				id := p.modern("tools/call", `"name":"slow"`)
				server.await("tools/call slow", 1)
				if begun {
					p.received("notifications/progress", 1)
				}
				p.unexpect(id)
				p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s}`, id))
				select {
				case <-closed:
				case <-time.After(testPatience):
					t.Fatal("the POST of the cancelled call stays open")
				}
				p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s,%s}`, id, modernMeta)) // too late
				p.result(p.modern("tools/call", `"name":"echo","arguments":{"text":"x"}`))
				if got := server.count("notifications/cancelled"); got != 0 {
					t.Errorf("got %d notifications/cancelled, want none", got)
				}
			})
		}
	}
}

// subscribes answers subscriptions/listen and keeps the stream open: what is
// pushed comes on it. An empty line that is pushed breaks it off.
func (s *fakeMCP) subscribes() {
	s.reply("subscriptions/listen", func(w http.ResponseWriter, r *fakeRequest) bool {
		stream := startEvents(w)
		stream.send(": keep-alive")
		stream.send(fmt.Sprintf(`data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":%s}}}`, r.msg.ID))
		for next := 0; s.wait(r.Context(), func() bool { return len(s.pushed) > next }); next++ {
			s.mu.Lock()
			line := s.pushed[next]
			s.mu.Unlock()
			if line == "" {
				return true
			}
			stream.send("id: e\ndata: " + strings.ReplaceAll(line, "<id>", string(r.msg.ID)))
		}
		return true
	})
}

func TestSubscription(t *testing.T) {
	const changed = `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":<id>}}}`
	for name, end := range map[string]func(p *testProxy, server *fakeMCP, id string){
		"ended by the server": func(p *testProxy, server *fakeMCP, id string) {
			const graceful = `{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":1}}`
			server.push(`{"jsonrpc":"2.0","id":<id>,"result":` + graceful + `}`)
			if got := p.result(id); got != graceful {
				p.t.Errorf("got %s", got)
			}
		},
		"broken off": func(p *testProxy, server *fakeMCP, id string) {
			server.push("")
			p.failure(id)
		},
		"cancelled": func(p *testProxy, server *fakeMCP, id string) {
			p.unexpect(id)
			p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s}`, id))
			eventually(p.t, "the end of the stream", func() bool { return server.answered("subscriptions/listen") == 1 })
		},
		"end of input": func(p *testProxy, server *fakeMCP, id string) {
			began := time.Now()
			p.closeStdin()
			p.wait()
			p.failure(id)
			if took := time.Since(began); took > 10*time.Second {
				p.t.Errorf("the program ended after %v: there was nothing to wait for", took)
			}
		},
	} {
		end := end
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startModern(t)
			server.subscribes()
			p := startProxy(t, "-u", server.url)
			id := p.modern("subscriptions/listen", `"notifications":{"toolsListChanged":true}`)
			p.received("notifications/subscriptions/acknowledged", 1)
			for i := 1; i <= 3; i++ {
				server.push(changed)
				if got, want := p.received("notifications/tools/list_changed", i)[i-1].line, strings.ReplaceAll(changed, "<id>", id); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
				p.result(p.modern("tools/call", `"name":"echo","arguments":{"text":"meanwhile"}`))
			}
			end(p, server, id)
			if got := server.count("GET") + server.count("DELETE") + server.count("notifications/cancelled"); got != 0 {
				t.Errorf("got %q, want POSTs alone", server.labels())
			}
		})
	}
}

// A stream that breaks off is an error: this revision resumes nothing.
func TestModernStreamIsNotResumed(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	server.listens = true
	server.reply("tools/call long", says(200, "text/event-stream", "id: p\nretry: 1\ndata: \n\n"))
	p := startProxy(t, "-u", server.url)
	if got := p.failure(p.modern("tools/call", `"name":"long"`)); !strings.Contains(got.Message, "before the answer") {
		t.Errorf("got %q", got.Message)
	}
	if got := server.labels(); !slices.Equal(got, []string{"tools/call long"}) {
		t.Errorf("got %q, want the call alone", got)
	}
}

// What hosts and servers of this revision agree on is none of the proxy's business.
func TestModernResultsPassUntouched(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	p := startProxy(t, "-u", server.url)
	for _, test := range []struct{ method, name, params, result string }{
		{"server/discover", "", "", `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{ },"serverInfo":{"name":"x","version":"1"}}`},
		{"tools/call", "asks", `"name":"asks","inputResponses":{"a":{"action":"accept"}},"requestState":"eyJ=="`,
			`{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"?"}}},"requestState":"eyJ=="}`},
		{"tools/list", "", "", `{"tools":[ ` + plainTool + ` ],"ttlMs":1000}`},
		{"resources/read", "file:///x", `"uri":"file:///x"`, `{"contents":[]}`},
	} {
		server.reply(strings.TrimSpace(test.method+" "+test.name), says(200, "application/json", `{"jsonrpc":"2.0","id":<id>,"result":`+test.result+`}`))
		if got := p.result(p.modern(test.method, test.params)); got != test.result {
			t.Errorf("%s:\ngot  %s\nwant %s", test.method, got, test.result)
		}
	}
}

// Errors by which hosts find out what a server speaks, with their data.
func TestModernErrorsAreRelayed(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	server.reply("server/discover", says(400, "application/json", `{"jsonrpc":"2.0","id":<id>,"error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2025-11-25"],"requested":"2026-07-28"}}}`))
	server.reply("no/such", says(404, "application/json", `{"jsonrpc":"2.0","id":<id>,"error":{"code":-32601,"message":"Method not found"}}`))
	p := startProxy(t, "-u", server.url)
	if got := p.failure(p.modern("server/discover", "")); got.Code != -32022 || string(got.Data) != `{"supported":["2025-11-25"],"requested":"2026-07-28"}` {
		t.Errorf("got %+v %s", got, got.Data)
	}
	if got := p.failure(p.modern("no/such", "")); got.Code != -32601 {
		t.Errorf("got %+v", got)
	}
	if got := len(server.labels()); got != 2 {
		t.Errorf("got %q, want two requests", server.labels())
	}
}

// A host that probes an old server is told at once, and opens a session on the same process.
func TestDiscoverOnOldServers(t *testing.T) {
	for name, test := range map[string]struct {
		answer fakeAnswer
		code   int
	}{
		"no session":            {nil, -32000}, // the fake's own refusal: 400
		"unknown method in 200": {says(200, "application/json", `{"jsonrpc":"2.0","id":<id>,"error":{"code":-32601,"message":"Method not found"}}`), -32601},
		"unknown, id null":      {says(400, "application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Bad Request"}}`), -32600},
		"400 empty":             {says(400, "", ""), -32000},
		"404 HTML":              {says(404, "text/html", "<p>"), -32000},
		"405":                   {says(405, "", ""), -32000},
		"406":                   {says(406, "text/plain", "no"), -32000},
		"500":                   {says(500, "text/plain", "no"), -32000},
		"200 HTML":              {says(200, "text/html", "<p>"), -32000},
		"202":                   {says(202, "", ""), -32000},
		"empty stream":          {says(200, "text/event-stream", ""), -32000},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.lenient = name == "no session" // it may not be asked before initialize
			if test.answer != nil {
				server.on("server/discover", test.answer)
			}
			p := startProxy(t, "-u", server.url)
			if got := p.failure(p.modern("server/discover", "")); got.Code != test.code {
				t.Errorf("got error %d %q, want %d", got.Code, got.Message, test.code)
			}
			p.initialize()
			p.echo("in the old way")
			if got := server.count("server/discover"); got != 1 || len(server.requests("initialize")) != 1 {
				t.Errorf("got %q", server.labels())
			}
		})
	}
}

// A modern message has no handshake to wait for.
func TestModernDoesNotWaitForInitialize(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	release := server.hold("initialize")
	p := startProxy(t, "-u", server.url)
	hello := p.request("initialize", initializeParams)
	server.await("initialize", 1)
	p.result(p.modern("ping", ""))
	release()
	p.result(hello)
}
