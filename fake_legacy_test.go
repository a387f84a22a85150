package main

// An MCP server of revision 2024-11-05 for the tests: HTTP+SSE.

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"testing"
)

// fakeLegacy answers on one stream what is POSTed to the endpoint that the
// stream names. What it says and whom it lets in is fakeMCP's.
type fakeLegacy struct {
	*fakeMCP
	refusal  fakeAnswer          // to a POST where only GET is served
	endpoint func(id int) string // named for the stream with this number, counted from 1
	queues   [][]string          // what the streams bring
	cuts     int                 // streams before this one are cut
	opens    bool                // answers GET
}

// newFakeLegacy puts an MCP server of 2024-11-05 at /sse of the origin.
func newFakeLegacy(o *fakeOrigin) *fakeLegacy {
	s := &fakeLegacy{
		fakeMCP: newFakeMCP(o), refusal: says(http.StatusMethodNotAllowed, "text/plain", "Method Not Allowed"), opens: true,
		endpoint: func(id int) string { return fmt.Sprintf("/messages?session_id=%d", id) },
	}
	o.parts[len(o.parts)-1] = s
	s.sessions, s.path, s.url = false, "/sse", o.base+"/sse"
	return s
}

func startLegacy(t testing.TB, protocols ...string) *fakeLegacy {
	return newFakeLegacy(startOrigin(t, protocols...))
}

func (s *fakeLegacy) label(r *fakeRequest) string {
	switch r.URL.Path {
	case "/messages":
		return messageLabel(r)
	case "/sse":
		return r.Method
	}
	return s.fakeMCP.label(r)
}

func (s *fakeLegacy) serve(w http.ResponseWriter, r *fakeRequest) {
	switch {
	case r.URL.Path != "/messages" && r.URL.Path != "/sse":
		s.fakeMCP.serve(w, r)
	case !s.authorized(w, r):
	case r.URL.Path == "/messages":
		s.take(w, r)
	case r.Method == http.MethodGet:
		s.stream(w, r)
	default:
		s.refusal(w, r)
	}
}

// stream names the endpoint, then brings what is queued until it is cut.
func (s *fakeLegacy) stream(w http.ResponseWriter, r *fakeRequest) {
	var id int
	var opens bool
	s.change(func() {
		if opens = s.opens; opens {
			s.queues = append(s.queues, nil)
			id = len(s.queues)
		}
	})
	if !opens {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	events := startEvents(w)
	events.send("event: endpoint\ndata: " + s.endpoint(id))
	for next, cut := 0, false; ; next++ {
		if !s.wait(r.Context(), func() bool { cut = s.cuts >= id; return cut || len(s.queues[id-1]) > next }) || cut {
			return
		}
		s.mu.Lock()
		line := s.queues[id-1][next]
		s.mu.Unlock()
		events.send("event: message\ndata: " + line)
	}
}

// cut ends all streams that are open.
func (s *fakeLegacy) cut() { s.change(func() { s.cuts = len(s.queues) }) }

// say puts a message on the newest stream.
func (s *fakeLegacy) say(line string) {
	s.change(func() { s.queues[len(s.queues)-1] = append(s.queues[len(s.queues)-1], line) })
}

// take accepts a message; its answer comes on the stream.
func (s *fakeLegacy) take(w http.ResponseWriter, r *fakeRequest) {
	if got, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); got != "application/json" {
		s.complain(r, "got Content-Type %q, want application/json", got)
	}
	for _, name := range []string{"Mcp-Protocol-Version", "Mcp-Session-Id", "Mcp-Method"} {
		if got := r.Header.Get(name); got != "" {
			s.complain(r, "got %s %q, which this revision does not know", name, got)
		}
	}
	id := 0
	fmt.Sscanf(r.URL.Query().Get("session_id"), "%d", &id)
	s.mu.Lock()
	open := id > s.cuts && id <= len(s.queues)
	replies := append([]fakeAnswer{}, s.replies[r.label]...)
	s.mu.Unlock()
	if !open {
		http.Error(w, "Could not find session", http.StatusNotFound)
		return
	}
	for _, reply := range replies {
		if reply(w, r) {
			return
		}
	}
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, "Accepted")
	if r.msg.isRequest() {
		line := r.msg.result(s.resultOf(w, r))
		s.change(func() { s.queues[id-1] = append(s.queues[id-1], line) })
	}
}
