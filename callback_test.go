package main

// The authorization response: what the loopback callback takes, what it
// refuses while it waits, where it listens, and the page that the user sees.

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// waitingSignIn is a sign-in whose URL was printed and nobody has opened.
type waitingSignIn struct {
	*testProxy
	auth     *fakeAuth
	id       string   // of the request that waits
	page     string   // the sign-in URL
	redirect *url.URL // where the answer is expected
	state    string
}

func startWaiting(t *testing.T, server *fakeMCP, auth *fakeAuth, args ...string) *waitingSignIn {
	t.Helper()
	w := &waitingSignIn{auth: auth}
	args = append([]string{"-u", server.url, "--no-browser"}, args...)
	w.testProxy = newUser(t, auth, server).start(args...)
	w.id = w.request("initialize", initializeParams)
	w.page = w.awaitURL(1)
	q := parsedURL(t, w.page).Query()
	w.redirect, w.state = parsedURL(t, q.Get("redirect_uri")), q.Get("state")
	return w
}

// response is the address of an authorization response with these parameters.
func (w *waitingSignIn) response(params url.Values) string {
	u := *w.redirect
	u.RawQuery = params.Encode()
	return u.String()
}

// consent is the user who says yes; the browser is told where to go but does not follow.
func (w *waitingSignIn) consent() string {
	w.t.Helper()
	client := w.user.httpClient()
	client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}
	resp, err := client.Get(w.page)
	fatal(w.t, err)
	resp.Body.Close()
	to, err := resp.Location()
	fatal(w.t, err)
	return to.String()
}

// httpClient trusts the fakes and shares no connection with anybody.
func (u *testUser) httpClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	transport.TLSClientConfig = &tls.Config{RootCAs: testShared().pki.roots}
	return &http.Client{Transport: transport}
}

