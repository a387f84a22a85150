package main

// The official conformance suite of the protocol: which scenarios there are, which of them concern
// a proxy, and the table of how the real program does in them, one scenario at a time. The suite
// runs as its client under test a host that starts the real program as its stdio server, and knows
// nothing of it but its command line.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

const (
	conformancePackage  = "node_modules/@modelcontextprotocol/conformance"
	conformanceParallel = 2
	conformanceTimeout  = 25 * time.Second // of one request, a sign-in included; the suite gives a client 30 s
	conformanceExit     = 5 * time.Second  // how long the program may take to end once its stdin is closed
)

// conformanceBackcompat are the scenarios of revision 2025-03-26, which has no list of required
// scenarios of its own.
var conformanceBackcompat = []string{
	"auth/2025-03-26-oauth-metadata-backcompat",
	"auth/2025-03-26-oauth-endpoint-fallback",
}

// conformanceExtensions are scenarios of extensions of the specification that the program has. No
// list requires them.
var conformanceExtensions = []string{
	"auth/client-credentials-basic",
	"auth/client-credentials-jwt",
}

// conformanceNotRun says why a client scenario is none of a proxy's business, or not yet. A
// scenario of the suite that is neither required nor named here fails the run, so that none is
// dropped silently.
var conformanceNotRun = map[string]string{
	"auth/dpop":                             "extension: sender-constrained tokens (RFC 9449) are not implemented",
	"auth/dpop-nonce":                       "extension: sender-constrained tokens (RFC 9449) are not implemented",
	"auth/enterprise-managed-authorization": "extension: needs the user's ID token of the company's identity provider, which no host hands to a stdio server",
	"auth/wif-jwt-bearer":                   "extension: needs an assertion that the platform of a workload issues",
	"sep-2640-client-no-prefetch":           "extension: what a host does with skill files; the proxy only relays them",
	"sep-2640-client-verify-digest":         "extension: what a host does with skill files; the proxy only relays them",
	"sep-2640-client-verify-size":           "extension: what a host does with skill files; the proxy only relays them",
	"sep-2640-client-verify-frontmatter":    "extension: what a host does with skill files; the proxy only relays them",
	"(server and authorization scenarios)":  "the suite connects to them over HTTP; the proxy is no HTTP server",
}

// conformanceGlobSync gives the suite the one name of Node 22's fs that it imports, and calls in
// another command only, when an older Node runs it.
const conformanceGlobSync = `import * as fs from "node:fs";
import { register } from "node:module";
const withGlobSync = 'export * from "node:fs"; export { default } from "node:fs"; export function globSync() {}';
const hooks = ` + "`" + `export async function resolve(specifier, context, next) {
	return specifier === "fs" && context.parentURL?.endsWith("/conformance/dist/index.js")
		? { url: "data:text/javascript," + encodeURIComponent(${JSON.stringify(withGlobSync)}),
			shortCircuit: true }
		: next(specifier, context);
}` + "`" + `;
if (!fs.globSync) register("data:text/javascript," + encodeURIComponent(hooks));
`

// conformanceSets prints the lists of required scenarios, which are YAML, as one JSON object by
// revision.
const conformanceSets = `const { readFileSync } = require("fs"), { parse } = require("yaml");
const set = (r) => parse(readFileSync("` + conformancePackage + `/requirements/" + r + ".yaml", "utf8"));
console.log(JSON.stringify(Object.fromEntries(["2025-11-25", "2026-07-28"].map((r) => [r, set(r)]))));`

// TestConformance runs the suite installed in the folder that MCP_PROXY_CONFORMANCE names: that is
// what "make conformance" is for. The program is the binary MCP_PROXY_CONFORMANCE_BINARY, else this
// test binary playing it.
func TestConformance(t *testing.T) {
	dir := os.Getenv("MCP_PROXY_CONFORMANCE")
	if dir == "" {
		return
	}
	suite, err := newConformanceSuite(dir)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := suite.plan()
	if err != nil {
		t.Fatal(err)
	}
	suite.runAll(rows)
	if printConformance(os.Stdout, rows) > 0 {
		t.Errorf("the suite's own logs are in %s", suite.results)
	}
}

