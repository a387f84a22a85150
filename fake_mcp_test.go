package main

// MCP servers for the tests: fakeMCP speaks revision 2025-11-25 by itself, any other by what a test
// has it answer; fakeLegacy speaks 2024-11-05, HTTP+SSE.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"testing"
)

// testMessage is a JSON-RPC message as the tests look at it. line is the whole of it.
type testMessage struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Error   *testError      `json:"error"`
	line    string
}

type testError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// testParams are the params that steer the fake server.
type testParams struct {
	Name            string
	URI             string
	ProtocolVersion string
	Arguments       struct{ Text string }
	Meta            struct {
		Modern        string          `json:"io.modelcontextprotocol/protocolVersion"`
		ProgressToken json.RawMessage `json:"progressToken"`
	} `json:"_meta"`
}

func (m *testMessage) params() (p testParams) {
	_ = json.Unmarshal(m.Params, &p) // other shapes are other tests' business
	return p
}

func (m *testMessage) isRequest() bool { return m.Method != "" && len(m.ID) > 0 }

// result is the line that answers m.
func (m *testMessage) result(result string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
}

// failure is the line that refuses m.
func (m *testMessage) failure(code int, message string) string {
	id := m.ID
	if len(id) == 0 {
		id = json.RawMessage("null")
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, id, code, message)
}

// fakeMCP is an MCP server of revision 2025-11-25. Its switches are set
// before the first request or inside change.
type fakeMCP struct {
	*fakeOrigin
	url       string
	path      string
	version   string                  // answers to initialize with it; "": with the client's
	auth      *fakeAuth               // nil: needs no authorization
	scope     string                  // named in the challenge of a 401
	needs     map[string]string       // label: the scope without which it is 403 insufficient_scope
	challenge func(def string) string // changes WWW-Authenticate
	resource  string                  // as the protected resource metadata publishes it
	prmPath   string                  // where that is; "" for nowhere
	prm       func(doc map[string]any)
	sessions  bool // hands out a session id and insists on it
	events    bool // answers requests with event streams: priming event, progress, result
	listens   bool // has a GET stream, fed by push
	lenient   bool // does not report what clients do wrong
	anyToken  bool // has no authorization, and does not mind an Authorization header
	replies   map[string][]fakeAnswer
	live      map[string]bool // sessions: still known
	spoken    string          // the protocol version of the last initialize
	ready     bool            // initialize was answered once
	pushed    []string
	streams   int // subscriptions that were acknowledged
}

// newFakeMCP puts an MCP server at /mcp of the origin.
func newFakeMCP(o *fakeOrigin) *fakeMCP {
	s := &fakeMCP{
		fakeOrigin: o, path: "/mcp", url: o.base + "/mcp", resource: o.base + "/mcp",
		prmPath:  "/.well-known/oauth-protected-resource/mcp",
		sessions: true, live: map[string]bool{}, replies: map[string][]fakeAnswer{},
		needs: map[string]string{},
	}
	o.parts = append(o.parts, s)
	return s
}

// startMCP starts an MCP server that needs no authorization.
func startMCP(t testing.TB, protocols ...string) *fakeMCP {
	return newFakeMCP(startOrigin(t, protocols...))
}

// reply lets answer handle requests of that label ("*": all), after the checks.
func (s *fakeMCP) reply(label string, answer fakeAnswer) {
	s.change(func() { s.replies[label] = append(s.replies[label], answer) })
}

// inPieces answers requests of that label with an event stream that breaks
// off: the first piece comes with the answer to the POST, every further one
// when the client resumes; <id> stands for the request's id.
func (s *fakeMCP) inPieces(label string, pieces ...[]string) {
	var id string
	deliver := func(w http.ResponseWriter) {
		s.mu.Lock()
		var piece []string
		if len(pieces) > 0 {
			piece, pieces = pieces[0], pieces[1:]
		}
		s.mu.Unlock()
		stream := startEvents(w)
		for _, event := range piece {
			stream.send(strings.ReplaceAll(event, "<id>", id))
		}
	}
	s.reply(label, func(w http.ResponseWriter, r *fakeRequest) bool {
		id = string(r.msg.ID)
		deliver(w)
		return true
	})
	s.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
		if r.Header.Get("Last-Event-Id") == "" {
			return false
		}
		if s.session(r) == 0 {
			deliver(w)
		}
		return true
	})
}

