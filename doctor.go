package main

// The command doctor: the way of a first message, step by step, as serving
// would go it. It opens no browser, registers nothing, refreshes nothing and
// writes nothing.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A doctor prints a line for each step: ok, FAIL, or - where there is nothing to check.
type doctor struct {
	*app
	out    io.Writer
	failed error  // the first failure
	todo   string // what to do first
}

// rules are what a server breaks whose metadata we refuse.
var rules = map[string]string{
	"resource metadata": "its resource is the server's URL or a path above it (RFC 9728, section 3.3)",
	"server metadata": "it names the issuer it was asked for; its endpoints are https " +
		"(RFC 8414, section 3)",
	"PKCE": "code_challenge_methods_supported lists S256 (MCP, Authorization Code Protection)",
}

// doctor returns the first failure, which is printed already.
func (a *app) doctor(ctx context.Context, stdout io.Writer) error {
	d := &doctor{app: a, out: stdout}
	fmt.Fprintf(d.out, "mcp-proxy %s, %s\n", programVersion(), shownServer(a.cfg.server))
	first := d.reach(ctx)
	if first != nil && first.header != nil {
		if ch, isOAuth := d.challenge(first); isOAuth {
			d.authorization(ctx, ch)
		} else {
			first = nil
		}
	}
	d.hello(ctx, first, d.cachedToken(first))
	switch {
	case d.todo != "":
		fmt.Fprintf(d.out, "first thing to do: %s\n", d.todo)
	case d.failed != nil:
		fmt.Fprintf(d.out, "first thing to do: ask who runs %s: %v\n", a.cfg.server.Host, d.failed)
	default:
		fmt.Fprintln(d.out, "all good")
	}
	if d.failed != nil {
		return reportedError{d.failed}
	}
	return nil
}

func (d *doctor) ok(step, format string, args ...any) {
	d.line("ok", step, fmt.Sprintf(format, args...))
}

func (d *doctor) skip(step, format string, args ...any) {
	d.line("-", step, fmt.Sprintf(format, args...))
}

func (d *doctor) fail(step string, err error) {
	d.line("FAIL", step, err.Error())
	if rule := rules[step]; rule != "" && errors.As(err, new(authError)) {
		fmt.Fprintf(d.out, "%26srule: %s\n", "", rule)
	}
	if hint := hintOf(err); hint != "" {
		d.hint("%s", hint)
	}
	if d.failed == nil {
		d.failed = err
	}
}

func (d *doctor) line(state, step, text string) {
	fmt.Fprintf(d.out, "%-4s  %-18s  %s\n", state, step, text)
}

func (d *doctor) hint(format string, args ...any) {
	hint := fmt.Sprintf(format, args...)
	fmt.Fprintf(d.out, "%26shint: %s\n", "", hint)
	if d.todo == "" {
		d.todo = hint
	}
}

// firstAnswer is what the server says to a message without a token.
type firstAnswer struct {
	said   string      // for people
	header http.Header // of a 401, else nil
}

const (
	probeTimeout = 20 * time.Second // for the first answer
	// A server of any revision may refuse this request but has no reason to act on it. One that wants
	// a token says so.
	probeMessage = `{"jsonrpc":"2.0","id":1,"method":"ping"}`
)

// askFirst sends a message without a token. An answer that is no MCP server's is an error.
func (a *app) askFirst(ctx context.Context) (*firstAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	up := &upstream{server: a.cfg.server, headers: a.cfg.headers, client: a.client, log: a.log}
	begun := time.Now()
	resp, err := up.do(up.post(ctx, up.server, &message{raw: []byte(probeMessage)}), "")
	if err != nil {
		return nil, networkError(up.server.Host, err)
	}
	status := resp.StatusCode
	first := &firstAnswer{said: fmt.Sprintf("%d %s by %s in %v", status, http.StatusText(status),
		resp.Proto, time.Since(begun).Round(time.Millisecond))}
	switch {
	case status == http.StatusUnauthorized:
		first.header = resp.Header
		fallthrough
	case status < 300:
		discard(resp)
		return first, nil
	}
	refusal := up.refusal(resp)
	if refusal.reply != nil && status < 500 {
		first.said += ", as it may: the probe is a ping without a session"
		return first, nil
	}
	if status != http.StatusBadRequest && status != http.StatusNotFound &&
		status != http.StatusMethodNotAllowed {
		return nil, a.refused(refusal)
	}
	// Servers of revision 2024-11-05 may refuse POST before they look for a token.
	get := up.request(ctx, http.MethodGet, up.server, nil)
	get.Header["Accept"] = eventsOnly
	if resp, err = up.do(get, ""); err != nil {
		return nil, a.refused(refusal)
	}
	resp.Body.Close() // not read: it has no end
	first.said += fmt.Sprintf(" to POST, %d to GET", resp.StatusCode)
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		first.header = resp.Header
		return first, nil
	case resp.StatusCode == http.StatusOK && mediaType(resp) == eventStream:
		first.said += ": a server of revision 2024-11-05"
		return first, nil
	}
	return nil, a.refused(refusal)
}

