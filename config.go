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
	useIDToken        bool                       // the token to send is the answer's id_token
	registerAs        map[string]json.RawMessage // client metadata of the user's (RFC 7591, section 2)

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
	browserDir   string // where relative programs in it are; "": the current directory
	container    bool   // this is one
	sshServer    string // USER@HOST to tunnel to; "" if this is no SSH session
	loginTimeout time.Duration
	logLevel     string
	cacheDir     string // "": nowhere to write
	noTrace      bool
	showHelp     bool
	showVersion  bool

	notes [levelDebug][]string // for stderr, by level, once that is open
}

func (c *config) warn(text string) { c.notes[levelWarn] = append(c.notes[levelWarn], text) }

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
	getenv  func(string) string
	given   map[string]bool // by the long name
	literal bool            // the value being set came from a variable: nothing in it is expanded

	launched         bool   // the word mcp-remote was there: all of it is a configuration of theirs
	host, port, path string // of mcp-remote's redirect URI; port is "" if none was given
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
		{"ignore-tool", "GLOB …", serving, "hide and refuse tools of that name", l.ignoredTools.add},
		{"transport", "KIND", signIn, "auto (default), http, sse", l.setTransport},
		{"ca-cert", "FILE", online, "PEM file of further certificate roots", l.file(&l.caCert)},
		{"client-cert", "FILE", online, "certificate for mutual TLS", l.file(&l.clientCert)},
		{"client-key", "FILE", online, "its key", l.file(&l.clientKey)},
		{"allow-http", "", always, "accept http:// for this machine", fixed(&l.allowHTTP, true)},

		{pages: signIn, help: "Signing in:"},
		{"i client-id", "ID", signIn, "OAuth client id (default env:GOOGLE_CLIENT_ID);\n" +
			"without one the proxy registers itself", text(&l.clientID)},
		{"s client-secret", "SECRET", signIn, "its secret (default env:GOOGLE_CLIENT_SECRET)",
			text(&l.clientSecret)},
		{"private-key", "FILE", signIn, "a key (PEM) instead of a secret", l.setPrivateKey},
		{"grant", "KIND", signIn, "client_credentials: the client is its own user",
			oneOf(&l.grant, grantCode, grantClientCredentials)},
		{"client-metadata-url", "URL", signIn, "Client ID Metadata Document", text(&l.clientMetadataURL)},
		{"scope", "SCOPES", signIn, "scopes to ask for instead of the server's", text(&l.scope)},
		{"resource", "URI", signIn, "resource to ask a token for; none sends none", text(&l.resource)},
		{"redirect-uri", "URI", signIn, "loopback redirect of a registered client", l.setRedirectURI},
		{"auth-param", "NAME=VALUE …", signIn, "a further authorization parameter; an empty VALUE\n" +
			"takes out one of ours", l.addAuthParam},
		{"auth-metadata", "URL|FILE", signIn, "metadata of the authorization server that you vouch\n" +
			"for, if the published one breaks the rules", l.setAuthMetadata},
		{"use-id-token", "", signIn, "send the id_token as the token", fixed(&l.useIDToken, true)},
		{"profile", "NAME", always, "another account on the same server", text(&l.profile)},
		{"no-browser", "", signIn, "open no browser, print the URL", fixed(&l.noBrowser, true)},
		{"device", "", signIn, "sign in with a code, in a browser on any machine;\n" +
			"by itself over SSH and in a container", fixed(&l.device, true)},
		{"login-timeout", "D", signIn, "how long a sign-in may take (default 5m)", l.setLoginTimeout},

		{pages: signIn, help: "Otherwise:"},
		{"log-level", "LEVEL", online, "error, warn (default), info, debug",
			oneOf(&l.logLevel, logLevelNames...)},
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
	}
	l := &commandLine{config: c, getenv: getenv, given: map[string]bool{}, path: remoteRedirectPath,
		host: map[bool]string{true: "127.0.0.1", false: "localhost"}[runtime.GOOS == "windows"]}
	err := l.setCommand(args)
	for _, step := range []func() error{
		l.parse, l.readEnvironment, l.translate, l.check, l.checkAuthMetadata} {
		// The arguments of the detached sign-in come on stdin.
		if err == nil && !c.showHelp && !c.showVersion && c.command != detachedCommand {
			err = step()
		}
	}
	if err != nil {
		err = usagef("%w", err)
	}
	return c, err
}

var (
	unknownName = onceNeeded(`^--[a-z]+(-[a-z]+)*(=.*)?$`)
	// harmless is a flag with a value that is no secret: it names a variable or file that is there.
	harmless = onceNeeded(`^([a-z-]+=env:|static-[a-z-]+=@|auth\w*-param=(access_type|prompt)=|` +
		`(header=[^:]*:\s*|auth\w*-param=[^=]*=)(env:|((?i:Bearer|Basic) +)?` +
		`(\$\{[^{}]*\})?\s*$))`)
)

