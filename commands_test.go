package main

// What the commands say, in the six situations that a user may be in: the
// transcripts are in testdata. MCP_PROXY_TEST_GOLDEN=write writes them anew.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestCommands(t *testing.T) {
	type situation struct {
		server *fakeMCP
		auth   *fakeAuth
		user   *testUser
		url    string
	}
	for name, prepare := range map[string]func(s *situation){
		"healthy": func(s *situation) { s.user.remember(s.server) },
		"down": func(s *situation) {
			s.url = fmt.Sprintf("https://127.0.0.1:%d/mcp", freePort(s.user.t))
			s.server.url = s.url
			s.user.remember(s.server)
		},
		"wrong-certificate": func(s *situation) {
			s.user.remember(s.server)
			s.user.env["SSL_CERT_FILE"], s.user.env["SSL_CERT_DIR"] = "", ""
		},
		"no-registration": func(s *situation) { s.auth.registers = false },
		"expired":         func(s *situation) { s.user.remember(s.server, expired) },
		"empty":           func(*situation) {},
	} {
		name, prepare := name, prepare
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &situation{}
			s.server, s.auth = startProtected(t)
			s.user, s.url = newUser(t, s.auth, s.server), s.server.url
			prepare(s)
			var transcript strings.Builder
			for _, args := range [][]string{
				{"status"}, {"status", "-u", s.url}, {"status", "--json"}, {"doctor", "-u", s.url},
				{"login", "-u", s.url}, {"logout", "-u", s.url}, {"logout", "-u", s.url}, {"logout", "--all"},
			} {
				stdout, stderr, exit := s.user.run(args...)
				fmt.Fprintf(&transcript, "$ mcp-proxy %s\n%s%s[exit code %d]\n\n", strings.Join(args, " "), stdout, stderr, exit)
			}
			checkGolden(t, name, alike(transcript.String(), s.user.cache, s.url, s.auth.base))
		})
	}
}

// checkGolden compares with a file of testdata.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if os.Getenv("MCP_PROXY_TEST_GOLDEN") == "write" {
		fatal(t, os.MkdirAll("testdata", 0o755))
		fatal(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	fatal(t, err)
	if got == strings.ReplaceAll(string(want), "\r\n", "\n") {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := 0; i < len(gotLines) && i < len(wantLines); i++ {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("%s:%d:\ngot  %s\nwant %s\n\nall of it:\n%s", file, i+1, gotLines[i], wantLines[i], got)
		}
	}
	t.Fatalf("%s: got %d lines, want %d:\n%s", file, len(gotLines), len(wantLines), got)
}

// alike makes equal what differs from run to run, keeping the width of tables.
func alike(text, cache string, urls ...string) string {
	text = strings.ReplaceAll(text, cache, "CACHE")
	for i, port := range []string{"11111", "22222"} {
		text = strings.ReplaceAll(text, ":"+hostPort(urls[i]), ":"+port)
	}
	for _, variable := range []struct{ pattern, constant string }{
		{`(http://127\.0\.0\.1:)\d{5}`, "${1}33333"},
		{`client-[\w-]{24}`, "client-" + strings.Repeat("x", 24)},
		{`\?\S*response_type=code\S*`, "?…"},
		{`"\d{4}-\d\d-\d\dT[\d:.]+Z"`, `"TIME"`},
		{`until \d{4}-\d\d-\d\d`, "until DATE"},
		{`in \d+(\.\d+)?m?s\b`, "in TIME"},
		{`mcp-proxy \S+, https`, "mcp-proxy VERSION, https"},
		{`"command": "\S+"`, `"command": "mcp-proxy"`},
		{`dial: .*`, "dial: connection refused, in the system's words"},
	} {
		text = regexp.MustCompile(variable.pattern).ReplaceAllString(text, variable.constant)
	}
	return text
}

func hostPort(address string) string {
	port := address[strings.LastIndex(address, ":")+1:]
	return strings.TrimSuffix(port, "/mcp")
}

// What the commands do beside what they say.

