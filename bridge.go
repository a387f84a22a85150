package main

// A host that opens with initialize in front of a server that speaks only revision 2026-07-28: how
// such a server is recognized, what it says about itself, the translation of requests and answers,
// what the server wants to know from the host (input_required), and one subscriptions/listen stream
// in place of the stream that the host's revision listens to. It knows both revisions, not HTTP.
//
// Nothing here happens to a server that speaks what the host speaks: the host's initialize goes
// first, as it is, and only an answer that no such server gives makes the proxy ask for more.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxRounds     = 100             // of input_required for one request
	maxInputs     = 100             // in one round
	maxRoundPause = 4 * time.Second // before a round in which the host is not asked
	ackWait       = 10 * time.Second
)

// bridge is in use once peers is set.
type bridge struct {
	host          string // the server's
	log           *logger
	out           *lineWriter
	tools         *toolHeaders
	calls         *calls
	forgetSession func()
	// ask sends a request of the proxy's own. heard, if not nil, is given what comes on its stream.
	ask func(ctx context.Context, m *message, heard heardFunc) (*document, error)

	peers    atomic.Pointer[peerInfo]
	oldWorks atomic.Bool // the server took a message of the host's revision

	starting    turn // one server/discover at a time, and the next field
	unavailable bool // the server was asked, and does not speak the bridge's revision

	changing  turn     // one change of the subscription at a time, and the next field
	resources []string // that the host has subscribed to

	mu       sync.Mutex               // guards what follows
	over     bool                     // the host can answer nothing any more
	level    string                   // of log messages, as the host set it
	pending  map[string]chan *message // input requests that the host has not answered, by raw id
	unlisten context.CancelFunc       // ends the subscription; nil without one
}

// errNoStream: the server refuses a subscription; asking again is pointless.
var errNoStream = errors.New("the server offers no stream")

// A heardFunc takes a message that is no answer; an error is for the log.
type heardFunc = func(method string, d *document) error

// peerInfo is what the two sides said about themselves. It is never changed once made.
type peerInfo struct {
	clientInfo, clientCapabilities []byte // raw
	serverCapabilities             []byte // raw
}

func newBridge(p *proxy) *bridge {
	return &bridge{
		host: p.server.Host, log: p.log, out: p.out, tools: p.tools, calls: p.calls,
		forgetSession: p.session.forget, ask: p.ask,
		starting: newTurn(), changing: newTurn(), pending: map[string]chan *message{},
	}
}

// serves reports whether a message of the host has to be translated. A host that speaks both
// revisions needs no bridge for a message of the newer one.
func (b *bridge) serves(m *message) bool { return m.version == "" && b.peers.Load() != nil }

// accepted notes that the server takes messages of the host's revision.
func (b *bridge) accepted(m *message) {
	if m.version == "" && m.method != "initialize" {
		b.oldWorks.Store(true)
	}
}

// intercept takes over the answer to the host's initialize, which is settled and not finished, if
// it calls for a bridge.
func (b *bridge) intercept(ctx context.Context, c *call, answer *document) bool {
	if c.m.version != "" || !isModernAnswer(answer) {
		return false
	}
	return b.calls.start(func() {
		welcome, err := b.initialize(ctx, c.m)
		if err != nil {
			b.log.debugf("no bridge: %v", err)
			welcome = answer
		}
		c.finishWith(welcome)
	})
}

// mayBeNeeded reports whether a refusal may mean that the server does not serve the session that it
// opened: the server of the Go SDK that is made for revision 2026-07-28 alone answers initialize as
// one of the host's revision does, and everything after it with 400 and a line of text.
func (b *bridge) mayBeNeeded(c *call, status int, reply *document) bool {
	if c.m.own || c.m.version != "" || c.m.method == "initialize" || status != http.StatusBadRequest {
		return false
	}
	if reply == nil {
		return !b.oldWorks.Load()
	}
	return isModernError(reply.error)
}

