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
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	tokenTimeout     = 30 * time.Second // for one request to the token endpoint
	maxTokenAttempts = 3                // while the token endpoint is out of order
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

// addResource names the server that the token is for (RFC 8707, section 2).
func addResource(form url.Values, resource string) {
	if resource != "" {
		form.Set("resource", resource)
	}
}

// tokenError is an answer of an endpoint that is an error.
type tokenError struct {
	Endpoint    string
	Code        string // RFC 6749, section 5.2; "" if the answer had none
	Description string
	Status      int
	Host        string
	unusable    bool // a success, but no token that we can use
}

func (e *tokenError) Error() string {
	text := e.Endpoint + " of " + e.Host
	switch {
	case e.Code == "" && e.Status < 300:
		return text + ": the answer is no token"
	case e.Code == "":
		return fmt.Sprintf("%s: status %d", text, e.Status)
	case e.Description == "":
		return text + ": " + e.Code
	}
	return text + ": " + e.Code + " (" + e.Description + ")"
}

// outOfOrder reports whether it is about the server and not about the token.
func (e *tokenError) outOfOrder() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests ||
		e.Code == "temporarily_unavailable" || e.Code == "server_error"
}

// isRejected reports whether the authorization server refuses this grant or client: only then may a
// token be given up. Without an error code of RFC 6749, section 5.2, the status decides: else no
// start would ever lead to a sign-in.
func isRejected(err error) bool {
	var e *tokenError
	if !errors.As(err, &e) || e.outOfOrder() || e.unusable {
		return false
	}
	return e.Code != "" || e.Status == http.StatusBadRequest || e.Status == http.StatusUnauthorized
}

// aboutClient reports whether the server may not have understood who the client is. Not all say
// invalid_client: Nextcloud's OpenID provider sends a 401 of its own form, and servers that read
// the form alone, as WordPress's OAuth 2 plugin, miss parameters.
func (e *tokenError) aboutClient() bool {
	return e.Code == "invalid_client" || e.Code == "invalid_request" ||
		e.Status == http.StatusUnauthorized
}

// errorCode is the code of a refusal by an endpoint of the authorization server; "" for any other
// error.
func errorCode(err error) string {
	var atToken *tokenError
	var atAuthorize *responseError
	switch {
	case errors.As(err, &atToken):
		return atToken.Code
	case errors.As(err, &atAuthorize):
		return atAuthorize.code
	}
	return ""
}

// isUnknownClient reports whether the server has lost the registration.
func isUnknownClient(err error) bool {
	code := errorCode(err)
	return code == "invalid_client" || code == "unauthorized_client"
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
	var e *tokenError
	var answer *responseError
	var code string
	switch {
	case errors.As(err, &known):
		return known.kind
	case errors.As(err, &answer):
		code = answer.code
	case !errors.As(err, &e):
		return networkErrorType(err)
	case e.Code == "":
		return strconv.Itoa(e.Status)
	default:
		code = e.Code
	}
	if slices.Contains(errorCodes, code) {
		return code
	}
	return "refused"
}

// machineToken asks for a token by the client credentials grant (OAuth 2.1, section 4.2; MCP, OAuth
// Client Credentials Extension): the client is its own user.
func (o *oauth) machineToken(ctx context.Context, c *credentials) (token, error) {
	form := url.Values{"grant_type": {grantClientCredentials}}
	addResource(form, c.Resource)
	addScope(form, c.scope())
	t, err := o.tokenWithRetry(ctx, c, form)
	t.Refresh = "" // RFC 6749, section 4.4.3: it should not be there, and is not needed
	if err == nil && t.Scope == "" {
		t.Scope = c.scope()
	}
	return t, err
}

func addScope(form url.Values, scope string) {
	if scope != "" {
		form.Set("scope", scope)
	}
}

// tokenWithRetry asks again while the endpoint is out of order, and with the other method of client
// authentication if the first is refused. A request that may have been processed is not repeated:
// it would use a rotated refresh token twice.
func (o *oauth) tokenWithRetry(
	ctx context.Context, c *credentials, form url.Values,
) (t token, err error) {
	err = o.withRetry(ctx, c, func() (err error) {
		t, err = o.requestToken(ctx, c, form)
		return err
	})
	return t, err
}

