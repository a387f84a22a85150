package main

// Flags and environment, read here and nowhere else, become one config value that is complete and
// valid before anything else happens. The flags of mcp-remote are in compat.go.

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// config is what the user asked for.
type config struct {
	command string   // one of commands, "" to serve
	args    []string // as given after the command, for the detached sign-in
	entry   []string // the same for a client's configuration, without secrets
	json    bool     // status
	all     bool     // logout

	server  *url.URL // nil for a command about all that is cached
	profile string

	clientID          string
	clientSecret      string
	clientFromEnv     bool // clientID is GOOGLE_CLIENT_ID's, which nobody gave to this server
	clientMetadataURL string
	grant             string        // how a token is obtained: grantCode or grantClientCredentials
	privateKey        crypto.Signer // authenticates the client instead of a secret; may be nil
	scope             string
	resource          string // "": as published; resourceNone: do not send one
	redirectURI       *url.URL
	anyPort           bool // a client that is yet to be registered may take another port
	authParams        url.Values
	authMetadata      *serverMetadata
	useIDToken        bool // the token to send is the answer's id_token
	registerAs        registerAs

	headers      http.Header
	ignoredTools toolFilter
	caCert       []byte // PEM; nil if it is not given
	clientCert   []byte
	clientKey    []byte
	transport    string // auto, http, sse
	allowHTTP    bool
	noCookies    bool
	noBrowser    bool
	device       bool
	browser      string // $BROWSER
	container    bool   // this is one
	sshServer    string // USER@HOST to tunnel to; "" if this is no SSH session
	loginTimeout time.Duration
	logLevel     string
	cacheDir     string // "": nowhere to write
	noTrace      bool
	showHelp     bool
	showVersion  bool

	notes []note // for stderr, once that is open
}

type note struct {
	level int
	text  string
}

func (c *config) warn(text string) { c.notes = append(c.notes, note{levelWarn, text}) }

const resourceNone = "none"

// option is one flag. One without names is a heading of the usage text.
type option struct {
	names string // the long one last: "u url"
	value string // what the usage text calls it; "" for a switch; it ends in … if repeatable
	pages string // the commands that list it; it is accepted with all
	help  string // lines of the usage text, or why a flag of mcp-remote needs no set
	set   func(value string) error
}

func (o *option) name() string { return o.names[strings.LastIndexByte(o.names, ' ')+1:] }

// commandLine makes a config of the arguments and the environment.
type commandLine struct {
	*config
	getenv func(string) string
	given  map[string]bool // by the long name
	source string          // the variable that the value being set came from; "" if none

	authMetadataFile string // or URL
	remote           remote
}

