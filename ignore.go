package main

// The tools that the user does not want to be offered or called: --ignore-tool.

import (
	"path"
	"strings"
)

// toolFilter holds the globs of --ignore-tool as globOf makes them.
type toolFilter []string

func newToolFilter(globs []string) (toolFilter, error) {
	var f toolFilter
	for _, glob := range globs {
		glob = globOf(glob)
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			return nil, invalid("not a pattern", "--ignore-tool 'delete*'; * stands for any text, ? for "+
				"one character, [ab] for one of them")
		}
		f = append(f, glob)
	}
	return f, nil
}

// globOf makes a name or a pattern comparable: a tool that is written with
// other capitals, or in parts (files/delete), is meant as well.
func globOf(s string) string {
	return strings.ReplaceAll(strings.ToLower(s), "/", "\x00")
}

func (f toolFilter) hides(tool string) bool {
	tool = globOf(tool)
	for _, glob := range f {
		if ok, _ := path.Match(glob, tool); ok {
			return true
		}
	}
	return false
}

// refuse returns the answer to a call of a tool that is hidden: the one to a
// tool that there is not (MCP 2025-11-25, Tools, "Error Handling").
func (f toolFilter) refuse(m *message) error {
	if len(f) == 0 || m.method != "tools/call" {
		return nil
	}
	tool, _ := unquote(member(m.params, "name"))
	if !f.hides(tool) {
		return nil
	}
	return &rpcError{Code: codeInvalidParams, Message: "mcp-proxy: unknown tool: " + excerpt(tool) + " is left out by --ignore-tool"}
}

// shown returns a response to tools/list without the hidden tools: the very
// same slice when there is none in it.
func (f toolFilter) shown(response []byte) []byte {
	return editTools(response, func(tool []byte) []byte {
		if name, _ := unquote(member(tool, "name")); f.hides(name) {
			return nil
		}
		return tool
	})
}