// refused is a refusal as a command reports it: its status says which exit code it stands for.
func (a *app) refused(refusal *serverRefusal) error {
	err, hint := errors.New(strings.TrimPrefix(refusal.Error(), "mcp-proxy: ")), hintOf(refusal)
	switch status := refusal.status; {
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		err = usageError{err}
	case status == http.StatusForbidden:
		err = authError{err}
	case status >= 500:
		err = serverError{err}
	}
	if hint == "" && a.cfg.command != "doctor" {
		hint = a.cfg.typed("doctor") + " looks at every step"
	}
	return withHint(err, "%s", hint)
}

// serverError is trouble of the server's, which the network's exit code stands for.
type serverError struct{ error }

func (e serverError) Unwrap() error { return e.error }

// route is how far a request came. Dialling goes on in the background after one of several
// addresses has answered.
type route struct {
	sync.Mutex // guards what follows
	addresses  []string
	connected  string
	tls        *tls.ConnectionState
}

func (r *route) trace() *httptrace.ClientTrace {
	locked := func(change func()) {
		r.Lock()
		defer r.Unlock()
		change()
	}
	return &httptrace.ClientTrace{
		DNSDone: func(info httptrace.DNSDoneInfo) {
			locked(func() {
				for _, address := range info.Addrs {
					r.addresses = append(r.addresses, address.String())
				}
			})
		},
		ConnectDone: func(_, address string, err error) {
			if err == nil {
				locked(func() { r.connected = address })
			}
		},
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			if err == nil {
				locked(func() { r.tls = &state })
			}
		},
	}
}

// reach sends the first message. It returns nil if the rest of the way depends on another answer.
func (d *doctor) reach(ctx context.Context) *firstAnswer {
	r := &route{}
	first, err := d.askFirst(httptrace.WithClientTrace(ctx, r.trace()))
	r.Lock()
	defer r.Unlock()
	if !d.route(r, err) {
		return nil
	}
	const step = "first answer"
	switch {
	case err != nil:
		d.fail(step, err)
		return nil
	case first.header != nil && d.auth == nil:
		d.fail(step, withHint(authErrorf("%s", first.said),
			"the Authorization header given with --header is refused"))
		return nil
	}
	d.ok(step, "%s", first.said)
	if first.header == nil {
		d.skip("challenge", "none: the server lets this message pass without a token")
	}
	return first
}

// route prints the steps up to the first answer, and reports whether they were taken.
func (d *doctor) route(r *route, err error) bool {
	proxy, _ := http.ProxyFromEnvironment(&http.Request{URL: d.cfg.server})
	switch {
	case proxy != nil:
		d.skip("DNS", "left to the proxy %s, which the environment names", proxy.Host)
	case len(r.addresses) > 0:
		d.ok("DNS", "%s", strings.Join(r.addresses, ", "))
	case r.connected == "" && networkErrorType(err) == "dns":
		d.fail("DNS", err)
		return false
	default:
		d.skip("DNS", "%s is an address", d.cfg.server.Hostname())
	}
	var refused *tls.CertificateVerificationError
	isRefused, isSecure := errors.As(err, &refused), d.cfg.server.Scheme == "https"
	if r.connected == "" || proxy != nil && isSecure && r.tls == nil && !isRefused {
		d.fail("connection", err)
		return false
	}
	d.ok("connection", "%s", r.connected)
	switch {
	case !isSecure:
		d.skip("TLS", "none, as --allow-http allows")
		return true
	case r.tls != nil:
		d.ok("TLS", "%s", tls.VersionName(r.tls.Version)+", "+issuedWords(r.tls.PeerCertificates))
		return true
	}
	d.fail("TLS", err)
	if isRefused { // somebody in between shows a certificate of his own
		fmt.Fprintf(d.out, "%26spresented: %s\n", "", issuedWords(refused.UnverifiedCertificates))
	}
	return false
}

func issuedWords(chain []*x509.Certificate) string {
	return fmt.Sprintf("%s, issued by %s, good until %s", excerpt(chain[0].Subject.String()),
		issuerOf(chain[0]), chain[0].NotAfter.UTC().Format("2006-01-02"))
}

