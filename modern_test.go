package main

// Revision 2026-07-28 on the wire: the mirrored headers, what is learnt from
// tools/list, cancelling by closing, subscriptions, and hosts that try a modern
// message on a server of an earlier revision. What each header must be is
// told in headers_test.go.

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
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
	p.awaitStderr("1 invalid tools are left out: broken: ")
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
			if took := time.Since(began); took >= drainTime {
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

func TestToolFilter(t *testing.T) {
	for _, test := range []struct {
		glob, tool string
		want       bool
	}{
		{"delete*", "delete", true}, {"delete*", "deleteTask", true}, {"delete*", "undelete", false},
		{"*account", "getAccount", true}, {"*account", "accounts", false}, {"exactTool", "exactTool", true},
		{"exactTool", "exactTool2", false}, {"Delete*", "delete_all", true}, {"delete*", "delete/all", true},
		{"*", "a/b", true}, {"a?c", "abc", true}, {"[ab]x", "bx", true}, {"[ab]x", "cx", false}, {"*", "", true},
	} {
		f, err := newToolFilter("nothing", test.glob)
		if err != nil || f.hides(test.tool) != test.want {
			t.Errorf("%s, %s: got %v (%v), want %v", test.glob, test.tool, !test.want, err, test.want)
		}
	}
}

func TestFilteredListKeepsItsBytes(t *testing.T) {
	f, err := newToolFilter("bad*")
	fatal(t, err)
	const good, odd = `{ "name" : "good", "x":1e400 }`, "{\"n\":12345678901234567890, \"name\":\"\\u0067ood2\",\"d\":\"<é>\"}"
	list := func(tools string) string {
		return `{"id":7, "result":{"a":[ ] ,"tools": [` + tools + `] , "nextCursor":"c"},"jsonrpc":"2.0"}`
	}
	for before, after := range map[string]string{
		`{"name":"bad1"},` + good + ` , {"name":"\u0062ad2","inputSchema":{}}, ` + odd: good + "," + odd,
		`{"name":"bad"}`:  "",
		good + ", " + odd: good + ", " + odd,
		"":                "",
	} {
		if got := f.shown([]byte(list(before))); string(got) != list(after) {
			t.Errorf("got  %s\nwant %s", got, list(after))
		}
	}
	for _, other := range []string{`{"id":1,"error":{"code":1}}`, `{"id":1,"result":{"tools":null}}`, `{"id":1,"result":null}`} {
		if got := f.shown([]byte(other)); !bytes.Equal(got, []byte(other)) {
			t.Errorf("got %s, want %s", got, other)
		}
	}
}

// In every era and on every kind of answer: hidden tools are not listed, and
// not called.
func TestIgnoredTools(t *testing.T) {
	const tools = `{"tools":[{"name":"deleteAll"}, {"name":"echo", "inputSchema":{}},{"name":"files/delete"}],"nextCursor":"2"}`
	const modern = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`
	for _, revision := range []string{"2025-11-25", "2026-07-28"} {
		for _, events := range []bool{false, true} {
			revision, events := revision, events
			t.Run(fmt.Sprintf("%s events %v", revision, events), func(t *testing.T) {
				t.Parallel()
				server := startMCP(t)
				server.change(func() { server.events = events })
				server.reply("tools/list", func(w http.ResponseWriter, r *fakeRequest) bool {
					server.answer(w, r, tools)
					return true
				})
				p := startProxy(t, "-u", server.url, "--ignore-tool", "delete*", "--ignore-tool=*/DELETE")
				params, call := "", func(tool string) string { return fmt.Sprintf(`{"name":%q}`, tool) }
				if revision == "2026-07-28" {
					server.change(func() { server.sessions, server.lenient = false, true })
					params, call = "{"+modern+"}", func(tool string) string { return fmt.Sprintf(`{"name":%q,%s}`, tool, modern) }
				} else {
					p.initialize()
				}
				if got, want := p.call("tools/list", params), `{"tools":[{"name":"echo", "inputSchema":{}}],"nextCursor":"2"}`; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				for _, tool := range []string{"deleteAll", "files/delete"} {
					if got := p.failure(p.request("tools/call", call(tool))); got.Code != -32602 || !strings.Contains(got.Message, "--ignore-tool") {
						t.Errorf("%s: got error %d %q", tool, got.Code, got.Message)
					}
				}
				p.notify("tools/call", call("deleteAll")) // nobody waits for what it does
				p.call("tools/call", call("echo"))
				for _, label := range server.labels() {
					if strings.Contains(label, "delete") {
						t.Errorf("the server was asked for %s", label)
					}
				}
			})
		}
	}
}

// Without the flag a list passes as it is.
func TestNoToolFilter(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	const result = `{"tools":[ {"name":"b"} ,{"name":"a"} ] }`
	server.reply("tools/list", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, r.msg.result(result))
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	if got := p.call("tools/list", ""); got != result {
		t.Errorf("got %s, want %s", got, result)
	}
}

func TestModernVersion(t *testing.T) {
	tests := []struct{ params, want string }{
		{`{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}`, "2026-07-28"},
		{`{"_meta":{"io.modelcontextprotocol\/protocolVersion":"2027-01-01"}}`, "2027-01-01"},
		{`{"_meta":{"io.modelcontextprotocol/protocolVersion":"DRAFT-2026-v1"}}`, "DRAFT-2026-v1"},
		{`{"_meta":{"io.modelcontextprotocol/protocolVersion":"1900-01-01"}}`, "1900-01-01"},
		{`{"_meta":{"io.modelcontextprotocol/protocolVersion":""}}`, ""},
		{`{"_meta":{"io.modelcontextprotocol/protocolVersion":20260728}}`, ""},
		{`{"_meta":{"progressToken":1}}`, ""},
		{`{"protocolVersion":"2025-11-25"}`, ""},
		{`{"arguments":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, ""},
		{``, ""},
	}
	for _, test := range tests {
		if got := modernVersion(member([]byte(test.params), "_meta")); got != test.want {
			t.Errorf("modernVersion(%s): got %q, want %q", test.params, got, test.want)
		}
	}
}

