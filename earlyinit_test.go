package main

// A host that opens while its user has to sign in: the answer that comes before the sign-in ends,
// what waits for that, and what becomes of it.

import (
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// newSlowUser has not signed in, and takes long to do it. The early answer follows the page after
// delay, in the program's own time if that is "".
func newSlowUser(t testing.TB, delay string, keepers ...testKeeper) *testUser {
	user := newUser(t, keepers...)
	user.browser, user.env[testEarly] = "ignore", delay
	return user
}

// opensEarly is a host that is answered before its user has signed in.
func (p *testProxy) opensEarly() {
	p.t.Helper()
	p.request("initialize", initializeParams)
	p.goesOnEarly("1", "2025-11-25")
}

// goesOnEarly wants the early answer to a request, and goes on as hosts do.
func (p *testProxy) goesOnEarly(id, version string) {
	p.t.Helper()
	host := parsedURL(p.t, p.cmd.Args[2]).Host
	want := fmt.Sprintf(`{"protocolVersion":%q,"capabilities":{"tools":{"listChanged":true},`+
		`"prompts":{"listChanged":true},"resources":{"listChanged":true}},"serverInfo":{"name":%q,`+
		`"version":%q},"instructions":"The user is signing in to %s in the browser, and requests are `+
		`answered once that is done."}`, version, host, programVersion(), host)
	if got := p.result(id); got != want {
		p.t.Errorf("initialize: got %s, want %s", got, want)
	}
	p.notify("notifications/initialized", "")
}

// listChanged are the lists that the host is told to ask for again.
func (p *testProxy) listChanged() (lists []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.messages {
		if list, ok := strings.CutSuffix(m.Method, "/list_changed"); ok {
			lists = append(lists, strings.TrimPrefix(list, "notifications/"))
		}
	}
	return lists
}

func TestEarlyInitialize(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	p := newSlowUser(t, "1ms", auth, server).start("-u", server.url)
	p.opensEarly()
	waiting := map[string]string{
		p.request("tools/list", ""):               fakeTools,
		p.request("prompts/list", ""):             `{"prompts":[]}`,
		p.request("resources/list", ""):           `{"resources":[]}`,
		p.request("resources/templates/list", ""): `{"resourceTemplates":[]}`,
	}
	unwanted := p.request("tools/call", echoParams("cancelled"))
	p.unexpect(unwanted)
	p.notify("notifications/cancelled", `{"requestId":`+unwanted+`}`)
	p.notify("notifications/roots/list_changed", "")
	last := p.request("tools/call", echoParams("late"))
	if got := p.call("ping", ""); got != `{}` {
		t.Errorf("ping: got %s", got)
	}
	if got := server.labels(); !slices.Equal(got, []string{"initialize", "PRM"}) {
		t.Errorf("before the sign-in the server got %q", got)
	}

	p.user.paste(p.awaitURL(1))
	p.echoed(last, "late")
	for id, want := range waiting {
		if got := p.result(id); got != want {
			t.Errorf("request %s: got %s, want %s", id, got, want)
		}
	}
	p.received("notifications/tools/list_changed", 1)
	p.call("ping", "")
	if got := p.listChanged(); !slices.Equal(got, []string{"tools"}) {
		t.Errorf("got list_changed of %q, want of tools alone", got)
	}
	story := server.labels()
	slices.Sort(story[4:]) // the server may see the first of them at once
	want := []string{"initialize", "PRM", "initialize", "notifications/initialized", "GET",
		"notifications/roots/list_changed", "ping", "tools/call echo", "tools/list"}
	if !slices.Equal(story, want) {
		t.Errorf("the server got %q, want %q", story, want)
	}
	opening := server.requests("initialize")[1].msg
	if want := server.requests("initialize")[0].msg.line; opening.line != want {
		t.Errorf("got %s, want the host's initialize: %s", opening.line, want)
	}

	server.endSessions()
	p.echo("in another session")
	if got := string(server.requests("initialize")[2].msg.Params); got != initializeParams {
		t.Errorf("another session was opened with %s", got)
	}
}

// Five seconds from the page; whoever waits for the same sign-in is answered as well.
func TestEarlyInitializeOfTwo(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newSlowUser(t, "", auth, server)
	began := time.Now()
	first, second := user.start("-u", server.url), user.start("-u", server.url)
	ids := []string{first.request("initialize", initializeParams),
		second.request("initialize", initializeParams)}
	first.goesOnEarly(ids[0], "2025-11-25")
	second.goesOnEarly(ids[1], "2025-11-25")
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("answered after %v, want 5s at least", took)
	}
	user.paste(first.awaitURL(1))
	first.echo("one")
	second.echo("two")
	if auth.count("authorize") != 1 || server.count("initialize") != 4 {
		t.Errorf("got %q and %q", auth.labels(), server.labels())
	}
}

