package main

// The command doctor: the way of a first message, step by step, as serving would go it. It opens no
// browser, registers nothing, refreshes nothing and writes nothing.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
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
	"server metadata":   "it names the issuer asked for; endpoints are https (RFC 8414, section 3)",
	"PKCE": "code_challenge_methods_supported lists S256 " +
		"(MCP, Authorization Code Protection)",
}

// doctor returns the first failure, which is printed already.
func (a *app) doctor(ctx context.Context, stdout io.Writer) error {
	d := &doctor{app: a, out: stdout}
	fmt.Fprintf(d.out, "mcp-proxy %s, %s\n", programVersion(), shownServer(a.cfg.server.String()))
	challenged := d.reach(ctx)
	isReached := d.failed == nil
	if challenged != nil {
		d.authorization(ctx, challenged)
	}
	switch held := d.cachedToken(challenged); {
	case !isReached:
		d.skip("initialize", "not tried")
	case challenged != nil && held == nil:
		d.skip("initialize", "not tried without a token")
	default:
		d.hello(ctx, held)
	}
	switch {
	case d.todo != "":
		fmt.Fprintf(d.out, "first thing to do: %s\n", d.todo)
	case d.failed != nil:
		fmt.Fprintf(d.out, "first thing to do: ask who runs %s: %v\n", a.cfg.server.Host, d.failed)
	default:
		fmt.Fprintln(d.out, "all good")
	}
	if d.failed != nil {
		return exitError{errReported, exitCode(d.failed)}
	}
	return nil
}

func (d *doctor) ok(step, words string)   { fmt.Fprintf(d.out, "ok    %-18s  %s\n", step, words) }
func (d *doctor) skip(step, words string) { fmt.Fprintf(d.out, "-     %-18s  %s\n", step, words) }

// found is for a step that need not bring anything.
func (d *doctor) found(step, words, none string) {
	if words != "" {
		d.ok(step, words)
	} else {
		d.skip(step, none)
	}
}

func (d *doctor) fail(step string, err error) {
	fmt.Fprintf(d.out, "FAIL  %-18s  %v\n", step, err)
	if rule := rules[step]; rule != "" && errors.As(err, new(authError)) {
		fmt.Fprintf(d.out, "%26srule: %s\n", "", rule)
	}
	d.hint(hintOf(err))
	if d.failed == nil {
		d.failed = err
	}
}

func (d *doctor) hint(hint string) {
	if hint != "" {
		fmt.Fprintf(d.out, "%26shint: %s\n", "", hint)
	}
	if d.todo == "" {
		d.todo = hint
	}
}

const (
	probeTimeout = 20 * time.Second // for the first answer
	// A server of any revision may refuse this request but has no reason to act on it. One that wants
	// a token says so.
	probeMessage = `{"jsonrpc":"2.0","id":1,"method":"ping"}`
)

// askFirst sends a message without a token. It returns what was answered, for people, and the
// header of a 401. An answer that is no MCP server's is an error.
func (a *app) askFirst(ctx context.Context) (said string, challenged http.Header, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	up := &upstream{server: a.cfg.server, headers: a.cfg.headers, client: a.client, log: a.log}
	begun := time.Now()
	resp, err := up.do(up.post(ctx, up.server, &message{raw: []byte(probeMessage)}), "")
	if err != nil {
		return "", nil, networkError(up.server.Host, err)
	}
	status := resp.StatusCode
	said = fmt.Sprintf("%d %s by %s in %v", status, http.StatusText(status), resp.Proto,
		time.Since(begun).Round(time.Millisecond))
	if status == http.StatusUnauthorized {
		challenged = resp.Header
	}
	if challenged != nil || status < 300 {
		discard(resp)
		return said, challenged, nil
	}
	refusal := up.refusal(resp)
	if refusal.reply != nil && status < 500 {
		return said + ", as it may: the probe is a ping without a session", nil, nil
	}
	// Servers of revision 2024-11-05 may refuse POST before they look for a token.
	if slices.Contains([]int{400, 404, 405}, status) {
		get := up.request(ctx, http.MethodGet, up.server, nil)
		get.Header["Accept"] = eventsOnly
		if resp, err := up.do(get, ""); err == nil {
			resp.Body.Close() // not read: it has no end
			said += fmt.Sprintf(" to POST, %d to GET", resp.StatusCode)
			switch {
			case resp.StatusCode == http.StatusUnauthorized:
				return said, resp.Header, nil
			case resp.StatusCode == http.StatusOK && mediaType(resp) == eventStream:
				return said + ": a server of revision 2024-11-05", nil, nil
			}
		}
	}
	code, hint := 5, hintOf(refusal)
	switch {
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		code = 1
	case status == http.StatusForbidden:
		code = 2
	case status >= 500:
		code = 3
	}
	if hint == "" && a.cfg.command != "doctor" {
		hint = a.cfg.typed("doctor") + " looks at every step"
	}
	err = errors.New(strings.TrimPrefix(refusal.Error(), "mcp-proxy: "))
	return "", nil, withHint(exitError{err, code}, "%s", hint)
}

