package main

// Flags and environment, read here and nowhere else, become one config value
// that is complete and valid before anything else happens. How flags are
// written is flags.go's, what stands outside the command line is environment.go's.

import (
	"crypto"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// config is what the user asked for.
type config struct {
	command string   // one of commands, "" to serve
	args    []string // as given after the command, for the detached sign-in
	json    bool     // status
	all     bool     // logout

	server  *url.URL // nil for a command about all that is cached
	profile string

	clientID          string
	clientSecret      string
	clientMetadataURL string
	grant             string        // how a token is got: grantCode or grantClientCredentials
	privateKey        crypto.Signer // the client authenticates by it instead of a secret; may be nil
	scope             string
	resource          string // "": as published; resourceNone: do not send one
	redirectURI       *url.URL
	anyPort           bool // of redirectURI is as good where the client is yet to be registered
	authParams        url.Values
	registerAs        registerAs

	headers      http.Header
	ignoredTools toolFilter
	caCert       string // path of a PEM file
	clientCert   string
	clientKey    string
	transport    string // auto, http, sse
	allowHTTP    bool
	noBrowser    bool
	device       bool
	browser      string // $BROWSER
	container    bool   // this is one
	sshServer    string // USER@HOST to tunnel to; "" when this is no SSH session
	loginTimeout time.Duration
	logLevel     logLevel
	cacheDir     string // "": nowhere to write
	noTrace      bool
	showVersion  bool

	warnings []string // for stderr, once that is open
}

const resourceNone = "none"

// usageError is the user's to mend on the command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func (c *config) fill(o *options, given map[string]bool, getenv func(string) string) error {
	env := environment{getenv: getenv}
	text := func(name, value string) string { return env.expand("--"+name, value) }

	c.profile = text("profile", o.profile)
	c.scope = text("scope", o.scope)
	c.grant = text("grant", o.grant)
	c.resource = text("resource", o.resource)
	c.caCert = text("ca-cert", o.caCert)
	c.clientCert = text("client-cert", o.clientCert)
	c.clientKey = text("client-key", o.clientKey)
	c.transport = text("transport", o.transport)
	c.clientMetadataURL = text("client-metadata-url", o.metadataURL)
	c.allowHTTP, c.noBrowser, c.noTrace = o.allowHTTP, o.noBrowser, o.noTrace
	c.browser = getenv("BROWSER")
	c.sshServer, c.container, c.device = sshServer(getenv), isContainer(getenv), o.device
	c.cacheDir = cacheDir(getenv)

	// The defaults count as absent when unset (design, section 2).
	c.clientID, c.clientSecret = getenv("GOOGLE_CLIENT_ID"), getenv("GOOGLE_CLIENT_SECRET")
	if given["i"] || given["client-id"] {
		c.clientID = text("client-id", o.clientID)
	}
	if given["s"] || given["client-secret"] {
		c.clientSecret = text("client-secret", o.clientSecret)
	}

	server := text("url", o.url)
	privateKey := text("private-key", o.privateKey)
	redirect := text("redirect-uri", o.redirectURI)
	timeout := text("login-timeout", o.timeout)
	level := text("log-level", o.logLevel)
	if env.err != nil {
		return env.err
	}
	checks := []func() error{
		func() error { return c.setCommand(o) },
		func() error { return c.setServer(server) },
		func() error { return c.setClient(given) },
		func() error { return c.setPrivateKey(privateKey, o.privateKey, given) },
		func() error { return c.setGrant(o) },
		func() error { return c.setDevice(o) },
		func() error { return c.setRedirectURI(redirect) },
		func() error { return c.setResource() },
		func() error { return c.setAuthParams(o.authParams, &env) },
		func() error { return c.setHeaders(o.headers, &env) },
		func() error { return c.setHeaderFiles(o.headerFiles, &env) },
		func() error { return c.setIgnoredTools(o.ignoredTools, &env) },
		func() error { return c.setTLS() },
		func() error { return c.setChoices(timeout, level) },
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *config) setCommand(o *options) error {
	c.json, c.all = o.json, o.all
	switch {
	case c.json && c.command != "status":
		return withHint(usagef("--json is a flag of status"), "mcp-proxy status --json")
	case c.all && c.command != "logout":
		return withHint(usagef("--all is a flag of logout"), "mcp-proxy logout --all")
	case c.all && o.url != "":
		return withHint(usagef("--all and --url exclude each other"), "mcp-proxy logout --all signs out everywhere")
	}
	return nil
}

// needsServer is false for a command about all that is cached.
func (c *config) needsServer() bool { return c.command != "status" && !c.all }

const urlHint = "mcp-proxy -u https://mcp.example.com/mcp"

func (c *config) setServer(raw string) error {
	if raw == "" && !c.needsServer() {
		return nil
	}
	if raw == "" {
		return withHint(usagef("no server: --url is missing"), urlHint)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || !isAddress(u) || strings.ContainsAny(raw, " \t\r\n"):
		return withHint(usagef("--url: not a URL"), urlHint)
	case u.User != nil:
		return withHint(usagef("--url: user information in the URL is not accepted"), "give credentials with --client-id, or with -H 'Authorization: …'")
	case u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return withHint(usagef("--url: a fragment (#…) has no meaning for a server"), urlHint)
	case u.Scheme == "http" && !isLoopback(u.Hostname()) && c.allowHTTP:
		return withHint(usagef("--url: %s is another machine, --allow-http is for this one: only https protects a token", u.Host), "https://%s%s", u.Host, u.Path)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return withHint(usagef("--url: %s is reached by http, and only https protects a token", u.Host), "https://%s%s", u.Host, u.Path)
	case u.Scheme == "http" && !c.allowHTTP:
		return withHint(usagef("--url: http is only accepted for this machine, and only with --allow-http"), "add --allow-http")
	case u.Scheme != "https" && u.Scheme != "http":
		return withHint(usagef("--url: the scheme must be https, not %q", u.Scheme), urlHint)
	}
	c.server = u
	return nil
}

func (c *config) setClient(given map[string]bool) error {
	if c.clientMetadataURL != "" {
		u, err := url.Parse(c.clientMetadataURL)
		// Client ID Metadata Document, draft 00, section 3: https, a path, no
		// fragment, no user information.
		if err != nil || u.Scheme != "https" || u.Host == "" || len(u.Path) < 2 || u.Fragment != "" || u.User != nil {
			return withHint(usagef("--client-metadata-url: not an https URL with a path"), "--client-metadata-url https://app.example.com/client.json")
		}
	}
	if c.clientID == "" && c.clientSecret != "" {
		if given["s"] || given["client-secret"] {
			return withHint(usagef("--client-secret without --client-id"), "add --client-id ID")
		}
		c.clientSecret = ""
	}
	return nil
}

// setPrivateKey takes a file, or the key itself out of a variable. What came
// out of one is not repeated, for it may be a key that we do not know as one.
func (c *config) setPrivateKey(value, written string, given map[string]bool) (err error) {
	switch {
	case value == "":
		return nil
	case c.clientID == "":
		return withHint(usagef("--private-key without --client-id"), "add --client-id ID")
	case (given["s"] || given["client-secret"]) && c.clientSecret != "":
		return withHint(usagef("--private-key and --client-secret exclude each other"), "leave out the one that is not registered for the client")
	}
	c.clientSecret = "" // the environment's default
	text, isVariable := []byte(value), strings.HasPrefix(written, "env:")
	if strings.Contains(value, "-----BEGIN ") {
		written = "the value"
	} else if text, err = c.readSecret("--private-key", value); err != nil {
		if isVariable {
			err = withHint(usagef("--private-key: %s holds neither a key in PEM nor the path of a file that can be read", written), "a key begins with -----BEGIN PRIVATE KEY-----")
		}
		return err
	}
	if c.privateKey, err = parsePrivateKey(text); err != nil {
		return withHint(usagef("--private-key: %s %w", written, err), "%s", hintOf(err))
	}
	return nil
}

func (c *config) setRedirectURI(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	// RFC 8252, section 7.3: the redirect of a native application is http on
	// the loopback interface.
	if err != nil || u.Scheme != "http" || !isLoopback(u.Hostname()) || u.Port() == "" || u.Port() == "0" || u.User != nil || u.Fragment != "" || u.RawQuery != "" {
		return withHint(usagef("--redirect-uri: must be http on this machine with a port"), "--redirect-uri http://localhost:3000/oauth2callback")
	}
	c.redirectURI = u // as it was registered: no slash is added
	return nil
}

func (c *config) setResource() error {
	if c.resource == "" || c.resource == resourceNone {
		return nil
	}
	// RFC 8707, section 2: an absolute URI without a fragment.
	if u, err := url.Parse(c.resource); err != nil || !u.IsAbs() || u.Fragment != "" {
		return withHint(usagef("--resource: must be an absolute URI without a fragment, or none"), "--resource https://mcp.example.com/mcp")
	}
	return nil
}

// reservedAuthParams are the proxy's own: given by the user they would undo
// what protects the sign-in.
var reservedAuthParams = map[string]bool{
	"response_type": true, "client_id": true, "redirect_uri": true, "state": true, "code_challenge": true,
	"code_challenge_method": true, "scope": true, "resource": true, "response_mode": true, "request": true, "request_uri": true,
}

func (c *config) setAuthParams(params []string, env *environment) error {
	c.authParams = url.Values{}
	for _, p := range params {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return withHint(usagef("--auth-param: want name=value"), "--auth-param access_type=offline")
		}
		if reservedAuthParams[name] {
			return withHint(usagef("--auth-param: %s is set by the proxy itself", name), "--scope, --resource, --client-id and --redirect-uri are flags of their own")
		}
		c.authParams.Add(name, env.expand("--auth-param", value))
	}
	return env.err
}

