package main

// Revision 2024-11-05: how it is found out, what its endpoint may be, and what
// happens when the one stream breaks.

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

var legacyStory = []string{"GET", "initialize", "notifications/initialized", "tools/call echo"}

func TestLegacyIsFoundOut(t *testing.T) {
	for name, refusal := range map[string]fakeAnswer{
		"405":             says(405, "text/plain", "Method Not Allowed"),
		"404 HTML":        says(404, "text/html", "<pre>Cannot POST /sse</pre>"),
		"400 empty":       says(400, "", ""),
		"400 JSON":        says(400, "application/json", `{"detail":"Method Not Allowed"}`),
		"405 without end": neverEnding(405, "text/plain", "Met"),
		"its own stream": neverEnding(200, "text/event-stream",
			"event: endpoint\ndata: /messages?session_id=of-the-post\n\n"),
	} {
		refusal := refusal
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startLegacy(t)
			server.refusal = refusal
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.echo("hello")
			if got, want := server.labels(),
				append([]string{"POST"}, legacyStory...); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestLegacyByChoice(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		protocol := protocol
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := startLegacy(t, protocol)
			p := startProxy(t, "-u", server.url, "--transport", "sse")
			p.initialize()
			p.echo("hello")
			if got := server.labels(); !slices.Equal(got, legacyStory) {
				t.Errorf("got %q, want %q", got, legacyStory)
			}
		})
	}
}

func TestNotLegacy(t *testing.T) {
	for name, test := range map[string]struct {
		args    []string
		refusal fakeAnswer
		code    int
	}{
		"--transport http": {[]string{"--transport", "http"}, says(405, "text/plain", "no"),
			-32000},
		"a JSON-RPC error": {nil,
			says(400, "application/json",
				`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}`), -32600},
		"500":                      {nil, says(500, "text/plain", "no"), -32000},
		"403":                      {nil, says(403, "text/plain", "no"), -32000},
		"neither the one nor this": {nil, says(404, "text/plain", "no"), -32000},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startLegacy(t)
			server.refusal, server.opens = test.refusal, false
			p := startProxy(t, append(test.args, "-u", server.url)...)
			for i := 1; i <= 2; i++ {
				if got := p.failure(p.request("initialize", initializeParams)); got.Code != test.code {
					t.Errorf("got error %d %q, want %d", got.Code, got.Message, test.code)
				}
				if name == "neither the one nor this" {
					continue
				}
				if got := server.count("GET"); got != 0 {
					t.Errorf("got %d GET, want none", got)
				}
			}
		})
	}
}

// The endpoint takes the token and all that the client says: it must be of the server's own origin.
func TestLegacyEndpoint(t *testing.T) {
	foreign := startOrigin(t)
	foreign.on("*", says(202, "", ""))
	for name, test := range map[string]struct {
		endpoint string // <base>, <host>: the server's own; <id>: the stream's
		good     bool
	}{
		"path":           {"/messages?session_id=<id>", true},
		"relative":       {"messages?session_id=<id>", true},
		"absolute":       {"<base>/messages?session_id=<id>", true},
		"network path":   {"//<host>/messages?session_id=<id>", true},
		"in capitals":    {"HTTPS://<host>/messages?session_id=<id>", true},
		"another origin": {foreign.base + "/messages?session_id=<id>", false},
		"another path": {strings.Replace(foreign.base, "https:", "", 1) + "/messages?session_id=<id>",
			false},
		"another name": {strings.Replace(foreign.base, "127.0.0.1", "localhost", 1) + "/messages",
			false},
		"another scheme":   {"http://<host>/messages?session_id=<id>", false},
		"with a user":      {"https://user:secret@<host>/messages?session_id=<id>", false},
		"no URL":           {"https://[::1/messages", false},
		"a script":         {"javascript:alert(1)", false},
		"other characters": {"https:\\\\127.0.0.1:1\\messages", false},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startLegacy(t)
			server.endpoint = func(id int) string {
				host := strings.TrimPrefix(server.base, "https://")
				return strings.NewReplacer("<base>", server.base, "<host>", host, "<id>",
					fmt.Sprint(id)).Replace(test.endpoint)
			}
			p := startProxy(t, "-u", server.url)
			if test.good {
				p.initialize()
				p.echo("hello")
				return
			}
			if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message,
				"endpoint") || strings.Contains(got.Message, "secret") {
				t.Errorf("got %q, want a word about the endpoint", got.Message)
			}
			if got := server.count("initialize"); got != 0 {
				t.Errorf("got %q, want no message sent", server.labels())
			}
		})
	}
	t.Cleanup(func() {
		if got := foreign.labels(); len(got) != 0 {
			t.Errorf("the foreign origin got %q", got)
		}
	})
}

