package main

// Fuzz targets for what strangers say during authorization: whatever bytes
// they send, what is taken is what was meant, and what gets out of it (a
// header, a form, an error, a page) is whole, clean and holds no secret.

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// checkSaid wants a text fit for a line on a screen: printable, and not longer than what is quoted of a server.
func checkSaid(t *testing.T, text string, quotes int) {
	t.Helper()
	if !utf8.ValidString(text) || strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		t.Fatalf("%q is not fit to be printed", text)
	}
	if limit := 300 + quotes*(maxExcerpt+len("…")); len(text) > limit {
		t.Fatalf("%q is longer than %d bytes", text, limit)
	}
}

// visible is VSCHAR of RFC 6749, appendix A.
var visible = regexp.MustCompile(`^[ -~]*$`)

// fuzzSecret is what a server is told in confidence.
const fuzzSecret = "SENTINEL+secret/%7e"

func checkKept(t *testing.T, text string) {
	t.Helper()
	for _, secret := range []string{fuzzSecret, url.QueryEscape(fuzzSecret)} {
		for i := 0; i+8 <= len(secret); i++ {
			if strings.Contains(text, secret[i:i+8]) {
				t.Fatalf("%q repeats the secret", text)
			}
		}
	}
}

// anyTokenAnswer is a token answer, or the refusal of one.
type anyTokenAnswer struct {
	tokenAnswer
	Error, ErrorDescription string
}

// referenceTokenAnswer reads the members of a token answer one by one; false if it is no JSON.
func referenceTokenAnswer(body []byte) (a anyTokenAnswer, ok bool) {
	if !json.Valid(body) {
		return a, false
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	if open, _ := dec.Token(); open != json.Delim('{') {
		return a, true
	}
	fields := map[string]*string{
		"access_token": &a.AccessToken, "token_type": &a.TokenType, "refresh_token": &a.RefreshToken,
		"scope": &a.Scope, "error": &a.Error, "error_description": &a.ErrorDescription,
	}
	for dec.More() {
		var value any
		name, _ := dec.Token()
		_ = dec.Decode(&value) // it may be a number of no double
		switch {
		case strings.EqualFold(name.(string), "expires_in"):
			a.ExpiresIn = value
		case strings.EqualFold(name.(string), "authed_user"):
			a.AuthedUser = &a.tokenAnswer
		}
		for field, into := range fields {
			if text, isString := value.(string); isString && strings.EqualFold(name.(string), field) {
				*into = text
			}
		}
	}
	return a, true
}

// asForm is the same answer in the other form.
func (a anyTokenAnswer) asForm() string {
	form := url.Values{"access_token": {a.AccessToken}, "token_type": {a.TokenType}, "refresh_token": {a.RefreshToken},
		"scope": {a.Scope}, "error": {a.Error}, "error_description": {a.ErrorDescription}}
	switch life := a.ExpiresIn.(type) {
	case float64:
		form.Set("expires_in", strconv.FormatFloat(life, 'g', -1, 64))
	case string:
		form.Set("expires_in", life)
	}
	return form.Encode()
}

func FuzzTokenAnswer(f *testing.F) {
	for _, body := range []string{
		`{"access_token":"a","token_type":"bearer","refresh_token":"r","scope":"a b","expires_in":3600}`,
		`{"access_token":"a","token_type":"Bearer","scope":["a","b"],"expires_in":"3600"}`,
		`{"access_token":"a\r\nEvil: 1","token_type":"Bearer"}`, `{"access_token":"a","token_type":"mac"}`, `{"access_token":"a"}`, `{"authed_user":{"access_token":"a","token_type":"user"}}`,
		`{"access_token":"a","ACCESS_TOKEN":"b","token_type":"Bearer","expires_in":1e400}`,
		`{"error":"invalid_grant","error_description":"SENTINEL+secret/%7e is gone"}`, `{"error":"SENTINEL%2Bsecret"}`,
		`{"access_token":"a","token_type":"` + fuzzSecret + `"}`, `{"error":"\u001b[31mno"}`, `{}`, `null`, `[]`, `"a"`,
		`access_token=a&token_type=bearer&expires_in=28800&scope=`, `error=bad_verification_code&error_description=The+code+passed+is+incorrect.`,
		`access_token=%0d%0a&token_type=bearer`, `access_token=a&refresh_token=%ff&token_type=bearer`, `<html>`,
	} {
		f.Add(200, []byte(body))
		f.Add(400, []byte(body))
	}
	f.Add(503, []byte(`{"access_token":"a","token_type":"Bearer"}`))
	now := time.Date(2026, 7, 28, 10, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		got, err := parseTokenAnswer(status, body, now, false)
		if a, ok := referenceTokenAnswer(body); ok && a.AuthedUser == nil {
			usable := (status == 200 || status == 201) && a.Error == "" && a.AccessToken != "" && visible.MatchString(a.AccessToken) && slices.Contains(tokenTypes, strings.ToLower(a.TokenType))
			if usable != (err == nil) || err == nil && (got.Access != a.AccessToken || got.Scope != a.Scope) {
				t.Fatalf("%d %q: got %+v, %v, want %+v", status, body, got, err, a)
			}
			if again, errAgain := parseTokenAnswer(status, []byte(a.asForm()), now, false); a.AccessToken+a.Error != "" && (again != got || (err == nil) != (errAgain == nil)) {
				t.Fatalf("%q: as a form got %+v, %v, want %+v, %v", body, again, errAgain, got, err)
			}
		}
		if err != nil {
			var refused *oauthError
			if !errors.As(err, &refused) {
				t.Fatalf("%q: got %v", body, err)
			}
			refused.hide([]string{fuzzSecret})
			text := refused.Error()
			checkSaid(t, text, 2)
			checkKept(t, text)
			return
		}
		if !visible.MatchString(got.Access) {
			t.Fatalf("%q: %q would go into a header", body, got.Access)
		}
		if got.Type != "Bearer" || !got.Expiry.IsZero() && (!got.Expiry.After(now) || got.Expiry.Sub(now) > maxTokenLife) {
			t.Fatalf("%q: got %+v", body, got)
		}
		kept, err := json.Marshal(got)
		var again token
		if err != nil || json.Unmarshal(kept, &again) != nil || again.Access != got.Access || again.Refresh != got.Refresh || !again.Expiry.Equal(got.Expiry) {
			t.Fatalf("%q: got %+v, kept %s (%v)", body, got, kept, err)
		}
	})
}

