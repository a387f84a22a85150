package main

// The token endpoint: how a client authenticates, what answers mean, the machine's grant.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Id and secret hold what RFC 6749, section 2.3.1 wants encoded. A server may
// accept only one way and not say so; which one it is is found out once.
func TestTokenEndpointAuthentication(t *testing.T) {
	basic, post := "client_secret_basic", "client_secret_post"
	refusals := map[string]fakeTokenAnswer{
		"without a word": func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool { // Nextcloud's OpenID provider
			if reply.status == http.StatusUnauthorized {
				writeJSON(w, http.StatusUnauthorized, map[string]any{"message": ""})
			}
			return reply.status == http.StatusUnauthorized
		},
		"request": func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool { // WordPress's OAuth 2 plugin
			if reply.status == http.StatusUnauthorized {
				writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_request", "error_description": "Missing parameter(s): client_id"})
			}
			return reply.status == http.StatusUnauthorized
		},
	}
	for name, test := range map[string]struct {
		says    []string // nil: nothing
		accepts string
		refuses string
		tries   int // of the code
	}{
		"basic":                             {[]string{basic}, basic, "", 1},
		"post":                              {[]string{post}, post, "", 1},
		"both":                              {[]string{post, basic}, basic, "", 1},
		"basic, says nothing":               {nil, basic, "", 1},
		"post, says nothing":                {nil, post, "", 2},
		"post, says basic":                  {[]string{basic}, post, "", 2},
		"basic, says post":                  {[]string{post}, basic, "", 2},
		"post, refuses without a word":      {nil, post, "without a word", 2},
		"post, calls the request malformed": {nil, post, "request", 2},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
			c := auth.addClient("a client:1/+&=%?~", test.accepts, redirect)
			auth.methods, auth.accepts, auth.answers = test.says, test.accepts, refusals[test.refuses]
			auth.metadata = func(doc map[string]any) {
				if test.says == nil {
					delete(doc, "token_endpoint_auth_methods_supported")
				}
			}
			user := newUser(t, auth, server)
			user.env["MY_SECRET"] = c.secret
			args := []string{"-u", server.url, "-i", c.id, "-s", "env:MY_SECRET", "--redirect-uri", redirect}
			p := user.start(args...)
			p.initialize()
			auth.expireAccess()
			p.echo("refreshed")
			if codes, refreshes := auth.count("token authorization_code"), auth.count("token refresh_token"); codes != test.tries || refreshes != 1 {
				t.Errorf("got %d requests for the code and %d refreshes, want %d and 1", codes, refreshes, test.tries)
			}
			auth.expireAccess()
			user.start(args...).initialize()
			if got := auth.count("token refresh_token"); got != 2 {
				t.Errorf("got %d refreshes after another start, want 2: the way was found out before", got)
			}
		})
	}
}

// A registered client uses the way that the server's answer names.
func TestRegisteredClientAuthentication(t *testing.T) {
	for _, method := range []string{"none", "client_secret_basic", "client_secret_post"} {
		method := method
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.methods = []string{method}
			p := newUser(t, auth, server).start("-u", server.url)
			p.initialize()
			auth.expireAccess()
			p.echo("refreshed")
			if auth.count("token authorization_code") != 1 || auth.count("token refresh_token") != 1 {
				t.Errorf("got %q", auth.labels())
			}
		})
	}
}

// Servers of the MCP SDK for Python offer post and Basic, hold a client to the
// one it registered, and miss the client_id in the form even beside Basic.
func TestRegistrationAtPythonServers(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.methods = []string{"client_secret_post", "client_secret_basic"}
	auth.on("token authorization_code", func(w http.ResponseWriter, r *fakeRequest) bool {
		form, _ := url.ParseQuery(string(r.body))
		if form.Has("client_id") {
			return false
		}
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": "Missing client_id"})
		return true
	})
	newUser(t, auth, server).start("-u", server.url).initialize()
	if got := auth.count("token authorization_code"); got != 1 {
		t.Errorf("got %d requests for a token, want 1", got)
	}
}