func TestLogoutRevokes(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.methods = []string{"client_secret_post"}
	user := newUser(t, auth, server)
	user.run("login", "-u", server.url)
	refused := filepath.Join(user.cache, filepath.Base(user.credentialsFile(server.url))+".corrupt")
	fatal(t, os.WriteFile(refused, []byte("{"), 0o600))
	if _, stderr, exit := user.run("logout", server.url); exit != 0 {
		t.Fatalf("got exit code %d, %q", exit, stderr)
	}
	var hints []string
	for _, r := range auth.requests("revoke") {
		form, _ := url.ParseQuery(string(r.body))
		hints = append(hints, form.Get("token_type_hint"))
	}
	if want := []string{"refresh_token", "access_token"}; !slices.Equal(hints, want) {
		t.Errorf("revoked %q, want %q", hints, want)
	}
	for _, g := range auth.refresh {
		if !g.revoked {
			t.Error("a grant was not revoked")
		}
	}
	left, _ := filepath.Glob(filepath.Join(user.cache, "*"))
	for _, file := range left {
		if ext := filepath.Ext(file); ext != ".lock" && filepath.Base(file) != "traces.jsonl" {
			t.Errorf("%s is left", filepath.Base(file))
		}
	}
}

// Nothing that goes wrong with revoking keeps the tokens here.
func TestLogoutForgetsWhatItCannotRevoke(t *testing.T) {
	for name, test := range map[string]struct {
		exit    int
		says    string
		answers int // status of the revocation endpoint
		edit    func(doc map[string]any)
	}{
		"out of order":   {2, "not revoked", 503, nil},
		"none":           {0, "revokes no tokens", 0, func(doc map[string]any) { delete(doc, "revocation_endpoint") }},
		"over http":      {5, "not revoked", 0, func(doc map[string]any) { doc["revocation_endpoint"] = "http://192.0.2.1/revoke" }},
		"no tokens":      {0, "nobody was signed in", 0, func(doc map[string]any) { delete(doc, "token") }},
		"only an access": {0, "are revoked", 0, func(doc map[string]any) { delete(doc["token"].(map[string]any), "refresh_token") }},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			edits := []func(map[string]any){}
			if test.edit != nil {
				edits = append(edits, test.edit)
			}
			user.remember(server, edits...)
			if test.answers != 0 {
				auth.on("revoke", func(w http.ResponseWriter, _ *fakeRequest) bool {
					w.WriteHeader(test.answers)
					return true
				})
			}
			_, stderr, exit := user.run("logout", "-u", server.url)
			if exit != test.exit || !strings.Contains(stderr, test.says) {
				t.Errorf("got exit code %d, %q, want %d and %q", exit, stderr, test.exit, test.says)
			}
			if _, err := os.Stat(user.credentialsFile(server.url)); err == nil {
				t.Error("the credentials are still there")
			}
		})
	}
}

// Two servers and two accounts: status narrows, logout hits one, --all the rest.
func TestManyServers(t *testing.T) {
	t.Parallel()
	one, auth := startProtected(t)
	two := startMCP(t)
	two.auth, two.scope = auth, "tools"
	auth.resource = anyValue
	user := newUser(t, auth, one, two)
	user.remember(one)
	user.remember(two)
	if _, stderr, exit := user.run("login", "-u", one.url, "--profile", "work"); exit != 0 {
		t.Fatal(stderr)
	}
	rows := func(args ...string) (rows []map[string]any) {
		stdout, _, _ := user.run(append([]string{"status", "--json"}, args...)...)
		fatal(t, json.Unmarshal([]byte(stdout), &rows))
		return rows
	}
	for _, test := range []struct {
		args []string
		want int
	}{
		{nil, 3}, {[]string{"-u", one.url}, 2}, {[]string{"-u", one.url, "--profile", "work"}, 1},
		{[]string{"--profile", "work"}, 1}, {[]string{"-u", two.url + "/other"}, 0},
	} {
		if got := rows(test.args...); len(got) != test.want {
			t.Errorf("status %q: got %d rows, want %d", test.args, len(got), test.want)
		}
	}
	user.run("logout", "-u", one.url, "--profile", "work")
	if got := rows(); len(got) != 2 || got[0]["profile"] != nil || got[1]["profile"] != nil {
		t.Errorf("after logout: got %v", got)
	}
	if _, stderr, exit := user.run("logout", "--all"); exit != 0 || strings.Count(stderr, "signed out") != 2 || len(rows()) != 0 {
		t.Errorf("logout --all: got exit code %d, %q", exit, stderr)
	}
}

