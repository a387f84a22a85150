package main

// The way from an answer 401 or 403 to a client at the authorization server: the grammar of
// WWW-Authenticate, protected resource metadata (RFC 9728), authorization server metadata (RFC 8414
// and OpenID Connect Discovery), scope and resource, and registration (RFC 7591). It does not know
// tokens, browsers or the store.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	fetchTimeout    = 10 * time.Second // for one document, redirects and body included
	postTimeout     = 30 * time.Second // for one request to an endpoint
	maxMetadataHops = 3                // redirects
	maxServers      = 8                // authorization servers tried of one protected resource
	maxScope        = 8 << 10          // bytes; a longer one is ignored
	offlineAccess   = "offline_access"
	httpToken       = "[!#$%&'*+.^_`|~0-9A-Za-z-]+" // RFC 9110, section 5.6.2
	serverDocument  = "authorization server metadata"
)

// challenge is what one Bearer challenge says. It also travels between processes.
type challenge struct {
	ResourceMetadata string `json:"resource_metadata,omitempty"`
	Scope            string `json:"scope,omitempty"`
	Error            string `json:"error,omitempty"`
}

type resourceMetadata struct {
	Resource             string   `json:"resource"`
	AuthorizationServers []string `json:"authorization_servers"`
	ScopesSupported      []string `json:"scopes_supported"`
}

type serverMetadata struct {
	Issuer                      string   `json:"issuer"`
	AuthorizationEndpoint       string   `json:"authorization_endpoint"`
	TokenEndpoint               string   `json:"token_endpoint"`
	RegistrationEndpoint        string   `json:"registration_endpoint"`
	RevocationEndpoint          string   `json:"revocation_endpoint"`
	DeviceAuthorizationEndpoint string   `json:"device_authorization_endpoint"`
	ScopesSupported             []string `json:"scopes_supported"`
	GrantTypesSupported         []string `json:"grant_types_supported"`
	TokenEndpointAuthMethods    []string `json:"token_endpoint_auth_methods_supported"`
	TokenEndpointSigningAlgs    []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	CodeChallengeMethods        []string `json:"code_challenge_methods_supported"`
	IssParameterSupported       bool     `json:"authorization_response_iss_parameter_supported"`
	ClientMetadataSupported     bool     `json:"client_id_metadata_document_supported"`

	defaulted bool   // no metadata anywhere: the default paths of 2025-03-26
	vouched   bool   // --auth-metadata: the user answers for the rules that it breaks
	source    string // where it was found
}

// authorization is what discovery found.
type authorization struct {
	resource string   // the RFC 8707 resource to send; empty: send none
	scopes   []string // of the protected resource metadata
	server   serverMetadata
}

type discoverer struct {
	*config
	http  *http.Client // knows no cookie and no token
	known string       // the issuer where we have a client, or empty
	log   *logger
}

// discover finds the authorization server of the MCP server that sent c. Each document is bounded
// in time and their number is bounded; ctx bounds the whole.
func (d *discoverer) discover(
	ctx context.Context, server *url.URL, c challenge,
) (*authorization, error) {
	prm, err := d.resourceMetadata(ctx, server, c)
	if err != nil {
		return nil, err
	}
	return d.serverFor(ctx, server, prm)
}

