package main

// Authorization by the book, told against the real program: which
// authorization server, which scopes, which resource. Which client is in
// client_test.go, the authorization response in callback_test.go, the token
// endpoint in token_test.go; those who mean harm are in hostile_test.go.

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// asked lists a parameter's value in every authorization request so far.
func (a *fakeAuth) asked(name string) (values []string) {
	for _, r := range a.requests("authorize") {
		values = append(values, r.URL.Query().Get(name))
	}
	return values
}

// sentForms are the forms of all requests for a token so far.
func (a *fakeAuth) sentForms() (forms []url.Values) {
	for _, label := range []string{"token authorization_code", "token refresh_token"} {
		for _, r := range a.requests(label) {
			form, _ := url.ParseQuery(string(r.body))
			forms = append(forms, form)
		}
	}
	return forms
}

func wantValues(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// The first of several authorization servers whose metadata is valid is the
// one, in every run; and the one where we have a client stays it.
func TestSeveralAuthorizationServers(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	broken, third := newFakeAuth(startOrigin(t)), newFakeAuth(startOrigin(t))
	var mended bool
	broken.metadata = func(doc map[string]any) {
		if !mended {
			doc["issuer"] = third.issuer
		}
	}
	server.prm = func(doc map[string]any) {
		doc["authorization_servers"] = []string{broken.issuer, auth.issuer, third.issuer}
	}
	first := newUser(t, auth, server)
	for _, user := range []*testUser{first, newUser(t, auth, server)} {
		p := user.start("-u", server.url)
		p.initialize()
		p.echo("nothing is on its way")
	}
	broken.change(func() { mended = true })
	auth.revokeAll()
	first.start("-u", server.url).initialize()
	if got := auth.count("authorize"); got != 3 || auth.count("register") != 2 {
		t.Errorf("second server: got %q, want 3 sign-ins of 2 users", auth.labels())
	}
	for _, other := range []*fakeAuth{broken, third} {
		if got := other.count("authorize") + other.count("register"); got != 0 {
			t.Errorf("another server: got %q", other.labels())
		}
	}
}

// Revision 2025-03-26 knows no protected resource metadata: the server's own
// origin is the authorization server, with metadata or without.
func TestServersOfTheFirstRevisionWithAuthorization(t *testing.T) {
	for name, metadataPath := range map[string]string{
		"OAuth metadata": "/.well-known/oauth-authorization-server", "OpenID metadata": "/.well-known/openid-configuration", "no metadata": "",
	} {
		metadataPath := metadataPath
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			auth := newFakeAuth(server.fakeOrigin)
			server.auth, server.prmPath, server.version = auth, "", "2025-03-26"
			server.challenge = func(string) string { return "Bearer" }
			auth.metadataPath, auth.resource, auth.scope = metadataPath, server.url, ""
			auth.methods = []string{"none", "client_secret_basic"}
			p := newUser(t, auth, server).start("-u", server.url)
			p.initialize()
			p.echo("old")
			wantValues(t, "PKCE method", auth.asked("code_challenge_method"), "S256")
		})
	}
}

// The scopes of the challenge, else those of the metadata, else none; and
// what comes with offline access (OpenID Connect Core, section 11).
func TestScopes(t *testing.T) {
	for name, test := range map[string]struct {
		challenged  string
		published   []string // by the resource
		offered     []string // by the authorization server
		flag        string
		want        string
		wantConsent bool
	}{
		"challenged":                 {"read write", []string{"all"}, nil, "", "read write", false},
		"published":                  {"", []string{"read", "write"}, nil, "", "read write", false},
		"published, but none":        {"", []string{}, nil, "", "", false},
		"nothing said":               {"", nil, []string{"read", "write"}, "", "", false},
		"given":                      {"read write", []string{"all"}, []string{"offline_access"}, "mine other", "mine other", false},
		"offline access":             {"read", nil, []string{"read", "offline_access"}, "", "read offline_access", true},
		"offline access, challenged": {"read offline_access", nil, nil, "", "read offline_access", true},
		"offline access, given":      {"read", nil, nil, "offline_access", "offline_access", true},
		"offline access alone":       {"", nil, []string{"offline_access"}, "", "", false},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			server.scope, auth.scope, auth.scopes = test.challenged, test.want, test.offered
			server.prm = func(doc map[string]any) {
				if test.published != nil {
					doc["scopes_supported"] = test.published
				}
			}
			args := []string{"-u", server.url}
			if test.flag != "" {
				args = append(args, "--scope", test.flag)
			}
			newUser(t, auth, server).start(args...).initialize()
			want := ""
			if test.wantConsent {
				want = "consent"
			}
			wantValues(t, "prompt", auth.asked("prompt"), want)
		})
	}
}