// A secret that is wrong is told as such, with what to check, and shown twice at most.
func TestWrongSecret(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
	auth.methods = []string{"client_secret_basic"}
	c := auth.addClient("the-client", "client_secret_basic", redirect)
	p := newUser(t, auth, server).start("-u", server.url, "-i", c.id, "-s", "wrong", "--redirect-uri", redirect)
	got := p.failure(p.request("initialize", initializeParams))
	if !strings.Contains(got.Message, "invalid_client") || !strings.Contains(got.Message, "--client-secret") {
		t.Errorf("got %q, want invalid_client and what to check", got.Message)
	}
	if got := auth.count("token authorization_code"); got != 2 {
		t.Errorf("got %d requests for a token, want 2", got)
	}
}

// Answers that are not as the RFC has them, and who sends them.
func TestOddTokenAnswers(t *testing.T) {
	edited := func(edit func(doc map[string]any)) fakeTokenAnswer {
		return func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
			if reply.status == http.StatusOK {
				edit(reply.doc)
			}
			writeJSON(w, reply.status, reply.doc)
			return true
		}
	}
	for name, test := range map[string]struct {
		answers  fakeTokenAnswer
		signIns  int
		wantLife bool // the expiry is known
	}{
		"expires_in as string":   {edited(func(doc map[string]any) { doc["expires_in"] = "3600" }), 0, true}, // PayPal, older Azure AD
		"expires_in absent":      {edited(func(doc map[string]any) { delete(doc, "expires_in") }), 0, false}, // GitHub, whose tokens do not expire
		"expires_in null":        {edited(func(doc map[string]any) { doc["expires_in"] = nil }), 0, false},
		"lower-case type":        {edited(func(doc map[string]any) { doc["token_type"] = "bearer" }), 0, true},     // GitHub
		"scopes as list":         {edited(func(doc map[string]any) { doc["scope"] = []string{"tools"} }), 0, true}, // Twitch
		"no scope":               {edited(func(doc map[string]any) { delete(doc, "scope") }), 0, true},
		"no refresh token":       {edited(func(doc map[string]any) { delete(doc, "refresh_token") }), 0, true}, // Google
		"form":                   {formAnswer(http.StatusOK), 0, true},                                         // GitHub
		"form, called something": {formAnswer(http.StatusCreated), 0, true},
		"error with status 200":  {errorAnswerWith(http.StatusOK, `{"ok":false,"error":"invalid_grant"}`), 1, true}, // GitHub, Slack
		"error as form":          {errorAnswerWith(http.StatusOK, `error=bad_refresh_token&error_description=it+is+gone`), 1, true},
		"no type":                {edited(func(doc map[string]any) { delete(doc, "token_type") }), 0, true}, // OpenAuth
		"Slack's type":           {edited(func(doc map[string]any) { doc["token_type"] = "bot" }), 0, true},
		"Slack's place": {edited(func(doc map[string]any) {
			user := map[string]any{"token_type": "user"}
			for name, value := range doc {
				if delete(doc, name); name != "token_type" {
					user[name] = value
				}
			}
			doc["ok"], doc["authed_user"] = true, user
		}), 0, true},
		"refused without a word": {errorAnswerWith(http.StatusBadRequest, `<html>Bad Request</html>`), 1, true},
		"refused, other JSON":    {errorAnswerWith(http.StatusUnauthorized, `{"error":{"code":401,"message":"x"}}`), 1, true},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			if name == "no refresh token" {
				auth.rotates = false
			}
			auth.answers = test.answers
			user := newUser(t, auth, server)
			user.remember(server, expired)
			auth.expireAccess()
			p := user.start("-u", server.url)
			p.initialize()
			if got := auth.count("authorize"); got != test.signIns {
				t.Errorf("got %d sign-ins, want %d: %q", got, test.signIns, auth.labels())
			}
			stored := user.storedToken(server.url)
			if known := time.Until(stored.Expiry) > 50*time.Minute; known != test.wantLife || stored.Refresh == "" {
				t.Errorf("got expiry %v and a refresh token of %d bytes", stored.Expiry, len(stored.Refresh))
			}
			auth.expireAccess()
			p.echo("by the token that the odd answer left")
			if got := auth.count("authorize"); got != test.signIns {
				t.Errorf("got %d sign-ins later, want %d", got, test.signIns)
			}
		})
	}
}

