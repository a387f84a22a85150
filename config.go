package main

// Flags and environment, read here and nowhere else, become one config value that is complete and
// valid before anything else happens. The flags of mcp-remote are in compat.go.

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
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
	authMetadata      authMetadata
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
	logLevel     logLevel
	cacheDir     string // "": nowhere to write
	noTrace      bool
	showHelp     bool
	showVersion  bool

	warnings []string // for stderr, once that is open
	notes    []string // the same at level info
}

const resourceNone = "none"

// option is one flag. One without names is a heading of the usage text.
type option struct {
	names string // the long one last: "u url"
	value string // what the usage text calls it; "" for a switch; it ends in … if repeatable
	pages string // the commands that list it; it is accepted with all
	help  string // lines of the usage text
	set   func(value string) error
}

func (o *option) name() string { return o.names[strings.LastIndexByte(o.names, ' ')+1:] }

// commandLine makes a config of the arguments and the environment.
type commandLine struct {
	*config
	getenv func(string) string
	given  map[string][]string // by the long name, as written
	source string              // the variable that the value being set came from; "" if none

	privateKeyFile   string
	authMetadataFile string // or URL
	remote           remote
}

// options is the table of flags. Their values are checked in its order, what depends on several of
// them is in check.
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
		{"allow-http", "", online, "accept http:// for this machine", toggle(&l.allowHTTP)},

		{pages: signIn, help: "Signing in:"},
		{"i client-id", "ID", signIn, "OAuth client id (default env:GOOGLE_CLIENT_ID);\n" +
			"without one the proxy registers itself", l.setClientID},
		{"s client-secret", "SECRET", signIn, "its secret (default env:GOOGLE_CLIENT_SECRET)",
			text(&l.clientSecret)},
		{"private-key", "FILE", signIn, "a key (PEM) instead of a secret", text(&l.privateKeyFile)},
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
		{"use-id-token", "", signIn, "send the id_token as the token", toggle(&l.useIDToken)},
		{"profile", "NAME", always, "another account on the same server", text(&l.profile)},
		{"no-browser", "", signIn, "open no browser, print the URL", toggle(&l.noBrowser)},
		{"device", "", signIn, "sign in with a code, in a browser on any machine;\n" +
			"by itself over SSH and in a container", toggle(&l.device)},
		{"login-timeout", "D", signIn, "how long a sign-in may take (default 5m)", l.setLoginTimeout},

		{pages: signIn, help: "Otherwise:"},
		{"log-level", "LEVEL", online, "error, warn (default), info, debug", l.setLogLevel},
		{"no-trace", "", online, "write no traces.jsonl", toggle(&l.noTrace)},
		{"json", "", "status", "print JSON", toggle(&l.json)},
		{"all", "", "logout", "of all servers", toggle(&l.all)},
		{"version", "", serving, "print the version", toggle(&l.showVersion)},
		{"h help", "", always, "print this page", toggle(&l.showHelp)},
	}
}

func text(target *string) func(string) error {
	return func(value string) error { *target = value; return nil }
}

func toggle(target *bool) func(string) error {
	return func(value string) error {
		*target = value == "true"
		return oneOf(&value, "true", "false")(value)
	}
}

func oneOf(target *string, values ...string) func(string) error {
	return func(value string) error {
		if *target = value; !slices.Contains(values, value) {
			return invalid("want "+strings.Join(values, " or "), values[0]+" is the default")
		}
		return nil
	}
}

// parseArgs reads the whole command line and the environment.
func parseArgs(args []string, getenv func(string) string) (*config, error) {
	c := &config{
		transport: "auto", grant: grantCode, loginTimeout: 5 * time.Minute, logLevel: levelWarn,
		headers: http.Header{}, authParams: url.Values{},
	}
	l := &commandLine{config: c, getenv: getenv, given: map[string][]string{}}
	args, err := l.setCommand(args)
	c.args = args
	if err != nil || c.command == detachedCommand { // its arguments come on stdin
		return c, err
	}
	if err := l.parse(args); err != nil || c.showHelp || c.showVersion {
		return c, err
	}
	for _, step := range []func() error{
		l.readEnvironment, l.setValues, l.translate,
		l.check, l.readPrivateKey, l.readAuthMetadata,
	} {
		if err := step(); err != nil {
			return c, err
		}
	}
	return c, nil
}

