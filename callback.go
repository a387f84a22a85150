package main

// The loopback callback: where the browser brings the authorization response,
// what makes a response valid, and the pages that the user sees. Everybody on
// this machine, and every page in the browser, can send requests here.

import (
	"bufio"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	givenRedirectPath = "/oauth2callback"
	ownRedirectPath   = "/callback"
	startPath         = "/start/"
	firstGivenPort    = 3000
	lastGivenPort     = 3010
	callbackTimeout   = 10 * time.Second // for reading one request
	pageTimeout       = 40 * time.Second // for the page to wait for the token
	lingerEnded       = 30 * time.Second // for a page that is loaded again
	lingerExpired     = 3 * time.Minute  // for a user who comes too late
	makeWayTimeout    = 300 * time.Millisecond
	maxCallbackHeader = 64 << 10 // bytes
)

// callback receives the authorization response on the loopback interface.
type callback struct {
	redirect  *url.URL
	listeners []net.Listener
	server    *http.Server

	expected
	noState sync.Once // guards telling of an error that came without a state

	// What the browser that we open is given is an address of our own, good once.
	// Everybody on this machine can read the arguments of a program, and what a
	// server chose is text that xdg-open, wslview or PowerShell may act on. The
	// address marks the browser with a cookie and leads on; without the cookie no
	// answer to it is taken (RFC 9700, section 4.7.1: state is bound to the user
	// agent).
	startPath string // /start/NONCE
	cookie    string

	mu      sync.Mutex           // guards what follows
	printed authorizationRequest // at the address that people are shown
	opened  authorizationRequest // in the browser that we open; without a state no answer is taken
	started bool                 // a browser has the cookie

	accepted chan struct{} // holds one: who puts it there is the first
	answers  chan authorizationAnswer
	waiting  chan error // of the answer that was taken last: what its page is to say

	last      atomic.Pointer[page] // how the sign-in ended
	leavePort context.CancelFunc   // set before last
}

// expected says what a valid answer looks like, and what the pages name.
type expected struct {
	host     string // of the MCP server
	retry    string // the command to type for another sign-in
	issuer   string
	needsIss bool
	notify   func(text string) // tells everybody who waits
}

type authorizationRequest struct{ url, state string }

type authorizationAnswer struct {
	code string
	err  error
	page chan error // holds one
}

// errNextRequest sends the browser that waits for its page to the next request.
var errNextRequest = errors.New("the sign-in goes on")

// listenForGivenClient listens where a client that was registered by hand
// expects it: exactly where the user said, else on the first free of the ports
// that the documentation names for registering.
func listenForGivenClient(exact *url.URL) (*callback, error) {
	if exact != nil {
		cb, err := listenAt(exact)
		if err != nil {
			return nil, withHint(
				fmt.Errorf("the redirect URI %s cannot be used: port %s is in use", exact, exact.Port()),
				"end the program that uses it, or register another redirect URI "+
					"and give it with --redirect-uri")
		}
		return cb, nil
	}
	for port := firstGivenPort; port <= lastGivenPort; port++ {
		host := net.JoinHostPort("localhost", strconv.Itoa(port))
		cb, err := listenAt(&url.URL{Scheme: "http", Host: host, Path: givenRedirectPath})
		if err == nil {
			return cb, nil
		}
	}
	return nil, withHint(
		fmt.Errorf("the ports %d to %d on localhost are all in use", firstGivenPort, lastGivenPort),
		"end a program that uses one of them, or give --redirect-uri http://localhost:PORT%s",
		givenRedirectPath)
}

// listenForRegistration takes any free port where the user named none: it is
// registered together with it.
func listenForRegistration(given *url.URL, anyPort bool, host, path string) (*callback, error) {
	redirect := url.URL{Scheme: "http", Host: host, Path: path}
	if given != nil {
		cb, err := listenForGivenClient(given)
		if err == nil || !anyPort {
			return cb, err
		}
		redirect = *given
	}
	redirect.Host = net.JoinHostPort(redirect.Hostname(), "0")
	cb, err := listenOn(&redirect)
	if err != nil {
		return nil, fmt.Errorf("listen for the sign-in: %w", err)
	}
	return cb, nil
}

// redirectPath differs between authorization servers, so that a code cannot
// come back to the wrong sign-in (RFC 9700, section 4.4.2.2).
func redirectPath(issuer string) string {
	return ownRedirectPath + "/" + challengeS256(issuer)[:16]
}

