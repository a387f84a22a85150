package main

// A client that shows who it is by a signature instead of a secret:
// private_key_jwt (RFC 7523, section 2.2). It knows keys and assertions, and
// not what token is asked for with them.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	methodPrivateKey = "private_key_jwt"
	assertionType    = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	assertionLife    = 2 * time.Minute // long enough for clocks that differ a little
	minRSABits       = 2048            // RFC 7518, section 3.3
)

// signingAlgorithm is one of RFC 7518, section 3.1, or of RFC 8037.
type signingAlgorithm struct {
	name string
	hash crypto.Hash
	pss  bool
}

var rsaAlgorithms = []signingAlgorithm{
	{"RS256", crypto.SHA256, false}, {"PS256", crypto.SHA256, true},
	{"RS384", crypto.SHA384, false}, {"PS384", crypto.SHA384, true},
	{"RS512", crypto.SHA512, false}, {"PS512", crypto.SHA512, true},
}

// algorithmsFor are those that a key can sign with, the most usual first.
func algorithmsFor(key crypto.Signer) []signingAlgorithm {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return []signingAlgorithm{{"ES256", crypto.SHA256, false}}
		case 384:
			return []signingAlgorithm{{"ES384", crypto.SHA384, false}}
		case 521:
			return []signingAlgorithm{{"ES512", crypto.SHA512, false}}
		}
	case *rsa.PrivateKey:
		if key.N.BitLen() >= minRSABits {
			return rsaAlgorithms
		}
	case ed25519.PrivateKey:
		return []signingAlgorithm{{"EdDSA", 0, false}, {"Ed25519", 0, false}} // RFC 8037, and its new name in RFC 9864
	}
	return nil
}

// parsePrivateKey takes the first private key of a PEM text. Its errors follow
// on the name of the file.
func parsePrivateKey(text []byte) (crypto.Signer, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, withHint(errors.New("holds no private key in PEM"), "it begins with -----BEGIN PRIVATE KEY-----")
		}
		text = rest
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, withHint(errors.New("is encrypted"), "openssl pkey -in FILE -out PLAIN, and keep that file to yourself")
		default:
			continue // a certificate, the parameters of a curve
		}
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok || algorithmsFor(signer) == nil {
			return nil, withHint(errors.New("holds no key that signs assertions"), "an RSA key of %d bits or more, an EC key on P-256, P-384 or P-521, or an Ed25519 key", minRSABits)
		}
		return signer, nil
	}
}

// chooseAlgorithm takes the first that the authorization server lists in
// token_endpoint_auth_signing_alg_values_supported; without a list nobody knows.
func chooseAlgorithm(key crypto.Signer, supported []string) (string, error) {
	var names []string
	for _, a := range algorithmsFor(key) {
		if len(supported) == 0 || slices.Contains(supported, a.name) {
			return a.name, nil
		}
		names = append(names, a.name)
	}
	return "", withHint(authErrorf("the authorization server takes assertions signed with %s, and the key of --private-key makes %s", excerpt(strings.Join(supported, ", ")), strings.Join(names, ", ")),
		"register a key of another kind there")
}

// asserted adds an assertion to a form. client_id stays away: the sub claim
// says it (MCP, OAuth Client Credentials Extension, "JWT Authentication Example").
func (o *oauth) asserted(c *credentials, form url.Values) (url.Values, error) {
	if o.cfg.privateKey == nil {
		return nil, authErrorf("%s authenticates with a private key, which is not kept here: add --client-id and --private-key", excerpt(c.Client.ID))
	}
	assertion, err := newAssertion(o.cfg.privateKey, c.Client.SigningAlg, c.Client.ID, c.Issuer, time.Now())
	if err != nil {
		return nil, fmt.Errorf("sign with --private-key: %w", err)
	}
	body := url.Values{"client_assertion_type": {assertionType}, "client_assertion": {assertion}}
	for name, values := range form {
		body[name] = values
	}
	return body, nil
}

// newAssertion is RFC 7523, section 3. The audience is the issuer and nothing
// else: an assertion made for a token endpoint could be used at another server
// that names the same endpoint (draft-ietf-oauth-rfc7523bis, section 4).
func newAssertion(key crypto.Signer, algorithm, clientID, issuer string, now time.Time) (string, error) {
	i := slices.IndexFunc(algorithmsFor(key), func(a signingAlgorithm) bool { return a.name == algorithm })
	if i < 0 {
		return "", fmt.Errorf("the key makes no %s", excerpt(algorithm))
	}
	header, err := json.Marshal(map[string]string{"alg": algorithm, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": clientID, "sub": clientID, "aud": issuer, "jti": newState(),
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	signature, err := sign(key, algorithmsFor(key)[i], []byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

func sign(key crypto.Signer, a signingAlgorithm, input []byte) ([]byte, error) {
	digest := input // Ed25519 signs the text itself
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(input)
		digest = h.Sum(nil)
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			return nil, err
		}
		// RFC 7518, section 3.4: two numbers of the curve's size, not ASN.1.
		size := (key.Curve.Params().BitSize + 7) / 8
		signature := make([]byte, 2*size)
		r.FillBytes(signature[:size])
		s.FillBytes(signature[size:])
		return signature, nil
	case *rsa.PrivateKey:
		if a.pss { // RFC 7518, section 3.5: the salt is as long as the hash
			return rsa.SignPSS(rand.Reader, key, a.hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
	}
	return key.Sign(rand.Reader, digest, a.hash)
}
