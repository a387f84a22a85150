package main

// Tokens across requests and time: one refresh for all who want it, none that
// gets lost, and no sign-in for what is only the network's trouble. What many
// processes do with one token is in soak_test.go.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startModernProtected is a protected server without sessions, so that calls need no initialize.
func startModernProtected(t testing.TB) (*fakeMCP, *fakeAuth) {
	server, auth := startProtected(t)
	server.sessions = false
	return server, auth
}

// modernEcho calls echo in the way of revision 2026-07-28.
func (p *testProxy) modernEcho(text string) (id string) {
	p.t.Helper()
	return p.modern("tools/call", fmt.Sprintf(`"name":"echo","arguments":{"text":%q}`, text))
}

// modernEchoes calls echo n times at once; all must be answered well.
func (p *testProxy) modernEchoes(n int) (check func()) {
	p.t.Helper()
	var ids []string
	for i := 0; i < n; i++ {
		ids = append(ids, p.modernEcho(fmt.Sprint(i)))
	}
	return func() {
		p.t.Helper()
		for i, id := range ids {
			p.echoed(id, fmt.Sprint(i))
		}
	}
}

// ended is closed when the process has ended.
func (p *testProxy) ended() <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		ctx, cancel := patience()
		defer cancel()
		p.watched.wait(ctx, func() bool { return p.exited })
		close(ended)
	}()
	return ended
}

