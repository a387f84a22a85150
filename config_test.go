package main

// The command line as a user meets it: what is refused, how, and what -h and
// --version say.

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// Every bad input is refused before any I/O: exit code 1, the flag's name in
// one line, then a hint.
func TestUsageErrors(t *testing.T) {
	t.Parallel()
	const url = "https://mcp.example.invalid/mcp"
	key := keyText(t, newTestKey(t, "ES256"))
	for _, test := range []struct {
		name  string
		args  []string
		names string // what the message must name
	}{
		{"no URL", nil, "--url"},
		{"empty URL", []string{"-u", ""}, "--url"},
		{"no value", []string{"-u"}, "--url needs a value"},
		{"not a URL", []string{"-u", "https://exa mple/%zz"}, "--url"},
		{"no host", []string{"-u", "https:///mcp"}, "--url"},
		{"IPv6 without brackets", []string{"-u", "https://::1/mcp"}, "--url"},
		{"port that cannot be", []string{"-u", "https://mcp.example.invalid:65536/mcp"}, "--url"},
		{"no scheme", []string{"-u", "mcp.example.invalid/mcp"}, "--url"},
		{"http", []string{"-u", "http://mcp.example.invalid/mcp"}, "--url"},
		{"http on loopback, not allowed", []string{"-u", "http://127.0.0.1:8080/mcp"}, "--allow-http"},
		{"http elsewhere, allowed for loopback", []string{"--allow-http", "-u", "http://mcp.example.invalid/mcp"}, "--url"},
		{"other scheme", []string{"-u", "ftp://mcp.example.invalid/"}, "--url"},
		{"user info", []string{"-u", "https://me:hunter2@mcp.example.invalid/"}, "--url"},
		{"fragment", []string{"-u", url + "#top"}, "--url"},
		{"bad URL as first argument", []string{"http://mcp.example.invalid/mcp"}, "--url"},
		{"URL twice", []string{url, "-u", url + "/other"}, "--url"},
		{"stray argument", []string{"-u", url, "hunter2"}, "number 3"},
		{"listening address", []string{"-u", "http://0.0.0.0:8000/mcp"}, "listen"},
		{"no scheme, this machine", []string{"-u", "localhost:3000/mcp"}, "lacks https://, or http:// on this machine"},
		{"no scheme, alone", []string{"mcp.example.invalid/mcp"}, "lacks https://"},
		{"command mistyped", []string{"logn", "-u", url}, "unknown command logn; did you mean login?"},
		{"no command", []string{"hunter2", "-u", url}, "neither a command nor a URL"},
		{"command last", []string{"-u", url, "status"}, "a command comes first"},
		{"flag mistyped", []string{"-u", url, "--devcie"}, "unknown flag --devcie; did you mean --device?"},
		{"unknown flag with a value", []string{"-u", url, "--api-key=hunter2"}, "unknown flag --api-key"},
		{"value that looks like a flag", []string{"-u", url, "-i", "x", "--hunter2"}, "argument number 5"},
		{"flag and value in one argument", []string{"-u", url, "--header X-Api-Key: hunter2"}, "--header and its value are one argument"},
		{"flag and value without a blank", []string{"-u", url, "-shunter2"}, "argument number 3"},
		{"header split at the blank", []string{"--header", "X-Api-Key:", "hunter2", url}, "--header: a header has no value"},
		{"header split before a number", []string{url, "-H", "X-Api-Key:", "12345"}, "--header: a header has no value"},
		{"header of an empty value", []string{"-u", url, "-H", "X-Api-Key: ''", "-H", "X-B:\t"}, "--header: a header has no value"},
		{"twice", []string{"-u", url, "-s", "hunter2", "--client-secret", "hunter2"}, "--client-secret is given twice"},
		{"no value, another flag", []string{"-u", url, "--grant", "--no-browser"}, "--grant needs a value"},
		{"no value at the end", []string{"-u", url, "--grant"}, "--grant needs a value"},
		{"switch", []string{"-u", url, "--device=hunter2"}, "--device"},
		{"input of VS Code", []string{"-u", url, "-H", "X-Key: ${input:hunter2}"}, "${input:…}"},
		{"default of a shell", []string{"-u", url, "-H", "X-Key: ${KEY:-hunter2}"}, "${KEY:…}"},
		{"path with a variable", []string{"-u", url, "--ca-cert", "$HOME/hunter2.pem"}, "--ca-cert: a variable in the path"},
		{"path with a variable of Windows", []string{"-u", url, "--header-file", `%USERPROFILE%\hunter2`}, "--header-file: a variable in the path"},
		{"path of VS Code", []string{"-u", url, "-i", "x", "--private-key", "${userHome}/hunter2"}, "--private-key: a variable in the path"},
		{"unset variable", []string{"-u", url, "-i", "env:MCP_PROXY_TEST_UNSET"}, "MCP_PROXY_TEST_UNSET"},
		{"unset variable names the flag", []string{"-u", url, "-i", "env:MCP_PROXY_TEST_UNSET"}, "--client-id"},
		{"unset variable for the URL", []string{"-u", "env:MCP_PROXY_TEST_UNSET"}, "--url"},
		{"unset variable in a header", []string{"-u", url, "-H", "X-Key: ${MCP_PROXY_TEST_UNSET}"}, "MCP_PROXY_TEST_UNSET"},
		{"unknown flag", []string{"-u", url, "--no-such-flag"}, "--no-such-flag"},
		{"redirect elsewhere", []string{"-u", url, "--redirect-uri", "http://mcp.example.invalid:3000/cb"}, "--redirect-uri"},
		{"redirect that is no URL", []string{"-u", url, "--redirect-uri", "localhost"}, "--redirect-uri"},
		{"log level", []string{"-u", url, "--log-level", "loud"}, "--log-level"},
		{"login timeout", []string{"-u", url, "--login-timeout", "soon"}, "--login-timeout"},
		{"negative login timeout", []string{"-u", url, "--login-timeout", "-5s"}, "--login-timeout"},
		{"transport", []string{"-u", url, "--transport", "pigeon"}, "--transport"},
		{"header without a value", []string{"-u", url, "-H", "X-Key"}, "--header"},
		{"header with a line end", []string{"-u", url, "-H", "X-Key: a\r\nX-Other: b"}, "--header"},
		{"authorization parameter", []string{"-u", url, "--auth-param", "offline"}, "--auth-param"},
		{"client certificate without key", []string{"-u", url, "--client-cert", "key.pem"}, "--client-key"},
		{"login without a server", []string{"login"}, "--url"},
		{"doctor without a server", []string{"doctor"}, "--url"},
		{"logout without a server", []string{"logout"}, "--url"},
		{"JSON of a login", []string{"login", url, "--json"}, "--json"},
		{"all of a login", []string{"login", url, "--all"}, "--all"},
		{"all and one", []string{"logout", "--all", "-u", url}, "--all"},
		{"login with a header of one's own", []string{"login", url, "-H", "Authorization: Bearer x"}, "--header"},
		{"pattern", []string{"-u", url, "--ignore-tool", "[a"}, "--ignore-tool"},
		{"empty pattern", []string{"-u", url, "--ignore-tool", ""}, "--ignore-tool"},
		{"device and a redirect", []string{"-u", url, "--device", "--redirect-uri", "http://localhost:1/cb"}, "--device"},
		{"device and parameters of the browser", []string{"-u", url, "--device", "--auth-param", "a=b"}, "--auth-param"},
		{"device for a machine", []string{"-u", url, "--device", "--grant", "client_credentials", "-i", "x", "-s", "y"}, "--device"},
		{"grant", []string{"-u", url, "--grant", "password"}, "--grant"},
		{"client credentials without a client", []string{"-u", url, "--grant", "client_credentials"}, "--client-id"},
		{"client credentials without a secret", []string{"-u", url, "--grant", "client_credentials", "-i", "x"}, "--private-key"},
		{"client credentials and a redirect", []string{"-u", url, "--grant", "client_credentials", "-i", "x", "-s", "y", "--redirect-uri", "http://localhost:1/cb"}, "--redirect-uri"},
		{"client credentials and parameters of the browser", []string{"-u", url, "--grant", "client_credentials", "-i", "x", "-s", "y", "--auth-param", "a=b"}, "--auth-param"},
		{"client credentials and a metadata document", []string{"-u", url, "--grant", "client_credentials", "-i", "x", "-s", "y", "--client-metadata-url", "https://app.example.invalid/c"}, "--client-metadata-url"},
		{"key without a client", []string{"-u", url, "--private-key", "key.pem"}, "--client-id"},
		{"key and secret", []string{"-u", url, "-i", "x", "-s", "y", "--private-key", "key.pem"}, "--client-secret"},
		{"key that is not there", []string{"-u", url, "-i", "x", "--private-key", "no.pem"}, "--private-key"},
		{"key that is none", []string{"-u", url, "-i", "x", "--private-key", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"}, "--private-key"},
		{"encrypted key", []string{"-u", url, "-i", "x", "--private-key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n"}, "encrypted"},
		{"key in a variable that is not known as one", []string{"-u", url, "-i", "x", "--private-key", "env:RAW_KEY"}, "env:RAW_KEY"},
		{"blank before the key in a variable", []string{"-u", url, "-i", "x", "--private-key", "env:BLANK_KEY"}, "--private-key"},
		{"key, and a secret by their name", []string{url, "3000", "--private-key", "key.pem",
			"--static-oauth-client-info", `{"client_id":"x","client_secret":"hunter2"}`}, "--client-secret"},
		{"code by their name, and redirect", []string{"-u", url, "--device-code", "--redirect-uri", "http://localhost:3000/cb"}, "--redirect-uri"},
		{"code and parameter by their names", []string{"-u", url, "--device-code", "--authorize-param", "a=b"}, "--authorize-param"},
		{"machine and code by their names", []string{"-u", url, "-i", "x", "-s", "y", "--client-credentials", "--device-code"}, "--device"},
		{"machine and parameter by their names", []string{"-u", url, "-i", "x", "-s", "y", "--client-credentials", "--authorize-param", "a=b"}, "--authorize-param"},
		{"metadata document over http", []string{"-u", url, "--client-metadata-url", "http://app.example.invalid/c"}, "--client-metadata-url"},
	} {
		test := test
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			user := newUser(t)
			fatal(t, os.WriteFile(filepath.Join(user.dir, "key.pem"), []byte(key), 0o600))
			user.env["RAW_KEY"], user.env["BLANK_KEY"] = "hunter2", "\n-----BEGIN PRIVATE KEY-----\nhunter2="
			stdout, stderr, exit := user.run(test.args...)
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			switch {
			case exit != 1 || stdout != "":
				t.Errorf("got exit code %d, stdout %q, want 1 and nothing", exit, stdout)
			case !strings.HasPrefix(lines[0], "mcp-proxy: ") || !strings.Contains(lines[0], test.names):
				t.Errorf("got %q, want one line that names %s", lines[0], test.names)
			case len(lines) != 2 || !strings.HasPrefix(lines[1], "hint: "):
				t.Errorf("got %q, want a hint in the second line", lines)
			case strings.Contains(stderr, "hunter2"):
				t.Errorf("got %q, which tells the password", stderr)
			}
			if _, err := os.Stat(user.cache); err == nil {
				t.Error("the cache was touched")
			}
		})
	}
}

