package main

// Revisions 2025-03-26 to 2025-11-25: the session and its id, the stream that
// is listened to, resuming a broken stream, initializing again when the server
// forgot the session, and the end of it. Nothing here concerns 2026-07-28.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	listenWait     = time.Second     // for the listening request to go out before the next message
	firstReconnect = time.Second     // to a stream that broke, where the server named no time
	maxReconnect   = time.Minute     // between attempts to listen
	maxResumes     = 5               // attempts in a row that bring nothing, for a stream with an open request
	steadyStream   = 5 * time.Second // a stream that lived so long was worth opening even if it brought nothing
	maxSessionID   = 4 << 10         // bytes
	longestRetry   = 5 * time.Minute // that a server may ask for before a reconnection
	// A server that asks for no pause at all would otherwise be asked in a loop.
	shortestRetry = 100 * time.Millisecond
)

// sessionState is what a message needs to know of the session it is sent in.
type sessionState struct {
	id         string // Mcp-Session-Id; "" when the server has no sessions
	version    string // as negotiated; "" before initialize is answered
	generation int    // counts initializations
	failures   int    // counts sessions that could not be opened anew
}

func (s sessionState) set(h http.Header) {
	if s.id != "" {
		h.Set("Mcp-Session-Id", s.id)
	}
	if s.version != "" {
		h.Set("Mcp-Protocol-Version", s.version)
	}
}

type session struct {
	renewing turn // to make the session anew

	mu          sync.Mutex // guards what follows
	now         sessionState
	initialize  *message // the client's own, to say it again
	initialized *message
	failure     error         // of the last attempt to open another session
	listening   chan struct{} // closed when the listening stream has ended; nil without one
	stop        context.CancelFunc
}

func (s *session) state() sessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// listener is closed when the stream that is listened to ends; nil if there is none.
func (s *session) listener() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listening == nil {
		return nil
	}
	return s.listening
}

// initializedBefore tells whether the client has opened a session.
func (s *session) initializedBefore() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.initialize != nil
}

// opening is the initialize by which the client opened a session; nil if it has not.
func (s *session) opening() *message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.initialize
}

// forget ends a session that the server does not serve, without a word to it.
func (s *session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	s.now = sessionState{generation: s.now.generation + 1, failures: s.now.failures}
}

// sessionOpened notes what the answer to initialize says, before the client sees it.
func (p *proxy) sessionOpened(m *message, id string, answer *document) {
	version, _ := unquote(member(answer.result, "protocolVersion"))
	s := &p.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop() // the stream of an earlier session
	}
	s.now = sessionState{validSessionID(id), validVersion(version), s.now.generation + 1, s.now.failures}
	if !isOwnID(m.id) {
		s.initialize = m
	}
}

// validSessionID refuses what must not be sent back in a header: only visible
// ASCII is allowed (MCP 2025-11-25, Transports, "Session Management").
func validSessionID(id string) string {
	for i := 0; i < len(id); i++ {
		if id[i] < 0x21 || id[i] > 0x7e {
			return ""
		}
	}
	if len(id) > maxSessionID {
		return ""
	}
	return id
}

// validEventID refuses what no header can hold (RFC 9110, section 5.5); a
// stream without an id is not resumed.
func validEventID(id string) string {
	if strings.IndexFunc(id, unicode.IsControl) >= 0 {
		return ""
	}
	return id
}

// validVersion refuses what a hostile server could smuggle into a header.
func validVersion(version string) string {
	if len(version) > 64 || !isToken(version) {
		return ""
	}
	return version
}

// sessionReady follows a delivered notifications/initialized: from here on the
// server may send messages of its own, so it is listened to. The request to
// listen goes out before the next message: what the server says to that one
// could come on this stream, and would be lost without it.
func (p *proxy) sessionReady(m *message) {
	s := &p.session
	ctx, stop := context.WithCancel(context.Background())
	s.mu.Lock()
	s.initialized = m
	if s.stop != nil {
		s.stop()
	}
	s.stop = stop
	s.listening = make(chan struct{})
	ended, now := s.listening, s.now
	s.mu.Unlock()

	sent := make(chan struct{})
	var once sync.Once
	asked := func() { once.Do(func() { close(sent) }) }
	p.routines.Add(1)
	go func() {
		defer p.routines.Done()
		defer close(ended)
		defer asked()
		defer stop()
		p.listen(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { asked() }}), now)
	}()
	timer := time.NewTimer(listenWait)
	defer timer.Stop()
	select {
	case <-sent:
	case <-timer.C:
	}
}

// cursor is where in a stream we are.
type cursor struct {
	id    string        // Last-Event-ID
	retry time.Duration // as the server asked; negative when it did not
	moves int           // events seen

	seen      int // moves when the stream was opened again last
	fruitless int // openings in a row that brought nothing
}

func (at *cursor) moved(e *event) {
	at.moves++
	if e.hasID {
		at.id = validEventID(e.id)
	}
	if e.retry >= 0 {
		at.retry = e.retry
	}
}

// wait is how long to wait before the nth attempt in a row that brings nothing.
func (at *cursor) wait(n int) time.Duration {
	wait := firstReconnect
	if at.retry >= 0 {
		wait = at.retry
	}
	wait = min(max(wait, shortestRetry), longestRetry)
	for ; n > 1 && wait < maxReconnect; n-- {
		wait = 2*wait + 100*time.Millisecond
	}
	return wait
}

// pause is how long to wait before the stream, which ended after it had lived
// for so long, is opened again.
func (at *cursor) pause(lived time.Duration) time.Duration {
	if at.moves > at.seen || lived >= steadyStream {
		at.fruitless = 0
	}
	at.seen = at.moves
	at.fruitless++
	return at.wait(at.fruitless)
}

