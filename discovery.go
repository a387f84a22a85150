package main

// This file knows the way from an answer 401 or 403 to the authorization
// server: the grammar of WWW-Authenticate, protected resource metadata
// (RFC 9728), authorization server metadata (RFC 8414 and OpenID Connect
// Discovery), and the scope and the resource that follow from them. It does
// not know clients, tokens, browsers or the store.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	fetchTimeout    = 10 * time.Second // for one document, redirects and body included
	maxDocument     = 1 << 20
	maxMetadataHops = 3       // redirects
	maxServers      = 8       // authorization servers tried of one protected resource
	maxScope        = 8 << 10 // bytes; a longer one is ignored

	// The specification of 2025-03-26 (Server Metadata Discovery Headers) wants
	// a version with metadata requests; the message that met the 401 may have
	// had none yet.
	metadataVersion = "2025-11-25"
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
	vouched   bool   // --auth-metadata: the user's word stands for the rules that it breaks
	source    string // where it was found
}

// authorization is what discovery found.
type authorization struct {
	resource string   // the RFC 8707 resource to send; empty: send none
	scopes   []string // of the protected resource metadata
	server   serverMetadata
}

type discoverer struct {
	http         *http.Client
	allowHTTP    bool
	resource     string       // --resource, or empty
	authMetadata authMetadata // --auth-metadata
	registerAs   registerAs
	known        string // the issuer where we have a client, or empty
	log          *logger
}

// authMetadata is what --auth-metadata names: a document, or the URL of one.
type authMetadata struct {
	url      string
	document *serverMetadata
}

func (a authMetadata) given() bool { return a != authMetadata{} }

// discover finds the authorization server of the MCP server that sent c. Each
// document is bounded in time and their number is bounded; ctx bounds the whole.
func (d *discoverer) discover(ctx context.Context, server *url.URL, c challenge) (*authorization, error) {
	prm, err := d.resourceMetadata(ctx, server, c)
	if err != nil {
		return nil, err
	}
	return d.serverFor(ctx, server, prm)
}

// serverFor finds the authorization server that prm names; nil: the MCP server has none.
func (d *discoverer) serverFor(ctx context.Context, server *url.URL, prm *resourceMetadata) (_ *authorization, err error) {
	var m *serverMetadata
	published := prm != nil
	if !published {
		bare := *server
		bare.Fragment, bare.RawFragment, bare.RawQuery, bare.ForceQuery = "", "", "", false
		prm = &resourceMetadata{Resource: bare.String()} // a query may be a key
	}
	switch {
	case d.authMetadata.given():
		m, err = d.vouchedFor(ctx)
	case published:
		m, err = d.firstServer(ctx, prm.AuthorizationServers)
	default:
		m, err = d.originServer(ctx, server)
	}
	if err != nil {
		return nil, err
	}
	a := &authorization{resource: prm.Resource, scopes: prm.ScopesSupported, server: *m}
	switch d.resource {
	case "":
	case resourceNone:
		a.resource = ""
	default:
		a.resource = d.resource
	}
	return a, nil
}

// resourceMetadata returns nil without an error where the server has none.
//
// Where no form has the document and one failed otherwise than by a refusal
// (4xx), nobody knows what it would have said, and going on would end at the MCP
// server's own origin: a registration, or given credentials, at a place that the
// server does not name.
func (d *discoverer) resourceMetadata(ctx context.Context, server *url.URL, c challenge) (*resourceMetadata, error) {
	var failed error
	for _, form := range d.resourceForms(server, c) {
		var prm resourceMetadata
		err := d.fetch(ctx, "protected resource metadata", form, &prm)
		if err == nil && prm.Resource == "" && prm.AuthorizationServers == nil {
			err = fmt.Errorf("fetch protected resource metadata: %s: the answer is none", excerpt(server.Host))
		}
		switch {
		case err == nil:
			return &prm, d.checkResource(prm.Resource, server)
		case isAbsent(err):
			d.log.debugf("%v", err)
			continue
		}
		failed = alsoFailed(failed, err)
		if errors.As(err, new(noAnswer)) && form != c.ResourceMetadata {
			break // the other forms are of the same host
		}
	}
	if failed == nil || d.authMetadata.given() {
		return nil, nil
	}
	return nil, withHint(failed, "if you know its authorization server: --auth-metadata URL, the address of that server's metadata")
}