// Every flag has its line, in 80 columns, on the pages of the commands that it is for.
func TestUsageText(t *testing.T) {
	t.Parallel()
	for command, args := range map[string][]string{
		"":       {"-h"},
		"login":  {"login", "-u", "https://mcp.example.invalid/", "--help"},
		"logout": {"logout", "-h"},
		"status": {"status", "--help"},
		"doctor": {"doctor", "-h"},
	} {
		stdout, stderr, exit := newUser(t).run(args...)
		if exit != 0 || stderr != "" || !strings.Contains(stdout, strings.TrimSpace("mcp-proxy "+command)+" ") {
			t.Errorf("%q: got exit code %d, stderr %q, %q", args, exit, stderr, stdout)
		}
		for _, line := range strings.Split(stdout, "\n") {
			if n := len([]rune(line)); n > 80 || strings.HasSuffix(line, " ") {
				t.Errorf("%q: got %d columns: %q", args, n, line)
			}
		}
		page := command
		if command == "" {
			page = "serve"
		}
		for _, o := range newCommandLine().options() {
			want := slices.Contains(strings.Fields(o.pages), page)
			found := regexp.MustCompile(`(?m)^(  -\w,|     ) --` + o.name() + `( |$)`).MatchString(stdout)
			if o.names != "" && found != want {
				t.Errorf("%q: --%s is there: %v, want %v", args, o.name(), found, want)
			}
		}
	}
	for _, args := range [][]string{{"help"}, {"--help"}, {"help", "login"}} {
		if stdout, _, exit := newUser(t).run(args...); exit != 0 || stdout != usageText(strings.Join(args[1:], "")) {
			t.Errorf("%q: got exit code %d, %q", args, exit, stdout)
		}
	}
	for _, arg := range []string{"--version", "version"} {
		stdout, _, exit := newUser(t).run(arg)
		if exit != 0 || !strings.HasPrefix(stdout, "mcp-proxy ") || strings.Count(stdout, "\n") != 1 {
			t.Errorf("%s: got exit code %d, %q", arg, exit, stdout)
		}
	}
}