// options is the table of flags. What depends on several of them is in check.
func (l *commandLine) options() []option {
	const (
		serving = "serve"
		signIn  = "serve login doctor"
		online  = signIn + " logout"
		always  = online + " status"
	)
	return []option{
		{pages: signIn, help: "The server:"},
		{"u url", "URL", always, "https URL of the MCP server; may stand alone", l.setServer},
		{"H header", "'NAME: VALUE' …", signIn, "a header; ${VARIABLE} in it is one of the\n" +
			"environment; Authorization turns OAuth off", l.addHeader},
		{"header-file", "FILE …", signIn, "such headers, one a line; # begins a comment", l.addHeaders},
		{"ignore-tool", "GLOB …", serving, "hide tools of that name, and refuse them", l.ignoreTool},
		{"transport", "KIND", signIn, "auto (default), http, sse", l.setTransport},
		{"ca-cert", "FILE", online, "PEM file of further certificate roots", l.file(&l.caCert)},
		{"client-cert", "FILE", online, "certificate for mutual TLS", l.file(&l.clientCert)},
		{"client-key", "FILE", online, "its key", l.file(&l.clientKey)},
		{"allow-http", "", always, "accept http:// for this machine", fixed(&l.allowHTTP, true)},

		{pages: signIn, help: "Signing in:"},
		{"i client-id", "ID", signIn, "OAuth client id (default env:GOOGLE_CLIENT_ID);\n" +
			"without one the proxy registers itself", l.setClientID},
		{"s client-secret", "SECRET", signIn, "its secret (default env:GOOGLE_CLIENT_SECRET)",
			text(&l.clientSecret)},
		{"private-key", "FILE", signIn, "a key (PEM) instead of a secret", l.setPrivateKey},
		{"grant", "KIND", signIn, "client_credentials: the client is its own user",
			oneOf(&l.grant, grantCode, grantClientCredentials)},
		{"client-metadata-url", "URL", signIn, "Client ID Metadata Document", l.setMetadataURL},
		{"scope", "SCOPES", signIn, "scopes to ask for instead of the server's", text(&l.scope)},
		{"resource", "URI", signIn, "resource to ask a token for; none sends none", l.setResource},
		{"redirect-uri", "URI", signIn, "loopback redirect of a registered client", l.setRedirectURI},
		{"auth-param", "NAME=VALUE …", signIn, "a further authorization parameter; an empty VALUE\n" +
			"takes out one of ours", l.addAuthParam},
		{"auth-metadata", "URL|FILE", signIn, "metadata of the authorization server that you vouch\n" +
			"for, if the published one breaks the rules", text(&l.authMetadataFile)},
		{"use-id-token", "", signIn, "send the id_token as the token", fixed(&l.useIDToken, true)},
		{"profile", "NAME", always, "another account on the same server", text(&l.profile)},
		{"no-browser", "", signIn, "open no browser, print the URL", fixed(&l.noBrowser, true)},
		{"device", "", signIn, "sign in with a code, in a browser on any machine;\n" +
			"by itself over SSH and in a container", fixed(&l.device, true)},
		{"login-timeout", "D", signIn, "how long a sign-in may take (default 5m)", l.setLoginTimeout},

		{pages: signIn, help: "Otherwise:"},
		{"log-level", "LEVEL", online, "error, warn (default), info, debug", oneOf(&l.logLevel, logLevelNames...)},
		{"no-trace", "", online, "write no traces.jsonl", fixed(&l.noTrace, true)},
		{"json", "", "status", "print JSON", fixed(&l.json, true)},
		{"all", "", "logout", "of all servers", fixed(&l.all, true)},
		{"version", "", serving, "print the version", fixed(&l.showVersion, true)},
		{"h help", "", always, "print this page", fixed(&l.showHelp, true)},
	}
}

func text(target *string) func(string) error {
	return func(value string) error { *target = value; return nil }
}

func fixed[T any](target *T, value T) func(string) error {
	return func(string) error { *target = value; return nil }
}

func oneOf(target *string, values ...string) func(string) error {
	return func(value string) error {
		*target = value
		return firstBroken(rule{!slices.Contains(values, value), "want " + strings.Join(values, " or "),
			"mcp-proxy -h says which is the default"})
	}
}

// A rule is about values, and says what to type instead of those that break it.
type rule struct {
	isBroken      bool
	problem, hint string
}

// firstBroken returns the first rule that is broken.
func firstBroken(rules ...rule) error {
	for _, r := range rules {
		if r.isBroken {
			return invalid(r.problem, r.hint)
		}
	}
	return nil
}

// parseArgs reads the whole command line and the environment.
func parseArgs(args []string, getenv func(string) string) (*config, error) {
	c := &config{
		transport: "auto", grant: grantCode, loginTimeout: 5 * time.Minute, logLevel: "warn",
		headers: http.Header{}, authParams: url.Values{},
		// The default client counts as absent when unset.
		clientID:     strings.TrimSpace(getenv("GOOGLE_CLIENT_ID")),
		clientSecret: strings.TrimSpace(getenv("GOOGLE_CLIENT_SECRET")),
	}
	c.clientFromEnv = c.clientID != ""
	l := &commandLine{config: c, getenv: getenv, given: map[string]bool{}, remote: remote{
		host: map[bool]string{true: "127.0.0.1", false: "localhost"}[runtime.GOOS == "windows"],
		path: remoteRedirectPath,
	}}
	steps := []func() error{l.parse, l.readEnvironment, l.translate, l.check, l.readAuthMetadata}
	err := l.setCommand(args)
	for i := 0; err == nil && i < len(steps); i++ {
		if c.showHelp || c.showVersion || c.command == detachedCommand { // its arguments come on stdin
			break
		}
		err = steps[i]()
	}
	if err != nil {
		err = usagef("%w", err)
	}
	return c, err
}

