package main

// A valid access token for this server: when it is refreshed, what a 401 or 403 about it leads to,
// and what is not tried again. How a token is asked for is in token.go, how a user signs in in
// signin.go, and which of several processes leads the sign-in in detach.go.

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxStepUps        = 2                // per message
	maxOtherTokens    = 3                // tokens of other processes that a message tries
	maxRefreshMargin  = time.Minute      // before expiry
	refreshTime       = 2 * postTimeout  // for all of a refresh, the wait for other processes included
	refreshPause      = 10 * time.Second // from a failure to the next attempt, while the token is good
	retryPause        = time.Minute      // after new tokens that were refused, and lasting failures
	sourceGiven       = "given"
	sourceDocument    = "metadata-document"
	sourceRegistered  = "registered"
	insufficientScope = "insufficient_scope"
)

// authError means that nobody is signed in and that trying again alone will not help.
type authError struct{ error }

func (e authError) Unwrap() error { return e.error }

func authErrorf(format string, args ...any) error { return authError{fmt.Errorf(format, args...)} }

type oauth struct {
	cfg      *config
	key      storeKey
	store    *store
	log      *logger
	trace    *tracer
	discover *discoverer

	refreshing      turn      // one refresh at a time in this process
	rejected        string    // the renewal that the server rejected; guarded by refreshing
	refreshFailure  error     // of the last refresh that failed; guarded by refreshing
	refreshFailedAt time.Time // guarded by refreshing

	signingIn turn          // one sign-in at a time; the token may have to be refreshed meanwhile
	failure   error         // of the last sign-in; guarded by signingIn
	failedAt  time.Time     // guarded by signingIn
	leaving   chan struct{} // closed when nobody waits for a sign-in any more
	handsOver bool          // others wait for the token: one that cannot be stored is of no use
	lingering *callback     // of a sign-in that has ended
	led       loginState    // of the sign-in that was led last: if it cannot be stored, limits hold

	// Called when the user is shown where to sign in, with where a browser comes back to (nil with a
	// device code), and when that is over.
	shown func(redirect *url.URL)
	asked func()

	// Held from reading or writing the file to setting cached: else what was read before a refresh
	// could replace what came after it.
	storing sync.Mutex
	unsaved credentials // what the store held when cached could not be saved; guarded by storing
	cached  atomic.Pointer[credentials]

	accepted  atomic.Value // string: the last token that the server took
	refusedAt atomic.Value // time.Time: when it last refused a message whatever token it had
}

func newOAuth(c *config, st *store, client *http.Client, log *logger, trace *tracer) *oauth {
	return &oauth{
		cfg: c, key: newStoreKey(c), store: st, log: log, trace: trace,
		discover:   &discoverer{config: c, http: client, log: log},
		refreshing: make(turn, 1), signingIn: make(turn, 1), leaving: make(chan struct{}),
		shown: func(*url.URL) {}, asked: func() {},
	}
}

func newStoreKey(c *config) storeKey {
	k := storeKey{
		Server: c.server.String(), Profile: c.profile, GivenScope: c.scope, GivenResource: c.resource,
	}
	if c.unattended() {
		k.Grant = c.grant
	}
	return k
}

// current returns the credentials as this process knows them; never nil.
func (o *oauth) current() *credentials {
	if c := o.cached.Load(); c != nil {
		return c
	}
	return o.reread()
}

// reread returns what another process may have stored since.
func (o *oauth) reread() *credentials {
	o.storing.Lock()
	defer o.storing.Unlock()
	c := o.load()
	if o.cached.Load() == nil || c.Client.ID != "" && *c != o.unsaved {
		o.cached.Store(c)
	}
	return o.cached.Load()
}

func (o *oauth) load() *credentials {
	c := o.store.load(o.key)
	if c == nil || !o.usable(c) {
		return &credentials{}
	}
	if c.Client.AuthMethod == methodPrivateKey && o.cfg.clientID != "" && o.cfg.clientSecret != "" {
		c.Token = token{} // it cannot be renewed: the client has a secret now instead of the key
	}
	return c
}

// usable refuses the token of another client: another --client-id means another identity.
func (o *oauth) usable(c *credentials) bool {
	return o.cfg.clientID == "" || c.Client.Source != sourceGiven || c.Client.ID == o.cfg.clientID
}