func (o *oauth) withRetry(ctx context.Context, c *credentials, request func() error) error {
	var firstRefusal error
	method := c.Client.AuthMethod
	for attempt := 1; ; attempt++ {
		err := request()
		var refused *tokenError
		isAnswer := errors.As(err, &refused)
		switch {
		case err == nil:
			return nil
		case isAnswer && refused.aboutClient() && firstRefusal == nil && c.Client.Secret != "":
			// Servers that accept only one of the two, whatever their metadata says: Nextcloud's
			// OpenID provider the form, Kanidm the header.
			firstRefusal = err
			if c.Client.AuthMethod = methodPost; method == methodPost {
				c.Client.AuthMethod = methodBasic
			}
			continue
		case firstRefusal != nil && isAnswer && !refused.outOfOrder() &&
			refused.Code != "invalid_grant":
			c.Client.AuthMethod = method
			return firstRefusal // of the method that the metadata names
		case !(isAnswer && refused.outOfOrder() || notSent(err)) || attempt >= maxTokenAttempts:
			return err
		}
		if !sleep(ctx, backoff(attempt)) {
			return ctx.Err()
		}
	}
}

// requestToken sends one request to the token endpoint, whatever the grant.
func (o *oauth) requestToken(ctx context.Context, c *credentials, form url.Values) (token, error) {
	a, err := o.postForm(ctx, "token endpoint", c.TokenEndpoint, c, form)
	if err != nil {
		return token{}, err
	}
	t, err := parseTokenAnswer(a.status, a.body, time.Now(), o.cfg.useIDToken)
	t.Scope = boundedScope(t.Scope, "in the answer of the token endpoint", o.log)
	return t, a.explain(err)
}

// endpointAnswer is the answer of an endpoint of the authorization server to a form.
type endpointAnswer struct {
	endpoint, host string
	secrets        []string // in the request
	status         int
	body           []byte
}

// confidential are the parameters whose values an answer must not repeat.
var confidential = []string{
	"client_assertion", "client_secret", "code", "code_verifier", "device_code", "refresh_token",
	"token",
}

// postForm sends a form with what authenticates the client.
func (o *oauth) postForm(
	ctx context.Context, name, address string, c *credentials, form url.Values,
) (*endpointAnswer, error) {
	endpoint, err := checkEndpoint(address, o.cfg.acceptsHTTP())
	if err != nil {
		return nil, fmt.Errorf("%s %w", name, err)
	}
	body, basic, err := o.authenticated(c, form)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, endpoint.String(), strings.NewReader(body.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent())
	if basic != "" {
		req.Header.Set("Authorization", basic)
	}
	status, answer, err := boundedRequest(ctx, o.http, req, tokenTimeout, noRedirect)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	secrets := []string{c.Client.Secret, strings.TrimPrefix(basic, "Basic ")}
	for _, parameter := range confidential {
		secrets = append(secrets, body.Get(parameter))
	}
	return &endpointAnswer{name, endpoint.Host, secrets, status, answer}, nil
}

// explain says in a refusal where it comes from.
func (a *endpointAnswer) explain(err error) error {
	var refused *tokenError
	if errors.As(err, &refused) {
		refused.Endpoint, refused.Host = a.endpoint, excerpt(a.host)
		refused.hide(a.secrets)
	}
	return err
}

