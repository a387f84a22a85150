package main

// An OAuth 2.1 authorization server for the tests. It checks every parameter
// it is given and knows every secret that it ever made or saw.

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeAuth is an authorization server. Its switches are set before the first
// request or inside change. Grants and secrets are guarded by the origin's mutex.
type fakeAuth struct {
	*fakeOrigin
	issuer        string
	metadataPath  string // where its metadata is; "" for nowhere
	metadata      func(doc map[string]any)
	registers     bool                     // offers dynamic registration
	registered    func(doc map[string]any) // changes the answer to a registration
	methods       []string                 // token_endpoint_auth_methods_supported, the first is given out
	resource      string                   // what resource must be, "" for absent; anyValue
	scope         string                   // what scope must be, "" for absent; anyValue
	scopes        []string                 // scopes_supported
	valid         []string                 // the scopes that there are; nil: any
	strict        bool                     // a client is held to the scope it registered with
	redirectHost  string                   // of registered clients
	expiresIn     any                      // of access tokens: a number, a string, or nil for absent
	lives         time.Duration            // of access tokens, whatever expiresIn says; 0: for good
	rotates       bool                     // a refresh gives a new refresh token; the old one revokes the grant
	denies        bool                     // the user says no, whatever the browser does
	responds      func(back url.Values)    // changes the authorization response
	accepts       string                   // the one client authentication that does, whatever was given out; no complaint
	answers       fakeTokenAnswer          // writes the token endpoint's answers in a way of its own
	forgot        bool                     // clients may be unknown: see forgetClients
	clients       map[string]*fakeClient
	codes         map[string]*fakeCode
	access        map[string]*fakeGrant // live access tokens
	refresh       map[string]*fakeGrant // refresh tokens, used ones included
	known         []string              // every secret made or seen
	assertions    map[string]bool       // jti of those seen
	devices       map[string]*fakeDevice
	device        func(doc map[string]any) // offers the device grant and changes its answers
	reuses        int                      // of rotated refresh tokens
	authorization string                   // paths of the endpoints
	token         string
}

// fakeTokenAnswer writes an answer of the token endpoint, or leaves it (false) as it is.
type fakeTokenAnswer func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool

// anyValue turns off the check of a parameter.
const anyValue = "*"

type fakeClient struct {
	id, secret, method string
	scope              string           // that it was registered with
	grants             []string         // that it was registered for; none: any
	key                crypto.PublicKey // of method private_key_jwt
	algorithm          string           // that it has to sign with
	redirects          []string         // exact; none: any loopback redirect
}

type fakeCode struct {
	client                               *fakeClient
	redirect, challenge, resource, scope string
}

type fakeGrant struct {
	client          *fakeClient
	resource, scope string
	current         string // the newest refresh token
	revoked         bool
}

// fakeSecret is as long as it takes not to be found by accident.
func fakeSecret() string {
	b := make([]byte, 18)
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// newFakeAuth puts an authorization server at the root of the origin.
func newFakeAuth(o *fakeOrigin) *fakeAuth {
	a := &fakeAuth{
		fakeOrigin: o, issuer: o.base, metadataPath: "/.well-known/oauth-authorization-server",
		registers: true, methods: []string{"none"}, resource: anyValue, scope: anyValue, redirectHost: "127.0.0.1",
		expiresIn: 3600, rotates: true, authorization: "/authorize", token: "/token",
		clients: map[string]*fakeClient{}, codes: map[string]*fakeCode{},
		access: map[string]*fakeGrant{}, refresh: map[string]*fakeGrant{},
	}
	o.parts = append(o.parts, a)
	return a
}

// startProtected starts an MCP server that wants a token for the scope "tools"
// and, on an origin of its own, the authorization server that gives it.
func startProtected(t testing.TB, protocols ...string) (*fakeMCP, *fakeAuth) {
	s := startMCP(t, protocols...)
	s.auth, s.scope = newFakeAuth(startOrigin(t, protocols...)), "tools"
	s.auth.resource, s.auth.scope = s.resource, s.scope
	return s, s.auth
}

// secret makes one and remembers it.
func (a *fakeAuth) secret(kind string) string {
	s := kind + "-" + fakeSecret()
	a.known = append(a.known, s)
	return s
}

// secrets lists codes, tokens, client secrets, states and verifiers.
func (a *fakeAuth) secrets() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.known)
}

