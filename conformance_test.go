package main

// The official conformance suite of the protocol: which scenarios there are, which of them concern a proxy, and the
// table of how the real program fares in them, one scenario at a time. How a host behaves in each is
// conformance_host_test.go's.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
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

// conformanceBackcompat are the scenarios of revision 2025-03-26, which has no list of required scenarios of its own.
var conformanceBackcompat = []string{
	"auth/2025-03-26-oauth-metadata-backcompat",
	"auth/2025-03-26-oauth-endpoint-fallback",
}

// conformanceExtensions are scenarios of extensions of the specification that the program has. No list requires them.
var conformanceExtensions = []string{
	"auth/client-credentials-basic",
	"auth/client-credentials-jwt",
}

// conformanceNotRun says why a client scenario is none of a proxy's business, or not yet. A scenario of the suite that
// is neither required nor named here fails the run, so that none is dropped silently.
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

// conformanceGlobSync gives the suite the one name of Node 22's fs that it imports, and calls in another command only,
// when an older Node runs it.
const conformanceGlobSync = `import * as fs from "node:fs";
import { register } from "node:module";
const withGlobSync = 'export * from "node:fs"; export { default } from "node:fs"; export function globSync() {}';
const hooks = ` + "`" + `export async function resolve(specifier, context, next) {
	return specifier === "fs" && context.parentURL?.endsWith("/conformance/dist/index.js")
		? { url: "data:text/javascript," + encodeURIComponent(${JSON.stringify(withGlobSync)}), shortCircuit: true }
		: next(specifier, context);
}` + "`" + `;
if (!fs.globSync) register("data:text/javascript," + encodeURIComponent(hooks));
`

// conformanceSets prints the lists of required scenarios, which are YAML, as one JSON object by revision.
const conformanceSets = `const { readFileSync } = require("fs"), { parse } = require("yaml");
const set = (r) => parse(readFileSync("` + conformancePackage + `/requirements/" + r + ".yaml", "utf8"));
console.log(JSON.stringify(Object.fromEntries(["2025-11-25", "2026-07-28"].map((r) => [r, set(r)]))));`

// TestConformance runs the suite installed in the folder that MCP_PROXY_CONFORMANCE names: that is what
// "make conformance" is for. The program is the binary MCP_PROXY_CONFORMANCE_BINARY, else this test binary playing it.
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
	return append([]string{"--import", "./globsync.mjs", conformancePackage + "/dist/index.js"}, args...)
}

// plan lists the scenarios to run, those of the required sets first, and those that are not run with their reason. For
// a host of an earlier revision it is those of the revision without initialize.
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
		rows = append(rows, &conformanceRow{scenario: scenario, revision: revision, notRun: conformanceNotRun[scenario]})
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

// unlisted returns a row for each client scenario that is in no list, and for each other reason there is.
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

// run lets the suite run one scenario against conformanceClient, and reads the checks that it left behind.
func (s *conformanceSuite) run(row *conformanceRow) {
	dir := filepath.Join(s.results, row.revision, strings.ReplaceAll(row.scenario, "/", "_"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		row.problems = append(row.problems, err.Error())
		return
	}
	// The suite cuts its command at spaces and gives it to a shell: a variable survives both, whatever the path is.
	cmd := exec.Command("node", s.command("client", "--command", `"$MCP_PROXY_CONFORMANCE_CLIENT"`,
		"--scenario", row.scenario, "--spec-version", row.revision, "--force", "-o", dir)...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), testRole+"=conformance-client", "MCP_PROXY_CONFORMANCE_CLIENT="+s.client,
		"MCP_PROXY_CONFORMANCE_BINARY="+s.binary, "MCP_PROXY_CONFORMANCE_HOME="+filepath.Join(dir, "home"))
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

// read takes the verdict from the files the suite wrote. A warning counts as a failure, and so does a client that did
// not see what it expected, although the suite forgives that in some scenarios.
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
		row.problems = append(row.problems, fmt.Sprintf("%s %s: %s %s", check.Status, check.ID, check.Description, check.ErrorMessage))
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

// aboutInitialize tells whether a check is about nothing but the initialize of a host of an earlier revision. Such a
// host has to say it, and the proxy has to pass it on as it is, because only the answer to it tells whether the server
// is one of the later revision: these are the two scenarios (request-metadata, http-standard-headers) that look for
// what that revision adds in whatever comes first. Every later request is held to it.
func (c conformanceCheck) aboutInitialize() bool {
	return conformanceHostRevision("") != "" && (c.Details.Method == "initialize" || c.Details.ExpectedMethod == "initialize")
}

// readConformanceFile finds a file of that name below dir: the suite puts it into a folder with the time in its name.
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

// printConformance writes the table, then what went wrong, then the sum. It returns the number of red rows.
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