// One that waits for another is not on its way to the server, and after the sign-in a server may
// be slow.
func TestEarlyInitializeOnce(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	server.sessions = false
	p := newSlowUser(t, "1ms", auth, server).start("-u", server.url)
	p.opensEarly()
	second := p.request("initialize", initializeParams)
	p.user.paste(p.awaitURL(1))
	p.isWelcomed(second)
	release := server.hold("initialize")
	third := p.request("initialize", initializeParams)
	server.await("initialize", 4)
	p.failure(p.modern("unknown", ""))
	release()
	p.isWelcomed(third)
}

// A ping waits neither for the user nor for the server's answer to initialize.
func TestEarlyPing(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	release := server.hold("initialize")
	p := newSlowUser(t, "1m", auth, server).start("-u", server.url)
	opening := p.request("initialize", initializeParams)
	server.await("initialize", 1)
	if got := p.call("ping", ""); got != `{}` {
		t.Errorf("ping: got %s", got)
	}
	release()
	page := p.awaitURL(1)
	if got := p.call("ping", ""); got != `{}` {
		t.Errorf("ping: got %s", got)
	}
	p.user.paste(page)
	p.isWelcomed(opening)
	if got := server.count("ping"); got != 0 {
		t.Errorf("the server got %d pings before it answered", got)
	}
	p.call("ping", "")
	server.await("ping", 1)
}

// What waited after the early answer reaches the server as it was said: each when the server has
// begun to answer the one before.
func TestEarlyInitializeKeepsTheOrder(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	p := newSlowUser(t, "1ms", auth, server).start("-u", server.url)
	p.opensEarly()
	want, ids := []string{"notifications/initialized"}, []string{}
	for i := 0; i < 12; i++ {
		if i%4 == 3 {
			p.notify(fmt.Sprint("notifications/", i), "")
			want = append(want, fmt.Sprint("notifications/", i))
			p.call("ping", "")
		}
		unwanted := p.request("tools/call", echoParams("cancelled"))
		p.unexpect(unwanted)
		p.notify("notifications/cancelled", `{"requestId":`+unwanted+`}`)
		ids = append(ids, p.request("tools/call", fmt.Sprintf(`{"name":"tool-%d"}`, i)))
		want = append(want, fmt.Sprint("tools/call tool-", i))
	}
	p.user.paste(p.awaitURL(1))
	for _, id := range ids {
		p.result(id)
	}
	got := slices.DeleteFunc(server.labels(), func(s string) bool { return !slices.Contains(want, s) })
	if !slices.Equal(got, want) {
		t.Errorf("the server got  %q\nwant %q", got, want)
	}
}

// A call that takes its time holds up nothing that comes after it.
func TestEarlyInitializeBeforeASlowCall(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	release := make(chan struct{})
	server.reply("tools/call slow", func(w http.ResponseWriter, r *fakeRequest) bool {
		<-release
		io.WriteString(w, r.msg.result(`{"content":[]}`))
		return true
	})
	p := newSlowUser(t, "1ms", auth, server).start("-u", server.url)
	p.opensEarly()
	slow := p.request("tools/call", `{"name":"slow"}`)
	p.user.paste(p.awaitURL(1))
	server.await("tools/call slow", 1)
	began := time.Now()
	p.echo("one")
	p.echo("two")
	if took := time.Since(began); took > deliveryWait/2 {
		t.Errorf("two calls took %v", took)
	}
	close(release)
	p.result(slow)
}

