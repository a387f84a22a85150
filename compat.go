package main

// The command line of mcp-remote 0.15, an npm package that does the same work: a configuration made
// for it works when its command alone is changed. Its flags are said here in the words of ours.

import (
	"encoding/json"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	remoteName         = "mcp-remote"
	remoteRedirectPath = "/oauth/callback"
)

// launchers are the words that start mcp-remote, as far as they are arguments:
// `npx -y mcp-remote URL`, `cmd /c npx …`, `npm exec -- …`, `pnpm dlx …`.
var launchers = []string{"/c", "/C", "npx", "-y", "--yes", "exec", "dlx", "--"}

// remote is what mcp-remote's flags say that has no place in config.
type remote struct {
	launched     bool // the word mcp-remote was there: all of it is a configuration of theirs
	isRegistered bool // the client is, by hand, with its redirect URI
	noResource   bool
	port         string // of the redirect URI; "" if none was given
	host, path   string
}

// remoteOptions are the flags that are mcp-remote's alone. What stands in help are the flags of
// ours that say the same.
func (l *commandLine) remoteOptions() []option {
	const (
		sessions = "a session that the server has dropped is opened anew"
		waits    = "connecting is bounded, and a server may take its time to answer"
	)
	return []option{
		{"host", "HOST", "", "redirect-uri", l.setRemoteHost},
		{"callback-path", "PATH", "", "redirect-uri", l.setRemotePath},
		{"static-oauth-client-info", "JSON", "", "client-id client-secret", l.setClientInfo},
		{"static-oauth-client-metadata", "JSON", "", "", l.setClientMetadata},
		{"authorize-param", "NAME=VALUE …", "", "", l.addAuthParam},
		{"device-code", "", "", "", fixed(&l.device, true)},
		{"client-credentials", "", "", "grant", fixed(&l.grant, grantClientCredentials)},
		{"token-endpoint", "URL", "", "auth-metadata", l.setTokenEndpoint},
		{"disable-resource-parameter", "", "", "", fixed(&l.remote.noResource, true)},
		{"disable-cookies", "", "", "", fixed(&l.noCookies, true)},
		{"auth-timeout", "SECONDS", "", "login-timeout", l.setAuthTimeout},
		{"silent", "", "", "log-level", fixed(&l.logLevel, levelError)},
		{"debug", "", "", "log-level", fixed(&l.logLevel, levelDebug)}, // the stronger one
		l.needless("auth-success-url", "URL", "the browser ends at a page of our own"),
		l.needless("enable-proxy", "", "the proxies of the environment are always used"),
		l.needless("ipv4", "", "IPv4 is tried as well if IPv6 does not answer at once"),
		l.needless("protocol", "MODE", "what client and server speak is found out"),
		l.needless("keep-alive", "", sessions),
		l.needless("ping-interval", "SECONDS", sessions),
		l.needless("connect-timeout", "SECONDS", waits),
		l.needless("headers-timeout", "SECONDS", waits),
		l.needless("body-timeout", "SECONDS", waits),
	}
}

func fixed[T any](target *T, value T) func(string) error {
	return func(string) error { *target = value; return nil }
}

func (l *commandLine) needless(name, value, why string) option {
	return option{name, value, "", "", func(string) error {
		l.notes = append(l.notes, "--"+name+" is not needed: "+why)
		return nil
	}}
}

// afterLauncher leaves out what started mcp-remote, up to its name.
func (l *commandLine) afterLauncher(args []string) []string {
	for i, arg := range args {
		if name, _, _ := strings.Cut(arg, "@"); name == remoteName {
			l.remote.launched = true
			return args[i+1:]
		}
		if !slices.Contains(launchers, arg) {
			break
		}
	}
	return args
}

// setPort takes the argument after the URL, the port of the callback.
func (l *commandLine) setPort(arg string) bool {
	port, err := strconv.ParseUint(arg, 10, 16)
	if err != nil || port == 0 || l.remote.port != "" {
		return false
	}
	l.remote.port = arg
	return true
}

