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
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	unknownPeer   = `{"name":"unknown","version":""}`
)

// bridge is in use once peers is set.
type bridge struct {
	*upstream
	session *session
	ask     askFunc

	peers atomic.Pointer[peerInfo]
	level atomic.Value // of log messages, as the host set it; a string

	starting    turn // one server/discover at a time; guards the next field
	unavailable bool // the server was asked, and does not speak the bridge's revision

	changing  turn     // one change of the subscription at a time; guards the next field
	resources [][]byte // that the host has subscribed to, raw

	mu       sync.Mutex               // guards what follows
	over     bool                     // the host can answer nothing any more
	pending  map[string]chan *message // input requests that the host has not answered, by raw id
	unlisten func()                   // ends the subscription
}

// An askFunc sends a request of the proxy's own. heard, if not nil, is given what comes before the
// answer; an error of it is for the log.
type askFunc = func(ctx context.Context, m *message, heard heardFunc) (*document, error)
type heardFunc = func(method string, d *document) error

// peerInfo is what the two sides said about themselves, raw. It is never changed once made.
type peerInfo struct{ clientInfo, clientCapabilities, serverCapabilities []byte }

// serves reports whether a message of the host has to be translated.
func (b *bridge) serves(m *message) bool { return m.version == "" && b.peers.Load() != nil }

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

// startLate starts the bridge in the middle of a session that the server opened and does not serve:
// the server of the Go SDK that is made for revision 2026-07-28 alone answers initialize as one of
// the host's revision does, and everything after it with 400 and a line of text. It returns false
// if that is not what the refusal of c means.
func (b *bridge) startLate(ctx context.Context, c *call, refused *serverRefusal) bool {
	initialize, isModern := b.session.handshake.initialize.Load(), !b.session.state().worked
	if refused.reply != nil {
		isModern = isModernError(refused.reply.error)
	}
	if !isModern || refused.status != http.StatusBadRequest || initialize == nil || c.m.own ||
		c.m.version != "" || c.m.method == "initialize" || b.starting.take(ctx) != nil {
		return false
	}
	defer b.starting.give()
	if isOn := b.peers.Load() != nil; isOn || b.unavailable {
		return isOn // another message did it, or tried it
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
		objectOr(member(discovered, "capabilities"), "{}"), objectOr(info, unknownPeer))
	if instructions := member(discovered, "instructions"); !isNull(instructions) {
		result = withMember(result, "instructions", instructions)
	}
	return resultAnswer(m.id, result), nil
}

// discover asks the server what it is, in the host's name. If it speaks the bridge's revision, the
// bridge is in use from here on.
func (b *bridge) discover(ctx context.Context, initialize *message) ([]byte, error) {
	peers := &peerInfo{
		clientInfo:         objectOr(member(initialize.params, "clientInfo"), unknownPeer),
		clientCapabilities: objectOr(member(initialize.params, "capabilities"), "{}"),
	}
	answer, err := b.ask(ctx, peers.request("server/discover", nil, ""), nil)
	if err != nil {
		return nil, err
	}
	if !contains(member(answer.result, "supportedVersions"), bridgeVersion) {
		return nil, fmt.Errorf("%s does not speak %s", b.server.Host, bridgeVersion)
	}
	peers.serverCapabilities = objectOr(member(answer.result, "capabilities"), "{}")
	b.session.replace(sessionState{})
	b.peers.Store(peers)
	b.log.infof("%s speaks only %s: bridging for a client that opens with initialize",
		b.server.Host, bridgeVersion)
	return answer.result, nil
}

// objectOr is raw if that is an object.
func objectOr(raw []byte, otherwise string) []byte {
	if len(raw) > 0 && raw[0] == '{' {
		return raw
	}
	return []byte(otherwise)
}

// request is a message of the bridge's revision in the host's name. params is an object or nil.
func (p *peerInfo) request(method string, params []byte, level string) *message {
	params = objectOr(params, "{}")
	meta := objectOr(member(params, "_meta"), "{}") // the host's, as a progress token
	meta = withMember(meta, metaVersion, quote(bridgeVersion))
	meta = withMember(meta, metaClientInfo, p.clientInfo)
	meta = withMember(meta, metaCapabilities, p.clientCapabilities)
	if level != "" {
		meta = withMember(meta, metaLogLevel, quote(level))
	}
	return newRequest(method, withMember(params, "_meta", meta))
}

