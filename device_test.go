package main

// Signing in with a code, in a browser that need not be on this machine.

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	printedCode = regexp.MustCompile(`enter the code (\S+):\n(\S+)\n`)
	printedPage = regexp.MustCompile(`https://\S+/device\?user_code=\S+`)
)

// overSSH is a session without any browser.
func overSSH(user *testUser) {
	user.env["SSH_CONNECTION"], user.env["BROWSER"] = "192.0.2.1 1 192.0.2.2 22", ""
}

// startDevices starts a protected server whose users can sign in by a code.
func startDevices(t testing.TB) (*fakeMCP, *fakeAuth, *testUser) {
	server, auth := startProtected(t)
	auth.device = func(map[string]any) {}
	return server, auth, newUser(t, auth, server)
}

// The address that holds the code opens in the browser; the token refreshes
// as any other, and the next start needs nobody.
func TestDevice(t *testing.T) {
	t.Parallel()
	server, auth, user := startDevices(t)
	p := user.start("-u", server.url, "--device")
	p.initialize()
	auth.expireAccess()
	p.echo("refreshed")
	user.start("-u", server.url, "--device").initialize()
	if got, want := auth.labels()[:3], []string{"metadata", "register", "device/code"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if auth.count("authorize") != 0 || auth.count("device/code") != 1 || auth.count("token refresh_token") != 1 {
		t.Errorf("got %q", auth.labels())
	}
	if got := user.openings(); len(got) != 1 {
		t.Errorf("opened %q", got)
	} else {
		wantOwnAddress(t, auth, got[0])
	}
	if got := printedCode.FindStringSubmatch(p.stderr()); got == nil || got[2] != auth.base+"/device" {
		t.Errorf("got %q, want the code and the address", p.stderr())
	}
}

// Over SSH the code is for all processes that wait, and nothing is opened.
func TestDeviceForAllWhoWait(t *testing.T) {
	t.Parallel()
	server, auth, user := startDevices(t)
	auth.device = func(doc map[string]any) { // that looks like a page which leads back here
		doc["verification_uri"] = auth.base + "/device?redirect_uri=http://localhost:6379/x"
	}
	overSSH(user)
	first, second := user.start("-u", server.url), user.start("-u", server.url)
	ids := []string{first.request("initialize", initializeParams), second.request("initialize", initializeParams)}
	for _, p := range []*testProxy{first, second} {
		p.awaitStderr("enter the code")
		p.awaitStderr("?user_code=")
	}
	auth.await("token device_code", 2)
	page := printedPage.FindString(second.stderr())
	if page == "" || page != printedPage.FindString(first.stderr()) {
		t.Errorf("got %q and %q, want the same page", first.stderr(), second.stderr())
	}
	if strings.Contains(second.stderr(), "ssh -L") {
		t.Errorf("got %q, want no tunnel to a port that the server chose", second.stderr())
	}
	user.paste(page)
	first.result(ids[0])
	second.result(ids[1])
	if auth.count("device/code") != 1 || auth.count("authorize") != 0 || len(user.openings()) != 0 {
		t.Errorf("got %q", auth.labels())
	}
}

// An endpoint that is out of order refuses nobody: the next message asks again.
func TestDeviceOutOfOrder(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		status := status
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			server, auth, user := startDevices(t)
			down := true
			auth.on("device/code", func(w http.ResponseWriter, _ *fakeRequest) bool {
				if down {
					w.WriteHeader(status)
				}
				return down
			})
			p, other := user.start("-u", server.url, "--device"), user.start("-u", server.url, "--device")
			p.failure(p.request("initialize", initializeParams))
			auth.change(func() { down = false })
			p.initialize()
			other.initialize()
		})
	}
}

// The code of a client that the server has lost gives way to another, whose window opens at once.
func TestDeviceOfForgottenClient(t *testing.T) {
	t.Parallel()
	server, auth, user := startDevices(t)
	polls := 0
	auth.on("token device_code", func(w http.ResponseWriter, _ *fakeRequest) bool {
		if polls++; polls == 1 {
			writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		}
		return polls == 1
	})
	p := user.start("-u", server.url, "--device")
	p.initialize()
	if got := len(user.openings()); got != 2 || auth.count("register") != 2 {
		t.Errorf("got %d browser windows, want 2, %q, %s", got, auth.labels(), p.stderr())
	}
}

