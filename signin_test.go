package main

// What the proxy chose itself never ends a sign-in: scopes, redirects and clients
// that are refused, against the real program, and what is remembered of it.

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// A scope that was chosen for the user is given up step by step, in one browser
// tab, at most four requests in all; what the user gave is not.
func TestScopeRefused(t *testing.T) {
	lost := func(edit ...func(doc map[string]any)) func(*fakeMCP, *fakeAuth, *testUser) {
		return func(s *fakeMCP, a *fakeAuth, u *testUser) {
			u.remember(s, edit...)
			a.revokeAll()
		}
	}
	old := func(doc map[string]any) { doc["requested_scope"] = "old tools" }
	for name, test := range map[string]struct {
		change        func(s *fakeMCP, a *fakeAuth, u *testUser)
		args          []string
		asked         []string // scopes, one for each request
		registrations int      // requests for one
		fails         string
	}{
		"held to the registration": {func(_ *fakeMCP, a *fakeAuth, _ *testUser) { a.strict = true }, nil, []string{"tools"}, 1, ""},
		"registered without, earlier": {func(s *fakeMCP, a *fakeAuth, u *testUser) { a.strict = true; lost()(s, a, u) }, nil,
			[]string{"tools", "tools"}, 1, ""},
		"refused at registration": {func(_ *fakeMCP, a *fakeAuth, _ *testUser) { a.valid = []string{"x"} }, nil, []string{"tools", ""}, 2, ""},
		"registered for less": {func(s *fakeMCP, a *fakeAuth, _ *testUser) {
			s.scope, a.strict = "tools admin", true
			a.registered = func(doc map[string]any) { doc["scope"] = "tools" }
		}, nil, []string{"tools"}, 1, ""},
		"offline_access is for others": {func(_ *fakeMCP, a *fakeAuth, _ *testUser) {
			a.scopes, a.valid = []string{"tools", "offline_access"}, []string{"tools"}
		}, nil, []string{"tools offline_access", "tools"}, 2, ""},
		"refused at registration, by policy": {func(_ *fakeMCP, a *fakeAuth, _ *testUser) {
			a.valid = []string{"x"}
			a.on("register", func(w http.ResponseWriter, r *fakeRequest) bool {
				refused := strings.Contains(string(r.body), `"scope"`)
				if refused {
					says(403, "application/json", `{"error":"insufficient_scope","error_description":"not permitted to use specified clientScope"}`)(w, r)
				}
				return refused
			})
		}, nil, []string{"tools", ""}, 2, ""},
		"offline_access is for other users": {func(_ *fakeMCP, a *fakeAuth, _ *testUser) {
			a.scopes = []string{"tools", "offline_access"}
			a.answers = func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
				all := a.asked("scope")
				refused := strings.Contains(all[len(all)-1], "offline_access")
				if refused {
					writeJSON(w, 400, map[string]any{"error": "not_allowed", "error_description": "Offline tokens not allowed for the user or client"})
				}
				return refused
			}
		}, nil, []string{"tools offline_access", "tools"}, 1, ""},
		"renamed": {func(s *fakeMCP, a *fakeAuth, u *testUser) { a.valid = []string{"tools"}; lost(old)(s, a, u) }, nil,
			[]string{"old tools", "tools"}, 0, ""},
		"given": {func(_ *fakeMCP, a *fakeAuth, _ *testUser) { a.valid = []string{"tools"} }, []string{"--scope", "mine"},
			[]string{"mine"}, 2, "what --scope names"},
		"whatever is asked": {func(s *fakeMCP, a *fakeAuth, u *testUser) {
			lost(old)(s, a, u)
			a.scopes = []string{"offline_access"}
			a.responds = func(back url.Values) {
				back.Del("code")
				back.Set("error", "invalid_scope")
				back.Set("error_description", "never")
			}
		}, nil, []string{"old tools offline_access", "tools offline_access", "tools", "tools"}, 1, "invalid_scope never"},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.scope = anyValue
			user := newUser(t, auth, server)
			test.change(server, auth, user)
			p := user.start(append([]string{"-u", server.url}, test.args...)...)
			id := p.request("initialize", initializeParams)
			title := "Signed in"
			if test.fails == "" {
				p.result(id)
			} else if got := p.failure(id).Message; !strings.Contains(got, test.fails) {
				t.Errorf("got %q, want %q", got, test.fails)
			}
			if test.fails != "" {
				title = "Sign-in failed"
			}
			wantValues(t, "scope", auth.asked("scope"), test.asked...)
			if got := auth.count("register"); got != test.registrations || len(user.openings()) != 1 {
				t.Errorf("got %d registrations and %d windows, want %d and 1", got, len(user.openings()), test.registrations)
			}
			if page := user.lastPage(); !strings.Contains(page.Body, title) {
				t.Errorf("the tab ended at %q, want %q", page.Body, title)
			}
			if test.fails != "" {
				return
			}
			p.closeStdin() // else it may lead the next sign-in, with a window
			p.wait()
			auth.revokeAll() // what worked is asked for at once
			again := user.start("-u", server.url, "--no-browser")
			id = again.request("initialize", initializeParams)
			user.paste(again.awaitURL(1))
			again.result(id)
			wantValues(t, "scope later", auth.asked("scope"), append(test.asked, test.asked[len(test.asked)-1])...)
			if got := auth.count("register"); got != test.registrations {
				t.Errorf("got %d registrations later, want %d", got, test.registrations)
			}
		})
	}
}