// call brings a request of the host to the server and the answer back.
func (b *bridge) call(ctx context.Context, c *call) (err error) {
	c.sent.Store(false) // the server is not told of a cancellation: its POST is closed
	m, answer := c.m, resultAnswer(c.m.id, []byte(`{}`))
	switch {
	case !isNull(m.params) && m.params[0] != '{':
		err = rpcErrorf(codeInvalidParams, "params is not an object")
	case m.method == "initialize":
		answer, err = b.initialize(ctx, m)
	case m.method == "ping":
	case m.method == "logging/setLevel":
		err = b.setLevel(m)
	case m.method == "resources/subscribe", m.method == "resources/unsubscribe":
		err = b.subscribe(ctx, m)
	default:
		if answer, err = b.inRounds(ctx, c); err == nil {
			answer, err = b.downgrade(m, answer)
		}
	}
	if err == nil {
		c.answer(answer)
	}
	return err
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
	b.log.debugf("%s is not forwarded: %s does not know it", nameOf(m), b.server.Host)
	return nil
}

// logLevels are those of RFC 5424, section 6.2.1.
var logLevels = []string{
	"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency",
}

// setLevel keeps the level that every later request is to carry.
func (b *bridge) setLevel(m *message) error {
	if member(b.peers.Load().serverCapabilities, "logging") == nil {
		return rpcErrorf(codeMethodNotFound, "the server does not offer %s", m.method)
	}
	level, _ := unquote(member(m.params, "level"))
	if !slices.Contains(logLevels, level) {
		return rpcErrorf(codeInvalidParams, "there is no such log level")
	}
	b.level.Store(level)
	return nil
}