// reach sends the first message and prints how far it came. It returns the header of a 401, if the
// rest of the way depends on no other answer.
func (d *doctor) reach(ctx context.Context) http.Header {
	server, proxy := d.cfg.server, environmentProxy(d.cfg.server.Host)
	switch {
	case proxy != "":
		d.skip("DNS", "left to the proxy "+proxy+", which the environment names")
	case net.ParseIP(server.Hostname()) != nil:
		d.skip("DNS", server.Hostname()+" is an address")
	default:
		addresses, err := net.DefaultResolver.LookupHost(ctx, server.Hostname())
		if err != nil {
			d.fail("DNS", networkError(server.Host, err))
			return nil
		}
		d.ok("DNS", strings.Join(addresses, ", "))
	}
	// Dialling goes on in the background after one of several addresses has answered.
	var connected atomic.Pointer[string]
	var secured atomic.Pointer[tls.ConnectionState]
	said, challenged, err := d.askFirst(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectDone: func(_, address string, err error) {
			if err == nil {
				connected.Store(&address)
			}
		},
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			if err == nil {
				secured.Store(&state)
			}
		},
	}))
	var refused *tls.CertificateVerificationError
	address, state, isRefused := connected.Load(), secured.Load(), errors.As(err, &refused)
	wantsTLS := server.Scheme == "https" && state == nil
	if address == nil || proxy != "" && wantsTLS && !isRefused {
		d.fail("connection", err)
		return nil
	}
	d.ok("connection", *address)
	switch {
	case state != nil:
		d.ok("TLS", tls.VersionName(state.Version)+", "+issuedWords(state.PeerCertificates))
	case wantsTLS:
		d.fail("TLS", err)
		if isRefused { // somebody in between shows a certificate of his own
			fmt.Fprintf(d.out, "%26spresented: %s\n", "", issuedWords(refused.UnverifiedCertificates))
		}
		return nil
	default:
		d.skip("TLS", "none, as --allow-http allows")
	}
	if challenged != nil && d.auth == nil {
		err = withHint(authErrorf("%s", said), "the Authorization header given with --header is refused")
	}
	if err != nil {
		d.fail("first answer", err)
		return nil
	}
	d.ok("first answer", said)
	if challenged == nil {
		d.skip("challenge", "none: the server lets this message pass without a token")
	}
	return challenged
}

func issuedWords(chain []*x509.Certificate) string {
	return fmt.Sprintf("%s, issued by %s, good until %s", excerpt(chain[0].Subject.String()),
		issuerOf(chain[0]), chain[0].NotAfter.UTC().Format("2006-01-02"))
}

