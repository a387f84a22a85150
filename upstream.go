package main

// One exchange with the MCP server: the request with its token and the user's headers, overload,
// connections refused, and what an answer or a refusal means. It is the only place that puts a
// token into a message. Which message is sent, and what is done about a stream that breaks off or a
// session that is lost, the eras decide.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

const (
	maxRetryAfter    = 60 * time.Second // the longest wait that a server may ask for
	maxSends         = 4                // of one message, for overload and refused connections
	firstBackoff     = 250 * time.Millisecond
	maxDiscardedBody = 64 << 10               // bytes
	maxErrorBody     = 1 << 20                // bytes read of a refusal
	discardTime      = 250 * time.Millisecond // for the rest of a body that nobody needs
	lingerTime       = 2 * time.Second        // for a refusal, and what follows an answer on a stream
	eventStream      = "text/event-stream"
)

type upstream struct {
	server  *url.URL
	headers http.Header // the user's own
	client  *mcpClient
	auth    *oauth // nil: the user gave an Authorization header
	log     *logger
	calls   *calls
	moved   atomic.Pointer[url.URL] // where the server is for good; nil: at its URL
}

// attempts bounds what one message may cause.
type attempts struct {
	sends   int
	renewed bool // the session, or at least it was tried
	auth    authAttempts
}

// request is a request without the headers that all have in common. body is nil for none.
func (u *upstream) request(
	ctx context.Context, method string, to *url.URL, body []byte,
) *http.Request {
	req, _ := http.NewRequestWithContext(ctx, method, "", bytes.NewReader(body)) // nothing can fail
	req.URL, req.Host = to, to.Host
	return req
}

// Of every message alike: net/http changes no header's values.
var (
	jsonBody     = []string{"application/json"}
	jsonOrEvents = []string{"application/json, text/event-stream"}
	eventsOnly   = []string{eventStream}
)

// post is the request that sends a message.
func (u *upstream) post(ctx context.Context, to *url.URL, m *message) *http.Request {
	req := u.request(ctx, http.MethodPost, to, m.raw)
	req.Header["Content-Type"], req.Header["Accept"] = jsonBody, jsonOrEvents
	return req
}

