package main

// A server that breaks at every point of an exchange, in every way: whatever
// happens, each request is answered once, and stdout holds whole lines of
// JSON-RPC alone (which every test of the program checks).

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// faultStep is a piece of an answer, and the name of the point before it.
type faultStep struct {
	point string
	write func(w http.ResponseWriter)
}

// faultKinds are what may happen at a point.
var faultKinds = []string{
	"cut",      // the connection (HTTP/1.1) or the stream (HTTP/2) is torn down
	"truncate", // the body ends there, in all order
	"stall",    // nothing comes any more
	"delay",    // nothing comes until the test lets it go on
}

// faultVariant is a kind of server.
type faultVariant struct {
	name      string
	modern    bool
	steps     func(id, name string) []faultStep
	resumable bool // from the point "before progress" on
}

func writes(text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Write([]byte(text))
		w.(http.Flusher).Flush()
	}
}

func begins(media string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", media)
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
	}
}

// faultyJSON is an answer as a body of JSON.
func faultyJSON(id, name string) []faultStep {
	body := faultResult(id, name)
	half := len(body) / 2
	return []faultStep{
		{"before headers", begins("application/json")},
		{"after headers", writes(body[:half])},
		{"in the body", writes(body[half : len(body)-1])},
		{"before the last byte", writes(body[len(body)-1:])},
		{"after it", nil},
	}
}

func faultResult(id, name string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":%q}]}}`, id, name)
}

const faultProgress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`

// faultyStream is an answer as a stream of events; prefix begins each event.
func faultyStream(prefix string) func(id, name string) []faultStep {
	return func(id, name string) []faultStep {
		prefix := strings.ReplaceAll(prefix, "<id>", id)
		last := faultResult(id, name)
		half := len(last) / 2
		return []faultStep{
			{"before headers", begins("text/event-stream")},
			{"after headers", writes(prefix + "data: \n\n")},
			{"before progress", writes(prefix + "data: " + faultProgress[:30])},
			{"in progress", writes(faultProgress[30:] + "\n")},
			{"before the end of progress", writes("\n")},
			{"before the final event", writes(prefix + "data: " + last[:half])},
			{"in the final event", writes(last[half:] + "\n")},
			{"before the end of the final event", writes("\n")},
			{"after it", nil},
		}
	}
}

// succeeds tells whether the client may expect a result.
func (v faultVariant) succeeds(kind, point string) bool {
	switch {
	case kind == "delay" || point == "after it":
		return true
	case kind == "stall":
		return false
	}
	return v.resumable && point != "before headers" && point != "after headers"
}

// injectFaults makes the server answer the tool "KIND, POINT" with that fault.
// What is delayed goes on when release is closed.
func (v faultVariant) injectFaults(server *fakeMCP, release <-chan struct{}) (names []string) {
	points := v.steps("", "")
	for _, kind := range faultKinds {
		for _, at := range points {
			kind, point := kind, at.point
			name := kind + ", " + point
			names = append(names, name)
			server.reply("tools/call "+name, func(w http.ResponseWriter, r *fakeRequest) bool {
				for _, step := range v.steps(string(r.msg.ID), name) {
					if step.point == point {
						if done := happens(kind, r, release); done {
							return true
						}
					}
					if step.write != nil {
						step.write(w)
					}
				}
				return true
			})
		}
	}
	if v.resumable {
		server.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
			id := r.Header.Get("Last-Event-Id")
			if id == "" {
				return false
			}
			begins("text/event-stream")(w)
			writes("data: " + faultResult(id, "resumed") + "\n\n")(w)
			return true
		})
	}
	return names
}

// happens is the fault; true when nothing follows it.
func happens(kind string, r *fakeRequest, release <-chan struct{}) bool {
	switch kind {
	case "cut":
		panic(http.ErrAbortHandler)
	case "stall":
		<-r.Context().Done()
	case "delay":
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return false
	}
	return true
}

func TestFaults(t *testing.T) {
	for _, v := range []faultVariant{
		{"session, JSON", false, faultyJSON, false},
		{"session, stream", false, faultyStream(""), false},
		{"session, stream with ids", false, faultyStream("id: <id>\nretry: 1\n"), true},
		{"modern, JSON", true, faultyJSON, false},
		{"modern, stream with ids", true, faultyStream("id: <id>\nretry: 1\n"), false},
	} {
		for _, protocol := range []string{"h2", "http/1.1"} {
			v, protocol := v, protocol
			t.Run(v.name+" "+protocol, func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.sessions = !v.modern
				release := make(chan struct{})
				names := v.injectFaults(server, release)
				p := startProxy(t, "-u", server.url)
				call := func(name string) string { return p.modern("tools/call", fmt.Sprintf(`"name":%q`, name)) }
				if !v.modern {
					p.initialize()
					call = func(name string) string { return p.request("tools/call", fmt.Sprintf(`{"name":%q}`, name)) }
				}
				ids := map[string]string{}
				for _, name := range names {
					ids[name] = call(name)
				}
				p.result(call("echo")) // beside all that stalls
				for _, name := range names {
					server.await("tools/call "+name, 1)
				}
				close(release)
				var stalled []string
				for _, name := range names {
					kind, point, _ := strings.Cut(name, ", ")
					switch {
					case v.succeeds(kind, point):
						p.result(ids[name])
					case kind == "stall":
						stalled = append(stalled, ids[name])
					default:
						if got := p.failure(ids[name]); got.Code != -32000 || !strings.Contains(got.Message, "127.0.0.1") || strings.Contains(got.Message, "stream ID") {
							t.Errorf("%s: got error %d %q", name, got.Code, got.Message)
						}
					}
				}
				p.result(call("echo")) // after all that broke
				for _, id := range stalled {
					p.mu.Lock()
					if len(p.answered[id]) != 0 {
						t.Errorf("got %q before the server said anything", p.answered[id][0].line)
					}
					p.mu.Unlock()
				}
				p.signal(syscall.SIGTERM)
				p.wait()
				for _, id := range stalled {
					p.failure(id)
				}
				for _, name := range names {
					if got := server.count("tools/call " + name); got != 1 {
						t.Errorf("%s: the call was sent %d times, want once", name, got)
					}
				}
			})
		}
	}
}

// The network breaks after any number of bytes, of the handshake, the headers
// or the body, again and again: there is an answer all the same.
func TestConnectionBreaksAnywhere(t *testing.T) {
	for protocol, reset := range map[string]bool{"h2": false, "http/1.1": true} {
		for _, limit := range []int{300, 1200, 1500, 1800, 2400} {
			protocol, limit, reset := protocol, limit, reset
			t.Run(fmt.Sprintf("%s %d bytes", protocol, limit), func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.events, server.lenient = true, true
				wire := startWire(t, server.fakeOrigin)
				wire.change(func() { wire.refuse, wire.after, wire.reset = math.MaxInt, limit, reset })
				p := startProxy(t, "-u", wire.base()+"/mcp")
				p.answer(p.request("initialize", initializeParams))
				p.notify("notifications/initialized", "")
				var ids []string
				for i := 0; i < 5; i++ {
					ids = append(ids, p.request("tools/call", `{"name":"echo","arguments":{"text":"x"},"_meta":{"progressToken":1}}`))
				}
				for _, id := range ids {
					p.answer(id)
				}
				if got := server.count("tools/call echo"); got > 5 {
					t.Errorf("5 calls were sent %d times", got)
				}
			})
		}
	}
}
