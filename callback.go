package main

// The loopback callback: where the browser brings the authorization response, what makes a response
// valid, and the pages that the user sees. Everybody on this machine, and every page in the
// browser, can send requests here.

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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	localHost         = "localhost"
	localAddress      = "127.0.0.1"
	givenRedirectPath = "/oauth2callback"
	ownRedirectPath   = "/callback"
	startPath         = "/start/"
	firstGivenPort    = 3000
	lastGivenPort     = 3010
	callbackTimeout   = 10 * time.Second // for reading one request
	pasteTimeout      = 5 * time.Minute  // for the page of a pasted answer
	lingerEnded       = 30 * time.Second // for a page that is loaded again
	lingerExpired     = 3 * time.Minute  // for a user who comes too late
	makeWayTimeout    = 400 * time.Millisecond
	maxCallbackHeader = 64 << 10 // bytes
)

type callback struct {
	redirect  *url.URL
	listeners []net.Listener
	server    http.Server
	left      chan struct{}   // holds one for each listener that was closed
	answers   chan url.Values // holds one

	host, retry string // of the MCP server, and the command for another sign-in: for the pages
	issuer      string
	needsIss    bool              // the issuer says its name in a response
	notify      func(text string) // tells everybody who waits

	// What the browser that we open is given is an address of our own, good once. Everybody on this
	// machine can read the arguments of a program, and what a server chose is text that xdg-open,
	// wslview or PowerShell may act on. The address marks the browser with a cookie and leads on;
	// without the cookie no answer to it is taken (RFC 9700, section 4.7.1: state is bound to the
	// user agent).
	startPath string // /start/NONCE; "" before expect

	mu       sync.Mutex            // guards what follows
	printed  authorizationRequest  // at the address that people are shown
	opened   authorizationRequest  // in the browser that we open; without a state none is taken
	cookie   string                // that a browser has; "" while none has it
	noState  sync.Once             // tells that an error came without a state
	answered *authorizationRequest // the one of the two whose answer was taken
	decided  chan page             // takes the page for that answer; nil if there is none
	last     page                  // how the sign-in ended; without a status while it goes on
}

type authorizationRequest struct{ url, state string }

// listenForGivenClient listens where a client that was registered by hand expects it: exactly where
// the user said, else on the first free of the ports that the documentation names for registering.
func listenForGivenClient(exact *url.URL, first, last int) (*callback, error) {
	if exact != nil {
		return listenAt(exact)
	}
	for port := first; port <= last; port++ {
		host := fmt.Sprint("localhost:", port)
		cb, err := listenAt(&url.URL{Scheme: "http", Host: host, Path: givenRedirectPath})
		if err == nil {
			return cb, nil
		}
	}
	err := fmt.Errorf("the ports %d to %d on localhost are all in use", first, last)
	return nil, withHint(err, "end a program that uses one of them, or give --redirect-uri "+
		"http://localhost:PORT"+givenRedirectPath)
}

// listenForRegistration takes any free port where the user named none: it is registered together
// with it. The path differs between authorization servers, so that a code cannot come back to the
// wrong sign-in (RFC 9700, section 4.4.2.2).
func listenForRegistration(given *url.URL, anyPort bool, host, issuer string) (*callback, error) {
	path := ownRedirectPath + "/" + challengeS256(issuer)[:16]
	redirect := url.URL{Scheme: "http", Host: host, Path: path}
	if given != nil {
		if cb, err := listenAt(given); err == nil || !anyPort {
			return cb, err
		}
		redirect = *given
	}
	redirect.Host = net.JoinHostPort(redirect.Hostname(), "0")
	return listenAt(&redirect)
}

// listenAt listens on the redirect URI's own port; for port 0 it takes a free one.
func listenAt(redirect *url.URL) (*callback, error) {
	listeners, err := listen(redirect)
	if err != nil && makeWay(redirect) {
		listeners, err = listen(redirect)
	}
	if err != nil {
		err = fmt.Errorf("the redirect URI %s cannot be used: port %s is not free (%s)",
			redirect, portOf(redirect), plainNetworkError(err))
		return nil, withHint(err, "end the program that uses it, or register another redirect URI "+
			"and give it with --redirect-uri")
	}
	return &callback{
		redirect: redirect, listeners: listeners,
		left: make(chan struct{}, len(listeners)), answers: make(chan url.Values, 1),
	}, nil
}