func FuzzRegistration(f *testing.F) {
	for _, body := range []string{
		`{"client_id":"a","client_secret":"b:c","token_endpoint_auth_method":"client_secret_basic"}`, `{"client_id":"a","token_endpoint_auth_method":"none"}`,
		`{"client_id":"a\r\nEvil: 1"}`, `{"client_id":"a","client_secret":"\u0000"}`, `{"client_id":"é"}`, `{"client_id":1}`, `{"client_id":"a","token_endpoint_auth_method":"private_key_jwt"}`,
		`{"error":"invalid_redirect_uri","error_description":"no\r\nmcp-proxy: signed in"}`, `{"error":"\u001b[2J"}`, `{"client_id":""}`, `null`, ``,
	} {
		f.Add([]byte(body), "client_secret_post")
		f.Add([]byte(body), "")
	}
	f.Fuzz(func(t *testing.T, body []byte, method string) {
		c, err := registeredClient(http.StatusCreated, body, []string{method})
		if err != nil {
			var refused *oauthError
			if errors.As(err, &refused) {
				refused.hide(nil)
			}
			checkSaid(t, err.Error(), 2)
			return
		}
		if c.ID == "" || !slices.Contains(authMethods, c.AuthMethod) {
			t.Fatalf("%q: got %+v", body, c)
		}
		o := &oauth{cfg: &config{}}
		var r authRequest
		fatal(t, o.authenticate(&r, &credentials{Client: c}, url.Values{"grant_type": {"refresh_token"}}))
		basic := r.header.Get("Authorization")
		sent, err := url.ParseQuery(string(r.body))
		id, secret := sent.Get("client_id"), sent.Get("client_secret")
		if basic != "" {
			checkHeader(t, http.Header{"Authorization": {basic}})
			pair, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(basic, "Basic "))
			user, password, _ := strings.Cut(string(pair), ":")
			id, _ = url.QueryUnescape(user)
			secret, _ = url.QueryUnescape(password)
		}
		if c.AuthMethod == methodNone && c.Secret != "" {
			c.Secret = "" // the server wants none of it
		}
		if err != nil || sent.Get("grant_type") != "refresh_token" || id != c.ID || secret != c.Secret {
			t.Fatalf("%q: %+v shows itself as %q, %q", body, c, id, secret)
		}
	})
}