// resourceForms lists where the document may be: specification 2026-07-28,
// Protected Resource Metadata Discovery Requirements. The challenge may name
// any origin: it came from the MCP server over TLS, and what keeps a server
// from presenting another one's metadata, to be sent the other one's tokens,
// is the document's resource (RFC 9728, section 7.3), not its address. An
// address that is not https or no URL does not count: servers behind a TLS
// terminator name the http address that they see themselves under.
func (d *discoverer) resourceForms(server *url.URL, c challenge) []string {
	root := origin(server) + "/.well-known/oauth-protected-resource"
	var forms []string
	if c.ResourceMetadata != "" {
		if _, err := checkEndpoint(c.ResourceMetadata, d.allowHTTP); err == nil {
			forms = append(forms, c.ResourceMetadata)
		} else {
			d.log.infof("resource_metadata in the challenge of %s %v: ignored", server.Host, err)
		}
	}
	// RFC 9728, section 3.1: inserted "between the host component and the path
	// and/or query components".
	path := root + strings.TrimRight(server.EscapedPath(), "/")
	if server.RawQuery != "" {
		path += "?" + server.RawQuery
	}
	for _, form := range []string{path, root} {
		if !slices.Contains(forms, form) {
			forms = append(forms, form)
		}
	}
	return forms
}

// checkResource holds the published resource against the server's URL
// (RFC 9728, section 3.3). Shorter paths are right as well: one resource may
// hold several MCP endpoints. A given --resource is the user's word.
func (d *discoverer) checkResource(resource string, server *url.URL) error {
	if d.resource != "" {
		return nil
	}
	u, err := checkEndpoint(resource, d.allowHTTP)
	if err == nil && sameOrigin(u, server) && isPathPrefix(u.EscapedPath(), server.EscapedPath()) {
		return nil
	}
	published, _, _ := strings.Cut(resource, "?")
	err = fmt.Errorf("protected resource metadata is for %q, not for %q", excerpt(published), origin(server)+server.EscapedPath())
	if u == nil {
		published = origin(server) + server.EscapedPath()
	}
	return withHint(err, "if that is right, name the resource to ask for: --resource %s", quoted(runtime.GOOS, published))
}

func isPathPrefix(prefix, path string) bool {
	prefix, path = strings.TrimRight(prefix, "/")+"/", strings.TrimRight(path, "/")+"/"
	return strings.HasPrefix(path, prefix)
}

// firstServer takes the server where we have a client, else the servers in the
// order of the list, so that every run comes to the same one: a server that was
// out of order for a while must not cost a registration, nor make given
// credentials look like another server's. RFC 9728, section 7.6 leaves the
// choice to the client.
func (d *discoverer) firstServer(ctx context.Context, issuers []string) (*serverMetadata, error) {
	if len(issuers) == 0 {
		return nil, withHint(errors.New("protected resource metadata names no authorization server"), "%s", vouchHint(""))
	}
	if i := slices.IndexFunc(issuers, func(issuer string) bool { return sameIssuer(d.known, issuer) }); i > 0 {
		issuers = slices.Insert(slices.Delete(slices.Clone(issuers), i, i+1), 0, issuers[i])
	}
	if len(issuers) > maxServers {
		issuers = issuers[:maxServers]
	}
	var failed error
	for _, issuer := range issuers {
		m, err := d.serverMetadata(ctx, issuer)
		if err == nil {
			return m, nil
		}
		d.log.debugf("%v", err)
		failed = alsoFailed(failed, err)
	}
	return nil, failed
}

// originServer is for servers of 2025-03-26: the origin of the MCP server is
// the authorization server, with or without metadata (specification
// 2025-03-26, Authorization Base URL and Fallbacks for Servers without
// Metadata Discovery).
func (d *discoverer) originServer(ctx context.Context, server *url.URL) (*serverMetadata, error) {
	base := origin(server)
	m, err := d.serverMetadata(ctx, base)
	if !errors.Is(err, errNoMetadata) {
		return m, err
	}
	d.log.debugf("%v: using /authorize, /token and /register there", err)
	return &serverMetadata{
		Issuer:                base,
		AuthorizationEndpoint: base + "/authorize",
		TokenEndpoint:         base + "/token",
		RegistrationEndpoint:  base + "/register",
		defaulted:             true,
	}, nil
}