// The same without a browser.
func TestScopeRefusedWithoutABrowser(t *testing.T) {
	t.Run("device", func(t *testing.T) {
		t.Parallel()
		server, auth, user := startDevices(t)
		auth.scope, auth.valid = anyValue, []string{"x"}
		p := user.start("-u", server.url, "--device")
		p.initialize()
		if got := auth.count("device/code"); got != 2 {
			t.Errorf("got %d requests for a code, want 2", got)
		}
	})
	t.Run("machine", func(t *testing.T) {
		t.Parallel()
		_, auth, user, args := startMachines(t)
		auth.scope, auth.valid = anyValue, []string{"x"}
		user.start(args...).initialize()
		if got := auth.count("token client_credentials"); got != 2 {
			t.Errorf("got %d requests for a token, want 2", got)
		}
	})
}

// Servers that hold a client to what it registered for: a step-up registers anew.
func TestStepUpRegistersAnew(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope, auth.strict = anyValue, true
	server.needs = map[string]string{"tools/call echo": "write"}
	user := newUser(t, auth, server)
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("may I")
	wantValues(t, "scope", auth.asked("scope"), "tools", "tools write")
	if got := auth.count("register"); got != 2 {
		t.Errorf("got %d registrations, want 2", got)
	}
}

// A token with too narrow a scope: the message says what was asked and what was granted.
func TestGrantedLess(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope = anyValue
	auth.answers = func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
		reply.doc["scope"] = "tools"
		writeJSON(w, reply.status, reply.doc)
		return true
	}
	user := newUser(t, auth, server)
	server.refuse("tools/call echo", http.StatusForbidden, func() string {
		return bearerChallenge(server.base+server.prmPath, "insufficient_scope", "tools write")
	})
	p := user.start("-u", server.url)
	p.initialize()
	got := p.failure(p.request("tools/call", echoParams("x"))).Message
	for _, want := range []string{`asked for "tools write"`, `granted "tools"`, `wants "tools write"`} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	if got := auth.count("authorize"); got != 2 {
		t.Errorf("got %d sign-ins, want 2", got)
	}
}