// cancelled is what a host says that has lost interest in a request.
func (p *testProxy) cancelled(id string) {
	p.t.Helper()
	p.change(func() { delete(p.sent, id) })
	p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s,%s}`, id, modernMeta))
}

// lifeless is an edit for remember: nobody knows when the token expires.
func lifeless(doc map[string]any) {
	delete(doc["token"].(map[string]any), "expires_at")
}

// due is an edit for remember: the token is still good, and soon no more.
func due(doc map[string]any) {
	token := doc["token"].(map[string]any)
	token["obtained_at"] = time.Now().Add(-time.Hour).UTC()
	token["expires_at"] = time.Now().Add(30 * time.Second).UTC()
}

// wantRefreshes checks how many refreshes there were, and that the user noticed nothing.
func wantRefreshes(t *testing.T, u *testUser, a *fakeAuth, want int) {
	t.Helper()
	if got := a.count("token refresh_token"); got != want {
		t.Errorf("got %d refreshes, want %d", got, want)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reuses != 0 {
		t.Errorf("a refresh token was used %d times too often", a.reuses)
	}
	if got := len(u.openings()); got != 0 {
		t.Errorf("got %d browser windows, want 0", got)
	}
}

func TestManyCallsOneRefresh(t *testing.T) {
	const calls = 50
	for name, test := range map[string]struct {
		edit func(doc map[string]any)
		sent int // POSTs to the server
		slow bool
	}{
		"just expired":           {expired, calls, false},
		"just expired, slow":     {expired, calls, true},
		"no expires_in":          {lifeless, 2 * calls, false},
		"no expires_in, slow":    {lifeless, 2 * calls, true},
		"expired at the server":  {nil, 2 * calls, true},
		"about to expire":        {due, calls, false},
		"about to expire, slow ": {due, calls, true},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			user := newUser(t, auth, server)
			if test.edit == nil {
				user.remember(server)
			} else {
				user.remember(server, test.edit)
			}
			auth.expiresIn = nil
			answer := func() {}
			if test.slow {
				answer = auth.answerLate("token refresh_token")
			}
			p := user.start("-u", server.url)
			if test.sent > calls {
				auth.expireAccess()
				release := server.hold("tools/call echo") // none of them may know of the others' 401
				check := p.modernEchoes(calls)
				server.await("tools/call echo", calls)
				release()
				auth.await("token refresh_token", 1)
				answer()
				check()
			} else {
				check := p.modernEchoes(calls)
				auth.await("token refresh_token", 1)
				answer()
				check()
			}
			wantRefreshes(t, user, auth, 1)
			if got := server.count("tools/call echo"); got != test.sent {
				t.Errorf("the server got %d calls, want %d", got, test.sent)
			}
		})
	}
}

func TestRefreshTokenRevoked(t *testing.T) {
	t.Parallel()
	server, auth := startModernProtected(t)
	user := newUser(t, auth, server)
	user.remember(server)
	auth.revokeAll()
	p := user.start("-u", server.url)
	release := server.hold("tools/call echo")
	check := p.modernEchoes(20)
	server.await("tools/call echo", 20)
	release()
	check()
	user.awaitEnd(p)
	if len(user.openings()) != 1 || auth.count("authorize") != 1 || auth.count("token authorization_code") != 1 || auth.count("token refresh_token") != 1 {
		t.Errorf("got %d windows and %q, want one refresh and one sign-in", len(user.openings()), auth.labels())
	}
}

// invalid_grant may mean that somebody else, who shares the cache and not the
// locks, was faster: what he stored is used.
func TestInvalidGrantReadsAgain(t *testing.T) {
	for name, edit := range map[string]func(doc map[string]any){"by the clock": expired, "by 401": lifeless} {
		edit := edit
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			user := newUser(t, auth, server)
			user.remember(server, edit)
			auth.expireAccess()
			auth.on("token refresh_token", func(w http.ResponseWriter, _ *fakeRequest) bool {
				user.remember(server)
				writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
				return true
			})
			user.start("-u", server.url).modernEchoes(1)()
			wantRefreshes(t, user, auth, 1)
		})
	}
}

// While the token endpoint is out of order a request gets an error, soon, the
// refresh token is kept, and nobody is bothered with a browser.
func TestTokenEndpointOutOfOrder(t *testing.T) {
	say := func(status int, body string) fakeAnswer {
		return func(w http.ResponseWriter, _ *fakeRequest) bool {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	for name, test := range map[string]struct {
		answer fakeAnswer // nil: nobody listens there
		tries  int        // token requests for all the calls, which wait for one another
	}{
		"500":         {say(500, "<html>oops</html>"), maxTokenAttempts},
		"503":         {say(503, ""), maxTokenAttempts},
		"429":         {say(429, `{"error":"slow_down"}`), maxTokenAttempts},
		"unavailable": {say(400, `{"error":"temporarily_unavailable"}`), maxTokenAttempts},
		"html":        {say(404, "<html>not here</html>"), 1},
		"hung up":     {func(http.ResponseWriter, *fakeRequest) bool { panic(http.ErrAbortHandler) }, 1},
		"refused":     {nil, 0},
	} {
		for kind, edit := range map[string]func(doc map[string]any){"by the clock": expired, "by 401": lifeless} {
			test, kind, edit := test, kind, edit
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				server, auth := startModernProtected(t)
				user := newUser(t, auth, server)
				out := true
				if test.answer != nil {
					auth.on("token refresh_token", func(w http.ResponseWriter, r *fakeRequest) bool {
						auth.mu.Lock()
						now := out
						auth.mu.Unlock()
						return now && test.answer(w, r)
					})
				}
				user.remember(server, edit, func(doc map[string]any) {
					if test.answer == nil {
						doc["token_endpoint"] = fmt.Sprintf("https://127.0.0.1:%d/token", freePort(t))
					}
				})
				auth.expireAccess()
				before, err := os.ReadFile(user.credentialsFile(server.url))
				fatal(t, err)
				p := user.start("-u", server.url)
				began := time.Now()
				release := server.hold("tools/call echo")
				var ids []string
				for i := 0; i < 20; i++ {
					ids = append(ids, p.modernEcho("x"))
				}
				if kind == "by 401" {
					server.await("tools/call echo", 20)
				}
				release()
				for _, id := range ids {
					p.failure(id)
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("20 calls were refused after %v", took)
				}
				// A call whose turn comes after a refusal asks again: on a busy machine a few do.
				if got, most := auth.count("token refresh_token"), len(ids)/4*test.tries; got < test.tries || got > most {
					t.Errorf("got %d token requests, want %d to %d", got, test.tries, most)
				}
				after, err := os.ReadFile(user.credentialsFile(server.url))
				fatal(t, err)
				if string(before) != string(after) {
					t.Errorf("the credentials changed")
				}
				auth.change(func() { out = false })
				if test.answer != nil {
					p.modernEchoes(1)()
				}
				if got := len(user.openings()); got != 0 || auth.reuses != 0 {
					t.Errorf("got %d browser windows and %d reuses, want none", got, auth.reuses)
				}
			})
		}
	}
}

// A token that is good for another while is sent, whatever the token endpoint
// does, and a broken one is not asked at every call.
func TestStillGoodTokenIsSent(t *testing.T) {
	for name, answer := range map[string]fakeAnswer{
		"hangs":        nil,
		"out of order": func(w http.ResponseWriter, _ *fakeRequest) bool { w.WriteHeader(500); return true },
		"rejects": func(w http.ResponseWriter, _ *fakeRequest) bool {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
			return true
		},
	} {
		name, answer := name, answer
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			user := newUser(t, auth, server)
			user.remember(server, due)
			tries := 1
			if name == "out of order" {
				tries = maxTokenAttempts
			}
			if answer == nil {
				release := auth.hold("token refresh_token")
				defer release()
			} else {
				auth.on("token refresh_token", answer)
			}
			p := user.start("-u", server.url)
			for i := 0; i < 10; i++ {
				p.modernEchoes(1)()
			}
			auth.await("token refresh_token", tries)
			for i := 0; i < 20; i++ {
				p.modernEchoes(1)()
			}
			p.kill()
			if got := auth.count("token refresh_token"); got != tries {
				t.Errorf("got %d token requests, want %d", got, tries)
			}
		})
	}
}

// A refresh that has begun is brought to its end, whoever has lost interest in
// it: the authorization server may have taken the old refresh token back.
func TestRefreshIsNotLost(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(doc map[string]any)
		end  func(p *testProxy, id string)
	}{
		"cancelled": {expired, func(p *testProxy, id string) { p.cancelled(id) }},
		"SIGTERM":   {expired, func(p *testProxy, id string) { p.signal(syscall.SIGTERM); p.failure(id) }},
		"EOF":       {expired, func(p *testProxy, _ string) { p.closeStdin() }},
		"EOF after the last answer": {due, func(p *testProxy, id string) {
			p.echoed(id, "x")
			p.closeStdin()
			select { // the token endpoint is slow, and nothing else is to be done
			case <-p.ended():
			case <-time.After(endTime + time.Second/2):
			}
		}},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			user := newUser(t, auth, server)
			user.remember(server, test.edit)
			old := accessTokenIn(t, user.credentialsFile(server.url))
			answer := auth.answerLate("token refresh_token")
			p := user.start("-u", server.url)
			id := p.modernEcho("x")
			auth.await("token refresh_token", 1)
			test.end(p, id)
			if name == "cancelled" {
				next := p.modernEcho("x")
				answer()
				p.echoed(next, "x")
			} else {
				answer()
				p.wait()
				p = user.start("-u", server.url)
			}
			// It is good for messages of this process a moment before it is in the file.
			eventually(t, "the new token in the file", func() bool { return accessTokenIn(t, user.credentialsFile(server.url)) != old })
			p.modernEchoes(1)()
			wantRefreshes(t, user, auth, 1)
		})
	}
}

func TestDue(t *testing.T) {
	now := time.Date(2026, 7, 28, 12, 0, 0, 0, time.UTC)
	at := func(offset time.Duration) time.Time { return now.Add(offset) }
	for _, test := range []struct {
		name             string
		obtained, expiry time.Time
		want             bool
	}{
		{"an hour, fresh", at(0), at(time.Hour), false},
		{"an hour, 61 s left", at(61*time.Second - time.Hour), at(61 * time.Second), false},
		{"an hour, 60 s left", at(60*time.Second - time.Hour), at(60 * time.Second), true},
		{"30 s, fresh", at(0), at(30 * time.Second), false},
		{"30 s, 4 s left", at(-26 * time.Second), at(4 * time.Second), false},
		{"30 s, 3 s left", at(-27 * time.Second), at(3 * time.Second), true},
		{"2 s, fresh", at(0), at(2 * time.Second), false},
		{"expired long ago", at(-1000 * time.Hour), at(-999 * time.Hour), true},
		{"expires in two hundred years", at(0), at(200 * 365 * 24 * time.Hour), false},
		{"unknown expiry", at(0), time.Time{}, false},
		{"unknown beginning", time.Time{}, at(time.Hour), false},
		{"unknown beginning, a minute left", time.Time{}, at(time.Minute), true},
		{"obtained in the future: the clock was set back", at(24 * time.Hour), at(25 * time.Hour), false},
		{"obtained after it expires", at(2 * time.Hour), at(time.Hour), false},
		{"obtained after it expires, a minute left", at(2 * time.Hour), at(time.Minute), true},
	} {
		if got := (token{Access: "a", Obtained: test.obtained, Expiry: test.expiry}).due(now); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// The monotonic clock stands still while the machine sleeps: a token that it
// measured would be young when its time is over.
func TestTokenTimesAreOfTheWallClock(t *testing.T) {
	got, err := parseTokenAnswer(http.StatusOK, []byte(`{"access_token":"a","token_type":"bearer","expires_in":3600}`), time.Now(), false)
	fatal(t, err)
	for _, at := range []time.Time{got.Obtained, got.Expiry} {
		if strings.Contains(at.String(), "m=") {
			t.Errorf("got %v, which has a monotonic reading", at)
		}
	}
}

// Times that no clock of this machine has made: the server's word counts.
func TestClockJumps(t *testing.T) {
	for name, test := range map[string]struct {
		obtained, expires time.Duration // from now
		refreshes         int
	}{
		"expired years ago":        {-20 * 365 * 24 * time.Hour, -20*365*24*time.Hour + time.Hour, 1},
		"good for a hundred years": {0, 100 * 365 * 24 * time.Hour, 1},
		"obtained tomorrow":        {24 * time.Hour, 25 * time.Hour, 1},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			user := newUser(t, auth, server)
			user.remember(server, func(doc map[string]any) {
				token := doc["token"].(map[string]any)
				token["obtained_at"] = time.Now().Add(test.obtained).UTC()
				token["expires_at"] = time.Now().Add(test.expires).UTC()
			})
			auth.expireAccess()
			p := user.start("-u", server.url)
			p.modernEchoes(1)()
			p.modernEchoes(1)()
			wantRefreshes(t, user, auth, test.refreshes)
			var doc struct {
				Token struct{ Expires_at time.Time }
			}
			data, err := os.ReadFile(user.credentialsFile(server.url))
			fatal(t, err)
			fatal(t, json.Unmarshal(data, &doc))
			if left := time.Until(doc.Token.Expires_at); left < 50*time.Minute || left > time.Hour {
				t.Errorf("the new token expires in %v, want an hour", left)
			}
		})
	}
}

// Entra ID refuses a refresh without scope, others one with it: it costs one request, once.
func TestScopeAtRefresh(t *testing.T) {
	for name, test := range map[string]struct {
		without, with string // the error of a refresh without scope and with it; "": it works
		want          []string
	}{
		"Entra ID":      {"invalid_request", "", []string{"", "tools", "tools"}},
		"invalid_scope": {"invalid_scope", "", []string{"", "tools", "tools"}},
		"others":        {"", "invalid_scope", []string{"", ""}},
		"neither":       {"invalid_request", "invalid_grant", []string{"", "tools"}},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.on("token refresh_token", func(w http.ResponseWriter, r *fakeRequest) bool {
				form, _ := url.ParseQuery(string(r.body))
				code := test.without
				if form.Has("scope") {
					code = test.with
				}
				if code != "" {
					writeJSON(w, http.StatusBadRequest, map[string]any{"error": code, "error_description": "AADSTS90009"})
				}
				return code != ""
			})
			user := newUser(t, auth, server)
			user.remember(server)
			p := user.start("-u", server.url)
			p.initialize()
			signIns := 0
			for i := 0; i < 2 && signIns == 0; i++ {
				auth.expireAccess()
				p.echo("refreshed")
				signIns = auth.count("authorize")
			}
			var got []string
			for _, r := range auth.requests("token refresh_token") {
				form, _ := url.ParseQuery(string(r.body))
				got = append(got, form.Get("scope"))
			}
			wantValues(t, "scope", got, test.want...)
			if refused := test.without != "" && test.with != ""; (signIns == 1) != refused {
				t.Errorf("got %d sign-ins", signIns)
			}
		})
	}
}