// A conformanceRow is one line of the table: a scenario at a revision.
type conformanceRow struct {
	scenario, revision     string
	notRun                 string // why, when it is not run
	passed, failed, warned int
	opening                []string // checks of the initialize itself, see aboutInitialize
	problems               []string // what went wrong; none: the row is green
}

type conformanceSuite struct {
	dir, results, binary, client string // absolute
}

func newConformanceSuite(dir string) (*conformanceSuite, error) {
	client, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &conformanceSuite{client: client}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if binary := os.Getenv("MCP_PROXY_CONFORMANCE_BINARY"); binary != "" {
		if s.binary, err = filepath.Abs(binary); err != nil {
			return nil, err
		}
	}
	s.results = filepath.Join(s.dir, "results")
	if err := os.RemoveAll(s.results); err != nil {
		return nil, err
	}
	return s, os.WriteFile(filepath.Join(s.dir, "globsync.mjs"), []byte(conformanceGlobSync), 0o644)
}

// node runs Node.js in the suite's folder and returns what it printed to stdout.
func (s *conformanceSuite) node(args ...string) ([]byte, error) {
	cmd := exec.Command("node", args...)
	cmd.Dir = s.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("node: %w\n%s", err, stderr.Bytes())
	}
	return out, nil
}

// command is the command line of the suite, for node.
func (s *conformanceSuite) command(args ...string) []string {
	return append([]string{"--import", "./globsync.mjs", conformancePackage + "/dist/index.js"},
		args...)
}

// plan lists the scenarios to run, those of the required sets first, and those that are not run
// with their reason. For a host of an earlier revision it is those of the revision without
// initialize.
func (s *conformanceSuite) plan() ([]*conformanceRow, error) {
	all, err := s.planAll()
	if conformanceHostRevision("") == "" {
		return all, err
	}
	var rows []*conformanceRow
	for _, row := range all {
		if row.revision == conformanceModern {
			rows = append(rows, row)
		}
	}
	return rows, err
}

func (s *conformanceSuite) planAll() ([]*conformanceRow, error) {
	out, err := s.node("-e", conformanceSets)
	if err != nil {
		return nil, err
	}
	var sets map[string]struct {
		Client    []string
		NotScored []struct{ Scenario, Leg string } `json:"not_scored"`
	}
	if err := json.Unmarshal(out, &sets); err != nil {
		return nil, fmt.Errorf("required scenarios: %w", err)
	}
	var rows []*conformanceRow
	seen := make(map[string]bool)
	add := func(scenario, revision string) {
		seen[scenario] = true
		rows = append(rows, &conformanceRow{scenario: scenario, revision: revision,
			notRun: conformanceNotRun[scenario]})
	}
	for _, revision := range []string{"2025-11-25", "2026-07-28"} {
		for _, scenario := range sets[revision].Client {
			add(scenario, revision)
		}
		for _, more := range sets[revision].NotScored {
			if more.Leg == "client" {
				add(more.Scenario, revision)
			}
		}
	}
	for _, scenario := range conformanceBackcompat {
		add(scenario, "2025-03-26")
	}
	for _, scenario := range conformanceExtensions {
		add(scenario, "2026-07-28")
	}
	rest, err := s.unlisted(seen)
	return append(rows, rest...), err
}