// knock sends a request to the callback and returns what came back; status 0: nobody is there.
func knock(t testing.TB, method, address string, header http.Header) (status int, body string) {
	t.Helper()
	ctx, cancel := patience()
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	fatal(t, err)
	if header != nil {
		req.Header = header
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	fatal(t, err)
	return resp.StatusCode, string(page)
}

// What is not the answer that is waited for gets 400 or 404, shows nothing of
// what came, and the wait goes on: pages in the same browser, and everybody on
// this machine, can knock here.
func TestStrayRequestsDoNotEndTheWait(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	w := startWaiting(t, server, auth)
	good := func(edit ...string) url.Values {
		q := url.Values{"state": {w.state}, "iss": {auth.issuer}, "code": {"SENTINEL-code"}}
		for i := 0; i < len(edit); i += 2 {
			q.Set(edit[i], edit[i+1])
			if edit[i+1] == "" {
				q.Del(edit[i])
			}
		}
		return q
	}
	twice := func(name string, values ...string) string {
		q := good()
		q[name] = values
		return w.response(q)
	}
	elsewhere := func(path string) string {
		u := parsedURL(t, w.response(good()))
		u.Path = path
		return u.String()
	}
	host := func(value string) http.Header { return http.Header{"Host": {value}} }
	failed := func(code string, edit ...string) string {
		return w.response(good(append([]string{"code", "", "error", code}, edit...)...))
	}
	fetch := func(mode string, more ...string) http.Header {
		h := http.Header{"Sec-Fetch-Mode": {mode}}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	const evil = "https://evil.example"
	whole := w.response(good())
	dots := strings.Replace(whole, "/callback", "/x/../callback", 1)
	for name, test := range map[string]struct {
		method, address string
		header          http.Header
		status          int
	}{
		"no parameters":         {"GET", w.response(nil), nil, 400},
		"favicon":               {"GET", elsewhere("/favicon.ico"), nil, 404},
		"root":                  {"GET", elsewhere("/"), nil, 404},
		"path with more":        {"GET", elsewhere("/callback/"), nil, 404},
		"path in capitals":      {"GET", elsewhere("/Callback"), nil, 404},
		"path with dots":        {"GET", dots, nil, 404},
		"path that is encoded":  {"GET", strings.Replace(whole, "/callback", "/%63allback", 1), nil, 404},
		"POST":                  {"POST", whole, nil, 404},
		"HEAD":                  {"HEAD", whole, nil, 404},
		"OPTIONS":               {"OPTIONS", whole, nil, 404},
		"no state":              {"GET", w.response(good("state", "")), nil, 400},
		"guessed state":         {"GET", w.response(good("state", newState())), nil, 400},
		"state with more":       {"GET", w.response(good("state", w.state+"x")), nil, 400},
		"state cut short":       {"GET", w.response(good("state", w.state[:10])), nil, 400},
		"state twice":           {"GET", twice("state", w.state, "other"), nil, 400},
		"code twice":            {"GET", twice("code", "one", "two"), nil, 400},
		"iss twice":             {"GET", twice("iss", auth.issuer, "https://evil.example"), nil, 400},
		"error twice":           {"GET", twice("error", "access_denied", "x"), nil, 400},
		"neither code nor err":  {"GET", w.response(good("code", "")), nil, 400},
		"error without a state": {"GET", failed("SENTINEL", "state", ""), nil, 400},
		"and of another issuer": {"GET", failed("access_denied", "state", "", "iss", evil), nil, 400},
		"guessed state, denied": {"GET", failed("access_denied", "state", newState()), nil, 400},
		"foreign Host":          {"GET", whole, host("evil.example"), 400},
		"foreign Host and port": {"GET", whole, host("evil.example:" + w.redirect.Port()), 400},
		"Host without port":     {"GET", whole, host(w.redirect.Hostname()), 400},
		"Host with other port":  {"GET", whole, host(w.redirect.Hostname() + ":1"), 400},
		"localhost for address": {"GET", whole, host("localhost:" + w.redirect.Port()), 400},
		"foreign Origin":        {"GET", whole, http.Header{"Origin": {"https://evil.example"}}, 400},
		"fetch of a page":       {"GET", whole, fetch("cors", "Origin", evil), 400},
		"fetch without cors":    {"GET", whole, fetch("no-cors"), 400},
		"image of a page":       {"GET", whole, fetch("no-cors", "Sec-Fetch-Dest", "image"), 400},
		"WebSocket":             {"GET", whole, http.Header{"Sec-Fetch-Mode": {"websocket"}}, 400},
	} {
		status, body := knock(t, test.method, test.address, test.header)
		if status != test.status {
			t.Errorf("%s: got status %d, want %d", name, status, test.status)
		}
		for _, leak := range []string{"SENTINEL", w.state, auth.issuer, "access_denied", "evil.example"} {
			if strings.Contains(body, leak) {
				t.Errorf("%s: the page repeats %q", name, leak)
			}
		}
	}
	if got := auth.labels(); len(auth.sentForms()) != 0 {
		t.Errorf("a stray request was acted on: %q", got)
	}
	if page := w.user.paste(w.page); page.Status != http.StatusOK {
		t.Errorf("the good answer: got status %d", page.Status)
	}
	w.result(w.id)
	if got := len(auth.sentForms()); got != 1 {
		t.Errorf("got %d requests for a token, want 1", got)
	}
}

// startOpened is a sign-in whose window was opened, and nobody has looked at it yet.
func startOpened(t *testing.T) (w *waitingSignIn, start string) {
	t.Helper()
	server, auth := startProtected(t)
	w = &waitingSignIn{auth: auth}
	user := newUser(t, auth, server)
	user.browser = "ignore"
	w.testProxy = user.start("-u", server.url)
	w.id = w.request("initialize", initializeParams)
	start, w.page = user.awaitOpenings(1), w.awaitURL(1)
	w.state = parsedURL(t, w.page).Query().Get("state")
	return w, start
}

// lead asks for the address that the browser is given, and returns where that
// leads and the cookie.
func lead(t *testing.T, start, cookie string) (status int, to, set string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, start, nil)
	fatal(t, err)
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	fatal(t, err)
	resp.Body.Close()
	for _, header := range []string{"Cache-Control: no-store", "Referrer-Policy: no-referrer"} {
		if name, want, _ := strings.Cut(header, ": "); resp.Header.Get(name) != want {
			t.Errorf("%s: got %q, want %q", name, resp.Header.Get(name), want)
		}
	}
	return resp.StatusCode, resp.Header.Get("Location"), resp.Header.Get("Set-Cookie")
}

// The window's sign-in is taken from the browser that was marked, and from no other.
func TestSignInIsBoundToTheBrowser(t *testing.T) {
	t.Parallel()
	w, start := startOpened(t)
	for name, test := range map[string]struct {
		method, address string
		header          http.Header
		status          int
	}{
		"guessed":        {"GET", start[:len(start)-1] + "_", nil, 404},
		"longer":         {"GET", start + "/", nil, 404},
		"no nonce":       {"GET", start[:strings.LastIndex(start, "/")+1], nil, 404},
		"POST":           {"POST", start, nil, 404},
		"foreign Host":   {"GET", start, http.Header{"Host": {"evil.example"}}, 400},
		"foreign Origin": {"GET", start, http.Header{"Origin": {"https://evil.example"}}, 400},
		"image":          {"GET", start, http.Header{"Sec-Fetch-Mode": {"no-cors"}}, 400},
	} {
		if status, _ := knock(t, test.method, test.address, test.header); status != test.status {
			t.Errorf("%s: got status %d, want %d", name, status, test.status)
		}
	}
	status, page, set := lead(t, start, "")
	cookie, attributes, _ := strings.Cut(set, ";")
	if status != http.StatusFound || attributes != " Path=/; HttpOnly; SameSite=Lax" {
		t.Fatalf("got status %d, cookie %q", status, set)
	}
	if parsedURL(t, page).Query().Get("state") == w.state {
		t.Error("the window and the printed address have the same state")
	}
	if status, again, _ := lead(t, start, cookie); status != http.StatusFound || again != page {
		t.Errorf("reloaded: got status %d, %q", status, again)
	}
	w.page = page
	answer := w.consent()
	for _, other := range []string{"", cookie + "x", "other=" + cookie} {
		status, body := knock(t, "GET", answer, http.Header{"Cookie": {other}})
		if status != http.StatusBadRequest || !strings.Contains(body, "address that mcp-proxy printed") {
			t.Errorf("cookie %q: got status %d, %q", other, status, body)
		}
	}
	if status, _ := knock(t, "GET", answer, http.Header{"Cookie": {cookie}}); status != http.StatusOK {
		t.Errorf("with the cookie: got status %d", status)
	}
	w.result(w.id)
}

// Whoever else reads the address from the process list is not led on, and
// whatever was begun with it is no longer taken: the printed address is.
func TestStartIsGoodOnce(t *testing.T) {
	t.Parallel()
	w, start := startOpened(t)
	printed := w.page
	_, page, set := lead(t, start, "")
	if status, to, other := lead(t, start, ""); status != http.StatusBadRequest || to+other != "" {
		t.Errorf("second browser: got status %d, %q, cookie %q", status, to, other)
	}
	w.page = page
	cookie, _, _ := strings.Cut(set, ";")
	status, _ := knock(t, "GET", w.consent(), http.Header{"Cookie": {cookie}})
	if status != http.StatusBadRequest {
		t.Errorf("first browser: got status %d, want 400", status)
	}
	if got := w.user.paste(printed); got.Status != http.StatusOK {
		t.Errorf("printed address: got status %d", got.Status)
	}
	w.result(w.id)
}

// The same answer twice is taken once, while the token is on its way and after.
func TestDoubledResponse(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	w := startWaiting(t, server, auth)
	answer := w.consent()
	release := auth.hold("token authorization_code")
	first := make(chan int)
	go func() {
		status, _ := knock(t, "GET", answer, nil)
		first <- status
	}()
	auth.await("token authorization_code", 1)
	status, body := knock(t, "GET", answer, nil)
	if status != http.StatusBadRequest || !strings.Contains(body, "Already received") {
		t.Errorf("second: got status %d %q, want 400", status, body)
	}
	release()
	if got := <-first; got != http.StatusOK {
		t.Errorf("first: got status %d, want 200", got)
	}
	w.result(w.id)
	if got := len(auth.sentForms()); got != 1 {
		t.Errorf("got %d requests for a token, want 1", got)
	}
}

// An error without a state is not taken, but everybody who waits is told which it was.
func TestErrorWithoutState(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.responds = func(back url.Values) {
		back.Del("state")
		back.Del("code")
		back.Set("error", "invalid_scope")
		back.Set("error_description", "SENTINEL")
	}
	w := startWaiting(t, server, auth)
	other := w.user.start("-u", server.url)
	id := other.request("initialize", initializeParams)
	other.awaitURL(1)
	page := w.user.paste(w.page)
	if page.Status != http.StatusBadRequest || !strings.Contains(page.Body, "invalid_scope") ||
		strings.Contains(page.Body, "SENTINEL") {
		t.Errorf("page: got status %d, %q", page.Status, page.Body)
	}
	w.user.paste(w.page) // said once
	for _, p := range []*testProxy{w.testProxy, other} {
		p.awaitStderr("has the error invalid_scope and no state")
	}
	auth.change(func() { auth.responds = nil })
	if page := w.user.paste(w.page); page.Status != http.StatusOK {
		t.Errorf("the good answer: got status %d", page.Status)
	}
	w.result(w.id)
	other.result(id)
	for _, p := range []*testProxy{w.testProxy, other} {
		if got := linesWith(p.stderr(), "invalid_scope"); got != 1 {
			t.Errorf("said %d times, want once", got)
		}
	}
}

// The page can be loaded again, and whoever comes too late is told so; but the
// next sign-in has the port.
func TestPageStays(t *testing.T) {
	for name, test := range map[string]struct {
		timeout, says string
		status        int
	}{
		"signed in": {"5m", "Signed in", http.StatusOK},
		"expired":   {soonOver, "This sign-in has expired. Start again", http.StatusGone},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			w := startWaiting(t, server, auth, "--login-timeout", test.timeout)
			answer := w.consent()
			if test.status == http.StatusOK {
				knock(t, "GET", answer, nil)
				w.result(w.id)
			} else {
				w.failure(w.id)
			}
			for i := 0; i < 2; i++ {
				status, body := knock(t, "GET", answer, nil)
				text := strings.ReplaceAll(body, "</p>\n<p>", " ")
				if status != test.status || !strings.Contains(text, test.says) {
					t.Errorf("got status %d, %q, want %d, %q", status, body, test.status, test.says)
				}
			}
			auth.revokeAll()
			id := w.request("initialize", initializeParams)
			page := w.awaitURL(2)
			if got := redirectOf(page); got.Host != w.redirect.Host || auth.count("register") != 1 {
				t.Errorf("got %s after %s, %d registrations", got, w.redirect, auth.count("register"))
			}
			w.user.paste(page)
			w.answer(id)
		})
	}
}

