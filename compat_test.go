package main

// Configurations made for mcp-remote, with another command alone: what its
// flags come to, and that they do it against the fakes. The flags are those of mcp-remote 0.15.1.

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const remoteURL = "https://127.0.0.1:1/mcp"

// remoteHost is the host of the redirect URI where none is given.
var remoteHost = map[bool]string{true: "127.0.0.1", false: "localhost"}[runtime.GOOS == "windows"]

// Each command line of theirs says the same as one of ours.
func TestRemoteFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		fatal(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	infoFile := write("info", `{"client_id":"id","client_secret":"s"}`)
	roots := write("roots", "not looked at")
	port := "http://" + remoteHost + ":77/oauth/callback"
	env := map[string]string{"GOOGLE_CLIENT_SECRET": "google", "NODE_EXTRA_CA_CERTS": roots, "INFO": `{"client_id":"id"}`, "a b": "c"}
	for theirs, ours := range map[string]string{
		"":                              "",
		"--transport http-only":         "--transport http",
		"--transport sse-only":          "--transport sse",
		"--transport http-first":        "--transport auto",
		"--debug":                       "--log-level debug",
		"--silent":                      "--log-level error",
		"--enable-proxy":                "",
		"--auth-timeout 60":             "--login-timeout 60s",
		"9696":                          "--redirect-uri http://" + remoteHost + ":9696/oauth/callback",
		"9696 --host 127.0.0.1":         "--redirect-uri http://127.0.0.1:9696/oauth/callback",
		"9696 --callback-path /cb/1":    "--redirect-uri http://" + remoteHost + ":9696/cb/1",
		"--callback-path /cb":           "--redirect-uri http://" + remoteHost + ":3000/cb",
		"--host localhost":              "--redirect-uri http://localhost:3000/oauth/callback",
		"9696 --device-code":            "--device",
		"--authorize-param a=b=c":       "--auth-param a=b=c",
		"--disable-resource-parameter":  "--resource none",
		"--resource=":                   "--resource none",
		"--resource=|":                  "--resource none",
		"--resource=https://a.example/": "--resource https://a.example/",
		"--header X-A:${a|b}":           "--header X-A:c",
		"--ipv4 --keep-alive --ping-interval 60 --protocol auto --auth-success-url https://a.example/": "",
		"--connect-timeout 30 --headers-timeout 0 --body-timeout 0":                                    "",
		`77 --static-oauth-client-info {"client_id":"id"}`:                                             "-i id --client-secret= --redirect-uri " + port,
		"77 --static-oauth-client-info=env:INFO":                                                       "-i id --client-secret= --redirect-uri " + port,
		`77 --static-oauth-client-info {"client_id":"id","client_secret":"${a|b}"}`:                    "-i id -s c --redirect-uri " + port,
		"77 --static-oauth-client-info @" + infoFile:                                                   "-i id -s s --redirect-uri " + port,
		"--static-oauth-client-info @" + infoFile + " --redirect-uri http://localhost:5/x":             "-i id -s s --redirect-uri http://localhost:5/x",
		`--static-oauth-client-info {"client_id":"id"} --device`:                                       "-i id --client-secret= --device",
		`--client-credentials --static-oauth-client-info @` + infoFile:                                 "--grant client_credentials -i id -s s",
		`--static-oauth-client-metadata {"scope":"a|b"}`:                                               "--scope a|b",
		`--static-oauth-client-metadata {"scope":"a"} --scope c`:                                       "--scope c",
	} {
		parse := func(before, args string) *config {
			all := append(strings.Fields(before), remoteURL)
			for _, arg := range strings.Fields(args) {
				all = append(all, strings.ReplaceAll(arg, "|", " "))
			}
			c, err := parseArgs(all, func(name string) string { return env[name] })
			if err != nil {
				t.Fatalf("%q: %v", all, err)
			}
			c.args, c.entry, c.notes, c.registerAs, c.anyPort = nil, nil, (&config{}).notes, nil, false
			return c
		}
		want := parse("", ours)
		if got := parse("", theirs); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", theirs, got, want)
		}
		// The whole of a configuration: npx is gone, its arguments are not.
		want.caCert = []byte("not looked at")
		if want.resource != resourceNone {
			want.profile = want.resource
		}
		for _, launcher := range []string{"mcp-remote", "-y mcp-remote@latest", "/c npx --yes mcp-remote@0.1.38", "exec -- mcp-remote"} {
			if got := parse(launcher, theirs); !reflect.DeepEqual(got, want) {
				t.Errorf("%s %s: got %+v, want %+v", launcher, theirs, got, want)
			}
		}
	}
}