// keep makes c the credentials of all processes or, after an error, of this one. It is stored
// before it is used: a process killed in between would lose what the authorization server gives
// once.
func (o *oauth) keep(c *credentials) error {
	o.storing.Lock()
	defer o.storing.Unlock()
	err := o.store.save(o.key, c) // which warns
	if o.unsaved = (credentials{}); err != nil {
		o.unsaved = *o.load() // older than c until it changes
	}
	o.cached.Store(c)
	return err
}

// held is the token as it is, without any network.
func (o *oauth) held() string { return o.current().Token.Access }

// stored is the token as the store has it by now.
func (o *oauth) stored() string { return o.reread().Token.Access }

// tokenState is what people may be told of a token. It is usable if the server can be used without
// a user.
type tokenState struct{ isThere, isOver, isUsable, hasRefresh bool }

func (c *credentials) state(now time.Time) tokenState {
	isThere, isOver := c.Token.Access != "", !c.Token.Expiry.IsZero() && now.After(c.Token.Expiry)
	isUsable := isThere && (!isOver || c.renewal() != "")
	return tokenState{isThere, isOver, isUsable, c.Token.Refresh != ""}
}

// hasOwnToken reports whether the user gives an Authorization header, which turns OAuth off.
func (c *config) hasOwnToken() bool { return c.headers.Get("Authorization") != "" }

// withToken is the configuration as if the user had given the token: it is not refreshed.
func (c *config) withToken(from *credentials) *config {
	own := *c
	own.headers = own.headers.Clone()
	own.headers.Set("Authorization", "Bearer "+from.Token.Access)
	return &own
}

// token returns the access token to send, "" if there is none yet: a server that needs one will say
// so. One that has expired is refreshed first; one that is about to expire is sent, and no message
// waits for its successor.
func (o *oauth) token(ctx context.Context) (string, error) {
	c, now := o.current(), time.Now()
	t := c.Token
	switch {
	case c.renewal() == "" || !t.due(now):
		return t.Access, nil
	case now.Before(t.Expiry):
		select {
		case o.refreshing <- struct{}{}:
			o.refreshInTurn(ctx, t.Access, nil, now.Add(-refreshPause))
		default: // a refresh is going on
		}
		return t.Access, nil
	}
	err := o.refresh(ctx, t.Access, nil)
	if err == nil || isRejected(err) { // then the server's challenge says what to ask for
		return o.held(), nil
	}
	return "", err
}

// due reports whether a token is to be refreshed: a tenth of its life before it expires, at most a
// minute. A fixed margin would refresh a token that lives for 30 s on every call.
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

// hasGivenUp reports whether new tokens were of no use a moment ago.
func (o *oauth) hasGivenUp() bool {
	at, _ := o.refusedAt.Load().(time.Time)
	return time.Since(at) < retryPause
}

// authAttempts is what one message has caused so far.
type authAttempts struct {
	noSignIn    bool // nobody waits for this message: no browser for it
	inSession   bool // it is sent in a session, which the server may have lost
	refreshed   bool
	signedIn    bool
	stepUps     int
	otherTokens int
}

