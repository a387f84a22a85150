package main

// Signing in: which client, what to ask for, the code for a token. How the
// answer comes back is callback.go's; it knows nothing of other processes that
// may want the same sign-in (detach.go), and nothing of MCP.

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

const (
	googleIssuer     = "https://accounts.google.com"
	maxRegistrations = 2 // per sign-in
)

// asking shows the user where to sign in; ctx ends with the wait for it. start is
// what a browser is opened at, "" for none. purpose tells sign-ins apart: no two
// windows open soon for the same one.
type asking func(ctx context.Context, page signInPage, start, purpose string)

// authorize signs the user in and stores the token.
func (o *oauth) authorize(ctx context.Context, ch challenge, ask asking) error {
	ctx, span := o.trace.start(ctx, "oauth sign-in", spanInternal)
	defer span.end()
	err := o.authorization(ctx, ch, ask)
	if err != nil {
		span.fail(errorType(err))
	}
	return err
}

func (o *oauth) authorization(ctx context.Context, ch challenge, ask asking) error {
	found, err := o.discovered(ctx, ch)
	if err != nil {
		return err
	}
	old := o.reread()
	scope := o.scopeFor(ch, old, found)
	switch {
	case o.cfg.unattended():
		return o.clientCredentials(ctx, found, scope)
	case o.usesDevice(&found.server):
		err := o.deviceSignIn(ctx, found, scope, ask)
		if o.cfg.device || !errors.As(err, new(deviceRefused)) {
			return err
		}
		o.log.infof("signing in without a device code: %v", err)
		if found.server.checkBrowser() != nil {
			return err
		}
		old = o.reread() // with a registration made for the code
	}
	for registrations := 1; ; registrations++ {
		c, cb, err := o.prepare(ctx, old, found)
		if err != nil {
			return err
		}
		c.RequestedScope = scope
		err = o.oneSignIn(ctx, c, cb, found, ask)
		cb.close()
		if err == nil {
			return nil
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && c.Client.ID == old.Client.ID && c.Client.Source == sourceRegistered && ch.Error != insufficientScope {
			// Perhaps nobody was there; perhaps the server showed its error page
			// because it lost our registration. Another one mends the second.
			_ = o.keep(&credentials{Issuer: c.Issuer, RequestedScope: c.RequestedScope})
		}
		if !isUnknownClient(err) || c.Client.Source != sourceRegistered || registrations == maxRegistrations {
			return err
		}
		o.log.infof("%s no longer knows our registration: registering anew", found.server.Issuer)
		old = &credentials{}
	}
}

func (o *oauth) discovered(ctx context.Context, ch challenge) (*authorization, error) {
	ctx, span := o.trace.start(ctx, "oauth discovery", spanInternal)
	defer span.end()
	d := *o.discover
	d.known = o.reread().Issuer
	found, err := d.discover(ctx, o.cfg.server, ch)
	if err == nil {
		err = o.checkGrant(&found.server)
	}
	if err != nil {
		span.fail("discovery")
		return nil, unusable(err)
	}
	return found, nil
}

// checkGrant refuses a server that does not offer what the way to a token needs.
func (o *oauth) checkGrant(m *serverMetadata) error {
	switch {
	case o.cfg.unattended():
		return nil
	case o.cfg.device:
		return m.checkDevice()
	case o.usesDevice(m):
		return nil
	}
	return m.checkBrowser()
}

func (m *serverMetadata) checkBrowser() error {
	if m.AuthorizationEndpoint == "" {
		return withHint(fmt.Errorf("authorization server %q lets no user sign in with a browser", excerpt(m.Issuer)), "--device or --grant client_credentials may do: mcp-proxy doctor says what it offers")
	}
	return m.checkPKCE()
}

// unusable tells metadata that is no good, which is for somebody to mend, from
// metadata that did not come.
func unusable(err error) error {
	if errors.As(err, new(noAnswer)) {
		return err
	}
	return authError{err}
}

// scopeFor is what to ask for: what this request needs, and what was asked for
// before at the same authorization server (MCP 2026-07-28, Authorization,
// "Scope Selection Strategy").
func (o *oauth) scopeFor(ch challenge, old *credentials, found *authorization) string {
	scope := selectScope(o.cfg.scope, ch, found)
	if ch.Error == insufficientScope {
		scope = unionScope(scope, ch.Scope)
	}
	if old.Issuer == found.server.Issuer && o.cfg.scope == "" {
		scope = unionScope(old.RequestedScope, scope)
	}
	if o.cfg.unattended() && o.cfg.scope == "" {
		scope = withoutOfflineAccess(scope)
	}
	return scope
}

// newCredentials says which client we are; without one in Client it is to be registered.
func (o *oauth) newCredentials(old *credentials, found *authorization) (*credentials, error) {
	m := &found.server
	c := &credentials{
		Server: o.key.server, Profile: o.key.profile, Grant: o.key.grant, Issuer: m.Issuer, TokenEndpoint: m.TokenEndpoint,
		RevocationEndpoint: m.RevocationEndpoint, Resource: found.resource,
	}
	switch {
	case o.cfg.clientID != "":
		// MCP 2026-07-28, Client Registration, "Authorization Server Binding":
		// what was registered at one server is never shown to another.
		if old.Client.Source == sourceGiven && old.Issuer != "" && old.Issuer != m.Issuer {
			return nil, withHint(authErrorf("%s now names the authorization server %s, and the given client belongs to %s", o.cfg.server.Host, excerpt(m.Issuer), excerpt(old.Issuer)),
				"if that is right: %s, and give the client registered at the new server with --client-id", o.cfg.typed("logout"))
		}
		c.Client = client{ID: o.cfg.clientID, Secret: o.cfg.clientSecret, Source: sourceGiven}
	case o.cfg.clientMetadataURL != "" && m.ClientMetadataSupported:
		c.Client = client{ID: o.cfg.clientMetadataURL, Source: sourceDocument}
	default:
		return c, nil
	}
	if o.cfg.privateKey != nil {
		var err error
		c.Client.AuthMethod = methodPrivateKey
		c.Client.SigningAlg, err = chooseAlgorithm(o.cfg.privateKey, m.TokenEndpointSigningAlgs)
		return c, err
	}
	if old.Client.ID == c.Client.ID && old.Client.AuthMethod != methodPrivateKey {
		c.Client.AuthMethod = old.Client.AuthMethod // as it was found to work
	}
	if c.Client.AuthMethod == "" {
		c.Client.AuthMethod = authMethod(c.Client, m.TokenEndpointAuthMethods)
	}
	return c, nil
}

// prepare says which client we are and listens for the callback.
func (o *oauth) prepare(ctx context.Context, old *credentials, found *authorization) (*credentials, *callback, error) {
	c, err := o.newCredentials(old, found)
	if err != nil {
		return nil, nil, err
	}
	if c.Client.ID == "" {
		cb, err := o.registeredClient(ctx, c, old, &found.server)
		return c, cb, err
	}
	cb, err := listenForGivenClient(o.cfg.redirectURI)
	if err != nil {
		return nil, nil, err
	}
	c.Client.RedirectURI = cb.redirect.String()
	return c, cb, nil
}

// registeredClient uses the registration that we have at this server, or makes
// one, for moreGrants beside the usual.
func (o *oauth) registeredClient(ctx context.Context, c *credentials, old *credentials, m *serverMetadata, moreGrants ...string) (*callback, error) {
	ours := old.Client.Source == sourceRegistered && old.Issuer == m.Issuer
	if ours && (o.cfg.redirectURI == nil || old.Client.RedirectURI == o.cfg.redirectURI.String()) {
		if redirect, err := url.Parse(old.Client.RedirectURI); err == nil {
			if cb, err := listenAt(redirect); err == nil {
				c.Client = old.Client
				return cb, nil
			}
			o.log.debugf("port %s is taken: registering anew", redirect.Port())
		}
	}
	if m.RegistrationEndpoint == "" {
		return nil, o.noClient(m)
	}
	cb, err := listenForRegistration(o.cfg.redirectURI, o.cfg.anyPort)
	if err != nil {
		return nil, err
	}
	ctx, span := o.trace.start(ctx, "oauth registration", spanInternal)
	defer span.end()
	c.Client, err = o.discover.register(ctx, m, cb.redirect.String(), moreGrants...)
	if err != nil {
		span.fail("registration")
		cb.close()
		return nil, err
	}
	c.Client.Source, c.Client.RedirectURI = sourceRegistered, cb.redirect.String()
	if old.Token.Access == "" {
		_ = o.keep(c) // a sign-in that fails must not lead to a registration each time
	}
	return cb, nil
}

func (o *oauth) noClient(m *serverMetadata) error {
	return withHint(authErrorf("%s needs a client id: its authorization server offers no registration", o.cfg.server.Host),
		"set GOOGLE_CLIENT_ID or give --client-id (register a client at %s by hand)", excerpt(m.Issuer))
}

// oneSignIn takes the user through the authorization endpoint and redeems the code.
func (o *oauth) oneSignIn(ctx context.Context, c *credentials, cb *callback, found *authorization, ask asking) error {
	verifier, state, windowState := newVerifier(), newState(), newState()
	address, err := o.authorizationURL(c, found, verifier, state)
	if err != nil {
		return err
	}
	target, err := o.authorizationURL(c, found, verifier, windowState)
	if err != nil {
		return err
	}
	start := cb.startAt(target, windowState)
	cb.expect(o.cfg.server.Host, state, found.server.Issuer, found.server.IssParameterSupported)
	waiting, stopAsking := context.WithCancel(ctx)
	ask(waiting, signInPage{URL: address}, start, purposeOf(c))
	code, err := cb.wait(ctx)
	stopAsking()
	if err != nil {
		if ctx.Err() != nil {
			return o.nobodySignedIn()
		}
		return err
	}
	form := url.Values{"grant_type": {grantCode}, "code": {code}, "redirect_uri": {c.Client.RedirectURI}, "code_verifier": {verifier}}
	addResource(form, c.Resource)
	c.Token, err = o.tokenWithRetry(ctx, c, form)
	if err == nil {
		if c.Token.Scope == "" {
			c.Token.Scope = c.RequestedScope // RFC 6749, section 5.1: unchanged when it is left out
		}
		err = o.keepNew(ctx, c)
	}
	cb.outcome(err) // after the token is stored: that is what the page says
	return o.explainRefusal(err)
}

func (o *oauth) nobodySignedIn() error {
	if o.cfg.unattended() {
		return authErrorf("there was no token for %s within %v", o.cfg.server.Host, o.cfg.loginTimeout)
	}
	return withHint(authErrorf("nobody signed in to %s within %v", o.cfg.server.Host, o.cfg.loginTimeout), "%s", o.cfg.typed("login"))
}

// keepNew stores what a sign-in brought. A refresh that is going on would
// otherwise put the successor of the old token over it.
func (o *oauth) keepNew(ctx context.Context, c *credentials) error {
	unlock, err := o.store.lock(ctx, o.key, lockRefresh)
	if err != nil {
		return err
	}
	defer unlock()
	if err := o.keep(c); err != nil && o.handsOver {
		return fmt.Errorf("the token cannot be stored: %w", err)
	}
	return nil
}

// explainRefusal adds what the user can do about an answer of the token endpoint.
func (o *oauth) explainRefusal(err error) error {
	var refused *tokenError
	if !errors.As(err, &refused) || refused.outOfOrder() {
		return err
	}
	err = authError{err}
	switch refused.Code {
	case "invalid_client", "unauthorized_client":
		what := "--client-secret"
		if o.cfg.privateKey != nil {
			what = "--private-key"
		}
		if o.cfg.unattended() {
			what += ", and that the client is allowed the grant " + grantClientCredentials
		}
		return withHint(err, "check --client-id and %s", what)
	case "invalid_target":
		return withHint(err, "this authorization server takes no resource parameter: add --resource none")
	}
	return err
}

// purposeOf tells sign-ins apart: for the same one no second window opens soon.
func purposeOf(c *credentials) string {
	return challengeS256(strings.Join([]string{c.Issuer, c.Client.ID, c.RequestedScope}, "\n"))
}

// authorizationURL is the authorization request (OAuth 2.1, section 4.1.1).
func (o *oauth) authorizationURL(c *credentials, found *authorization, verifier, state string) (string, error) {
	endpoint, err := checkEndpoint(found.server.AuthorizationEndpoint, o.cfg.allowHTTP)
	if err != nil {
		return "", fmt.Errorf("authorization endpoint: %w", err)
	}
	q := endpoint.Query()
	q.Set("response_type", "code")
	q.Set("client_id", c.Client.ID)
	q.Set("redirect_uri", c.Client.RedirectURI)
	q.Set("state", state)
	q.Set("code_challenge", challengeS256(verifier))
	q.Set("code_challenge_method", "S256")
	addResource(q, c.Resource)
	if c.RequestedScope != "" {
		q.Set("scope", c.RequestedScope)
	}
	switch {
	case c.Issuer == googleIssuer:
		// Google knows no offline_access; without these two it gives no refresh token.
		q.Set("access_type", "offline")
		q.Set("prompt", "consent")
	case slices.Contains(strings.Fields(c.RequestedScope), "offline_access"):
		// OpenID Connect Core, section 11: without it offline access is ignored.
		q.Set("prompt", "consent")
	}
	for name, values := range o.cfg.authParams {
		q[name] = values
	}
	endpoint.RawQuery = q.Encode()
	return endpoint.String(), nil
}