// What a server chose cannot drive a terminal, no line is longer than one, and the query of an
// address, which may be a key, is not shown.
func TestStatusShowsNothingThatItShouldNot(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	server.url += "?key=hunter2"
	user.remember(server, func(doc map[string]any) {
		doc["issuer"] = "https://auth.example.com/" + strings.Repeat("long/", 30)
		doc["client"].(map[string]any)["id"] = "id\u202e\u009b31m"
		doc["token"].(map[string]any)["scope"] = "one\u202etwo \u009b31mred " + strings.Repeat("scope ", 30)
	})
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"status", server.url}} {
		stdout, stderr, exit := user.run(args...)
		for _, line := range strings.Split(stdout, "\n") {
			if n := len([]rune(line)); n > columns && len(args) == 1 {
				t.Errorf("%q: got %d columns: %q", args, n, line)
			}
		}
		if exit != 0 || stderr != "" || strings.ContainsAny(stdout, "\u202e\u009b") ||
			strings.Contains(stdout, "hunter2") || !strings.Contains(stdout, "/mcp?…") {
			t.Errorf("%q: got exit code %d, stderr %q, %q", args, exit, stderr, stdout)
		}
	}
}

// A script learns from the exit code whether the server can be used without a user.
func TestStatusOfOneServer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		exit int
		says string
		edit func(doc map[string]any)
	}{
		"signed in": {0, "expires in 60 minutes, then refreshed", func(map[string]any) {}},
		"expired":   {0, "refreshed at next use", expired},
		"over": {1, "ago: sign in again", func(doc map[string]any) {
			expired(doc)
			delete(doc["token"].(map[string]any), "refresh_token")
		}},
		"no token": {1, "not signed in", func(doc map[string]any) { delete(doc, "token") }},
	} {
		server, auth := startProtected(t)
		user := newUser(t, auth, server)
		user.remember(server, test.edit)
		for _, more := range [][]string{nil, {"--json"}} {
			stdout, stderr, exit := user.run(append([]string{"status", "-u", server.url}, more...)...)
			if exit != test.exit || stderr != "" || more == nil && !strings.Contains(stdout, test.says) {
				t.Errorf("%s %q: got exit code %d, stderr %q, %q", name, more, exit, stderr, stdout)
			}
		}
		if _, _, exit := user.run("status"); exit != 0 {
			t.Errorf("%s: got exit code %d without -u", name, exit)
		}
	}
}