// errNoMetadata says that every form was refused, so that the default paths
// of 2025-03-26 are right where they are allowed.
var errNoMetadata = errors.New("no authorization server metadata")

// serverMetadata tries the forms for one issuer. None is weaker than another,
// for all are of the issuer's origin and must carry its name: an answer that is
// of no use leads on, too (single-page applications answer every path with
// HTML). Where the host cannot be reached the others would only wait.
func (d *discoverer) serverMetadata(ctx context.Context, issuer string) (*serverMetadata, error) {
	u, err := checkEndpoint(issuer, d.allowHTTP)
	if err == nil && (u.RawQuery != "" || u.ForceQuery) {
		err = errors.New("has a query") // RFC 8414, section 2
	}
	if err != nil {
		return nil, withHint(fmt.Errorf("issuer of the authorization server %w", err), "%s", vouchHint(""))
	}
	var failed error
	absent := true
	for _, form := range serverForms(u) {
		m := &serverMetadata{}
		err := d.fetch(ctx, "authorization server metadata", form, m)
		if err == nil {
			err = m.validate(issuer, d.allowHTTP)
			if err != nil {
				err = withHint(err, "%s", vouchHint(form))
			}
		}
		if err == nil {
			m.source = form
			return m, nil
		}
		absent = absent && isAbsent(err)
		failed = alsoFailed(failed, err)
		if errors.As(err, new(noAnswer)) {
			break
		}
	}
	if absent {
		return nil, withHint(fmt.Errorf("%w at %s", errNoMetadata, excerpt(u.Host)), "%s", vouchHint(""))
	}
	return nil, failed
}

// serverForms is the table of the specification 2026-07-28, Authorization
// Server Metadata Discovery. RFC 8414, section 3.1: "any terminating "/" MUST
// be removed before inserting".
func serverForms(issuer *url.URL) []string {
	base, path := origin(issuer), strings.TrimRight(issuer.EscapedPath(), "/")
	forms := []string{
		base + "/.well-known/oauth-authorization-server" + path,
		base + "/.well-known/openid-configuration" + path,
	}
	if path != "" {
		forms = append(forms, base+path+"/.well-known/openid-configuration")
	}
	return forms
}

// vouchHint is what a user can do about an authorization server that breaks a
// rule of the specification; source is where its metadata was found, or empty.
func vouchHint(source string) string {
	if source == "" {
		return "if you know its endpoints: --auth-metadata FILE, a JSON file with authorization_endpoint and token_endpoint"
	}
	return "if you trust this authorization server as it is: --auth-metadata " + quoted(runtime.GOOS, source)
}

// vouchedFor is the metadata that the user gave. It may break the rules of the
// specification about issuer and PKCE; its endpoints are checked like all others.
func (d *discoverer) vouchedFor(ctx context.Context) (*serverMetadata, error) {
	m := d.authMetadata.document
	if m == nil {
		m = &serverMetadata{}
		if err := d.fetch(ctx, "authorization server metadata", d.authMetadata.url, m); err != nil {
			return nil, err
		}
	}
	return m, m.vouch(d.allowHTTP)
}

func (m *serverMetadata) vouch(allowHTTP bool) error {
	m.vouched = true
	if u, err := checkEndpoint(m.TokenEndpoint, allowHTTP); m.Issuer == "" && err == nil {
		m.Issuer = origin(u)
	}
	return m.validate(m.Issuer, allowHTTP)
}

// validate refuses a document whole when any part of it is wrong: an
// authorization server that is wrong about one thing has no claim to be
// trusted with the rest.
func (m *serverMetadata) validate(issuer string, allowHTTP bool) error {
	// RFC 8414, section 3.3: "If these values are not identical, the data
	// contained in the response MUST NOT be used."
	if !sameIssuer(m.Issuer, issuer) {
		return fmt.Errorf("authorization server metadata is of issuer %q, not of %q", excerpt(m.Issuer), excerpt(issuer))
	}
	for _, endpoint := range []struct {
		name, url string
		required  bool
	}{
		{"authorization_endpoint", m.AuthorizationEndpoint, m.needsAuthorizationEndpoint()},
		{"token_endpoint", m.TokenEndpoint, true},
		{"registration_endpoint", m.RegistrationEndpoint, false},
		{"revocation_endpoint", m.RevocationEndpoint, false},
		{"device_authorization_endpoint", m.DeviceAuthorizationEndpoint, false},
	} {
		if endpoint.url == "" && !endpoint.required {
			continue
		}
		if _, err := checkEndpoint(endpoint.url, allowHTTP); err != nil {
			return fmt.Errorf("%s of issuer %q %w", endpoint.name, excerpt(issuer), err)
		}
	}
	return nil
}

