package main

// What a server publishes and says, in every form and in none, and registration.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// site is an https host that has the pages it is given and remembers what it
// was asked for. HERE in a page is the site's origin.
type site struct {
	*httptest.Server

	mu    sync.Mutex // guards what follows
	pages map[string]http.HandlerFunc
	asked []string
}

func newSite(t *testing.T) *site {
	s := &site{pages: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.Close)
	return s
}

func (s *site) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.RequestURI())
	page := s.pages[r.URL.Path]
	s.mu.Unlock()
	if page == nil {
		http.NotFound(w, r)
		return
	}
	page(w, r)
}

func (s *site) handle(path string, page http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[path] = page
}

func (s *site) page(path string, status int, body string) {
	s.handle(path, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, strings.ReplaceAll(body, "HERE", s.URL))
	})
}

func (s *site) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

func (s *site) url(t *testing.T, path string) *url.URL {
	t.Helper()
	u, err := url.Parse(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (s *site) discoverer() *discoverer { return &discoverer{config: &config{}, http: s.Client()} }

const (
	prmPath    = "/.well-known/oauth-protected-resource"
	asPath     = "/.well-known/oauth-authorization-server"
	oidcPath   = "/.well-known/openid-configuration"
	serverPage = `{"issuer":"HERE","authorization_endpoint":"HERE/a","token_endpoint":"HERE/t","code_challenge_methods_supported":["S256"]}`
)

func resourcePage(resource, issuer string) string {
	return fmt.Sprintf(`{"resource":%q,"authorization_servers":[%q]}`, resource, issuer)
}

func wantPaths(t *testing.T, s *site, want ...string) {
	t.Helper()
	if got := s.paths(); !reflect.DeepEqual(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestParseChallenge(t *testing.T) {
	const rm = "https://mcp.example/prm"
	for name, test := range map[string]struct {
		lines []string
		want  challenge
		ok    bool
	}{
		"no header":         {nil, challenge{}, true},
		"empty header":      {[]string{""}, challenge{}, true},
		"bare":              {[]string{`Bearer`}, challenge{}, true},
		"all parameters":    {[]string{`Bearer error="insufficient_scope", scope="a b", resource_metadata="` + rm + `", error_description="x"`}, challenge{rm, "a b", "insufficient_scope"}, true},
		"case":              {[]string{`bEaReR SCOPE="a", Resource_Metadata="` + rm + `"`}, challenge{rm, "a", ""}, true},
		"white space":       {[]string{"Bearer   scope \t=\t \"a\"  ,\terror = invalid_token"}, challenge{"", "a", "invalid_token"}, true},
		"empty elements":    {[]string{`, ,Bearer , scope=a,, ,error=e, ,`}, challenge{"", "a", "e"}, true},
		"comma in quotes":   {[]string{`Basic realm="a, Bearer scope=evil", Bearer scope="a,b"`}, challenge{"", "a,b", ""}, true},
		"quoted pairs":      {[]string{`Bearer realm="say \"hi\", \\", scope="a\b"`}, challenge{"", "ab", ""}, true},
		"unquoted URL":      {[]string{`Bearer resource_metadata=` + rm + `, scope=a`}, challenge{rm, "a", ""}, true},
		"first of a name":   {[]string{`Bearer scope="a", Scope="b"`}, challenge{"", "a", ""}, true},
		"several schemes":   {[]string{`Basic realm="x", Bearer scope="a", Digest nonce="n", scope="d"`}, challenge{"", "a", ""}, true},
		"token68":           {[]string{`Negotiate YII/a+b==, Bearer scope="a"`}, challenge{"", "a", ""}, true},
		"token68 at end":    {[]string{`Bearer scope=a, NTLM TlRM/+==`}, challenge{"", "a", ""}, true},
		"scheme in a list":  {[]string{`Negotiate, Bearer scope=a`}, challenge{"", "a", ""}, true},
		"several lines":     {[]string{`Basic realm="x"`, `Bearer scope="a"`}, challenge{"", "a", ""}, true},
		"first Bearer":      {[]string{`Bearer scope="a"`, `Bearer scope="b"`}, challenge{"", "a", ""}, true},
		"with metadata":     {[]string{`Bearer scope="a"`, `Bearer scope="b", resource_metadata="` + rm + `"`, `Bearer resource_metadata="https://other"`}, challenge{rm, "b", ""}, true},
		"DPoP alone":        {[]string{`DPoP algs="ES256", scope="a", resource_metadata="` + rm + `"`}, challenge{}, false},
		"DPoP and Bearer":   {[]string{`DPoP algs="ES256", Bearer scope="a"`}, challenge{"", "a", ""}, true},
		"Basic alone":       {[]string{`Basic realm="x"`}, challenge{}, false},
		"like Bearer":       {[]string{`Bearerish scope="a"`}, challenge{}, false},
		"open quote":        {[]string{`Bearer scope="a", error="oops`}, challenge{"", "a", ""}, true},
		"no comma":          {[]string{`Bearer scope="a" error="e", resource_metadata="` + rm + `"`}, challenge{}, true},
		"rubbish after":     {[]string{`Bearer scope="a", @@@, error="e"`}, challenge{"", "a", ""}, true},
		"rubbish":           {[]string{`"`, `=`, `= a`, `@`}, challenge{}, true},
		"rubbish, then not": {[]string{`Bearer scope="`, `Bearer scope=a, resource_metadata=` + rm}, challenge{rm, "a", ""}, true},
		"another's":         {[]string{`Cloudflare-Access resource_metadata="` + rm + `"`}, challenge{rm, "", ""}, true},
		"another's, later":  {[]string{`Basic realm="x"`, `Cloudflare-Access resource_metadata="` + rm + `", scope="b"`}, challenge{rm, "", ""}, true},
		"another's, first":  {[]string{`Cloudflare-Access resource_metadata="` + rm + `"`, `Basic realm="x"`}, challenge{rm, "", ""}, true},
		"beside Bearer":     {[]string{`Cloudflare-Access resource_metadata="` + rm + `", Bearer scope="a"`}, challenge{rm, "a", ""}, true},
		"Bearer's counts":   {[]string{`X resource_metadata="https://x"`, `Bearer resource_metadata="` + rm + `"`}, challenge{rm, "", ""}, true},
		"DPoP beside it":    {[]string{`DPoP resource_metadata="` + rm + `", Bearer scope="a"`}, challenge{rm, "a", ""}, true},
		"parameter first":   {[]string{`scope="a", Bearer scope="b"`}, challenge{}, true},
	} {
		c, ok := parseChallenge(http.Header{"Www-Authenticate": test.lines})
		if c != test.want || ok != test.ok {
			t.Errorf("%s: got %+v %v, want %+v %v", name, c, ok, test.want, test.ok)
		}
	}
}

func TestChallengeTravelsAsJSON(t *testing.T) {
	want := challenge{"https://mcp.example/prm", "a b", "insufficient_scope"}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got challenge
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("%s became %+v (%v)", text, got, err)
	}
	if want := `{"resource_metadata":"https://mcp.example/prm","scope":"a b","error":"insufficient_scope"}`; string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
}

// What a line is made of is found in it again, and what it names stays what it was: a URL of https, for one.
func FuzzParseChallenge(f *testing.F) {
	f.Add(`Bearer realm="x", scope="a b"`, `a"b\c, d`, "Negotiate", "YII==")
	f.Add(`Negotiate YII==, Basic realm="x"`, ``, "Basic", "")
	f.Add(`, ,DPoP algs = "ES256" , Bearer`, `https://mcp.example/prm`, "bearer", "a/b+c")
	f.Add(`Bearer scope="`, `\`, "DPoP", "=")
	f.Add(`Bearer resource_metadata=https://evil.example/%0d%0a, error="\"`, "\t", "x", "x")
	server, _ := url.Parse("https://mcp.example/mcp")
	f.Fuzz(func(t *testing.T, line, value, scheme, blob string) {
		for _, a := range parseChallengeLine(line) {
			if !isToken(a.scheme) || !strings.Contains(strings.ToLower(line), a.scheme) {
				t.Fatalf("%q: got the scheme %q", line, a.scheme)
			}
			for name, value := range a.params {
				if !isToken(name) || !strings.Contains(strings.ToLower(line), name) || !strings.Contains(strings.ReplaceAll(line, `\`, ""), strings.ReplaceAll(value, `\`, "")) {
					t.Fatalf("%q: got %s = %q", line, name, value)
				}
			}
		}
		c, _ := parseChallenge(http.Header{"Www-Authenticate": {line}})
		for _, form := range (&discoverer{config: &config{}}).resourceForms(server, c) {
			if u, err := url.Parse(form); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.ContainsAny(form, " \r\n\x00") {
				t.Fatalf("%q: metadata would be asked for at %q", line, form)
			}
		}
		if strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) >= 0 {
			return // no field value holds these
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)
		first := `Basic realm="` + quoted + `"`
		if isToken(scheme) && regexp.MustCompile(`^[0-9A-Za-z._~+/-]+=*$`).MatchString(blob) && !strings.EqualFold(scheme, "bearer") {
			first = scheme + " " + blob
		}
		c, ok := parseChallenge(http.Header{"Www-Authenticate": {first + `, Bearer error="` + quoted + `" ,scope = "` + quoted + `"`, first}})
		if want := (challenge{Scope: value, Error: value}); c != want || !ok {
			t.Errorf("after %q got %+v, want %+v", first, c, want)
		}
	})
}

// The four configurations of metadata that the specification allows, as the
// conformance suite has them.
func TestDiscoverEveryPlaceOfMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		prm, challenge, tenant, as string
		mcpAsked, asAsked          []string
	}{
		"challenge and RFC 8414": {prmPath + "/mcp", prmPath + "/mcp", "", asPath,
			[]string{prmPath + "/mcp"}, []string{asPath}},
		"path form and OpenID Connect": {prmPath + "/mcp", "", "", oidcPath,
			[]string{prmPath + "/mcp"}, []string{asPath, oidcPath}},
		"root form and path insertion": {prmPath, "", "/tenant1", asPath + "/tenant1",
			[]string{prmPath + "/mcp", prmPath}, []string{asPath + "/tenant1"}},
		"other place and path insertion, OpenID Connect": {"/custom.json", "/custom.json", "/tenant1", oidcPath + "/tenant1",
			[]string{"/custom.json"}, []string{asPath + "/tenant1", oidcPath + "/tenant1"}},
		"other place and path appended": {"/custom.json", "/custom.json", "/tenant1", "/tenant1" + oidcPath,
			[]string{"/custom.json"}, []string{asPath + "/tenant1", oidcPath + "/tenant1", "/tenant1" + oidcPath}},
		"challenge that leads nowhere": {prmPath, "/gone.json", "", asPath,
			[]string{"/gone.json", prmPath + "/mcp", prmPath}, []string{asPath}},
	} {
		t.Run(name, func(t *testing.T) {
			mcp, as := newSite(t), newSite(t)
			mcp.page(test.prm, 200, resourcePage("HERE/mcp", as.URL+test.tenant))
			as.page(test.as, 200, strings.Replace(serverPage, "HERE", "HERE"+test.tenant, 1))
			var c challenge
			if test.challenge != "" {
				c.ResourceMetadata = mcp.URL + test.challenge
			}
			a, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/mcp"), c)
			if err != nil {
				t.Fatal(err)
			}
			if a.server.Issuer != as.URL+test.tenant || a.server.TokenEndpoint != as.URL+"/t" || a.server.defaulted {
				t.Errorf("got server %+v", a.server)
			}
			if want := mcp.URL + "/mcp"; a.resource != want {
				t.Errorf("got resource %q, want %q", a.resource, want)
			}
			wantPaths(t, mcp, test.mcpAsked...)
			wantPaths(t, as, test.asAsked...)
		})
	}
}

func TestDiscoverReadsEveryField(t *testing.T) {
	mcp := newSite(t)
	mcp.page(prmPath, 200, `{"resource":"HERE","authorization_servers":["HERE"],"scopes_supported":["r","w"]}`)
	mcp.page(asPath, 200, `{"issuer":"HERE","authorization_endpoint":"HERE/a","token_endpoint":"HERE/t",
		"registration_endpoint":"HERE/r","revocation_endpoint":"HERE/v","device_authorization_endpoint":"HERE/d",
		"scopes_supported":["r","offline_access"],"grant_types_supported":["authorization_code"],
		"token_endpoint_auth_methods_supported":["none"],"code_challenge_methods_supported":["plain","S256"],
		"authorization_response_iss_parameter_supported":true,"client_id_metadata_document_supported":true,"extra":1}`)
	a, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/mcp"), challenge{})
	if err != nil {
		t.Fatal(err)
	}
	want := serverMetadata{
		Issuer: mcp.URL, AuthorizationEndpoint: mcp.URL + "/a", TokenEndpoint: mcp.URL + "/t",
		RegistrationEndpoint: mcp.URL + "/r", RevocationEndpoint: mcp.URL + "/v", DeviceAuthorizationEndpoint: mcp.URL + "/d",
		ScopesSupported: []string{"r", "offline_access"}, GrantTypesSupported: []string{"authorization_code"},
		TokenEndpointAuthMethods: []string{"none"}, CodeChallengeMethods: []string{"plain", "S256"},
		IssParameterSupported: true, ClientMetadataSupported: true,
	}
	if want.source = mcp.URL + asPath; !reflect.DeepEqual(a.server, want) {
		t.Errorf("got %+v, want %+v", a.server, want)
	}
	if !reflect.DeepEqual(a.scopes, []string{"r", "w"}) || a.resource != mcp.URL {
		t.Errorf("got scopes %q, resource %q", a.scopes, a.resource)
	}
}

// A challenge may name another origin: the document's resource is what counts.
func TestDiscoverMetadataOfAnotherOrigin(t *testing.T) {
	mcp, gateway := newSite(t), newSite(t)
	gateway.page("/prm", 200, resourcePage(mcp.URL+"/mcp", "HERE"))
	gateway.page(asPath, 200, serverPage)
	c := challenge{ResourceMetadata: gateway.URL + "/prm"}
	if _, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/mcp"), c); err != nil {
		t.Error(err)
	}

	gateway.page("/prm", 200, resourcePage("HERE/mcp", "HERE"))
	_, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/mcp"), c)
	wantError(t, err, gateway.URL+"/mcp", mcp.URL+"/mcp")
	if hint := hintOf(err); !strings.Contains(hint, "--resource") {
		t.Errorf("hint %q does not name --resource", hint)
	}
	wantPaths(t, mcp)
}

// A document that is none leads to the next form, one that says something wrong does
// not, and where there is none at all nobody else is asked.
func TestDiscoverRefusesResourceMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		want   string
		next   bool // the next form is asked
	}{
		"server error":    {500, "", "status 500", true},
		"unavailable":     {503, "", "status 503", true},
		"too many":        {429, "", "status 429", true},
		"no content":      {204, "", "status 204", true},
		"HTML":            {200, "<html>secret</html>", "not JSON of the right form", true},
		"null":            {200, "null", "not JSON of the right form", true},
		"array":           {200, "[]", "not JSON of the right form", true},
		"cut":             {200, `{"resource":"HERE/mcp"`, "not JSON of the right form", true},
		"string as list":  {200, `{"resource":"HERE/mcp","authorization_servers":"HERE"}`, "not JSON of the right form", true},
		"another object":  {200, `{"message":"secret"}`, "the answer is none", true},
		"no resource":     {200, `{"authorization_servers":["HERE"]}`, `for "", not for`, false},
		"other resource":  {200, resourcePage("https://evil.example/mcp?secret", "HERE"), `for "https://evil.example/mcp", not for`, false},
		"no servers":      {200, `{"resource":"HERE/mcp"}`, "names no authorization server", false},
		"script as issue": {200, resourcePage("HERE/mcp", "javascript:alert(1)"), "issuer of the authorization server is not", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, root := range []bool{false, true} {
				mcp := newSite(t)
				mcp.page(prmPath+"/mcp", test.status, test.body)
				mcp.page(asPath, 200, serverPage)
				want := []string{prmPath + "/mcp"}
				if test.next {
					want = append(want, prmPath)
				}
				if root {
					mcp.page(prmPath, 200, resourcePage("HERE/mcp", "HERE"))
				}
				a, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/mcp"), challenge{})
				if root && test.next {
					if err != nil || a.server.Issuer != mcp.URL {
						t.Errorf("got %+v, %v, want what the root form says", a, err)
					}
					wantPaths(t, mcp, append(want, asPath)...)
					continue
				}
				wantError(t, err, test.want)
				if strings.Contains(err.Error(), "secret") || !strings.Contains(hintOf(err), "--") {
					t.Errorf("got %q, hint %q, want nothing of what the server sent and a flag", err, hintOf(err))
				}
				wantPaths(t, mcp, want...)
			}
		})
	}
}

// Servers behind a TLS terminator name an address that nobody can or may ask.
func TestDiscoverIgnoresChallengesURL(t *testing.T) {
	mcp, gone := newSite(t), newSite(t)
	gone.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("got %s", r.URL) }))
	defer plain.Close()
	mcp.page(prmPath, 200, resourcePage("HERE", "HERE"))
	mcp.page(asPath, 200, serverPage)
	for _, bad := range []string{
		"http://mcp.example/prm", plain.URL, "file:///etc/passwd", "/relative", "https://user@mcp.example/", gone.URL + "/internal",
	} {
		if _, err := mcp.discoverer().discover(context.Background(), mcp.url(t, ""), challenge{ResourceMetadata: bad}); err != nil {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestDiscoverUnreachable(t *testing.T) {
	mcp, gone := newSite(t), newSite(t)
	gone.Close()
	c := challenge{ResourceMetadata: gone.URL + "/prm?key=secret"}
	_, err := mcp.discoverer().discover(context.Background(), mcp.url(t, ""), c)
	wantError(t, err, "fetch protected resource metadata", gone.url(t, "").Host)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("error %q holds the query", err)
	}
	wantPaths(t, mcp, prmPath)

	// What the challenge names leads on also if it is at the server's own origin; our own forms do not.
	for named, want := range map[string][]string{
		"/custom.json":   {"/custom.json", prmPath + "/mcp"},
		prmPath + "/mcp": {prmPath + "/mcp", prmPath, asPath},
		"":               {prmPath + "/mcp"},
	} {
		mcp := newSite(t)
		broken := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, gone.URL+"/login", http.StatusFound) }
		mcp.handle("/custom.json", broken)
		mcp.handle(prmPath+"/mcp", broken)
		mcp.page(prmPath, 200, resourcePage("HERE/mcp", "HERE"))
		mcp.page(asPath, 200, serverPage)
		if c = (challenge{}); named != "" {
			c.ResourceMetadata = mcp.URL + named
		}
		a, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/mcp"), c)
		if found := want[len(want)-1] == asPath; found != (err == nil && a.server.Issuer == mcp.URL) {
			t.Errorf("challenge %q: got %+v, %v", named, a, err)
		}
		wantPaths(t, mcp, want...)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = mcp.discoverer().discover(ctx, mcp.url(t, ""), challenge{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a cancellation", err)
	}
}

// Servers of 2025-03-26 have no protected resource metadata.
func TestDiscoverAtTheOrigin(t *testing.T) {
	t.Run("with metadata", func(t *testing.T) {
		mcp := newSite(t)
		mcp.page(asPath, 200, serverPage)
		a, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/v1/mcp"), challenge{})
		if err != nil {
			t.Fatal(err)
		}
		if a.server.TokenEndpoint != mcp.URL+"/t" || a.server.defaulted || a.resource != mcp.URL+"/v1/mcp" {
			t.Errorf("got %+v", a)
		}
		wantPaths(t, mcp, prmPath+"/v1/mcp", prmPath, asPath)
	})
	t.Run("without", func(t *testing.T) {
		mcp := newSite(t)
		a, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/v1/mcp"), challenge{})
		if err != nil {
			t.Fatal(err)
		}
		want := serverMetadata{Issuer: mcp.URL, AuthorizationEndpoint: mcp.URL + "/authorize", TokenEndpoint: mcp.URL + "/token",
			RegistrationEndpoint: mcp.URL + "/register", defaulted: true}
		if !reflect.DeepEqual(a.server, want) {
			t.Errorf("got %+v, want %+v", a.server, want)
		}
		if err := a.server.checkPKCE(); err != nil {
			t.Error(err)
		}
		wantPaths(t, mcp, prmPath+"/v1/mcp", prmPath, asPath, oidcPath)
	})
	for name, page := range map[string]struct {
		status int
		body   string
	}{
		"failing":      {500, ""},
		"other issuer": {200, strings.Replace(serverPage, "HERE", "https://other.example", 1)},
		"HTML":         {200, "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			mcp := newSite(t)
			mcp.page(asPath, page.status, page.body)
			a, err := mcp.discoverer().discover(context.Background(), mcp.url(t, "/v1/mcp"), challenge{})
			if err == nil {
				t.Errorf("got %+v, want an error", a.server)
			}
		})
	}
}

func TestDiscoverNamedServerWithoutMetadata(t *testing.T) {
	mcp := newSite(t)
	mcp.page(prmPath, 200, resourcePage("HERE", "HERE/tenant"))
	_, err := mcp.discoverer().discover(context.Background(), mcp.url(t, ""), challenge{})
	wantError(t, err, "no authorization server metadata at "+mcp.URL)
}

func TestDiscoverSeveralServers(t *testing.T) {
	mcp, first, second := newSite(t), newSite(t), newSite(t)
	mcp.page(prmPath, 200, fmt.Sprintf(`{"resource":"HERE","authorization_servers":["ftp://as",%q,%q,"HERE"]}`, first.URL, second.URL))
	first.page(asPath, 200, strings.Replace(serverPage, "HERE", second.URL, 1))
	for i := 0; i < 3; i++ {
		second.page(asPath, 200, serverPage)
		a, err := mcp.discoverer().discover(context.Background(), mcp.url(t, ""), challenge{})
		if err != nil {
			t.Fatal(err)
		}
		if a.server.Issuer != second.URL {
			t.Errorf("got issuer %q, want %q", a.server.Issuer, second.URL)
		}
	}
	second.page(asPath, 500, "")
	_, err := mcp.discoverer().discover(context.Background(), mcp.url(t, ""), challenge{})
	wantError(t, err, "is not https", fmt.Sprintf("is of issuer %q, not of %q", second.URL, first.URL), "status 500", "no authorization server metadata at "+mcp.URL)
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is more than one line", err)
	}
}

func TestDiscoverEndlessListOfServers(t *testing.T) {
	mcp, as := newSite(t), newSite(t)
	var issuers []string
	for i := 0; i < 1000; i++ {
		issuers = append(issuers, fmt.Sprintf("%q", as.URL))
	}
	mcp.page(prmPath, 200, `{"resource":"HERE","authorization_servers":[`+strings.Join(issuers, ",")+`]}`)
	if _, err := mcp.discoverer().discover(context.Background(), mcp.url(t, ""), challenge{}); err == nil {
		t.Error("no error")
	}
	if n := len(as.paths()); n != 2*maxServers {
		t.Errorf("%d fetches, want %d", n, 2*maxServers)
	}
}

// A single-page application answers the first form with HTML, an unreachable
// host is asked only once.
func TestServerMetadataForms(t *testing.T) {
	as := newSite(t)
	as.page(asPath, 200, "<html>")
	as.page(oidcPath, 200, serverPage)
	if _, err := as.discoverer().serverMetadata(context.Background(), as.URL); err != nil {
		t.Error(err)
	}

	attempts := 0
	d := &discoverer{config: &config{}, http: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		attempts++
		return nil, errors.New("unreachable")
	})}}
	if _, err := d.serverMetadata(context.Background(), "https://as.example/t"); err == nil || attempts != 1 {
		t.Errorf("%d attempts (%v), want 1", attempts, err)
	}
	_, err := d.serverMetadata(context.Background(), "https://as.example/?tenant=1")
	wantError(t, err, "has a query")
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestServerFormsTerminatingSlash(t *testing.T) {
	u, _ := url.Parse("https://AS.example:443/a%2Fb/")
	want := []string{
		"https://as.example/.well-known/oauth-authorization-server/a%2Fb",
		"https://as.example/.well-known/openid-configuration/a%2Fb",
		"https://as.example/a%2Fb/.well-known/openid-configuration",
	}
	if got := serverForms(u); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestResourceForms(t *testing.T) {
	for server, want := range map[string][]string{
		"https://mcp.example":            {"https://mcp.example" + prmPath},
		"https://mcp.example/":           {"https://mcp.example" + prmPath},
		"https://MCP.example:443/a%2Fb/": {"https://mcp.example" + prmPath + "/a%2Fb", "https://mcp.example" + prmPath},
		"https://mcp.example:8443/m?x=1": {"https://mcp.example:8443" + prmPath + "/m?x=1", "https://mcp.example:8443" + prmPath},
	} {
		u, _ := url.Parse(server)
		if got := (&discoverer{config: &config{}}).resourceForms(u, challenge{}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q, want %q", server, got, want)
		}
	}
	u, _ := url.Parse("https://mcp.example/m")
	root := "https://mcp.example" + prmPath
	for named, want := range map[string][]string{
		"":                        {root + "/m", root},
		root:                      {root, root + "/m"},
		root + "/m":               {root + "/m", root},
		"https://other.example/":  {"https://other.example/", root + "/m", root},
		"http://mcp.example/prm2": {root + "/m", root},
	} {
		var said strings.Builder
		d := &discoverer{config: &config{}, log: &logger{level: levelDebug, w: &said}}
		if got := d.resourceForms(u, challenge{ResourceMetadata: named}); !reflect.DeepEqual(got, want) {
			t.Errorf("challenge %q: got %q, want %q", named, got, want)
		}
		if logged := strings.Contains(said.String(), "ignored"); logged != strings.HasPrefix(named, "http:") {
			t.Errorf("challenge %q: logged %q", named, said.String())
		}
	}
}

func TestCheckResource(t *testing.T) {
	for _, test := range []struct {
		server, resource string
		ok               bool
	}{
		{"https://h/mcp", "https://h/mcp", true},
		{"https://h/mcp", "https://h/mcp/", true},
		{"https://h/mcp/", "https://h/mcp", true},
		{"https://h/mcp", "https://h", true},
		{"https://h/mcp", "https://h/", true},
		{"https://h", "https://h/", true},
		{"https://h/a/b", "https://h/a", true},
		{"https://h/mcp", "HTTPS://H:443/mcp", true},
		{"https://h:443/mcp", "https://h/mcp", true},
		{"https://h/mcp?key=1", "https://h/mcp", true},
		{"https://h/mcp", "https://h/mcp?key=1", true},
		{"https://h/mcp", "https://h/mc", false},
		{"https://h/mcp", "https://h/MCP", false},
		{"https://h/mcp", "https://h/mcp/more", false},
		{"https://h/mcp", "https://h:8443/mcp", false},
		{"https://h/mcp", "https://sub.h/mcp", false},
		{"https://h/mcp", "https://h.evil/mcp", false},
		{"https://h/mcp", "https://h@evil/mcp", false},
		{"https://h/mcp", "https://evil@h/mcp", false},
		{"https://h/mcp", "http://h/mcp", false},
		{"https://h/mcp", "https://h/mcp#x", false},
		{"https://h/mcp", "https://h/x/../mcp", false},
		{"https://h/mcp", "/mcp", false},
		{"https://h/mcp", "", false},
		{"https://h/mcp", "https://h/\u202eabc\u009b31m " + strings.Repeat("x", 1000), false},
	} {
		u, _ := url.Parse(test.server)
		err := (&discoverer{config: &config{}}).checkResource(test.resource, u)
		if (err == nil) != test.ok {
			t.Errorf("resource %q for server %q: %v", test.resource, test.server, err)
		}
		if hint := hintOf(err); len(hint) > 500 || strings.ContainsAny(hint, "\u202e\u009b") {
			t.Errorf("resource %q: the hint is %q", test.resource, hint)
		}
	}
}

func TestResourceToSend(t *testing.T) {
	mcp := newSite(t)
	mcp.page(asPath, 200, serverPage)
	for name, test := range map[string]struct{ published, given, want string }{
		"as published":            {"HERE/", "", mcp.URL + "/"},
		"published without slash": {"HERE", "", mcp.URL},
		"published with query":    {"HERE/mcp?v=1", "", mcp.URL + "/mcp?v=1"},
		"given":                   {"HERE/mcp", "api://mine", "api://mine"},
		"given against published": {"https://other.example", "https://other.example/x", "https://other.example/x"},
		"none":                    {"HERE/mcp", "none", ""},
		"none against published":  {"api://other", "none", ""},
	} {
		mcp.page(prmPath, 200, resourcePage(test.published, "HERE"))
		d := mcp.discoverer()
		d.resource = test.given
		a, err := d.discover(context.Background(), mcp.url(t, "/mcp"), challenge{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if a.resource != test.want {
			t.Errorf("%s: got %q, want %q", name, a.resource, test.want)
		}
	}
}

func TestSameIssuer(t *testing.T) {
	for _, test := range []struct {
		got, want string
		same      bool
	}{
		{"https://as", "https://as", true},
		{"https://as", "https://as/", true}, // MCP SDK for Python, by way of pydantic
		{"https://as/", "https://as", true}, // Auth0
		{"https://as/t", "https://as/t", true},
		{"https://as/t", "https://as/t/", false},
		{"https://as/t/", "https://as/t", false},
		{"https://as//", "https://as", false},
		{"https://AS", "https://as", false},
		{"https://as:443", "https://as", false},
		{"http://as", "https://as", false},
		{"https://as.evil", "https://as", false},
		{"", "https://as", false},
	} {
		if same := sameIssuer(test.got, test.want); same != test.same {
			t.Errorf("%q for %q: got %v", test.got, test.want, same)
		}
	}
}

func TestIssuersSpellingIsKept(t *testing.T) {
	as := newSite(t)
	as.page(asPath, 200, serverPage)
	m, err := as.discoverer().serverMetadata(context.Background(), as.URL+"/")
	if err != nil {
		t.Fatal(err)
	}
	// The authorization response's iss is compared with this one.
	if m.Issuer != as.URL {
		t.Errorf("got %q, want %q", m.Issuer, as.URL)
	}
}

func TestCheckPKCE(t *testing.T) {
	for name, test := range map[string]struct {
		m  serverMetadata
		ok bool
	}{
		"S256":     {serverMetadata{CodeChallengeMethods: []string{"plain", "S256"}}, true},
		"plain":    {serverMetadata{CodeChallengeMethods: []string{"plain"}}, false},
		"nothing":  {serverMetadata{}, false},
		"defaults": {serverMetadata{defaulted: true}, true},
		"vouched":  {serverMetadata{vouched: true}, true},
	} {
		err := test.m.checkPKCE()
		if (err == nil) != test.ok {
			t.Errorf("%s: got %v", name, err)
		}
		if err != nil && !strings.Contains(hintOf(err), "--auth-metadata") {
			t.Errorf("%s: hint %q", name, hintOf(err))
		}
	}
}

var hostileURLs = []string{
	"javascript:alert(1)", "JavaScript:alert(1)//https://as", "file:///etc/passwd", "data:text/html,x", "http://as.example/x",
	"http://127.0.0.1.evil.example/", "ftp://as.example", "//as.example/x", "/x", "as.example", "https:as.example/x", "https:///x", "https://:443/x",
	"https://user@as.example/x", "https://user:pass@as.example/x", "https://as.example/x#frag", "https://as.example/x#",
	"https://as.example/a b", " https://as.example", "https://as.example\n", "https://as.example/\r\nX: y", "https://as.example/\x00", "https://as.example/\x7f",
	`https://as.example/"x"`, "https://as.example/`id`", `https://as.example/\x`, "https://as.example/<x>", "https://as.example/{x}|y^z",
	"https://аs.example/", "https://as.example/é", "https://as.example/%zz", "https://as.example:port/", "-https://as.example", "--help", "https://[::1",
	"https://as.example::", "https://as.example::443/", "https://::1/", "https://1::2:3/", "https://[as.example]/", "https://[127.0.0.1]/",
	"https://[::1]x/", "https://as]example/", "https://as.example:65536/", "https://as.example:99999999999999999999/",
}

func TestCheckEndpoint(t *testing.T) {
	for _, bad := range append([]string{""}, hostileURLs...) {
		for _, allowHTTP := range []bool{false, true} {
			if u, err := checkEndpoint(bad, allowHTTP); err == nil {
				t.Errorf("%q was accepted as %q", bad, u)
			}
		}
	}
	for _, good := range []string{"https://as.example", "HTTPS://as.example:8443/a/b;c?d=e&f=$(g)'*!~", "https://[::1]:1/x", "https://[::1]/", "https://as.example:/x", "https://as.example:65535/", "https://as.example/%20"} {
		if _, err := checkEndpoint(good, false); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, loopback := range []string{"http://localhost:1/x", "http://LOCALHOST/", "http://127.0.0.1:80/x", "http://127.1.2.3/", "http://[::1]:8/"} {
		if _, err := checkEndpoint(loopback, true); err != nil {
			t.Errorf("%q: %v", loopback, err)
		}
		if _, err := checkEndpoint(loopback, false); err == nil {
			t.Errorf("%q was accepted without --allow-http", loopback)
		}
	}
}

func TestServerMetadataRefusesHostileEndpoints(t *testing.T) {
	as := newSite(t)
	d := as.discoverer()
	for _, endpoint := range []string{"authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint", "device_authorization_endpoint"} {
		for _, hostile := range hostileURLs {
			doc := map[string]any{"issuer": as.URL, "authorization_endpoint": as.URL, "token_endpoint": as.URL}
			doc[endpoint] = hostile
			page, _ := json.Marshal(doc)
			as.page(asPath, 200, string(page))
			_, err := d.serverMetadata(context.Background(), as.URL)
			wantError(t, err, endpoint+" of issuer")
		}
	}
	for _, missing := range []string{`"authorization_endpoint":"HERE/a",`, `"token_endpoint":"HERE/t",`} {
		as.page(asPath, 200, strings.Replace(serverPage, missing, "", 1))
		_, err := d.serverMetadata(context.Background(), as.URL)
		wantError(t, err, "is missing")
	}
}

func TestServerMetadataOfTheWrongType(t *testing.T) {
	as := newSite(t)
	for _, wrong := range []string{`"issuer":["HERE"]`, `"token_endpoint":1`, `"code_challenge_methods_supported":"S256"`, `"scopes_supported":"a b"`} {
		as.page(asPath, 200, strings.TrimSuffix(serverPage, "}")+","+wrong+"}")
		_, err := as.discoverer().serverMetadata(context.Background(), as.URL)
		wantError(t, err, "fetch authorization server metadata", as.url(t, "").Host, "not JSON of the right form")
	}
}

func FuzzMetadata(f *testing.F) {
	const issuer = "https://as.example"
	f.Add([]byte(strings.ReplaceAll(serverPage, "HERE", issuer)), issuer)
	f.Add([]byte(`{"issuer":"https://as.example/","authorization_endpoint":"javascript:alert(1)","token_endpoint":"https://as.example/t"}`), issuer)
	f.Add([]byte(`{"resource":"https://mcp.example","authorization_servers":["https://as.example/t?x","https://as.example/a/","http://127.0.0.1/"],"scopes_supported":["a"]}`), issuer)
	f.Add([]byte(`{"resource":"https://mcp.example.evil.example/mcp","authorization_servers":["https://a@b","//x","https://\u0000"]}`), issuer)
	f.Add([]byte(`null`), issuer)
	for _, at := range append([]string{"https://0::", "https://[::1]:1/x", "https://as.example:443/a/"}, hostileURLs...) {
		f.Add([]byte(`{}`), at)
	}
	f.Fuzz(func(t *testing.T, body []byte, another string) {
		var prm resourceMetadata
		server, _ := url.Parse("https://mcp.example/mcp")
		if decodeObject(body, &prm) == nil {
			err := (&discoverer{config: &config{}}).checkResource(prm.Resource, server)
			if u, bad := url.Parse(prm.Resource); err == nil && (bad != nil || !strings.EqualFold(u.Hostname(), "mcp.example")) {
				t.Errorf("resource %q was accepted", prm.Resource)
			}
			if err != nil {
				checkSaid(t, err.Error(), 2)
			}
		}
		for _, issuer := range append(prm.AuthorizationServers, another) {
			u, err := checkEndpoint(issuer, false)
			if err != nil {
				checkSaid(t, err.Error(), 0)
				continue
			}
			for _, form := range serverForms(u) {
				if at, err := url.Parse(form); err != nil || !sameOrigin(at, u) || at.User != nil || !strings.Contains(at.EscapedPath(), "/.well-known/") {
					t.Errorf("the metadata of %q would be asked for at %q", issuer, form)
				}
			}
		}
		var m serverMetadata
		if decodeObject(body, &m) != nil {
			return
		}
		if err := m.validate(issuer, false); err != nil {
			checkSaid(t, err.Error(), 2)
			return
		}
		if strings.TrimSuffix(m.Issuer, "/") != issuer {
			t.Errorf("issuer %q was accepted", m.Issuer)
		}
		for i, endpoint := range []string{m.AuthorizationEndpoint, m.TokenEndpoint, m.RegistrationEndpoint, m.RevocationEndpoint, m.DeviceAuthorizationEndpoint} {
			if endpoint == "" && i > 1 {
				continue
			}
			u, err := url.Parse(endpoint)
			if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.ContainsAny(endpoint, " \"\\`<>\r\n#") {
				t.Errorf("endpoint %q was accepted", endpoint)
			}
		}
	})
}

// A fetch of metadata carries nothing of the user's and has an end.
func TestFetchSendsNothingOfTheUsers(t *testing.T) {
	as := newSite(t)
	jar, _ := cookiejar.New(nil)
	jar.SetCookies(as.url(t, ""), []*http.Cookie{{Name: "session", Value: "secret", Path: "/"}})
	var header http.Header
	var deadline time.Time
	client := as.Client()
	inner := client.Transport
	client.Jar = jar
	client.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		header = req.Header.Clone()
		deadline, _ = req.Context().Deadline()
		return inner.RoundTrip(req)
	})
	as.page(asPath, 200, serverPage)
	d := &discoverer{config: &config{}, http: client}
	if err := d.fetch(context.Background(), "authorization server metadata", as.URL+asPath, &serverMetadata{}); err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Accept": {"application/json"}, "Mcp-Protocol-Version": {"2025-11-25"}, "User-Agent": userAgent()}
	if !reflect.DeepEqual(header, want) {
		t.Errorf("got %v, want %v", header, want)
	}
	if left := time.Until(deadline); deadline.IsZero() || left > fetchTimeout {
		t.Errorf("deadline in %v, want at most %v", left, fetchTimeout)
	}
}

func TestFetchIsBounded(t *testing.T) {
	as := newSite(t)
	d := as.discoverer()
	fetch := func(ctx context.Context) error {
		return d.fetch(ctx, "authorization server metadata", as.URL+"/doc?key=secret", &serverMetadata{})
	}
	pad := func(n int) string { return `{"issuer":"` + strings.Repeat("x", n-len(`{"issuer":""}`)) + `"}` }
	as.page("/doc", 200, pad(maxDocument))
	if err := fetch(context.Background()); err != nil {
		t.Errorf("1 MiB: %v", err)
	}
	as.page("/doc", 200, pad(maxDocument+1))
	wantError(t, fetch(context.Background()), "larger than 1 MiB")

	as.handle("/doc", func(w http.ResponseWriter, r *http.Request) { // endless
		for {
			if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
				return
			}
		}
	})
	wantError(t, fetch(context.Background()), "larger than 1 MiB")

	as.handle("/doc", func(w http.ResponseWriter, r *http.Request) { // begins, then stalls
		io.WriteString(w, "{")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := fetch(ctx)
	wantError(t, err, "no answer in time", as.url(t, "").Host)
	if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestFetchRedirects(t *testing.T) {
	as, other := newSite(t), newSite(t)
	plain := httptest.NewServer(http.HandlerFunc(other.answer))
	defer plain.Close()
	redirect := func(from, to string) {
		as.handle(from, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		})
	}
	var referer string
	d := as.discoverer()
	fetch := func() error {
		return d.fetch(context.Background(), "authorization server metadata", as.URL+"/1?key=secret", &serverMetadata{})
	}
	redirect("/1", "/2")
	redirect("/2", "/3")
	redirect("/3", "/doc")
	as.handle("/doc", func(w http.ResponseWriter, r *http.Request) {
		referer = r.Header.Get("Referer")
		io.WriteString(w, "{}")
	})
	if err := fetch(); err != nil || referer != "" {
		t.Errorf("three redirects: %v, referer %q", err, referer)
	}
	redirect("/3", "/4")
	redirect("/4", "/doc")
	wantError(t, fetch(), "too many redirects")
	redirect("/2", "/1")
	wantError(t, fetch(), "too many redirects")

	before := len(other.paths())
	for _, to := range []string{other.URL + "/doc", plain.URL + "/doc", "http://as.example/doc", "file:///etc/passwd", "javascript:alert(1)", "https://user:pass@" + other.url(t, "").Host + "/doc"} {
		redirect("/1", to)
		err := fetch()
		wantError(t, err, "the redirect's target")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q holds the query", err)
		}
	}
	if after := len(other.paths()); after != before {
		t.Errorf("%d requests went where they must not", after-before)
	}
}

func TestScopesSelected(t *testing.T) {
	offline := authorization{scopes: []string{"p", "q", "p"}, server: serverMetadata{ScopesSupported: []string{"q", "offline_access"}}}
	for name, test := range map[string]struct {
		given, challenged string
		a                 authorization
		want              string
	}{
		"given":                   {"g  h", "c", offline, "g  h"},
		"challenge":               {"", "c  d c", authorization{scopes: []string{"p"}}, "c d"},
		"protected resource":      {"", " ", authorization{scopes: []string{"p", "q"}}, "p q"},
		"none":                    {"", "", authorization{scopes: []string{}}, ""},
		"offline, challenge":      {"", "c", offline, "c offline_access"},
		"offline, resource":       {"", "", offline, "p q offline_access"},
		"offline, asked already":  {"", "offline_access c", offline, "offline_access c"},
		"offline alone":           {"", "", authorization{server: offline.server}, ""},
		"offline, not listed":     {"", "c", authorization{server: serverMetadata{ScopesSupported: []string{"c"}}}, "c"},
		"server's own, not asked": {"", "", authorization{server: serverMetadata{ScopesSupported: []string{"c"}}}, ""},
	} {
		o := &oauth{cfg: &config{server: parsedURL(t, "https://mcp.example"), scope: test.given}}
		if got, _ := o.scopes(challenge{Scope: test.challenged}, &credentials{}, &test.a); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestUnionScope(t *testing.T) {
	for _, test := range []struct{ a, b, want string }{
		{"", "", ""},
		{"a b", "", "a b"},
		{"", "a b", "a b"},
		{"b a", "c a  d b", "b a c d"},
		{"read", "read:all", "read read:all"},
	} {
		if got := unionScope(test.a, test.b); got != test.want {
			t.Errorf("%q and %q: got %q, want %q", test.a, test.b, got, test.want)
		}
	}
}

const testRedirect = "http://127.0.0.1:4321/oauth2callback"

func TestRegisterRequest(t *testing.T) {
	as := newSite(t)
	var got map[string]any
	as.handle("/r", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Accept") != "application/json" || r.Header.Get("Authorization") != "" {
			t.Errorf("got %s with %v", r.Method, r.Header)
		}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"client_id":"c1"}`)
	})
	m := &serverMetadata{Issuer: as.URL, RegistrationEndpoint: as.URL + "/r", TokenEndpointAuthMethods: []string{"client_secret_post", "none"}}
	if _, err := as.discoverer().register(context.Background(), m, testRedirect, ""); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"client_name":                "mcp-proxy",
		"software_id":                "github.com/smorand/mcp-proxy",
		"application_type":           "native",
		"redirect_uris":              []any{testRedirect},
		"grant_types":                []any{"authorization_code", "refresh_token"},
		"response_types":             []any{"code"},
		"token_endpoint_auth_method": "none",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRegistrationFollowsTheServer(t *testing.T) {
	for name, test := range map[string]struct {
		methods, grants []string
		wantMethod      string
		wantGrants      []string
	}{
		"nothing said":  {nil, nil, "client_secret_basic", []string{"authorization_code", "refresh_token"}},
		"public first":  {[]string{"client_secret_basic", "none"}, []string{"refresh_token", "authorization_code"}, "none", []string{"authorization_code", "refresh_token"}},
		"basic":         {[]string{"private_key_jwt", "client_secret_basic"}, nil, "client_secret_basic", []string{"authorization_code", "refresh_token"}},
		"post":          {[]string{"client_secret_jwt", "client_secret_basic", "client_secret_post"}, nil, "client_secret_post", []string{"authorization_code", "refresh_token"}},
		"no refreshing": {nil, []string{"authorization_code", "implicit"}, "client_secret_basic", []string{"authorization_code"}},
	} {
		as := newSite(t)
		var got struct {
			Method string   `json:"token_endpoint_auth_method"`
			Grants []string `json:"grant_types"`
		}
		as.handle("/r", func(w http.ResponseWriter, r *http.Request) {
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
				t.Error(err)
			}
			io.WriteString(w, `{"client_id":"c1"}`)
		})
		m := &serverMetadata{RegistrationEndpoint: as.URL + "/r", TokenEndpointAuthMethods: test.methods, GrantTypesSupported: test.grants}
		if _, err := as.discoverer().register(context.Background(), m, testRedirect, ""); err != nil {
			t.Fatal(err)
		}
		if got.Method != test.wantMethod || !reflect.DeepEqual(got.Grants, test.wantGrants) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestRegisterAnswers(t *testing.T) {
	basic, post, none := "client_secret_basic", "client_secret_post", "none"
	for name, test := range map[string]struct {
		status  int
		answer  string
		methods []string
		want    client
	}{
		"public":                    {201, `{"client_id":"c"}`, []string{none}, client{ID: "c", AuthMethod: none}},
		"200":                       {200, `{"client_id":"c"}`, nil, client{ID: "c", AuthMethod: none}},
		"secret":                    {201, `{"client_id":"c","client_secret":"s"}`, nil, client{ID: "c", Secret: "s", AuthMethod: basic}},
		"secret, server has post":   {201, `{"client_id":"c","client_secret":"s"}`, []string{post}, client{ID: "c", Secret: "s", AuthMethod: post}},
		"secret, server has none":   {201, `{"client_id":"c","client_secret":"s"}`, []string{none}, client{ID: "c", Secret: "s", AuthMethod: none}},
		"method honoured":           {201, `{"client_id":"c","client_secret":"s","token_endpoint_auth_method":"client_secret_post"}`, []string{basic}, client{ID: "c", Secret: "s", AuthMethod: post}},
		"method without secret":     {201, `{"client_id":"c","token_endpoint_auth_method":"client_secret_basic"}`, nil, client{ID: "c", AuthMethod: none}},
		"other redirect URIs":       {201, `{"client_id":"c","redirect_uris":["https://evil.example/cb"]}`, nil, client{ID: "c", AuthMethod: none}},
		"expired, as number":        {201, `{"client_id":"c","client_secret":"s","client_secret_expires_at":1}`, nil, client{ID: "c", Secret: "s", AuthMethod: basic}},
		"expires, as string":        {201, `{"client_id":"c","client_secret":"s","client_secret_expires_at":"0"}`, nil, client{ID: "c", Secret: "s", AuthMethod: basic}},
		"secret null":               {201, `{"client_id":"c","client_secret":null}`, nil, client{ID: "c", AuthMethod: none}},
		"secret that holds a space": {201, `{"client_id":"a b","client_secret":"s %+&="}`, nil, client{ID: "a b", Secret: "s %+&=", AuthMethod: basic}},
	} {
		as := newSite(t)
		as.page("/r", test.status, test.answer)
		m := &serverMetadata{Issuer: as.URL, RegistrationEndpoint: as.URL + "/r", TokenEndpointAuthMethods: test.methods}
		test.want.Source, test.want.RedirectURI = "registered", testRedirect
		got, err := as.discoverer().register(context.Background(), m, testRedirect, "")
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v (%v), want %+v", name, got, err, test.want)
		}
	}
}

func TestRegisterRefused(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		answer string
		want   []string
	}{
		"documented":        {400, `{"error":"invalid_client_metadata","error_description":"no\u001b[31m red\nline"}`, []string{"invalid_client_metadata (no [31m red line)"}},
		"redirect URI":      {400, `{"error":"invalid_redirect_uri"}`, []string{"invalid_redirect_uri: the redirect URI was " + testRedirect}},
		"forbidden":         {403, "<html>SENTINEL</html>", []string{"status 403"}},
		"not found":         {404, "SENTINEL", []string{"status 404"}},
		"failing":           {500, `{"x":"SENTINEL"}`, []string{"status 500"}},
		"error, wrong type": {400, `{"error":{"message":"SENTINEL"}}`, []string{"status 400"}},
		"HTML":              {200, "<html>SENTINEL</html>", []string{"no valid client_id"}},
		"error at 200":      {200, `{"error":"access_denied","x":"SENTINEL"}`, []string{": access_denied"}},
		"no client id":      {201, `{"client_secret":"SENTINEL"}`, []string{"no valid client_id"}},
		"client id of type": {201, `{"client_id":42}`, []string{"no valid client_id"}},
		"line break in id":  {201, `{"client_id":"a\r\nSet-Cookie: SENTINEL"}`, []string{"no valid client_id"}},
		"control in secret": {201, `{"client_id":"a","client_secret":"SENTINEL\u0000"}`, []string{"no valid client_id"}},
		"unknown method":    {201, `{"client_id":"a","token_endpoint_auth_method":"private_key_jwt"}`, []string{"private_key_jwt"}},
		"moved":             {307, "", []string{"status 307"}},
		"too large":         {201, `{"client_id":"` + strings.Repeat("x", maxDocument) + `"}`, []string{"larger than 1 MiB"}},
	} {
		t.Run(name, func(t *testing.T) {
			as := newSite(t)
			as.handle("/r", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", as.URL+"/elsewhere")
				w.WriteHeader(test.status)
				io.WriteString(w, test.answer)
			})
			as.page("/elsewhere", 201, `{"client_id":"elsewhere"}`)
			m := &serverMetadata{Issuer: as.URL, RegistrationEndpoint: as.URL + "/r"}
			c, err := as.discoverer().register(context.Background(), m, testRedirect, "")
			host := as.url(t, "").Host
			wantError(t, err, append(test.want, "registration endpoint", host)...)
			if c != (client{}) || strings.Contains(err.Error(), "SENTINEL") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %+v and %q", c, err)
			}
			if want := "give --client-id (register a client at " + as.URL + " by hand)"; hintOf(err) != want {
				t.Errorf("got hint %q, want %q", hintOf(err), want)
			}
			wantPaths(t, as, "/r")
		})
	}
}

func TestRegisterImpossible(t *testing.T) {
	as := newSite(t)
	_, err := as.discoverer().register(context.Background(), &serverMetadata{Issuer: as.URL}, testRedirect, "")
	wantError(t, err, "registration endpoint is missing")

	m := &serverMetadata{Issuer: as.URL, RegistrationEndpoint: as.URL + "/r", TokenEndpointAuthMethods: []string{"private_key_jwt", "tls_client_auth"}}
	_, err = as.discoverer().register(context.Background(), m, testRedirect, "")
	wantError(t, err, "private_key_jwt, tls_client_auth")
	wantPaths(t, as)

	m.TokenEndpointAuthMethods = nil
	as.Close()
	_, err = as.discoverer().register(context.Background(), m, testRedirect, "")
	wantError(t, err, "registration endpoint: "+as.url(t, "").Host)
	if hint := hintOf(err); strings.Contains(hint, "--client-id") {
		t.Errorf("hint %q for a host that cannot be reached", hint)
	}
}

func TestAuthMethod(t *testing.T) {
	basic, post, none := "client_secret_basic", "client_secret_post", "none"
	for name, test := range map[string]struct {
		c         client
		supported []string
		want      string
	}{
		"no secret":                {client{}, []string{basic}, none},
		"no secret, but a method":  {client{AuthMethod: post}, nil, none},
		"own method":               {client{Secret: "s", AuthMethod: post}, []string{basic}, post},
		"own method none":          {client{Secret: "s", AuthMethod: none}, []string{basic}, none},
		"nothing said":             {client{Secret: "s"}, nil, basic},
		"both":                     {client{Secret: "s"}, []string{none, post, basic}, basic},
		"post":                     {client{Secret: "s"}, []string{none, post}, post},
		"public only":              {client{Secret: "s"}, []string{none}, none},
		"what we do not do at all": {client{Secret: "s"}, []string{"private_key_jwt"}, basic},
	} {
		if got := authMethod(test.c, test.supported); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
