package main

// The machine of a user for the tests: a home, a cache, a browser, an
// environment that has nothing of the developer's own, and nothing in it that
// may hold a secret but the credentials file.

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// testFixture is what all tests of a run share.
type testFixture struct {
	binary  string // this one: the program, the browser, a helper, as the role says
	browser string // the same under its other name
	pki     *fakePKI
}

// testShared makes it for the first test that needs it, in testSharedDir,
// which TestMain removes.
var (
	testShared    = sync.OnceValue(newTestFixture)
	testSharedDir string
)

func newTestFixture() *testFixture {
	dir, err := os.MkdirTemp("", "mcp-proxy-tests-")
	must(err)
	testSharedDir = dir
	f := &testFixture{browser: filepath.Join(dir, "browser.exe")} // the ending is for Windows
	f.binary, err = os.Executable()
	must(err)
	if os.Link(f.binary, f.browser) != nil { // another disk; Windows may forbid what follows
		must(os.Symlink(f.binary, f.browser))
	}
	must(os.Mkdir(filepath.Join(dir, "ca"), 0o700))
	f.pki, err = newFakePKI(filepath.Join(dir, "ca"))
	must(err)
	return f
}

// must is for what goes wrong only where no test can run.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// testKeeper knows secrets.
type testKeeper interface{ secrets() []string }

// testUser is somebody's machine. Fields are changed before start.
type testUser struct {
	t       testing.TB
	cache   string
	browser string            // consent | deny | ignore
	env     map[string]string // beside the usual; "" removes
	binary  string            // "": the test binary in the program's role
	prepare func(*exec.Cmd)   // changes how start starts a process
	keepers []testKeeper
	dir     string
	started []*testProxy
}

