package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

func TestChallengeS256(t *testing.T) {
	// RFC 7636, appendix B.
	got := challengeS256("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
	if want := "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestVerifierAndStateAreRandom(t *testing.T) {
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	seen := map[string]bool{}
	for i := 0; i < 100; i++ {
		for _, s := range []string{newVerifier(), newState()} {
			if !form.MatchString(s) {
				t.Fatalf("got %q, want 43 characters of base64url", s)
			}
			if seen[s] {
				t.Fatalf("%q came twice", s)
			}
			seen[s] = true
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

// A process of its own, because newer versions of Go end the whole process.
func TestBrokenRandomnessEndsTheProcess(t *testing.T) {
	if os.Getenv("PKCE_BROKEN_RANDOMNESS") == "1" {
		rand.Reader = brokenReader{}
		fmt.Printf("verifier %s\n", newVerifier())
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestBrokenRandomnessEndsTheProcess$")
	cmd.Env = append(os.Environ(), "PKCE_BROKEN_RANDOMNESS=1")
	out, err := cmd.CombinedOutput()
	if err == nil || strings.Contains(string(out), "verifier ") {
		t.Errorf("a verifier was made without randomness (%v)", err)
	}
}
