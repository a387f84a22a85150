package main

// What the user keeps outside the command line: env:NAME, ${NAME} in a header,
// files with secrets; and the headers themselves.

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// environment resolves env:NAME and remembers the first variable that is missing.
type environment struct {
	getenv func(string) string
	err    error
}

func (e *environment) lookup(flagName, variable string) string {
	value := e.getenv(variable)
	if value == "" && e.err == nil {
		e.err = withHint(usagef("%s: the environment variable %s is not set", flagName, variable), "export %s=… in the client's configuration (\"env\"), or give the value itself", variable)
	}
	return value
}

func (e *environment) expand(flagName, value string) string {
	if variable, ok := strings.CutPrefix(value, "env:"); ok {
		return e.lookup(flagName, variable)
	}
	return value
}

var variable = onceNeeded(`\$\{([^{}]+)\}`)

// reservedHeaders are the proxy's own, or would break HTTP's framing.
var reservedHeaders = map[string]bool{
	"Accept": true, "Content-Type": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Host": true,
	"Upgrade": true, "Te": true, "Trailer": true, "Last-Event-Id": true, "Mcp-Session-Id": true, "Mcp-Protocol-Version": true,
}

func (c *config) setHeaders(headers []string, env *environment) error {
	c.headers = http.Header{}
	for _, h := range headers {
		if err := c.addHeader("--header", h, env); err != nil {
			return err
		}
	}
	return env.err
}

// addHeader takes one `Name: value`. Its errors hold nothing of the value.
func (c *config) addHeader(from, text string, env *environment) error {
	name, value, ok := strings.Cut(text, ":")
	if !ok || !isToken(name) {
		return withHint(usagef("%s: want 'Name: value'", from), "-H 'X-Api-Key: env:API_KEY'")
	}
	name = http.CanonicalHeaderKey(name)
	if reservedHeaders[name] {
		return withHint(usagef("%s: %s is set by the proxy itself", from, name), "leave it out")
	}
	value = env.expand(from+" "+name, strings.TrimSpace(value))
	value = variable().ReplaceAllStringFunc(value, func(v string) string {
		return env.lookup(from+" "+name, variable().FindStringSubmatch(v)[1])
	})
	// RFC 9110, section 5.5: a line break would start another header, and net/http
	// refuses to send the other control characters.
	switch {
	case strings.ContainsAny(value, "\r\n\x00"):
		return withHint(usagef("%s: the value of %s holds a line break", from, name), "one --header for each header")
	case strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) >= 0:
		return withHint(usagef("%s: the value of %s holds a control character", from, name), "was it copied from a terminal? type it anew")
	}
	c.headers.Add(name, value)
	return nil
}

// setHeaderFiles reads headers that are not to be seen among the arguments of
// the process: one `Name: value` a line, # begins a comment.
func (c *config) setHeaderFiles(files []string, env *environment) error {
	for _, file := range files {
		file = env.expand("--header-file", file)
		if env.err != nil {
			return env.err
		}
		data, err := c.readSecret("--header-file", file)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(data), "\n") {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if err := c.addHeader(fmt.Sprintf("--header-file %s, line %d", file, i+1), line, env); err != nil {
				return err
			}
		}
	}
	return env.err
}

const maxGivenFile = 1 << 20 // bytes

// readSecret reads a file that others had better not read.
func (c *config) readSecret(flagName, file string) ([]byte, error) {
	if info, err := os.Stat(file); err == nil && isLoose(info) {
		c.warnings = append(c.warnings, fmt.Sprintf("%s: others can read %s (mode %#o): chmod 600 %s", flagName, file, info.Mode().Perm(), file))
	}
	return readGiven(flagName, file)
}

// readGiven reads a file that the user named.
func readGiven(flagName, file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, withHint(usagef("%s: %w", flagName, err), "give the path of a file that can be read")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxGivenFile+1))
	switch {
	case err != nil:
		return nil, withHint(usagef("%s: %w", flagName, err), "give the path of a file that can be read")
	case len(data) > maxGivenFile:
		return nil, withHint(usagef("%s: %s is larger than %d bytes", flagName, file, maxGivenFile), "is it the right file?")
	}
	return data, nil
}
