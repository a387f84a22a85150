package main

// The commands that people type: login, logout and status; doctor is
// doctor.go's. status and doctor are asked for what they print, which goes to
// stdout; everything else that is said to people goes to stderr.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// login asks the server what it wants, and signs in here, in the foreground.
func (a *app) login(ctx context.Context, stdin io.Reader) error {
	if a.auth == nil {
		return withHint(usagef("login: the Authorization header given with --header turns OAuth off"),
			"leave it out to sign in")
	}
	_, challenged, err := a.askFirst(ctx)
	ch, isOAuth := parseChallenge(challenged)
	switch {
	case err != nil:
		return err
	case challenged == nil:
		a.log.notice("mcp-proxy: " + a.cfg.server.Host + " asks for no sign-in")
		return nil
	case !isOAuth:
		return otherScheme(a.cfg.server.Host, challenged)
	}
	paste := readAnswers(stdin, a.log)
	a.auth.shown = func(redirect *url.URL) {
		a.log.notice("mcp-proxy: waiting for up to " + inWords(a.cfg.loginTimeout) + "; Ctrl-C ends")
		if redirect != nil && isTerminal(stdin) {
			paste(redirect)
		}
	}
	if a.cfg.unattended() {
		err = a.auth.explainRefusal(a.auth.refresh(ctx, a.auth.held(), &ch))
	} else {
		err = a.auth.follow(ctx, detachedOrder{Challenge: ch, Used: a.auth.stored()}, true)
	}
	if err != nil {
		return err
	}
	text := "mcp-proxy: signed in to " + a.cfg.server.Host + "\n" +
		credentialsText(a.auth.current(), time.Now())
	if a.cfg.entry != nil {
		entry, _ := json.Marshal(a.cfg.entry) // strings
		command := os.Args[0]
		if filepath.Base(command) != command { // not found in $PATH
			command, _ = filepath.Abs(command)
		}
		text += fmt.Sprintf("the entry for your client's configuration:\n  %q: {\n    \"command\": %q,\n"+
			"    \"args\": %s\n  }\n", a.cfg.server.Hostname(), command, entry)
	}
	a.log.notice(strings.TrimSuffix(text, "\n"))
	return nil
}

const columns = 80 // of a terminal

// credentialsText is what a sign-in brought, names and values in two columns; a long value goes on
// below its beginning.
func credentialsText(c *credentials, now time.Time) (text string) {
	const width = columns - 11
	for _, field := range [][2]string{
		{"profile", c.Profile}, {"grant", c.Grant}, {"token", tokenWords(c, now)},
		{"issuer", c.Issuer}, {"client", c.Client.ID + " (" + c.Client.Source + ")"},
		{"scopes", c.Token.Scope},
	} {
		name, value := field[0], strings.Join(strings.Fields(excerpt(field[1])), " ")
		for value != "" {
			line := strings.ToValidUTF8(value[:min(len(value), width)], "")
			if blank := strings.LastIndexByte(line, ' '); blank > 0 && len(value) > width {
				line = line[:blank]
			}
			text += fmt.Sprintf("  %-8s %s\n", name, line)
			name, value = "", strings.TrimSpace(value[len(line):])
		}
	}
	return text
}

// logout revokes and forgets. With --url that is every entry of the server and the profile: also a
// machine's, though no --grant is given, and those of a given scope or resource.
func (a *app) logout(ctx context.Context) error {
	all, err := a.store.list()
	if err != nil {
		return err
	}
	var k storeKey
	var keys []storeKey
	if !a.cfg.all {
		k = newStoreKey(a.cfg)
	}
	isMeant := func(given, has string) bool { return given == "" || given == has }
	for _, c := range all {
		other := c.storeKey
		if a.cfg.all || other.Server == k.Server && other.Profile == k.Profile &&
			isMeant(k.Grant, other.Grant) && isMeant(k.GivenScope, other.GivenScope) &&
			isMeant(k.GivenResource, other.GivenResource) {
			keys = append(keys, other)
		}
	}
	machine := k
	machine.Grant = grantClientCredentials
	for _, other := range []storeKey{machine, k} { // a damaged file is not in the list
		if a.store.knows(other) && !slices.Contains(keys, other) {
			keys = append(keys, other)
		}
	}
	switch {
	case len(keys) == 0 && a.cfg.all:
		a.log.notice("mcp-proxy: nothing is cached")
	case len(keys) == 0:
		a.log.notice("mcp-proxy: nothing is cached for " + a.cfg.server.Host)
	}
	var failed error
	for _, k := range keys {
		if err := a.logoutFrom(ctx, k); err != nil {
			a.log.report(err)
			failed = exitError{errReported, exitCode(err)}
		}
	}
	return failed
}