// Superset and fronts of Cognito register localhost and not 127.0.0.1, each in words of its own.
func TestRegistrationForLocalhost(t *testing.T) {
	for name, refusal := range map[string]struct {
		status   int
		body     string
		requests int
	}{
		"invalid_redirect_uri":    {400, `{"error":"invalid_redirect_uri"}`, 2},
		"invalid_client_metadata": {400, `{"error":"invalid_client_metadata"}`, 3}, // the scope might have been it
		"details":                 {422, `{"detail":[{"loc":["body","redirect_uris",0]}]}`, 3},
	} {
		refusal := refusal
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.redirectHost = "localhost"
			auth.on("register", func(w http.ResponseWriter, r *fakeRequest) bool {
				if strings.Contains(string(r.body), "127.0.0.1") {
					says(refusal.status, "application/json", refusal.body)(w, r)
					return true
				}
				return false
			})
			user := newUser(t, auth, server)
			first := user.start("-u", server.url)
			first.initialize()
			first.closeStdin() // else it may lead the next sign-in, with a window
			first.wait()
			if got := auth.count("register"); got != refusal.requests || len(user.openings()) != 1 {
				t.Errorf("got %d registrations and %d windows, want %d and 1", got, len(user.openings()), refusal.requests)
			}
			auth.forgetClients()
			p := user.start("-u", server.url, "--no-browser")
			id := p.request("initialize", initializeParams)
			user.paste(p.awaitURL(1))
			p.result(id)
			if got := auth.count("register"); got != refusal.requests+1 {
				t.Errorf("got %d registrations later, want %d: localhost is remembered", got, refusal.requests+1)
			}
		})
	}
}

// A code cannot come back to the sign-in at another authorization server.
func TestRedirectOfEachIssuer(t *testing.T) {
	t.Parallel()
	paths := map[string]bool{}
	for i := 0; i < 2; i++ {
		server, auth := startProtected(t)
		newUser(t, auth, server).start("-u", server.url).initialize()
		redirect := parsedURL(t, auth.asked("redirect_uri")[0])
		if paths[redirect.Path] = true; !strings.HasPrefix(redirect.Path, "/callback/") {
			t.Errorf("got redirect %s", redirect)
		}
	}
	if len(paths) != 2 {
		t.Errorf("got %v, want a path for each issuer", paths)
	}
}

// A sign-in that nobody answers leaves the credentials as they were.
func TestNobodySignsIn(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.remember(server, expired)
	auth.expireAccess()
	user.browser = "ignore"
	before, err := os.ReadFile(user.credentialsFile(server.url))
	fatal(t, err)
	if _, stderr, exit := user.run("login", "-u", server.url, "--login-timeout", "1s"); exit != 2 || !strings.Contains(stderr, "nobody signed in") {
		t.Errorf("login: got %d %q", exit, stderr)
	}
	after, err := os.ReadFile(user.credentialsFile(server.url))
	fatal(t, err)
	if string(before) != string(after) {
		t.Errorf("the credentials became %s", after)
	}
	user.start("-u", server.url).initialize()
	if got := auth.count("token refresh_token"); got != 1 || auth.count("register") != 0 {
		t.Errorf("got %q, want the old refresh token used", auth.labels())
	}
}

const googlesID = "12345.apps.googleusercontent.com"

// startGoogle starts an MCP server that publishes Google's endpoints under an
// issuer of its own, and brings the user to them.
func startGoogle(t *testing.T) (server *fakeMCP, google *fakeAuth, user *testUser) {
	server, google = startProtected(t)
	google.metadata = func(doc map[string]any) {
		doc["authorization_endpoint"], doc["token_endpoint"] = "https://accounts.google.com/authorize", "https://oauth2.googleapis.com/token"
		doc["device_authorization_endpoint"] = google.base + "/device/code"
		delete(doc, "authorization_response_iss_parameter_supported")
	}
	google.responds = func(back url.Values) { back.Del("iss") }
	wire := startWire(t, google.fakeOrigin)
	wire.proxy = true
	user = newUser(t, google, server)
	user.env["HTTPS_PROXY"] = "http://" + wire.listener.Addr().String()
	return server, google, user
}

