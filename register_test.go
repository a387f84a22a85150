package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

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
		r := newRegistration(&serverMetadata{TokenEndpointAuthMethods: test.methods, GrantTypesSupported: test.grants}, testRedirect, "", nil)
		if r["token_endpoint_auth_method"] != test.wantMethod || !reflect.DeepEqual(r["grant_types"], test.wantGrants) {
			t.Errorf("%s: got %+v", name, r)
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
		"documented":        {400, `{"error":"invalid_client_metadata","error_description":"no\u001b[31m red\nline"}`, []string{"status 400: invalid_client_metadata: no [31m red line"}},
		"redirect URI":      {400, `{"error":"invalid_redirect_uri"}`, []string{"status 400: invalid_redirect_uri (the redirect URI was " + testRedirect + ")"}},
		"forbidden":         {403, "<html>SENTINEL</html>", []string{"status 403"}},
		"not found":         {404, "SENTINEL", []string{"status 404"}},
		"failing":           {500, `{"x":"SENTINEL"}`, []string{"status 500"}},
		"error, wrong type": {400, `{"error":{"message":"SENTINEL"}}`, []string{"status 400"}},
		"HTML":              {200, "<html>SENTINEL</html>", []string{"not a JSON object"}},
		"error at 200":      {200, `{"error":"access_denied","x":"SENTINEL"}`, []string{"no valid client_id and client_secret: access_denied"}},
		"no client id":      {201, `{"client_secret":"SENTINEL"}`, []string{"no valid client_id"}},
		"client id of type": {201, `{"client_id":42}`, []string{"not a JSON object"}},
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
			wantError(t, err, append(test.want, "register a client: ", host)...)
			if c != (client{}) || strings.Contains(err.Error(), "SENTINEL") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %+v and %q", c, err)
			}
			if want := "give --client-id (register a client at " + host + " by hand)"; hintOf(err) != want {
				t.Errorf("got hint %q, want %q", hintOf(err), want)
			}
			wantPaths(t, as, "/r")
		})
	}
}

func TestRegisterImpossible(t *testing.T) {
	as := newSite(t)
	_, err := as.discoverer().register(context.Background(), &serverMetadata{Issuer: as.URL}, testRedirect, "")
	wantError(t, err, as.URL, "registration_endpoint is missing")
	if want := "set GOOGLE_CLIENT_ID or give --client-id"; hintOf(err) != want {
		t.Errorf("got hint %q, want %q", hintOf(err), want)
	}

	m := &serverMetadata{Issuer: as.URL, RegistrationEndpoint: as.URL + "/r", TokenEndpointAuthMethods: []string{"private_key_jwt", "tls_client_auth"}}
	_, err = as.discoverer().register(context.Background(), m, testRedirect, "")
	wantError(t, err, "private_key_jwt, tls_client_auth")
	wantPaths(t, as)

	m.TokenEndpointAuthMethods = nil
	as.Close()
	_, err = as.discoverer().register(context.Background(), m, testRedirect, "")
	wantError(t, err, "register a client: "+as.url(t, "").Host)
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
