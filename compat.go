package main

// The command line of mcp-remote 0.15, an npm package that does the same work: a configuration made
// for it works when its command alone is changed. Its flags are said here in the words of ours.

import (
	"net"
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

// remoteOptions are the flags that are mcp-remote's alone. One without set is accepted and has no
// effect; its help says why it is not needed.
func (l *commandLine) remoteOptions() []option {
	const (
		sessions = "a session that the server has dropped is opened anew"
		waits    = "connecting is bounded, and a server may take its time to answer"
	)
	setTokenEndpoint := func(value string) error {
		l.authMetadata = &serverMetadata{TokenEndpoint: value}
		return nil
	}
	return []option{
		{"host", "HOST", "", "", text(&l.host)},
		{"callback-path", "PATH", "", "", text(&l.path)},
		{"static-oauth-client-info", "JSON", "", "", l.setClientInfo},
		{"static-oauth-client-metadata", "JSON", "", "", l.setClientMetadata},
		{"authorize-param", "NAME=VALUE …", "", "", l.addAuthParam},
		{"device-code", "", "", "", fixed(&l.device, true)},
		{"client-credentials", "", "", "", fixed(&l.grant, grantClientCredentials)},
		{"token-endpoint", "URL", "", "", setTokenEndpoint},
		{"disable-resource-parameter", "", "", "", fixed(new(bool), true)},
		{"disable-cookies", "", "", "", fixed(&l.noCookies, true)},
		{"auth-timeout", "SECONDS", "", "", l.setAuthTimeout},
		{"silent", "", "", "", fixed(&l.logLevel, "error")},
		{"debug", "", "", "", fixed(&l.logLevel, "debug")},
		{"auth-success-url", "URL", "", "the browser ends at a page of our own", nil},
		{"enable-proxy", "", "", "the proxies of the environment are always used", nil},
		{"ipv4", "", "", "IPv4 is tried as well if IPv6 does not answer at once", nil},
		{"protocol", "MODE", "", "what client and server speak is found out", nil},
		{"keep-alive", "", "", sessions, nil},
		{"ping-interval", "SECONDS", "", sessions, nil},
		{"connect-timeout", "SECONDS", "", waits, nil},
		{"headers-timeout", "SECONDS", "", waits, nil},
		{"body-timeout", "SECONDS", "", waits, nil},
	}
}

// afterLauncher leaves out what started mcp-remote, up to its name.
func (l *commandLine) afterLauncher(args []string) []string {
	i := slices.IndexFunc(args, func(arg string) bool { return !slices.Contains(launchers, arg) })
	if l.launched = i >= 0 && strings.HasPrefix(args[i]+"@", remoteName+"@"); l.launched {
		return args[i+1:]
	}
	return args
}

// setPort takes the argument after the URL, the port of the callback.
func (l *commandLine) setPort(arg string) bool {
	port, err := strconv.ParseUint(arg, 10, 16)
	isPort := err == nil && port != 0 && l.port == ""
	if isPort {
		l.port, l.entry = arg, append(l.entry, arg)
	}
	return isPort
}

func (l *commandLine) setAuthTimeout(value string) error {
	seconds, err := strconv.ParseUint(value, 10, 31)
	l.loginTimeout = time.Duration(seconds) * time.Second
	return firstBroken(rule{err != nil || seconds == 0, "not a number of seconds",
		"--auth-timeout 60"})
}

func (l *commandLine) setTransport(value string) error {
	if value == "sse-first" {
		l.warn("--transport sse-first: HTTP is tried first, SSE where the server refuses it; " +
			"--transport sse never tries HTTP")
	}
	ours := strings.NewReplacer("http-first", "auto", "sse-first", "auto", "http-only", "http",
		"sse-only", "sse").Replace(value)
	return oneOf(&l.transport, "auto", "http", "sse")(ours)
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
	if err == nil {
		l.clientID, err = l.expand(info.ClientID)
	}
	if err == nil {
		l.clientSecret, err = l.expand(info.ClientSecret)
	}
	return err
}

// setClientMetadata takes what is registered beside, or instead of, our own metadata.
func (l *commandLine) setClientMetadata(value string) error {
	var scope struct {
		Scope string `json:"scope"`
	}
	err := l.decode(value, false, &l.registerAs, &scope)
	if !l.given["scope"] {
		l.scope = scope.Scope
	}
	if l.registerAs["redirect_uris"] != nil {
		l.warn("--static-oauth-client-metadata: redirect_uris is left out; the port after the URL, " +
			"--host and --callback-path say it")
	}
	return err
}

// decode reads a value that is JSON, or what is in the file that it names after @.
func (l *commandLine) decode(value string, isSecret bool, targets ...any) (err error) {
	text := []byte(value)
	if file, ok := strings.CutPrefix(value, "@"); ok {
		text, err = l.readFile(file, isSecret)
	}
	for _, target := range targets {
		if err == nil && decodeObject(text, target) != nil {
			err = invalid("it is no JSON object of the form that it should have",
				"it begins with { and ends with }")
		}
	}
	return err
}

// translate says in our words what depends on more than one of their flags, and what a
// configuration of theirs need not say.
func (l *commandLine) translate() (err error) {
	l.resource = strings.TrimSpace(l.resource)
	noResource := l.given["disable-resource-parameter"]
	if noResource && l.resource != "" && l.resource != resourceNone {
		l.warn("--disable-resource-parameter: no resource is sent, --resource does not count")
	}
	// What nobody has named is not sent where --token-endpoint is all that is known.
	if noResource || l.resource == "" && (l.given["resource"] || l.given["token-endpoint"]) {
		l.resource = resourceNone
	}
	if l.launched {
		// They want no --allow-http for this machine; another one is refused all the same.
		l.allowHTTP = l.allowHTTP || l.server != nil && l.server.Scheme == "http"
		// Two entries for one server that differ in --resource are two accounts there.
		if !l.given["profile"] && l.resource != resourceNone {
			l.profile = l.resource
		}
		// Node adds these certificates, and goes on without them when it cannot read them.
		if file := l.getenv("NODE_EXTRA_CA_CERTS"); file != "" && l.caCert == nil {
			if l.caCert, err = l.readFile(file, false); err != nil {
				l.warn("NODE_EXTRA_CA_CERTS is left out: " + err.Error())
			}
		}
	}
	// The redirect URI is the one that mcp-remote would have. If no port is given theirs follows from
	// a hash of the command line; that is not repeated here.
	isDocument := l.launched && l.clientMetadataURL != ""
	switch {
	case l.redirectURI != nil, l.device, l.unattended():
		return nil
	case l.port == "" && l.given["static-oauth-client-info"]:
		return invalid("--static-oauth-client-info: the port of its redirect URI is missing",
			"after the URL give the PORT that the client was registered with: http://localhost:PORT"+
				remoteRedirectPath)
	case l.port == "" && !l.given["host"] && !l.given["callback-path"] && !isDocument:
		return nil
	case l.port == "":
		l.port, l.anyPort = strconv.Itoa(firstGivenPort), true
	}
	err = l.setRedirectURI("http://" + net.JoinHostPort(l.host, l.port) + l.path)
	return firstBroken(rule{err != nil,
		"--host or --callback-path: the browser must come back to this machine",
		"--host localhost --callback-path " + remoteRedirectPath})
}
