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
