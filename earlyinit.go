package main

// An initialize that waits for the user is answered here, before the host gives up. It goes on to
// the server all the same, when the sign-in is over or whenever else it can, and what follows it
// waits for the server's answer; then the host is told to ask for the lists.

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"
)

// earlyDelay is from the sign-in page to the answer: a quick sign-in gets the server's own words,
// and most hosts wait for ten seconds and more. It is a variable for the tests.
var earlyDelay = 5 * time.Second

// promised are the capabilities of the early answer, and what their lists are where the server
// turns out not to have them.
var promised = []struct{ capability, method, empty string }{
	{"tools", "tools/list", `{"tools":[]}`},
	{"prompts", "prompts/list", `{"prompts":[]}`},
	{"resources", "resources/list", `{"resources":[]}`},
	{"resources", "resources/templates/list", `{"resourceTemplates":[]}`},
}

type earlyInit struct {
	*proxy
	last *call // the initialize read last; only the goroutine that reads stdin touches it

	mu    sync.Mutex  // held while early answers are written, and guards what follows
	timer *time.Timer // runs while the user is asked to sign in; nil otherwise
}

// turnOf returns the initialize that a message which was just read waits for. After a sign-in that
// failed a request is the host's wish for another one: what opens a session is said again first.
func (e *earlyInit) turnOf(work context.Context, m *message) *call {
	o := e.last
	switch {
	case m.version != "" || o == nil:
		return nil // modern messages know no initialize
	case !o.isDone() || o.outcome() == nil || !m.isRequest() || m.method == "ping":
		return o
	case m.method == "initialize":
		return nil
	}
	e.dispatch(work, o.m.asOwn())
	e.dispatch(work, initialized)
	return e.last
}

// await waits until m may be sent. What has a result is not: that is its answer.
func (e *earlyInit) await(ctx context.Context, m *message, o *call) (result []byte, err error) {
	if o == nil {
		return nil, nil
	}
	if m.method == "ping" && !o.settled.Load() {
		return []byte(`{}`), nil // it asks whether we are there, and may come before all others
	}
	if err := o.await(ctx, nil, nil); err != nil {
		return nil, err
	}
	switch answered, err := e.answered(o), o.outcome(); {
	case err != nil && m.method == "ping":
		return []byte(`{}`), nil
	case err != nil || !answered:
		return nil, err
	}
	for _, p := range promised {
		if p.method == m.method && member(o.reply.result, "capabilities", p.capability) == nil {
			return []byte(p.empty), nil
		}
	}
	return nil, nil
}

// outcome is why nothing that follows an initialize can be served, unless the host was told so.
func (c *call) outcome() error {
	switch ours := c.isOurs(); {
	case ours && c.reply == nil:
		return c.failure
	case ours && c.reply.result == nil:
		return rpcErrorOf(c.reply.error)
	}
	return nil
}

// asking is called when the user is shown where to sign in.
func (e *earlyInit) asking(*url.URL) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer == nil {
		e.timer = time.AfterFunc(earlyDelay, e.answer)
	}
}

// asked is called when nobody waits for the user any more.
func (e *earlyInit) asked() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
}

// answer answers every initialize that is on its way to the server. What the server says to it is
// for the proxy alone then.
func (e *earlyInit) answer() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer == nil {
		return // the sign-in has ended at this moment
	}
	for _, c := range e.calls.all() {
		if c.m.method == "initialize" && c.m.version == "" && c.sent.Load() && c.takeEarly() {
			e.calls.out.write(resultAnswer(c.m.id, e.welcome(c.m)).raw)
		}
	}
	e.timer.Reset(earlyDelay) // an initialize may come while another message waits for the user
}

// answered reports whether an initialize was answered here, and not before that is written.
func (e *earlyInit) answered(o *call) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return o.isOurs()
}

// announce has the host ask for the lists, once an initialize that was answered here is done.
func (e *earlyInit) announce(o *call) {
	<-o.done
	if !e.answered(o) || o.outcome() != nil {
		return
	}
	for _, change := range listChanges {
		if member(o.reply.result, "capabilities", change.capability) != nil {
			e.calls.out.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%q}`, change.method))
		}
	}
}

// welcome is the result of an initialize that the server has not seen.
func (e *earlyInit) welcome(m *message) []byte {
	version, _ := unquote(member(m.params, "protocolVersion"))
	if !slices.Contains([]string{"2024-11-05", "2025-03-26", "2025-06-18"}, version) {
		version = "2025-11-25"
	}
	return fmt.Appendf(nil, `{"protocolVersion":%q,"capabilities":{"tools":{"listChanged":true},`+
		`"prompts":{"listChanged":true},"resources":{"listChanged":true}},"serverInfo":{"name":%s,`+
		`"version":%s},"instructions":%s}`, version, quote(e.server.Host), quote(programVersion()),
		quote("The user is signing in to "+e.server.Host+
			" in the browser, and requests are answered once that is done."))
}