// What the environment holds is taken without the line break at its end, and nothing in it is
// expanded; blanks and quotes around an address are not part of it.
func TestValues(t *testing.T) {
	t.Parallel()
	home, err := os.UserHomeDir()
	fatal(t, err)
	env := map[string]string{"TOK": " tok-1\r\n", "TRICK": "${TOK} env:TOK", "SERVER": "https://a.example/mcp\n",
		"MCP_PROXY_CACHE_DIR": "~/somewhere", "HEADER": "X-A: ${TOK}", "GOOGLE_CLIENT_ID": "other"}
	type values struct {
		server, secret, header, param, cacheDir string
		noBrowser                               bool
	}
	usual := values{server: "https://a.example/mcp", cacheDir: filepath.Join(home, "somewhere")}
	for _, test := range []struct {
		args []string
		want func(v *values)
	}{
		{[]string{"-u", "env:SERVER"}, func(*values) {}},
		{[]string{"env:SERVER"}, func(*values) {}},
		{[]string{"-u", " \"https://a.example/mcp\"\n"}, func(*values) {}},
		{[]string{"env:SERVER", "-i", "x", "-s", "env:TOK"}, func(v *values) { v.secret = "tok-1" }},
		{[]string{"env:SERVER", "-s", "env:TOK", "-i", "x"}, func(v *values) { v.secret = "tok-1" }},
		{[]string{"env:SERVER", "-i", "x", "-s", "env:TRICK"}, func(v *values) { v.secret = env["TRICK"] }},
		{[]string{"env:SERVER", "-H", "X-A: env:TOK"}, func(v *values) { v.header = "tok-1" }},
		{[]string{"env:SERVER", "-H", "X-A:${TOK}/${env:TOK}"}, func(v *values) { v.header = "tok-1/tok-1" }},
		{[]string{"env:SERVER", "-H", "X-A: env:TRICK"}, func(v *values) { v.header = env["TRICK"] }},
		{[]string{"env:SERVER", "-H", "X-A: ${TRICK}"}, func(v *values) { v.header = env["TRICK"] }},
		{[]string{"env:SERVER", "-H", "env:HEADER"}, func(v *values) { v.header = "${TOK}" }},
		{[]string{"env:SERVER", "--auth-param", "a=env:TOK"}, func(v *values) { v.param = "tok-1" }},
		{[]string{"env:SERVER", "--auth-param", "a="}, func(*values) {}},
		{[]string{"env:SERVER", "--no-browser=true", "--allow-http=false"}, func(v *values) { v.noBrowser = true }},
		{[]string{"env:SERVER", "--no-browser=false", "--no-trace=true", "--device=false",
			"--redirect-uri", "http://localhost:1/cb"}, func(*values) {}},
	} {
		want := usual
		test.want(&want)
		c, err := parseArgs(test.args, func(name string) string { return env[name] })
		if err != nil {
			t.Errorf("%q: %v", test.args, err)
			continue
		}
		got := values{c.server.String(), c.clientSecret, c.headers.Get("X-A"), c.authParams.Get("a"), c.cacheDir, c.noBrowser}
		if got != want {
			t.Errorf("%q: got %+v, want %+v", test.args, got, want)
		}
	}
}

