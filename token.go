package main

// The token endpoint: one form whatever the grant, how the client authenticates (with a secret, or
// with a key and private_key_jwt), what an answer and a refusal mean, and the client credentials
// grant. It does not know what a token is for, nor when one is needed.

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxTokenAttempts = 3 // while an endpoint is out of order
	maxTokenLife     = 10 * 365 * 24 * time.Hour

	grantRefresh           = "refresh_token"
	grantCode              = "authorization_code"
	grantClientCredentials = "client_credentials"

	methodBasic      = "client_secret_basic"
	methodPost       = "client_secret_post"
	methodNone       = "none"
	methodPrivateKey = "private_key_jwt"

	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	assertionLife = 2 * time.Minute // long enough for clocks that differ a little
	minRSABits    = 2048            // RFC 7518, section 3.3
)

// An oauthError is an answer of an authorization server that is an error.
type oauthError struct {
	code        string // RFC 6749, section 5.2; "" if the answer had none
	description string
	status      int
	unusable    bool // a success, but nothing in it that we can use
}

func (e *oauthError) Error() string {
	switch {
	case e.code == "":
		return fmt.Sprintf("status %d", e.status)
	case e.description == "":
		return e.code
	}
	return e.code + " (" + e.description + ")"
}

// outOfOrder reports whether it is about the server and not about what was asked.
func (e oauthError) outOfOrder() bool {
	return e.status >= 500 || e.status == http.StatusTooManyRequests ||
		e.code == "temporarily_unavailable" || e.code == "server_error"
}

// refusedWith is what the authorization server refuses with, nothing for any other error.
func refusedWith(err error) oauthError {
	e := new(oauthError)
	errors.As(err, &e)
	return *e
}

// isRejected reports whether the authorization server refuses this grant or client: only then may a
// token be given up. Without an error code of RFC 6749, section 5.2, the status decides: else no
// start would ever lead to a sign-in.
func isRejected(err error) bool {
	e := refusedWith(err)
	return !e.outOfOrder() && !e.unusable &&
		(e.code != "" || e.status == http.StatusBadRequest || e.status == http.StatusUnauthorized)
}

// isUnknownClient reports whether the server has lost the registration.
func isUnknownClient(err error) bool {
	return slices.Contains([]string{"invalid_client", "unauthorized_client"}, refusedWith(err).code)
}

// lastingFailure is one that trying again at once would only repeat: no registration, no device
// code, or what another process found to be so.
type lastingFailure struct{ error }

func (l lastingFailure) Unwrap() error { return l.error }

// isLasting reports whether a sign-in failed because the authorization server refuses this program.
// With the same settings it would say the same again, after one more registration and one more
// consent of the user. A user's no and a network's trouble are of another kind.
func isLasting(err error) bool {
	return isRejected(err) || refusedWith(err).unusable || errors.As(err, new(lastingFailure))
}

// errorCodes are those of RFC 6749, sections 4.1.2.1 and 5.2, RFC 8707, section 2, RFC 8628,
// section 3.5, and our own. Anything else in their place may be any text.
var errorCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client",
	"unsupported_grant_type", "invalid_scope", "access_denied", "unsupported_response_type",
	"server_error", "temporarily_unavailable", "invalid_target", "invalid_response",
	"unsupported_token_type", codePending, codeSlowDown, codeExpired,
}

// errorType is the low-cardinality error.type of a span, also of one that is not about HTTP.
func errorType(err error) string {
	var known errorKind
	switch e := refusedWith(err); {
	case errors.As(err, &known):
		return known.kind
	case e == oauthError{}:
		return networkErrorType(err)
	case e.code == "":
		return strconv.Itoa(e.status)
	case slices.Contains(errorCodes, e.code):
		return e.code
	}
	return "refused"
}

// setGiven leaves a parameter without a value out.
func setGiven(form url.Values, name, value string) {
	if value != "" {
		form.Set(name, value)
	}
}

// machineToken asks for a token by the client credentials grant (OAuth 2.1, section 4.2; MCP, OAuth
// Client Credentials Extension): the client is its own user.
func (o *oauth) machineToken(ctx context.Context, c *credentials) (token, error) {
	form := url.Values{"grant_type": {grantClientCredentials}}
	setGiven(form, "scope", c.scope())
	t, err := o.requestToken(ctx, c, form, maxTokenAttempts)
	t.Refresh = "" // RFC 6749, section 4.4.3: it should not be there, and is not needed
	return t, err
}

// requestToken sends a request to the token endpoint, whatever the grant.
func (o *oauth) requestToken(
	ctx context.Context, c *credentials, form url.Values, attempts int,
) (t token, err error) {
	setGiven(form, "resource", c.Resource) // RFC 8707, section 2: the server that the token is for
	read := func(status int, body []byte) (err error) {
		t, err = parseTokenAnswer(status, body, time.Now(), o.cfg.useIDToken)
		t.Scope = boundedScope(t.Scope, "in the answer of the token endpoint", o.log)
		return err
	}
	err = o.post(ctx, "token endpoint", c.TokenEndpoint, c, form, attempts, read)
	return t, err
}

