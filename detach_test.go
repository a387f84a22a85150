package main

// Several processes of the program on one machine, and one user: hosts start
// copies, kill them and start them again, and the user signs in once. How
// tokens are refreshed is in oauth_test.go, what a process must not do in
// machine_linux_test.go.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testLogin is what the note of a sign-in says.
type testLogin struct {
	PID   int
	URL   string
	Ended time.Time
}

// login reads the note of the sign-in for a server.
func (u *testUser) login(server string) (note testLogin) {
	data, _ := os.ReadFile(strings.TrimSuffix(u.credentialsFile(server), ".json") + ".login")
	_ = json.Unmarshal(data, &note) // there may be none yet
	return note
}

// awaitLeader waits until a process other than that one leads the sign-in.
func (u *testUser) awaitLeader(server string, other int) (note testLogin) {
	u.t.Helper()
	eventually(u.t, "a process that leads the sign-in", func() bool {
		note = u.login(server)
		return note.PID != 0 && note.PID != other && note.URL != "" && note.Ended.IsZero()
	})
	return note
}

// awaitEnd waits until no process of this machine is left but the given ones,
// so that what they did can be counted.
func (u *testUser) awaitEnd(but ...*testProxy) {
	u.t.Helper()
	eventually(u.t, "the end of all other processes", func() bool {
		u.endPages()
		return !slices.ContainsFunc(u.processes(), func(pid string) bool {
			return !slices.ContainsFunc(but, func(p *testProxy) bool {
				return pid == fmt.Sprint(p.cmd.Process.Pid)
			})
		})
	})
}

// wantOneSignIn checks what the whole story cost.
func wantOneSignIn(t *testing.T, u *testUser, s *fakeMCP) {
	t.Helper()
	if got := len(u.openings()); got != 1 {
		t.Errorf("got %d browser windows, want 1", got)
	}
	for _, label := range []string{"metadata", "register", "authorize", "token authorization_code"} {
		if got := s.auth.count(label); got != 1 {
			t.Errorf("%s: got %d requests, want 1", label, got)
		}
	}
}

// killProcess is kill -9.
func killProcess(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	fatal(t, err)
	fatal(t, p.Kill())
}

func TestManyProcessesOneSignIn(t *testing.T) {
	for _, n := range []int{2, 5, 20} {
		n := n
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			release := server.hold("initialize") // so that all of them are told 401 at the same moment
			var all []*testProxy
			var ids []string
			for i := 0; i < n; i++ {
				p := user.start("-u", server.url)
				all, ids = append(all, p), append(ids, p.request("initialize", initializeParams))
			}
			server.await("initialize", n)
			release()
			for i, p := range all {
				p.result(ids[i])
				p.notify("notifications/initialized", "")
				p.echo("signed in")
			}
			user.awaitEnd(all...) // the detached process ended by itself
			wantOneSignIn(t, user, server)
		})
	}
}

// The host kills the copy that asked for the sign-in while the user still
// types: the page stays good, and another copy gets its answer.
func TestProxyKilledDuringSignIn(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	first := user.start("-u", server.url)
	first.request("initialize", initializeParams)
	page := user.awaitOpenings(1)
	second := user.start("-u", server.url)
	id := second.request("initialize", initializeParams)
	if got := second.awaitURL(1); got != first.awaitURL(1) {
		t.Errorf("the second process shows %q, want the page of the sign-in that is going on", got)
	}
	first.kill()
	if got := user.paste(page); got.Status != http.StatusOK {
		t.Errorf("last page: got status %d", got.Status)
	}
	second.result(id)
	user.awaitEnd(second)
	wantOneSignIn(t, user, server)

	before := len(auth.labels())
	user.start("-u", server.url).call("initialize", initializeParams)
	if got := auth.labels()[before:]; len(got) != 0 {
		t.Errorf("the next start: got %q, want nothing", got)
	}
}