var (
	unknownName = onceNeeded(`^--[a-z]+(-[a-z]+)*(=.*)?$`)
	reference   = onceNeeded(`env:|\$\{|^@`)
)

// parse divides the arguments into flags with their values, and the URL, which may stand alone.
func (l *commandLine) parse() error {
	options := append(l.options(), l.remoteOptions()...)
	all := l.afterLauncher(l.args)
	for i := 0; i < len(all); i++ {
		arg, place := all[i], len(l.args)-len(all)+i+1
		o, value := findOption(options, "url"), arg
		switch {
		case len(arg) > 1 && arg[0] == '-':
			name, rest, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
			o, value = findOption(options, name), rest
			next := append(all, "--url")[i+1]
			switch {
			case o == nil:
				return unknownFlag(arg, place, options)
			case o.value == "" && hasValue:
				return invalid("--"+o.name()+" takes no value", "--"+o.name())
			case o.value == "" || hasValue:
			case strings.HasPrefix(next, "--") && findOption(options, next[2:]) != nil:
				return invalid("--"+o.name()+" needs a value", "--"+o.name()+"=VALUE, or as two arguments")
			default:
				i++
				value = next
			}
		case slices.Contains(commands, arg):
			return invalid("a command comes first", "mcp-proxy "+arg+" -u URL")
		case l.given["url"] && !l.setPort(arg):
			return invalid(fmt.Sprintf("unexpected argument, number %d: there is a --url already", place),
				"mcp-proxy -h lists the flags; was a value split at a blank?")
		case l.given["url"]:
			continue
		}
		name := o.name()
		if o.value != "" && !strings.HasSuffix(o.value, "…") && l.given[name] {
			return invalid("--"+name+" is given twice", "leave one of them out")
		}
		l.given[name] = true
		l.entry = append(l.entry, entryArguments(o, value)...)
		if err := l.setValue(o, value); err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
	}
	if l.remote.launched {
		l.entry = nil // there is one already, and its words mean other things
	}
	return nil
}

// entryArguments are a flag and its value for a client's configuration, if serving needs them. A
// variable takes the place of a secret that was typed.
func entryArguments(o *option, value string) []string {
	isSecret := slices.Contains([]string{"SECRET", "JSON", "'NAME: VALUE' …"}, o.value)
	switch name := o.name(); {
	case name == "no-browser", name == "login-timeout", o.pages == "status", o.pages == "logout":
		return nil
	case o.value == "":
		return []string{"--" + name}
	case isSecret && !reference().MatchString(value), strings.Contains(value, "-----BEGIN"):
		value = "env:NAME"
	case name == "url":
		value = shownServer(value)
	}
	if short, _, ok := strings.Cut(o.names, " "); ok {
		return []string{"-" + short, value}
	}
	return []string{"--" + o.name(), value}
}

func findOption(options []option, name string) *option {
	for i, o := range options {
		if name != "" && slices.Contains(strings.Fields(o.names), name) {
			return &options[i]
		}
	}
	return nil
}

// unknownFlag names what is likely to be the name of a flag, else its place: it may hold a value.
func unknownFlag(arg string, place int, options []option) error {
	problem := fmt.Sprintf("unknown flag, argument number %d", place)
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	first, _, isSplit := strings.Cut(name, " ")
	if isSplit && findOption(options, first) != nil {
		return invalid("--"+first+" and its value are one argument", `two arguments: "--`+first+`", "VALUE"`)
	}
	if unknownName().MatchString(arg) {
		problem = "unknown flag --" + name
	}
	for _, o := range options {
		if near := nearest(name, strings.Fields(o.names)); near != "" {
			problem = "unknown flag --" + name + "; did you mean --" + near + "?"
			break
		}
	}
	return invalid(problem, "mcp-proxy -h lists the flags")
}

// setValue takes a value for a flag, or that of the variable that it names.
func (l *commandLine) setValue(o *option, value string) (err error) {
	name, isVariable := strings.CutPrefix(value, "env:")
	if l.source = ""; isVariable {
		l.source = name
		if value, err = l.variable(name); err != nil {
			return err
		}
	}
	if o.set == nil {
		l.notes = append(l.notes, note{levelInfo, "--" + o.name() + " is not needed: " + o.help})
		return nil
	}
	if err = o.set(value); err != nil && isVariable {
		return fmt.Errorf("env:%s: %w", name, err)
	}
	return err
}

