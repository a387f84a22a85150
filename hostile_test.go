package main

// A hostile server: what it tries, and what it does not get. Where secrets
// must not go is in secrets_test.go, the callback in callback_test.go.

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// wantRefusedSignIn starts the program and wants an error that says why, no
// browser window, and a program that lives.
func wantRefusedSignIn(t *testing.T, user *testUser, server *fakeMCP, why string, args ...string) *testProxy {
	t.Helper()
	p := user.start(append([]string{"-u", server.url}, args...)...)
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, why) {
		t.Errorf("got %q, want %q in it", got.Message, why)
	}
	if got := user.events(); len(got) != 0 {
		t.Errorf("a browser was opened: %+v", got)
	}
	return p
}

// What is no https URL of plain characters never gets near a browser.
func TestHostileAuthorizationEndpoint(t *testing.T) {
	for name, endpoint := range map[string]string{
		"script":            "javascript:alert(document.cookie)//https://as.example",
		"file":              "file:///etc/passwd",
		"data":              "data:text/html,<script>alert(1)</script>",
		"another program":   "ms-msdt:/id%20PCWDiagnostic",
		"http elsewhere":    "http://as.example/authorize",
		"http here":         "http://127.0.0.1:1/authorize",
		"looks like here":   "http://127.0.0.1.evil.example/authorize",
		"user info":         "https://good.example@evil.example/authorize",
		"space":             "https://as.example/authorize --profile /tmp/x",
		"double quote":      `https://as.example/"&calc.exe&"`,
		"backtick":          "https://as.example/`id`",
		"backslash":         `https://as.example\@evil.example/`,
		"pipe":              "https://as.example/|id",
		"redirection":       "https://as.example/>x",
		"line break":        "https://as.example/\nid",
		"command in host":   "https://$(id).evil.example/authorize",
		"semicolon in host": "https://as.example;id/authorize",
		"dash":              "-https://as.example/authorize",
		"flag":              "--load-extension=/tmp/x",
		"dash in host":      "https://-as.example&calc/authorize",
		"relative":          "/authorize",
	} {
		endpoint := endpoint
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.metadata = func(doc map[string]any) { doc["authorization_endpoint"] = endpoint }
			user := newUser(t, auth, server)
			p := wantRefusedSignIn(t, user, server, "authorization_endpoint of issuer")
			if strings.Contains(p.stderr(), endpoint) || auth.count("register") != 0 {
				t.Errorf("stderr %q, requests %q: want no URL to be clicked and no registration", p.stderr(), auth.labels())
			}
		})
	}
}

// The browser's command line holds nothing that a server chose and nothing that
// another user of the machine could use: xdg-open and wslview are scripts, and
// everybody reads the arguments of a process.
func TestBrowserIsGivenAnAddressOfOurOwn(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.authorization = "/authorize/$(id)'*;!/--flag"
	auth.metadata = func(doc map[string]any) {
		doc["authorization_endpoint"] = auth.base + auth.authorization + "?x=$(id)'"
	}
	user := newUser(t, auth, server)
	user.start("-u", server.url).initialize()
	opened := user.openings() // fails where there was any but one argument
	if len(opened) != 1 {
		t.Fatalf("opened: %q, want one address", opened)
	}
	wantOwnAddress(t, auth, opened[0])
	wantValues(t, "x", auth.asked("x"), "$(id)'") // and the server understands it all the same
}

// ownAddress is what a browser is opened at.
var ownAddress = regexp.MustCompile(`^http://(127\.0\.0\.1|localhost|\[::1\]):\d+/start/[\w-]{43}$`)

func wantOwnAddress(t testing.TB, auth *fakeAuth, opened string) {
	t.Helper()
	if !ownAddress.MatchString(opened) || auth.leaked(opened) {
		t.Errorf("opened: %q, want an address of our own without any state", opened)
	}
}

