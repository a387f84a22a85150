package main

// What doctor finds, with the exit code for it; commands_test.go has whole transcripts.

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever doctor finds, it leaves everything as it was.
func TestDoctorFindsAndChangesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		exit    int
		says    []string
		prepare func(u *testUser, s *fakeMCP) (args []string)
	}{
		"no PKCE": {2, []string{"FAIL  PKCE", "rule: code_challenge_methods_supported", "hint: if you trust", "--auth-metadata https://"}, func(_ *testUser, s *fakeMCP) []string {
			s.auth.metadata = func(doc map[string]any) { delete(doc, "code_challenge_methods_supported") }
			return nil
		}},
		"other resource": {2, []string{"FAIL  resource metadata", "(RFC 9728, section 3.3)", "--resource"}, func(_ *testUser, s *fakeMCP) []string {
			s.prm = func(doc map[string]any) { doc["resource"] = "https://other.example/mcp" }
			return nil
		}},
		"other issuer": {2, []string{"FAIL  server metadata", "of issuer", "(RFC 8414, section 3)", "--auth-metadata https://"}, func(_ *testUser, s *fakeMCP) []string {
			s.auth.metadata = func(doc map[string]any) { doc["issuer"] = "https://other.example" }
			return nil
		}},
		"no metadata": {2, []string{"FAIL  server metadata", "(RFC 8414, section 3)", "hint: if you know its endpoints: --auth-metadata FILE"}, func(_ *testUser, s *fakeMCP) []string {
			s.auth.on("metadata", answerStatus(http.StatusNotFound))
			return nil
		}},
		"metadata vouched for": {0, []string{"ok    server metadata", "as --auth-metadata says", "-     PKCE"}, func(u *testUser, s *fakeMCP) []string {
			s.auth.on("metadata", answerStatus(http.StatusNotFound))
			file := filepath.Join(u.dir, "as.json")
			fatal(u.t, os.WriteFile(file, []byte(fmt.Sprintf(`{"authorization_endpoint":%q,"token_endpoint":%q}`,
				s.auth.base+"/authorize", s.auth.base+"/token")), 0o600))
			return []string{"-i", "my-client", "--auth-metadata", file}
		}},
		"shorter resource": {0, []string{"-     resource            a token is good for everything at https://"}, func(_ *testUser, s *fakeMCP) []string {
			s.prm = func(doc map[string]any) { doc["resource"] = s.base }
			return nil
		}},
		"other scheme": {2, []string{"FAIL  challenge", "Negotiate", "-H 'Authorization"}, func(_ *testUser, s *fakeMCP) []string {
			s.challenge = func(string) string { return "Negotiate" }
			return nil
		}},
		"bare 401": {0, []string{"-     challenge", "ok    resource metadata", "ok    client"}, func(_ *testUser, s *fakeMCP) []string {
			s.challenge = func(string) string { return "" }
			return nil
		}},
		"wrong path": {1, []string{"FAIL  first answer", "404 Not Found", "/mcp", "\nfirst thing to do: there is no MCP server"}, func(_ *testUser, s *fakeMCP) []string {
			return []string{"-u", s.base + "/other"}
		}},
		"forbidden": {2, []string{"FAIL  first answer", "403 Forbidden", "-H"}, func(_ *testUser, s *fakeMCP) []string {
			s.on("ping", answerStatus(http.StatusForbidden))
			return nil
		}},
		"in trouble": {3, []string{"FAIL  first answer", "503"}, func(_ *testUser, s *fakeMCP) []string {
			s.on("ping", answerStatus(http.StatusServiceUnavailable))
			return nil
		}},
		"moved": {5, []string{"FAIL  first answer", "https://new.example", "--url"}, func(_ *testUser, s *fakeMCP) []string {
			s.on("ping", func(w http.ResponseWriter, _ *fakeRequest) bool {
				w.Header().Set("Location", "https://new.example/mcp?secret=1")
				w.WriteHeader(http.StatusMovedPermanently)
				return true
			})
			return nil
		}},
		"refused token": {2, []string{"ok    cached token", "FAIL  initialize", "mcp-proxy login"}, func(u *testUser, s *fakeMCP) []string {
			u.remember(s)
			s.auth.expireAccess()
			return nil
		}},
		"damaged file": {4, []string{"FAIL  cached token", "damaged"}, func(u *testUser, s *fakeMCP) []string {
			fatal(u.t, os.MkdirAll(u.cache, 0o700))
			fatal(u.t, os.WriteFile(u.credentialsFile(s.url), []byte("{"), 0o600))
			return nil
		}},
		"given client": {0, []string{"ok    client", "my-client, as given", "ok    callback", "/oauth2callback"}, func(_ *testUser, s *fakeMCP) []string {
			return []string{"-i", "my-client"}
		}},
		"own header": {2, []string{"FAIL  first answer", "--header is refused", "OAuth is off"}, func(_ *testUser, s *fakeMCP) []string {
			return []string{"-H", "Authorization: Bearer nonsense"}
		}},
		"sign-in that failed": {0, []string{"-     last sign-in", "minutes ago: access_denied", "first thing to do: ask for access"}, func(u *testUser, s *fakeMCP) []string {
			fatal(u.t, os.MkdirAll(u.cache, 0o700))
			note := fmt.Sprintf(`{"entry":%q,"ended":%q,"error":"access_denied","hint":"ask for access"}`,
				storeKey{Server: s.url}.hash(), time.Now().Add(-5*time.Minute).Format(time.RFC3339))
			fatal(u.t, os.WriteFile(strings.TrimSuffix(u.credentialsFile(s.url), "json")+"login", []byte(note), 0o600))
			return nil
		}},
		"refused ping": {0, []string{"ok    first answer", "400 Bad Request", "as it may", "\nall good\n"}, func(_ *testUser, s *fakeMCP) []string {
			s.auth, s.lenient = nil, true
			s.on("ping", refusePing)
			return nil
		}},
		"refused initialize": {5, []string{"FAIL  initialize", "refuses it: out of order", "\nfirst thing to do: ask who runs 127.0.0.1"}, func(_ *testUser, s *fakeMCP) []string {
			s.auth, s.lenient = nil, true
			for _, method := range []string{"initialize", "server/discover"} {
				s.on(method, func(w http.ResponseWriter, r *fakeRequest) bool {
					io.WriteString(w, r.msg.failure(-32603, "out of order"))
					return true
				})
			}
			return nil
		}},
		"no authorization": {0, []string{"-     challenge", "none", "ok    initialize", "\nall good\n"}, func(_ *testUser, s *fakeMCP) []string {
			s.auth, s.lenient = nil, true
			return nil
		}},
		"modern": {0, []string{"ok    initialize", "Modern 7 speaks revision 2026-07-28"}, func(_ *testUser, s *fakeMCP) []string {
			s.auth, s.lenient, s.sessions = nil, true, false
			s.on("initialize", func(w http.ResponseWriter, r *fakeRequest) bool {
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, r.msg.failure(-32022, "Unsupported"))
				return true
			})
			s.on("server/discover", func(w http.ResponseWriter, r *fakeRequest) bool {
				stream := startEvents(w)
				stream.send("data: " + r.msg.result(`{"supportedVersions":["2026-07-28"],"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"Modern","version":"7"}}}`))
				return true
			})
			return nil
		}},
		"legacy": {0, []string{"ok    first answer", "a server of revision 2024-11-05", "ok    initialize"}, func(_ *testUser, s *fakeMCP) []string {
			s.auth, s.lenient, s.sessions, s.listens = nil, true, false, true
			s.on("ping", answerStatus(http.StatusMethodNotAllowed))
			return nil
		}},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth)
			args := append([]string{"doctor"}, test.prepare(user, server)...)
			for _, o := range []*fakeOrigin{server.fakeOrigin, auth.fakeOrigin} {
				o.change(func() {}) // the handlers see what was prepared
			}
			if !slices.Contains(args, "-u") {
				args = append(args, "-u", server.url)
			}
			before := contents(t, user.cache)
			stdout, stderr, exit := user.run(args...)
			for _, want := range test.says {
				if !strings.Contains(stdout, want) {
					t.Errorf("got no %q", want)
				}
			}
			if exit != test.exit || stderr != "" {
				t.Errorf("got exit code %d, stderr %q, want %d and nothing", exit, stderr, test.exit)
			}
			if after := contents(t, user.cache); !maps.Equal(before, after) {
				t.Errorf("the cache: got %v, want %v", after, before)
			}
			for _, label := range auth.labels() {
				if label != "metadata" && label != "no metadata" {
					t.Errorf("the authorization server was asked for %s", label)
				}
			}
			if len(user.openings()) != 0 {
				t.Error("a browser was opened")
			}
			server.change(func() {
				if len(server.live) != 0 {
					t.Errorf("%d sessions are left open", len(server.live))
				}
			})
			if t.Failed() {
				t.Logf("%s", stdout)
			}
		})
	}
}

// contents reads a directory: names and what is in the files.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	fatal(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		fatal(t, err)
		all[file] = string(data)
	}
	return all
}