// logoutFrom forgets also what cannot be revoked.
func (a *app) logoutFrom(ctx context.Context, k storeKey) error {
	server, err := url.Parse(k.Server)
	if err != nil {
		return err
	}
	cfg, where := *a.cfg, server.Host
	cfg.server = server
	if k.Profile != "" {
		where += " (profile " + k.Profile + ")"
	}
	if k.Grant != "" {
		where += " (" + k.Grant + ")"
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
	revoked := newOAuth(&cfg, a.store, a.oauthClient, a.log, a.trace).revoke(ctx, c)
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
	text := "signed out of " + where + "; "
	switch state := c.state(time.Now()); {
	case !state.isThere && !state.hasRefresh:
		text = "forgot " + where + ", where nobody was signed in"
	case c.RevocationEndpoint == "":
		text += excerpt(c.Issuer) + " revokes no tokens, they stay good until they expire"
	default:
		text += "the tokens are revoked at " + excerpt(c.Issuer)
	}
	a.log.notice("mcp-proxy: " + text)
	return nil
}

// status prints what is cached: of all servers, or of those that were asked for. One that was asked
// for and where nobody is signed in is an error for a script.
func (a *app) status(stdout io.Writer) error {
	all, err := a.store.list()
	if err != nil {
		return err
	}
	var some []*credentials
	var blocks []string
	now, signedIn := time.Now(), a.cfg.server == nil
	for _, c := range all {
		if (a.cfg.server == nil || c.Server == a.cfg.server.String()) &&
			(a.cfg.profile == "" || c.Profile == a.cfg.profile) {
			some = append(some, c)
			blocks = append(blocks, excerpt(shownServer(c.Server))+"\n"+credentialsText(c, now))
			signedIn = signedIn || c.state(now).isUsable
		}
	}
	text := strings.Join(blocks, "\n")
	switch {
	case a.cfg.json:
		text = statusJSON(some, now)
	case len(some) == 0 && a.cfg.server != nil:
		text = "not signed in to " + a.cfg.server.Host + "\nhint: " + a.cfg.typed("login") + "\n"
	case len(some) == 0:
		text = "nothing is cached in " + a.cfg.cacheDir + "\n"
	}
	if _, err := io.WriteString(stdout, text); err != nil || signedIn {
		return err
	}
	return exitError{errReported, 1}
}

var secretPart = onceNeeded(`(?s)(//)[^/?#]*@|(\?).*`)

// shownServer is a server's address without user information and query, which may be a key.
func shownServer(address string) string {
	return secretPart().ReplaceAllString(address, "$1$2…")
}

// typed is one of our commands for this server and account, as it is to be typed: with the flags
// that were given, for without them it would fail in another way.
func (c *config) typed(command string) string {
	words := c.entry
	if words == nil || command == "logout" { // mcp-remote's words; logout takes every scope
		words = []string{"-u", shownServer(c.server.String())}
		if c.server.Scheme == "http" {
			words = append(words, "--allow-http")
		}
		for _, f := range [][2]string{{"--profile", c.profile}, {"--scope", c.scope},
			{"--resource", c.resource}} {
			if f[1] != "" && (command != "logout" || f[0] == "--profile") {
				words = append(words, f[0], shownServer(f[1]))
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

// statusJSON names what is no secret.
func statusJSON(all []*credentials, now time.Time) string {
	rows := []map[string]any{}
	for _, c := range all {
		state, scopes := c.state(now), []string{}
		for _, scope := range strings.Fields(c.Token.Scope) {
			scopes = append(scopes, excerpt(scope))
		}
		row := map[string]any{
			"server": excerpt(shownServer(c.Server)), "scopes": scopes,
			"client":    map[string]string{"id": excerpt(c.Client.ID), "source": excerpt(c.Client.Source)},
			"signed_in": state.isThere, "expired": state.isOver, "refresh_token": state.hasRefresh,
			"profile": excerpt(c.Profile), "issuer": excerpt(c.Issuer), "grant": excerpt(c.Grant),
			"obtained_at": c.Token.Obtained, "expires_at": c.Token.Expiry,
		}
		maps.DeleteFunc(row, func(_ string, v any) bool { return v == "" || v == time.Time{} })
		rows = append(rows, row)
	}
	text, _ := json.MarshalIndent(rows, "", "  ") // of texts, times and booleans
	return string(text) + "\n"
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
