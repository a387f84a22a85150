package main

// This file knows what revision 2026-07-28 asks of the headers of a request: the message's own members
// mirrored into MCP-Protocol-Version, Mcp-Method, Mcp-Name and Mcp-Param-*, the x-mcp-header annotations
// that tools/list results bring, and which tools are invalid because of them. It knows nothing of sessions,
// of sending requests, or of authorization.
//
// Specification, revision 2026-07-28: "Streamable HTTP", section "Request Metadata", and "Tools", section
// "x-mcp-header".

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
)

const (
	annotationKey  = "x-mcp-header"
	paramPrefix    = "Mcp-Param-"
	sentinelPrefix = "=?base64?"
	sentinelSuffix = "?="

	// "−2^53+1 to 2^53−1": what every receiver that reads numbers as doubles still tells apart.
	maxSafeInteger = 1<<53 - 1

	// Each annotation is one header field and one more pass over the arguments. Apache, the strictest of
	// the common servers, takes 100 fields a request.
	maxAnnotations = 100

	// maxPath bounds the bytes of one annotation: its name and the names of the properties that lead to it.
	maxPath = 1024

	// maxSchema bounds the annotated inputSchema that is looked into (parsed, it takes some ten times the
	// room), encoding/json bounds its nesting to 10,000 levels. No model could read a larger one.
	maxSchema = 1 << 20

	// maxRemembered bounds the bytes kept for all tools together, however many a server makes up. It is
	// room for about 5,000 tools with annotations.
	maxRemembered = 1 << 20
)

// nameMembers says which member of params becomes Mcp-Name. The tasks are SEP-2663's, section "Streamable
// HTTP: Routing Headers"; the TypeScript SDK's server refuses them without it.
var nameMembers = map[string]string{
	"tools/call":     "name",
	"prompts/get":    "name",
	"resources/read": "uri",
	"tasks/get":      "taskId",
	"tasks/update":   "taskId",
	"tasks/cancel":   "taskId",
}

// applicators are the keywords that hold schemas (JSON Schema 2020-12, and what older drafts called them);
// true where the value maps names to schemas. A member x-mcp-header below any other keyword (default,
// examples, enum, const, unknown ones) is data that happens to bear that name.
var applicators = map[string]bool{
	"properties": true, "patternProperties": true, "dependentSchemas": true, "dependencies": true,
	"additionalProperties": false, "unevaluatedProperties": false, "propertyNames": false,
	"items": false, "prefixItems": false, "additionalItems": false, "unevaluatedItems": false, "contains": false,
	"oneOf": false, "anyOf": false, "allOf": false, "not": false, "if": false, "then": false, "else": false,
	"$defs": true, "definitions": true, "contentSchema": false,
}

// toolHeaders remembers the annotations of the tools that were listed. Its zero value is ready for use, by
// any number of goroutines.
type toolHeaders struct {
	mu    sync.Mutex              // guards tools and size
	tools map[string][]annotation // by tool name; a listed tool without annotations has an empty entry
	size  int                     // bytes that tools takes, see cost
}

// annotation says that the argument at path is mirrored into header. It is never changed once made.
type annotation struct {
	header string   // canonical, with its prefix
	path   []string // property names from the root of the arguments
}

// modernVersion returns the "io.modelcontextprotocol/protocolVersion" of params._meta, "" when the message is of
// an earlier era. Any string counts, an old date too: only the modern revisions define the member, and a
// modern server wants it mirrored even where it will refuse that version (the specification's own example
// of a refusal is "1900-01-01").
func modernVersion(meta []byte) string {
	version, _ := unquote(member(meta, "io.modelcontextprotocol/protocolVersion"))
	return version
}

// set mirrors a modern message of the given version into h. What cannot be mirrored is left out: the server
// decides about that message.
func (t *toolHeaders) set(h http.Header, method string, params []byte, version string) {
	setPlain(h, "MCP-Protocol-Version", version)
	setPlain(h, "Mcp-Method", method)
	field, hasName := nameMembers[method]
	if !hasName {
		return
	}
	name, ok := unquote(member(params, field))
	if !ok {
		return
	}
	h.Set("Mcp-Name", encodeHeaderValue(name))
	if method == "tools/call" {
		t.setParams(h, name, member(params, "arguments"))
	}
}

func (t *toolHeaders) setParams(h http.Header, tool string, arguments []byte) {
	t.mu.Lock()
	list := t.tools[tool]
	t.mu.Unlock()
	for _, a := range list {
		if value, ok := paramValue(member(arguments, a.path...)); ok {
			h.Set(a.header, value)
		}
	}
}