// unlisted returns a row for each client scenario that is in no list, and for each other reason
// there is.
func (s *conformanceSuite) unlisted(seen map[string]bool) ([]*conformanceRow, error) {
	out, err := s.node(s.command("list", "--client")...)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, line := range strings.Split(string(out), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "-" && !seen[fields[1]] {
			names = append(names, fields[1])
			seen[fields[1]] = true
		}
	}
	for name := range conformanceNotRun {
		if !seen[name] {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var rows []*conformanceRow
	for _, name := range names {
		row := &conformanceRow{scenario: name, revision: "-", notRun: conformanceNotRun[name]}
		if row.notRun == "" {
			row.problems = []string{"the suite has this scenario, but it is neither run nor explained"}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (s *conformanceSuite) runAll(rows []*conformanceRow) {
	queue := make(chan *conformanceRow)
	var workers sync.WaitGroup
	for i := 0; i < conformanceParallel; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for row := range queue {
				s.run(row)
			}
		}()
	}
	for _, row := range rows {
		if row.notRun == "" && row.problems == nil {
			queue <- row
		}
	}
	close(queue)
	workers.Wait()
}

// run lets the suite run one scenario against conformanceClient, and reads the checks that it left
// behind.
func (s *conformanceSuite) run(row *conformanceRow) {
	dir := filepath.Join(s.results, row.revision, strings.ReplaceAll(row.scenario, "/", "_"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		row.problems = append(row.problems, err.Error())
		return
	}
	// Some scenarios are listed twice, and the suite's client is then another server's.
	home, err := os.MkdirTemp(dir, "home-")
	if err != nil {
		row.problems = append(row.problems, err.Error())
		return
	}
	// The suite cuts its command at spaces and gives it to a shell: a variable survives both,
	// whatever the path is.
	cmd := exec.Command("node", s.command("client", "--command", `"$MCP_PROXY_CONFORMANCE_CLIENT"`,
		"--scenario", row.scenario, "--spec-version", row.revision, "--force", "-o", dir)...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), testRole+"=conformance-client",
		"MCP_PROXY_CONFORMANCE_CLIENT="+s.client,
		"MCP_PROXY_CONFORMANCE_BINARY="+s.binary, "MCP_PROXY_CONFORMANCE_HOME="+home)
	log, runErr := cmd.CombinedOutput()
	if err := os.WriteFile(filepath.Join(dir, "suite.log"), log, 0o644); err != nil {
		row.problems = append(row.problems, err.Error())
	}
	if err := row.read(dir); err != nil {
		row.problems = append(row.problems, err.Error())
	}
	if runErr != nil && row.problems == nil && row.opening == nil {
		row.problems = append(row.problems, "the suite failed: "+runErr.Error())
	}
}

// read takes the verdict from the files the suite wrote. A warning counts as a failure, and so does
// a client that did not see what it expected, although the suite forgives that in some scenarios.
func (row *conformanceRow) read(dir string) error {
	checks, err := readConformanceFile(dir, "checks.json")
	if err != nil {
		return err
	}
	var list []conformanceCheck
	if err := json.Unmarshal(checks, &list); err != nil {
		return fmt.Errorf("checks.json: %w", err)
	}
	for _, check := range list {
		switch {
		case check.Status == "SUCCESS":
			row.passed++
			continue
		case check.aboutInitialize() && (check.Status == "FAILURE" || check.Status == "WARNING"):
			row.opening = append(row.opening, check.ID)
			continue
		}
		switch check.Status {
		case "FAILURE":
			row.failed++
		case "WARNING":
			row.warned++
		default:
			continue
		}
		row.problems = append(row.problems,
			fmt.Sprintf("%s %s: %s %s", check.Status, check.ID, check.Description,
				check.ErrorMessage))
	}
	if row.passed == 0 {
		row.problems = append(row.problems, "no check passed")
	}
	stdout, err := readConformanceFile(dir, "stdout.txt")
	if err != nil {
		return err
	}
	if string(stdout) != "ok\n" {
		stderr, _ := readConformanceFile(dir, "stderr.txt")
		row.problems = append(row.problems, "the client was not content:\n"+string(stderr))
	}
	return nil
}

type conformanceCheck struct {
	ID, Status, Description, ErrorMessage string
	Details                               struct{ Method, ExpectedMethod string }
}

// aboutInitialize tells whether a check is about nothing but the initialize of a host of an earlier
// revision. Such a host has to say it, and the proxy has to pass it on as it is, because only the
// answer to it tells whether the server is one of the later revision: these are the two scenarios
// (request-metadata, http-standard-headers) that look for what that revision adds in whatever comes
// first. Every later request is held to it.
func (c conformanceCheck) aboutInitialize() bool {
	return conformanceHostRevision("") != "" &&
		(c.Details.Method == "initialize" || c.Details.ExpectedMethod == "initialize")
}

// readConformanceFile finds a file of that name below dir: the suite puts it into a folder with the
// time in its name.
func readConformanceFile(dir, name string) ([]byte, error) {
	found := ""
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Base(path) == name {
			found = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if found == "" {
		return nil, fmt.Errorf("the suite left no %s", name)
	}
	return os.ReadFile(found)
}

// printConformance writes the table, then what went wrong, then the sum. It returns the number of
// red rows.
func printConformance(w io.Writer, rows []*conformanceRow) (failed int) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "scenario\trevision\tpassed\tfailed\twarned\tresult")
	passed := 0
	for _, row := range rows {
		counts := fmt.Sprintf("%d\t%d\t%d", row.passed, row.failed, row.warned)
		result := "pass"
		switch {
		case row.notRun != "":
			counts, result = "\t\t", "not run: "+row.notRun
		case row.problems != nil:
			result = "FAIL"
			failed++
		default:
			passed++
			if row.opening != nil {
				result = "pass, but for the host's initialize: " + strings.Join(row.opening, ", ")
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", row.scenario, row.revision, counts, result)
	}
	table.Flush()
	for _, row := range rows {
		for _, problem := range row.problems {
			fmt.Fprintf(w, "\n%s at %s: %s\n", row.scenario, row.revision, problem)
		}
	}
	fmt.Fprintf(w, "\n%d passed, %d failed\n", passed, failed)
	return failed
}

// conformanceClientDocument is the client id that auth/basic-cimd expects. Nobody fetches it.
const conformanceClientDocument = "https://conformance-test.local/client-metadata.json"

// conformanceKey is the variable that holds the client's private key.
const conformanceKey = "CONFORMANCE_PRIVATE_KEY"

// conformanceModern is the first revision without initialize.
const conformanceModern = "2026-07-28"

// A conformanceHost is an honest minimal MCP host with the program as its stdio server.
type conformanceHost struct {
	scenario, server string
	revision         string // what the host speaks
	context          struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
		PrivateKey   string `json:"private_key_pem"` // of client_credentials with private_key_jwt
		ToolCalls    []struct {
			Name      string
			Arguments json.RawMessage
		}
	}
	cmd   *exec.Cmd
	stdin io.WriteCloser
	// gone is closed when the program's stdout ends or holds what it must not hold; err says which.
	gone    chan struct{}
	err     error
	refused chan error // the user saw an error page at the end of a sign-in

	mu      sync.Mutex // guards writing to stdin and the fields below
	lastID  int
	waiting map[int]chan conformanceAnswer
	asked   func() // called once, before the host answers the server's first question
}

type conformanceAnswer struct {
	Result json.RawMessage
	Error  *conformanceError
}

type conformanceError struct {
	Code    int
	Message string
	Data    json.RawMessage
}

func (e *conformanceError) Error() string {
	return fmt.Sprintf("answered with error %d: %s", e.Code, e.Message)
}

var errSignInRefused = errors.New("the sign-in ended with an error page")

// conformanceClient is the role "conformance-client" of the test binary. The suite gives the
// scenario, the revision and the scenario's data in the environment, and the server's URL as last
// argument. It prints "ok" to stdout when everything was as a host may expect it, and returns the
// exit code.
func conformanceClient() int {
	h := &conformanceHost{
		scenario: os.Getenv("MCP_CONFORMANCE_SCENARIO"),
		server:   os.Args[len(os.Args)-1],
		revision: conformanceHostRevision(os.Getenv("MCP_CONFORMANCE_PROTOCOL_VERSION")),
		gone:     make(chan struct{}),
		refused:  make(chan error, 1),
		waiting:  make(map[int]chan conformanceAnswer),
	}
	if err := h.run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance client:", err)
		return 1
	}
	fmt.Println("ok")
	return 0
}

// conformanceHostRevision is what the host speaks in a scenario of a revision: that one, unless the
// run is for a host of an earlier one.
func conformanceHostRevision(scenario string) string {
	if earlier := os.Getenv("MCP_PROXY_CONFORMANCE_HOST"); earlier != "" {
		return earlier
	}
	return scenario
}

func (h *conformanceHost) run() error {
	if data := os.Getenv("MCP_CONFORMANCE_CONTEXT"); data != "" {
		if err := json.Unmarshal([]byte(data), &h.context); err != nil {
			return fmt.Errorf("MCP_CONFORMANCE_CONTEXT: %w", err)
		}
	}
	if err := h.start(); err != nil {
		return err
	}
	return errors.Join(h.play(), h.stop())
}

// play goes through the scenario.
func (h *conformanceHost) play() error {
	script, ok := conformanceScripts[h.scenario]
	if !ok && strings.HasPrefix(h.scenario, "auth/") {
		script, ok = (*conformanceHost).useTools, true
	}
	if !ok {
		return fmt.Errorf("unknown scenario %q", h.scenario)
	}
	err := h.open()
	if err == nil {
		err = script(h)
	}
	if !conformanceRefusals[h.scenario] {
		return err
	}
	var answered *conformanceError
	if errors.As(err, &answered) || errors.Is(err, errSignInRefused) {
		return nil
	}
	if err == nil {
		return errors.New("want an error answer or a refused sign-in, got success")
	}
	return fmt.Errorf("want an error answer or a refused sign-in, got: %w", err)
}

// arguments is the command line of the program.
func (h *conformanceHost) arguments() []string {
	args := []string{"-u", h.server, "--allow-http", "--no-browser", "--login-timeout", "20s"}
	if h.scenario == "auth/basic-cimd" {
		return append(args, "--client-metadata-url", conformanceClientDocument)
	}
	if strings.HasPrefix(h.scenario, "auth/client-credentials-") {
		args = append(args, "--grant", "client_credentials")
	}
	if h.context.PrivateKey != "" {
		return append(args, "-i", h.context.ClientID, "--private-key", "env:"+conformanceKey)
	}
	if h.context.ClientID != "" {
		return append(args, "-i", h.context.ClientID, "-s", h.context.ClientSecret)
	}
	return args
}

// environment is this process's own, with a home of its own for the program and without what would
// steer it.
func (h *conformanceHost) environment(home string) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "GOOGLE_CLIENT_") && !strings.HasPrefix(name, "MCP_") &&
			!strings.HasPrefix(name, "SSH_") {
			env = append(env, pair)
		}
	}
	return append(env, conformanceKey+"="+h.context.PrivateKey, testRole+"=proxy", "HOME="+home,
		"MCP_PROXY_CACHE_DIR="+filepath.Join(home, "cache"))
}

