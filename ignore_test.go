package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

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
		f, err := newToolFilter([]string{"nothing", test.glob})
		if err != nil || f.hides(test.tool) != test.want {
			t.Errorf("%s, %s: got %v (%v), want %v", test.glob, test.tool, !test.want, err, test.want)
		}
	}
}

func TestFilteredListKeepsItsBytes(t *testing.T) {
	f, err := newToolFilter([]string{"bad*"})
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
