package main

// What a server of the host's revision is sent: the same as before there was a
// bridge. testdata/wire was recorded with the commit before it; a change of
// the wire that is meant is recorded with MCP_PROXY_TEST_RECORD=1.

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
)

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
