package main

// The grammar of the command line: which commands and flags there are, and how
// they are written. What their values mean is config.go's.

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// commands are the words that may come first. Without one the program serves.
var commands = []string{"login", "logout", "status", "doctor", detachedCommand}

// repeated is a flag that may be given several times.
type repeated []string

func (r *repeated) String() string     { return strings.Join(*r, ", ") }
func (r *repeated) Set(v string) error { *r = append(*r, v); return nil }

// options are the flags' texts as the user wrote them, env:NAME unresolved.
type options struct {
	url, clientID, clientSecret, metadataURL, scope, resource, redirectURI string
	grant, privateKey                                                      string
	profile, caCert, clientCert, clientKey, transport, timeout, logLevel   string
	authParams, headers, headerFiles, ignoredTools                         repeated
	allowHTTP, noBrowser, noTrace, version, json, all, device              bool
	remote                                                                 remoteOptions
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("mcp-proxy", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	for _, name := range []string{"u", "url"} {
		f.Func(name, "", o.setURL)
	}
	for _, name := range []string{"i", "client-id"} {
		f.StringVar(&o.clientID, name, "", "")
	}
	for _, name := range []string{"s", "client-secret"} {
		f.StringVar(&o.clientSecret, name, "", "")
	}
	for _, name := range []string{"H", "header"} {
		f.Var(&o.headers, name, "")
	}
	f.Var(&o.headerFiles, "header-file", "")
	f.Var(&o.ignoredTools, "ignore-tool", "")
	f.StringVar(&o.metadataURL, "client-metadata-url", "", "")
	f.StringVar(&o.grant, "grant", grantCode, "")
	f.StringVar(&o.privateKey, "private-key", "", "")
	f.StringVar(&o.scope, "scope", "", "")
	f.StringVar(&o.resource, "resource", "", "")
	f.StringVar(&o.redirectURI, "redirect-uri", "", "")
	f.Var(&o.authParams, "auth-param", "")
	f.StringVar(&o.profile, "profile", "", "")
	f.StringVar(&o.caCert, "ca-cert", "", "")
	f.StringVar(&o.clientCert, "client-cert", "", "")
	f.StringVar(&o.clientKey, "client-key", "", "")
	f.StringVar(&o.transport, "transport", "auto", "")
	f.BoolVar(&o.allowHTTP, "allow-http", false, "")
	f.BoolVar(&o.noBrowser, "no-browser", false, "")
	f.BoolVar(&o.device, "device", false, "")
	f.StringVar(&o.timeout, "login-timeout", "5m", "")
	f.StringVar(&o.logLevel, "log-level", "warn", "")
	f.BoolVar(&o.noTrace, "no-trace", false, "")
	f.BoolVar(&o.version, "version", false, "")
	f.BoolVar(&o.json, "json", false, "")
	f.BoolVar(&o.all, "all", false, "")
	o.remote.define(f)
	return f
}

func (o *options) setURL(value string) error {
	if o.url != "" {
		return fmt.Errorf("--url is given twice")
	}
	o.url = value
	return nil
}

// parseArgs reads the whole command line. flag.ErrHelp asks for the usage text.
func parseArgs(args []string, getenv func(string) string) (*config, error) {
	c := &config{}
	if len(args) > 0 && slices.Contains(commands, args[0]) {
		c.command, args = args[0], args[1:]
	}
	c.args = args
	if c.command == detachedCommand {
		return c, nil // its arguments come on stdin
	}
	var o options
	given, err := o.parse(args)
	if err != nil {
		return nil, err
	}
	if o.version {
		c.showVersion = true
		return c, nil
	}
	if err := o.remote.translate(&o, given, c, &environment{getenv: getenv}); err != nil {
		return nil, err
	}
	return c, c.fill(&o, given, getenv)
}

// parse returns which flags were given. The URL may stand alone anywhere.
func (o *options) parse(args []string) (given map[string]bool, err error) {
	f := o.flags()
	args = o.remote.afterLauncher(args)
	for {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, withHint(usagef("%s", flagProblem(err)), "mcp-proxy -h lists the flags")
		}
		if f.NArg() == 0 {
			break
		}
		if o.setURL(f.Arg(0)) != nil && !o.remote.setPort(f.Arg(0)) {
			return nil, withHint(usagef("unexpected argument %q: there is a --url already", f.Arg(0)), "mcp-proxy -h lists the flags")
		}
		args = f.Args()[1:]
	}
	given = map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	return given, nil
}

// flagProblem says in the words of this program what package flag found.
func flagProblem(err error) string {
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		return "unknown flag --" + name
	}
	return err.Error()
}
