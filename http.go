package main

// The HTTP clients: one for the MCP server, one for authorization. They know
// dialling, TLS, environment proxies, redirects, cookies and what a network
// error means; they know nothing of JSON-RPC or tokens.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	connectTimeout  = 10 * time.Second // to dial, and again to agree on TLS
	idleConnTimeout = 90 * time.Second
	// net/http keeps 2 idle connections a host by default: with more calls in
	// flight every one beyond would dial anew (measured: 12,600 instead of 793 calls/s).
	maxIdlePerHost = 256
	maxRedirects   = 5
	maxDocument    = 1 << 20         // bytes, of an answer that is read whole
	sleepSlack     = 5 * time.Second // of the wall clock before the monotonic one
)

// isLoopback reports whether host is this machine by name or by literal
// address. Names are not resolved: what a resolver says is not to be trusted.
func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

func newTransport(c *config) (*http.Transport, error) {
	log.SetOutput(io.Discard) // net/http says there what it does not understand, in the server's words
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.caCert != nil {
		if settings.RootCAs, _ = x509.SystemCertPool(); settings.RootCAs == nil { // not readable
			settings.RootCAs = x509.NewCertPool()
		}
		if !settings.RootCAs.AppendCertsFromPEM(c.caCert) {
			return nil, withHint(usagef("--ca-cert: no certificate in the file"),
				"the file must hold PEM blocks: -----BEGIN CERTIFICATE-----")
		}
	}
	if c.clientCert != nil {
		pair, err := tls.X509KeyPair(c.clientCert, c.clientKey)
		if err != nil {
			return nil, withHint(usagef("--client-cert: %w", err),
				"both files must be PEM and belong together")
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	// Since Go 1.23 KeepAlive is the time before the first probe alone, and the rest of it has no
	// name that Go 1.21 knows: controlSocket sets it all.
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: -1, Control: controlSocket}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment, // never for loopback
		DialContext:         dialer.DialContext,
		TLSClientConfig:     settings,
		TLSHandshakeTimeout: connectTimeout,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // what packs an event stream holds events back until its end
		MaxIdleConnsPerHost: maxIdlePerHost,
		IdleConnTimeout:     idleConnTimeout,
	}, nil
}

// mcpClient sends requests to the MCP server. It keeps cookies in memory, for this origin alone:
// load balancers stick by cookie. It follows 301, 307 and 308 within the origin, with the message:
// servers mean a slash that is missing in the path (nginx, Starlette). Elsewhere the token would be
// shown to who it was not made for (OAuth 2.1, section 7.1.3); behind 302 and 303 is a login page.
// An http.Client would make a GET of a POST that gets 301, as browsers do, and copies the headers
// of every request for a redirect that hardly one gets (3 % of a call's CPU).
type mcpClient struct {
	via    http.RoundTripper
	server *url.URL
	jar    *boundedJar
}

func newMCPClient(server *url.URL, via http.RoundTripper) *mcpClient {
	all, _ := cookiejar.New(nil) // its only error is for a wrong option
	return &mcpClient{via, server, &boundedJar{Jar: all, most: 180, known: map[string]bool{}}}
}

// do sends a request that has GetBody. moved reports whether the answer came by permanent redirects
// alone (RFC 9110, sections 15.4.2 and 15.4.9): frameworks send them for a missing slash.
func (c *mcpClient) do(req *http.Request) (resp *http.Response, moved bool, err error) {
	own := req.Header["Cookie"] // the user's
	for redirects := 0; ; redirects++ {
		for _, cookie := range c.jar.Cookies(req.URL) {
			req.AddCookie(cookie)
		}
		if resp, err = c.via.RoundTrip(req); err != nil {
			return nil, false, err
		}
		c.jar.SetCookies(req.URL, resp.Cookies())
		to, err := resp.Location()
		if err != nil || redirects == maxRedirects || !sameOrigin(c.server, to) ||
			!slices.Contains([]int{301, 307, 308}, resp.StatusCode) {
			return resp, moved, nil
		}
		moved = (moved || redirects == 0) && resp.StatusCode != http.StatusTemporaryRedirect
		discard(resp)
		req = req.Clone(req.Context())
		req.URL, req.Host, req.Header["Cookie"] = to, to.Host, own
		req.Body, _ = req.GetBody() // of bytes in memory: it cannot fail
	}
}

