package main

// The story of a user who signs in, told against the real program in its own
// process. How messages pass is told in proxy_test.go, the command line in
// cli_test.go; the servers are in fake_*_test.go, the user's machine and the
// host are in harness_*_test.go.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain runs the tests, or plays the part that a test gave this process.
// The browser comes first: it has the environment of the program it came from.
func TestMain(m *testing.M) {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "browser") {
		os.Exit(browse())
	}
	switch role := os.Getenv(testRole); role {
	case "", "helper": // a helper is a test's second process
		os.Exit(cleaned(m.Run))
	case "proxy":
		trustTestRoots()
		if delay, err := time.ParseDuration(os.Getenv(testEarly)); err == nil {
			earlyDelay = delay
		}
		main()
	case "conformance-client":
		os.Exit(conformanceClient())
	case "bench-server":
		os.Exit(cleaned(benchServer))
	case "demo":
		os.Exit(cleaned(demo))
	default:
		fmt.Fprintf(os.Stderr, "%s=%s: no such role\n", testRole, role)
		os.Exit(1)
	}
}

// cleaned runs f and removes what the tests shared.
func cleaned(f func() int) int {
	defer func() { os.RemoveAll(testSharedDir) }()
	return f()
}

// The first start: the server wants a token, the program finds out from whom,
// registers, opens the browser once, and keeps what it got.
func TestFirstSignIn(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("hello")

	want := []string{"initialize", "PRM", "metadata", "register", "authorize", "token authorization_code", "initialize"}
	story := fakeStory(server.fakeOrigin, auth.fakeOrigin)
	if got := story[:min(len(want), len(story))]; !slices.Equal(got, want) {
		t.Errorf("requests: got %q, want %q", got, want)
	}
	if got := len(user.openings()); got != 1 {
		t.Errorf("got %d browser windows, want 1", got)
	}
	page := user.lastPage()
	if page.Status != http.StatusOK || strings.Contains(page.Body, "<script") ||
		page.Header.Get("Cache-Control") != "no-store" || page.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("last page: got status %d, header %v, body %q", page.Status, page.Header, page.Body)
	}
	wantOwnAddress(t, auth, user.openings()[0])
	checkMode(t, user.cache, 0o700)
	checkMode(t, user.credentialsFile(server.url), 0o600)
	checkCredentials(t, user, server)

	before := len(fakeStory(server.fakeOrigin, auth.fakeOrigin))
	p.closeStdin()
	p.wait()
	user.start("-u", server.url).call("initialize", initializeParams)
	again := slices.DeleteFunc(fakeStory(server.fakeOrigin, auth.fakeOrigin)[before:], func(label string) bool { return label == "GET" || label == "DELETE" })
	if want := []string{"initialize"}; !slices.Equal(again, want) {
		t.Errorf("second start: got %q, want %q", again, want)
	}
}

// checkCredentials reads the file: who can read an older one can read this.
func checkCredentials(t *testing.T, user *testUser, server *fakeMCP) {
	var doc struct {
		Version                  int
		Server, Issuer, Resource string
		TokenEndpoint            string `json:"token_endpoint"`
		Client                   struct{ ID, Source string }
		Token                    map[string]any
	}
	data, err := os.ReadFile(user.credentialsFile(server.url))
	fatal(t, err)
	fatal(t, json.Unmarshal(data, &doc))
	if doc.Version < 1 || doc.Server != server.url || doc.Issuer != server.auth.issuer || doc.Resource != server.resource ||
		doc.TokenEndpoint != server.auth.base+"/token" || doc.Client.Source != "registered" || server.auth.clients[doc.Client.ID] == nil {
		t.Errorf("credentials: got %+v", doc)
	}
	access, _ := doc.Token["access_token"].(string)
	if _, ok := server.auth.validate(access, server.resource); !ok || doc.Token["refresh_token"] == nil || doc.Token["expires_at"] == nil {
		t.Errorf("credentials: got a token with %d members", len(doc.Token))
	}
}

// Every later start: the first answer needs one request, and nobody else is asked.
func TestCachedToken(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.remember(server)
	p := user.start("-u", server.url)
	p.call("initialize", initializeParams)
	if got, want := fakeStory(server.fakeOrigin, auth.fakeOrigin), []string{"initialize"}; !slices.Equal(got, want) {
		t.Errorf("requests: got %q, want %q", got, want)
	}
}