// authenticated adds to a form what authenticates the client.
func (o *oauth) authenticated(
	c *credentials, form url.Values,
) (body url.Values, basic string, err error) {
	if c.Client.AuthMethod != methodPrivateKey {
		body, basic = authenticate(c.Client, form)
		return body, basic, nil
	}
	if o.cfg.privateKey == nil {
		return nil, "", authErrorf("%s authenticates with a private key, which is not kept here: "+
			"add --client-id and --private-key", excerpt(c.Client.ID))
	}
	assertion, err := newAssertion(
		o.cfg.privateKey, c.Client.SigningAlg, c.Client.ID, c.Issuer, time.Now())
	if err != nil {
		return nil, "", fmt.Errorf("sign with --private-key: %w", err)
	}
	// client_id is not sent: the sub claim says it (MCP, OAuth Client Credentials Extension, "JWT
	// Authentication Example").
	body = url.Values{"client_assertion_type": {assertionType}, "client_assertion": {assertion}}
	for name, values := range form {
		body[name] = values
	}
	return body, "", nil
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
	switch {
	case c.Secret == "":
		return methodNone
	case c.AuthMethod != "":
		return c.AuthMethod
	}
	for _, method := range []string{methodBasic, methodPost, methodNone} {
		if slices.Contains(supported, method) {
			return method
		}
	}
	return methodBasic
}

