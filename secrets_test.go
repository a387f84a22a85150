package main

// Where tokens, codes and secrets do not go: other origins, errors, logs,
// traces, other files, the process list.

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// wantNothingOf looks for one server's secrets, and words, in all that another origin was sent.
func wantNothingOf(t *testing.T, owner *fakeAuth, other *fakeOrigin, words ...string) {
	t.Helper()
	other.mu.Lock()
	seen := slices.Clone(other.seen)
	other.mu.Unlock()
	for _, r := range seen {
		for _, secret := range append(owner.secrets(), words...) {
			for _, sent := range []string{r.URL.String(), string(r.body), fmt.Sprint(r.Header)} {
				if text, err := url.QueryUnescape(sent); strings.Contains(sent, secret) ||
					err == nil && strings.Contains(text, secret) {
					t.Errorf("%s of %s holds %.12s… of %s", r.label, other.base, secret, owner.base)
				}
			}
		}
	}
}

// The token goes to the MCP server's origin and nowhere else, whatever that server says.
func TestTokenGoesNowhereElse(t *testing.T) {
	redirect := func(status int, to string) func(server *fakeMCP, evil, plain *fakeOrigin) {
		return func(server *fakeMCP, evil, plain *fakeOrigin) {
			target := map[string]string{"evil": evil.base + "/mcp", "http": plain.base + "/mcp"}[to]
			server.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
				w.Header().Set("Location", target)
				w.WriteHeader(status)
				return true
			})
		}
	}
	for name, lure := range map[string]func(server *fakeMCP, evil, plain *fakeOrigin){
		"301":         redirect(301, "evil"),
		"302":         redirect(302, "evil"),
		"303":         redirect(303, "evil"),
		"307":         redirect(307, "evil"),
		"308":         redirect(308, "evil"),
		"307 to http": redirect(307, "http"),
		"HTTP+SSE endpoint": func(server *fakeMCP, evil, _ *fakeOrigin) {
			server.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return true
			})
			server.on("GET", func(w http.ResponseWriter, r *fakeRequest) bool {
				startEvents(w).send("event: endpoint\ndata: " + evil.base + "/messages")
				return true
			})
		},
	} {
		lure := lure
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			evil, plain := startOrigin(t), startOrigin(t, "plain")
			lure(server, evil, plain)
			user := newUser(t, auth, server)
			user.remember(server)
			p := user.start("-u", server.url)
			p.failure(p.request("initialize", initializeParams))
			if got := fakeStory(evil, plain); len(got) != 0 {
				t.Errorf("another origin was asked: %q", got)
			}
			if r := server.await("initialize", 1); !strings.HasPrefix(r.Header.Get("Authorization"),
				"Bearer ") {
				t.Errorf("the server itself got no token")
			}
		})
	}
}

