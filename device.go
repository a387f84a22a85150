package main

// The device authorization grant (RFC 8628): the user signs in with any browser
// on any machine, and types a short code there. For where no browser could come
// back to this one: SSH, containers. There is no callback and no PKCE.

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	grantDevice    = "urn:ietf:params:oauth:grant-type:device_code"
	deviceEndpoint = "device authorization endpoint"
	defaultPoll    = 5 * time.Second // RFC 8628, section 3.2
	slowDown       = 5 * time.Second // section 3.5
	maxPoll        = time.Minute
	maxUserCode    = 64 // bytes
	codePending    = "authorization_pending"
	codeSlowDown   = "slow_down"
	codeExpired    = "expired_token"
	codeDenied     = "access_denied"
)

// isContainer is a guess: Docker leaves a file.
func isContainer(getenv func(string) string) bool {
	_, err := os.Lstat("/.dockerenv")
	return err == nil || namesContainer(getenv)
}

// namesContainer: podman and systemd set container, Kubernetes its own variable.
// Flatpak sets container as well, for programs of the desktop, whose browser
// comes back to them.
func namesContainer(getenv func(string) string) bool {
	kind := getenv("container")
	return kind != "" && kind != "flatpak" || getenv("KUBERNETES_SERVICE_HOST") != ""
}

// prefersDevice: no browser can come back to this machine. --no-browser alone
// does not say so, for the user may open the address by hand; nor does a missing
// display, for hosts start their servers with few variables of the desktop's.
// Whoever gives --redirect-uri has set up the way back.
func (c *config) prefersDevice() bool {
	return c.device || (c.sshServer != "" || c.container) && c.browser == "" && c.redirectURI == nil
}

func (m *serverMetadata) offersDevice() bool {
	return m.DeviceAuthorizationEndpoint != "" && (len(m.GrantTypesSupported) == 0 || slices.Contains(m.GrantTypesSupported, grantDevice))
}

// usesDevice tells whether the user is to sign in by a device code here.
func (o *oauth) usesDevice(m *serverMetadata) bool {
	return !o.cfg.unattended() && (o.cfg.device || o.cfg.prefersDevice() && m.offersDevice())
}

func (m *serverMetadata) checkDevice() error {
	if m.offersDevice() {
		return nil
	}
	return withHint(authErrorf("%s does not offer the device authorization grant", excerpt(m.Issuer)), "leave out --device; --no-browser prints the address to sign in at")
}

// deviceAuthorization is RFC 8628, section 3.2.
type deviceAuthorization struct {
	DeviceCode       string `json:"device_code"`
	UserCode         string `json:"user_code"`
	URI              string `json:"verification_uri"`
	GoogleURI        string `json:"verification_url"` // Google's name for it
	URIComplete      string `json:"verification_uri_complete"`
	ExpiresIn        any    `json:"expires_in"`
	Interval         any    `json:"interval"`
	Error            string `json:"error"`
	ErrorDescription string `json:"error_description"`
}

// deviceRefused: the server gives this client no code that can be used. Nobody was asked yet.
type deviceRefused struct{ error }

func (d deviceRefused) Unwrap() error { return d.error }

// deviceSignIn asks for a code, as a client that is registered anew once where
// the server does not know it, or knows it without this grant.
func (o *oauth) deviceSignIn(ctx context.Context, found *authorization, scope string, ask asking) error {
	old := o.reread()
	for registrations := 1; ; registrations++ {
		c, err := o.newCredentials(old, found)
		if err == nil && c.Client.ID == "" {
			var cb *callback
			if cb, err = o.registeredClient(ctx, c, old, &found.server, grantDevice); err == nil {
				cb.close()
			}
		}
		if err != nil {
			if errors.As(err, new(registrationRefused)) {
				err = deviceRefused{err}
			}
			return err
		}
		c.RequestedScope = scope
		device, err := o.askForCode(ctx, c, &found.server)
		if isUnknownClient(err) && c.Client.Source == sourceRegistered && registrations < maxRegistrations {
			old = &credentials{Token: old.Token} // which is good as long as nobody has used the code
			continue
		}
		if err != nil {
			if errors.As(err, new(noAnswer)) || ctx.Err() != nil {
				return err
			}
			return deviceRefused{o.explainRefusal(err)}
		}
		return o.awaitDevice(ctx, c, device, ask)
	}
}

// askForCode is the device authorization request. The client shows who it is
// as at the token endpoint (section 3.1).
func (o *oauth) askForCode(ctx context.Context, c *credentials, m *serverMetadata) (d *deviceAuthorization, err error) {
	form := url.Values{}
	addResource(form, c.Resource)
	if c.RequestedScope != "" {
		form.Set("scope", c.RequestedScope)
	}
	err = o.withRetry(ctx, c, func() error {
		a, err := o.postForm(ctx, deviceEndpoint, m.DeviceAuthorizationEndpoint, c, form)
		if err != nil {
			return err
		}
		d, err = parseDeviceAnswer(a.status, a.body, o.cfg.allowHTTP)
		return a.explain(err)
	})
	return d, err
}

