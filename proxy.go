package main

// The order of messages: when each has its turn, which revision is spoken with the server, and the
// end of it all; and the calls, which are the requests that wait for their answers. It does not
// know how a message reaches the server: that is the eras' (session.go, legacy.go, bridge.go).

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxCalls     = 1024             // requests that are served at once; more wait here
	maxIdle      = 64               // goroutines
	deliveryWait = 10 * time.Second // how long a notification may hold up what was read after it
	floodWait    = 15 * time.Second // how long stdin waits for the server to take notifications
	maxUntaken   = 64 << 20         // bytes of those that it has not taken
	notifyCost   = 16 << 10         // bytes that each costs beside its own
	drainTime    = 30 * time.Second // from EOF on stdin to giving up what is in flight
	signInDrain  = 3 * time.Second  // the same for what waits until the user has signed in
	endTime      = time.Second      // for ending the session
	cancelGrace  = 2 * time.Second  // from a forwarded cancellation to closing the POST
)

// An era is a way of speaking with the server that some revisions have in common.
type era interface {
	// call sends a request and returns when it is answered; an error means that it was not.
	call(ctx context.Context, c *call) error
	// notify delivers a notification or a response.
	notify(ctx context.Context, m *message) error
	// end tells the server that nothing follows.
	end(ctx context.Context)
}

type proxy struct {
	*upstream
	trace   *tracer
	tools   *toolHeaders
	hidden  toolFilter
	session *session
	legacy  *legacy
	bridge  *bridge
	early   *earlyInit
	slots   turn
	untaken atomic.Int64  // bytes of notifications that wait for the server
	taken   chan struct{} // holds one: some of them have reached it

	// Only the goroutine that reads stdin touches these.
	delivered <-chan struct{} // closed when the notifications read so far have reached the server
	stuckAt   int64           // untaken, when none had been taken for floodWait; 0 since there is room
}

var (
	errStopping = errors.New("the proxy is stopping")
	errNoAnswer = errors.New("the server gave no answer")
)

func newProxy(
	cfg *config, client *mcpClient, auth *oauth, out *lineWriter, log *logger, trace *tracer,
) *proxy {
	up := &upstream{
		server: cfg.server, headers: cfg.headers, client: client, auth: auth, log: log,
		calls: &calls{out: out, log: log, open: map[string]*call{}, next: make(chan func()),
			idle: make(turn, maxIdle)},
	}
	p := &proxy{
		upstream: up, trace: trace, tools: &toolHeaders{}, hidden: cfg.ignoredTools,
		slots: make(turn, maxCalls), taken: make(chan struct{}, 1),
	}
	p.tools.warn = func(format string, args ...any) { log.warnf(cfg.server.Host+": "+format, args...) }
	handshake := &handshake{ask: p.ask, notify: func(ctx context.Context, m *message) error {
		return p.eraOf(m).notify(ctx, m)
	}}
	p.session = &session{upstream: up, handshake: handshake, tools: p.tools, renewing: make(turn, 1),
		stop: func() {}}
	p.legacy = &legacy{upstream: up, handshake: handshake, mode: cfg.transport, opening: make(turn, 1)}
	p.bridge = &bridge{upstream: up, session: p.session, ask: p.ask, starting: make(turn, 1),
		changing: make(turn, 1), pending: map[string]chan *message{}, unlisten: func() {}}
	p.early = &earlyInit{proxy: p}
	if auth != nil {
		auth.shown, auth.asked = p.early.asking, p.early.asked
	}
	return p
}