// A leading ~/ is the home directory; what else is odd in a path is part of it.
func TestPaths(t *testing.T) {
	t.Parallel()
	home, err := os.UserHomeDir()
	fatal(t, err)
	for path, want := range map[string]string{
		"~/ca.pem": filepath.Join(home, "ca.pem"), "a%20b$1.pem": "a%20b$1.pem", "~me/x": "~me/x",
	} {
		if got, err := expandPath(path); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
}

// Variables that would be misunderstood silently are refused by name, without their value.
func TestEnvironmentErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, value string }{
		{"MCP_PROXY_CACHE_DIR", "$HOME/hunter2"},
		{"MCP_PROXY_CACHE_DIR", `%USERPROFILE%\hunter2`},
		{"MCP_PROXY_CACHE_DIR", "${userHome}/hunter2"},
		{"HTTPS_PROXY", "http://me:hunter2%@proxy.example.invalid:3128"},
		{"HTTPS_PROXY", "http://me:hunter2#1@proxy.example.invalid:3128"},
		{"HTTPS_PROXY", "http://me:hunter2\\1@proxy.example.invalid:3128"},
		{"https_proxy", "me:hunter2?@proxy.example.invalid:3128"},
	} {
		user := newUser(t)
		user.env[test.name] = test.value
		_, stderr, exit := user.run("-u", "https://mcp.example.invalid/")
		named := strings.Contains(strings.ToUpper(stderr), strings.ToUpper(test.name)) // Windows folds case
		if exit != 1 || !named || !strings.Contains(stderr, "\nhint: ") ||
			strings.Contains(stderr, "hunter2") {
			t.Errorf("%s=%s: got exit code %d, %q", test.name, test.value, exit, stderr)
		}
		if files, _ := filepath.Glob(filepath.Join(user.dir, "[$%~]*")); files != nil {
			t.Errorf("%s=%s: got %q", test.name, test.value, files)
		}
	}
	for _, proxy := range []string{"http://me:a%23b@proxy.example:3128", "proxy.example:3128", "socks5://127.0.0.1:1080"} {
		if !isProxy(proxy) {
			t.Errorf("%s is refused", proxy)
		}
	}
}

