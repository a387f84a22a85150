package main

// A valid access token for this server: what is held, and what a 401 or 403
// about it leads to. When a token is refreshed is refresh.go's matter, what the
// token endpoint is told and answers token.go's, how a user signs in login.go's,
// who of several processes does it detach.go's, and how often any of it may
// happen brakes.go's.

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	maxStepUps        = 2 // per message
	maxOtherTokens    = 3 // tokens of other processes that a message tries
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
	http     *http.Client // knows no cookie and no token
	log      *logger
	trace    *tracer
	discover *discoverer

	refreshing      turn      // one refresh at a time in this process
	rejected        string    // the refresh token that is no good, or the token that can have no successor; guarded by refreshing
	refreshFailure  error     // of the last refresh that failed; guarded by refreshing
	refreshFailedAt time.Time // guarded by refreshing

	signingIn turn          // one sign-in at a time; the token may have to be refreshed meanwhile
	failure   error         // of the last sign-in; guarded by signingIn
	failedAt  time.Time     // guarded by signingIn
	leaving   chan struct{} // closed when nobody waits for a sign-in any more
	handsOver bool          // a token that cannot be stored is of no use: others wait for it

	verdicts verdicts

	// Held from reading or writing the file to noting what it holds: else what
	// was read before a refresh could be taken for what came after it.
	storing sync.Mutex

	shown func(address string) // called with every sign-in page that the user is shown; may be nil

	mu     sync.Mutex // guards cached
	cached *credentials
}

func newOAuth(c *config, st *store, client *http.Client, log *logger, trace *tracer) *oauth {
	return &oauth{
		cfg: c, key: newStoreKey(c), store: st, http: client, log: log, trace: trace,
		discover: &discoverer{
			http: client, allowHTTP: c.acceptsHTTP(), resource: c.resource, authMetadata: c.authMetadata,
			registerAs: c.registerAs, log: log,
		},
		refreshing: newTurn(), signingIn: newTurn(), leaving: make(chan struct{}),
	}
}

func newStoreKey(c *config) storeKey {
	k := storeKey{server: c.server.String(), profile: c.profile, scope: c.scope, resource: c.resource}
	if c.unattended() {
		k.grant = c.grant
	}
	return k
}

// current are the credentials as this process knows them; never nil.
func (o *oauth) current() *credentials {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cached == nil {
		o.cached = o.load()
	}
	return o.cached
}

// reread takes what another process may have stored since.
func (o *oauth) reread() *credentials {
	o.storing.Lock()
	defer o.storing.Unlock()
	c := o.load()
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.Client.ID != "" || o.cached == nil {
		o.cached = c
	}
	return o.cached
}

func (o *oauth) load() *credentials {
	c := o.store.load(o.key)
	if c == nil || !o.usable(c) {
		return &credentials{}
	}
	if c.Client.AuthMethod == methodPrivateKey && o.cfg.clientID != "" && o.cfg.clientSecret != "" {
		c.Token = token{} // nobody can renew it: the client has a secret now instead of the key
	}
	return c
}

// usable refuses the token of another client: with another --client-id the
// user means another identity.
func (o *oauth) usable(c *credentials) bool {
	return o.cfg.clientID == "" || c.Client.Source != sourceGiven || c.Client.ID == o.cfg.clientID
}

// keep makes c the credentials of all processes or, after an error, of this one.
// It is stored before it is used: a process killed in between would lose what the
// authorization server gives once.
func (o *oauth) keep(c *credentials) error {
	o.storing.Lock()
	defer o.storing.Unlock()
	err := o.store.save(o.key, c)
	if err != nil {
		o.log.debugf("the token lives in memory only: %v", err) // the store has warned
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cached = c
	return err
}

// held is the token as it is, without any network.
func (o *oauth) held() string { return o.current().Token.Access }

// authAttempts is what one message has caused so far.
type authAttempts struct {
	noSignIn    bool // nobody waits for this message: no browser for it
	refreshed   bool
	signedIn    bool
	stepUps     int
	otherTokens int
}

// challenged serves a 401 or 403 about the token used. True: send again. False
// without an error: the server's answer stands.
func (o *oauth) challenged(ctx context.Context, resp *http.Response, used string, a *authAttempts) (bool, error) {
	ch, ours := parseChallenge(resp.Header)
	ch.Scope = boundedScope(ch.Scope, "in the challenge of "+o.cfg.server.Host, o.log)
	if resp.StatusCode == http.StatusForbidden {
		if ch.Error != insufficientScope || ch.Scope == "" {
			return false, nil
		}
		return o.stepUp(ctx, ch, used, a)
	}
	if !ours {
		return false, nil // the server wants another scheme
	}
	o.verdicts.refused(used, time.Now())
	if o.reread().Token.Access != used && o.held() != "" && a.otherTokens < maxOtherTokens {
		a.otherTokens++
		return true, nil
	}
	revoked := false
	if used != "" && !a.refreshed && o.current().renewal() != "" && o.verdicts.allowRefresh(time.Now()) {
		a.refreshed = true
		err := o.refresh(ctx, used)
		if err == nil {
			return true, nil
		}
		if revoked = isRejected(err); !revoked {
			return false, err
		}
	}
	switch {
	case a.noSignIn:
		return false, nil
	case a.signedIn:
		if ch.Error == insufficientScope {
			o.verdicts.insatiable(time.Now())
		}
		return false, o.refusesNewToken()
	}
	if err := o.allowSignIn(ch, used, revoked); err != nil {
		return false, err
	}
	a.signedIn = true
	return true, o.signIn(ctx, ch, used)
}

// stepUp asks for the scopes that a request needs beyond those asked for
// before (MCP 2026-07-28, Authorization, "Step-Up Authorization Flow").
func (o *oauth) stepUp(ctx context.Context, ch challenge, used string, a *authAttempts) (bool, error) {
	now := o.reread()
	switch {
	case now.Token.Access != used && now.Token.Access != "" && a.otherTokens < maxOtherTokens:
		a.otherTokens++
		return true, nil
	case a.stepUps >= maxStepUps:
		o.verdicts.insatiable(time.Now())
		return false, nil
	case a.noSignIn || !o.verdicts.allowStepUp(time.Now()):
		return false, nil
	case used != "" && unionScope(now.RequestedScope, ch.Scope) == now.RequestedScope:
		return false, nil // all of it was asked for already, and not granted
	}
	a.stepUps++
	return true, o.signIn(ctx, ch, used)
}

// scopeWords say what was asked for and what was granted, where the server wants more.
func (o *oauth) scopeWords(resp *http.Response) string {
	ch, _ := parseChallenge(resp.Header)
	c := o.current()
	if ch.Error != insufficientScope || c.Token.Access == "" {
		return ""
	}
	text := fmt.Sprintf("the token's scope is too narrow: asked for %q, granted %q", excerpt(c.scope()), excerpt(c.Token.Scope))
	if ch.Scope != "" {
		text += fmt.Sprintf(", the server wants %q", excerpt(ch.Scope))
	}
	return text + "; the authorization server's operator can say why"
}

// networkFailure keeps the cause for notSent beside the text for people.
func networkFailure(host string, err error) error { return noAnswer{networkError(host, err), err} }