// serve forwards what comes on stdin until it ends, ctx ends, or stdout is closed. Every request
// read is answered before it returns.
func (p *proxy) serve(ctx context.Context, stdin io.Reader) error {
	work, stopWork := context.WithCancel(context.Background())
	defer stopWork()
	eof := make(chan error, 1)
	lines := &lineReader{r: bufio.NewReaderSize(stdin, 64<<10), limit: maxMessage}
	go func() { eof <- p.read(work, lines) }()

	var err error
	select {
	case err = <-eof:
		p.drain(ctx)
	case <-ctx.Done():
	}
	end := context.Background()
	within(end, endTime, func(context.Context) { p.calls.stop() }) // a host may not read any more
	stopWork()
	within(end, endTime, func(ctx context.Context) {
		for _, e := range []era{p.legacy, p.bridge, p.session} {
			e.end(ctx)
		}
		p.calls.routines.Wait()
		p.auth.awaitRefresh(ctx)
	})
	return err
}

// within waits for do to return, until ctx ends or d has passed.
func within(ctx context.Context, d time.Duration, do func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, d)
	go func() { defer cancel(); do(ctx) }()
	<-ctx.Done()
}

// drain waits for what is in flight, at most drainTime.
func (p *proxy) drain(ctx context.Context) {
	if p.auth != nil {
		defer time.AfterFunc(signInDrain, func() { close(p.auth.leaving) }).Stop()
	}
	within(ctx, drainTime, func(ctx context.Context) {
		p.bridge.end(ctx)
		for _, c := range p.calls.all() {
			if c.m.method == "subscriptions/listen" { // nobody is left who could cancel it
				c.fail(errStopping)
				c.cancel()
			}
		}
		p.calls.pending.Wait()
		p.auth.awaitRefresh(ctx)
	})
}

func (p *proxy) read(ctx context.Context, lines *lineReader) error {
	for {
		line, err := lines.next()
		m, id, bad := parseMessage(line)
		switch {
		case errors.Is(err, errTooLong):
			bad = invalidRequest(fmt.Sprintf("longer than %d MiB", maxMessage>>20))
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read stdin: %w", err)
		case bad == nil:
			p.dispatch(ctx, m)
			continue
		}
		// Without the line: it may hold a secret.
		p.log.warnf("a line on stdin was not forwarded: %s", bad.Message)
		p.calls.out.write(errorAnswer(id, bad))
	}
}

// dispatch gives a message its turn. It does not wait for the messages before it, so that a
// cancellation or an answer to the server is read whatever they wait for.
func (p *proxy) dispatch(work context.Context, m *message) {
	if m.method == "notifications/cancelled" && p.cancel(m) || p.bridge.takeResponse(m) ||
		!p.hasRoom(work, m) {
		return
	}
	// While an initialize is unanswered nothing else may be sent (MCP 2025-11-25, Lifecycle).
	opened := p.early.turnOf(work, m)
	delivered := p.delivered
	ctx, span := p.startSpan(work, m)
	c := &call{m: m, span: span, cancel: func() {}, reached: func() {}}
	if m.isRequest() {
		ctx, c.cancel = context.WithCancel(ctx)
	}
	// What the next message brings about must find the subscription. What waits for a sign-in after
	// an initialize was answered goes to the server in its order.
	var reached context.Context
	waits := opened != nil && opened.isOurs() && !opened.isDone() && m.method != "ping"
	if !m.isRequest() || m.method == "subscriptions/listen" || waits {
		reached, c.reached = context.WithCancel(context.Background())
	}
	if waits && m.isRequest() { // a call that takes its time holds up nothing that follows
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { time.AfterFunc(listenWait, c.reached) },
		})
	}
	switch {
	case !m.isRequest():
	case m.method == "initialize":
		c.intercept = func(d *document) bool {
			if d.result != nil {
				p.session.handshake.initialize.Store(m)
			}
			return !p.legacy.chosen() && p.bridge.intercept(work, c, d)
		}
	case m.method == "tools/list":
		c.edit = func(answer []byte) []byte {
			if m.version != "" {
				answer = p.tools.learn(answer)
			}
			return p.hidden.shown(answer)
		}
	}
	bad := p.calls.enter(c, func() {
		p.forward(ctx, c, delivered, opened)
		p.makeRoom(m)
		if m.isRequest() && reached != nil && delivered != nil {
			<-delivered // or what follows c would overtake what came before it
		}
		c.reached()
		if m.isRequest() && m.method == "initialize" {
			p.early.announce(c)
		}
	})
	switch {
	case bad != nil:
		if m.isRequest() && !m.own {
			p.calls.out.write(errorAnswer(m.id, bad))
		}
		c.reached()
		c.cancel()
		span.end()
		return
	case m.isRequest() && m.method == "initialize":
		p.early.last = c
	}
	if reached != nil {
		p.delivered = reached.Done()
	}
}

// hasRoom waits until the server has taken notifications before m, if they are very many. A server
// that takes none must not keep from it what stands behind m on stdin, such as an answer that it
// waits for: m is lost, and so is what comes until the server takes one.
func (p *proxy) hasRoom(ctx context.Context, m *message) bool {
	for {
		switch untaken := p.untaken.Load(); {
		case untaken <= maxUntaken:
			p.stuckAt = 0
			fallthrough
		case m.cost() == 0:
			p.untaken.Add(m.cost())
			return true
		case untaken == p.stuckAt:
			return false
		case !awaitClosed(ctx, p.taken, floodWait) && p.untaken.Load() == untaken:
			p.log.warnf("%s takes no notifications: those that come now are lost", p.server.Host)
			p.stuckAt, p.delivered = untaken, nil
			return false
		}
	}
}

// makeRoom gives back what hasRoom counted of a message.
func (p *proxy) makeRoom(m *message) {
	p.untaken.Add(-m.cost())
	select {
	case p.taken <- struct{}{}:
	default:
	}
}

// cost is what a message counts of maxUntaken.
func (m *message) cost() int64 {
	if m.isRequest() || m.response || m.method == "notifications/cancelled" {
		return 0
	}
	return int64(len(m.raw) + notifyCost)
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
	parent, _ := unquote(member(m.meta, "traceparent"))
	ctx = withRemoteParent(ctx, parent)
	target := ""
	if m.method == "tools/call" || m.method == "prompts/get" {
		target, _ = unquote(m.name)
	}
	ctx, span := p.trace.start(ctx, strings.TrimSpace(nameOf(m)+" "+excerpt(target)), spanServer)
	span.setString(attrMCPMethod, m.method)
	span.setString(attrTransport, "pipe")
	switch m.method {
	case "tools/call":
		span.setString(attrOperation, "execute_tool")
		span.setString(attrToolName, excerpt(target))
	case "prompts/get":
		span.setString(attrPromptName, excerpt(target))
	}
	if m.id != nil {
		span.setString(attrRequestID, string(bytes.Trim(m.id, `"`)))
	}
	switch {
	case m.version != "":
		sessionState{version: m.version}.describe(span)
	case m.method != "initialize": // of which session it is, its answer says
		p.session.state().describe(span)
	}
	return ctx, span
}

// forward serves a message from its turn to its answer or delivery. A notification before it may be
// stuck, and must not hold it up for good.
func (p *proxy) forward(ctx context.Context, c *call, delivered <-chan struct{}, opened *call) {
	defer forget(len(c.m.raw))
	defer c.cancel()
	err := p.hidden.refuse(c.m)
	var result []byte // of a message that is not to be sent
	if err == nil {
		result, err = p.early.await(ctx, c.m, opened)
	}
	switch {
	case err != nil:
	case result != nil:
		c.answer(resultAnswer(c.m.id, result))
	case delivered != nil && !awaitClosed(ctx, delivered, deliveryWait) && ctx.Err() != nil:
		err = ctx.Err()
	case !c.m.isRequest():
		if err = p.eraOf(c.m).notify(ctx, c.m); err == nil {
			c.answer(nil)
		}
	default:
		if err = p.slots.take(ctx); err == nil {
			err = p.call(ctx, c)
			p.slots.give()
		}
	}
	if err == nil {
		err = errNoAnswer
	}
	c.fail(err) // does nothing for a call that was answered
}

// eraOf is the era of a message. A host that speaks both revisions needs no bridge for a message
// of the newer one.
func (p *proxy) eraOf(m *message) era {
	switch {
	case p.bridge.serves(m):
		return p.bridge
	case p.legacy.chosen():
		return p.legacy
	}
	return p.session
}

// call has a request answered. A refusal may show that the server is one of another era.
func (p *proxy) call(ctx context.Context, c *call) error {
	for {
		err := p.eraOf(c.m).call(ctx, c)
		var refused *serverRefusal
		if !errors.As(err, &refused) {
			return err
		}
		switch {
		case p.bridge.startLate(ctx, c, refused):
			continue
		case p.legacy.possible(c.m, refused):
			err := p.legacy.connect(ctx, c.m)
			if err == nil {
				continue
			}
			if ctx.Err() != nil || errors.Is(err, errEndpoint) || errors.As(err, new(authError)) {
				return err
			}
			p.log.debugf("no HTTP+SSE server either: %v", err)
		}
		if refused.reply == nil {
			return refused.error
		}
		c.answer(refused.reply) // whatever its id: Python's SDK says "server-error"
		return nil
	}
}

// cancel serves notifications/cancelled; true if it goes no further.
func (p *proxy) cancel(m *message) bool {
	id := member(m.params, "requestId")
	c := p.calls.find(nil, id)
	if c == nil || !bytes.Equal(c.m.id, id) || c.early.Load() {
		return m.version != "" // too late; a server of an earlier era may still want to know
	}
	c.cancelled.Store(true)
	// Nobody waits for its answer any more, at EOF neither.
	c.fail(context.Canceled)
	if c.m.version != "" || !c.sent.Load() {
		// MCP 2026-07-28, Cancellation: on HTTP closing the stream says it.
		c.cancel()
		return true
	}
	time.AfterFunc(cancelGrace, c.cancel)
	return false
}

// ask sends m as a request of the proxy's own and returns the whole response. heard, if not nil,
// takes what comes before it. A stream that the server keeps open after it is not waited for.
func (p *proxy) ask(ctx context.Context, m *message, heard heardFunc) (*document, error) {
	posted, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, cancel)()
	c := &call{m: m.asOwn(), heard: heard, cancel: cancel, reached: func() {}}
	if p.calls.enter(c, func() {
		defer cancel()
		if err := p.call(posted, c); err != nil {
			c.fail(err)
		}
	}) != nil {
		cancel()
		return nil, errStopping
	}
	<-c.done
	if c.failure != nil {
		cancel() // else the stream may end by itself, and its connection be used again
	}
	return c.reply, c.failure
}

const ownIDPrefix = `"mcp-proxy:`

// newOwnID is an id that no client uses by accident.
func newOwnID() []byte { return []byte(ownIDPrefix + newState() + `"`) }

// asOwn returns a request of the client's as one of the proxy's own.
func (m *message) asOwn() *message {
	own := *m
	own.own, own.id = true, newOwnID()
	own.raw = withMember(m.raw, "id", own.id)
	return &own
}

// turn lets one, or as many as it has room for, through at a time; unlike a mutex, waiting for it
// ends with ctx.
type turn chan struct{}

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }

// calls are the requests that wait for their answers.
type calls struct {
	out *lineWriter
	log *logger

	pending  sync.WaitGroup // messages not yet answered or delivered
	routines sync.WaitGroup // what goroutines do for the proxy now
	next     chan func()    // to a goroutine that is idle
	idle     turn           // a place for each goroutine that is idle
	said     atomic.Value   // the cause of a failure, on stderr; "" once a call was answered

	mu       sync.Mutex // guards what follows
	open     map[string]*call
	stopping bool
}

// call is a request that waits for its one answer, or another message that waits for its delivery.
type call struct {
	calls  *calls
	m      *message
	loose  string // what a careless server may keep of its id
	span   *span
	cancel context.CancelFunc

	sent      atomic.Bool
	cancelled atomic.Bool
	settled   atomic.Bool
	done      chan struct{}      // closed when it is answered
	reached   context.CancelFunc // is told that the server has begun to answer

	// Of the era that serves it; nil where it wants none.
	opened  func(answer *document)      // is told the result of an initialize
	refuses func(answer *document) bool // reports whether an error means that nothing was done
	talked  bool                        // the server has sent messages on the request's stream

	intercept func(answer *document) bool // may take over an answer that the client is not to see
	edit      func(answer []byte) []byte  // changes the answer that the client sees

	early atomic.Bool // an initialize that the proxy has answered

	// Of a call whose answer is for the proxy alone.
	reply   *document
	failure error
	heard   heardFunc // takes the messages that come before the answer
}

// isOurs reports whether the server's answer is for the proxy alone, not for the client.
func (c *call) isOurs() bool { return c.m.own || c.early.Load() }

func (c *call) isDone() bool { return awaitClosed(context.Background(), c.done, 0) }

// enter makes c one of the open calls and has do serve it; the error is its answer if it cannot be
// one.
func (s *calls) enter(c *call, do func()) *rpcError {
	c.calls, c.loose, c.done = s, looseID(c.m.id), make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return asRPCError(errStopping)
	case !c.m.isRequest():
	case s.open[string(c.m.id)] != nil:
		return invalidRequest("a request with this id is still open")
	default:
		s.open[string(c.m.id)] = c
	}
	s.pending.Add(1)
	s.run(do)
	return nil
}

// start runs do in a goroutine that is waited for, unless the end has begun: then none may come.
func (s *calls) start(do func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.run(do)
	}
	return !s.stopping
}

// run has a goroutine that is idle do it, if there is one: in each new one the stack grows on the
// way to the server, again and again (a tenth of a call's CPU, 4 % of its time).
func (s *calls) run(do func()) {
	s.routines.Add(1)
	select {
	case s.next <- do:
	default:
		go s.work(do)
	}
}

// work does what comes until the end, or until enough goroutines are idle.
func (s *calls) work(do func()) {
	for do != nil {
		do()
		s.routines.Done()
		do = nil
		select {
		case s.idle <- struct{}{}:
			do = <-s.next // nil at the end
			s.idle.give()
		default:
		}
	}
}

func (s *calls) all() []*call {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*call, 0, len(s.open))
	for _, c := range s.open {
		all = append(all, c)
	}
	return all
}

// stop answers every open call with an error and lets no further one in.
func (s *calls) stop() {
	s.mu.Lock()
	s.stopping = true
	close(s.next)
	s.mu.Unlock()
	for _, c := range s.all() {
		c.fail(errStopping)
	}
}

