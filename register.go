package main

// This file knows how a client gets itself registered (RFC 7591) and how a
// client authenticates at the token endpoint. It does not know when to
// register, and never sends what it got.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const projectPage = "https://github.com/smorand/mcp-proxy"

// authMethods are the ones we know, the preferred first: a secret that this
// machine does not hold cannot be stolen from it. Then post: servers of the MCP
// SDK for Python want client_id in the form even beside Basic, and Okta refuses
// it there.
var authMethods = []string{"none", "client_secret_post", "client_secret_basic"}

// registration is the request. Its scope is what will be asked for: servers of the
// MCP SDK for Python hold a client to it. It has no software_version: a
// registration outlives the version that made it.
type registration struct {
	ClientName      string   `json:"client_name"`
	ClientURI       string   `json:"client_uri"`
	SoftwareID      string   `json:"software_id"`
	ApplicationType string   `json:"application_type"`
	RedirectURIs    []string `json:"redirect_uris"`
	GrantTypes      []string `json:"grant_types"`
	ResponseTypes   []string `json:"response_types"`
	AuthMethod      string   `json:"token_endpoint_auth_method"`
	Scope           string   `json:"scope,omitempty"`
}

// registered is what counts of the answer. Redirect URIs are ignored: gateways
// send their own back (LiteLLM's did), and the one we ask for is the one we listen on. So is
// client_secret_expires_at: whether a secret is still good is said by the
// token endpoint (invalid_client, then the client is registered anew), and our
// clock may be wrong.
type registered struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	AuthMethod   string `json:"token_endpoint_auth_method"`
	Scope        any    `json:"scope"` // a string; other forms are none of RFC 7591's
}

// registrationRefused is the server's word, or its trouble, and not the network's.
type registrationRefused struct {
	error
	aboutMetadata bool // something in the request is refused, not the client
	aboutRedirect bool // it may be the redirect URI
}

func (r registrationRefused) Unwrap() error { return r.error }

// register makes a client at m's registration endpoint that is sent back to
// redirectURI and will ask for scope. Its AuthMethod is always set.
func (d *discoverer) register(ctx context.Context, m *serverMetadata, redirectURI, scope string, moreGrants ...string) (client, error) {
	endpoint, err := checkEndpoint(m.RegistrationEndpoint, d.allowHTTP)
	if err != nil {
		return client{}, withHint(fmt.Errorf("authorization server %q registers no clients: registration_endpoint %w", excerpt(m.Issuer), err),
			"set GOOGLE_CLIENT_ID or give --client-id")
	}
	c, err := d.registerAt(ctx, endpoint, m, redirectURI, scope, moreGrants)
	if err == nil {
		return c, nil
	}
	err = fmt.Errorf("register a client: %w", err)
	if errors.As(err, new(noAnswer)) {
		return client{}, err
	}
	var status statusError
	refused := registrationRefused{error: err}
	if errors.As(err, &status) {
		refused.aboutMetadata = status.status == http.StatusBadRequest || status.status == http.StatusUnprocessableEntity
		refused.aboutRedirect = strings.Contains(strings.ToLower(err.Error()), "redirect")
	}
	return client{}, withHint(refused, "give --client-id (register a client at %s by hand)", excerpt(endpoint.Host))
}

func (d *discoverer) registerAt(ctx context.Context, endpoint *url.URL, m *serverMetadata, redirectURI, scope string, moreGrants []string) (client, error) {
	request, err := newRegistration(m, redirectURI)
	if err != nil {
		return client{}, err
	}
	request.GrantTypes = append(request.GrantTypes, moreGrants...)
	request.Scope = scope
	answer, err := d.postRegistration(ctx, endpoint.String(), request)
	if err != nil {
		return client{}, fmt.Errorf("%w%s", err, refusal(answer, redirectURI))
	}
	c, err := registeredClient(answer, m)
	if err != nil {
		return client{}, fmt.Errorf("%s: %w%s", excerpt(endpoint.Host), err, refusal(answer, redirectURI))
	}
	c.RedirectURI = redirectURI
	if c.Scope == "" {
		c.Scope = scope
	}
	return c, nil
}

