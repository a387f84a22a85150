package main

// Revision 2026-07-28: the members of a message that are mirrored into headers, the x-mcp-header
// annotations that tools/list results bring, the tools that are invalid because of them, and those
// that the user hides in every revision (--ignore-tool). It does not know sessions, connections or
// authorization.
//
// Specification: MCP 2026-07-28, "Streamable HTTP", section "Request Metadata", and "Tools",
// section "x-mcp-header".

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	annotationKey  = "x-mcp-header"
	paramPrefix    = "Mcp-Param-"
	sentinelPrefix = "=?base64?"
	sentinelSuffix = "?="

	// "−2^53+1 to 2^53−1": what every receiver that reads numbers as doubles can tell apart.
	maxSafeInteger = 1<<53 - 1

	// Each annotation is one header field and one more pass over the arguments. Apache, the
	// strictest of the common servers, takes 100 fields a request.
	maxAnnotations = 100

	maxPath       = 1 << 10 // bytes of an annotation's name and the properties that lead to it
	maxSchema     = 1 << 20 // bytes of an annotated inputSchema: parsed, it takes ten times as much
	maxRemembered = 5000    // annotations, of all tools together

	maxListPages    = 100 // of tools: more are a loop in the server's cursors
	maxDroppedNamed = 10  // tools of one list that are left out, on stderr
)

// Members of _meta, MCP 2026-07-28, Overview, "_meta".
const (
	metaPrefix       = "io.modelcontextprotocol/"
	metaVersion      = metaPrefix + "protocolVersion"
	metaClientInfo   = metaPrefix + "clientInfo"
	metaCapabilities = metaPrefix + "clientCapabilities"
	metaLogLevel     = metaPrefix + "logLevel"
	metaServerInfo   = metaPrefix + "serverInfo"
)

// bridgeVersion is the revision that the bridge speaks to the server.
const bridgeVersion = "2026-07-28"

// Error codes of MCP 2026-07-28, Overview, "Error Codes", and of 2025-11-25.
const (
	codeMissingCapability  = -32021
	codeUnsupportedVersion = -32022
	codeInternal           = -32603
	codeResourceNotFound   = -32002 // 2025-11-25; -32602 since
)

// nameMembers says which member of params becomes Mcp-Name. The tasks are SEP-2663's, section
// "Streamable HTTP: Routing Headers"; the TypeScript SDK's server refuses them without it.
var nameMembers = map[string]string{
	"tools/call": "name", "prompts/get": "name", "resources/read": "uri",
	"tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId",
}

// modernVersion returns the protocol version in a message's _meta, "" if the message is of an
// earlier era. Any string counts, an old date too: only the modern revisions define the member, and
// a modern server wants it mirrored even if it will refuse that version.
func modernVersion(meta []byte) string {
	version, _ := unquote(member(meta, metaVersion))
	return version
}

// annotation says that the argument at path is mirrored into header. It is never changed once made.
type annotation struct {
	header string   // canonical, with its prefix
	path   []string // property names from the root of the arguments
}

// toolHeaders remembers the annotations of the tools that were listed. Its zero value is ready.
type toolHeaders struct {
	warn func(format string, args ...any) // may be nil

	mu    sync.Mutex // guards what follows
	tools map[string][]annotation
	size  int // annotations in tools
}

// set mirrors a modern message into h. What cannot be mirrored is left out: the server decides
// about that message.
func (t *toolHeaders) set(h http.Header, method string, params []byte, version string) {
	plain := map[string]string{"Mcp-Protocol-Version": version, "Mcp-Method": method}
	for name, value := range plain {
		if isPlain(value) { // these have no encoding
			h.Set(name, value)
		}
	}
	field, hasName := nameMembers[method]
	name, isString := unquote(member(params, field))
	if !hasName || !isString {
		return
	}
	h.Set("Mcp-Name", encodeHeaderValue(name))
	if method != "tools/call" {
		return
	}
	arguments := member(params, "arguments")
	for _, a := range t.annotations(name) {
		if value, ok := paramValue(member(arguments, a.path...)); ok {
			h.Set(a.header, value)
		}
	}
}

// paramValue is the header for an argument; absent, null, arrays and objects have none. The
// argument's own type decides, not the annotation's: "Parameter value provided: client MUST include
// the header". The SDKs' servers compare the header even if the argument has the wrong type.
func paramValue(raw []byte) (string, bool) {
	if s, ok := unquote(raw); ok {
		return encodeHeaderValue(s), true
	}
	if string(raw) == "true" || string(raw) == "false" {
		return string(raw), true
	}
	// 42.0, 1e3 and -0 are integers for JSON Schema and for the servers, which compare numerically:
	// they become 42, 1000 and 0. Fractions have no conversion, and numbers beyond the safe range
	// must not be sent.
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > maxSafeInteger {
		return "", false
	}
	return strconv.FormatInt(int64(f), 10), true
}

