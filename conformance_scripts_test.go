package main

// What the host of the conformance suite does in each scenario.

import (
	"encoding/json"
	"errors"
	"fmt"
)

// conformanceScripts say what the host does in a scenario, once it has opened the conversation.
var conformanceScripts = map[string]func(*conformanceHost) error{
	"initialize":                          (*conformanceHost).useTools,
	"tools_call":                          (*conformanceHost).useTools,
	"elicitation-sep1034-client-defaults": (*conformanceHost).useTools,
	"sse-retry":                           (*conformanceHost).useTools,
	"request-metadata":                    (*conformanceHost).useTools,
	"http-standard-headers":               (*conformanceHost).useEverything,
	"http-custom-headers":                 (*conformanceHost).useGivenArguments,
	"http-invalid-tool-headers":           (*conformanceHost).useValidToolOnly,
	"sep-2322-client-request-state":       (*conformanceHost).useToolsAmidQuestions,
	"json-schema-ref-no-deref":            (*conformanceHost).listTools,
	"json-schema-2020-12-preservation":    (*conformanceHost).echoSchema,
}

// conformanceRefusals are the scenarios in which the program must not get, or not use, a token.
var conformanceRefusals = map[string]bool{
	"auth/scope-retry-limit":        true,
	"auth/resource-mismatch":        true,
	"auth/iss-supported-missing":    true,
	"auth/iss-wrong-issuer":         true,
	"auth/iss-unexpected":           true,
	"auth/iss-normalized":           true,
	"auth/metadata-issuer-mismatch": true,
}

func (h *conformanceHost) tools() ([]conformanceTool, error) {
	var list struct{ Tools []conformanceTool }
	err := h.list("tools/list", &list)
	return list.Tools, err
}

func (h *conformanceHost) list(method string, into any) error {
	result, err := h.request(method, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(result, into)
}

// call calls a tool. Where the server wants to know more first (revision 2026-07-28), it is told, and what it gave to be
// kept meanwhile is given back.
func (h *conformanceHost) call(name string, arguments any) error {
	params := map[string]any{"name": name, "arguments": arguments}
	for {
		raw, err := h.request("tools/call", params)
		if err != nil {
			return err
		}
		var result struct {
			ResultType    string
			RequestState  json.RawMessage
			InputRequests map[string]struct {
				Method string
				Params json.RawMessage
			}
		}
		if err := json.Unmarshal(raw, &result); err != nil {
			return err
		}
		if result.ResultType != "input_required" {
			return nil
		}
		responses := make(map[string]any)
		for key, question := range result.InputRequests {
			if responses[key], err = h.reply(question.Method, question.Params); err != nil {
				return err
			}
		}
		params = map[string]any{"name": name, "arguments": arguments, "inputResponses": responses}
		if result.RequestState != nil {
			params["requestState"] = result.RequestState
		}
	}
}

// useTools calls every tool of the server with two numbers, which all but one tool ignore.
func (h *conformanceHost) useTools() error {
	tools, err := h.tools()
	if err != nil {
		return err
	}
	for _, tool := range tools {
		if err := h.call(tool.Name, map[string]any{"a": 2, "b": 3}); err != nil {
			return err
		}
	}
	return nil
}

func (h *conformanceHost) listTools() error {
	_, err := h.tools()
	return err
}

// useEverything calls every tool, reads every resource and gets every prompt.
func (h *conformanceHost) useEverything() error {
	if err := h.useTools(); err != nil {
		return err
	}
	var resources struct{ Resources []struct{ URI string } }
	if err := h.list("resources/list", &resources); err != nil {
		return err
	}
	for _, resource := range resources.Resources {
		if _, err := h.request("resources/read", map[string]any{"uri": resource.URI}); err != nil {
			return err
		}
	}
	var prompts struct{ Prompts []struct{ Name string } }
	if err := h.list("prompts/list", &prompts); err != nil {
		return err
	}
	for _, prompt := range prompts.Prompts {
		if _, err := h.request("prompts/get", map[string]any{"name": prompt.Name}); err != nil {
			return err
		}
	}
	return nil
}

// useGivenArguments lists the tools, then makes the calls that the suite wants to see.
func (h *conformanceHost) useGivenArguments() error {
	if err := h.listTools(); err != nil {
		return err
	}
	for _, call := range h.context.ToolCalls {
		if err := h.call(call.Name, call.Arguments); err != nil {
			return err
		}
	}
	return nil
}

// useValidToolOnly calls whatever tool it sees: only the valid one may be left of the eleven.
func (h *conformanceHost) useValidToolOnly() error {
	tools, err := h.tools()
	if err != nil {
		return err
	}
	for _, tool := range tools {
		if err := h.call(tool.Name, map[string]any{"region": "us-west1"}); err != nil {
			return err
		}
	}
	if len(tools) != 1 {
		return fmt.Errorf("got %d tools, want the valid one only", len(tools))
	}
	return nil
}

// useToolsAmidQuestions calls the tool that asks nothing while another one waits for its answer.
func (h *conformanceHost) useToolsAmidQuestions() error {
	if err := h.listTools(); err != nil {
		return err
	}
	var unrelated error
	h.mu.Lock()
	h.asked = func() { unrelated = h.call("test_mrtr_unrelated", struct{}{}) }
	h.mu.Unlock()
	for _, name := range []string{"test_mrtr_echo_state", "test_mrtr_no_state", "test_mrtr_no_result_type"} {
		if err := errors.Join(h.call(name, struct{}{}), unrelated); err != nil {
			return err
		}
	}
	return nil
}

// echoSchema gives one tool's schema, as it came, to the tool that compares it.
func (h *conformanceHost) echoSchema() error {
	tools, err := h.tools()
	if err != nil {
		return err
	}
	for _, tool := range tools {
		if tool.Name == "json_schema_2020_12_tool" {
			return h.call("json_schema_echo", map[string]any{"schema": tool.InputSchema})
		}
	}
	return errors.New("json_schema_2020_12_tool is not in the list of tools")
}
