package main

// The way of a message: its turn, the POST with its token, overload and
// retries, the answer back to stdout, cancelling, and the end of it all. It
// knows nothing of how a token is come by (oauth.go), nor of what is peculiar
// to a protocol era (headers.go, session.go, legacy.go), nor of how a host and a
// server of different eras come together (bridge.go).

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxCalls     = 1024             // requests on their way at once; more wait here
	deliveryWait = 10 * time.Second // how long a notification may hold up what was read after it
	drainTime    = 30 * time.Second // from EOF on stdin to giving up what is in flight
	signInDrain  = 3 * time.Second  // the same for what waits until the user has signed in
	endTime      = time.Second      // for ending the session
	cancelGrace  = 2 * time.Second  // from a forwarded cancellation to closing the POST
)

type proxy struct {
	server  *url.URL
	headers http.Header // the user's own
	client  *http.Client
	auth    *oauth // nil: the user gave an Authorization header
	out     *lineWriter
	log     *logger
	trace   *tracer
	tools   toolHeaders
	hidden  toolFilter
	session session
	legacy  legacy
	bridge  *bridge

	slots    chan struct{}
	pending  sync.WaitGroup // messages not yet answered or delivered
	routines sync.WaitGroup // goroutines that work for this proxy

	// Only the goroutine that reads stdin touches these two.
	delivered <-chan struct{} // closed when every notification read so far has reached the server
	opened    <-chan struct{} // closed when the last initialize read is answered

	mu       sync.Mutex // guards calls and stopping
	calls    map[string]*call
	stopping bool
}

// call is a request that waits for its one answer.
type call struct {
	m         *message
	loose     string // what a careless server may keep of its id
	span      *span
	cancel    context.CancelFunc
	sessionID string // from the headers of the answer to initialize

	sent      atomic.Bool
	cancelled atomic.Bool
	settled   atomic.Bool
	done      chan struct{} // closed when settled
	reached   chan struct{} // closed when the server has begun to answer; nil where nobody waits for that
	reach     sync.Once     // closes reached

	// judge may take over an answer that the client is not to see; nil: it sees all.
	judge func(d *document) (taken bool)

	// own marks a request of the proxy itself: its answer is kept, not written.
	own     bool
	answer  *document
	failure error
	heard   heardFunc // takes what comes on its stream; nil: it goes to the client
}

var (
	errStopping = errors.New("the proxy is stopping")
	errNoAnswer = errors.New("the server gave no answer")
)

func newProxy(c *config, client *http.Client, auth *oauth, out *lineWriter, log *logger, trace *tracer) *proxy {
	now := make(chan struct{})
	close(now)
	p := &proxy{
		server: c.server, headers: c.headers, client: client, auth: auth, out: out, log: log, trace: trace, hidden: c.ignoredTools,
		slots: make(chan struct{}, maxCalls), delivered: now, opened: now, calls: map[string]*call{},
	}
	p.tools.warn = func(format string, args ...any) { log.warnf(c.server.Host+": "+format, args...) }
	p.session.renewing = newTurn()
	p.legacy.mode, p.legacy.opening = c.transport, newTurn()
	p.bridge = newBridge(p)
	return p
}

// serve forwards what comes on stdin until it ends, ctx ends, or stdout is
// closed. Every request read is answered before it returns.
func (p *proxy) serve(ctx context.Context, stdin io.Reader) error {
	work, stopWork := context.WithCancel(context.Background())
	defer stopWork()
	eof := make(chan error, 1)
	go func() { eof <- p.read(work, newLineReader(stdin)) }()

	var err error
	select {
	case err = <-eof:
		p.drain(ctx)
	case <-ctx.Done():
	}
	end := context.Background()
	within(end, endTime, func(context.Context) { p.stop() }) // a host that does not read would hold it up
	stopWork()
	within(end, endTime, func(ctx context.Context) {
		p.endSession(ctx)
		p.routines.Wait()
		p.auth.settle(ctx)
	})
	return err
}

