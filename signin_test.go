package main

// A sign-in against the real program: which server and client, what is asked for, and that nothing
// which the proxy chose itself ends it.

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
	"time"
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

const googleIssuer = "https://accounts.google.com"

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
		address := o.request(*parsedURL(t, test.issuer+"/auth?hl=de"), c, newVerifier()).url
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
			"no JSON": "is no JSON object", `{"token_endpoint":"https://as/t"}`: "-metadata: authorization_endpoint is missing\n",
			`{"authorization_endpoint":"https://as/a"}`:                                       "-metadata: token_endpoint is missing\n",
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

// Given by the user, else the metadata document, else registered.
func TestWhichClient(t *testing.T) {
	const document = "https://app.example.com/client.json"
	for name, test := range map[string]struct {
		given, document, supported, registers bool
		want                                  string // id; "registered"
	}{
		"given before all":           {true, true, true, true, "by-hand"},
		"document":                   {false, true, true, true, document},
		"document without support":   {false, true, false, true, "registered"},
		"support without a document": {false, false, true, true, "registered"},
		"registered":                 {false, false, false, true, "registered"},
		"document, no registration":  {false, true, true, false, document},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.registers = test.registers
			auth.metadata = func(doc map[string]any) {
				if test.supported {
					doc["client_id_metadata_document_supported"] = true
				}
			}
			args := []string{"-u", server.url}
			redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
			auth.addClient("by-hand", "none", redirect)
			auth.addClient(document, "none", redirect)
			if test.want != "registered" {
				args = append(args, "--redirect-uri", redirect)
			}
			if test.given {
				args = append(args, "--client-id", "by-hand")
			}
			if test.document {
				args = append(args, "--client-metadata-url", document)
			}
			newUser(t, auth, server).start(args...).initialize()
			got := auth.asked("client_id")
			if test.want == "registered" && len(got) == 1 && strings.HasPrefix(got[0], "client-") && auth.count("register") == 1 {
				return
			}
			wantValues(t, "client_id", got, test.want)
			if auth.count("register") != 0 {
				t.Errorf("got a registration")
			}
		})
	}
}

// movedServer is an MCP server that names another authorization server since a
// user signed in: the old one, and the new one.
func movedServer(t *testing.T) (server *fakeMCP, old, now *fakeAuth) {
	server, old = startProtected(t)
	now = newFakeAuth(startOrigin(t))
	now.resource, now.scope = server.resource, anyValue
	return server, old, now
}

// move ends all tokens of the old authorization server.
func (s *fakeMCP) move(to *fakeAuth) {
	s.auth.revokeAll()
	s.change(func() { s.auth = to })
}

// Another authorization server: what was made for the old one is never shown
// to the new one (MCP 2026-07-28, Client Registration, "Authorization Server Binding").
func TestAuthorizationServerMoved(t *testing.T) {
	t.Parallel()
	server, old, now := movedServer(t)
	old.methods = []string{"client_secret_post"}
	user := newUser(t, old, now, server)
	p := user.start("-u", server.url)
	p.initialize()
	server.move(now)
	p.echo("moved")
	if now.count("register") != 1 || server.count("PRM") != 2 {
		t.Errorf("got %q of the new server, want a registration after the metadata was read again", now.labels())
	}
	wantNothingOf(t, old, now.fakeOrigin, old.asked("client_id")[0])
	user.start("-u", server.url).initialize() // the file is of the new server now
	wantNothingOf(t, now, old.fakeOrigin, now.asked("client_id")[0])
}