// startLate starts the bridge in the middle of a session that the server refuses; false if that is
// not what the refusal meant.
func (b *bridge) startLate(ctx context.Context, initialize *message) bool {
	if initialize == nil || b.starting.take(ctx) != nil {
		return false
	}
	defer b.starting.give()
	if b.peers.Load() != nil {
		return true // another message did it
	}
	if b.unavailable {
		return false
	}
	if _, err := b.discover(ctx, initialize); err != nil {
		b.log.debugf("no bridge: %v", err)
		b.unavailable = ctx.Err() == nil
		return false
	}
	b.listen()
	return true
}

// initialize starts the bridge and answers the host with what the server says about itself.
func (b *bridge) initialize(ctx context.Context, m *message) (*document, error) {
	if err := b.starting.take(ctx); err != nil {
		return nil, err
	}
	defer b.starting.give()
	discovered, err := b.discover(ctx, m)
	if err != nil {
		return nil, err
	}
	version := member(m.params, "protocolVersion")
	if _, ok := unquote(version); !ok {
		version = []byte(`"2025-11-25"`)
	}
	info := member(discovered, "_meta", metaServerInfo)
	if info == nil {
		info = member(discovered, "serverInfo") // where it was in the drafts
	}
	result := fmt.Appendf(nil, `{"protocolVersion":%s,"capabilities":%s,"serverInfo":%s}`, version,
		objectOr(member(discovered, "capabilities"), "{}"),
		objectOr(info, `{"name":"unknown","version":""}`))
	if instructions := member(discovered, "instructions"); !isNull(instructions) {
		result = withMember(result, "instructions", instructions)
	}
	return resultAnswer(m.id, result), nil
}

// discover asks the server what it is, in the host's name. If it speaks the bridge's revision, the
// bridge is in use from here on.
func (b *bridge) discover(ctx context.Context, initialize *message) ([]byte, error) {
	peers := &peerInfo{
		clientInfo:         objectOr(member(initialize.params, "clientInfo"), ""),
		clientCapabilities: objectOr(member(initialize.params, "capabilities"), "{}"),
	}
	answer, err := b.ask(ctx, peers.request("server/discover", nil, ""), nil)
	if err != nil {
		return nil, err
	}
	if !contains(member(answer.result, "supportedVersions"), bridgeVersion) {
		return nil, fmt.Errorf("%s does not speak %s", b.host, bridgeVersion)
	}
	peers.serverCapabilities = objectOr(member(answer.result, "capabilities"), "{}")
	b.forgetSession()
	b.peers.Store(peers)
	b.log.infof("%s speaks only %s: bridging for a client that opens with initialize",
		b.host, bridgeVersion)
	return answer.result, nil
}

// objectOr is raw if that is an object.
func objectOr(raw []byte, otherwise string) []byte {
	if len(raw) > 0 && raw[0] == '{' {
		return raw
	}
	return []byte(otherwise)
}

// request is a message of the bridge's revision in the host's name. params is an object or nil. The
// sender gives it an id.
func (p *peerInfo) request(method string, params []byte, level string) *message {
	params = objectOr(params, "{}")
	// The host's own members stay: a progress token, the trace context.
	meta := withMember(objectOr(member(params, "_meta"), "{}"), metaVersion, quote(bridgeVersion))
	if len(p.clientInfo) > 0 {
		meta = withMember(meta, metaClientInfo, p.clientInfo)
	}
	meta = withMember(meta, metaCapabilities, p.clientCapabilities)
	if level != "" {
		meta = withMember(meta, metaLogLevel, quote(level))
	}
	params = withMember(params, "_meta", meta)
	m, _, bad := parseMessage(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":0,"method":%s,"params":%s}`,
		quote(method), params))
	if bad != nil { // made of valid JSON
		panic(bad)
	}
	return m
}