// within waits for what do does, until ctx ends or d has passed.
func within(ctx context.Context, d time.Duration, do func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); do(ctx) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// drain waits for what is in flight, at most drainTime.
func (p *proxy) drain(ctx context.Context) {
	if p.auth != nil {
		defer time.AfterFunc(signInDrain, p.auth.leave).Stop()
	}
	within(ctx, drainTime, func(ctx context.Context) {
		p.bridge.end()
		p.endSubscriptions()
		p.pending.Wait()
		p.auth.settle(ctx)
	})
}

// stop answers every open request with an error and lets no further one in.
func (p *proxy) stop() {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	for _, c := range p.open() {
		p.fail(c, errStopping)
	}
}

// endSubscriptions ends what has no end of its own: at EOF nobody is left who
// could cancel it.
func (p *proxy) endSubscriptions() {
	for _, c := range p.open() {
		if c.m.method == "subscriptions/listen" {
			p.fail(c, errStopping)
			c.cancel()
		}
	}
}

// open lists the requests that wait for their answers.
func (p *proxy) open() []*call {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*call, 0, len(p.calls))
	for _, c := range p.calls {
		all = append(all, c)
	}
	return all
}

func (p *proxy) read(ctx context.Context, lines *lineReader) error {
	for {
		line, err := lines.next()
		switch {
		case errors.Is(err, errTooLong):
			p.out.write(errorAnswer(nil, &rpcError{Code: codeInvalidRequest, Message: fmt.Sprintf("invalid request: longer than %d MiB", maxMessage>>20)}))
			continue
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read stdin: %w", err)
		}
		m, id, bad := parseMessage(line)
		if bad != nil {
			p.log.warnf("a line on stdin was not forwarded: %s", bad.Message) // not the line: it may hold a secret
			p.out.write(errorAnswer(id, bad))
			continue
		}
		p.dispatch(ctx, m)
	}
}

// dispatch gives a message its turn. It never blocks, so that a cancellation
// or an answer to the server is read whatever the messages before it wait for.
func (p *proxy) dispatch(ctx context.Context, m *message) {
	if m.method == "notifications/cancelled" && p.cancel(m) || p.bridge.takeResponse(m) {
		return
	}
	turn := []<-chan struct{}{p.delivered}
	if m.version == "" {
		// While an initialize is unanswered nothing else may be sent (MCP
		// 2025-11-25, Lifecycle); modern messages know no initialize.
		turn = append(turn, p.opened)
	}
	ctx, span := p.startSpan(ctx, m)
	if m.isRequest() {
		work := ctx // for what outlives the request
		ctx, cancel := context.WithCancel(ctx)
		c := &call{m: m, span: span, cancel: cancel, done: make(chan struct{})}
		if !p.register(c) {
			cancel()
			span.end()
			return
		}
		switch m.method {
		case "initialize":
			p.opened = c.done
			c.judge = func(d *document) bool { return !p.legacy.chosen() && p.bridge.intercept(work, c, d) }
		case "subscriptions/listen":
			// What the next message brings about must find the subscription.
			c.reached = make(chan struct{})
			p.delivered = c.reached
		}
		if !p.enter() {
			cancel() // whoever stops has answered it
			return
		}
		go p.forward(ctx, c, turn)
		return
	}
	if !p.enter() {
		span.end()
		return
	}
	delivered := make(chan struct{})
	p.delivered = delivered
	p.pending.Add(1)
	go func() {
		defer p.routines.Done()
		defer p.pending.Done()
		defer close(delivered)
		defer span.end()
		if err := p.notify(ctx, m, turn); err != nil && ctx.Err() == nil {
			span.fail("delivery")
			p.log.warnf("%s was not delivered: %v", nameOf(m), err)
		}
	}()
}

// enter counts a message's goroutine, unless the end has begun: the count is
// waited for then, and must not rise.
func (p *proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return false
	}
	p.routines.Add(1)
	return true
}

func nameOf(m *message) string {
	if m.method == "" {
		return "a response"
	}
	return excerpt(m.method)
}