// setPlain is for the headers that have no encoding: a value that is unsafe as it stands is not sent.
func setPlain(h http.Header, name, value string) {
	if isPlain(value) {
		h.Set(name, value)
	}
}

// paramValue is the header for an argument; absent, null, arrays and objects have none. The argument's own
// type decides, not the annotation's: "Parameter value provided: client MUST include the header". Where the
// two differ, the SDKs' servers compare the header all the same, and say what is wrong with the argument
// only when it matches.
func paramValue(raw []byte) (string, bool) {
	if s, ok := unquote(raw); ok {
		return encodeHeaderValue(s), true
	}
	switch string(raw) {
	case "true", "false":
		return string(raw), true
	}
	return integerValue(raw)
}

// integerValue writes an integer in decimal. 42.0, 1e3 and -0 are integers for JSON Schema and for the
// servers, which compare numerically: they become 42, 1000 and 0. Fractions have no conversion, and numbers
// beyond the safe range must not be sent. A double is what the range is about and what receivers read.
func integerValue(raw []byte) (string, bool) {
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > maxSafeInteger {
		return "", false
	}
	return strconv.FormatInt(int64(f), 10), true
}

// encodeHeaderValue makes any string a safe value for Mcp-Name and Mcp-Param-*, so that no CR, LF or other
// control character of an argument ever reaches a header.
func encodeHeaderValue(s string) string {
	if isPlain(s) {
		return s
	}
	return sentinelPrefix + base64.StdEncoding.EncodeToString([]byte(s)) + sentinelSuffix
}

// isPlain tells whether s arrives as it is. Three cases that the specification leaves open or permits are
// encoded, because every server must decode and not every way keeps them: a tab inside (RFC 9110 allows it,
// the conformance suite wants it encoded), the empty string (the Go SDK's server takes an empty header for a
// missing one), and "=?base64?=", where the two marks overlap.
func isPlain(s string) bool {
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return !strings.HasPrefix(s, sentinelPrefix) || !strings.HasSuffix(s, sentinelSuffix)
}

// learn reads one whole JSON-RPC response to tools/list, remembers the annotations of its valid tools and
// returns the response without the invalid ones ("the client MUST exclude the invalid tool from the result
// of tools/list"), which dropped is told in texts that are fit for a log line: the very same slice when none
// was dropped. It adds to what earlier pages taught; a tool that is listed again replaces what was known of
// it, one that became invalid is forgotten.
func (t *toolHeaders) learn(response []byte, dropped func(name, reason string)) []byte {
	return editTools(response, func(tool []byte) []byte {
		name, named := unquote(member(tool, "name"))
		list, err := readAnnotations(member(tool, "inputSchema"))
		if named {
			t.remember(name, list, err == nil)
		}
		if err != nil {
			dropped(excerpt(name), err.Error())
			return nil
		}
		return tool
	})
}

// editTools returns a response to tools/list with what edit makes of each tool, which is nothing
// where edit returns nil. It is the very same slice when that changes none.
func editTools(response []byte, edit func(tool []byte) []byte) []byte {
	start, end := place(response, "result", "tools")
	var out []byte // once a tool has changed
	comma := false
	scan(response[start:end], func(key []byte, from, to int) {
		if key != nil {
			return // it is no list
		}
		tool := response[start+from : start+to : start+to]
		edited := edit(tool)
		same := len(edited) == len(tool) && len(tool) > 0 && &edited[0] == &tool[0]
		if out == nil {
			if same {
				comma = true
				return
			}
			out = append(make([]byte, 0, len(response)+1), response[:start+from]...)
			out = bytes.TrimRight(out, white+",")
		}
		if edited != nil {
			if comma {
				out = append(out, ',')
			}
			out, comma = append(out, edited...), true
		}
	})
	if out == nil {
		return response
	}
	return append(append(out, ']'), response[end:]...)
}

// known tells whether tool was in a list and valid.
func (t *toolHeaders) known(tool string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.tools[tool]
	return ok
}

// annotations returns a text that is equal for equal annotations, and "" for a tool that is unknown or has
// none. When it is still the same after listing again, so would be the headers of a second attempt.
func (t *toolHeaders) annotations(tool string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.tools[tool]
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf("%q", list)
}

// cost is about how many bytes a tool takes; the figures are the sizes of Go's map entry, slice and strings.
func cost(name string, list []annotation) int {
	size := 64 + len(name)
	for _, a := range list {
		size += 40 + len(a.header)
		for _, property := range a.path {
			size += 16 + len(property)
		}
	}
	return size
}

