package main

// A host that opens with initialize in front of a server that speaks only revision 2026-07-28: how
// the proxy finds out, how requests and answers are translated, what such a server asks the host
// (input_required) and tells it (the subscription), and that older servers are sent none of this.

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	futureVersions = `"data":{"supported":["2026-07-28"],"requested":"2025-11-25"}`
	futureOffers   = `{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true},"logging":{}}`
	futureInfo     = `{"name":"future","version":"2"}`
	discovered     = `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":` + futureOffers + `,"instructions":"be kind",` +
		`"_meta":{"io.modelcontextprotocol/serverInfo":` + futureInfo + `},"ttlMs":0,"cacheScope":"public"}`
	welcomed = `{"protocolVersion":"2025-11-25","capabilities":` + futureOffers + `,"serverInfo":` + futureInfo + `,"instructions":"be kind"}`
)

// rpcFailure is an answer with a JSON-RPC error, data included where there is any.
func rpcFailure(status, code int, data string) fakeAnswer {
	if data != "" {
		data = "," + data
	}
	return says(status, "application/json", fmt.Sprintf(`{"jsonrpc":"2.0","id":<id>,"error":{"code":%d,"message":"no"%s}}`, code, data))
}

func rpcResult(result string) fakeAnswer {
	return says(200, "application/json", `{"jsonrpc":"2.0","id":<id>,"result":`+result+`}`)
}

// startFuture starts a server that speaks revision 2026-07-28 and nothing else.
func startFuture(t *testing.T, protocols ...string) *fakeMCP {
	server := startModern(t, protocols...)
	server.reply("initialize", rpcFailure(400, -32022, futureVersions))
	server.reply("server/discover", rpcResult(discovered))
	return server
}

func isOwnID(id []byte) bool { return bytes.HasPrefix(id, []byte(ownIDPrefix)) }

// everyCapability is a host that can do all that a server may ask for.
const everyCapability = `{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true},"sampling":{},"elicitation":{"form":{},"url":{}}},"clientInfo":{"name":"yesterday","version":"1"}}`

// opens is what a host does first, one that can do everything.
func (p *testProxy) opens() {
	p.t.Helper()
	p.call("initialize", everyCapability)
	p.notify("notifications/initialized", "")
}

// The answers to initialize by which a server of tomorrow is told.
func TestBridgeBegins(t *testing.T) {
	for name, refusal := range map[string]fakeAnswer{
		"unsupported version":           rpcFailure(400, -32022, futureVersions),
		"unsupported version, no list":  rpcFailure(400, -32022, ""),
		"header mismatch":               rpcFailure(400, -32020, ""),
		"missing capability":            rpcFailure(400, -32021, `"data":{"requiredCapabilities":{}}`),
		"header mismatch, id null":      says(400, "application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"no"}}`),
		"unknown method":                rpcFailure(404, -32601, ""),
		"unknown method in 200":         rpcFailure(200, -32601, ""),
		"unknown method in a stream":    says(200, "text/event-stream", "data: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"error\":{\"code\":-32601,\"message\":\"no\"}}\n\n"),
		"no _meta":                      says(400, "application/json", `{"jsonrpc":"2.0","id":<id>,"error":{"code":-32602,"message":"missing _meta keys: io.modelcontextprotocol/protocolVersion"}}`),
		"a version without initialize":  rpcResult(`{"protocolVersion":"2026-07-28","capabilities":{},"serverInfo":{"name":"x","version":"1"}}`),
		"the same in a stream with ids": says(200, "text/event-stream", "id: 1\ndata: \n\nid: 2\ndata: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"protocolVersion\":\"2026-07-28\"}}\n\n"),
	} {
		refusal := refusal
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startModern(t)
			server.reply("initialize", refusal)
			server.reply("server/discover", rpcResult(discovered))
			p := startProxy(t, "-u", server.url)
			if got := p.call("initialize", everyCapability); got != welcomed {
				t.Errorf("got  %s\nwant %s", got, welcomed)
			}
			p.notify("notifications/initialized", "")
			p.echo("across")
			p.call("ping", "")
			p.closeStdin()
			p.wait()
			for _, r := range append(server.requests("server/discover"), server.requests("tools/call echo")...) {
				for _, want := range []string{
					`"io.modelcontextprotocol/protocolVersion":"2026-07-28"`, `"io.modelcontextprotocol/clientInfo":{"name":"yesterday","version":"1"}`,
					`"io.modelcontextprotocol/clientCapabilities":{"roots":{"listChanged":true},"sampling":{},"elicitation":{"form":{},"url":{}}}`,
				} {
					if !strings.Contains(r.msg.line, want) {
						t.Errorf("got %s, want %s", r.msg.line, want)
					}
				}
			}
			if got := server.count("initialize") + server.count("server/discover") + server.count("tools/call echo"); got != 3 {
				t.Errorf("got %q", server.labels())
			}
			if got := server.count("GET") + server.count("DELETE") + server.count("notifications/initialized") + server.count("ping"); got != 0 {
				t.Errorf("got %q, want nothing that the revision does not know", server.labels())
			}
		})
	}
}