// challenge returns what a 401 asks for, if it is OAuth.
func (d *doctor) challenge(first *firstAnswer) (challenge, bool) {
	ch, isOAuth := parseChallenge(first.header)
	words := "Bearer"
	if ch.ResourceMetadata != "" {
		words += ", metadata at " + excerpt(ch.ResourceMetadata)
	}
	if ch.Scope != "" {
		words += ", scope " + excerpt(ch.Scope)
	}
	switch {
	case !isOAuth:
		d.fail("challenge", otherScheme(d.cfg.server.Host, first.header))
	case words == "Bearer":
		d.skip("challenge", "names neither metadata nor scope: the well-known places are tried")
	default:
		d.ok("challenge", "%s", words)
	}
	return ch, isOAuth
}

// authorization goes the way from the challenge to the browser.
func (d *doctor) authorization(ctx context.Context, ch challenge) {
	o, server := d.auth, d.cfg.server
	prm, err := o.discover.resourceMetadata(ctx, server, ch)
	switch {
	case err != nil:
		d.fail("resource metadata", unusable(err))
		return
	case prm == nil:
		d.skip("resource metadata", "none: as in revision 2025-03-26, %s itself gives tokens",
			server.Host)
	default:
		d.ok("resource metadata", "%s, tokens by %s", excerpt(prm.Resource),
			excerpt(strings.Join(prm.AuthorizationServers, ", ")))
		if u, err := url.Parse(prm.Resource); err == nil && len(u.Path) < len(server.Path)-1 {
			d.skip("resource", "a token is good for everything at %s", excerpt(prm.Resource))
		}
	}
	found, err := o.discover.serverFor(ctx, server, prm)
	if err != nil {
		d.fail("server metadata", unusable(err))
		return
	}
	m := &found.server
	switch {
	case m.vouched:
		d.ok("server metadata", "%s, as --auth-metadata says", excerpt(m.Issuer))
	case m.defaulted:
		d.skip("server metadata", "none: /authorize, /token and /register at %s are tried",
			excerpt(m.Issuer))
	default:
		d.ok("server metadata", "%s", excerpt(m.Issuer))
	}
	switch err := m.checkPKCE(); {
	case d.cfg.unattended(), d.cfg.device:
	case err != nil:
		d.fail("PKCE", unusable(err))
	case !slices.Contains(m.CodeChallengeMethods, "S256"):
		d.skip("PKCE", "nobody says; S256 is sent")
	default:
		d.ok("PKCE", "S256")
	}
	var offered []string
	if m.offersDevice() {
		offered = append(offered, "--device")
	}
	if slices.Contains(m.GrantTypesSupported, grantClientCredentials) {
		offered = append(offered, "--grant "+grantClientCredentials)
	}
	if offered == nil {
		d.skip("without a browser", "neither device codes nor client credentials are offered")
	} else {
		d.ok("without a browser", "%s", strings.Join(offered, ", "))
	}
	d.client(m)
	cached, _ := d.store.look(o.key)
	if cached == nil {
		cached = &credentials{}
	}
	if _, scope := o.scopes(ch, cached, found); scope != "" {
		d.ok("scope", "%s", excerpt(scope))
	} else {
		d.skip("scope", "none is named, none is asked for")
	}
}

// client says which client a sign-in would be made as.
func (d *doctor) client(m *serverMetadata) {
	const step = "client"
	old, _ := d.store.look(d.auth.key)
	switch {
	case d.cfg.unattended():
		d.machine(m)
	case d.auth.countsHere(m):
		d.ok(step, "%s, as given", excerpt(d.cfg.clientID))
		d.callback()
	case d.cfg.clientMetadataURL != "" && m.ClientMetadataSupported:
		d.ok(step, "%s, a metadata document", excerpt(d.cfg.clientMetadataURL))
		d.callback()
	case old != nil && old.Client.Source == sourceRegistered && old.Issuer == m.Issuer:
		d.ok(step, "%s, registered earlier", excerpt(old.Client.ID))
	case m.RegistrationEndpoint != "":
		d.ok(step, "can register itself at %s", shownAddress(m.RegistrationEndpoint))
	case m.ClientMetadataSupported:
		d.fail(step, withHint(d.auth.noClient(m),
			"give --client-id, or --client-metadata-url: metadata documents are accepted"))
	default:
		d.fail(step, d.auth.noClient(m))
	}
}

