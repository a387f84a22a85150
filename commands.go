package main

// The commands that people type: login, logout and status; doctor is
// doctor.go's. status and doctor are asked for what they print, which goes to
// stdout; everything else that is said to people goes to stderr.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// reportedError was printed already; only its exit code is left.
type reportedError struct{ error }

func (e reportedError) Unwrap() error { return e.error }

// login asks the server what it wants, and signs in here, in the foreground.
func (a *app) login(ctx context.Context, stdin io.Reader) error {
	if a.auth == nil {
		return wrongUsage("leave it out to sign in",
			"login: the Authorization header given with --header turns OAuth off")
	}
	first, err := a.askFirst(ctx)
	if err != nil {
		return err
	}
	if first.header == nil {
		a.log.notice("mcp-proxy: " + a.cfg.server.Host + " asks for no sign-in")
		return nil
	}
	ch, isOAuth := parseChallenge(first.header)
	if !isOAuth {
		return otherScheme(a.cfg.server.Host, first.header)
	}
	paste := func(*url.URL) {}
	if isTerminal(stdin) {
		paste = readAnswers(stdin, a.log)
	}
	a.auth.shown = func(redirect *url.URL) {
		a.log.notice("mcp-proxy: waiting for up to " + inWords(a.cfg.loginTimeout) + "; Ctrl-C ends")
		if redirect != nil {
			paste(redirect)
		}
	}
	if err := a.signInHere(ctx, ch); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "mcp-proxy: signed in to %s\n", a.cfg.server.Host)
	printCredentials(&b, a.auth.current(), time.Now())
	if a.cfg.entry != nil {
		entry, _ := json.Marshal(a.cfg.entry) // strings
		command := os.Args[0]
		if filepath.Base(command) != command { // not found in $PATH
			command, _ = filepath.Abs(command)
		}
		fmt.Fprintf(&b, "the entry for your client's configuration:\n  %q: {\n    \"command\": %q,\n    "+
			"\"args\": %s\n  }\n", a.cfg.server.Hostname(), command, entry)
	}
	a.log.notice(strings.TrimSuffix(b.String(), "\n"))
	return nil
}

// signInHere gets a token in this process.
func (a *app) signInHere(ctx context.Context, ch challenge) error {
	o := a.auth
	if a.cfg.unattended() {
		return o.explainRefusal(o.refresh(ctx, o.held(), &ch))
	}
	return o.follow(ctx, detachedOrder{Challenge: ch, Used: o.stored()}, true)
}

// columns is the width of what the commands print: that of a terminal.
const columns = 80

// printField prints a name and its value in two columns; a long value goes on below its beginning.
func printField(w io.Writer, name, value string) {
	const indent = 11
	line := ""
	flush := func() {
		fmt.Fprintf(w, "  %-8s %s\n", name, line)
		name, line = "", ""
	}
	for _, word := range strings.Fields(value) {
		if line != "" && utf8.RuneCountInString(line+" "+word) > columns-indent {
			flush()
		}
		line = strings.TrimSpace(line + " " + word)
		for utf8.RuneCountInString(line) > columns-indent {
			rest := string([]rune(line)[columns-indent:])
			line = string([]rune(line)[:columns-indent])
			flush()
			line = rest
		}
	}
	flush()
}

// printCredentials prints what a sign-in brought.
func printCredentials(w io.Writer, c *credentials, now time.Time) {
	if c.Profile != "" {
		printField(w, "profile", excerpt(c.Profile))
	}
	if c.Grant != "" {
		printField(w, "grant", excerpt(c.Grant))
	}
	printField(w, "token", tokenWords(c, now))
	printField(w, "issuer", excerpt(c.Issuer))
	printField(w, "client", clientWords(c.Client))
	if c.Token.Scope != "" {
		printField(w, "scopes", excerpt(c.Token.Scope))
	}
}

// logout revokes and forgets. What cannot be revoked is forgotten all the same.
func (a *app) logout(ctx context.Context) error {
	keys, err := a.logoutKeys()
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		a.log.notice("mcp-proxy: nothing is cached")
	}
	var failed error
	for _, k := range keys {
		if err := a.logoutFrom(ctx, k); err != nil {
			if failed != nil {
				a.log.report(failed)
			}
			failed = err
		}
	}
	return failed
}