// The table of MCP 2026-07-28, Authorization, "Authorization Response
// Validation", for codes and for errors: what is not of this server is neither
// used nor shown.
func TestIssuerOfTheResponse(t *testing.T) {
	const right, wrong, absent = "right", "https://evil.example", ""
	for name, test := range map[string]struct {
		advertised bool
		iss        string
		denied     bool
		ok         bool
	}{
		"promised and there":              {true, right, false, true},
		"promised and missing":            {true, absent, false, false},
		"promised, another's":             {true, wrong, false, false},
		"not promised, but there":         {false, right, false, true},
		"not promised, another's":         {false, wrong, false, false},
		"not promised, not there":         {false, absent, false, true},
		"error, promised and there":       {true, right, true, true},
		"error, promised and missing":     {true, absent, true, false},
		"error, promised, another's":      {true, wrong, true, false},
		"error, not promised, another's":  {false, wrong, true, false},
		"error, not promised, not there":  {false, absent, true, true},
		"error, not promised, but there ": {false, right, true, true},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.metadata = func(doc map[string]any) {
				if !test.advertised {
					delete(doc, "authorization_response_iss_parameter_supported")
				}
			}
			auth.responds = func(back url.Values) {
				switch test.iss {
				case absent:
					back.Del("iss")
				case wrong:
					back.Set("iss", wrong)
				}
				if test.denied {
					back.Del("code")
					back.Set("error", "SENTINEL_error")
					back.Set("error_description", "SENTINEL text")
					back.Set("error_uri", "https://evil.example/SENTINEL")
				}
			}
			w := startWaiting(t, server, auth)
			page := w.user.paste(w.page)
			if test.ok && !test.denied {
				w.result(w.id)
				return
			}
			got := w.failure(w.id)
			switch shown := strings.Contains(got.Message+page.Body+w.stderr(), "SENTINEL"); {
			case test.ok && !strings.Contains(got.Message, "SENTINEL_error (SENTINEL text)"):
				t.Errorf("got %q, want the server's error", got.Message)
			case !test.ok && shown:
				t.Errorf("another server's words were shown: %q, page %q", got.Message, page.Body)
			case !test.ok && !strings.Contains(got.Message, "does not come from"):
				t.Errorf("got %q, want a word about the issuer", got.Message)
			}
			if got := len(auth.sentForms()); got != 0 || page.Status != http.StatusForbidden {
				t.Errorf("got %d requests for a token and a page with status %d", got, page.Status)
			}
		})
	}
}

