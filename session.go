package main

// Streamable HTTP: a POST for each message, the stream that the server may answer with and what is
// done if it breaks off. For the revisions 2025-03-26 to 2025-11-25 also the session: its id, the
// stream that is listened to, a session that is lost, and the end of it. What 2026-07-28 asks of a
// message beside that is modern.go's.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

const (
	listenWait     = time.Second     // that a request on its way may hold up the next message
	maxRefusals    = 3               // of a stream by a server that has never opened one
	firstReconnect = time.Second     // to a stream that broke, if the server named no time
	maxReconnect   = time.Minute     // between attempts to listen
	maxResumes     = 5               // attempts in a row that bring nothing, of an open request
	steadyStream   = 5 * time.Second // a stream that lived so long was worth opening
	maxSessionID   = 4 << 10         // bytes
	maxVersion     = 64
	longestRetry   = 5 * time.Minute // that a server may ask for before a reconnection
	// A server that asks for no pause at all would otherwise be asked in a loop.
	shortestRetry = 100 * time.Millisecond
)

type session struct {
	*upstream
	handshake *handshake
	tools     *toolHeaders
	renewing  turn // to make the session anew

	mu        sync.Mutex // guards what follows
	now       sessionState
	listening <-chan struct{} // closed when the listening stream has ended; nil without one
	stop      func()          // ends it
}

// sessionState is what a message needs to know of the session it is sent in.
type sessionState struct {
	id         string    // Mcp-Session-Id; "" if the server has no sessions
	hash       shortHash // of the id
	version    string    // as negotiated; "" before initialize is answered
	worked     bool      // the server took a message of the session
	generation int       // counts initializations, those that failed as well
	failure    error     // of the last of them
}

func (s sessionState) set(h http.Header) {
	if s.id != "" {
		h.Set("Mcp-Session-Id", s.id)
	}
	if s.version != "" {
		h.Set("Mcp-Protocol-Version", s.version)
	}
}

// describe tells a trace which session and revision a message belongs to.
func (s sessionState) describe(span *span) {
	if s.id != "" {
		span.setHash(attrSessionID, s.hash)
	}
	if s.version != "" {
		span.setString(attrMCPVersion, s.version)
	}
}

func (s *session) state() sessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// replace ends what is listened to, and returns the session that was.
func (s *session) replace(next sessionState) (before sessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	before, next.generation = s.now, s.now.generation+1
	s.now = next
	return before
}

// deliver sends a message with the headers of its revision, and once more if the server refuses it
// for something that can be mended. taken gets the answer of a server that takes it.
func (s *session) deliver(
	ctx context.Context, m *message, taken func(*http.Response, sessionState) error,
) error {
	var a attempts
	relisted := false
	for {
		var sent sessionState
		if m.version == "" && m.method != "initialize" {
			sent = s.state()
			sent.worked = sent.worked && !a.renewed
		}
		a.auth.noSignIn, a.auth.inSession = m.unasked, sent.id != "" && sent.worked
		resp, err := s.exchange(ctx, &a, func() *http.Request {
			req := s.post(ctx, s.server, m)
			if m.version != "" {
				s.tools.set(req.Header, m.method, m.params, m.version)
			} else {
				sent.set(req.Header)
			}
			return req
		})
		switch {
		case err != nil:
			return err
		case resp.StatusCode < 300:
			if sent.generation > 0 && !sent.worked {
				s.mu.Lock()
				s.now.worked = s.now.worked || s.now.generation == sent.generation
				s.mu.Unlock()
			}
			err = taken(resp, sent)
		default:
			err = s.refusal(resp)
		}
		if err == nil {
			return nil
		}
		var refused *serverRefusal
		if !errors.As(err, &refused) {
			return err
		}
		switch {
		case sent.lost(m, refused.status, refused.reply):
			if err := s.renew(ctx, sent, &a); errors.As(err, new(authError)) {
				return err
			} else if err == nil {
				continue
			}
		case isHeaderMismatch(m, refused.status, refused.reply) && !relisted:
			relisted = true
			if s.tools.relist(ctx, m, s.handshake.ask) {
				continue
			}
		}
		return refused
	}
}

