package main

// The answer's way back: a JSON body or a stream of events, which call it
// belongs to, and what a refusal says.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"
)

const (
	maxErrorBody = 1 << 20         // bytes read of a refusal
	refusalWait  = time.Second     // for its end
	lingerTime   = 2 * time.Second // for what follows an answer on its stream
)

// readRefusal is the JSON-RPC error in the body of a 4xx or 5xx, nil if there is none.
func readRefusal(resp *http.Response) *document {
	defer resp.Body.Close()
	defer hangUp(resp.Body, refusalWait).Stop()
	text, err := readText(resp.Body, resp.ContentLength, maxErrorBody)
	if d := newDocument(text); err == nil && isError(d.error) {
		return d
	}
	return nil
}

// isError tells whether the raw value is the error object of JSON-RPC 2.0, section 5.1.
func isError(raw []byte) bool {
	code := member(raw, "code")
	_, hasMessage := unquote(member(raw, "message"))
	return len(code) > 0 && (code[0] == '-' || isDigit(code[0])) && hasMessage
}

// isAnswer tells whether d is a response, if not a flawless one.
func isAnswer(d *document) bool {
	return isError(d.error) || d.result != nil && (d.error == nil || string(d.error) == "null")
}

// inOrder returns an answer under an id. What clients would refuse is made good: no "jsonrpc", or the
// null error beside a result that JSON-RPC 1.0 had and serializers like to add.
func inOrder(d *document, id []byte) []byte {
	switch {
	case !means(d.jsonrpc, "2.0") || d.error != nil && d.result != nil:
		if isError(d.error) {
			return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"error":%s}`, id, d.error)
		}
		return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, d.result)
	case bytes.Equal(d.id, id):
		return d.raw
	}
	return withMember(d.raw, "id", id)
}

// refusal is the error for an answer that is no JSON-RPC message. Its body is
// never copied: it may be a page, or hold what the client must not see.
func (p *proxy) refusal(resp *http.Response) error {
	status := resp.StatusCode
	text := fmt.Sprintf("mcp-proxy: %s answered %d %s", p.server.Host, status, http.StatusText(status))
	data := map[string]any{"httpStatus": status}
	hint := statusHint(status)
	switch {
	case status >= 300 && status < 400:
		if to, err := resp.Location(); err == nil {
			text += fmt.Sprintf(" to %s://%s", excerpt(to.Scheme), excerpt(to.Host))
			hint = "if you trust it, give that server's URL with --url"
		}
	case status == http.StatusUnauthorized && p.auth == nil:
		hint = "the Authorization header given with --header was refused"
	case status == http.StatusForbidden && p.auth != nil:
		if scopes := p.auth.scopeWords(resp); scopes != "" {
			hint = scopes
		}
	case status == http.StatusUnauthorized:
		hint = "the server refuses the token; " + p.auth.cfg.typed("login") + " signs in anew"
	}
	if after := resp.Header.Get("Retry-After"); after != "" {
		data["retryAfter"] = excerpt(after)
	}
	err := &rpcError{Code: codeTransport, Message: text, Data: data}
	if hint == "" {
		return err
	}
	return withHint(err, "%s", hint)
}

// statusHint is what a user can do about an answer that is no JSON-RPC message.
func statusHint(status int) string {
	switch {
	case status == http.StatusForbidden:
		return "the server refuses this account or this machine, or wants a header: -H 'Name: value'"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		return "there is no MCP server at this path: check the URL, often it ends in /mcp or /sse"
	case status >= 500:
		return "the server is in trouble: ask its operator, or try later"
	}
	return ""
}

// badAnswer is the error for a success that holds no answer.
func (p *proxy) badAnswer(status int, what string) error {
	text := fmt.Sprintf("mcp-proxy: %s answered %d %s", p.server.Host, status, what)
	return &rpcError{Code: codeTransport, Message: text, Data: map[string]any{"httpStatus": status}}
}

// relay passes a successful answer on.
func (p *proxy) relay(ctx context.Context, c *call, resp *http.Response, sent sessionState) error {
	c.sessionID = resp.Header.Get("Mcp-Session-Id")
	media := mediaType(resp)
	if media == eventStream {
		return p.relayStream(ctx, c, resp.Body, sent)
	}
	defer resp.Body.Close()
	body := &lingeringBody{ReadCloser: resp.Body}
	text, err := readText(body, resp.ContentLength, maxMessage)
	if body.linger != nil {
		body.linger.Stop()
	}
	d := newDocument(text)
	switch {
	case d.err == nil || d.isBatch(): // however the body broke off
	case errors.Is(err, errTooLong):
		return fmt.Errorf("the answer is longer than %d MiB", maxMessage>>20)
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && len(d.raw) == 0:
		return networkError(p.server.Host, err)
	case err != nil:
		return fmt.Errorf("the answer of %s broke off in the middle", p.server.Host)
	case len(d.raw) == 0:
		return p.awaitListener(ctx, c, resp.StatusCode)
	}
	err = p.relayBody(ctx, c, d, resp.StatusCode, media)
	forget(len(text))
	return err
}

// lingeringBody need not end in good order, or at all, once the message that is read from it is whole.
type lingeringBody struct {
	io.ReadCloser
	text   enclosure
	linger *time.Timer
}

func (b *lingeringBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.text.feed(p[:n]); b.text.closed && b.linger == nil {
		b.linger = hangUp(b.ReadCloser, lingerTime)
	}
	return n, err
}

// relayBody passes on what a body holds, which may be no answer at all.
func (p *proxy) relayBody(ctx context.Context, c *call, d *document, status int, media string) error {
	switch {
	case d.isBatch():
		if bad := p.fromServer(c, d); bad != nil {
			p.log.warnf("%v", bad)
		}
		if c.settled.Load() {
			return nil
		}
		return p.badAnswer(status, "with a batch that does not answer the request")
	case isAnswer(d) && d.error != nil:
		p.succeed(c, d) // whatever its id
		return nil
	case isAnswer(d):
		return p.deliver(c, d)
	case status == http.StatusAccepted:
		return p.awaitListener(ctx, c, status) // "Accepted", say Express and Starlette
	}
	return p.badAnswer(status, "with something that is no JSON-RPC response ("+mediaName(media)+")")
}

const eventStream = "text/event-stream"

func mediaType(resp *http.Response) string {
	given := resp.Header.Get("Content-Type")
	if given == "application/json" || given == eventStream {
		return given // as nearly always; parsing costs as much as the trace
	}
	media, _, _ := mime.ParseMediaType(given)
	return media
}

func mediaName(media string) string {
	if media == "" {
		return "no content type"
	}
	return excerpt(media)
}

// awaitListener waits for an answer on the stream that is listened to: a
// server may accept a request with 202 and answer there.
func (p *proxy) awaitListener(ctx context.Context, c *call, status int) error {
	noAnswer := p.badAnswer(status, "and gave no answer")
	ended := p.session.listener()
	if ended == nil || c.m.version != "" {
		return noAnswer
	}
	select {
	case <-c.done:
		return nil
	case <-ended:
		return noAnswer
	case <-ctx.Done():
		return ctx.Err()
	}
}

// relayStream passes the events of a POST's stream on until its request is
// answered, resuming the stream where the era allows it.
func (p *proxy) relayStream(ctx context.Context, c *call, body io.ReadCloser, sent sessionState) error {
	at := cursor{retry: -1}
	for {
		began := time.Now()
		err := p.relayEvents(c, body, &at)
		if c.settled.Load() {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.m.version != "" || at.id == "" {
			p.log.debugf("%s: stream: %v", nameOf(c.m), err)
			return p.streamEnded()
		}
		if body, err = p.resume(ctx, &at, sent, time.Since(began)); err != nil {
			return err
		}
	}
}

// relayAside passes on what a server says where it has nothing to say: in
// answer to a notification. It does not hold up the messages behind that one.
func (p *proxy) relayAside(body io.ReadCloser) {
	p.routines.Add(1)
	go func() {
		defer p.routines.Done()
		defer hangUp(body, lingerTime).Stop()
		err := p.relayEvents(nil, body, &cursor{})
		p.log.debugf("stream that answers a notification: %v", err)
	}()
}

func (p *proxy) streamEnded() error {
	return fmt.Errorf("%s ended the stream before the answer", p.server.Host)
}

// relayEvents passes on what comes, from now until the stream ends. After the
// answer to c the stream may go on for a little: other messages may follow.
func (p *proxy) relayEvents(c *call, body io.ReadCloser, at *cursor) error {
	defer body.Close()
	events := newEventReader(body, maxMessage)
	var linger *time.Timer
	warned := false // once a stream: a server may send millions of events
	for {
		e, err := events.next()
		if err != nil {
			if linger != nil {
				linger.Stop()
			}
			return err
		}
		at.moved(e)
		if len(e.data) == 0 || e.name != "message" {
			continue
		}
		if bad := p.fromServer(c, newDocument(e.data)); bad != nil && !warned {
			warned = true
			p.log.warnf("%v", bad)
		}
		forget(len(e.data))
		if linger == nil && c != nil && c.settled.Load() {
			linger = hangUp(body, lingerTime)
		}
	}
}

// fromServer passes on what an event holds. c is the call whose stream it came on, nil for a stream
// that belongs to none. The error is what is to be said of it on stderr.
func (p *proxy) fromServer(c *call, d *document) (bad error) {
	if !d.isBatch() {
		return p.oneFromServer(c, d)
	}
	// A batch, which revision 2025-03-26 allows a server and no later one.
	each(d.raw, func(raw []byte) {
		err := errNotMessage
		if raw[0] == '{' {
			err = p.oneFromServer(c, newDocument(raw))
		}
		if bad == nil {
			bad = err
		}
	})
	return bad
}

var errNotMessage = errors.New("the server sent an event that is not JSON-RPC")

func (p *proxy) oneFromServer(c *call, d *document) error {
	current := means(d.jsonrpc, "2.0")
	method, _ := unquote(d.method)
	switch {
	case method != "" && current && c != nil && c.heard != nil:
		if !c.settled.Load() {
			return c.heard(method, d)
		}
	case method != "" && current:
		p.out.write(d.raw)
	case method == "" && isAnswer(d):
		return p.deliver(c, d)
	default:
		return errNotMessage // the very same for millions of them
	}
	return nil
}

// deliver brings a response to the call it answers. c is the call whose stream
// or body it came in, nil where that belongs to none.
func (p *proxy) deliver(c *call, d *document) error {
	target := p.answered(c, d.id)
	if target == nil {
		return fmt.Errorf("%s answered a request that was not asked", p.server.Host)
	}
	if target.settled.Load() {
		return nil // said twice
	}
	if target.m.method == "initialize" && target.m.version == "" && d.result != nil {
		sessionID := target.sessionID
		if c != nil {
			sessionID = c.sessionID
		}
		p.sessionOpened(target.m, sessionID, d)
	}
	p.succeed(target, d)
	if c != nil && target != c && !c.settled.Load() {
		return fmt.Errorf("%s answered another request", p.server.Host)
	}
	return nil
}

// answered finds the call that a response with this id answers: c where it has
// just this id, else the one that has, else c where its id may be meant, else
// any whose id may be. c comes first because the client may use an id again: what
// follows an answer on its stream is said twice, and no answer to the next call.
func (p *proxy) answered(c *call, id []byte) *call {
	if len(id) > maxID {
		return nil // no request has such an id
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c != nil && bytes.Equal(id, c.m.id) {
		return c
	}
	if exact := p.calls[string(id)]; exact != nil {
		return exact
	}
	meant := looseID(id)
	if c != nil && (isNull(id) || meant == c.loose) {
		return c
	}
	if isNull(id) {
		return nil
	}
	for _, other := range p.calls {
		if meant == other.loose {
			return other
		}
	}
	return nil
}

// isNull: errors may come without id, or with null.
func isNull(id []byte) bool { return len(id) == 0 || string(id) == "null" }

// looseID is what a server keeps of an id that keeps no more than its meaning: "7" or 7.0 for 7, a\/b
// for a/b (PHP), \u00e9 for é (Python), what a double keeps of a large integer (JavaScript).
func looseID(raw []byte) string {
	text, isString := unquote(raw)
	if !isString {
		text = string(raw)
	}
	if number, err := strconv.ParseFloat(text, 64); err == nil {
		return strconv.FormatFloat(number, 'g', -1, 64)
	}
	return text
}
