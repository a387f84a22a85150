package main

// The random values of an authorization request: the code verifier and its S256 challenge (RFC
// 7636), and the state. It does not know the request that they are part of.

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// newVerifier follows RFC 7636, section 7.1: "it is RECOMMENDED that the output of a suitable
// random number generator be used to create a 32-octet sequence", which base64url makes the 43
// characters that are the least a code_verifier may have (section 4.1). It panics where the system
// has no randomness: going on with a value that somebody can guess would be worse than ending.
func newVerifier() string {
	var octets [32]byte
	if _, err := rand.Read(octets[:]); err != nil {
		panic("no randomness from the system: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(octets[:])
}

// newState is as hard to guess as a verifier. RFC 6749, section 10.10: the probability of guessing
// it must be at most 2^-128.
func newState() string { return newVerifier() }

// challengeS256 follows RFC 7636, section 4.2:
// code_challenge = BASE64URL-ENCODE(SHA256(ASCII(code_verifier))).
func challengeS256(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
