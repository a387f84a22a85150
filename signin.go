package main

// One sign-in: which client, what is asked for and what a refusal leads to, the code for a token,
// and opening the browser. How the answer comes back is in callback.go, which of several processes
// leads the sign-in in detach.go.

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	maxAttempts      = 4               // to get a token, per sign-in
	maxRegistrations = 2               // per sign-in
	browserGrace     = 3 * time.Second // for a program that opens a browser to fail
)

// A signer is one way to a first token, as the client and for the scope of the credentials tried.
type signer interface {
	attempt(ctx context.Context) (token, error)
}

// signIn is one sign-in at the authorization server that was found.
type signIn struct {
	*leader
	found    *authorization
	ch       challenge
	used     string       // the token that was refused; "" if there was none
	grants   []string     // that a registration names beside the usual
	selected string       // the scope that is needed, without what was asked for earlier
	old      *credentials // as they were stored before
	c        *credentials // as they are tried now

	cb    *callback // where the browser comes back to; nil while nothing listens
	named string    // the scope that the last registration was asked for
}

// authorize gets a first token, or one with another scope, and stores it.
func (l *leader) authorize(ctx context.Context, ch challenge, used string) (err error) {
	ctx, span := l.trace.start(ctx, "oauth sign-in", spanInternal)
	defer func() {
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			err = errCancelled
		}
		span.endWith(err)
	}()
	d := *l.discover
	d.known = l.reread().Issuer
	discovering, step := l.trace.start(ctx, "oauth discovery", spanInternal)
	found, err := d.discover(discovering, l.cfg.server, ch)
	step.endWith(err)
	if err != nil {
		return unusable(err)
	}
	s, m := signIn{leader: l, found: found, ch: ch, used: used}, &found.server
	if l.hasGooglesClient() && l.countsHere(m) {
		// No other endpoint gets the client's secret from a server that only names Google's.
		for _, endpoint := range []*string{&m.DeviceAuthorizationEndpoint, &m.RevocationEndpoint} {
			if !areAt(googleHosts, *endpoint) {
				*endpoint = ""
			}
		}
	}
	if l.cfg.unattended() {
		return s.run(ctx, machine{&s})
	}
	noBrowser := unusable(m.checkPKCE())
	if m.AuthorizationEndpoint == "" {
		err := authErrorf("authorization server %q lets no user sign in with a browser",
			excerpt(m.Issuer))
		noBrowser = withHint(err, "--device or --grant client_credentials may do: "+
			"mcp-proxy doctor says what it offers")
	}
	switch {
	case m.offersDevice() && l.cfg.prefersDevice():
		byCode := s
		byCode.grants = []string{grantDevice}
		err := byCode.run(ctx, device{&byCode})
		noCode := errors.As(err, new(lastingFailure)) || refusedWith(err).outOfOrder()
		if l.cfg.device || !noCode || noBrowser != nil {
			return err
		}
		l.log.infof("signing in without a device code: %v", err)
	case l.cfg.device:
		err := authErrorf("%s does not offer the device authorization grant", excerpt(m.Issuer))
		return withHint(err, "leave out --device; --no-browser prints the address to sign in at")
	}
	if noBrowser != nil {
		return noBrowser
	}
	return s.run(ctx, browser{&s})
}

