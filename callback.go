package main

// The loopback callback: where the browser brings the authorization response,
// and what makes a response valid. Everybody on this machine, and every page in
// the browser, can send requests here.

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
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
	maxCallbackHeader = 64 << 10         // bytes
	makeWayTimeout    = 300 * time.Millisecond
	lingerEnded       = 30 * time.Second // for a page that is loaded again
	lingerExpired     = 3 * time.Minute  // for a user who comes too late
)

// callback receives the authorization response on the loopback interface.
type callback struct {
	redirect  *url.URL
	listeners []net.Listener
	server    *http.Server

	expected
	window   browserStart
	unmarked sync.Once // guards telling of an error that came without a state

	answers  chan authorizationAnswer // holds one: the first valid response
	accepted chan struct{}            // holds one: who puts it there is the first
	last     atomic.Pointer[page]     // how the sign-in ended, once it has
	unwanted chan struct{}            // holds one: a later sign-in wants the port
	ended    chan signInEnd           // holds one: for the page
}

// signInEnd is what the page says: that the user is signed in, why not, or that
// the browser is to go on to an address.
type signInEnd struct {
	err         error
	shown, next string // after an answer to the address that people are shown, and to the browser's own
}

// expected says what a valid answer looks like, and what the pages name.
type expected struct {
	host     string // of the MCP server
	retry    string // the command to type for another sign-in
	state    string // of the address that people are shown
	issuer   string
	needsIss bool
	notify   func(text string) // tells everybody who waits
}

// browserStart is what the browser that we open is given: an address of our own,
// good once. Everybody on this machine can read the arguments of a program, and
// what a server chose is text that xdg-open, wslview or PowerShell may act on.
// The address marks the browser with a cookie and leads on; without the cookie
// an answer to it is not taken (RFC 9700, section 4.7.1: state is bound to the
// user agent).
type browserStart struct {
	path   string // /start/NONCE
	target string // where it leads
	cookie string

	mu    sync.Mutex // guards target, state and given
	state string     // of target; "" if no answer to it is taken
	given bool       // the cookie
}

type authorizationAnswer struct {
	code string
	err  error
}

// listenForGivenClient listens where a client that was registered by hand
// expects it: exactly where the user said, else on the first free of the ports
// that the documentation names for registering.
func listenForGivenClient(exact *url.URL) (*callback, error) {
	if exact != nil {
		cb, err := listenAt(exact)
		if err != nil {
			return nil, withHint(fmt.Errorf("the redirect URI %s cannot be used: port %s is in use", exact, exact.Port()), "end the program that uses it, or register another redirect URI and give it with --redirect-uri")
		}
		return cb, nil
	}
	for port := firstGivenPort; port <= lastGivenPort; port++ {
		cb, err := listenAt(&url.URL{Scheme: "http", Host: fmt.Sprintf("localhost:%d", port), Path: givenRedirectPath})
		if err == nil {
			return cb, nil
		}
	}
	return nil, withHint(fmt.Errorf("the ports %d to %d on localhost are all in use", firstGivenPort, lastGivenPort), "end a program that uses one of them, or give --redirect-uri http://localhost:PORT%s", givenRedirectPath)
}

// listenForRegistration takes any free port where the user named none: it is
// registered together with it.
func listenForRegistration(wanted *url.URL, anyPort bool, host, path string) (*callback, error) {
	if wanted != nil {
		cb, err := listenForGivenClient(wanted)
		if err == nil || !anyPort {
			return cb, err
		}
		l, err := net.Listen("tcp", net.JoinHostPort(wanted.Hostname(), "0"))
		if err != nil {
			return nil, fmt.Errorf("listen for the sign-in: %w", err)
		}
		l.Close() // localhost has two addresses, which need the same one
		other := *wanted
		other.Host = net.JoinHostPort(wanted.Hostname(), strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		return listenForGivenClient(&other)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the sign-in: %w", err)
	}
	redirect := &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(l.Addr().(*net.TCPAddr).Port)), Path: path}
	if host == "127.0.0.1" {
		return newCallback(redirect, l), nil
	}
	l.Close() // localhost has two addresses, which need the same one
	return listenAt(redirect)
}

// redirectPath is another for each authorization server, so that a code cannot
// come back to the wrong sign-in (RFC 9700, section 4.4.2.2).
func redirectPath(issuer string) string { return ownRedirectPath + "/" + challengeS256(issuer)[:16] }

// listenAt listens on the redirect URI's own port. localhost may mean either
// loopback address to a browser, so both are taken; a machine without IPv6 has one.
func listenAt(redirect *url.URL) (*callback, error) {
	cb, err := listenOn(redirect)
	if err != nil && makeWay(redirect) {
		cb, err = listenOn(redirect)
	}
	return cb, err
}

