package main

// Revision 2026-07-28 in the way of a message: what tools/list results teach,
// and what follows when the server finds the mirrored headers wrong. What the
// headers are is headers.go's.

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

const (
	maxListPages    = 100 // of tools, before a server's cursors are taken for a loop
	maxDroppedNamed = 10  // tools of one list
)

// listedTools takes the tools that are not to be shown out of a response to tools/list.
func (p *proxy) listedTools(m *message, response []byte) []byte {
	if m.version != "" {
		response = p.learnTools(response)
	}
	return p.hidden.shown(response)
}

// learnTools remembers the annotations of a tools/list result that passes by,
// and takes the invalid tools out of it.
func (p *proxy) learnTools(response []byte) []byte {
	dropped := 0
	kept := p.tools.learn(response, func(name, reason string) {
		if dropped++; dropped <= maxDroppedNamed {
			p.log.warnf("%s: the tool %s is left out: %s", p.server.Host, name, reason)
		}
	})
	if dropped > maxDroppedNamed {
		p.log.warnf("%s: %d tools are left out in all", p.server.Host, dropped)
	}
	return kept
}

// headerMismatch tells whether the server found a tool call's headers wrong
// (MCP 2026-07-28, Streamable HTTP, "Client Behavior").
func headerMismatch(m *message, status int, reply *document) bool {
	return m.version != "" && m.method == "tools/call" && status == http.StatusBadRequest && reply != nil &&
		string(member(reply.error, "code")) == strconv.Itoa(codeHeaderMismatch)
}

// relistTools lists the tools in the client's place, and tells whether what is
// known about the tool that m calls has changed: then m is worth sending again.
func (p *proxy) relistTools(ctx context.Context, m *message) bool {
	tool, _ := unquote(member(m.params, "name"))
	before := p.tools.annotations(tool)
	cursor := []byte(nil)
	for page := 0; page < maxListPages; page++ {
		answer, err := p.ask(ctx, listRequest(m, cursor), nil)
		if err != nil || answer.result == nil {
			return false
		}
		p.learnTools(answer.raw)
		cursor = member(answer.result, "nextCursor")
		if len(cursor) == 0 || cursor[0] != '"' {
			break
		}
	}
	return p.tools.annotations(tool) != before
}

// listRequest is a tools/list in the name of the client that sent m: with its
// version, identity and capabilities, but not what belongs to m alone, as a
// progress token does.
func listRequest(m *message, cursor []byte) *message {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(m.meta, &all); err != nil { // m was parsed
		panic(err)
	}
	meta := map[string]json.RawMessage{}
	for name, value := range all {
		if strings.HasPrefix(name, "io.modelcontextprotocol/") {
			meta[name] = value
		}
	}
	params := map[string]any{"_meta": meta}
	if cursor != nil {
		params["cursor"] = json.RawMessage(cursor)
	}
	raw, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 0, "method": "tools/list", "params": params})
	if err != nil { // made of valid JSON
		panic(err)
	}
	list, _, _ := parseMessage(raw)
	return list
}