// push sends a message to every GET stream, open now or later.
func (s *fakeMCP) push(line string) {
	s.change(func() { s.pushed = append(s.pushed, line) })
}

// endSessions forgets all sessions: 404 from now on.
func (s *fakeMCP) endSessions() { s.change(func() { s.live = map[string]bool{} }) }

// secrets are the session ids: they identify a user.
func (s *fakeMCP) secrets() (ids []string) {
	for _, r := range s.requests("notifications/initialized") {
		if id := r.Header.Get("Mcp-Session-Id"); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *fakeMCP) label(r *fakeRequest) string {
	switch {
	case strings.HasPrefix(r.URL.Path, "/.well-known/oauth-protected-resource"):
		if s.auth != nil && r.URL.Path == s.prmPath {
			return "PRM"
		}
		return "no PRM"
	case r.URL.Path != s.path:
		return ""
	case r.Method != http.MethodPost:
		return r.Method
	}
	return messageLabel(r)
}

// messageLabel reads the message that was POSTed.
func messageLabel(r *fakeRequest) string {
	if json.Unmarshal(r.body, &r.msg) != nil {
		return "not JSON"
	}
	r.msg.line = string(r.body)
	switch p := r.msg.params(); {
	case r.msg.Method == "":
		return "response"
	case p.Name+p.URI != "":
		return r.msg.Method + " " + p.Name + p.URI
	}
	return r.msg.Method
}

func (s *fakeMCP) serve(w http.ResponseWriter, r *fakeRequest) {
	switch {
	case r.label == "PRM":
		s.serveMetadata(w)
	case r.label == "no PRM":
		http.NotFound(w, r.Request)
	case !s.authorized(w, r):
	case r.Method == http.MethodPost:
		s.servePost(w, r)
	case r.Method == http.MethodGet:
		s.serveListen(w, r)
	case r.Method == http.MethodDelete:
		s.serveDelete(w, r)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (s *fakeMCP) serveMetadata(w http.ResponseWriter) {
	doc := map[string]any{"resource": s.resource, "authorization_servers": []string{s.auth.issuer}}
	if s.prm != nil {
		s.prm(doc)
	}
	writeJSON(w, http.StatusOK, doc)
}

// complain reports what the client did wrong.
func (s *fakeMCP) complain(r *fakeRequest, format string, args ...any) {
	s.mu.Lock()
	lenient := s.lenient
	s.mu.Unlock()
	if !lenient {
		s.t.Errorf("MCP server: %s: %s", r.label, fmt.Sprintf(format, args...))
	}
}

// authorized checks the token, and answers 401 or 403 where it does not do.
func (s *fakeMCP) authorized(w http.ResponseWriter, r *fakeRequest) bool {
	given := r.Header.Get("Authorization")
	if s.auth == nil {
		if given != "" && !s.anyToken {
			s.complain(r, "got an Authorization header, want none")
		}
		return true
	}
	s.mu.Lock()
	needs, challenge, scope := s.needs[r.label], s.challenge, s.scope
	s.mu.Unlock()
	if s.auth.leaked(r.URL.String()) {
		s.complain(r, "a secret came in the URL")
	}
	granted, ok := s.auth.validate(strings.TrimPrefix(given, "Bearer "), s.resource)
	status, reason := http.StatusUnauthorized, ""
	switch {
	case given == "":
	case !strings.HasPrefix(given, "Bearer ") || strings.Count(given, " ") != 1:
		s.complain(r, "got Authorization of the wrong form: %.10q…", given)
	case ok && (needs == "" || hasScopes(granted, needs)):
		return true
	case ok:
		status, reason, scope = http.StatusForbidden, "insufficient_scope", needs
	default:
		reason = "invalid_token"
	}
	header := bearerChallenge(s.base+s.prmPath, reason, scope)
	if challenge != nil {
		header = challenge(header)
	}
	if header != "" {
		w.Header().Set("WWW-Authenticate", header)
	}
	w.WriteHeader(status)
	return false
}

func bearerChallenge(metadata, reason, scope string) string {
	header := fmt.Sprintf("Bearer resource_metadata=%q", metadata)
	if reason != "" {
		header += fmt.Sprintf(", error=%q", reason)
	}
	if scope != "" {
		header += fmt.Sprintf(", scope=%q", scope)
	}
	return header
}

func hasScopes(granted, want string) bool {
	for _, scope := range strings.Fields(want) {
		if !strings.Contains(" "+granted+" ", " "+scope+" ") {
			return false
		}
	}
	return true
}

func (s *fakeMCP) servePost(w http.ResponseWriter, r *fakeRequest) {
	s.check(r)
	if status := s.session(r); status != 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, r.msg.failure(-32000, http.StatusText(status)))
		return
	}
	s.mu.Lock()
	replies := append(append([]fakeAnswer{}, s.replies[r.label]...), s.replies["*"]...)
	s.mu.Unlock()
	for _, reply := range replies {
		if reply(w, r) {
			return
		}
	}
	if !r.msg.isRequest() {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	s.answer(w, r, s.resultOf(w, r))
}

// check reports what a POST of this revision must not be.
func (s *fakeMCP) check(r *fakeRequest) {
	if got, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); got != "application/json" {
		s.complain(r, "got Content-Type %q, want application/json", got)
	}
	accept := strings.Join(r.Header["Accept"], ",")
	if !strings.Contains(accept, "application/json") ||
		!strings.Contains(accept, "text/event-stream") {
		s.complain(r, "got Accept %q, want both media types", accept)
	}
	if r.msg.JSONRPC != "2.0" || bytes.ContainsAny(r.body, "\r\n") {
		s.complain(r, "got body %.200q, want one JSON-RPC message as the client wrote it", r.body)
	}
	version, modern := r.Header.Get("Mcp-Protocol-Version"), r.msg.params().Meta.Modern
	s.mu.Lock()
	ready, spoken := s.ready, s.spoken
	s.mu.Unlock()
	switch {
	case modern != "" && version != modern:
		s.complain(r, "got MCP-Protocol-Version %q, want %q", version, modern)
	case modern != "":
		s.checkModern(r)
	case r.msg.Method == "initialize":
	case !ready:
		s.complain(r, "came before initialize was answered")
	case version != spoken:
		s.complain(r, "got MCP-Protocol-Version %q, want %q", version, spoken)
	}
}

// checkModern compares the headers of revision 2026-07-28 with the body.
func (s *fakeMCP) checkModern(r *fakeRequest) {
	if got := r.Header.Get("Mcp-Method"); got != r.msg.Method {
		s.complain(r, "got Mcp-Method %q, want %q", got, r.msg.Method)
	}
	want := ""
	switch p := r.msg.params(); r.msg.Method {
	case "tools/call", "prompts/get":
		want = p.Name
	case "resources/read":
		want = p.URI
	}
	if got := r.Header.Get("Mcp-Name"); plainHeaderValue(got) != want {
		s.complain(r, "got Mcp-Name %q, want %q", got, want)
	}
	if got := r.Header.Get("Mcp-Session-Id"); got != "" {
		s.complain(r, "got session id %q, want none", got)
	}
}

// plainHeaderValue decodes what the specification's "Value Encoding" made.
func plainHeaderValue(value string) string {
	coded, prefixed := strings.CutPrefix(value, "=?base64?")
	coded, suffixed := strings.CutSuffix(coded, "?=")
	plain, err := base64.StdEncoding.DecodeString(coded)
	if !prefixed || !suffixed || err != nil {
		return value
	}
	return string(plain)
}

// session returns the status that refuses the request, or 0.
func (s *fakeMCP) session(r *fakeRequest) int {
	id := r.Header.Get("Mcp-Session-Id")
	s.mu.Lock()
	sessions, known := s.sessions, s.live[id]
	s.mu.Unlock()
	switch {
	case r.msg.Method == "initialize" && id != "":
		s.complain(r, "got session id %q, want none", id)
	case r.msg.Method == "initialize" || !sessions && id == "":
	case !sessions:
		s.complain(r, "got session id %q, want none", id)
	case id == "":
		if r.msg.params().Meta.Modern == "" {
			s.complain(r, "got no session id")
		}
		return http.StatusBadRequest
	case !known:
		return http.StatusNotFound
	}
	return 0
}

const fakeTools = `{"tools":[{"name":"echo","description":"Says it again","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}}]}`

// resultOf is the result of a request, or "" when there is no such method.
func (s *fakeMCP) resultOf(w http.ResponseWriter, r *fakeRequest) string {
	p := r.msg.params()
	switch r.msg.Method {
	case "initialize":
		return s.welcome(w, p.ProtocolVersion)
	case "ping":
		return `{}`
	case "tools/list":
		return fakeTools
	case "tools/call":
		text, _ := json.Marshal(p.Arguments.Text)
		return fmt.Sprintf(`{"content":[{"type":"text","text":%s}]}`, text)
	}
	return ""
}

func (s *fakeMCP) welcome(w http.ResponseWriter, version string) string {
	s.change(func() {
		if s.version != "" {
			version = s.version
		}
		s.spoken, s.ready = version, true
		if s.sessions {
			id := "session-" + fakeSecret()
			s.live[id] = true
			w.Header().Set("Mcp-Session-Id", id)
		}
	})
	return fmt.Sprintf(`{"protocolVersion":%q,"capabilities":{"tools":{}},"serverInfo":{"name":"fake","version":"1"}}`, version)
}

func (s *fakeMCP) answer(w http.ResponseWriter, r *fakeRequest, result string) {
	line := r.msg.result(result)
	if result == "" {
		line = r.msg.failure(-32601, "Method not found")
	}
	s.mu.Lock()
	events := s.events
	s.mu.Unlock()
	if !events {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, line)
		return
	}
	stream := startEvents(w)
	stream.send(fmt.Sprintf("id: p%d\ndata: ", r.order))
	if token := r.msg.params().Meta.ProgressToken; len(token) > 0 {
		stream.send(fmt.Sprintf(`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":1}}`, token))
	}
	stream.send(fmt.Sprintf("event: message\nid: r%d\nretry: 100\ndata: %s", r.order, line))
}