// A server that does not know the prefix under which it is reached is told from others.
func TestLegacyEndpointWithoutPrefix(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	server.on("GET /app/sse",
		neverEnding(200, "text/event-stream", "event: endpoint\ndata: /none?session_id=1\n\n"))
	p := startProxy(t, "-u", server.base+"/app/sse", "--transport", "sse")
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message,
		"404 Not Found: 404 page not found; hint: the server says that messages go to /none, which is not below /app/: ") {
		t.Errorf("got %q", got.Message)
	}
}

// Somebody may choose this transport for a URL that is a page.
func TestLegacyStreamIsAPage(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	server.on("GET", neverEnding(200, "text/html", "event: endpoint\ndata: /messages\n\n"))
	p := startProxy(t, "-u", server.url, "--transport", "sse")
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message,
		"no event stream") {
		t.Errorf("got %q", got.Message)
	}
	if got := server.labels(); !slices.Equal(got, []string{"GET"}) {
		t.Errorf("got %q", got)
	}
}

func TestLegacyServerAsks(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("connected")
	const question, answer = `{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{}}`, `{"jsonrpc":"2.0","id":"q","result":{}}`
	server.say(question)
	if got := p.received("sampling/createMessage", 1)[0].line; got != question {
		t.Errorf("got %s", got)
	}
	p.send(answer)
	if got := string(server.await("response", 1).body); got != answer {
		t.Errorf("got %s", got)
	}
}