// leaked reports whether text holds a secret.
func (a *fakeAuth) leaked(text string) bool {
	return slices.ContainsFunc(a.secrets(), func(s string) bool { return strings.Contains(text, s) })
}

// addClient is what an administrator does: a client with a secret (none when
// method is "none") and exact redirect URIs, by default those of the program.
func (a *fakeAuth) addClient(id, method string, redirects ...string) *fakeClient {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &fakeClient{id: id, method: method, redirects: redirects}
	if method != "none" && method != "private_key_jwt" {
		c.secret = a.secret("client-secret") + "/+ :%" // reserved characters: Basic must encode them
		a.known = append(a.known, c.secret)
	}
	for port := 3000; len(redirects) == 0 && port <= 3010; port++ {
		c.redirects = append(c.redirects, fmt.Sprintf("http://localhost:%d/oauth2callback", port))
	}
	a.clients[id] = c
	return c
}

// grant gives the client tokens without a browser, as a sign-in of long ago.
func (a *fakeAuth) grant(c *fakeClient, resource, scope string) (access, refresh string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := &fakeGrant{client: c, resource: resource, scope: scope}
	return a.newAccess(g), a.newRefresh(g)
}

func (a *fakeAuth) newAccess(g *fakeGrant) string {
	token := a.secret("access")
	a.access[token] = g
	if a.lives > 0 {
		time.AfterFunc(a.lives, func() { a.change(func() { delete(a.access, token) }) })
	}
	return token
}

func (a *fakeAuth) newRefresh(g *fakeGrant) string {
	g.current = a.secret("refresh")
	a.refresh[g.current] = g
	return g.current
}

// expireAccess ends all access tokens; refresh tokens go on.
func (a *fakeAuth) expireAccess() { a.change(func() { a.access = map[string]*fakeGrant{} }) }

// forgetClients is a server that was set up anew: no client, no grant.
func (a *fakeAuth) forgetClients() {
	a.revokeAll()
	a.change(func() { a.clients, a.forgot = map[string]*fakeClient{}, true })
}

// revokeAll ends all grants.
func (a *fakeAuth) revokeAll() {
	a.change(func() {
		a.access = map[string]*fakeGrant{}
		for _, g := range a.refresh {
			g.revoked = true
		}
	})
}

// validate reports the scope of a live access token for the resource.
func (a *fakeAuth) validate(token, resource string) (scope string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.access[token]
	if g == nil || g.revoked || g.resource != "" && g.resource != resource {
		return "", false
	}
	return g.scope, true
}

func (a *fakeAuth) label(r *fakeRequest) string {
	switch r.URL.Path {
	case a.metadataPath:
		return "metadata"
	case "/register", "/revoke", "/device", "/device/code":
		return r.URL.Path[1:]
	case a.authorization:
		return "authorize"
	case a.token:
		form, _ := url.ParseQuery(string(r.body))
		return "token " + strings.TrimPrefix(form.Get("grant_type"), "urn:ietf:params:oauth:grant-type:")
	}
	if strings.Contains(r.URL.Path, "/.well-known/") {
		return "no metadata"
	}
	return ""
}

// oauthReply is an answer made under the lock and written without it.
type oauthReply struct {
	status   int
	location string
	doc      map[string]any
}

func refuse(status int, code string) oauthReply {
	return oauthReply{status: status, doc: map[string]any{"error": code}}
}

func (a *fakeAuth) serve(w http.ResponseWriter, r *fakeRequest) {
	a.mu.Lock()
	reply, answers := a.answer(r), a.answers
	a.mu.Unlock()
	if strings.HasPrefix(r.label, "token ") && answers != nil && answers(w, r, reply) {
		return
	}
	if reply.location != "" {
		http.Redirect(w, r.Request, reply.location, reply.status)
		return
	}
	writeJSON(w, reply.status, reply.doc)
}