// run tries until there is a token. What we chose ourselves never ends a sign-in: if the server
// refuses it, it is asked once more without.
func (s *signIn) run(ctx context.Context, way signer) (err error) {
	s.old = s.reread()
	if s.c, err = s.newCredentials(s.old, s.found); err != nil {
		return err
	}
	s.selected, s.c.RequestedScope = s.scopes(s.ch, s.old, s.found)
	if s.old.Issuer == s.c.Issuer {
		s.c.RefusedScope, s.c.ScopeAtRefresh = s.old.RefusedScope, s.old.ScopeAtRefresh
	}
	defer func() { // after the token is stored
		if s.cb == nil {
			return
		}
		s.cb.end(err)
		if s.handsOver && s.cb.serving() {
			s.lingering = s.cb
		} else {
			s.cb.close()
		}
	}()
	for attempt := 1; ; attempt++ {
		if s.c.Client.ID == "" {
			if err := s.registered(ctx); err != nil {
				return err
			}
		}
		if s.c.Token, err = way.attempt(ctx); err == nil {
			return s.keepNew(ctx)
		}
		// Perhaps nobody was there; perhaps the server showed an error page because it lost our
		// registration. Another one helps with the second, and is only made if the token was
		// refused as well. Another process may have refreshed it by now.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && s.registrations == 0 &&
			s.ch.Error != insufficientScope && s.used == s.stored() {
			s.doubtful = true
		}
		if attempt == maxAttempts || ctx.Err() != nil || !s.concede(err) {
			return s.explainRefusal(err)
		}
	}
}

// concede gives up one thing that we chose and that the server may have refused; false if there is
// none. What the user gave is never changed.
func (s *signIn) concede(err error) bool {
	c, scope := s.c, s.c.scope()
	canRegister := c.Client.Source == sourceRegistered && s.registrations < maxRegistrations &&
		s.found.server.RegistrationEndpoint != ""
	if isUnknownClient(err) && canRegister {
		s.log.infof("%s does not know our registration: registering anew", excerpt(c.Issuer))
		c.Client = client{}
		return true
	}
	// Keycloak refuses it to users without that role at the token endpoint, as not_allowed.
	refused := refusedWith(err)
	offline := refused.code != "invalid_grant" &&
		strings.Contains(strings.ToLower(refused.description), "offline") &&
		hasScope(scope, offlineAccess)
	if refused.code != "invalid_scope" && !offline || s.cfg.scope != "" || scope == "" {
		return false
	}
	switch {
	case !offline && withoutScope(scope, s.selected) != "": // what was asked for earlier
		c.RequestedScope = s.selected
	case hasScope(scope, offlineAccess):
		c.RefusedScope = unionScope(c.RefusedScope, offlineAccess)
	case canRegister && s.named != scope &&
		(c.Client.Scope == "" || withoutScope(scope, c.Client.Scope) != ""):
		c.Client = client{} // one is registered for this scope
	default:
		c.RefusedScope = unionScope(c.RefusedScope, scope)
	}
	s.log.infof("the scope %q is refused: asking for %q", excerpt(scope), excerpt(c.scope()))
	return true
}

// scope is what to ask for: without what the server refused before, and nothing beyond what the
// client is registered for.
func (c *credentials) scope() string {
	scope := withoutScope(c.RequestedScope, c.RefusedScope)
	registered := withoutScope(scope, withoutScope(scope, c.Client.Scope))
	if registered != "" && c.GivenScope == "" { // the registration speaks of these scopes
		return registered
	}
	return scope
}

// unusable distinguishes metadata that somebody has to correct from metadata that did not come.
func unusable(err error) error {
	if err == nil || errors.As(err, new(noAnswer)) {
		return err
	}
	return authError{err}
}

// scopes are what this request needs, and that with what was asked for before at the same
// authorization server (MCP 2026-07-28, Authorization, "Scope Selection Strategy").
func (o *oauth) scopes(ch challenge, old *credentials, found *authorization) (now, all string) {
	ch.Scope = boundedScope(ch.Scope, "in the challenge of "+o.cfg.server.Host, o.log)
	if now = o.cfg.scope; now != "" {
		if ch.Error == insufficientScope {
			now = unionScope(now, ch.Scope)
		}
		return now, now
	}
	if now = unionScope(ch.Scope, ""); now == "" {
		published := strings.Join(found.scopes, " ")
		now = unionScope(boundedScope(published, "in the server's metadata", o.log), "")
	}
	switch {
	case o.cfg.unattended(): // it is about a user's refresh token
		now = withoutScope(now, offlineAccess)
	// Alone it would replace the server's default scopes.
	case now != "" && slices.Contains(found.server.ScopesSupported, offlineAccess):
		now = unionScope(now, offlineAccess)
	}
	if old.Issuer != found.server.Issuer {
		return now, now
	}
	return now, unionScope(old.RequestedScope, now)
}

