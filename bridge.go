package main

// A host that opens with initialize in front of a server that speaks only
// revision 2026-07-28: how such a server is told, what it says about itself, and
// the way of a request and of its answer across. It knows both revisions and
// nothing of HTTP. What the server wants of the host is bridge_host.go's.
//
// Nothing here happens to a server that speaks what the host speaks: the host's
// initialize goes first, as it is, and only an answer that no such server gives
// makes the proxy ask for more.

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// bridgeVersion is the revision that the bridge speaks to the server.
const bridgeVersion = "2026-07-28"

// Error codes of MCP 2026-07-28, Overview, "Error Codes", and of 2025-11-25.
const (
	codeMissingCapability  = -32021
	codeUnsupportedVersion = -32022
	codeInternal           = -32603
	codeResourceNotFound   = -32002 // 2025-11-25; -32602 since
)

// bridge is in use when sides is not nil.
type bridge struct {
	sides  atomic.Pointer[sides]
	proven atomic.Bool // the server took a message of the host's revision

	crossing turn // one server/discover at a time, and the next field
	refused  bool // the server was asked, and is none of tomorrow

	mu    sync.Mutex // guards what follows
	level string     // as the host set it
	questions
	subscriptions
}

func (b *bridge) init() {
	b.crossing, b.changing = newTurn(), newTurn()
	b.asked, b.gone = map[string]chan *message{}, make(chan struct{})
}

// sides is what the two sides said of themselves. It is never changed once made.
type sides struct {
	clientInfo, capabilities []byte // the host's, raw
	offers                   []byte // the server's capabilities, raw
}

// serves tells whether a message of the host has to be bridged. A host that
// speaks both revisions needs no bridge for a message of the newer one.
func (b *bridge) serves(m *message) bool { return m.version == "" && b.sides.Load() != nil }

// accepted notes that the server takes messages of the host's revision.
func (b *bridge) accepted(m *message) {
	if m.version == "" && m.method != "initialize" {
		b.proven.Store(true)
	}
}

// foreign tells whether an answer to initialize is one that only a server gives
// which does not know it. Beside the codes of the revision itself:
//   - -32601, whatever the status: there is no initialize.
//   - -32602 that names a member of _meta: it was looked for first.
//   - a result in a version that has no initialize: the mock servers of the
//     conformance suite.
func foreign(d *document) bool {
	if d.result != nil {
		version, _ := unquote(member(d.result, "protocolVersion"))
		return version == bridgeVersion
	}
	raw := d.error
	switch string(member(raw, "code")) {
	case strconv.Itoa(codeMethodNotFound):
		return true
	case strconv.Itoa(codeInvalidParams):
		return bytes.Contains(raw, []byte("io.modelcontextprotocol/"))
	}
	return isModernError(raw)
}

// isModernError tells whether a raw error is one that only modern revisions
// define, and does not rule out the one that the bridge speaks.
func isModernError(raw []byte) bool {
	switch string(member(raw, "code")) {
	case strconv.Itoa(codeHeaderMismatch), strconv.Itoa(codeMissingCapability):
		return true
	case strconv.Itoa(codeUnsupportedVersion):
		supported := member(raw, "data", "supported")
		return supported == nil || contains(supported, bridgeVersion)
	}
	return false
}

// contains tells whether a raw array holds a string.
func contains(array []byte, want string) bool {
	found := false
	each(array, func(element []byte) { found = found || means(element, want) })
	return found
}

// judged looks at the answer to the host's initialize, which is settled and not
// finished: true when the bridge gives the answer in its place, in its time.
func (p *proxy) judged(ctx context.Context, c *call, d *document) bool {
	if c.m.version != "" || p.legacy.chosen() || !foreign(d) {
		return false
	}
	p.routines.Add(1)
	go func() {
		defer p.routines.Done()
		discovered, err := p.cross(ctx, c.m)
		if err != nil {
			p.log.debugf("no bridge: %v", err)
			p.finishWith(c, d)
			return
		}
		p.finishWith(c, newDocument(welcome(c.m, discovered)))
	}()
	return true
}

// late tells whether a refusal may mean that the session which the server
// opened is one it does not serve: the server of the Go SDK that is made for
// revision 2026-07-28 alone answers initialize as one of the host's revision
// does, and everything after it with 400 and a line of text.
func (b *bridge) late(c *call, status int, reply *document) bool {
	if c.own || c.m.version != "" || c.m.method == "initialize" || status != http.StatusBadRequest {
		return false
	}
	if reply == nil {
		return !b.proven.Load()
	}
	return isModernError(reply.error)
}