// A request that needs more scopes gets them, and none of the earlier ones is lost.
func TestStepUp(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope = anyValue
	server.needs = map[string]string{"tools/call echo": "write", "tools/list": "admin", "notifications/roots/list_changed": "roots"}
	user := newUser(t, auth, server)
	user.remember(server)
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("may I")
	wantValues(t, "scope", auth.asked("scope"), "tools write")
	p.call("tools/list", "")
	p.echo("still")
	wantValues(t, "scope", auth.asked("scope"), "tools write", "tools write admin")
	p.notify("notifications/roots/list_changed", "") // any message may need it
	server.await("notifications/roots/list_changed", 2)
	wantValues(t, "scope", auth.asked("scope"), "tools write", "tools write admin", "tools write admin roots")
	if got := auth.count("register"); got != 0 {
		t.Errorf("got %d registrations, want 0", got)
	}

	again := user.start("-u", server.url)
	again.initialize()
	again.echo("all of it is in the store")
	if got := auth.count("authorize"); got != 3 {
		t.Errorf("got %d sign-ins, want 3", got)
	}
}

// A 401 may name further scopes as well, and --scope is no reason to fail for good.
func TestStepUpByUnauthorized(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope = anyValue
	user := newUser(t, auth, server)
	p := user.start("-u", server.url, "--scope", "mine")
	p.initialize()
	server.change(func() { server.scope = "tools admin" })
	server.on("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
		granted, _ := auth.validate(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), server.resource)
		if hasScopes(granted, "admin") {
			return false
		}
		w.Header().Set("WWW-Authenticate", bearerChallenge(server.base+server.prmPath, "insufficient_scope", "tools admin"))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	p.echo("more")
	wantValues(t, "scope", auth.asked("scope"), "mine", "mine tools admin")
}

// A server that is never satisfied gets a few attempts; then its own error is the answer.
func TestStepUpIsBounded(t *testing.T) {
	for name, test := range map[string]struct {
		scope   func(n int) string // challenged the nth time
		reason  string
		signIns int
	}{
		"more every time":   {func(n int) string { return fmt.Sprintf("scope-%d", n) }, "insufficient_scope", maxStepUps},
		"never granted":     {func(int) string { return "write" }, "insufficient_scope", 1},
		"asked for already": {func(int) string { return "tools" }, "insufficient_scope", 0},
		"no scope named":    {func(int) string { return "" }, "insufficient_scope", 0},
		"forbidden":         {func(int) string { return "write" }, "invalid_request", 0},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.scope = anyValue
			user := newUser(t, auth, server)
			user.remember(server)
			refusals := 0
			server.reply("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
				refusals++ // one call at a time
				w.Header().Set("WWW-Authenticate", bearerChallenge(server.base+server.prmPath, test.reason, test.scope(refusals)))
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, r.msg.failure(-32099, "the server's own words"))
				return true
			})
			p := user.start("-u", server.url)
			p.initialize()
			if got := p.failure(p.request("tools/call", echoParams("no"))); got.Code != -32099 || got.Message != "the server's own words" {
				t.Errorf("got %d %q, want the server's own error", got.Code, got.Message)
			}
			if got := auth.count("authorize"); got != test.signIns || refusals != test.signIns+1 {
				t.Errorf("got %d sign-ins and %d attempts, want %d and %d", got, refusals, test.signIns, test.signIns+1)
			}
		})
	}
}