func TestStandardHeaders(t *testing.T) {
	tests := []struct {
		name, method, params string
		want                 map[string]string // besides the version
	}{
		{"a tool", "tools/call", `{"name":"my-tool_name"}`, map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "my-tool_name"}},
		{"a prompt", "prompts/get", `{"name":"code_review","uri":"no"}`, map[string]string{"Mcp-Method": "prompts/get", "Mcp-Name": "code_review"}},
		{"a resource", "resources/read", `{"uri":"file:///path/to/file%20name.txt","name":"no"}`,
			map[string]string{"Mcp-Method": "resources/read", "Mcp-Name": "file:///path/to/file%20name.txt"}},
		{"a query", "resources/read", `{"uri":"https://example.com/resource?id=123"}`,
			map[string]string{"Mcp-Method": "resources/read", "Mcp-Name": "https://example.com/resource?id=123"}},
		{"a task", "tasks/get", `{"taskId":"t-1"}`, map[string]string{"Mcp-Method": "tasks/get", "Mcp-Name": "t-1"}},
		{"no name in it", "tools/list", `{"name":"x","uri":"y"}`, map[string]string{"Mcp-Method": "tools/list"}},
		{"no params", "server/discover", ``, map[string]string{"Mcp-Method": "server/discover"}},
		{"a notification", "notifications/x", `{"name":"x"}`, map[string]string{"Mcp-Method": "notifications/x"}},
		{"a name that is no string", "tools/call", `{"name":7}`, map[string]string{"Mcp-Method": "tools/call"}},
		{"an escaped name", "tools/call", `{"name":"a\u002db"}`, map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "a-b"}},
		{"a name beyond ASCII", "tools/call", `{"name":"日本語"}`, map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "=?base64?5pel5pys6Kqe?="}},
		{"a name with a header in it", "tools/call", `{"name":"x\r\nEvil: 1"}`,
			map[string]string{"Mcp-Method": "tools/call", "Mcp-Name": "=?base64?eA0KRXZpbDogMQ==?="}},
		{"a method with a header in it", "tools/list\r\nEvil: 1", `{}`, map[string]string{}},
		{"a method beyond ASCII", "méthode", `{}`, map[string]string{}},
		{"the case of values stays", "Tools/Call", `{"name":"x"}`, map[string]string{"Mcp-Method": "Tools/Call"}},
	}
	for _, test := range tests {
		h := http.Header{}
		(&toolHeaders{}).set(h, test.method, []byte(test.params), "2026-07-28")
		test.want["Mcp-Protocol-Version"] = "2026-07-28"
		if got := flat(h); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
	h := http.Header{}
	(&toolHeaders{}).set(h, "tools/list", nil, "2026\r\nEvil: 1")
	if got, want := flat(h), map[string]string{"Mcp-Method": "tools/list"}; !reflect.DeepEqual(got, want) {
		t.Errorf("a version with a header in it: got %v, want %v", got, want)
	}
}