// googlesClient gives the user a client of Google's by the environment.
func (u *testUser) googlesClient(a *fakeAuth) {
	c := a.addClient(googlesID, "client_secret_basic")
	u.env["GOOGLE_CLIENT_ID"], u.env["GOOGLE_CLIENT_SECRET"] = c.id, c.secret
}

// The main case: GOOGLE_CLIENT_ID is set, no flag is given, and servers name Google's endpoints.
func TestGooglesClientAtGoogle(t *testing.T) {
	t.Parallel()
	server, google, user := startGoogle(t)
	google.methods = []string{"client_secret_basic"}
	user.googlesClient(google)

	p := user.start("-u", server.url)
	p.initialize()
	q := google.requests("authorize")[0].URL.Query()
	if q.Get("client_id") != googlesID || q.Get("access_type") != "offline" || q.Get("prompt") != "consent" || google.count("register") != 0 {
		t.Errorf("got %q, and %q", q, google.labels())
	}
	if !strings.Contains(p.stderr(), "the client of GOOGLE_CLIENT_ID is used at oauth2.googleapis.com") {
		t.Errorf("stderr does not say who gets the client: %q", p.stderr())
	}
	google.expireAccess()
	p.echo("refreshed")
	user.env["container"], user.env["BROWSER"], google.device = "podman", "", func(map[string]any) {}
	second := newFakeMCP(startOrigin(t)) // the same client at another server that names Google
	second.auth, second.resource, second.scope = google, second.url, "tools"
	google.resource, google.issuer = second.url, google.base+"/other"
	google.metadataPath += "/other"
	p = user.start("-u", second.url)
	id := p.request("initialize", initializeParams)
	if page := p.awaitURL(1); !strings.HasPrefix(page, "https://accounts.google.com/") || google.count("device/code") != 0 {
		t.Errorf("got %q, want no code asked of a device endpoint that is not Google's", google.labels())
	}
	p.closeStdin()
	p.failure(id)
}

// Elsewhere a client of Google's from the environment is as if it were not there.
func TestGooglesClientElsewhere(t *testing.T) {
	for name, test := range map[string]struct {
		change func(a *fakeAuth, u *testUser)
		args   []string
		client string // "": another
		fails  string
	}{
		"registers":       {func(*fakeAuth, *testUser) {}, nil, "", ""},
		"no registration": {func(a *fakeAuth, _ *testUser) { a.registers = false }, nil, "", "-i env:GOOGLE_CLIENT_ID -s env:GOOGLE_CLIENT_SECRET"},
		"one endpoint": {func(a *fakeAuth, _ *testUser) {
			a.registers = false
			a.metadata = func(doc map[string]any) {
				doc["authorization_endpoint"] = "https://accounts.google.com/o/oauth2/v2/auth"
			}
		}, nil, "", "-i env:GOOGLE_CLIENT_ID"},
		"in a container": {func(a *fakeAuth, u *testUser) {
			a.registers, u.env["container"], u.env["BROWSER"] = false, "podman", ""
			a.device = func(map[string]any) {}
		}, nil, "", "-i env:GOOGLE_CLIENT_ID"},
		"given": {func(*fakeAuth, *testUser) {}, []string{"-i", "env:GOOGLE_CLIENT_ID", "-s", "env:GOOGLE_CLIENT_SECRET"}, googlesID, ""},
		"not Google's": {func(a *fakeAuth, u *testUser) {
			c := a.addClient("of-mine", "client_secret_basic")
			u.env["GOOGLE_CLIENT_ID"], u.env["GOOGLE_CLIENT_SECRET"] = c.id, c.secret
		}, nil, "of-mine", ""},
		"the secret of another": {func(a *fakeAuth, _ *testUser) {
			a.addClient("public", "none")
			a.methods = []string{"client_secret_post"}
		}, []string{"-i", "public"}, "public", ""},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			if strings.HasPrefix(test.client, googlesID) || test.client == "of-mine" {
				auth.methods = []string{"client_secret_basic"}
			}
			user := newUser(t, auth, server)
			user.googlesClient(auth)
			test.change(auth, user)
			p := user.start(append([]string{"-u", server.url}, test.args...)...)
			if id := p.request("initialize", initializeParams); test.fails == "" {
				p.result(id)
			} else if got := p.failure(id).Message; !strings.Contains(got, test.fails) {
				t.Errorf("got %q, want %q", got, test.fails)
			}
			if test.client != "" {
				wantValues(t, "client_id", auth.asked("client_id"), test.client)
			} else {
				for _, r := range auth.seen {
					if _, secret, basic := r.BasicAuth(); basic || strings.Contains(r.URL.String()+string(r.body), googlesID) {
						t.Errorf("%s holds Google's client: %s %s %q", r.label, r.URL, r.body, secret)
					}
				}
			}
			if said := strings.Contains(p.stderr(), "the client of GOOGLE_CLIENT_ID is used at"); said != (test.client == "of-mine") {
				t.Errorf("stderr: %q", p.stderr())
			}
		})
	}
}