// variable is what a variable holds, taken literally, without the line break that files of secrets
// end with.
func (l *commandLine) variable(name string) (string, error) {
	value := strings.TrimSpace(l.getenv(name))
	return value, firstBroken(rule{value == "", "the environment variable " + name + " is not set",
		"set " + name + ` in the entry's "env", or give the value itself`})
}

var placeholder = onceNeeded(`\$\{([^{}]*)\}`)

// expand is a value that may be env:NAME, or hold ${NAME}, which Cursor and VS Code also write
// ${env:NAME}. Other placeholders were meant for somebody who should have replaced them before.
// Nothing in a variable's value is expanded.
func (l *commandLine) expand(value string) (_ string, err error) {
	if name, ok := strings.CutPrefix(value, "env:"); ok && l.source == "" {
		return l.variable(name)
	} else if l.source != "" {
		return value, nil
	}
	value = placeholder().ReplaceAllStringFunc(value, func(text string) (expanded string) {
		name := strings.TrimPrefix(placeholder().FindStringSubmatch(text)[1], "env:")
		switch kind, _, isOther := strings.Cut(name, ":"); {
		case err != nil:
		case isOther:
			err = invalid("${"+kind+":…} is for a shell or for VS Code to expand, and neither has",
				`write ${NAME}, and set NAME in the entry's "env"`)
		default:
			expanded, err = l.variable(name)
		}
		return expanded
	})
	return value, err
}

// readEnvironment takes what no flag says.
func (l *commandLine) readEnvironment() (err error) {
	l.browser, l.container = l.getenv("BROWSER"), isContainer(l.getenv)
	if fields := strings.Fields(l.getenv("SSH_CONNECTION")); len(fields) == 4 {
		l.sshServer = strings.Fields(l.getenv("USER") + " USER")[0] + "@" + fields[2]
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		if value := l.getenv(name); value != "" && !isProxy(value) {
			return invalid(name+" is not the URL of a proxy",
				"percent-encode special characters of its password: % is %25, # is %23")
		}
	}
	dir, xdg := l.getenv("MCP_PROXY_CACHE_DIR"), l.getenv("XDG_CACHE_HOME")
	switch {
	case dir != "":
		if l.cacheDir, err = expandPath(dir); err != nil {
			return fmt.Errorf("MCP_PROXY_CACHE_DIR: %w", err)
		}
	case filepath.IsAbs(xdg): // XDG Base Directory Specification: a relative path is to be ignored
		l.cacheDir = filepath.Join(xdg, "mcp-proxy")
	default:
		l.cacheDir, _ = expandPath("~/.cache/mcp-proxy")
	}
	return nil
}

// isProxy reports whether net/http understands the value of HTTPS_PROXY. It would go past the proxy
// without a word if it does not.
func isProxy(value string) bool {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	return err == nil && u.Fragment == "" && u.RawQuery == "" && isAddress(u)
}

const urlHint = "mcp-proxy -u https://mcp.example.com/mcp"

var hostPath = onceNeeded(`^([a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]+|localhost|[0-9.]+)(:\d+)?(/.*)?$`)

func (l *commandLine) setServer(raw string) (err error) {
	raw = strings.Trim(raw, " \t\r\n\"'`<>") // as addresses are copied
	if !strings.Contains(raw, "://") && hostPath().MatchString(raw) {
		if u, err := url.Parse("http://" + raw); err == nil {
			return invalid("the URL lacks https://, or http:// on this machine", typedURL(u))
		}
	}
	if l.server, err = url.Parse(raw); err != nil || !isAddress(l.server) || strings.Contains(raw, " ") {
		return invalid("not a URL", urlHint)
	}
	u, here, host := l.server, *l.server, l.server.Hostname()
	here.Host = strings.TrimSuffix("127.0.0.1:"+u.Port(), ":")
	return firstBroken([]rule{
		{u.User != nil, "user information in the URL is not accepted",
			"give credentials with --client-id, or with -H 'Authorization: …'"},
		{strings.Contains(raw, "#"), "a fragment (#…) has no meaning for a server", urlHint},
		{u.Scheme != "https" && u.Scheme != "http", "the scheme must be https", urlHint},
		{host == "0.0.0.0" || host == "::", "a server listens there, but is not reached there",
			typedURL(&here)},
		{u.Scheme == "http" && !isLoopback(host),
			"another machine, and --allow-http is for this one: only https protects a token", typedURL(u)},
	}...)
}

