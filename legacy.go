package main

// Revision 2024-11-05, HTTP+SSE: one stream brings everything, an endpoint that it names takes
// everything.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const endpointWait = 10 * time.Second // for the stream, and then for its endpoint event

type legacy struct {
	*upstream
	handshake *handshake
	mode      string // --transport
	opening   turn
	known     atomic.Bool                // the server was found to be an old one
	now       atomic.Pointer[connection] // nil without one
}

// connection is a stream that is open, and the endpoint that it named.
type connection struct {
	endpoint *url.URL
	ended    <-chan struct{}
	stop     context.CancelCauseFunc
}

// chosen reports whether this is the way of all messages: by the user's choice, or because the
// server was found to know no other.
func (l *legacy) chosen() bool { return l.mode == "sse" || l.known.Load() }

// possible reports whether a refusal of the first POST may mean an old server: the specification
// names the statuses (2025-11-25, Transports, "Backwards Compatibility"). A modern message could
// not be carried anyway.
func (l *legacy) possible(m *message, refused *serverRefusal) bool {
	first := l.mode == "auto" && !l.chosen() && m.method == "initialize" && m.version == ""
	names := []int{http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed}
	return first && (refused.endpoint ||
		refused.reply == nil && slices.Contains(names, refused.status))
}

// end closes the connection; the next message opens another.
func (l *legacy) end(context.Context) {
	if conn := l.now.Swap(nil); conn != nil {
		conn.stop(errStopping)
	}
}

// connect opens the connection for m, if there is none. A connection that broke took its session
// with it, so the client's own initialize is said again.
func (l *legacy) connect(ctx context.Context, m *message) error {
	if l.now.Load() != nil {
		return nil
	}
	if m.again {
		return l.streamEnded() // it is part of connecting
	}
	if err := l.opening.take(ctx); err != nil {
		return err
	}
	defer l.opening.give()
	if l.now.Load() != nil {
		return nil
	}
	err := l.open(ctx)
	if err == nil && m.method != "initialize" && l.handshake.initialize.Load() != nil {
		if err = l.handshake.again(ctx, false); err != nil {
			l.end(ctx) // nobody may speak in a session that was not opened
		}
	}
	return err
}

// open opens the stream and waits for the endpoint event.
func (l *legacy) open(ctx context.Context) (err error) {
	stream, stop := context.WithCancelCause(context.Background())
	defer func() {
		if stream.Err() != nil {
			err = context.Cause(stream)
		}
		if err != nil {
			stop(err)
		}
	}()
	defer context.AfterFunc(ctx, func() { stop(ctx.Err()) })()
	late := time.AfterFunc(endpointWait, func() { stop(errors.New("the server named no endpoint")) })
	defer late.Stop()
	watched := httptrace.WithClientTrace(stream, &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { late.Reset(endpointWait) },
		GotFirstResponseByte: func() { late.Stop() }, // the user may need longer to sign in
	})
	resp, err := l.exchange(watched, &attempts{}, func() *http.Request {
		req := l.request(watched, http.MethodGet, l.server, nil)
		req.Header["Accept"] = eventsOnly
		return req
	})
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return l.refusal(resp).error
	case mediaType(resp) != eventStream:
		return l.badAnswer(resp.StatusCode, "with something that is no event stream")
	}
	late.Reset(endpointWait)
	events := newEventReader(resp.Body, maxMessage)
	warned := false
	next := func() (endpoint *url.URL, err error) { // what comes before it is passed on
		for {
			e, err := events.next()
			switch {
			case err != nil:
				return nil, l.streamEnded()
			case e.data == nil:
			case e.name == "endpoint":
				return l.endpointOf(string(e.data))
			case e.name == "message":
				if bad := l.fromServer(nil, newDocument(e.data)); bad != nil && !warned {
					warned = true
					l.log.warnf("%v", bad)
				}
			}
		}
	}
	endpoint, err := next()
	if err != nil {
		return err
	}
	conn := &connection{endpoint, stream.Done(), stop}
	l.known.Store(true)
	l.now.Store(conn)
	started := l.calls.start(func() {
		defer resp.Body.Close()
		for ended := error(nil); ended == nil; {
			_, ended = next()
		}
		l.now.CompareAndSwap(conn, nil)
		stop(l.streamEnded())
	})
	if !started {
		l.end(ctx)
	}
	return nil
}

// errEndpoint is what the user must know: there is an HTTP+SSE server.
var errEndpoint = errors.New("names an endpoint of another origin for its messages")

// endpointOf resolves what the endpoint event names. It takes the token and everything the client
// says, so it must be of the server's own origin.
func (l *legacy) endpointOf(raw string) (*url.URL, error) {
	endpoint, err := l.server.Parse(raw)
	if err != nil || !sameOrigin(l.server, endpoint) || endpoint.User != nil {
		err := fmt.Errorf("%s %w", l.server.Host, errEndpoint)
		if endpoint != nil && endpoint.Host != "" {
			err = fmt.Errorf("%w: %s", err, excerpt(endpoint.Scheme+"://"+endpoint.Host))
		}
		return nil, withHint(err, "if you trust it, give that server's address with --url; "+
			"else its operator must correct the public address that it is told")
	}
	// A blank would end the request's address; url.Parse leaves it in a query, and the URL parser of
	// browsers and Node encodes it.
	endpoint.RawQuery = strings.ReplaceAll(endpoint.RawQuery, " ", "%20")
	return endpoint, nil
}

// send posts a message to the endpoint; its answer comes on the stream, until ended is closed.
func (l *legacy) send(ctx context.Context, m *message) (ended <-chan struct{}, err error) {
	if err := l.connect(ctx, m); err != nil {
		return nil, err
	}
	conn := l.now.Load()
	if conn == nil {
		return nil, l.streamEnded()
	}
	resp, err := l.exchange(ctx, &attempts{}, func() *http.Request {
		return l.post(ctx, conn.endpoint, m)
	})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		discard(resp)
		return conn.ended, nil
	}
	refused := l.refusal(resp)
	if refused.reply != nil {
		return nil, refused
	}
	err = refused.error
	prefix := strings.TrimSuffix(path.Dir(l.server.Path), "/") + "/"
	if resp.StatusCode == http.StatusNotFound && !strings.HasPrefix(conn.endpoint.Path, prefix) {
		err = withHint(err, "the server says that messages go to %s, which is not below %s: its "+
			"operator must tell it the prefix under which it is reached", excerpt(conn.endpoint.Path),
			prefix)
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
		return rpcErrorf(codeMethodNotFound,
			"the server speaks revision 2024-11-05 only; open with initialize")
	}
	c.sent.Store(true)
	ended, err := l.send(ctx, c.m)
	if err != nil {
		return err
	}
	c.reached()
	return c.await(ctx, ended, l.streamEnded())
}