// serverFor finds the authorization server that prm names. Without prm (servers of 2025-03-26) it
// is the origin of the MCP server, with or without metadata (specification 2025-03-26,
// Authorization Base URL and Fallbacks for Servers without Metadata Discovery).
//
// Of several it is the one where we have a client, else the first (RFC 9728, section 7.6 leaves the
// choice to the client): a server that was out of order for a while must not cost a registration,
// nor make given credentials look like another server's.
func (d *discoverer) serverFor(
	ctx context.Context, server *url.URL, prm *resourceMetadata,
) (a *authorization, err error) {
	base, a := origin(server), &authorization{}
	issuers := []string{base}
	a.resource, _, _ = strings.Cut(server.String(), "?") // a query may be a key
	if prm != nil {
		issuers, a.resource, a.scopes = prm.AuthorizationServers, prm.Resource, prm.ScopesSupported
	}
	switch d.resource {
	case "":
	case resourceNone:
		a.resource = ""
	default:
		a.resource = d.resource
	}
	if m := d.authMetadata; m != nil {
		a.server = *m
		if m.source != "" {
			err = d.fetch(ctx, serverDocument, m.source, &a.server)
		}
		if err == nil {
			err = a.server.validate("", d.acceptsHTTP())
		}
		return a, err
	}
	if len(issuers) == 0 {
		err := errors.New("protected resource metadata names no authorization server")
		return nil, vouchHint(err, "")
	}
	i := slices.IndexFunc(issuers, func(issuer string) bool { return sameIssuer(d.known, issuer) })
	if i > 0 {
		issuers = slices.Insert(slices.Delete(slices.Clone(issuers), i, i+1), 0, issuers[i])
	}
	var failed error
	for _, issuer := range issuers[:min(len(issuers), maxServers)] {
		m, err := d.serverMetadata(ctx, issuer)
		if err == nil {
			a.server = *m
			return a, nil
		}
		d.log.debugf("%v", err)
		failed = alsoFailed(failed, err)
	}
	if prm != nil || !errors.Is(failed, errAbsent) {
		return nil, failed
	}
	a.server = serverMetadata{
		Issuer:                base,
		AuthorizationEndpoint: base + "/authorize",
		TokenEndpoint:         base + "/token",
		RegistrationEndpoint:  base + "/register",
		defaulted:             true,
	}
	return a, nil
}

// resourceMetadata returns nil without an error if the server has none. If a form failed otherwise
// than by a refusal (4xx), nobody knows what it would have said: going on could bring a
// registration, or given credentials, to a place that the server does not name.
func (d *discoverer) resourceMetadata(
	ctx context.Context, server *url.URL, c challenge,
) (*resourceMetadata, error) {
	const name = "protected resource metadata"
	var prm *resourceMetadata
	err := d.tryForms(name, server, c, d.resourceForms(server, c), func(form string) error {
		prm = &resourceMetadata{}
		err := d.fetch(ctx, name, form, prm)
		if err == nil && prm.Resource == "" && prm.AuthorizationServers == nil {
			err = fmt.Errorf("fetch %s: %s: the answer is none", name, excerpt(server.Host))
		}
		return err
	})
	switch {
	case err == nil:
		return prm, d.checkResource(prm.Resource, server)
	case errors.Is(err, errAbsent) || d.authMetadata != nil:
		return nil, nil
	}
	return nil, withHint(err, "if you know its authorization server: --auth-metadata URL, the "+
		"address of that server's metadata")
}

// tryForms tries the addresses that a document may have, all but that of c at the origin of base,
// until one will do. Its error is errAbsent if every server says so.
func (d *discoverer) tryForms(
	document string, base *url.URL, c challenge, forms []string, try func(form string) error,
) (failed error) {
	for _, form := range forms {
		err := try(form)
		if err == nil {
			return nil
		}
		d.log.debugf("%v", err)
		if !errors.Is(err, errAbsent) {
			failed = alsoFailed(failed, err)
		}
		if errors.As(err, new(noAnswer)) && form != c.ResourceMetadata {
			break // the other forms are of the same origin, and would only wait
		}
	}
	if failed == nil {
		failed = vouchHint(fmt.Errorf("%w: no %s at %s", errAbsent, document, origin(base)), "")
	}
	return failed
}

