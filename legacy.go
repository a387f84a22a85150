package main

// Revision 2024-11-05, HTTP+SSE: one stream brings everything, an endpoint that it names takes
// everything.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"
)

const endpointWait = 10 * time.Second // for the endpoint event

type legacy struct {
	*upstream
	handshake *handshake
	mode      string // --transport
	opening   turn

	mu       sync.Mutex // guards what follows
	known    bool       // the server was found to be an old one
	endpoint *url.URL   // nil until the server named it
	ended    chan struct{}
	stop     context.CancelFunc
}

// chosen reports whether this is the way of all messages: by the user's choice, or because the
// server was found to know no other.
func (l *legacy) chosen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mode == "sse" || l.known
}

// possible reports whether a refusal of the first POST may mean an old server: the specification
// names the statuses (2025-11-25, Transports, "Backwards Compatibility"). A modern message could
// not be carried anyway.
func (l *legacy) possible(m *message, refused *serverRefusal) bool {
	first := l.mode == "auto" && !l.chosen() && m.method == "initialize" && m.version == ""
	switch refused.status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
		return first && refused.reply == nil
	}
	return first && refused.endpoint
}

func (l *legacy) active() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endpoint != nil
}

// end closes the connection; the next message opens another.
func (l *legacy) end(context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endpoint = nil
	if l.stop != nil {
		l.stop()
	}
}

// connect opens the connection for m, if there is none. A connection that broke took its session
// with it, so the client's own initialize is said again.
func (l *legacy) connect(ctx context.Context, m *message) error {
	if l.active() {
		return nil
	}
	if m.again {
		return l.streamEnded() // it is part of connecting
	}
	if err := l.opening.take(ctx); err != nil {
		return err
	}
	defer l.opening.give()
	if l.active() {
		return nil
	}
	if err := l.open(ctx); err != nil {
		return err
	}
	if m.method == "initialize" || l.handshake.initialize.Load() == nil {
		return nil
	}
	err := l.handshake.again(ctx, false)
	if err != nil {
		l.end(ctx) // nobody may speak in a session that was not opened
	}
	return err
}

func (l *legacy) streamEnded() error { return fmt.Errorf("%s %w", l.server.Host, errStreamEnded) }

// open opens the stream and waits for the endpoint event.
func (l *legacy) open(ctx context.Context) error {
	stream, stop := context.WithCancel(context.Background())
	found := make(chan error, 1) // whoever wants to know waits for the first
	ended := make(chan struct{})
	started := l.calls.start(func() {
		defer close(ended)
		defer stop()
		tell(found, l.read(stream, stop, ended, found))
	})
	if !started {
		stop()
		return errStopping
	}
	timer := time.NewTimer(endpointWait)
	defer timer.Stop()
	var err error
	for {
		select {
		case err = <-found:
		case <-timer.C:
			if l.auth.isSigningIn() { // the user may need longer
				timer.Reset(endpointWait)
				continue
			}
			err = errors.New("the server named no endpoint")
		case <-ctx.Done():
			err = ctx.Err()
		}
		break
	}
	if err != nil {
		stop()
		<-ended // or it could still be taken for the connection
	}
	return err
}

func tell(found chan<- error, err error) {
	select {
	case found <- err:
	default:
	}
}

// read reads the one stream until it ends; nil goes to found when the endpoint is known.
func (l *legacy) read(
	ctx context.Context, stop context.CancelFunc, ended chan struct{}, found chan<- error,
) error {
	resp, err := l.exchange(ctx, &attempts{}, func() *http.Request {
		req := l.request(ctx, http.MethodGet, l.server, nil)
		req.Header["Accept"] = eventsOnly
		return req
	})
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return l.refusal(resp).error
	}
	defer resp.Body.Close()
	if mediaType(resp) != eventStream {
		return l.badAnswer(resp.StatusCode, "with something that is no event stream")
	}
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
			return l.streamEnded()
		}
		if e.data == nil {
			continue
		}
		switch e.name {
		case "endpoint":
			endpoint, err := l.endpointOf(string(e.data))
			if err != nil {
				return err
			}
			l.mu.Lock()
			l.known, l.endpoint, l.ended, l.stop = true, endpoint, ended, stop
			l.mu.Unlock()
			tell(found, nil)
		case "message":
			if bad := l.fromServer(nil, newDocument(e.data)); bad != nil && !warned {
				warned = true
				l.log.warnf("%v", bad)
			}
		}
	}
}

// badEndpoint is what the user must know: there is an HTTP+SSE server.
type badEndpoint struct{ error }

func (b badEndpoint) Unwrap() error { return b.error }

// endpointOf resolves what the endpoint event names. It takes the token and everything the client
// says, so it must be of the server's own origin.
func (l *legacy) endpointOf(raw string) (*url.URL, error) {
	endpoint, err := l.server.Parse(raw)
	if err != nil || !sameOrigin(l.server, endpoint) || endpoint.User != nil {
		err := fmt.Errorf("%s names an endpoint of another origin for its messages", l.server.Host)
		if endpoint != nil && endpoint.Host != "" {
			err = fmt.Errorf("%w: %s", err, excerpt(endpoint.Scheme+"://"+endpoint.Host))
		}
		return nil, badEndpoint{withHint(err, "if you trust it, give that server's address with --url; "+
			"else its operator must correct the public address that it is told")}
	}
	// A blank would end the request's address; url.Parse leaves it in a query, and the URL parser of
	// browsers and Node encodes it.
	endpoint.RawQuery = strings.ReplaceAll(endpoint.RawQuery, " ", "%20")
	return endpoint, nil
}

// send posts a message to the endpoint; its answer comes on the stream, until ended is closed.
func (l *legacy) send(ctx context.Context, m *message) (ended chan struct{}, err error) {
	if err := l.connect(ctx, m); err != nil {
		return nil, err
	}
	l.mu.Lock()
	endpoint, ended := l.endpoint, l.ended
	l.mu.Unlock()
	if endpoint == nil {
		return nil, l.streamEnded()
	}
	resp, err := l.exchange(ctx, &attempts{}, func() *http.Request { return l.post(ctx, endpoint, m) })
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		discard(resp)
		return ended, nil
	}
	refused := l.refusal(resp)
	if refused.reply != nil {
		return nil, refused
	}
	err = refused.error
	prefix := strings.TrimSuffix(path.Dir(l.server.Path), "/") + "/"
	if resp.StatusCode == http.StatusNotFound && !strings.HasPrefix(endpoint.Path, prefix) {
		err = withHint(err, "the server says that messages go to %s, which is not below %s: its "+
			"operator must tell it the prefix under which it is reached", excerpt(endpoint.Path), prefix)
	}
	return nil, err
}

func (l *legacy) notify(ctx context.Context, m *message) error {
	_, err := l.send(ctx, m)
	return err
}

func (l *legacy) call(ctx context.Context, c *call) error {
	if c.m.version != "" {
		// Revision 2024-11-05 could not even refuse it in a way that a client understands.
		text := "mcp-proxy: the server speaks revision 2024-11-05 only; open with initialize"
		return &rpcError{Code: codeMethodNotFound, Message: text}
	}
	c.sent.Store(true)
	ended, err := l.send(ctx, c.m)
	if err != nil {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ended:
		return l.streamEnded()
	case <-ctx.Done():
		return ctx.Err()
	}
}