// Given credentials are of one authorization server: another one never sees them.
func TestAuthorizationServerMovedWithGivenClient(t *testing.T) {
	t.Parallel()
	server, old, now := movedServer(t)
	redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
	old.methods = []string{"client_secret_basic"}
	c := old.addClient("given-client", "client_secret_basic", redirect)
	user := newUser(t, old, now, server)
	user.env["MY_SECRET"] = c.secret
	args := []string{"-u", server.url, "--client-id", c.id, "--client-secret", "env:MY_SECRET", "--redirect-uri", redirect}
	p := user.start(args...)
	p.initialize()
	server.move(now)
	for _, p := range []*testProxy{p, user.start(args...)} {
		got := p.failure(p.request("initialize", initializeParams))
		for _, want := range []string{old.issuer, now.issuer, "--client-id"} {
			if !strings.Contains(got.Message, want) {
				t.Errorf("got %q, want %q in it", got.Message, want)
			}
		}
	}
	wantNothingOf(t, old, now.fakeOrigin, c.id)
	if got := now.count("authorize") + now.count("register") + now.count("token authorization_code"); got != 0 {
		t.Errorf("the new server: got %q", now.labels())
	}
	if got := len(user.openings()); got != 1 {
		t.Errorf("got %d browser windows, want 1", got)
	}
}

// A sign-in that nobody answered does not undo the binding.
func TestBindingOutlivesFailedSignIn(t *testing.T) {
	t.Parallel()
	server, old, now := movedServer(t)
	user := newUser(t, old, now, server)
	user.browser = "ignore"
	var id, redirect string
	user.remember(server, func(doc map[string]any) {
		delete(doc["token"].(map[string]any), "refresh_token")
		c := doc["client"].(map[string]any)
		c["source"] = "given"
		id, redirect = c["id"].(string), c["redirect_uri"].(string)
	})
	old.expireAccess()
	args := []string{"-u", server.url, "--client-id", id, "--redirect-uri", redirect}
	p := user.start(append(args, "--login-timeout", soonOver)...)
	p.failure(p.request("initialize", initializeParams))
	server.move(now)
	p = user.start(args...)
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, now.issuer) {
		t.Errorf("got %q, want a refusal that names %s", got.Message, now.issuer)
	}
	wantNothingOf(t, old, now.fakeOrigin, id)
}

// A metadata document is ours wherever we show it.
func TestAuthorizationServerMovedWithMetadataDocument(t *testing.T) {
	t.Parallel()
	const document = "https://app.example.com/client.json"
	server, old, now := movedServer(t)
	redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
	for _, a := range []*fakeAuth{old, now} {
		a.metadata = func(doc map[string]any) { doc["client_id_metadata_document_supported"] = true }
		a.addClient(document, "none", redirect)
	}
	p := newUser(t, old, now, server).start("-u", server.url, "--client-metadata-url", document, "--redirect-uri", redirect)
	p.initialize()
	server.move(now)
	p.echo("portable")
	wantValues(t, "client_id", now.asked("client_id"), document)
	if now.count("register") != 0 {
		t.Errorf("got %q", now.labels())
	}
}

// A registration that the server no longer knows is made anew, once, wherever
// the server says so: the MCP SDKs' examples keep registrations in memory and
// forget them at every start.
func TestForgottenRegistration(t *testing.T) {
	for name, forget := range map[string]func(auth *fakeAuth){
		"at refresh": func(auth *fakeAuth) { auth.forgetClients() },
		"at the token endpoint": func(auth *fakeAuth) {
			auth.revokeAll()
			auth.on("token authorization_code", func(w http.ResponseWriter, r *fakeRequest) bool {
				if auth.count("register") > 0 {
					return false
				}
				writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
				return true
			})
		},
		"at the authorization endpoint": func(auth *fakeAuth) {
			auth.revokeAll()
			auth.change(func() {
				auth.responds = func(back url.Values) {
					if len(labelled(auth.seen, "register")) == 0 {
						back.Del("code")
						back.Set("error", "unauthorized_client")
					}
				}
			})
		},
	} {
		forget := forget
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			user.remember(server)
			forget(auth)
			user.start("-u", server.url).initialize()
			if got := auth.count("register"); got != 1 {
				t.Errorf("got %d registrations, want 1: %q", got, auth.labels())
			}
		})
	}
}

// A server that knows no client at all is not registered at for ever.
func TestForgottenRegistrationIsBounded(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.on("token authorization_code", func(w http.ResponseWriter, r *fakeRequest) bool {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return true
	})
	p := newUser(t, auth, server).start("-u", server.url)
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, "invalid_client") {
		t.Errorf("got %q, want invalid_client", got.Message)
	}
	if got := auth.count("register"); got != maxRegistrations {
		t.Errorf("got %d registrations, want %d", got, maxRegistrations)
	}
}