// listenAt listens on the redirect URI's own port.
func listenAt(redirect *url.URL) (*callback, error) {
	cb, err := listenOn(redirect)
	if err != nil && makeWay(redirect) {
		cb, err = listenOn(redirect)
	}
	return cb, err
}

// listenOn takes a free port for port 0. localhost may mean either loopback
// address to a browser, so both are taken; a machine without IPv6 has one.
func listenOn(redirect *url.URL) (*callback, error) {
	hosts, port := []string{redirect.Hostname()}, portOf(redirect)
	if strings.EqualFold(hosts[0], "localhost") {
		hosts = []string{"127.0.0.1", "::1"}
	}
	cb := newCallback(redirect)
	for i, host := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil && i > 0 && !hasIPv6() {
			break
		}
		if err != nil {
			cb.stopListening()
			return nil, err
		}
		cb.listeners = append(cb.listeners, l)
		if port == "0" {
			port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
			redirect.Host = net.JoinHostPort(redirect.Hostname(), port)
		}
	}
	return cb, nil
}

func newCallback(redirect *url.URL) *callback {
	cb := &callback{
		redirect: redirect,
		accepted: make(chan struct{}, 1), answers: make(chan authorizationAnswer, 1),
	}
	cb.server = &http.Server{
		Handler: cb, ReadTimeout: callbackTimeout, MaxHeaderBytes: maxCallbackHeader,
	}
	return cb
}

// makeWay asks a process of ours that only shows how a sign-in ended to leave the
// port. To any other program it is a request for a page that does not exist.
func makeWay(redirect *url.URL) bool {
	ctx, cancel := context.WithTimeout(context.Background(), makeWayTimeout)
	defer cancel()
	status, err := getDirectly(ctx, "http://"+redirect.Host+startPath)
	return err == nil && status == http.StatusNoContent
}

// getDirectly sends a request to this machine, through no proxy.
func getDirectly(ctx context.Context, address string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, err
	}
	discard(resp)
	return resp.StatusCode, nil
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
	}
	return err == nil
}

// serve begins to wait for an answer. start is what the browser is to be given.
func (cb *callback) serve(e expected, printed, opened authorizationRequest) (start string) {
	cb.expected, cb.printed, cb.opened = e, printed, opened
	cb.startPath, cb.cookie = startPath+newState(), newState()
	for _, l := range cb.listeners {
		go cb.server.Serve(l) // ends with close
	}
	return "http://" + cb.redirect.Host + cb.startPath
}

// serving reports whether a browser may be on its way here already.
func (cb *callback) serving() bool { return cb.startPath != "" }