// remember replaces what is known of a tool. When the room is used up all others are forgotten: they are
// then called without Mcp-Param headers, and a server that misses these makes the caller list again.
func (t *toolHeaders) remember(name string, list []annotation, valid bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.tools[name]; ok {
		t.size -= cost(name, old)
		delete(t.tools, name)
	}
	size := cost(name, list)
	if !valid || size > maxRemembered {
		return
	}
	if t.tools == nil || t.size+size > maxRemembered {
		t.tools, t.size = make(map[string][]annotation), 0
	}
	t.tools[name] = list
	t.size += size
}

// readAnnotations returns the annotations of an inputSchema, in a stable order, or why the tool is invalid.
func readAnnotations(schema []byte) ([]annotation, error) {
	// Nearly all schemas have none, and need no look inside. A name that is not written literally needs
	// \u escapes, since the short escapes spell none of its characters.
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
	r := &schemaReader{seen: make(map[string]bool)}
	if err := r.schema(root, true); err != nil {
		return nil, err
	}
	sort.Slice(r.found, func(i, j int) bool { return r.found[i].header < r.found[j].header })
	return r.found, nil
}

// schemaReader walks a schema. It does not follow $ref: what that leads to is found where it is defined.
type schemaReader struct {
	path  []string // names of the properties and definitions around the current position
	found []annotation
	seen  map[string]bool // headers of found
}

// schema looks into a value at a place for a schema or a list of schemas. Reachable says that "properties"
// alone lead to it.
func (r *schemaReader) schema(value any, reachable bool) (err error) {
	switch value := value.(type) {
	case []any:
		for i := 0; i < len(value) && err == nil; i++ {
			err = r.schema(value[i], false)
		}
	case map[string]any:
		if header, ok := value[annotationKey]; ok {
			err = r.annotate(header, value["type"], reachable)
		}
		for keyword, inner := range value {
			if hasNames, ok := applicators[keyword]; ok && err == nil {
				err = r.applicator(inner, hasNames, reachable && keyword == "properties")
			}
		}
	}
	return err
}

// applicator looks into the value of a keyword. Where it maps names to schemas, a name x-mcp-header is a
// parameter called so.
func (r *schemaReader) applicator(value any, hasNames, reachable bool) error {
	schemas, ok := value.(map[string]any)
	if !hasNames || !ok {
		return r.schema(value, false)
	}
	for name, schema := range schemas {
		r.path = append(r.path, name)
		if err := r.schema(schema, reachable); err != nil {
			return err
		}
		r.path = r.path[:len(r.path)-1]
	}
	return nil
}

// annotate checks one annotation against the constraints of "x-mcp-header" and keeps it.
func (r *schemaReader) annotate(header, kind any, reachable bool) error {
	name, _ := header.(string)
	// Equal for names that differ in case only.
	canonical := http.CanonicalHeaderKey(paramPrefix + name)
	where := strings.Join(r.path, ".")
	var fault string
	switch {
	case !reachable || len(r.path) == 0:
		fault = "is not on a property that is reached through properties alone"
	case !isToken(name):
		fault = "is not a header name"
	case !isPrimitive(kind):
		fault = "is on a type other than integer, string, boolean"
	case r.seen[canonical]:
		fault = "is used twice"
	case len(name)+len(where) > maxPath:
		fault = fmt.Sprintf("is longer than %d bytes with its path", maxPath)
	case len(r.found) == maxAnnotations:
		fault = fmt.Sprintf("is one more than %d", maxAnnotations)
	default:
		r.seen[canonical] = true
		r.found = append(r.found, annotation{canonical, append([]string(nil), r.path...)})
		return nil
	}
	return fmt.Errorf("the %s at %q %s", annotationKey, excerpt(where), fault)
}

// isToken: "MUST match HTTP field-name token syntax" (RFC 9110, section 5.6.2: 1*tchar).
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// isPrimitive tells whether a "type" keyword permits an annotation. A list does when it holds nothing else
// but "null", whose header is omitted: the C# SDK writes ["string","null"] for an optional parameter.
func isPrimitive(kind any) bool {
	switch kind := kind.(type) {
	case string:
		return kind == "integer" || kind == "string" || kind == "boolean"
	case []any:
		found := false
		for _, one := range kind {
			name, _ := one.(string)
			if name != "null" && !isPrimitive(name) {
				return false
			}
			found = found || name != "null"
		}
		return found
	}
	return false
}