// parse divides the arguments into flags with their values, and the URL, which may stand alone.
func (l *commandLine) parse() error {
	options := append(l.options(), l.remoteOptions()...)
	all := l.afterLauncher(l.args)
	for i := 0; i < len(all); i++ {
		arg, place := all[i], len(l.args)-len(all)+i+1
		name, value, hasValue := "url", arg, true
		switch {
		case len(arg) > 1 && arg[0] == '-':
			name, value, hasValue = strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		case slices.Contains(commands, arg):
			return invalid("a command comes first", "mcp-proxy "+arg+" -u URL")
		case l.given["url"] && l.setPort(arg):
			continue
		case l.given["url"]:
			return invalid(fmt.Sprintf("unexpected argument, number %d: there is a --url already",
				place), "mcp-proxy -h lists the flags; was a value split at a blank?")
		}
		o := findOption(options, name)
		if o == nil {
			return unknownFlag(arg, place, options)
		}
		name = o.name()
		next := append(all, "--url")[i+1]
		switch takesNext := o.value != "" && !hasValue; {
		case o.value == "" && value == "false": // as if it were not there
			continue
		case o.value == "" && hasValue && value != "true":
			return invalid("--"+name+" takes no value", "--"+name)
		case l.given[name] && o.value != "" && !strings.HasSuffix(o.value, "…"):
			return invalid("--"+name+" is given twice", "leave one of them out")
		case takesNext && strings.HasPrefix(next, "--") && findOption(options, next[2:]) != nil:
			return invalid("--"+name+" needs a value", "--"+name+"=VALUE, or as two arguments")
		case takesNext:
			i++
			value = next
		}
		l.given[name] = true
		l.entry = append(l.entry, entryArguments(o, value)...)
		if err := l.setValue(o, value); err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
	}
	if l.launched {
		l.entry = nil // there is one already, and its words mean other things
	}
	return nil
}

// entryArguments are a flag and its value for a client's configuration, if serving needs them. A
// variable takes the place of a secret that was typed.
func entryArguments(o *option, value string) []string {
	isSecret := o.value == "SECRET" || o.value == "JSON" || strings.Contains(o.value, "VALUE")
	switch name := o.name(); {
	case name == "no-browser", name == "login-timeout", name == "json", name == "all", o.set == nil:
		return nil
	case o.value == "":
		return []string{"--" + name}
	case isSecret && !harmless().MatchString(name+"="+value), strings.Contains(value, "-----BEGIN"):
		value = "env:NAME"
	case strings.HasPrefix(o.value, "UR"): // URL, URI
		value = shownServer(value)
	}
	if short, _, ok := strings.Cut(o.names, " "); ok {
		return []string{"-" + short, value}
	}
	return []string{"--" + o.name(), value}
}

func findOption(options []option, name string) *option {
	for i, o := range options {
		if slices.Contains(strings.Fields(o.names), name) {
			return &options[i]
		}
	}
	return nil
}

// unknownFlag names what is likely to be the name of a flag, else its place: it may hold a value.
func unknownFlag(arg string, place int, options []option) error {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	first, _, isSplit := strings.Cut(name, " ")
	if isSplit && findOption(options, first) != nil {
		return invalid("--"+first+" and its value are one argument",
			`two arguments: "--`+first+`", "VALUE"`)
	}
	problem := fmt.Sprintf("unknown flag, argument number %d", place)
	if unknownName().MatchString(arg) {
		problem = "unknown flag --" + name
	}
	near := slices.IndexFunc(options, func(o option) bool { return isNear(name, o.name()) })
	if near >= 0 {
		problem += "; did you mean --" + options[near].name() + "?"
	}
	return invalid(problem, "mcp-proxy -h lists the flags")
}