// $BROWSER is a list of commands; the system's come after them.
func TestBrowserCommands(t *testing.T) {
	program := filepath.Join(t.TempDir(), "my browser.exe")
	fatal(t, os.WriteFile(program, nil, 0o700))
	list := func(entries ...string) string { return strings.Join(entries, string(filepath.ListSeparator)) }
	const linux = ", wslview U, xdg-open U"
	for _, test := range []struct{ browsers, system, want string }{
		{"", "linux", linux},
		{"", "darwin", ", /usr/bin/open U"},
		{"", "windows", ", rundll32 url.dll,FileProtocolHandler U"}, // no cmd: it cuts the URL at &
		{"firefox", "linux", ", firefox U" + linux},
		{list("firefox", "", "lynx"), "linux", ", firefox U, lynx U" + linux},
		{list("firefox -P work", "lynx"), "linux", ", firefox -P work U, lynx U" + linux},
		{"firefox --url=%s --new", "linux", ", firefox --url=U --new" + linux},
		{program, "linux", ", " + program + " U" + linux},
		{"firefox $(id)", "linux", ", firefox $(id) U" + linux},
	} {
		got := ""
		for _, command := range browserCommands(test.browsers, "", test.system, "U") {
			got += ", " + strings.Join(command, " ")
		}
		if got != test.want {
			t.Errorf("%q on %s: got %q, want %q", test.browsers, test.system, got, test.want)
		}
	}
	if got := browserCommands("firefox -P %s", "", "linux", "U")[0]; !slices.Equal(got, []string{"firefox", "-P", "U"}) {
		t.Errorf("got %q", got)
	}
	if got := browserCommands(program, "", "linux", "U")[0]; !slices.Equal(got, []string{program, "U"}) {
		t.Errorf("got %q, want the program whose name has a blank", got)
	}
}

// Where one browser is not there or fails, the next is tried; that there is
// none reaches everybody who waits.
func TestBrowserFallsThrough(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	failing := filepath.Join(user.dir, "fails.exe")
	fatal(t, os.Symlink(testShared().binary, failing)) // a usage error of the program
	user.env["BROWSER"] = strings.Join([]string{"/nonexistent", failing + " --fail", testShared().browser + " %s"}, string(filepath.ListSeparator))
	user.start("-u", server.url).initialize()

	server, auth = startProtected(t)
	user = newUser(t, auth, server)
	user.env["BROWSER"], user.env["PATH"] = "/nonexistent", user.dir
	p, other := user.start("-u", server.url), user.start("-u", server.url)
	id, otherID := p.request("initialize", initializeParams), other.request("initialize", initializeParams)
	p.awaitStderr("no browser could be opened")
	other.awaitStderr("no browser could be opened")
	user.paste(p.awaitURL(1))
	p.result(id)
	other.result(otherID)
}

// 100 MB of metadata are given up after the first.
func TestHugeMetadata(t *testing.T) {
	const chunks = 100 // of 1 MiB
	chunk := bytes.Repeat([]byte(" "), 1<<20)
	for _, label := range []string{"PRM", "metadata", "register"} {
		label := label
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			var sent atomic.Int64
			huge := func(w http.ResponseWriter, r *fakeRequest) bool {
				w.Header().Set("Content-Type", "application/json")
				for i := 0; i < chunks; i++ {
					n, err := w.Write(chunk)
					if sent.Add(int64(n)); err != nil {
						return true
					}
				}
				return true
			}
			server.on(label, huge)
			auth.on(label, huge)
			wantRefusedSignIn(t, newUser(t, auth, server), server, "larger than 1 MiB")
			if got := sent.Load(); got > 32<<20 {
				t.Errorf("%d MiB were read, want hardly more than 1", got>>20)
			}
		})
	}
}