func listenOn(redirect *url.URL) (*callback, error) {
	hosts := []string{redirect.Hostname()}
	if strings.EqualFold(redirect.Hostname(), "localhost") {
		hosts = []string{"127.0.0.1", "::1"}
	}
	var listeners []net.Listener
	for i, host := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(host, redirect.Port()))
		if err != nil {
			if i > 0 && !hasIPv6() {
				break
			}
			for _, l := range listeners {
				l.Close()
			}
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return newCallback(redirect, listeners...), nil
}

// makeWay asks a process of ours that only shows how a sign-in ended to leave the
// port. To any other program it is a request for a page that does not exist.
func makeWay(redirect *url.URL) bool {
	client := &http.Client{Timeout: makeWayTimeout, Transport: &http.Transport{DisableKeepAlives: true}} // no proxy
	resp, err := client.Get("http://" + redirect.Host + startPath)
	if err != nil {
		return false
	}
	discard(resp)
	return resp.StatusCode == http.StatusNoContent
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
	}
	return err == nil
}

func newCallback(redirect *url.URL, listeners ...net.Listener) *callback {
	cb := &callback{
		redirect: redirect, listeners: listeners,
		answers: make(chan authorizationAnswer, 1), accepted: make(chan struct{}, 1), ended: make(chan signInEnd, 1),
		unwanted: make(chan struct{}, 1),
	}
	cb.server = &http.Server{Handler: cb, ReadTimeout: callbackTimeout, MaxHeaderBytes: maxCallbackHeader}
	return cb
}

// startAt returns the address for the browser. It leads to target, whose state
// differs from that of the address which people are shown; "" if it has none.
// It is called before expect.
func (cb *callback) startAt(target, state string) (address string) {
	cb.window.path, cb.window.target = startPath+newState(), target
	cb.window.cookie, cb.window.state = newState(), state
	return "http://" + cb.redirect.Host + cb.window.path
}

// expect starts to serve, once it is known what a valid response looks like.
func (cb *callback) expect(e expected) {
	cb.expected = e
	for _, l := range cb.listeners {
		go cb.server.Serve(l) // ends with close
	}
}

