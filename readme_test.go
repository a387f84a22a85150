package main

// The documents, taken at their word: every command line and every piece of configuration in them
// is tried, or compared with what it speaks of. A line that nobody here can check is an error.

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// documents returns the texts for users, by file name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		names, err := filepath.Glob(pattern)
		fatal(t, err)
		for _, name := range names {
			texts[filepath.ToSlash(name)] = string(readFile(t, name))
		}
	}
	return texts
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// blocks returns the blocks of a kind of all documents.
func blocks(t *testing.T, kind string) (texts []string) {
	t.Helper()
	for name, text := range documents(t) {
		for _, found := range fence.FindAllStringSubmatch(text, -1) {
			switch found[1] {
			case "", "sh", "json", "toml", "yaml":
			default:
				t.Errorf("%s has a block of %q: nobody checks that", name, found[1])
			}
			if found[1] == kind {
				texts = append(texts, found[2])
			}
		}
	}
	if len(texts) == 0 {
		t.Fatalf("no block of %q", kind)
	}
	return texts
}

// README.md is a page to start with.
func TestReadmeIsShort(t *testing.T) {
	t.Parallel()
	text := documents(t)["README.md"]
	if lines := strings.Count(text, "\n"); lines > 280 || len(text) > 13<<10 {
		t.Errorf("README.md has %d lines and %d bytes", lines, len(text))
	}
}

func TestDocumentLinks(t *testing.T) {
	t.Parallel()
	for name, text := range documents(t) {
		for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), link[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// words divides a command line as a shell does, as far as the documents need it.
func words(line string) (all []string) {
	for _, found := range regexp.MustCompile(`'[^']*'|[^\s']+`).FindAllString(line, -1) {
		all = append(all, strings.Trim(found, "'"))
	}
	return all
}

func TestDocumentCommands(t *testing.T) {
	t.Parallel()
	for _, text := range blocks(t, "sh") {
		for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			line := line
			t.Run(line, func(t *testing.T) {
				t.Parallel()
				checkCommand(t, line)
			})
		}
	}
}

// Commands and flags within the sentences.
func TestDocumentSpans(t *testing.T) {
	t.Parallel()
	options := allOptions()
	for name, text := range documents(t) {
		text = fence.ReplaceAllString(text, "")
		for _, span := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
			args := words(strings.ReplaceAll(span[1], "URL", "https://mcp.example.com/mcp"))
			flag, isFlag := strings.CutPrefix(args[0], "-")
			switch {
			case args[0] == "mcp-proxy" && len(args) > 1, args[0] == "make":
				checkCommand(t, strings.Join(args, " "))
			case isFlag && findOption(options, strings.TrimLeft(flag, "-")) == nil:
				t.Errorf("%s: there is no flag %s", name, args[0])
			}
		}
	}
}

func checkCommand(t *testing.T, line string) {
	t.Helper()
	args := words(line)
	switch program := args[0]; program {
	case "mcp-proxy":
		checkOurCommand(t, args[1:])
	case "claude", "codex", "gemini", "copilot", "cline": // … mcp add … mcp-proxy [--] ARGUMENTS
		i := slices.Index(args, "mcp-proxy")
		if i < 0 || !slices.Contains(args, "--") || args[1] != "mcp" || args[2] != "add" {
			t.Fatalf("want %s mcp add … with mcp-proxy", program)
		}
		checkParses(t, slices.DeleteFunc(args[i+1:], func(arg string) bool { return arg == "--" }))
	case "code":
		checkConfiguration(t, json.RawMessage(args[2]), 1)
	case "make":
		if !regexp.MustCompile(`(?m)^` + args[1] + `:`).Match(readFile(t, "Makefile")) {
			t.Errorf("there is no such target")
		}
	case "go":
		module := regexp.MustCompile(`(?m)^module (\S+)$`).FindSubmatch(readFile(t, "go.mod"))
		if want := string(module[1]) + "@latest"; args[1] != "install" || args[2] != want {
			t.Errorf("want go install %s", want)
		}
	case "curl", "sha256sum", "tar":
		checkReleased(t, path.Base(args[len(args)-1]))
	case "gh": // attestation verify ARCHIVE …
		if args[2] == "verify" {
			checkReleased(t, args[3])
		}
	case "jq", "head":
		checkRuns(t, line)
	default:
		t.Errorf("nobody checks that")
	}
}