// A secret is named by a whole value and by nothing else, here and in the hints.
func TestEntryHoldsNoSecret(t *testing.T) {
	t.Parallel()
	dir, key := t.TempDir(), keyText(t, newTestKey(t, "ES256"))
	file := func(name, text string) string {
		fatal(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		return filepath.Join(dir, name)
	}
	client := "@" + file("client", `{"client_id":"x","client_secret":"hunter2"}`)
	metadata := `{"authorization_endpoint":"https://b.example/a","token_endpoint":"https://b.example/t"}`
	env := map[string]string{"USER": "me", "NAME": "hunter2", "HEADER": "A: hunter2", "CLIENT": metadata,
		"KEY": key, "INFO": `{"client_id":"x","client_secret":"hunter2"}`}
	const info, registered = "--static-oauth-client-info", "--static-oauth-client-metadata"
	for _, test := range []struct{ flag, value, want string }{
		{"-s", "hunter2", "env:NAME"},
		{"-s", "hunter2env:abc", "env:NAME"},
		{"-s", "@hunter2", "env:NAME"},
		{"-s", "${USER}hunter2", "env:NAME"},
		{"-s", "A:${USER}", "env:NAME"},
		{"-s", "hunter2: env:USER", "env:NAME"},
		{"-s", "x\nclient-secret=env:USER", "env:NAME"},
		{"-s", "env:USER", "env:USER"},
		{"-H", "Cookie: sid=hunter2; u=${USER}", "env:NAME"},
		{"-H", "Cookie: ${USER}; sid=hunter2", "env:NAME"},
		{"-H", "Authorization: Bearer hunter2env:abc", "env:NAME"},
		{"-H", "Authorization: Bearer env:hunter2", "env:NAME"},
		{"-H", "Authorization: hunter2 ${USER}", "env:NAME"},
		{"-H", "Authorization: Bearer ${USER}", "Authorization: Bearer ${USER}"},
		{"-H", "Authorization: basic ${env:USER} ", "Authorization: basic ${env:USER} "},
		{"-H", "A: env:USER", "A: env:USER"},
		{"-H", "A:${USER}", "A:${USER}"},
		{"-H", "env:HEADER", "env:HEADER"},
		{info, `{"client_id":"${USER}","client_secret":"hunter2"}`, "env:NAME"},
		{info, client, client},
		{info, "env:INFO", "env:INFO"},
		{registered, `{"software_statement":"hunter2","x":"env:USER"}`, "env:NAME"},
		{"--auth-param", "key=hunter2", "env:NAME"},
		{"--auth-param", "key=hunter2${USER}", "env:NAME"},
		{"--auth-param", "key= env:hunter2", "env:NAME"},
		{"--authorize-param", "key=hunter2env:USER", "env:NAME"},
		{"--authorize-param", "key=${USER}", "key=${USER}"},
		{"--auth-param", "key=env:USER", "key=env:USER"},
		{"--auth-param", "access_type=offline", "access_type=offline"},
		{"--auth-param", "prompt=", "prompt="},
		{"--auth-metadata", "https://b.example/m?key=hunter2", "https://b.example/m?…"},
		{"--auth-metadata", "env:CLIENT_FILE", "env:CLIENT_FILE"},
		{"--private-key", key, "env:NAME"},
		{"--private-key", "env:KEY", "env:KEY"},
	} {
		env["CLIENT_FILE"] = file("metadata", metadata)
		args := []string{"login", "https://a.example/mcp?key=hunter2", "4711", test.flag, test.value}
		if test.flag == "-s" || test.flag == "--private-key" {
			args = append(args, "-i", "x")
		}
		c, err := parseArgs(args, func(name string) string { return env[name] })
		if err != nil {
			t.Errorf("%q: %v", args, err)
			continue
		}
		if want := []string{"-u", "https://a.example/mcp?…", "4711"}; !slices.Equal(c.entry[:3], want) || c.entry[4] != test.want {
			t.Errorf("%q: got %q, want %q", args, c.entry, test.want)
		}
		if got := c.typed("login") + c.typed("logout"); strings.Contains(got, "hunter2") || strings.Contains(got, "BEGIN") {
			t.Errorf("%q: got the hint %q", args, got)
		}
	}
	c, err := parseArgs([]string{"mcp-remote", "https://a.example/mcp", "--resource",
		"https://me:hunter2@b.example/mcp?key=hunter2"}, func(string) string { return "" })
	fatal(t, err)
	if got := c.typed("login") + c.typed("logout"); strings.Contains(got, "hunter2") {
		t.Errorf("got the hint %q", got)
	}
}

// The entry that login prints starts the program in the same way, without the secrets.
func TestEntryForTheClient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ args, want string }{
		{"https://a.example/mcp --no-browser --login-timeout 5s", "-u https://a.example/mcp"},
		{"-u https://a.example/mcp?key=hunter2 --device", "-u https://a.example/mcp?… --device"},
		{"https://a.example/mcp 77 --profile work", "-u https://a.example/mcp 77 --profile work"},
		{"-u https://a.example/mcp -i x -s hunter2 -H A:hunter2",
			"-u https://a.example/mcp -i x -s env:NAME -H env:NAME"},
		{"-u https://a.example/mcp -i x -s env:S -H A:${S} --scope a",
			"-u https://a.example/mcp -i x -s env:S -H A:${S} --scope a"},
		{"https://a.example/mcp --no-trace=true --device=false", "-u https://a.example/mcp --no-trace"},
		{"https://a.example/mcp --resource https://me:hunter2@b.example/mcp?key=hunter2 --keep-alive " +
			"--client-metadata-url https://c.example/c?key=hunter2 --auth-success-url hunter2",
			"-u https://a.example/mcp --resource https://…b.example/mcp?… --client-metadata-url https://c.example/c?…"},
		{"mcp-remote https://a.example/mcp", ""},
	} {
		c, err := parseArgs(append([]string{"login"}, strings.Fields(test.args)...),
			func(name string) string { return map[string]string{"S": "hunter2"}[name] })
		fatal(t, err)
		if got := strings.Join(c.entry, " "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.args, got, test.want)
		}
	}
}