// crossLate goes over to the bridge in the middle of a session that the server
// refuses; false when that is not what the refusal meant.
func (p *proxy) crossLate(ctx context.Context) bool {
	b := &p.bridge
	initialize := p.session.opening()
	if initialize == nil || b.crossing.take(ctx) != nil {
		return false
	}
	defer b.crossing.give()
	if b.sides.Load() != nil {
		return true // somebody did it
	}
	if b.refused {
		return false
	}
	if _, err := p.discover(ctx, initialize); err != nil {
		p.log.debugf("no bridge: %v", err)
		b.refused = ctx.Err() == nil
		return false
	}
	p.beginListening()
	return true
}

// cross goes over to the bridge at the host's initialize.
func (p *proxy) cross(ctx context.Context, initialize *message) (discovered []byte, err error) {
	if err := p.bridge.crossing.take(ctx); err != nil {
		return nil, err
	}
	defer p.bridge.crossing.give()
	return p.discover(ctx, initialize)
}

// discover asks the server what it is, in the host's name. When it speaks the
// bridge's revision, the bridge is in use from here on.
func (p *proxy) discover(ctx context.Context, initialize *message) ([]byte, error) {
	s := &sides{
		clientInfo:   objectOr(member(initialize.params, "clientInfo"), ""),
		capabilities: objectOr(member(initialize.params, "capabilities"), "{}"),
	}
	answer, err := p.ask(ctx, s.request("server/discover", nil, ""), nil)
	if err != nil {
		return nil, err
	}
	result := answer.result
	if !contains(member(result, "supportedVersions"), bridgeVersion) {
		return nil, fmt.Errorf("%s does not speak %s", p.server.Host, bridgeVersion)
	}
	s.offers = objectOr(member(result, "capabilities"), "{}")
	p.session.forget()
	p.bridge.sides.Store(s)
	p.log.infof("%s speaks only %s: bridging for a client that opens with initialize", p.server.Host, bridgeVersion)
	return result, nil
}

// objectOr is raw where that is an object.
func objectOr(raw []byte, otherwise string) []byte {
	if len(raw) > 0 && raw[0] == '{' {
		return raw
	}
	return []byte(otherwise)
}

// welcome answers the host's initialize with what the server said of itself.
func welcome(initialize *message, discovered []byte) []byte {
	version := member(initialize.params, "protocolVersion")
	if _, ok := unquote(version); !ok {
		version = []byte(`"2025-11-25"`)
	}
	info := member(discovered, "_meta", metaServerInfo)
	if info == nil {
		info = member(discovered, "serverInfo") // where it was in the drafts
	}
	result := withMember([]byte(`{}`), "protocolVersion", version)
	result = withMember(result, "capabilities", objectOr(member(discovered, "capabilities"), "{}"))
	result = withMember(result, "serverInfo", objectOr(info, `{"name":"unknown","version":""}`))
	if instructions := member(discovered, "instructions"); !isNull(instructions) {
		result = withMember(result, "instructions", instructions)
	}
	return resultAnswer(initialize.id, result)
}

// resultAnswer is a whole response line.
func resultAnswer(id, result []byte) []byte {
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

// request is a message of the bridge's revision in the host's name. params is
// an object or nil. The id is for whoever sends it to give.
func (s *sides) request(method string, params []byte, level string) *message {
	params = objectOr(params, "{}")
	// The host's own members stay: a progress token, the trace context.
	meta := objectOr(member(params, "_meta"), "{}")
	meta = withMember(meta, metaVersion, quote(bridgeVersion))
	if len(s.clientInfo) > 0 {
		meta = withMember(meta, metaClientInfo, s.clientInfo)
	}
	meta = withMember(meta, metaCapabilities, s.capabilities)
	if level != "" {
		meta = withMember(meta, metaLogLevel, quote(level))
	}
	params = withMember(params, "_meta", meta)
	raw := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":0,"method":%s,"params":%s}`, quote(method), params)
	m, _, bad := parseMessage(raw)
	if bad != nil { // made of valid JSON
		panic(bad)
	}
	return m
}

// bridgeCall brings a request of the host to the server and the answer back.
func (p *proxy) bridgeCall(ctx context.Context, c *call) error {
	c.sent.Store(false) // nobody is told of a cancellation: its POST is closed
	if !isNull(c.m.params) && c.m.params[0] != '{' {
		return &rpcError{Code: codeInvalidParams, Message: "mcp-proxy: params is not an object"}
	}
	switch c.m.method {
	case "initialize":
		discovered, err := p.cross(ctx, c.m)
		if err != nil {
			return err
		}
		p.succeed(c, newDocument(welcome(c.m, discovered)))
		return nil
	case "ping":
		p.succeed(c, newDocument(resultAnswer(c.m.id, []byte(`{}`))))
		return nil
	case "logging/setLevel":
		return p.setLevel(c)
	case "resources/subscribe", "resources/unsubscribe":
		return p.subscribe(ctx, c)
	}
	s := p.bridge.sides.Load()
	answer, err := p.inRounds(ctx, c, s.request(c.m.method, c.m.params, p.bridge.logLevel()))
	if err != nil {
		return err
	}
	answer, err = p.asOfOld(c.m, answer)
	if err != nil {
		return err
	}
	p.succeed(c, answer)
	return nil
}

// bridgeNotify takes a notification or response of the host: a server of this
// revision wants none.
func (p *proxy) bridgeNotify(m *message) {
	if m.method == "notifications/initialized" {
		p.beginListening()
		return
	}
	p.log.debugf("%s is nothing that %s is told", nameOf(m), p.server.Host)
}

// logLevels in ascending order (RFC 5424, section 6.2.1).
var logLevels = []string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// setLevel keeps the level that every later request is to carry.
func (p *proxy) setLevel(c *call) error {
	if member(p.bridge.sides.Load().offers, "logging") == nil {
		return notOffered(c.m.method)
	}
	level, _ := unquote(member(c.m.params, "level"))
	if !slices.Contains(logLevels, level) {
		return &rpcError{Code: codeInvalidParams, Message: "mcp-proxy: there is no such log level"}
	}
	p.bridge.mu.Lock()
	p.bridge.level = level
	p.bridge.mu.Unlock()
	p.succeed(c, newDocument(resultAnswer(c.m.id, []byte(`{}`))))
	return nil
}

func notOffered(method string) error {
	return &rpcError{Code: codeMethodNotFound, Message: "mcp-proxy: the server does not offer " + method}
}

func (b *bridge) logLevel() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.level
}

