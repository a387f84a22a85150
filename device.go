package main

// The device authorization grant (RFC 8628): the user signs in with any browser on any machine, and
// types a short code there. For where no browser could come back to this one: SSH, containers. No
// answer comes back to a callback, and there is no PKCE.

import (
	"context"
	"errors"
	"net/url"
	"os"
	"slices"
	"time"
)

const (
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
	defaultPoll  = 5 * time.Second // RFC 8628, section 3.2
	minPoll      = time.Second
	slowDown     = 5 * time.Second // section 3.5
	maxPoll      = time.Minute
	maxUserCode  = 64 // bytes
	codePending  = "authorization_pending"
	codeSlowDown = "slow_down"
	codeExpired  = "expired_token"
	codeDenied   = "access_denied"
)

// isContainer: Docker leaves a file, podman and systemd set container, Kubernetes its own variable.
// Flatpak sets container as well, for programs of the desktop, whose browser comes back to them.
func isContainer(getenv func(string) string) bool {
	_, err := os.Lstat("/.dockerenv")
	kind := getenv("container")
	return err == nil || kind != "" && kind != "flatpak" || getenv("KUBERNETES_SERVICE_HOST") != ""
}

// prefersDevice: no browser can come back to this machine. --no-browser alone does not say so, for
// the user may open the address by hand; nor does a missing display, for hosts start their servers
// with few variables of the desktop's. Whoever gives --redirect-uri has set up the way back.
func (c *config) prefersDevice() bool {
	return c.device || (c.sshServer != "" || c.container) && c.browser == "" && c.redirectURI == nil
}

func (m *serverMetadata) offersDevice() bool {
	grants := m.GrantTypesSupported
	return m.DeviceAuthorizationEndpoint != "" &&
		(len(grants) == 0 || slices.Contains(grants, grantDevice))
}

// deviceAuthorization is RFC 8628, section 3.2.
type deviceAuthorization struct {
	DeviceCode  string `json:"device_code"`
	UserCode    string `json:"user_code"`
	URI         string `json:"verification_uri"`
	GoogleURI   string `json:"verification_url"` // Google's name for it
	URIComplete string `json:"verification_uri_complete"`
	ExpiresIn   any    `json:"expires_in"`
	Interval    any    `json:"interval"`
	allowHTTP   bool   // for the addresses
}

// device signs in with a code.
type device struct{ *signIn }

// read lets through what can be shown to a user: an https address to type or click, and a code of
// letters, digits and what may divide them: words between blanks would be a text to the user.
func (d *deviceAuthorization) read(status int, body []byte) error {
	if err := readAnswer(status, body, d); err != nil {
		return err
	}
	if d.URI == "" {
		d.URI = d.GoogleURI
	}
	if _, err := checkEndpoint(d.URI, d.allowHTTP); err != nil {
		return authErrorf("verification_uri %w", err)
	}
	if d.DeviceCode == "" || len(d.UserCode) > maxUserCode || !inUserCode().MatchString(d.UserCode) {
		return authErrorf("the answer has no usable device_code and user_code")
	}
	if _, err := checkEndpoint(d.URIComplete, d.allowHTTP); err != nil {
		d.URIComplete = "" // optional
	}
	return nil
}

var inUserCode = onceNeeded(`^[0-9A-Za-z\-._]+$`)

// attempt makes the device authorization request (section 3.1), shows the code, and polls until the
// user has decided (section 3.4).
func (d device) attempt(ctx context.Context) (token, error) {
	code, form := &deviceAuthorization{allowHTTP: d.cfg.acceptsHTTP()}, url.Values{}
	setGiven(form, "resource", d.c.Resource)
	setGiven(form, "scope", d.c.scope())
	err := d.post(ctx, "device authorization endpoint", d.found.server.DeviceAuthorizationEndpoint,
		d.c, form, maxTokenAttempts, code.read)
	if err != nil {
		if !errors.As(err, new(noAnswer)) && !refusedWith(err).outOfOrder() && ctx.Err() == nil {
			err = lastingFailure{err} // this client gets no code; nobody was asked yet
		}
		return token{}, err
	}
	life := expiresIn(code.ExpiresIn)
	if life == 0 {
		life = d.cfg.loginTimeout // as ctx
	}
	bound, cancel := context.WithTimeout(ctx, life)
	defer cancel()
	start := ""
	if code.URIComplete != "" && d.cfg.opensBrowser() { // another address would not save typing
		own := &url.URL{Scheme: "http", Host: localAddress + ":0", Path: ownRedirectPath}
		if cb, err := listenAt(own); err == nil {
			defer cb.close()
			cb.notify = d.notify // without a state it takes no answer, and only leads on
			start = cb.expect(authorizationRequest{}, authorizationRequest{url: code.URIComplete})
		}
	}
	d.ask(bound, signInPage{
		URL: code.URI, UserCode: code.UserCode, Complete: code.URIComplete, Note: d.notes(),
	}, start)
	form = url.Values{"grant_type": {grantDevice}, "device_code": {code.DeviceCode}}
	interval := defaultPoll
	if asked := expiresIn(code.Interval); asked > 0 {
		interval = max(asked, minPoll)
	}
	for again := true; again && sleep(bound, interval); interval, again = nextPoll(interval, err) {
		var t token
		if t, err = d.requestToken(bound, d.c, form, 1); err == nil {
			return t, nil
		}
	}
	switch {
	case ctx.Err() != nil:
		err = d.nobodySignedIn()
	case bound.Err() != nil || errorType(err) == codeExpired:
		err = withHint(authErrorf("nobody entered the code before it expired"),
			"%s, to get another code", d.cfg.typed("login"))
	case errorType(err) == codeDenied:
		err = errDenied
	}
	return token{}, err
}

// nextPoll is RFC 8628, section 3.5: "the interval MUST be increased by 5 seconds for this and all
// subsequent requests" at slow_down, and doubled where the connection times out.
func nextPoll(interval time.Duration, err error) (time.Duration, bool) {
	switch refused := refusedWith(err); {
	case refused.code == codePending:
		return interval, true
	case refused.code == codeSlowDown:
		return interval + slowDown, true
	case refused.outOfOrder(), errors.As(err, new(noAnswer)):
		return max(interval, min(2*interval, maxPoll)), true
	}
	return interval, false
}
