package main

// The token endpoint: one request whatever the grant, how the client shows who
// it is, what an answer and a refusal mean. It does not know what a token is
// for, nor when one is needed.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	tokenTimeout     = 30 * time.Second // for one request to the token endpoint
	maxTokenAnswer   = 1 << 20          // bytes
	maxTokenAttempts = 3                // while the token endpoint is out of order
	maxTokenLife     = 10 * 365 * 24 * time.Hour
	grantRefresh     = "refresh_token"
	grantCode        = "authorization_code"
	methodBasic      = "client_secret_basic"
	methodPost       = "client_secret_post"
	methodNone       = "none"
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
	Code        string // RFC 6749, section 5.2; "" when the answer was none of it
	Description string
	Status      int
	Host        string
	unusable    bool // a success, but no token that we can use
}

func (e *tokenError) Error() string {
	text := e.Endpoint + " of " + e.Host
	if e.Code == "" && e.Status < 300 {
		return text + ": the answer is no token"
	}
	if e.Code == "" {
		return fmt.Sprintf("%s: status %d", text, e.Status)
	}
	text += ": " + e.Code
	if e.Description != "" {
		text += " (" + e.Description + ")"
	}
	return text
}

// outOfOrder: the server's trouble, not the token's.
func (e *tokenError) outOfOrder() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Code == "temporarily_unavailable" || e.Code == "server_error"
}

// isRejected tells whether err is the authorization server's word that this
// grant or client is no good: only then may a token be given up. Where the
// words are not those of RFC 6749, section 5.2, its statuses say it: with
// nothing taken for a refusal no start would ever lead to a sign-in.
func isRejected(err error) bool {
	var e *tokenError
	if !errors.As(err, &e) || e.outOfOrder() || e.unusable {
		return false
	}
	return e.Code != "" || e.Status == http.StatusBadRequest || e.Status == http.StatusUnauthorized
}

// aboutClient tells whether the server may not have understood who the client
// is. Not all say so with invalid_client: Nextcloud's OpenID provider sends a
// 401 of its own form, and who reads the form alone, as WordPress's OAuth 2
// plugin, misses parameters.
func (e *tokenError) aboutClient() bool {
	return e.Code == "invalid_client" || e.Code == "invalid_request" || e.Status == http.StatusUnauthorized
}

// errorCode is what an endpoint of the authorization server calls its refusal; "" for any other error.
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

// isUnknownClient: the registration is gone at the server.
func isUnknownClient(err error) bool {
	code := errorCode(err)
	return code == "invalid_client" || code == "unauthorized_client"
}

// errorCodes are those of RFC 6749, sections 4.1.2.1 and 5.2, RFC 8707, section
// 2, RFC 8628, section 3.5, and our own. What else stands in their place may be anything.
var errorCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"access_denied", "unsupported_response_type", "server_error", "temporarily_unavailable", "invalid_target",
	"invalid_response", "unsupported_token_type",
	codePending, codeSlowDown, codeExpired,
}

func errorType(err error) string {
	var e *tokenError
	switch {
	case !errors.As(err, &e):
		return networkErrorType(err)
	case slices.Contains(errorCodes, e.Code):
		return e.Code
	case e.Code != "":
		return "refused"
	}
	return strconv.Itoa(e.Status)
}

// tokenWithRetry asks again while the endpoint is out of order, and in the
// other way of client authentication where the first is refused. A request
// that may have been processed is not repeated: it would use a rotated refresh
// token twice.
func (o *oauth) tokenWithRetry(ctx context.Context, c *credentials, form url.Values) (token, error) {
	var t token
	err := o.withRetry(ctx, c, func() (err error) {
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
			// Servers that accept only one of the two, whatever their metadata name:
			// Nextcloud's OpenID provider the form, Kanidm the header.
			firstRefusal = err
			c.Client.AuthMethod = otherMethod(c.Client.AuthMethod)
			continue
		case firstRefusal != nil && isAnswer && !refused.outOfOrder() && refused.Code != "invalid_grant":
			c.Client.AuthMethod = method
			return firstRefusal // the way that the metadata named: its reason is the one to mend
		case !(isAnswer && refused.outOfOrder() || notSent(err)) || attempt >= maxTokenAttempts:
			return err
		}
		if !sleep(ctx, backoff(attempt)) {
			return ctx.Err()
		}
	}
}

