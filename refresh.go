package main

// Keeping the token good: when it is to be renewed, once for all goroutines and
// processes that want it. What the token endpoint is asked and says is oauth.go's.

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"
)

const (
	maxRefreshMargin = time.Minute      // before expiry
	refreshTime      = 2 * tokenTimeout // for all of a refresh, the wait for another process's included
	refreshPause     = 10 * time.Second // from a failure to the next attempt, as long as the token is good
)

// token is the access token to send, "" when there is none yet: a server that
// needs one will say so. One that has expired is refreshed first; one that is
// about to expire is sent, and nobody waits for its successor.
func (o *oauth) token(ctx context.Context) (string, error) {
	c, now := o.current(), time.Now()
	t := c.Token
	if c.renewal() == "" || !t.due(now) {
		return t.Access, nil
	}
	if now.Before(t.Expiry) {
		o.refreshAhead(ctx, t.Access)
		return t.Access, nil
	}
	err := o.refresh(ctx, t.Access)
	switch {
	case err == nil:
		return o.held(), nil
	case isRejected(err):
		return t.Access, nil // the server's challenge shall say what to ask for
	}
	return "", err
}

// due tells whether a token is to be refreshed: a tenth of its life before it
// expires, at most a minute. A fixed margin would refresh a token that lives
// for 30 s on every call.
func (t token) due(now time.Time) bool {
	if t.Access == "" || t.Expiry.IsZero() {
		return false
	}
	margin := t.Expiry.Sub(t.Obtained) / 10
	if margin > maxRefreshMargin || margin < 0 {
		margin = maxRefreshMargin
	}
	return !now.Before(t.Expiry.Add(-margin))
}

// refresh replaces the token used by a new one, once for all goroutines and
// processes that want it: a rotated refresh token used twice would revoke the
// whole grant (OAuth 2.1, section 4.3.1). Those who wait together share one
// failure: a token endpoint that hangs is not waited for by one after the other.
func (o *oauth) refresh(ctx context.Context, used string) error {
	asked := time.Now()
	if err := o.refreshing.take(ctx); err != nil {
		return err
	}
	if o.current().Token.Access != used {
		o.refreshing.give()
		return nil
	}
	if o.refreshFailedAt.After(asked) {
		defer o.refreshing.give()
		return o.refreshFailure
	}
	select {
	case err := <-o.startRefresh(ctx, used):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refreshAhead starts a refresh unless one is going on or failed a moment ago.
func (o *oauth) refreshAhead(ctx context.Context, used string) {
	select {
	case o.refreshing <- struct{}{}:
	default:
		return
	}
	if time.Since(o.refreshFailedAt) < refreshPause || o.current().Token.Access != used {
		o.refreshing.give()
		return
	}
	o.startRefresh(ctx, used)
}

// startRefresh needs the turn and gives it back. What has begun goes on when
// nobody waits for it any more: the authorization server may have taken the
// refresh token back already, and its successor would be lost.
func (o *oauth) startRefresh(ctx context.Context, used string) <-chan error {
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTime)
	go func() {
		defer cancel()
		defer o.refreshing.give()
		err := o.refreshNow(ctx, used)
		if err != nil {
			o.refreshFailure, o.refreshFailedAt = err, time.Now()
		}
		done <- err
	}()
	return done
}

// settle waits for the refresh that is going on, so that its outcome is stored.
func (o *oauth) settle(ctx context.Context) {
	if o != nil && o.refreshing.take(ctx) == nil {
		o.refreshing.give()
	}
}

func (o *oauth) refreshNow(ctx context.Context, used string) error {
	unlock, err := o.store.lock(ctx, o.key, lockRefresh)
	if err != nil {
		return fmt.Errorf("wait for another process's refresh: %w", err)
	}
	defer unlock()
	c := *o.reread()
	if c.Token.Access != used && !c.Token.due(time.Now()) {
		return nil // another process did it
	}
	ctx, span := o.trace.start(ctx, "oauth refresh", spanInternal)
	defer span.end()
	t, err := o.refreshed(ctx, &c)
	if err != nil {
		span.fail(errorType(err))
		if isRejected(err) {
			o.rejected = c.renewal()
		} else if t.Refresh != "" {
			c.Token.Refresh = t.Refresh // of an answer without an access token that we can use
			_ = o.keep(&c)
		}
		if isUnknownClient(err) && c.Client.Source == sourceRegistered {
			// The authorization server lost our registration: with the old id the
			// user would only see its error page, which never comes back to us.
			c.Client.Doubtful = true
			_ = o.keep(&c)
		}
		return err
	}
	c.Token = t
	_ = o.keep(&c)
	o.log.infof("refreshed the token for %s", o.cfg.server.Host)
	return nil
}

// renewal is what tells a token that can be renewed without a user from all
// others: the refresh token, or with client credentials the token itself. ""
// where there is no way.
func (c *credentials) renewal() string {
	if c.Grant == grantClientCredentials {
		return c.Token.Access
	}
	return c.Token.Refresh
}

func (o *oauth) refreshed(ctx context.Context, c *credentials) (token, error) {
	if c.renewal() == "" || c.TokenEndpoint == "" || c.renewal() == o.rejected {
		return token{}, &tokenError{Code: "invalid_grant"}
	}
	if c.Grant == grantClientCredentials {
		return o.machineToken(ctx, c)
	}
	form := url.Values{"grant_type": {grantRefresh}, "refresh_token": {c.Token.Refresh}}
	addResource(form, c.Resource)
	t, err := o.refreshedByScope(ctx, c, form)
	if err != nil {
		return t, err
	}
	if t.Refresh == "" {
		t.Refresh = c.Token.Refresh // RFC 6749, section 6: it stays when none is sent, as by Google
	}
	if t.Scope == "" {
		t.Scope = c.Token.Scope
	}
	return t, nil
}

// refreshedByScope sends no scope, and where that is refused once more with the
// one that was asked for: Entra ID wants it (AADSTS90009), others refuse it. What
// worked is remembered with the credentials.
func (o *oauth) refreshedByScope(ctx context.Context, c *credentials, form url.Values) (token, error) {
	attempt := func(withScope bool) (token, error) {
		form.Del("scope")
		if withScope {
			form.Set("scope", c.scope())
		}
		return o.tokenWithRetry(ctx, c, form)
	}
	t, err := attempt(c.ScopeAtRefresh)
	var refused *tokenError
	if c.scope() == "" || !errors.As(err, &refused) || refused.Code != "invalid_request" && refused.Code != "invalid_scope" {
		return t, err
	}
	again, second := attempt(!c.ScopeAtRefresh)
	if second != nil && isRejected(second) {
		return t, err // the way that is usual: its reason is the one to mend
	}
	c.ScopeAtRefresh = !c.ScopeAtRefresh
	return again, second
}