// A server that begins an answer and never ends it holds nobody up for longer
// than a sign-in may take (each document has a bound of its own: TestFetchIsBounded).
func TestSlowMetadata(t *testing.T) {
	for _, label := range []string{"PRM", "metadata", "register"} {
		label := label
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			slow := func(w http.ResponseWriter, r *fakeRequest) bool {
				io.WriteString(w, "{")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return true
			}
			server.on(label, slow)
			auth.on(label, slow)
			// In the foreground: who waits for a detached process may give up before that has begun.
			_, stderr, exit := newUser(t, auth, server).run("login", "-u", server.url, "--login-timeout", "500ms")
			if exit != 3 || !strings.Contains(stderr, "no answer in time") {
				t.Errorf("got exit code %d, %q", exit, stderr)
			}
		})
	}
}

// Metadata is not fetched from http, from other schemes, or in circles.
func TestHostileMetadataRedirects(t *testing.T) {
	plain := startOrigin(t, "plain")
	for name, target := range map[string]func(r *fakeRequest) string{
		"to http":         func(*fakeRequest) string { return plain.base + "/doc" },
		"to http by name": func(*fakeRequest) string { return "http://as.example/doc" },
		"to a file":       func(*fakeRequest) string { return "file:///etc/passwd" },
		"to a script":     func(*fakeRequest) string { return "javascript:alert(1)" },
		"in circles":      func(r *fakeRequest) string { return r.URL.Path + "?" + r.URL.RawQuery + "x" },
	} {
		for _, label := range []string{"PRM", "metadata"} {
			name, target, label := name, target, label
			t.Run(name+" "+label, func(t *testing.T) {
				t.Parallel()
				server, auth := startProtected(t)
				redirect := func(w http.ResponseWriter, r *fakeRequest) bool {
					w.Header().Set("Location", target(r))
					w.WriteHeader(http.StatusTemporaryRedirect)
					return true
				}
				server.on(label, redirect)
				auth.on(label, redirect)
				want := "the redirect's target"
				if name == "in circles" {
					want = "too many redirects"
				}
				wantRefusedSignIn(t, newUser(t, auth, server), server, want)
				if got := plain.labels(); len(got) != 0 {
					t.Errorf("http was used: %q", got)
				}
				if got := server.count("PRM") + auth.count("metadata"); got > 2*(maxMetadataHops+1) {
					t.Errorf("got %d requests", got)
				}
			})
		}
	}
}

// Metadata of another resource is a way to get another server's tokens
// (RFC 9728, section 7.3): nobody is asked for any.
func TestMetadataOfAnotherResource(t *testing.T) {
	for name, resource := range map[string]func(s *fakeMCP) string{
		"another origin":     func(*fakeMCP) string { return "https://bank.example/mcp" },
		"another port":       func(*fakeMCP) string { return "https://127.0.0.1:1/mcp" },
		"a deeper path":      func(s *fakeMCP) string { return s.url + "/admin" },
		"a sibling":          func(s *fakeMCP) string { return s.url + "2" },
		"the same over http": func(s *fakeMCP) string { return strings.Replace(s.url, "https", "http", 1) },
		"a host like ours":   func(s *fakeMCP) string { return strings.Replace(s.url, "/mcp", ".evil.example/mcp", 1) },
		"none":               func(*fakeMCP) string { return "" },
	} {
		resource := resource
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			server.prm = func(doc map[string]any) { doc["resource"] = resource(server) }
			wantRefusedSignIn(t, newUser(t, auth, server), server, "protected resource metadata is for")
			if got := auth.labels(); len(got) != 0 {
				t.Errorf("the authorization server was asked: %q", got)
			}
		})
	}
}

// An authorization server that says it is another one is not used at all
// (RFC 8414, section 3.3).
func TestMetadataOfAnotherIssuer(t *testing.T) {
	t.Parallel()
	server, honest := startProtected(t)
	evil := newFakeAuth(startOrigin(t))
	evil.metadata = func(doc map[string]any) {
		doc["issuer"], doc["authorization_endpoint"] = honest.issuer, honest.base+"/authorize"
	}
	server.prm = func(doc map[string]any) { doc["authorization_servers"] = []string{evil.issuer} }
	wantRefusedSignIn(t, newUser(t, evil, honest, server), server, "authorization server metadata is of issuer")
	if got := len(honest.labels()) + evil.count("register") + len(evil.sentForms()); got != 0 {
		t.Errorf("the honest server: got %q; the other: %q", honest.labels(), evil.labels())
	}
}