// boundedJar keeps what browsers keep of a site.
type boundedJar struct {
	*cookiejar.Jar
	most  int        // cookies
	mu    sync.Mutex // guards known
	known map[string]bool
}

func (j *boundedJar) Cookies(u *url.URL) (cookies []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.known) > 0 { // else the jar would take the address apart for nothing
		cookies = j.Jar.Cookies(u)
	}
	return cookies
}

func (j *boundedJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	const maxSize = 4096
	j.mu.Lock()
	defer j.mu.Unlock()
	var kept []*http.Cookie
	for _, c := range cookies {
		key := c.Name + ";" + c.Path + ";" + c.Domain
		if len(c.Value)+len(key) <= maxSize && (j.known[key] || len(j.known) < j.most) {
			j.known[key] = true
			kept = append(kept, c)
		}
	}
	j.Jar.SetCookies(u, kept)
}

func sameOrigin(a, b *url.URL) bool {
	return a == b || strings.EqualFold(a.Scheme, b.Scheme) &&
		strings.EqualFold(a.Hostname(), b.Hostname()) && portOf(a) == portOf(b)
}

var defaultPorts = map[string]string{"https": "443", "http": "80"}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return defaultPorts[strings.ToLower(u.Scheme)]
}

// origin is in the canonical form: lower case, no default port.
func origin(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	return scheme + "://" + strings.TrimSuffix(strings.TrimSuffix(host, ":"+defaultPorts[scheme]), ":")
}

// redialer serves both clients, so that connections to one origin are shared. It leaves the old
// connections behind after the machine slept: their peers are gone, and a request on one of them
// would wait for an answer that never comes.
type redialer struct {
	server *url.URL // nil for a command about all that is cached
	// clock tells how far the wall clock is ahead of the monotonic one, which stands still where the
	// machine sleeps (but on Windows, which notices dead connections soon by itself).
	clock func() time.Duration

	mu          sync.Mutex // guards what follows
	own, others *http.Transport
	ahead       time.Duration // at the last request
}

// newRedialer shows the client certificate, which says who the user is, to the server alone.
func newRedialer(c *config) (*redialer, error) {
	own, err := newTransport(c)
	if err != nil {
		return nil, err
	}
	others := own.Clone()
	others.TLSClientConfig.Certificates = nil
	began := time.Now()
	return &redialer{server: c.server, own: own, others: others, clock: func() time.Duration {
		now := time.Now()
		return now.Round(0).Sub(began.Round(0)) - now.Sub(began) // Round(0) strips the monotonic reading
	}}, nil
}

// transport is the one for a request that is made now. After a sleep it is another: an HTTP/2
// connection with an open stream would not count as idle, and would be used for what comes.
func (r *redialer) transport(to *url.URL) *http.Transport {
	ahead := r.clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if ahead-r.ahead > sleepSlack {
		r.own.CloseIdleConnections()
		r.others.CloseIdleConnections()
		r.own, r.others = r.own.Clone(), r.others.Clone()
	}
	r.ahead = ahead
	if r.server != nil && sameOrigin(r.server, to) {
		return r.own
	}
	return r.others
}

func (r *redialer) RoundTrip(req *http.Request) (*http.Response, error) {
	var trace struct {
		httptrace.ClientTrace
		connected atomic.Bool
	}
	trace.GotConn = func(httptrace.GotConnInfo) { trace.connected.Store(true) }
	ctx := httptrace.WithClientTrace(req.Context(), &trace.ClientTrace)
	resp, err := r.transport(req.URL).RoundTrip(req.WithContext(ctx))
	if err != nil && !trace.connected.Load() && isHangUp(err) {
		// It broke while TLS or the way through a proxy was being agreed on: nothing was sent.
		err = &net.OpError{Op: "dial", Err: err}
	}
	return resp, err
}

