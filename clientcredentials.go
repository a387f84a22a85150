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

// unattended: no user has a part in getting a token.
func (c *config) unattended() bool { return c.grant == grantClientCredentials }

// setGrant comes after setClient.
func (c *config) setGrant(o *options) error {
	switch c.grant {
	case grantCode:
		return nil
	case grantClientCredentials:
	default:
		return withHint(usagef("--grant: want %s or %s, not %q", grantCode, grantClientCredentials, c.grant), "without --grant a user signs in")
	}
	const flagName = "--grant " + grantClientCredentials
	switch {
	case c.clientID == "":
		return withHint(usagef("%s needs --client-id", flagName), "%s --client-id ID --client-secret env:SECRET", flagName)
	case c.clientSecret == "" && c.privateKey == nil:
		return withHint(usagef("%s needs --client-secret or --private-key", flagName), "%s --client-id ID --client-secret env:SECRET", flagName)
	}
	for _, other := range []struct {
		name  string
		given bool
	}{
		{"--redirect-uri", o.redirectURI != ""}, {"--auth-param", len(o.authParams) > 0},
		{"--client-metadata-url", o.metadataURL != ""},
	} {
		if other.given {
			return withHint(usagef("%s and %s exclude each other", flagName, other.name), "leave out %s", other.name)
		}
	}
	return nil
}

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