// checkOurCommand runs what needs no server in an empty home, and parses the rest.
func checkOurCommand(t *testing.T, args []string) {
	t.Helper()
	if strings.Contains(strings.Join(args, " "), "://") {
		checkParses(t, args)
		return
	}
	if _, stderr, exit := newUser(t).run(args...); exit != 0 {
		t.Errorf("got exit code %d: %s", exit, stderr)
	}
}

func checkParses(t *testing.T, args []string) {
	t.Helper()
	getenv := func(name string) string {
		if name == "MY_PRIVATE_KEY" {
			return keyText(t, newTestKey(t, "ES256"))
		}
		if strings.Contains(name, "PROXY") || strings.Contains(name, "proxy") {
			return ""
		}
		return "the value of " + name
	}
	if _, err := parseArgs(args, getenv); err != nil {
		t.Errorf("mcp-proxy %q: %v", args, err)
	}
}

// checkReleased knows what "make release" makes.
func checkReleased(t *testing.T, name string) {
	t.Helper()
	targets := regexp.MustCompile(`(?m)^TARGETS := ((?:.*\\\n)*.*)$`).
		FindSubmatch(readFile(t, "Makefile"))
	released := []string{"SHA256SUMS", "mcp-proxy-source.tar.gz", "mcp-proxy.cdx.json", "mcp-proxy.rb",
		"mcp-proxy.json", "mcp-proxy.sigstore.json"} // the last is the workflow's
	for _, target := range strings.Fields(strings.ReplaceAll(string(targets[1]), "\\\n", "")) {
		archive := "mcp-proxy-" + strings.ReplaceAll(target, "/", "-")
		if strings.HasPrefix(target, "windows/") {
			released = append(released, archive+".zip", archive+".mcpb")
		} else {
			released = append(released, archive+".tar.gz", archive+".mcpb")
		}
	}
	if !slices.Contains(released, name) {
		t.Errorf("%s is not among what is released: %q", name, released)
	}
}

// checkRuns runs a line in a shell, where a session has left its traces. Not
// every system has every tool.
func checkRuns(t *testing.T, line string) {
	t.Helper()
	shell, err := exec.LookPath("sh")
	if _, missing := exec.LookPath(words(line)[0]); err != nil || missing != nil {
		t.Logf("not run: %v, %v", err, missing)
		return
	}
	user := newUser(t)
	user.cache = user.dir + "/.cache/mcp-proxy"
	p := user.start("-u", startMCP(t).url)
	p.initialize()
	p.closeStdin()
	p.wait()
	cmd := exec.Command(shell, "-c", line)
	cmd.Env = user.environ()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := map[string]string{"jq": "initialize ", "head": "Flags and environment"}[words(line)[0]]
	if !strings.Contains(string(out), want) {
		t.Errorf("got %q, want %q in it", out, want)
	}
}

func TestDocumentConfigurations(t *testing.T) {
	t.Parallel()
	for _, text := range blocks(t, "json") {
		checkConfiguration(t, json.RawMessage(text), 1)
	}
	for _, text := range blocks(t, "toml") {
		checkConfiguration(t, fromTOML(t, text), 1)
	}
	for _, text := range blocks(t, "yaml") {
		if strings.HasPrefix(text, "extensions:\n") { // the other one is the Collector's
			checkConfiguration(t, fromGoose(t, text), 1)
		}
	}
}

// checkConfiguration looks for entries that start the program, and parses their arguments.
func checkConfiguration(t *testing.T, configuration json.RawMessage, want int) {
	t.Helper()
	if !json.Valid(configuration) {
		t.Fatalf("not JSON: %s", configuration)
	}
	if got := countEntries(t, configuration); got != want {
		t.Errorf("got %d entries that start mcp-proxy, want %d: %s", got, want, configuration)
	}
}