// newCredentials says which client we are; without one in Client it is to be registered.
func (o *oauth) newCredentials(old *credentials, found *authorization) (*credentials, error) {
	m := &found.server
	c := &credentials{
		storeKey: o.key, Issuer: m.Issuer, Resource: found.resource,
		TokenEndpoint: m.TokenEndpoint, RevocationEndpoint: m.RevocationEndpoint,
	}
	switch {
	case o.countsHere(m):
		c.Client = client{ID: o.cfg.clientID, Secret: o.cfg.clientSecret, Source: sourceGiven}
		if err := o.checkBinding(c, old); err != nil {
			return nil, err
		}
	case o.cfg.clientMetadataURL != "" && m.ClientMetadataSupported:
		c.Client = client{ID: o.cfg.clientMetadataURL, Source: sourceDocument}
	default:
		return c, nil
	}
	if o.cfg.privateKey != nil {
		algorithm, err := chooseAlgorithm(o.cfg.privateKey, m.TokenEndpointSigningAlgs)
		c.Client.AuthMethod, c.Client.SigningAlg = methodPrivateKey, algorithm
		return c, err
	}
	if old.Client.ID == c.Client.ID && strings.HasPrefix(old.Client.AuthMethod, "client_secret_") {
		c.Client.AuthMethod = old.Client.AuthMethod // as it was found to work
	}
	c.Client.AuthMethod = authMethod(c.Client, m.TokenEndpointAuthMethods)
	return c, nil
}

// countsHere reports whether the user gave a client that may be used at this authorization server.
// GOOGLE_CLIENT_ID is given to no server in particular: a client of Google's in it is used with
// Google's endpoints only, whoever publishes them. -i and any other id are the user's word.
func (o *oauth) countsHere(m *serverMetadata) bool {
	return o.cfg.clientID != "" && (!o.hasGooglesClient() ||
		areAt(googleHosts, m.AuthorizationEndpoint, m.TokenEndpoint))
}

func (o *oauth) hasGooglesClient() bool {
	return o.cfg.clientFromEnv &&
		strings.HasSuffix(strings.ToLower(o.cfg.clientID), ".apps.googleusercontent.com")
}

var googleHosts = []string{"accounts.google.com", "oauth2.googleapis.com", "www.googleapis.com"}

// areAt reports whether all URLs are https ones of the hosts; a name that begins with a dot is for
// all below it. Many MCP servers name Google's endpoints under an issuer of their own.
func areAt(hosts []string, urls ...string) bool {
	return !slices.ContainsFunc(urls, func(raw string) bool {
		u, err := url.Parse(raw)
		return err != nil || u.Scheme != "https" || portOf(u) != "443" ||
			!slices.ContainsFunc(hosts, func(name string) bool {
				host := strings.ToLower(u.Hostname())
				return host == name || name[0] == '.' && strings.HasSuffix(host, name)
			})
	})
}

// checkBinding: what was registered at one authorization server is never shown to another (MCP
// 2026-07-28, Client Registration, "Authorization Server Binding"), whichever MCP server led there.
// Google's endpoints are one authorization server, whoever publishes them.
func (o *oauth) checkBinding(c, old *credentials) error {
	all, _ := o.store.list()
	for _, other := range append(all, old) {
		known, ours := other.Client, c.Client
		otherOfThatName := known.Secret != "" && ours.Secret != "" && known.Secret != ours.Secret
		if known.Source != sourceGiven || known.ID != ours.ID || otherOfThatName ||
			other.Issuer == "" || sameIssuer(other.Issuer, c.Issuer) ||
			areAt(googleHosts, other.TokenEndpoint, c.TokenEndpoint) {
			continue
		}
		logout := *o.cfg
		if u, err := url.Parse(other.Server); err == nil {
			logout.server, logout.profile = u, other.Profile
		}
		err := authErrorf("%s names the authorization server %s, and the given client belongs "+
			"to %s", o.cfg.server.Host, excerpt(c.Issuer), excerpt(other.Issuer))
		return withHint(err, "if that is right: %s, and give the client registered at the new "+
			"server with --client-id", logout.typed("logout"))
	}
	return nil
}