func (s *session) call(ctx context.Context, c *call) error {
	c.sent.Store(true)
	return s.deliver(ctx, c.m, func(resp *http.Response, sent sessionState) error {
		c.reached()
		return s.relayAll(ctx, c, resp, sent)
	})
}

func (s *session) notify(ctx context.Context, m *message) error {
	return s.deliver(ctx, m, func(resp *http.Response, _ sessionState) error {
		if mediaType(resp) == eventStream {
			// A server may say something of its own even there, and holds up no message with it.
			s.calls.start(func() {
				defer hangUp(resp.Body, lingerTime).Stop()
				err := s.events(context.Background(), nil, resp.Body, &cursor{})
				s.log.debugf("stream that answers a notification: %v", err)
			})
		} else {
			discard(resp)
		}
		if m.method == "notifications/initialized" && m.version == "" {
			s.listen()
		}
		return nil
	})
}

// relayAll passes on an answer of one or several streams: one that breaks off before the answer is
// resumed if the revision allows it, until several attempts in a row bring nothing.
func (s *session) relayAll(
	ctx context.Context, c *call, resp *http.Response, sent sessionState,
) error {
	if c.m.method == "initialize" && c.m.version == "" {
		id := resp.Header.Get("Mcp-Session-Id")
		c.opened = func(answer *document) { s.opened(c.m, id, answer); s.state().describe(c.span) }
	}
	c.talked, c.refuses = false, func(answer *document) bool {
		return !c.talked && sent.lost(c.m, http.StatusOK, answer)
	}
	at := cursor{retry: firstReconnect}
	err := s.relay(ctx, c, resp, &at)
	for c.m.version == "" && at.id != "" && errors.Is(err, errStreamEnded) {
		pause := at.pause()
		if at.vain > maxResumes || !sleep(ctx, pause) {
			break
		}
		var refused noStream
		again := s.stream(ctx, c, &at, sent)
		switch {
		case at.lived > 0:
			err = again
		case errors.As(again, &refused) && !notNow(int(refused)):
			at.id = "" // there is no use in trying again
		}
	}
	s.mu.Lock()
	ended := s.listening
	s.mu.Unlock()
	if ended == nil || c.m.version != "" || !errors.As(err, new(acceptedOnly)) {
		return err
	}
	return c.await(ctx, ended, err) // the answer may come on the stream that is listened to
}

// opened notes what the answer to initialize says, before the client sees it.
func (s *session) opened(m *message, id string, answer *document) {
	version, _ := unquote(member(answer.result, "protocolVersion"))
	before := s.replace(sessionState{
		id: visibleASCII(id, maxSessionID), hash: hashOf(id),
		version: visibleASCII(version, maxVersion),
	})
	if before.id != "" && !m.again { // one in place of a lost session has none to end
		s.calls.start(func() {
			within(context.Background(), endTime, func(ctx context.Context) { s.delete(ctx, before) })
		})
	}
}

// visibleASCII refuses what a hostile server could smuggle into a header: a session id has nothing
// else (MCP 2025-11-25, Transports, "Session Management"), and no version has more.
func visibleASCII(value string, longest int) string {
	invisible := func(r rune) bool { return r < '!' || r > '~' }
	if len(value) > longest || strings.IndexFunc(value, invisible) >= 0 {
		return ""
	}
	return value
}

// cursor is where in a stream we are.
type cursor struct {
	id    string        // Last-Event-ID
	retry time.Duration // as the server asked, firstReconnect if it did not

	lived  time.Duration // how long the last stream lived; 0 if it was not opened
	moved  bool          // it has brought something
	vain   int           // openings in a row that brought nothing
	steady bool          // the last stream was worth opening
}

func (at *cursor) move(e *event) {
	at.moved = true
	if e.hasID {
		at.id = e.id
		if strings.ContainsFunc(e.id, unicode.IsControl) {
			at.id = "" // no header can hold it (RFC 9110, section 5.5), and nothing is resumed
		}
	}
	if e.retry >= 0 {
		at.retry = e.retry
	}
}