// A server that opens a session which it then does not serve, as that of the
// Go SDK 1.8 does when it is made for revision 2026-07-28 alone.
func TestBridgeBeginsInASessionThatIsRefused(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	server.sessions = true
	server.lenient = true // its own checks are for servers that serve sessions
	server.on("server/discover", rpcResult(discovered))
	server.on("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
		if r.Header.Get("Mcp-Protocol-Version") == "2026-07-28" {
			return rpcResult(`{"resultType":"complete","content":[{"type":"text","text":"x"}]}`)(w, r)
		}
		return says(400, "text/plain", "Bad Request: Unsupported protocol version (supported versions: 2026-07-28)")(w, r)
	})
	server.on("notifications/initialized", says(400, "text/plain", "Bad Request: Unsupported protocol version"))
	server.on("subscriptions/listen", says(400, "text/plain", "no"))
	p := startProxy(t, "-u", server.url)
	if got := p.call("initialize", everyCapability); !strings.Contains(got, `"serverInfo":{"name":"fake"`) {
		t.Errorf("got %s, want the server's own answer", got)
	}
	p.notify("notifications/initialized", "")
	release := server.hold("tools/call echo")
	var ids []string
	for i := 0; i < 3; i++ {
		ids = append(ids, p.request("tools/call", echoParams("x")))
	}
	server.await("tools/call echo", 3)
	release()
	for _, id := range ids {
		if got, want := p.result(id), `{"resultType":"complete","content":[{"type":"text","text":"x"}]}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	p.call("ping", "")
	p.closeStdin()
	p.wait()
	if discovers, deletes := server.count("server/discover"), server.count("DELETE"); discovers != 1 || deletes != 0 {
		t.Errorf("got %d server/discover and %d DELETE, want 1 and 0", discovers, deletes)
	}
}

// A server that is made anew while its clients go on: the codes of the revision tell.
func TestBridgeBeginsInTheMiddle(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	server.sessions = true
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.echo("before")
	server.on("server/discover", rpcResult(discovered))
	server.on("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
		if r.Header.Get("Mcp-Protocol-Version") == "2026-07-28" {
			return rpcResult(`{"content":[{"type":"text","text":"after"}]}`)(w, r)
		}
		return rpcFailure(400, -32022, futureVersions)(w, r)
	})
	server.on("subscriptions/listen", says(404, "", ""))
	p.echo("after")
	p.echo("after")
	if got := server.count("server/discover"); got != 1 {
		t.Errorf("got %d server/discover, want 1", got)
	}
}

// What is no sign of a server of tomorrow, or is none after all: the host gets the answer as it is.
func TestNoBridge(t *testing.T) {
	const refused = 1 // a server/discover is sent
	for name, test := range map[string]struct {
		answer    fakeAnswer // to initialize
		discover  fakeAnswer
		discovers int
		code      int
	}{
		"no common version":             {rpcFailure(400, -32022, `"data":{"supported":["2025-06-18"]}`), nil, 0, -32022},
		"a version after the next":      {rpcFailure(400, -32022, `"data":{"supported":["2031-01-01"]}`), nil, 0, -32022},
		"unsupported in the old way":    {rpcFailure(200, -32602, `"data":{"supported":["2024-11-05"],"requested":"x"}`), nil, 0, -32602},
		"bad params":                    {rpcFailure(400, -32602, ""), nil, 0, -32602},
		"out of order":                  {rpcFailure(500, -32603, ""), nil, 0, -32603},
		"discovery unknown":             {rpcFailure(404, -32601, ""), rpcFailure(404, -32601, ""), refused, -32601},
		"discovery no JSON":             {rpcFailure(400, -32020, ""), says(404, "text/html", "<p>"), refused, -32020},
		"discovery empty":               {rpcFailure(400, -32020, ""), rpcResult(`{}`), refused, -32020},
		"discovery of old versions":     {rpcFailure(400, -32020, ""), rpcResult(`{"supportedVersions":["2025-11-25"]}`), refused, -32020},
		"discovery of no list":          {rpcFailure(400, -32020, ""), rpcResult(`{"supportedVersions":"2026-07-28"}`), refused, -32020},
		"discovery breaks off":          {rpcFailure(400, -32020, ""), says(200, "text/event-stream", "data: {"), refused, -32020},
		"discovery of unspoken version": {rpcFailure(400, -32021, ""), rpcFailure(400, -32022, `"data":{"supported":["2031-01-01"]}`), refused, -32021},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startModern(t)
			server.reply("initialize", test.answer)
			server.reply("server/discover", test.discover)
			p := startProxy(t, "-u", server.url)
			if got := p.failure(p.request("initialize", everyCapability)); got.Code != test.code || got.Message != "no" {
				t.Errorf("got %+v, want the server's error %d", got, test.code)
			}
			if got := server.count("server/discover"); got != test.discovers {
				t.Errorf("got %d server/discover, want %d", got, test.discovers)
			}
		})
	}
}

// A host of the newer revision is told that there is no initialize.
func TestNoBridgeForAHostOfTomorrow(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	p := startProxy(t, "-u", server.url)
	if got := p.failure(p.modern("initialize", `"protocolVersion":"2026-07-28"`)); got.Code != -32022 {
		t.Errorf("got %+v, want the server's error", got)
	}
	p.echoed(p.modern("tools/call", `"name":"echo","arguments":{"text":"by itself"}`), "by itself")
	if got := server.count("server/discover"); got != 0 {
		t.Errorf("got %d server/discover, want none", got)
	}
}

// 400 in a session that works is an error like any other.
func TestNoBridgeInASessionThatWorks(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.reply("tools/call bad", says(400, "text/plain", "bad"))
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("works")
	p.failure(p.request("tools/call", `{"name":"bad"}`))
	if got := server.count("server/discover"); got != 0 {
		t.Errorf("got %d server/discover, want none", got)
	}
}

// A refused session of a server that is none of tomorrow is asked about once.
func TestNoBridgeInASessionOfAnOldServer(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.lenient = true
	server.on("notifications/initialized", says(400, "text/plain", "bad"))
	server.on("tools/call bad", says(400, "text/plain", "bad"))
	server.on("server/discover", rpcFailure(400, -32600, ""))
	p := startProxy(t, "-u", server.url)
	p.initialize()
	for i := 0; i < 3; i++ {
		if got := p.failure(p.request("tools/call", `{"name":"bad"}`)); !strings.Contains(got.Message, "answered 400") {
			t.Errorf("got %+v", got)
		}
	}
	if got := server.count("server/discover"); got != 1 {
		t.Errorf("got %d server/discover, want 1", got)
	}
}

func TestBridgeRequests(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.lists(annotatedTool+","+invalidTool, annotatedTool)
	p := startProxy(t, "-u", server.url)
	p.opens()

	t.Run("_meta of the host stays", func(t *testing.T) {
		p.result(p.request("tools/call", `{"_meta":{"progressToken":"a\u00e9","traceparent":"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"},"name":"echo","arguments":{"text":"x","n":12345678901234567890}}`))
		call := server.await("tools/call echo", 1)
		for _, want := range []string{`"progressToken":"a\u00e9"`, `"traceparent":"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"`, `"n":12345678901234567890`} {
			if !strings.Contains(call.msg.line, want) {
				t.Errorf("got %s, want %s", call.msg.line, want)
			}
		}
		if !isOwnID(call.msg.ID) {
			t.Errorf("got id %s, want one of the proxy's own", call.msg.ID)
		}
	})
	t.Run("without params, and with null", func(t *testing.T) {
		p.answer(p.request("no/such", ""))
		p.answer(p.request("no/such", "null"))
	})
	t.Run("params that are no object", func(t *testing.T) {
		if got := p.failure(p.request("tools/call", "[1]")); got.Code != -32602 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("a host's id like the proxy's", func(t *testing.T) {
		p.send(`{"jsonrpc":"2.0","id":"mcp-proxy:1","method":"tools/call","params":` + echoParams("mine") + `}`)
		p.echoed(`"mcp-proxy:1"`, "mine")
	})
	t.Run("parameter headers", func(t *testing.T) {
		p.result(p.request("tools/call", `{"name":"sql","arguments":{"region":"eu"}}`)) // not listed yet
		if got := p.call("tools/list", ""); got != `{"tools":[`+annotatedTool+`],"nextCursor":"1"}` {
			t.Errorf("got %s, want the valid tool alone", got)
		}
		p.result(p.request("tools/call", `{"name":"sql","arguments":{"region":"eu"}}`))
		if got := paramHeaders(server.await("tools/call sql", 2)); len(got) != 1 || got["Mcp-Param-Region"] != "eu" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("initialize again", func(t *testing.T) {
		if got := p.call("initialize", strings.Replace(everyCapability, "2025-11-25", "2025-06-18", 1)); !strings.Contains(got, `"protocolVersion":"2025-06-18"`) {
			t.Errorf("got %s, want the host's own version", got)
		}
	})
	t.Run("a message of the newer revision", func(t *testing.T) {
		id := p.modern("tools/call", `"name":"echo","arguments":{"text":"by itself"}`)
		p.echoed(id, "by itself")
		calls := server.requests("tools/call echo")
		if got := string(calls[len(calls)-1].msg.ID); got != id {
			t.Errorf("got id %s, want the host's own", got)
		}
	})
}

func TestBridgeListsToolsForItsHeaders(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.lists(annotatedTool)
	server.reply("tools/call sql", func(w http.ResponseWriter, r *fakeRequest) bool {
		return r.Header.Get("Mcp-Param-Region") != "eu" && rpcFailure(400, -32020, "")(w, r)
	})
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.result(p.request("tools/call", `{"name":"sql","arguments":{"region":"eu"}}`))
	if lists, calls := server.count("tools/list"), server.count("tools/call sql"); lists != 1 || calls != 2 {
		t.Errorf("got %d tools/list and %d calls, want 1 and 2", lists, calls)
	}
}

// What the two revisions have in common passes as it is.
func TestBridgeAnswers(t *testing.T) {
	t.Parallel()
	const (
		array  = `{"name":"array","inputSchema":{"type":"object"},"outputSchema":{"type":"array","items":{"const":"<&>"}}}`
		object = `{"name":"object", "inputSchema":{"type":"object"},"outputSchema":{"type":"object"}}`
	)
	server := startFuture(t)
	p := startProxy(t, "-u", server.url)
	p.opens()
	for i, test := range []struct{ method, params, answer, want string }{
		{"tools/list", `{}`, `"result":{"resultType":"complete","tools":[` + array + `, ` + object + `],"ttlMs":5}`,
			`"result":{"resultType":"complete","tools":[{"name":"array","inputSchema":{"type":"object"}},` + object + `],"ttlMs":5}`},
		{"tools/call", `{"name":"a"}`, `"result":{"content":[],"structuredContent":[1, 2]}`, `"result":{"content":[]}`},
		{"tools/call", `{"name":"b"}`, `"result":{"content":[], "structuredContent":{"n":12345678901234567890}}`, `"result":{"content":[], "structuredContent":{"n":12345678901234567890}}`},
		{"tools/call", `{"name":"c"}`, `"error":{"code":-32602,"message":"Unknown tool: not found"}`, `"error":{"code":-32602,"message":"Unknown tool: not found"}`},
		{"tools/call", `{"name":"d"}`, `"result":{"resultType":"task","task":{}}`, `"error":{"code":-32603,"message":"mcp-proxy: <host> gave a result of an unknown type"}`},
		{"resources/read", `{"uri":"x:1"}`, `"error":{"code":-32602,"message":"Resource not found","data":{"uri":"x:1"}}`, `"error":{"code":-32002,"message":"Resource not found","data":{"uri":"x:1"}}`},
		{"resources/read", `{"uri":"x:2"}`, `"error":{"code":-32602,"message":"no","data":{"uri":"x:2"}}`, `"error":{"code":-32002,"message":"no","data":{"uri":"x:2"}}`},
		{"resources/read", `{"uri":"x:3"}`, `"error":{"code":-32602,"message":"Invalid requestState"}`, `"error":{"code":-32602,"message":"Invalid requestState"}`},
		{"resources/read", `{"name":"no-uri"}`, `"error":{"code":-32602,"message":"uri is required"}`, `"error":{"code":-32602,"message":"uri is required"}`},
		{"tools/call", `{"name":"e"}`, `"error":null,"result":{"structuredContent":[1],"content":[]}`, `"result":{"content":[]}`},
		{"resources/read", `{"uri":"x:4"}`, `"error":{"code":-32603,"message":"disk not found"}`, `"error":{"code":-32603,"message":"disk not found"}`},
		{"resources/read", `{"uri":"x:5"}`, `"result":{"resultType":"complete","contents":[ ]}`, `"result":{"resultType":"complete","contents":[ ]}`},
		{"no/such", "", `"error":{"code":-32601,"message":"Method not found"}`, `"error":{"code":-32601,"message":"Method not found"}`},
	} {
		status := 200
		if strings.HasPrefix(test.answer, `"error":{`) && i%2 == 0 {
			status = 400 // in either way
		}
		answer := says(status, "application/json", `{"jsonrpc":"2.0","id":<id>,`+test.answer+`}`)
		server.on(strings.TrimSpace(test.method+" "+(&testMessage{Params: []byte(test.params)}).params().Name+(&testMessage{Params: []byte(test.params)}).params().URI), answer)
		id := p.request(test.method, test.params)
		want := `{"jsonrpc":"2.0","id":` + id + `,` + strings.ReplaceAll(test.want, "<host>", parsedURL(t, server.url).Host) + `}`
		if got := p.answer(id).line; got != want {
			t.Errorf("%s %s:\ngot  %s\nwant %s", test.method, test.params, got, want)
		}
	}
}

func TestBridgeLogLevel(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	message := func(level string) string {
		return `data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"` + level + `","data":"x"}}`
	}
	server.reply("tools/call loud", func(w http.ResponseWriter, r *fakeRequest) bool {
		stream := startEvents(w)
		for _, level := range append([]string{"unheard-of"}, logLevels...) {
			stream.send(message(level))
		}
		stream.send(`data: {"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{}}`) // it must not
		stream.send(`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`)
		stream.send("data: " + r.msg.result(`{"content":[]}`))
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.call("tools/call", `{"name":"loud"}`)
	if got := server.requests("tools/call loud")[0].msg.line; strings.Contains(got, "logLevel") {
		t.Errorf("got %s, want no level before the host sets one", got)
	}
	if got := p.call("logging/setLevel", `{"level":"error"}`); got != `{}` {
		t.Errorf("got %s", got)
	}
	p.call("tools/call", `{"name":"loud"}`)
	if got := server.requests("tools/call loud")[1].msg.line; !strings.Contains(got, `"io.modelcontextprotocol/logLevel":"error"`) {
		t.Errorf("got %s, want the level", got)
	}
	if got := len(p.received("notifications/message", 0)); got != 9+9 {
		t.Errorf("got %d log messages, want all of them: the level is the server's to keep", got)
	}
	if got := len(p.received("notifications/progress", 0)); got != 2 {
		t.Errorf("got %d notifications of progress, want 2", got)
	}
	if got := len(p.messages); got != 9+9+2 {
		t.Errorf("got %d messages, want none but these", got)
	}
	p.failure(p.request("logging/setLevel", `{"level":"loud"}`))
	p.failure(p.request("logging/setLevel", ""))
	if got := server.count("logging/setLevel"); got != 0 {
		t.Errorf("got %d logging/setLevel, want none", got)
	}
}