// resourceForms lists where the document may be: specification 2026-07-28, Protected Resource
// Metadata Discovery Requirements. The challenge may name any origin: what keeps a server from
// presenting another one's metadata, to be sent the other one's tokens, is the document's resource
// (RFC 9728, section 7.3), not its address. An address that is not https or no URL does not count:
// servers behind a TLS terminator name the one that they know.
func (d *discoverer) resourceForms(server *url.URL, c challenge) []string {
	// RFC 9728, section 3.1: inserted "between the host component and the path and/or query
	// components".
	root := origin(server) + "/.well-known/oauth-protected-resource"
	path := root + strings.TrimRight(server.EscapedPath(), "/")
	if server.RawQuery != "" {
		path += "?" + server.RawQuery
	}
	named, forms := c.ResourceMetadata, []string{path, root}
	if _, err := checkEndpoint(named, d.acceptsHTTP()); err == nil {
		others := slices.DeleteFunc(forms, func(form string) bool { return form == named })
		forms = append([]string{named}, others...)
	} else if named != "" {
		d.log.infof("resource_metadata in the challenge of %s %v: ignored", server.Host, err)
	}
	return slices.Compact(forms)
}

// checkResource compares the published resource with the server's URL (RFC 9728, section 3.3).
// Shorter paths are right as well: one resource may hold several MCP endpoints. A given --resource
// is the user's word.
func (d *discoverer) checkResource(resource string, server *url.URL) error {
	u, err := checkEndpoint(resource, d.acceptsHTTP())
	if d.resource != "" || err == nil && sameOrigin(u, server) &&
		isPathPrefix(u.EscapedPath(), server.EscapedPath()) {
		return nil
	}
	ours := origin(server) + server.EscapedPath()
	published, _, _ := strings.Cut(resource, "?")
	bad := fmt.Errorf("protected resource metadata is for %q, not for %q", excerpt(published), ours)
	if err != nil {
		published = ours // what is no URL is any text
	}
	return withHint(bad, "if that is right, name the resource to ask for: --resource %s",
		quoted(runtime.GOOS, published))
}

func isPathPrefix(prefix, path string) bool {
	return strings.HasPrefix(strings.TrimRight(path, "/")+"/", strings.TrimRight(prefix, "/")+"/")
}

// serverMetadata tries the forms for one issuer. All are of its origin and must carry its name, so
// an answer of no use leads on, too (single-page applications answer every path with HTML).
func (d *discoverer) serverMetadata(ctx context.Context, issuer string) (*serverMetadata, error) {
	u, err := checkEndpoint(issuer, d.acceptsHTTP())
	if err == nil && (u.RawQuery != "" || u.ForceQuery) {
		err = errors.New("has a query") // RFC 8414, section 2
	}
	if err != nil {
		return nil, vouchHint(fmt.Errorf("issuer of the authorization server %w", err), "")
	}
	var m *serverMetadata
	err = d.tryForms(serverDocument, u, challenge{}, serverForms(u), func(form string) error {
		m = &serverMetadata{source: form}
		if err := d.fetch(ctx, serverDocument, form, m); err != nil {
			return err
		}
		if err := m.validate(issuer, d.acceptsHTTP()); err != nil {
			return vouchHint(err, form)
		}
		return nil
	})
	return m, err
}

// serverForms is the table of the specification 2026-07-28, Authorization Server Metadata
// Discovery. RFC 8414, section 3.1: "any terminating "/" MUST be removed before inserting".
func serverForms(issuer *url.URL) []string {
	base, path := origin(issuer), strings.TrimRight(issuer.EscapedPath(), "/")
	return slices.Compact([]string{
		base + "/.well-known/oauth-authorization-server" + path,
		base + "/.well-known/openid-configuration" + path,
		base + path + "/.well-known/openid-configuration", // the same if there is no path
	})
}

// vouchHint adds what a user can do about an authorization server that breaks a rule of the
// specification; source is where its metadata was found, or empty.
func vouchHint(err error, source string) error {
	if source == "" {
		return withHint(err, "if you know its endpoints: --auth-metadata FILE, a JSON file with "+
			"authorization_endpoint and token_endpoint")
	}
	return withHint(err, "if you trust this authorization server as it is: --auth-metadata %s",
		quoted(runtime.GOOS, source))
}