// registered uses the registration that we have at this server, or makes one that names the scope
// to be asked for. If the server refuses that, it makes one without; and one for localhost if it
// refuses 127.0.0.1 (Superset, fronts of Cognito).
func (s *signIn) registered(ctx context.Context) (err error) {
	old, given, scope, host := s.old.Client, s.cfg.redirectURI, s.c.scope(), localAddress
	redirect, err := url.Parse(old.RedirectURI)
	ours := err == nil && old.Source == sourceRegistered && s.old.Issuer == s.c.Issuer
	if ours && redirect.Hostname() == localHost {
		host = localHost // as it was found to work
	}
	// If a scope is needed that the old one was not made for, another is made; not for one that was
	// refused at registration already.
	known := unionScope(old.Scope, s.old.RequestedScope)
	if ours && s.cb == nil && !old.Doubtful && !s.doubtful &&
		(given == nil || old.RedirectURI == given.String()) &&
		(old.Scope == "" || withoutScope(scope, known) == "") {
		if s.cb, err = listenAt(redirect); err == nil {
			s.c.Client = old
			return nil
		}
	}
	if s.found.server.RegistrationEndpoint == "" {
		return s.noClient(&s.found.server)
	}
	ctx, span := s.trace.start(ctx, "oauth registration", spanInternal)
	defer func() { span.endWith(err) }()
	s.registrations++
	s.named = scope
	for {
		if s.cb == nil {
			s.cb, err = listenForRegistration(given, s.cfg.anyPort, host, s.c.Issuer)
			if err != nil {
				return err
			}
		}
		uri := s.cb.redirect.String()
		s.c.Client, err = s.discover.register(ctx, &s.found.server, uri, scope, s.grants...)
		request, aboutRedirect := refusedRegistration(err)
		otherHost := given == nil && host != localHost && !s.cb.serving()
		switch {
		case err == nil:
			if s.old.Token.Access == "" {
				c := *s.c      // which changes on the way to a token
				_ = s.keep(&c) // a sign-in that fails must not lead to a registration each time
				s.doubtful = false
			}
			return nil
		case !request, scope == "" && !otherHost:
			return err
		case otherHost && (aboutRedirect || scope == ""):
			host = localHost
			s.cb.close()
			s.cb = nil
		default:
			scope = ""
		}
	}
}

func (o *oauth) noClient(m *serverMetadata) error {
	hint := "set GOOGLE_CLIENT_ID or give --client-id (register a client at %s by hand)"
	if o.cfg.clientFromEnv {
		hint = "if the client of GOOGLE_CLIENT_ID is for %s: -i env:GOOGLE_CLIENT_ID " +
			"-s env:GOOGLE_CLIENT_SECRET"
	}
	err := authErrorf("%s needs a client id: its authorization server offers no registration",
		o.cfg.server.Host)
	return withHint(errorKind{err, "no_client"}, hint, excerpt(m.Issuer))
}

// machine is a client that is its own user.
type machine struct{ *signIn }

func (m machine) attempt(ctx context.Context) (token, error) {
	if notes := m.notes(); notes != "" {
		m.log.notice(strings.TrimSuffix(notes, "\n"))
	}
	return m.machineToken(ctx, m.c)
}

// browser signs in with the user's browser.
type browser struct{ *signIn }