// formAnswer sends good answers form-encoded.
func formAnswer(status int) fakeTokenAnswer {
	return func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
		if reply.status != http.StatusOK {
			return false
		}
		form := url.Values{}
		for name, value := range reply.doc {
			form.Set(name, fmt.Sprint(value))
		}
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(status)
		io.WriteString(w, form.Encode()+"\n")
		return true
	}
}

// errorAnswerWith refuses the first refresh in this way.
func errorAnswerWith(status int, body string) fakeTokenAnswer {
	refused := false
	return func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
		if refused || r.label != "token refresh_token" {
			return false
		}
		refused = true // one request at a time
		w.WriteHeader(status)
		io.WriteString(w, body)
		return true
	}
}

// storedToken reads the token from the credentials file.
func (u *testUser) storedToken(server string) token {
	u.t.Helper()
	var c credentials
	data, err := os.ReadFile(u.credentialsFile(server))
	fatal(u.t, err)
	fatal(u.t, json.Unmarshal(data, &c))
	return c.Token
}

// A server in trouble says nothing about the token: it stays, and works again
// when the server does.
func TestTroubleDoesNotCostTheToken(t *testing.T) {
	for name, status := range map[string]int{"500": 500, "503": 503, "429": 429, "403": 403, "404": 404} {
		status := status
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			trouble := true
			auth.answers = func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
				if trouble {
					w.WriteHeader(status)
				}
				return trouble
			}
			auth.rotates = false
			user := newUser(t, auth, server)
			user.remember(server, expired)
			p := user.start("-u", server.url)
			got := p.failure(p.request("initialize", initializeParams))
			if !strings.Contains(got.Message, fmt.Sprint(status)) {
				t.Errorf("got %q, want the status in it", got.Message)
			}
			auth.change(func() { trouble = false })
			p.initialize()
			if got := auth.count("authorize"); got != 0 {
				t.Errorf("got %d sign-ins, want 0", got)
			}
		})
	}
}

func TestParseTokenAnswer(t *testing.T) {
	now := time.Date(2026, 7, 28, 10, 0, 0, 0, time.UTC)
	good := func(life time.Duration) token {
		tok := token{Access: "a", Type: "Bearer", Obtained: now}
		if life > 0 {
			tok.Expiry = now.Add(life)
		}
		return tok
	}
	for body, want := range map[string]token{
		`{"access_token":"a","token_type":"Bearer"}`:                                   good(0),
		`{"access_token":"a","token_type":"bEARER","expires_in":60,"x":{}}`:            good(time.Minute),
		`{"access_token":"a","token_type":"Bearer","expires_in":"60"}`:                 good(time.Minute),
		`{"access_token":"a","token_type":"Bearer","expires_in":" 60.5 "}`:             good(60500 * time.Millisecond),
		`{"access_token":"a","token_type":"Bearer","expires_in":0}`:                    good(0),
		`{"access_token":"a","token_type":"Bearer","expires_in":-1}`:                   good(0),
		`{"access_token":"a","token_type":"Bearer","expires_in":"never"}`:              good(0),
		`{"access_token":"a","token_type":"Bearer","expires_in":"NaN"}`:                good(0),
		`{"access_token":"a","token_type":"Bearer","expires_in":"Inf"}`:                good(maxTokenLife),
		`{"access_token":"a","token_type":"Bearer","expires_in":99999999999999999999}`: good(maxTokenLife),
		`{"access_token":"a","token_type":"Bearer","expires_in":[]}`:                   good(0),
		`{"access_token":"a"}`: good(0),
		`{"access_token":"a","token_type":"BOT","authed_user":{"id":"U1"}}`:            good(0),
		`{"ok":true,"authed_user":{"access_token":"a","token_type":"user"}}`:           good(0),
		`{"access_token":"a","token_type":"Bearer","error":"","error_description":""}`: good(0),
		"access_token=a&token_type=bearer&expires_in=60\n":                             good(time.Minute),
	} {
		if got, err := parseTokenAnswer(http.StatusOK, []byte(body), now, false); err != nil || got != want {
			t.Errorf("%s: got %+v (%v), want %+v", body, got, err, want)
		}
	}
	for _, test := range []struct {
		status   int
		body     string
		code     string
		rejected bool
	}{
		{200, `{"error":"invalid_grant","access_token":"a","token_type":"Bearer"}`, "invalid_grant", true},
		{400, `{"error":"invalid_grant"}`, "invalid_grant", true},
		{400, `error=invalid_grant`, "invalid_grant", true},
		{400, ``, "", true},
		{401, `<html>`, "", true},
		{403, `<html>`, "", false},
		{500, `{"error":"invalid_grant"}`, "invalid_grant", false},
		{400, `{"error":"temporarily_unavailable"}`, "temporarily_unavailable", false},
		{302, `{"access_token":"a","token_type":"Bearer"}`, "", false},
		{200, ``, "", false},
		{200, `<html><a href="/?a=b&error">maintenance</a>`, "", false},
		{200, `null`, "invalid_response", false},
		{200, `{}`, "invalid_response", false},
		{200, `{"token_type":"Bearer"}`, "invalid_response", false},
		{200, `{"access_token":"","token_type":"Bearer"}`, "invalid_response", false},
		{200, `{"access_token":"a\r\nX: y","token_type":"Bearer"}`, "invalid_response", false},
		{200, `{"access_token":"a\u0000","token_type":"Bearer"}`, "invalid_response", false},
		{200, `{"access_token":"é","token_type":"Bearer"}`, "invalid_response", false},
		{200, `{"access_token":"a","token_type":"DPoP"}`, "unsupported_token_type", false},
		{200, `{"ok":false,"error":"invalid_code","authed_user":{"access_token":"a"}}`, "invalid_code", true},
		{200, `{"access_token":"a","token_type":"Bearer"`, "", false},
	} {
		got, err := parseTokenAnswer(test.status, []byte(test.body), now, false)
		var refused *oauthError
		if !errors.As(err, &refused) || refused.code != test.code || isRejected(err) != test.rejected || got != (token{}) {
			t.Errorf("%d %s: got %+v (%v), want code %q, rejected %v", test.status, test.body, got, err, test.code, test.rejected)
		}
		if lasts := test.rejected || test.status == 200 && test.code != ""; isLasting(err) != lasts { // a page goes away
			t.Errorf("%d %s: lasting %v, want %v", test.status, test.body, !lasts, lasts)
		}
	}
}