// call brings a request of the host to the server and the answer back.
func (b *bridge) call(ctx context.Context, c *call) error {
	c.sent.Store(false) // the server is not told of a cancellation: its POST is closed
	answer, err := b.answer(ctx, c)
	if err == nil {
		c.answer(answer)
	}
	return err
}

func (b *bridge) answer(ctx context.Context, c *call) (answer *document, err error) {
	m := c.m
	if !isNull(m.params) && m.params[0] != '{' {
		return nil, &rpcError{Code: codeInvalidParams, Message: "mcp-proxy: params is not an object"}
	}
	switch m.method {
	case "initialize":
		return b.initialize(ctx, m)
	case "ping":
	case "logging/setLevel":
		err = b.setLevel(m)
	case "resources/subscribe", "resources/unsubscribe":
		err = b.subscribe(ctx, m)
	default:
		if answer, err = b.inRounds(ctx, c); err != nil {
			return nil, err
		}
		return b.downgrade(m, answer)
	}
	return resultAnswer(m.id, []byte(`{}`)), err
}

func resultAnswer(id, result []byte) *document {
	return newDocument(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result))
}

// notify takes a notification or response of the host: a server of this revision wants none.
func (b *bridge) notify(_ context.Context, m *message) error {
	if m.method == "notifications/initialized" {
		b.listen()
		return nil
	}
	b.log.debugf("%s is not forwarded: %s does not know it", nameOf(m), b.host)
	return nil
}

// logLevels in ascending order (RFC 5424, section 6.2.1).
var logLevels = []string{
	"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency",
}

// setLevel keeps the level that every later request is to carry.
func (b *bridge) setLevel(m *message) error {
	if member(b.peers.Load().serverCapabilities, "logging") == nil {
		return notOffered(m.method)
	}
	level, _ := unquote(member(m.params, "level"))
	if !slices.Contains(logLevels, level) {
		return &rpcError{Code: codeInvalidParams, Message: "mcp-proxy: there is no such log level"}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.level = level
	return nil
}

func notOffered(method string) error {
	text := "mcp-proxy: the server does not offer " + method
	return &rpcError{Code: codeMethodNotFound, Message: text}
}

func (b *bridge) logLevel() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.level
}

// relay passes on what the server says on the stream of a request.
func (b *bridge) relay(c *call, method string, d *document) error {
	switch {
	case c.settled.Load():
		return nil // the host has its answer, or wants none any more
	case d.id != nil:
		// MCP 2026-07-28, Streamable HTTP, "Receiving Messages": the server MUST NOT send requests,
		// and cannot be answered.
		return fmt.Errorf("%s sent a request, %s, that this revision lacks", b.host, excerpt(method))
	case method == "notifications/message":
		// The server may still work on a request that was sent before the level rose.
		level, _ := unquote(member(d.params, "level"))
		got, least := slices.Index(logLevels, level), slices.Index(logLevels, b.logLevel())
		if got >= 0 && got < least {
			return nil
		}
	}
	b.out.write(d.raw)
	return nil
}

// downgrade makes an answer one of the host's revision. That must ignore members which it does not
// know, but not one that has another meaning.
func (b *bridge) downgrade(m *message, d *document) (*document, error) {
	if isError(d.error) {
		return downgradeError(m, d), nil
	}
	// MCP 2026-07-28, Overview, "ResultType": absent is complete, unknown is invalid.
	if kind := member(d.result, "resultType"); kind != nil && string(kind) != `"complete"` {
		return nil, b.invalid("gave a result of an unknown type")
	}
	switch m.method {
	case "tools/list":
		// 2025-11-25 knows output schemas of objects only: the TypeScript SDK's client of that
		// revision refuses the whole list for another one.
		return newDocument(editTools(b.tools.learn(d.raw), func(tool []byte) []byte {
			schema := member(tool, "outputSchema")
			if schema == nil || means(member(schema, "type"), "object") {
				return tool
			}
			return without(tool, "outputSchema")
		})), nil
	case "tools/call":
		// Anything in 2026-07-28, an object in 2025-11-25 (Schema, CallToolResult).
		structured := member(d.result, "structuredContent")
		if structured != nil && structured[0] != '{' {
			return resultAnswer(m.id, without(d.result, "structuredContent")), nil
		}
	}
	return d, nil
}