func (c *config) setIgnoredTools(globs []string, env *environment) (err error) {
	for i, glob := range globs {
		globs[i] = env.expand("--ignore-tool", glob)
	}
	if env.err != nil {
		return env.err
	}
	c.ignoredTools, err = newToolFilter(globs)
	return err
}

func (c *config) setTLS() error {
	if (c.clientCert == "") != (c.clientKey == "") {
		return withHint(usagef("--client-cert and --client-key go together"), "--client-cert cert.pem --client-key key.pem")
	}
	return nil
}

func (c *config) setChoices(timeout, level string) error {
	switch c.transport {
	case "auto", "http", "sse":
	default:
		return withHint(usagef("--transport: want auto, http or sse, not %q", c.transport), "auto finds out by itself")
	}
	var err error
	if c.loginTimeout, err = time.ParseDuration(timeout); err != nil || c.loginTimeout <= 0 {
		return withHint(usagef("--login-timeout: not a duration"), "--login-timeout 5m")
	}
	var ok bool
	if c.logLevel, ok = parseLogLevel(level); !ok {
		return withHint(usagef("--log-level: want error, warn, info or debug, not %q", level), "--log-level debug shows the most")
	}
	return nil
}

// typed is one of our commands for this server and account, as it is to be typed.
func (c *config) typed(command string) string {
	text := "mcp-proxy " + command + " -u " + quoted(c.server.String())
	if c.profile != "" {
		text += " --profile " + quoted(c.profile)
	}
	switch {
	case command == "logout": // of whatever there is
	case c.device:
		text += " --device"
	case c.unattended() && c.privateKey != nil:
		text += " --grant " + c.grant + " -i " + quoted(c.clientID) + " --private-key FILE"
	case c.unattended():
		text += " --grant " + c.grant + " -i " + quoted(c.clientID) + " -s env:SECRET"
	}
	return text
}