// What a server makes up in the place of an error code does not become an
// attribute of a trace.
func TestErrorTypeOfTraces(t *testing.T) {
	for want, err := range map[string]error{
		"invalid_grant": &oauthError{code: "invalid_grant", status: 400},
		"refused":       &oauthError{code: "SENTINEL of the server", status: 400},
		"503":           &oauthError{status: 503},
	} {
		if got := errorType(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}

// A success that is of no use is an error, and costs neither the refresh token nor its
// successor; a type that is not Bearer is refused by name.
func TestUselessSuccess(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(doc map[string]any)
		want string
	}{
		"DPoP":            {func(doc map[string]any) { doc["token_type"] = "DPoP" }, "unsupported_token_type (DPoP)"},
		"no access token": {func(doc map[string]any) { delete(doc, "access_token") }, "no usable access token"},
		"not visible":     {func(doc map[string]any) { doc["access_token"] = "a\nb" }, "no usable access token"},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			useless := true
			auth.answers = func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
				if useless {
					test.edit(reply.doc)
				}
				writeJSON(w, reply.status, reply.doc)
				return true
			}
			user := newUser(t, auth, server)
			user.remember(server, expired)
			auth.expireAccess()
			p := user.start("-u", server.url)
			if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, test.want) {
				t.Errorf("got %q, want %q", got.Message, test.want)
			}
			auth.change(func() { useless = false })
			p.initialize()
			if got := auth.count("authorize"); got != 0 || auth.reuses != 0 {
				t.Errorf("got %d sign-ins and %d reuses, want none", got, auth.reuses)
			}
		})
	}
}

// Cognito before AWS AgentCore: the token to send is the id_token.
func TestUseIDToken(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	swap := true
	auth.answers = func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
		if doc := reply.doc; swap && reply.status == http.StatusOK { // the MCP server knows the id_token alone
			doc["id_token"], doc["access_token"] = doc["access_token"], "not-for-the-server"
		}
		writeJSON(w, reply.status, reply.doc)
		return true
	}
	user := newUser(t, auth, server)
	p := user.start("-u", server.url, "--use-id-token")
	p.initialize()
	auth.expireAccess()
	p.echo("refreshed")
	if got := auth.count("token refresh_token"); got != 1 || auth.count("authorize") != 1 {
		t.Errorf("got %q", auth.labels())
	}
	auth.change(func() { swap = false })
	auth.expireAccess()
	if got := p.failure(p.request("tools/call", echoParams("x"))); !strings.Contains(got.Message, "no usable id_token") {
		t.Errorf("got %q, want a word about the id_token", got.Message)
	}
}