// isHangUp reports whether the other side closed the connection.
func isHangUp(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && (op.Op == "read" || op.Op == "write") {
		return !op.Timeout()
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// traced makes a span of every attempt: redirects and retries are attempts of their own.
type traced struct {
	http.RoundTripper
	trace *tracer
	// propagate sends the W3C traceparent on where the client began the trace, but to no authorization
	// server. Our own traces are for this machine: a server would record every call whose parent says
	// "sampled", and a new value each time drives the token out of HTTP/2's header table (8 % CPU).
	propagate bool
}

func (t *traced) RoundTrip(req *http.Request) (*http.Response, error) {
	_, sp := t.trace.start(req.Context(), req.Method, spanClient)
	defer sp.end()
	sp.setString(attrHTTPMethod, req.Method)
	sp.setString(attrServerAddress, req.URL.Hostname())
	sp.setInt(attrServerPort, portOf(req.URL))
	if sp != nil && t.propagate && sp.shared {
		req = req.Clone(req.Context()) // a RoundTripper must not change the caller's request
		req.Header.Set("Traceparent", sp.traceparent())
	}
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		sp.fail(networkErrorType(err))
		return nil, err
	}
	status := strconv.Itoa(resp.StatusCode)
	sp.setInt(attrHTTPStatus, status)
	version := strings.TrimPrefix(resp.Proto, "HTTP/")
	sp.setString(attrProtocolVersion, strings.TrimSuffix(version, ".0"))
	if resp.StatusCode >= 400 {
		sp.fail(status)
	}
	return resp, nil
}

// noAnswer is an exchange that failed on the network: its text leaves the URL out, the cause is for
// errors.Is.
type noAnswer struct{ text, cause error }

func (n noAnswer) Error() string   { return n.text.Error() }
func (n noAnswer) Unwrap() []error { return []error{n.text, n.cause} }

// networkError says in the user's words why no answer came from host. It names who issued a
// certificate that is refused: somebody in between shows one of his own.
func networkError(host string, err error) error {
	var certificate *tls.CertificateVerificationError
	var unknownCA x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	issued := "its certificate, issued by "
	if errors.As(err, &certificate) {
		issued += issuerOf(certificate.UnverifiedCertificates[0])
	}
	kind, proxy := networkErrorType(err), environmentProxy(host)
	what, hint := plainNetworkError(err), ""
	// Or it is what the proxy said to CONNECT, for which net/http has no type.
	isBeforeProxy := proxy != "" && !isHangUp(err) &&
		slices.Contains([]string{"dns", "dial", "proxyconnect", otherError}, kind)
	switch {
	case errors.As(err, &unknownCA): // of a chain the last one that came
		what = "its certificate is signed by " + issuerOf(unknownCA.Cert) +
			", which this machine does not trust"
		hint = "a company's proxy or a private authority: give its certificate with --ca-cert FILE.pem"
	case errors.As(err, &wrongName):
		what = issued + ", is for another name: " +
			excerpt(strings.Join(wrongName.Certificate.DNSNames, ", "))
		hint = "use the name the certificate is for in --url; if it is a company proxy's, see what the " +
			"address shows in a browser"
	case certificate != nil:
		what = issued + ", is not valid (" + excerpt(certificate.Err.Error()) + ")"
		hint = "check this machine's clock; else the server's operator must renew it, or, if you trust " +
			"the issuer, give its certificate with --ca-cert FILE.pem"
	case isBeforeProxy:
		what = "through the proxy " + proxy + ": " + what
		hint = "check HTTPS_PROXY (http://USER:PASSWORD@HOST:PORT where the proxy wants to know who " +
			"asks); NO_PROXY=" + (&url.URL{Host: host}).Hostname() + " goes without it"
	case kind == "dns":
		what = "the name cannot be resolved"
		hint = "check the spelling of the URL, the network and the VPN; behind a company's proxy set " +
			"HTTPS_PROXY"
	case errors.As(err, new(tls.RecordHeaderError)), errors.Is(err, http.ErrSchemeMismatch):
		what, hint = "does not speak TLS", "check the port in the URL"
	case errors.Is(err, syscall.EMFILE):
		hint = "fewer calls at once, or a higher ulimit -n where the client is started"
	case wantsCertificate(err):
		hint = "the server may want a client certificate: --client-cert FILE.pem --client-key FILE.pem"
	case kind == "dial":
		hint = "check the host and the port in the URL; is the server up, is a VPN or a firewall in " +
			"between?"
	case errors.Is(err, context.DeadlineExceeded): // a dial that ends so has a hint
		what = "no answer in time"
	}
	return noAnswer{withHint(fmt.Errorf("%s: %s", host, what), "%s", hint), err}
}

// wantsCertificate reports whether the server broke off as those do that miss a client certificate,
// or refuse it: by an alert of TLS, of which net/http tells nothing with HTTP/2.
func wantsCertificate(err error) bool {
	text := plainNetworkError(err)
	return strings.HasPrefix(text, "remote error: ") && (strings.Contains(text, "certificate") ||
		strings.Contains(text, "handshake failure")) ||
		strings.HasSuffix(text, "http2: client conn could not be established")
}

func issuerOf(c *x509.Certificate) string { return excerpt(c.Issuer.String()) }

// environmentProxy is where requests to host go through, without its password; "" for none.
func environmentProxy(host string) string {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: host}})
	if proxy == nil || err != nil {
		return ""
	}
	return proxy.Host
}