// setValue takes a value for a flag, or that of the variable that it names.
func (l *commandLine) setValue(o *option, value string) (err error) {
	name, isVariable := strings.CutPrefix(value, "env:")
	if l.literal = isVariable; isVariable {
		if value, err = l.variable(name); err != nil {
			return err
		}
	}
	if o.set == nil {
		l.notes[levelInfo] = append(l.notes[levelInfo], "--"+o.name()+" is not needed: "+o.help)
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

var placeholder = onceNeeded(`(?s)^env:.*|\$\{[^{}]*\}`)

// expand is a value that may be env:NAME, or hold ${NAME}, which Cursor and VS Code also write
// ${env:NAME}. Other placeholders were meant for somebody who should have replaced them before.
// Nothing in a variable's value is expanded.
func (l *commandLine) expand(value string) (_ string, err error) {
	if l.literal {
		return value, nil
	}
	value = placeholder().ReplaceAllStringFunc(value, func(text string) (expanded string) {
		name := strings.TrimPrefix(strings.Trim(text, "${}"), "env:")
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
	hasClient := l.given["static-oauth-client-info"]
	id := strings.TrimSpace(l.getenv("GOOGLE_CLIENT_ID"))
	if !l.given["client-id"] && !hasClient {
		l.clientID, l.clientFromEnv = id, id != ""
	}
	hasSecret := hasClient || l.given["client-secret"] || l.given["private-key"]
	if !hasSecret && l.clientID != "" && (id == "" || id == l.clientID) { // it is that client's
		l.clientSecret = strings.TrimSpace(l.getenv("GOOGLE_CLIENT_SECRET"))
	}
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
	if dir == "" && filepath.IsAbs(xdg) { // a relative path is to be ignored (XDG Base Directory)
		l.cacheDir = filepath.Join(xdg, "mcp-proxy")
	} else if dir == "" {
		l.cacheDir, _ = expandPath("~/.cache/mcp-proxy")
	} else if l.cacheDir, err = expandPath(dir); err != nil {
		err = fmt.Errorf("MCP_PROXY_CACHE_DIR: %w", err)
	}
	return err
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
	if u, err := url.Parse("http://" + raw); err == nil && hostPath().MatchString(raw) {
		return invalid("the URL lacks https://, or http:// on this machine", typedURL(u))
	}
	l.server, err = url.Parse(raw)
	if err != nil || !isAddress(l.server) || strings.Contains(raw, " ") {
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
	address := u.Host + u.Path
	if len(u.Path) > len("/mcp/") {
		address = u.Host + "/…"
	}
	if u.Scheme == "http" && isLoopback(u.Hostname()) {
		return "mcp-proxy -u http://" + address + " --allow-http"
	}
	return "mcp-proxy -u https://" + address
}

// check is about what depends on more than one flag.
func (l *commandLine) check() error {
	const (
		machine   = "grant " + grantClientCredentials
		oneOfThem = "leave out one of the two"
	)
	u, hasKey, isMachine := l.server, l.given["private-key"], l.unattended()
	l.given[machine], l.given["device"] = isMachine, l.device // also by mcp-remote's names
	l.given["client-secret"] = l.given["client-secret"] || hasKey && l.clientSecret != ""
	for _, pair := range [][2]string{
		{"private-key", "client-secret"}, {"device", "redirect-uri auth-param authorize-param"},
		{machine, "device redirect-uri auth-param authorize-param client-metadata-url"},
		{"redirect-uri", "host callback-path"}, {"static-oauth-client-info", "client-id client-secret"},
		{"client-credentials", "grant"}, {"token-endpoint", "auth-metadata"},
		{"auth-timeout", "login-timeout"}, {"log-level", "silent debug"}, {"all", "url"},
	} {
		for _, other := range strings.Fields(pair[1]) {
			if l.given[pair[0]] && l.given[other] {
				return invalid("--"+pair[0]+" and --"+other+" exclude each other", oneOfThem)
			}
		}
	}
	resource, invalidResource := url.Parse(l.resource)
	document, invalidDocument := checkEndpoint(l.clientMetadataURL, false)
	return firstBroken([]rule{
		{l.json && l.command != "status", "--json is a flag of status", "mcp-proxy status --json"},
		{l.all && l.command != "logout", "--all is a flag of logout", "mcp-proxy logout --all"},
		{u == nil && l.command != "status" && !l.all, "no server: --url is missing", urlHint},
		{u != nil && u.Scheme == "http" && !l.allowHTTP,
			"--url: http is only accepted for this machine, and with --allow-http", "add --allow-http"},
		{l.given["client-cert"] != l.given["client-key"], "--client-cert and --client-key go together",
			"--client-cert cert.pem --client-key key.pem"},
		{(l.given["client-secret"] || hasKey) && l.clientID == "",
			"--client-secret and --private-key need --client-id", "add --client-id ID"},
		{isMachine && (l.clientID == "" || l.clientSecret == "" && !hasKey),
			"--" + machine + " needs --client-id, and --client-secret or --private-key",
			"--" + machine + " --client-id ID --client-secret env:SECRET"},
		{l.given["token-endpoint"] && !isMachine, "--token-endpoint without --client-credentials",
			"add --client-credentials"},
		{l.given["redirect-uri"] && l.port != "",
			"--redirect-uri and the callback port after the URL say the same", oneOfThem},
		// Client ID Metadata Document, draft 00, section 3: https, a path, no fragment, no user info.
		{l.given["client-metadata-url"] && (invalidDocument != nil || len(document.Path) < 2),
			"--client-metadata-url: not an https URL with a path",
			"--client-metadata-url https://app.example.com/client.json"},
		// RFC 8707, section 2: an absolute URI without a fragment.
		{l.resource != "" && l.resource != resourceNone &&
			(invalidResource != nil || !resource.IsAbs() || resource.Fragment != ""),
			"--resource: must be an absolute URI without a fragment, or none",
			"--resource https://mcp.example.com/mcp"},
	}...)
}

// setRedirectURI takes it as it was registered: no slash is added.
func (l *commandLine) setRedirectURI(raw string) (err error) {
	l.redirectURI, err = checkEndpoint(raw, true)
	// RFC 8252, section 7.3: the redirect of a native application is http on the loopback interface.
	u := l.redirectURI
	return firstBroken(rule{
		err != nil || u.Scheme != "http" || u.Port() == "" || u.Port() == "0" || u.RawQuery != "",
		"must be http on this machine with a port",
		"--redirect-uri http://localhost:3000/oauth2callback"})
}

// reservedAuthParams are the proxy's own: given by the user they would undo what protects the
// sign-in.
var reservedAuthParams = strings.Fields("response_type client_id redirect_uri state " +
	"code_challenge code_challenge_method scope resource response_mode request request_uri")

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

func (l *commandLine) setLoginTimeout(value string) (err error) {
	l.loginTimeout, err = time.ParseDuration(value)
	return firstBroken(rule{err != nil || l.loginTimeout <= 0, "not a duration", "--login-timeout 5m"})
}

// setPrivateKey takes a file, or the key itself from a variable. Nothing of what a variable holds
// is repeated: it may be a key that we do not know as one.
func (l *commandLine) setPrivateKey(value string) (err error) {
	data := []byte(value)
	if !strings.Contains(value, "-----BEGIN ") {
		data, err = l.readFile(value, true)
	}
	if err == nil {
		l.privateKey, err = parsePrivateKey(data)
	}
	return err
}

// setAuthMetadata reads a file at once, so that what is wrong with it is said before anything
// happens.
func (l *commandLine) setAuthMetadata(value string) error {
	if l.authMetadata = new(serverMetadata); strings.Contains(value, "://") {
		l.authMetadata.source = value
		return nil
	}
	return l.decode("@"+value, false, l.authMetadata)
}

// checkAuthMetadata depends on the grant, and on whether http will do.
func (l *commandLine) checkAuthMetadata() (err error) {
	m, name := l.authMetadata, "--auth-metadata:"
	hint := `a URL, or a file: {"authorization_endpoint": "https://…", "token_endpoint": "https://…"}`
	if m == nil {
		return nil
	}
	m.vouched = true
	if l.given["token-endpoint"] {
		name, hint = "--token-endpoint:", "--token-endpoint https://auth.example.com/token"
		if method, ok := unquote(l.registerAs["token_endpoint_auth_method"]); ok {
			m.TokenEndpointAuthMethods = []string{method}
		}
	}
	switch {
	case len(m.GrantTypesSupported) > 0 || m.source != "":
	case l.unattended():
		m.GrantTypesSupported = []string{grantClientCredentials} // no authorization_endpoint is needed
	case l.device:
		m.GrantTypesSupported = []string{grantDevice}
	}
	if m.source == "" {
		err = m.validate("", l.acceptsHTTP())
	} else if _, err = checkEndpoint(m.source, l.acceptsHTTP()); err != nil {
		err = fmt.Errorf("the URL %w", err)
	}
	return firstBroken(rule{err != nil, fmt.Sprint(name, " ", err), hint})
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
	}
	l.headers.Add(name, value)
	// RFC 9110, section 5.5: a line break would start another header, and net/http
	// refuses to send the other control characters.
	isControl := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
	return firstBroken(
		rule{value == "", "a header has no value: was the argument split at the blank?",
			"without the blank: -H NAME:VALUE; or -H NAME:env:VARIABLE"},
		rule{slices.Contains(reservedHeaders, name), name + " is set by the proxy itself",
			"leave it out"},
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
	l.literal = false // the variable named the file
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
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
	home, err := os.UserHomeDir()
	switch {
	case pathVariable().MatchString(path):
		return "", invalid("a variable in the path, and nobody has expanded it",
			"write the path out; only ~/ at its beginning is understood")
	case !homePath().MatchString(path):
		return path, nil
	case err != nil:
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
	if err != nil { // without the path, which may be something else
		return nil, withHint(errors.Unwrap(err), "give the path of a file that can be read")
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