// Where the window's address leads on, nobody is answered.
func TestDeviceStrayRequest(t *testing.T) {
	t.Parallel()
	server, _, user := startDevices(t)
	user.browser = "ignore"
	p := user.start("-u", server.url, "--device", "--login-timeout", soonOver)
	id := p.request("initialize", initializeParams)
	stray := parsedURL(t, user.awaitOpenings(1))
	stray.Path, stray.RawQuery = "/callback", "error=access_denied"
	if status, _ := knock(t, "GET", stray.String(), nil); status != http.StatusBadRequest {
		t.Errorf("got status %d, want 400", status)
	}
	p.awaitStderr("has the error access_denied and no state")
	p.failure(id)
}

// The user's no, and a code that nobody used in time.
func TestDeviceWithoutToken(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(auth *fakeAuth, user *testUser)
		says    string
	}{
		"denied": {func(_ *fakeAuth, user *testUser) { user.browser = "deny" }, "the sign-in was denied"},
		"expired": {func(auth *fakeAuth, user *testUser) {
			user.browser = "ignore"
			auth.refuseTokens("device_code", http.StatusBadRequest, "expired_token")
		}, "before it expired"},
		"expired by the clock": {func(auth *fakeAuth, user *testUser) {
			user.browser = "ignore"
			auth.change(func() { auth.device = func(doc map[string]any) { doc["expires_in"] = 0.2 } })
		}, "before it expired"},
		"refused": {func(auth *fakeAuth, _ *testUser) {
			auth.on("device/code", func(w http.ResponseWriter, _ *fakeRequest) bool {
				writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_scope"})
				return true
			})
		}, "device authorization endpoint of 127.0.0.1"},
		"not offered": {func(auth *fakeAuth, _ *testUser) { auth.change(func() { auth.device = nil }) }, "leave out --device"},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth, user := startDevices(t)
			test.prepare(auth, user)
			_, stderr, exit := user.run("login", "-u", server.url, "--device")
			if exit != 2 || !strings.Contains(stderr, test.says) || auth.count("authorize") != 0 {
				t.Errorf("got exit code %d, %q, want %q", exit, stderr, test.says)
			}
			if strings.Contains(stderr, "enter the code") != strings.Contains(stderr, "waiting for up to 5 minutes") {
				t.Errorf("got %q, want how long it waits with the code", stderr)
			}
		})
	}
}