// parseDeviceAnswer lets through what can be shown to a user: an https address
// to type or click, and a code of visible characters.
func parseDeviceAnswer(status int, body []byte, allowHTTP bool) (*deviceAuthorization, error) {
	d := &deviceAuthorization{}
	switch err := decodeObject(body, d); {
	case err != nil:
		return nil, &tokenError{Status: status}
	case d.Error != "":
		return nil, &tokenError{Code: excerpt(d.Error), Description: d.ErrorDescription, Status: status}
	case status != http.StatusOK:
		return nil, &tokenError{Status: status}
	}
	if d.URI == "" {
		d.URI = d.GoogleURI
	}
	if _, err := checkEndpoint(d.URI, allowHTTP); err != nil {
		return nil, authErrorf("%s: verification_uri %w", deviceEndpoint, err)
	}
	if d.DeviceCode == "" || d.UserCode == "" || !isVisible(d.UserCode) || len(d.UserCode) > maxUserCode {
		return nil, authErrorf("%s: the answer has no usable device_code and user_code", deviceEndpoint)
	}
	if _, err := checkEndpoint(d.URIComplete, allowHTTP); err != nil {
		d.URIComplete = "" // optional
	}
	return d, nil
}

// awaitDevice shows the code and polls until the user has decided.
func (o *oauth) awaitDevice(ctx context.Context, c *credentials, d *deviceAuthorization, ask asking) error {
	bound := ctx
	if life := expiresIn(d.ExpiresIn); life > 0 {
		var cancel context.CancelFunc
		bound, cancel = context.WithTimeout(ctx, life)
		defer cancel()
	}
	asking, stopAsking := context.WithCancel(bound)
	defer stopAsking()
	start := ""
	if d.URIComplete != "" && o.cfg.opensBrowser() { // without the code in it there is nothing to be gained
		if cb, err := listenForRegistration(nil, false); err == nil {
			defer cb.close()
			start = cb.startAt(d.URIComplete, "")
			cb.expect(o.cfg.server.Host, "", "", false) // no answer: it only leads on
		}
	}
	ask(asking, signInPage{URL: d.URI, UserCode: d.UserCode, Complete: d.URIComplete}, start, purposeOf(c))
	t, err := o.poll(bound, c, d)
	switch {
	case err == nil:
		if c.Token = t; t.Scope == "" {
			c.Token.Scope = c.RequestedScope
		}
		err = o.keepNew(ctx, c)
	case ctx.Err() != nil:
		return o.nobodySignedIn()
	case bound.Err() != nil || errorType(err) == codeExpired:
		return withHint(authErrorf("nobody entered the code before it expired"), "%s, to get another code", o.cfg.typed("login"))
	case errorType(err) == codeDenied:
		return refusedByUser(codeDenied, "")
	}
	return o.explainRefusal(err)
}

// poll asks for the token until there is an answer that stands (section 3.4).
func (o *oauth) poll(ctx context.Context, c *credentials, d *deviceAuthorization) (token, error) {
	form := url.Values{"grant_type": {grantDevice}, "device_code": {d.DeviceCode}}
	addResource(form, c.Resource)
	interval := expiresIn(d.Interval)
	if interval == 0 {
		interval = defaultPoll
	}
	for sleep(ctx, interval) {
		t, err := o.requestToken(ctx, c, form)
		if err == nil {
			return t, nil
		}
		var again bool
		if interval, again = nextPoll(interval, err); !again {
			return token{}, err
		}
	}
	return token{}, ctx.Err()
}

// nextPoll is RFC 8628, section 3.5: "the interval MUST be increased by 5
// seconds for this and all subsequent requests" at slow_down, and doubled where
// the connection times out.
func nextPoll(interval time.Duration, err error) (time.Duration, bool) {
	var refused *tokenError
	isAnswer := errors.As(err, &refused)
	switch {
	case isAnswer && refused.Code == codePending:
		return interval, true
	case isAnswer && refused.Code == codeSlowDown:
		return interval + slowDown, true
	case isAnswer && !refused.outOfOrder():
		return interval, false
	case !isAnswer && !errors.As(err, new(noAnswer)):
		return interval, false
	case interval > maxPoll/2:
		return max(interval, maxPoll), true
	}
	return 2 * interval, true
}

// deviceWords tell the user what to do, each address on a line of its own.
func (p signInPage) deviceWords(host string) string {
	text := "mcp-proxy: to sign in to " + host + ", open this address in any browser and enter the code " + p.UserCode + ":\n" + p.URL
	if p.Complete != "" {
		text += "\nor this one, which holds the code; it must show the same:\n" + p.Complete
	}
	return text
}

// headless says what the server offers where nobody has a browser.
func (d *doctor) headless(m *serverMetadata) {
	var offered []string
	if m.offersDevice() {
		offered = append(offered, "--device")
	}
	if slices.Contains(m.GrantTypesSupported, grantClientCredentials) {
		offered = append(offered, "--grant "+grantClientCredentials)
	}
	const step = "without a browser"
	if len(offered) == 0 {
		d.skip(step, "neither device codes nor client credentials are offered")
		return
	}
	d.ok(step, "%s", strings.Join(offered, ", "))
}
