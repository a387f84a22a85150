package main

// How a token is kept good, what a 401 or 403 leads to, and what is not tried again, against the
// real program.

import (
	"encoding/json"
	"fmt"
	"io"
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

// A request that needs more scopes gets them, and none of the earlier ones is lost.
func TestStepUp(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope = anyValue
	server.needs = map[string]string{"tools/call echo": "write", "tools/list": "admin", "notifications/roots/list_changed": "roots"}
	user := newUser(t, auth, server)
	user.remember(server)
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("may I")
	wantValues(t, "scope", auth.asked("scope"), "tools write")
	p.call("tools/list", "")
	p.echo("still")
	wantValues(t, "scope", auth.asked("scope"), "tools write", "tools write admin")
	p.notify("notifications/roots/list_changed", "") // any message may need it
	server.await("notifications/roots/list_changed", 2)
	wantValues(t, "scope", auth.asked("scope"), "tools write", "tools write admin", "tools write admin roots")
	if got := auth.count("register"); got != 0 {
		t.Errorf("got %d registrations, want 0", got)
	}

	again := user.start("-u", server.url)
	again.initialize()
	again.echo("all of it is in the store")
	if got := auth.count("authorize"); got != 3 {
		t.Errorf("got %d sign-ins, want 3", got)
	}
}

// A 401 may name further scopes as well, and --scope is no reason to fail for good.
func TestStepUpByUnauthorized(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.scope = anyValue
	user := newUser(t, auth, server)
	p := user.start("-u", server.url, "--scope", "mine")
	p.initialize()
	server.change(func() { server.scope = "tools admin" })
	server.on("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
		granted, _ := auth.validate(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), server.resource)
		if hasScopes(granted, "admin") {
			return false
		}
		w.Header().Set("WWW-Authenticate", bearerChallenge(server.base+server.prmPath, "insufficient_scope", "tools admin"))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	p.echo("more")
	wantValues(t, "scope", auth.asked("scope"), "mine", "mine tools admin")
}

// A server that is never satisfied gets a few attempts; then its own error is the answer.
func TestStepUpIsBounded(t *testing.T) {
	for name, test := range map[string]struct {
		scope   func(n int) string // challenged the nth time
		reason  string
		signIns int
	}{
		"more every time":   {func(n int) string { return fmt.Sprintf("scope-%d", n) }, "insufficient_scope", maxStepUps},
		"never granted":     {func(int) string { return "write" }, "insufficient_scope", 1},
		"asked for already": {func(int) string { return "tools" }, "insufficient_scope", 0},
		"no scope named":    {func(int) string { return "" }, "insufficient_scope", 0},
		"forbidden":         {func(int) string { return "write" }, "invalid_request", 0},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			auth.scope = anyValue
			user := newUser(t, auth, server)
			user.remember(server)
			refusals := 0
			server.reply("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
				refusals++ // one call at a time
				w.Header().Set("WWW-Authenticate", bearerChallenge(server.base+server.prmPath, test.reason, test.scope(refusals)))
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, r.msg.failure(-32099, "the server's own words"))
				return true
			})
			p := user.start("-u", server.url)
			p.initialize()
			if got := p.failure(p.request("tools/call", echoParams("no"))); got.Code != -32099 || got.Message != "the server's own words" {
				t.Errorf("got %d %q, want the server's own error", got.Code, got.Message)
			}
			if got := auth.count("authorize"); got != test.signIns || refusals != test.signIns+1 {
				t.Errorf("got %d sign-ins and %d attempts, want %d and %d", got, refusals, test.signIns, test.signIns+1)
			}
		})
	}
}