// The tables of the specification and of SEP-2243, and what they leave open.
func TestEncodeHeaderValue(t *testing.T) {
	tests := []struct{ value, want string }{
		{"us-west1", "us-west1"},
		{"Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="},
		{" padded ", "=?base64?IHBhZGRlZCA=?="},
		{"line1\nline2", "=?base64?bGluZTEKbGluZTI=?="},
		{"=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="},
		{" us-west1", "=?base64?IHVzLXdlc3Qx?="},
		{"us-west1 ", "=?base64?dXMtd2VzdDEg?="},
		{" us-west1 ", "=?base64?IHVzLXdlc3QxIA==?="},
		{"us west 1", "us west 1"},
		{"日本語", "=?base64?5pel5pys6Kqe?="},
		{"line1\r\nline2", "=?base64?bGluZTENCmxpbmUy?="},
		{"\tindented", "=?base64?CWluZGVudGVk?="},

		{"", "=?base64??="},
		{"a\tb", "=?base64?YQli?="},
		{"\x00", "=?base64?AA==?="},
		{"\x7f", "=?base64?fw==?="},
		{"é", "=?base64?w6k=?="},
		{"=?base64?=", "=?base64?PT9iYXNlNjQ/PQ==?="},
		{"=?base64??=", "=?base64?PT9iYXNlNjQ/Pz0=?="},
		{"=?base64?SGVsbG8=", "=?base64?SGVsbG8="},
		{"SGVsbG8=?=", "SGVsbG8=?="},
		{"=?BASE64?SGVsbG8=?=", "=?BASE64?SGVsbG8=?="},
		{"say =?base64?eA==?=", "say =?base64?eA==?="},
		{`"quoted", a;b~`, `"quoted", a;b~`},
	}
	for _, test := range tests {
		if got := encodeHeaderValue(test.value); got != test.want {
			t.Errorf("encodeHeaderValue(%q): got %q, want %q", test.value, got, test.want)
		}
	}
}

func TestParamValue(t *testing.T) {
	const none = "(none)"
	tests := []struct{ raw, want string }{
		{`"us-west1"`, "us-west1"},
		{`"\u0061\/b"`, "a/b"},
		{`""`, "=?base64??="},
		{`"true"`, "true"},
		{`true`, "true"},
		{`false`, "false"},
		{`42`, "42"},
		{`-7`, "-7"},
		{`0`, "0"},
		{`-0`, "0"},
		{`-0.0`, "0"},
		{`42.0`, "42"},
		{`1e3`, "1000"},
		{`1.5E+1`, "15"},
		{`9007199254740991`, "9007199254740991"},
		{`-9007199254740991`, "-9007199254740991"},
		{`9007199254740992`, none},
		{`9007199254740993`, none},
		{`-9007199254740992`, none},
		{`123456789012345678901234567890`, none},
		{`1e400`, none},
		{`1e999999999`, none},
		{`3.14159`, none},
		{`-0.5`, none},
		{`null`, none},
		{`{"a":1}`, none},
		{`["a"]`, none},
		{``, none},
	}
	for _, test := range tests {
		got, ok := paramValue([]byte(test.raw))
		if !ok {
			got = none
		}
		if got != test.want {
			t.Errorf("paramValue(%s): got %q, want %q", test.raw, got, test.want)
		}
	}
}

// toolsListed is a response to tools/list.
func toolsListed(tools ...string) []byte {
	return []byte(`{"jsonrpc":"2.0","id":1,"result":{"tools":[` + strings.Join(tools, ",") + `]}}`)
}

func toolWith(name, inputSchema string) string {
	return fmt.Sprintf(`{"name":%q,"inputSchema":%s}`, name, inputSchema)
}

func flat(h http.Header) map[string]string {
	m := make(map[string]string)
	for name, values := range h {
		m[name] = strings.Join(values, "|")
	}
	return m
}

// mirrored returns the Mcp-Param headers of a call of tool.
func mirrored(t *toolHeaders, tool, arguments string) map[string]string {
	h := http.Header{}
	t.set(h, "tools/call", []byte(fmt.Sprintf(`{"name":%q,"arguments":%s}`, tool, arguments)), "2026-07-28")
	for _, name := range []string{"Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name"} {
		h.Del(name)
	}
	return flat(h)
}