// needsAuthorizationEndpoint: "This is REQUIRED unless no grant types are
// supported that use the authorization endpoint"; without a list the grant
// types are authorization_code and implicit (RFC 8414, section 2).
func (m *serverMetadata) needsAuthorizationEndpoint() bool {
	grants := m.GrantTypesSupported
	return len(grants) == 0 || slices.Contains(grants, grantCode) || slices.Contains(grants, "implicit")
}

// sameIssuer compares plain strings, with one exception: an empty path and "/"
// are the same path. Resource servers of the MCP SDK for Python publish
// https://as/ for an authorization server https://as (pydantic adds the slash),
// and people leave it out of Auth0's issuers, which have it.
func sameIssuer(got, want string) bool {
	if got == want {
		return true
	}
	u, err := url.Parse(want)
	return err == nil && strings.Trim(u.Path, "/") == "" &&
		strings.TrimSuffix(got, "/") == strings.TrimSuffix(want, "/")
}

// checkPKCE is for callers about to make an authorization request.
// Specification 2026-07-28, Authorization Code Protection: without
// code_challenge_methods_supported "MCP clients MUST refuse to proceed". A
// server of 2025-03-26 without metadata cannot say it; PKCE is "REQUIRED for
// all clients" there (Implementation Requirements), and S256 is sent.
func (m *serverMetadata) checkPKCE() error {
	if m.defaulted || m.vouched || slices.Contains(m.CodeChallengeMethods, "S256") {
		return nil
	}
	return withHint(fmt.Errorf("authorization server %q does not offer PKCE with S256: its metadata does not list it in code_challenge_methods_supported", excerpt(m.Issuer)),
		"%s", vouchHint(m.source))
}

// checkEndpoint accepts an absolute https URL, or http on a loopback host with
// allowHTTP, of characters that RFC 3986 allows, without user info and
// fragment. Its errors follow on a name of the URL ("token_endpoint is …") and
// hold nothing of it.
func checkEndpoint(raw string, allowHTTP bool) (*url.URL, error) {
	if raw == "" {
		return nil, errors.New("is missing")
	}
	if strings.IndexFunc(raw, notInURL) >= 0 {
		return nil, errors.New("has characters that no URL has")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("is not a URL")
	case u.Scheme != "https" && !(allowHTTP && u.Scheme == "http" && isLoopback(u.Hostname())):
		return nil, errors.New("is not https")
	case u.Hostname() == "":
		return nil, errors.New("has no host")
	case strings.IndexFunc(u.Host, notInHost) >= 0:
		return nil, errors.New("has characters that no host name has")
	case !isAddress(u):
		return nil, errors.New("has a host that is no name and no address, or a port that cannot be")
	case u.User != nil:
		return nil, errors.New("has user info")
	case strings.Contains(raw, "#"):
		return nil, errors.New("has a fragment")
	}
	return u, nil
}

func notInURL(r rune) bool {
	return !isAlphanumeric(r) && !strings.ContainsRune("-._~:/?#[]@!$&'()*+,;=%", r)
}

// notInHost allows names of the DNS and addresses with a port. net/url lets
// $( ) and & through, and control characters that were percent-encoded.
func notInHost(r rune) bool { return !isAlphanumeric(r) && !strings.ContainsRune("-._:[]", r) }

// isAddress wants a name or an address, and a port that there can be (RFC 3986,
// section 3.2). net/url takes "a::", whose host would be "a:".
func isAddress(u *url.URL) bool {
	if port := u.Port(); port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
	}
	if strings.HasPrefix(u.Host, "[") {
		ip, err := netip.ParseAddr(u.Hostname())
		return err == nil && ip.Is6()
	}
	return u.Hostname() != "" && !strings.ContainsAny(u.Hostname(), ":[]")
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// origin is in the canonical form: lower case, no default port.
func origin(u *url.URL) string {
	scheme := strings.ToLower(u.Scheme)
	host := strings.TrimSuffix(strings.ToLower(u.Host), map[string]string{"https": ":443", "http": ":80"}[scheme])
	return scheme + "://" + strings.TrimSuffix(host, ":")
}