// typedURL is what to type for a server, with http for this machine alone. Some hide a key in a
// longer path.
func typedURL(u *url.URL) string {
	path, scheme, end := u.Path, "https", ""
	if len(path) > len("/mcp/") {
		path = "/…"
	}
	if u.Scheme == "http" && isLoopback(u.Hostname()) {
		scheme, end = "http", " --allow-http"
	}
	return "mcp-proxy -u " + scheme + "://" + u.Host + path + end
}

// check is about what depends on more than one flag.
func (l *commandLine) check() error {
	const (
		machine     = "grant " + grantClientCredentials
		machineHint = "--" + machine + " --client-id ID --client-secret env:SECRET"
		oneOfThem   = "leave out one of the two"
	)
	u, hasKey, isMachine := l.server, l.given["private-key"], l.unattended()
	for _, pair := range [][2]string{
		{"all", "url"}, {"private-key", "client-secret"}, {"device", "redirect-uri auth-param"},
		{machine, "device redirect-uri auth-param client-metadata-url"},
		{"redirect-uri", "host callback-path"}, {"static-oauth-client-info", "client-id client-secret"},
		{"client-credentials", "grant"}, {"token-endpoint", "auth-metadata"},
		{"auth-timeout", "login-timeout"}, {"log-level", "silent debug"},
	} {
		for _, other := range strings.Fields(pair[1]) {
			if (l.given[pair[0]] || pair[0] == machine && isMachine) && l.given[other] {
				return invalid("--"+pair[0]+" and --"+other+" exclude each other", oneOfThem)
			}
		}
	}
	err := firstBroken([]rule{
		{l.json && l.command != "status", "--json is a flag of status", "mcp-proxy status --json"},
		{l.all && l.command != "logout", "--all is a flag of logout", "mcp-proxy logout --all"},
		{u == nil && l.command != "status" && !l.all, "no server: --url is missing", urlHint},
		{u != nil && u.Scheme == "http" && !l.allowHTTP,
			"--url: http is only accepted for this machine, and with --allow-http", "add --allow-http"},
		{l.given["client-cert"] != l.given["client-key"], "--client-cert and --client-key go together",
			"--client-cert cert.pem --client-key key.pem"},
		{l.given["client-secret"] && l.clientID == "", "--client-secret without --client-id",
			"add --client-id ID"},
		{hasKey && l.clientID == "", "--private-key without --client-id", "add --client-id ID"},
		{isMachine && l.clientID == "", "--" + machine + " needs --client-id", machineHint},
		{isMachine && l.clientSecret == "" && !hasKey,
			"--" + machine + " needs --client-secret or --private-key", machineHint},
		{l.given["token-endpoint"] && !isMachine, "--token-endpoint without --client-credentials",
			"add --client-credentials"},
		{l.given["redirect-uri"] && l.remote.port != "",
			"--redirect-uri and the callback port after the URL say the same", oneOfThem},
	}...)
	if hasKey || l.clientID == "" {
		l.clientSecret = "" // the environment's
	}
	return err
}

func (l *commandLine) setClientID(id string) error {
	if l.clientFromEnv && id != l.clientID && !l.given["client-secret"] {
		l.clientSecret = "" // it is that of GOOGLE_CLIENT_ID
	}
	l.clientID, l.clientFromEnv = id, false
	return nil
}

func (l *commandLine) setMetadataURL(raw string) error {
	l.clientMetadataURL = raw
	// Client ID Metadata Document, draft 00, section 3: https, a path, no fragment, no user info.
	u, err := checkEndpoint(raw, false)
	return firstBroken(rule{err != nil || len(u.Path) < 2, "not an https URL with a path",
		"--client-metadata-url https://app.example.com/client.json"})
}

// setRedirectURI takes it as it was registered: no slash is added.
func (l *commandLine) setRedirectURI(raw string) (err error) {
	l.redirectURI, err = checkEndpoint(raw, true)
	// RFC 8252, section 7.3: the redirect of a native application is http on the loopback interface.
	u := l.redirectURI
	return firstBroken(rule{
		err != nil || u.Scheme != "http" || u.Port() == "" || u.Port() == "0" || u.RawQuery != "",
		"must be http on this machine with a port", "--redirect-uri http://localhost:3000/oauth2callback"})
}