func isVisible(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// authenticate adds the client's id and secret (RFC 6749, section 2.3.1).
func authenticate(c client, form url.Values) (body url.Values, basic string) {
	body = url.Values{}
	for name, values := range form {
		body[name] = values
	}
	switch {
	case c.Secret != "" && c.AuthMethod == methodBasic:
		// Both are form-urlencoded before they are joined: a secret may hold a colon.
		pair := url.QueryEscape(c.ID) + ":" + url.QueryEscape(c.Secret)
		return body, "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
	case c.Secret != "" && c.AuthMethod != methodNone:
		body.Set("client_secret", c.Secret)
	}
	body.Set("client_id", c.ID)
	return body, ""
}

// hide drops what the server says if it repeats a secret of the request: an error goes to the
// client, to logs and to the user's screen.
func (e *tokenError) hide(secrets []string) {
	e.Description = excerpt(e.Description)
	if repeats(e.Description, secrets) {
		e.Description = ""
	}
	if !slices.Contains(errorCodes, e.Code) && repeats(e.Code, secrets) {
		e.Code = "unspecified error"
	}
}

// leastPiece is the shortest piece of a secret that is hidden; servers like to print its beginning.
const leastPiece = 8 // bytes

// repeats reports whether text holds a piece of a secret, plain or as a form has it.
func repeats(text string, secrets []string) bool {
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

// tokenAnswer is RFC 6749, sections 5.1 and 5.2.
type tokenAnswer struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"`
	RefreshToken     string `json:"refresh_token"`
	Scope            string `json:"scope"`
	ExpiresIn        any    `json:"expires_in"`
	IDToken          string `json:"id_token"`
	Error            string `json:"error"`
	ErrorDescription string `json:"error_description"`

	AuthedUser *tokenAnswer `json:"authed_user"` // Slack's place for a user's token
}

// tokenTypes are those that are sent as Bearer. OpenAuth and others leave the type out; Slack calls
// its own user and bot.
var tokenTypes = []string{"bearer", "", "user", "bot"}

// parseTokenAnswer returns the refresh token also of an answer that is of no other use: the one
// before it may be revoked by now.
func parseTokenAnswer(status int, body []byte, now time.Time, useIDToken bool) (token, error) {
	a, ok := readTokenAnswer(body)
	if !ok {
		return token{}, &tokenError{Status: status}
	}
	if a.AccessToken == "" && a.AuthedUser != nil && a.Error == "" {
		a = *a.AuthedUser
	}
	name, sent := "access token", a.AccessToken
	if useIDToken {
		name, sent = "id_token", a.IDToken
	}
	if !isVisible(a.RefreshToken) {
		a.RefreshToken = "" // RFC 6749, appendix A.17: it is none, and JSON might change it
	}
	unusable := func(code, why string) (token, error) {
		return token{Refresh: a.RefreshToken},
			&tokenError{Code: code, Description: why, Status: status, unusable: true}
	}
	switch {
	case a.Error != "":
		// GitHub and Slack send errors with status 200.
		return token{}, &tokenError{
			Code: excerpt(a.Error), Description: a.ErrorDescription, Status: status,
		}
	case status != http.StatusOK && status != http.StatusCreated:
		return token{}, &tokenError{Status: status}
	case sent == "" || !isVisible(sent):
		return unusable("invalid_response", "no usable "+name)
	case !slices.Contains(tokenTypes, strings.ToLower(a.TokenType)): // GitHub sends bearer
		// RFC 6749, section 7.1: a token of a type that is not understood must not be used.
		return unusable("unsupported_token_type", excerpt(a.TokenType))
	}
	now = now.Round(0) // the monotonic clock stands still while the machine sleeps
	t := token{Access: sent, Refresh: a.RefreshToken, Type: "Bearer", Scope: a.Scope, Obtained: now}
	if life := expiresIn(a.ExpiresIn); life > 0 {
		t.Expiry = now.Add(life)
	}
	return t, nil
}

// readTokenAnswer returns false for what no token endpoint says.
func readTokenAnswer(body []byte) (a tokenAnswer, ok bool) {
	// A member of another type counts as absent: Twitch sends the scopes as a list.
	err := json.Unmarshal(body, &a)
	if err == nil || errors.As(err, new(*json.UnmarshalTypeError)) {
		return a, true
	}
	// GitHub answers form-encoded whatever Accept says on some of its endpoints.
	form, err := url.ParseQuery(strings.TrimSpace(string(body)))
	if err != nil || form.Get("access_token") == "" && form.Get("error") == "" {
		return tokenAnswer{}, false
	}
	return tokenAnswer{
		AccessToken: form.Get("access_token"), TokenType: form.Get("token_type"),
		RefreshToken: form.Get("refresh_token"), Scope: form.Get("scope"),
		ExpiresIn: form.Get("expires_in"), IDToken: form.Get("id_token"),
		Error: form.Get("error"), ErrorDescription: form.Get("error_description"),
	}, true
}

// expiresIn reads the seconds; 0 means unknown, and then only a 401 tells. PayPal and older Azure
// AD send a string, GitHub nothing.
func expiresIn(v any) time.Duration {
	seconds, ok := v.(float64)
	if s, isString := v.(string); isString {
		var err error
		seconds, err = strconv.ParseFloat(strings.TrimSpace(s), 64)
		ok = err == nil
	}
	switch {
	case !ok || !(seconds > 0): // NaN is none
		return 0
	case seconds > maxTokenLife.Seconds():
		return maxTokenLife
	}
	return time.Duration(seconds * float64(time.Second))
}

// signingAlgorithm is one of RFC 7518, section 3.1, or of RFC 8037.
type signingAlgorithm struct {
	name string
	hash crypto.Hash
	pss  bool
}

var rsaAlgorithms = []signingAlgorithm{
	{"RS256", crypto.SHA256, false}, {"PS256", crypto.SHA256, true},
	{"RS384", crypto.SHA384, false}, {"PS384", crypto.SHA384, true},
	{"RS512", crypto.SHA512, false}, {"PS512", crypto.SHA512, true},
}

// algorithmsFor returns those that a key can sign with, the most usual first.
func algorithmsFor(key crypto.Signer) []signingAlgorithm {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return []signingAlgorithm{{"ES256", crypto.SHA256, false}}
		case 384:
			return []signingAlgorithm{{"ES384", crypto.SHA384, false}}
		case 521:
			return []signingAlgorithm{{"ES512", crypto.SHA512, false}}
		}
	case *rsa.PrivateKey:
		if key.N.BitLen() >= minRSABits {
			return rsaAlgorithms
		}
	case ed25519.PrivateKey:
		return []signingAlgorithm{{"EdDSA", 0, false}, {"Ed25519", 0, false}} // RFC 8037, RFC 9864
	}
	return nil
}

// parsePrivateKey takes the first private key of a PEM text. Its errors follow on the name of the
// file.
func parsePrivateKey(text []byte) (crypto.Signer, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, withHint(errors.New("holds no private key in PEM"),
				"it begins with -----BEGIN PRIVATE KEY-----")
		}
		text = rest
		var key any
		var err error
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
		if err != nil || !ok || algorithmsFor(signer) == nil {
			return nil, withHint(errors.New("holds no key that signs assertions"),
				"an RSA key of %d bits or more, an EC key on P-256, P-384 or P-521, or an Ed25519 key",
				minRSABits)
		}
		return signer, nil
	}
}