// downgradeError gives an error the code that it had in the host's revision: a resource that does
// not exist is -32602 since 2026-07-28, and was -32002. If the params are wrong in another way, the
// error does not name the resource.
func downgradeError(m *message, d *document) *document {
	text, _ := unquote(member(d.error, "message"))
	uri := member(m.params, "uri")
	named := uri != nil && bytes.Equal(member(d.error, "data", "uri"), uri)
	missing := named || strings.Contains(strings.ToLower(text), "not found")
	invalid := string(member(d.error, "code")) == strconv.Itoa(codeInvalidParams)
	if m.method != "resources/read" || !invalid || !missing {
		return d
	}
	code := []byte(strconv.Itoa(codeResourceNotFound))
	return newDocument(withMember(d.raw, "error", withMember(d.error, "code", code)))
}

// invalid is the error for what the server must not do.
func (b *bridge) invalid(what string) error {
	return &rpcError{Code: codeInternal, Message: "mcp-proxy: " + b.host + " " + what}
}

// inRounds sends a request until its answer is none that asks for input (MCP 2026-07-28, Multi
// Round-Trip Requests). Each round has the original params, the answers of the host, and the
// server's state as it is.
func (b *bridge) inRounds(ctx context.Context, c *call) (*document, error) {
	heard := func(method string, d *document) error { return b.relay(c, method, d) }
	m := b.peers.Load().request(c.m.method, c.m.params, b.logLevel())
	params, silent := m.params, 0 // silent counts rounds in a row in which the host is not asked
	for round := 0; round < maxRounds; round++ {
		answer, err := b.ask(ctx, m, heard)
		if err != nil || !means(member(answer.result, "resultType"), "input_required") {
			return answer, err
		}
		if !slices.Contains([]string{"tools/call", "prompts/get", "resources/read"}, m.method) {
			return nil, b.invalid("asked for input in answer to " + m.method) // "Supported Requests"
		}
		inputs, err := b.readInputs(member(answer.result, "inputRequests"))
		if err != nil {
			return nil, err
		}
		next := params
		state := member(answer.result, "requestState")
		switch {
		case len(inputs) > 0:
			responses, err := b.askHost(ctx, inputs)
			if err != nil {
				return nil, err
			}
			next, silent = withMember(next, "inputResponses", responses), 0
		case isNull(state):
			return nil, b.invalid("asked for input without saying which")
		default:
			// The first retry may follow at once ("Client Requirements", 1).
			if silent++; silent > 1 && !sleep(ctx, min(backoff(min(silent-1, 10)), maxRoundPause)) {
				return nil, ctx.Err()
			}
		}
		if !isNull(state) {
			next = withMember(next, "requestState", state)
		}
		if m, _, _ = parseMessage(withMember(m.raw, "params", next)); m == nil {
			return nil, b.invalid("asked for input that is nested too deep")
		}
	}
	return nil, b.invalid(fmt.Sprintf("asked for input more than %d times", maxRounds))
}

// inputRequest is one thing that the server wants to know from the host.
type inputRequest struct {
	key    string // in inputRequests and inputResponses
	method string
	params []byte
	id     []byte // of the request to the host
	answer chan *message
}