// referenceCallback says by the letter what a request to the callback is: the
// status that refuses it, or 0 and the parameters of an authorization response.
// Only what is asked for by path is judged; false for the rest.
func referenceCallback(r *http.Request, redirect *url.URL, state string) (status int, params map[string]string, ok bool) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	if !strings.HasPrefix(path, "/") || strings.Count(query, "&") > 100 {
		return 0, nil, false
	}
	if path != redirect.Path || r.Method != "GET" {
		return http.StatusNotFound, nil, true
	}
	host := strings.NewReplacer("[", "", "]", "").Replace(r.Host)
	origin, mode := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Mode")
	if !strings.EqualFold(host, redirect.Host) || origin != "" && origin != "null" || mode != "" && mode != "navigate" {
		return http.StatusBadRequest, nil, true
	}
	params = map[string]string{}
	for _, pair := range strings.Split(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, nameOK := percentDecoded(name)
		value, valueOK := percentDecoded(value)
		if pair == "" || strings.Contains(pair, ";") || !nameOK || !valueOK {
			continue // url.ParseQuery passes over them
		}
		_, twice := params[name]
		if twice && slices.Contains([]string{"state", "iss", "code", "error"}, name) {
			return http.StatusBadRequest, nil, true
		}
		if !twice {
			params[name] = value
		}
	}
	if params["state"] != state || params["code"]+params["error"] == "" {
		return http.StatusBadRequest, nil, true
	}
	return 0, params, true
}

// percentDecoded undoes application/x-www-form-urlencoded, byte by byte.
func percentDecoded(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b.WriteByte(' ')
		case s[i] != '%':
			b.WriteByte(s[i])
		case i+2 >= len(s):
			return "", false
		default:
			code, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil || s[i+1] == '+' {
				return "", false
			}
			b.WriteByte(byte(code))
			i += 2
		}
	}
	return b.String(), true
}

