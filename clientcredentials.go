package main

// The client credentials grant (OAuth 2.1, section 4.2; MCP, OAuth Client
// Credentials Extension): the program is its own user. There is nobody to ask
// and no browser, and no refresh token either: a token that runs out is asked
// for again.

import (
	"context"
	"net/url"
)

const grantClientCredentials = "client_credentials"

// machine is its own user.
type machine struct{ *signIn }

func (m machine) grants() []string { return nil }

func (m machine) attempt(ctx context.Context, c *credentials) (token, error) {
	if notes := m.notes(); notes != "" {
		m.log.notice(notes)
	}
	return m.machineToken(ctx, c)
}

// machineToken asks for a token, the first or a further one.
func (o *oauth) machineToken(ctx context.Context, c *credentials) (token, error) {
	form := url.Values{"grant_type": {grantClientCredentials}}
	addResource(form, c.Resource)
	if scope := c.scope(); scope != "" {
		form.Set("scope", scope)
	}
	t, err := o.tokenWithRetry(ctx, c, form)
	t.Refresh = "" // RFC 6749, section 4.4.3: it should not be there, and nobody needs it
	if err == nil && t.Scope == "" {
		t.Scope = c.scope()
	}
	return t, err
}