func (l *commandLine) setRemoteHost(host string) error {
	if l.remote.host = host; !isLoopback(host) {
		return invalid("another machine, and what the browser brings back must not leave this one",
			"--host localhost or --host 127.0.0.1")
	}
	return nil
}

func (l *commandLine) setRemotePath(path string) error {
	u, err := url.Parse(path)
	if err != nil || !strings.HasPrefix(path, "/") || u.Path != path || u.Host != "" {
		return invalid("not a path", "--callback-path "+remoteRedirectPath)
	}
	l.remote.path = path
	return nil
}

func (l *commandLine) setTransport(value string) error {
	theirs := map[string]string{
		"http-only": "http", "sse-only": "sse", "http-first": "auto", "sse-first": "auto",
	}
	if value == "sse-first" {
		l.warnings = append(l.warnings, "--transport sse-first: HTTP is tried first, SSE where the "+
			"server refuses it; --transport sse never tries HTTP")
	}
	if ours := theirs[value]; ours != "" {
		value = ours
	}
	return oneOf(&l.transport, "auto", "http", "sse")(value)
}

// setClientInfo takes a client that was registered by hand. One without a secret has none, whatever
// is in the environment.
func (l *commandLine) setClientInfo(value string) error {
	var info struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
	}
	err := l.decode(value, true, &info)
	if err == nil && info.ClientID == "" {
		err = invalid("not a JSON object with a client_id", `'{"client_id":"ID"}', or @FILE`)
	}
	for _, member := range []*string{&info.ClientID, &info.ClientSecret} {
		if err == nil {
			*member, err = l.expand(*member)
		}
	}
	l.clientID, l.clientSecret, l.remote.isRegistered = info.ClientID, info.ClientSecret, true
	l.clientFromEnv = false
	l.given["client-secret"] = []string{} // so that it is not the environment's
	return err
}

// setClientMetadata takes what is registered beside, or instead of, our own metadata.
func (l *commandLine) setClientMetadata(value string) error {
	var scope struct {
		Scope string `json:"scope"`
	}
	err := l.decode(value, false, &l.registerAs, &scope)
	l.scope = scope.Scope
	if _, there := l.registerAs["redirect_uris"]; there {
		l.warnings = append(l.warnings, "--static-oauth-client-metadata: redirect_uris is left out; "+
			"the port after the URL, --host and --callback-path say it")
	}
	return err
}

// decode reads a value that is JSON, or what is in the file that it names after @.
func (l *commandLine) decode(value string, isSecret bool, targets ...any) (err error) {
	text := []byte(value)
	if file, ok := strings.CutPrefix(value, "@"); ok {
		if text, err = l.readFile(file, isSecret); err != nil {
			return err
		}
	}
	for _, target := range targets {
		if decodeObject(text, target) != nil {
			return invalid("not the JSON object that it should be", "JSON in one argument, or @FILE")
		}
	}
	return nil
}

// registerAs is client metadata of the user's (RFC 7591, section 2).
type registerAs map[string]json.RawMessage

// over puts the user's metadata over ours. The redirect is where we listen, and
// a response of another type is none that we understand.
func (m registerAs) over(ours []byte) ([]byte, error) {
	if len(m) == 0 {
		return ours, nil
	}
	all := registerAs{}
	if err := json.Unmarshal(ours, &all); err != nil {
		return nil, err
	}
	for name, value := range m {
		if name != "redirect_uris" && name != "response_types" {
			all[name] = value
		}
	}
	return json.Marshal(all)
}

// setTokenEndpoint is for an authorization server that publishes nothing.
func (l *commandLine) setTokenEndpoint(value string) error {
	l.authMetadata.document = &serverMetadata{
		TokenEndpoint: strings.TrimSpace(value), GrantTypesSupported: []string{grantClientCredentials},
	}
	return nil
}