func newRegistration(m *serverMetadata, redirectURI string) (*registration, error) {
	method, err := registrationAuthMethod(m.TokenEndpointAuthMethods)
	if err != nil {
		return nil, err
	}
	grants := []string{"authorization_code", "refresh_token"}
	// A strict server refuses a grant type that it has not; without the list
	// nobody knows, and the specification (2026-07-28, Refresh Tokens) wants
	// refresh_token there.
	if supported := m.GrantTypesSupported; len(supported) > 0 && !slices.Contains(supported, "refresh_token") {
		grants = grants[:1]
	}
	return &registration{
		ClientName:      "mcp-proxy",
		ClientURI:       projectPage,
		SoftwareID:      strings.TrimPrefix(projectPage, "https://"),
		ApplicationType: "native", // OpenID Connect Registration: "web", the default, forbids loopback
		RedirectURIs:    []string{redirectURI},
		GrantTypes:      grants,
		ResponseTypes:   []string{"code"},
		AuthMethod:      method,
	}, nil
}

// registrationAuthMethod takes an absent list for client_secret_basic, as
// RFC 8414, section 2 says.
func registrationAuthMethod(supported []string) (string, error) {
	if len(supported) == 0 {
		return "client_secret_basic", nil
	}
	for _, method := range authMethods {
		if slices.Contains(supported, method) {
			return method, nil
		}
	}
	return "", fmt.Errorf("the token endpoint wants %s, which mcp-proxy does not do", excerpt(strings.Join(supported, ", ")))
}

// postRegistration follows no redirect: a 307 would register us wherever it
// points to.
func (d *discoverer) postRegistration(ctx context.Context, endpoint string, request *registration) ([]byte, error) {
	body, err := json.Marshal(request)
	if err == nil {
		body, err = d.registerAs.over(body)
	}
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("not a URL")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	return d.exchange(ctx, req, func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse })
}

func registeredClient(body []byte, m *serverMetadata) (client, error) {
	var answer registered
	if decodeObject(body, &answer) != nil {
		return client{}, errors.New("the answer is not a JSON object of a registration")
	}
	// RFC 6749, appendix A: both are visible ASCII. Anything else has no place
	// in a header or a form.
	if answer.ClientID == "" || !isVisible(answer.ClientID) || !isVisible(answer.ClientSecret) {
		return client{}, errors.New("the answer has no valid client_id and client_secret")
	}
	if answer.AuthMethod != "" && !slices.Contains(authMethods, answer.AuthMethod) {
		return client{}, fmt.Errorf("the answer wants %s, which mcp-proxy does not do", excerpt(answer.AuthMethod))
	}
	c := client{ID: answer.ClientID, Secret: answer.ClientSecret, Source: "registered", AuthMethod: answer.AuthMethod}
	c.AuthMethod = authMethod(c, m.TokenEndpointAuthMethods)
	if scope, _ := answer.Scope.(string); len(scope) <= maxScope {
		c.Scope = unionScope(scope, "")
	}
	return c, nil
}

func isVisible(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// refusal reads what RFC 7591, section 3.2.2 lets a server say, at any status;
// other bodies, HTML above all, are nobody's business.
func refusal(body []byte, redirectURI string) string {
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if decodeObject(body, &answer) != nil || answer.Error == "" {
		return ""
	}
	text := ": " + excerpt(answer.Error)
	if answer.Description != "" {
		text += ": " + excerpt(answer.Description)
	}
	if answer.Error == "invalid_redirect_uri" {
		text += " (the redirect URI was " + redirectURI + ")"
	}
	return text
}

// authMethod chooses how c authenticates at a token endpoint with these
// token_endpoint_auth_methods_supported: client_secret_basic,
// client_secret_post or none. An absent list means client_secret_basic
// (RFC 8414, section 2), and so does one that leaves all three out: RFC 6749,
// section 2.3.1 obliges every server that gives secrets to take it.
func authMethod(c client, supported []string) string {
	switch {
	case c.Secret == "":
		return "none"
	case c.AuthMethod != "":
		return c.AuthMethod
	case slices.Contains(supported, "client_secret_basic"):
		return "client_secret_basic"
	case slices.Contains(supported, "client_secret_post"):
		return "client_secret_post"
	case slices.Contains(supported, "none"):
		return "none"
	}
	return "client_secret_basic"
}
