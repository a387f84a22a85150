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
	synopsis, options, ok := strings.Cut(string(usage), "\n\n")
	if !ok {
		return nil, fmt.Errorf("-h prints one paragraph")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH MCP-PROXY 1 %s \"%s %s\"\n",
		host.modified.Format("2006-01-02"), program, host.version)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n.SH SYNOPSIS\n",
		roff(program), strings.ToLower(description[:1])+description[1:])
	literal(&b, strings.Replace(synopsis, "Usage: ", "       ", 1))
	b.WriteString(".SH DESCRIPTION\n")
	describeProgram(&b, main.Doc.Text())
	describeOptions(&b, options)
	fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", roff(repository))
	return b.Bytes(), nil
}

// describeProgram writes the package comment up to its first heading.
func describeProgram(b *bytes.Buffer, text string) {
	for _, block := range new(comment.Parser).Parse(text).Content {
		switch block := block.(type) {
		case *comment.Heading:
			return
		case *comment.Code:
			literal(b, block.Text)
		case *comment.Paragraph:
			b.WriteString(".PP\n")
			for _, piece := range block.Text {
				if plain, ok := piece.(comment.Plain); ok {
					b.WriteString(roff(string(plain)))
				}
			}
			b.WriteByte('\n')
		}
	}
}

var (
	heading = regexp.MustCompile(`^(\S.*):$`)
	option  = regexp.MustCompile(`^ +(-\S.*?)(?: {2,}(.*))?$`)
	indent  = regexp.MustCompile(`^ +`)
)

// describeOptions writes the rest of the usage text: headings, options with what follows
// them further to the right, and lines as they are.
func describeOptions(b *bytes.Buffer, text string) {
	inOption := false
	for _, line := range strings.Split(text, "\n") {
		switch {
		case heading.MatchString(line):
			fmt.Fprintf(b, ".SH %s\n", roff(strings.ToUpper(heading.FindStringSubmatch(line)[1])))
			inOption = false
		case option.MatchString(line):
			found := option.FindStringSubmatch(line)
			fmt.Fprintf(b, ".TP\n\\fB%s\\fR\n%s\n", roff(found[1]), roff(found[2]))
			inOption = true
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

// literal writes lines that keep their shape.
func literal(b *bytes.Buffer, text string) {
	b.WriteString(".PP\n.nf\n")
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		fmt.Fprintln(b, roff(line))
	}
	b.WriteString(".fi\n")
}

// roff escapes what man would take for its own.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`,
		"~", `\(ti`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