func (cb *callback) wait(ctx context.Context) (string, error) {
	select {
	case a := <-cb.answers:
		return a.code, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// outcome tells the page that waits how the sign-in ended.
func (cb *callback) outcome(err error) {
	select {
	case cb.ended <- signInEnd{err: err}:
	default: // nobody waits
	}
}

// again sends the browser that waits for a page to sign in once more, at target
// or, if it came from the address that people are shown, at address. It is called
// after wait.
func (cb *callback) again(address, state, target, windowState string) {
	cb.window.mu.Lock()
	cb.state, cb.window.target = state, target
	if cb.window.state != "" {
		cb.window.state = windowState
	}
	cb.window.mu.Unlock()
	<-cb.accepted
	select {
	case cb.ended <- signInEnd{shown: address, next: target}:
	default:
	}
}

// serving reports whether a browser may be on its way here already.
func (cb *callback) serving() bool { return cb.host != "" }

// linger shows how the sign-in ended to whoever comes back or comes too late,
// until ctx ends or another sign-in wants the port.
func (cb *callback) linger(ctx context.Context, err error) {
	stay, last := lingerEnded, pageSignedIn(cb.host)
	if err != nil {
		last = pageFailed(err, cb.retry)
	}
	select {
	case cb.accepted <- struct{}{}: // there was no answer, and none is taken any more
		if err != nil {
			stay, last = lingerExpired, pageExpired
		}
	default:
	}
	cb.last.Store(&last)
	select {
	case <-cb.unwanted:
	case <-time.After(stay):
	case <-ctx.Done():
	}
}

// close lets the page that is being written reach the browser first.
func (cb *callback) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if cb.server.Shutdown(ctx) != nil {
		cb.server.Close()
	}
	for _, l := range cb.listeners {
		l.Close()
	}
}

// ServeHTTP takes one valid authorization response; everything else is
// refused and the wait goes on.
func (cb *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	last := cb.last.Load()
	if last != nil && r.URL.Path == startPath && navigation(r) {
		for _, l := range cb.listeners {
			l.Close()
		}
		w.WriteHeader(http.StatusNoContent)
		select {
		case cb.unwanted <- struct{}{}:
		default:
		}
		return
	}
	start := equal(r.URL.EscapedPath(), cb.window.path)
	if !start && !cb.isOurPath(r.URL) || r.Method != http.MethodGet {
		writePage(w, http.StatusNotFound, pageStray)
		return
	}
	// Another name that leads here is DNS rebinding; an Origin is a script's
	// request, where a redirect is a navigation and has none.
	if !sameOrigin(cb.redirect, &url.URL{Scheme: "http", Host: r.Host}) || !navigation(r) {
		writePage(w, http.StatusBadRequest, pageStray)
		return
	}
	if start && last != nil {
		writePage(w, http.StatusGone, *last)
		return
	}
	if start {
		cb.leadOn(w, r)
		return
	}
	q := r.URL.Query()
	for _, name := range []string{"state", "iss", "code", "error"} {
		if len(q[name]) > 1 { // RFC 6749, section 3.1: none may be there twice
			writePage(w, http.StatusBadRequest, pageStray)
			return
		}
	}
	code := q.Get("error")
	if q.Get("state") == "" && cb.isFromIssuer(q) && slices.Contains(errorCodes, code) {
		// Some servers forget the state of an error (the router of the TypeScript SDK).
		// Anybody can send this: the word is one of the known, and ends no sign-in.
		cb.unmarked.Do(func() {
			cb.notify("an answer to the sign-in has the error " + code + " and no state: it was not taken")
		})
		writePage(w, http.StatusBadRequest, pageUnmarked(code, cb.retry))
		return
	}
	window, shown := cb.owns(q.Get("state"))
	if !window && !shown {
		writePage(w, http.StatusBadRequest, pageWrongState)
		return
	}
	if window && !cb.hasCookie(r) {
		writePage(w, http.StatusBadRequest, pageOtherBrowser)
		return
	}
	if q.Get("code") == "" && code == "" {
		writePage(w, http.StatusBadRequest, pageStray)
		return
	}
	select {
	case cb.accepted <- struct{}{}:
	default:
		switch last := cb.last.Load(); {
		case last == nil:
			writePage(w, http.StatusBadRequest, pageTwice)
		case last.good:
			writePage(w, http.StatusOK, *last)
		default:
			writePage(w, http.StatusGone, *last)
		}
		return
	}
	a := cb.check(q)
	cb.answers <- a
	select {
	case end := <-cb.ended:
		switch {
		case window && end.next != "":
			leadTo(w, r, end.next)
		case end.shown != "":
			leadTo(w, r, end.shown)
		case a.err != nil:
			writePage(w, http.StatusForbidden, pageFailed(a.err, cb.retry)) // 400 is for what does not end the sign-in
		case end.err == nil:
			writePage(w, http.StatusOK, pageSignedIn(cb.host))
		default:
			writePage(w, http.StatusBadGateway, pageFailed(end.err, cb.retry))
		}
	case <-time.After(pageTimeout):
		writePage(w, http.StatusGatewayTimeout, pageFailed(errors.New("the authorization server gave no token in time"), cb.retry))
	case <-r.Context().Done():
	}
}

// leadOn marks the browser and sends it to sign in. A second browser means that
// somebody else on this machine may have read the address: then neither is
// trusted, and the address that people are shown is the only one.
func (cb *callback) leadOn(w http.ResponseWriter, r *http.Request) {
	cb.window.mu.Lock()
	trusted := !cb.window.given || cb.hasCookie(r)
	cb.window.given = true
	target := cb.window.target
	if !trusted {
		cb.window.state = ""
	}
	cb.window.mu.Unlock()
	if !trusted {
		writePage(w, http.StatusBadRequest, pageOtherBrowser)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: cb.cookieName(), Value: cb.window.cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	leadTo(w, r, target)
}

func leadTo(w http.ResponseWriter, r *http.Request, target string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, target, http.StatusFound)
}

// cookieName tells sign-ins apart that go on together: cookies know no port.
func (cb *callback) cookieName() string { return "mcp-proxy-" + cb.redirect.Port() }

func (cb *callback) hasCookie(r *http.Request) bool {
	c, err := r.Cookie(cb.cookieName())
	return err == nil && equal(c.Value, cb.window.cookie)
}

// owns reports whether an answer with this state is one to the browser's own
// request, or to the address that people are shown.
func (cb *callback) owns(state string) (window, shown bool) {
	cb.window.mu.Lock()
	defer cb.window.mu.Unlock()
	return equal(state, cb.window.state), equal(state, cb.state)
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

// isFromIssuer applies RFC 9207, section 2.4, in the table of MCP 2026-07-28,
// "Authorization Response Validation".
func (cb *callback) isFromIssuer(q url.Values) bool {
	return q.Has("iss") && q.Get("iss") == cb.issuer || !q.Has("iss") && !cb.needsIss
}

// check looks at the issuer before anything else is used: an error of another
// server is neither acted on nor shown.
func (cb *callback) check(q url.Values) authorizationAnswer {
	if !cb.isFromIssuer(q) {
		return authorizationAnswer{err: authErrorf("the authorization response does not come from %s: refused", excerpt(cb.issuer))}
	}
	if code := q.Get("error"); code != "" {
		return authorizationAnswer{err: refusedByUser(code, q.Get("error_description"))}
	}
	return authorizationAnswer{code: q.Get("code")}
}

var errDenied = authErrorf("the sign-in was denied (%s)", codeDenied)

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
	return "the authorization server refused the sign-in: " + strings.TrimSpace(e.code+" "+e.description)
}

func navigation(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	mode := r.Header.Get("Sec-Fetch-Mode")
	return (origin == "" || origin == "null") && (mode == "" || mode == "navigate")
}