// machine says how a client without a user would show who it is.
func (d *doctor) machine(m *serverMetadata) {
	const step = "client"
	c, err := d.auth.newCredentials(&credentials{}, &authorization{server: *m})
	grants := m.GrantTypesSupported
	switch {
	case err != nil:
		d.fail(step, err)
	case len(grants) > 0 && !slices.Contains(grants, grantClientCredentials):
		d.fail(step, withHint(authErrorf("%s does not offer the grant %s", excerpt(m.Issuer),
			grantClientCredentials), "without --grant a user signs in"))
	default:
		d.ok(step, "%s, as given, by %s", excerpt(c.Client.ID),
			strings.TrimSpace(c.Client.AuthMethod+" "+c.Client.SigningAlg))
	}
}

// callback finds out whether the browser could come back to a given client.
func (d *doctor) callback() {
	if d.cfg.device {
		return // it does not come back
	}
	cb, err := listenForGivenClient(d.cfg.redirectURI)
	if err != nil {
		d.fail("callback", err)
		return
	}
	cb.close()
	d.ok("callback", "%s, to be registered for the client", cb.redirect)
}

// cachedToken returns the credentials to say hello with, nil if there are none to be used.
func (d *doctor) cachedToken(first *firstAnswer) *credentials {
	const step = "cached token"
	if d.auth == nil {
		d.skip(step, "OAuth is off: --header gives an Authorization of your own")
		return nil
	}
	c, err := d.store.look(d.auth.key)
	d.lastSignIn()
	now := time.Now()
	switch {
	case err != nil:
		d.fail(step, withHint(err, "%s", d.cfg.typed("login")))
		return nil
	case c != nil && !d.auth.usable(c):
		d.skip(step, "it is of another client, %s", excerpt(c.Client.ID))
	case c == nil || !c.state(now).isThere:
		d.skip(step, "none")
		if d.failed != nil || first.header == nil {
			return nil
		}
	case c.state(now).isOver:
		d.skip(step, "%s", tokenWords(c, now))
		if c.state(now).isUsable {
			return nil
		}
	default:
		d.ok(step, "%s", tokenWords(c, now))
		return c
	}
	d.hint("%s", d.cfg.typed("login"))
	return nil
}

// lastSignIn reports a sign-in that failed, unless a later one brought a token.
func (d *doctor) lastSignIn() {
	last := d.store.loadLogin(d.auth.key)
	if last.Error == "" {
		return
	}
	d.skip("last sign-in", "failed %s ago: %s", inWords(time.Since(last.Ended)), excerpt(last.Error))
	if last.Hint != "" {
		d.hint("%s", excerpt(last.Hint))
	}
}

// hello opens a session as a client would, through the proxy itself, and ends it.
func (d *doctor) hello(ctx context.Context, first *firstAnswer, held *credentials) {
	const step = "initialize"
	switch {
	case first == nil:
		d.skip(step, "not tried")
		return
	case first.header != nil && held == nil:
		d.skip(step, "not tried without a token")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cfg := d.cfg
	if held != nil {
		cfg = cfg.withToken(held)
	}
	var out bytes.Buffer
	p := newProxy(cfg, d.app.client, nil, &lineWriter{w: &out, stop: func(error) {}}, nil, nil)
	const hello = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{},` +
		`"protocolVersion":"2025-11-25","clientInfo":{"name":"mcp-proxy doctor","version":"1"}}}`
	if err := p.serve(ctx, strings.NewReader(hello)); err != nil {
		d.fail(step, err)
		return
	}
	answer := newDocument(out.Bytes())
	if answer.result == nil {
		message, _ := unquote(member(answer.error, "message"))
		d.fail(step, d.refusedHello(message, member(answer.error, "data", "httpStatus")))
		return
	}
	words := ""
	for _, name := range []string{"name", "version"} {
		text, _ := unquote(member(answer.result, "serverInfo", name))
		words += excerpt(text) + " "
	}
	revision, _ := unquote(member(answer.result, "protocolVersion"))
	if p.bridge.peers.Load() != nil {
		revision = bridgeVersion
	}
	d.ok(step, "%s", words+"speaks revision "+excerpt(revision))
}

// refusedHello is an error answer of the server's, or of the proxy itself.
func (d *doctor) refusedHello(message string, status []byte) error {
	own, isOwn := strings.CutPrefix(message, "mcp-proxy: ")
	text, hint, _ := strings.Cut(own, "; hint: ")
	switch {
	case string(status) == "401":
		return withHint(authErrorf("%s refuses the token", d.cfg.server.Host), "%s", d.cfg.typed("login"))
	case isOwn:
		return withHint(errors.New(excerpt(text)), "%s", excerpt(hint))
	}
	return fmt.Errorf("%s refuses it: %s", d.cfg.server.Host, excerpt(message))
}