// Nobody waits any more when the user signs in: the next start just works.
func TestSignInAfterTheHostLeft(t *testing.T) {
	for name, leave := range map[string]func(p *testProxy){
		"EOF":     func(p *testProxy) { p.closeStdin() },
		"SIGTERM": func(p *testProxy) { p.signal(syscall.SIGTERM) },
		"SIGKILL": func(p *testProxy) { p.change(func() { p.killed = true }); p.cmd.Process.Kill() },
	} {
		leave := leave
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			user.browser = "ignore"
			p := user.start("-u", server.url)
			p.request("initialize", initializeParams)
			page := user.awaitOpenings(1)
			leave(p)
			p.wait()
			if got := user.paste(page); got.Status != http.StatusOK {
				t.Errorf("last page: got status %d", got.Status)
			}
			user.awaitEnd()
			user.start("-u", server.url).call("initialize", initializeParams)
			wantOneSignIn(t, user, server)
		})
	}
}

// A host that only probes kills its copy at once: what it began goes on.
func TestProxyKilledAtOnce(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	release := server.hold("PRM")
	p := user.start("-u", server.url)
	p.request("initialize", initializeParams)
	server.await("PRM", 1) // the detached process has just begun
	p.kill()
	release()
	user.awaitEnd()
	user.start("-u", server.url).call("initialize", initializeParams)
	wantOneSignIn(t, user, server)
}

// The process that leads the sign-in dies: one of those who wait puts another
// in its place. There is no second window so soon, but everybody is shown the
// new page, and it works.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	first := user.start("-u", server.url)
	firstID := first.request("initialize", initializeParams)
	user.awaitOpenings(1)
	second := user.start("-u", server.url)
	secondID := second.request("initialize", initializeParams)
	first.awaitURL(1)
	second.awaitURL(1)

	old := user.awaitLeader(server.url, 0)
	killProcess(t, old.PID)
	note := user.awaitLeader(server.url, old.PID)
	for _, p := range []*testProxy{first, second} {
		if got := p.awaitURL(2); got != note.URL {
			t.Errorf("got %q, want the new page %q", got, note.URL)
		}
	}
	user.paste(note.URL)
	first.result(firstID)
	second.result(secondID)
	user.awaitEnd(first, second)
	registered, codes := auth.count("register"), auth.count("token authorization_code")
	if got := len(user.openings()); got != 1 || registered != 1 || codes != 1 {
		t.Errorf("got %d windows, %d registrations, %d codes, want 1 each", got, registered, codes)
	}
}

// A leader that always dies is not replaced for ever.
func TestLeaderAlwaysKilled(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	p := user.start("-u", server.url)
	id := p.request("initialize", initializeParams)
	leader := 0
	for i := 0; i < maxDetached; i++ {
		leader = user.awaitLeader(server.url, leader).PID
		killProcess(t, leader)
	}
	p.failure(id)
	if got := auth.count("register"); got != 1 {
		t.Errorf("got %d registrations, want 1", got)
	}
}

// While a detached process comes up, another one may have led and ended: then
// the user is not asked again.
func TestLeaderComesTooLate(t *testing.T) {
	for name, before := range map[string]func(u *testUser, s *fakeMCP){
		"the user signed in": func(u *testUser, s *fakeMCP) {
			u.start("-u", s.url).call("initialize", initializeParams)
		},
		"the user said no": func(u *testUser, s *fakeMCP) {
			s.auth.denies = true
			p := u.start("-u", s.url)
			p.failure(p.request("initialize", initializeParams))
		},
		"there is a token": func(u *testUser, s *fakeMCP) { u.remember(s) },
	} {
		before := before
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			before(user, server)
			user.awaitEnd(user.started...)
			seen, windows := len(fakeStory(server.fakeOrigin, auth.fakeOrigin)), len(user.openings())
			args := []string{"-u", server.url, "--login-timeout", "5m"}
			order, err := json.Marshal(detachedOrder{Args: args})
			fatal(t, err)
			late := user.command(detachedCommand)
			late.Stdin = strings.NewReader(string(order))
			if out, err := late.CombinedOutput(); err != nil || string(out) != detachedReady {
				t.Errorf("got %q (%v), want %q", out, err, detachedReady)
			}
			story := fakeStory(server.fakeOrigin, auth.fakeOrigin)[seen:]
			if more := len(user.openings()) - windows; len(story) != 0 || more != 0 {
				t.Errorf("got %q and %d windows, want nothing more", story, more)
			}
		})
	}
}