// wait is how long to wait before the nth attempt in a row that brings nothing.
func (at *cursor) wait(n int) time.Duration {
	wait := min(max(at.retry, shortestRetry), longestRetry)
	return min(wait<<min(n-1, 10), max(wait, maxReconnect))
}

// pause is how long to wait before the stream is opened again.
func (at *cursor) pause() time.Duration {
	worth := at.moved || at.lived >= steadyStream
	if at.lived > 0 {
		at.steady = worth
	}
	if worth {
		at.vain = 0
	}
	at.moved = false
	at.vain++
	return at.wait(at.vain)
}

// listen follows a delivered notifications/initialized: from here on the server may send messages
// of its own. The request to listen goes out before the next message: what the server says to that
// one could come on this stream, and would be lost without it.
func (s *session) listen() {
	ctx, stop := context.WithCancel(context.Background())
	asked, wrote := context.WithTimeout(ctx, listenWait)
	defer wrote()
	s.mu.Lock()
	s.stop()
	s.stop, s.listening = stop, ctx.Done()
	now := s.now
	s.mu.Unlock()
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { wrote() }}
	started := s.calls.start(func() {
		defer stop()
		s.keepListening(httptrace.WithClientTrace(ctx, trace), now, cursor{retry: firstReconnect})
	})
	if !started {
		stop()
	}
	<-asked.Done()
}

// keepListening keeps the server's own stream open until ctx ends, the server says that it has
// none, or refuses the first one several times.
func (s *session) keepListening(ctx context.Context, sent sessionState, at cursor) {
	opened := false
	for refusals := 0; ; {
		err := s.stream(ctx, nil, &at, sent)
		opened = opened || at.lived > 0
		var refused noStream
		if errors.As(err, &refused) {
			refusals++
		}
		switch {
		case ctx.Err() != nil, refused.forGood(), !opened && refusals == maxRefusals:
			return
		case refused == http.StatusNotFound && at.steady:
			// The session is lost, and nobody may be about to find out. Renewing it ends this stream.
			a := attempts{auth: authAttempts{noSignIn: true}}
			_ = s.renew(context.Background(), sent, &a) // the next message will find out
			return
		}
		s.log.debugf("listening stream: %v", err)
		if !sleep(ctx, at.pause()) {
			return
		}
	}
}

// noStream is the status of an answer that is no stream.
type noStream int

func (n noStream) Error() string { return fmt.Sprintf("answered %d instead of a stream", int(n)) }

// forGood reports whether the server says that it has no stream at all.
func (n noStream) forGood() bool {
	return n == http.StatusMethodNotAllowed || n == http.StatusNotImplemented || n >= 200 && n < 300
}

// notNow reports whether a refusal may pass: the server is out of order, or waits for a sign-in
// that a request will ask for.
func notNow(status int) bool {
	passing := []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout,
		http.StatusTooManyRequests}
	return slices.Contains(passing, status) || status >= 500 && status != http.StatusNotImplemented
}

// stream asks for a stream from where the last one broke, and passes on what it brings until it
// ends. If there is none, it fails with a noStream mostly.
func (s *session) stream(ctx context.Context, c *call, at *cursor, sent sessionState) error {
	at.lived = 0
	// What nobody asked for must not open a browser.
	a := attempts{auth: authAttempts{noSignIn: true}}
	resp, err := s.exchange(ctx, &a, func() *http.Request {
		req := s.request(ctx, http.MethodGet, s.server, nil)
		req.Header["Accept"] = eventsOnly
		sent.set(req.Header)
		if at.id != "" {
			req.Header.Set("Last-Event-ID", at.id)
		}
		return req
	})
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK || mediaType(resp) != eventStream:
		discard(resp)
		return noStream(resp.StatusCode)
	}
	return s.events(ctx, c, resp.Body, at)
}