// startSpan opens the span of a message under the parent that the client named.
func (p *proxy) startSpan(ctx context.Context, m *message) (context.Context, *span) {
	if p.trace == nil {
		return ctx, nil
	}
	if parent, ok := unquote(member(m.meta, "traceparent")); ok {
		ctx = withRemoteParent(ctx, parent)
	}
	name, target := nameOf(m), ""
	if m.method == "tools/call" || m.method == "prompts/get" {
		target, _ = unquote(member(m.params, "name"))
		name = strings.TrimSpace(name + " " + excerpt(target))
	}
	ctx, span := p.trace.start(ctx, name, spanServer)
	span.setString(attrMCPMethod, m.method)
	span.setString(attrTransport, "pipe")
	switch m.method {
	case "tools/call":
		span.setString(attrOperation, "execute_tool")
		span.setString(attrToolName, target)
	case "prompts/get":
		span.setString(attrPromptName, target)
	}
	if m.id != nil {
		span.setString(attrRequestID, string(bytes.Trim(m.id, `"`)))
	}
	if m.method != "initialize" {
		p.setSession(span, m)
	}
	return ctx, span
}

// setSession notes what the session of a message is, if it has one, and its protocol version.
func (p *proxy) setSession(span *span, m *message) {
	now := p.session.state()
	if m.version != "" {
		now = sessionState{version: m.version}
	}
	if now.id != "" {
		span.setHash(attrSessionID, now.id)
	}
	if now.version != "" {
		span.setString(attrMCPVersion, now.version)
	}
}

// endSpan notes how a call ended.
func (c *call) endSpan(d *document) {
	const maxLooked = 64 << 10 // bytes of a result that are looked into for the trace's sake
	switch {
	case d.error != nil:
		code := string(member(d.error, "code"))
		c.span.setString(attrRPCStatus, code)
		c.span.fail(code)
	case c.m.method == "tools/call" && len(d.raw) <= maxLooked && string(member(d.result, "isError")) == "true":
		c.span.fail("tool_error")
	}
}

// register enters a request into the table of open ones, or answers it.
func (p *proxy) register(c *call) bool {
	key := string(c.m.id)
	c.loose = looseID(c.m.id)
	p.mu.Lock()
	_, twice := p.calls[key]
	stopping := p.stopping
	if !twice && !stopping {
		p.calls[key] = c
		p.pending.Add(1)
	}
	p.mu.Unlock()
	switch {
	case stopping:
		p.out.write(errorAnswer(c.m.id, asRPCError(errStopping)))
	case twice:
		p.out.write(errorAnswer(c.m.id, &rpcError{Code: codeInvalidRequest, Message: "invalid request: a request with this id is still open"}))
	}
	return !twice && !stopping
}

func (p *proxy) lookup(id []byte) *call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[string(id)]
}

// settle makes sure that a call is answered once: only the caller that gets
// true may write its answer, and must call finish after it.
func (p *proxy) settle(c *call) bool {
	if !c.settled.CompareAndSwap(false, true) {
		return false
	}
	p.mu.Lock()
	delete(p.calls, string(c.m.id)) // before the answer: the client may use the id again
	p.mu.Unlock()
	return true
}

func (p *proxy) finish(c *call) {
	close(c.done)
	c.span.end()
	p.pending.Done()
}

// fail answers a call with an error; a cancelled call gets no answer.
func (p *proxy) fail(c *call, err error) {
	if !p.settle(c) {
		return
	}
	defer p.finish(c)
	c.failure = err
	if c.own || c.cancelled.Load() {
		return
	}
	answer := asRPCError(err)
	c.span.fail(strconv.Itoa(answer.Code))
	text := strings.TrimPrefix(err.Error(), "mcp-proxy: ")
	if hint := hintOf(err); hint != "" {
		p.log.report(withHint(errors.New(text), "%s", hint)) // nothing else may reach the user
	} else {
		p.log.warnf("%s: %s", nameOf(c.m), text)
	}
	p.out.write(errorAnswer(c.m.id, answer))
}

// succeed hands the server's answer to the client, under the client's own id.
func (p *proxy) succeed(c *call, d *document) {
	if !p.settle(c) || c.judge != nil && c.judge(d) {
		return
	}
	p.finishWith(c, d)
}