// machineFile is where what a machine gets for a server is kept.
func (u *testUser) machineFile(server string) string {
	return u.credentialsFile(server + "\x00client_credentials")
}

// editMachine changes the stored file of a machine.
func (u *testUser) editMachine(server string, edit func(doc map[string]any)) {
	u.t.Helper()
	var doc map[string]any
	data, err := os.ReadFile(u.machineFile(server))
	fatal(u.t, err)
	fatal(u.t, json.Unmarshal(data, &doc))
	edit(doc)
	data, err = json.Marshal(doc)
	fatal(u.t, err)
	fatal(u.t, os.WriteFile(u.machineFile(server), data, 0o600))
}

// No user, no browser, no registration; the token is kept, and asked for again
// where the server no longer takes it, without another discovery.
func TestClientCredentials(t *testing.T) {
	for _, method := range []string{"client_secret_basic", "client_secret_post"} {
		method := method
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.machineGrants(method)
			auth.scopes = []string{"tools", "offline_access"}
			c := auth.addClient("machine", method)
			user := newUser(t, auth, server)
			user.env["MACHINE_SECRET"] = c.secret
			args := []string{"-u", server.url, "--grant", "client_credentials", "-i", c.id, "-s", "env:MACHINE_SECRET"}
			user.start(args...).initialize()
			want := []string{"initialize", "PRM", "metadata", "token client_credentials", "initialize"}
			if got := fakeStory(server.fakeOrigin, auth.fakeOrigin); !slices.Equal(got[:min(len(want), len(got))], want) {
				t.Errorf("got %q, want %q", got, want)
			}
			p := user.start(args...)
			p.initialize()
			auth.expireAccess()
			p.echo("again")
			if got, want := auth.labels(), []string{"metadata", "token client_credentials", "token client_credentials"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			noBrowser(t, user, auth)
			stdout, _, _ := user.run("status")
			if !strings.Contains(stdout, "grant    client_credentials") {
				t.Errorf("status: got %q", stdout)
			}
			stdout, _, _ = user.run("status", "--json")
			if !strings.Contains(stdout, `"grant": "client_credentials"`) {
				t.Errorf("status --json: got %q", stdout)
			}
		})
	}
}

// A key instead of a secret, of each kind, from a file or from a variable.
func TestPrivateKeyJWT(t *testing.T) {
	for name, test := range map[string]struct {
		algorithm string
		listed    []string // token_endpoint_auth_signing_alg_values_supported
	}{
		"ES256":        {"ES256", []string{"RS256", "ES256"}},
		"ES384":        {"ES384", nil},
		"ES512":        {"ES512", []string{"ES512"}},
		"RS256":        {"RS256", nil},
		"PS256 alone":  {"PS256", []string{"PS256", "ES256"}},
		"RS512":        {"RS512", []string{"PS512", "RS512"}},
		"EdDSA":        {"EdDSA", nil},
		"its new name": {"Ed25519", []string{"Ed25519"}},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.machineGrants("private_key_jwt", test.listed...)
			c, text := auth.addSigner("machine", test.algorithm)
			user := newUser(t, auth, server)
			user.env["KEY"] = text
			user.env["GOOGLE_CLIENT_SECRET"] = "of-another-client"
			p := user.start("-u", server.url, "--grant", "client_credentials", "-i", c.id, "--private-key", "env:KEY")
			p.initialize()
			auth.expireAccess()
			p.echo("again")
			args := []string{"-u", server.url, "--grant", "client_credentials", "-i", c.id, "--private-key", user.keyFile(text)}
			stdout, _, exit := user.run(append([]string{"doctor"}, args...)...)
			if want := "machine, as given, by private_key_jwt " + test.algorithm; exit != 0 || !strings.Contains(stdout, want) {
				t.Errorf("doctor: got exit code %d, %q, want %q", exit, stdout, want)
			}
			user.run("logout", "-u", server.url)
			user.start(args...).initialize()
			if got := auth.count("token client_credentials"); got != 3 {
				t.Errorf("got %d requests for a token, want 3", got)
			}
			data, err := os.ReadFile(user.machineFile(server.url))
			fatal(t, err)
			if line := strings.Split(text, "\n")[1]; bytes.Contains(data, []byte(line)) || bytes.Contains(data, []byte("of-another-client")) {
				t.Error("the credentials file holds the key, or a secret that is not the client's")
			}
			noBrowser(t, user, auth)
		})
	}
}

