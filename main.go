// Mcp-proxy lets an MCP client use a remote MCP server that asks for OAuth 2.1.
//
// The client starts it as a stdio server. It forwards JSON-RPC over Streamable
// HTTP and does what authorization asks for: discovery, registration, PKCE, the
// browser, the callback, keeping tokens and refreshing them.
//
//	mcp-proxy -u URL [flags]          serve MCP on stdin and stdout
//	mcp-proxy login -u URL [flags]    sign in now, in a terminal
//	mcp-proxy logout -u URL           revoke the tokens and forget them
//	mcp-proxy status [-u URL]         what is cached
//	mcp-proxy doctor -u URL [flags]   what works, what fails, what would help
//
// Files, in $MCP_PROXY_CACHE_DIR, else $XDG_CACHE_HOME/mcp-proxy, else
// ~/.cache/mcp-proxy: one NAME.json per server and profile with its credentials,
// NAME.login with the state of its sign-in, NAME.*.lock, and traces.jsonl.
//
// Exit codes: 0 clean end, 1 configuration, 2 authentication, 3 network, 4 file
// system, 5 anything else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
)

const usage = `Usage: mcp-proxy -u URL [flags]          serve MCP on stdin and stdout for the server at URL
       mcp-proxy login -u URL [flags]    sign in now, before any client starts it
       mcp-proxy logout -u URL           revoke the tokens and forget them; --all: of all servers
       mcp-proxy status [-u URL]         what is cached, without secrets; --json
       mcp-proxy doctor -u URL [flags]   walk the way to the server, say what fails and what helps

The server:
  -u, --url URL                https URL of the MCP server; may stand alone
  -H, --header 'Name: value'   a further header, repeatable; ${NAME} in it is an
                               environment variable; Authorization turns OAuth off
      --header-file FILE       a file of such headers, one a line; # begins a comment
      --ignore-tool GLOB       hide tools of that name and refuse to call them, repeatable
      --transport KIND         auto (default), http, sse
      --ca-cert FILE           PEM file of further certificate roots
      --client-cert FILE       certificate and key for mutual TLS
      --client-key FILE
      --allow-http             accept http:// for this machine

Signing in:
  -i, --client-id ID           OAuth client id (default env:GOOGLE_CLIENT_ID); without
                               one the proxy registers itself where the server lets it
  -s, --client-secret SECRET   OAuth client secret (default env:GOOGLE_CLIENT_SECRET)
      --private-key FILE       sign with this key (PEM) instead of a client secret
      --grant KIND             client_credentials: the client is its own user, no browser;
                               default authorization_code: a user signs in
      --client-metadata-url URL  a Client ID Metadata Document to use as client id
      --scope SCOPES           scopes to ask for instead of what the server names
      --resource URI           resource to ask a token for; none sends none
      --redirect-uri URI       loopback redirect that is registered for the client
      --auth-param NAME=VALUE  a further authorization parameter, repeatable
      --profile NAME           another account on the same server
      --no-browser             open no browser, print the URL
      --device                 sign in with a code, in a browser on any machine; over SSH and
                               in a container by itself, unless $BROWSER or --redirect-uri is set
      --login-timeout D        how long a sign-in may take (default 5m)

Otherwise:
      --log-level LEVEL        error, warn (default), info, debug; on stderr
      --no-trace               write no traces.jsonl
      --version
  -h, --help
      --json                   status as JSON
      --all                    logout from all servers

Every value may be env:NAME, the name of an environment variable.
The arguments of mcp-remote are understood as well: README.md has the table.

Example, in a client's configuration:
  "command": "mcp-proxy", "args": ["-u", "https://mcp.example.com/mcp"]
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A reader that went away is an error of the write, not the end of the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.As(err, new(toldError)) {
		(&logger{w: os.Stderr}).report(err)
	}
	os.Exit(exitCode(err))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	cfg, err := parseArgs(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		io.WriteString(stdout, usage)
		return nil
	case err != nil:
		return err
	case cfg.showVersion:
		fmt.Fprintln(stdout, "mcp-proxy", programVersion())
		return nil
	case cfg.command == detachedCommand:
		return runDetached(ctx, stdin, stdout, getenv)
	}
	log := &logger{level: cfg.logLevel, w: stderr}
	for _, warning := range cfg.warnings {
		log.warnf("%s", warning)
	}
	a, err := newApp(cfg, log)
	if err != nil {
		return err
	}
	defer a.close()
	switch cfg.command {
	case "login":
		return a.login(ctx, stdin)
	case "logout":
		return a.logout(ctx)
	case "status":
		return a.status(stdout)
	case "doctor":
		return a.doctor(ctx, stdout)
	}
	return a.serve(ctx, stdin, stdout)
}

// app is what the commands share.
type app struct {
	cfg         *config
	log         *logger
	trace       *tracer
	store       *store
	client      *http.Client // for the MCP server
	oauthClient *http.Client // for authorization servers
	auth        *oauth       // nil: the user gave an Authorization header, or no server
}

func newApp(cfg *config, log *logger) (*app, error) {
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	a := &app{cfg: cfg, log: log, store: openStore(cfg.cacheDir, log)}
	if !cfg.noTrace && cfg.cacheDir != "" && cfg.command != "status" && cfg.command != "doctor" {
		a.trace = newTracer(filepath.Join(cfg.cacheDir, "traces.jsonl"), programVersion(), log)
	}
	via := newAwake(transport)
	a.client = newMCPClient(cfg.server, traced{via, a.trace, true})
	a.oauthClient = &http.Client{Transport: traced{via, a.trace, false}, CheckRedirect: redirectPolicy(cfg.allowHTTP)}
	if cfg.server != nil && cfg.headers.Get("Authorization") == "" {
		a.auth = a.oauth(cfg)
	}
	return a, nil
}

func (a *app) oauth(cfg *config) *oauth { return newOAuth(cfg, a.store, a.oauthClient, a.log, a.trace) }

func (a *app) close() { a.trace.close() }

func (a *app) serve(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := &lineWriter{w: stdout, stop: stop}
	return newProxy(a.cfg, a.client, a.auth, out, a.log, a.trace).serve(ctx, stdin)
}

// exitCode is the table of the package comment.
func exitCode(err error) int {
	var use usageError
	var auth authError
	var refused *tokenError
	var network net.Error
	var path *fs.PathError
	var address *url.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &use):
		return 1
	case errors.As(err, &auth), errors.As(err, &refused):
		return 2
	case errors.As(err, &network), errors.As(err, &address), errors.Is(err, context.DeadlineExceeded):
		return 3
	case errors.As(err, &path):
		return 4
	}
	return 5
}

// programVersion is what the build information says: the module's version for
// an installed or tagged build, else the revision of the checkout.
var programVersion = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return "devel-" + setting.Value
		}
	}
	return "devel"
})

var userAgent = sync.OnceValue(func() string { return "mcp-proxy/" + programVersion() })