// listen: localhost may mean either loopback address to a browser, so both are taken; a machine
// without IPv6 has one.
func listen(redirect *url.URL) (listeners []net.Listener, err error) {
	hosts, port := []string{redirect.Hostname()}, portOf(redirect)
	if strings.EqualFold(hosts[0], localHost) {
		hosts[0] = localAddress
		if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
			l.Close()
			hosts = append(hosts, "::1")
		}
	}
	for _, host := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		if port == "0" {
			port = fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
			redirect.Host = net.JoinHostPort(redirect.Hostname(), port)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// makeWay asks a process of ours that only shows how a sign-in ended to leave the port. To any
// other program it is a request for a page that does not exist.
func makeWay(redirect *url.URL) bool {
	return getDirectly("http://"+redirect.Host+startPath, makeWayTimeout) == http.StatusNoContent
}

// getDirectly asks this machine, through no proxy, and follows no redirect. 0: nobody answers.
func getDirectly(address string, timeout time.Duration) (status int) {
	direct := &http.Transport{DisableKeepAlives: true}
	client := http.Client{Transport: direct, CheckRedirect: noRedirect, Timeout: timeout}
	if resp, err := client.Get(address); err == nil {
		discard(resp)
		return resp.StatusCode
	}
	return 0
}

// expect waits for the answer to one of two requests. The first call returns what the browser is to
// be given; a later one sends the browser of the answer that was taken on to its request.
func (cb *callback) expect(printed, opened authorizationRequest) (start string) {
	cb.mu.Lock()
	defer cb.mu.Unlock()
	cb.printed = printed
	if !cb.serving() || cb.opened.state != "" {
		cb.opened = opened
	}
	if cb.serving() {
		cb.decided <- page{next: cb.answered.url}
		cb.decided = nil
		return ""
	}
	cb.startPath = startPath + newState()
	cb.server.Handler, cb.server.ReadTimeout = cb, callbackTimeout
	cb.server.MaxHeaderBytes = maxCallbackHeader
	for _, l := range cb.listeners {
		go func(l net.Listener) {
			cb.server.Serve(l) // ends with close
			cb.left <- struct{}{}
		}(l)
	}
	return "http://" + cb.redirect.Host + cb.startPath
}

// serving reports whether a browser may be on its way here.
func (cb *callback) serving() bool { return cb.startPath != "" }

// end has the pages say how the sign-in ended, also to whoever comes back or comes too late.
func (cb *callback) end(err error) {
	cb.mu.Lock()
	defer cb.mu.Unlock()
	switch {
	case err == nil:
		cb.last = page{status: http.StatusOK, title: "Signed in", text: "mcp-proxy can now use " +
			cb.host + " for you. You can close this window and go back to your application."}
	case cb.decided == nil:
		cb.last = page{status: http.StatusGone, title: "Too late",
			text: "This sign-in has expired. Start again from your application."}
	case errors.Is(err, errDenied):
		cb.last = page{status: http.StatusForbidden, title: "Sign-in cancelled",
			text: "Nothing was changed.", command: cb.retry}
	default:
		cb.last = cb.failed(http.StatusForbidden, "Sign-in failed", excerpt(err.Error()))
	}
	if cb.decided != nil {
		cb.decided <- cb.last
	}
}

// linger shows how the sign-in ended for a while, until ctx ends or another one wants the port.
func (cb *callback) linger(ctx context.Context) {
	if cb == nil {
		return
	}
	defer cb.close()
	stay := lingerEnded
	if cb.last.status == http.StatusGone {
		stay = lingerExpired
	}
	awaitClosed(ctx, cb.left, stay)
}

// close lets the page that is being written reach the browser first.
func (cb *callback) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = cb.server.Shutdown(ctx)
	cb.server.Close()      // after a second
	closeAll(cb.listeners) // where nothing was served
}

// ServeHTTP takes one valid response; everything else is refused and the wait goes on.
func (cb *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, decided := cb.receive(w, r)
	if decided != nil {
		p = <-decided // from expect or end
	}
	p.write(w, r)
}