// An answer goes on to the host when it comes, not when the server ends the stream.
func TestBridgeAnswersBeforeTheStreamEnds(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	answered := make(chan struct{})
	var early atomic.Bool
	server.reply("tools/call open", func(w http.ResponseWriter, r *fakeRequest) bool {
		startEvents(w).send("data: " + r.msg.result(`{"content":[]}`))
		select {
		case <-answered:
			early.Store(true)
		case <-r.Context().Done(): // the proxy lost its patience
		}
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.call("tools/call", `{"name":"open"}`)
	close(answered)
	eventually(t, "the end of the stream", func() bool { return server.answered("tools/call open") == 1 })
	if !early.Load() {
		t.Error("the answer was held back until the stream had ended")
	}
}

// What the server does not offer is not offered by the proxy either.
func TestBridgeOffersNothingOfItsOwn(t *testing.T) {
	t.Parallel()
	server := startModern(t)
	server.reply("initialize", rpcFailure(404, -32601, ""))
	server.reply("server/discover", rpcResult(`{"supportedVersions":["2026-07-28"],"instructions":null,"serverInfo":{"name":"draft","version":"0"}}`))
	p := startProxy(t, "-u", server.url)
	if got, want := p.call("initialize", initializeParams), `{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"draft","version":"0"}}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	p.notify("notifications/initialized", "")
	for method, params := range map[string]string{"logging/setLevel": `{"level":"info"}`, "resources/subscribe": `{"uri":"x:"}`, "resources/unsubscribe": `{"uri":"x:"}`} {
		if got := p.failure(p.request(method, params)); got.Code != -32601 {
			t.Errorf("%s: got %+v", method, got)
		}
	}
	p.echo("x")
	if got := server.labels(); len(got) != 3 {
		t.Errorf("got %q, want initialize, server/discover and the call", got)
	}
}

// What is nested as deep as it may be gets deeper in the host's _meta: that message is refused by the
// server, and the program goes on.
func TestBridgeOfDeepCapabilities(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	p := startProxy(t, "-u", server.url)
	server.on("not JSON", says(http.StatusBadRequest, "text/plain", "too deep"))
	const deep = maxNesting - 2 // below the message and its params
	nested := strings.Repeat(`{"x":`, deep) + "1" + strings.Repeat("}", deep)
	p.failure(p.request("initialize", fmt.Sprintf(`{"protocolVersion":"2025-11-25","capabilities":%s,"clientInfo":{"name":"test","version":"1"}}`, nested)))
	p.opens()
	p.echo("still there")
}

// Closing the POST says it; nothing is sent, and nothing answered.
func TestBridgeCancellation(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	closed := make(chan struct{})
	server.reply("tools/call slow", func(w http.ResponseWriter, r *fakeRequest) bool {
		startEvents(w).send(`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`)
		<-r.Context().Done()
		close(closed)
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.opens()
	id := p.request("tools/call", `{"name":"slow","_meta":{"progressToken":1}}`)
	p.received("notifications/progress", 1)
	p.unexpect(id)
	p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s}`, id))
	select {
	case <-closed:
	case <-time.After(testPatience):
		t.Fatal("the POST of the cancelled call stays open")
	}
	p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s}`, id)) // too late
	p.notify("notifications/roots/list_changed", "")
	p.send(`{"jsonrpc":"2.0","id":"nobody","result":{}}`)
	p.echo("meanwhile")
	for _, label := range []string{"notifications/cancelled", "notifications/roots/list_changed", "response"} {
		if got := server.count(label); got != 0 {
			t.Errorf("%s: got %d, want none", label, got)
		}
	}
}

// The token is renewed and the scope widened wherever it is asked for.
func TestBridgeAuthorization(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	server.sessions = false
	auth.scope = anyValue
	server.reply("initialize", rpcFailure(400, -32022, futureVersions))
	server.reply("server/discover", rpcResult(discovered))
	server.subscribes()
	server.reply("tools/call ask", asks(`"q":{"method":"roots/list"}`, `"s"`, `{"content":[]}`))
	server.needs = map[string]string{"tools/call ask": "write", "server/discover": "discover"}
	user := newUser(t, auth, server)
	p := user.start("-u", server.url)
	p.opens()
	server.await("subscriptions/listen", 1)
	p.echo("in")
	auth.expireAccess()
	p.echo("refreshed")
	id := p.request("tools/call", `{"name":"ask"}`)
	question := p.received("roots/list", 1)[0]
	auth.expireAccess()
	p.send(`{"jsonrpc":"2.0","id":` + string(question.ID) + `,"result":{"roots":[]}}`)
	p.result(id)
	if got := auth.count("token refresh_token"); got != 2 {
		t.Errorf("got %d refreshes, want 2", got)
	}
	wantValues(t, "scope", auth.asked("scope"), "tools", "tools discover", "tools discover write")
}

// The host's initialize is answered also when there is no time to find out more.
func TestBridgeStopsBeforeItBegins(t *testing.T) {
	for name, signal := range stopSignals() {
		signal := signal
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startFuture(t)
			release := server.hold("server/discover")
			defer release()
			p := startProxy(t, "-u", server.url)
			id := p.request("initialize", everyCapability)
			server.await("server/discover", 1)
			p.signal(signal)
			p.wait()
			if got := p.failure(id); got.Code != -32022 {
				t.Errorf("got %+v, want the server's own refusal", got)
			}
		})
	}
}

// Nobody waits for the subscription that the server's list changes need: it opens no browser.
func TestBridgeListensWithoutSignIn(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	server.sessions = false
	auth.scope = anyValue
	server.reply("initialize", rpcFailure(400, -32022, futureVersions))
	server.reply("server/discover", rpcResult(discovered))
	server.needs = map[string]string{"subscriptions/listen": "listen"}
	p := newUser(t, auth, server).start("-u", server.url)
	p.opens()
	server.await("subscriptions/listen", 2)
	wantValues(t, "scope", auth.asked("scope"), "tools")
}

// A server that speaks something else by now: its errors reach the host.
func TestBridgeToAServerThatWentBack(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.echo("x")
	server.on("tools/call echo", rpcFailure(400, -32000, ""))
	if got := p.failure(p.request("tools/call", echoParams("x"))); got.Code != -32000 || got.Message != "no" {
		t.Errorf("got %+v", got)
	}
	server.on("tools/list", says(404, "text/html", "<p>"))
	if got := p.failure(p.request("tools/list", "")); !strings.Contains(got.Message, "answered 404") {
		t.Errorf("got %+v", got)
	}
}

// asks answers with input_required until inputResponses come, then with a
// result in which <responses> and <state> stand for what came back.
func asks(requests, state, result string) fakeAnswer {
	return func(w http.ResponseWriter, r *fakeRequest) bool {
		responses, back := member(r.msg.Params, "inputResponses"), member(r.msg.Params, "requestState")
		if responses == nil {
			question := `{"resultType":"input_required","inputRequests":{` + requests + `}`
			if state != "" {
				question += `,"requestState":` + state
			}
			return rpcResult(question+`}`)(w, r)
		}
		result := strings.NewReplacer("<responses>", string(responses), "<state>", string(back)).Replace(result)
		return rpcResult(result)(w, r)
	}
}

const (
	anElicitation = `{"method":"elicitation/create","params":{"mode":"form","message":"<&>?","requestedSchema":{"type":"object","properties":{}}}}`
	aSample       = `{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}`
	aList         = `{"method":"roots/list"}`
)

// replies is what the host says to a question of the server.
func (p *testProxy) replies(question testMessage, member string) {
	p.t.Helper()
	p.send(`{"jsonrpc":"2.0","id":` + string(question.ID) + `,` + member + `}`)
}

// startBridged starts a server that asks and a host that has opened with these params.
func startBridged(t *testing.T, answer fakeAnswer, params string) (*testProxy, *fakeMCP) {
	server := startFuture(t)
	server.reply("tools/call ask", answer)
	p := startProxy(t, "-u", server.url)
	p.call("initialize", params)
	return p, server
}

func TestInputOfAllKinds(t *testing.T) {
	t.Parallel()
	const state = `"eyJ\u00e9\/=="`
	p, server := startBridged(t, asks(`"c\"":`+anElicitation+`,"a":`+aSample+`,"b":`+aList, state, `{"content":[],"got":<responses>,"state":<state>}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask","arguments":{"x":1},"_meta":{"progressToken":9}}`)
	sample, roots, form := p.received("sampling/createMessage", 1)[0], p.received("roots/list", 1)[0], p.received("elicitation/create", 1)[0]
	if got, want := string(form.Params), string(member([]byte(anElicitation), "params")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if sample.line == "" || !isOwnID(sample.ID) || string(sample.ID) == string(roots.ID) {
		t.Errorf("got ids %s and %s, want ones of the proxy's own", sample.ID, roots.ID)
	}
	p.echo("meanwhile")
	p.replies(form, `"result":{"action":"accept","content":{"n":12345678901234567890}}`)
	p.replies(roots, `"result":{"roots":[]}`)
	p.replies(sample, `"result":{"role":"assistant","model":"m","content":{"type":"text","text":"<&>"}}`)
	want := `{"content":[],"got":{"c\"":{"action":"accept","content":{"n":12345678901234567890}},` +
		`"a":{"role":"assistant","model":"m","content":{"type":"text","text":"<&>"}},"b":{"roots":[]}},"state":` + state + `}`
	if got := p.result(id); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	calls := server.requests("tools/call ask")
	if len(calls) != 2 || string(calls[0].msg.ID) == string(calls[1].msg.ID) {
		t.Errorf("got %d calls, want two with an id each", len(calls))
	}
	for _, want := range []string{`"arguments":{"x":1}`, `"progressToken":9`, `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`} {
		if !strings.Contains(calls[1].msg.line, want) {
			t.Errorf("got %s, want the original params, %s among them", calls[1].msg.line, want)
		}
	}
	p.replies(form, `"result":{"action":"cancel"}`) // once more, which answers nothing
	p.echo("after")
	if got := server.count("response"); got != 0 {
		t.Errorf("got %d responses at the server, want none", got)
	}
}

// The prompts and resources may ask as well, nothing else may.
func TestInputOfWhat(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	p := startProxy(t, "-u", server.url)
	p.call("initialize", everyCapability)
	for _, test := range []struct {
		label, method, params string
		may                   bool
	}{
		{"prompts/get ask", "prompts/get", `{"name":"ask"}`, true},
		{"resources/read ask:", "resources/read", `{"uri":"ask:"}`, true},
		{"tools/list", "tools/list", `{}`, false},
		{"completion/complete", "completion/complete", `{}`, false},
	} {
		before := len(p.received("roots/list", 0))
		server.reply(test.label, asks(`"q":`+aList, "", `{"done":<responses>}`))
		id := p.request(test.method, test.params)
		if !test.may {
			if got := p.failure(id); got.Code != -32603 {
				t.Errorf("%s: got %+v", test.method, got)
			}
			continue
		}
		p.replies(p.received("roots/list", before+1)[before], `"result":{"roots":[]}`)
		if got := p.result(id); got != `{"done":{"q":{"roots":[]}}}` {
			t.Errorf("%s: got %s", test.method, got)
		}
		if calls := server.requests(test.label); strings.Contains(calls[1].msg.line, "requestState") {
			t.Errorf("got %s, want no state where there was none", calls[1].msg.line)
		}
	}
}

// Several rounds of several requests at once: each has its own answers and state.
func TestInputInManyRounds(t *testing.T) {
	t.Parallel()
	const calls, rounds = 4, 3
	server := startFuture(t)
	server.on("tools/call ask", func(w http.ResponseWriter, r *fakeRequest) bool {
		who, _ := unquote(member(r.msg.Params, "arguments", "who"))
		round, _ := unquote(member(r.msg.Params, "requestState"))
		if said, _ := unquote(member(r.msg.Params, "inputResponses", "q", "content", "said")); said != round {
			t.Errorf("%s: got %q back in round %q", who, said, round)
		}
		if strings.Count(round, ".") == rounds {
			return rpcResult(`{"content":[],"who":"`+who+`"}`)(w, r)
		}
		if round == "" {
			round = who
		}
		round += "."
		return rpcResult(fmt.Sprintf(`{"resultType":"input_required","requestState":%q,"inputRequests":{"q":{"method":"elicitation/create","params":{"message":%q}}}}`, round, round))(w, r)
	})
	p := startProxy(t, "-u", server.url)
	p.call("initialize", everyCapability)
	ids := map[string]string{}
	for i := 0; i < calls; i++ {
		who := fmt.Sprintf("call-%d", i)
		ids[who] = p.request("tools/call", `{"name":"ask","arguments":{"who":"`+who+`"}}`)
	}
	for n := 0; n < calls*rounds; n++ {
		question := p.received("elicitation/create", n+1)[n]
		said := member(question.Params, "message")
		p.replies(question, `"result":{"action":"accept","content":{"said":`+string(said)+`}}`)
	}
	for who, id := range ids {
		if got := p.result(id); got != `{"content":[],"who":"`+who+`"}` {
			t.Errorf("%s: got %s", who, got)
		}
	}
}

func TestInputRefused(t *testing.T) {
	for name, test := range map[string]struct{ question, reply, want string }{
		"declined":                {anElicitation, `"result":{"action":"decline"}`, `"result":{"got":{"q":{"action":"decline"}}}`},
		"an elicitation fails":    {anElicitation, `"error":{"code":-32601,"message":"Method not found"}`, `"result":{"got":{"q":{"action":"cancel"}}}`},
		"a sample is refused":     {aSample, `"error":{"code":-1,"message":"User rejected sampling request"}`, `"error":{"code":-1,"message":"mcp-proxy: the client refused sampling/createMessage: User rejected sampling request"}`},
		"the roots fail":          {aList, `"error":{"code":-32603,"message":"no"}`, `"error":{"code":-32603,"message":"mcp-proxy: the client refused roots/list: no"}`},
		"the answer is no object": {aList, `"result":null`, `"error":{"code":-32603,"message":"mcp-proxy: the client's answer to roots/list is no object"}`},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := startBridged(t, asks(`"q":`+test.question, `"s"`, `{"got":<responses>}`), everyCapability)
			id := p.request("tools/call", `{"name":"ask"}`)
			method, _ := unquote(member([]byte(test.question), "method"))
			p.replies(p.received(method, 1)[0], test.reply)
			if got, want := p.answer(id).line, `{"jsonrpc":"2.0","id":`+id+`,`+test.want+`}`; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// When one answer ends the request, the host need not think about the others.
func TestInputIsWithdrawn(t *testing.T) {
	t.Parallel()
	p, server := startBridged(t, asks(`"a":`+aSample+`,"b":`+anElicitation, "", `{}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask"}`)
	form := p.received("elicitation/create", 1)[0]
	p.replies(p.received("sampling/createMessage", 1)[0], `"error":{"code":-1,"message":"no"}`)
	p.failure(id)
	if got, want := string(p.received("notifications/cancelled", 1)[0].Params), `{"requestId":`+string(form.ID)+`}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	id = p.request("tools/call", `{"name":"ask"}`)
	p.received("elicitation/create", 2)
	p.unexpect(id)
	p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s}`, id))
	p.received("notifications/cancelled", 3)
	p.echo("meanwhile")
	if got := server.count("tools/call ask"); got != 2 {
		t.Errorf("got %d calls, want no round after the end", got)
	}
}

// What the host cannot do it is not asked, nor what nobody knows.
func TestInputThatIsNotAsked(t *testing.T) {
	host := func(capabilities string) string {
		return `{"protocolVersion":"2025-11-25","capabilities":` + capabilities + `,"clientInfo":{"name":"x","version":"1"}}`
	}
	const aURL = `{"method":"elicitation/create","params":{"mode":"url","message":"?","url":"https://x.example/"}}`
	many := make([]string, maxInputs+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"%d":%s`, i, aList)
	}
	for name, test := range map[string]struct{ requests, host string }{
		"no sampling":        {`"q":` + aSample, host(`{"elicitation":{},"roots":{}}`)},
		"no tools":           {`"q":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1,"tools":[]}}`, host(`{"sampling":{}}`)},
		"no roots":           {`"q":` + aList, host(`{"elicitation":{},"sampling":{}}`)},
		"no elicitation":     {`"q":` + anElicitation, host(`{"sampling":{},"roots":{}}`)},
		"no URLs":            {`"q":` + aURL, host(`{"elicitation":{}}`)},
		"URLs alone":         {`"q":` + anElicitation, host(`{"elicitation":{"url":{}}}`)},
		"one of two":         {`"a":` + anElicitation + `,"b":` + aSample, host(`{"elicitation":{}}`)},
		"an unknown kind":    {`"q":{"method":"tools/call","params":{}}`, everyCapability},
		"no kind":            {`"q":{}`, everyCapability},
		"no request":         {`"q":[1]`, everyCapability},
		"more than too many": {strings.Join(many, ","), everyCapability},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, server := startBridged(t, asks(test.requests, `"s"`, `{}`), test.host)
			if got := p.failure(p.request("tools/call", `{"name":"ask"}`)); got.Code != -32603 {
				t.Errorf("got %+v", got)
			}
			p.echo("goes on")
			if got := len(p.messages); got != 0 {
				t.Errorf("got %d messages, want no question", got)
			}
			if got := server.count("tools/call ask"); got != 1 {
				t.Errorf("got %d calls, want 1", got)
			}
		})
	}
}

func TestInputOfOddResults(t *testing.T) {
	big := `"` + strings.Repeat("s", 1<<20) + `"`
	for name, test := range map[string]struct {
		result string
		fails  bool
	}{
		"nothing asked":           {`{"resultType":"input_required"}`, true},
		"nothing asked, empty":    {`{"resultType":"input_required","inputRequests":{},"requestState":null}`, true},
		"requests in a list":      {`{"resultType":"input_required","inputRequests":[]}`, true},
		"state alone":             {`{"resultType":"input_required","requestState":"s"}`, false},
		"state and no requests":   {`{"resultType":"input_required","inputRequests":null,"requestState":"s"}`, false},
		"an enormous state":       {`{"resultType":"input_required","requestState":` + big + `}`, false},
		"a state of another sort": {`{"resultType":"input_required","requestState":{"a":[1]}}`, false},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := startBridged(t, func(w http.ResponseWriter, r *fakeRequest) bool {
				state := member(r.msg.Params, "requestState")
				if state == nil {
					return rpcResult(test.result)(w, r)
				}
				if want := member([]byte(test.result), "requestState"); string(state) != string(want) {
					t.Errorf("got a state of %d bytes, want %d as they were", len(state), len(want))
				}
				if strings.Contains(r.msg.line[:min(2000, len(r.msg.line))], "inputResponses") {
					t.Error("got inputResponses where nothing was asked")
				}
				return rpcResult(`{"content":[]}`)(w, r)
			}, everyCapability)
			id := p.request("tools/call", `{"name":"ask"}`)
			if !test.fails {
				p.result(id)
			} else if got := p.failure(id); got.Code != -32603 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// A server that never has enough is given up.
func TestInputWithoutEnd(t *testing.T) {
	t.Parallel()
	p, server := startBridged(t, rpcResult(`{"resultType":"input_required","inputRequests":{"q":`+aList+`}}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask"}`)
	for n := 0; n < maxRounds; n++ {
		p.replies(p.received("roots/list", n+1)[n], `"result":{"roots":[]}`)
	}
	if got := p.failure(id); !strings.Contains(got.Message, "more than 100 times") {
		t.Errorf("got %+v", got)
	}
	if got := server.count("tools/call ask"); got != maxRounds {
		t.Errorf("got %d calls, want %d", got, maxRounds)
	}
}

// A host that has revision 2025-11-25 needs an id for a URL that it shows.
func TestInputOfURLs(t *testing.T) {
	t.Parallel()
	p, _ := startBridged(t, asks(`"q":{"method":"elicitation/create","params":{"mode":"url","message":"?","url":"https://x.example/"}}`, "", `{"got":<responses>}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask"}`)
	question := p.received("elicitation/create", 1)[0]
	if got, _ := unquote(member(question.Params, "elicitationId")); got == "" {
		t.Errorf("got %s, want an elicitationId", question.Params)
	}
	p.replies(question, `"result":{"action":"accept"}`)
	p.result(id)
}

// The end of the host is the end of what it was asked.
func TestInputAtTheEnd(t *testing.T) {
	for name, end := range endings() {
		name, end := name, end
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, server := startBridged(t, asks(`"q":`+anElicitation, "", `{}`), everyCapability)
			id := p.request("tools/call", `{"name":"ask"}`)
			p.received("elicitation/create", 1)
			began := time.Now()
			end(p)
			p.wait()
			p.failure(id)
			if took := time.Since(began); took >= drainTime {
				t.Errorf("the program ended after %v: there was nothing to wait for", took)
			}
			if got := server.count("tools/call ask"); got != 1 {
				t.Errorf("got %d calls, want 1", got)
			}
		})
	}
}