// relayed passes on what the server says on the stream of a request.
func (p *proxy) relayed(c *call, method string, d *document) error {
	switch {
	case c.settled.Load():
		// The host has its answer, or wants none any more.
	case d.id != nil:
		// MCP 2026-07-28, Streamable HTTP, "Receiving Messages": the server
		// MUST NOT send requests, and has no way to be answered.
		return fmt.Errorf("%s sent a request, %s, which this revision does not know", p.server.Host, excerpt(method))
	case method == "notifications/message" && !p.bridge.wants(d):
	default:
		p.out.write(d.raw)
	}
	return nil
}

// wants tells whether a log message has the level that the host asked for: the
// server may still work on a request that was sent before the level rose.
func (b *bridge) wants(d *document) bool {
	level, _ := unquote(member(d.params, "level"))
	got, least := slices.Index(logLevels, level), slices.Index(logLevels, b.logLevel())
	return got < 0 || got >= least
}

// asOfOld makes an answer one of the host's revision, which knows the members
// that are new, as any that it must ignore, but not what has another meaning.
func (p *proxy) asOfOld(m *message, d *document) (*document, error) {
	if isError(d.error) {
		return oldError(m, d), nil
	}
	// MCP 2026-07-28, Overview, "ResultType": absent is complete, unknown is invalid.
	if kind := member(d.result, "resultType"); kind != nil && string(kind) != `"complete"` {
		return nil, &rpcError{Code: codeInternal, Message: "mcp-proxy: " + p.server.Host + " gave a result of an unknown type"}
	}
	switch m.method {
	case "tools/list":
		return newDocument(oldTools(p.tools.learn(d.raw))), nil
	case "tools/call":
		// Anything in 2026-07-28, an object in 2025-11-25 (Schema, CallToolResult).
		if structured := member(d.result, "structuredContent"); structured != nil && structured[0] != '{' {
			return newDocument(resultAnswer(m.id, without(d.result, "structuredContent"))), nil
		}
	}
	return d, nil
}

// oldTools takes out of a response to tools/list the output schemas that are
// not of an object, which 2025-11-25 does not know: the TypeScript SDK's client
// of that revision refuses the whole list for one of them.
func oldTools(response []byte) []byte {
	return editTools(response, func(tool []byte) []byte {
		schema := member(tool, "outputSchema")
		if schema == nil || means(member(schema, "type"), "object") {
			return tool
		}
		return without(tool, "outputSchema")
	})
}

// oldError gives an error the code that it had in the host's revision: a
// resource that does not exist is -32602 since 2026-07-28, and was -32002. What
// is wrong with the params otherwise does not name the resource.
func oldError(m *message, d *document) *document {
	raw := d.error
	text, _ := unquote(member(raw, "message"))
	uri := member(m.params, "uri")
	named := uri != nil && bytes.Equal(member(raw, "data", "uri"), uri)
	missing := named || strings.Contains(strings.ToLower(text), "not found")
	if m.method != "resources/read" || string(member(raw, "code")) != strconv.Itoa(codeInvalidParams) || !missing {
		return d
	}
	raw = withMember(raw, "code", []byte(strconv.Itoa(codeResourceNotFound)))
	return newDocument(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"error":%s}`, m.id, raw))
}