// A file that is not there, or holds something else, is the user's mistake as well. Its name may be
// something else, too, and is not repeated.
func TestUnusableFiles(t *testing.T) {
	t.Parallel()
	user := newUser(t)
	other, missing := filepath.Join(user.dir, "hunter2"), filepath.Join(user.dir, "hunter2.pem")
	fatal(t, os.WriteFile(other, []byte("hunter2"), 0o600))
	for _, args := range [][]string{
		{"--ca-cert", missing}, {"--ca-cert", other}, {"--header-file", missing},
		{"--client-cert", missing, "--client-key", other}, {"--client-cert", other, "--client-key", other},
	} {
		_, stderr, exit := user.run(append(args, "-u", "https://mcp.example.invalid/")...)
		if exit != 1 || !strings.Contains(stderr, args[0]+": ") || !strings.Contains(stderr, "\nhint: ") ||
			strings.Contains(stderr, "hunter2") {
			t.Errorf("%q: got exit code %d, %q, want 1 naming the flag alone", args, exit, stderr)
		}
	}
}

// A file of headers: what the server gets, what is refused, what is warned about.
func TestHeaderFile(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.anyToken = true
	user := newUser(t)
	user.env["MY_TOKEN"] = "token-from-the-environment"
	file := filepath.Join(user.dir, "headers")
	fatal(t, os.WriteFile(file, []byte("# the example server\r\nAuthorization:Bearer ${MY_TOKEN}\n\n  X-Custom: a: b # c  \r\nX-More: env:MY_TOKEN"), 0o600))
	p := user.start("-u", server.url, "-H", "X-Custom: first", "--header-file", file)
	p.initialize()
	got := server.requests("initialize")[0].Header
	if got.Get("Authorization") != "Bearer token-from-the-environment" || !slices.Equal(got["X-Custom"], []string{"first", "a: b # c"}) || got.Get("X-More") != "token-from-the-environment" {
		t.Errorf("got %q", got)
	}
	if strings.Contains(p.stderr(), "others can read") {
		t.Errorf("got %q for a file of mode 600", p.stderr())
	}
	fatal(t, os.WriteFile(file, []byte("\xef\xbb\xbfX-Mark: skipped"), 0o600))
	if _, stderr, exit := user.run("-u", server.url, "--header-file", file); exit != 0 || stderr != "" {
		t.Errorf("byte order mark: got exit code %d, %q", exit, stderr)
	}
	for content, says := range map[string]string{
		"\xff\xfeX\x00-\x00A\x00":   "UTF-16",
		"X-Secret hunter2":          "line 1",
		"\n#\nHost: hunter2":        "line 3",
		"X-A: hunter2 ${NOT_SET_X}": "NOT_SET_X",
		"X-A: hunter2\rX-B: c":      "line break",
		"X-A: hunter2\x1b[2J":       "control character",
	} {
		fatal(t, os.WriteFile(file, []byte(content), 0o600))
		_, stderr, exit := user.run("-u", server.url, "--header-file", file)
		if exit != 1 || !strings.Contains(stderr, says) || !strings.Contains(stderr, "--header-file") || strings.Contains(stderr, "hunter2") {
			t.Errorf("%q: got exit code %d, %q, want %q and no value", content, exit, stderr, says)
		}
	}
	fatal(t, os.WriteFile(file, []byte("X-A: b"), 0o600))
	fatal(t, os.Chmod(file, 0o644))
	if _, stderr, _ := user.run("-u", server.url, "--header-file", file); runtime.GOOS != "windows" && !strings.Contains(stderr, "chmod 600 "+file) {
		t.Errorf("got %q for a file that others can read", stderr)
	}
}

// What is to be typed is taken whole by the system's shell.
func TestQuoted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, sh, cmd string }{
		{"https://a.example/mcp", "https://a.example/mcp", "https://a.example/mcp"},
		{"https://a.example/?…", "'https://a.example/?…'", `"https://a.example/?…"`},
		{"it's", `'it'\''s'`, `"it's"`},
		{"a&b", "'a&b'", `"a&b"`},
		{`a"b`, `'a"b'`, `"a\"b"`},
	} {
		if sh, cmd := quoted("linux", test.text), quoted("windows", test.text); sh != test.sh || cmd != test.cmd {
			t.Errorf("%s: got %s and %s, want %s and %s", test.text, sh, cmd, test.sh, test.cmd)
		}
	}
}