// encodeHeaderValue makes any string a safe value for Mcp-Name and Mcp-Param-*, so that no CR, LF
// or other control character of an argument ever reaches a header.
func encodeHeaderValue(s string) string {
	if isPlain(s) {
		return s
	}
	return sentinelPrefix + base64.StdEncoding.EncodeToString([]byte(s)) + sentinelSuffix
}

// isPlain reports whether s arrives as it is. Three cases that the specification leaves open or
// permits are encoded, because every server must decode and not every path keeps them: a tab inside
// (RFC 9110 allows it, the conformance suite wants it encoded), the empty string (the Go SDK's
// server takes an empty header for a missing one), and "=?base64?=", where the two marks overlap.
func isPlain(s string) bool {
	encoded := strings.HasPrefix(s, sentinelPrefix) && strings.HasSuffix(s, sentinelSuffix)
	return s != "" && strings.Trim(s, " ") == s && isVisible(s) && !encoded
}

// learn reads a response to tools/list, remembers the annotations of its valid tools and returns
// the response without the invalid ones ("the client MUST exclude the invalid tool from the result
// of tools/list"). It adds to what earlier pages taught; a tool that is listed again replaces what
// was known of it.
func (t *toolHeaders) learn(response []byte) []byte {
	var reasons []string
	dropped := 0
	response = editTools(response, func(tool []byte) []byte {
		name, named := unquote(member(tool, "name"))
		list, err := readAnnotations(member(tool, "inputSchema"))
		if named {
			t.remember(name, list)
		}
		if err == nil {
			return tool
		}
		if dropped++; dropped <= maxDroppedNamed {
			reasons = append(reasons, excerpt(name)+": "+err.Error())
		}
		return nil
	})
	if dropped > 0 && t.warn != nil {
		t.warn("%d invalid tools are left out: %s", dropped, strings.Join(reasons, "; "))
	}
	return response
}

// editTools returns a response to tools/list with what edit makes of each tool: something shorter,
// nothing if that is nil, or the tool as it is. It is the very same slice if no tool changes.
func editTools(response []byte, edit func(tool []byte) []byte) []byte {
	start, end := place(response, "result", "tools")
	list, changed := []byte{'['}, false
	each(response[start:end], func(tool []byte) {
		edited := edit(tool)
		changed = changed || len(edited) != len(tool)
		if edited != nil {
			list = append(append(list, edited...), ',')
		}
	})
	if !changed {
		return response
	}
	list = append(bytes.TrimRight(list, ","), ']')
	edited := make([]byte, 0, len(response)+1) // and a line end
	return append(append(append(edited, response[:start]...), list...), response[end:]...)
}

func (t *toolHeaders) annotations(tool string) []annotation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tools[tool]
}

// remember replaces what is known of a tool. When the room is used up all others are forgotten:
// they are called without Mcp-Param headers then, and a server that misses these makes the proxy
// list the tools again.
func (t *toolHeaders) remember(name string, list []annotation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.size -= len(t.tools[name])
	delete(t.tools, name)
	if len(list) == 0 || len(name) > maxPath {
		return
	}
	if t.tools == nil || t.size+len(list) > maxRemembered {
		t.tools, t.size = map[string][]annotation{}, 0
	}
	t.tools[name] = list
	t.size += len(list)
}

// applicators are the keywords that hold schemas (JSON Schema 2020-12, and what older drafts called
// them); true if the value maps names to schemas. A member x-mcp-header below any other keyword
// (default, examples, enum, const, unknown ones) is data that happens to have that name.
var applicators = map[string]bool{
	"properties": true, "patternProperties": true, "dependentSchemas": true, "dependencies": true,
	"additionalProperties": false, "unevaluatedProperties": false, "propertyNames": false,
	"items": false, "prefixItems": false, "additionalItems": false, "unevaluatedItems": false,
	"contains": false, "oneOf": false, "anyOf": false, "allOf": false, "not": false, "if": false,
	"then": false, "else": false, "$defs": true, "definitions": true, "contentSchema": false,
}

