package main

// The manual page: the package comment, which is the manual in brief, and what -h prints.

import (
	"bytes"
	"fmt"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// manual returns the page mcp-proxy(1) in the language of man. The host's build says what
// its flags are.
func manual(host *build) ([]byte, error) {
	dir, err := os.MkdirTemp("", program+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, host.executable().name)
	if err := os.WriteFile(path, host.binary, 0o700); err != nil {
		return nil, err
	}
	usage, err := exec.Command(path, "-h").Output()
	if err != nil {
		return nil, err
	}
	main, err := parser.ParseFile(token.NewFileSet(), "main.go", nil,
		parser.PackageClauseOnly|parser.ParseComments)
	if err != nil {
		return nil, err
	}
	paragraphs := strings.SplitN(string(usage), "\n\n", 3) // the first is what it is
	if len(paragraphs) < 3 {
		return nil, fmt.Errorf("-h prints %q", usage)
	}
	synopses, options := paragraphs[1], paragraphs[2]
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH MCP-PROXY 1 %s \"%s %s\"\n",
		host.modified.Format("2006-01-02"), program, host.version)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n.SH SYNOPSIS\n",
		roff(program), strings.ToLower(description[:1])+description[1:])
	literal(&b, synopses)
	b.WriteString(".SH DESCRIPTION\n")
	describeProgram(&b, main.Doc.Text())
	known := map[string]bool{}
	describeOptions(&b, options, known)
	for _, found := range command.FindAllStringSubmatch(synopses, -1) {
		usage, err := exec.Command(path, found[1], "-h").Output()
		if err != nil {
			return nil, err
		}
		_, options, _ := strings.Cut(string(usage), "\n")
		if options = onlyOptions(options, known); options != "" {
			fmt.Fprintf(&b, ".SH THE COMMAND %s\n", roff(strings.ToUpper(found[1])))
			describeOptions(&b, options, known)
		}
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", roff(repository))
	return b.Bytes(), nil
}

// describeProgram writes the paragraphs of the package comment, up to its first heading, that
// are not about its files of source. What it shows as code is the synopsis again.
func describeProgram(b *bytes.Buffer, text string) {
	for _, block := range new(comment.Parser).Parse(text).Content {
		switch block := block.(type) {
		case *comment.Heading:
			return
		case *comment.Paragraph:
			var text strings.Builder
			for _, piece := range block.Text {
				if plain, ok := piece.(comment.Plain); ok {
					text.WriteString(string(plain))
				}
			}
			if !strings.Contains(text.String(), ".go") {
				fmt.Fprintf(b, ".PP\n%s\n", roff(text.String()))
			}
		}
	}
}

var (
	command = regexp.MustCompile(`(?m)^mcp-proxy ([a-z]+) `)
	heading = regexp.MustCompile(`^(\S.*):$`)
	// "  -u, --url URL   text": the value is in capitals, quoted, and followed by … if repeatable.
	option = regexp.MustCompile(`^ +((?:-\w, )?--[a-z-]+` +
		`(?: (?:'[^']*'|[A-Z][A-Z=|]*)(?: …)?)?) *(.*)$`)
	indent = regexp.MustCompile(`^ +`)
)

// describeOptions writes the rest of a usage text: headings, options with what follows
// them further to the right, and lines as they are.
func describeOptions(b *bytes.Buffer, text string, known map[string]bool) {
	inOption := false
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case heading.MatchString(line):
			fmt.Fprintf(b, ".SH %s\n", roff(strings.ToUpper(heading.FindStringSubmatch(line)[1])))
			inOption = false
		case option.MatchString(line):
			found := option.FindStringSubmatch(line)
			fmt.Fprintf(b, ".TP\n\\fB%s\\fR\n", roff(found[1]))
			if found[2] != "" {
				fmt.Fprintln(b, roff(found[2]))
			}
			known[found[1]], inOption = true, true
		case line == "":
			b.WriteString(".PP\n")
			inOption = false
		case indent.MatchString(line) && !inOption:
			literal(b, line)
		default:
			fmt.Fprintln(b, roff(strings.TrimSpace(line)))
		}
	}
}

// onlyOptions returns the options of a usage text that are not known yet.
func onlyOptions(text string, known map[string]bool) string {
	var kept strings.Builder
	keep := false
	for _, line := range strings.Split(text, "\n") {
		if found := option.FindStringSubmatch(line); found != nil {
			keep = !known[found[1]]
		} else if !indent.MatchString(line) {
			keep = false
		}
		if keep {
			kept.WriteString(line + "\n")
		}
	}
	return kept.String()
}

// literal writes lines that keep their shape.
func literal(b *bytes.Buffer, text string) {
	b.WriteString(".nf\n")
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		fmt.Fprintln(b, roff(line))
	}
	b.WriteString(".fi\n")
}

// roff escapes what man would take for its own.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`,
		"~", `\(ti`, "…", `\[u2026]`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