// Without PKCE a stolen code is worth a token (MCP 2026-07-28, Authorization
// Code Protection): no sign-in begins.
func TestServerWithoutPKCE(t *testing.T) {
	for name, methods := range map[string]any{"nothing said": nil, "plain alone": []string{"plain"}, "in small letters": []string{"s256"}} {
		methods := methods
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.metadata = func(doc map[string]any) {
				if doc["code_challenge_methods_supported"] = methods; methods == nil {
					delete(doc, "code_challenge_methods_supported")
				}
			}
			wantRefusedSignIn(t, newUser(t, auth, server), server, "does not offer PKCE with S256")
			if auth.count("register") != 0 {
				t.Errorf("got %q", auth.labels())
			}
		})
	}
}

// The mix-up (RFC 9207, section 1): a server sends the user to sign in at an
// honest one, in the hope of being brought the honest one's code.
func TestMixUp(t *testing.T) {
	t.Parallel()
	server, evil := startProtected(t)
	honest := newFakeAuth(startOrigin(t))
	honest.clients["of-the-attacker"] = &fakeClient{id: "of-the-attacker", method: "none"} // redirects to loopback
	evil.registered = func(doc map[string]any) { doc["client_id"] = "of-the-attacker" }
	evil.metadata = func(doc map[string]any) {
		doc["authorization_endpoint"] = honest.base + "/authorize"
		doc["authorization_response_iss_parameter_supported"] = false
	}
	user := newUser(t, evil, honest, server)
	p := user.start("-u", server.url)
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, "does not come from "+evil.issuer) {
		t.Errorf("got %q, want a word about the issuer", got.Message)
	}
	if got := honest.count("authorize"); got != 1 || len(evil.sentForms()) != 0 {
		t.Errorf("honest: got %q; evil: %q, want no request for a token", honest.labels(), evil.labels())
	}
	wantNothingOf(t, honest, evil.fakeOrigin)
}

// A server that says 401 for ever causes one refresh, one sign-in and an error.
func TestUnauthorizedForEver(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	server.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("WWW-Authenticate", bearerChallenge(server.base+server.prmPath, "invalid_token", "tools"))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	user := newUser(t, auth, server)
	user.remember(server)
	p := user.start("-u", server.url)
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, "401") {
		t.Errorf("got %q, want the status", got.Message)
	}
	if tokens := len(auth.sentForms()); auth.count("authorize") != 1 || tokens != 2 || server.count("initialize") != 3 || len(user.openings()) != 1 {
		t.Errorf("got %q, want the token, a refreshed one, one from a sign-in, and an end", fakeStory(server.fakeOrigin, auth.fakeOrigin))
	}
}