// readAnnotations returns the annotations of an inputSchema, in a stable order, or why the tool is
// invalid.
func readAnnotations(schema []byte) ([]annotation, error) {
	// Nearly all schemas have none. A name that is not written literally needs \u escapes, since
	// the short escapes spell none of its characters.
	if !bytes.Contains(schema, []byte(annotationKey)) && !bytes.Contains(schema, []byte(`\u`)) {
		return nil, nil
	}
	if len(schema) > maxSchema {
		return nil, fmt.Errorf("its inputSchema is larger than %d bytes", maxSchema)
	}
	dec := json.NewDecoder(bytes.NewReader(schema))
	dec.UseNumber() // a maximum of 1e400 is no reason to fail
	var root any
	if dec.Decode(&root) != nil {
		return nil, errors.New("its inputSchema cannot be read")
	}
	r := &schemaReader{}
	if err := r.schema(root, false, true); err != nil {
		return nil, err
	}
	slices.SortFunc(r.found, func(a, b annotation) int { return strings.Compare(a.header, b.header) })
	return r.found, nil
}

// schemaReader walks a schema. It does not follow $ref: what that leads to is found where it is
// defined.
type schemaReader struct {
	path  []string // names of the properties and definitions around the current position
	found []annotation
}

// schema looks into a value at a place for a schema or a list of schemas, or with hasNames for
// schemas by name, where x-mcp-header is a parameter called so. It is reachable if "properties"
// alone lead to it.
func (r *schemaReader) schema(value any, hasNames, reachable bool) (err error) {
	switch value := value.(type) {
	case []any:
		for i := 0; i < len(value) && err == nil; i++ {
			err = r.schema(value[i], false, false)
		}
	case map[string]any:
		if header, ok := value[annotationKey]; ok && !hasNames {
			err = r.annotate(header, value["type"], reachable)
		}
		for key, inner := range value {
			named, known := applicators[key]
			switch {
			case err != nil:
			case hasNames:
				r.path = append(r.path, key)
				err = r.schema(inner, false, reachable)
				r.path = r.path[:len(r.path)-1]
			case known:
				err = r.schema(inner, named, reachable && key == "properties")
			}
		}
	}
	return err
}

// annotate checks one annotation against the constraints of "x-mcp-header" and keeps it.
func (r *schemaReader) annotate(header, kind any, reachable bool) error {
	name, _ := header.(string)
	canonical := http.CanonicalHeaderKey(paramPrefix + name) // equal if names differ in case only
	where := strings.Join(r.path, ".")
	var fault string
	switch {
	case !reachable || len(r.path) == 0:
		fault = "is not on a property that is reached through properties alone"
	case !isToken(name):
		fault = "is not a header name"
	case !isPrimitive(kind):
		fault = "is on a type other than integer, string, boolean"
	case slices.ContainsFunc(r.found, func(a annotation) bool { return a.header == canonical }):
		fault = "is used twice"
	case len(name)+len(where) > maxPath:
		fault = fmt.Sprintf("is longer than %d bytes with its path", maxPath)
	case len(r.found) == maxAnnotations:
		fault = fmt.Sprintf("is one more than %d", maxAnnotations)
	default:
		r.found = append(r.found, annotation{canonical, slices.Clone(r.path)})
		return nil
	}
	return fmt.Errorf("the %s at %q %s", annotationKey, excerpt(where), fault)
}

// isToken: "MUST match HTTP field-name token syntax" (RFC 9110, section 5.6.2: 1*tchar).
func isToken(s string) bool { return wholeToken().MatchString(s) }

var wholeToken = onceNeeded("^" + httpToken + "$")

// isPrimitive reports whether a "type" keyword permits an annotation. A list does if it holds
// nothing else but "null", which has no header: the C# SDK writes ["string","null"] for an optional
// parameter.
func isPrimitive(kind any) bool {
	kinds, isList := kind.([]any)
	if !isList {
		kinds = []any{kind}
	}
	kinds = slices.DeleteFunc(slices.Clone(kinds), func(one any) bool { return one == "null" })
	return len(kinds) > 0 && !slices.ContainsFunc(kinds, func(one any) bool {
		return one != "integer" && one != "string" && one != "boolean"
	})
}

// isHeaderMismatch reports whether the server found a tool call's headers wrong (MCP 2026-07-28,
// Streamable HTTP, "Client Behavior").
func isHeaderMismatch(m *message, status int, reply *document) bool {
	return m.version != "" && m.method == "tools/call" && status == http.StatusBadRequest &&
		reply != nil && hasCode(reply.error, codeHeaderMismatch)
}

// rpcErrorf is an error of the proxy's own.
func rpcErrorf(code int, format string, args ...any) *rpcError {
	return &rpcError{Code: code, Message: "mcp-proxy: " + fmt.Sprintf(format, args...)}
}

// hasCode reports whether a raw error has one of these codes.
func hasCode(raw []byte, codes ...int) bool {
	code, err := strconv.Atoi(string(member(raw, "code")))
	return err == nil && slices.Contains(codes, code)
}