// What an answer's id means counts here as well.
func TestLegacyAnswerWithOtherID(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	server.reply("tools/call odd", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.WriteHeader(http.StatusAccepted)
		server.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":"%s","result":{"content":[]}}`, r.msg.ID))
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.call("tools/call", `{"name":"odd"}`)
}

func TestLegacyCancelledIsForwarded(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	server.reply("tools/call slow", says(202, "", "")) // and never a word
	p := startProxy(t, "-u", server.url)
	p.initialize()
	id := p.request("tools/call", `{"name":"slow"}`)
	server.await("tools/call slow", 1)
	p.unexpect(id)
	p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s}`, id))
	server.await("notifications/cancelled", 1)
	p.echo("on it goes")
}

// When the stream breaks what waits for it is answered, and the next messages
// connect and initialize anew, once, with the client's own words.
func TestLegacyStreamBreaks(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	server.reply("tools/call slow", says(202, "", ""))
	p := startProxy(t, "-u", server.url)
	p.initialize()
	var slow []string
	for i := 0; i < 5; i++ {
		slow = append(slow, p.request("tools/call", `{"name":"slow"}`))
	}
	server.await("tools/call slow", 5)
	server.cut()
	for _, id := range slow {
		p.failure(id)
	}
	var next []string
	for i := 0; i < 10; i++ {
		next = append(next, p.request("tools/call", echoParams("again")))
	}
	for _, id := range next {
		p.echoed(id, "again")
	}
	hello := server.requests("initialize")
	if len(hello) != 2 || server.count("notifications/initialized") != 2 || server.count("GET") != 2 {
		t.Fatalf("got %q, want one more GET, initialize and notifications/initialized", server.labels())
	}
	own := hello[1].msg
	if got := strings.Replace(own.line, `"id":`+string(own.ID), `"id":1`,
		1); got != hello[0].msg.line {
		t.Errorf("got  %s\nwant %s", got, hello[0].msg.line)
	}
}

// A notification connects anew as well.
func TestLegacyNotificationAfterBreak(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	server.reply("tools/call slow", says(202, "", ""))
	p := startProxy(t, "-u", server.url)
	p.initialize()
	slow := p.request("tools/call", `{"name":"slow"}`)
	server.await("tools/call slow", 1)
	server.cut()
	p.failure(slow)
	p.notify("notifications/roots/list_changed", "")
	server.await("notifications/roots/list_changed", 1)
	if got, want := server.labels()[5:],
		[]string{"GET", "initialize", "notifications/initialized",
			"notifications/roots/list_changed"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// While the server is not to be had, or takes nobody, each message is answered; when it is back,
// all is well.
func TestLegacyServerComesBack(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	server.reply("tools/call slow", says(202, "", ""))
	slow := p.request("tools/call", `{"name":"slow"}`)
	server.await("tools/call slow", 1)
	server.change(func() { server.opens = false })
	server.cut()
	p.failure(slow)
	if got := p.failure(p.request("tools/call", echoParams("x"))); !strings.Contains(got.Message,
		"503") {
		t.Errorf("got %q", got.Message)
	}
	server.change(func() { server.opens = true })
	refuses := true
	server.reply("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
		if refuses {
			w.WriteHeader(http.StatusAccepted)
			server.say(r.msg.failure(-32603, "not yet"))
		}
		return refuses
	})
	p.failure(p.request("tools/call", echoParams("x")))
	server.change(func() { refuses = false })
	p.echo("back again")
}

// A stream that breaks at once, again and again, costs each message one attempt.
func TestLegacyStreamBreaksAtOnce(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("before")
	server.reply("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.WriteHeader(http.StatusAccepted)
		server.cut()
		return true
	})
	server.reply("tools/call slow", says(202, "", ""))
	slow := p.request("tools/call", `{"name":"slow"}`)
	server.await("tools/call slow", 1)
	server.cut()
	p.failure(slow)
	for i := 0; i < 3; i++ {
		p.failure(p.request("tools/call", echoParams("x")))
	}
	if got := server.count("GET"); got != 1+3 || server.count("POST") != 1 {
		t.Errorf("got %q", server.labels())
	}
}

func TestLegacyEndpointRefuses(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	server.reply("tools/call odd", says(500, "text/html", "<p>secret"))
	server.reply("tools/call stuck", neverEnding(400, "text/html", "<p>secret"))
	p := startProxy(t, "-u", server.url)
	p.initialize()
	for name, status := range map[string]string{"odd": "500", "stuck": "400"} {
		if got := p.failure(p.request("tools/call",
			fmt.Sprintf(`{"name":%q}`, name))); !strings.Contains(got.Message, status) ||
			strings.Contains(got.Message, "secret") {
			t.Errorf("%s: got %q", name, got.Message)
		}
	}
	p.echo("on it goes")
}

// A modern message cannot be carried; the host is told at once and may fall back.
func TestLegacyAndModern(t *testing.T) {
	for _, transport := range []string{"auto", "sse"} {
		transport := transport
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			server := startLegacy(t)
			p := startProxy(t, "-u", server.url, "--transport", transport)
			p.failure(p.modern("server/discover", ""))
			p.initialize()
			p.echo("in the old way")
			if got := p.failure(p.modern("server/discover", "")); got.Code != -32601 {
				t.Errorf("got error %d, want -32601", got.Code)
			}
			if posts := server.count("POST"); transport == "sse" && posts != 0 {
				t.Errorf("got %d POST to the stream's URL, want none", posts)
			}
		})
	}
}

func TestLegacyAuthorization(t *testing.T) {
	for _, transport := range []string{"auto", "sse"} {
		transport := transport
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			server := startLegacy(t)
			server.prmPath, server.resource = "/.well-known/oauth-protected-resource/sse", server.url
			auth := newFakeAuth(startOrigin(t))
			auth.resource, server.auth, server.scope = server.resource, auth, "tools"
			p := newUser(t, auth, server).start("-u", server.url, "--transport", transport)
			p.initialize()
			p.echo("signed in")
			auth.expireAccess()
			p.echo("refreshed")
			server.reply("tools/call slow", says(202, "", ""))
			slow := p.request("tools/call", `{"name":"slow"}`)
			server.await("tools/call slow", 1)
			auth.expireAccess()
			server.cut()
			p.failure(slow)
			p.echo("connected anew with a new token")
			if auth.count("authorize") != 1 || auth.count("token refresh_token") != 2 {
				t.Errorf("got %q, want one sign-in and two refreshes", auth.labels())
			}
		})
	}
}

// The end closes the stream, and there is nothing to DELETE.
func TestLegacyEnds(t *testing.T) {
	for name, end := range endings() {
		end := end
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startLegacy(t)
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.echo("x")
			began := time.Now()
			end(p)
			p.wait()
			if took := time.Since(began); took >= drainTime {
				t.Errorf("the end took %v", took)
			}
			if got := server.count("DELETE"); got != 0 {
				t.Errorf("got %d DELETE, want none", got)
			}
		})
	}
}

// The endpoint of an old server takes the token: it is of that server's own origin, whoever reads its URL.
func FuzzLegacyEndpoint(f *testing.F) {
	for _, raw := range []string{
		"/messages?sessionId=1", "https://mcp.example/m", "https://MCP.EXAMPLE:443/m", "//evil.example/m", "https://mcp.example@evil.example/", "https://mcp.example\\@evil.example/", "?a=b", "", "http://mcp.example/m",
		"https:mcp.example", "https://mcp.example:4430/", "/\r\nEvil: 1", "javascript:alert(1)", "https://[::1]/", "/%0d%0a", "https://mcp.example./", "? ", "?a HTTP/1.1\t",
	} {
		f.Add(raw)
	}
	server, _ := url.Parse("https://mcp.example/sse?key=1")
	f.Fuzz(func(t *testing.T, raw string) {
		endpoint, err := (&legacy{upstream: &upstream{server: server}}).endpointOf(raw)
		if err != nil {
			checkSaid(t, err.Error(), 0)
			return
		}
		req := (&upstream{}).request(context.Background(), http.MethodPost, endpoint, nil)
		if host := strings.TrimSuffix(strings.ToLower(req.URL.Host), ":443"); req.URL.Scheme != "https" || strings.TrimSuffix(host, ":") != "mcp.example" || req.URL.User != nil {
			t.Fatalf("%q leads to %s", raw, req.URL)
		}
		var wire bytes.Buffer
		if req.Write(&wire) != nil {
			return
		}
		got, err := http.ReadRequest(bufio.NewReader(&wire))
		if err != nil {
			t.Fatalf("%q: the request cannot be read: %v", raw, err)
		}
		if !strings.HasPrefix(strings.ToLower(got.Host), "mcp.example") || len(got.Header) > 2 {
			t.Fatalf("%q: got a request to %q with %v", raw, got.Host, got.Header)
		}
	})
}

// A server that routes before it authorizes asks for the sign-in at the event stream: what
// becomes of that is what the client hears, not the refusal of the POST.
func TestLegacySignInThatFails(t *testing.T) {
	t.Parallel()
	server := startLegacy(t)
	server.prmPath, server.resource = "/.well-known/oauth-protected-resource/sse", server.url
	auth := newFakeAuth(startOrigin(t))
	auth.resource, auth.scope, server.scope = server.resource, "tools", "tools"
	server.auth = auth
	server.on("POST", says(http.StatusMethodNotAllowed, "", ""))
	user := newUser(t, auth, server)
	user.browser = "deny"
	p := user.start("-u", server.url)
	got := p.failure(p.request("initialize", initializeParams)).Message
	if !strings.Contains(got, "denied") {
		t.Errorf("got %q, want that the sign-in was denied", got)
	}
}