// An answer that was read before the end still counts.
func TestInputAnsweredAtTheEnd(t *testing.T) {
	t.Parallel()
	p, _ := startBridged(t, asks(`"q":`+aList, "", `{"content":[]}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask"}`)
	p.replies(p.received("roots/list", 1)[0], `"result":{"roots":[]}`)
	p.closeStdin()
	p.result(id)
}

// Nobody is asked who is gone.
func TestInputAskedAfterTheEnd(t *testing.T) {
	t.Parallel()
	p, server := startBridged(t, asks(`"q":`+aList, "", `{}`), everyCapability)
	server.acknowledges("")
	p.notify("notifications/initialized", "")
	server.filter(1)
	release := server.hold("tools/call ask")
	id := p.request("tools/call", `{"name":"ask"}`)
	server.await("tools/call ask", 1)
	p.closeStdin()
	eventually(t, "the end of the subscription, by which the end of input shows", func() bool { return server.answered("subscriptions/listen") == 1 })
	release()
	if got := p.failure(id); !strings.Contains(got.Message, "closed its input") {
		t.Errorf("got %+v", got)
	}
	if got := len(p.messages); got != 0 {
		t.Errorf("got %d messages, want no question", got)
	}
}

// acknowledges answers subscriptions/listen as subscribes does, and honors the
// filter as it is, without the resources of which refused is a prefix.
func (s *fakeMCP) acknowledges(refused string) {
	s.reply("subscriptions/listen", func(w http.ResponseWriter, r *fakeRequest) bool {
		stream, filter := startEvents(w), string(member(r.msg.Params, "notifications"))
		if refused != "" {
			filter = strings.ReplaceAll(filter, `"`+refused, `"not-`+refused)
		}
		meta := `"_meta":{"io.modelcontextprotocol/subscriptionId":` + string(r.msg.ID) + `}`
		stream.send(`data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":` + filter + `,` + meta + `}}`)
		next := 0
		s.change(func() { next, s.streams = len(s.pushed), s.streams+1 })
		for ; s.wait(r.Context(), func() bool { return len(s.pushed) > next }); next++ {
			s.mu.Lock()
			line := s.pushed[next]
			s.mu.Unlock()
			if line == "" {
				return true
			}
			stream.send("data: " + strings.ReplaceAll(line, "<meta>", meta))
		}
		return true
	})
}

// filter waits for the n-th subscription that is acknowledged: what is pushed from then on comes on it.
func (s *fakeMCP) filter(n int) string {
	s.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	if !s.wait(ctx, func() bool { return s.streams >= n }) {
		s.t.Fatalf("waited in vain for subscription %d; saw %q", n, s.labels())
	}
	return string(member(s.await("subscriptions/listen", n).msg.Params, "notifications"))
}

const (
	toolsChanged    = `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{<meta>}}`
	promptsChanged  = `{"jsonrpc":"2.0","method":"notifications/prompts/list_changed","params":{<meta>}}`
	resourceChanged = `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{<meta>,"uri":"x:1"}}`
)

func TestBridgeListens(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("")
	p := startProxy(t, "-u", server.url)
	p.call("initialize", everyCapability)
	p.echo("not yet")
	if got := server.count("subscriptions/listen"); got != 0 {
		t.Errorf("got %d subscriptions before notifications/initialized", got)
	}
	p.notify("notifications/initialized", "")
	if got, want := server.filter(1), `{"toolsListChanged":true}`; got != want {
		t.Errorf("got %s, want what the server announces: %s", got, want)
	}
	server.push(promptsChanged) // which was not asked for
	server.push(toolsChanged)
	if got, want := p.received("notifications/tools/list_changed", 1)[0].line, `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	if got := p.call("resources/subscribe", `{"uri":"x:1"}`); got != `{}` {
		t.Errorf("got %s", got)
	}
	if got, want := server.filter(2), `{"toolsListChanged":true,"resourceSubscriptions":["x:1"]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	eventually(t, "the end of the first stream", func() bool { return server.answered("subscriptions/listen") == 1 })
	server.push(strings.Replace(resourceChanged, "x:1", "x:2", 1)) // which was not asked for
	server.push(resourceChanged)
	if got, want := p.received("notifications/resources/updated", 1)[0].line, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:1"}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.call("resources/subscribe", `{"uri":"x:1"}`) // again, which changes nothing
	p.call("resources/unsubscribe", `{"uri":"x:1"}`)
	if got, want := server.filter(3), `{"toolsListChanged":true}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.call("resources/unsubscribe", `{"uri":"x:1"}`)
	p.failure(p.request("resources/subscribe", `{}`))
	if got := len(p.messages); got != 2 {
		t.Errorf("got %d messages, want the two", got)
	}
	began := time.Now()
	p.closeStdin()
	p.wait()
	if took := time.Since(began); took >= drainTime {
		t.Errorf("the program ended after %v: there was nothing to wait for", took)
	}
	if got := server.count("subscriptions/listen"); got != 3 {
		t.Errorf("got %d subscriptions, want 3", got)
	}
}

// What the first request brings about is heard.
func TestBridgeListensFirst(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("")
	server.reply("tools/call change", func(w http.ResponseWriter, r *fakeRequest) bool {
		server.push(toolsChanged)
		return rpcResult(`{"content":[]}`)(w, r)
	})
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.call("tools/call", `{"name":"change"}`)
	p.received("notifications/tools/list_changed", 1)
}

// A server that acknowledges nothing is listened to on one stream all the same.
func TestBridgeListensWithoutAcknowledgement(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.reply("subscriptions/listen", func(w http.ResponseWriter, r *fakeRequest) bool {
		startEvents(w).send(": open")
		<-r.Context().Done()
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.call("resources/subscribe", `{"uri":"x:1"}`)
	eventually(t, "the end of the first stream", func() bool { return server.answered("subscriptions/listen") == 1 })
}

// A stream that breaks, or that the server ends, is opened again.
func TestBridgeListensAgain(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("")
	p := startProxy(t, "-u", server.url)
	p.opens()
	server.filter(1)
	p.call("resources/subscribe", `{"uri":"x:1"}`)
	filter := server.filter(2)
	server.push("") // breaks off
	if got := server.filter(3); got != filter {
		t.Errorf("got %s, want %s", got, filter)
	}
	server.on("subscriptions/listen", func() fakeAnswer {
		first := true
		return func(w http.ResponseWriter, r *fakeRequest) bool {
			was := first
			first = false
			return was && rpcFailure(200, -32603, "")(w, r) // "Subscription limit reached"
		}
	}())
	server.push("")
	server.filter(4) // the fifth request
	eventually(t, "the subscription", func() bool {
		server.push(resourceChanged)
		return len(p.received("notifications/resources/updated", 0)) > 0
	})
}

func TestBridgeListensNoMore(t *testing.T) {
	for name, answer := range map[string]fakeAnswer{
		"unknown":     rpcFailure(404, -32601, ""),
		"405":         says(405, "", ""),
		"bad params":  rpcFailure(400, -32602, ""),
		"bad, in 200": rpcFailure(200, -32602, ""),
	} {
		answer := answer
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startFuture(t)
			server.reply("subscriptions/listen", answer)
			p := startProxy(t, "-u", server.url)
			p.opens()
			eventually(t, "the refusal", func() bool { return server.answered("subscriptions/listen") == 1 })
			p.failure(p.request("resources/subscribe", `{"uri":"x:1"}`))
			p.echo("goes on")
		})
	}
}

// A resource to which the server accepts no subscription.
func TestBridgeSubscriptionThatIsNotHonored(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("secret:")
	p := startProxy(t, "-u", server.url)
	p.opens()
	server.filter(1)
	p.call("resources/subscribe", `{"uri":"x:1"}`)
	if got := p.failure(p.request("resources/subscribe", `{"uri":"secret:1"}`)); got.Code != -32002 {
		t.Errorf("got %+v", got)
	}
	eventually(t, "the subscription that was", func() bool {
		server.push(resourceChanged)
		return len(p.received("notifications/resources/updated", 0)) > 0
	})
	if got := server.count("subscriptions/listen"); got != 3 {
		t.Errorf("got %d subscriptions, want 3: the one before goes on", got)
	}
}

// A host that says all it has to say at once, and closes its input, is not listened for.
func TestBridgeListensToNothingAfterTheEnd(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("")
	release := server.hold("server/discover")
	p := startProxy(t, "-u", server.url)
	id := p.request("initialize", everyCapability)
	p.notify("notifications/initialized", "")
	server.await("server/discover", 1)
	began := time.Now()
	p.closeStdin()
	release()
	p.result(id)
	p.wait()
	if took := time.Since(began); took >= drainTime {
		t.Errorf("the program ended after %v: there was nothing to wait for", took)
	}
}

func TestBridgeListensUntilTheEnd(t *testing.T) {
	for name, end := range endings() {
		end := end
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startFuture(t)
			server.acknowledges("")
			p := startProxy(t, "-u", server.url)
			p.opens()
			server.await("subscriptions/listen", 1)
			began := time.Now()
			end(p)
			p.wait()
			if took := time.Since(began); took >= drainTime {
				t.Errorf("the program ended after %v: there was nothing to wait for", took)
			}
		})
	}
}

// wireChanges are what differs from one run to the next.
var wireChanges = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`session-[0-9A-Za-z_-]+`), "<session>"},
	{regexp.MustCompile(`mcp-proxy/[^ \n]+`), "mcp-proxy/<version>"},
	{regexp.MustCompile(`"mcp-proxy:[^"]+"`), `"<own>"`},
}

// wire is all that an origin received, to the byte, in alphabetical order:
// some of it is sent at the same time.
func (o *fakeOrigin) wire() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []string
	for _, r := range o.seen {
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s\n", r.Method, r.URL)
		var names []string
		for name := range r.Header {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(r.Header[name], ", "))
		}
		fmt.Fprintf(&b, "%s\n", r.body)
		text := b.String()
		for _, change := range wireChanges {
			text = change.pattern.ReplaceAllString(text, change.with)
		}
		all = append(all, text)
	}
	sort.Strings(all)
	return strings.Join(all, "\n")
}