// The note of an old sign-in is no news, whatever the clock says now.
func TestNoteFromTheFuture(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	fatal(t, os.Mkdir(user.cache, 0o700))
	tomorrow := time.Now().Add(24 * time.Hour)
	data, err := json.Marshal(loginState{
		Entry: storeKey{Server: server.url}.hash(), PID: 1, Started: tomorrow, Ended: tomorrow,
		signInPage: signInPage{URL: "https://old.example/?response_type=code"},
		Error:      "of long ago", Window: tomorrow,
	})
	fatal(t, err)
	note := strings.TrimSuffix(user.credentialsFile(server.url), ".json") + ".login"
	fatal(t, os.WriteFile(note, data, 0o600))
	p := user.start("-u", server.url)
	p.initialize()
	if strings.Contains(p.stderr(), "old.example") {
		t.Error("the page of a sign-in that ended was shown")
	}
	wantOneSignIn(t, user, server)
}

// What the user did is of no use when it cannot be stored: then both are told.
func TestTokenCannotBeStored(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	p := user.start("-u", server.url)
	id := p.request("initialize", initializeParams)
	page := user.awaitOpenings(1)
	file := user.credentialsFile(server.url)
	fatal(t, os.Remove(file)) // it holds the registration
	fatal(t, os.MkdirAll(filepath.Join(file, "not empty"), 0o700))
	if got := user.paste(page); got.Status == http.StatusOK {
		t.Errorf("last page: got status %d", got.Status)
	}
	if got := p.failure(id); !strings.Contains(got.Message, "cannot be stored") {
		t.Errorf("got %q, want a word about the cache", got.Message)
	}
}

// The program was replaced or removed while it ran: the sign-in runs in the
// process that needs it, and the others wait for that one.
func TestNoDetachedProcess(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a program that runs cannot be removed there")
	}
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	user.binary, user.env[testRole] = filepath.Join(user.dir, "program.exe"), "proxy"
	// Another name, not a copy: while one is written, a process that another test starts holds it
	// open, and Linux runs no program that is open for writing.
	if os.Link(testShared().binary, user.binary) != nil {
		program, err := os.ReadFile(testShared().binary)
		fatal(t, err)
		fatal(t, os.WriteFile(user.binary, program, 0o700))
	}
	first, second := user.start("-u", server.url), user.start("-u", server.url)
	fatal(t, os.Remove(user.binary))
	firstID := first.request("initialize", initializeParams)
	page := user.awaitOpenings(1)
	first.awaitStderr("the sign-in runs in this process")
	secondID := second.request("initialize", initializeParams)
	if got, want := second.awaitURL(1), first.awaitURL(1); got != want {
		t.Errorf("the second process shows %q, want %q", got, want)
	}
	user.paste(page)
	first.result(firstID)
	second.result(secondID)
	wantOneSignIn(t, user, server)
}