// validate refuses a document whole if any part of it is wrong: an authorization server that is
// wrong about one thing has no claim to be trusted with the rest. One that the user vouches for may
// be of any issuer, or name none; its endpoints are checked like all others.
func (m *serverMetadata) validate(issuer string, allowHTTP bool) error {
	of := fmt.Sprintf(" of issuer %q", excerpt(issuer))
	if m.vouched {
		of = "" // the user knows which document
		if u, err := checkEndpoint(m.TokenEndpoint, allowHTTP); m.Issuer == "" && err == nil {
			m.Issuer = origin(u)
		}
	} else if !sameIssuer(m.Issuer, issuer) {
		// RFC 8414, section 3.3: "If these values are not identical, the data contained in the
		// response MUST NOT be used."
		err := fmt.Errorf("authorization server metadata is of issuer %q, not of %q",
			excerpt(m.Issuer), excerpt(issuer))
		return errorKind{err, "issuer_mismatch"}
	}
	// RFC 8414, section 2: authorization_endpoint "is REQUIRED unless no grant types are supported
	// that use the authorization endpoint"; without a list these are authorization_code and implicit.
	grants := m.GrantTypesSupported
	endpoints, required := [][2]string{
		{"token_endpoint", m.TokenEndpoint},
		{"authorization_endpoint", m.AuthorizationEndpoint},
		{"registration_endpoint", m.RegistrationEndpoint},
		{"revocation_endpoint", m.RevocationEndpoint},
		{"device_authorization_endpoint", m.DeviceAuthorizationEndpoint},
	}, 1 // the first
	if len(grants) == 0 || firstOf([]string{grantCode, "implicit"}, grants) != "" {
		required = 2
	}
	for i, endpoint := range endpoints {
		_, err := checkEndpoint(endpoint[1], allowHTTP)
		if err != nil && (i < required || endpoint[1] != "") {
			return fmt.Errorf("%s%s %w", endpoint[0], of, err)
		}
	}
	return nil
}

// sameIssuer compares plain strings, with one exception: an empty path and "/" are the same path.
// Resource servers of the MCP SDK for Python publish https://as/ for an authorization server
// https://as (pydantic adds the slash), and people leave it out of Auth0's issuers, which have it.
func sameIssuer(got, want string) bool {
	u, err := url.Parse(want)
	return got == want || err == nil && strings.Trim(u.Path, "/") == "" &&
		strings.TrimSuffix(got, "/") == strings.TrimSuffix(want, "/")
}

// checkPKCE is for callers about to make an authorization request. Specification 2026-07-28,
// Authorization Code Protection: without code_challenge_methods_supported "MCP clients MUST refuse
// to proceed". A server of 2025-03-26 without metadata cannot say it; PKCE is "REQUIRED for all
// clients" there (Implementation Requirements), and S256 is sent.
func (m *serverMetadata) checkPKCE() error {
	if m.defaulted || m.vouched || slices.Contains(m.CodeChallengeMethods, "S256") {
		return nil
	}
	err := fmt.Errorf("authorization server %q does not offer PKCE with S256: its metadata does not "+
		"list it in code_challenge_methods_supported", excerpt(m.Issuer))
	return vouchHint(err, m.source)
}

var errAbsent = errors.New("not found")