// The comparison is of plain strings: no normalization of any kind.
func TestIssuerIsComparedAsWritten(t *testing.T) {
	const issuer = "https://as.example/tenant"
	for iss, want := range map[string]bool{
		issuer: true, issuer + "/": false, issuer + " ": false, issuer + ".evil": false,
		"https://AS.example/tenant": false, "https://as.example:443/tenant": false,
		"https://as.example/t%65nant": false, "https://as.example": false,
		"": false, "as.example/tenant": false,
	} {
		for _, needed := range []bool{false, true} {
			cb := &callback{issuer: issuer, needsIss: needed}
			code, err := cb.check(url.Values{"iss": {iss}, "code": {"c"}})
			if (err == nil) != want || (code != "") != want {
				t.Errorf("%q, needed %v: got %q (%v)", iss, needed, code, err)
			}
		}
	}
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
	}
	return err == nil
}

// localhost may mean either loopback address to a browser.
func TestBothLoopbackAddresses(t *testing.T) {
	addresses := []string{"127.0.0.1"}
	if hasIPv6() { // not every container has
		addresses = append(addresses, "[::1]")
	}
	for _, address := range addresses {
		address := address
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			port := freePort(t)
			redirect := fmt.Sprintf("http://localhost:%d/cb", port)
			c := auth.addClient("the-client", "none", redirect)
			w := startWaiting(t, server, auth, "--client-id", c.id, "--redirect-uri", redirect)
			answer := strings.Replace(w.consent(), "localhost", address, 1)
			status, _ := knock(t, "GET", answer, http.Header{"Host": {w.redirect.Host}})
			if status != http.StatusOK {
				t.Errorf("got status %d, want 200", status)
			}
			w.result(w.id)
		})
	}
}