// everyday is what a host says to a server in the course of a day. The fake of
// revision 2024-11-05 knows but the first few requests.
func everyday(p *testProxy, version string) {
	p.answer(p.request("initialize", `{"protocolVersion":"`+version+`","capabilities":{"roots":{"listChanged":true},"sampling":{},"elicitation":{}},"clientInfo":{"name":"yesterday","version":"1"}}`))
	p.notify("notifications/initialized", "")
	requests := []struct{ method, params string }{
		{"ping", ""}, {"tools/list", "{}"}, {"tools/call", `{"name":"echo","arguments":{"text":"<&>"},"_meta":{"progressToken":7}}`},
		{"logging/setLevel", `{"level":"info"}`}, {"resources/subscribe", `{"uri":"x:1"}`}, {"resources/unsubscribe", `{"uri":"x:1"}`},
		{"resources/read", `{"uri":"x:none"}`}, {"prompts/get", `{ "name":"none" }`}, {"completion/complete", "{}"}, {"no/such", ""},
	}
	if version == "2024-11-05" {
		requests = requests[:3]
	}
	for _, request := range requests {
		p.answer(p.request(request.method, request.params))
	}
	p.notify("notifications/roots/list_changed", "")
	p.send(`{"jsonrpc":"2.0","id":"from-the-server","result":{"roots":[]}}`)
	p.notify("notifications/cancelled", `{"requestId":99}`)
	p.answer(p.request("ping", ""))
	p.closeStdin()
	p.wait()
}

