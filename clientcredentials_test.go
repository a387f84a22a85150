package main

// A machine that is its own user: the client credentials grant.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

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