var (
	unknownName = onceNeeded(`^--[a-z]+(-[a-z]+)*(=.*)?$`)
	emptyHeader = onceNeeded(`^[^:]*:\s*$`)
	reference   = onceNeeded(`env:|\$\{|^@`)
)

// parse divides the arguments into flags with their values, and the URL, which may stand alone.
func (l *commandLine) parse(args []string) error {
	options := append(l.options(), l.remoteOptions()...)
	all := l.afterLauncher(args)
	skipped := len(args) - len(all)
	var alone []int // places of what is no flag
	for i := 0; i < len(all); i++ {
		if len(all[i]) < 2 || all[i][0] != '-' {
			alone = append(alone, i)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(all[i][1:], "-"), "=")
		o := findOption(options, name)
		switch {
		case o == nil:
			return unknownFlag(all[i], skipped+i+1, options)
		case hasValue:
		case o.value == "":
			value = "true"
		case i+1 == len(all), findOption(options, strings.TrimPrefix(all[i+1], "--")) != nil &&
			strings.HasPrefix(all[i+1], "--"):
			return wrongUsage("--"+o.name()+"=VALUE, or as two arguments", "--%s needs a value", o.name())
		default:
			i++
			value = all[i]
		}
		name = o.name()
		if o.value != "" && !strings.HasSuffix(o.value, "…") && l.has(name) {
			return wrongUsage("leave one of them out", "--%s is given twice", name)
		}
		if name == "header" && emptyHeader().MatchString(value) {
			return usagef("--header: %w", errEmptyHeader) // before what was split off is misunderstood
		}
		l.given[name] = append(l.given[name], value)
		l.entry = append(l.entry, entryArguments(o, value)...)
	}
	l.showHelp = l.showHelp || l.has("help")
	l.showVersion = l.showVersion || l.has("version")
	for _, i := range alone {
		switch arg := all[i]; {
		case slices.Contains(commands, arg):
			return wrongUsage("mcp-proxy "+arg+" -u URL", "a command comes first")
		case !l.has("url"):
			l.given["url"] = []string{arg}
			l.entry = append(l.entry, entryArguments(findOption(options, "u"), arg)...)
		case !l.setPort(arg):
			return wrongUsage("mcp-proxy -h lists the flags; was a value split at a blank?",
				"unexpected argument, number %d: there is a --url already", skipped+i+1)
		default:
			l.entry = append(l.entry, arg)
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
	start, _, isQuery := strings.Cut(value, "?")
	switch name := o.name(); {
	case name == "no-browser", name == "login-timeout", o.pages == "status", o.pages == "logout":
		return nil
	case o.value == "":
		return []string{"--" + name}
	case isSecret && !reference().MatchString(value), strings.Contains(value, "-----BEGIN"):
		value = "env:NAME"
	case name == "url" && isQuery:
		value = start + "?…"
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
	const list = "mcp-proxy -h lists the flags"
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if first, _, split := strings.Cut(name, " "); split && findOption(options, first) != nil {
		return wrongUsage(`two arguments: "--`+first+`", "VALUE"`,
			"--%s and its value are one argument", first)
	}
	for _, o := range options {
		if near := nearest(name, strings.Fields(o.names)); near != "" {
			return wrongUsage(list, "unknown flag --%s; did you mean --%s?", name, near)
		}
	}
	if unknownName().MatchString(arg) {
		return wrongUsage(list, "unknown flag --%s", name)
	}
	return wrongUsage(list, "unknown flag, argument number %d", place)
}

func (l *commandLine) has(name string) bool { return l.given[name] != nil }

// setValues takes what was given for each flag. The flags of mcp-remote come first: ours are
// stronger.
func (l *commandLine) setValues() error {
	for _, o := range append(l.remoteOptions(), l.options()...) {
		for _, value := range l.given[o.name()] {
			var err error
			l.source = ""
			if name, ok := strings.CutPrefix(value, "env:"); ok {
				l.source = name
				value, err = l.variable(name)
			}
			if err == nil {
				err = o.set(value)
			}
			if err != nil {
				return usagef("--%s: %w", o.name(), err)
			}
		}
	}
	return nil
}

// variable is what a variable holds, taken literally, without the line break that files of secrets
// end with.
func (l *commandLine) variable(name string) (string, error) {
	value := strings.TrimSpace(l.getenv(name))
	if value == "" {
		return "", invalid("the environment variable "+name+" is not set",
			"set "+name+` in the entry's "env", or give the value itself`)
	}
	return value, nil
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
		kind, rest, isOther := strings.Cut(name, ":")
		const hint = `write ${NAME}, and set NAME in the entry's "env"`
		switch {
		case err != nil:
		case isOther && strings.HasPrefix(rest, "-"):
			err = invalid("${"+kind+":-…} with a default is expanded by shells and Claude Code only", hint)
		case isOther:
			err = invalid("${"+kind+":…} is expanded by VS Code only, in a configuration of its own", hint)
		default:
			expanded, err = l.variable(name)
		}
		return expanded
	})
	return value, err
}

// readEnvironment takes what no flag says.
func (l *commandLine) readEnvironment() (err error) {
	l.browser = l.getenv("BROWSER")
	l.sshServer, l.container = sshServer(l.getenv), isContainer(l.getenv)
	// The defaults count as absent when unset.
	l.clientID = strings.TrimSpace(l.getenv("GOOGLE_CLIENT_ID"))
	l.clientFromEnv = l.clientID != ""
	l.clientSecret = strings.TrimSpace(l.getenv("GOOGLE_CLIENT_SECRET"))
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		if value := l.getenv(name); value != "" && !isProxy(value) {
			return wrongUsage("percent-encode special characters of its password: % is %25, # is %23",
				"%s is not the URL of a proxy", name)
		}
	}
	l.cacheDir = defaultCacheDir(l.getenv)
	if dir := l.getenv("MCP_PROXY_CACHE_DIR"); dir != "" {
		if l.cacheDir, err = expandPath(dir); err != nil {
			return usagef("MCP_PROXY_CACHE_DIR: %w", err)
		}
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

func (l *commandLine) setServer(raw string) error {
	raw = strings.Trim(raw, " \t\r\n\"'`<>") // as addresses are copied
	u, err := url.Parse(raw)
	if !strings.Contains(raw, "://") && hostPath().MatchString(raw) {
		switch u, err = url.Parse("http://" + raw); {
		case err == nil && isLoopback(u.Hostname()):
			return invalid("the URL lacks http:// or https://", typedURL(u, "http"))
		case err == nil:
			return invalid("the URL lacks https://", typedURL(u, "https"))
		}
	}
	switch {
	case err != nil || !isAddress(u) || strings.ContainsAny(raw, " \t\r\n"):
		return invalid("not a URL", urlHint)
	case u.User != nil:
		return invalid("user information in the URL is not accepted",
			"give credentials with --client-id, or with -H 'Authorization: …'")
	case u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return invalid("a fragment (#…) has no meaning for a server", urlHint)
	case u.Scheme != "https" && u.Scheme != "http":
		return invalid("the scheme must be https", urlHint)
	case u.Hostname() == "0.0.0.0" || u.Hostname() == "::":
		local := *u
		local.Host = strings.TrimSuffix("127.0.0.1:"+u.Port(), ":")
		return invalid("a server listens there, but is not reached there", typedURL(&local, u.Scheme))
	}
	l.server = u
	return nil
}

// typedURL is what to type for a server. Some hide a key in a longer path.
func typedURL(u *url.URL, scheme string) string {
	path := u.Path
	if len(path) > len("/mcp/") {
		path = "/…"
	}
	line := "mcp-proxy -u " + scheme + "://" + u.Host + path
	if scheme == "http" {
		line += " --allow-http"
	}
	return line
}

// check is about what depends on more than one flag.
func (l *commandLine) check() error {
	u, hasKey, isMachine := l.server, l.privateKeyFile != "", l.unattended()
	hasSecret := l.has("client-secret") && l.clientSecret != "" // not the environment's
	isPlain, isElsewhere, https := false, false, ""
	if u != nil {
		isPlain, isElsewhere, https = u.Scheme == "http", !isLoopback(u.Hostname()), typedURL(u, "https")
	}
	const machine = "--grant " + grantClientCredentials
	const machineHint = machine + " --client-id ID --client-secret env:SECRET"
	both := func(one, other string) string { return one + " and " + other + " exclude each other" }
	const oneOfThem = "leave out one of the two"
	for _, rule := range []struct {
		isBroken      bool
		problem, hint string
	}{
		{l.json && l.command != "status", "--json is a flag of status", "mcp-proxy status --json"},
		{l.all && l.command != "logout", "--all is a flag of logout", "mcp-proxy logout --all"},
		{l.all && u != nil, both("--all", "--url"), oneOfThem},
		{u == nil && l.command != "status" && !l.all, "no server: --url is missing", urlHint},
		{isPlain && isElsewhere && l.allowHTTP,
			"--url: another machine, and --allow-http is for this one: only https protects a token", https},
		{isPlain && isElsewhere, "--url: http to another machine: only https protects a token", https},
		{isPlain && !l.allowHTTP, "--url: http is only accepted for this machine, and with --allow-http",
			"add --allow-http"},
		{(l.clientCert == nil) != (l.clientKey == nil), "--client-cert and --client-key go together",
			"--client-cert cert.pem --client-key key.pem"},
		{hasSecret && l.clientID == "", "--client-secret without --client-id", "add --client-id ID"},
		{hasKey && l.clientID == "", "--private-key without --client-id", "add --client-id ID"},
		{hasKey && hasSecret, both("--private-key", "--client-secret"), oneOfThem},
		{isMachine && l.device, both("--device", machine), oneOfThem},
		{isMachine && l.has("redirect-uri"), both(machine, "--redirect-uri"), oneOfThem},
		{isMachine && len(l.authParams) > 0, both(machine, "--auth-param"), oneOfThem},
		{isMachine && l.clientMetadataURL != "", both(machine, "--client-metadata-url"), oneOfThem},
		{isMachine && l.clientID == "", machine + " needs --client-id", machineHint},
		{isMachine && l.clientSecret == "" && !hasKey,
			machine + " needs --client-secret or --private-key", machineHint},
		{l.device && l.has("redirect-uri"), both("--device", "--redirect-uri"), oneOfThem},
		{l.device && len(l.authParams) > 0, both("--device", "--auth-param"), oneOfThem},
	} {
		if rule.isBroken {
			return wrongUsage(rule.hint, "%s", rule.problem)
		}
	}
	if hasKey || l.clientID == "" {
		l.clientSecret = "" // the environment's
	}
	return nil
}

func (l *commandLine) setClientID(id string) error {
	if l.clientFromEnv && id != l.clientID {
		l.clientSecret = "" // it is that of GOOGLE_CLIENT_ID
	}
	l.clientID, l.clientFromEnv = id, false
	return nil
}

func (l *commandLine) setMetadataURL(raw string) error {
	// Client ID Metadata Document, draft 00, section 3: https, a path, no fragment, no user info.
	if u, err := checkEndpoint(raw, false); err != nil || len(u.Path) < 2 {
		return invalid("not an https URL with a path",
			"--client-metadata-url https://app.example.com/client.json")
	}
	l.clientMetadataURL = raw
	return nil
}

func (l *commandLine) setRedirectURI(raw string) error {
	u, err := checkEndpoint(raw, true)
	// RFC 8252, section 7.3: the redirect of a native application is http on the loopback interface.
	if err != nil || u.Scheme != "http" || u.Port() == "" || u.Port() == "0" || u.RawQuery != "" {
		return invalid("must be http on this machine with a port",
			"--redirect-uri http://localhost:3000/oauth2callback")
	}
	l.redirectURI = u // as it was registered: no slash is added
	return nil
}

func (l *commandLine) setResource(value string) error {
	if value = strings.TrimSpace(value); value == "" {
		value = resourceNone
	}
	// RFC 8707, section 2: an absolute URI without a fragment.
	if u, err := url.Parse(value); value != resourceNone &&
		(err != nil || !u.IsAbs() || u.Fragment != "") {
		return invalid("must be an absolute URI without a fragment, or none",
			"--resource https://mcp.example.com/mcp")
	}
	l.resource = value
	return nil
}

// reservedAuthParams are the proxy's own: given by the user they would undo
// what protects the sign-in.
var reservedAuthParams = map[string]bool{
	"response_type": true, "client_id": true, "redirect_uri": true, "state": true,
	"code_challenge": true, "code_challenge_method": true, "scope": true, "resource": true,
	"response_mode": true, "request": true, "request_uri": true,
}

func (l *commandLine) addAuthParam(param string) (err error) {
	name, value, ok := strings.Cut(param, "=")
	if !ok || name == "" {
		return invalid("want name=value", "--auth-param access_type=offline")
	} else if reservedAuthParams[name] {
		return invalid(name+" is set by the proxy itself",
			"--scope, --resource, --client-id and --redirect-uri are flags of their own")
	}
	value, err = l.expand(value)
	l.authParams.Add(name, value)
	return err
}

func (l *commandLine) ignoreTool(glob string) error {
	filter, err := newToolFilter([]string{glob})
	l.ignoredTools = append(l.ignoredTools, filter...)
	return err
}

func (l *commandLine) setLoginTimeout(value string) (err error) {
	if l.loginTimeout, err = time.ParseDuration(value); err != nil || l.loginTimeout <= 0 {
		return invalid("not a duration", "--login-timeout 5m")
	}
	return nil
}

func (l *commandLine) setLogLevel(value string) error {
	l.logLevel = logLevel(slices.Index(logLevelNames, value))
	return oneOf(&value, logLevelNames...)(value)
}

// readPrivateKey takes a file, or the key itself from a variable. Nothing of what a variable holds
// is repeated: it may be a key that we do not know as one.
func (l *commandLine) readPrivateKey() error {
	if l.privateKeyFile == "" {
		return nil
	}
	var err error
	written, data := "the value", []byte(l.privateKeyFile)
	if !strings.Contains(l.privateKeyFile, "-----BEGIN ") {
		written = l.given["private-key"][0]
		data, err = l.readFile(l.privateKeyFile, true)
	}
	switch {
	case err != nil && strings.HasPrefix(written, "env:"):
		err = invalid(written+" holds neither a key in PEM nor the path of a file that can be read",
			"a key begins with -----BEGIN PRIVATE KEY-----")
	case err == nil:
		if l.privateKey, err = parsePrivateKey(data); err == nil {
			return nil
		}
		err = fmt.Errorf("%s %w", written, err)
	}
	return usagef("--private-key: %w", err)
}

// readAuthMetadata reads a file at once, so that what is wrong with it is said before anything
// happens.
func (l *commandLine) readAuthMetadata() error {
	const hint = `{"authorization_endpoint": "https://…", "token_endpoint": "https://…"}`
	switch value := l.authMetadataFile; {
	case value == "":
		return nil
	case strings.Contains(value, "://"):
		l.authMetadata.url = value
		if _, err := checkEndpoint(value, l.acceptsHTTP()); err != nil {
			return wrongUsage("https://auth.example.com/.well-known/oauth-authorization-server",
				"--auth-metadata: the URL %w", err)
		}
		return nil
	}
	m := &serverMetadata{}
	data, err := l.readFile(l.authMetadataFile, false)
	if err != nil {
		return usagef("--auth-metadata: %w", err)
	} else if decodeObject(data, m) != nil {
		return wrongUsage(hint, "--auth-metadata: the file is no JSON object with metadata")
	}
	switch {
	case len(m.GrantTypesSupported) > 0:
	case l.unattended():
		m.GrantTypesSupported = []string{grantClientCredentials} // no authorization_endpoint is needed
	case l.device:
		m.GrantTypesSupported = []string{grantDevice}
	}
	if err := m.vouch(l.acceptsHTTP()); err != nil {
		return wrongUsage(hint, "--auth-metadata: %w", err)
	}
	l.authMetadata.document = m
	return nil
}

// acceptsHTTP reports whether an http address of this machine is good enough for anything beside
// the MCP server: not if the MCP server itself has https, for it could make us talk to the services
// of this machine.
func (c *config) acceptsHTTP() bool {
	return c.allowHTTP && (c.server == nil || c.server.Scheme == "http")
}

// reservedHeaders are the proxy's own, or would break HTTP's framing.
var reservedHeaders = map[string]bool{
	"Accept": true, "Content-Type": true, "Content-Length": true, "Transfer-Encoding": true,
	"Connection": true, "Host": true, "Upgrade": true, "Te": true, "Trailer": true,
	"Last-Event-Id": true, "Mcp-Session-Id": true, "Mcp-Protocol-Version": true,
}

var errEmptyHeader = invalid("a header has no value: was the argument split at the blank?",
	"without the blank: -H NAME:VALUE; or -H NAME:env:VARIABLE")

// addHeader takes one `Name: value`.
func (l *commandLine) addHeader(header string) error {
	name, value, ok := strings.Cut(header, ":")
	if !ok || !isToken(name) {
		return invalid("want 'Name: value'", "-H 'X-Api-Key: env:API_KEY'")
	}
	name = http.CanonicalHeaderKey(name)
	if reservedHeaders[name] {
		return invalid(name+" is set by the proxy itself", "leave it out")
	}
	value, err := l.expand(strings.TrimSpace(value))
	// RFC 9110, section 5.5: a line break would start another header, and net/http
	// refuses to send the other control characters.
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) >= 0:
		return invalid("the value of "+name+" holds a line break or another control character",
			"one --header for each header; was it copied from a terminal? type it anew")
	case value == "":
		return errEmptyHeader
	}
	l.headers.Add(name, value)
	return nil
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
			return fmt.Errorf("line %d of %s: %w", i+1, file, err)
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
	if pathVariable().MatchString(path) {
		return "", invalid("a variable in the path, and nobody has expanded it",
			"write the path out; only ~/ at its beginning is understood")
	}
	if !homePath().MatchString(path) {
		return path, nil
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
func (l *commandLine) readFile(file string, isSecret bool) ([]byte, error) {
	file, err := expandPath(file)
	if err != nil {
		return nil, err
	}
	var data []byte
	var failed *fs.PathError
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		data, err = io.ReadAll(io.LimitReader(f, maxGivenFile+1))
	}
	switch {
	case errors.As(err, &failed): // without the path, which may be something else
		return nil, withHint(failed.Err, "give the path of a file that can be read")
	case err != nil:
		return nil, err
	case len(data) > maxGivenFile:
		return nil, invalid("larger than a MiB", "is it the right file?")
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return nil, invalid("the file is in UTF-16", "save it as UTF-8")
	}
	if info, err := f.Stat(); isSecret && err == nil && isLoose(info) {
		l.warnings = append(l.warnings, fmt.Sprintf("others can read %s (mode %#o): chmod 600 %s", file,
			info.Mode().Perm(), file))
	}
	return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), nil
}

// unattended reports whether the client is its own user (the client credentials grant).
func (c *config) unattended() bool { return c.grant == grantClientCredentials }

// defaultCacheDir is where credentials and traces live; "" if no home is known.
func defaultCacheDir(getenv func(string) string) string {
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

// opensBrowser reports whether a browser opened here would be seen: over SSH it would open on a
// desktop that nobody sees, unless $BROWSER leads to the user's, as editors with remote sessions
// set it.
func (c *config) opensBrowser() bool {
	return !c.noBrowser && (c.sshServer == "" || c.browser != "")
}

// sshServer is who and where to tunnel to, from the four fields of SSH_CONNECTION.
func sshServer(getenv func(string) string) string {
	fields := strings.Fields(getenv("SSH_CONNECTION"))
	if len(fields) != 4 {
		return ""
	}
	return strings.Fields(getenv("USER") + " USER")[0] + "@" + fields[2]
}
