package main

// The demonstration behind "make demo": the fakes of the tests, the real
// binary, a scripted browser, and a narrator. It is no test, so that it prints
// no test noise: TestMain runs it when it is asked for.

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"testing"
)

// demoTB stands in for a test. What it does not override is not used.
type demoTB struct {
	testing.TB
	mu       sync.Mutex // guards the fields below
	failed   bool
	cleanups []func()
}

func (t *demoTB) Helper()             {}
func (t *demoTB) Logf(string, ...any) {}
func (t *demoTB) Error(args ...any)   { t.Errorf("%s", fmt.Sprint(args...)) }
func (t *demoTB) Fatal(args ...any)   { t.Fatalf("%s", fmt.Sprint(args...)) }
func (t *demoTB) Cleanup(f func())    { t.cleanups = append(t.cleanups, f) }
func (t *demoTB) Fatalf(f string, args ...any) {
	t.Errorf(f, args...)
	runtime.Goexit()
}

func (t *demoTB) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = true
	fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...)
}

func (t *demoTB) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// run runs f, then what it left to clean up, last first, as a test does.
func (t *demoTB) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}

// demo plays the story with the binary that is its argument.
func demo() int {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "demo: the path of the mcp-proxy binary is missing")
		return 1
	}
	binary, err := filepath.Abs(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	t := &demoTB{}
	t.run(func() {
		newDemoStory(t, binary).tell()
		newDemoStory(t, binary).tellSlowly()
	})
	if t.Failed() {
		return 1
	}
	return 0
}

type demoStory struct {
	server *fakeMCP
	auth   *fakeAuth
	user   *testUser
	proxy  *testProxy
	told   int // how many requests the narrator has spoken of
}

func newDemoStory(t testing.TB, binary string) *demoStory {
	d := &demoStory{}
	d.server, d.auth = startProtected(t)
	d.user = newUser(t, d.auth, d.server)
	d.user.binary = binary
	return d
}

func (d *demoStory) tell() {
	say("An MCP server at %s wants OAuth tokens from %s.", d.server.url, d.auth.issuer)
	say("Both are fakes on this machine. The client knows nothing of OAuth; it starts:\n")
	args := d.args()
	fmt.Printf("    mcp-proxy %s\n", strings.Join(args, " "))
	d.proxy = d.user.start(args...)

	say("\nThe client says hello. There is no token yet, so the user has to sign in, once:")
	d.exchange("initialize", initializeParams)
	d.proxy.notify("notifications/initialized", "")
	d.server.await("notifications/initialized", 1)
	d.requests()

	say("\nFrom here on the token is just there:")
	d.exchange("tools/list", "")
	d.exchange("tools/call", echoParams("Hello through OAuth"))

	say("\nThe client is done and closes stdin:")
	d.proxy.closeStdin()
	d.proxy.wait()
	d.requests()
	fmt.Println("    mcp-proxy ends with exit code 0")

	d.leftovers()
}

func (d *demoStory) args() []string {
	args := []string{"-u", d.server.url}
	if systemVerifier { // elsewhere SSL_CERT_FILE says whom to trust
		args = append(args, "--ca-cert", testShared().pki.file)
	}
	return args
}

// tellSlowly has a user who takes longer than clients wait.
func (d *demoStory) tellSlowly() {
	d.user.browser = "ignore"
	d.proxy = d.user.start(d.args()...)
	say("\nAnother user takes longer to sign in. Before the client gives up, after five seconds, it gets an answer:")
	d.exchange("initialize", initializeParams)
	d.proxy.notify("notifications/initialized", "")
	id := d.send("tools/list", "")
	say("\nWhat it asks now waits, until that user has signed in:\n")
	d.user.paste(d.proxy.awaitURL(1))
	d.receive(id)
	d.proxy.closeStdin()
	d.proxy.wait()
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// exchange sends a request and shows what it set in motion.
func (d *demoStory) exchange(method, params string) { d.receive(d.send(method, params)) }

func (d *demoStory) send(method, params string) (id string) {
	id = d.proxy.request(method, params)
	fmt.Printf("\n    client  -> %s\n",
		demoCut(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q%s}`, id, method,
			paramsOf(params))))
	return id
}

func (d *demoStory) receive(id string) {
	result := d.proxy.answer(id)
	d.requests()
	fmt.Printf("    client  <- %s\n", demoCut(result.line))
	d.proxy.result(id)
}

// requests shows what has arrived at the servers since the last time.
func (d *demoStory) requests() {
	var all []*fakeRequest
	for _, o := range []*fakeOrigin{d.server.fakeOrigin, d.auth.fakeOrigin} {
		o.mu.Lock()
		all = append(all, o.seen...)
		o.mu.Unlock()
	}
	sort.Slice(all, func(i, j int) bool { return all[i].order < all[j].order })
	for _, r := range all[d.told:] {
		who := "proxy  "
		if r.label == "authorize" {
			who = "browser"
		}
		fmt.Printf("      %s -> %-6s %-46s %s\n", who, r.Method, r.URL.Path, demoMeaning(r))
	}
	d.told = len(all)
}

// demoMeaning says what a request is for.
func demoMeaning(r *fakeRequest) string {
	switch r.label {
	case "PRM":
		return "who gives tokens for this server?"
	case "metadata":
		return "what are the endpoints of that one?"
	case "register":
		return "makes itself known, without a secret"
	case "authorize":
		return "the user signs in and consents"
	case "token authorization_code":
		return "the code and the PKCE verifier for tokens"
	case "GET":
		return "listens for the server's own messages"
	case "DELETE":
		return "ends the session"
	}
	if r.Header.Get("Authorization") == "" {
		return r.label + ": 401, not without a token"
	}
	return r.label + ", with the token"
}

func demoCut(line string) string {
	if len(line) > 120 {
		return line[:117] + "..."
	}
	return line
}

// leftovers shows what is on the disk afterwards.
func (d *demoStory) leftovers() {
	say("\nWhat the user was told on stderr:\n")
	for _, line := range strings.Split(strings.TrimSpace(d.proxy.stderr()), "\n") {
		fmt.Printf("    %s\n", demoCut(line))
	}
	say("\nWhat is kept, for the next start to need none of this:\n")
	for _, file := range []string{d.user.cache, d.user.credentialsFile(d.server.url),
		d.user.tracesFile()} {
		info, err := os.Stat(file)
		fatal(d.user.t, err)
		fmt.Printf("    %s  %s\n", info.Mode(), filepath.Base(file))
	}
	say("\nWhat the trace tells (spans, as traces.jsonl has them):\n")
	printSpans(d.user.spans(), "", "    ")
}

// printSpans prints the children of a span as a tree. Roots are those whose
// parent is not there.
func printSpans(spans []testSpan, parent, indent string) {
	here := map[string]bool{}
	for _, s := range spans {
		here[s.SpanID] = true
	}
	sort.SliceStable(spans,
		func(i, j int) bool { return spans[i].StartTimeUnixNano < spans[j].StartTimeUnixNano })
	for _, s := range spans {
		if s.ParentSpanID == parent || parent == "" && !here[s.ParentSpanID] {
			fmt.Println(strings.TrimRight(indent+s.Name+" "+s.attribute("http.response.status_code"), " "))
			printSpans(spans, s.SpanID, indent+"  ")
		}
	}
}