// The server takes long over an initialize, and what the user is asked for is another message. Its
// answer, which crosses the early one, opens the session, and there is no other.
func TestEarlyInitializeIsCrossed(t *testing.T) {
	for _, first := range []string{"the server", "the user"} {
		first := first
		t.Run(first+" is first", func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			release := make(chan struct{})
			server.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
				select {
				case <-release:
					server.servePost(w, r) // without a token
				case <-r.Context().Done():
				}
				return true
			})
			p := newSlowUser(t, "100ms", auth, server).start("-u", server.url)
			opening := p.request("initialize", initializeParams)
			server.await("initialize", 1)
			other := p.modern("unknown", "")
			page := p.awaitURL(1)
			p.goesOnEarly(opening, "2025-11-25")
			if first == "the server" {
				close(release)
				p.received("notifications/tools/list_changed", 1)
			}
			p.user.paste(page)
			p.failure(other)
			if first == "the user" {
				close(release)
			}
			p.echo("in the only session")
			p.closeStdin()
			p.wait()
			server.mu.Lock()
			defer server.mu.Unlock()
			if len(server.live) != 0 {
				t.Errorf("%d sessions are left behind", len(server.live))
			}
		})
	}
}

// isWelcomed wants the server's own answer to initialize.
func (p *testProxy) isWelcomed(id string) {
	p.t.Helper()
	if got := p.result(id); !strings.Contains(got, `"serverInfo":{"name":"fake"`) {
		p.t.Errorf("initialize: got %s, want the server's answer", got)
	}
}

// The revision is the host's, if it is one that the program knows.
func TestEarlyInitializeVersion(t *testing.T) {
	for asked, want := range map[string]string{
		"2024-11-05": "2024-11-05", "2025-06-18": "2025-06-18",
		"2026-07-28": "2025-11-25", "x": "2025-11-25",
	} {
		asked, want := asked, want
		t.Run(asked, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			p := newSlowUser(t, "1ms", auth, server).start("-u", server.url)
			id := p.request("initialize", strings.Replace(initializeParams, "2025-11-25", asked, 1))
			p.goesOnEarly(id, want)
			p.user.paste(p.awaitURL(1))
			p.echo(asked)
		})
	}
}

// A code is waited for as a browser is.
func TestEarlyInitializeByCode(t *testing.T) {
	t.Parallel()
	server, _, user := startDevices(t)
	overSSH(user)
	user.env[testEarly] = "1ms"
	p := user.start("-u", server.url)
	p.opensEarly()
	p.awaitStderr("?user_code=")
	user.paste(printedPage.FindString(p.stderr()))
	p.echo("by code")
}

// Where no user is waited for, the server answers, however slow it is.
func TestNoEarlyInitialize(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) (*fakeMCP, *testProxy){
		"signed in": func(t *testing.T) (*fakeMCP, *testProxy) {
			server, auth := startProtected(t)
			user := newSlowUser(t, "1ns", auth, server)
			user.remember(server)
			return server, user.start("-u", server.url)
		},
		"no authorization": func(t *testing.T) (*fakeMCP, *testProxy) {
			server := startMCP(t)
			return server, newSlowUser(t, "1ns").start("-u", server.url)
		},
		"machine": func(t *testing.T) (*fakeMCP, *testProxy) {
			server, _, user, args := startMachines(t)
			user.env[testEarly] = "1ns"
			return server, user.start(args...)
		},
		"signed in quickly": func(t *testing.T) (*fakeMCP, *testProxy) {
			server, auth := startProtected(t)
			return server, newUser(t, auth, server).start("-u", server.url)
		},
	} {
		start := start
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, p := start(t)
			server.sessions = false
			release := make(chan struct{})
			server.reply("initialize", func(http.ResponseWriter, *fakeRequest) bool {
				<-release
				return false
			})
			id := p.request("initialize", initializeParams)
			ping := p.request("ping", "")
			if got := p.failure(p.modern("unknown", "")); got.Code != -32601 {
				t.Errorf("got %v", got)
			}
			close(release)
			p.isWelcomed(id)
			p.result(ping)
			if got := p.listChanged(); got != nil {
				t.Errorf("got list_changed of %q", got)
			}
		})
	}
}