func answerStatus(status int) fakeAnswer {
	return func(w http.ResponseWriter, _ *fakeRequest) bool {
		w.WriteHeader(status)
		return true
	}
}

// A client is waiting for the user already: login shows the same page, and
// one sign-in serves both.
func TestLoginBesideAnotherProcess(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	p := user.start("-u", server.url)
	id := p.request("initialize", initializeParams)
	page := user.awaitOpenings(1)
	login := user.start("login", "-u", server.url)
	if got, want := login.awaitURL(1), p.awaitURL(1); got != want {
		t.Errorf("got page %q, want %q", got, want)
	}
	user.paste(page)
	p.result(id)
	login.wait()
	login.awaitStderr("signed in to")
	if got := auth.count("token authorization_code"); got != 1 || len(user.openings()) != 1 {
		t.Errorf("got %d sign-ins, %d windows, want 1 of each", got, len(user.openings()))
	}
}

// The one who signs in is killed: login takes over.
func TestLoginTakesOver(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	first := user.start("login", "-u", server.url)
	user.awaitOpenings(1)
	second := user.start("login", "-u", server.url, "--no-browser")
	old := second.awaitURL(1)
	first.kill()
	page := second.awaitURL(2)
	if page == old {
		t.Fatal("got the page of the process that was killed")
	}
	user.paste(page)
	second.wait()
}

// Only a server that answers asks for no sign-in.
func TestLoginWhereNoneIsWanted(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(s *fakeMCP)
		exit    int
		says    string
	}{
		"answers":        {func(*fakeMCP) {}, 0, "asks for no sign-in"},
		"refuses":        {func(s *fakeMCP) { s.on("ping", refusePing) }, 0, "asks for no sign-in"},
		"2024-11-05":     {func(s *fakeMCP) { s.sessions, s.listens = false, true; s.on("ping", answerStatus(405)) }, 0, "asks for no sign-in"},
		"nobody there":   {func(s *fakeMCP) { s.on("ping", answerStatus(404)) }, 1, "answered 404 Not Found\nhint: there is no MCP server at this path"},
		"in trouble":     {func(s *fakeMCP) { s.on("ping", answerStatus(503)) }, 3, "answered 503 Service Unavailable\nhint: the server is in trouble"},
		"something else": {func(s *fakeMCP) { s.on("ping", answerStatus(409)) }, 5, "answered 409 Conflict\nhint: mcp-proxy doctor -u"},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.lenient = true
			test.prepare(server)
			if _, stderr, exit := newUser(t).run("login", "-u", server.url); exit != test.exit || !strings.Contains(stderr, test.says) {
				t.Errorf("got exit code %d, %q, want %d, %q", exit, stderr, test.exit, test.says)
			}
		})
	}
}

func refusePing(w http.ResponseWriter, r *fakeRequest) bool {
	w.WriteHeader(http.StatusBadRequest)
	io.WriteString(w, r.msg.failure(-32000, "no session"))
	return true
}

// The first POST is refused for its method, the stream for its lack of a token.
func TestLoginToOldServer(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	server.on("ping", answerStatus(http.StatusMethodNotAllowed))
	user := newUser(t, auth, server)
	if _, stderr, exit := user.run("login", "-u", server.url); exit != 0 || !strings.Contains(stderr, "signed in to") {
		t.Errorf("got exit code %d, %q", exit, stderr)
	}
}

// Who stops a sign-in is not told that nobody signed in.
func TestLoginCancelled(t *testing.T) {
	for name, s := range stopSignals() {
		s := s
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			user.browser = "ignore"
			p := user.start("login", "-u", server.url)
			p.awaitStderr("waiting for up to")
			p.change(func() { p.killed = true }) // any exit code
			p.signal(s)
			p.wait()
			if !strings.HasSuffix(p.stderr(), "\nmcp-proxy: sign-in cancelled\n") || p.exit != 2 {
				t.Errorf("got exit code %d, %q", p.exit, p.stderr())
			}
		})
	}
}