// What is asked for and does not happen is said; what would be insecure, or
// can mean two things, is refused.
func TestRemoteFlagsThatCannotBe(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--transport sse-first": "--transport sse-first: HTTP is tried first",
		"--disable-resource-parameter --resource https://a.example/":    "--disable-resource-parameter: no resource is sent",
		`--static-oauth-client-metadata {"redirect_uris":["http://a"]}`: "redirect_uris is left out",
		"--header-file headers": "",
	} {
		user := newUser(t)
		fatal(t, os.WriteFile(filepath.Join(user.dir, "headers"), nil, 0o600))
		_, stderr, exit := user.run(append([]string{"mcp-remote", "https://127.0.0.1:1/mcp"}, strings.Fields(args)...)...)
		if exit != 0 || want == "" && stderr != "" || want != "" && (!strings.HasPrefix(stderr, "mcp-proxy: ") || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1) {
			t.Errorf("%s: got exit code %d, stderr %q, want %q in one line", args, exit, stderr, want)
		}
	}
	user := newUser(t)
	user.env["NODE_EXTRA_CA_CERTS"] = filepath.Join(user.dir, "missing.pem")
	if _, stderr, exit := user.run("mcp-remote", remoteURL); exit != 0 || !strings.Contains(stderr, "NODE_EXTRA_CA_CERTS is left out") {
		t.Errorf("got exit code %d, %q", exit, stderr)
	}
	if _, stderr, exit := user.run(remoteURL); exit != 0 || stderr != "" {
		t.Errorf("not mcp-remote's: got exit code %d, %q", exit, stderr)
	}
	for _, test := range []struct {
		name string
		args []string
	}{
		{"--host", []string{"--host", "mcp.example.invalid"}},
		{"--host", []string{"--host", ""}},
		{"--host", []string{"--host", "localhost", "--redirect-uri", "http://localhost:1/x"}},
		{"--redirect-uri", []string{"9696", "--redirect-uri", "http://localhost:1/x"}},
		{"number 4", []string{"0"}},
		{"number 4", []string{"65536"}},
		{"number 5", []string{"9696", "9697"}},
		{"--callback-path", []string{"--callback-path", "cb"}},
		{"--callback-path", []string{"--callback-path", "/a?b"}},
		{"--token-endpoint", []string{"--token-endpoint", "https://a.example/token"}},
		{"--token-endpoint", []string{"--client-credentials", "--static-oauth-client-info", `{"client_id":"a","client_secret":"b"}`,
			"--token-endpoint", "http://hunter2.example.invalid/token"}},
		{"--authorize-param", []string{"--authorize-param", "state=hunter2"}},
		{"the port of its redirect URI", []string{"--static-oauth-client-info", `{"client_id":"a"}`}},
		{"--transport", []string{"--transport", "sse-last"}},
		{"--auth-timeout", []string{"--auth-timeout", "soon"}},
		{"--auth-timeout", []string{"--auth-timeout", "1m"}},
		{"--auth-timeout", []string{"--auth-timeout", "0"}},
		{"--auth-timeout", []string{"--auth-timeout", "-1"}},
		{"--auth-timeout", []string{"--auth-timeout", "99999999999999999999"}},
		{"--auth-timeout", []string{"--auth-timeout", "60", "--login-timeout", "1m"}},
		{"--auth-timeout", []string{"--auth-timeout", "env:MCP_PROXY_TEST_UNSET"}},
		{"--debug", []string{"--debug", "--log-level", "info"}},
		{"--silent", []string{"--silent", "--log-level", "info"}},
		{"--static-oauth-client-info", []string{"--static-oauth-client-info", "{hunter2"}},
		{"--static-oauth-client-info", []string{"--static-oauth-client-info", `{"client_secret":"hunter2"}`}},
		{"--static-oauth-client-info", []string{"--static-oauth-client-info", `["hunter2"]`}},
		{"--static-oauth-client-info", []string{"--static-oauth-client-info", "@missing"}},
		{"--static-oauth-client-info", []string{"--static-oauth-client-info", `{"client_id":"a"}`, "-i", "b"}},
		{"--static-oauth-client-info", []string{"--static-oauth-client-info", `{"client_id":"a"}`, "--client-secret", "b"}},
		{"--static-oauth-client-metadata", []string{"--static-oauth-client-metadata", ""}},
		{"--static-oauth-client-metadata", []string{"--static-oauth-client-metadata", "null"}},
		{"--static-oauth-client-metadata", []string{"--static-oauth-client-metadata", `{"scope":7}`}},
		{"--static-oauth-client-metadata", []string{"--static-oauth-client-metadata", "@missing"}},
		{"--resource", []string{"--resource", "tenant"}},
		{"--header", []string{"--header", "X A: b"}},
	} {
		_, stderr, exit := newUser(t).run(append([]string{"-y", "mcp-remote", remoteURL}, test.args...)...)
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		if exit != 1 || len(lines) != 2 || !strings.Contains(lines[0], test.name) || !strings.HasPrefix(lines[1], "hint: ") || strings.Contains(stderr, "hunter2") {
			t.Errorf("%q: got exit code %d, %q, want 1, one line with %s, a hint", test.args, exit, stderr, test.name)
		}
	}
}