// fetch reads the JSON object at address into v.
func (d *discoverer) fetch(ctx context.Context, document, address string, v any) error {
	// The specification of 2025-03-26 (Server Metadata Discovery Headers) wants a version; the
	// message that met the 401 may have had none yet.
	header := http.Header{"Mcp-Protocol-Version": {"2025-11-25"}}
	later := []int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests}
	r := authRequest{name: "fetch " + document, address: address, header: header}
	return d.send(ctx, r, func(status int, body []byte) error {
		switch {
		case status >= 400 && status < 500 && !slices.Contains(later, status):
			return fmt.Errorf("%w (status %d)", errAbsent, status)
		case status != http.StatusOK && status != http.StatusCreated:
			return fmt.Errorf("status %d", status)
		case decodeObject(body, v) != nil:
			return errors.New("the answer is not JSON of the right form")
		}
		return nil
	})
}

// decodeObject does not ask for application/json: metadata often is a file on a static host, which
// calls it text/plain.
func decodeObject(body []byte, v any) error {
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return errors.New("not an object") // null would leave v as it was
	}
	return json.Unmarshal(body, v)
}

// authRequest is a request to an authorization server, or for metadata: without a body a GET, which
// follows redirects.
type authRequest struct {
	name, address string
	header        http.Header
	body          []byte
	secrets       []string // in it
}

// send hands what is answered to read. Errors begin with the name of the request and hold neither
// the query, nor what the server sent, nor one of the secrets.
func (d *discoverer) send(
	ctx context.Context, r authRequest, read func(status int, body []byte) error,
) error {
	u, err := checkEndpoint(r.address, d.acceptsHTTP())
	if err != nil {
		return fmt.Errorf("%s %w", r.name, err)
	}
	method, timeout, redirect := http.MethodPost, postTimeout, noRedirect
	if r.body == nil {
		method, timeout, redirect = http.MethodGet, fetchTimeout, d.checkRedirect
	}
	req, _ := http.NewRequest(method, "", bytes.NewReader(r.body)) // nothing can fail
	req.URL, req.Host, req.Header = u, u.Host, r.header
	req.Header["User-Agent"] = userAgent()
	status, answer, err := boundedRequest(ctx, d.http, req, timeout, redirect)
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	if err = read(status, answer); err == nil {
		return nil
	}
	refused := new(oauthError)
	errors.As(err, &refused)
	refused.hide(r.secrets)
	return fmt.Errorf("%s of %s: %w", r.name, excerpt(u.Host), err)
}

func (d *discoverer) checkRedirect(req *http.Request, via []*http.Request) error {
	req.Header.Del("Referer") // net/http puts the last URL there, and its query may be a secret
	if len(via) > maxMetadataHops {
		return errors.New("too many redirects")
	}
	if _, err := checkEndpoint(req.URL.String(), d.acceptsHTTP()); err != nil {
		return fmt.Errorf("the redirect's target %w", err)
	}
	if !sameOrigin(req.URL, via[0].URL) {
		return fmt.Errorf("the redirect's target is elsewhere, at %s", excerpt(req.URL.Host))
	}
	return nil
}

func alsoFailed(before, err error) error {
	if before == nil || strings.Contains(before.Error(), err.Error()) {
		return err
	}
	return fmt.Errorf("%w; %w", before, err)
}

// unionScope keeps the order of a, then of b, and each scope once.
func unionScope(a, b string) string { return withoutScope(a+" "+b, "") }

// withoutScope is scope without those of less, each once.
func withoutScope(scope, less string) string {
	gone := map[string]bool{}
	for _, s := range strings.Fields(less) {
		gone[s] = true
	}
	return strings.Join(slices.DeleteFunc(strings.Fields(scope), func(s string) bool {
		again := gone[s]
		gone[s] = true
		return again
	}), " ")
}

func hasScope(scope, one string) bool { return slices.Contains(strings.Fields(scope), one) }

// boundedScope ignores a scope that is too long to mean anything.
func boundedScope(scope, from string, log *logger) string {
	if len(scope) > maxScope {
		log.warnf("the scope %s is ignored: %d bytes, more than %d", from, len(scope), maxScope)
		return ""
	}
	return scope
}