// challenged acts on a 401 or 403 about the token used. It returns true if the message is to be
// sent again; false without an error if the server's answer stands.
func (o *oauth) challenged(
	ctx context.Context, resp *http.Response, used string, a *authAttempts,
) (bool, error) {
	ch, ours := parseChallenge(resp.Header)
	ch.Scope = boundedScope(ch.Scope, "in the challenge of "+o.cfg.server.Host, o.log)
	forbidden, machine := resp.StatusCode == http.StatusForbidden, o.cfg.unattended()
	isLost := a.inSession && resp.Header.Get("WWW-Authenticate") == "" // sessionState.lost
	isAboutScope := ch.Error == insufficientScope && ch.Scope != ""
	if !ours || !forbidden && isLost || forbidden && !isAboutScope {
		return false, nil
	}
	now := o.reread()
	switch {
	case now.Token.Access != used && now.Token.Access != "" && a.otherTokens < maxOtherTokens:
		a.otherTokens++
		return true, nil
	case !forbidden:
	case a.stepUps >= maxStepUps:
		o.refusedAt.Store(time.Now())
		return false, nil
	case a.noSignIn, o.hasGivenUp(), used != "" && withoutScope(ch.Scope, now.RequestedScope) == "":
		return false, nil // what was asked for already was not granted
	default:
		// The scopes that a request needs beyond those asked for before (MCP 2026-07-28,
		// Authorization, "Step-Up Authorization Flow").
		a.stepUps++
		if machine {
			return true, o.explainRefusal(o.refresh(ctx, used, &ch))
		}
		return true, o.signIn(ctx, ch, used)
	}
	revoked := false
	if !a.refreshed && !o.hasGivenUp() && (machine || used != "" && now.renewal() != "") {
		a.refreshed = true
		err := o.refresh(ctx, used, &ch)
		if err == nil {
			return true, nil
		}
		if revoked = isRejected(err); !revoked || machine {
			return false, o.explainRefusal(err)
		}
	}
	// No browser for a good token that is refused because the session is lost (FastMCP for
	// TypeScript): see sessionState.lost.
	good := !revoked && (a.refreshed || used != "" && time.Now().Before(o.current().Token.Expiry))
	switch {
	case a.noSignIn, a.inSession && good:
		return false, nil
	case machine || a.signedIn || !o.maySignIn(ch, used, revoked):
		o.refusedAt.Store(time.Now())
		err := authErrorf("%s answers 401 to the token that its authorization server has just given",
			o.cfg.server.Host)
		return false, withHint(err, "the two disagree, about the resource or the scope: try --resource "+
			"or --scope, or tell the server's operator; the next sign-in is possible in a minute")
	}
	a.signedIn = true
	return true, o.signIn(ctx, ch, used)
}

// maySignIn refuses to ask the user again right after a sign-in whose token the server refused: the
// next one would be refused as well. revoked says that the authorization server has revoked the
// refresh token of used: then another process's sign-in proves nothing.
func (o *oauth) maySignIn(ch challenge, used string, revoked bool) bool {
	now, last := o.current(), o.store.loadLogin(o.key)
	switch {
	case used == "" || used != now.Token.Access:
		return true
	case o.hasGivenUp():
		return false
	case used == o.accepted.Load(),
		ch.Error == insufficientScope && withoutScope(ch.Scope, now.RequestedScope) != "":
		return true
	}
	since := time.Since(last.Ended)
	return revoked || last.Error != "" || since < 0 || since >= retryPause
}