// A metadata document that was written for mcp-remote lists mcp-remote's redirect path.
func TestRemoteMetadataDocument(t *testing.T) {
	t.Parallel()
	args := []string{remoteURL, "--client-metadata-url", "https://app.example/client.json"}
	none := func(string) string { return "" }
	c, err := parseArgs(append([]string{"mcp-remote"}, args...), none)
	fatal(t, err)
	if got, want := fmt.Sprint(c.redirectURI), "http://"+remoteHost+":3000/oauth/callback"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if c, err = parseArgs(args, none); err != nil || c.redirectURI != nil {
		t.Errorf("without the word mcp-remote: got %v, %v", c.redirectURI, err)
	}
}

// http is for this machine alone, with their --allow-http as with ours, and
// goes without saying there.
func TestRemoteHTTP(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		exit int
		says string
	}{
		{[]string{"mcp-remote", "http://localhost:1/sse"}, 0, ""},
		{[]string{"http://localhost:1/sse"}, 1, "--allow-http"},
		{[]string{"mcp-remote", "http://internal.example.invalid/sse", "--allow-http"}, 1, "--allow-http is for this one"},
		{[]string{"mcp-remote", "http://internal.example.invalid/sse"}, 1, "only https"},
	} {
		_, stderr, exit := newUser(t).run(test.args...)
		if exit != test.exit || !strings.Contains(stderr, test.says) {
			t.Errorf("%q: got exit code %d, %q, want %d, %q", test.args, exit, stderr, test.exit, test.says)
		}
	}
}

// A client that was registered by hand for mcp-remote signs in, in the detached
// process too, and nobody sees its secret.
func TestRemoteStaticClient(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.registers, auth.methods = false, []string{"client_secret_post"}
	port := freePort(t)
	c := auth.addClient("by-hand", "client_secret_post", fmt.Sprintf("http://%s:%d/oauth/callback", remoteHost, port))
	auth.scope = "given"
	server.scope = "given"
	user := newUser(t, auth, server)
	info, err := json.Marshal(map[string]string{"client_id": c.id, "client_secret": c.secret})
	fatal(t, err)
	fatal(t, os.WriteFile(filepath.Join(user.dir, "info.json"), info, 0o600))
	user.env["KEY"] = "the key"
	p := user.start("-y", "mcp-remote@latest", server.url, fmt.Sprint(port), "--static-oauth-client-info", "@info.json",
		"--static-oauth-client-metadata", `{"scope":"given"}`, "--header", "X-Key:${KEY}", "--transport", "http-first")
	p.initialize()
	wantValues(t, "client_id", auth.asked("client_id"), c.id)
	if got := server.requests("initialize")[0].Header.Get("X-Key"); got != "the key" {
		t.Errorf("X-Key: got %q", got)
	}
	if _, stderr, exit := user.run("doctor", "-y", "mcp-remote@latest", server.url, fmt.Sprint(port), "--static-oauth-client-info", "@info.json"); exit != 0 {
		t.Errorf("doctor: got exit code %d, %q", exit, stderr)
	}
}