// fakeEvents writes an event stream.
type fakeEvents struct{ w http.ResponseWriter }

func startEvents(w http.ResponseWriter) fakeEvents {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	return fakeEvents{w}
}

// send writes one event, given as its lines, and flushes it.
func (e fakeEvents) send(lines string) {
	io.WriteString(e.w, lines+"\n\n")
	e.w.(http.Flusher).Flush()
}

// serveListen is the GET stream: what is pushed, from where the client left off.
func (s *fakeMCP) serveListen(w http.ResponseWriter, r *fakeRequest) {
	s.mu.Lock()
	listens := s.listens
	s.mu.Unlock()
	if accept := r.Header.Get("Accept"); !strings.Contains(accept, "text/event-stream") {
		s.complain(r, "got Accept %q, want text/event-stream", accept)
	}
	if status := s.session(r); status != 0 {
		w.WriteHeader(status)
		return
	}
	if !listens {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	stream, next := startEvents(w), 0
	fmt.Sscanf(r.Header.Get("Last-Event-Id"), "g%d", &next)
	for s.wait(r.Context(), func() bool { return len(s.pushed) > next }) {
		s.mu.Lock()
		line := s.pushed[next]
		s.mu.Unlock()
		next++
		stream.send(fmt.Sprintf("id: g%d\ndata: %s", next, line))
	}
}

func (s *fakeMCP) serveDelete(w http.ResponseWriter, r *fakeRequest) {
	if status := s.session(r); status != 0 {
		w.WriteHeader(status)
		return
	}
	s.change(func() { delete(s.live, r.Header.Get("Mcp-Session-Id")) })
	w.WriteHeader(http.StatusNoContent)
}

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
		fakeMCP: newFakeMCP(o), refusal: says(http.StatusMethodNotAllowed, "text/plain",
			"Method Not Allowed"), opens: true,
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
		if !s.wait(r.Context(), func() bool {
			cut = s.cuts >= id
			return cut || len(s.queues[id-1]) > next
		}) || cut {
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