// finishWith gives a call that is settled its answer.
func (p *proxy) finishWith(c *call, d *document) {
	defer p.finish(c)
	if c.own {
		c.answer = d
		return
	}
	if c.m.method == "initialize" && d.error == nil {
		p.setSession(c.span, c.m)
	}
	c.endSpan(d)
	answer := inOrder(d, c.m.id)
	if c.m.method == "tools/list" {
		if c.m.version != "" {
			answer = p.tools.learn(answer)
		}
		answer = p.hidden.shown(answer)
	}
	p.out.write(answer)
}

// forward serves a request from its turn to its answer.
func (p *proxy) forward(ctx context.Context, c *call, turn []<-chan struct{}) {
	defer p.routines.Done()
	size := len(c.m.raw)
	p.forwardNow(ctx, c, turn)
	forget(size)
}

// forwardNow brings a request to the server and its answer back.
func (p *proxy) forwardNow(ctx context.Context, c *call, turn []<-chan struct{}) {
	defer c.cancel()
	defer c.hasReached()
	err := p.hidden.refuse(c.m)
	if err == nil {
		err = awaitTurn(ctx, turn)
	}
	if err == nil {
		err = p.inSlot(ctx, func() error {
			if p.bridge.serves(c.m) {
				return p.bridge.call(ctx, c)
			}
			return p.roundTrip(ctx, c)
		})
	}
	if err == nil {
		err = errNoAnswer
	}
	p.fail(c, err) // does nothing for a call that was answered
}

func (c *call) hasReached() {
	if c.reached != nil {
		c.reach.Do(func() { close(c.reached) })
	}
}