// readInputs reads the inputRequests of a result. The host must offer to answer all of them: it is
// asked nothing else.
func (b *bridge) readInputs(raw []byte) ([]*inputRequest, error) {
	if isNull(raw) {
		return nil, nil
	}
	count := 0
	scan(raw, func([]byte, int, int) { count++ }) // before they are decoded: they may be millions
	var all map[string]json.RawMessage
	if count > maxInputs || json.Unmarshal(raw, &all) != nil {
		return nil, b.invalid("asked for input that is no object of at most 100 requests")
	}
	capabilities := b.peers.Load().clientCapabilities
	var inputs []*inputRequest
	for key, request := range all {
		method, _ := unquote(member(request, "method"))
		params := objectOr(member(request, "params"), "{}")
		if !offersInput(capabilities, method, params) {
			// "Server Requirements", 6: it MUST NOT.
			return nil, b.invalid("asks for " + excerpt(method) + ", which this client lacks")
		}
		if isURLElicitation(method, params) && member(params, "elicitationId") == nil {
			// Required until 2025-11-25.
			params = withMember(params, "elicitationId", quote(newState()))
		}
		inputs = append(inputs, &inputRequest{key, method, params, newOwnID(), make(chan *message, 1)})
	}
	sort.Slice(inputs, func(i, j int) bool { return inputs[i].key < inputs[j].key })
	return inputs, nil
}

func isURLElicitation(method string, params []byte) bool {
	return method == "elicitation/create" && means(member(params, "mode"), "url")
}

// offersInput reports whether a host with these capabilities may be asked.
func offersInput(capabilities []byte, method string, params []byte) bool {
	has := func(path ...string) bool { return !isNull(member(capabilities, path...)) }
	switch method {
	case "roots/list":
		return has("roots")
	case "sampling/createMessage":
		return has("sampling") && (isNull(member(params, "tools")) || has("sampling", "tools"))
	case "elicitation/create":
		if isURLElicitation(method, params) {
			return has("elicitation", "url")
		}
		// Elicitation, "Capabilities": {} is form.
		return has("elicitation") && (has("elicitation", "form") || !has("elicitation", "url"))
	}
	return false
}

var errHostGone = errors.New("the client closed its input and did not answer the server's question")

