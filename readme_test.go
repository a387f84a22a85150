package main

// README.md, taken at its word: every command line and every piece of configuration in it is found
// and tried, or held against what it speaks of. A line that nobody here knows how to check is an error.

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

func readmeBlocks(t *testing.T, kind string) (texts []string) {
	t.Helper()
	for _, found := range fence.FindAllStringSubmatch(readme(t), -1) {
		switch found[1] {
		case "", "sh", "json", "toml", "yaml":
		default:
			t.Errorf("a block of %q: nobody checks that", found[1])
		}
		if found[1] == kind {
			texts = append(texts, found[2])
		}
	}
	if len(texts) == 0 {
		t.Fatalf("no block of %q", kind)
	}
	return texts
}

func readme(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("README.md")
	fatal(t, err)
	return string(data)
}

// words divides a command line as a shell does, as far as README.md needs it.
func words(line string) (all []string) {
	for _, found := range regexp.MustCompile(`'[^']*'|[^\s']+`).FindAllString(line, -1) {
		all = append(all, strings.Trim(found, "'"))
	}
	return all
}

func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	for _, text := range readmeBlocks(t, "sh") {
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
func TestReadmeSpans(t *testing.T) {
	t.Parallel()
	for _, span := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(fence.ReplaceAllString(readme(t), ""), -1) {
		args := words(strings.ReplaceAll(span[1], "URL", "https://mcp.example.com/mcp"))
		switch {
		case args[0] == "mcp-proxy" && len(args) > 1, args[0] == "make":
			checkCommand(t, strings.Join(args, " "))
		case strings.HasPrefix(args[0], "-") && findOption(allOptions(), strings.TrimLeft(args[0], "-")) == nil:
			t.Errorf("there is no flag %s", args[0])
		}
	}
}

func checkCommand(t *testing.T, line string) {
	t.Helper()
	args := words(line)
	switch program := args[0]; program {
	case "mcp-proxy":
		checkOurCommand(t, args[1:])
	case "claude", "codex", "gemini": // … mcp add … mcp-proxy [--] ARGUMENTS
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
	targets := regexp.MustCompile(`(?m)^TARGETS := (.*)$`).FindSubmatch(readFile(t, "Makefile"))
	released := []string{"SHA256SUMS"}
	for _, target := range strings.Fields(string(targets[1])) {
		ending := ".tar.gz"
		if strings.HasPrefix(target, "windows/") {
			ending = ".zip"
		}
		released = append(released, "mcp-proxy-"+strings.ReplaceAll(target, "/", "-")+ending)
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
	if want := map[string]string{"jq": "initialize ", "head": "Flags and environment"}[words(line)[0]]; !strings.Contains(string(out), want) {
		t.Errorf("got %q, want %q in it", out, want)
	}
}

func TestReadmeConfigurations(t *testing.T) {
	t.Parallel()
	for _, text := range readmeBlocks(t, "json") {
		checkConfiguration(t, json.RawMessage(text), 1)
	}
	for _, text := range readmeBlocks(t, "toml") {
		checkConfiguration(t, fromTOML(t, text), 1)
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
		if _, err := parseArgs(entry.Args, func(name string) string { return entry.Env[name] }); err != nil {
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

// The table of flags and the flags that there are name the same.
func TestReadmeFlags(t *testing.T) {
	t.Parallel()
	names := func(pattern, text string) (all []string) {
		for _, found := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all = append(all, regexp.MustCompile(`(?:^|[\s,\x60])--?([a-zA-Z][a-z-]*)`).FindAllString(found[1], -1)...)
		}
		for i := range all {
			all[i] = strings.TrimLeft(all[i], " ,`-")
		}
		slices.Sort(all)
		return all
	}
	_, table, _ := strings.Cut(readme(t), "\n## Flags\n")
	table, _, _ = strings.Cut(table, "\n## ")
	inTable := names("(?m)^\\| (`-[^|]*`) \\|", table)
	var defined []string
	for _, o := range newCommandLine().options() {
		defined = append(defined, strings.Fields(o.names)...)
	}
	slices.Sort(defined)
	if !slices.Equal(inTable, defined) {
		t.Errorf("README.md has the flags\n%q, the program\n%q", inTable, defined)
	}
}

// What README.md quotes is what the program says.
func TestReadmeQuotes(t *testing.T) {
	t.Parallel()
	sources := sourcesOf(t, func(name string) bool { return !strings.HasSuffix(name, "_test.go") })
	quotes := regexp.MustCompile(`(?m)^\| "([^"]+)"`).FindAllStringSubmatch(readme(t), -1)
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

// The tests that README.md names as its witnesses exist.
func TestReadmeWitnesses(t *testing.T) {
	t.Parallel()
	tests := sourcesOf(t, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	for _, name := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(readme(t), -1) {
		if !strings.Contains(tests, "\nfunc "+name[1]+"(t *testing.T)") {
			t.Errorf("there is no %s", name[1])
		}
	}
	for _, name := range regexp.MustCompile("`(\\w+\\.go)`").FindAllStringSubmatch(readme(t), -1) {
		if _, err := os.Stat(name[1]); err != nil {
			t.Error(err)
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