// By itself only where no browser can come back.
func TestDeviceByItself(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		args []string
		want bool
	}{
		"SSH":                         {map[string]string{"SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}, nil, true},
		"container":                   {map[string]string{"container": "podman"}, nil, true},
		"pod":                         {map[string]string{"KUBERNETES_SERVICE_HOST": "192.0.2.3"}, nil, true},
		"SSH, the editor's browser":   {map[string]string{"SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22", "BROWSER": "code"}, nil, false},
		"SSH, the way back is set up": {map[string]string{"SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}, []string{"--redirect-uri", "http://localhost:1/cb"}, false},
		"no browser wanted":           {map[string]string{"BROWSER": "firefox"}, []string{"--no-browser"}, false},
		"asked for":                   {map[string]string{"BROWSER": "firefox"}, []string{"--device"}, true},
	} {
		c, err := parseArgs(append([]string{"https://mcp.example.com/"}, test.args...), func(name string) string { return test.env[name] })
		if err != nil || c.prefersDevice() != test.want {
			t.Errorf("%s: got %v, %v, want %v", name, c != nil && c.prefersDevice(), err, test.want)
		}
	}
}

// A program of the desktop in Flatpak has its browser beside it.
func TestContainerByTheEnvironment(t *testing.T) {
	_, noDocker := os.Lstat("/.dockerenv")
	for kind, want := range map[string]bool{"": noDocker == nil, "podman": true, "flatpak": noDocker == nil} {
		if got := isContainer(func(name string) string { return map[string]string{"container": kind}[name] }); got != want {
			t.Errorf("%q: got %v, want %v", kind, got, want)
		}
	}
}

// No code for this client, for whatever reason: the ordinary way is taken, with
// no further registration than it needs. --device insists.
func TestDeviceFallsBack(t *testing.T) {
	answer := func(status int, doc map[string]any) func(auth *fakeAuth) {
		return func(auth *fakeAuth) {
			auth.on("device/code", func(w http.ResponseWriter, _ *fakeRequest) bool {
				writeJSON(w, status, doc)
				return true
			})
		}
	}
	for name, test := range map[string]struct {
		prepare   func(auth *fakeAuth)
		registers int
	}{
		"refused":      {answer(http.StatusForbidden, map[string]any{"error": "invalid_scope"}), 1}, // Google's clients of other kinds
		"not there":    {answer(http.StatusNotFound, map[string]any{}), 1},
		"out of order": {answer(http.StatusNotImplemented, map[string]any{}), 1},
		"unusable":     {answer(http.StatusOK, map[string]any{"device_code": "a", "user_code": "b", "verification_uri": "http://192.0.2.1/"}), 1},
		"registration": {func(auth *fakeAuth) {
			auth.on("register", func(w http.ResponseWriter, r *fakeRequest) bool {
				if !strings.Contains(string(r.body), deviceGrant) {
					return false
				}
				writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_client_metadata"})
				return true
			})
		}, 4}, // without scope, for localhost, without the grant
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth, user := startDevices(t)
			overSSH(user)
			test.prepare(auth)
			if _, stderr, exit := user.run("login", "-u", server.url, "--device"); exit == 0 || strings.Contains(stderr, "response_type=code") {
				t.Errorf("--device: got exit code %d, %q", exit, stderr)
			}
			user.run("logout", "-u", server.url)
			before := auth.count("register")
			p := user.start("-u", server.url)
			id := p.request("initialize", initializeParams)
			user.paste(p.awaitURL(1))
			p.result(id)
			if got := auth.count("register") - before; got != test.registers {
				t.Errorf("got %d registrations, want %d", got, test.registers)
			}
		})
	}
}

// Whoever asks for a code and goes away keeps the token that there was.
func TestDeviceKeepsTheOldToken(t *testing.T) {
	t.Parallel()
	server, auth, user := startDevices(t)
	user.remember(server)
	auth.change(func() {
		for _, c := range auth.clients {
			c.grants = []string{"authorization_code", "refresh_token"}
		}
	})
	auth.refuseTokens("device_code", http.StatusBadRequest, "expired_token")
	user.browser = "ignore"
	if _, stderr, exit := user.run("login", "-u", server.url, "--device"); exit != 2 || auth.count("register") != 1 {
		t.Errorf("got exit code %d, %q, %q", exit, stderr, auth.labels())
	}
	user.start("-u", server.url).initialize()
	if auth.count("authorize") != 0 {
		t.Errorf("got %q", auth.labels())
	}
}

// A client that was registered for the browser alone is registered anew.
func TestDeviceForRegisteredClient(t *testing.T) {
	t.Parallel()
	server, auth, user := startDevices(t)
	user.remember(server)
	auth.change(func() {
		for _, c := range auth.clients {
			c.grants = []string{"authorization_code", "refresh_token"}
		}
	})
	auth.revokeAll()
	user.start("-u", server.url, "--device").initialize()
	if auth.count("device/code") != 2 || auth.count("register") != 1 {
		t.Errorf("got %q", auth.labels())
	}
}

// A given client shows who it is at this endpoint as at the token endpoint.
func TestDeviceForGivenClient(t *testing.T) {
	t.Parallel()
	server, auth, user := startDevices(t)
	auth.change(func() { auth.methods = []string{"client_secret_basic"} })
	c := auth.addClient("app", "client_secret_basic")
	user.env["SECRET"] = c.secret
	user.start("-u", server.url, "--device", "-i", c.id, "-s", "env:SECRET").initialize()
	if auth.count("register") != 0 || auth.count("authorize") != 0 {
		t.Errorf("got %q", auth.labels())
	}
}

func TestNextPoll(t *testing.T) {
	timeout := noAnswer{errors.New("timed out"), errors.New("timed out")}
	for name, test := range map[string]struct {
		interval time.Duration
		err      error
		want     time.Duration
		again    bool
	}{
		"pending":         {5 * time.Second, &oauthError{code: "authorization_pending", status: 400}, 5 * time.Second, true},
		"pending, Google": {5 * time.Second, &oauthError{code: "authorization_pending", status: 428}, 5 * time.Second, true},
		"slow down":       {5 * time.Second, &oauthError{code: "slow_down", status: 400}, 10 * time.Second, true},
		"slow down, 429":  {10 * time.Second, &oauthError{code: "slow_down", status: 429}, 15 * time.Second, true},
		"no answer":       {5 * time.Second, fmt.Errorf("token endpoint: %w", timeout), 10 * time.Second, true},
		"out of order":    {10 * time.Second, &oauthError{status: 503}, 20 * time.Second, true},
		"not for ever":    {50 * time.Second, &oauthError{status: 503}, time.Minute, true},
		"denied":          {5 * time.Second, &oauthError{code: "access_denied", status: 400}, 5 * time.Second, false},
		"expired":         {5 * time.Second, &oauthError{code: "expired_token", status: 400}, 5 * time.Second, false},
		"ours":            {5 * time.Second, errors.New("no key"), 5 * time.Second, false},
	} {
		if got, again := nextPoll(test.interval, test.err); got != test.want || again != test.again {
			t.Errorf("%s: got %v, %v, want %v, %v", name, got, again, test.want, test.again)
		}
	}
}

// What a hostile or a careless server may say.
func TestDeviceAnswers(t *testing.T) {
	const good = `"device_code":"d","user_code":"AB-CD","expires_in":600,`
	for name, test := range map[string]struct {
		status        int
		body          string
		uri, complete string // none: refused
	}{
		"plain":            {200, `{` + good + `"verification_uri":"https://as.example/d"}`, "https://as.example/d", ""},
		"Google":           {200, `{` + good + `"verification_url":"https://as.example/d"}`, "https://as.example/d", ""},
		"complete":         {200, `{` + good + `"verification_uri":"https://as.example/d","verification_uri_complete":"https://as.example/d?c=$(id)"}`, "https://as.example/d", "https://as.example/d?c=$(id)"},
		"complete by http": {200, `{` + good + `"verification_uri":"https://as.example/d","verification_uri_complete":"http://as.example/d?c=1"}`, "https://as.example/d", ""},
		"complete: a file": {200, `{` + good + `"verification_uri":"https://as.example/d","verification_uri_complete":"file:///bin/sh"}`, "https://as.example/d", ""},
		"http":             {200, `{` + good + `"verification_uri":"http://as.example/d"}`, "", ""},
		"a script":         {200, `{` + good + `"verification_uri":"javascript:alert(1)"}`, "", ""},
		"controls in URI":  {200, `{` + good + `"verification_uri":"https://as.example/\u001b[2J"}`, "", ""},
		"no URI":           {200, `{` + good + `"interval":5}`, "", ""},
		"controls in code": {200, `{"device_code":"d","user_code":"A\u001b[2J","verification_uri":"https://as.example/d"}`, "", ""},
		"lines in code":    {200, `{"device_code":"d","user_code":"A\nmcp-proxy: hint","verification_uri":"https://as.example/d"}`, "", ""},
		"words as a code":  {200, `{"device_code":"d","user_code":"CALL 555-1234","verification_uri":"https://as.example/d"}`, "", ""},
		"long code":        {200, `{"device_code":"d","user_code":"` + strings.Repeat("A", 65) + `","verification_uri":"https://as.example/d"}`, "", ""},
		"no code":          {200, `{"user_code":"A","verification_uri":"https://as.example/d"}`, "", ""},
		"HTML":             {200, `<html>`, "", ""},
		"an error":         {200, `{"error":"invalid_client",` + good + `"verification_uri":"https://as.example/d"}`, "", ""},
		"status":           {500, `{` + good + `"verification_uri":"https://as.example/d"}`, "", ""},
	} {
		d := &deviceAuthorization{}
		err := d.read(test.status, []byte(test.body))
		switch {
		case (err == nil) != (test.uri != ""):
			t.Errorf("%s: got %+v, %v", name, d, err)
		case err == nil && (d.URI != test.uri || d.URIComplete != test.complete):
			t.Errorf("%s: got %q and %q, want %q and %q", name, d.URI, d.URIComplete, test.uri, test.complete)
		}
	}
}

// With a code and with a browser together a sign-in makes no more registrations than one way alone.
func TestDeviceRegistrations(t *testing.T) {
	t.Parallel()
	server, auth, user := startDevices(t)
	overSSH(user)
	unknown := func(w http.ResponseWriter, _ *fakeRequest) bool {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return true
	}
	auth.on("token authorization_code", unknown)
	auth.on("device/code", unknown)
	p := user.start("-u", server.url)
	id := p.request("initialize", initializeParams)
	user.paste(p.awaitURL(1))
	p.failure(id)
	if got := auth.count("register"); got != maxRegistrations {
		t.Errorf("got %d registrations, want %d: %q", got, maxRegistrations, auth.labels())
	}
}
