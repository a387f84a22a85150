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

// wanted tells whether the connection must be opened before m: by the user's
// choice, or because it was there and broke.
func (l *legacy) wanted(m *message) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return (l.mode == "sse" || l.known) && m.version == "" && l.endpoint == nil
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

func (l *legacy) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop != nil {
		l.stop()
	}
}

// connectLegacy opens the connection for m. A connection that broke took its
// session with it, so the client's own initialize is said again.
func (p *proxy) connectLegacy(ctx context.Context, m *message) error {
	if isOwnID(m.id) {
		return nil // it is part of connecting
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
	s := &p.session
	s.mu.Lock()
	initialize, initialized := s.initialize, s.initialized
	s.mu.Unlock()
	if initialize == nil || m.method == "initialize" {
		return nil
	}
	p.log.infof("%s ended the connection: initializing again", p.server.Host)
	if _, err := p.ask(ctx, initialize); err != nil || initialized == nil {
		return err
	}
	return p.legacyNotify(ctx, initialized)
}

// openLegacy opens the stream and waits for the endpoint event.
func (p *proxy) openLegacy(ctx context.Context) error {
	stream, stop := context.WithCancel(context.Background())
	found := make(chan error, 1)
	ended := make(chan struct{})
	p.routines.Add(1)
	go func() {
		defer p.routines.Done()
		defer close(ended)
		defer stop()
		found <- p.listenLegacy(stream, stop, ended, found)
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
	l := &p.legacy
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ended == ended {
			l.endpoint = nil
		}
	}()
	events := newEventReader(resp.Body, maxMessage)
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
			endpoint, err := p.legacyEndpoint(string(e.data.bytes()))
			if err != nil {
				return err
			}
			l.mu.Lock()
			l.known, l.endpoint, l.ended, l.stop = true, endpoint, ended, stop
			l.mu.Unlock()
			select {
			case found <- nil:
			default: // named again
			}
		case "", "message":
			p.fromServer(nil, e.data)
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

func (p *proxy) legacyNotify(ctx context.Context, m *message) error {
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