// Google knows no offline_access: without these two parameters it gives no
// refresh token. Its issuer cannot be played by a fake, so this looks at the URL.
func TestGoogleAuthorizationURL(t *testing.T) {
	for name, test := range map[string]struct {
		issuer, scope          string
		params                 url.Values
		wantAccess, wantPrompt string
	}{
		"Google":            {googleIssuer, "openid email", nil, "offline", "consent"},
		"Google, as told":   {googleIssuer, "openid", url.Values{"prompt": {"select_account consent"}}, "offline", "select_account consent"},
		"another":           {"https://as.example", "openid email", nil, "", ""},
		"another, offline":  {"https://as.example", "openid offline_access", nil, "", "consent"},
		"a similar name":    {googleIssuer + ".evil.example", "openid", nil, "", ""},
		"another, no scope": {"https://as.example", "", nil, "", ""},
		"taken out":         {"https://as.example", "openid offline_access", url.Values{"prompt": {""}}, "", ""},
		"Google, taken out": {googleIssuer, "openid", url.Values{"prompt": {""}, "access_type": {""}}, "", ""},
		"Entra ID":          {"https://login.microsoftonline.com/tenant/v2.0", "openid offline_access", nil, "", ""},
		"Entra External ID": {"https://tenant.ciamlogin.com/tenant/v2.0", "offline_access", nil, "", ""},
		"not quite Entra":   {"https://login.microsoftonline.com.evil.example", "offline_access", nil, "", "consent"},
	} {
		o := &oauth{cfg: &config{authParams: test.params}}
		c := &credentials{Issuer: test.issuer, RequestedScope: test.scope, Client: client{ID: "id", RedirectURI: "http://localhost:3000/oauth2callback"}}
		address, err := o.authorizationURL(c, &authorization{server: serverMetadata{AuthorizationEndpoint: test.issuer + "/auth?hl=de"}}, newVerifier(), "state")
		fatal(t, err)
		q := parsedURL(t, address).Query()
		if got := q.Get("access_type"); got != test.wantAccess {
			t.Errorf("%s: access_type: got %q, want %q", name, got, test.wantAccess)
		}
		if got := q.Get("prompt"); got != test.wantPrompt {
			t.Errorf("%s: prompt: got %q, want %q", name, got, test.wantPrompt)
		}
		if q.Get("hl") != "de" || q.Has("scope") != (test.scope != "") {
			t.Errorf("%s: got %q, want the endpoint's own parameters kept and no empty scope", name, address)
		}
	}
}

// Further parameters go to the authorization endpoint as they are.
func TestAuthParams(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.env["HINT"] = "me+you@example.com"
	auth.scopes = []string{"offline_access"}
	auth.scope = "tools offline_access"
	without := newUser(t, auth, server)
	without.start("-u", server.url, "--auth-param", "prompt=").initialize()
	if q := auth.requests("authorize")[0].URL.Query(); q.Has("prompt") {
		t.Errorf("got prompt %q, want none", q["prompt"])
	}
	auth.change(func() { auth.seen = nil })
	user.start("-u", server.url, "--auth-param", "login_hint=env:HINT", "--auth-param=prompt=login", "--auth-param", "odd=a=b&c").initialize()
	wantValues(t, "login_hint", auth.asked("login_hint"), "me+you@example.com")
	wantValues(t, "prompt", auth.asked("prompt"), "login")
	wantValues(t, "odd", auth.asked("odd"), "a=b&c")
	for _, form := range auth.sentForms() {
		if form.Has("login_hint") || form.Has("odd") {
			t.Errorf("token endpoint: got %v", form)
		}
	}
}

// Entra ID asks an administrator where prompt=consent is sent.
func TestNoPromptAtEntraID(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope = "tools offline_access"
	auth.responds = func(back url.Values) { back.Del("iss") }
	auth.addClient("by-hand", "none")
	user := newUser(t, auth, server)
	text := fmt.Sprintf(`{"issuer":"https://login.microsoftonline.com/t/v2.0","authorization_endpoint":"%s/authorize","token_endpoint":"%[1]s/token","scopes_supported":["offline_access"]}`, auth.base)
	fatal(t, os.WriteFile(filepath.Join(user.dir, "entra.json"), []byte(text), 0o600))
	user.start("-u", server.url, "-i", "by-hand", "--auth-metadata", "entra.json").initialize()
	if q := auth.requests("authorize")[0].URL.Query(); q.Has("prompt") || q.Get("scope") != auth.scope {
		t.Errorf("got %q, want no prompt", q)
	}
}