func (l *commandLine) setResource(value string) error {
	if l.resource = strings.TrimSpace(value); l.resource == "" {
		l.resource = resourceNone
	}
	// RFC 8707, section 2: an absolute URI without a fragment.
	u, err := url.Parse(l.resource)
	return firstBroken(rule{l.resource != resourceNone && (err != nil || !u.IsAbs() || u.Fragment != ""),
		"must be an absolute URI without a fragment, or none", "--resource https://mcp.example.com/mcp"})
}

// reservedAuthParams are the proxy's own: given by the user they would undo what protects the
// sign-in.
var reservedAuthParams = strings.Fields("response_type client_id redirect_uri state code_challenge " +
	"code_challenge_method scope resource response_mode request request_uri")

func (l *commandLine) addAuthParam(param string) error {
	name, value, ok := strings.Cut(param, "=")
	err := firstBroken(
		rule{!ok || name == "", "want name=value", "--auth-param access_type=offline"},
		rule{slices.Contains(reservedAuthParams, name), name + " is set by the proxy itself",
			"--scope, --resource, --client-id and --redirect-uri are flags of their own"})
	if err == nil {
		value, err = l.expand(value)
	}
	l.authParams.Add(name, value)
	return err
}

func (l *commandLine) ignoreTool(glob string) error {
	filter, err := newToolFilter([]string{glob})
	l.ignoredTools = append(l.ignoredTools, filter...)
	return err
}

func (l *commandLine) setLoginTimeout(value string) (err error) {
	l.loginTimeout, err = time.ParseDuration(value)
	return firstBroken(rule{err != nil || l.loginTimeout <= 0, "not a duration", "--login-timeout 5m"})
}

// setPrivateKey takes a file, or the key itself from a variable. Nothing of what a variable holds
// is repeated: it may be a key that we do not know as one.
func (l *commandLine) setPrivateKey(value string) (err error) {
	data := []byte(value)
	if !strings.Contains(value, "-----BEGIN ") {
		if data, err = l.readFile(value, true); err != nil {
			return err
		}
	}
	if l.privateKey, err = parsePrivateKey(data); err != nil {
		return fmt.Errorf("it %w", err)
	}
	return nil
}

// readAuthMetadata reads a file at once, so that what is wrong with it is said before anything
// happens.
func (l *commandLine) readAuthMetadata() error {
	name, hint := "auth-metadata", `{"authorization_endpoint": "https://…", "token_endpoint": "https://…"}`
	file, m := l.authMetadataFile, &serverMetadata{TokenEndpoint: l.remote.tokenEndpoint}
	switch {
	case l.given["token-endpoint"]:
		name, hint = "token-endpoint", "--token-endpoint https://auth.example.com/token"
		var method string
		if json.Unmarshal(l.registerAs["token_endpoint_auth_method"], &method) == nil {
			m.TokenEndpointAuthMethods = []string{method}
		}
	case file == "":
		return nil
	case strings.Contains(file, "://"):
		l.authMetadata = &serverMetadata{source: file}
		if _, err := checkEndpoint(file, l.acceptsHTTP()); err != nil {
			return invalid("--auth-metadata: the URL "+err.Error(),
				"https://auth.example.com/.well-known/oauth-authorization-server")
		}
		return nil
	default:
		if data, err := l.readFile(file, false); err != nil {
			return fmt.Errorf("--auth-metadata: %w", err)
		} else if decodeObject(data, m) != nil {
			return invalid("--auth-metadata: the file is no JSON object with metadata", hint)
		}
	}
	switch {
	case len(m.GrantTypesSupported) > 0:
	case l.unattended():
		m.GrantTypesSupported = []string{grantClientCredentials} // no authorization_endpoint is needed
	case l.device:
		m.GrantTypesSupported = []string{grantDevice}
	}
	l.authMetadata = m
	err := m.vouch(l.acceptsHTTP())
	if err != nil {
		err = invalid("--"+name+": "+err.Error(), hint)
	}
	return err
}

