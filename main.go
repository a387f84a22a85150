// Mcp-proxy lets an MCP client use a remote MCP server that asks for OAuth 2.1.
//
// The client starts it as a stdio server. It forwards JSON-RPC over Streamable HTTP and does what
// authorization asks for: discovery, registration, PKCE, the browser, the callback, keeping tokens
// and refreshing them.
//
//	mcp-proxy -u URL [flags]          serve MCP on stdin and stdout
//	mcp-proxy login -u URL [flags]    sign in now, in a terminal
//	mcp-proxy logout -u URL           revoke the tokens and forget them
//	mcp-proxy status [-u URL]         what is cached
//	mcp-proxy doctor -u URL [flags]   what works, what fails, what would help
//
// Files, in $MCP_PROXY_CACHE_DIR, else $XDG_CACHE_HOME/mcp-proxy, else ~/.cache/mcp-proxy: one
// NAME.json per server and profile with its credentials, NAME.login with the state of its sign-in,
// locks (HASH.*.lock), and traces.jsonl.
//
// What handles tokens and secrets, to be read first, is in pkce.go, token.go, discovery.go,
// signin.go, callback.go, oauth.go, store.go and upstream.go: the trust path. No other file touches
// a token, a client's secret or the Authorization header.
//
// Exit codes: 0 clean end, 1 configuration, 2 authentication, 3 network, 4 file system, 5 anything
// else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// commands are the words that may come first. Without one the program serves.
var commands = []string{"logout", "login", "status", "doctor", detachedCommand}

const overview = `mcp-proxy lets an MCP client use a remote MCP server that asks for OAuth 2.1.

mcp-proxy -u URL [flags]          serve MCP on stdin and stdout
mcp-proxy login -u URL [flags]    sign in now, before any client starts it
mcp-proxy logout -u URL           revoke the tokens and forget them
mcp-proxy status [-u URL]         what is cached, without secrets
mcp-proxy doctor -u URL [flags]   walk the way to the server, say what helps
mcp-proxy [COMMAND] -h            the flags, also of a command
`

const example = `The arguments of mcp-remote are understood as well.

Example, in a client's configuration:
  "command": "mcp-proxy", "args": ["-u", "https://mcp.example.com/mcp"]
`

// usageText is the page of a command, "" for serving: what it is for and its flags.
func usageText(command string) string {
	const column = 29
	newLine := "\n" + strings.Repeat(" ", column)
	example := example
	text, page := overview, "serve"
	if command != "" {
		page, example = command, ""
		text = regexp.MustCompile("mcp-proxy " + command + " .*\n").FindString(overview)
	}
	for _, o := range (&commandLine{config: &config{}}).options() {
		heading := "      --" + o.name() + " " + o.value
		if short, _, isShort := strings.Cut(o.names, " "); isShort {
			heading = "  -" + short + ", --" + o.name() + " " + o.value
		}
		switch {
		case !strings.Contains(o.pages, page):
			continue
		case o.names == "":
			text += "\n" + o.help + "\n"
			continue
		case len(heading) >= column:
			heading += newLine
		}
		text += fmt.Sprintf("%-*s%s\n", column, heading, strings.ReplaceAll(o.help, "\n", newLine))
	}
	return text + "\nEvery value may be env:NAME, the name of an environment variable.\n" + example
}

var word = onceNeeded(`^[a-zA-Z][a-zA-Z0-9]*(-[a-zA-Z0-9]+)*$`)

// setCommand takes the first argument if it is a word. Without one the program serves.
func (l *commandLine) setCommand(args []string) error {
	l.args = args
	first := append(args, "-")[0]
	near := slices.IndexFunc(commands, func(c string) bool { return isNear(first, c) })
	switch {
	case first == "help":
		l.showHelp = true
		return l.setCommand(args[1:])
	case first == "version":
		l.showVersion = true
	case slices.Contains(commands, first):
		l.command, l.args = first, args[1:]
	case !word().MatchString(first), first == remoteName, slices.Contains(launchers, first):
	case near >= 0:
		return invalid("unknown command "+first+"; did you mean "+commands[near]+"?",
			"mcp-proxy "+commands[near]+" -h")
	default:
		return invalid("the first argument is neither a command nor a URL",
			"the commands are login, logout, status and doctor; mcp-proxy -h")
	}
	return nil
}

