package main

// An initialize that waits for the user is answered here, before the host gives up. What follows it
// waits until the sign-in is over; then the host's own initialize goes to the server, and the host
// is told to ask for the lists.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// earlyDelay is from the sign-in page to the answer: a quick sign-in gets the server's own words,
// and no host gives up so soon. It is a variable for the tests.
var earlyDelay = 5 * time.Second

// promised are the capabilities of the early answer, and what their lists are where the server
// turns out not to have them.
var promised = []struct{ capability, method, empty string }{
	{"tools", "tools/list", `{"tools":[]}`},
	{"prompts", "prompts/list", `{"prompts":[]}`},
	{"resources", "resources/list", `{"resources":[]}`},
	{"resources", "resources/templates/list", `{"resourceTemplates":[]}`},
}

// opening is an initialize of the host's. What is read after it waits until the call is done.
type opening struct {
	*call
	early  atomic.Bool // it was answered here; the call is done when the server's answer is known
	err    error       // why nothing that follows can be served; set before the call is done
	offers []byte      // the server's capabilities; set before the call is done
}

func (o *opening) isDone() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// await waits until m may be sent. What has a result is not: that is its answer.
func (o *opening) await(ctx context.Context, m *message) (result []byte, err error) {
	if o == nil {
		return nil, nil
	}
	if m.method == "ping" && o.early.Load() && (!o.isDone() || o.err != nil) {
		return []byte(`{}`), nil
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if o.err != nil || !o.early.Load() {
		return nil, o.err
	}
	if m.method == "notifications/initialized" {
		return []byte(`{}`), nil // was said
	}
	for _, p := range promised {
		if p.method == m.method && member(o.offers, p.capability) == nil {
			return []byte(p.empty), nil
		}
	}
	return nil, nil
}

type earlyInit struct {
	*proxy
	last *opening // that was read; only the goroutine that reads stdin touches it

	mu    sync.Mutex  // guards what follows
	timer *time.Timer // runs while the user is asked to sign in; nil otherwise
	given []*opening  // answered here, and in the middle of a sign-in
}

// turnOf returns what a message that was just read waits for. After a sign-in that failed a request
// is the host's wish for another one.
func (e *earlyInit) turnOf(ctx context.Context, m *message) *opening {
	o := e.last
	switch {
	case m.version != "" || o == nil:
		return nil // modern messages know no initialize
	case !o.isDone() || o.err == nil || !m.isRequest() || m.method == "ping":
		return o
	case m.method == "initialize":
		return nil
	}
	again := &opening{call: &call{calls: e.calls, m: o.m, done: make(chan struct{})}}
	again.early.Store(true)
	e.last = again
	e.calls.pending.Add(1)
	if !e.calls.start(func() { e.end(again, e.open(ctx, again)) }) {
		e.end(again, errStopping)
	}
	return again
}

// asking is called when the user is shown where to sign in.
func (e *earlyInit) asking(*url.URL) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer == nil {
		e.timer = time.AfterFunc(earlyDelay, e.answer)
	}
}

// asked is called when nobody waits for the user any more, and before the messages that did are
// sent again. One that was answered here must not be: its answer would reach nobody.
func (e *earlyInit) asked(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	if err != nil {
		return // is the error of those messages
	}
	for _, o := range e.given {
		o.cancel()
	}
	e.given = nil
}

// answer answers every initialize that is on its way to the server.
func (e *earlyInit) answer() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer == nil {
		return // the sign-in has ended at this moment
	}
	for _, c := range e.calls.all() {
		o := c.opening
		if o == nil || c.m.version != "" || !c.sent.Load() || !c.settle() {
			continue
		}
		o.early.Store(true)
		e.given = append(e.given, o)
		e.out.write(resultAnswer(c.m.id, e.welcome(c.m)).raw)
	}
	e.timer.Reset(earlyDelay) // an initialize may come while another message waits for the user
}

// welcome is the result of an initialize that the server has not seen.
func (e *earlyInit) welcome(m *message) []byte {
	version, _ := unquote(member(m.params, "protocolVersion"))
	if !slices.Contains([]string{"2024-11-05", "2025-03-26", "2025-06-18"}, version) {
		version = "2025-11-25"
	}
	var capabilities []string
	for _, change := range listChanges {
		capabilities = append(capabilities, fmt.Sprintf(`%q:{"listChanged":true}`, change.capability))
	}
	return fmt.Appendf(nil, `{"protocolVersion":%q,"capabilities":{%s},"serverInfo":{"name":%s,`+
		`"version":%s},"instructions":%s}`, version, strings.Join(capabilities, ","),
		quote(e.server.Host), quote(programVersion()), quote("The user is signing in to "+
			e.server.Host+" in the browser, and requests are answered once that is done."))
}

// resume goes on with an opening, if it was answered here, when the sign-in has ended. err is what
// became of its call.
func (e *earlyInit) resume(ctx context.Context, o *opening, err error) {
	if o == nil {
		return
	}
	e.mu.Lock()
	early := o.early.Load()
	e.mu.Unlock()
	if !early {
		return
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, errNoAnswer) { // the user has signed in
		err = e.open(ctx, o)
	}
	e.end(o, err)
}

// open says the host's initialize to the server, and that it is initialized.
func (e *earlyInit) open(ctx context.Context, o *opening) error {
	answer, err := e.ask(ctx, o.m, nil)
	if err != nil {
		return err
	}
	if !e.legacy.chosen() && isModernAnswer(answer) {
		if welcome, err := e.bridge.initialize(ctx, o.m); err == nil {
			answer = welcome
		}
	}
	if answer.result == nil {
		code, _ := strconv.Atoi(string(member(answer.error, "code")))
		text, _ := unquote(member(answer.error, "message"))
		return &rpcError{Code: code, Message: excerpt(text)}
	}
	o.offers = bytes.Clone(member(answer.result, "capabilities"))
	e.session.handshake.note(o.m)
	m, _, _ := parseMessage([]byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`))
	// It may be stuck, and must not hold up everything for good.
	within(ctx, deliveryWait, func(context.Context) {
		if err := e.eraOf(m).notify(ctx, m); err != nil {
			e.log.warnf("%s was not delivered: %v", m.method, err)
		}
	})
	return nil
}

// end lets go on what waits, and has the host ask for the lists.
func (e *earlyInit) end(o *opening, err error) {
	o.err = err
	o.finish()
	for _, change := range listChanges {
		if err == nil && member(o.offers, change.capability) != nil {
			e.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%q}`, change.method))
		}
	}
}