// A hint is typed as it stands: it leads to the account that it is about, and a
// shell takes nothing in it for its own.
func TestHintsNameTheAccount(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	want := "hint: mcp-proxy login -u " + quoted(runtime.GOOS, server.url+"?…") + " --profile " +
		quoted(runtime.GOOS, "it's mine")
	for _, command := range []string{"status", "doctor"} {
		stdout, _, _ := user.run(command, "-u", server.url+"?a=1&b=2", "--profile", "it's mine")
		if strings.Contains(stdout, "a=1") {
			t.Errorf("%s: got %q with the query", command, stdout)
		}
		if !strings.Contains(stdout, want) {
			t.Errorf("%s: got %q, want %q", command, stdout, want)
		}
	}
}

// Nor does it lead to a user where a machine wants a token, to another way of signing in, or to a
// server that wants what was left out.
func TestHintsNameTheFlags(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--device": " --device",
		"--grant client_credentials -i x -s env:S":                   " --grant client_credentials -i x -s env:S",
		"-i x -s hunter2 --no-browser --auth-param a=b --allow-http": " -i x -s env:NAME --auth-param " + "env:NAME --allow-http",
	} {
		user := newUser(t)
		user.env["S"] = "hunter2"
		stdout, _, _ := user.run(append([]string{"status", "-u", "https://127.0.0.1:1/mcp"}, strings.Fields(args)...)...)
		if !strings.HasSuffix(stdout, "hint: mcp-proxy login -u https://127.0.0.1:1/mcp"+want+"\n") {
			t.Errorf("%s: got %q, want %q in the hint", args, stdout, want)
		}
	}
}

// Nor to a refusal, where the server is on this machine without TLS.
func TestHintsNameAllowHTTP(t *testing.T) {
	t.Parallel()
	stdout, _, exit := newUser(t).run("status", "-u", "http://127.0.0.1:1/mcp", "--allow-http")
	if want := "hint: mcp-proxy login -u http://127.0.0.1:1/mcp --allow-http\n"; exit != 1 || !strings.HasSuffix(stdout, want) {
		t.Errorf("got exit code %d, %q, want %q", exit, stdout, want)
	}
	if stdout, _, _ := newUser(t).run("status", "-h"); !strings.Contains(stdout, "--allow-http ") {
		t.Errorf("got %q without --allow-http", stdout)
	}
}

// Over SSH no window is opened, and the hint says how to get there.
func TestLoginOverSSH(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.env["BROWSER"], user.env["USER"] = "", "me"
	user.env["SSH_CONNECTION"] = "192.0.2.1 50000 192.0.2.2 22"
	p := user.start("login", "-u", server.url)
	page := p.awaitURL(1)
	port := parsedURL(t, parsedURL(t, page).Query().Get("redirect_uri")).Port()
	p.awaitStderr("ssh -L " + port + ":localhost:" + port + " me@192.0.2.2")
	user.paste(page)
	p.wait()
}

// A container's port is reached neither from outside nor by publishing it: the
// listener is on its loopback interface.
func TestLoginInContainer(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.env["container"], user.env["BROWSER"] = "podman", ""
	p := user.start("login", "-u", server.url)
	user.paste(p.awaitURL(1))
	p.wait()
	for _, hint := range []string{"--device", "into mcp-proxy login -u " + server.url, "--network host"} {
		p.awaitStderr(hint)
	}
}

// What a server wants that is not OAuth is said in the same words by all.
func TestAnotherScheme(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	basic := func(w http.ResponseWriter, _ *fakeRequest) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	server.on("initialize", basic)
	server.on("ping", basic)
	const want = " wants Basic, which is not OAuth"
	user := newUser(t)
	p := user.start("-u", server.url)
	got := p.failure(p.request("initialize", initializeParams)).Message
	if !strings.Contains(got, want+"; hint: give it with -H 'Authorization: …'") {
		t.Errorf("serving: got %q", got)
	}
	for _, command := range []string{"login", "doctor"} {
		stdout, stderr, exit := user.run(command, "-u", server.url)
		if exit != 2 || !strings.Contains(stdout+stderr, want) {
			t.Errorf("%s: got exit code %d, %q", command, exit, stdout+stderr)
		}
	}
}