// What is named relative to the host's working directory is found, although
// the detached process leaves it.
func TestRelativePaths(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	pem, err := os.ReadFile(testShared().pki.file)
	fatal(t, err)
	fatal(t, os.WriteFile(filepath.Join(user.dir, "ca.pem"), pem, 0o600))
	user.env["MCP_PROXY_CACHE_DIR"] = filepath.Base(user.cache)
	user.env["SSL_CERT_FILE"], user.env["SSL_CERT_DIR"] = "ca.pem", ""
	user.env["BROWSER"] = filepath.Join("bin", "browser.exe")
	fatal(t, os.Mkdir(filepath.Join(user.dir, "bin"), 0o700))
	if os.Symlink(testShared().browser, filepath.Join(user.dir, user.env["BROWSER"])) != nil { // Windows may forbid it
		fatal(t, os.Link(testShared().browser, filepath.Join(user.dir, user.env["BROWSER"])))
	}
	p := user.start("-u", server.url)
	p.initialize()
	user.awaitEnd(p)
	wantOneSignIn(t, user, server)
	checkMode(t, user.credentialsFile(server.url), 0o600)
}

// A window that led to a token does not count against the next one.
func TestSecondSignInWithinAMinute(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("used")
	auth.revokeAll()
	p.echo("again")
	user.awaitEnd(p)
	if got := len(user.openings()); got != 2 {
		t.Errorf("got %d browser windows, want 2", got)
	}
}

// One that led to none does, in whatever process; but login always opens one.
func TestOneWindowAMinute(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "deny"
	p := user.start("-u", server.url)
	p.failure(p.request("initialize", initializeParams))
	user.awaitEnd(p)
	command := pageCommand("mcp-proxy login -u " + server.url)
	page := user.lastPage().Body
	for _, want := range []string{"Sign-in cancelled", "Nothing was changed.", command} {
		if !strings.Contains(page, want) {
			t.Errorf("got the page %q, want %q in it", page, want)
		}
	}
	user.browser = "consent"
	p = user.start("-u", server.url)
	id := p.request("initialize", initializeParams)
	p.awaitStderr("the next one opens in")
	if got := len(user.openings()); got != 1 {
		t.Errorf("got %d browser windows, want 1", got)
	}
	user.cancelSignIn(p.awaitURL(1))
	p.failure(id)
	user.awaitEnd(user.started...)
	if _, stderr, exit := user.run("login", "-u", server.url); exit != 0 {
		t.Errorf("login: got exit code %d, %s", exit, stderr)
	}
	if got := len(user.openings()); got != 2 {
		t.Errorf("got %d browser windows, want another one for login", got)
	}
}

// One refusal is the answer to everybody who waited for it, and nobody is
// asked again until a new message wants it.
func TestDenialIsShared(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	release := server.hold("initialize")
	var all []*testProxy
	var ids []string
	for i := 0; i < 4; i++ {
		p := user.start("-u", server.url)
		all, ids = append(all, p), append(ids, p.request("initialize", initializeParams))
	}
	server.await("initialize", len(all))
	release()
	for _, p := range all {
		p.awaitURL(1) // it waits
	}
	user.cancelSignIn(all[0].awaitURL(1))
	for i, p := range all {
		if got := p.failure(ids[i]); !strings.Contains(got.Message, "access_denied") {
			t.Errorf("got %q, want access_denied", got.Message)
		}
	}
	user.awaitEnd(all...)
	if got := auth.count("register"); got != 1 || len(user.openings()) != 1 {
		t.Errorf("got %d registrations and %d windows, want 1 each", got, len(user.openings()))
	}
}

// Two accounts on one server, side by side.
func TestProfilesDoNotMix(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	tokens := map[string]string{}
	profiles := []string{"", "work", "home"}
	var all []*testProxy
	for _, profile := range profiles {
		args := []string{"-u", server.url}
		if profile != "" {
			args = append(args, "--profile", profile)
		}
		all = append(all, user.start(args...))
	}
	var ids []string
	for _, p := range all {
		ids = append(ids, p.request("initialize", initializeParams))
	}
	for i, p := range all {
		p.result(ids[i])
		p.notify("notifications/initialized", "")
		p.echo("for " + profiles[i])
		id := server.url
		if profiles[i] != "" {
			id += "#" + profiles[i]
		}
		tokens[accessTokenIn(t, user.credentialsFile(id))] = "for " + profiles[i]
	}
	if len(tokens) != 3 || len(user.openings()) != 3 {
		t.Errorf("got %d accounts after %d windows, want 3 each", len(tokens), len(user.openings()))
	}
	for _, r := range server.requests("tools/call echo") {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if got := r.msg.params().Arguments.Text; got != tokens[token] {
			t.Errorf("the call %q came with the token %q", got, tokens[token])
		}
	}
}