// protect has a server want a token, as startProtected does.
func protect(s *fakeMCP) *fakeMCP {
	s.auth, s.scope = newFakeAuth(startOrigin(s.t)), "tools"
	s.auth.resource, s.auth.scope = s.resource, s.scope
	return s
}

func protectedLegacy(t *testing.T) *fakeMCP {
	s := startLegacy(t).fakeMCP
	s.resource = s.url
	return protect(s)
}

// What the server turns out to be.
func TestEarlyInitializeBefore(t *testing.T) {
	for name, test := range map[string]struct {
		start   func(t *testing.T) *fakeMCP
		failure string // of what waited; "": it is served
		lists   []string
		args    []string
	}{
		"2026-07-28": {func(t *testing.T) *fakeMCP { return protect(startFuture(t)) }, "",
			[]string{"tools", "prompts", "resources"}, nil},
		"2024-11-05":           {protectedLegacy, "", []string{"tools"}, nil},
		"2024-11-05, as known": {protectedLegacy, "", []string{"tools"}, []string{"--transport", "sse"}},
		"none that takes the client": {func(t *testing.T) *fakeMCP {
			s := protect(startMCP(t))
			s.reply("initialize", rpcFailure(400, -32000, ""))
			return s
		}, "no", nil, nil},
		"out of order": {func(t *testing.T) *fakeMCP {
			s := protect(startMCP(t))
			s.reply("initialize", says(502, "text/plain", "Bad Gateway"))
			return s
		}, "502", nil, nil},
		"one that refuses the token": {func(t *testing.T) *fakeMCP {
			s := protect(startMCP(t))
			s.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
				w.Header().Set("WWW-Authenticate", bearerChallenge(s.base+s.prmPath, "", "tools"))
				w.WriteHeader(http.StatusUnauthorized)
				return true
			})
			return s
		}, "hint: the two disagree", nil, nil},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := test.start(t)
			p := newSlowUser(t, "1ms", server.auth, server).start(
				append([]string{"-u", server.url}, test.args...)...)
			p.opensEarly()
			ids := []string{p.request("tools/call", echoParams("x")), p.request("tools/list", "")}
			p.user.paste(p.awaitURL(1))
			for _, id := range ids {
				if test.failure == "" {
					p.result(id)
				} else if got := p.failure(id).Message; !strings.Contains(got, test.failure) {
					t.Errorf("got %q, want %q", got, test.failure)
				}
			}
			for _, list := range test.lists {
				p.received("notifications/"+list+"/list_changed", 1)
			}
			if got := p.listChanged(); len(got) != len(test.lists) {
				t.Errorf("got list_changed of %q, want %q", got, test.lists)
			}
		})
	}
}

// A sign-in that fails is the error of all that waited; the next request starts another, and opens
// the session if that one succeeds.
func TestEarlyInitializeInVain(t *testing.T) {
	for name, test := range map[string]struct {
		timeout string
		fail    func(u *testUser, page string)
		says    string
	}{
		"denied": {"5m", func(_ *testUser, page string) {
			visit(page, testShared().pki.file, "deny")
		}, "the sign-in was denied"},
		"nobody": {soonOver, func(*testUser, string) {}, "nobody signed in"},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			p := newSlowUser(t, "1ms", auth, server).start("-u", server.url, "--login-timeout", test.timeout)
			p.opensEarly()
			ids := []string{p.request("tools/list", ""), p.request("tools/call", echoParams("x"))}
			test.fail(p.user, p.awaitURL(1))
			for _, id := range ids {
				if got := p.failure(id).Message; !strings.Contains(got, test.says) ||
					!strings.Contains(got, "hint: ") {
					t.Errorf("got %q, want %q and a hint", got, test.says)
				}
			}
			p.notify("notifications/roots/list_changed", "") // opens no browser
			p.call("ping", "")
			asked := len(printedURL.FindAllString(p.stderr(), -1))
			if server.count("initialize") != 1 || asked != 1 {
				t.Errorf("the server got %q, the user %d addresses", server.labels(), asked)
			}
			id := p.request("tools/call", echoParams("again"))
			p.user.paste(p.awaitURL(2))
			p.echoed(id, "again")
			p.received("notifications/tools/list_changed", 1)
			if server.count("notifications/initialized") != 1 || server.count("tools/call echo") != 1 {
				t.Errorf("the server got %q", server.labels())
			}
		})
	}
}