// What a server supplies and the program sends back in headers or parameters
// is sent as one value of that name, or not at all.
func TestInjection(t *testing.T) {
	t.Run("session id", func(t *testing.T) {
		for name, id := range map[string]string{
			"space": "a b", "tab": "a\tX-Injected: 1", "not ASCII": "\xff\xfe", "too long": strings.Repeat("x", maxSessionID+1),
		} {
			id := id
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, "http/1.1")
				server.sessions, server.lenient = false, true
				server.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
					answerRaw(w, "Mcp-Session-Id: "+id, r.msg.result(`{"protocolVersion":"2025-11-25"}`))
					return true
				})
				p := startProxy(t, "-u", server.url)
				p.initialize()
				p.echo("without a session")
				wantNoHeader(t, server.fakeOrigin, "Mcp-Session-Id")
			})
		}
	})
	t.Run("protocol version", func(t *testing.T) {
		t.Parallel()
		server := startMCP(t)
		server.lenient, server.version = true, "2025-11-25\r\nX-Injected: 1"
		p := startProxy(t, "-u", server.url)
		p.initialize()
		p.echo("without a version")
		wantNoHeader(t, server.fakeOrigin, "X-Injected", "Mcp-Protocol-Version")
	})
	t.Run("event id", func(t *testing.T) {
		t.Parallel()
		server := startMCP(t)
		server.reply("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
			startEvents(w).send("id: 1\x01X-Injected: 1\nretry: 10\ndata:")
			return true
		})
		p := startProxy(t, "-u", server.url)
		p.initialize()
		p.failure(p.request("tools/call", echoParams("breaks"))) // and is not resumed
		wantNoHeader(t, server.fakeOrigin, "X-Injected", "Last-Event-Id")
		var at cursor
		if at.move(&event{id: "1\x01X-Injected: 1", hasID: true}); at.id != "" {
			t.Errorf("the id %q is kept", at.id) // net/http would refuse it, at every attempt to resume
		}
	})
	t.Run("nonce", func(t *testing.T) {
		t.Parallel()
		server, auth := startProtected(t)
		for _, o := range []*fakeOrigin{server.fakeOrigin, auth.fakeOrigin} {
			o.on("*", func(w http.ResponseWriter, r *fakeRequest) bool {
				w.Header().Set("DPoP-Nonce", "SENTINEL")
				w.Header().Set("Authentication-Info", "nextnonce=SENTINEL")
				return false
			})
		}
		p := newUser(t, auth, server).start("-u", server.url)
		p.initialize()
		p.echo("no nonce")
		for _, o := range []*fakeOrigin{server.fakeOrigin, auth.fakeOrigin} {
			wantNothingOf(t, &fakeAuth{fakeOrigin: o}, o, "SENTINEL")
		}
	})
	t.Run("token", func(t *testing.T) {
		t.Parallel()
		server, auth := startProtected(t)
		auth.answers = func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
			reply.doc["access_token"] = "x\r\nX-Injected: 1"
			return false
		}
		p := newUser(t, auth, server).start("-u", server.url)
		if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, "no usable access token") {
			t.Errorf("got %q", got.Message)
		}
		wantNoHeader(t, server.fakeOrigin, "X-Injected", "Authorization")
	})
	t.Run("registration", func(t *testing.T) {
		for name, change := range map[string]map[string]any{
			"client id": {"client_id": "x\r\nX-Injected: 1"}, "client secret": {"client_secret": "x\r\nX-Injected: 1"},
		} {
			change := change
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				server, auth := startProtected(t)
				auth.registered = func(doc map[string]any) {
					for member, value := range change {
						doc[member] = value
					}
				}
				wantRefusedSignIn(t, newUser(t, auth, server), server, "no valid client_id and client_secret")
			})
		}
	})
	t.Run("parameters", func(t *testing.T) {
		t.Parallel()
		server, auth := startProtected(t)
		const scope = `tools&client_id=evil#x%26`
		auth.scope = scope
		auth.registered = func(doc map[string]any) {
			c := auth.clients[doc["client_id"].(string)]
			c.id = "id&redirect_uri=https://evil.example/%0d%0a"
			auth.clients[c.id], doc["client_id"] = c, c.id
		}
		server.challenge = func(string) string {
			return fmt.Sprintf(`Bearer realm="x\"\\", scope="%s", resource_metadata="%s"`, strings.Replace(scope, "&", `\&`, 1), server.base+server.prmPath)
		}
		newUser(t, auth, server).start("-u", server.url).initialize() // the fakes want each parameter once, and as it was
		if got := auth.asked("client_id"); len(got) != 1 || got[0] != "id&redirect_uri=https://evil.example/%0d%0a" {
			t.Errorf("client_id: got %q", got)
		}
	})
}

// answerRaw writes an HTTP/1.1 answer byte for byte.
func answerRaw(w http.ResponseWriter, header, body string) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", header, len(body), body)
}

func wantNoHeader(t *testing.T, o *fakeOrigin, names ...string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.seen {
		for _, name := range names {
			if got := r.Header.Values(name); len(got) != 0 {
				t.Errorf("%s: got %s: %q", r.label, name, got)
			}
		}
	}
}