// parseChallenge finds the Bearer challenge of all WWW-Authenticate lines: the first one that has
// resource_metadata, else the first one. If it has none, another scheme's counts (RFC 9728, section
// 5.1: Cloudflare Access has a scheme of its own). ok is also true if there is no challenge at all;
// it is false if the server only wants what we do not do: Basic, or the tokens of DPoP.
func parseChallenge(h http.Header) (c challenge, ok bool) {
	bearer, none := false, true
	elsewhere := ""
	for _, line := range h.Values("WWW-Authenticate") {
		for _, a := range parseChallengeLine(line) {
			metadata := a.params["resource_metadata"]
			none = false
			switch {
			case a.scheme != "bearer" && metadata != "" && (elsewhere == "" || a.scheme != "dpop"):
				elsewhere = metadata
				ok = ok || a.scheme != "dpop"
			case a.scheme == "bearer" && (!bearer || c.ResourceMetadata == "" && metadata != ""):
				c, bearer = challenge{metadata, a.params["scope"], a.params["error"]}, true
			}
		}
	}
	if ok = ok || bearer || none; ok && c.ResourceMetadata == "" {
		c.ResourceMetadata = elsewhere
	}
	return c, ok
}

// otherScheme is for a challenge that is not ok.
func otherScheme(host string, h http.Header) error {
	scheme, _, _ := strings.Cut(h.Get("WWW-Authenticate"), " ")
	return withHint(authErrorf("%s wants %s, which is not OAuth", host, excerpt(scheme)),
		"give it with -H 'Authorization: …'")
}

type authChallenge struct {
	scheme string            // lower case
	params map[string]string // names in lower case; the first of a name wins
}

// The grammar of RFC 9110, sections 5.6.2 to 5.6.4, 11.2 and 11.6.1:
//
//	challenge  = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
//	auth-param = token BWS "=" BWS ( token / quoted-string )
//
// Commas divide challenges as well as parameters: an element is a parameter, or a scheme with the
// token68 that may follow. Servers write URLs without quotes although these are no tokens, so an
// unquoted value ends only at white space or a comma.
var (
	authElement = onceNeeded("^[, \t]*(" + httpToken + ")(?:" +
		`([ \t]*=[ \t]*)(?:"((?:[^"\\]|\\.)*)"|([^ \t,"]+))[ \t]*(?:,|$)|` +
		`(?:[ \t]+[0-9A-Za-z._~+/-]+=*)?[ \t]*(?:,|$)|[ \t]+)`)
	quotedPair = onceNeeded(`\\(.)`)
)