// The user's client metadata is registered, with the redirect that we listen on.
func TestRemoteClientMetadata(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	var body map[string]any
	auth.on("register", func(w http.ResponseWriter, r *fakeRequest) bool {
		fatal(t, json.Unmarshal(r.body, &body))
		auth.addClient("registered-as-wished", "none", asList(body["redirect_uris"])...)
		body["client_id"] = "registered-as-wished"
		writeJSON(w, http.StatusCreated, body)
		return true
	})
	user := newUser(t, auth, server)
	fatal(t, os.WriteFile(filepath.Join(user.dir, "meta.json"), []byte(`{"client_name":"Mine","software_id":"x-1","scope":"tools",
		"redirect_uris":["https://elsewhere.example/"],"response_types":["token"],"contacts":["me@example.com"]}`), 0o644))
	port := freePort(t)
	p := user.start(server.url, fmt.Sprint(port), "--host", "127.0.0.1", "--static-oauth-client-metadata", "@meta.json")
	p.initialize()
	redirect := fmt.Sprintf("http://127.0.0.1:%d/oauth/callback", port)
	for name, want := range map[string]any{
		"client_name": "Mine", "software_id": "x-1", "scope": "tools", "contacts": []any{"me@example.com"},
		"redirect_uris": []any{redirect}, "response_types": []any{"code"}, "application_type": "native",
	} {
		if got := body[name]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	wantValues(t, "redirect_uri", auth.asked("redirect_uri"), redirect)
	if strings.Contains(p.stderr(), "others can read") {
		t.Errorf("got %q for a file that holds no secret", p.stderr())
	}
}

// A machine's token, from an endpoint that nobody publishes, as mcp-remote's README has it.
func TestRemoteTokenEndpoint(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.on("metadata", answerStatus(http.StatusNotFound))
	auth.resource = ""
	c := auth.addClient("my-client", "client_secret_post")
	user := newUser(t, auth, server)
	user.env["MCP_CLIENT_SECRET"] = c.secret
	user.start("-y", "mcp-remote", server.url, "--client-credentials", "--token-endpoint", auth.base+"/token",
		"--static-oauth-client-info", `{"client_id":"my-client","client_secret":"${MCP_CLIENT_SECRET}"}`,
		"--static-oauth-client-metadata", `{"scope":"tools","token_endpoint_auth_method":"client_secret_post"}`).initialize()
	form, err := url.ParseQuery(string(auth.requests("token client_credentials")[0].body))
	if err != nil || form.Has("resource") || form.Get("scope") != "tools" || form.Get("client_secret") != c.secret {
		t.Errorf("got %q, %v", form, err)
	}
	if got := auth.count("metadata") + auth.count("no metadata"); got != 0 {
		t.Errorf("got %d requests for metadata", got)
	}
}

// Two tenants behind one URL are told apart by --resource there, so they are two
// accounts here.
func TestRemoteTenants(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.resource = anyValue
	user := newUser(t, auth, server)
	tenants := []string{"https://one.example/", "https://two.example/"}
	for _, tenant := range tenants {
		if _, stderr, exit := user.run("login", "mcp-remote", server.url, "--resource", tenant); exit != 0 {
			t.Errorf("got exit code %d, %q", exit, stderr)
		}
	}
	wantValues(t, "resource", auth.asked("resource"), tenants...)
	for _, tenant := range tenants {
		if stdout, _, _ := user.run("status", "mcp-remote", server.url, "--resource", tenant); strings.Count(stdout, "token ") != 1 || !strings.Contains(stdout, tenant) {
			t.Errorf("got %q, want one server with %s", stdout, tenant)
		}
	}
}

// Who names no port is registered with one that is free. A client that has been registered by hand
// cannot take another one.
func TestRemotePortInUse(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.start(server.url, "--host", "127.0.0.1").initialize()
	got := auth.asked("redirect_uri")
	if len(got) != 1 || !regexp.MustCompile(`^http://127\.0\.0\.1:\d+/oauth/callback`).MatchString(got[0]) {
		t.Errorf("got %q", got)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(t, err)
	defer l.Close()
	taken := &url.URL{Scheme: "http", Host: l.Addr().String(), Path: remoteRedirectPath}
	cb, err := listenForRegistration(taken, true, "127.0.0.1", "/callback")
	fatal(t, err)
	defer cb.close()
	if cb.redirect.Host == taken.Host || cb.redirect.Path != taken.Path {
		t.Errorf("got %v, want another port than %v", cb.redirect, taken)
	}
	_, stderr, exit := user.run("login", server.url, taken.Port(), "--host", "127.0.0.1",
		"--static-oauth-client-info", `{"client_id":"by-hand"}`)
	if exit == 0 || !strings.Contains(stderr, taken.Host+remoteRedirectPath+" cannot be used") {
		t.Errorf("got exit code %d, %q", exit, stderr)
	}
}

// A flag that is not needed here is accepted, and why is said at level info.
func TestRemoteFlagsNotNeeded(t *testing.T) {
	t.Parallel()
	args := []string{remoteURL, "--log-level", "info"}
	names := []string{"auth-success-url", "enable-proxy", "ipv4", "protocol", "keep-alive",
		"ping-interval", "connect-timeout", "headers-timeout", "body-timeout"}
	for _, name := range names {
		args = append(args, "--"+name)
		if findOption(allOptions(), name).value != "" {
			args = append(args, "1")
		}
	}
	_, stderr, exit := newUser(t).run(args...)
	for _, name := range names {
		if exit != 0 || strings.Count(stderr, "mcp-proxy: --"+name+" is not needed: ") != 1 {
			t.Errorf("--%s: got exit code %d, %q", name, exit, stderr)
		}
	}
	if _, stderr, _ := newUser(t).run(remoteURL, "--keep-alive"); stderr != "" {
		t.Errorf("got %q without --log-level", stderr)
	}
}

// The examples of mcp-remote's own README, version 0.15.1, word for word but for the addresses of
// the servers, the files and the ports: each starts, signs in and calls a tool.
func TestRemoteReadme(t *testing.T) {
	t.Parallel()
	const (
		sse, server, mcp = "https://remote.mcp.server/sse", "https://example.remote/server", "https://example.remote/mcp"
		info             = `{"client_id":"my-client","client_secret":"${MCP_CLIENT_SECRET}"}`
		document         = "https://client.example.com/.well-known/oauth-client-metadata"
		atlassian        = "https://mcp.atlassian.com/v1/sse"
	)
	for _, args := range [][]string{
		{"mcp-remote", sse},
		{"mcp-remote", sse, "--header", "Authorization: Bearer ${AUTH_TOKEN}"},
		{"mcp-remote", sse, "--header", "Authorization:${AUTH_HEADER}"},
		{"mcp-remote", sse, "--header-file", "/path/to/headers.txt"},
		{"mcp-remote", atlassian, "--resource", "https://tenant1.atlassian.net/"},
		{"mcp-remote", "https://remote.mcp.server/mcp", "--authorize-param", "access_type=offline", "--authorize-param", "prompt=consent"},
		{"mcp-remote", "https://remote.mcp.server/mcp", "--disable-resource-parameter"},
		{"-y", "mcp-remote", sse},
		{"mcp-remote@latest", sse},
		{"mcp-remote", sse, "9696"},
		{"mcp-remote", sse, "--host", "127.0.0.1"},
		{"mcp-remote", sse, "--callback-path", "/custom/callback"},
		{"mcp-remote", sse, "--auth-success-url", "https://app.example.com/cli-connected"},
		{"mcp-remote", sse, "--debug"},
		{"mcp-remote", sse, "--silent"},
		{"mcp-remote", sse, "--enable-proxy"},
		{"mcp-remote", sse, "--ignore-tool", "delete*", "--ignore-tool", "remove*"},
		{"mcp-remote", sse, "--auth-timeout", "60"},
		{"mcp-remote", sse, "--connect-timeout", "30", "--body-timeout", "0"},
		{"mcp-remote", sse, "--keep-alive", "--ping-interval", "60"},
		{"mcp-remote", sse, "--ipv4"},
		{"mcp-remote", server, "--transport", "sse-only"},
		{"mcp-remote", mcp, "--protocol", "auto"},
		{"mcp-remote", server, "--static-oauth-client-metadata", `{ "scope": "space separated scopes" }`},
		{"mcp-remote", server, "--static-oauth-client-metadata", "@/Users/username/Library/Application Support/Claude/oauth_client_metadata.json"},
		{"mcp-remote", server, "--static-oauth-client-metadata", `{ "token_endpoint_auth_method": "client_secret_post" }`},
		{"mcp-remote", server, "--client-metadata-url", document},
		{"mcp-remote", server, "3334", "--client-metadata-url", document},
		{"mcp-remote", mcp, "--client-credentials", "--static-oauth-client-info", info},
		{"mcp-remote", mcp, "--client-credentials", "--token-endpoint", "https://auth.example.com/oauth/token", "--static-oauth-client-info", info,
			"--static-oauth-client-metadata", `{"scope":"mcp.read mcp.write","token_endpoint_auth_method":"client_secret_basic"}`},
		{"mcp-remote", server, "--device-code"},
		{"mcp-remote", server, "--disable-cookies"},
		{"mcp-remote", server, "--use-id-token"},
		{"mcp-remote", server, "--use-id-token", "--static-oauth-client-metadata", `{ "scope": "openid email" }`},
	} {
		args := args
		t.Run(strings.Join(args[1:], " "), func(t *testing.T) {
			t.Parallel()
			startRemoteExample(t, args)
		})
	}
	// The README's client of a user has no port: mcp-remote computes one, and here it is asked for.
	for _, client := range []string{`{ "client_id": "xxx", "client_secret": "yyy" }`,
		"@/Users/username/Library/Application Support/Claude/oauth_client_info.json"} {
		t.Run(client, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "info.json")
			fatal(t, os.WriteFile(file, []byte(`{"client_id":"xxx","client_secret":"yyy"}`), 0o600))
			if strings.HasPrefix(client, "@") {
				client = "@" + file
			}
			args := []string{"mcp-remote", remoteURL, "--static-oauth-client-info", client}
			if _, stderr, exit := newUser(t).run(args...); exit != 1 || !strings.Contains(stderr, "give the PORT") {
				t.Errorf("got exit code %d, %q", exit, stderr)
			}
			if _, stderr, exit := newUser(t).run(append(args, "3334")...); exit != 0 || stderr != "" {
				t.Errorf("with a port: got exit code %d, %q", exit, stderr)
			}
		})
	}
}