// askHost asks the host for all inputs at once, and returns its answers as an object with the keys
// of the inputs.
func (b *bridge) askHost(ctx context.Context, inputs []*inputRequest) ([]byte, error) {
	b.mu.Lock()
	if b.over {
		b.mu.Unlock()
		return nil, errHostGone
	}
	for _, in := range inputs {
		b.pending[string(in.id)] = in.answer
	}
	b.mu.Unlock()
	defer b.withdraw(inputs)
	for _, in := range inputs {
		b.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":%s,"params":%s}`,
			in.id, quote(in.method), in.params))
	}
	responses := []byte(`{}`)
	for _, in := range inputs {
		select {
		case m, ok := <-in.answer:
			if !ok {
				return nil, errHostGone
			}
			result, err := inputResult(in.method, m)
			if err != nil {
				return nil, err
			}
			responses = withMember(responses, in.key, result)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return responses, nil
}

// takeResponse takes a response of the host to an input request; it is not for the server.
func (b *bridge) takeResponse(m *message) bool {
	if !m.response {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	answer := b.pending[string(m.id)]
	if answer == nil {
		return false
	}
	delete(b.pending, string(m.id)) // a second response answers nothing
	answer <- m
	return true
}

// withdraw tells the host that nobody waits any more for the answers that it has not given.
func (b *bridge) withdraw(inputs []*inputRequest) {
	for _, in := range inputs {
		b.mu.Lock()
		open := b.pending[string(in.id)] != nil
		delete(b.pending, string(in.id))
		b.mu.Unlock()
		if open {
			b.out.write(fmt.Appendf(nil,
				`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}`, in.id))
		}
	}
}

// inputResult is what the server is given for an answer of the host. It takes no error: an
// elicitation that failed was dismissed ("Response Actions", 3), and without a sample or the roots
// the request is over (Sampling and Roots, "Error Handling").
func inputResult(method string, m *message) ([]byte, error) {
	answer := readMembers(m.raw)
	switch {
	case isError(answer.error) && method == "elicitation/create":
		return []byte(`{"action":"cancel"}`), nil
	case isError(answer.error):
		refused := rpcErrorOf(answer.error)
		refused.Message = "mcp-proxy: the client refused " + method + ": " + refused.Message
		return nil, refused
	case answer.result == nil || answer.result[0] != '{':
		return nil, &rpcError{Code: codeInternal,
			Message: "mcp-proxy: the client's answer to " + method + " is no object"}
	}
	return answer.result, nil
}

// rpcErrorOf reads an error object that the other side wrote.
func rpcErrorOf(raw []byte) *rpcError {
	code, _ := strconv.Atoi(string(member(raw, "code")))
	text, _ := unquote(member(raw, "message"))
	return &rpcError{Code: code, Message: excerpt(text)}
}

// end stops what only the host could continue, and what it listens to.
func (b *bridge) end(context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	for id, answer := range b.pending {
		delete(b.pending, id)
		close(answer)
	}
	if b.unlisten != nil {
		b.unlisten()
	}
}

// listChanges are the members of a subscription's filter and the notifications that they ask for,
// by the capability that offers them.
var listChanges = []struct{ capability, filter, method string }{
	{"tools", "toolsListChanged", "notifications/tools/list_changed"},
	{"prompts", "promptsListChanged", "notifications/prompts/list_changed"},
	{"resources", "resourcesListChanged", "notifications/resources/list_changed"},
}

// filter is what is to be listened to, nil if that is nothing.
func (p *peerInfo) filter(resources []string) []byte {
	filter := []byte(`{}`)
	for _, change := range listChanges {
		if string(member(p.serverCapabilities, change.capability, "listChanged")) == "true" {
			filter = withMember(filter, change.filter, []byte("true"))
		}
	}
	if len(resources) > 0 {
		list, err := json.Marshal(resources)
		if err != nil { // strings always can be
			panic(err)
		}
		filter = withMember(filter, "resourceSubscriptions", list)
	}
	if string(filter) == `{}` {
		return nil
	}
	return filter
}

// listen opens the stream for what the server announces, as the host's revision does once the host
// has said that it is ready. It waits a moment: the changes that the next message causes must be
// heard.
func (b *bridge) listen() {
	if b.changing.take(context.Background()) == nil {
		defer b.changing.give()
		_ = b.listenTo(context.Background(), b.resources, "", listenWait) // there is no error
	}
}

// subscribe serves resources/subscribe and resources/unsubscribe: the server must have acknowledged
// a stream with the new resources before it takes the place of the one before.
func (b *bridge) subscribe(ctx context.Context, m *message) error {
	if string(member(b.peers.Load().serverCapabilities, "resources", "subscribe")) != "true" {
		return notOffered(m.method)
	}
	uri, ok := unquote(member(m.params, "uri"))
	if !ok {
		return &rpcError{Code: codeInvalidParams, Message: "mcp-proxy: uri is not a string"}
	}
	if err := b.changing.take(ctx); err != nil {
		return err
	}
	defer b.changing.give()
	resources := slices.DeleteFunc(slices.Clone(b.resources), func(s string) bool { return s == uri })
	wanted := ""
	if m.method == "resources/subscribe" {
		wanted, resources = uri, append(resources, uri)
	}
	if len(resources) == len(b.resources) {
		return nil
	}
	return b.listenTo(ctx, resources, wanted, ackWait)
}

// listenTo replaces the stream by one for these resources. If the host asked for it, the server
// must not refuse it; but a server need not acknowledge a stream for it to work.
func (b *bridge) listenTo(ctx context.Context, resources []string, wanted string,
	atMost time.Duration) error {
	asked := len(resources) != len(b.resources)
	var stop context.CancelFunc
	if filter := b.peers.Load().filter(resources); filter != nil {
		var acknowledged chan error
		stop, acknowledged = b.openSubscription(filter, asked, wanted)
		bounded, cancel := context.WithTimeout(ctx, atMost)
		defer cancel()
		var err error
		select {
		case err = <-acknowledged:
		case <-bounded.Done():
			err = ctx.Err()
		}
		if err != nil && asked {
			stop()
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unlisten != nil {
		b.unlisten()
	}
	if b.unlisten, b.resources = stop, resources; stop != nil && b.over {
		stop()
	}
	return nil
}

// openSubscription opens a subscriptions/listen stream, and opens it again when it ends, until it
// is stopped or the server refuses it. What becomes of the first attempt goes to acknowledged; the
// server must accept the resource wanted, if any. A stream that the host asked for may lead to a
// sign-in.
func (b *bridge) openSubscription(filter []byte, asked bool, wanted string) (
	stop context.CancelFunc, acknowledged chan error) {
	ctx, stop := context.WithCancel(context.Background())
	acknowledged = make(chan error, 1)
	acknowledge := func(err error) {
		select {
		case acknowledged <- err:
		default: // nobody waits for a further attempt
		}
	}
	at := cursor{retry: -1}
	heard := func(method string, d *document) error {
		honored := member(d.params, "notifications", "resourceSubscriptions")
		switch {
		case method != "notifications/subscriptions/acknowledged":
			at.moves++
			return b.relayChange(filter, method, d)
		case wanted != "" && !contains(honored, wanted):
			acknowledge(&rpcError{Code: codeResourceNotFound,
				Message: "mcp-proxy: the server does not accept a subscription to this resource"})
		default:
			acknowledge(nil)
		}
		return nil
	}
	started := b.calls.start(func() {
		defer stop()
		for {
			began := time.Now()
			err := b.listenOnce(ctx, filter, asked, heard)
			acknowledge(err)
			if ctx.Err() != nil || errors.Is(err, errNoStream) || errors.Is(err, errStopping) {
				return
			}
			asked = false
			b.log.debugf("subscriptions/listen: %v", err)
			if !sleep(ctx, at.pause(time.Since(began))) {
				return
			}
		}
	})
	if !started {
		acknowledge(errStopping)
	}
	return stop, acknowledged
}

// listenOnce listens until the stream ends.
func (b *bridge) listenOnce(ctx context.Context, filter []byte, asked bool, heard heardFunc) error {
	params := fmt.Appendf(nil, `{"notifications":%s}`, filter)
	m := b.peers.Load().request("subscriptions/listen", params, "")
	m.unasked = !asked
	answer, err := b.ask(ctx, m, heard)
	var refused *rpcError
	final := false
	switch {
	case err == nil && answer.error == nil:
		return errors.New("ended by the server")
	case err == nil:
		// "Subscription limit reached" is an internal error in the TypeScript SDK's server.
		final = string(member(answer.error, "code")) != strconv.Itoa(codeInternal)
		text := "mcp-proxy: " + b.host + " refuses subscriptions/listen"
		err = &rpcError{Code: codeTransport, Message: text}
	case errors.As(err, &refused):
		status, _ := refused.Data["httpStatus"].(int)
		final = status >= 400 && !notNow(status)
	}
	if final {
		return fmt.Errorf("%w: %w", errNoStream, err)
	}
	return err
}

// relayChange gives the host a notification that the filter asks for as the host's revision has it:
// without the subscription's id.
func (b *bridge) relayChange(filter []byte, method string, d *document) error {
	for _, change := range listChanges {
		if method == change.method && member(filter, change.filter) != nil {
			b.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%s}`, quote(method)))
			return nil
		}
	}
	uri := member(d.params, "uri")
	s, ok := unquote(uri)
	wanted := ok && contains(member(filter, "resourceSubscriptions"), s)
	if wanted && method == "notifications/resources/updated" {
		b.out.write(fmt.Appendf(nil,
			`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":%s}}`, uri))
		return nil
	}
	return fmt.Errorf("%s sent %s on a subscription that does not ask for it", b.host, excerpt(method))
}