func (h *conformanceHost) start() error {
	binary := os.Getenv("MCP_PROXY_CONFORMANCE_BINARY")
	if binary == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		binary = self
	}
	home := os.Getenv("MCP_PROXY_CONFORMANCE_HOME")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	h.cmd = exec.Command(binary, h.arguments()...)
	h.cmd.Env = h.environment(home)
	stdin, err1 := h.cmd.StdinPipe()
	stdout, err2 := h.cmd.StdoutPipe()
	stderr, err3 := h.cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3, h.cmd.Start()); err != nil {
		return err
	}
	h.stdin = stdin
	go h.readMessages(stdout)
	go h.readMessagesForPeople(stderr)
	return nil
}

// stop ends the program as hosts do. Its stdout must end with it: a helper that outlives it may not
// hold it open.
func (h *conformanceHost) stop() error {
	h.stdin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), conformanceExit)
	defer cancel()
	select {
	case <-h.gone:
	case <-ctx.Done():
		return errors.Join(errors.New("the program did not end when its stdin was closed"),
			h.cmd.Process.Kill())
	}
	done := make(chan error, 1)
	go func() { done <- h.cmd.Wait() }()
	select {
	case err := <-done:
		if h.err != io.EOF {
			err = errors.Join(h.err, err)
		}
		return err
	case <-ctx.Done():
		return errors.Join(errors.New("the program closed its stdout but did not end"),
			h.cmd.Process.Kill())
	}
}