func (p *proxy) inSlot(ctx context.Context, do func() error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaitTurn waits for the messages that must reach the server first. The
// first of turn is the notification before: it may be stuck, and must not
// hold up everything for good.
func awaitTurn(ctx context.Context, turn []<-chan struct{}) error {
	for i, before := range turn {
		select {
		case <-before:
			continue
		default:
		}
		bound := (<-chan time.Time)(nil)
		if i == 0 {
			timer := time.NewTimer(deliveryWait)
			defer timer.Stop()
			bound = timer.C
		}
		select {
		case <-before:
		case <-bound:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// notify delivers a notification or a response.
func (p *proxy) notify(ctx context.Context, m *message, turn []<-chan struct{}) error {
	if err := awaitTurn(ctx, turn); err != nil {
		return err
	}
	if err := p.hidden.refuse(m); err != nil {
		return err
	}
	if p.bridge.serves(m) {
		p.bridge.notify(m)
		return nil
	}
	for renewed := false; ; renewed = true {
		if p.legacy.chosen() {
			return p.legacyNotify(ctx, m)
		}
		resp, sent, err := p.post(ctx, m)
		if err != nil {
			return err
		}
		var reply *document
		switch {
		case resp.StatusCode >= 400:
			reply = readRefusal(resp)
		case resp.StatusCode < 300 && mediaType(resp) == eventStream:
			p.relayAside(resp.Body)
		default:
			discard(resp)
		}
		switch {
		case resp.StatusCode < 300:
			p.bridge.accepted(m)
			if m.method == "notifications/initialized" && m.version == "" {
				p.sessionReady(m)
			}
			return nil
		case sessionGone(resp, reply, sent) && !renewed:
			if err := p.renewSession(ctx, sent); err != nil {
				return err
			}
		default:
			return p.refusal(resp)
		}
	}
}

// roundTrip sends a request and relays until it is answered. An error means
// that it was not.
func (p *proxy) roundTrip(ctx context.Context, c *call) error {
	renewed, relisted := false, false
	for {
		if p.legacy.chosen() {
			return p.legacyCall(ctx, c)
		}
		c.sent.Store(true)
		resp, sent, err := p.post(ctx, c.m)
		if err != nil {
			return err
		}
		if resp.StatusCode < 300 {
			c.hasReached()
			p.bridge.accepted(c.m)
			return p.relay(ctx, c, resp, sent)
		}
		reply := readRefusal(resp)
		switch {
		case p.bridge.mayBeNeeded(c, resp.StatusCode, reply) && p.bridge.startLate(ctx, p.session.opening()):
			return p.bridge.call(ctx, c)
		case sessionGone(resp, reply, sent) && !renewed:
			renewed = true
			if err := p.renewSession(ctx, sent); err != nil {
				return err
			}
		case reply == nil && p.legacy.possible(c.m, resp.StatusCode):
			if err := p.connectLegacy(ctx, c.m); err != nil {
				p.log.debugf("no HTTP+SSE server either: %v", err)
				return p.refusal(resp)
			}
		case isHeaderMismatch(c.m, resp.StatusCode, reply) && !relisted:
			relisted = true
			ask := func(m *message) (*document, error) { return p.ask(ctx, m, nil) }
			if !p.tools.relist(c.m, ask) {
				p.succeed(c, reply)
				return nil
			}
		case reply != nil:
			p.succeed(c, reply) // whatever its id: Python's SDK says "server-error"
			return nil
		default:
			return p.refusal(resp)
		}
	}
}

// Of every message alike: net/http changes no header's values.
var (
	jsonBody     = []string{"application/json"}
	jsonOrEvents = []string{"application/json, text/event-stream"}
)

// post sends one message in the way of its era.
func (p *proxy) post(ctx context.Context, m *message) (*http.Response, sessionState, error) {
	var sent sessionState
	if m.version == "" && m.method != "initialize" {
		sent = p.session.state()
	}
	a := attempts{method: m.method}
	a.auth.noSignIn = m.unasked
	resp, err := p.exchange(ctx, &a, func() (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.server.String(), bytes.NewReader(m.raw))
		if err != nil {
			return nil, err
		}
		req.Header["Content-Type"], req.Header["Accept"] = jsonBody, jsonOrEvents
		if m.version != "" {
			p.tools.set(req.Header, m.method, m.params, m.version)
		} else {
			sent.set(req.Header)
		}
		return req, nil
	})
	return resp, sent, err
}

// cancel serves notifications/cancelled; true when it goes no further.
func (p *proxy) cancel(m *message) bool {
	c := p.lookup(member(m.params, "requestId"))
	if c == nil {
		return m.version != "" // too late; a server of an earlier era may still want to know
	}
	c.cancelled.Store(true)
	// Nobody waits for its answer any more, at EOF neither.
	p.fail(c, context.Canceled)
	if c.m.version != "" || !c.sent.Load() {
		// MCP 2026-07-28, Cancellation: on HTTP closing the stream says it.
		c.cancel()
		return true
	}
	time.AfterFunc(cancelGrace, c.cancel)
	return false
}

// ask sends a request of the proxy's own, made of one of the client's, and
// returns the whole response. heard, if not nil, takes what comes before it. A
// stream that the server keeps open after it is not waited for.
func (p *proxy) ask(ctx context.Context, m *message, heard heardFunc) (*document, error) {
	own := *m
	own.id = newOwnID()
	own.raw = withMember(m.raw, "id", own.id)
	posted, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &call{m: &own, own: true, heard: heard, cancel: cancel, done: make(chan struct{})}
	if !p.register(c) {
		cancel()
		return nil, errStopping
	}
	defer context.AfterFunc(ctx, cancel)()
	p.routines.Add(1)
	go func() {
		defer p.routines.Done()
		defer cancel()
		if err := p.roundTrip(posted, c); err != nil {
			p.fail(c, err)
		}
	}()
	<-c.done
	if c.failure != nil {
		cancel() // else the stream may end by itself, and its connection be used again
	}
	return c.answer, c.failure
}

const ownIDPrefix = `"mcp-proxy:`

// newOwnID is an id that no client uses by accident.
func newOwnID() []byte { return []byte(ownIDPrefix + newState() + `"`) }

func isOwnID(id []byte) bool { return bytes.HasPrefix(id, []byte(ownIDPrefix)) }

// turn lets one at a time through; unlike a mutex, waiting for it ends with ctx.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }
