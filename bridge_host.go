package main

// What a server of revision 2026-07-28 wants of a host that opened with
// initialize: input_required results become the requests that the host knows,
// and its answers go back on a new request; one subscriptions/listen stream
// stands for the stream that the host's revision listens to. How a request
// crosses otherwise is bridge.go's.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"
)

const (
	maxRounds    = 100             // of input_required for one request
	maxQuestions = 100             // in one round
	maxPause     = 4 * time.Second // before a round in which the host is not asked
	ackWait      = 10 * time.Second
)

// questions are the requests to the host that it has not answered.
type questions struct {
	asked map[string]chan *message // by raw id; guarded by the bridge's mu
	gone  chan struct{}            // closed when the host's input has ended
	leave sync.Once                // closes gone
}

var errHostGone = errors.New("the client closed its input before it had answered the server's question")

// inRounds sends a request until its answer is none that asks for input (MCP
// 2026-07-28, Multi Round-Trip Requests).
func (p *proxy) inRounds(ctx context.Context, c *call, m *message) (*document, error) {
	heard := func(method string, d *document) error { return p.relayed(c, method, d) }
	params, unasked := m.params, 0
	for round := 0; round < maxRounds; round++ {
		answer, err := p.ask(ctx, m, heard)
		if err != nil {
			return nil, err
		}
		if string(member(answer.result, "resultType")) != `"input_required"` {
			return answer, nil
		}
		next, asked, err := p.nextRound(ctx, c.m, params, answer.result)
		if err != nil {
			return nil, err
		}
		if unasked++; asked {
			unasked = 0
		}
		// The first retry may follow at once ("Client Requirements", 1).
		if unasked > 1 && !sleep(ctx, min(backoff(min(unasked-1, 10)), maxPause)) {
			return nil, ctx.Err()
		}
		raw := withMember(m.raw, "params", next)
		if m, _, _ = parseMessage(raw); m == nil { // made of valid JSON
			return nil, errNoAnswer
		}
	}
	return nil, p.badInput(fmt.Sprintf("asked for input more than %d times", maxRounds))
}

func (p *proxy) badInput(what string) error {
	return &rpcError{Code: codeInternal, Message: "mcp-proxy: " + p.server.Host + " " + what}
}

// nextRound asks the host what the server wants to know, and returns the
// params of the request that takes it back: the original ones, the answers, and
// the server's state as it is.
func (p *proxy) nextRound(ctx context.Context, m *message, params, result []byte) (next []byte, asked bool, err error) {
	if !slices.Contains([]string{"tools/call", "prompts/get", "resources/read"}, m.method) {
		return nil, false, p.badInput("asked for input in answer to " + m.method) // "Supported Requests"
	}
	wanted, err := p.readInputs(member(result, "inputRequests"))
	if err != nil {
		return nil, false, err
	}
	state := member(result, "requestState")
	if isNull(state) {
		state = nil
	}
	if len(wanted) == 0 && state == nil {
		return nil, false, p.badInput("asked for input without saying which")
	}
	next = params
	if len(wanted) > 0 {
		responses, err := p.askHost(ctx, wanted)
		if err != nil {
			return nil, false, err
		}
		next = withMember(next, "inputResponses", responses)
	}
	if state != nil {
		next = withMember(next, "requestState", state)
	}
	return next, len(wanted) > 0, nil
}

// input is one thing that the server wants of the host.
type input struct {
	key    string
	method string
	params []byte
}

// readInputs reads the inputRequests of a result. All of them must be such that
// the host offers to answer: it is asked nothing else.
func (p *proxy) readInputs(raw []byte) ([]input, error) {
	if isNull(raw) {
		return nil, nil
	}
	count := 0
	scan(raw, func([]byte, int, int) { count++ }) // first: they may be millions
	var all map[string]json.RawMessage
	if count > maxQuestions || json.Unmarshal(raw, &all) != nil {
		return nil, p.badInput(fmt.Sprintf("asked for input that is no object of at most %d requests", maxQuestions))
	}
	capabilities := p.bridge.sides.Load().capabilities
	var inputs []input
	for key, request := range all {
		method, _ := unquote(member(request, "method"))
		in := input{key, method, objectOr(member(request, "params"), "{}")}
		if !offers(capabilities, in) {
			// "Server Requirements", 6: it MUST NOT.
			return nil, p.badInput("asks for " + excerpt(method) + ", which this client does not offer")
		}
		if method == "elicitation/create" && isURLMode(in.params) && member(in.params, "elicitationId") == nil {
			in.params = withMember(in.params, "elicitationId", quote(newState())) // required until 2025-11-25
		}
		inputs = append(inputs, in)
	}
	sort.Slice(inputs, func(i, j int) bool { return inputs[i].key < inputs[j].key })
	return inputs, nil
}

func isURLMode(params []byte) bool { return string(member(params, "mode")) == `"url"` }

// offers tells whether a host with these capabilities is to be asked.
func offers(capabilities []byte, in input) bool {
	switch in.method {
	case "roots/list":
		return !isNull(member(capabilities, "roots"))
	case "sampling/createMessage":
		tools := isNull(member(in.params, "tools")) || !isNull(member(capabilities, "sampling", "tools"))
		return !isNull(member(capabilities, "sampling")) && tools
	case "elicitation/create":
		modes := member(capabilities, "elicitation")
		form, url := !isNull(member(modes, "form")), !isNull(member(modes, "url"))
		if isURLMode(in.params) {
			return url
		}
		return !isNull(modes) && (form || !url) // Elicitation, "Capabilities": {} is form
	}
	return false
}

// question is an input that the host was asked for.
type question struct {
	input
	id     []byte
	answer chan *message
}

// askHost asks the host for all inputs at once, and returns its answers as an
// object with the keys of the inputs.
func (p *proxy) askHost(ctx context.Context, inputs []input) ([]byte, error) {
	if p.bridge.isGone() {
		return nil, errHostGone
	}
	var open []question
	for _, in := range inputs {
		open = append(open, p.bridge.expect(in))
	}
	for _, q := range open {
		p.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":%s,"params":%s}`, q.id, quote(q.method), q.params))
	}
	responses := []byte(`{}`)
	for i, q := range open {
		answer, err := p.awaitHost(ctx, q)
		if err == nil {
			var result []byte
			result, err = resultOf(q, answer)
			responses = withMember(responses, q.key, result)
		}
		if err != nil {
			p.withdraw(open[i:])
			return nil, err
		}
	}
	return responses, nil
}

func (b *bridge) expect(in input) question {
	q := question{in, newOwnID(), make(chan *message, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[string(q.id)] = q.answer
	return q
}

// hears takes a response of the host that answers a question; it is no business
// of the server's.
func (b *bridge) hears(m *message) bool {
	if !m.response {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	answer := b.asked[string(m.id)]
	if answer == nil {
		return false
	}
	delete(b.asked, string(m.id)) // a second one answers nothing
	answer <- m
	return true
}

// unanswered takes back the questions that are still open.
func (b *bridge) unanswered(questions []question) (open []question) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range questions {
		if b.asked[string(q.id)] != nil {
			delete(b.asked, string(q.id))
			open = append(open, q)
		}
	}
	return open
}

func (p *proxy) awaitHost(ctx context.Context, q question) (*message, error) {
	select {
	case m := <-q.answer:
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.bridge.gone:
	}
	select {
	case m := <-q.answer: // it came before the end
		return m, nil
	default:
		return nil, errHostGone
	}
}

// withdraw tells the host that nobody waits for its answers any more.
func (p *proxy) withdraw(open []question) {
	for _, q := range p.bridge.unanswered(open) {
		if !p.bridge.isGone() {
			p.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}`, q.id))
		}
	}
}

// resultOf is what the server is given for an answer of the host. There is no
// way to give it an error: an elicitation that failed was dismissed ("Response
// Actions", 3), and without a sample or the roots the request is over (Sampling
// and Roots, "Error Handling").
func resultOf(q question, m *message) ([]byte, error) {
	top := readMembers(m.raw)
	switch {
	case isError(top.error) && q.method == "elicitation/create":
		return []byte(`{"action":"cancel"}`), nil
	case isError(top.error):
		code, _ := strconv.Atoi(string(member(top.error, "code")))
		text, _ := unquote(member(top.error, "message"))
		return nil, &rpcError{Code: code, Message: fmt.Sprintf("mcp-proxy: the client refused %s: %s", q.method, excerpt(text))}
	case top.result == nil || top.result[0] != '{':
		return nil, &rpcError{Code: codeInternal, Message: "mcp-proxy: the client's answer to " + q.method + " is no object"}
	}
	return top.result, nil
}

func (b *bridge) isGone() bool {
	select {
	case <-b.gone:
		return true
	default:
		return false
	}
}

// hostGone ends what only the host could go on with.
func (p *proxy) hostGone() {
	p.bridge.leave.Do(func() { close(p.bridge.gone) })
	p.bridge.endListening()
}

// subscriptions is the one subscriptions/listen stream of the bridge.
type subscriptions struct {
	changing  turn // one stream replaces another at a time
	resources []string
	listening context.CancelFunc // nil without a stream; guarded by the bridge's mu
	over      bool               // no further stream; guarded by the bridge's mu
}

// listChanges are the members of a subscription's filter and the notifications
// that they ask for, by the capability that offers them.
var listChanges = []struct{ capability, filter, method string }{
	{"tools", "toolsListChanged", "notifications/tools/list_changed"},
	{"prompts", "promptsListChanged", "notifications/prompts/list_changed"},
	{"resources", "resourcesListChanged", "notifications/resources/list_changed"},
}

// filter is what is to be listened to, nil when that is nothing.
func (s *sides) filter(resources []string) []byte {
	filter := []byte(`{}`)
	for _, change := range listChanges {
		if string(member(s.offers, change.capability, "listChanged")) == "true" {
			filter = withMember(filter, change.filter, []byte("true"))
		}
	}
	if len(resources) > 0 {
		list := make([][]byte, len(resources))
		for i, uri := range resources {
			list[i] = quote(uri)
		}
		filter = withMember(filter, "resourceSubscriptions", append(append([]byte{'['}, bytes.Join(list, []byte{','})...), ']'))
	}
	if string(filter) == `{}` {
		return nil
	}
	return filter
}

// beginListening opens the stream for what the server announces, as the host's
// revision does once the host has said that it is ready. What the next message
// brings about must find it.
func (p *proxy) beginListening() {
	b := &p.bridge
	if err := b.changing.take(context.Background()); err != nil {
		return
	}
	defer b.changing.give()
	heard := make(chan struct{})
	p.listenTo(b.resources, func([]byte, error) { close(heard) }, false)
	timer := time.NewTimer(listenWait)
	defer timer.Stop()
	select {
	case <-heard:
	case <-timer.C:
	}
}

// listenTo opens a stream for what is to be listened to now, in place of the one
// before, which goes on until told is called: nothing is missed in between.
func (p *proxy) listenTo(resources []string, told func(honored []byte, err error), asked bool) {
	b := &p.bridge
	filter := b.sides.Load().filter(resources)
	ctx, stop := context.WithCancel(context.Background())
	b.mu.Lock()
	before := b.listening
	if b.listening = stop; b.over {
		filter = nil
	}
	if filter == nil {
		b.listening = nil
	}
	b.mu.Unlock()
	var once sync.Once
	first := func(honored []byte, err error) {
		once.Do(func() {
			if before != nil {
				before()
			}
			if told != nil {
				told(honored, err)
			}
		})
	}
	if filter == nil {
		stop()
		first(nil, nil)
		return
	}
	p.routines.Add(1)
	go func() {
		defer p.routines.Done()
		defer stop()
		// A server need not have said so for the stream to work.
		defer time.AfterFunc(ackWait, func() { first(nil, nil) }).Stop()
		p.keepListening(ctx, filter, first, asked)
	}()
}

// keepListening opens the stream again when it ends, until ctx does or the
// server refuses it. told is called when the server has acknowledged it, or
// could not be reached.
func (p *proxy) keepListening(ctx context.Context, filter []byte, told func([]byte, error), asked bool) {
	at := cursor{retry: -1}
	for {
		began := time.Now()
		err := p.listenOnce(ctx, filter, &at, told, asked)
		told(nil, err)
		if ctx.Err() != nil || errors.Is(err, errNoStream) || errors.Is(err, errStopping) {
			return
		}
		asked = false
		p.log.debugf("subscriptions/listen: %v", err)
		if !sleep(ctx, at.pause(time.Since(began))) {
			return
		}
	}
}

// listenOnce listens until the stream ends.
func (p *proxy) listenOnce(ctx context.Context, filter []byte, at *cursor, told func([]byte, error), asked bool) error {
	m := p.bridge.sides.Load().request("subscriptions/listen", withMember([]byte(`{}`), "notifications", filter), "")
	m.unasked = !asked
	answer, err := p.ask(ctx, m, func(method string, d *document) error {
		if method == "notifications/subscriptions/acknowledged" {
			told(objectOr(member(d.params, "notifications"), "{}"), nil)
		} else if p.tellChange(filter, method, d) {
			at.moves++
		}
		return nil
	})
	var refused *rpcError
	switch {
	case errors.As(err, &refused):
		if status, _ := refused.Data["httpStatus"].(int); status >= 400 && !notNow(status) {
			return fmt.Errorf("%w: %w", errNoStream, err)
		}
		return err
	case err != nil:
		return err
	case answer.error != nil:
		err := &rpcError{Code: codeTransport, Message: "mcp-proxy: " + p.server.Host + " refuses subscriptions/listen"}
		// "Subscription limit reached" is an internal error in the TypeScript SDK's server.
		if code := string(member(answer.error, "code")); code != strconv.Itoa(codeInternal) {
			return fmt.Errorf("%w: %w", errNoStream, err)
		}
		return err
	}
	return errors.New("ended by the server")
}

// tellChange gives the host a notification as its revision has it: without the
// subscription's id, which is the proxy's. False: it is none that was asked for.
func (p *proxy) tellChange(filter []byte, method string, d *document) bool {
	for _, change := range listChanges {
		if method == change.method && member(filter, change.filter) != nil {
			p.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%s}`, quote(method)))
			return true
		}
	}
	uri := member(d.params, "uri")
	if s, ok := unquote(uri); ok && method == "notifications/resources/updated" && contains(member(filter, "resourceSubscriptions"), s) {
		p.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%s,"params":{"uri":%s}}`, quote(method), uri))
		return true
	}
	p.log.debugf("%s sent %s on a subscription that does not ask for it", p.server.Host, excerpt(method))
	return false
}

// endListening ends the stream for good.
func (b *bridge) endListening() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	if b.listening != nil {
		b.listening()
	}
}

// subscribe answers resources/subscribe and resources/unsubscribe, once the
// server has acknowledged the stream that follows from it.
func (p *proxy) subscribe(ctx context.Context, c *call) error {
	b := &p.bridge
	if string(member(b.sides.Load().offers, "resources", "subscribe")) != "true" {
		return notOffered(c.m.method)
	}
	uri, ok := unquote(member(c.m.params, "uri"))
	if !ok {
		return &rpcError{Code: codeInvalidParams, Message: "mcp-proxy: uri is not a string"}
	}
	if err := b.changing.take(ctx); err != nil {
		return err
	}
	defer b.changing.give()
	before := b.resources
	after := slices.DeleteFunc(slices.Clone(before), func(s string) bool { return s == uri })
	wanted := c.m.method == "resources/subscribe"
	if wanted {
		after = append(after, uri)
	}
	if len(after) != len(before) {
		if err := p.resubscribe(ctx, after, uri, wanted); err != nil {
			p.listenTo(before, nil, false)
			return err
		}
		b.resources = after
	}
	p.succeed(c, newDocument(resultAnswer(c.m.id, []byte(`{}`))))
	return nil
}

// resubscribe replaces the stream by one for these resources, and wants the
// server to honor the one that is new.
func (p *proxy) resubscribe(ctx context.Context, resources []string, uri string, wanted bool) error {
	type reply struct {
		honored []byte
		err     error
	}
	acknowledged := make(chan reply, 1)
	p.listenTo(resources, func(honored []byte, err error) { acknowledged <- reply{honored, err} }, true)
	select {
	case r := <-acknowledged:
		switch {
		case r.err != nil || !wanted || r.honored == nil:
			return r.err
		case !contains(member(r.honored, "resourceSubscriptions"), uri):
			return &rpcError{Code: codeResourceNotFound, Message: "mcp-proxy: the server does not accept a subscription to this resource"}
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