func (a *fakeAuth) answer(r *fakeRequest) oauthReply {
	switch r.label {
	case "metadata":
		return oauthReply{status: http.StatusOK, doc: a.document()}
	case "authorize":
		return a.authorize(r)
	case "register":
		if a.registers {
			return a.register(r)
		}
	case "revoke":
		return a.revoke(r)
	case "device":
		return a.decide(r)
	case "device/code":
		return a.giveCode(r)
	case "no metadata":
	default:
		return a.exchange(r)
	}
	return refuse(http.StatusNotFound, "not_found")
}

func (a *fakeAuth) document() map[string]any {
	doc := map[string]any{
		"issuer":                                         a.issuer,
		"authorization_endpoint":                         a.base + a.authorization,
		"token_endpoint":                                 a.base + a.token,
		"revocation_endpoint":                            a.base + "/revoke",
		"response_types_supported":                       []string{"code"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token"},
		"code_challenge_methods_supported":               []string{"S256"},
		"token_endpoint_auth_methods_supported":          a.methods,
		"authorization_response_iss_parameter_supported": true,
	}
	if a.registers {
		doc["registration_endpoint"] = a.base + "/register"
	}
	if a.device != nil {
		doc["device_authorization_endpoint"] = a.base + "/device/code"
		doc["grant_types_supported"] = []string{"authorization_code", "refresh_token", deviceGrant}
	}
	if a.scopes != nil {
		doc["scopes_supported"] = a.scopes
	}
	if a.metadata != nil {
		a.metadata(doc)
	}
	return doc
}

// want reports a parameter that is not as it must be.
func (a *fakeAuth) want(r *fakeRequest, ok bool, format string, args ...any) bool {
	if !ok {
		a.t.Errorf("authorization server: %s: %s", r.label, fmt.Sprintf(format, args...))
	}
	return ok
}

func (a *fakeAuth) register(r *fakeRequest) oauthReply {
	var doc map[string]any
	err := json.Unmarshal(r.body, &doc)
	if !a.want(r, err == nil && r.Method == http.MethodPost, "got %s %.200q, want a POST of JSON", r.Method, r.body) {
		return refuse(http.StatusBadRequest, "invalid_client_metadata")
	}
	var redirects []string
	for _, raw := range asList(doc["redirect_uris"]) {
		redirects = append(redirects, raw)
		u, err := url.Parse(raw)
		a.want(r, err == nil && u.Scheme == "http" && u.Hostname() == a.redirectHost && u.Port() != "",
			"got redirect URI %q, want one of %s with a port", raw, a.redirectHost)
	}
	method, _ := doc["token_endpoint_auth_method"].(string)
	a.want(r, len(redirects) == 1, "got redirect URIs %q, want one", redirects)
	a.want(r, doc["application_type"] == "native", "got application_type %v, want native", doc["application_type"])
	grants := asList(doc["grant_types"])
	a.want(r, slices.Contains(grants, "authorization_code") && slices.Contains(grants, "refresh_token"), "got grant_types %q", grants)
	a.want(r, slices.Contains(a.methods, method), "got token_endpoint_auth_method %q, want one of %q", method, a.methods)
	scope, _ := doc["scope"].(string)
	a.want(r, a.scope == anyValue || scope == "" || scope == a.scope, "got scope %q, want %q", scope, a.scope)
	if a.valid != nil && withoutScope(scope, strings.Join(a.valid, " ")) != "" {
		return refuse(http.StatusBadRequest, "invalid_client_metadata")
	}
	a.want(r, doc["client_name"] != nil, "got no client_name")
	a.want(r, r.Header.Get("Authorization") == "", "got an Authorization header")
	c := &fakeClient{id: "client-" + fakeSecret(), method: method, redirects: redirects, grants: grants, scope: scope}
	doc["client_id"] = c.id
	if method != "none" {
		c.secret = a.secret("client-secret")
		doc["client_secret"], doc["client_secret_expires_at"] = c.secret, 0
	}
	a.clients[c.id] = c
	if a.registered != nil {
		a.registered(doc)
		c.scope, _ = doc["scope"].(string)
	}
	return oauthReply{status: http.StatusCreated, doc: doc}
}

func asList(v any) (list []string) {
	values, _ := v.([]any)
	for _, value := range values {
		list = append(list, fmt.Sprint(value))
	}
	return list
}

// decisionHeader is how the scripted user of the browser says no.
const decisionHeader = "X-Test-Decision"

func (a *fakeAuth) authorize(r *fakeRequest) oauthReply {
	q := r.URL.Query()
	a.known = append(a.known, q.Get("state"))
	c := a.clients[q.Get("client_id")]
	redirect := q.Get("redirect_uri")
	if !a.want(r, c != nil || a.forgot, "got client_id %q, which is unknown", q.Get("client_id")) || c == nil ||
		!a.want(r, c.allows(redirect), "got redirect_uri %q, want one of %q", redirect, c.redirects) {
		return refuse(http.StatusBadRequest, "invalid_request")
	}
	for name, values := range q {
		a.want(r, len(values) == 1, "got %s %d times", name, len(values))
	}
	for _, name := range []string{"client_secret", "code_verifier", "access_token"} {
		a.want(r, !q.Has(name), "got %s in a URL", name)
	}
	a.want(r, q.Get("response_type") == "code", "got response_type %q, want code", q.Get("response_type"))
	a.want(r, q.Get("code_challenge_method") == "S256", "got code_challenge_method %q, want S256", q.Get("code_challenge_method"))
	a.want(r, len(q.Get("code_challenge")) == 43, "got code_challenge %q, want 43 characters", q.Get("code_challenge"))
	a.want(r, len(q.Get("state")) >= 22, "got state %q, want 128 bits or more", q.Get("state"))
	a.wantValue(r, "resource", q, a.resource)
	a.wantValue(r, "scope", q, a.scope)
	back := url.Values{"state": {q.Get("state")}, "iss": {a.issuer}}
	if refused := a.refusedScope(c, q.Get("scope")); refused != "" {
		back.Set("error", "invalid_scope")
		back.Set("error_description", "not allowed: "+refused)
	} else if a.denies || r.Header.Get(decisionHeader) == "deny" {
		back.Set("error", "access_denied")
		back.Set("error_description", "the user said no")
	} else {
		code := a.secret("code")
		a.codes[code] = &fakeCode{c, redirect, q.Get("code_challenge"), q.Get("resource"), q.Get("scope")}
		back.Set("code", code)
	}
	if a.responds != nil {
		a.responds(back)
	}
	return oauthReply{status: http.StatusFound, location: redirect + "?" + back.Encode()}
}

// refusedScope is what of a scope there is not, or not for this client.
func (a *fakeAuth) refusedScope(c *fakeClient, scope string) string {
	refused := ""
	if a.valid != nil {
		refused = withoutScope(scope, strings.Join(a.valid, " "))
	}
	if a.strict {
		refused = unionScope(refused, withoutScope(scope, c.scope))
	}
	return refused
}

func (a *fakeAuth) wantValue(r *fakeRequest, name string, q url.Values, want string) {
	if want != anyValue {
		a.want(r, q.Get(name) == want && q.Has(name) == (want != ""), "got %s %q, want %q", name, q[name], want)
	}
}

// allows compares as the specification wants: exactly.
func (c *fakeClient) allows(redirect string) bool {
	if len(c.redirects) > 0 {
		return slices.Contains(c.redirects, redirect)
	}
	u, err := url.Parse(redirect)
	return err == nil && u.Scheme == "http" && net.ParseIP(u.Hostname()).IsLoopback()
}

func (a *fakeAuth) exchange(r *fakeRequest) oauthReply {
	form, err := url.ParseQuery(string(r.body))
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if !a.want(r, r.Method == http.MethodPost && err == nil && media == "application/x-www-form-urlencoded" && r.URL.RawQuery == "",
		"got %s of %q, want a POST of a form without a query", r.Method, media) {
		return refuse(http.StatusBadRequest, "invalid_request")
	}
	c := a.authenticated(r, form)
	if c == nil {
		return refuse(http.StatusUnauthorized, "invalid_client")
	}
	a.wantValue(r, "resource", form, a.resource)
	switch form.Get("grant_type") {
	case "authorization_code":
		return a.redeem(r, c, form)
	case "client_credentials":
		return a.trust(r, c, form)
	case deviceGrant:
		return a.poll(r, c, form)
	}
	return a.renew(r, c, form)
}

// authenticated finds the client and insists on the method it was given.
func (a *fakeAuth) authenticated(r *fakeRequest, form url.Values) *fakeClient {
	if form.Has("client_assertion") {
		return a.asserted(r, form)
	}
	id, secret, method := form.Get("client_id"), form.Get("client_secret"), "none"
	if form.Has("client_secret") {
		method = "client_secret_post"
	}
	if user, password, ok := r.BasicAuth(); ok {
		a.want(r, !form.Has("client_secret"), "got the client secret twice")
		// RFC 6749, section 2.3.1: both are form-urlencoded before base64.
		id, _ = url.QueryUnescape(user)
		secret, _ = url.QueryUnescape(password)
		method = "client_secret_basic"
	}
	c := a.clients[id]
	if c == nil || c.secret != secret {
		return nil // the program may have to find out that it is forgotten
	}
	if a.accepts != "" {
		if method != a.accepts {
			return nil
		}
		return c
	}
	if !a.want(r, c.method == method, "got client authentication %s, want %s", method, c.method) {
		return nil
	}
	return c
}

func (a *fakeAuth) redeem(r *fakeRequest, c *fakeClient, form url.Values) oauthReply {
	verifier := form.Get("code_verifier")
	a.known = append(a.known, verifier)
	code := a.codes[form.Get("code")]
	delete(a.codes, form.Get("code"))
	if !a.want(r, code != nil, "got a code that was used or never given") {
		return refuse(http.StatusBadRequest, "invalid_grant")
	}
	sum := sha256.Sum256([]byte(verifier))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	good := a.want(r, code.client == c, "got the code of another client")
	good = a.want(r, challenge == code.challenge, "code_verifier does not fit the code_challenge") && good
	good = a.want(r, form.Get("redirect_uri") == code.redirect, "got redirect_uri %q, want %q", form.Get("redirect_uri"), code.redirect) && good
	good = a.want(r, form.Get("resource") == code.resource, "got resource %q, want %q", form.Get("resource"), code.resource) && good
	if !good {
		return refuse(http.StatusBadRequest, "invalid_grant")
	}
	return a.issue(&fakeGrant{client: c, resource: code.resource, scope: code.scope}, true)
}

func (a *fakeAuth) renew(r *fakeRequest, c *fakeClient, form url.Values) oauthReply {
	token := form.Get("refresh_token")
	g := a.refresh[token]
	if g == nil || g.revoked || g.client != c {
		return refuse(http.StatusBadRequest, "invalid_grant")
	}
	if token != g.current { // OAuth 2.1, section 4.3.1: a used one means that it was stolen
		a.reuses++
		g.revoked = true
		return refuse(http.StatusBadRequest, "invalid_grant")
	}
	return a.issue(g, a.rotates)
}

func (a *fakeAuth) issue(g *fakeGrant, withRefresh bool) oauthReply {
	doc := map[string]any{"access_token": a.newAccess(g), "token_type": "Bearer", "scope": g.scope}
	if withRefresh {
		doc["refresh_token"] = a.newRefresh(g)
	}
	if a.expiresIn != nil {
		doc["expires_in"] = a.expiresIn
	}
	return oauthReply{status: http.StatusOK, doc: doc}
}

func (a *fakeAuth) revoke(r *fakeRequest) oauthReply {
	form, _ := url.ParseQuery(string(r.body))
	token := form.Get("token")
	a.want(r, r.Method == http.MethodPost && token != "", "got no token")
	if c := a.authenticated(r, form); c == nil {
		return refuse(http.StatusUnauthorized, "invalid_client")
	}
	if g := a.refresh[token]; g != nil {
		g.revoked = true
	}
	delete(a.access, token)
	return oauthReply{status: http.StatusOK, doc: map[string]any{}}
}
