package main

// One HTTP exchange with the MCP server: the token, the user's headers,
// overload, connections refused. It knows nothing of what is exchanged.

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	maxRetryAfter    = 60 * time.Second // the longest wait that a server may ask for
	maxSends         = 4                // of one message, for overload and refused connections
	firstBackoff     = 250 * time.Millisecond
	maxDiscardedBody = 64 << 10               // bytes
	discardWait      = 250 * time.Millisecond // for the end of a body that nobody needs
)

// attempts bounds what one message may cause.
type attempts struct {
	method string
	sends  int
	auth   authAttempts
}

// exchange sends a request, made anew for every attempt, until it is neither
// a matter of authorization nor of overload. The caller closes the body.
func (p *proxy) exchange(ctx context.Context, a *attempts, build func() (*http.Request, error)) (*http.Response, error) {
	for {
		token, err := p.token(ctx)
		if err != nil {
			return nil, err
		}
		req, err := build()
		if err != nil {
			return nil, err
		}
		p.setHeaders(req, token)
		resp, err := p.client.Do(req)
		a.sends++
		if err == nil && p.auth != nil && resp.StatusCode != http.StatusUnauthorized &&
			resp.StatusCode != http.StatusForbidden && resp.StatusCode < 500 {
			p.auth.took(token)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			if !notSent(err) || a.sends >= maxSends || !sleep(ctx, backoff(a.sends)) {
				return nil, networkError(p.server.Host, err)
			}
		case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
			again, err := p.challenged(ctx, resp, token, &a.auth)
			if err != nil {
				discard(resp)
				return nil, err
			}
			if !again {
				return resp, nil
			}
			discard(resp)
		default:
			wait, ok := retryAfter(resp, time.Now())
			if !ok || a.sends >= maxSends {
				return resp, nil
			}
			discard(resp)
			p.log.infof("%s answered %d, trying again in %v", p.server.Host, resp.StatusCode, wait)
			if !sleep(ctx, wait) {
				return nil, ctx.Err()
			}
		}
	}
}

func (p *proxy) token(ctx context.Context) (string, error) {
	if p.auth == nil {
		return "", nil
	}
	return p.auth.token(ctx)
}

func (p *proxy) challenged(ctx context.Context, resp *http.Response, token string, a *authAttempts) (bool, error) {
	if p.auth == nil {
		return false, nil
	}
	return p.auth.challenged(ctx, resp, token, a)
}

func (p *proxy) setHeaders(req *http.Request, token string) {
	for name, values := range p.headers {
		req.Header[name] = values
	}
	if token != "" {
		// RFC 6750, section 2.1: in the header, never in the URL.
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", userAgent())
	}
}

func backoff(attempt int) time.Duration { return firstBackoff << (attempt - 1) }

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retryAfter is how long a server that is overloaded asks to wait (RFC 9110,
// section 10.2.3: seconds or a date); false when it does not, or asks too much.
func retryAfter(resp *http.Response, now time.Time) (time.Duration, bool) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	value := strings.TrimSpace(resp.Header.Get("Retry-After"))
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	} else {
		return 0, false
	}
	if wait < firstBackoff {
		wait = firstBackoff
	}
	return wait, wait <= maxRetryAfter
}

// discard reads what little may be left, so that the connection can be used
// again. A body that does not end is given up: what waits for this must not
// wait for ever.
func discard(resp *http.Response) {
	if resp.ContentLength != 0 {
		defer hangUp(resp.Body, discardWait).Stop()
		io.CopyN(io.Discard, resp.Body, maxDiscardedBody)
	}
	resp.Body.Close()
}

// hangUp closes a body, under whoever reads it, when its time is over.
func hangUp(body io.Closer, after time.Duration) *time.Timer {
	return time.AfterFunc(after, func() { body.Close() })
}