// readMessages hands the program's messages to those who wait for them.
func (h *conformanceHost) readMessages(stdout io.Reader) {
	defer close(h.gone)
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if h.err = err; len(line) > 0 {
				h.err = fmt.Errorf("half a line on stdout: %q", line)
			}
			return
		}
		if err := h.take(line); err != nil {
			h.err = err
			return
		}
	}
}

func (h *conformanceHost) take(line []byte) error {
	var message struct {
		JSONRPC string
		ID      json.RawMessage
		Method  string
		Params  json.RawMessage
		conformanceAnswer
	}
	if err := json.Unmarshal(line, &message); err != nil || message.JSONRPC != "2.0" {
		return fmt.Errorf("a line on stdout that is no JSON-RPC message: %q", line)
	}
	switch {
	case message.Method != "" && message.ID != nil:
		go h.answer(message.ID, message.Method, message.Params)
		return nil
	case message.Method != "":
		return nil
	}
	var id int
	if err := json.Unmarshal(message.ID, &id); err != nil {
		return fmt.Errorf("an answer with a foreign id: %q", line)
	}
	h.mu.Lock()
	waiting := h.waiting[id]
	delete(h.waiting, id)
	h.mu.Unlock()
	if waiting == nil {
		return fmt.Errorf("an answer that nobody asked for: %q", line)
	}
	waiting <- message.conformanceAnswer
	return nil
}