// receive returns the page for a request, or where that will come from if it takes the answer.
func (cb *callback) receive(w http.ResponseWriter, r *http.Request) (page, <-chan page) {
	cb.mu.Lock()
	defer cb.mu.Unlock()
	path, ours, q := r.URL.EscapedPath(), cb.redirect.EscapedPath(), r.URL.Query()
	start := equal(path, cb.startPath)
	isOurs := path == ours || ours == "" && path == "/" // as browsers write it
	doubled := func(name string) bool { return len(q[name]) > 1 }
	state, failure := q.Get("state"), q.Get("error")
	request := &cb.printed
	if equal(state, cb.opened.state) {
		request = &cb.opened
	}
	switch {
	case cb.last.status != 0 && path == startPath && isNavigation(r):
		closeAll(cb.listeners)
		return page{status: http.StatusNoContent}, nil
	case !start && !isOurs || r.Method != http.MethodGet:
		return page{status: http.StatusNotFound, title: pageOther.title, text: pageOther.text}, nil
	// Another name that leads here is DNS rebinding; an Origin is a script's request, where a
	// redirect is a navigation and has none.
	case !sameOrigin(cb.redirect, &url.URL{Scheme: "http", Host: r.Host}) || !isNavigation(r):
		return pageOther, nil
	case start:
		return cb.leadOn(w, r), nil
	// RFC 6749, section 3.1: none may be there twice.
	case slices.ContainsFunc([]string{"state", "iss", "code", "error"}, doubled):
		return pageOther, nil
	case state == "" && cb.isFromIssuer(q) && slices.Contains(errorCodes, failure):
		// Some servers forget the state of an error (the router of the TypeScript SDK). Anybody can
		// send this: the word is one of the known, and ends no sign-in.
		what := "an answer to the sign-in has the error " + failure + " and no state: not taken"
		cb.noState.Do(func() { cb.notify(what) })
		return cb.failed(http.StatusBadRequest, "Not taken", what), nil
	case !equal(state, request.state), q.Get("code") == "" && failure == "":
		return pageOther, nil
	case request == &cb.opened && !cb.hasCookie(r):
		return pageOtherBrowser, nil
	case cb.last.status != 0:
		return cb.last, nil
	case cb.decided != nil:
		return pageTwice, nil
	}
	cb.answered, cb.decided = request, make(chan page, 1)
	cb.answers <- q
	return page{}, cb.decided
}