// The redirect URI goes out exactly as it was given, and the browser's own
// spelling of its host comes back.
func TestRedirectURIAsGiven(t *testing.T) {
	forms := map[string]string{
		"capitals": "http://LocalHost:%d/cb", "no path": "http://127.0.0.1:%d",
		"IPv6": "http://[::1]:%d/cb", "encoded path": "http://127.0.0.1:%d/c%%62",
	}
	if !hasIPv6() {
		delete(forms, "IPv6")
	}
	for name, form := range forms {
		form := form
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			redirect := fmt.Sprintf(form, freePort(t))
			c := auth.addClient("the-client", "none", redirect)
			w := startWaiting(t, server, auth, "--client-id", c.id, "--redirect-uri", redirect)
			answer := w.consent()
			host := strings.ToLower(parsedURL(t, answer).Host)
			if status, _ := knock(t, "GET", answer, http.Header{"Host": {host}}); status != http.StatusOK {
				t.Errorf("got status %d, want 200", status)
			}
			w.result(w.id)
		})
	}
}

// A redirect URI on port 80 comes back without the port in Host.
func TestHostOfDefaultPort(t *testing.T) {
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:80": 200,
		"localhost:8080": 400, "localhost.": 400, "": 400, "evil.example": 400,
	} {
		cb := &callback{
			redirect: parsedURL(t, "http://localhost:80/cb"), answers: make(chan url.Values, 1),
		}
		cb.expect(authorizationRequest{state: "state"}, authorizationRequest{})
		done := make(chan struct{})
		go func() {
			select {
			case <-cb.answers:
				cb.end(nil)
			case <-done:
			}
		}()
		r := httptest.NewRequest(http.MethodGet, "/cb?state=state&code=c", nil)
		r.Host = host
		w := httptest.NewRecorder()
		if cb.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%q: got status %d, want %d", host, w.Code, want)
		}
		close(done)
	}
}