// newUser sets up a machine where the secrets of keepers must not show up.
func newUser(t testing.TB, keepers ...testKeeper) *testUser {
	t.Helper()
	u := &testUser{t: t, browser: "consent", env: map[string]string{}, keepers: keepers}
	dir, err := os.MkdirTemp("", "mcp-proxy-test-")
	if err != nil {
		t.Fatal(err)
	}
	u.dir, u.cache = dir, filepath.Join(dir, "cache")
	if err := os.WriteFile(u.browserLog(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.leave)
	return u
}

// leave says no wherever the program may still wait for the user, so that no
// sign-in outlives the test, and removes the machine.
func (u *testUser) leave() {
	for _, page := range u.signInPages() {
		u.cancelSignIn(page)
	}
	u.endPages()
	eventually(u.t, "the end of all processes", func() bool {
		left := len(u.processes())
		if left > 0 {
			u.endPages()
		}
		return left == 0
	})
	u.checkTraces()
	eventually(u.t, "nothing writes to "+u.dir+" any more", func() bool {
		return os.RemoveAll(u.dir) == nil
	})
}

// endPages ends the processes that only show how a sign-in ended.
func (u *testUser) endPages() {
	for _, page := range u.signInPages() {
		makeWay(redirectOf(page))
	}
}

// processes lists the processes of this machine, where the system tells (Linux).
func (u *testUser) processes() (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		environ, _ := os.ReadFile(file) // it may have ended
		if bytes.Contains(environ, []byte("HOME="+u.dir+"\x00")) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

func (u *testUser) browserLog() string { return filepath.Join(u.dir, "browser.log") }

// environ is all the environment that the program has: nothing of the
// developer's own (proxies, SSH, Google credentials) may change a test.
func (u *testUser) environ() (env []string) {
	vars := map[string]string{
		"HOME": u.dir, "USERPROFILE": u.dir, "MCP_PROXY_CACHE_DIR": u.cache,
		"SSL_CERT_FILE": testShared().pki.file, "SSL_CERT_DIR": testShared().pki.dir,
		testEarly: "1h",                // a slow machine must not look like a slow user
		"GORACE":  "atexit_sleep_ms=0", // -race: do not linger for a second at every exit
		"BROWSER": testShared().browser, browserMode: u.browser, browserLog: u.browserLog(),
		browserCA: testShared().pki.file,
	}
	for _, name := range []string{"PATH", "TMPDIR", "TMP", "SYSTEMROOT", "GOCOVERDIR"} {
		vars[name] = os.Getenv(name)
	}
	if u.binary == "" {
		vars[testRole] = "proxy"
	}
	if systemVerifier {
		vars["GODEBUG"] = fallbackRoots
	}
	for name, value := range u.env {
		vars[name] = value
	}
	for name, value := range vars {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// systemVerifier: the system checks certificates itself, and Go does not look
// at SSL_CERT_FILE there (crypto/x509, SystemCertPool).
const systemVerifier = runtime.GOOS == "darwin" || runtime.GOOS == "windows"

// fallbackRoots lets crypto/x509.SetFallbackRoots win over the system's verifier.
const fallbackRoots = "x509usefallbackroots=1"

// trustTestRoots is for the test binary in the program's role, so that a
// test's SSL_CERT_FILE means the same on every system.
func trustTestRoots() {
	file := os.Getenv("SSL_CERT_FILE")
	if !systemVerifier || file == "" {
		return
	}
	pem, err := os.ReadFile(file)
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	x509.SetFallbackRoots(roots)
}

// command is the program with these arguments.
func (u *testUser) command(args ...string) *exec.Cmd {
	binary := u.binary
	if binary == "" {
		binary = testShared().binary
	}
	cmd := exec.Command(binary, args...)
	cmd.Env, cmd.Dir = u.environ(), u.dir
	return cmd
}

// run runs a command of the program to its end: login, status, a usage error.
func (u *testUser) run(args ...string) (stdout, stderr string, exit int) {
	u.t.Helper()
	var out, errs strings.Builder
	cmd := u.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = testPatience
	timer := time.AfterFunc(testPatience, func() {
		if cmd.Process != nil {
			cmd.Process.Kill()
		}
	})
	defer timer.Stop()
	err := cmd.Run()
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
		u.t.Fatalf("%q: %v", args, err)
	}
	u.checkText("stderr", errs.String())
	u.checkSecrets("stdout of "+strings.Join(args, " "), out.String())
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// events reads the browser's log.
func (u *testUser) events() (events []browserEvent) {
	data, err := os.ReadFile(u.browserLog())
	if err != nil {
		u.t.Fatal(err)
	}
	for _, line := range strings.SplitAfter(string(data), "\n") {
		var e browserEvent
		if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &e) == nil {
			events = append(events, e)
		}
	}
	return events
}

// openings lists the URLs that browsers were opened with.
func (u *testUser) openings() (urls []string) {
	for _, e := range u.events() {
		if e.Error != "" {
			u.t.Errorf("browser: %s", e.Error)
		} else if e.Status == 0 {
			urls = append(urls, e.URL)
		}
	}
	return urls
}

// awaitOpenings waits for n browser windows and returns the last one's URL.
func (u *testUser) awaitOpenings(n int) string {
	u.t.Helper()
	what := fmt.Sprintf("%d browser windows", n)
	eventually(u.t, what, func() bool { return len(u.openings()) >= n })
	return u.openings()[n-1]
}

// lastPage waits for the page where the user ends up.
func (u *testUser) lastPage() (page browserEvent) {
	u.t.Helper()
	eventually(u.t, "the user's last page", func() bool {
		events := u.events()
		page = events[len(events)-1]
		return page.Status != 0
	})
	return page
}

// paste is the user who opens a printed URL by hand and consents.
func (u *testUser) paste(page string) browserEvent {
	u.t.Helper()
	e := visit(page, testShared().pki.file, "consent")
	if e.Error != "" {
		u.t.Errorf("browser: %s", e.Error)
	}
	return e
}

// printedURL matches the sign-in URL on stderr: the state is meant to be in it.
var printedURL = regexp.MustCompile(`https?://\S+[?&]response_type=code\S*`)

// signInPages lists the sign-in URLs that the user has seen, and those of the
// sign-ins whose processes nobody reads any more.
func (u *testUser) signInPages() (pages []string) {
	for _, p := range u.started {
		pages = append(pages, printedURL.FindAllString(p.stderr(), -1)...)
	}
	notes, _ := filepath.Glob(filepath.Join(u.cache, "*.login"))
	for _, note := range notes {
		var state loginState
		data, _ := os.ReadFile(note) // it may be gone
		if json.Unmarshal(data, &state) == nil && printedURL.MatchString(state.URL) {
			pages = append(pages, state.URL)
		}
	}
	return pages
}

// cancelSignIn tells the program that the user said no.
func (u *testUser) cancelSignIn(page string) {
	q := parsedURL(u.t, page).Query()
	values := url.Values{"error": {"access_denied"}, "state": {q.Get("state")}}
	for _, k := range u.keepers {
		if a, ok := k.(*fakeAuth); ok {
			values.Set("iss", a.issuer)
		}
	}
	resp, err := http.Get(q.Get("redirect_uri") + "?" + values.Encode())
	if err == nil { // else it is over already
		resp.Body.Close()
	}
}

// credentialsFile is where the credentials for the server are kept.
func (u *testUser) credentialsFile(server string) string {
	return filepath.Join(u.cache, base64.RawURLEncoding.EncodeToString([]byte(server))+".json")
}

// remember gives the user tokens from a sign-in of long ago. edit, if any,
// may change the file's content before it is written.
func (u *testUser) remember(s *fakeMCP, edit ...func(doc map[string]any)) {
	u.t.Helper()
	a := s.auth
	redirect := fmt.Sprintf("http://127.0.0.1:%d/callback", freePort(u.t))
	c := a.addClient("client-"+fakeSecret(), "none", redirect)
	access, refresh := a.grant(c, s.resource, s.scope)
	doc := map[string]any{
		"version": 1, "server": s.url, "issuer": a.issuer, "token_endpoint": a.base + a.token,
		"revocation_endpoint": a.base + "/revoke", "resource": s.resource, "requested_scope": s.scope,
		"client": map[string]any{
			"id": c.id, "source": "registered", "redirect_uri": redirect,
			"token_endpoint_auth_method": "none",
		},
		"token": map[string]any{
			"access_token": access, "refresh_token": refresh, "token_type": "Bearer", "scope": s.scope,
			"obtained_at": time.Now().Add(-time.Minute).UTC(), "expires_at": time.Now().Add(time.Hour).UTC(),
		},
	}
	for _, f := range edit {
		f(doc)
	}
	data, err := json.Marshal(doc)
	if err == nil {
		err = os.MkdirAll(u.cache, 0o700)
	}
	if err == nil {
		err = os.WriteFile(u.credentialsFile(s.url), data, 0o600)
	}
	if err != nil {
		u.t.Fatal(err)
	}
}

// expired is an edit for remember: the access token's time is over.
func expired(doc map[string]any) {
	token := doc["token"].(map[string]any)
	token["obtained_at"] = time.Now().Add(-2 * time.Hour).UTC()
	token["expires_at"] = time.Now().Add(-time.Hour).UTC()
}

// testSpan is a span as traces.jsonl has it.
type testSpan struct {
	TraceID           string `json:"traceId"`
	SpanID            string `json:"spanId"`
	ParentSpanID      string `json:"parentSpanId"`
	Name              string `json:"name"`
	Kind              int    `json:"kind"`
	StartTimeUnixNano string `json:"startTimeUnixNano"`
	EndTimeUnixNano   string `json:"endTimeUnixNano"`
	Attributes        []struct {
		Key   string                     `json:"key"`
		Value map[string]json.RawMessage `json:"value"`
	} `json:"attributes"`
	Status struct {
		Code int `json:"code"`
	} `json:"status"`
}

// attribute is the value as JSON has it, without quotes; "" when absent.
func (s testSpan) attribute(key string) string {
	for _, a := range s.Attributes {
		for _, value := range a.Value {
			if a.Key == key {
				return strings.Trim(string(value), `"`)
			}
		}
	}
	return ""
}

func (u *testUser) tracesFile() string { return filepath.Join(u.cache, "traces.jsonl") }

// spans reads the traces in the order in which they were written.
func (u *testUser) spans() (spans []testSpan) {
	data, err := os.ReadFile(u.tracesFile())
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		var doc struct {
			ResourceSpans []struct {
				ScopeSpans []struct {
					Spans []testSpan `json:"spans"`
				} `json:"scopeSpans"`
			} `json:"resourceSpans"`
		}
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &doc); err != nil {
			u.t.Errorf("traces.jsonl: %v in %.300q", err, line)
		}
		for _, resource := range doc.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				spans = append(spans, scope.Spans...)
			}
		}
	}
	return spans
}

// checkTraces reads all that was traced, for its form and for secrets.
func (u *testUser) checkTraces() {
	files, _ := filepath.Glob(u.tracesFile() + "*")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			u.t.Error(err)
		}
		u.checkSecrets(filepath.Base(file), string(data))
	}
	u.spans()
}

func (u *testUser) checkSecrets(where, text string) {
	u.t.Helper()
	for _, k := range u.keepers {
		for _, secret := range k.secrets() {
			if secret != "" && strings.Contains(text, secret) {
				u.t.Errorf("%s holds the secret %.12s…", where, secret)
			}
		}
	}
}

// checkText looks for secrets, panics and data races on stderr.
func (u *testUser) checkText(where, text string) {
	u.t.Helper()
	u.checkSecrets(where, printedURL.ReplaceAllString(text, "<sign-in URL>"))
	for _, trouble := range []string{"DATA RACE", "panic: ", "fatal error: ", "goroutine "} {
		if strings.Contains(text, trouble) {
			u.t.Errorf("%s: %s:\n%s", where, trouble, text)
		}
	}
}