// leadOn marks the browser and leads to where to sign in. A second browser means that somebody else
// on this machine may have read the address: then neither is trusted, and the address that people
// are shown is the only one.
func (cb *callback) leadOn(w http.ResponseWriter, r *http.Request) page {
	if cb.cookie == "" {
		cb.cookie = newState()
	} else if !cb.hasCookie(r) {
		cb.opened.state = ""
		return pageOtherBrowser
	}
	http.SetCookie(w, &http.Cookie{
		Name: cb.cookieName(), Value: cb.cookie, Path: "/",
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	return page{next: cb.opened.url}
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

func isNavigation(r *http.Request) bool {
	origin, mode := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Mode")
	return (origin == "" || origin == "null") && (mode == "" || mode == "navigate")
}

// isFromIssuer applies RFC 9207, section 2.4, in the table of MCP 2026-07-28, "Authorization
// Response Validation".
func (cb *callback) isFromIssuer(q url.Values) bool {
	return q.Has("iss") && q.Get("iss") == cb.issuer || !q.Has("iss") && !cb.needsIss
}

// check looks at the issuer before anything else is used: an error of another server is neither
// acted on nor shown.
func (cb *callback) check(q url.Values) (code string, err error) {
	switch failure := q.Get("error"); {
	case !cb.isFromIssuer(q):
		err := authErrorf("the authorization response does not come from %s: refused", excerpt(cb.issuer))
		return "", errorKind{err, "issuer_mismatch"}
	case failure == codeDenied:
		return "", errDenied
	case failure != "":
		err := &oauthError{code: excerpt(failure), description: excerpt(q.Get("error_description"))}
		return "", authErrorf("the authorization server refused the sign-in: %w", err)
	}
	return q.Get("code"), nil
}

var errDenied = withHint(
	errorKind{authErrorf("the sign-in was denied (%s)", codeDenied), codeDenied},
	"try again, or mcp-proxy login, to be asked again")

type page struct {
	status      int
	title, text string
	command     string // what to type to try again; may be ""
	next        string // the address to go on to, instead of a page
}

var (
	pageOther = page{status: http.StatusBadRequest, title: "Not this sign-in",
		text: "This is not the answer to the sign-in that is waiting. Close this window and use " +
			"the newest sign-in page, or start again from your application."}
	pageOtherBrowser = page{status: http.StatusBadRequest, title: "Another browser",
		text: "The sign-in was opened in another browser, or this one keeps no cookies. " +
			"Close this window and open the address that mcp-proxy printed."}
	pageTwice = page{status: http.StatusBadRequest, title: "Already received",
		text: "This sign-in has been answered before. You can close this window."}
)

func (cb *callback) failed(status int, title, what string) page {
	what = "What happened: " + strings.TrimRight(what, ".") + "."
	return page{status: status, title: title, text: what, command: cb.retry}
}

// html/template would add a sixth to the size of the binary.
const pageHTML = `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%[1]s – mcp-proxy</title>
<style>
html { color-scheme: light dark; font: 1.05rem/1.5 system-ui, sans-serif; }
body { max-width: 32rem; margin: 18vh auto 0; padding: 0 1.5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; }
code span { display: inline-block; }
</style>
<h1><span style="color: %[2]s" aria-hidden="true">%[3]s</span> %[1]s</h1>
<p>%[4]s</p>
%[5]s</html>
`

// write writes a page without script, of which nothing comes from elsewhere, or leads on.
func (p page) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // the address holds the code
	if p.next != "" {
		http.Redirect(w, r, p.next, http.StatusFound)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; "+
		"frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	w.WriteHeader(p.status)
	color, mark, command := "#e5534b", "✕", "" // it is read on white and on black
	if p.status == http.StatusOK {
		color, mark = "#2da44e", "✓"
	}
	if p.command != "" {
		words := strings.ReplaceAll(html.EscapeString(p.command), " ", "</span> <span>")
		command = "<p>Try again from your application, or run this in a terminal:</p>\n" +
			"<p><code><span>" + words + "</span></code></p>\n"
	}
	fmt.Fprintf(w, pageHTML, html.EscapeString(p.title), color, mark, html.EscapeString(p.text),
		command)
}

// readAnswers is for a user whose browser is on another machine: where that ends is pasted into the
// terminal. shown must be called with every redirect URI that a browser will end at.
func readAnswers(terminal io.Reader, log *logger) (shown func(redirect *url.URL)) {
	var current atomic.Pointer[url.URL]
	read := func() {
		lines := bufio.NewScanner(terminal)
		for lines.Scan() {
			if line := strings.Trim(lines.Text(), " \t\r'\""); line != "" {
				if err := deliver(line, current.Load()); err != nil {
					log.report(err)
				}
			}
		}
	}
	return func(redirect *url.URL) {
		if current.Swap(redirect) == nil { // what is typed before is another program's
			go read()
		}
		log.notice("hint: is the browser on another machine? " +
			"paste here the address that it ends at, even if it shows an error")
	}
}

// deliver takes a pasted address to the callback at redirect, of this process or of the one that
// signs in, which checks it as it checks every other. Nothing else is requested.
func deliver(pasted string, redirect *url.URL) error {
	if !isResponse(pasted, redirect) {
		return invalid("that is not where the sign-in page leads to",
			"paste the address that begins with "+redirect.String()+"?")
	}
	switch getDirectly(pasted, pasteTimeout) {
	case 0:
		return invalid("nobody waits for that address any more", "start the sign-in again")
	case http.StatusBadRequest, http.StatusNotFound:
		return invalid("that is not the answer to this sign-in: it may be an old one",
			"sign in at the page above, and paste where it ends")
	}
	return nil // the sign-in says what comes of it
}

// isResponse reports whether an address is one of the callback at redirect, with an answer in it.
func isResponse(pasted string, redirect *url.URL) bool {
	plain := strings.NewReplacer(redirect.Host+"/?", redirect.Host+"?") // browsers add the slash
	answer, ok := strings.CutPrefix(plain.Replace(pasted), plain.Replace(redirect.String()+"?"))
	return ok && answer != "" && isVisible(answer) && !strings.Contains(answer, " ")
}

// redirectOf is where a sign-in page sends the browser back to; nil if it does not.
func redirectOf(address string) *url.URL {
	if u, err := url.Parse(address); err == nil {
		redirect, err := url.Parse(u.Query().Get("redirect_uri"))
		if err == nil && isLoopback(redirect.Hostname()) {
			return redirect
		}
	}
	return nil
}