func FuzzCallback(f *testing.F) {
	const state, issuer = "the-state", "https://as.example"
	const good = "/callback?state=the-state&iss=https%3A%2F%2Fas.example&code=SENTINEL"
	for _, target := range []string{
		good, "/callback?code=SENTINEL&state=the-state", "/callback?state=the-state&error=access_denied&iss=https://as.example",
		"/callback?state=the-state&error=x&error_description=%3Cscript%3Ealert(1)%3C/script%3E%0d%0a", good + "&state=the-state", good + "&code=2",
		"/callback?state=the-state%00&code=1", "/callback?stat%65=the-state&code=1;2", "/%63allback?state=the-state&code=1", "//callback?state=the-state&code=1",
		"http://127.0.0.1:41234/callback?state=the-state&code=1", "/favicon.ico", "*", "/callback", good + "&iss=https://evil.example", good + "#x", good + "&%zz=1",
	} {
		f.Add("GET", target, "127.0.0.1:41234", "", "", false)
		f.Add("GET", target, "127.0.0.1:41234", "null", "navigate", true)
	}
	f.Add("POST", good, "127.0.0.1:41234", "", "", true)
	f.Add("GET", good, "evil.example:41234", "", "", true)
	f.Add("GET", good, "127.0.0.1:41234", "https://evil.example", "cors", true)
	redirect, _ := url.Parse("http://127.0.0.1:41234/callback")
	f.Fuzz(func(t *testing.T, method, target, host, origin, mode string, needsIss bool) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(
			method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\nOrigin: " + origin + "\r\nSec-Fetch-Mode: " + mode + "\r\n\r\n")))
		if err != nil {
			return
		}
		cb := &callback{
			redirect: redirect, answers: make(chan url.Values, 1),
			host: "mcp.example", issuer: issuer, needsIss: needsIss, notify: func(string) {},
		}
		cb.expect(authorizationRequest{state: state}, authorizationRequest{})
		type answer struct {
			code string
			err  error
		}
		answered := make(chan *answer, 1)
		go func() {
			q, ok := <-cb.answers
			if !ok {
				answered <- nil
				return
			}
			code, err := cb.check(q)
			cb.end(err)
			answered <- &answer{code, err}
		}()
		w := httptest.NewRecorder()
		cb.ServeHTTP(w, r)
		close(cb.answers)
		a := <-answered
		page := w.Body.String()
		if strings.Count(page, "<") != strings.Count(pageHTML, "<") || strings.Contains(page, state) || strings.Contains(page, "SENTINEL") && r.FormValue("error") == "" {
			t.Fatalf("%s: the page is\n%s", target, page)
		}
		taken := a != nil
		status, params, judged := referenceCallback(r, redirect, state)
		if judged && (taken != (status == 0) || !taken && w.Code != status) {
			t.Fatalf("%s %s, Host %q: got status %d, taken %v, want status %d", method, target, host, w.Code, taken, status)
		}
		if !judged || !taken {
			return
		}
		iss, named := params["iss"]
		if genuine := iss == issuer || !named && !needsIss; (a.err == nil) != (genuine && params["error"] == "") || a.err == nil && a.code != params["code"] {
			t.Fatalf("%s: got code %q, %v", target, a.code, a.err)
		}
		if a.err != nil {
			checkSaid(t, a.err.Error(), 2)
			if w.Code != http.StatusForbidden {
				t.Fatalf("%s: got status %d", target, w.Code)
			}
		}
	})
}

func FuzzAuthorizationURL(f *testing.F) {
	f.Add("https://as.example/authorize", "id", "a b", "https://mcp.example/mcp")
	f.Add("https://as.example/authorize?tenant=1&client_id=evil&state=x;y", "i&d=1#", "offline_access $(reboot)", "https://mcp.example/mcp?a=b&c")
	f.Add("https://as.example/$(reboot)/'a';b!*", "`id`", "", "")
	f.Add("http://127.0.0.1:1/a", "\x00", "\r\n", "x")
	f.Add("javascript:alert(1)", "id", "", "")
	f.Add("https://as.example/authorize", "id", "aa b b", "https://mcp.example/mcp")
	f.Fuzz(func(t *testing.T, endpoint, id, scope, resource string) {
		if id == "" {
			return // a client has one
		}
		o := &oauth{cfg: &config{allowHTTP: true, authParams: url.Values{"access_type": {"offline"}}}}
		c := &credentials{Issuer: "https://as.example", RequestedScope: scope, Resource: resource, Client: client{ID: id, RedirectURI: testRedirect}}
		checked, err := checkEndpoint(endpoint, true)
		if err != nil {
			checkSaid(t, err.Error(), 0)
			return
		}
		request := o.request(*checked, c, "verifier")
		address := request.url
		if _, err := checkEndpoint(address, true); err != nil {
			t.Fatalf("%q: %v", address, err)
		}
		u, _ := url.Parse(address)
		named, _ := url.Parse(endpoint)
		if u.Host != named.Host || u.Path != named.Path || u.Fragment != "" || u.User != nil {
			t.Fatalf("%q leads elsewhere than %q", address, endpoint)
		}
		q, err := url.ParseQuery(u.RawQuery)
		want := map[string]string{"response_type": "code", "client_id": id, "redirect_uri": testRedirect, "state": request.state, "code_challenge": challengeS256("verifier"),
			"code_challenge_method": "S256", "access_type": "offline"}
		var words []string // each once
		for _, word := range strings.Fields(scope) {
			if !slices.Contains(words, word) {
				words = append(words, word)
			}
		}
		if len(words) > 0 {
			want["scope"] = strings.Join(words, " ")
		}
		if resource != "" {
			want["resource"] = resource
		}
		for name, value := range want {
			if err != nil || len(q[name]) != 1 || q.Get(name) != value {
				t.Fatalf("%q: got %s %q, want %q", address, name, q[name], value)
			}
		}
	})
}