// A given client belongs to the authorization server that saw it first, whichever MCP server led there.
func TestGivenClientOfAnotherServer(t *testing.T) {
	t.Parallel()
	first, honest := startProtected(t)
	second, other := startProtected(t)
	redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
	c := honest.addClient("given-client", "client_secret_basic", redirect)
	honest.methods = []string{"client_secret_basic"}
	user := newUser(t, honest, other, first, second)
	user.env["MY_SECRET"] = c.secret
	args := []string{"-i", c.id, "-s", "env:MY_SECRET", "--redirect-uri", redirect}
	user.start(append(args, "-u", first.url)...).initialize()
	p := user.start(append(args, "-u", second.url)...)
	got := p.failure(p.request("initialize", initializeParams)).Message
	if !strings.Contains(got, honest.issuer) || !strings.Contains(got, "logout -u "+first.url) {
		t.Errorf("got %q, want the server that the client belongs to, and the way out", got)
	}
	wantNothingOf(t, honest, other.fakeOrigin, c.id)
}

// Who asks for less than another entry holds does not get its token.
func TestEntryOfAGivenScope(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope = anyValue
	user := newUser(t, auth, server)
	user.remember(server)
	user.start("-u", server.url, "--scope", "read").initialize()
	user.start("-u", server.url, "--scope", "read").initialize()
	user.start("-u", server.url).initialize()
	wantValues(t, "scope", auth.asked("scope"), "read")
	if _, stderr, exit := user.run("logout", "-u", server.url); exit != 0 || strings.Count(stderr, "signed out of") != 2 {
		t.Errorf("logout: got %d %q, want both entries forgotten", exit, stderr)
	}
}

// A server at a longer path gets a token for the bare origin: allowed, and said.
func TestTokenForTheWholeHost(t *testing.T) {
	for suffix, said := range map[string]bool{"/mcp": false, "": true, "/": true} {
		server, auth := startProtected(t)
		server.resource = server.base + suffix
		auth.resource = server.resource
		p := newUser(t, auth, server).start("-u", server.url)
		p.initialize()
		if got := strings.Contains(p.stderr(), "the token will be good for all of "+server.base); got != said {
			t.Errorf("%q: stderr: %q", suffix, p.stderr())
		}
	}
}

// 400 kB of scope cost 16 s once.
func TestScopeCost(t *testing.T) {
	var b strings.Builder
	for i := 0; i < 200_000; i++ {
		fmt.Fprintf(&b, "%x ", i)
	}
	began := time.Now()
	all := unionScope(b.String(), b.String())
	if withoutScope(all, b.String()) != "" || time.Since(began) > 10*time.Second {
		t.Errorf("%d bytes took %v", b.Len(), time.Since(began))
	}
}