// readMessagesForPeople passes the program's stderr on, and follows the sign-in URLs that it shows.
func (h *conformanceHost) readMessagesForPeople(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		fmt.Fprintln(os.Stderr, lines.Text())
		if u, err := url.Parse(strings.TrimSpace(lines.Text())); err == nil && u.IsAbs() &&
			u.Host != "" {
			go h.signIn(u.String())
		}
	}
}

// signIn is the user: opens the page, consents (these authorization servers redirect at once) and
// looks at what the program says in the end.
func (h *conformanceHost) signIn(page string) {
	browser := &http.Client{Timeout: conformanceTimeout}
	resp, err := browser.Get(page)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode < 400 {
			return
		}
		err = fmt.Errorf("%w: %s", errSignInRefused, resp.Status)
	}
	select {
	case h.refused <- err:
	default:
	}
}

func (h *conformanceHost) send(message map[string]any) error {
	message["jsonrpc"] = "2.0"
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err = h.stdin.Write(append(line, '\n'))
	return err
}

// notify sends a notification of the older revisions; the newer one has none that a host must send.
func (h *conformanceHost) notify(method string) error {
	return h.send(map[string]any{"method": method})
}

// request sends a request and waits for its answer.
func (h *conformanceHost) request(method string, params map[string]any) (json.RawMessage, error) {
	if h.revision >= conformanceModern {
		params = h.withMeta(params)
	}
	answer := make(chan conformanceAnswer, 1)
	h.mu.Lock()
	h.lastID++
	id := h.lastID
	h.waiting[id] = answer
	h.mu.Unlock()
	message := map[string]any{"id": id, "method": method}
	if params != nil {
		message["params"] = params
	}
	if err := h.send(message); err != nil {
		return nil, err
	}
	timeout := time.NewTimer(conformanceTimeout)
	defer timeout.Stop()
	select {
	case a := <-answer:
		if a.Error != nil {
			return nil, fmt.Errorf("%s: %w", method, a.Error)
		}
		return a.Result, nil
	case err := <-h.refused:
		return nil, fmt.Errorf("%s: %w", method, err)
	case <-h.gone:
		return nil, fmt.Errorf("%s was not answered: %w", method, h.err)
	case <-timeout.C:
		return nil, fmt.Errorf("%s was not answered in time", method)
	}
}

// conformanceCapabilities are what answer can answer.
func conformanceCapabilities() map[string]any {
	return map[string]any{"elicitation": struct{}{}, "sampling": struct{}{}, "roots": struct{}{}}
}

func conformanceInfo() map[string]any {
	return map[string]any{"name": "conformance-host", "version": "1.0.0"}
}

func (h *conformanceHost) withMeta(params map[string]any) map[string]any {
	with := map[string]any{"_meta": map[string]any{
		"io.modelcontextprotocol/protocolVersion":    h.revision,
		"io.modelcontextprotocol/clientInfo":         conformanceInfo(),
		"io.modelcontextprotocol/clientCapabilities": conformanceCapabilities(),
	}}
	for name, value := range params {
		with[name] = value
	}
	return with
}

// open begins the conversation as a host of its revision does.
func (h *conformanceHost) open() error {
	if h.revision >= conformanceModern {
		return h.discover()
	}
	if _, err := h.request("initialize", map[string]any{
		"protocolVersion": h.revision, "capabilities": conformanceCapabilities(), "clientInfo": conformanceInfo(),
	}); err != nil {
		return err
	}
	return h.notify("notifications/initialized")
}

