package main

// The command line as a user meets it: what is refused, how, and what -h and
// --version say.

import (
	"os"
	"path/filepath"
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
		{"no scheme", []string{"-u", "mcp.example.invalid/mcp"}, "--url"},
		{"http", []string{"-u", "http://mcp.example.invalid/mcp"}, "--url"},
		{"http on loopback, not allowed", []string{"-u", "http://127.0.0.1:8080/mcp"}, "--allow-http"},
		{"http elsewhere, allowed for loopback", []string{"--allow-http", "-u", "http://mcp.example.invalid/mcp"}, "--url"},
		{"other scheme", []string{"-u", "ftp://mcp.example.invalid/"}, "--url"},
		{"user info", []string{"-u", "https://me:secret@mcp.example.invalid/"}, "--url"},
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
		{"metadata document over http", []string{"-u", url, "--client-metadata-url", "http://app.example.invalid/c"}, "--client-metadata-url"},
	} {
		test := test
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			user := newUser(t)
			stdout, stderr, exit := user.run(test.args...)
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			switch {
			case exit != 1 || stdout != "":
				t.Errorf("got exit code %d, stdout %q, want 1 and nothing", exit, stdout)
			case !strings.HasPrefix(lines[0], "mcp-proxy: ") || !strings.Contains(lines[0], test.names):
				t.Errorf("got %q, want one line that names %s", lines[0], test.names)
			case len(lines) != 2 || !strings.HasPrefix(lines[1], "hint: "):
				t.Errorf("got %q, want a hint in the second line", lines)
			case strings.Contains(stderr, "secret"):
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
	_, stderr, exit := user.run("-u", "https://mcp.example.invalid/", "--ca-cert", filepath.Join(user.dir, "no.pem"))
	if exit != 1 || !strings.Contains(stderr, "--ca-cert") {
		t.Errorf("got exit code %d, %q, want 1 naming --ca-cert", exit, stderr)
	}
}