func (l *commandLine) setAuthTimeout(value string) error {
	seconds, err := strconv.ParseUint(value, 10, 31)
	if err != nil || seconds == 0 {
		return invalid("not a number of seconds", "--auth-timeout 60")
	}
	l.loginTimeout = time.Duration(seconds) * time.Second
	return nil
}

// translate says in our words what depends on more than one of their flags.
func (l *commandLine) translate() error {
	for _, o := range l.remoteOptions() {
		for _, ours := range strings.Fields(o.help) {
			if l.has(o.names) && len(l.given[ours]) > 0 {
				return wrongUsage("leave out one of the two", "--%s and --%s say the same", o.names, ours)
			}
		}
	}
	if l.remote.noResource && l.resource != "" && l.resource != resourceNone {
		l.warnings = append(l.warnings,
			"--disable-resource-parameter: no resource is sent, --resource does not count")
	}
	if l.remote.noResource {
		l.resource = resourceNone
	}
	if l.remote.launched {
		l.setLaunched()
	}
	if m := l.authMetadata.document; m != nil {
		var method string
		if json.Unmarshal(l.registerAs["token_endpoint_auth_method"], &method) == nil {
			m.TokenEndpointAuthMethods = []string{method}
		}
		if l.resource == "" {
			l.resource = resourceNone // what nobody has named is not sent there
		}
		switch err := m.vouch(l.acceptsHTTP()); {
		case !l.unattended():
			return wrongUsage("add --client-credentials", "--token-endpoint without --client-credentials")
		case err != nil:
			return wrongUsage("--token-endpoint https://auth.example.com/token", "--token-endpoint: %w", err)
		}
	}
	return l.setRemoteRedirect()
}

// setLaunched does what a configuration of theirs need not say.
func (l *commandLine) setLaunched() {
	// They want no --allow-http for this machine; another one is refused all the same.
	l.allowHTTP = l.allowHTTP || l.server != nil && l.server.Scheme == "http"
	// Two entries for one server that differ in --resource are two accounts there.
	if !l.has("profile") && l.resource != resourceNone {
		l.profile = l.resource
	}
	// Node adds these certificates, and goes on without them when it cannot read them.
	if file := l.getenv("NODE_EXTRA_CA_CERTS"); file != "" && l.caCert == nil {
		var err error
		if l.caCert, err = l.readFile(file, false); err != nil {
			l.warnings = append(l.warnings, "NODE_EXTRA_CA_CERTS is left out: "+err.Error())
		}
	}
}

// setRemoteRedirect makes the redirect URI that mcp-remote would have. Where none is given its port
// follows from a hash of the command line; that is not repeated here.
func (l *commandLine) setRemoteRedirect() error {
	r := &l.remote
	isDocument := r.launched && l.clientMetadataURL != ""
	switch {
	case l.redirectURI != nil && r.port != "":
		return wrongUsage("leave out one of the two",
			"--redirect-uri and the callback port after the URL say the same")
	case l.redirectURI != nil, l.device, l.unattended():
		return nil
	case r.isRegistered && r.port == "":
		return withHint(usagef("--static-oauth-client-info: the port of its redirect URI is missing"),
			"after the URL give the PORT that the client was registered with: http://localhost:PORT%s",
			remoteRedirectPath)
	case r.port == "" && r.host == "" && r.path == "" && !isDocument:
		return nil
	}
	if r.port == "" {
		r.port, l.anyPort = strconv.Itoa(firstGivenPort), true
	}
	if r.host == "" && runtime.GOOS == "windows" {
		r.host = "127.0.0.1"
	} else if r.host == "" {
		r.host = "localhost"
	}
	if r.path == "" {
		r.path = remoteRedirectPath
	}
	l.redirectURI = &url.URL{Scheme: "http", Host: net.JoinHostPort(r.host, r.port), Path: r.path}
	return nil
}