// A port that is taken, on either loopback address, is passed over.
func TestFirstFreePort(t *testing.T) {
	t.Parallel()
	if l, err := net.Listen("tcp", "[::1]:3000"); err == nil { // else somebody has it already
		defer l.Close()
	}
	server, auth := startProtected(t)
	c := auth.addClient("the-client", "none")
	w := startWaiting(t, server, auth, "--client-id", c.id)
	if port := w.redirect.Port(); port <= "3000" || port > "3010" ||
		w.redirect.Hostname() != "localhost" || w.redirect.Path != "/oauth2callback" {
		t.Errorf("got redirect URI %s, want the next free port", w.redirect)
	}
	w.user.paste(w.page)
	w.result(w.id)
}

// All ports taken: the error names them, and the way out. Not parallel: others
// need these ports.
func TestAllPortsTaken(t *testing.T) {
	t.Parallel()
	port := freePort(t) // those of given clients may be another program's
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	fatal(t, err)
	defer l.Close()
	cb, err := listenForGivenClient(nil, port, port)
	if err == nil {
		cb.close()
		t.Fatalf("got %s, want an error", cb.redirect)
	}
	const flag = "--redirect-uri http://localhost:PORT/oauth2callback"
	if !strings.Contains(err.Error(), fmt.Sprintf("the ports %d to %d", port, port)) || !strings.Contains(hintOf(err), flag) {
		t.Errorf("got %q, hint %q", err, hintOf(err))
	}
	if longest := (lastGivenPort - firstGivenPort + 1) * makeWayTimeout; longest > 5*time.Second {
		t.Errorf("programs that say nothing hold the user up for %v", longest)
	}
}

// A server's address is no callback of ours, whatever its query says.
func TestRedirectOf(t *testing.T) {
	for redirect, want := range map[string]bool{
		"http://127.0.0.1:3000/cb": true, "http://localhost:3000/cb": true, "http://[::1]:3000/cb": true,
		"http://10.0.0.5:6379/x": false, "http://localhost.example/x": false, "/x": false, "": false,
	} {
		page := "https://as.example/authorize?" + url.Values{"redirect_uri": {redirect}}.Encode()
		if got := redirectOf(page); (got != nil) != want || want && got.String() != redirect {
			t.Errorf("%q: got %v", redirect, got)
		}
	}
}