func TestExpiredTokenIsRefreshed(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.remember(server, expired)
	user.start("-u", server.url).initialize()
	if got := auth.labels(); len(got) != 1 || got[0] != "token refresh_token" {
		t.Errorf("authorization server: got %q, want one refresh", got)
	}
	if server.count("initialize") != 1 || len(user.openings()) != 0 {
		t.Errorf("got %q and %d browser windows", server.labels(), len(user.openings()))
	}
	user.start("-u", server.url).initialize() // with what the refresh left in the store
	if got := auth.count("token refresh_token"); got != 1 {
		t.Errorf("got %d refreshes, want 1", got)
	}
}

func TestRefreshRejectedSignsInAgain(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.remember(server, expired)
	auth.revokeAll()
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("back again")
	if got := len(user.openings()); got != 1 || auth.count("token refresh_token") != 1 || auth.count("register") != 0 {
		t.Errorf("got %d browser windows and %q, want 1, one refresh, and the old registration", got, auth.labels())
	}
}

func TestUnauthorizedInMidSession(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.remember(server)
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("before")
	auth.expireAccess()
	p.echo("after")
	if auth.count("token refresh_token") != 1 || server.count("tools/call echo") != 3 || server.count("initialize") != 1 {
		t.Errorf("got %q, want one refresh and one retry", fakeStory(server.fakeOrigin, auth.fakeOrigin))
	}
	if got := len(user.openings()); got != 0 {
		t.Errorf("got %d browser windows, want 0", got)
	}
}

// A server without authorization sees its messages and nothing else.
func TestServerWithoutAuthorization(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, server.url) // the URL alone does
	p.initialize()
	p.echo("free")
	p.closeStdin()
	p.wait()
	got := slices.DeleteFunc(server.labels(), func(label string) bool { return label == "GET" })
	if want := []string{"initialize", "notifications/initialized", "tools/call echo", "DELETE"}; !slices.Equal(got, want) {
		t.Errorf("requests: got %q, want %q", got, want)
	}
}

func TestGivenCredentials(t *testing.T) {
	for name, method := range map[string]string{
		"basic": "client_secret_basic", "post": "client_secret_post", "default variables": "client_secret_basic",
		"env": "client_secret_post", "public client": "none", "redirect": "client_secret_basic",
	} {
		name, method := name, method
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			auth.registers, auth.methods = false, []string{method}
			args := []string{"-u", server.url}
			var redirects []string
			if name == "redirect" {
				redirects = []string{fmt.Sprintf("http://127.0.0.1:%d/my/own", freePort(t))}
				args = append(args, "--redirect-uri", redirects[0])
			}
			c := auth.addClient("the-client", method, redirects...)
			switch name {
			case "default variables":
				user.env["GOOGLE_CLIENT_ID"], user.env["GOOGLE_CLIENT_SECRET"] = c.id, c.secret
			case "env":
				user.env["MY_ID"], user.env["MY_SECRET"] = c.id, c.secret
				args = append(args, "-i", "env:MY_ID", "--client-secret", "env:MY_SECRET")
			case "public client":
				args = append(args, "--client-id="+c.id)
			default:
				args = append(args, "--client-id", c.id, "-s", c.secret)
			}
			user.start(args...).initialize()
			if auth.count("authorize") != 1 || auth.count("register") != 0 {
				t.Errorf("got %q", auth.labels())
			}
		})
	}
}

func TestNoClientAndNoRegistration(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.registers = false
	p := newUser(t, auth, server).start("-u", server.url)
	p.failure(p.request("initialize", initializeParams))
	for _, want := range []string{"GOOGLE_CLIENT_ID", "--client-id"} {
		p.awaitStderr(want)
	}
	p.failure(p.request("initialize", initializeParams)) // the program lives
}

// A user who says no gets an answer that says so, and may try again.
func TestUserDenies(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.denies = true
	p := newUser(t, auth, server).start("-u", server.url)
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, "access_denied") {
		t.Errorf("got %q, want access_denied", got.Message)
	}
	auth.change(func() { auth.denies = false })
	again := p.request("initialize", initializeParams)
	p.user.paste(p.awaitURL(2)) // no second window within a minute, but the URL is printed
	p.result(again)
	if got := len(p.user.openings()); got != 1 {
		t.Errorf("got %d browser windows, want 1", got)
	}
}

