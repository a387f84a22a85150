package main

// Which client the program is, told against the real program: given, by
// metadata document, registered; what it is bound to, and what becomes of a
// registration that is refused or forgotten.

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

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
	p := user.start(append(args, "--login-timeout", "1s")...)
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
	p := user.start("-u", server.url, "--login-timeout", "1s")
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