// fetch reads the JSON object at address into v. Its errors name the
// document and the host, never the query or what the server sent.
func (d *discoverer) fetch(ctx context.Context, document, address string, v any) error {
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("fetch %s: not a URL", document)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("MCP-Protocol-Version", metadataVersion)
	body, err := d.exchange(ctx, req, redirectPolicy(d.allowHTTP))
	if err == nil && decodeObject(body, v) != nil {
		err = fmt.Errorf("%s: the answer is not JSON of the right form", excerpt(req.URL.Host))
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", document, err)
	}
	return nil
}

// exchange sends one request and returns the body of its answer, both bounded;
// a status that is not a success comes as a statusError, with the body. It
// carries no cookie of the MCP server's and follows only what redirect allows.
func (d *discoverer) exchange(ctx context.Context, req *http.Request, redirect func(*http.Request, []*http.Request) error) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	host := excerpt(req.URL.Host)
	c := *d.http
	c.CheckRedirect, c.Jar = redirect, nil
	res, err := c.Do(req.WithContext(ctx))
	if err != nil {
		return nil, noAnswer{networkError(host, err), err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	if err == nil {
		err = ctx.Err() // a server that sees us hang up may end its answer as if it were whole
	}
	switch {
	case err != nil:
		return nil, noAnswer{networkError(host, err), err}
	case len(body) > maxDocument:
		return nil, fmt.Errorf("%s: the answer is larger than 1 MiB", host)
	case res.StatusCode != http.StatusOK && res.StatusCode != http.StatusCreated:
		return body, statusError{host, res.StatusCode}
	}
	return body, nil
}

// decodeObject does not ask for application/json: metadata often is a file on
// a static host, which calls it text/plain.
func decodeObject(body []byte, v any) error {
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return errors.New("not an object") // null would leave v as it was
	}
	return json.Unmarshal(body, v)
}

// redirectPolicy is the CheckRedirect of every client that fetches metadata.
func redirectPolicy(allowHTTP bool) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		// net/http puts the last URL there, and its query may be a secret.
		req.Header.Del("Referer")
		if len(via) > maxMetadataHops {
			return errors.New("too many redirects")
		}
		if _, err := checkEndpoint(req.URL.String(), allowHTTP); err != nil {
			return fmt.Errorf("the redirect's target %w", err)
		}
		if !sameOrigin(req.URL, via[0].URL) {
			return fmt.Errorf("the redirect's target is elsewhere, at %s", excerpt(req.URL.Host))
		}
		return nil
	}
}

// statusError is an answer that is no success.
type statusError struct {
	host   string
	status int
}

func (s statusError) Error() string { return fmt.Sprintf("%s: status %d", s.host, s.status) }

// isAbsent tells whether err says that the document is not there. 408, 425 and
// 429 ask for another time, not for another place.
func isAbsent(err error) bool {
	var s statusError
	return errors.As(err, &s) && s.status >= 400 && s.status < 500 && s.status != http.StatusRequestTimeout &&
		s.status != http.StatusTooEarly && s.status != http.StatusTooManyRequests
}

// noAnswer is an exchange that failed on the network: the text is
// networkError's, which leaves the URL out, the cause is for errors.Is.
type noAnswer struct{ text, cause error }

func (n noAnswer) Error() string   { return n.text.Error() }
func (n noAnswer) Unwrap() []error { return []error{n.text, n.cause} }

func alsoFailed(before, err error) error {
	if before == nil || strings.Contains(before.Error(), err.Error()) {
		return err
	}
	return fmt.Errorf("%w; %w", before, err)
}

// selectScope follows the Scope Selection Strategy of the specification; an
// empty result means no scope parameter. What the user gave is not added to.
// offline_access alone would replace the server's default scopes, so it only
// joins others.
func selectScope(given string, c challenge, published string, m *serverMetadata) string {
	if given != "" {
		return given
	}
	scope := unionScope(c.Scope, "")
	if scope == "" {
		scope = unionScope(published, "")
	}
	if scope != "" && slices.Contains(m.ScopesSupported, offlineAccess) {
		scope = unionScope(scope, offlineAccess)
	}
	return scope
}