// A sign-in is not repeated while the last one cannot have been enough.
func TestMaySignIn(t *testing.T) {
	const never = time.Duration(1<<63 - 1)
	step := func(scope string) challenge { return challenge{Error: insufficientScope, Scope: scope} }
	for _, test := range []struct {
		name           string
		last           loginState
		ago            time.Duration // since the last sign-in ended
		used, accepted string        // "now" is what the store holds
		gaveUp         bool
		revoked        bool
		ch             challenge
		want           bool
	}{
		{name: "nobody ever signed in", ago: never, used: "now", want: true},
		{name: "a moment ago, the token was refused", ago: time.Second, used: "now", want: false},
		{name: "59 s ago", ago: 59 * time.Second, used: "now", want: false},
		{name: "a minute ago", ago: time.Minute, used: "now", want: true},
		{name: "the token was good, and is no more", ago: time.Second, used: "now", accepted: "now", want: true},
		{name: "there was no token", ago: time.Second, want: true},
		{name: "the token was an older one", ago: time.Second, used: "old", want: true},
		{name: "the last sign-in failed", last: loginState{Error: "no"}, ago: time.Second, used: "now", want: true},
		{name: "in the future: the clock was set back", ago: -time.Hour, used: "now", want: true},
		{name: "the grant was revoked since", ago: time.Second, used: "now", revoked: true, want: true},
		{name: "or never was any good", ago: time.Second, used: "now", gaveUp: true, revoked: true, want: false},
		{name: "a scope more", ago: time.Second, used: "now", ch: step("read write"), want: true},
		{name: "a scope more, in vain", ago: time.Second, used: "now", gaveUp: true, ch: step("read write"), want: false},
		{name: "no scope more", ago: time.Second, used: "now", ch: step("read"), want: false},
	} {
		st, _ := testStore(t, closedDir(t))
		mustSave(t, st, testKey, &credentials{RequestedScope: "read", Client: client{ID: "id"}, Token: token{Access: "now"}})
		o := &oauth{cfg: &config{server: parsedURL(t, testKey.Server)}, key: testKey, store: st}
		if test.ago != never {
			test.last.Ended = time.Now().Add(-test.ago)
			fatal(t, st.saveLogin(testKey, test.last))
		}
		o.accepted.Store(test.accepted)
		if test.gaveUp {
			o.refusedAt.Store(time.Now())
		}
		if got := o.maySignIn(test.ch, test.used, test.revoked); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// refuse answers all requests of that label with a status and a challenge.
func (s *fakeMCP) refuse(label string, status int, challenge func() string) {
	s.on(label, func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("WWW-Authenticate", challenge())
		w.WriteHeader(status)
		io.WriteString(w, "no")
		return true
	})
}

// A server that refuses every token, also the one just made for it, is not
// answered with refreshes and sign-ins for ever.
func TestServerRefusesEveryToken(t *testing.T) {
	for name, rotates := range map[string]bool{"refresh": true, "no refresh token": false} {
		rotates := rotates
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			user := newUser(t, auth, server)
			if !rotates {
				auth.on("token refresh_token", func(w http.ResponseWriter, _ *fakeRequest) bool {
					writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
					return true
				})
			}
			server.refuse("tools/call echo", http.StatusUnauthorized, func() string {
				return bearerChallenge(server.base+server.prmPath, "invalid_token", "tools")
			})
			p, other := user.start("-u", server.url), user.start("-u", server.url)
			for i := 0; i < 10; i++ {
				p.failure(p.modernEcho("x"))
			}
			message := p.failure(p.modernEcho("x")).Message
			if !strings.Contains(message, "just given") {
				t.Errorf("got %q, want it to say that the server does not take the new token", message)
			}
			if rotates { // else it looks to the other process as if the user's grant were revoked
				other.failure(other.modernEcho("x"))
			}
			user.awaitEnd(p, other)
			got := fmt.Sprintf("%d windows, %d registrations, %d codes", len(user.openings()), auth.count("register"), auth.count("token authorization_code"))
			if want := "1 windows, 1 registrations, 1 codes"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			// Each process may find out by itself.
			if got := auth.count("token refresh_token"); got > 2 {
				t.Errorf("got %d refreshes for 12 messages, want one for each process", got)
			}
			if got := server.count("tools/call echo"); got > 40 {
				t.Errorf("12 messages were sent %d times", got)
			}
		})
	}
}

// A server that registers everybody and then knows nobody, and others that say
// no whatever the user does.
func TestSignInLoop(t *testing.T) {
	say := func(status int, body string) fakeAnswer {
		return func(w http.ResponseWriter, _ *fakeRequest) bool {
			w.WriteHeader(status)
			io.WriteString(w, body)
			return true
		}
	}
	for name, test := range map[string]struct {
		label                  string
		answer                 fakeAnswer
		registrations, windows int
	}{
		"unknown at the token endpoint": {"token authorization_code", say(401, `{"error":"invalid_client"}`), maxRegistrations, 1},
		"no token for the code":         {"token authorization_code", say(400, `{"error":"invalid_target"}`), 1, 1},
		"registration refused":          {"register", say(400, `{"error":"invalid_client_metadata"}`), 3, 0}, // without scope, and for localhost,
		"registration out of order":     {"register", say(500, "oops"), 1, 0},
		"refused at the authorization endpoint": {"authorize", func(w http.ResponseWriter, r *fakeRequest) bool {
			q := r.URL.Query()
			back := url.Values{"error": {"invalid_scope"}, "state": {q.Get("state")}, "iss": {"https://" + r.Host}}
			http.Redirect(w, r.Request, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
			return true
		}, 1, 1},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			user := newUser(t, auth, server)
			auth.on(test.label, test.answer)
			p := user.start("-u", server.url)
			for i := 0; i < 10; i++ {
				p.failure(p.modernEcho("x"))
			}
			user.awaitEnd(p)
			if got := auth.count("register"); got != test.registrations {
				t.Errorf("got %d registrations, want %d", got, test.registrations)
			}
			if got := len(user.openings()); got != test.windows {
				t.Errorf("got %d browser windows, want %d", got, test.windows)
			}
		})
	}
}

// A server that always thinks of another scope.
func TestStepUpLoop(t *testing.T) {
	t.Parallel()
	server, auth := startModernProtected(t)
	user := newUser(t, auth, server)
	auth.scope = anyValue
	user.remember(server)
	n := 0
	server.refuse("tools/call echo", http.StatusForbidden, func() string {
		server.mu.Lock()
		defer server.mu.Unlock()
		n++
		return bearerChallenge(server.base+server.prmPath, "insufficient_scope", fmt.Sprintf("scope%d", n))
	})
	p := user.start("-u", server.url)
	for i := 0; i < 10; i++ {
		p.failure(p.modernEcho("x"))
	}
	user.awaitEnd(p)
	if got := len(user.openings()); got != maxStepUps || auth.count("authorize") != maxStepUps {
		t.Errorf("got %d browser windows and %d sign-ins, want %d each", got, auth.count("authorize"), maxStepUps)
	}
}