// listen keeps the server's own stream open until ctx ends or the server says
// that it has none.
func (p *proxy) listen(ctx context.Context, sent sessionState) {
	at := cursor{retry: -1}
	for {
		began := time.Now()
		body, err := p.get(ctx, &at, sent)
		if err == nil {
			err = p.relayEvents(nil, body, &at)
		}
		if errors.Is(err, errNoStream) || ctx.Err() != nil {
			return
		}
		p.log.debugf("listening stream: %v", err)
		if !sleep(ctx, at.pause(time.Since(began))) {
			return
		}
	}
}

// errNoStream: the server refuses a stream; asking again is pointless.
var errNoStream = errors.New("the server offers no stream")

// get asks for a stream from where the last one broke.
func (p *proxy) get(ctx context.Context, at *cursor, sent sessionState) (io.ReadCloser, error) {
	a := attempts{method: "GET"}
	a.auth.noSignIn = true // what nobody asked for must not open a browser
	resp, err := p.exchange(ctx, &a, func() (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.server.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", eventStream)
		sent.set(req.Header)
		if at.id != "" {
			req.Header.Set("Last-Event-ID", at.id)
		}
		return req, nil
	})
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK && mediaType(resp) == eventStream:
		return resp.Body, nil
	case notNow(resp.StatusCode):
		discard(resp)
		return nil, fmt.Errorf("%s answered %d", p.server.Host, resp.StatusCode)
	}
	discard(resp)
	return nil, errNoStream
}

// notNow tells a refusal that may pass from one that stays: the server is out
// of order, or waits for a sign-in that a request will ask for.
func notNow(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented:
		return false
	}
	return status >= 500
}

// resume asks for the rest of a stream that ended before its answer, after it
// had lived for so long.
func (p *proxy) resume(ctx context.Context, at *cursor, sent sessionState, lived time.Duration) (io.ReadCloser, error) {
	for {
		pause := at.pause(lived)
		if at.fruitless > maxResumes {
			return nil, p.streamEnded()
		}
		if !sleep(ctx, pause) {
			return nil, ctx.Err()
		}
		body, err := p.get(ctx, at, sent)
		switch {
		case err == nil:
			return body, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, errNoStream):
			return nil, p.streamEnded()
		}
		lived = 0
	}
}

// sessionGone tells a forgotten session from a method that the server does not
// know: both are 404. Servers made after the examples of the TypeScript SDK,
// server-everything among them, say 400 and name the session in the error.
func sessionGone(resp *http.Response, reply *document, sent sessionState) bool {
	if sent.id == "" {
		return false
	}
	code, message := "", ""
	if reply != nil {
		code = string(member(reply.error, "code"))
		message, _ = unquote(member(reply.error, "message"))
	}
	switch resp.StatusCode {
	case http.StatusNotFound:
		return code != strconv.Itoa(codeMethodNotFound)
	case http.StatusBadRequest:
		return code == strconv.Itoa(codeTransport) && strings.Contains(strings.ToLower(message), "session")
	}
	return false
}

// renewSession opens a session in place of one that ended, once for all the
// messages that met its end (MCP 2025-11-25, Transports, "Session Management",
// item 4).
func (p *proxy) renewSession(ctx context.Context, ended sessionState) error {
	s := &p.session
	if err := s.renewing.take(ctx); err != nil {
		return err
	}
	defer s.renewing.give()
	s.mu.Lock()
	now, failure := s.now, s.failure
	s.mu.Unlock()
	if now.generation != ended.generation {
		return nil // somebody did it
	}
	if now.failures != ended.failures {
		return failure // somebody tried it after this message had been sent
	}
	err := p.initializeAgain(ctx)
	if err != nil && ctx.Err() == nil {
		s.mu.Lock()
		s.now.failures++
		s.failure = err
		s.mu.Unlock()
	}
	return err
}

// initializeAgain says again what the client said to open the session.
func (p *proxy) initializeAgain(ctx context.Context) error {
	s := &p.session
	s.mu.Lock()
	initialize, initialized := s.initialize, s.initialized
	s.mu.Unlock()
	if initialize == nil {
		return errors.New("the session ended, and there is no initialize to begin another with")
	}
	p.log.infof("%s ended the session: initializing again", p.server.Host)
	answer, err := p.ask(ctx, initialize, nil)
	if err != nil {
		return fmt.Errorf("the session ended and no other could be opened: %w", err)
	}
	if answer.result == nil {
		return errors.New("the session ended and the server refuses another")
	}
	if initialized == nil {
		return nil
	}
	return p.notifyAgain(ctx, initialized)
}

// notifyAgain delivers a notification that was delivered to an earlier session.
func (p *proxy) notifyAgain(ctx context.Context, m *message) error {
	if p.legacy.chosen() {
		_, err := p.legacyPost(ctx, m)
		return err
	}
	resp, _, err := p.post(ctx, m)
	if err != nil {
		return err
	}
	discard(resp)
	if resp.StatusCode >= 300 {
		return p.refusal(resp)
	}
	p.sessionReady(m)
	return nil
}

// endSession tells the server that the session is over. It may refuse.
func (p *proxy) endSession(ctx context.Context) {
	s := &p.session
	s.mu.Lock()
	now, stop := s.now, s.stop
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
	p.legacy.close()
	p.bridge.end()
	if now.id == "" {
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, p.server.String(), nil)
	if err != nil {
		return
	}
	now.set(req.Header)
	token := ""
	if p.auth != nil {
		token = p.auth.held() // no refresh and no sign-in for this
	}
	p.setHeaders(req, token)
	resp, err := p.client.Do(req)
	if err != nil {
		p.log.debugf("end of the session: %v", networkError(p.server.Host, err))
		return
	}
	discard(resp)
}