// unionScope keeps the order of a, then of b, and each scope once.
func unionScope(a, b string) string {
	seen := map[string]bool{}
	return strings.Join(slices.DeleteFunc(strings.Fields(a+" "+b), func(scope string) bool {
		again := seen[scope]
		seen[scope] = true
		return again
	}), " ")
}

// boundedScope ignores a scope that is too long to mean anything.
func boundedScope(scope, from string, log *logger) string {
	if len(scope) > maxScope {
		log.warnf("the scope %s is ignored: it has %d bytes, more than %d", from, len(scope), maxScope)
		return ""
	}
	return scope
}

const offlineAccess = "offline_access"

func hasScope(scope, one string) bool { return slices.Contains(strings.Fields(scope), one) }

// withoutScope is scope without those of less.
func withoutScope(scope, less string) string {
	gone := map[string]bool{}
	for _, s := range strings.Fields(less) {
		gone[s] = true
	}
	return strings.Join(slices.DeleteFunc(strings.Fields(scope), func(s string) bool { return gone[s] }), " ")
}

// parseChallenge finds the Bearer challenge of all WWW-Authenticate lines: the
// first one that has resource_metadata, else the first one. Where it has none,
// another scheme's counts (RFC 9728, section 5.1: Cloudflare Access has a scheme
// of its own). ok is also true where there is no challenge at all; it is false
// where the server only wants what we do not do: Basic, or DPoP, which is a kind
// of token that we do not make.
func parseChallenge(h http.Header) (c challenge, ok bool) {
	bearer, none := false, true
	elsewhere := ""
	for _, line := range h.Values("WWW-Authenticate") {
		for _, a := range parseChallengeLine(line) {
			metadata := a.params["resource_metadata"]
			none = false
			switch {
			case a.scheme != "bearer" && (elsewhere == "" || a.scheme != "dpop"):
				elsewhere = metadata
				ok = ok || metadata != "" && a.scheme != "dpop"
			case a.scheme == "bearer" && (!bearer || c.ResourceMetadata == "" && metadata != ""):
				c, bearer = challenge{metadata, a.params["scope"], a.params["error"]}, true
			}
		}
	}
	ok = ok || bearer || none
	if ok && c.ResourceMetadata == "" {
		c.ResourceMetadata = elsewhere
	}
	return c, ok
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
// Servers write URLs without quotes although these are no tokens, so an
// unquoted value ends only at white space or a comma.
const authToken = "([!#$%&'*+.^_`|~0-9A-Za-z-]+)"

var (
	authParam  = onceNeeded(`^` + authToken + `[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t,"]+))[ \t]*(?:,|$)`)
	authScheme = onceNeeded(`^` + authToken + `(?:[ \t]+[^= \t]|[ \t]*(?:,|$))`)
	token68    = onceNeeded(`^[0-9A-Za-z._~+/-]+=*[ \t]*(?:,|$)`)
	quotedPair = onceNeeded(`\\(.)`)
)

// onceNeeded compiles an expression at its first use: nearly no start has any.
func onceNeeded(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// parseChallengeLine returns what it understood before the first thing that it
// does not understand. Commas divide challenges as well as parameters; only
// "=" after a name tells a parameter from a scheme.
func parseChallengeLine(line string) (all []authChallenge) {
	for {
		line = strings.TrimLeft(line, ", \t")
		if m := authParam().FindStringSubmatch(line); m != nil && len(all) > 0 {
			line = line[len(m[0]):]
			params, name := all[len(all)-1].params, strings.ToLower(m[1])
			if _, double := params[name]; !double {
				params[name] = quotedPair().ReplaceAllString(m[2], "$1") + m[3]
			}
		} else if m := authScheme().FindStringSubmatch(line); m != nil {
			line = strings.TrimLeft(line[len(m[1]):], " \t")
			line = line[len(token68().FindString(line)):]
			all = append(all, authChallenge{strings.ToLower(m[1]), map[string]string{}})
		} else {
			return all
		}
	}
}