// quoted keeps a shell from reading more into s than its text.
func quoted(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"#$&'()*;<=>?[\\]^`{|}~!", r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// cacheDir is where credentials and traces live; "" when no home is known.
func cacheDir(getenv func(string) string) string {
	if dir := getenv("MCP_PROXY_CACHE_DIR"); dir != "" {
		return dir
	}
	// XDG Base Directory Specification: a relative path is to be ignored.
	if dir := getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "mcp-proxy")
	}
	home, err := os.UserHomeDir()
	if err != nil || home == "" {
		return ""
	}
	return filepath.Join(home, ".cache", "mcp-proxy")
}

// opensBrowser: over SSH a browser would open on a desktop that nobody sees,
// unless $BROWSER leads to the user's, as editors with remote sessions set it.
func (c *config) opensBrowser() bool {
	return !c.noBrowser && (c.sshServer == "" || c.browser != "")
}

// sshServer is who and where to tunnel to, as SSH_CONNECTION tells: the
// client's address and port, then the server's.
func sshServer(getenv func(string) string) string {
	parts := strings.Fields(getenv("SSH_CONNECTION"))
	if len(parts) != 4 {
		return ""
	}
	user := getenv("USER")
	if user == "" {
		user = "USER"
	}
	return user + "@" + parts[2]
}