func TestSignInTimesOut(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	p := user.start("-u", server.url, "--login-timeout", soonOver)
	if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message, "sign") {
		t.Errorf("got %q, want a word about the sign-in", got.Message)
	}
	user.awaitOpenings(1)
	p.failure(p.request("ping", "")) // the program lives
}

// A host that gives up while the user has not signed in yet is answered and obeyed.
func TestEndDuringSignIn(t *testing.T) {
	for name, end := range endings() {
		end := end
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			user.browser = "ignore"
			p := user.start("-u", server.url)
			id := p.request("initialize", initializeParams)
			user.awaitOpenings(1)
			end(p)
			p.wait()
			p.failure(id)
		})
	}
}

// Many servers are their own authorization server.
func TestOneOriginForBoth(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.auth = newFakeAuth(server.fakeOrigin)
	server.auth.resource, server.auth.methods = server.resource, []string{"client_secret_post"}
	p := newUser(t, server.auth, server).start("-u", server.url)
	p.initialize()
	p.echo("both")
}

// Other ways to get in: a header of the user's own, http on loopback, a root of the user's own.
func TestOtherWaysIn(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	access, _ := auth.grant(auth.addClient("by-hand", "none"), server.resource, "tools")
	user := newUser(t, auth, server)
	user.env["MY_TOKEN"] = access
	user.start("-u", server.url, "-H", "Authorization: Bearer ${MY_TOKEN}").initialize()
	auth.expireAccess()
	refused := user.start("-u", server.url, "-H", "Authorization: Bearer ${MY_TOKEN}")
	refused.failure(refused.request("initialize", initializeParams))
	if got := fakeStory(auth.fakeOrigin); len(got) != 0 || server.count("PRM") != 0 {
		t.Errorf("a given Authorization did not turn OAuth off: %q", got)
	}

	plain := startMCP(t, "plain")
	startProxy(t, "--allow-http", "-u", plain.url).initialize()

	stranger := newUser(t)
	stranger.env["SSL_CERT_FILE"], stranger.env["SSL_CERT_DIR"] = "", ""
	stranger.start("-u", startMCP(t).url, "--ca-cert", testShared().pki.file).initialize()
}

// Without a browser the printed URL does.
func TestNoBrowser(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	p := user.start("-u", server.url, "--no-browser")
	id := p.request("initialize", initializeParams)
	if page := user.paste(p.awaitURL(1)); page.Status != http.StatusOK {
		t.Errorf("last page: got status %d", page.Status)
	}
	p.result(id)
	if got := len(user.openings()); got != 0 {
		t.Errorf("got %d browser windows, want 0", got)
	}
}

func TestCorruptTokenFile(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	fatal(t, os.Mkdir(user.cache, 0o700))
	const garbage = `{"version":1,"server":"htt`
	fatal(t, os.WriteFile(user.credentialsFile(server.url), []byte(garbage), 0o600))
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("signed in anew")
	if got := linesWith(p.stderr(), filepath.Base(user.credentialsFile(server.url))); got != 1 {
		t.Errorf("stderr speaks of the file %d times, want 1", got)
	}
	checkCredentials(t, user, server)
	files, _ := filepath.Glob(filepath.Join(user.cache, "*"))
	kept := slices.ContainsFunc(files, func(file string) bool {
		data, _ := os.ReadFile(file)
		return string(data) == garbage
	})
	if !kept {
		t.Errorf("the garbage was not kept aside: %q", files)
	}
}

// No cache, no memory: but the session works.
func TestCacheNotWritable(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	file := filepath.Join(user.dir, "file")
	fatal(t, os.WriteFile(file, nil, 0o600))
	user.cache = filepath.Join(file, "cache") // impossible for root as well
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("one")
	p.echo("two")
	if got := linesWith(p.stderr(), "kept only until this process ends"); got != 1 {
		t.Errorf("stderr speaks of the cache %d times, want 1", got)
	}
	if got := auth.count("authorize"); got != 1 {
		t.Errorf("got %d sign-ins, want 1", got)
	}
}