// The client has got a secret instead of its key: what was signed for before is
// asked for again with that.
func TestSecretInsteadOfTheKey(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.machineGrants("private_key_jwt")
	c, text := auth.addSigner("machine", "ES256")
	user := newUser(t, auth, server)
	args := []string{"-u", server.url, "--grant", "client_credentials", "-i", c.id}
	p := user.start(append(args, "--private-key", user.keyFile(text))...)
	p.initialize()
	p.closeStdin()
	p.wait()
	auth.machineGrants("client_secret_basic")
	auth.change(func() { c.method, c.secret = "client_secret_basic", auth.secret("client-secret") })
	auth.expireAccess()
	user.env["SECRET"] = c.secret
	user.start(append(args, "-s", "env:SECRET")...).initialize()
	noBrowser(t, user, auth)
}

// A user who signs in through a client with a key: the code, the refresh and
// the revocation are all signed.
func TestPrivateKeyOfAUsersClient(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.methods = []string{"private_key_jwt"}
	redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
	c, text := auth.addSigner("app", "ES256", redirect)
	for i, withKey := range []bool{true, false} {
		user := newUser(t, auth, server)
		args := []string{"-u", server.url, "-i", c.id, "--private-key", user.keyFile(text), "--redirect-uri", redirect}
		p := user.start(args...)
		p.initialize()
		auth.expireAccess()
		p.echo("refreshed")
		if auth.count("token authorization_code") != i+1 || auth.count("token refresh_token") != i+1 {
			t.Errorf("got %q", auth.labels())
		}
		p.closeStdin()
		p.wait()
		if withKey {
			if _, stderr, exit := user.run(append([]string{"logout"}, args...)...); exit != 0 || auth.count("revoke") != 2 {
				t.Errorf("logout: got exit code %d, %q, and %d revocations", exit, stderr, auth.count("revoke"))
			}
		} else if _, stderr, exit := user.run("logout", "-u", server.url); exit == 0 || !strings.Contains(stderr, "--private-key") {
			t.Errorf("logout without the key: got exit code %d, %q, want the flag named", exit, stderr)
		}
	}
}

// The server takes no signature that the key can make: said before anything is sent.
func TestPrivateKeyOfTheWrongKind(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.machineGrants("private_key_jwt", "RS256")
	c, text := auth.addSigner("machine", "ES256")
	user := newUser(t, auth, server)
	_, stderr, exit := user.run("login", "-u", server.url, "--grant", "client_credentials", "-i", c.id, "--private-key", user.keyFile(text))
	if exit != 2 || !strings.Contains(stderr, "RS256") || !strings.Contains(stderr, "ES256") || auth.count("token client_credentials") != 0 {
		t.Errorf("got exit code %d, %q", exit, stderr)
	}
}

// Whatever number of processes and messages: one request for one token, and
// no process beside those that the host has started.
func TestClientCredentialsOnce(t *testing.T) {
	t.Parallel()
	_, auth, user, args := startMachines(t)
	release := auth.hold("token client_credentials")
	var processes []*testProxy
	var ids []string
	for i := 0; i < 3; i++ {
		p := user.start(args...)
		processes, ids = append(processes, p), append(ids, p.request("initialize", initializeParams))
	}
	auth.await("token client_credentials", 1)
	if pids := user.processes(); len(pids) != 0 && len(pids) != 3 { // none where the system does not tell
		t.Errorf("got %d processes, want the host's 3", len(pids))
	}
	release()
	for i, p := range processes {
		p.result(ids[i])
	}
	auth.expireAccess()
	for _, p := range processes {
		p.notify("notifications/initialized", "")
		for n := 0; n < 4; n++ {
			p.request("tools/call", echoParams("hello"))
		}
	}
	for _, p := range processes {
		for n := 2; n <= 5; n++ {
			p.result(fmt.Sprint(n))
		}
	}
	if got := auth.count("token client_credentials"); got != 2 {
		t.Errorf("got %d requests for a token, want one at the start and one for its successor", got)
	}
}