// authorization goes the way from a 401 to the browser.
func (d *doctor) authorization(ctx context.Context, header http.Header) {
	o, server := d.auth, d.cfg.server
	ch, isOAuth := parseChallenge(header)
	if !isOAuth {
		d.fail("challenge", otherScheme(server.Host, header))
		return
	}
	words := ""
	if ch.ResourceMetadata != "" {
		words += ", metadata at " + excerpt(ch.ResourceMetadata)
	}
	if ch.Scope != "" {
		words += ", scope " + excerpt(ch.Scope)
	}
	if words != "" {
		words = "Bearer" + words
	}
	d.found("challenge", words, "names neither metadata nor scope: the well-known places are tried")
	prm, err := o.discover.resourceMetadata(ctx, server, ch)
	switch {
	case err != nil:
		d.fail("resource metadata", unusable(err))
		return
	case prm == nil:
		d.skip("resource metadata", "none: as in 2025-03-26, "+server.Host+" itself gives tokens")
	default:
		resource := excerpt(prm.Resource)
		d.ok("resource metadata", resource+", tokens by "+
			excerpt(strings.Join(prm.AuthorizationServers, ", ")))
		if u, err := url.Parse(prm.Resource); err == nil && len(u.Path) < len(server.Path)-1 {
			d.skip("resource", "a token is good for everything at "+resource)
		}
	}
	found, err := o.discover.serverFor(ctx, server, prm)
	if err != nil {
		d.fail("server metadata", unusable(err))
		return
	}
	m := &found.server
	issuer := excerpt(m.Issuer)
	switch {
	case m.vouched:
		d.ok("server metadata", issuer+", as --auth-metadata says")
	case m.defaulted:
		d.skip("server metadata", "none: /authorize, /token and /register at "+issuer+" are tried")
	default:
		d.ok("server metadata", issuer)
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
	d.found("without a browser", strings.Join(offered, ", "),
		"neither device codes nor client credentials are offered")
	cached, _ := d.store.look(o.key)
	d.client(m, cached)
	_, scope := o.scopes(ch, cached, found)
	d.found("scope", excerpt(scope), "none is named, none is asked for")
}

// client says which client a sign-in would be made as, and whether the browser could come back to
// it.
func (d *doctor) client(m *serverMetadata, cached *credentials) {
	const step = "client"
	c, err := d.auth.newCredentials(cached, &authorization{server: *m})
	if err != nil {
		d.fail(step, err)
		return
	}
	id, grants := excerpt(c.Client.ID), m.GrantTypesSupported
	switch {
	case d.cfg.unattended() && len(grants) > 0 && !slices.Contains(grants, grantClientCredentials):
		d.fail(step, withHint(authErrorf("%s does not offer the grant %s", excerpt(m.Issuer),
			grantClientCredentials), "without --grant a user signs in"))
	case d.cfg.unattended():
		d.ok(step, id+", as given, by "+strings.TrimSpace(c.Client.AuthMethod+" "+c.Client.SigningAlg))
	case c.Client.Source == sourceGiven:
		d.ok(step, id+", as given")
	case id != "":
		d.ok(step, id+", a metadata document")
	case cached.Client.Source == sourceRegistered && cached.Issuer == m.Issuer:
		d.ok(step, excerpt(cached.Client.ID)+", registered earlier")
	case m.RegistrationEndpoint != "":
		d.ok(step, "can register itself at "+excerpt(shownServer(m.RegistrationEndpoint)))
	case m.ClientMetadataSupported:
		d.fail(step, withHint(d.auth.noClient(m),
			"give --client-id, or --client-metadata-url: metadata documents are accepted"))
	default:
		d.fail(step, d.auth.noClient(m))
	}
	if id == "" || d.cfg.unattended() || d.cfg.device {
		return
	}
	cb, err := listenForGivenClient(d.cfg.redirectURI, firstGivenPort, lastGivenPort)
	if err != nil {
		d.fail("callback", err)
		return
	}
	cb.close()
	d.ok("callback", cb.redirect.String()+", to be registered for the client")
}

// cachedToken returns the credentials to say hello with, nil if there are none to be used.
func (d *doctor) cachedToken(challenged http.Header) *credentials {
	const step = "cached token"
	if d.auth == nil {
		d.skip(step, "OAuth is off: --header gives an Authorization of your own")
		return nil
	}
	c, err := d.store.look(d.auth.key)
	if last := d.store.loadLogin(d.auth.key); last.Error != "" { // and no later one brought a token
		d.skip("last sign-in", "failed "+inWords(time.Since(last.Ended))+" ago: "+excerpt(last.Error))
		d.hint(excerpt(last.Hint))
	}
	now, login := time.Now(), d.cfg.typed("login")
	switch {
	case err != nil:
		d.fail(step, withHint(err, "%s", login))
		return nil
	case !d.auth.usable(c):
		d.skip(step, "it is of another client, "+excerpt(c.Client.ID))
	case !c.state(now).isThere:
		d.skip(step, "none")
		if d.failed != nil || challenged == nil {
			return nil
		}
	case !c.state(now).isOver:
		d.ok(step, tokenWords(c, now))
		return c
	default:
		d.skip(step, tokenWords(c, now))
		if c.state(now).isUsable {
			return nil
		}
	}
	d.hint(login)
	return nil
}

// hello opens a session as a client would, through the proxy itself, and ends it.
func (d *doctor) hello(ctx context.Context, held *credentials) {
	const step = "initialize"
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
	_ = p.serve(ctx, strings.NewReader(hello)) // it reads and writes memory alone
	answer := newDocument(out.Bytes())
	text := func(path ...string) string {
		words, _ := unquote(member(answer.result, path...))
		return excerpt(words)
	}
	if answer.result != nil {
		revision := text("protocolVersion")
		if p.bridge.peers.Load() != nil {
			revision = bridgeVersion
		}
		server := text("serverInfo", "name") + " " + text("serverInfo", "version")
		d.ok(step, server+" speaks revision "+revision)
		return
	}
	message, _ := unquote(member(answer.error, "message"))
	own, isOwn := strings.CutPrefix(message, "mcp-proxy: ")
	err := fmt.Errorf("%s refuses it: %s", d.cfg.server.Host, excerpt(message))
	if status := member(answer.error, "data", "httpStatus"); string(status) == "401" {
		err = withHint(authErrorf("%s refuses the token", d.cfg.server.Host), "%s", d.cfg.typed("login"))
	} else if isOwn { // it is not the server's
		words, hint, _ := strings.Cut(own, "; hint: ")
		err = withHint(errors.New(excerpt(words)), "%s", excerpt(hint))
	}
	d.fail(step, err)
}