// chooseAlgorithm takes the first that the authorization server lists in
// token_endpoint_auth_signing_alg_values_supported; any if there is no list.
func chooseAlgorithm(key crypto.Signer, supported []string) (string, error) {
	var names []string
	for _, a := range algorithmsFor(key) {
		if len(supported) == 0 || slices.Contains(supported, a.name) {
			return a.name, nil
		}
		names = append(names, a.name)
	}
	err := authErrorf("the authorization server takes assertions signed with %s, and the key of "+
		"--private-key makes %s", excerpt(strings.Join(supported, ", ")), strings.Join(names, ", "))
	return "", withHint(err, "register a key of another kind there")
}

// newAssertion is RFC 7523, section 3. The audience is the issuer and nothing else: an assertion
// made for a token endpoint could be used at another server that names the same endpoint
// (draft-ietf-oauth-rfc7523bis, section 4).
func newAssertion(
	key crypto.Signer, algorithm, clientID, issuer string, now time.Time,
) (string, error) {
	known := algorithmsFor(key)
	i := slices.IndexFunc(known, func(a signingAlgorithm) bool { return a.name == algorithm })
	if i < 0 {
		return "", fmt.Errorf("the key makes no %s", excerpt(algorithm))
	}
	header, err := json.Marshal(map[string]string{"alg": algorithm, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": clientID, "sub": clientID, "aud": issuer, "jti": newState(),
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	encoding := base64.RawURLEncoding
	input := encoding.EncodeToString(header) + "." + encoding.EncodeToString(claims)
	signature, err := sign(key, known[i], []byte(input))
	return input + "." + encoding.EncodeToString(signature), err
}

func sign(key crypto.Signer, a signingAlgorithm, input []byte) ([]byte, error) {
	digest := input // Ed25519 signs the text itself
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(input)
		digest = h.Sum(nil)
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			return nil, err
		}
		// RFC 7518, section 3.4: two numbers of the curve's size, not ASN.1.
		size := (key.Curve.Params().BitSize + 7) / 8
		signature := make([]byte, 2*size)
		r.FillBytes(signature[:size])
		s.FillBytes(signature[size:])
		return signature, nil
	case *rsa.PrivateKey:
		if a.pss { // RFC 7518, section 3.5: the salt is as long as the hash
			return rsa.SignPSS(rand.Reader, key, a.hash, digest,
				&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
	}
	return key.Sign(rand.Reader, digest, a.hash)
}

// revoke makes the tokens worthless (RFC 7009), the refresh token first: "If the particular token
// is a refresh token and the authorization server supports the revocation of access tokens, then
// the authorization server SHOULD also invalidate all access tokens based on the same authorization
// grant" (section 2.1).
func (o *oauth) revoke(ctx context.Context, c *credentials) error {
	if c.RevocationEndpoint == "" {
		return nil
	}
	if c.Token.Refresh != "" {
		if err := o.revokeOne(ctx, c, c.Token.Refresh, "refresh_token"); err != nil {
			return err
		}
	}
	if c.Token.Access == "" {
		return nil
	}
	err := o.revokeOne(ctx, c, c.Token.Access, "access_token")
	if err != nil && c.Token.Refresh != "" {
		// Google answers 400 for the access token that went with its refresh token.
		o.log.debugf("%v", err)
		return nil
	}
	return err
}

func (o *oauth) revokeOne(ctx context.Context, c *credentials, value, hint string) error {
	form := url.Values{"token": {value}, "token_type_hint": {hint}}
	a, err := o.postForm(ctx, "revocation endpoint", c.RevocationEndpoint, c, form)
	if err != nil || a.status == http.StatusOK {
		return err
	}
	refused, _ := readTokenAnswer(a.body)
	return a.explain(&tokenError{
		Code: excerpt(refused.Error), Description: refused.ErrorDescription, Status: a.status,
	})
}
