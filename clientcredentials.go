package main

// The client credentials grant (OAuth 2.1, section 4.2; MCP, OAuth Client
// Credentials Extension): the program is its own user. There is nobody to ask
// and no browser, and no refresh token either: a token that runs out is asked
// for again.

import (
	"context"
	"net/url"
	"slices"
	"strings"
)

const grantClientCredentials = "client_credentials"

// clientCredentials gets the first token, at the authorization server found.
func (o *oauth) clientCredentials(ctx context.Context, found *authorization, scope string) error {
	c, err := o.newCredentials(o.reread(), found)
	if err != nil {
		return err
	}
	c.RequestedScope = scope
	if c.Token, err = o.machineToken(ctx, c); err == nil {
		err = o.keepNew(ctx, c)
	}
	return o.explainRefusal(err)
}

// machineToken asks for a token, the first or a further one.
func (o *oauth) machineToken(ctx context.Context, c *credentials) (token, error) {
	form := url.Values{"grant_type": {grantClientCredentials}}
	addResource(form, c.Resource)
	if c.RequestedScope != "" {
		form.Set("scope", c.RequestedScope)
	}
	t, err := o.tokenWithRetry(ctx, c, form)
	t.Refresh = "" // RFC 6749, section 4.4.3: it should not be there, and nobody needs it
	if err == nil && t.Scope == "" {
		t.Scope = c.RequestedScope
	}
	return t, err
}

// withoutOfflineAccess: it asks for a refresh token, on behalf of a user.
func withoutOfflineAccess(scope string) string {
	return strings.Join(slices.DeleteFunc(strings.Fields(scope), func(s string) bool { return s == "offline_access" }), " ")
}