// What a server of the host's revision is sent is what it was sent before there was a bridge.
// testdata/wire was recorded then; a change that is meant is recorded with MCP_PROXY_TEST_RECORD=1.
func TestOldServersSeeNoBridge(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) (origin *fakeOrigin, url, version string){
		"2025-11-25 with sessions and streams": func(t *testing.T) (*fakeOrigin, string, string) {
			s := startMCP(t)
			s.events, s.listens = true, true
			return s.fakeOrigin, s.url, "2025-11-25"
		},
		"2025-06-18 without": func(t *testing.T) (*fakeOrigin, string, string) {
			s := startMCP(t)
			s.sessions = false
			return s.fakeOrigin, s.url, "2025-06-18"
		},
		"2025-03-26 that negotiates": func(t *testing.T) (*fakeOrigin, string, string) {
			s := startMCP(t)
			s.version = "2025-03-26"
			return s.fakeOrigin, s.url, "2025-11-25"
		},
		"2024-11-05": func(t *testing.T) (*fakeOrigin, string, string) {
			s := startLegacy(t)
			return s.fakeOrigin, s.url, "2024-11-05"
		},
		"refuses the version": func(t *testing.T) (*fakeOrigin, string, string) {
			s := startMCP(t)
			s.lenient, s.sessions = true, false
			s.on("initialize", says(400, "application/json", `{"jsonrpc":"2.0","id":<id>,"error":{"code":-32602,"message":"Unsupported protocol version","data":{"supported":["2024-11-05"],"requested":"2025-11-25"}}}`))
			return s.fakeOrigin, s.url, "2025-11-25"
		},
		"out of order": func(t *testing.T) (*fakeOrigin, string, string) {
			s := startMCP(t)
			s.lenient, s.sessions = true, false
			s.on("initialize", says(500, "text/html", "<p>"))
			return s.fakeOrigin, s.url, "2025-11-25"
		},
	} {
		start := start
		file := filepath.Join("testdata", "wire", strings.ReplaceAll(name, " ", "-")+".txt")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			origin, url, version := start(t)
			everyday(startProxy(t, "-u", url), version)
			got := origin.wire()
			if os.Getenv("MCP_PROXY_TEST_RECORD") != "" {
				fatal(t, os.MkdirAll(filepath.Dir(file), 0o755))
				fatal(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			fatal(t, err)
			if got != string(want) {
				t.Errorf("got another traffic than %s:\n%s", file, got)
			}
		})
	}
}