// attempt takes the user through the authorization endpoint and redeems the code.
func (b browser) attempt(ctx context.Context) (token, error) {
	c, m := b.c, &b.found.server
	endpoint, err := checkEndpoint(m.AuthorizationEndpoint, b.cfg.acceptsHTTP())
	if err == nil && b.cb == nil { // else the client was registered with it
		b.cb, err = listenForGivenClient(b.cfg.redirectURI, firstGivenPort, lastGivenPort)
		if err == nil {
			c.Client.RedirectURI = b.cb.redirect.String()
		}
	}
	if err != nil {
		return token{}, err
	}
	verifier := newVerifier()
	printed, opened := b.request(*endpoint, c, verifier), b.request(*endpoint, c, verifier)
	waiting, stopAsking := context.WithCancel(ctx)
	page := signInPage{URL: printed.url}
	if !b.cb.serving() { // else no second window; who pasted an answer needs the next address
		page.Note = b.notes()
		b.cb.host, b.cb.retry = b.cfg.server.Host, b.cfg.typed("login")
		b.cb.issuer, b.cb.needsIss, b.cb.notify = c.Issuer, m.IssParameterSupported, b.notify
	}
	b.ask(waiting, page, b.cb.expect(printed, opened))
	var code string
	select {
	case answer := <-b.cb.answers:
		code, err = b.cb.check(answer)
	case <-ctx.Done():
		err = b.nobodySignedIn()
	}
	stopAsking()
	if err != nil {
		return token{}, err
	}
	form := url.Values{
		"grant_type": {grantCode}, "code": {code}, "redirect_uri": {c.Client.RedirectURI},
		"code_verifier": {verifier},
	}
	return b.requestToken(ctx, c, form, maxTokenAttempts)
}

// notes are lines with what the user should know before signing in.
func (s *signIn) notes() (notes string) {
	u, err := url.Parse(s.c.TokenEndpoint)
	if err == nil && s.cfg.clientFromEnv && s.c.Client.Source == sourceGiven &&
		s.old.Client.ID != s.c.Client.ID {
		notes = "mcp-proxy: the client of GOOGLE_CLIENT_ID is used at " + excerpt(u.Host) + "\n"
	}
	u, err = url.Parse(s.c.Resource)
	if err == nil && s.cfg.resource == "" && sameOrigin(u, s.cfg.server) &&
		!isPathPrefix(s.cfg.server.EscapedPath(), u.EscapedPath()) {
		notes += "mcp-proxy: the token will be good for all of " + origin(u) + u.EscapedPath() +
			", as its server says, not for " + s.cfg.server.EscapedPath() + " alone\n"
	}
	return notes
}

func (o *oauth) nobodySignedIn() error {
	err := authErrorf("nobody signed in to %s within %v", o.cfg.server.Host, o.cfg.loginTimeout)
	return withHint(errorKind{err, "timeout"}, "%s", o.cfg.typed("login"))
}

// keepNew stores what a sign-in brought. A refresh that is going on would otherwise put the
// successor of the old token over it.
func (s *signIn) keepNew(ctx context.Context) error {
	if s.c.Token.Scope == "" { // RFC 6749, section 5.1: unchanged when it is left out
		s.c.Token.Scope = s.c.scope()
	}
	if !s.cfg.unattended() { // else the caller has the lock
		unlock, err := s.store.lock(ctx, s.key, lockRefresh)
		if err != nil {
			return err
		}
		defer unlock()
	}
	if err := s.keep(s.c); err != nil && s.handsOver {
		return fmt.Errorf("the token cannot be stored: %w", err)
	}
	return nil
}

// explainRefusal adds what the user can do about a refusal of the authorization server.
func (o *oauth) explainRefusal(err error) error {
	refused := refusedWith(err)
	if refused == (oauthError{}) || refused.outOfOrder() {
		return err
	}
	var hint string
	switch {
	case refused.code == "invalid_scope":
		hint = "the server's documentation may name others that this client may have, for --scope"
		if o.cfg.scope != "" {
			hint = "the server refuses what --scope names: leave it out, or name others"
		}
	case isUnknownClient(err):
		hint = "check --client-id, and --client-secret or --private-key"
		if o.cfg.unattended() {
			hint += ", and that the client is allowed the grant " + grantClientCredentials
		}
	// Entra ID (AADSTS9010010, AADSTS901002) wants no resource parameter.
	case refused.code == "invalid_target", strings.HasPrefix(refused.description, "AADSTS901"):
		hint = "this authorization server takes no resource parameter: add --resource none"
	}
	return withHint(authError{err}, "%s", hint)
}