// post sends a form to an endpoint of the authorization server, with what shows who the client is.
// With several attempts it does so again while the endpoint is out of order, and with the other
// method of client authentication if the first is refused. A request that may have been processed
// is not repeated: it would use a rotated refresh token twice.
func (o *oauth) post(
	ctx context.Context, name, address string, c *credentials, form url.Values, attempts int,
	read func(status int, body []byte) error,
) error {
	var firstRefusal error
	method := c.Client.AuthMethod
	for attempt := 1; ; attempt++ {
		r := authRequest{name: name, address: address, secrets: []string{c.Client.Secret}}
		err := o.authenticate(&r, c, form)
		if err != nil {
			return err
		}
		err = o.discover.send(ctx, r, read)
		refused := refusedWith(err)
		// Not all say invalid_client: Nextcloud's OpenID provider sends a 401 of its own form, and
		// what reads the form alone, as WordPress's OAuth 2 plugin, misses parameters.
		doubtsClient := refused.code == "invalid_client" || refused.code == "invalid_request" ||
			refused.status == http.StatusUnauthorized
		switch {
		case err == nil || attempts == 1:
			return err
		case doubtsClient && firstRefusal == nil && c.Client.Secret != "":
			// Some take only one of the two, whatever their metadata says: Nextcloud's OpenID
			// provider the form, Kanidm the header.
			firstRefusal = err
			if c.Client.AuthMethod = methodPost; method == methodPost {
				c.Client.AuthMethod = methodBasic
			}
			continue
		case firstRefusal != nil && isRejected(err) && refused.code != "invalid_grant":
			c.Client.AuthMethod = method
			return firstRefusal // of the method that the metadata names
		case !refused.outOfOrder() && !notSent(err) || attempt >= attempts:
			return err
		}
		if !sleep(ctx, backoff(attempt)) {
			return ctx.Err()
		}
	}
}

// authenticate gives r the form, with what shows who the client is (RFC 6749, section 2.3.1).
func (o *oauth) authenticate(r *authRequest, c *credentials, form url.Values) error {
	form = maps.Clone(form)
	r.header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	key, id, secret := o.cfg.privateKey, c.Client.ID, c.Client.Secret
	switch method := c.Client.AuthMethod; {
	case method == methodPrivateKey && key == nil:
		return authErrorf("%s authenticates with a private key, which is not kept here: "+
			"add --client-id and --private-key", excerpt(id))
	case method == methodPrivateKey:
		assertion, err := newAssertion(key, c.Client.SigningAlg, id, c.Issuer, time.Now())
		if err != nil {
			return fmt.Errorf("sign with --private-key: %w", err)
		}
		// client_id is not sent: the sub claim says it (MCP, OAuth Client Credentials Extension,
		// "JWT Authentication Example").
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", assertion)
	case secret != "" && method == methodBasic:
		// Both are form-urlencoded before they are joined: a secret may hold a colon.
		pair := url.QueryEscape(id) + ":" + url.QueryEscape(secret)
		basic := base64.StdEncoding.EncodeToString([]byte(pair))
		r.header.Set("Authorization", "Basic "+basic)
		r.secrets = append(r.secrets, basic)
	default:
		form.Set("client_id", id)
		if method != methodNone {
			setGiven(form, "client_secret", secret)
		}
	}
	for _, parameter := range confidential {
		r.secrets = append(r.secrets, form.Get(parameter))
	}
	r.body = []byte(form.Encode())
	return nil
}

// authMethods are those with a secret or nothing, the preferred first: a secret that this machine
// does not hold cannot be stolen from it. Then post: servers of the MCP SDK for Python want
// client_id in the form even beside Basic, and Okta refuses it there.
var authMethods = []string{methodNone, methodPost, methodBasic}

// authMethod chooses how c authenticates at a token endpoint with these
// token_endpoint_auth_methods_supported. An absent list means client_secret_basic (RFC 8414,
// section 2), and so does one without any that we know: RFC 6749, section 2.3.1 obliges every
// server that gives secrets to take it.
func authMethod(c client, supported []string) string {
	switch method := firstOf([]string{methodBasic, methodPost, methodNone}, supported); {
	case c.Secret == "":
		return methodNone
	case c.AuthMethod != "":
		return c.AuthMethod
	case method != "":
		return method
	}
	return methodBasic
}

// firstOf is the first of ours that is one of theirs, "" if none is.
func firstOf(ours, theirs []string) string {
	for _, one := range ours {
		if slices.Contains(theirs, one) {
			return one
		}
	}
	return ""
}