// startRemoteExample plays the servers that an example of mcp-remote's README needs.
func startRemoteExample(t *testing.T, args []string) {
	has := func(arg string) bool { return slices.Contains(args, arg) }
	server, auth := startProtected(t)
	auth.resource, auth.scope, server.scope = anyValue, anyValue, ""
	auth.device = func(map[string]any) {}
	user := newUser(t, auth, server)
	write := func(name, text string) string {
		file := filepath.Join(user.dir, name)
		fatal(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	token, _ := auth.grant(auth.addClient("of-the-user", "none"), server.resource, "")
	address := server.url
	replace := []string{
		"/path/to/headers.txt", write("headers.txt", "# credentials for the example server\n"+
			"Authorization: Bearer "+token+"\nX-Custom-Header: custom-value\n"),
		"/Users/username/Library/Application Support/Claude/oauth_client_metadata.json", write("oauth client.json", `{"scope":"tools"}`),
	}
	if has("--client-credentials") {
		auth.methods = []string{"client_secret_basic"}
		user.env["MCP_CLIENT_SECRET"] = auth.addClient("my-client", "client_secret_basic").secret
	}
	if has("9696") || has("3334") || has("--callback-path") || has("--client-metadata-url") {
		auth.redirectHost = remoteHost
	}
	if i := slices.Index(args, "--resource"); i > 0 {
		server.resource = args[i+1]
	}
	if has(`{ "token_endpoint_auth_method": "client_secret_post" }`) {
		auth.methods = []string{"client_secret_post"}
	}
	if has("--use-id-token") {
		auth.answers = func(w http.ResponseWriter, r *fakeRequest, reply oauthReply) bool {
			if doc := reply.doc; doc["access_token"] != nil { // the MCP server knows the id_token alone
				doc["id_token"], doc["access_token"] = doc["access_token"], "not-for-the-server"
			}
			writeJSON(w, reply.status, reply.doc)
			return true
		}
	}
	if has("sse-only") {
		address = startLegacy(t).url
	}
	for _, name := range []string{"https://remote.mcp.server/sse", "https://remote.mcp.server/mcp", "https://example.remote/server",
		"https://example.remote/mcp", "https://mcp.atlassian.com/v1/sse"} {
		replace = append(replace, name, address)
	}
	for _, port := range []string{"9696", "3334"} {
		replace = append(replace, port, fmt.Sprint(freePort(t)))
	}
	replace = append(replace, "https://auth.example.com/oauth/token", auth.base+"/token")
	user.env["AUTH_TOKEN"], user.env["AUTH_HEADER"] = token, "Bearer "+token
	user.env["HTTPS_PROXY"], user.env["NO_PROXY"] = "http://127.0.0.1:1", "localhost,127.0.0.1"
	user.env["NODE_EXTRA_CA_CERTS"], user.env["SSL_CERT_FILE"], user.env["SSL_CERT_DIR"] = testShared().pki.file, "", ""
	example := make([]string, len(args))
	for i, arg := range args {
		example[i] = strings.NewReplacer(replace...).Replace(arg)
	}
	p := user.start(example...)
	p.initialize()
	p.echo("started")
}

func newCommandLine() *commandLine { return &commandLine{config: &config{}} }

// allOptions are the flags of this program and those of mcp-remote.
func allOptions() []option {
	return append(newCommandLine().options(), newCommandLine().remoteOptions()...)
}