// plainNetworkError leaves the method, the URL and its query out: the outer
// layers of net/http's errors repeat them.
func plainNetworkError(err error) string {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var op *net.OpError
	var call *os.SyscallError // "connect: connection refused"
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed"
	case errors.As(err, &op) && errors.As(op.Err, &call):
		return op.Op + ": " + call.Err.Error()
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	case strings.HasPrefix(err.Error(), "stream error: "): // of HTTP/2, whose type is not exported
		return "the answer was broken off"
	}
	// net/http quotes what the server sent: a status line, a Location.
	text, _, _ := strings.Cut(err.Error(), "\"")
	return excerpt(text)
}

const otherError = "_OTHER" // as the conventions call it

// networkErrorType is the low-cardinality error.type of a span.
func networkErrorType(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.As(err, new(*net.DNSError)):
		return "dns"
	case errors.As(err, &op):
		return op.Op
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return otherError
}

// notSent reports whether err came before any byte of the request was written:
// only then may any request be sent again.
func notSent(err error) bool {
	var op *net.OpError
	// net/http exports no value for it: the server had closed the kept
	// connection before the request went out on it.
	return errors.As(err, &op) && op.Op == "dial" ||
		err != nil && strings.HasSuffix(err.Error(), "http: server closed idle connection")
}

// boundedRequest sends one request to an authorization server or for metadata and returns the
// answer, both bounded. It carries no cookie of the MCP server's and follows only what redirect
// allows.
func boundedRequest(
	ctx context.Context, client *http.Client, req *http.Request, timeout time.Duration,
	redirect func(*http.Request, []*http.Request) error,
) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req.Header.Set("Accept", "application/json")
	c := *client
	c.CheckRedirect, c.Jar = redirect, nil
	resp, err := c.Do(req.WithContext(ctx))
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	}
	// A server that sees us hang up may end its answer as if it were whole.
	switch err = errors.Join(err, ctx.Err()); {
	case err != nil:
		return 0, nil, networkError(excerpt(req.URL.Host), err)
	case len(body) > maxDocument:
		return 0, nil, fmt.Errorf("%s: the answer is larger than 1 MiB", excerpt(req.URL.Host))
	}
	return resp.StatusCode, body, nil
}

// noRedirect is for requests that hold secrets, or that would register us somewhere else.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// checkEndpoint accepts an absolute https URL, or http on a loopback host with allowHTTP, of
// characters that RFC 3986 allows, without user info and fragment. Its errors follow on a name of
// the URL ("token_endpoint is …") and hold nothing of it.
func checkEndpoint(raw string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	return u, firstBroken([]rule{
		{raw == "", "is missing", ""},
		{!inURL().MatchString(raw), "has characters that no URL has", ""},
		{u.Scheme != "https" && !(allowHTTP && u.Scheme == "http" && isLoopback(u.Hostname())),
			"is not https", ""},
		{!inHost().MatchString(u.Host) || !isAddress(u),
			"has no host that is a name or an address, or a port that cannot be", ""},
		{u.User != nil, "has user info", ""},
		{strings.Contains(raw, "#"), "has a fragment", ""},
	}...)
}

// A host has names of the DNS and addresses with a port: net/url lets $( ) and & through, and
// control characters that were percent-encoded.
var (
	inURL  = onceNeeded(`^[0-9A-Za-z\-._~:/?#\[\]@!$&'()*+,;=%]*$`)
	inHost = onceNeeded(`^[0-9A-Za-z\-._:\[\]]*$`)
)

// isAddress wants a name or an address, and a port that there can be (RFC 3986, section 3.2).
// net/url takes "a::", whose host would be "a:".
func isAddress(u *url.URL) bool {
	host := u.Hostname()
	if _, err := strconv.ParseUint("0"+u.Port(), 10, 16); err != nil {
		return false
	}
	if strings.HasPrefix(u.Host, "[") {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is6()
	}
	return host != "" && !strings.ContainsAny(host, ":[]")
}