// Where an unknown client ends on a page of the authorization server's, nobody
// tells the program. A sign-in that brought no answer with an earlier
// registration makes another the next time.
func TestForgottenRegistrationThatNobodyTells(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.remember(server, func(doc map[string]any) { delete(doc["token"].(map[string]any), "refresh_token") })
	auth.forgetClients()
	p := user.start("-u", server.url, "--login-timeout", soonOver)
	p.failure(p.request("initialize", initializeParams))
	p = user.start("-u", server.url)
	id := p.request("initialize", initializeParams)
	user.paste(p.awaitURL(1)) // no second window within a minute
	p.result(id)
	if got := auth.count("register"); got != 1 {
		t.Errorf("got %d registrations, want 1", got)
	}
}

// A registration endpoint that refuses, or answers with a page, is told to the
// user with the way out; none of the page is.
func TestRegistrationRefused(t *testing.T) {
	for name, status := range map[string]int{
		"403": http.StatusForbidden, // Figma registers clients of its own choice only
		"200": http.StatusOK,        // a single-page application answers every path
	} {
		status := status
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.on("register", func(w http.ResponseWriter, r *fakeRequest) bool {
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(status)
				io.WriteString(w, "<html>SENTINEL</html>")
				return true
			})
			user := newUser(t, auth, server)
			p := user.start("-u", server.url)
			got := p.failure(p.request("initialize", initializeParams))
			if !strings.Contains(got.Message, "--client-id") || strings.Contains(got.Message+p.stderr(), "SENTINEL") {
				t.Errorf("got %q, want a word about --client-id and nothing of the page", got.Message)
			}
			if got := len(user.openings()); got != 0 {
				t.Errorf("got %d browser windows, want 0", got)
			}
		})
	}
}

// Gateways send redirect URIs of their own back (LiteLLM's did): ours is the one we listen on.
func TestRegistrationWithOtherRedirects(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.registered = func(doc map[string]any) {
		doc["redirect_uris"] = []string{"https://example.com/cb", "http://127.0.0.1/callback"}
		doc["scope"], doc["grant_types"] = "narrow", []string{"authorization_code"}
	}
	newUser(t, auth, server).start("-u", server.url).initialize()
}

// Another --redirect-uri than the registered one wants another registration.
func TestRegistrationForAnotherRedirect(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.remember(server)
	auth.revokeAll()
	redirect := fmt.Sprintf("http://127.0.0.1:%d/elsewhere", freePort(t))
	user.start("-u", server.url, "--redirect-uri", redirect).initialize()
	wantValues(t, "redirect_uri", auth.asked("redirect_uri"), redirect)
}

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
		}, nil, []string{"old tools offline_access", "tools offline_access", "tools", "tools"}, 1, "invalid_scope (never)"},
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
	if _, stderr, exit := user.run("login", "-u", server.url, "--login-timeout", soonOver); exit != 2 || !strings.Contains(stderr, "nobody signed in") {
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
	wire.change(func() { wire.proxy = true })
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
	user.env["container"], user.env["BROWSER"] = "podman", ""
	second := newFakeMCP(startOrigin(t)) // the same client at another server that names Google
	second.auth, second.resource, second.scope = google, second.url, "tools"
	google.change(func() {
		google.device = func(map[string]any) {}
		google.resource, google.issuer = second.url, google.base+"/other"
		google.metadataPath += "/other"
	})
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
	if withoutScope(all, b.String()) != "" || time.Since(began) >= testPatience {
		t.Errorf("%d bytes took %v", b.Len(), time.Since(began))
	}
}

func TestAreAt(t *testing.T) {
	hosts := []string{"as.example", ".b2c.example"}
	for address, want := range map[string]bool{
		"https://as.example/token": true, "https://AS.example:443/": true, "https://x.b2c.example/": true,
		"https://as.example:8443/token": false, "http://as.example/": false, "https://b2c.example/": false,
		"https://as.example.evil.example/": false, "https://evilb2c.example/": false, "": false,
	} {
		if got := areAt(hosts, "https://as.example/", address); got != want {
			t.Errorf("%q: got %v", address, got)
		}
	}
}