// request is an authorization request (OAuth 2.1, section 4.1.1).
func (o *oauth) request(endpoint url.URL, c *credentials, verifier string) authorizationRequest {
	q, state := endpoint.Query(), newState()
	for name, value := range map[string]string{
		"response_type": "code", "client_id": c.Client.ID, "redirect_uri": c.Client.RedirectURI,
		"state": state, "code_challenge": challengeS256(verifier), "code_challenge_method": "S256",
		"resource": c.Resource, "scope": c.scope(),
	} {
		setGiven(q, name, value)
	}
	google := areAt(googleHosts, c.Issuer) || areAt(googleHosts, endpoint.String())
	microsoft := areAt(microsoftHosts, c.Issuer) || areAt(microsoftHosts, endpoint.String())
	if google { // it knows no offline_access; without these two it gives no refresh token
		q.Set("access_type", "offline")
	}
	// OpenID Connect Core, section 11: without it offline access is ignored.
	if google || hasScope(c.scope(), offlineAccess) && !microsoft {
		q.Set("prompt", "consent")
	}
	for name, values := range o.cfg.authParams {
		if q[name] = values; values[0] == "" {
			q.Del(name) // an empty value takes one of ours out
		}
	}
	endpoint.RawQuery = q.Encode()
	return authorizationRequest{endpoint.String(), state}
}

// microsoftHosts are Entra ID's. It gives a refresh token for offline_access as it is, and asks an
// administrator each time if prompt=consent is sent.
var microsoftHosts = []string{
	"login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn",
	"login.chinacloudapi.cn", "login.microsoft.com", "login.windows.net", "sts.windows.net",
	".b2clogin.com", ".ciamlogin.com",
}

// openBrowser starts the first program that opens a browser on address, and does not wait for it.
func openBrowser(browsers, dir, address string) (err error) {
	for _, command := range browserCommands(browsers, dir, runtime.GOOS, address) {
		// Neither stdin nor stdout: both speak JSON-RPC with the host.
		cmd := exec.Command(command[0], command[1:]...)
		ended := make(chan error, 2)
		time.AfterFunc(browserGrace, func() { ended <- nil })
		go func() { ended <- cmd.Run() }() // reaps it; it may outlive this program
		// xdg-open may have found no browser; rundll32's status means nothing.
		if err = <-ended; err == nil || runtime.GOOS == "windows" && cmd.ProcessState != nil {
			return nil
		}
	}
	return err
}

// browserCommands are those of $BROWSER, then the system's. Blanks divide the words of a command,
// unless they belong to the name of a program. Never cmd /c start: it cuts the URL at & and runs
// what follows.
func browserCommands(browsers, dir, system, address string) (commands [][]string) {
	own, ok := map[string][]string{
		"darwin": {"/usr/bin/open"}, "windows": {"rundll32 url.dll,FileProtocolHandler"},
	}[system]
	if !ok {
		own = []string{"wslview", "xdg-open"}
	}
	for _, entry := range append(filepath.SplitList(browsers), own...) {
		command := strings.Fields(entry)
		if _, err := exec.LookPath(entry); err == nil {
			command = []string{entry}
		}
		if len(command) == 0 {
			continue
		}
		if dir != "" && strings.ContainsAny(command[0], `/\`) && !filepath.IsAbs(command[0]) {
			command[0] = filepath.Join(dir, command[0])
		}
		if !strings.Contains(entry, "%s") {
			command = append(command, "%s")
		}
		for i := range command {
			command[i] = strings.ReplaceAll(command[i], "%s", address)
		}
		commands = append(commands, command)
	}
	return commands
}