// exchange sends a request, made anew for every attempt, until it is neither a matter of
// authorization nor of overload. The caller closes the body.
func (u *upstream) exchange(
	ctx context.Context, a *attempts, build func() *http.Request,
) (*http.Response, error) {
	for {
		token := ""
		if u.auth != nil {
			var err error
			if token, err = u.auth.token(ctx); err != nil {
				return nil, err
			}
		}
		resp, err := u.do(build(), token)
		a.sends++
		wait, again := backoff(a.sends), notSent(err)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil && u.auth != nil && isDenied(resp):
			again, err := u.auth.challenged(ctx, resp, token, &a.auth)
			if err == nil && !again {
				return resp, nil
			}
			discard(resp)
			if err != nil {
				return nil, err
			}
			continue
		case err == nil:
			wait, again = retryAfter(resp, time.Now)
		}
		again = again && a.sends < maxSends
		switch {
		case !again && err != nil:
			return nil, u.cutOff(err)
		case !again:
			return resp, nil
		case err == nil:
			discard(resp)
			u.log.infof("%s answered %d, trying again in %v", u.server.Host, resp.StatusCode, wait)
		}
		if !sleep(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

// do sends a request once.
func (u *upstream) do(req *http.Request, token string) (*http.Response, error) {
	for name, values := range u.headers {
		req.Header[name] = values
	}
	if token != "" {
		// RFC 6750, section 2.1: in the header, never in the URL.
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if req.Header["User-Agent"] == nil {
		req.Header["User-Agent"] = userAgent()
	}
	isServer := req.URL == u.server
	if to := u.moved.Load(); to != nil && isServer {
		req.URL, req.Host = to, to.Host
	}
	resp, moved, err := u.client.do(req)
	switch {
	case !isServer:
	case err != nil || resp.StatusCode >= 400:
		u.moved.Store(nil) // the next request asks where it is
	case req.Method == http.MethodPost && resp.StatusCode < 300 && moved:
		u.moved.Store(resp.Request.URL) // not of a GET, which may lead browsers to a page
	}
	if err == nil && u.auth != nil && token != "" && !isDenied(resp) && resp.StatusCode < 500 &&
		u.auth.accepted.Load() != token {
		u.auth.accepted.Store(token)
	}
	return resp, err
}

func isDenied(resp *http.Response) bool {
	return resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
}

func backoff(attempt int) time.Duration { return firstBackoff << (attempt - 1) }

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	awaitClosed(ctx, nil, d)
	return ctx.Err() == nil
}

// awaitClosed waits for a channel, at most for d and until ctx ends, and reports whether it came.
func awaitClosed(ctx context.Context, done <-chan struct{}, d time.Duration) bool {
	select {
	case <-done:
		return true
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// retryAfter is how long a server that is overloaded asks to wait (RFC 9110, section 10.2.3:
// seconds or a date); false if it does not, or asks too much.
func retryAfter(resp *http.Response, now func() time.Time) (time.Duration, bool) {
	if resp.StatusCode != http.StatusTooManyRequests &&
		resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	value := strings.TrimSpace(resp.Header.Get("Retry-After"))
	seconds, err := strconv.ParseUint(value, 10, 31)
	wait := time.Duration(seconds) * time.Second
	if err != nil {
		var date time.Time
		date, err = http.ParseTime(value)
		wait = date.Sub(now())
	}
	return max(wait, firstBackoff), err == nil && wait <= maxRetryAfter
}

// discard reads what little may be left, so that the connection can be used again. A body that does
// not end is given up: what waits for this must not wait for ever.
func discard(resp *http.Response) {
	if resp.ContentLength != 0 {
		defer hangUp(resp.Body, discardTime).Stop()
		io.CopyN(io.Discard, resp.Body, maxDiscardedBody)
	}
	resp.Body.Close()
}

// hangUp closes a body, under whoever reads it, after a while.
func hangUp(body io.Closer, after time.Duration) *time.Timer {
	return time.AfterFunc(after, func() { body.Close() })
}

// isError reports whether the raw value is the error object of JSON-RPC 2.0, section 5.1.
func isError(raw []byte) bool {
	code := member(raw, "code")
	_, hasMessage := unquote(member(raw, "message"))
	return len(code) > 0 && (code[0] == '-' || isDigit(code[0])) && hasMessage
}

// isAnswer reports whether d is a response, if not a flawless one. A message that has a method as
// well is none: it would pass as one of the server's own, and its result with it.
func isAnswer(d *document) bool {
	result := d.result != nil && (d.error == nil || string(d.error) == "null")
	return d.method == nil && (result || isError(d.error))
}

// inOrder returns an answer under an id. What clients would refuse is made good: no "jsonrpc", or
// the null error beside a result that JSON-RPC 1.0 had and serializers like to add.
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

func mediaType(resp *http.Response) string {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return media
}

// A responseBody is read from its first byte that says what it is: a byte order mark (.NET) and
// white space before it are skipped.
type responseBody struct {
	*bufio.Reader
	io.Closer
	first byte // 0 if there is none
}

func bodyOf(resp *http.Response) *responseBody {
	b := &responseBody{Reader: bufio.NewReaderSize(resp.Body, 16), Closer: resp.Body}
	for c, err := b.ReadByte(); err == nil; c, err = b.ReadByte() {
		if strings.IndexByte(white+byteOrderMark, c) < 0 {
			b.first = c
			_ = b.UnreadByte() // of a byte that was just read
			break
		}
	}
	return b
}

// isEvents reports whether it begins as an event stream does.
func (b *responseBody) isEvents() bool {
	start, _ := b.Peek(len("data:")) // no event is shorter
	return slices.ContainsFunc([]string{":", "data:", "id:", "event", "retry"},
		func(field string) bool { return bytes.HasPrefix(start, []byte(field)) })
}

// mayRun keeps a client from sending again what is done already.
const mayRun = "the call may still be running at the server"

var errStreamEnded = withHint(errors.New("ended the stream before the answer"), "%s", mayRun)

func (u *upstream) streamEnded() error { return fmt.Errorf("%s %w", u.server.Host, errStreamEnded) }

// cutOff is a request that was not answered to its end.
func (u *upstream) cutOff(err error) error {
	failed := networkError(u.server.Host, err)
	if notSent(err) || hintOf(failed) != "" {
		return failed
	}
	return withHint(failed, "%s", mayRun)
}

// acceptedOnly is a 202 without an answer, which may come on another stream.
type acceptedOnly struct{ error }

func (a acceptedOnly) Unwrap() error { return a.error }

// relay passes a successful answer to c on. What it is, its first byte says: the content type may
// be missing or wrong. at is moved along an event stream.
func (u *upstream) relay(ctx context.Context, c *call, resp *http.Response, at *cursor) error {
	status, body := resp.StatusCode, bodyOf(resp)
	isJSON := body.first == '{' || body.first == '['
	switch {
	case body.first == '<':
		discard(resp)
		return withHint(u.badAnswer(status, "with a web page"), "check the URL, often it ends in /mcp "+
			"or /sse; or a login page stands before the server, which wants a header: -H 'Name: value'")
	case !isJSON && (mediaType(resp) == eventStream || body.isEvents()):
		return u.events(ctx, c, body, at)
	}
	defer resp.Body.Close()
	text, err := readText(body, resp.ContentLength, maxMessage)
	if int64(len(text)) != resp.ContentLength {
		defer discard(resp) // its end need not come
	}
	defer forget(len(text))
	d := newDocument(text)
	switch {
	case d.kind == '{' || d.kind == '[': // however the body broke off
	case errors.Is(err, errTooLong):
		return fmt.Errorf("the answer is longer than %d MiB", maxMessage>>20)
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return u.cutOff(err)
	}
	switch {
	case d.kind == '[':
		if err := u.fromServer(c, d); err != nil {
			u.log.warnf("%v", err)
		}
		if c.settled.Load() {
			return nil
		}
		return u.badAnswer(status, "with a batch that does not answer the request")
	case isAnswer(d) && isError(d.error):
		return u.settle(c, c.m.id, d) // whatever its id
	case isAnswer(d):
		return u.settle(c, d.id, d)
	case status == http.StatusAccepted: // "Accepted", say Express and Starlette
		return acceptedOnly{u.badAnswer(status, "and gave no answer")}
	case len(d.raw) == 0:
		return u.badAnswer(status, "and gave no answer")
	}
	media := excerpt(mediaType(resp))
	if media == "" {
		media = "no content type"
	}
	return u.badAnswer(status, "with something that is no JSON-RPC response ("+media+")")
}

// events passes on what a stream brings until it ends, or until a little after the answer to c:
// other messages may follow it. c is nil for a stream that belongs to no call.
func (u *upstream) events(ctx context.Context, c *call, body io.ReadCloser, at *cursor) error {
	began := time.Now() // now that it is open: a gateway may hold the request for a minute
	defer func() { at.lived = max(time.Since(began), 1) }()
	defer body.Close()
	events := newEventReader(body, maxMessage)
	lingers, warned := false, false // warned once a stream: a server may send millions of events
	for {
		e, err := events.next()
		switch {
		case err == nil:
		case c != nil && c.settled.Load():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			return u.streamEnded()
		}
		at.move(e)
		if e.name == "endpoint" && c != nil && c.m.method == "initialize" {
			err := u.badAnswer(http.StatusOK, "as an HTTP+SSE server: --transport sse")
			return &serverRefusal{error: err, endpoint: true}
		}
		if len(e.data) == 0 || e.name != "message" {
			continue
		}
		err = u.fromServer(c, newDocument(e.data))
		forget(len(e.data))
		switch {
		case err == nil:
		case errors.As(err, new(*serverRefusal)):
			return err
		case !warned:
			warned = true
			u.log.warnf("%v", err)
		}
		if !lingers && c != nil && c.settled.Load() {
			lingers = true
			defer hangUp(body, lingerTime).Stop()
		}
	}
}

var errNotMessage = errors.New("the server sent an event that is not JSON-RPC")

// fromServer passes on what an event holds. The error is a *serverRefusal, or what is to be said of
// it on stderr.
func (u *upstream) fromServer(c *call, d *document) (bad error) {
	method, _ := unquote(d.method)
	// With a result beside the method a host could take it for an answer.
	message := method != "" && means(d.jsonrpc, "2.0") && d.result == nil && d.error == nil
	if message && c != nil {
		c.talked = true
	}
	switch {
	case d.kind == '[': // a batch, which revision 2025-03-26 allows a server and no later one
		each(d.raw, func(raw []byte) {
			err := errNotMessage
			if raw[0] == '{' {
				err = u.fromServer(c, newDocument(raw))
			}
			if bad == nil {
				bad = err
			}
		})
		return bad
	case message && c != nil && c.heard != nil:
		if !c.settled.Load() {
			return c.heard(method, d)
		}
	case message:
		u.calls.out.write(d.raw)
	case isAnswer(d):
		return u.settle(c, d.id, d)
	default:
		return errNotMessage // the very same for millions of them
	}
	return nil
}

// settle brings a response to the call that its id means. c is the call whose stream or body it
// came in, nil if that belongs to none.
func (u *upstream) settle(c *call, id []byte, d *document) error {
	target := u.calls.find(c, id)
	switch {
	case target == nil:
		return fmt.Errorf("%s answered a request that was not asked", u.server.Host)
	case target.settled.Load():
		return nil // said twice
	case target == c && d.error != nil && c.refuses != nil && c.refuses(d):
		return &serverRefusal{status: http.StatusOK, reply: d}
	}
	target.answer(d)
	if c != nil && target != c && !c.settled.Load() {
		return fmt.Errorf("%s answered another request", u.server.Host)
	}
	return nil
}

// serverRefusal is an answer by which the server did not do what it was asked.
type serverRefusal struct {
	error
	status   int
	reply    *document // the JSON-RPC error, nil if there is none
	endpoint bool      // it is the stream of an HTTP+SSE server that serves all methods alike
}

func (r *serverRefusal) Unwrap() error { return r.error }

// refusal reads a refusal to its end. What of it is no JSON-RPC message is copied only if it is a
// line that can hold nothing of ours: it may be a page, or repeat what it was sent.
func (u *upstream) refusal(resp *http.Response) *serverRefusal {
	defer resp.Body.Close()
	defer hangUp(resp.Body, lingerTime).Stop()
	status, body := resp.StatusCode, bodyOf(resp)
	var said []byte
	if body.first != '{' && body.isEvents() {
		events := newEventReader(body, maxErrorBody)
		for len(said) == 0 {
			e, err := events.next()
			if err != nil {
				break
			}
			said = e.data
		}
	} else {
		said, _ = readText(body, resp.ContentLength, maxErrorBody) // it may be whole all the same
	}
	if reply := newDocument(said); isError(reply.error) {
		err := fmt.Errorf("%s answered %d with an error", u.server.Host, status)
		return &serverRefusal{error: err, status: status, reply: reply}
	}
	text := fmt.Sprintf("mcp-proxy: %s answered %d %s", u.server.Host, status, http.StatusText(status))
	text = strings.TrimSpace(text)
	data := map[string]any{"httpStatus": status}
	hint := refusalHint(status, strings.ToLower(string(said)))
	switch to, err := resp.Location(); {
	case err == nil && status >= 300 && status < 400:
		whole := url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path} // its query may hold a secret
		text += " to " + excerpt(whole.String())
		hint = redirectHint(u.server, to, status)
	case status == http.StatusUnauthorized && u.auth == nil:
		hint = "the Authorization header given with --header was refused"
	case status == http.StatusUnauthorized:
		hint = "the server refuses the token; " + u.auth.cfg.typed("login") + " signs in anew"
		if _, ok := parseChallenge(resp.Header); !ok {
			other := otherScheme(u.server.Host, resp.Header)
			text, hint = "mcp-proxy: "+other.Error(), hintOf(other)
		}
	case status == http.StatusForbidden && u.auth != nil:
		if scopes := u.auth.scopeWords(resp); scopes != "" {
			hint = scopes
		}
	}
	if mediaType(resp) == "text/plain" && u.isHarmless(string(said), resp.Request) {
		text += ": " + excerpt(string(said))
	}
	if after := resp.Header.Get("Retry-After"); after != "" {
		data["retryAfter"] = excerpt(after)
	}
	err := error(&rpcError{Code: codeTransport, Message: text, Data: data})
	if hint != "" {
		err = withHint(err, "%s", hint)
	}
	return &serverRefusal{error: err, status: status}
}

// isHarmless reports whether a text that a server answers req with can hold no secret of ours, nor
// one of its own: tokens, keys and ids are long words.
func (u *upstream) isHarmless(text string, req *http.Request) bool {
	const longestText, longestWord, shortestSecret = 120, 20, 4
	ours := u.server.RawQuery
	for name, values := range req.Header {
		ownSecret := slices.Contains([]string{"Authorization", "Cookie", "Mcp-Session-Id"}, name)
		if ownSecret || u.headers[name] != nil {
			ours += " " + strings.Join(values, " ")
		}
	}
	harmful := func(word string) bool {
		return len(word) > longestWord || len(word) >= shortestSecret && strings.Contains(ours, word)
	}
	shown := func(word string) bool {
		return len(word) >= shortestSecret && strings.Contains(text, word)
	}
	notInWord := func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(",;:=&\"'", r) }
	words := strings.FieldsFunc(text, notInWord)
	return text != "" && len(text) <= longestText && !slices.ContainsFunc(words, harmful) &&
		!slices.ContainsFunc(strings.FieldsFunc(ours, notInWord), shown) // beside any punctuation
}

// redirectHint is what a user can do about a redirect that is not followed.
func redirectHint(server, to *url.URL, status int) string {
	switch {
	case status == http.StatusFound || status == http.StatusSeeOther:
		return "a login page stands before the server: it may want a header (-H 'Name: value'), " +
			"or the server has another address"
	case to.Scheme == "http" && strings.EqualFold(to.Hostname(), server.Hostname()):
		return "that is the same server without TLS: try its address with https"
	case to.Scheme == "http":
		return "it is not encrypted: no token goes there"
	case sameOrigin(server, to):
		return "that is the same server, which redirects without end: its operator must mend it"
	}
	return "that is another server: if you trust it, give that address with --url"
}

// refusalHint is what a user can do about an answer that is no JSON-RPC message; body is in lower
// case.
func refusalHint(status int, body string) string {
	refused := status == http.StatusBadRequest || status == http.StatusForbidden
	host := strings.Contains(body, "host header") || strings.Contains(body, "invalid host")
	switch {
	case status == http.StatusMisdirectedRequest, refused && host:
		return "the server does not accept this host name: its operator must add it to the allowed hosts"
	case status == 495, status == 496, refused && strings.Contains(body, "ssl certificate"): // nginx
		return "the server wants a client certificate: --client-cert FILE.pem --client-key FILE.pem"
	case status == http.StatusGatewayTimeout, status == 524: // Cloudflare
		return "a gateway gave up waiting; the call may still be running"
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
func (u *upstream) badAnswer(status int, what string) error {
	text := fmt.Sprintf("mcp-proxy: %s answered %d %s", u.server.Host, status, what)
	return &rpcError{Code: codeTransport, Message: text, Data: map[string]any{"httpStatus": status}}
}