// Asked for ahead of the expiry, which no message waits for; and after it.
func TestClientCredentialsExpiry(t *testing.T) {
	for name, left := range map[string]time.Duration{"ahead": 30 * time.Second, "over": -time.Second} {
		name, left := name, left
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth, user, args := startMachines(t)
			user.start(args...).initialize()
			user.editMachine(server.url, func(doc map[string]any) {
				token := doc["token"].(map[string]any)
				token["obtained_at"], token["expires_at"] = time.Now().Add(left-time.Hour).UTC(), time.Now().Add(left).UTC()
			})
			if name == "over" {
				auth.expireAccess()
			}
			p := user.start(args...)
			p.initialize()
			auth.await("token client_credentials", 2)
			p.echo("with the new one")
			if got, want := server.count("initialize"), 3; got != want { // the first of all had no token
				t.Errorf("the server saw %d requests, want %d: none is refused", got, want)
			}
			if got := auth.count("metadata"); got != 1 {
				t.Errorf("got %d discoveries, want 1", got)
			}
		})
	}
}

// The authorization server's no is said with the flags to look at, is not
// asked for again with every message, and leads to no browser.
func TestClientCredentialsRefused(t *testing.T) {
	t.Parallel()
	_, auth, user, args := startMachines(t)
	auth.refuseTokens("client_credentials", http.StatusBadRequest, "unauthorized_client")
	p := user.start(args...)
	if got := p.failure(p.request("initialize", initializeParams)).Message; !strings.Contains(got, "unauthorized_client") || !strings.Contains(got, "--client-secret") {
		t.Errorf("got %q", got)
	}
	asked := auth.count("token client_credentials")
	p.failure(p.request("ping", ""))
	if got := auth.count("token client_credentials"); asked != 1 || got != asked {
		t.Errorf("got %d requests for a token, then %d, want 1", asked, got)
	}
	if _, stderr, exit := user.run(append([]string{"login"}, args...)...); exit != 2 || !strings.Contains(stderr, "hint: check --client-id") {
		t.Errorf("login: got exit code %d, %q", exit, stderr)
	}
	noBrowser(t, user, auth)
}