func accessTokenIn(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	fatal(t, err)
	var doc struct {
		Token struct {
			Access string `json:"access_token"`
		}
	}
	fatal(t, json.Unmarshal(data, &doc))
	return doc.Token.Access
}

// The user removes the cache under running processes: they sign in and refresh
// as before, and what they keep is there for the next.
func TestCacheRemovedWhileRunning(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.remember(server)
	p, other := user.start("-u", server.url), user.start("-u", server.url)
	p.initialize()
	other.initialize()
	removeCache(t, user)
	auth.expireAccess()
	p.echo("refreshed with what the process remembers")
	other.echo("refreshed by the other process")
	checkMode(t, user.cache, 0o700)
	checkMode(t, user.credentialsFile(server.url), 0o600)
	if got := auth.count("token refresh_token"); got != 1 || auth.reuses != 0 {
		t.Errorf("got %d refreshes, %d of them with a used token, want 1 and 0", got, auth.reuses)
	}
	removeCache(t, user)
	auth.revokeAll()
	p.echo("signed in again")
	other.echo("and so is the other")
	if got := len(user.openings()); got != 1 {
		t.Errorf("got %d browser windows, want 1", got)
	}
	if locks, _ := filepath.Glob(filepath.Join(user.cache, "*.lock")); len(locks) != 2 {
		t.Errorf("got the locks %q, want 2", locks)
	}
}

// The user removes the cache, and the lock in it, while the sign-in page is open:
// another window comes up.
func TestCacheRemovedDuringSignIn(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a file that is locked cannot be removed there")
	}
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	p := user.start("-u", server.url)
	id := p.request("initialize", initializeParams)
	user.awaitOpenings(1)
	first := p.awaitURL(1)
	defer func() { // nobody finds its page by a note any more
		user.cancelSignIn(first)
		makeWay(redirectOf(first))
	}()
	removeCache(t, user)
	if got := user.paste(user.awaitOpenings(2)); got.Status != http.StatusOK {
		t.Errorf("the page ended with status %d", got.Status)
	}
	p.result(id)
}

// Credentials that cannot be replaced: a newer version's file, or something
// that is no file. The session works, and the file stays as it is.
func TestCredentialsThatStay(t *testing.T) {
	for name, put := range map[string]func(file string) error{
		"newer version": func(file string) error {
			return os.WriteFile(file, []byte(`{"version":99}`), 0o600)
		},
		"directory": func(file string) error {
			return os.MkdirAll(filepath.Join(file, "not empty"), 0o700)
		},
	} {
		put := put
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			fatal(t, os.Mkdir(user.cache, 0o700))
			file := user.credentialsFile(server.url)
			fatal(t, put(file))
			p := user.start("-u", server.url)
			p.initialize()
			p.echo("in memory")
			auth.expireAccess()
			p.echo("refreshed in memory")
			if got := linesWith(p.stderr(), filepath.Base(file)); got == 0 || got > 2 {
				t.Errorf("stderr speaks of the file %d times, want a word about it", got)
			}
			if info, err := os.Lstat(file); err != nil || info.Size() > 20 && !info.IsDir() {
				t.Errorf("the file was replaced: %v, %v", info, err)
			}
			wantOneSignIn(t, user, server)
		})
	}
}

// removeCache removes the directory in one step: a process may write in it meanwhile.
func removeCache(t *testing.T, user *testUser) {
	t.Helper()
	gone := filepath.Join(t.TempDir(), "gone")
	fatal(t, os.Rename(user.cache, gone))
	fatal(t, os.RemoveAll(gone))
}