// discover asks once more where the server refuses the revision (-32022) although it supports it,
// or another one that the host speaks too: the server's list must have come through for that.
func (h *conformanceHost) discover() error {
	_, err := h.request("server/discover", nil)
	var refused *conformanceError
	if !errors.As(err, &refused) || refused.Code != -32022 {
		return err
	}
	var data struct{ Supported []string }
	if err := json.Unmarshal(refused.Data, &data); err != nil {
		return fmt.Errorf("the data of error -32022: %w", err)
	}
	for _, version := range data.Supported {
		if version == h.revision {
			_, err = h.request("server/discover", nil)
		}
	}
	return err
}

// answer answers a request of the server, in the revisions in which a server sends requests.
func (h *conformanceHost) answer(id json.RawMessage, method string, params json.RawMessage) {
	message := map[string]any{"id": id}
	if result, err := h.reply(method, params); err != nil {
		message["error"] = map[string]any{"code": -32601, "message": err.Error()}
	} else {
		message["result"] = result
	}
	if err := h.send(message); err != nil {
		fmt.Fprintln(os.Stderr, "conformance client:", err)
	}
}

// reply is what the host, its user or its model says to a question of the server.
func (h *conformanceHost) reply(method string, params json.RawMessage) (any, error) {
	h.mu.Lock()
	asked := h.asked
	h.asked = nil
	h.mu.Unlock()
	if asked != nil {
		asked()
	}
	switch method {
	case "ping":
		return struct{}{}, nil
	case "roots/list":
		return map[string]any{"roots": []string{}}, nil
	case "sampling/createMessage":
		return map[string]any{"role": "assistant", "model": "none",
			"content": map[string]any{"type": "text", "text": "yes"}}, nil
	case "elicitation/create":
		return fillForm(params)
	}
	return nil, fmt.Errorf("unknown method %q", method)
}