// downgrade makes an answer one of the host's revision. That must ignore members which it does not
// know, but not one that has another meaning.
func (b *bridge) downgrade(m *message, d *document) (*document, error) {
	if isError(d.error) {
		// A resource that does not exist is -32602 since 2026-07-28, and was -32002. If the params
		// are wrong in another way, the error does not name the resource.
		text, _ := unquote(member(d.error, "message"))
		uri := member(m.params, "uri")
		missing := uri != nil && bytes.Equal(member(d.error, "data", "uri"), uri) ||
			strings.Contains(strings.ToLower(text), "not found")
		if m.method == "resources/read" && hasCode(d.error, codeInvalidParams) && missing {
			code := []byte(strconv.Itoa(codeResourceNotFound))
			d = newDocument(withMember(d.raw, "error", withMember(d.error, "code", code)))
		}
		return d, nil
	}
	// MCP 2026-07-28, Overview, "ResultType": absent is complete, unknown is invalid.
	if kind := member(d.result, "resultType"); kind != nil && string(kind) != `"complete"` {
		return nil, b.invalid("gave a result of an unknown type")
	}
	switch m.method {
	case "tools/list":
		// 2025-11-25 knows output schemas of objects only: the TypeScript SDK's client of that
		// revision refuses the whole list for another one.
		return newDocument(editTools(b.session.tools.learn(d.raw), func(tool []byte) []byte {
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

// invalid is the error for what the server must not do.
func (b *bridge) invalid(what string) error {
	return rpcErrorf(codeInternal, "%s %s", b.server.Host, what)
}

// inRounds sends a request until its answer is none that asks for input (MCP 2026-07-28, Multi
// Round-Trip Requests). Each round has the original params, the answers of the host, and the
// server's state as it is.
func (b *bridge) inRounds(ctx context.Context, c *call) (*document, error) {
	heard := func(method string, d *document) error {
		switch {
		case c.settled.Load(): // the host has its answer, or wants none any more
		case d.id != nil:
			// MCP 2026-07-28, Streamable HTTP, "Receiving Messages": the server MUST NOT send
			// requests, and cannot be answered.
			return fmt.Errorf("%s sent a request, %s, that this revision lacks", b.server.Host,
				excerpt(method))
		default:
			b.calls.out.write(d.raw)
		}
		return nil
	}
	level, _ := b.level.Load().(string)
	m := b.peers.Load().request(c.m.method, c.m.params, level)
	params := m.params
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
			next = withMember(next, "inputResponses", responses)
		case isNull(state):
			return nil, b.invalid("asked for input without saying which")
		case !sleep(ctx, min(backoff(min(round+1, 10)), maxRoundPause)):
			return nil, ctx.Err()
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
	key, method string // key: in inputRequests and inputResponses
	params, id  []byte // id: of the request to the host
	answer      chan *message
}

// readInputs reads the inputRequests of a result. The host must offer to answer all of them: it is
// asked nothing else.
func (b *bridge) readInputs(raw []byte) (inputs []*inputRequest, err error) {
	capabilities := b.peers.Load().clientCapabilities
	scan(raw, func(quoted []byte, start, end int) {
		key, ok := unquote(quoted)
		if !ok || len(inputs) == maxInputs {
			err = b.invalid("asked for input that is no object of at most 100 requests")
		}
		if err != nil {
			return // there may be millions
		}
		method, _ := unquote(member(raw[start:end], "method"))
		params := objectOr(member(raw[start:end], "params"), "{}")
		if !offersInput(capabilities, method, params) {
			// "Server Requirements", 6: it MUST NOT.
			err = b.invalid("asks for " + excerpt(method) + ", which this client lacks")
		}
		if isURLElicitation(method, params) && member(params, "elicitationId") == nil {
			// Required until 2025-11-25.
			params = withMember(params, "elicitationId", quote(newState()))
		}
		answer := make(chan *message, 1)
		inputs = append(inputs, &inputRequest{key, method, params, newOwnID(), answer})
	})
	return inputs, err
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
		b.calls.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":%s,"params":%s}`,
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
func (b *bridge) takeResponse(m *message) bool { return m.response && b.closeQuestion(m.id, m) }

// closeQuestion reports whether somebody waits for the answer to a question, and gives it, if there
// is one: a second response answers nothing.
func (b *bridge) closeQuestion(id []byte, response *message) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	answer, isOpen := b.pending[string(id)]
	delete(b.pending, string(id))
	if isOpen && response != nil {
		answer <- response // there is room for one
	}
	return isOpen
}

// withdraw tells the host that nobody waits any more for the answers that it has not given.
func (b *bridge) withdraw(inputs []*inputRequest) {
	for _, in := range inputs {
		if b.closeQuestion(in.id, nil) {
			b.calls.out.write(fmt.Appendf(nil,
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
		return nil, rpcErrorf(refused.Code, "the client refused %s: %s", method, refused.Message)
	case answer.result == nil || answer.result[0] != '{':
		return nil, rpcErrorf(codeInternal, "the client's answer to %s is no object", method)
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
	b.unlisten()
}

// listChanges are the members of a subscription's filter and the notifications that they ask for,
// by the capability that offers them.
var listChanges = []struct{ capability, filter, method string }{
	{"tools", "toolsListChanged", "notifications/tools/list_changed"},
	{"prompts", "promptsListChanged", "notifications/prompts/list_changed"},
	{"resources", "resourcesListChanged", "notifications/resources/list_changed"},
}

// filter is what is to be listened to, {} if that is nothing.
func (p *peerInfo) filter(resources [][]byte) []byte {
	filter := []byte(`{}`)
	for _, change := range listChanges {
		if string(member(p.serverCapabilities, change.capability, "listChanged")) == "true" {
			filter = withMember(filter, change.filter, []byte("true"))
		}
	}
	if len(resources) > 0 {
		list := fmt.Appendf(nil, "[%s]", bytes.Join(resources, []byte(",")))
		filter = withMember(filter, "resourceSubscriptions", list)
	}
	return filter
}

// listen opens the stream for what the server announces, as the host's revision does once the host
// has said that it is ready.
func (b *bridge) listen() {
	b.changing <- struct{}{}
	defer b.changing.give()
	_ = b.listenTo(context.Background(), b.resources, "") // there is no error
}

// subscribe serves resources/subscribe and resources/unsubscribe: the server must have acknowledged
// a stream with the new resources before it takes the place of the one before.
func (b *bridge) subscribe(ctx context.Context, m *message) error {
	if string(member(b.peers.Load().serverCapabilities, "resources", "subscribe")) != "true" {
		return rpcErrorf(codeMethodNotFound, "the server does not offer %s", m.method)
	}
	raw := member(m.params, "uri")
	uri, ok := unquote(raw)
	if !ok {
		return rpcErrorf(codeInvalidParams, "uri is not a string")
	}
	if err := b.changing.take(ctx); err != nil {
		return err
	}
	defer b.changing.give()
	resources := slices.DeleteFunc(slices.Clone(b.resources),
		func(other []byte) bool { return means(other, uri) })
	wanted := ""
	if m.method == "resources/subscribe" {
		wanted, resources = uri, append(resources, bytes.Clone(raw))
	}
	if len(resources) == len(b.resources) {
		return nil
	}
	return b.listenTo(ctx, resources, wanted)
}

// listenTo replaces the stream by one for these resources. If the host asked for it, the server
// must not refuse it.
func (b *bridge) listenTo(ctx context.Context, resources [][]byte, wanted string) (err error) {
	asked, stop := len(resources) != len(b.resources), func() {}
	if filter := b.peers.Load().filter(resources); string(filter) != `{}` {
		stop, err = b.openSubscription(ctx, filter, asked, wanted)
		if err != nil && asked {
			stop()
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unlisten()
	if b.unlisten, b.resources = stop, resources; b.over {
		stop()
	}
	return nil
}

// openSubscription opens a subscriptions/listen stream, and opens it again when it ends, until it
// is stopped or the server refuses it. A stream that the host asked for may lead to a sign-in, and
// the server must accept the resource wanted, if any. The first attempt is waited for, so that the
// changes which the next message causes are heard; but a server need not acknowledge a stream for
// it to work.
func (b *bridge) openSubscription(
	ctx context.Context, filter []byte, asked bool, wanted string,
) (stop func(), err error) {
	listening, stop := context.WithCancel(context.Background())
	atMost := listenWait
	if asked {
		atMost = ackWait
	}
	bounded, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	first, acknowledge := context.WithCancelCause(bounded) // the first cause counts
	at := cursor{retry: firstReconnect}
	heard := func(method string, d *document) error {
		honored := member(d.params, "notifications", "resourceSubscriptions")
		switch {
		case method != "notifications/subscriptions/acknowledged":
			at.moved = true
			return b.relayChange(filter, method, d)
		case wanted != "" && !contains(honored, wanted):
			acknowledge(rpcErrorf(codeResourceNotFound,
				"the server does not accept a subscription to this resource"))
		default:
			acknowledge(nil)
		}
		return nil
	}
	params := fmt.Appendf(nil, `{"notifications":%s}`, filter)
	m := b.peers.Load().request("subscriptions/listen", params, "")
	m.unasked = !asked
	started := b.calls.start(func() {
		defer stop()
		for final := false; !final; m.unasked = true {
			began := time.Now()
			answer, err := b.ask(listening, m, heard)
			var refused *rpcError
			switch {
			case err == nil && !isError(answer.error):
				err = errors.New("ended by the server")
			case err == nil:
				// "Subscription limit reached" is an internal error in the TypeScript SDK's server.
				final = !hasCode(answer.error, codeInternal)
				err = rpcErrorf(codeTransport, "%s refuses subscriptions/listen", b.server.Host)
			case errors.As(err, &refused):
				status, _ := refused.Data["httpStatus"].(int)
				final = status >= 400 && !notNow(status)
			}
			acknowledge(err)
			b.log.debugf("subscriptions/listen: %v", err)
			at.lived = time.Since(began)
			final = final || errors.Is(err, errStopping) || !sleep(listening, at.pause())
		}
	})
	if !started {
		return stop, errStopping
	}
	<-first.Done()
	err = context.Cause(first)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = ctx.Err()
	}
	return stop, err
}

// relayChange gives the host a notification that the filter asks for, without what only the
// server's revision has in it: the subscription's id.
func (b *bridge) relayChange(filter []byte, method string, d *document) error {
	uri, wanted := unquote(member(d.params, "uri"))
	wanted = wanted && method == "notifications/resources/updated" &&
		contains(member(filter, "resourceSubscriptions"), uri)
	for _, change := range listChanges {
		wanted = wanted || method == change.method && member(filter, change.filter) != nil
	}
	if !wanted {
		return fmt.Errorf("%s sent %s on a subscription that does not ask for it", b.server.Host,
			excerpt(method))
	}
	b.calls.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%s,"params":%s}`, quote(method),
		without(objectOr(d.params, "{}"), "_meta")))
	return nil
}