func isVisible(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// confidential are the parameters whose values an answer must not repeat.
var confidential = []string{
	"client_assertion", "client_secret", "code", "code_verifier", "device_code", "refresh_token",
	"token",
}

// hide drops what the server says if it repeats a secret of the request: an error goes to the
// client, to logs and to the user's screen.
func (e *oauthError) hide(secrets []string) {
	if e.description = excerpt(e.description); repeats(e.description, secrets) {
		e.description = ""
	}
	if !slices.Contains(errorCodes, e.code) && repeats(e.code, secrets) {
		e.code = "unspecified error"
	}
}

// repeats reports whether text holds a piece of a secret, plain or as a form has it.
func repeats(text string, secrets []string) bool {
	const leastPiece = 8 // bytes: servers like to print the beginning of a secret
	for _, secret := range secrets {
		for _, s := range []string{secret, url.QueryEscape(secret)} {
			for size, i := min(leastPiece, len(s)), 0; size > 0 && i+size <= len(s); i++ {
				if strings.Contains(text, s[i:i+size]) {
					return true
				}
			}
		}
	}
	return false
}

// readAnswer decodes what an endpoint answers to a request. An error in it counts whatever the
// status: GitHub and Slack send it with 200. A member of another type counts as absent: Twitch
// sends the scopes as a list.
func readAnswer(status int, body []byte, into any) error {
	if !json.Valid(body) {
		// GitHub answers form-encoded whatever Accept says on some of its endpoints. Of what is no
		// form either, nothing has a name that we know.
		form, _ := url.ParseQuery(strings.TrimSpace(string(body)))
		members := map[string]string{}
		for name := range form {
			members[name] = form.Get(name)
		}
		body, _ = json.Marshal(members)
	}
	var refusal struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	_, _ = json.Unmarshal(body, &refusal), json.Unmarshal(body, into)
	if refusal.Error == "" && (status == http.StatusOK || status == http.StatusCreated) {
		return nil
	}
	return &oauthError{
		code: excerpt(refusal.Error), description: refusal.Description, status: status,
	}
}

// tokenAnswer is RFC 6749, section 5.1.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`
	ExpiresIn    any    `json:"expires_in"`
	IDToken      string `json:"id_token"`

	AuthedUser *tokenAnswer `json:"authed_user"` // Slack's place for a user's token
}

// tokenTypes are those that are sent as Bearer. OpenAuth and others leave the type out; Slack calls
// its own user and bot.
var tokenTypes = []string{"bearer", "", "user", "bot"}

// parseTokenAnswer returns the refresh token also of an answer that is of no other use: the one
// before it may be revoked by now.
func parseTokenAnswer(status int, body []byte, now time.Time, useIDToken bool) (token, error) {
	var a tokenAnswer
	if err := readAnswer(status, body, &a); err != nil {
		return token{}, err
	}
	if a.AccessToken == "" && a.AuthedUser != nil {
		a = *a.AuthedUser
	}
	name, sent := "access token", a.AccessToken
	if useIDToken {
		name, sent = "id_token", a.IDToken
	}
	if !isVisible(a.RefreshToken) {
		a.RefreshToken = "" // RFC 6749, appendix A.17: it is none, and JSON might change it
	}
	bad := &oauthError{code: "invalid_response", description: "no usable " + name, unusable: true}
	switch {
	case a.AccessToken == "" && !json.Valid(body): // a page: for maintenance, of a captive portal
		return token{}, &oauthError{status: status}
	case sent == "" || !isVisible(sent):
		return token{Refresh: a.RefreshToken}, bad
	case !slices.Contains(tokenTypes, strings.ToLower(a.TokenType)): // GitHub sends bearer
		// RFC 6749, section 7.1: a token of a type that is not understood must not be used.
		bad.code, bad.description = "unsupported_token_type", a.TokenType
		return token{Refresh: a.RefreshToken}, bad
	}
	now = now.UTC().Round(0) // the monotonic clock stands still while the machine sleeps
	t := token{Access: sent, Refresh: a.RefreshToken, Type: "Bearer", Scope: a.Scope, Obtained: now}
	if life := expiresIn(a.ExpiresIn); life > 0 {
		t.Expiry = now.Add(life)
	}
	return t, nil
}

// expiresIn reads the seconds; 0 means unknown, and then only a 401 tells. PayPal and older Azure
// AD send a string, GitHub nothing.
func expiresIn(v any) time.Duration {
	seconds, err := strconv.ParseFloat(strings.TrimSpace(fmt.Sprint(v)), 64)
	if err != nil || !(seconds > 0) { // NaN is none
		return 0
	}
	return time.Duration(min(seconds, maxTokenLife.Seconds()) * float64(time.Second))
}