// The user's own redirect URI is the only place; nobody else's window opens for it.
func TestRedirectURITaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	server, auth := startProtected(t)
	c := auth.addClient("the-client", "none")
	user := newUser(t, auth, server)
	redirect := "http://127.0.0.1:" + port + "/cb"
	p := user.start("-u", server.url, "--client-id", c.id, "--redirect-uri", redirect)
	got := p.failure(p.request("initialize", initializeParams))
	if !strings.Contains(got.Message, "port "+port+" is not free (listen: ") {
		t.Errorf("got %q, want the flag and the port", got.Message)
	}
	if got := len(user.openings()); got != 0 || auth.count("authorize") != 0 {
		t.Errorf("got %d browser windows", got)
	}
}

// pageCommand is how a page shows what to type.
func pageCommand(line string) string {
	return "<code><span>" + strings.ReplaceAll(line, " ", "</span> <span>") + "</span></code>"
}

// The page says what happened in plain, escaped words, runs nothing, and is
// kept nowhere.
func TestPage(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.denies = true
	auth.responds = func(back url.Values) {
		back.Set("error", "<script>alert(1)</script>")
		back.Set("error_description", `"><img src=x onerror='alert(2)'>{{mark}}`)
	}
	w := startWaiting(t, server, auth)
	page := w.user.paste(w.page)
	for _, bad := range []string{"<script", "<img", "'alert", w.state} {
		if strings.Contains(page.Body, bad) {
			t.Errorf("page: got %q in %q", bad, page.Body)
		}
	}
	command := pageCommand("mcp-proxy login -u " + server.url)
	if !strings.Contains(page.Body, "&lt;script&gt;") || !strings.Contains(page.Body, command) {
		t.Errorf("page: got %q, want the error, escaped, and what to type", page.Body)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff",
		"Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
		"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; " +
			"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
	} {
		if got := page.Header.Get(name); got != want {
			t.Errorf("page: %s: got %q, want %q", name, got, want)
		}
	}
	for name := range page.Header {
		if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" || name == "Location" {
			t.Errorf("page: got the header %s", name)
		}
	}
	w.failure(w.id)
}

// The listener is there before anybody is told the address, and gone when it is over.
func TestCallbackEnds(t *testing.T) {
	t.Parallel()
	cb, err := listenForRegistration(nil, false, localAddress, "https://as.example")
	fatal(t, err)
	cb.expect(authorizationRequest{state: "state"}, authorizationRequest{})
	go knock(t, "GET", cb.redirect.String()+"?state=state&code=c", nil)
	if code, err := cb.check(<-cb.answers); code != "c" || err != nil {
		t.Errorf("got %q (%v)", code, err)
	}
	cb.end(nil)
	cb.close()
	if status, _ := knock(t, "GET", cb.redirect.String(), nil); status != 0 {
		t.Errorf("somebody still answers: %d", status)
	}
}

// Where the next request of a sign-in goes is told like the first one's: a user whose browser is
// elsewhere, and pastes what it ended at, has no other way to it.
func TestNextAddressIsTold(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope, auth.scopes, auth.valid = anyValue, []string{"tools", "offline_access"}, []string{"tools"}
	w := startWaiting(t, server, auth)
	client := w.user.httpClient()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Get(w.consent())
	fatal(t, err)
	resp.Body.Close()
	w.user.paste(w.awaitURL(2))
	w.result(w.id)
}

// Browsers add a slash where the redirect URI has no path.
func TestPastedWithoutPath(t *testing.T) {
	redirect := parsedURL(t, "http://localhost:3000")
	for pasted, want := range map[string]bool{
		"http://localhost:3000/?code=a&state=b": true, "http://localhost:3000?code=a&state=b": true,
		"http://localhost:3000/x?code=a&state=b": false, "http://localhost:30001/?code=a&state=b": false,
	} {
		if got := isResponse(pasted, redirect); got != want {
			t.Errorf("%s: got %v", pasted, got)
		}
	}
}