// lostText is how servers say that they do not know a session: "Session not found" (Python, Java
// and C# SDK), "No valid session ID provided" (examples of the TypeScript SDK), "Invalid session
// ID" (mark3labs/mcp-go), "Server not initialized" (TypeScript SDK).
var lostText = onceNeeded(`(?i)` +
	`\b(no|not|invalid|unknown|unrecognized|expired|missing|bad)\b.{0,40}session` +
	`|session.{0,80}\b(not?|invalid|unknown|expired|missing|required)\b` +
	`|session.{0,80}\b(terminated|closed|ended|gone|lost)\b` +
	`|\b(not|un|before|must|never)[a-z ]{0,12}initiali[sz]`)

// lost reports whether the answer to a message says that the server no longer knows the session,
// so that it has not processed the message. reply is the answer's JSON-RPC error, nil if there is
// none.
func (s sessionState) lost(m *message, status int, reply *document) bool {
	if s.id == "" || !s.worked {
		return false
	}
	var raw []byte
	if reply != nil {
		raw = reply.error
	}
	text, _ := unquote(member(raw, "message"))
	speaks := lostText().MatchString(text)
	switch status {
	case http.StatusNotFound:
		// MCP 2025-11-25, Transports, "Session Management", item 3. But a method that the server does
		// not know may be 404 as well.
		return !hasCode(raw, codeMethodNotFound) || speaks
	case http.StatusGone, http.StatusUnauthorized:
		// 401: rmcp up to 0.9 (without a challenge), FastMCP for TypeScript. Authorization has had
		// its turn and has no better token, see oauth.challenged.
		return true
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return reply == nil || speaks // in plain text: mark3labs/mcp-go, rmcp
	}
	// In a success it may be the error of a tool with sessions of its own, and processed.
	ordinary := status < 300 && (hasCode(raw, codeInvalidParams) ||
		bytes.Contains(bytes.ToLower(m.params), []byte("session")))
	return speaks && !ordinary
}

// renew opens a session in place of one that is lost, once for all the messages that find it out
// (MCP 2025-11-25, Transports, "Session Management", item 4), and once for each message.
func (s *session) renew(ctx context.Context, lost sessionState, a *attempts) error {
	a.renewed = true
	if err := s.renewing.take(ctx); err != nil {
		return err
	}
	defer s.renewing.give()
	if now := s.state(); now.generation != lost.generation {
		return now.failure // somebody did it, or tried it after this message had been sent
	}
	s.log.infof("%s lost the session: initializing again", s.server.Host)
	err := s.handshake.again(ctx, a.auth.noSignIn)
	if err != nil && ctx.Err() == nil {
		s.log.warnf("%v", err)
		s.mu.Lock()
		s.now.generation++
		s.now.failure = err
		s.mu.Unlock()
	}
	return err
}

// handshake is what the client said to open a session, to be said again for another one.
type handshake struct {
	ask        askFunc
	notify     func(context.Context, *message) error
	initialize atomic.Pointer[message] // the last that the server took; nil if there is none
}

var initialized, _, _ = parseMessage(
	[]byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`))

// again says what the client has said. unasked is for the case that nobody waits for it.
func (h *handshake) again(ctx context.Context, unasked bool) error {
	m := *h.initialize.Load()
	m.unasked, m.again = unasked, true
	answer, err := h.ask(ctx, &m, nil)
	if err == nil && answer.result == nil {
		err = rpcErrorOf(answer.error)
	}
	if err != nil {
		return fmt.Errorf("the session is lost and no other could be opened: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, deliveryWait)
	defer cancel()
	if err = h.notify(bounded, initialized); bounded.Err() != nil {
		return ctx.Err() // it is stuck, and must not hold up everything for good
	}
	return err
}

// end tells the server that the session is over. It may refuse.
func (s *session) end(ctx context.Context) {
	if before := s.replace(sessionState{}); before.id != "" {
		s.delete(ctx, before)
	}
}

func (s *session) delete(ctx context.Context, now sessionState) {
	req := s.request(ctx, http.MethodDelete, s.server, nil)
	now.set(req.Header)
	token := ""
	if s.auth != nil {
		token = s.auth.held() // no refresh and no sign-in for this
	}
	resp, err := s.do(req, token)
	if err != nil {
		s.log.debugf("end of the session: %v", networkError(s.server.Host, err))
		return
	}
	discard(resp)
}