// onceNeeded compiles an expression at its first use: nearly no start has any.
func onceNeeded(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// parseChallengeLine returns what it understood before the first thing that it does not understand.
func parseChallengeLine(line string) (all []authChallenge) {
	for {
		m := authElement().FindStringSubmatch(line)
		if m == nil || m[2] != "" && len(all) == 0 {
			return all
		}
		line = line[len(m[0]):]
		name := strings.ToLower(m[1])
		if m[2] == "" {
			all = append(all, authChallenge{name, map[string]string{}})
			continue
		}
		params := all[len(all)-1].params
		if _, double := params[name]; !double {
			params[name] = quotedPair().ReplaceAllString(m[3], "$1") + m[4]
		}
	}
}

// register makes a client at m's registration endpoint (RFC 7591) that is sent back to redirectURI
// and will ask for scope: servers of the MCP SDK for Python hold a client to it. Its AuthMethod is
// always set. A refusal is a lastingFailure.
func (d *discoverer) register(
	ctx context.Context, m *serverMetadata, redirectURI, scope string, moreGrants ...string,
) (c client, err error) {
	methods := m.TokenEndpointAuthMethods
	if len(methods) == 0 {
		methods = []string{methodBasic} // RFC 8414, section 2: the default
	}
	method := firstOf(authMethods, methods)
	grants := []string{grantCode}
	// A strict server refuses a grant type that it has not; without the list the specification
	// (2026-07-28, Refresh Tokens) wants refresh_token there.
	if all := m.GrantTypesSupported; len(all) == 0 || slices.Contains(all, grantRefresh) {
		grants = append(grants, grantRefresh)
	}
	// No client_uri: Keycloak wants one to be of a trusted host. No software_version: a client
	// outlives the version that registered it.
	request := map[string]any{
		"client_name":                "mcp-proxy",
		"software_id":                "github.com/smorand/mcp-proxy",
		"application_type":           "native", // "web", the default, forbids loopback (OpenID Connect)
		"grant_types":                append(grants, moreGrants...),
		"token_endpoint_auth_method": method,
	}
	if scope != "" {
		request["scope"] = scope
	}
	for name, value := range d.registerAs {
		request[name] = value
	}
	// The redirect is where we listen, and we understand no response of another type.
	request["redirect_uris"], request["response_types"] = []string{redirectURI}, []string{"code"}
	err = fmt.Errorf("the token endpoint wants %s, which mcp-proxy does not do",
		excerpt(strings.Join(methods, ", ")))
	if body, _ := json.Marshal(request); method != "" {
		header := http.Header{"Content-Type": {"application/json"}}
		r := authRequest{"registration endpoint", m.RegistrationEndpoint, header, body, nil}
		err = d.send(ctx, r, func(status int, body []byte) (err error) {
			c, err = registeredClient(status, body, m.TokenEndpointAuthMethods)
			return err
		})
	}
	switch {
	case err == nil:
		// Other redirect URIs in the answer are ignored: gateways send their own (LiteLLM's did).
		c.Source, c.RedirectURI = sourceRegistered, redirectURI
		if c.Scope == "" {
			c.Scope = scope
		}
		return c, nil
	case errors.As(err, new(noAnswer)):
		return client{}, err
	case refusedWith(err).code == "invalid_redirect_uri":
		err = fmt.Errorf("%w: the redirect URI was %s", err, redirectURI)
	}
	return client{}, withHint(lastingFailure{err},
		"give --client-id (register a client at %s by hand)", excerpt(m.Issuer))
}

// registeredClient reads an answer. client_secret_expires_at is ignored: the token endpoint says
// whether a secret is still good (invalid_client, then the client is registered anew), and our
// clock may be wrong.
func registeredClient(status int, body []byte, methods []string) (client, error) {
	var answer struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
		AuthMethod   string `json:"token_endpoint_auth_method"`
		Scope        string `json:"scope"`
	}
	err := readAnswer(status, body, &answer)
	c := client{ID: answer.ClientID, Secret: answer.ClientSecret, AuthMethod: answer.AuthMethod}
	// RFC 6749, appendix A: both are visible ASCII. Nothing else belongs in a header or a form.
	switch {
	case err != nil:
		return client{}, err
	case c.ID == "" || !isVisible(c.ID) || !isVisible(c.Secret):
		return client{}, errors.New("the answer has no valid client_id and client_secret")
	case c.AuthMethod != "" && !slices.Contains(authMethods, c.AuthMethod):
		return client{}, fmt.Errorf("the answer wants %s, which mcp-proxy does not do",
			excerpt(c.AuthMethod))
	}
	c.AuthMethod = authMethod(c, methods)
	if len(answer.Scope) <= maxScope {
		c.Scope = unionScope(answer.Scope, "")
	}
	return c, nil
}

// refusedRegistration reports whether err says that something in a registration is refused, and
// whether that may be the redirect URI.
func refusedRegistration(err error) (request, redirect bool) {
	e := refusedWith(err)
	text := strings.ToLower(e.Error())
	redirect = strings.Contains(text, "redirect")
	policy := redirect || strings.Contains(text, "scope") // Keycloak's
	return e.status == http.StatusBadRequest || e.status == http.StatusUnprocessableEntity ||
		e.status == http.StatusForbidden && policy, redirect
}