// isNear reports whether a word may be meant: but for two letters of it at most, all are the same.
func isNear(typed, word string) bool {
	head := 0
	for head < min(len(typed), len(word)) && typed[head] == word[head] {
		head++
	}
	more := len(typed) - len(word)
	return len(word) > 3 && -2 < more && more < 2 &&
		strings.HasSuffix(typed, word[min(head+2, len(word)):])
}

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	// A reader that went away is an error of the write, not the end of the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, errReported) {
		(&logger{w: os.Stderr}).report(err)
	}
	os.Exit(exitCode(err))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader,
	stdout, stderr io.Writer) error {
	cfg, err := parseArgs(args, getenv)
	switch {
	case len(args) == 0 && isTerminal(stdin):
		io.WriteString(stderr, overview)
		return exitError{errReported, 1}
	case err != nil:
		return err
	case cfg.showHelp:
		io.WriteString(stdout, usageText(cfg.command))
		return nil
	case cfg.showVersion:
		fmt.Fprintln(stdout, "mcp-proxy", programVersion())
		return nil
	case cfg.command == detachedCommand:
		return runDetached(ctx, stdin, stdout, getenv)
	}
	log := &logger{level: slices.Index(logLevelNames, cfg.logLevel), w: stderr}
	for level, texts := range cfg.notes {
		for _, text := range texts {
			log.printf(level, "%s", text)
		}
	}
	a, err := newApp(cfg, log)
	if err != nil {
		return err
	}
	defer a.trace.close()
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
	if isTerminal(stdin) {
		log.notice("mcp-proxy: waiting for an MCP client; Ctrl-C ends; for people: login, doctor")
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := &lineWriter{w: stdout, stop: stop}
	stdin, restore := polled(stdin, stdout)
	defer restore()
	return newProxy(cfg, a.client, a.auth, out, log, a.trace).serve(ctx, stdin)
}

// app is what the commands share.
type app struct {
	cfg         *config
	log         *logger
	trace       *tracer
	store       *store
	client      *mcpClient
	oauthClient *http.Client // for authorization servers
	auth        *oauth       // nil: the user gave an Authorization header, or no server
}

func newApp(cfg *config, log *logger) (*app, error) {
	via, err := newRedialer(cfg)
	if err != nil {
		return nil, err
	}
	a := &app{cfg: cfg, log: log, store: openStore(cfg.cacheDir, log)}
	if !cfg.noTrace && cfg.cacheDir != "" && cfg.command != "status" && cfg.command != "doctor" {
		a.trace = newTracer(filepath.Join(cfg.cacheDir, "traces.jsonl"), programVersion(), log)
	}
	a.client = newMCPClient(cfg.server, &traced{via, a.trace, true})
	if cfg.noCookies {
		a.client.jar.most = 0
	}
	a.oauthClient = &http.Client{Transport: &traced{via, a.trace, false}}
	if cfg.server != nil && !cfg.hasOwnToken() {
		a.auth = newOAuth(cfg, a.store, a.oauthClient, log, a.trace)
	}
	return a, nil
}

// exitCode is the table of the package comment.
func exitCode(err error) int {
	var known exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &known):
		return known.code
	case errors.As(err, new(authError)), errors.As(err, new(*oauthError)):
		return 2
	case errors.As(err, new(noAnswer)), errors.As(err, new(net.Error)): // DeadlineExceeded is one
		return 3
	case errors.As(err, new(*fs.PathError)):
		return 4
	}
	return 5
}

// programVersion is what the build information says: the module's version for
// an installed or tagged build, else the revision of the checkout.
var programVersion = sync.OnceValue(func() string {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				version += "-" + setting.Value
			}
		}
		if v := info.Main.Version; v != "" && v != "(devel)" {
			version = v
		}
	}
	return version
})

// userAgent is the header's value.
var userAgent = sync.OnceValue(func() []string {
	return []string{"mcp-proxy/" + programVersion()}
})

// What people read on stderr: one line an event, `mcp-proxy: …`, and a line `hint: …` with what to
// type where there is a remedy. Nothing that a server sent is printed except an excerpt.

const (
	levelError = iota
	levelWarn
	levelInfo
	levelDebug
)

var logLevelNames = []string{"error", "warn", "info", "debug"}

// logger writes whole lines; a nil logger is silent.
type logger struct {
	level int

	mu sync.Mutex // guards writing to w
	w  io.Writer
}

func (l *logger) warnf(format string, args ...any)  { l.printf(levelWarn, format, args...) }
func (l *logger) infof(format string, args ...any)  { l.printf(levelInfo, format, args...) }
func (l *logger) debugf(format string, args ...any) { l.printf(levelDebug, format, args...) }

func (l *logger) printf(level int, format string, args ...any) {
	if l != nil && level <= l.level {
		l.notice("mcp-proxy: " + fmt.Sprintf(format, args...))
	}
}

// notice prints a line whatever the level: the user is waiting for it.
func (l *logger) notice(line string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.w, line+"\n")
}

// report prints an error and its hint.
func (l *logger) report(err error) {
	text := "mcp-proxy: " + err.Error()
	if hint := hintOf(err); hint != "" {
		text += "\nhint: " + hint
	}
	l.notice(text)
}

// isTerminal reports whether a person may type there. The null device looks like one.
func isTerminal(stdin io.Reader) bool {
	f, _ := stdin.(*os.File)
	info, err := f.Stat() // an error if it is no file
	null, _ := os.Stat(os.DevNull)
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && !os.SameFile(info, null)
}

// hinted is an error whose remedy is known.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// withHint adds what to type to an error.
func withHint(err error, format string, args ...any) error {
	if hint := fmt.Sprintf(format, args...); hint != "" { // an empty one would hide one in err
		return hinted{err, hint}
	}
	return err
}

func hintOf(err error) string {
	var h hinted
	errors.As(err, &h)
	return h.hint
}

// An exitError has its exit code from the place where it arises.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

var errReported = errors.New("it was printed already")

// usagef is an error of the user's to correct on the command line. It names the flag or its place
// and never holds a value: hosts and people split arguments wrongly, and it may be the secret.
func usagef(format string, args ...any) error { return exitError{fmt.Errorf(format, args...), 1} }

// invalid is what is wrong with a value, and what to type instead. The flag is named by set.
func invalid(problem, hint string) error { return withHint(errors.New(problem), "%s", hint) }

const maxExcerpt = 200 // bytes

// excerpt is a short, printable piece of a documented error field that a
// server sent: control characters could forge lines or drive a terminal.
func excerpt(s string) string {
	cleaned := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if cleaned = strings.TrimSpace(cleaned); len(cleaned) > maxExcerpt {
		return strings.ToValidUTF8(cleaned[:maxExcerpt], "") + "…"
	}
	return cleaned
}
