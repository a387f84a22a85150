package main

// The grants without a browser at the authorization server of the tests, and
// clients that sign assertions.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// trust gives a client a token for itself.
func (a *fakeAuth) trust(r *fakeRequest, c *fakeClient, form url.Values) oauthReply {
	a.want(r, c.method != "none", "a client that shows nothing")
	a.wantValue(r, "scope", form, a.scope)
	for _, name := range []string{"code", "code_verifier", "redirect_uri", "refresh_token", "username", "device_code"} {
		a.want(r, !form.Has(name), "got %s", name)
	}
	if a.refusedScope(c, form.Get("scope")) != "" {
		return refuse(http.StatusBadRequest, "invalid_scope")
	}
	return a.issue(&fakeGrant{client: c, resource: form.Get("resource"), scope: form.Get("scope")}, false)
}

// asserted finds the client of an assertion and checks all of it.
func (a *fakeAuth) asserted(r *fakeRequest, form url.Values) *fakeClient {
	assertion := form.Get("client_assertion")
	a.known = append(a.known, assertion)
	parts := strings.Split(assertion, ".")
	var header struct{ Alg, Typ string }
	var claims struct {
		Iss, Sub, Jti string
		Aud           any
		Iat, Exp      int64
	}
	if !a.want(r, len(parts) == 3 && decodeJWT(parts[0], &header) && decodeJWT(parts[1], &claims), "got the assertion %.200q", assertion) {
		return nil
	}
	c := a.clients[claims.Sub]
	if c == nil {
		return nil
	}
	now := time.Now().Unix()
	a.want(r, form.Get("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "got client_assertion_type %q", form.Get("client_assertion_type"))
	a.want(r, !form.Has("client_id") && !form.Has("client_secret") && r.Header.Get("Authorization") == "", "got more than an assertion: %q", form)
	a.want(r, c.method == "private_key_jwt" && header.Alg == c.algorithm, "got algorithm %q, want %q", header.Alg, c.algorithm)
	a.want(r, claims.Iss == c.id && claims.Aud == a.issuer, "got iss %q, aud %v, want %q, %q", claims.Iss, claims.Aud, c.id, a.issuer)
	a.want(r, claims.Iat <= now && claims.Exp > now && claims.Exp-now <= 300, "got iat %d, exp %d at %d", claims.Iat, claims.Exp, now)
	a.want(r, len(claims.Jti) >= 22 && !a.assertions[claims.Jti], "got jti %q, which is short or was used", claims.Jti)
	if a.assertions == nil {
		a.assertions = map[string]bool{}
	}
	a.assertions[claims.Jti] = true
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !verified(c, []byte(parts[0]+"."+parts[1]), signature) {
		return nil
	}
	return c
}

func decodeJWT(part string, into any) bool {
	data, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(data, into) == nil
}

// verified checks a signature as RFC 7518, section 3 has it.
func verified(c *fakeClient, text, signature []byte) bool {
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[c.algorithm[len(c.algorithm)-3:]]
	digest := text
	if hash != 0 {
		h := hash.New()
		h.Write(text)
		digest = h.Sum(nil)
	}
	switch key := c.key.(type) {
	case *ecdsa.PublicKey:
		half := (key.Params().BitSize + 7) / 8
		return len(signature) == 2*half &&
			ecdsa.Verify(key, digest, new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:]))
	case *rsa.PublicKey:
		if strings.HasPrefix(c.algorithm, "PS") {
			return rsa.VerifyPSS(key, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, text, signature)
	}
	return false
}

// testRSAKey is made once: it takes its time.
var testRSAKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newTestKey(t testing.TB, algorithm string) (key crypto.Signer) {
	t.Helper()
	var err error
	switch algorithm {
	case "ES256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA", "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = testRSAKey()
	}
	fatal(t, err)
	return key
}

// addSigner registers a client with a key; what is returned beside it is the
// PEM text of the private one.
func (a *fakeAuth) addSigner(id, algorithm string, redirects ...string) (c *fakeClient, text string) {
	a.t.Helper()
	key := newTestKey(a.t, algorithm)
	c = a.addClient(id, "private_key_jwt", redirects...)
	c.key, c.algorithm = key.Public(), algorithm
	text = keyText(a.t, key)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	a.change(func() { a.known = append(a.known, lines[1:len(lines)-1]...) })
	return c, text
}

// keyText is a private key as its file has it.
func keyText(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	fatal(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// machineGrants turns the server into one for machines only: nothing in its
// metadata is about users.
func (a *fakeAuth) machineGrants(method string, algorithms ...string) {
	a.registers, a.methods = false, []string{method}
	a.metadata = func(doc map[string]any) {
		doc["grant_types_supported"] = []string{"client_credentials"}
		for _, name := range []string{"authorization_endpoint", "code_challenge_methods_supported", "response_types_supported"} {
			delete(doc, name)
		}
		if len(algorithms) > 0 {
			doc["token_endpoint_auth_signing_alg_values_supported"] = algorithms
		}
	}
}

// keyFile is where the user keeps a private key.
func (u *testUser) keyFile(text string) string {
	u.t.Helper()
	file := filepath.Join(u.dir, "client-key.pem")
	fatal(u.t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// startMachines starts a protected server whose authorization server gives
// tokens to machines only, and a user with the arguments for one of them.
func startMachines(t testing.TB) (server *fakeMCP, auth *fakeAuth, user *testUser, args []string) {
	server, auth = startProtected(t)
	auth.machineGrants("client_secret_basic")
	c := auth.addClient("machine", "client_secret_basic")
	user = newUser(t, auth, server)
	user.env["MACHINE_SECRET"] = c.secret
	return server, auth, user, []string{"-u", server.url, "--grant", "client_credentials", "-i", "machine", "-s", "env:MACHINE_SECRET"}
}

// noBrowser: none was opened, nobody was registered, nobody asked a user.
func noBrowser(t testing.TB, user *testUser, auth *fakeAuth) {
	t.Helper()
	if opened := user.openings(); len(opened) > 0 || len(user.signInPages()) > 0 {
		t.Errorf("a user was asked: %q", opened)
	}
	if got := auth.labels(); slices.Contains(got, "register") || slices.Contains(got, "authorize") {
		t.Errorf("got %q", got)
	}
}

// refuseTokens has the token endpoint answer a grant with an error.
func (a *fakeAuth) refuseTokens(grant string, status int, code string) {
	a.on("token "+grant, func(w http.ResponseWriter, _ *fakeRequest) bool {
		writeJSON(w, status, map[string]any{"error": code})
		return true
	})
}

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// fakeDevice is a code that was given out.
type fakeDevice struct {
	client                    *fakeClient
	userCode, scope, resource string
	interval                  time.Duration
	asked                     time.Time // last
	decision                  string    // "", consent, deny
}

// giveCode is the device authorization endpoint.
func (a *fakeAuth) giveCode(r *fakeRequest) oauthReply {
	form, err := url.ParseQuery(string(r.body))
	a.want(r, err == nil && r.Method == http.MethodPost && r.URL.RawQuery == "", "got %s, want a POST of a form", r.Method)
	c := a.authenticated(r, form)
	if c == nil {
		return refuse(http.StatusUnauthorized, "invalid_client")
	}
	if len(c.grants) > 0 && !slices.Contains(c.grants, deviceGrant) {
		return refuse(http.StatusBadRequest, "unauthorized_client")
	}
	a.wantValue(r, "resource", form, a.resource)
	a.wantValue(r, "scope", form, a.scope)
	for _, name := range []string{"code_challenge", "code_challenge_method", "redirect_uri", "state", "response_type", "grant_type"} {
		a.want(r, !form.Has(name), "got %s", name)
	}
	if a.refusedScope(c, form.Get("scope")) != "" {
		return refuse(http.StatusBadRequest, "invalid_scope")
	}
	code, user := a.secret("device-code"), strings.ToUpper(fakeSecret()[:8])
	d := &fakeDevice{client: c, userCode: user, scope: form.Get("scope"), resource: form.Get("resource"), interval: minPoll}
	if a.devices == nil {
		a.devices = map[string]*fakeDevice{}
	}
	a.devices[code] = d
	doc := map[string]any{
		"device_code": code, "user_code": user, "verification_uri": a.base + "/device",
		"verification_uri_complete": a.base + "/device?user_code=" + user, "expires_in": 600, "interval": 0.02, // below a second, which nobody may be held to
	}
	a.device(doc)
	return oauthReply{status: http.StatusOK, doc: doc}
}

// decide is the page where the user says yes or no.
func (a *fakeAuth) decide(r *fakeRequest) oauthReply {
	for _, d := range a.devices {
		if d.userCode == r.URL.Query().Get("user_code") {
			d.decision = r.Header.Get(decisionHeader)
			return oauthReply{status: http.StatusOK, doc: map[string]any{}}
		}
	}
	return refuse(http.StatusNotFound, "not_found")
}

// poll answers the token endpoint, and insists on the interval.
func (a *fakeAuth) poll(r *fakeRequest, c *fakeClient, form url.Values) oauthReply {
	d := a.devices[form.Get("device_code")]
	if !a.want(r, d != nil && d.client == c, "got an unknown device_code, or another client's") {
		return refuse(http.StatusBadRequest, "invalid_grant")
	}
	a.want(r, !form.Has("code_verifier"), "got code_verifier")
	if !d.asked.IsZero() {
		a.want(r, r.at.Sub(d.asked) >= d.interval, "polled after %v, want %v", r.at.Sub(d.asked), d.interval)
	}
	d.asked = r.at
	switch d.decision {
	case "":
		return refuse(http.StatusBadRequest, "authorization_pending")
	case "deny":
		return refuse(http.StatusBadRequest, "access_denied")
	}
	delete(a.devices, form.Get("device_code"))
	return a.issue(&fakeGrant{client: c, resource: d.resource, scope: d.scope}, true)
}