func FuzzPasted(f *testing.F) {
	for _, pasted := range []string{
		"http://127.0.0.1:41234/callback?code=a&state=b", "http://127.0.0.1:41234/callback", "http://127.0.0.1:41234@evil.example/callback?code=a",
		"http://user:word@127.0.0.1:41234/callback?code=a", "http://127.0.0.1:41234/callback?code=a\r\nEvil: 1", "http://127.0.0.1:41234/callback/?a", "http://127.0.0.1:41234/call%62ack?a#b", "code=a", "HTTP://127.0.0.1:41234/callback?ü", "http://127.0.0.1:41234/callback?code=a b",
	} {
		f.Add(pasted)
	}
	redirect, _ := url.Parse("http://127.0.0.1:41234/callback")
	f.Fuzz(func(t *testing.T, pasted string) {
		if !isResponse(pasted, redirect) {
			return
		}
		req, err := http.NewRequest(http.MethodGet, pasted, nil)
		if err != nil {
			return
		}
		var wire strings.Builder
		if req.Write(&wire) != nil {
			return
		}
		got, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire.String())))
		if err != nil || got.Host != redirect.Host || got.URL.Path != redirect.Path || got.URL.RawQuery == "" || got.Header.Get("Authorization") != "" || len(got.Header) > 1 {
			t.Fatalf("%q is asked for as %q (%v)", pasted, wire.String(), err)
		}
	})
}

func FuzzHeaderFile(f *testing.F) {
	for _, file := range []string{
		"# comment\nX-Api-Key: SENTINEL-value\n", "X-A: env:SET\r\nX-B: a${SET}b${UNSET}", "Authorization: Bearer x\x01y", "X-A: a\x00b", "X A: b", "no colon SENTINEL-value",
		"Host: evil.example", "content-length: 1", "X-A:\t padded \t", "X-A: é", "X-A: a\rEvil: 1", "X-A: ${SPLIT}", ": x", "\ufeffX-A: 1", "X-A: 1\nx-a: 2",
	} {
		f.Add([]byte(file))
	}
	path := filepath.Join(f.TempDir(), "headers")
	getenv := func(name string) string {
		return map[string]string{"SET": "from the environment", "SPLIT": "a\r\nEvil: 1"}[name]
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		fatal(t, os.WriteFile(path, file, 0o600))
		c := &config{headers: http.Header{}}
		if err := (&commandLine{config: c, getenv: getenv}).addHeaders(path); err != nil {
			if strings.Contains(err.Error()+hintOf(err), "SENTINEL") && !strings.Contains(string(file), "SENTINEL-value:") && !strings.Contains(string(file), "env:") && !strings.Contains(string(file), "${") {
				t.Fatalf("%q: the error is %v", file, err)
			}
			return
		}
		var wire strings.Builder
		fatal(t, c.headers.Write(&wire))
		lines := 0
		for name, values := range c.headers {
			if !isToken(name) || slices.Contains(reservedHeaders, name) {
				t.Fatalf("%q: got the header %q", file, name)
			}
			lines += len(values)
			for _, value := range values {
				if strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) >= 0 {
					t.Fatalf("%q: got %s: %q", file, name, value)
				}
			}
		}
		if got := strings.Count(wire.String(), "\r\n"); got != lines {
			t.Fatalf("%q: got %d lines of %d headers: %q", file, got, lines, wire.String())
		}
	})
}