// revoke makes the tokens worthless (RFC 7009), the refresh token first: with it the authorization
// server should invalidate all access tokens of the same grant (section 2.1).
func (o *oauth) revoke(ctx context.Context, c *credentials) error {
	read := func(status int, body []byte) error { return readAnswer(status, body, &struct{}{}) }
	for _, t := range [][2]string{
		{"refresh_token", c.Token.Refresh}, {"access_token", c.Token.Access},
	} {
		if c.RevocationEndpoint == "" || t[1] == "" {
			continue
		}
		form := url.Values{"token_type_hint": {t[0]}, "token": {t[1]}}
		err := o.post(ctx, "revocation endpoint", c.RevocationEndpoint, c, form, 1, read)
		// Google answers 400 for the access token that went with its refresh token.
		if err != nil && (t[0] == "refresh_token" || c.Token.Refresh == "") {
			return err
		}
	}
	return nil
}

// algorithmsFor returns those of RFC 7518, section 3.1, and RFC 8037 that a key can sign with, the
// most usual first.
func algorithmsFor(key crypto.Signer) []string {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		byCurve := map[string][]string{"P-256": {"ES256"}, "P-384": {"ES384"}, "P-521": {"ES512"}}
		return byCurve[key.Params().Name]
	case *rsa.PrivateKey:
		if key.N.BitLen() >= minRSABits {
			return []string{"RS256", "PS256", "RS384", "PS384", "RS512", "PS512"}
		}
	case ed25519.PrivateKey:
		return []string{"EdDSA", "Ed25519"} // the second of RFC 9864
	}
	return nil
}

// parsePrivateKey takes the first private key of a PEM text. Its errors follow on the name of the
// file.
func parsePrivateKey(text []byte) (_ crypto.Signer, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, withHint(errors.New("is encrypted"),
				"openssl pkey -in FILE -out PLAIN, and keep that file to yourself")
		default:
			continue // a certificate, the parameters of a curve
		}
		signer, ok := key.(crypto.Signer)
		if err == nil && ok && algorithmsFor(signer) != nil {
			return signer, nil
		}
		return nil, withHint(errors.New("holds no key that signs assertions"), "an RSA key of %d "+
			"bits or more, an EC key on P-256, P-384 or P-521, or an Ed25519 key", minRSABits)
	}
	return nil, withHint(errors.New("holds no private key in PEM"),
		"it begins with -----BEGIN PRIVATE KEY-----")
}

// chooseAlgorithm takes the first that the authorization server lists in
// token_endpoint_auth_signing_alg_values_supported; any if there is no list.
func chooseAlgorithm(key crypto.Signer, supported []string) (string, error) {
	ours := algorithmsFor(key)
	if len(supported) == 0 {
		return ours[0], nil
	}
	if algorithm := firstOf(ours, supported); algorithm != "" {
		return algorithm, nil
	}
	err := authErrorf("the authorization server takes assertions signed with %s, and the key of "+
		"--private-key makes %s", excerpt(strings.Join(supported, ", ")), strings.Join(ours, ", "))
	return "", withHint(err, "register a key of another kind there")
}

// newAssertion is RFC 7523, section 3. The audience is the issuer and nothing else: an assertion
// made for a token endpoint could be used at another server that names the same endpoint
// (draft-ietf-oauth-rfc7523bis, section 4).
func newAssertion(
	key crypto.Signer, algorithm, clientID, issuer string, now time.Time,
) (string, error) {
	if !slices.Contains(algorithmsFor(key), algorithm) {
		return "", fmt.Errorf("the key makes no %s", excerpt(algorithm))
	}
	encode := base64.RawURLEncoding.EncodeToString
	header, _ := json.Marshal(map[string]string{"alg": algorithm, "typ": "JWT"})
	claims, _ := json.Marshal(map[string]any{
		"iss": clientID, "sub": clientID, "aud": issuer, "jti": newState(),
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	input := encode(header) + "." + encode(claims)
	known := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	digest, hash := []byte(input), known[algorithm[2:]]
	if hash != 0 { // Ed25519 signs the text itself
		h := hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		// RFC 7518, section 3.4: two numbers of the curve's size.
		r, s, err := ecdsa.Sign(rand.Reader, ec, digest)
		if err != nil {
			return "", err
		}
		pair := make([]byte, (ec.Params().BitSize+7)/8*2)
		r.FillBytes(pair[:len(pair)/2])
		s.FillBytes(pair[len(pair)/2:])
		return input + "." + encode(pair), nil
	}
	options := crypto.SignerOpts(hash)
	if strings.HasPrefix(algorithm, "PS") {
		// RFC 7518, section 3.5: the salt is as long as the hash.
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	signature, err := key.Sign(rand.Reader, digest, options)
	return input + "." + encode(signature), err
}