// logoutKeys are those to forget: with a server, all of it and the profile, also a
// machine's, which needs its secret only to be made, and those of a given scope.
func (a *app) logoutKeys() (keys []storeKey, err error) {
	all, err := a.store.list()
	if a.cfg.all || err != nil {
		for _, c := range all {
			keys = append(keys, c.storeKey)
		}
		return keys, err
	}
	k := newStoreKey(a.cfg)
	machine := k
	machine.Grant = grantClientCredentials
	for _, c := range all {
		other := c.storeKey
		if other.Server == k.Server && other.Profile == k.Profile &&
			(k.Grant == "" || other.Grant == k.Grant) &&
			(k.GivenScope == "" || other.GivenScope == k.GivenScope) && (k.GivenResource == "" || other.GivenResource == k.GivenResource) {
			keys = append(keys, other)
		}
	}
	for _, other := range []storeKey{k, machine} { // a damaged file is not in the list
		if !slices.Contains(keys, other) && a.store.knows(other) {
			keys = append(keys, other)
		}
	}
	if len(keys) == 0 {
		keys = []storeKey{k}
	}
	return keys, nil
}

func (a *app) logoutFrom(ctx context.Context, k storeKey) error {
	cfg := *a.cfg
	var err error
	if cfg.server, err = url.Parse(k.Server); err != nil {
		return err
	}
	cfg.profile = k.Profile
	where := cfg.server.Host
	if k.Profile != "" {
		where += " (profile " + k.Profile + ")"
	}
	if k.Grant != "" {
		where += " (" + k.Grant + ")"
	}
	if !a.store.knows(k) {
		a.log.notice("mcp-proxy: nothing is cached for " + where)
		return nil
	}
	// A refresh that is going on would store its token after the end.
	unlock, err := a.store.lock(ctx, k, lockRefresh)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := a.store.look(k)
	if err != nil {
		a.log.warnf("%v", err)
	}
	if c == nil {
		c = &credentials{}
	}
	revoked := a.oauth(&cfg).revoke(ctx, c)
	signingIn, err := a.store.remove(k)
	if err != nil {
		return err
	}
	if signingIn {
		a.log.warnf("a sign-in to %s is waiting for its user: it will bring another token", where)
	}
	if revoked != nil {
		err := fmt.Errorf("the tokens for %s are forgotten here, but not revoked: %w", where, revoked)
		return withHint(err, "they stay good until they expire; %s may let you revoke them by hand",
			excerpt(c.Issuer))
	}
	a.log.notice("mcp-proxy: " + goodbyeWords(c, where))
	return nil
}

// goodbyeWords says what became of the credentials.
func goodbyeWords(c *credentials, where string) string {
	switch {
	case !c.state(time.Now()).isThere && !c.state(time.Now()).hasRefresh:
		return "forgot " + where + ", where nobody was signed in"
	case c.RevocationEndpoint == "":
		return fmt.Sprintf("signed out of %s; %s revokes no tokens, they stay good until they expire",
			where, excerpt(c.Issuer))
	}
	return fmt.Sprintf("signed out of %s; the tokens are revoked at %s", where, excerpt(c.Issuer))
}

// cachedServer is a server in the output of status --json. It has no field for a secret.
type cachedServer struct {
	Server   string       `json:"server"`
	Profile  string       `json:"profile,omitempty"`
	Issuer   string       `json:"issuer,omitempty"`
	Client   cachedClient `json:"client"`
	Scopes   []string     `json:"scopes"`
	SignedIn bool         `json:"signed_in"`
	Obtained *time.Time   `json:"obtained_at,omitempty"`
	Expiry   *time.Time   `json:"expires_at,omitempty"`
	Expired  bool         `json:"expired"`
	Refresh  bool         `json:"refresh_token"`
	Grant    string       `json:"grant,omitempty"`
}

type cachedClient struct {
	ID     string `json:"id"`
	Source string `json:"source"`
}

// status prints what is cached: of all servers, or of those that were asked for. One that was asked
// for and where nobody is signed in is an error for a script.
func (a *app) status(stdout io.Writer) error {
	all, err := a.store.list()
	if err != nil {
		return err
	}
	var some []*credentials
	signedIn := a.cfg.server == nil
	for _, c := range all {
		if (a.cfg.server == nil || c.Server == a.cfg.server.String()) &&
			(a.cfg.profile == "" || c.Profile == a.cfg.profile) {
			some = append(some, c)
			signedIn = signedIn || c.state(time.Now()).isUsable
		}
	}
	var out bytes.Buffer
	switch {
	case a.cfg.json:
		err = printJSON(&out, some, time.Now())
	case len(some) == 0 && a.cfg.server != nil:
		fmt.Fprintf(&out, "not signed in to %s\nhint: %s\n", a.cfg.server.Host, a.cfg.typed("login"))
	case len(some) == 0:
		fmt.Fprintf(&out, "nothing is cached in %s\n", a.cfg.cacheDir)
	default:
		for _, c := range some {
			fmt.Fprintf(&out, "\n%s\n", shownAddress(c.Server))
			printCredentials(&out, c, time.Now())
		}
	}
	_, writeErr := stdout.Write(bytes.TrimLeft(out.Bytes(), "\n"))
	if writeErr != nil || err != nil || signedIn {
		return errors.Join(err, writeErr)
	}
	return reportedError{usagef("not signed in to %s", a.cfg.server.Host)}
}