// The resource is the same at every endpoint: as published, as given, or none.
func TestResource(t *testing.T) {
	for name, test := range map[string]struct {
		published string // appended to the server's URL
		flag      string
		want      string // "": the published one
	}{
		"as published":        {"", "", ""},
		"with slash":          {"/", "", ""}, // the Python SDK publishes URLs with the slash that pydantic adds
		"with query":          {"?tenant=1", "", ""},
		"given":               {"", "api://mine", "api://mine"},
		"given against other": {"/other/path", "https://other.example/x", "https://other.example/x"},
		"none":                {"", "none", "-"},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			server.resource = server.url + test.published
			args, want := []string{"-u", server.url}, server.resource
			if test.want != "" {
				want = strings.TrimPrefix(test.want, "-")
				args = append(args, "--resource", test.flag)
			}
			auth.resource = want
			user := newUser(t, auth, server)
			if test.want != "" && want != "" { // the fake's tokens are for what was asked for
				published := server.resource
				server.prm = func(doc map[string]any) { doc["resource"] = published }
				server.resource = want
			}
			p := user.start(args...)
			p.initialize()
			auth.expireAccess()
			p.echo("refreshed")
			if auth.count("token refresh_token") != 1 || len(auth.sentForms()) != 2 {
				t.Errorf("got %q", auth.labels())
			}
		})
	}
}

// Entra ID refuses the resource parameter (AADSTS9010010, AADSTS901002): the
// error says which flag helps, and the flag helps.
func TestServerThatRefusesResource(t *testing.T) {
	for name, refusal := range map[string][2]string{
		"Entra ID": {"invalid_request", "AADSTS901002: The 'resource' request parameter is not supported."},
		"RFC 8707": {"invalid_target", "no such resource"},
	} {
		refusal := refusal
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.resource = anyValue
			auth.responds = func(back url.Values) {
				seen := labelled(auth.seen, "authorize")
				if seen[len(seen)-1].URL.Query().Has("resource") {
					back.Del("code")
					back.Set("error", refusal[0])
					back.Set("error_description", refusal[1])
				}
			}
			user := newUser(t, auth, server)
			p := user.start("-u", server.url)
			if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, "--resource none") {
				t.Errorf("got %q, want a word about --resource none", got.Message)
			}
			helped := newUser(t, auth, server).start("-u", server.url, "--resource", "none")
			helped.initialize()
		})
	}
}

// Issuers of an empty path are written with a slash and without; only these are the same.
func TestIssuerWithAndWithoutSlash(t *testing.T) {
	for name, test := range map[string]struct {
		named, published string // after the origin
		ok               bool
	}{
		"the Python SDK adds one":  {"/", "", true},
		"Auth0 has one":            {"", "/", true},
		"a path has no such grace": {"/tenant/", "/tenant", false},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.issuer = auth.base + test.published
			auth.metadataPath += strings.TrimSuffix(test.published, "/")
			server.prm = func(doc map[string]any) { doc["authorization_servers"] = []string{auth.base + test.named} }
			p := newUser(t, auth, server).start("-u", server.url)
			if test.ok {
				p.initialize()
				return
			}
			p.failure(p.request("initialize", initializeParams))
			if got := auth.count("authorize") + auth.count("register"); got != 0 {
				t.Errorf("got %q", auth.labels())
			}
		})
	}
}