// The user is not asked again and again, whether or not that can be stored.
func TestWindowsWithoutCache(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.denies = true
	user := newUser(t, auth, server)
	file := filepath.Join(user.dir, "file")
	fatal(t, os.WriteFile(file, nil, 0o600))
	user.cache = filepath.Join(file, "cache")
	p := user.start("-u", server.url)
	p.failure(p.request("initialize", initializeParams))
	auth.change(func() { auth.denies = false })
	again := p.request("initialize", initializeParams)
	user.paste(p.awaitURL(2))
	p.result(again)
	if got := len(user.openings()); got != 1 {
		t.Errorf("got %d browser windows, want 1", got)
	}
}

func linesWith(text, part string) (n int) {
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// The trace tells what happened, in the words of OpenTelemetry, and no secret
// (that is looked for after every test).
func TestTraces(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	p := user.start("-u", server.url)
	p.initialize()
	const traceID, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	p.call("tools/call", `{"name":"echo","arguments":{"text":"traced"},"_meta":{"traceparent":"00-`+traceID+`-`+caller+`-01"}}`)
	p.closeStdin()
	p.wait()
	checkMode(t, user.tracesFile(), 0o600)

	spans := user.spans()
	named := func(name string) testSpan {
		i := slices.IndexFunc(spans, func(s testSpan) bool { return s.Name == name })
		if i < 0 {
			t.Fatalf("no span %q in %+v", name, spans)
		}
		return spans[i]
	}
	call, hello := named("tools/call echo"), named("initialize")
	if call.TraceID != traceID || call.ParentSpanID != caller || hello.ParentSpanID != "" {
		t.Errorf("got %+v, want it in the caller's trace", call)
	}
	children := func(parent testSpan) (n int) {
		for _, s := range spans {
			if s.ParentSpanID == parent.SpanID && s.TraceID == parent.TraceID {
				n++
			}
		}
		return n
	}
	if children(call) < 1 || children(hello) < 3 { // its attempts, and the sign-in between them
		t.Errorf("got %d children of the call and %d of initialize", children(call), children(hello))
	}
	session := hello.attribute("mcp.session.id")
	if len(session) != 12 {
		t.Errorf("mcp.session.id of initialize: got %q, want a short hash", session)
	}
	post := spans[slices.IndexFunc(spans, func(s testSpan) bool { return s.ParentSpanID == call.SpanID })]
	for _, want := range []struct {
		span       testSpan
		key, value string
	}{
		{call, "mcp.method.name", "tools/call"},
		{call, "mcp.protocol.version", "2025-11-25"},
		{call, "mcp.session.id", session},
		{call, "network.transport", "pipe"},
		{call, "rpc.system.name", ""},
		{hello, "mcp.protocol.version", "2025-11-25"},
		{post, "http.request.method", "POST"},
		{post, "network.protocol.version", "2"},
	} {
		if got := want.span.attribute(want.key); got != want.value {
			t.Errorf("%s of %s: got %q, want %q", want.key, want.span.Name, got, want.value)
		}
	}
	if header := server.requests("initialize")[0].Header.Get("Traceparent"); header != "" {
		t.Errorf("traceparent: got %q in a trace that the client did not begin", header)
	}
	header := server.requests("tools/call echo")[0].Header.Get("Traceparent")
	if !strings.HasPrefix(header, "00-"+traceID+"-") || strings.Contains(header, caller) {
		t.Errorf("traceparent: got %q, want the proxy's own span in the caller's trace", header)
	}
	id := regexp.MustCompile(`^[0-9a-f]{16}$`)
	for _, s := range spans {
		if !id.MatchString(s.SpanID) || len(s.TraceID) != 32 || s.Kind < 1 || len(s.StartTimeUnixNano) < 19 || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("malformed span %+v", s)
		}
	}
}