// A stream of HTTP+SSE that is not opened because of the sign-in has all the time of the user.
func TestEarlyInitializeOfAStream(t *testing.T) {
	t.Parallel()
	server := protectedLegacy(t)
	p := newSlowUser(t, "1ms", server.auth, server).start("-u", server.url, "--transport", "sse",
		"--login-timeout", (endpointWait + 2*time.Second).String())
	p.opensEarly()
	got := p.failure(p.request("tools/list", ""))
	if !strings.Contains(got.Message, "nobody signed in") {
		t.Errorf("got %q", got.Message)
	}
}

// An initialize that comes while another message waits for the user is answered early as well.
func TestEarlyInitializeComesLater(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	p := newSlowUser(t, "1ms", auth, server).start("-u", server.url)
	modern := p.modern("unknown", "")
	page := p.awaitURL(1)
	p.user.run("status") // meanwhile the time for an early answer has come once already
	p.goesOnEarly(p.request("initialize", initializeParams), "2025-11-25")
	p.user.paste(page)
	p.failure(modern)
	p.echo("meanwhile")
}

// A second initialize after a sign-in that failed is a new beginning.
func TestEarlyInitializeAnew(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	p := newSlowUser(t, "1ms", auth, server).start("-u", server.url)
	p.opensEarly()
	id := p.request("tools/list", "")
	visit(p.awaitURL(1), testShared().pki.file, "deny")
	p.failure(id)
	p.goesOnEarly(p.request("initialize", initializeParams), "2025-11-25")
	p.user.paste(p.awaitURL(2))
	p.echo("anew")
}

// However the host ends, all is answered, and the sign-in goes on without it.
func TestEarlyInitializeEnds(t *testing.T) {
	for name, end := range endings() {
		end := end
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newSlowUser(t, "1ms", auth, server)
			p := user.start("-u", server.url)
			p.opensEarly()
			page := p.awaitURL(1)
			id := p.request("tools/list", "")
			p.call("ping", "") // all of it was read
			end(p)
			p.failure(id)
			p.wait()
			user.paste(page)
			auth.await("token authorization_code", 1)
			next := user.start("-u", server.url)
			next.initialize()
			next.echo("signed in meanwhile")
		})
	}
}

// The early answer, the end of the sign-in, and what the host does, at about the same moment. Every
// request has one answer, and the server one session.
func TestEarlyInitializeRaces(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	for round := 0; round < 16; round++ {
		round, delay := round, time.Duration(random.Intn(300))*time.Millisecond
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			server.lenient = true // the host does not wait for the answer to initialize
			user := newUser(t, auth, server)
			user.env[testEarly] = delay.String()
			args := []string{"-u", server.url}
			served, ends := round%4 != 3, round%4 == 2
			if !served {
				user.browser, args = "deny", append(args, "--login-timeout", "2s")
			}
			p := user.start(args...)
			opening := p.request("initialize", initializeParams)
			p.notify("notifications/initialized", "")
			ids := []string{p.request("tools/list", ""), p.request("initialize", initializeParams),
				p.request("ping", ""), p.request("tools/call", echoParams("x"))}
			unwanted := p.request("tools/call", echoParams("y"))
			p.answer(opening)
			p.notify("notifications/cancelled", `{"requestId":`+unwanted+`}`)
			if ends {
				p.closeStdin()
			}
			for _, id := range ids {
				if m := p.answer(id); m.Error != nil && served && !ends {
					t.Errorf("got %s", m.line)
				}
			}
			p.closeStdin()
			p.wait()
			if len(p.answered[unwanted]) == 0 {
				p.unexpect(unwanted)
			}
			if got := server.count("initialize"); served && !ends && got != 3 {
				t.Errorf("got %d times initialize, want once without a token and twice with one", got)
			}
		})
	}
}