// isModernAnswer reports whether an answer to initialize is one that only a server gives which does
// not know that method. Beside the codes of the revision itself:
//   - -32601, whatever the status: there is no initialize.
//   - -32602 that names a member of _meta: it was looked for first.
//   - a result in a version that has no initialize: the mock servers of the conformance suite.
func isModernAnswer(d *document) bool {
	if d.result != nil {
		return means(member(d.result, "protocolVersion"), bridgeVersion)
	}
	return hasCode(d.error, codeMethodNotFound) || isModernError(d.error) ||
		hasCode(d.error, codeInvalidParams) && bytes.Contains(d.error, []byte(metaPrefix))
}

// isModernError reports whether a raw error is one that only modern revisions define, and does not
// rule out the one that the bridge speaks.
func isModernError(raw []byte) bool {
	supported := member(raw, "data", "supported")
	return hasCode(raw, codeHeaderMismatch, codeMissingCapability) ||
		hasCode(raw, codeUnsupportedVersion) && (supported == nil || contains(supported, bridgeVersion))
}

// contains reports whether a raw array holds a string.
func contains(array []byte, want string) (found bool) {
	each(array, func(element []byte) { found = found || means(element, want) })
	return found
}

// relist lists the tools in place of the client and reports whether what is known about the tool
// that m calls has changed: only then is m worth sending again.
func (t *toolHeaders) relist(ctx context.Context, m *message, ask askFunc) bool {
	tool, _ := unquote(m.name)
	before := fmt.Sprintf("%q", t.annotations(tool))
	cursor := []byte(nil)
	for page := 0; page < maxListPages; page++ {
		answer, err := ask(ctx, listRequest(m, cursor), nil)
		if err != nil || answer.result == nil {
			return false
		}
		t.learn(answer.raw)
		cursor = member(answer.result, "nextCursor")
		if len(cursor) == 0 || cursor[0] != '"' {
			break
		}
	}
	return fmt.Sprintf("%q", t.annotations(tool)) != before
}

// listRequest is a tools/list in the name of the client that sent m: with its version, identity and
// capabilities, but not what belongs to m alone, such as a progress token.
func listRequest(m *message, cursor []byte) *message {
	meta := []byte(`{}`)
	scan(m.meta, func(key []byte, start, end int) {
		if name, _ := unquote(key); strings.HasPrefix(name, metaPrefix) {
			meta = withMember(meta, name, m.meta[start:end])
		}
	})
	params := withMember([]byte(`{}`), "_meta", meta)
	if cursor != nil {
		params = withMember(params, "cursor", cursor)
	}
	return newRequest("tools/list", params)
}

// newRequest makes a request of the proxy's own of valid JSON. The sender gives it an id; what is
// nested too deep is refused by the server.
func newRequest(method string, params []byte) *message {
	m := &message{method: method, params: params}
	m.raw = fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%s,"params":%s}`, quote(method), params)
	m.readParams()
	return m
}

// toolFilter holds the globs of --ignore-tool as globOf makes them.
type toolFilter []string

func (f *toolFilter) add(glob string) error {
	glob = globOf(glob)
	*f = append(*f, glob)
	if _, err := path.Match(glob, ""); err != nil || glob == "" {
		return invalid("not a pattern", "--ignore-tool 'delete*'; * stands for any text, ? for one "+
			"character, [ab] for one of them")
	}
	return nil
}

// globOf makes a name or a pattern comparable: a tool that is written with other capitals, or in
// parts (files/delete), is meant as well.
func globOf(s string) string { return strings.ReplaceAll(strings.ToLower(s), "/", "\x00") }

func (f toolFilter) hides(tool string) bool {
	return slices.ContainsFunc(f, func(glob string) bool {
		ok, _ := path.Match(glob, globOf(tool))
		return ok
	})
}

// refuse returns the error for a call of a tool that is hidden: the one for a tool that does not
// exist (MCP 2025-11-25, Tools, "Error Handling").
func (f toolFilter) refuse(m *message) error {
	if m.method == "tools/call" && len(f) > 0 {
		if tool, _ := unquote(m.name); f.hides(tool) {
			return rpcErrorf(codeInvalidParams, "unknown tool: %s is left out by --ignore-tool",
				excerpt(tool))
		}
	}
	return nil
}

// shown returns a response to tools/list without the hidden tools.
func (f toolFilter) shown(response []byte) []byte {
	if len(f) == 0 {
		return response
	}
	return editTools(response, func(tool []byte) []byte {
		if name, _ := unquote(member(tool, "name")); f.hides(name) {
			return nil
		}
		return tool
	})
}
