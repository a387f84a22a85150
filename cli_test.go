package main

// The command line as a user meets it: what is refused, how, and what -h and
// --version say.

import (
	"os"
	"path/filepath"
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
	for _, test := range []struct {
		name  string
		args  []string
		names string // what the message must name
	}{
		{"no URL", nil, "--url"},
		{"empty URL", []string{"-u", ""}, "--url"},
		{"no value", []string{"-u"}, "-u"},
		{"not a URL", []string{"-u", "https://exa mple/%zz"}, "--url"},
		{"no host", []string{"-u", "https:///mcp"}, "--url"},
		{"address without brackets", []string{"-u", "https://::1/mcp"}, "--url"},
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
		{"stray argument", []string{"-u", url, "stray"}, "stray"},
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
		{"client certificate without key", []string{"-u", url, "--client-cert", "cert.pem"}, "--client-key"},
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
		{"key that is not there", []string{"-u", url, "-i", "x", "--private-key", "key.pem"}, "--private-key"},
		{"key that is none", []string{"-u", url, "-i", "x", "--private-key", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"}, "--private-key"},
		{"encrypted key", []string{"-u", url, "-i", "x", "--private-key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n"}, "encrypted"},
		{"key in a variable that is not known as one", []string{"-u", url, "-i", "x", "--private-key", "env:RAW_KEY"}, "env:RAW_KEY"},
		{"blank before the key in a variable", []string{"-u", url, "-i", "x", "--private-key", "env:BLANK_KEY"}, "--private-key"},
		{"metadata document over http", []string{"-u", url, "--client-metadata-url", "http://app.example.invalid/c"}, "--client-metadata-url"},
	} {
		test := test
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			user := newUser(t)
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

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"-h", "--help"} {
		stdout, stderr, exit := newUser(t).run(arg)
		for _, want := range []string{"mcp-proxy -u ", "--client-id", "GOOGLE_CLIENT_ID", "--login-timeout", "mcp-proxy logout ", "mcp-proxy status ", "mcp-proxy doctor "} {
			if !strings.Contains(stdout, want) {
				t.Errorf("%s: got %q, want %q in it", arg, stdout, want)
			}
		}
		if exit != 0 || stderr != "" {
			t.Errorf("%s: got exit code %d, stderr %q", arg, exit, stderr)
		}
	}
	stdout, _, exit := newUser(t).run("--version")
	if exit != 0 || !strings.HasPrefix(stdout, "mcp-proxy ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("--version: got exit code %d, %q", exit, stdout)
	}
}

// A file that is not there is the user's mistake as well.
func TestMissingFiles(t *testing.T) {
	t.Parallel()
	user := newUser(t)
	for _, name := range []string{"--ca-cert", "--header-file"} {
		_, stderr, exit := user.run("-u", "https://mcp.example.invalid/", name, filepath.Join(user.dir, "no.pem"))
		if exit != 1 || !strings.Contains(stderr, name) || !strings.Contains(stderr, "hint: ") {
			t.Errorf("got exit code %d, %q, want 1 naming %s", exit, stderr, name)
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
	p := user.start("-u", server.url, "--header-file", file, "-H", "X-Custom: first")
	p.initialize()
	got := server.requests("initialize")[0].Header
	if got.Get("Authorization") != "Bearer token-from-the-environment" || !slices.Equal(got["X-Custom"], []string{"first", "a: b # c"}) || got.Get("X-More") != "token-from-the-environment" {
		t.Errorf("got %q", got)
	}
	if strings.Contains(p.stderr(), "others can read") {
		t.Errorf("got %q for a file of mode 600", p.stderr())
	}
	for content, says := range map[string]string{
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
