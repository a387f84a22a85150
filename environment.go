package main

// Values that the user keeps outside the command line: env:NAME, ${NAME} in a
// header, and the headers themselves.

import (
	"net/http"
	"regexp"
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

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// reservedHeaders are the proxy's own, or would break HTTP's framing.
var reservedHeaders = map[string]bool{
	"Accept": true, "Content-Type": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Host": true,
	"Upgrade": true, "Te": true, "Trailer": true, "Last-Event-Id": true, "Mcp-Session-Id": true, "Mcp-Protocol-Version": true,
}

func (c *config) setHeaders(headers []string, env *environment) error {
	c.headers = http.Header{}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || !isToken(name) {
			return withHint(usagef("--header: want 'Name: value'"), "-H 'X-Api-Key: env:API_KEY'")
		}
		name = http.CanonicalHeaderKey(name)
		if reservedHeaders[name] {
			return withHint(usagef("--header: %s is set by the proxy itself", name), "leave it out")
		}
		value = env.expand("--header "+name, strings.TrimSpace(value))
		value = variable.ReplaceAllStringFunc(value, func(v string) string {
			return env.lookup("--header "+name, variable.FindStringSubmatch(v)[1])
		})
		// RFC 9110, section 5.5: a line break would start another header.
		if strings.ContainsAny(value, "\r\n\x00") {
			return withHint(usagef("--header: the value of %s holds a line break", name), "one --header for each header")
		}
		c.headers.Add(name, value)
	}
	return env.err
}