// What servers in the field say of where tokens are had, and what comes of it.
func TestDiscoveryInTheField(t *testing.T) {
	plain := startOrigin(t, "plain")
	const root = "/.well-known/oauth-protected-resource"
	named := func(scheme, metadata string) func(*fakeMCP) {
		return func(s *fakeMCP) {
			s.challenge = func(string) string { return scheme + " resource_metadata=" + metadata }
		}
	}
	pathForm := func(answer fakeAnswer, rootToo bool) func(*fakeMCP) {
		return func(s *fakeMCP) {
			s.challenge, s.prmPath = func(string) string { return "Bearer" }, root
			s.on("GET "+root+"/mcp", answer)
			if rootToo {
				s.on("PRM", answer)
			}
		}
	}
	for name, test := range map[string]struct {
		change func(s *fakeMCP)
		scope  string
		fails  string // "": it works
	}{
		"http":                {named("Bearer", plain.base+root), "", ""},
		"relative":            {named("Bearer", root+"/mcp"), "", ""},
		"an internal address": {named("Bearer", "https://127.0.0.1:1"+root), "", ""},
		"another scheme": {func(s *fakeMCP) {
			named("Cloudflare-Access", s.base+root+"/elsewhere")(s)
			s.prmPath = root + "/elsewhere"
		}, "", ""},
		"502":                   {pathForm(says(502, "", ""), false), "", ""},
		"a page":                {pathForm(says(200, "text/html", "<!DOCTYPE html>"), false), "", ""},
		"502 everywhere":        {pathForm(says(502, "", ""), true), "", "status 502"},
		"a page everywhere":     {pathForm(says(200, "text/html", "<html>"), true), "", "not JSON"},
		"a scope without bound": {func(s *fakeMCP) { s.scope = strings.Repeat("scope ", 2000) }, "", ""},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			here := newFakeAuth(server.fakeOrigin) // nobody names it
			here.metadataPath = "/none"
			auth.scope = test.scope
			test.change(server)
			p := newUser(t, auth, server).start("-u", server.url)
			if id := p.request("initialize", initializeParams); test.fails == "" {
				p.result(id)
			} else if got := p.failure(id).Message; !strings.Contains(got, test.fails) || !strings.Contains(got, "--auth-metadata") {
				t.Errorf("got %q, want %q and a flag", got, test.fails)
			}
			if got := server.count("register") + server.count("authorize"); got != 0 {
				t.Errorf("the server itself was asked for a token: %q", server.labels())
			}
			if name == "a scope without bound" && !strings.Contains(p.stderr(), "the scope in the challenge of 127.0.0.1") {
				t.Errorf("stderr does not name the scope: %q", p.stderr())
			}
		})
	}
	t.Cleanup(func() {
		if got := plain.labels(); len(got) != 0 {
			t.Errorf("http was asked: %q", got)
		}
	})
}