// A name of the client's is cleaned: some readers take U+2028 for the end of a line.
func TestTracesHoldCleanNames(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	user := newUser(t)
	p := user.start("-u", server.url)
	p.initialize()
	p.call("tools/call", `{"name":"no\u2028tool"}`)
	p.failure(p.request("prompts/get", `{"name":"no\u2028prompt"}`))
	p.closeStdin()
	p.wait()
	raw, err := os.ReadFile(user.tracesFile())
	fatal(t, err)
	for _, want := range []string{`"no tool"`, `"no prompt"`} {
		if !strings.Contains(string(raw), want) || strings.Contains(string(raw), "\u2028") {
			t.Errorf("want %s in %q", want, raw)
		}
	}
}

// The spans of a failed sign-in say what kind of failure it was, also that of a process that waits
// for another one's.
func TestTracesOfFailedSignIn(t *testing.T) {
	for want, prepare := range map[string]func(u *testUser, a *fakeAuth){
		"access_denied": func(u *testUser, _ *fakeAuth) { u.browser = "deny" },
		"timeout":       func(u *testUser, _ *fakeAuth) { u.browser = "ignore" },
		"no_client":     func(_ *testUser, a *fakeAuth) { a.registers = false },
		"issuer_mismatch": func(_ *testUser, a *fakeAuth) {
			a.responds = func(back url.Values) { back.Set("iss", "https://other.example") }
		},
		"invalid_target": func(_ *testUser, a *fakeAuth) {
			a.responds = func(back url.Values) { back.Del("code"); back.Set("error", "invalid_target") }
		},
		"unsupported_grant_type": func(_ *testUser, a *fakeAuth) {
			a.answers = func(w http.ResponseWriter, _ *fakeRequest, _ oauthReply) bool {
				writeJSON(w, http.StatusBadRequest, map[string]any{"error": "unsupported_grant_type"})
				return true
			}
		},
		"cancelled": func(u *testUser, _ *fakeAuth) { u.browser = "ignore" },
	} {
		want, prepare := want, prepare
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			prepare(user, auth)
			args := []string{"-u", server.url}
			if want == "timeout" {
				args = append(args, "--login-timeout", "1s")
			}
			p := user.start(args...)
			id := p.request("initialize", initializeParams)
			spans := []string{"oauth sign-in", "oauth wait for sign-in"}
			if want == "cancelled" { // the sign-in itself goes on
				user.awaitOpenings(1)
				spans = spans[1:]
			} else {
				p.failure(id)
			}
			p.closeStdin()
			p.wait()
			for _, name := range spans {
				eventually(t, name+" with "+want, func() bool {
					return slices.ContainsFunc(user.spans(), func(s testSpan) bool {
						return s.Name == name && s.Status.Code == 2 && s.attribute("error.type") == want
					})
				})
			}
		})
	}
}

func TestNoTrace(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url, "--no-trace")
	p.initialize()
	p.closeStdin()
	p.wait()
	if _, err := os.Stat(p.user.tracesFile()); err == nil {
		t.Error("a trace was written")
	}
}

// The trust path that the package comment names is all that handles secrets: no other file selects
// the fields of a stored token or client that hold one, or names the Authorization header. It can be
// read in an afternoon.
func TestTrustPath(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	fatal(t, err)
	set, lines := gotoken.NewFileSet(), 0
	program, err := parser.ParseFile(set, "main.go", nil, parser.ParseComments)
	fatal(t, err)
	named := regexp.MustCompile(`\w+\.go`).FindAllString(program.Doc.Text(), -1)
	found := 0
	for _, name := range named {
		if !slices.Contains(files, name) {
			t.Errorf("there is no %s", name)
		}
		source, _ := os.ReadFile(name)
		lines += bytes.Count(source, []byte("\n"))
	}
	if lines > 4000 {
		t.Errorf("%q have %d lines, want at most 4,000: an afternoon", named, lines)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		fatal(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			what := ""
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if slices.Contains([]string{"Access", "Refresh", "IDToken", "Secret"}, n.Sel.Name) {
					what = "the field " + n.Sel.Name
				}
			case *ast.BasicLit:
				if n.Value == `"Authorization"` {
					what = "the header " + n.Value
				}
			}
			if what != "" && !slices.Contains(named, name) {
				t.Errorf("%v: %s is for the trust path: %q", set.Position(n.Pos()), what, named)
			}
			if what != "" {
				found++
			}
			return true
		})
	}
	if len(named) != 8 || found < 20 {
		t.Errorf("got %q, %d uses in them", named, found)
	}
}