// wait returns the code of the first valid answer.
func (cb *callback) wait(ctx context.Context) (string, error) {
	select {
	case a := <-cb.answers:
		cb.waiting = a.page
		return a.code, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// outcome tells the page of the answer that was taken how the sign-in ended.
func (cb *callback) outcome(err error) {
	if cb.waiting != nil {
		cb.waiting <- err
		cb.waiting = nil
	}
}

// again sends the browser of the answer that was taken to the next request.
func (cb *callback) again(printed, opened authorizationRequest) {
	cb.mu.Lock()
	cb.printed = printed
	if cb.opened.state != "" {
		cb.opened = opened
	}
	cb.mu.Unlock()
	<-cb.accepted
	cb.outcome(errNextRequest)
}

// linger shows how the sign-in ended to whoever comes back or comes too late,
// until ctx ends or another sign-in wants the port.
func (cb *callback) linger(ctx context.Context, err error) {
	stay, last := lingerEnded, cb.endPage(err)
	select {
	case cb.accepted <- struct{}{}: // there was no answer, and none is taken any more
		if err != nil {
			stay, last = lingerExpired, pageExpired
		}
	default:
	}
	ctx, cb.leavePort = context.WithTimeout(ctx, stay)
	defer cb.leavePort()
	cb.last.Store(&last)
	<-ctx.Done()
}

// close lets the page that is being written reach the browser first.
func (cb *callback) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if cb.server.Shutdown(ctx) != nil {
		cb.server.Close()
	}
	cb.stopListening() // where nothing was served
}

func (cb *callback) stopListening() {
	for _, l := range cb.listeners {
		l.Close()
	}
}

// ServeHTTP takes one valid authorization response; everything else is
// refused and the wait goes on.
func (cb *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if cb.last.Load() != nil && r.URL.Path == startPath && navigation(r) {
		cb.stopListening()
		w.WriteHeader(http.StatusNoContent)
		cb.leavePort()
		return
	}
	status, page, next := cb.respond(w, r)
	if next != "" {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Referrer-Policy", "no-referrer")
		http.Redirect(w, r, next, http.StatusFound)
		return
	}
	writePage(w, status, page)
}

// respond returns a page, or the address to go on to.
func (cb *callback) respond(
	w http.ResponseWriter, r *http.Request,
) (status int, p page, next string) {
	const bad = http.StatusBadRequest
	start, q := equal(r.URL.EscapedPath(), cb.startPath), r.URL.Query()
	switch {
	case !start && !cb.isOurPath(r.URL) || r.Method != http.MethodGet:
		return http.StatusNotFound, pageStray, ""
	// Another name that leads here is DNS rebinding; an Origin is a script's
	// request, where a redirect is a navigation and has none.
	case !sameOrigin(cb.redirect, &url.URL{Scheme: "http", Host: r.Host}) || !navigation(r):
		return bad, pageStray, ""
	case start:
		return bad, pageOtherBrowser, cb.leadOn(w, r)
	}
	for _, name := range []string{"state", "iss", "code", "error"} {
		if len(q[name]) > 1 { // RFC 6749, section 3.1: none may be there twice
			return bad, pageStray, ""
		}
	}
	state, failure := q.Get("state"), q.Get("error")
	cb.mu.Lock()
	isOpened, isPrinted := equal(state, cb.opened.state), equal(state, cb.printed.state)
	cb.mu.Unlock()
	switch {
	case state == "" && cb.isFromIssuer(q) && slices.Contains(errorCodes, failure):
		// Some servers forget the state of an error (the router of the TypeScript SDK).
		// Anybody can send this: the word is one of the known, and ends no sign-in.
		cb.noState.Do(func() {
			cb.notify("an answer to the sign-in has the error " + failure +
				" and no state: it was not taken")
		})
		return bad, pageNoState(failure, cb.retry), ""
	case !isOpened && !isPrinted:
		return bad, pageWrongState, ""
	case isOpened && !cb.hasCookie(r):
		return bad, pageOtherBrowser, ""
	case q.Get("code") == "" && failure == "":
		return bad, pageStray, ""
	}
	select {
	case cb.accepted <- struct{}{}:
	default:
		if last := cb.last.Load(); last != nil {
			return last.status, *last, ""
		}
		return bad, pageTwice, ""
	}
	a := cb.check(q)
	cb.answers <- a
	select {
	case err := <-a.page:
		if err == errNextRequest {
			cb.mu.Lock()
			defer cb.mu.Unlock()
			if isOpened {
				return 0, page{}, cb.opened.url
			}
			return 0, page{}, cb.printed.url
		}
		p = cb.endPage(err)
		if err != nil && a.err == nil {
			p.status = http.StatusBadGateway
		}
	case <-time.After(pageTimeout):
		p = cb.endPage(errors.New("the authorization server gave no token in time"))
		p.status = http.StatusGatewayTimeout
	}
	return p.status, p, ""
}

// leadOn marks the browser and returns the address to sign in at. A second browser
// means that somebody else on this machine may have read the address: then neither
// is trusted, and the address that people are shown is the only one.
func (cb *callback) leadOn(w http.ResponseWriter, r *http.Request) (next string) {
	cb.mu.Lock()
	defer cb.mu.Unlock()
	if cb.started && !cb.hasCookie(r) {
		cb.opened.state = ""
		return ""
	}
	cb.started = true
	http.SetCookie(w, &http.Cookie{
		Name: cb.cookieName(), Value: cb.cookie, Path: "/",
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	return cb.opened.url
}

// cookieName tells apart sign-ins that go on together: cookies know no port.
func (cb *callback) cookieName() string { return "mcp-proxy-" + cb.redirect.Port() }

func (cb *callback) hasCookie(r *http.Request) bool {
	c, err := r.Cookie(cb.cookieName())
	return err == nil && equal(c.Value, cb.cookie)
}

// equal compares with a secret, in constant time. No secret equals nothing.
func equal(got, secret string) bool {
	return secret != "" && subtle.ConstantTimeCompare([]byte(got), []byte(secret)) == 1
}

// isOurPath compares as written; browsers ask for "/" where there is none.
func (cb *callback) isOurPath(u *url.URL) bool {
	path := cb.redirect.EscapedPath()
	return u.EscapedPath() == path || path == "" && u.EscapedPath() == "/"
}

func navigation(r *http.Request) bool {
	origin, mode := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Mode")
	return (origin == "" || origin == "null") && (mode == "" || mode == "navigate")
}

// isFromIssuer applies RFC 9207, section 2.4, in the table of MCP 2026-07-28,
// "Authorization Response Validation".
func (cb *callback) isFromIssuer(q url.Values) bool {
	return q.Has("iss") && q.Get("iss") == cb.issuer || !q.Has("iss") && !cb.needsIss
}

// check looks at the issuer before anything else is used: an error of another
// server is neither acted on nor shown.
func (cb *callback) check(q url.Values) authorizationAnswer {
	a := authorizationAnswer{page: make(chan error, 1)}
	switch failure := q.Get("error"); {
	case !cb.isFromIssuer(q):
		err := authErrorf("the authorization response does not come from %s: refused",
			excerpt(cb.issuer))
		a.err = errorKind{err, "issuer_mismatch"}
	case failure != "":
		a.err = refusedByUser(failure, q.Get("error_description"))
	default:
		a.code = q.Get("code")
	}
	return a
}

var errDenied = errorKind{authErrorf("the sign-in was denied (%s)", codeDenied), codeDenied}

func refusedByUser(code, description string) error {
	if code == codeDenied {
		return withHint(errDenied, "try again, or mcp-proxy login, to be asked again")
	}
	err := error(authError{&responseError{excerpt(code), excerpt(description)}})
	// Entra ID (AADSTS9010010, AADSTS901002) wants no resource parameter.
	if code == "invalid_target" || strings.HasPrefix(description, "AADSTS901") {
		return withHint(err, "this authorization server takes no resource parameter: add --resource none")
	}
	return err
}

// responseError is an error of the authorization endpoint (RFC 6749, section
// 4.1.2.1), of a response that was found to be genuine.
type responseError struct{ code, description string }

func (e *responseError) Error() string {
	return "the authorization server refused the sign-in: " +
		strings.TrimSpace(e.code+" "+e.description)
}

type page struct {
	status      int // of a page that ends a sign-in
	title, text string
	next        string // what to do now
	command     string // and what to type for it; may be ""
}

const (
	closeWindow = "You can close this window."
	orRun       = "Try again from your application, or run this in a terminal:"
)

var (
	pageStray = page{title: "Not a sign-in", next: closeWindow,
		text: "This address only takes the answer to a sign-in that mcp-proxy began."}
	pageWrongState = page{title: "Not this sign-in",
		text: "The answer does not belong to the sign-in that is waiting: it may be an old one.",
		next: "Close this window and use the newest sign-in page, or start again from your application."}
	pageOtherBrowser = page{title: "Another browser",
		text: "The sign-in was opened in another browser, or this one keeps no cookies.",
		next: "Close this window and open the address that mcp-proxy printed."}
	pageTwice = page{title: "Already received", next: closeWindow,
		text: "This sign-in has been answered before."}
	pageExpired = page{http.StatusGone, "Too late", "This sign-in has expired.",
		"Start again from your application.", ""}
)

// pageNoState is for an error without our state. code is a registered one.
func pageNoState(code, retry string) page {
	text := "The answer has the error " + code +
		", but not what shows that it belongs to this sign-in."
	return page{title: "Not taken", text: text, next: orRun, command: retry}
}

// endPage says how the sign-in ended.
func (cb *callback) endPage(err error) page {
	switch {
	case err == nil:
		return page{http.StatusOK, "Signed in", "mcp-proxy can now use " + cb.host + " for you.",
			"You can close this window and go back to your application.", ""}
	case errors.Is(err, errDenied):
		return page{http.StatusForbidden, "Sign-in cancelled", "Nothing was changed.", orRun, cb.retry}
	}
	return page{http.StatusForbidden, "Sign-in failed", "What happened: " + excerpt(err.Error()) + ".",
		orRun, cb.retry}
}

// html/template would add a sixth to the size of the binary.
const pageHTML = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}} – mcp-proxy</title>
<style>
body { font: 1.05rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 18vh auto 0;
  padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
code { font-size: .95rem; }
.mark { font-size: 2rem; }
.good { color: #1a7f37; }
.bad { color: #cf222e; }
@media (prefers-color-scheme: dark) { .good { color: #3fb950; } .bad { color: #ff7b72; } }
</style>
</head>
<body>
<div class="mark {{class}}" aria-hidden="true">{{mark}}</div>
<h1>{{title}}</h1>
<p>{{text}}</p>
<p>{{next}}</p>
{{command}}</body>
</html>
`

// writePage writes a page without script, of which nothing comes from elsewhere.
func writePage(w http.ResponseWriter, status int, p page) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // the address holds the code
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; "+
		"frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	w.WriteHeader(status)
	mark, class, command := "✕", "bad", ""
	if status == http.StatusOK {
		mark, class = "✓", "good"
	}
	if p.command != "" {
		command = "<p><code>" + html.EscapeString(p.command) + "</code></p>\n"
	}
	fill := strings.NewReplacer("{{mark}}", mark, "{{class}}", class, "{{command}}", command,
		"{{title}}", html.EscapeString(p.title), "{{text}}", html.EscapeString(p.text),
		"{{next}}", html.EscapeString(p.next))
	io.WriteString(w, fill.Replace(pageHTML)) // the browser may have gone away
}

// asTerminal returns stdin if a person may type there, else nil.
func asTerminal(stdin io.Reader) io.Reader {
	f, ok := stdin.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	if null, err := os.Stat(os.DevNull); err == nil && os.SameFile(info, null) {
		return nil
	}
	return f
}

// readAnswers is for a user whose browser is on another machine: it ends at an
// address that it cannot reach, which is pasted into the terminal. The function
// that is returned must be called with every address that the user is shown.
func readAnswers(ctx context.Context, terminal io.Reader, log *logger) (shown func(string)) {
	var redirect atomic.Pointer[url.URL] // of the address shown last
	var once sync.Once
	read := func() {
		lines := bufio.NewScanner(terminal)
		lines.Buffer(nil, maxCallbackHeader)
		for lines.Scan() {
			line := strings.Trim(lines.Text(), " \t\r'\"")
			if line == "" {
				continue
			}
			if err := deliver(ctx, line, redirect.Load()); err != nil {
				log.report(err)
			}
		}
	}
	return func(address string) {
		redirect.Store(redirectOf(address))
		log.notice("hint: is the browser on another machine? " +
			"paste here the address that it ends at, even if it shows an error")
		once.Do(func() { go read() })
	}
}

// deliver takes a pasted address to the callback at redirect, of this process or
// of the one that signs in, which checks it as it checks every other. Nothing
// else is requested.
func deliver(ctx context.Context, pasted string, redirect *url.URL) error {
	if redirect == nil {
		return errors.New("nothing is to be pasted for this sign-in")
	}
	u, err := pastedAnswer(pasted, redirect)
	if err != nil {
		return err
	}
	switch status, err := getDirectly(ctx, u.String()); {
	case err != nil:
		return withHint(errors.New("nobody waits for that address any more"), "start the sign-in again")
	case status == http.StatusBadRequest || status == http.StatusNotFound:
		return withHint(errors.New("that is not the answer to this sign-in: it may be an old one"),
			"sign in at the page above, and paste where it ends")
	}
	return nil // the sign-in says what comes of it
}

// pastedAnswer parses an address of the callback at redirect with an answer in it.
func pastedAnswer(pasted string, redirect *url.URL) (*url.URL, error) {
	u, err := url.Parse(pasted)
	if err != nil || u.Scheme != redirect.Scheme || u.Host != redirect.Host ||
		u.Path != redirect.Path || u.RawQuery == "" || strings.Contains(u.RawQuery, " ") {
		return nil, withHint(errors.New("that is not where the sign-in page leads to"),
			"paste the address that begins with %s?", redirect)
	}
	return u, nil
}

// redirectOf is where a sign-in page sends the browser back to; nil if it does not.
func redirectOf(address string) *url.URL {
	u, err := url.Parse(address)
	if err != nil {
		return nil
	}
	redirect, err := url.Parse(u.Query().Get("redirect_uri"))
	if err != nil || redirect.Host == "" {
		return nil
	}
	return redirect
}
