package main

// The commands that people type: login, logout and status; doctor is
// doctor.go's. status and doctor are asked for what they print, which goes to
// stdout; everything else that is said to people goes to stderr.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// reportedError was printed already; only its exit code is left.
type reportedError struct{ error }

func (e reportedError) Unwrap() error { return e.error }

const probeTimeout = 20 * time.Second // for the first answer

// probeMessage is a request that a server of any revision may refuse but has no
// reason to act on. One that wants a token says so.
const probeMessage = `{"jsonrpc":"2.0","id":1,"method":"ping"}`

// ask sends one message to the server without any retry. The caller closes the body.
func (a *app) ask(ctx context.Context, method, body, token string, headers http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.cfg.server.String(), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
	}
	req.Header.Set("User-Agent", userAgent())
	for _, more := range []http.Header{headers, a.cfg.headers} {
		for name, values := range more {
			req.Header[name] = values
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, networkFailure(a.cfg.server.Host, err)
	}
	return resp, nil
}

// login asks the server what it wants, and signs in here, in the foreground.
func (a *app) login(ctx context.Context, stdin io.Reader) error {
	if a.auth == nil {
		return withHint(usagef("login: the Authorization header given with --header turns OAuth off"), "leave it out to sign in")
	}
	challenged, err := a.challenged(ctx)
	if err != nil {
		return err
	}
	if challenged == nil {
		a.log.notice("mcp-proxy: " + a.cfg.server.Host + " asks for no sign-in")
		return nil
	}
	ch, ours := parseChallenge(challenged)
	if !ours {
		return otherScheme(a.cfg.server.Host, challenged)
	}
	if terminal := asTerminal(stdin); terminal != nil {
		a.auth.shown = readAnswers(ctx, terminal, a.log)
	}
	if err := a.signInHere(ctx, ch); err != nil {
		return err
	}
	a.log.notice("mcp-proxy: signed in to " + a.cfg.server.Host + "\n" + summary(a.auth.current(), time.Now()))
	return nil
}

// challenged returns the headers of the 401 to a message without a token, nil
// where the server answers without one.
func (a *app) challenged(ctx context.Context) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	resp, err := a.ask(ctx, http.MethodPost, probeMessage, "", nil)
	if err != nil {
		return nil, err
	}
	status := resp.StatusCode
	switch {
	case status == http.StatusUnauthorized:
		discard(resp)
		return resp.Header, nil
	case status < 300:
		discard(resp)
		return nil, nil
	case readRefusal(resp) != nil && status < 500:
		return nil, nil
	}
	// Servers of revision 2024-11-05 may refuse POST before they look for a token.
	stream, err := a.ask(ctx, http.MethodGet, "", "", nil)
	if err == nil {
		stream.Body.Close() // not read: it has no end
		switch {
		case stream.StatusCode == http.StatusUnauthorized:
			return stream.Header, nil
		case stream.StatusCode == http.StatusOK && mediaType(stream) == eventStream:
			return nil, nil
		}
	}
	hint := statusHint(status)
	if hint == "" {
		hint = a.cfg.typed("doctor") + " looks at every step"
	}
	return nil, withHint(fmt.Errorf("%s answered %d %s", a.cfg.server.Host, status, http.StatusText(status)), "%s", hint)
}

func otherScheme(host string, h http.Header) error {
	scheme, _, _ := strings.Cut(h.Get("WWW-Authenticate"), " ")
	return withHint(authErrorf("%s wants %s, which is not OAuth", host, excerpt(scheme)), "give it with -H 'Authorization: …'")
}

