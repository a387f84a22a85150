package main

// What the program holds of the messages that have passed. /proc tells.

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// The memory of a large message goes back to the system, whichever way it came.
func TestLargeMessagesAreForgotten(t *testing.T) {
	const size, kept = 32 << 20, 16 // bytes, and MiB: half of it
	if largeSize < size {
		t.Skip("the race detector keeps memory of its own")
	}
	for _, how := range []string{"body", "event", "request"} {
		how := how
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			text := `"` + strings.Repeat("x", size) + `"`
			server.on("tools/call large", func(w http.ResponseWriter, r *fakeRequest) bool {
				switch how {
				case "request":
					return says(200, "application/json", r.msg.result(`{}`))(w, r)
				case "event":
					startEvents(w).send("data: " + r.msg.result(text))
					return true
				}
				return says(200, "application/json", r.msg.result(text))(w, r)
			})
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.echo("before")
			before := usageOf(p.cmd.Process.Pid).resident
			if how == "request" {
				p.call("tools/call", `{"name":"large","arguments":{"text":`+text+`}}`)
			} else {
				p.call("tools/call", `{"name":"large"}`)
			}
			now := 0.0
			eventually(t, fmt.Sprintf("no more than %d MiB kept of %d", kept, size>>20), func() bool {
				now = usageOf(p.cmd.Process.Pid).resident
				return now < before+kept
			})
			t.Logf("%.1f MiB before, %.1f after", before, now)
		})
	}
}

// What a server sends in bulk costs a small multiple of its size, and a few lines on stderr.
func TestBulk(t *testing.T) {
	const size, lines = largeSize / 32, 12
	fill := func(unit string) string { return strings.Repeat(unit, size/len(unit)) }
	event := func(data string) fakeAnswer {
		return func(w http.ResponseWriter, r *fakeRequest) bool {
			startEvents(w).send(data + "data: " + r.msg.result(`{}`))
			return true
		}
	}
	for name, answer := range map[string]fakeAnswer{
		"a batch":             rpcBody(`[` + fill(`1,`) + `1]`),
		"a batch in an event": event("data: [" + fill(`1,`) + "1]\n\n"),
		"events":              event(fill("data: 1\n\n")),
		"data lines":          event(fill("data\n") + "\n"),
		"answers to nobody":   event(fill(`data: {"jsonrpc":"2.0","id":"no","result":{}}` + "\n\n")),
		"an id":               event(`data: {"jsonrpc":"2.0","id":"` + fill("1") + `","result":{}}` + "\n\n"),
		"nesting":             rpcBody(fill("[")),
		"tools":               rpcResult(`{"tools":[` + fill(`{"name":"a","inputSchema":{"x-mcp-header":1}},`) + `1]}`),
		"small tools":         rpcResult(`{"tools":[` + fill(`1,`) + `1]}`),
		"what the tools teach": rpcResult(`{"tools":[` +
			fill(`{"name":"\u0061","inputSchema":{"properties":{"p":{"type":"string","x-mcp-header":"P"}}}},`) + `1]}`),
		"inputs": rpcResult(`{"resultType":"input_required","inputRequests":{` + fill(`"a":1,`) + `"b":1}}`),
	} {
		answer := answer
		t.Run(name, func(t *testing.T) {
			server := startFuture(t)
			server.reply("tools/call bulk", answer)
			server.reply("tools/list", answer)
			p := startProxy(t, "-u", server.url, "--ignore-tool", "hidden*")
			p.opens()
			p.echo("before")
			before := usageOf(p.cmd.Process.Pid).resident
			if strings.Contains(name, "tools") {
				p.call("tools/list", `{}`)
			} else {
				p.answer(p.request("tools/call", `{"name":"bulk"}`))
			}
			if got := strings.Count(p.stderr(), "\n"); got > lines || len(p.stderr()) > 1000*lines {
				t.Errorf("%d lines on stderr, want at most %d: %.3000s", got, lines, p.stderr())
			}
			peak := usageOf(p.cmd.Process.Pid).peak - before
			t.Logf("%.1f MiB for %d", peak, size>>20)
			if most := 6.0*(size>>20) + 16; largeSize > 4<<20 && peak > most { // the race detector has memory of its own
				t.Errorf("%.0f MiB were used for %d, want at most %.0f", peak, size>>20, most)
			}
		})
	}
}

func rpcBody(body string) fakeAnswer { return says(200, "application/json", body) }