// shownServer is the server's address without its query, which may be a key.
func shownServer(u *url.URL) string {
	address, _, isQuery := strings.Cut(u.String(), "?")
	if isQuery {
		address += "?…"
	}
	return address
}

// typed is one of our commands for this server and account, as it is to be typed: with the flags
// that were given, for without them it would fail in another way.
func (c *config) typed(command string) string {
	words := c.entry
	if words == nil || command == "logout" { // mcp-remote's words; what forgets whatever there is
		words = []string{"-u", shownServer(c.server)}
		for _, f := range [][2]string{{"--profile", c.profile}, {"--scope", c.scope},
			{"--resource", c.resource}} {
			if f[1] != "" && (command != "logout" || f[0] == "--profile") {
				words = append(words, f[:]...)
			}
		}
	}
	line := "mcp-proxy " + command
	for _, w := range words {
		line += " " + quoted(runtime.GOOS, w)
	}
	return line
}

// quoted keeps the system's shell from reading more into s than its text.
func quoted(system, s string) string {
	special := func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"#$%&'()*;<=>?[\\]^`{|}~!", r)
	}
	switch {
	case strings.IndexFunc(s, special) < 0:
		return s
	case system == "windows":
		return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// shownAddress is an address as people may see it: printable, and without its query.
func shownAddress(address string) string {
	if u, err := url.Parse(address); err == nil {
		address = shownServer(u)
	}
	return excerpt(address)
}

func printJSON(w io.Writer, all []*credentials, now time.Time) error {
	rows := []cachedServer{}
	for _, c := range all {
		state := c.state(now)
		row := cachedServer{
			Server: shownAddress(c.Server), Profile: excerpt(c.Profile), Issuer: excerpt(c.Issuer),
			Client: cachedClient{excerpt(c.Client.ID), excerpt(c.Client.Source)}, Scopes: []string{},
			SignedIn: state.isThere, Refresh: state.hasRefresh, Grant: excerpt(c.Grant),
		}
		for _, scope := range strings.Fields(c.Token.Scope) {
			row.Scopes = append(row.Scopes, excerpt(scope))
		}
		if state.isThere {
			row.Obtained = &c.Token.Obtained
		}
		if !c.Token.Expiry.IsZero() {
			row.Expiry = &c.Token.Expiry
			row.Expired = state.isOver
		}
		rows = append(rows, row)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(rows)
}

func clientWords(c client) string {
	const maxID = 40 // bytes; ids of metadata documents are URLs
	id := excerpt(c.ID)
	if len(id) > maxID {
		id = excerpt(id[:maxID]) + "…"
	}
	return id + " (" + excerpt(c.Source) + ")"
}

// tokenWords says how long the token is good for, and what comes then.
func tokenWords(c *credentials, now time.Time) string {
	state, then := c.state(now), "sign in again"
	switch {
	case c.Grant == grantClientCredentials:
		then = "asked for again"
	case state.hasRefresh:
		then = "refreshed"
	}
	switch {
	case !state.isThere:
		return "not signed in"
	case c.Token.Expiry.IsZero():
		return "signed in, nobody says for how long"
	case !state.isOver:
		return "expires in " + inWords(c.Token.Expiry.Sub(now)) + ", then " + then
	case state.isUsable:
		return "expired " + inWords(now.Sub(c.Token.Expiry)) + " ago, " + then + " at next use"
	}
	return "expired " + inWords(now.Sub(c.Token.Expiry)) + " ago: " + then
}

// inWords rounds to what a person would say.
func inWords(d time.Duration) string {
	unit, name := 24*time.Hour, "day"
	switch {
	case d < 90*time.Second:
		unit, name = time.Second, "second"
	case d < 90*time.Minute:
		unit, name = time.Minute, "minute"
	case d < 36*time.Hour:
		unit, name = time.Hour, "hour"
	}
	n := int64(d.Round(unit) / unit)
	if n == 1 {
		return "1 " + name
	}
	return fmt.Sprintf("%d %ss", n, name)
}