// An authorization server that breaks a rule is refused, once, with the flag that makes it
// work, and no other rule goes with it.
func TestAuthMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		breaks  func(a *fakeAuth)
		refusal string
		file    string // content of the file that stands for the URL of the hint
	}{
		"another issuer": {func(a *fakeAuth) {
			a.metadata = func(doc map[string]any) { doc["issuer"] = "https://auth.example" }
			a.responds = func(back url.Values) { back.Set("iss", "https://auth.example") }
		}, `authorization server metadata is of issuer "https://auth.example"`, ""},
		"no S256": {func(a *fakeAuth) {
			a.metadata = func(doc map[string]any) { delete(doc, "code_challenge_methods_supported") }
		}, "does not offer PKCE with S256", ""},
		"no metadata": {func(a *fakeAuth) { a.metadataPath = "/none" }, "no authorization server metadata at",
			`{"issuer":"BASE","authorization_endpoint":"BASE/authorize","token_endpoint":"BASE/token"}`},
		"the least": {func(a *fakeAuth) {
			a.metadataPath = "/none"
			a.responds = func(back url.Values) { back.Del("iss") }
		}, "no authorization server metadata at", `{"authorization_endpoint":"BASE/authorize","token_endpoint":"BASE/token"}`},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			test.breaks(auth)
			user := newUser(t, auth, server)
			p := user.start("-u", server.url, "-i", "by-hand")
			got := p.failure(p.request("initialize", initializeParams)).Message
			if strings.Count(got, test.refusal) != 1 || auth.count("authorize") != 0 {
				t.Errorf("got %q, want %q once; the server got %q", got, test.refusal, auth.labels())
			}
			_, metadata, _ := strings.Cut(got, "--auth-metadata ")
			metadata, _, _ = strings.Cut(metadata, " ")
			if metadata = strings.Trim(metadata, ",)"); test.file != "" {
				text := strings.ReplaceAll(test.file, "BASE", auth.base)
				fatal(t, os.WriteFile(filepath.Join(user.dir, "as.json"), []byte(text), 0o600))
				metadata = "as.json" // relative to where the host starts the program
			}
			auth.addClient("by-hand", "none")
			helped := user.start("-u", server.url, "-i", "by-hand", "--auth-metadata", metadata)
			helped.initialize()
			auth.expireAccess()
			helped.echo("refreshed")
			wantValues(t, "PKCE method", auth.asked("code_challenge_method"), "S256")
			if got := auth.count("token refresh_token"); got != 1 {
				t.Errorf("got %d refreshes, want 1", got)
			}
		})
	}
	t.Run("usage", func(t *testing.T) {
		t.Parallel()
		user := newUser(t)
		for text, want := range map[string]string{
			"no JSON": "is no JSON object", `{"token_endpoint":"https://as/t"}`: "authorization_endpoint", `{"authorization_endpoint":"https://as/a"}`: "token_endpoint",
			`{"authorization_endpoint":"http://127.0.0.1/a","token_endpoint":"https://as/t"}`: "is not https",
		} {
			fatal(t, os.WriteFile(filepath.Join(user.dir, "as.json"), []byte(text), 0o600))
			if _, stderr, exit := user.run("-u", "https://127.0.0.1:1/mcp", "--allow-http", "--auth-metadata", "as.json"); exit != 1 || !strings.Contains(stderr, want) {
				t.Errorf("%s: got %d %q, want %q", text, exit, stderr, want)
			}
		}
		for _, metadata := range []string{"http://as.example/x", "http://127.0.0.1/x", "missing.json"} {
			if _, stderr, exit := user.run("-u", "https://127.0.0.1:1/mcp", "--allow-http", "--auth-metadata", metadata); exit != 1 || !strings.Contains(stderr, "--auth-metadata") {
				t.Errorf("%s: got %d %q", metadata, exit, stderr)
			}
		}
	})
}

// With an https server nothing else is ever http, --allow-http or not: it could
// make us talk to the services of this machine.
func TestHTTPBesideHTTPS(t *testing.T) {
	plain := startOrigin(t, "plain")
	for name, test := range map[string]func(s *fakeMCP, a *fakeAuth){
		"resource metadata": func(s *fakeMCP, _ *fakeAuth) {
			s.prmPath = "/none"
			s.challenge = func(string) string { return bearerChallenge(plain.base+"/prm", "", "") }
		},
		"issuer": func(s *fakeMCP, _ *fakeAuth) {
			s.prm = func(doc map[string]any) { doc["authorization_servers"] = []string{plain.base} }
		},
		"endpoint": func(_ *fakeMCP, a *fakeAuth) {
			a.metadata = func(doc map[string]any) { doc["token_endpoint"] = plain.base + "/token" }
		},
		"redirect": func(_ *fakeMCP, a *fakeAuth) { a.on("metadata", redirects(302, plain.base+"/metadata")) },
	} {
		change := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			change(server, auth)
			p := newUser(t, auth, server).start("-u", server.url, "--allow-http")
			p.failure(p.request("initialize", initializeParams))
			if got := auth.count("register"); got != 0 {
				t.Errorf("got %q", auth.labels())
			}
		})
	}
	t.Cleanup(func() {
		if got := plain.labels(); len(got) != 0 {
			t.Errorf("http was asked: %q", got)
		}
	})
}

// The query of the server's URL may be a key: the authorization server does not get it.
func TestResourceWithoutTheQuery(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	server.prmPath, auth.resource = "", server.base+"/mcp"
	server.challenge = func(string) string { return "Bearer" }
	here := newFakeAuth(server.fakeOrigin) // as in revision 2025-03-26
	here.resource, here.scope = server.base+"/mcp", ""
	server.auth = here
	newUser(t, here, server).start("-u", server.url+"?key=topsecret").initialize()
	wantValues(t, "resource", here.asked("resource"), server.base+"/mcp")
}