func countEntries(t *testing.T, value json.RawMessage) (n int) {
	t.Helper()
	var object map[string]json.RawMessage
	if json.Unmarshal(value, &object) != nil {
		return 0
	}
	var entry struct {
		Command string
		Args    []string
		Env     map[string]string
	}
	if json.Unmarshal(value, &entry) == nil && entry.Command == "mcp-proxy" {
		getenv := func(name string) string { return entry.Env[name] }
		if _, err := parseArgs(entry.Args, getenv); err != nil {
			t.Errorf("mcp-proxy %q: %v", entry.Args, err)
		}
		return 1
	}
	for _, member := range object {
		n += countEntries(t, member)
	}
	return n
}

// fromTOML understands one table whose values are those of JSON, too.
func fromTOML(t *testing.T, text string) json.RawMessage {
	t.Helper()
	entry := map[string]json.RawMessage{}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if key, value, ok := strings.Cut(line, " = "); ok {
			entry[key] = json.RawMessage(value)
		} else if !regexp.MustCompile(`^\[mcp_servers\.\w+\]$`).MatchString(line) {
			t.Errorf("%q: nobody checks that", line)
		}
	}
	converted, err := json.Marshal(entry)
	fatal(t, err)
	return converted
}

// fromGoose understands one extension whose values are those of JSON, or words.
func fromGoose(t *testing.T, text string) json.RawMessage {
	t.Helper()
	entry := map[string]any{}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n")[2:] {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "cmd":
			entry["command"] = value
		case "args":
			entry["args"] = json.RawMessage(value)
		case "enabled", "type", "name", "timeout":
		default:
			t.Errorf("%q: nobody checks that", line)
		}
	}
	converted, err := json.Marshal(entry)
	fatal(t, err)
	return converted
}

// The tables of flags name what the program knows: README.md its own, docs/mcp-remote.md theirs.
func TestDocumentedFlags(t *testing.T) {
	t.Parallel()
	texts := documents(t)
	_, table, _ := strings.Cut(texts["README.md"], "\n## Flags\n")
	table, _, _ = strings.Cut(table, "\n## ")
	ours, theirs := newCommandLine().options(), newCommandLine().remoteOptions()
	if got, want := flagsInTable(table), namesOf(ours); !slices.Equal(got, want) {
		t.Errorf("README.md has the flags\n%q, the program\n%q", got, want)
	}
	inTheirs := flagsInTable(texts["docs/mcp-remote.md"])
	for _, name := range namesOf(theirs) {
		if !slices.Contains(inTheirs, name) {
			t.Errorf("docs/mcp-remote.md lacks --%s", name)
		}
	}
}

// flagsInTable returns the flags in the first column.
func flagsInTable(text string) (names []string) {
	flag := regexp.MustCompile(`(?:^|[\s,\x60])--?([a-zA-Z][a-z0-9-]*)`)
	first := regexp.MustCompile("(?m)^\\| (`-[^|]*`) \\|")
	for _, cell := range first.FindAllStringSubmatch(text, -1) {
		for _, found := range flag.FindAllStringSubmatch(cell[1], -1) {
			names = append(names, found[1])
		}
	}
	slices.Sort(names)
	return names
}

func namesOf(options []option) (names []string) {
	for _, o := range options {
		names = append(names, strings.Fields(o.names)...)
	}
	slices.Sort(names)
	return names
}

// What README.md quotes is what the program says.
func TestReadmeQuotes(t *testing.T) {
	t.Parallel()
	sources := sourcesOf(t, func(name string) bool { return !strings.HasSuffix(name, "_test.go") })
	quotes := regexp.MustCompile(`(?m)^\| "([^"]+)"`).
		FindAllStringSubmatch(documents(t)["README.md"], -1)
	if len(quotes) < 5 {
		t.Fatalf("got %q", quotes)
	}
	for _, quote := range quotes {
		for _, piece := range strings.Split(quote[1], " … ") {
			if !strings.Contains(sources, piece) {
				t.Errorf("the program never says %q", piece)
			}
		}
	}
}