// Whoever is asked for metadata, a registration or a token gets no access
// token, no cookie and no header of the user's; a redirect gets nothing at all.
func TestOthersAreToldNothing(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	gateway, evil := startOrigin(t), startOrigin(t)
	gateway.on("GET /prm", func(w http.ResponseWriter, r *fakeRequest) bool {
		writeJSON(w, http.StatusOK,
			map[string]any{"resource": server.resource,
				"authorization_servers": []string{auth.issuer}})
		return true
	})
	server.challenge = func(string) string {
		return bearerChallenge(gateway.base+"/prm",
			"invalid_token", "tools")
	}
	server.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
		http.SetCookie(w, &http.Cookie{Name: "SENTINEL-cookie", Value: "1", Path: "/"})
		return false
	})
	user := newUser(t, auth, server)
	user.remember(server)
	auth.expireAccess()
	var refreshes atomic.Int64
	auth.on("token refresh_token", func(w http.ResponseWriter, r *fakeRequest) bool {
		if refreshes.Add(1) == 1 {
			http.Redirect(w, r.Request, evil.base+"/token", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	p := user.start("-u", server.url, "-H", "X-Mine: SENTINEL-header")
	p.failure(p.request("initialize", initializeParams)) // the redirect is no answer
	auth.revokeAll()
	p.initialize()
	if got := evil.labels(); len(got) != 0 {
		t.Errorf("the redirect's target was asked: %q", got)
	}
	if gateway.count("GET /prm") != 1 {
		t.Errorf("gateway: got %q", gateway.labels())
	}
	for _, o := range []*fakeOrigin{gateway, auth.fakeOrigin} {
		o.mu.Lock()
		for _, r := range o.seen {
			if all := fmt.Sprint(r.Header); r.label != "authorize" &&
				(strings.Contains(all, "SENTINEL") || r.Header.Get("Authorization") != "") {
				t.Errorf("%s: got %v", r.label, r.Header)
			}
			if r.URL.RawQuery != "" && r.label != "authorize" {
				t.Errorf("%s: got the query %q", r.label, r.URL.RawQuery)
			}
		}
		o.mu.Unlock()
	}
	wantNothingOf(t, auth, gateway)
}

// A token endpoint that repeats what it was told, as many do to be helpful,
// does not bring it into an error, a log, a trace or the page.
func TestEchoedSecrets(t *testing.T) {
	for name, echo := range map[string]func(r *fakeRequest, form url.Values) (code,
		description string){
		"all of it": func(r *fakeRequest, _ url.Values) (string, string) {
			return "invalid_grant",
				string(r.body)
		},
		"the code, cut": func(_ *fakeRequest, f url.Values) (string, string) {
			return "invalid_grant", "bad code " + f.Get("code")[:20] + "..."
		},
		"the verifier": func(_ *fakeRequest, f url.Values) (string,
			string) {
			return "invalid_grant", f.Get("code_verifier")
		},
		"as error code": func(_ *fakeRequest, f url.Values) (string, string) {
			return f.Get("code"),
				""
		},
		"authentication": func(r *fakeRequest, _ url.Values) (string, string) {
			return "invalid_grant", r.Header.Get("Authorization")
		},
		"the secret": func(r *fakeRequest, _ url.Values) (string, string) {
			_, secret, _ := r.BasicAuth()
			return "invalid_grant", "got " + secret
		},
	} {
		echo := echo
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.methods = []string{"client_secret_basic"}
			var header string
			auth.answers = func(w http.ResponseWriter, r *fakeRequest, _ oauthReply) bool {
				form, _ := url.ParseQuery(string(r.body))
				code, description := echo(r, form)
				auth.change(func() {
					header = strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
					auth.known = append(auth.known, header) // the harness looks for it everywhere
				})
				writeJSON(w, http.StatusBadRequest,
					map[string]any{"error": code, "error_description": description})
				return true
			}
			user := newUser(t, auth, server)
			p := user.start("-u", server.url, "--log-level", "debug")
			got := p.failure(p.request("initialize", initializeParams))
			page := user.lastPage()
			p.closeStdin()
			p.wait()
			traces, _ := os.ReadFile(user.tracesFile())
			for _, secret := range auth.secrets() {
				piece := secret[len(secret)-20 : len(secret)-10]
				for where, text := range map[string]string{
					"the answer": got.Message, "stderr": printedURL.ReplaceAllString(p.stderr(),
						""), "the page": page.Body, "the traces": string(traces),
				} {
					if strings.Contains(text, piece) {
						t.Errorf("%s holds a piece of the secret %.10s…", where, secret)
					}
				}
			}
			if !strings.Contains(got.Message, "token endpoint of ") {
				t.Errorf("got %q", got.Message)
			}
		})
	}
}

// At the most talkative, through sign-in, refresh, step-up and failures, no
// secret is told (every test's end looks for them in stdout, stderr and
// traces), and the cache has them in the credentials file alone.
func TestSecretsStayInTheCredentialsFile(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope, auth.methods = anyValue, []string{"client_secret_post"}
	server.needs = map[string]string{"tools/call echo": "write"}
	user := newUser(t, auth, server)
	p := user.start("-u", server.url, "--log-level", "debug")
	p.initialize()
	p.echo("step up")
	auth.expireAccess()
	p.call("tools/list", "")
	p.closeStdin()
	p.wait()
	files, err := filepath.Glob(filepath.Join(user.cache, "*"))
	fatal(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		fatal(t, err)
		if file != user.credentialsFile(server.url) {
			text := strings.ReplaceAll(string(data), `\u0026`, "&")
			user.checkSecrets(filepath.Base(file), printedURL.ReplaceAllString(text, ""))
		}
		checkMode(t, file, 0o600)
	}
	if len(files) < 3 {
		t.Errorf("got %q, want credentials, traces and locks", files)
	}
}

// Where the system shows processes to everybody, it shows no secret: neither
// of the program, nor of the sign-in that it detached, nor of the browser.
func TestProcessListHoldsNoSecret(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	redirect := fmt.Sprintf("http://127.0.0.1:%d/cb", freePort(t))
	auth.methods = []string{"client_secret_post"}
	c := auth.addClient("the-client", "client_secret_post", redirect)
	user := newUser(t, auth, server)
	user.env["GOOGLE_CLIENT_ID"], user.env["GOOGLE_CLIENT_SECRET"] = c.id, c.secret
	user.remember(server) // its tokens must not show either
	auth.revokeAll()
	release := auth.hold("token authorization_code")
	p := user.start("-u", server.url, "--redirect-uri", redirect)
	id := p.request("initialize", initializeParams)
	auth.await("token authorization_code", 1) // now there are all three, and all secrets
	detached := 0
	for _, pid := range user.processes() {
		cmdline, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		fatal(t, err)
		args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
		user.checkSecrets("the process list", strings.Join(args, " "))
		if slices.Equal(args[1:], []string{detachedCommand}) {
			detached++
		}
	}
	if got := len(user.processes()); runtime.GOOS == "linux" && (got != 3 || detached != 1) {
		t.Errorf("got %d processes, %d of them the detached sign-in, want 3 and 1", got, detached)
	}
	release()
	p.result(id)
}

// The query of the server's URL may be a key: the sign-in names the server
// without it, to the user, to the browser and to the other processes.
func TestSignInNamesNoQuery(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.denies = true
	user := newUser(t, auth, server)
	keyed := server.url + "?key=topsecret"
	_, stderr, _ := user.run("login", "-u", keyed)
	note, err := os.ReadFile(strings.TrimSuffix(user.credentialsFile(keyed), ".json") + ".login")
	fatal(t, err)
	page := user.lastPage()
	if !strings.Contains(page.Body, "<span>login</span>") || !strings.Contains(string(note), "access_denied") {
		t.Errorf("got the page %q and the note %s", page.Body, note)
	}
	for where, text := range map[string]string{
		"stderr": stderr, "note": string(note), "browser": user.openings()[0], "page": page.URL + page.Body,
	} {
		if strings.Contains(text, "topsecret") {
			t.Errorf("%s: %s", where, text)
		}
	}
}