// acceptsHTTP reports whether an http address of this machine is good enough for anything beside
// the MCP server: not if the MCP server itself has https, for it could make us talk to the services
// of this machine.
func (c *config) acceptsHTTP() bool {
	return c.allowHTTP && (c.server == nil || c.server.Scheme == "http")
}

// reservedHeaders are the proxy's own, or would break HTTP's framing.
var reservedHeaders = strings.Fields("Accept Content-Type Content-Length Transfer-Encoding " +
	"Connection Host Upgrade Te Trailer Last-Event-Id Mcp-Session-Id Mcp-Protocol-Version")

// addHeader takes one `Name: value`.
func (l *commandLine) addHeader(header string) error {
	name, value, ok := strings.Cut(header, ":")
	if !ok || !isToken(name) {
		return invalid("want 'Name: value'", "-H 'X-Api-Key: env:API_KEY'")
	}
	name = http.CanonicalHeaderKey(name)
	value, err := l.expand(strings.TrimSpace(value))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	} else if value == "" {
		return invalid("a header has no value: was the argument split at the blank?",
			"without the blank: -H NAME:VALUE; or -H NAME:env:VARIABLE")
	}
	l.headers.Add(name, value)
	// RFC 9110, section 5.5: a line break would start another header, and net/http
	// refuses to send the other control characters.
	isControl := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
	return firstBroken(
		rule{slices.Contains(reservedHeaders, name), name + " is set by the proxy itself", "leave it out"},
		rule{strings.IndexFunc(value, isControl) >= 0,
			"the value of " + name + " holds a line break or another control character",
			"one --header for each header; was it copied from a terminal? type it anew"})
}

// addHeaders reads headers that are not to be seen among the arguments of the process: one
// `Name: value` a line, # begins a comment.
func (l *commandLine) addHeaders(file string) error {
	data, err := l.readFile(file, true)
	if err != nil {
		return err
	}
	l.source = "" // the variable named the file
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := l.addHeader(line); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return nil
}

func (l *commandLine) file(target *[]byte) func(string) error {
	return func(file string) (err error) {
		*target, err = l.readFile(file, false)
		return err
	}
}

var (
	homePath     = onceNeeded(`^~([/\\]|$)`)
	pathVariable = onceNeeded(`\$[A-Za-z_{]|%[A-Za-z_][A-Za-z0-9_()]*%`)
)

// expandPath replaces a leading ~/, because hosts start us without a shell. Another variable in the
// path would become a directory of that name.
func expandPath(path string) (string, error) {
	err := firstBroken(rule{pathVariable().MatchString(path),
		"a variable in the path, and nobody has expanded it",
		"write the path out; only ~/ at its beginning is understood"})
	if err != nil || !homePath().MatchString(path) {
		return path, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", invalid("~ is the home directory, and nobody knows it", "write the path out")
	}
	return filepath.Join(home, path[1:]), nil
}

const maxGivenFile = 1 << 20 // bytes

// readFile reads a file that the user named: UTF-8, perhaps with a byte order mark. Others should
// not be able to read a secret one.
func (l *commandLine) readFile(file string, isSecret bool) (data []byte, err error) {
	if file, err = expandPath(file); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		data, err = io.ReadAll(io.LimitReader(f, maxGivenFile+1))
	}
	var failed *fs.PathError
	if errors.As(err, &failed) { // without the path, which may be something else
		return nil, withHint(failed.Err, "give the path of a file that can be read")
	}
	if info, err := f.Stat(); isSecret && err == nil && isLoose(info) {
		l.warn(fmt.Sprintf("others can read %s (mode %#o): chmod 600 %s", file, info.Mode().Perm(), file))
	}
	isUTF16 := bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff"))
	return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), firstBroken(
		rule{len(data) > maxGivenFile, "larger than a MiB", "is it the right file?"},
		rule{isUTF16, "the file is in UTF-16", "save it as UTF-8"})
}

// unattended reports whether the client is its own user (the client credentials grant).
func (c *config) unattended() bool { return c.grant == grantClientCredentials }

// opensBrowser reports whether a browser opened here would be seen: over SSH it would open on a
// desktop that nobody sees, unless $BROWSER leads to the user's, as editors with remote sessions
// set it.
func (c *config) opensBrowser() bool {
	return !c.noBrowser && (c.sshServer == "" || c.browser != "")
}