// Every threat names the test that keeps it out, and the tests and files that are named exist.
func TestThreatsHaveTests(t *testing.T) {
	t.Parallel()
	tests := sourcesOf(t, func(name string) bool { return strings.HasSuffix(name, "_test.go") }) +
		string(readFile(t, "_build/release/release_test.go"))
	for file, text := range documents(t) {
		for _, name := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(text, -1) {
			if !strings.Contains(tests, "\nfunc "+name[1]+"(t *testing.T)") {
				t.Errorf("%s: there is no %s", file, name[1])
			}
		}
		for _, name := range regexp.MustCompile("`(\\w+\\.go)`").FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(name[1]); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	_, table, _ := strings.Cut(documents(t)["SECURITY.md"], "\n|---|---|---|\n")
	rows := strings.Split(strings.TrimSpace(table), "\n")
	if len(rows) < 30 {
		t.Errorf("SECURITY.md has %d threats", len(rows))
	}
	named := regexp.MustCompile("`Test\\w+`[^|]*\\|$")
	for _, row := range rows {
		if !strings.HasPrefix(row, "| **") && !named.MatchString(row) {
			t.Errorf("no test: %s", row)
		}
	}
}

// CONTRIBUTING.md has a row for each file of the program; that the files exist is checked above.
func TestMapOfTheHouse(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	fatal(t, err)
	rows := regexp.MustCompile("(?m)^\\| `.*` \\|").FindAllString(documents(t)["CONTRIBUTING.md"], -1)
	for _, file := range files {
		known := strings.Contains(strings.Join(rows, ""), "`"+file+"`")
		if !known && !strings.HasSuffix(file, "_test.go") {
			t.Errorf("CONTRIBUTING.md has no row for %s", file)
		}
	}
}

// The numbers that the house keeps (design, section 3): what an auditor has to read.
func TestSizeOfTheHouse(t *testing.T) {
	t.Parallel()
	const maxLines, maxFiles, maxFileLines, maxTestFiles, maxColumns, maxMethods = 11_000, 28, 800, 45, 100, 25
	entries, err := filepath.Glob("*.go")
	fatal(t, err)
	lines, files, testFiles, methods := 0, 0, 0, 0
	for _, name := range entries {
		if strings.HasSuffix(name, "_test.go") {
			testFiles++
			continue
		}
		source := strings.TrimSuffix(string(readFile(t, name)), "\n")
		files++
		methods += strings.Count(source, "\nfunc (p *proxy) ")
		own := strings.Split(source, "\n")
		lines += len(own)
		if len(own) > maxFileLines {
			t.Errorf("%s has %d lines, want %d at most", name, len(own), maxFileLines)
		}
		for i, line := range own {
			if n := utf8.RuneCountInString(line); n > maxColumns {
				t.Errorf("%s:%d has %d columns, want %d at most", name, i+1, n, maxColumns)
			}
		}
	}
	for _, number := range []struct {
		what      string
		got, most int
	}{
		{"lines of the program", lines, maxLines}, {"files of it", files, maxFiles},
		{"test files", testFiles, maxTestFiles}, {"methods of proxy", methods, maxMethods},
	} {
		t.Logf("%s: %d of %d", number.what, number.got, number.most)
		if number.got > number.most || number.got == 0 {
			t.Errorf("%s: got %d, want %d at most", number.what, number.got, number.most)
		}
	}
}

func sourcesOf(t *testing.T, which func(name string) bool) string {
	t.Helper()
	entries, err := os.ReadDir(".")
	fatal(t, err)
	var all strings.Builder
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), ".go") && which(entry.Name()) {
			all.Write(readFile(t, entry.Name()))
		}
	}
	return all.String()
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	fatal(t, err)
	return data
}