// signInHere leads the sign-in, unless another process does: then its page is
// the one to sign in at, and its token is good for this one.
func (a *app) signInHere(ctx context.Context, ch challenge) error {
	o := a.auth
	before, shown := o.reread().Token.Access, signInPage{}
	for pause := firstFollow; ; pause = min(2*pause, followInterval) {
		unlock, free, err := o.store.tryLock(o.key, lockLogin)
		if err != nil {
			return err
		}
		if free {
			defer unlock()
			if o.reread().Token.Access != before {
				return nil
			}
			return o.lead(ctx, ch, "")
		}
		if state := o.store.loadLogin(o.key); state.Ended.IsZero() && state.URL != "" && state.signInPage != shown {
			shown = state.signInPage
			a.log.notice("mcp-proxy: another process is signing in already")
			o.show(shown)
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// summary is what a sign-in brought.
func summary(c *credentials, now time.Time) string {
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(table, "  %s\t%s\n", name, value) }
	row("issuer", excerpt(c.Issuer))
	row("client", clientWords(c.Client))
	row("scopes", scopeWords(c))
	row("expires", expiryWords(c.Token, now)+", "+renewalWords(c))
	table.Flush()
	return strings.TrimSuffix(b.String(), "\n")
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
			keys = append(keys, keyOf(c))
		}
		return keys, err
	}
	k := newStoreKey(a.cfg)
	machine := k
	machine.grant = grantClientCredentials
	for _, c := range all {
		other := keyOf(c)
		if other.server == k.server && other.profile == k.profile && (k.grant == "" || other.grant == k.grant) &&
			(k.scope == "" || other.scope == k.scope) && (k.resource == "" || other.resource == k.resource) {
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
	if cfg.server, err = url.Parse(k.server); err != nil {
		return err
	}
	cfg.profile = k.profile
	where := cfg.server.Host
	if k.profile != "" {
		where += " (profile " + k.profile + ")"
	}
	if k.grant != "" {
		where += " (" + k.grant + ")"
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
	if err := a.store.remove(k); err != nil {
		return err
	}
	if going, err := a.store.removeLogin(k); going {
		a.log.warnf("a sign-in to %s is waiting for its user: it will bring another token", where)
	} else if err != nil {
		return err
	}
	if revoked != nil {
		return withHint(fmt.Errorf("the tokens for %s are forgotten here, but not revoked: %w", where, revoked), "they stay good until they expire; %s may let you revoke them by hand", excerpt(c.Issuer))
	}
	a.log.notice("mcp-proxy: " + farewell(c, where))
	return nil
}

// farewell says what became of the credentials.
func farewell(c *credentials, where string) string {
	switch {
	case c.Token.Access == "" && c.Token.Refresh == "":
		return "forgot " + where + ", where nobody was signed in"
	case c.RevocationEndpoint == "":
		return fmt.Sprintf("signed out of %s; %s revokes no tokens, they stay good there until they expire", where, excerpt(c.Issuer))
	}
	return fmt.Sprintf("signed out of %s; the tokens are revoked at %s", where, excerpt(c.Issuer))
}

// revoke makes the tokens worthless (RFC 7009), the refresh token first: "If
// the particular token is a refresh token and the authorization server supports
// the revocation of access tokens, then the authorization server SHOULD also
// invalidate all access tokens based on the same authorization grant"
// (section 2.1).
func (o *oauth) revoke(ctx context.Context, c *credentials) error {
	if c.RevocationEndpoint == "" {
		return nil
	}
	if c.Token.Refresh != "" {
		if err := o.revokeOne(ctx, c, c.Token.Refresh, "refresh_token"); err != nil {
			return err
		}
	}
	if c.Token.Access == "" {
		return nil
	}
	err := o.revokeOne(ctx, c, c.Token.Access, "access_token")
	if err != nil && c.Token.Refresh != "" {
		// Google answers 400 for the access token that went with its refresh token.
		o.log.debugf("%v", err)
		return nil
	}
	return err
}

func (o *oauth) revokeOne(ctx context.Context, c *credentials, value, hint string) error {
	form := url.Values{"token": {value}, "token_type_hint": {hint}}
	a, err := o.postForm(ctx, "revocation endpoint", c.RevocationEndpoint, c, form)
	if err != nil || a.status == http.StatusOK {
		return err
	}
	refused, _ := readTokenAnswer(a.body)
	return a.explain(&tokenError{Code: excerpt(refused.Error), Description: refused.ErrorDescription, Status: a.status})
}

// cachedServer is a row of status. It has no field for a secret.
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

// status prints what is cached: of all servers, or of those that were asked for.
func (a *app) status(stdout io.Writer) error {
	all, err := a.store.list()
	if err != nil {
		return err
	}
	var some []*credentials
	for _, c := range all {
		if (a.cfg.server == nil || c.Server == a.cfg.server.String()) && (a.cfg.profile == "" || c.Profile == a.cfg.profile) {
			some = append(some, c)
		}
	}
	if a.cfg.json {
		return printJSON(stdout, some, time.Now())
	}
	if len(some) == 0 {
		text := "nothing is cached in " + a.cfg.cacheDir
		if a.cfg.server != nil {
			text = "nothing is cached for " + a.cfg.server.Host + "\nhint: " + a.cfg.typed("login")
		}
		_, err := fmt.Fprintln(stdout, text)
		return err
	}
	return printTable(stdout, some, time.Now())
}

func printTable(w io.Writer, all []*credentials, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVER\tPROFILE\tISSUER\tCLIENT\tSCOPES\tEXPIRES\tREFRESH TOKEN")
	for _, c := range all {
		profile := excerpt(c.Profile)
		if profile == "" {
			profile = "-"
		}
		refresh := "no"
		switch {
		case c.Token.Refresh != "":
			refresh = "yes"
		case c.Grant != "":
			refresh = "no, " + excerpt(c.Grant)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", excerpt(c.Server), profile, excerpt(c.Issuer),
			clientWords(c.Client), scopeWords(c), expiryWords(c.Token, now), refresh)
	}
	return table.Flush()
}

func printJSON(w io.Writer, all []*credentials, now time.Time) error {
	rows := []cachedServer{}
	for _, c := range all {
		row := cachedServer{
			Server: c.Server, Profile: c.Profile, Issuer: c.Issuer, Client: cachedClient{c.Client.ID, c.Client.Source},
			Scopes: strings.Fields(c.Token.Scope), SignedIn: c.Token.Access != "", Refresh: c.Token.Refresh != "", Grant: c.Grant,
		}
		if c.Token.Access != "" {
			row.Obtained = &c.Token.Obtained
		}
		if !c.Token.Expiry.IsZero() {
			row.Expiry = &c.Token.Expiry
			row.Expired = now.After(c.Token.Expiry)
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

func scopeWords(c *credentials) string {
	if c.Token.Scope == "" {
		return "-"
	}
	return excerpt(c.Token.Scope)
}

func expiryWords(t token, now time.Time) string {
	switch {
	case t.Access == "":
		return "not signed in"
	case t.Expiry.IsZero():
		return "unknown"
	case now.After(t.Expiry):
		return inWords(now.Sub(t.Expiry)) + " ago"
	}
	return "in " + inWords(t.Expiry.Sub(now))
}

func renewalWords(c *credentials) string {
	switch {
	case c.Grant == grantClientCredentials:
		return "then asked for again by itself"
	case c.Token.Refresh == "":
		return "then sign in again"
	}
	return "refreshed without you"
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
