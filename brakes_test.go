package main

// What stops the loops that a broken server could send the program into:
// browser windows, sign-ins, registrations, refreshes, step-ups.

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

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
		o := &oauth{cfg: &config{server: parsedURL(t, testKey.server)}, key: testKey, store: st}
		if test.ago != never {
			test.last.Ended = time.Now().Add(-test.ago)
			fatal(t, st.saveLogin(testKey, test.last))
		}
		o.took(test.accepted)
		if test.gaveUp {
			o.giveUp()
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
