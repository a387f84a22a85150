package main

// Revision 2024-11-05, HTTP+SSE: one stream brings everything, an endpoint
// that it names takes everything. Deleting this file ends the support for it.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const endpointWait = 10 * time.Second // for the endpoint event

// legacy is the connection to a server of revision 2024-11-05.
type legacy struct {
	mode    string // --transport
	opening turn

	mu       sync.Mutex // guards what follows
	known    bool       // the server was found to be an old one
	endpoint *url.URL   // nil until the server named it
	ended    chan struct{}
	stop     context.CancelFunc
}

// chosen tells whether this is the way of all messages: by the user's choice,
// or because the server was found to know no other.
func (l *legacy) chosen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mode == "sse" || l.known
}

// possible tells whether a refusal of the first POST may mean an old server:
// the specification names these statuses (2025-11-25, Transports, "Backwards
// Compatibility"). A modern message could not be carried anyway.
func (l *legacy) possible(m *message, status int) bool {
	refused := status == http.StatusBadRequest || status == http.StatusNotFound || status == http.StatusMethodNotAllowed
	return l.mode == "auto" && refused && m.method == "initialize" && m.version == ""
}

func (l *legacy) active() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endpoint != nil
}

// close ends the connection; the next message opens another.
func (l *legacy) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endpoint = nil
	if l.stop != nil {
		l.stop()
	}
}

// connectLegacy opens the connection for m, if there is none. A connection that
// broke took its session with it, so the client's own initialize is said again.
func (p *proxy) connectLegacy(ctx context.Context, m *message) error {
	if p.legacy.active() {
		return nil
	}
	if isOwnID(m.id) {
		return p.streamEnded() // it is part of connecting
	}
	if err := p.legacy.opening.take(ctx); err != nil {
		return err
	}
	defer p.legacy.opening.give()
	if p.legacy.active() {
		return nil
	}
	if err := p.openLegacy(ctx); err != nil {
		return err
	}
	if m.method == "initialize" || !p.session.initializedBefore() {
		return nil
	}
	err := p.initializeAgain(ctx)
	if err != nil {
		p.legacy.close() // nobody may speak in a session that was not opened
	}
	return err
}

// openLegacy opens the stream and waits for the endpoint event.
func (p *proxy) openLegacy(ctx context.Context) error {
	stream, stop := context.WithCancel(context.Background())
	found := make(chan error, 1) // whoever wants to know waits for the first
	ended := make(chan struct{})
	p.routines.Add(1)
	go func() {
		defer p.routines.Done()
		defer close(ended)
		defer stop()
		tell(found, p.listenLegacy(stream, stop, ended, found))
	}()
	timer := time.NewTimer(endpointWait)
	defer timer.Stop()
	var err error
	select {
	case err = <-found:
	case <-timer.C:
		err = errors.New("the server named no endpoint")
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		stop()
	}
	return err
}

func tell(found chan<- error, err error) {
	select {
	case found <- err:
	default:
	}
}

// listenLegacy reads the one stream until it ends; nil goes to found when the
// endpoint is known.
func (p *proxy) listenLegacy(ctx context.Context, stop context.CancelFunc, ended chan struct{}, found chan<- error) error {
	a := attempts{method: "GET"}
	resp, err := p.exchange(ctx, &a, func() (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.server.String(), nil)
		if err == nil {
			req.Header.Set("Accept", eventStream)
		}
		return req, err
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return p.refusal(resp)
	}
	if mediaType(resp) != eventStream {
		return p.badAnswer(resp.StatusCode, "with something that is no event stream")
	}
	l := &p.legacy
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ended == ended {
			l.endpoint = nil
		}
	}()
	events := newEventReader(resp.Body, maxMessage)
	warned := false
	for {
		e, err := events.next()
		if err != nil {
			return p.streamEnded()
		}
		if e.data == nil {
			continue
		}
		switch e.name {
		case "endpoint":
			endpoint, err := p.legacyEndpoint(strings.TrimSpace(string(e.data)))
			if err != nil {
				return err
			}
			l.mu.Lock()
			l.known, l.endpoint, l.ended, l.stop = true, endpoint, ended, stop
			l.mu.Unlock()
			tell(found, nil)
		case "message":
			if bad := p.fromServer(nil, newDocument(e.data)); bad != nil && !warned {
				warned = true
				p.log.warnf("%v", bad)
			}
		}
	}
}

// legacyEndpoint resolves what the endpoint event names. It takes the token
// and everything the client says, so it must be of the server's own origin.
func (p *proxy) legacyEndpoint(raw string) (*url.URL, error) {
	endpoint, err := p.server.Parse(raw)
	if err != nil || !sameOrigin(p.server, endpoint) || endpoint.User != nil {
		return nil, fmt.Errorf("%s names an endpoint of another origin", p.server.Host)
	}
	// A blank would end the request's address; url.Parse leaves it in a query, and
	// the URL parser of browsers and Node encodes it.
	endpoint.RawQuery = strings.ReplaceAll(endpoint.RawQuery, " ", "%20")
	return endpoint, nil
}

// legacyPost sends a message to the endpoint; its answer comes on the stream.
func (p *proxy) legacyPost(ctx context.Context, m *message) (ended chan struct{}, err error) {
	l := &p.legacy
	l.mu.Lock()
	endpoint, ended := l.endpoint, l.ended
	l.mu.Unlock()
	if endpoint == nil {
		return nil, p.streamEnded()
	}
	resp, err := p.exchange(ctx, &attempts{method: m.method}, func() (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.String(), bytes.NewReader(m.raw))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Accept", "application/json, text/event-stream")
		}
		return req, err
	})
	if err != nil {
		return nil, err
	}
	discard(resp)
	if resp.StatusCode >= 300 {
		return nil, p.refusal(resp)
	}
	return ended, nil
}

// legacyNotify delivers a notification or a response.
func (p *proxy) legacyNotify(ctx context.Context, m *message) error {
	if err := p.connectLegacy(ctx, m); err != nil {
		return err
	}
	_, err := p.legacyPost(ctx, m)
	if err == nil && m.method == "notifications/initialized" {
		p.session.mu.Lock()
		p.session.initialized = m
		p.session.mu.Unlock()
	}
	return err
}

// legacyCall sends a request and waits for its answer on the stream.
func (p *proxy) legacyCall(ctx context.Context, c *call) error {
	if c.m.version != "" {
		// Revision 2024-11-05 could not even refuse it in a way that a client understands.
		return &rpcError{Code: codeMethodNotFound, Message: "mcp-proxy: the server speaks revision 2024-11-05 only; open with initialize"}
	}
	if err := p.connectLegacy(ctx, c.m); err != nil {
		return err
	}
	c.sent.Store(true)
	ended, err := p.legacyPost(ctx, c.m)
	if err != nil {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ended:
		return p.streamEnded()
	case <-ctx.Done():
		return ctx.Err()
	}
}