// A server that takes no token at all gets a few, not one for each message.
func TestClientCredentialsUnauthorizedForEver(t *testing.T) {
	t.Parallel()
	server, auth, user, args := startMachines(t)
	server.on("ping", func(w http.ResponseWriter, _ *fakeRequest) bool {
		w.Header().Set("WWW-Authenticate", bearerChallenge(server.base+server.prmPath, "invalid_token", "tools"))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	p := user.start(args...)
	for i := 0; i < 5; i++ {
		p.failure(p.request("ping", ""))
	}
	if got := auth.count("token client_credentials"); got < 1 || got > 2 {
		t.Errorf("got %d requests for a token", got)
	}
	noBrowser(t, user, auth)
}

// A user's token does no machine's work, nor a machine's a user's, and neither
// takes the other's place: a user would have to sign in again after every job.
func TestClientCredentialsAreAnotherIdentity(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.methods = []string{"client_secret_basic"}
	redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
	c := auth.addClient("both", "client_secret_basic", redirect)
	user := newUser(t, auth, server)
	user.env["SECRET"] = c.secret
	asUser := []string{"-u", server.url, "-i", c.id, "-s", "env:SECRET", "--redirect-uri", redirect}
	asMachine := []string{"-u", server.url, "-i", c.id, "-s", "env:SECRET", "--grant", "client_credentials"}
	for _, args := range [][]string{asMachine, asUser, asMachine, asUser} {
		p := user.start(args...)
		p.initialize()
		p.closeStdin()
		p.wait()
	}
	var got []string
	for _, label := range auth.labels() {
		if strings.HasPrefix(label, "token ") {
			got = append(got, label)
		}
	}
	if want := []string{"token client_credentials", "token authorization_code"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if stdout, _, _ := user.run("status"); strings.Count(stdout, "  token ") != 2 {
		t.Errorf("status: got %q, want both", stdout)
	}
	if _, stderr, exit := user.run("logout", "-u", server.url); exit != 0 || strings.Count(stderr, "signed out of") != 2 {
		t.Errorf("logout: got exit code %d, %q, want both forgotten", exit, stderr)
	}
}

// A machine waits for no user's sign-in.
func TestClientCredentialsBesideASignIn(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.methods = []string{"none", "client_secret_basic"}
	user := newUser(t, auth, server)
	user.browser = "ignore"
	waiting := user.start("-u", server.url)
	id := waiting.request("initialize", initializeParams)
	waiting.awaitURL(1)
	c := auth.addClient("machine", "client_secret_basic")
	user.env["SECRET"] = c.secret
	p := user.start("-u", server.url, "-i", c.id, "-s", "env:SECRET", "--grant", "client_credentials")
	p.initialize()
	user.paste(waiting.awaitURL(1))
	waiting.result(id)
}

// Nobody signs in, so a host that closes stdin at once still gets its answer:
// scripts do that.
func TestClientCredentialsInAPipe(t *testing.T) {
	t.Parallel()
	_, auth, user, args := startMachines(t)
	release := auth.hold("token client_credentials")
	p := user.start(args...)
	id := p.request("initialize", initializeParams)
	auth.await("token client_credentials", 1)
	p.closeStdin()
	release()
	p.result(id)
}

// A request that needs more gets a token for more.
func TestClientCredentialsStepUp(t *testing.T) {
	t.Parallel()
	server, auth, user, args := startMachines(t)
	auth.scope = anyValue
	p := user.start(args...)
	p.initialize()
	server.change(func() { server.needs = map[string]string{"tools/call echo": "admin"} })
	p.echo("as admin")
	if got := auth.count("token client_credentials"); got != 2 {
		t.Errorf("got %d requests for a token, want 2", got)
	}
	noBrowser(t, user, auth)
}

func TestClientCredentialsLogin(t *testing.T) {
	t.Parallel()
	server, auth, user, args := startMachines(t)
	if _, stderr, exit := user.run("login", "-u", server.url); exit != 2 || !strings.Contains(stderr, "--grant client_credentials") {
		t.Errorf("login of a user: got exit code %d, %q, want the flag that helps", exit, stderr)
	}
	_, stderr, exit := user.run(append([]string{"login"}, args...)...)
	if exit != 0 || !strings.Contains(stderr, "then asked for again") {
		t.Errorf("login: got exit code %d, %q", exit, stderr)
	}
	stdout, _, exit := user.run(append([]string{"doctor"}, args...)...)
	if exit != 0 || !strings.Contains(stdout, "machine, as given, by client_secret_basic") || strings.Contains(stdout, "PKCE") {
		t.Errorf("doctor: got exit code %d, %q", exit, stdout)
	}
	noBrowser(t, user, auth)
}

// Where the token endpoint that worked refuses the client, discovery finds the one that there is now.
func TestClientCredentialsEndpointMoved(t *testing.T) {
	t.Parallel()
	_, auth, user, args := startMachines(t)
	p := user.start(args...)
	p.initialize()
	auth.change(func() { auth.token = "/token-2" })
	auth.on("POST /token", says(http.StatusBadRequest, "application/json", `{"error":"unauthorized_client"}`))
	auth.expireAccess()
	p.echo("from the new endpoint")
	if got := auth.count("token client_credentials"); got != 2 {
		t.Errorf("got %q", auth.labels())
	}
}

// That a client without a secret worked says nothing about the same client with one.
func TestSecretForAKnownClient(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	c := auth.addClient("the-client", "none")
	user := newUser(t, auth, server)
	login := []string{"login", "-u", server.url, "--client-id", c.id}
	if _, stderr, exit := user.run(login...); exit != 0 {
		t.Fatalf("got exit code %d, %s", exit, stderr)
	}
	auth.change(func() {
		c.secret, c.method = "secret-of-the-client", "client_secret_basic"
		auth.methods = []string{"client_secret_basic"}
	})
	if _, stderr, exit := user.run(append(login, "--client-secret", c.secret)...); exit != 0 {
		t.Errorf("got exit code %d, %s", exit, stderr)
	}
}
