package main

// The command line of mcp-remote, an npm package that does the same work: a
// configuration made for it is to work when its command alone is changed. What
// its flags mean (as of version 0.1.38) is said here in the words of ours, before
// the values are looked at. Nothing else knows of it: without this file, and the
// few lines that the compiler then names, the support for it is gone.

import (
	"bytes"
	"crypto/md5"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// launchers are the words that start mcp-remote, as far as they are arguments:
// `npx -y mcp-remote URL`, `cmd /c npx …`, `npm exec -- …`, `pnpm dlx …`.
var launchers = []string{"/c", "/C", "npx", "-y", "--yes", "exec", "dlx", "--"}

const remoteRedirectPath = "/oauth/callback"

// remoteOptions are the flags that mcp-remote has and this program has not.
type remoteOptions struct {
	launched                                  bool // the word mcp-remote was there: all of it is a configuration of theirs
	port                                      string
	host, clientInfo, clientMetadata, timeout string
	debug, silent, noResource                 bool
}

func (r *remoteOptions) define(f *flag.FlagSet) {
	f.StringVar(&r.host, "host", "", "")
	f.StringVar(&r.clientInfo, "static-oauth-client-info", "", "")
	f.StringVar(&r.clientMetadata, "static-oauth-client-metadata", "", "")
	f.StringVar(&r.timeout, "auth-timeout", "", "")
	f.BoolVar(&r.debug, "debug", false, "")
	f.BoolVar(&r.silent, "silent", false, "")
	f.Bool("enable-proxy", false, "") // as it is here without it
	f.BoolVar(&r.noResource, "disable-resource-parameter", false, "")
}

// afterLauncher leaves out what started mcp-remote, up to its name.
func (r *remoteOptions) afterLauncher(args []string) []string {
	for i, arg := range args {
		if name, _, _ := strings.Cut(arg, "@"); name == "mcp-remote" {
			r.launched = true
			return args[i+1:]
		}
		if !slices.Contains(launchers, arg) {
			break
		}
	}
	return args
}

// setPort takes the argument after the URL, the port of the callback.
func (r *remoteOptions) setPort(arg string) bool {
	port, err := strconv.ParseUint(arg, 10, 16)
	if err != nil || port == 0 || r.port != "" {
		return false
	}
	r.port = arg
	return true
}

// translate says in our flags what was said in theirs.
func (r *remoteOptions) translate(o *options, given map[string]bool, c *config, env *environment) error {
	for _, value := range []struct {
		name string
		text *string
	}{
		{"--host", &r.host}, {"--static-oauth-client-info", &r.clientInfo},
		{"--static-oauth-client-metadata", &r.clientMetadata}, {"--auth-timeout", &r.timeout},
	} {
		*value.text = env.expand(value.name, *value.text)
	}
	if env.err != nil {
		return env.err
	}
	for _, step := range []func(*options, map[string]bool, *config) error{
		r.refuseBoth, r.setTransport, r.setResource, r.setCallback, r.setClient, r.setMetadata, r.setTimeout,
	} {
		if err := step(o, given, c); err != nil {
			return err
		}
	}
	switch {
	case r.debug: // the stronger one there as well
		o.logLevel = "debug"
	case r.silent:
		o.logLevel = "error"
	}
	if r.launched {
		r.asLaunched(o, given, c, env)
	}
	return nil
}

// refuseBoth: who gives a flag of theirs and ours for the same thing means one of them.
func (r *remoteOptions) refuseBoth(_ *options, given map[string]bool, _ *config) error {
	for _, pair := range []struct{ theirs, ours string }{
		{"auth-timeout", "login-timeout"}, {"debug", "log-level"}, {"silent", "log-level"}, {"host", "redirect-uri"},
		{"static-oauth-client-info", "client-id"}, {"static-oauth-client-info", "i"},
		{"static-oauth-client-info", "client-secret"}, {"static-oauth-client-info", "s"},
	} {
		if given[pair.theirs] && given[pair.ours] {
			return withHint(usagef("--%s and %s say the same thing twice", pair.theirs, dashed(pair.ours)), "leave --%s out", pair.theirs)
		}
	}
	if r.port != "" && given["redirect-uri"] {
		return withHint(usagef("--redirect-uri and the callback port %s say the same thing twice", r.port), "leave %s out", r.port)
	}
	return nil
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func (r *remoteOptions) setTransport(o *options, _ map[string]bool, c *config) error {
	switch o.transport {
	case "http-only":
		o.transport = "http"
	case "sse-only":
		o.transport = "sse"
	case "http-first":
		o.transport = "auto"
	case "sse-first":
		o.transport = "auto"
		c.warnings = append(c.warnings, "--transport sse-first: HTTP is tried first, SSE where the server refuses it; --transport sse never tries HTTP")
	}
	return nil
}

// setResource: an empty --resource was the way to send none before there was a
// flag for it, and that flag is the stronger one.
func (r *remoteOptions) setResource(o *options, given map[string]bool, c *config) error {
	o.resource = strings.TrimSpace(o.resource)
	if r.noResource && o.resource != "" && o.resource != resourceNone {
		c.warnings = append(c.warnings, "--disable-resource-parameter: no resource is sent, --resource does not count")
	}
	if r.noResource || given["resource"] && o.resource == "" {
		o.resource = resourceNone
	}
	return nil
}

// setCallback makes the redirect URI that mcp-remote would have: a client that
// was registered by hand for it was registered with that one.
func (r *remoteOptions) setCallback(o *options, given map[string]bool, c *config) error {
	if given["host"] && !isLoopback(r.host) {
		return withHint(usagef("--host: %q is another machine, and what the browser brings back must not leave this one", r.host), "--host localhost or --host 127.0.0.1")
	}
	isRegistered := r.clientInfo != "" && !given["redirect-uri"] && !o.device && o.grant == grantCode
	if r.port == "" && r.host == "" && !isRegistered {
		return nil
	}
	host, port := r.host, r.port
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port, c.anyPort = defaultRemotePort(o), true
	}
	o.redirectURI = "http://" + net.JoinHostPort(host, port) + remoteRedirectPath
	return nil
}

var remoteHeader = onceNeeded(`^([A-Za-z0-9_-]+):\s*(.*)$`)

// defaultRemotePort is the port that mcp-remote takes where none is given. It
// follows from the command line, so it can be in a client's registration.
func defaultRemotePort(o *options) string {
	parts := []string{o.url}
	if o.resource != "" && o.resource != resourceNone {
		parts = append(parts, o.resource)
	}
	headers := map[string]string{}
	for _, h := range o.headers {
		if found := remoteHeader().FindStringSubmatch(h); found != nil {
			headers[found[1]] = found[2]
		}
	}
	if len(headers) > 0 {
		var list bytes.Buffer
		encoder := json.NewEncoder(&list)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(headers) // a map of strings, sorted as they sort it
		parts = append(parts, strings.TrimSuffix(list.String(), "\n"))
	}
	sum := md5.Sum([]byte(strings.Join(parts, "|")))
	offset := (int(sum[0])<<8 | int(sum[1])) % 45816
	return strconv.Itoa(3335 + offset)
}

// setClient takes a client that was registered by hand. One without a secret has
// none, whatever is in the environment.
func (r *remoteOptions) setClient(o *options, given map[string]bool, c *config) error {
	const flagName = "--static-oauth-client-info"
	if !given[flagName[2:]] {
		return nil
	}
	var info struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	text, err := jsonOrFile(flagName, r.clientInfo, c.readSecret)
	if err != nil {
		return err
	}
	if decodeObject(text, &info) != nil || info.ID == "" {
		return withHint(usagef("%s: not a JSON object with a client_id", flagName), `--client-id ID and --client-secret env:NAME do the same; or %s '{"client_id":"ID"}', or @FILE`, flagName)
	}
	o.clientID, o.clientSecret = info.ID, info.Secret
	given["client-id"], given["client-secret"] = true, true
	return nil
}

// setMetadata takes what is to be registered beside, or instead of, our own words.
func (r *remoteOptions) setMetadata(o *options, given map[string]bool, c *config) error {
	const flagName = "--static-oauth-client-metadata"
	if !given[flagName[2:]] {
		return nil
	}
	text, err := jsonOrFile(flagName, r.clientMetadata, readGiven)
	if err != nil {
		return err
	}
	var scope struct {
		Scope string `json:"scope"`
	}
	if decodeObject(text, &c.registerAs) != nil || decodeObject(text, &scope) != nil {
		return withHint(usagef("%s: not a JSON object", flagName), `%s '{"scope":"read write"}', or @FILE`, flagName)
	}
	if _, there := c.registerAs["redirect_uris"]; there {
		c.warnings = append(c.warnings, flagName+": redirect_uris is left out; the port after the URL and --host say it")
	}
	if !given["scope"] {
		o.scope = scope.Scope
	}
	return nil
}

// jsonOrFile is a value that is JSON, or the name of a file after @.
func jsonOrFile(flagName, value string, read func(flagName, file string) ([]byte, error)) ([]byte, error) {
	if file, ok := strings.CutPrefix(value, "@"); ok {
		return read(flagName, file)
	}
	return []byte(value), nil
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

func (r *remoteOptions) setTimeout(o *options, given map[string]bool, _ *config) error {
	if !given["auth-timeout"] {
		return nil
	}
	seconds, err := strconv.ParseUint(r.timeout, 10, 31)
	if err != nil || seconds == 0 {
		return withHint(usagef("--auth-timeout: not a number of seconds"), "--auth-timeout 60")
	}
	o.timeout = (time.Duration(seconds) * time.Second).String()
	return nil
}

// asLaunched is what goes without saying in a configuration of theirs.
func (r *remoteOptions) asLaunched(o *options, given map[string]bool, c *config, env *environment) {
	// They want no --allow-http for this machine; another one is refused all the same.
	o.allowHTTP = o.allowHTTP || strings.HasPrefix(o.url, "http://")
	// Two entries for one server that differ in --resource are two accounts there.
	if !given["profile"] && o.resource != resourceNone {
		o.profile = o.resource
	}
	// Node adds these certificates, and goes on without them when it cannot read them.
	if file := env.getenv("NODE_EXTRA_CA_CERTS"); file != "" && !given["ca-cert"] {
		if _, err := os.Stat(file); err != nil {
			c.warnings = append(c.warnings, fmt.Sprintf("NODE_EXTRA_CA_CERTS is left out: %v", err))
			return
		}
		o.caCert = file
	}
}