// fillForm is a user who accepts the defaults and says yes to the rest.
func fillForm(params json.RawMessage) (any, error) {
	var form struct {
		RequestedSchema struct {
			Properties map[string]struct {
				Type    string
				Default json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(params, &form); err != nil {
		return nil, err
	}
	content := make(map[string]any)
	for name, field := range form.RequestedSchema.Properties {
		switch {
		case field.Default != nil:
			content[name] = field.Default
		case field.Type == "boolean":
			content[name] = true
		case field.Type == "string":
			content[name] = "yes"
		default:
			content[name] = 1
		}
	}
	return map[string]any{"action": "accept", "content": content}, nil
}

type conformanceTool struct {
	Name        string
	InputSchema json.RawMessage
}

// conformanceScripts say what the host does in a scenario, once it has opened the conversation.
var conformanceScripts = map[string]func(*conformanceHost) error{
	"initialize":                          (*conformanceHost).useTools,
	"tools_call":                          (*conformanceHost).useTools,
	"elicitation-sep1034-client-defaults": (*conformanceHost).useTools,
	"sse-retry":                           (*conformanceHost).useTools,
	"request-metadata":                    (*conformanceHost).useTools,
	"http-standard-headers":               (*conformanceHost).useEverything,
	"http-custom-headers":                 (*conformanceHost).useGivenArguments,
	"http-invalid-tool-headers":           (*conformanceHost).useValidToolOnly,
	"sep-2322-client-request-state":       (*conformanceHost).useToolsAmidQuestions,
	"json-schema-ref-no-deref":            (*conformanceHost).listTools,
	"json-schema-2020-12-preservation":    (*conformanceHost).echoSchema,
}

// conformanceRefusals are the scenarios in which the program must not get, or not use, a token.
var conformanceRefusals = map[string]bool{
	"auth/scope-retry-limit":        true,
	"auth/resource-mismatch":        true,
	"auth/iss-supported-missing":    true,
	"auth/iss-wrong-issuer":         true,
	"auth/iss-unexpected":           true,
	"auth/iss-normalized":           true,
	"auth/metadata-issuer-mismatch": true,
}

func (h *conformanceHost) tools() ([]conformanceTool, error) {
	var list struct{ Tools []conformanceTool }
	err := h.list("tools/list", &list)
	return list.Tools, err
}

func (h *conformanceHost) list(method string, into any) error {
	result, err := h.request(method, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(result, into)
}

// call calls a tool. Where the server wants to know more first (revision 2026-07-28), it is told,
// and what it gave to be kept meanwhile is given back.
func (h *conformanceHost) call(name string, arguments any) error {
	params := map[string]any{"name": name, "arguments": arguments}
	for {
		raw, err := h.request("tools/call", params)
		if err != nil {
			return err
		}
		var result struct {
			ResultType    string
			RequestState  json.RawMessage
			InputRequests map[string]struct {
				Method string
				Params json.RawMessage
			}
		}
		if err := json.Unmarshal(raw, &result); err != nil {
			return err
		}
		if result.ResultType != "input_required" {
			return nil
		}
		responses := make(map[string]any)
		for key, question := range result.InputRequests {
			if responses[key], err = h.reply(question.Method, question.Params); err != nil {
				return err
			}
		}
		params = map[string]any{"name": name, "arguments": arguments, "inputResponses": responses}
		if result.RequestState != nil {
			params["requestState"] = result.RequestState
		}
	}
}

// useTools calls every tool of the server with two numbers, which all but one tool ignore.
func (h *conformanceHost) useTools() error {
	tools, err := h.tools()
	if err != nil {
		return err
	}
	for _, tool := range tools {
		if err := h.call(tool.Name, map[string]any{"a": 2, "b": 3}); err != nil {
			return err
		}
	}
	return nil
}

func (h *conformanceHost) listTools() error {
	_, err := h.tools()
	return err
}

// useEverything calls every tool, reads every resource and gets every prompt.
func (h *conformanceHost) useEverything() error {
	if err := h.useTools(); err != nil {
		return err
	}
	var resources struct{ Resources []struct{ URI string } }
	if err := h.list("resources/list", &resources); err != nil {
		return err
	}
	for _, resource := range resources.Resources {
		if _, err := h.request("resources/read", map[string]any{"uri": resource.URI}); err != nil {
			return err
		}
	}
	var prompts struct{ Prompts []struct{ Name string } }
	if err := h.list("prompts/list", &prompts); err != nil {
		return err
	}
	for _, prompt := range prompts.Prompts {
		if _, err := h.request("prompts/get", map[string]any{"name": prompt.Name}); err != nil {
			return err
		}
	}
	return nil
}

// useGivenArguments lists the tools, then makes the calls that the suite wants to see.
func (h *conformanceHost) useGivenArguments() error {
	if err := h.listTools(); err != nil {
		return err
	}
	for _, call := range h.context.ToolCalls {
		if err := h.call(call.Name, call.Arguments); err != nil {
			return err
		}
	}
	return nil
}

// useValidToolOnly calls whatever tool it sees: only the valid one may be left of the eleven.
func (h *conformanceHost) useValidToolOnly() error {
	tools, err := h.tools()
	if err != nil {
		return err
	}
	for _, tool := range tools {
		if err := h.call(tool.Name, map[string]any{"region": "us-west1"}); err != nil {
			return err
		}
	}
	if len(tools) != 1 {
		return fmt.Errorf("got %d tools, want the valid one only", len(tools))
	}
	return nil
}

// useToolsAmidQuestions calls the tool that asks nothing while another one waits for its answer.
func (h *conformanceHost) useToolsAmidQuestions() error {
	if err := h.listTools(); err != nil {
		return err
	}
	var unrelated error
	h.mu.Lock()
	h.asked = func() { unrelated = h.call("test_mrtr_unrelated", struct{}{}) }
	h.mu.Unlock()
	for _, name := range []string{"test_mrtr_echo_state", "test_mrtr_no_state",
		"test_mrtr_no_result_type"} {
		if err := errors.Join(h.call(name, struct{}{}), unrelated); err != nil {
			return err
		}
	}
	return nil
}

// echoSchema gives one tool's schema, as it came, to the tool that compares it.
func (h *conformanceHost) echoSchema() error {
	tools, err := h.tools()
	if err != nil {
		return err
	}
	for _, tool := range tools {
		if tool.Name == "json_schema_2020_12_tool" {
			return h.call("json_schema_echo", map[string]any{"schema": tool.InputSchema})
		}
	}
	return errors.New("json_schema_2020_12_tool is not in the list of tools")
}