// find returns the call that a response with this id answers, nil if there is none: c where it has
// just this id, else the one that has, else c where its id may be meant, else any whose id may be.
// c is the call whose stream it came on, and comes first because the client may use an id again:
// what follows an answer on its stream is said twice, and no answer to the next call.
func (s *calls) find(c *call, id []byte) *call {
	if len(id) > maxID {
		return nil // no request has such an id
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	exact := s.open[string(id)]
	if c != nil && (bytes.Equal(id, c.m.id) || exact == nil && isNull(id)) {
		return c
	}
	if exact != nil || isNull(id) {
		return exact
	}
	meant := looseID(id)
	if c != nil && c.loose == meant {
		return c
	}
	for _, other := range s.open {
		if other.loose == meant {
			return other
		}
	}
	return nil
}

// isNull: errors may come without id, or with null.
func isNull(id []byte) bool { return len(id) == 0 || string(id) == "null" }

// looseID is what a server keeps of an id that keeps no more than its meaning: "7" or 7.0 for 7,
// a\/b for a/b (PHP), \u00e9 for é (Python), what a double keeps of a large integer (JavaScript).
func looseID(raw []byte) string {
	text, isString := unquote(raw)
	if !isString {
		text = string(raw)
	}
	if number, err := strconv.ParseInt(text, 10, 53); err == nil {
		return strconv.FormatInt(number, 10) // as nearly always
	}
	if number, err := strconv.ParseFloat(text, 64); err == nil {
		return strconv.FormatFloat(number, 'f', -1, 64)
	}
	return text
}

// await waits for an answer that comes on another stream, which may end.
func (c *call) await(ctx context.Context, ended <-chan struct{}, otherwise error) error {
	select {
	case <-c.done:
		return nil
	case <-ended:
		return otherwise
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle makes sure that a call is answered once: only the caller that gets true may write its
// answer, and must call finish after it.
func (c *call) settle() bool {
	if !c.settled.CompareAndSwap(false, true) {
		return false
	}
	c.calls.mu.Lock()
	defer c.calls.mu.Unlock()
	if c.m.isRequest() {
		delete(c.calls.open, string(c.m.id)) // before the answer: the client may use the id again
	}
	return true
}

// takeEarly makes the server's answer one for the proxy alone. Only the caller that gets true may
// answer the client, and the call goes on.
func (c *call) takeEarly() bool {
	c.calls.mu.Lock()
	defer c.calls.mu.Unlock()
	return !c.settled.Load() && !c.m.own && c.early.CompareAndSwap(false, true)
}

func (c *call) finish() {
	close(c.done)
	c.span.end()
	c.calls.pending.Done()
}

// fail answers a call with an error; a cancelled call gets no answer.
func (c *call) fail(err error) {
	if !c.settle() {
		return
	}
	defer c.finish()
	c.failure = err
	isRequest := c.m.isRequest()
	if c.isOurs() || c.cancelled.Load() || !isRequest && errors.Is(err, context.Canceled) {
		return
	}
	if !isRequest {
		c.span.fail("delivery")
		c.calls.complain(nameOf(c.m)+" was not delivered: ", err)
		return
	}
	answer := asRPCError(err)
	c.span.fail(strconv.Itoa(answer.Code))
	name := ""
	if hintOf(err) == "" {
		name = nameOf(c.m) + ": "
	}
	c.calls.complain(name, err)
	c.calls.out.write(errorAnswer(c.m.id, answer))
}

// complain says on stderr why a message failed, which may be all that reaches the user. One cause
// is said once until a call is answered: it fails all that a host sends.
func (s *calls) complain(name string, err error) {
	text, hint := strings.TrimPrefix(err.Error(), "mcp-proxy: "), hintOf(err)
	switch last := s.said.Swap(text); {
	case last == text:
		s.log.debugf("%s%s", name, text)
	case hint != "":
		s.log.report(withHint(errors.New(name+text), "%s", hint))
	default:
		s.log.warnf("%s%s", name, text)
	}
}

// answer hands the server's answer to the client, under the client's own id. d is nil for what gets
// none.
func (c *call) answer(d *document) {
	if !c.settle() {
		return
	}
	if d != nil {
		c.calls.said.Store("")
	}
	if c.opened != nil && d.result != nil {
		c.opened(d)
	}
	if c.intercept == nil || !c.intercept(d) {
		c.finishWith(d)
	}
}

// finishWith gives a call that is settled its answer.
func (c *call) finishWith(d *document) {
	const maxLooked = 64 << 10 // bytes of a result that are looked into for the trace's sake
	defer c.finish()
	if c.isOurs() || !c.m.isRequest() {
		c.reply = d
		return
	}
	switch {
	case isError(d.error):
		code := string(member(d.error, "code"))
		c.span.setString(attrRPCStatus, code)
		c.span.fail(code)
	case c.span != nil && c.m.method == "tools/call" && len(d.raw) <= maxLooked &&
		bytes.Contains(d.result, []byte("isError")) &&
		string(member(d.result, "isError")) == "true":
		c.span.fail("tool_error")
	}
	answer := inOrder(d, c.m.id)
	if c.edit != nil {
		answer = c.edit(answer)
	}
	c.calls.out.write(answer)
}