func TestMirroredParameters(t *testing.T) {
	const region = `{"properties":{"region":{"type":"string","x-mcp-header":"Region"}}}`
	const nested = `{"properties":{"outer":{"type":"object","properties":{"inner":{"type":"integer","x-mcp-header":"Inner"},` +
		`"x-mcp-header":{"type":"string","x-mcp-header":"Deep"}}}}}`
	tests := []struct {
		name, schema, arguments string
		want                    map[string]string
	}{
		{"provided", region, `{"region":"us-west1","query":"x"}`, map[string]string{"Mcp-Param-Region": "us-west1"}},
		{"null", region, `{"region":null}`, map[string]string{}},
		{"absent", region, `{"Region":"other case"}`, map[string]string{}},
		{"no arguments", region, `null`, map[string]string{}},
		{"arguments that are no object", region, `["region"]`, map[string]string{}},
		{"nested", nested, `{"outer":{"inner":7,"x-mcp-header":"d"},"inner":8}`, map[string]string{"Mcp-Param-Inner": "7", "Mcp-Param-Deep": "d"}},
		{"nested in what is no object", nested, `{"outer":"x"}`, map[string]string{}},
		{"a property of the annotation's name", `{"properties":{"x-mcp-header":{"type":"string"}}}`, `{"x-mcp-header":"v"}`, map[string]string{}},
		{"that one annotated", `{"properties":{"x-mcp-header":{"type":"string","x-mcp-header":"X"}}}`, `{"x-mcp-header":"v"}`, map[string]string{"Mcp-Param-X": "v"}},
		{"a property called properties", `{"properties":{"properties":{"type":"boolean","x-mcp-header":"P"}}}`, `{"properties":true}`, map[string]string{"Mcp-Param-P": "true"}},
		{"dots are no path", `{"properties":{"a.b":{"type":"string","x-mcp-header":"AB"}}}`, `{"a":{"b":"no"},"a.b":"yes"}`, map[string]string{"Mcp-Param-Ab": "yes"}},
		{"a standard header's name", `{"properties":{"m":{"type":"string","x-mcp-header":"Method"}}}`, `{"m":"v"}`, map[string]string{"Mcp-Param-Method": "v"}},
		{"every tchar", "{\"properties\":{\"m\":{\"type\":\"string\",\"x-mcp-header\":\"!#$%&'*+-.^_`|~09azAZ\"}}}", `{"m":"v"}`,
			map[string]string{http.CanonicalHeaderKey("Mcp-Param-!#$%&'*+-.^_`|~09azAZ"): "v"}},
		{"an optional parameter of the C# SDK", `{"properties":{"m":{"type":["string","null"],"x-mcp-header":"M"}}}`, `{"m":"v"}`, map[string]string{"Mcp-Param-M": "v"}},
		{"an escaped keyword", `{"properties":{"m":{"type":"string","x-mcp\u002dheader":"M"}}}`, `{"m":"v"}`, map[string]string{"Mcp-Param-M": "v"}},
		{"a value of another type than declared", `{"properties":{"m":{"type":"integer","x-mcp-header":"M"}}}`, `{"m":"high"}`, map[string]string{"Mcp-Param-M": "high"}},
		{"an integer out of range", `{"properties":{"m":{"type":"integer","x-mcp-header":"M"}}}`, `{"m":9007199254740993}`, map[string]string{}},
		{"beside $ref", `{"properties":{"m":{"$ref":"#/$defs/s","type":"string","x-mcp-header":"M"}},"$defs":{"s":{"minLength":1}}}`, `{"m":"v"}`, map[string]string{"Mcp-Param-M": "v"}},
		{"data of that name", `{"properties":{"m":{"type":"string","x-mcp-header":"M","default":{"x-mcp-header":"D"},"examples":[{"x-mcp-header":""}],` +
			`"enum":[{"x-mcp-header":1}],"const":{"x-mcp-header":"C"},"x-other":{"x-mcp-header":"O"}}},"required":["x-mcp-header"]}`, `{"m":"v"}`, map[string]string{"Mcp-Param-M": "v"}},
		{"a number beyond float64 in the schema", `{"properties":{"m":{"type":"integer","maximum":1e400,"x-mcp-header":"M"}}}`, `{"m":1}`, map[string]string{"Mcp-Param-M": "1"}},
		{"a header in the value", region, `{"region":"a\r\nEvil: 1"}`, map[string]string{"Mcp-Param-Region": "=?base64?YQ0KRXZpbDogMQ==?="}},
	}
	for _, test := range tests {
		var headers toolHeaders
		response := toolsListed(toolWith("t", test.schema))
		if _, dropped := learn(&headers, response); dropped != "" {
			t.Errorf("%s: dropped: %v", test.name, dropped)
		}
		if got := mirrored(&headers, "t", test.arguments); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// learn returns what is left of a list, and what the log says about the rest.
func learn(t *toolHeaders, response []byte) (out []byte, warning string) {
	t.warn = func(format string, args ...any) { warning = fmt.Sprintf(format, args...) }
	return t.learn(response), warning
}

// known reports whether a tool has annotations that are remembered.
func (t *toolHeaders) known(tool string) bool { return t.annotations(tool) != nil }

func TestOnlyToolCallsMirrorParameters(t *testing.T) {
	var headers toolHeaders
	learn(&headers, toolsListed(toolWith("same", `{"properties":{"p":{"type":"string","x-mcp-header":"P"}}}`)))
	h := http.Header{}
	headers.set(h, "prompts/get", []byte(`{"name":"same","arguments":{"p":"v"}}`), "2026-07-28")
	if got := h.Get("Mcp-Param-P"); got != "" {
		t.Errorf("a prompt of a tool's name: got %q, want no header", got)
	}
}

func TestInvalidTools(t *testing.T) {
	const placed = "reached through properties alone"
	property := func(schema string) string { return `{"type":"object","properties":{"p":` + schema + `}}` }
	annotated := `{"type":"string","x-mcp-header":"A"}`
	tests := []struct{ name, schema, reason string }{
		{"empty", property(`{"type":"string","x-mcp-header":""}`), "not a header name"},
		{"space", property(`{"type":"string","x-mcp-header":"My Region"}`), "not a header name"},
		{"colon", property(`{"type":"string","x-mcp-header":"Region:Primary"}`), "not a header name"},
		{"not ASCII", property(`{"type":"string","x-mcp-header":"Région"}`), "not a header name"},
		{"control character", property(`{"type":"string","x-mcp-header":"Region\t1"}`), "not a header name"},
		{"CR LF", property(`{"type":"string","x-mcp-header":"A\r\nEvil: 1"}`), "not a header name"},
		{"NUL", property(`{"type":"string","x-mcp-header":"A\u0000"}`), "not a header name"},
		{"null as name", property(`{"type":"string","x-mcp-header":null}`), "not a header name"},
		{"true as name", property(`{"type":"string","x-mcp-header":true}`), "not a header name"},
		{"object as name", property(`{"type":"string","x-mcp-header":{}}`), "not a header name"},

		{"object", property(`{"type":"object","x-mcp-header":"A"}`), "type other"},
		{"array", property(`{"type":"array","items":{"type":"string"},"x-mcp-header":"A"}`), "type other"},
		{"null", property(`{"type":"null","x-mcp-header":"A"}`), "type other"},
		{"number", property(`{"type":"number","x-mcp-header":"A"}`), "type other"},
		{"no type", property(`{"enum":["a"],"x-mcp-header":"A"}`), "type other"},
		{"string or number", property(`{"type":["string","number"],"x-mcp-header":"A"}`), "type other"},
		{"list of null", property(`{"type":["null"],"x-mcp-header":"A"}`), "type other"},
		{"empty list", property(`{"type":[],"x-mcp-header":"A"}`), "type other"},
		{"list in a list", property(`{"type":[["string"]],"x-mcp-header":"A"}`), "type other"},
		{"unknown type", property(`{"type":"String","x-mcp-header":"A"}`), "type other"},

		{"twice", `{"properties":{"a":{"type":"string","x-mcp-header":"Region"},"b":{"type":"string","x-mcp-header":"Region"}}}`, "used twice"},
		{"twice but for the case", `{"properties":{"a":{"type":"string","x-mcp-header":"MyField"},"b":{"type":"string","x-mcp-header":"myfield"}}}`, "used twice"},
		{"twice in depth", `{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"properties":{"c":{"type":"string","x-mcp-header":"a"}}}}}`, "used twice"},

		{"root", `{"type":"string","x-mcp-header":"A"}`, placed},
		{"list instead of a schema", `[` + annotated + `]`, placed},
		{"list instead of properties", `{"properties":[` + annotated + `]}`, placed},
		{"list instead of a property", property(`[` + annotated + `]`), placed},
		{"items", property(`{"type":"array","items":` + annotated + `}`), placed},
		{"list of items", property(`{"type":"array","items":[` + annotated + `]}`), placed},
		{"properties of items", property(`{"items":{"properties":{"q":` + annotated + `}}}`), placed},
		{"prefixItems", property(`{"prefixItems":[true,` + annotated + `]}`), placed},
		{"contains", property(`{"contains":` + annotated + `}`), placed},
		{"additionalItems", property(`{"additionalItems":` + annotated + `}`), placed},
		{"unevaluatedItems", property(`{"unevaluatedItems":` + annotated + `}`), placed},
		{"oneOf", property(`{"oneOf":[` + annotated + `]}`), placed},
		{"anyOf", property(`{"anyOf":[{"type":"null"},` + annotated + `]}`), placed},
		{"allOf", `{"allOf":[{"properties":{"q":` + annotated + `}}]}`, placed},
		{"not", property(`{"not":` + annotated + `}`), placed},
		{"if", `{"if":{"properties":{"q":` + annotated + `}}}`, placed},
		{"then", `{"then":{"properties":{"q":` + annotated + `}}}`, placed},
		{"else", `{"else":{"properties":{"q":` + annotated + `}}}`, placed},
		{"$defs", property(`{"$ref":"#/$defs/d"}`)[:len(property(`{"$ref":"#/$defs/d"}`))-1] + `,"$defs":{"d":` + annotated + `}}`, placed},
		{"definitions", `{"definitions":{"d":{"properties":{"q":` + annotated + `}}}}`, placed},
		{"additionalProperties", `{"additionalProperties":` + annotated + `}`, placed},
		{"unevaluatedProperties", `{"unevaluatedProperties":` + annotated + `}`, placed},
		{"patternProperties", `{"patternProperties":{"^x":` + annotated + `}}`, placed},
		{"propertyNames", `{"propertyNames":` + annotated + `}`, placed},
		{"dependentSchemas", `{"dependentSchemas":{"a":` + annotated + `}}`, placed},
		{"dependencies", `{"dependencies":{"b":["c"],"a":` + annotated + `}}`, placed},
		{"contentSchema", property(`{"type":"string","contentSchema":` + annotated + `}`), placed},
		{"escaped keyword", `{"additionalProperties":{"type":"string","\u0078-mcp-header":"A"}}`, placed},

		{"too many", manyAnnotations(maxAnnotations + 1), "one more than 100"},
		{"too long", property(`{"type":"string","x-mcp-header":"` + strings.Repeat("a", maxPath) + `"}`), "longer than"},
		{"too long a path", `{"properties":{"` + strings.Repeat("p", maxPath) + `":` + annotated + `}}`, "longer than"},
		{"too large", property(`{"description":"x-mcp-header` + strings.Repeat(".", maxSchema) + `"}`), "larger than"},
	}
	valid := toolWith("valid", property(annotated))
	for _, test := range tests {
		var headers toolHeaders
		out, dropped := learn(&headers, toolsListed(toolWith("bad", test.schema), valid))
		if want := toolsListed(valid); !bytes.Equal(out, want) {
			t.Errorf("%s: got %.300s, want %s", test.name, out, want)
		}
		if !strings.HasPrefix(dropped, "1 invalid tools are left out: bad: ") || !strings.Contains(dropped, test.reason) {
			t.Errorf("%s: got %q, want bad: %q", test.name, dropped, test.reason)
		}
		if headers.known("bad") || !headers.known("valid") {
			t.Errorf("%s: known: bad %t, valid %t", test.name, headers.known("bad"), headers.known("valid"))
		}
	}
}

func manyAnnotations(n int) string {
	var list []string
	for i := 0; i < n; i++ {
		list = append(list, fmt.Sprintf(`"p%d":{"type":"string","x-mcp-header":"H%d"}`, i, i))
	}
	return `{"properties":{` + strings.Join(list, ",") + `}}`
}

func TestManyAnnotationsAreValid(t *testing.T) {
	var headers toolHeaders
	if _, dropped := learn(&headers, toolsListed(toolWith("t", manyAnnotations(maxAnnotations)))); dropped != "" {
		t.Errorf("dropped: %v", dropped)
	}
}

func TestDeepSchemas(t *testing.T) {
	deep := func(levels int, inner string) string {
		return strings.Repeat(`{"properties":{"p":`, levels) + inner + strings.Repeat(`}}`, levels)
	}
	var headers toolHeaders
	_, dropped := learn(&headers, toolsListed(
		toolWith("annotated", deep(500, `{"type":"boolean","x-mcp-header":"Deep"}`)),
		toolWith("plain", deep(4000, `{"description":"no x-mcp-header"}`)),
		toolWith("invalid", deep(4000, `{"x-mcp-header":"Deep"}`)),
		toolWith("too deep", deep(4000, `{"type":"boolean","x-mcp-header":"Deep"}`))))
	if !regexp.MustCompile("^2 invalid.*: invalid: .*; too deep: ").MatchString(dropped) || len(dropped) > 1000 {
		t.Errorf("got %q, want the two tools and short reasons", dropped)
	}
	arguments := strings.Repeat(`{"p":`, 500) + "true" + strings.Repeat("}", 500)
	if got, want := mirrored(&headers, "annotated", arguments), (map[string]string{"Mcp-Param-Deep": "true"}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLearnKeepsBytes(t *testing.T) {
	const bad = `{ "name" : "bad", "inputSchema" : {"x-mcp-header":"A"} }`
	const one = `{ "name":"one", "z":9007199254740993, "é": "<&>\u2028", "inputSchema": {"a":1.0,"a":1e0} }`
	const two = `{"inputSchema":{ "properties":{"p":{"type":"string","x-mcp-header":"P"}}},"name":"two"}`
	// The tools of an earlier member of the same name, and of _meta, are not the list.
	const before = " {\"id\" : 12345678901234567890, \"result\":{\"tools\":[]}, \"_meta\":{\"tools\":[" + bad + "]},\n\"result\" : {\"tools\":1, \"_meta\":{\"tools\":[" + bad + "]},\t\"tools\" :  "
	const after = " , \"nextCursor\":\"\\u0041==\", \"unknown\":[ 1.50 ]}  , \"jsonrpc\":\"2.0\" }\n"
	tests := []struct{ name, in, want string }{
		{"in front", `[ ` + bad + ` , ` + one + `,` + two + ` ]`, `[` + one + `,` + two + `]`},
		{"between", `[` + one + `,` + bad + `, ` + two + `]`, `[` + one + `,` + two + `]`},
		{"at the end", `[` + one + `,` + two + `,` + bad + `]`, `[` + one + `,` + two + `]`},
		{"all", `[` + bad + `,` + bad + `]`, `[]`},
		{"strange company", `[null, 1 ,"x",[],{},{"name":"n"},{"inputSchema":{}},{"name":7,"inputSchema":true},` + bad + `]`,
			`[null,1,"x",[],{},{"name":"n"},{"inputSchema":{}},{"name":7,"inputSchema":true}]`},
		{"no name", `[{"inputSchema":{"x-mcp-header":"A"}},` + one + `]`, `[` + one + `]`},
	}
	for _, test := range tests {
		out, _ := learn(new(toolHeaders), []byte(before+test.in+after))
		if got, want := string(out), before+test.want+after; got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, got, want)
		}
	}
	same := []string{
		before + `[ ` + one + ` , ` + two + ` ]` + after,
		before + `[]` + after,
		before + `{"tools":[` + bad + `]}` + after,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"m","data":{"tools":[` + bad + `]}}}`,
		`{"jsonrpc":"2.0","id":1,"result":{}}`,
		`null`,
	}
	for _, text := range same {
		in := []byte(text)
		out, dropped := learn(new(toolHeaders), in)
		if dropped != "" || &out[0] != &in[0] || len(out) != len(in) || string(in) != text {
			t.Errorf("%s: not the very same slice, dropped %q", text, dropped)
		}
	}
}

func TestLearnAcrossPagesAndTime(t *testing.T) {
	schema := func(header string) string {
		return `{"properties":{"p":{"type":"string","x-mcp-header":"` + header + `"},"q":{"type":"string","x-mcp-header":"Q"}}}`
	}
	reordered := `{"properties":{"q":{"type":"string","x-mcp-header":"q"},"p":{"x-mcp-header":"a","type":"string","description":"new"}}}`
	var headers toolHeaders
	learn(&headers, toolsListed(toolWith("a", schema("A")), toolWith("plain", `{}`)))
	learn(&headers, toolsListed(toolWith("b", schema("B"))))
	if got, want := mirrored(&headers, "a", `{"p":"1"}`), (map[string]string{"Mcp-Param-A": "1"}); !reflect.DeepEqual(got, want) {
		t.Errorf("after the second page: got %v, want %v", got, want)
	}
	first := headers.annotations("a")
	learn(&headers, toolsListed(toolWith("a", reordered)))
	if got := headers.annotations("a"); !reflect.DeepEqual(got, first) {
		t.Errorf("the same annotations in another order: got %q, want %q", got, first)
	}
	learn(&headers, toolsListed(toolWith("a", schema("C"))))
	if got, want := mirrored(&headers, "a", `{"p":"1"}`), (map[string]string{"Mcp-Param-C": "1"}); !reflect.DeepEqual(got, want) {
		t.Errorf("listed again: got %v, want %v", got, want)
	}
	learn(&headers, toolsListed(toolWith("a", schema("q"))))
	if headers.known("a") || len(mirrored(&headers, "a", `{"p":"1"}`)) > 0 {
		t.Error("a tool that became invalid is still known")
	}
	if !headers.known("b") {
		t.Error("the other page is forgotten")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var headers toolHeaders
	list := make([]annotation, maxAnnotations)
	for i := 0; i < maxRemembered/50; i++ {
		name := fmt.Sprint(i)
		headers.remember(name, list)
		if !headers.known(name) || headers.size != len(headers.tools)*len(list) || headers.size > maxRemembered {
			t.Fatalf("after tool %d: %d annotations counted for %d tools", i, headers.size, len(headers.tools))
		}
	}
	headers.remember("one", list)
	for i := 0; i < maxRemembered; i++ {
		headers.remember("other", list)
	}
	headers.remember(strings.Repeat("n", maxPath+1), list)
	if !headers.known("one") || !headers.known("other") || len(headers.tools) > maxRemembered/len(list) {
		t.Error("listing one tool again and again, or one with a long name, crowds out the others")
	}
	for name := range headers.tools {
		headers.remember(name, nil)
	}
	if headers.size != 0 {
		t.Errorf("nothing is kept, %d annotations are counted", headers.size)
	}
}

func TestHeadersConcurrently(t *testing.T) {
	headers := toolHeaders{warn: func(string, ...any) {}}
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			schema := fmt.Sprintf(`{"properties":{"p":{"type":"string","x-mcp-header":"H%d"}}}`, i)
			for n := 0; n < 100; n++ {
				headers.learn(toolsListed(toolWith("t", schema), toolWith(fmt.Sprint(i, n), `{}`)))
				if got := mirrored(&headers, "t", `{"p":"v"}`); len(got) != 1 {
					t.Errorf("got %v, want one header", got)
				}
			}
		}(i)
	}
	group.Wait()
}

var (
	fieldName  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	fieldValue = regexp.MustCompile(`^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$`)
)

// checkHeader sends h over an HTTP connection's worth of bytes and compares what arrives.
func checkHeader(t *testing.T, h http.Header) {
	t.Helper()
	var wire bytes.Buffer
	wire.WriteString("POST / HTTP/1.1\r\nHost: localhost\r\n")
	lines := 2
	for name, values := range h {
		if len(values) != 1 || !fieldName.MatchString(name) || !fieldValue.MatchString(values[0]) {
			t.Fatalf("invalid header %q: %q", name, values)
		}
		lines++
	}
	if err := h.Write(&wire); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(wire.String(), "\n"); got != lines {
		t.Fatalf("got %d lines, want %d: %q", got, lines, wire.String())
	}
	wire.WriteString("\r\n")
	request, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	if len(h) > 0 && !reflect.DeepEqual(request.Header, h) {
		t.Fatalf("got %q, want %q", request.Header, h)
	}
}

func FuzzLearn(f *testing.F) {
	f.Add([]byte(`{"result":{"tools":[{"name":"t","inputSchema":{"properties":{"p":{"type":"string","x-mcp-header":"P"}}}}]}}`), []byte(`{"p":"v\r\nEvil: 1"}`))
	f.Add([]byte(`{"result":{"tools":[{"name":"t","inputSchema":{"properties":{"p":{"type":"string","x-mcp-header":"A\r\nB"}}}},{"name":"\n"}]}}`), []byte(`{"p":1}`))
	f.Add([]byte(`{"result":{"tools":[{"inputSchema":{"$defs":{"a":{"x-mcp-header":"A"}}}}],"tools":[{"name":"u","inputSchema":{"x-mcp-header":1}},1]}}`), []byte(`[]`))
	f.Add([]byte(`{"result":{"tools":[{"name":"é","inputSchema":{"properties":{"a":{"properties":{"b":{"type":["integer","null"],"x-mcp-header":"a_b"}}}}}}]}}`), []byte(`{"a":{"b":-1e2}}`))
	f.Add([]byte(`{"result":{"tools":[[{"x-mcp-header":"A"}],{"inputSchema":[{"x-mcp-header":"A"}]}]}`), []byte(`{`))
	f.Fuzz(func(t *testing.T, response, arguments []byte) {
		var headers toolHeaders
		out, dropped := learn(&headers, response)
		for name := range headers.tools {
			quoted, _ := json.Marshal(name)
			h := http.Header{}
			headers.set(h, "tools/call", []byte(`{"name":`+string(quoted)+`,"arguments":`+string(arguments)+`}`), "2026-07-28")
			checkHeader(t, h)
		}
		if !json.Valid(response) {
			return
		}
		if !json.Valid(out) {
			t.Fatalf("%q became %q", response, out)
		}
		had, has := len(listOf(member(response, "result", "tools"))), len(listOf(member(out, "result", "tools")))
		gone := 0
		fmt.Sscan(dropped, &gone)
		if has != had-gone {
			t.Fatalf("%d tools, %q, %d left", had, dropped, has)
		}
		if _, again := learn(&headers, out); again != "" {
			t.Fatalf("%q still holds invalid tools: %s", out, again)
		}
	})
}

func FuzzEncodeHeaderValue(f *testing.F) {
	for _, s := range []string{"", "us-west1", " padded ", "a\tb", "a\r\nb", "世界", "=?base64?=", "=?base64?eA==?=", "\xff", "\x7f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		value := encodeHeaderValue(s)
		checkHeader(t, http.Header{"Mcp-Param-X": {value}})
		if got := decodeHeaderValue(t, value); got != s {
			t.Fatalf("%q: decoded %q", s, got)
		}
		h := http.Header{}
		quoted, _ := json.Marshal(s)
		new(toolHeaders).set(h, s, []byte(`{"name":`+string(quoted)+`}`), s)
		new(toolHeaders).set(h, "prompts/get", []byte(`{"name":`+string(quoted)+`}`), s)
		checkHeader(t, h)
		if got := decodeHeaderValue(t, h.Get("Mcp-Name")); utf8.ValidString(s) && got != s {
			t.Fatalf("name %q: decoded %q", s, got)
		}
	})
}

// decodeHeaderValue is what a server does: "servers MUST decode".
func decodeHeaderValue(t *testing.T, value string) string {
	t.Helper()
	const prefix, suffix = "=?base64?", "?="
	if len(value) < len(prefix)+len(suffix) || !strings.HasPrefix(value, prefix) || !strings.HasSuffix(value, suffix) {
		return value
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(value[len(prefix) : len(value)-len(suffix)])
	if err != nil {
		t.Fatalf("%q: %v", value, err)
	}
	return string(decoded)
}

// What is left of a list has no hidden tool in it, and lacks no other.
func FuzzShown(f *testing.F) {
	for _, response := range []string{
		`{"result":{"tools":[{"name":"delete"},{"name":"echo"},{"name":"DELETE/all"}]}}`, `{"result":{"tools":[{"name":"\u0064elete"},1,null,{"name":"a","name":"delete"}]},"id":1}`,
		`{"result":{"tools":[],"tools":[{"name":"delete"}]},"result":{"tools":[{"name":"x"},{"name":"Deleted"}]}}`, `{"result":{"tools":{"name":"delete"}}}`, `{"result":[]}`, `[`,
	} {
		f.Add([]byte(response))
	}
	filter, err := newToolFilter("delete*")
	if err != nil {
		f.Fatal(err)
	}
	names := func(response []byte) (all []string) {
		each(member(response, "result", "tools"), func(tool []byte) {
			name, _ := unquote(member(tool, "name"))
			all = append(all, name)
		})
		return all
	}
	f.Fuzz(func(t *testing.T, response []byte) {
		out := filter.shown(response)
		if !json.Valid(response) {
			return
		}
		var want []string
		for _, name := range names(response) {
			if !strings.HasPrefix(strings.ToLower(name), "delete") {
				want = append(want, name)
			}
		}
		if got := names(out); !json.Valid(out) || strings.Join(got, "\x00") != strings.Join(want, "\x00") || len(got) != len(want) {
			t.Fatalf("%q became %q", response, out)
		}
	})
}

func newToolFilter(globs ...string) (f toolFilter, err error) {
	for _, glob := range globs {
		err = errors.Join(err, f.add(glob))
	}
	return f, err
}