// refresh replaces the token used by a new one, once for all goroutines and processes that want it:
// a rotated refresh token used twice would revoke the whole grant (OAuth 2.1, section 4.3.1).
// Callers that wait together share one failure: a token endpoint that hangs is not waited for by
// one after the other. A machine's token is asked for where the challenge leads to, if there is
// one.
func (o *oauth) refresh(ctx context.Context, used string, ch *challenge) error {
	asked := time.Now()
	if err := o.refreshing.take(ctx); err != nil {
		return err
	}
	select {
	case err := <-o.refreshInTurn(ctx, used, ch, asked):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refreshInTurn needs the turn and gives it back. It shares a failure that came after asked, and
// goes on when nobody waits for it any more: the authorization server may have revoked the refresh
// token already, and its successor would be lost.
func (o *oauth) refreshInTurn(
	ctx context.Context, used string, ch *challenge, asked time.Time,
) <-chan error {
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTime)
	go func() {
		defer cancel()
		defer o.refreshing.give()
		lasts := o.cfg.unattended() && isLasting(o.refreshFailure) &&
			time.Since(o.refreshFailedAt) < retryPause
		switch now := o.held(); {
		case now != used && now != "":
			done <- nil
		case lasts || o.refreshFailedAt.After(asked):
			done <- o.refreshFailure
		default:
			err := o.refreshNow(ctx, used, ch)
			if err != nil {
				o.refreshFailure, o.refreshFailedAt = err, time.Now()
			}
			done <- err
		}
	}()
	return done
}

// awaitRefresh waits for the refresh that is going on, so that its outcome is stored.
func (o *oauth) awaitRefresh(ctx context.Context) {
	if o != nil && o.refreshing.take(ctx) == nil {
		o.refreshing.give()
	}
}

func (o *oauth) refreshNow(ctx context.Context, used string, ch *challenge) (err error) {
	unlock, err := o.store.lock(ctx, o.key, lockRefresh)
	if err != nil {
		return fmt.Errorf("wait for another process's refresh: %w", err)
	}
	defer unlock()
	c := *o.reread()
	before, machine := c, ch != nil && o.cfg.unattended()
	switch {
	case c.Token.Access != used && c.Token.Access != "" && !c.Token.due(time.Now()):
		return nil // another process did it
	case machine && (c.Token.Access == "" || ch.Error == insufficientScope):
		return (&leader{oauth: o}).authorize(ctx, *ch, used)
	}
	ctx, span := o.trace.start(ctx, "oauth refresh", spanInternal)
	defer func() { span.endWith(err) }()
	t, err := o.refreshed(ctx, &c)
	switch {
	case err == nil:
		if t.Scope == "" {
			t.Scope = c.Token.Scope
		}
		if t.Refresh == "" { // RFC 6749, section 6: it stays when none is sent, as by Google
			t.Refresh = c.Token.Refresh
		}
		c.Token = t
		_ = o.keep(&c)
		o.log.infof("refreshed the token for %s", o.cfg.server.Host)
		return nil
	case machine && isRejected(err): // the authorization server may be another by now
		return (&leader{oauth: o}).authorize(ctx, *ch, used)
	}
	c = before // what was found to work counts with a token
	if isRejected(err) {
		o.rejected = c.renewal()
	} else if t.Refresh != "" { // of an answer without an access token that we can use
		c.Token.Refresh = t.Refresh
	}
	if isUnknownClient(err) && c.Client.Source == sourceRegistered {
		c.Client.Doubtful = true // it would lead the user to an error page, which never comes back
	}
	if c != before {
		_ = o.keep(&c)
	}
	return err
}

// renewal identifies a token that can be renewed without a user: the refresh token, or with client
// credentials the token itself. It is "" if there is no way.
func (c *credentials) renewal() string {
	if c.Grant == grantClientCredentials {
		return c.Token.Access
	}
	return c.Token.Refresh
}

// refreshed asks for the successor of a token. A refresh sends no scope, and if that is refused
// once more the one that was asked for: Entra ID wants it (AADSTS90009), others refuse it. What
// worked is remembered with the credentials.
func (o *oauth) refreshed(ctx context.Context, c *credentials) (token, error) {
	if c.renewal() == "" || c.TokenEndpoint == "" || c.renewal() == o.rejected {
		return token{}, &oauthError{code: "invalid_grant"}
	}
	if c.Grant == grantClientCredentials {
		return o.machineToken(ctx, c)
	}
	attempt := func(withScope bool) (token, error) {
		form := url.Values{"grant_type": {grantRefresh}, "refresh_token": {c.Token.Refresh}}
		if withScope {
			form.Set("scope", c.scope())
		}
		return o.requestToken(ctx, c, form, maxTokenAttempts)
	}
	t, err := attempt(c.ScopeAtRefresh)
	code := refusedWith(err).code
	if c.scope() != "" && (code == "invalid_request" || code == "invalid_scope") {
		other, otherErr := attempt(!c.ScopeAtRefresh)
		if !isRejected(otherErr) { // else the reason of the usual way is the one to mend
			t, err, c.ScopeAtRefresh = other, otherErr, !c.ScopeAtRefresh
		}
	}
	return t, err
}

// scopeWords say what was asked for and what was granted, if the server wants more.
func (o *oauth) scopeWords(resp *http.Response) string {
	ch, _ := parseChallenge(resp.Header)
	c := o.current()
	if ch.Error != insufficientScope || c.Token.Access == "" {
		return ""
	}
	words := fmt.Sprintf("the token's scope is too narrow: asked for %q, granted %q",
		excerpt(c.RequestedScope), excerpt(c.Token.Scope))
	if c.RefusedScope != "" {
		words += fmt.Sprintf(", refused %q", excerpt(c.RefusedScope))
	}
	if ch.Scope != "" {
		words += fmt.Sprintf(", the server wants %q", excerpt(ch.Scope))
	}
	return words + "; the authorization server's operator can say why"
}