func otherMethod(method string) string {
	if method == methodPost {
		return methodBasic
	}
	return methodPost
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

// endpointAnswer is what an endpoint of the authorization server says to a form.
type endpointAnswer struct {
	endpoint, host string
	secrets        []string // what it was told in confidence
	status         int
	body           []byte
}

// confidential are the parameters whose values an answer must not repeat.
var confidential = []string{"client_assertion", "client_secret", "code", "code_verifier", "device_code", "refresh_token", "token"}

// postForm sends a form, and with it what shows who the client is.
func (o *oauth) postForm(ctx context.Context, name, address string, c *credentials, form url.Values) (*endpointAnswer, error) {
	endpoint, err := checkEndpoint(address, o.cfg.acceptsHTTP())
	if err != nil {
		return nil, fmt.Errorf("%s %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	body, basic, err := o.authenticated(c, form)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.String(), strings.NewReader(body.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent())
	if basic != "" {
		req.Header.Set("Authorization", basic)
	}
	// A redirected request would show the secrets in it to another address.
	noRedirect := *o.http
	noRedirect.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := noRedirect.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, networkFailure(endpoint.Host, err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err == nil {
		err = ctx.Err() // hung up at the bound, a body may look complete
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, networkFailure(endpoint.Host, err))
	}
	secrets := []string{c.Client.Secret, strings.TrimPrefix(basic, "Basic ")}
	for _, parameter := range confidential {
		secrets = append(secrets, body.Get(parameter))
	}
	return &endpointAnswer{name, endpoint.Host, secrets, resp.StatusCode, answer}, nil
}

// explain says in a refusal where it comes from.
func (a *endpointAnswer) explain(err error) error {
	var refused *tokenError
	if errors.As(err, &refused) {
		refused.Endpoint, refused.Host = a.endpoint, excerpt(a.host)
		refused.hide(a.secrets...)
	}
	return err
}

func (o *oauth) authenticated(c *credentials, form url.Values) (body url.Values, basic string, err error) {
	if c.Client.AuthMethod == methodPrivateKey {
		body, err = o.asserted(c, form)
		return body, "", err
	}
	body, basic = authenticate(c.Client, form)
	return body, basic, nil
}

// authenticate adds what shows who the client is (RFC 6749, section 2.3.1).
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

// hide drops what the server says where it repeats what it was told in
// confidence: an error goes to the client, to logs and to the user's screen.
func (e *tokenError) hide(secrets ...string) {
	e.Description = excerpt(e.Description)
	if repeats(e.Description, secrets) {
		e.Description = ""
	}
	if !slices.Contains(errorCodes, e.Code) && repeats(e.Code, secrets) {
		e.Code = "unspecified error"
	}
}

// leastPiece is how much of a secret tells something; servers like to print its beginning.
const leastPiece = 8 // bytes

// repeats tells whether text holds a piece of a secret, plain or as a form has it.
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

// tokenTypes are those that are sent as Bearer. OpenAuth and others leave it
// out; Slack calls its own user and bot.
var tokenTypes = []string{"bearer", "", "user", "bot"}

// parseTokenAnswer returns the refresh token also of an answer that is of no
// other use: the one before it may be worth nothing by now.
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
		a.RefreshToken = "" // RFC 6749, appendix A.17: it is none, and a file of JSON might keep another
	}
	unusable := func(code, description string) (token, error) {
		return token{Refresh: a.RefreshToken}, &tokenError{Code: code, Description: description, Status: status, unusable: true}
	}
	switch {
	case a.Error != "":
		// GitHub and Slack send errors with status 200.
		return token{}, &tokenError{Code: excerpt(a.Error), Description: a.ErrorDescription, Status: status}
	case status != http.StatusOK && status != http.StatusCreated:
		return token{}, &tokenError{Status: status}
	case sent == "" || !isVisible(sent):
		return unusable("invalid_response", "no usable "+name)
	case !slices.Contains(tokenTypes, strings.ToLower(a.TokenType)): // GitHub sends bearer
		// RFC 6749, section 7.1: a token of a type that is not understood must not be used.
		return unusable("unsupported_token_type", excerpt(a.TokenType))
	}
	// The monotonic clock stands still while the machine sleeps, and tokens grow old.
	now = now.Round(0)
	t := token{Access: sent, Refresh: a.RefreshToken, Type: "Bearer", Scope: a.Scope, Obtained: now}
	if life := expiresIn(a.ExpiresIn); life > 0 {
		t.Expiry = now.Add(life)
	}
	return t, nil
}

// readTokenAnswer is false for what no token endpoint says.
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
		AccessToken: form.Get("access_token"), TokenType: form.Get("token_type"), RefreshToken: form.Get("refresh_token"),
		Scope: form.Get("scope"), IDToken: form.Get("id_token"), ExpiresIn: form.Get("expires_in"), Error: form.Get("error"), ErrorDescription: form.Get("error_description"),
	}, true
}

// expiresIn reads the seconds; 0 means unknown, and then only a 401 tells. At
// least PayPal and older Azure AD send a string, GitHub nothing.
func expiresIn(v any) time.Duration {
	seconds, ok := v.(float64)
	if s, isString := v.(string); isString {
		var err error
		seconds, err = strconv.ParseFloat(strings.TrimSpace(s), 64)
		ok = err == nil
	}
	if !ok || !(seconds > 0) {
		return 0
	}
	if seconds > maxTokenLife.Seconds() {
		return maxTokenLife
	}
	return time.Duration(seconds * float64(time.Second))
}
