package main

// The host that the conformance suite runs as its client under test: it starts the real program as its stdio server.
// It knows nothing of the program but its command line; what it does in each scenario is
// conformance_scripts_test.go's.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// conformanceClientDocument is the client id that auth/basic-cimd expects. Nobody fetches it.
const conformanceClientDocument = "https://conformance-test.local/client-metadata.json"

// conformanceKey is the variable that holds the client's private key.
const conformanceKey = "CONFORMANCE_PRIVATE_KEY"

// conformanceModern is the first revision without initialize.
const conformanceModern = "2026-07-28"

// A conformanceHost is an honest minimal MCP host with the program as its stdio server.
type conformanceHost struct {
	scenario, server string
	revision         string // what the host speaks
	context          struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
		PrivateKey   string `json:"private_key_pem"` // of client_credentials with private_key_jwt
		ToolCalls    []struct {
			Name      string
			Arguments json.RawMessage
		}
	}
	cmd   *exec.Cmd
	stdin io.WriteCloser
	// gone is closed when the program's stdout ends or holds what it must not hold; err says which.
	gone    chan struct{}
	err     error
	refused chan error // the user saw an error page at the end of a sign-in

	mu      sync.Mutex // guards writing to stdin and the fields below
	lastID  int
	waiting map[int]chan conformanceAnswer
	asked   func() // called once, before the host answers the server's first question
}

type conformanceAnswer struct {
	Result json.RawMessage
	Error  *conformanceError
}

type conformanceError struct {
	Code    int
	Message string
	Data    json.RawMessage
}

func (e *conformanceError) Error() string {
	return fmt.Sprintf("answered with error %d: %s", e.Code, e.Message)
}

var errSignInRefused = errors.New("the sign-in ended with an error page")

// conformanceClient is the role "conformance-client" of the test binary. The suite gives the scenario, the revision and
// the scenario's data in the environment, and the server's URL as last argument. It prints "ok" to stdout when
// everything was as a host may expect it, and returns the exit code.
func conformanceClient() int {
	h := &conformanceHost{
		scenario: os.Getenv("MCP_CONFORMANCE_SCENARIO"),
		server:   os.Args[len(os.Args)-1],
		revision: conformanceHostRevision(os.Getenv("MCP_CONFORMANCE_PROTOCOL_VERSION")),
		gone:     make(chan struct{}),
		refused:  make(chan error, 1),
		waiting:  make(map[int]chan conformanceAnswer),
	}
	if err := h.run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance client:", err)
		return 1
	}
	fmt.Println("ok")
	return 0
}

// conformanceHostRevision is what the host speaks in a scenario of a revision: that one, unless the run is for a host of
// an earlier one.
func conformanceHostRevision(scenario string) string {
	if earlier := os.Getenv("MCP_PROXY_CONFORMANCE_HOST"); earlier != "" {
		return earlier
	}
	return scenario
}

func (h *conformanceHost) run() error {
	if data := os.Getenv("MCP_CONFORMANCE_CONTEXT"); data != "" {
		if err := json.Unmarshal([]byte(data), &h.context); err != nil {
			return fmt.Errorf("MCP_CONFORMANCE_CONTEXT: %w", err)
		}
	}
	if err := h.start(); err != nil {
		return err
	}
	return errors.Join(h.play(), h.stop())
}

// play goes through the scenario.
func (h *conformanceHost) play() error {
	script, ok := conformanceScripts[h.scenario]
	if !ok && strings.HasPrefix(h.scenario, "auth/") {
		script, ok = (*conformanceHost).useTools, true
	}
	if !ok {
		return fmt.Errorf("unknown scenario %q", h.scenario)
	}
	err := h.open()
	if err == nil {
		err = script(h)
	}
	if !conformanceRefusals[h.scenario] {
		return err
	}
	var answered *conformanceError
	if errors.As(err, &answered) || errors.Is(err, errSignInRefused) {
		return nil
	}
	if err == nil {
		return errors.New("want an error answer or a refused sign-in, got success")
	}
	return fmt.Errorf("want an error answer or a refused sign-in, got: %w", err)
}

// arguments is the command line of the program.
func (h *conformanceHost) arguments() []string {
	args := []string{"-u", h.server, "--allow-http", "--no-browser", "--login-timeout", "20s"}
	if h.scenario == "auth/basic-cimd" {
		return append(args, "--client-metadata-url", conformanceClientDocument)
	}
	if strings.HasPrefix(h.scenario, "auth/client-credentials-") {
		args = append(args, "--grant", "client_credentials")
	}
	if h.context.PrivateKey != "" {
		return append(args, "-i", h.context.ClientID, "--private-key", "env:"+conformanceKey)
	}
	if h.context.ClientID != "" {
		return append(args, "-i", h.context.ClientID, "-s", h.context.ClientSecret)
	}
	return args
}

// environment is this process's own, with a home of its own for the program and without what would steer it.
func (h *conformanceHost) environment(home string) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "GOOGLE_CLIENT_") && !strings.HasPrefix(name, "MCP_") && !strings.HasPrefix(name, "SSH_") {
			env = append(env, pair)
		}
	}
	return append(env, conformanceKey+"="+h.context.PrivateKey, testRole+"=proxy", "HOME="+home, "MCP_PROXY_CACHE_DIR="+filepath.Join(home, "cache"))
}

func (h *conformanceHost) start() error {
	binary := os.Getenv("MCP_PROXY_CONFORMANCE_BINARY")
	if binary == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		binary = self
	}
	home := os.Getenv("MCP_PROXY_CONFORMANCE_HOME")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	h.cmd = exec.Command(binary, h.arguments()...)
	h.cmd.Env = h.environment(home)
	stdin, err1 := h.cmd.StdinPipe()
	stdout, err2 := h.cmd.StdoutPipe()
	stderr, err3 := h.cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3, h.cmd.Start()); err != nil {
		return err
	}
	h.stdin = stdin
	go h.readMessages(stdout)
	go h.readMessagesForPeople(stderr)
	return nil
}

// stop ends the program as hosts do. Its stdout must end with it: a helper that outlives it may not hold it open.
func (h *conformanceHost) stop() error {
	h.stdin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), conformanceExit)
	defer cancel()
	select {
	case <-h.gone:
	case <-ctx.Done():
		return errors.Join(errors.New("the program did not end when its stdin was closed"), h.cmd.Process.Kill())
	}
	done := make(chan error, 1)
	go func() { done <- h.cmd.Wait() }()
	select {
	case err := <-done:
		if h.err != io.EOF {
			err = errors.Join(h.err, err)
		}
		return err
	case <-ctx.Done():
		return errors.Join(errors.New("the program closed its stdout but did not end"), h.cmd.Process.Kill())
	}
}

// readMessages hands the program's messages to those who wait for them.
func (h *conformanceHost) readMessages(stdout io.Reader) {
	defer close(h.gone)
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if h.err = err; len(line) > 0 {
				h.err = fmt.Errorf("half a line on stdout: %q", line)
			}
			return
		}
		if err := h.take(line); err != nil {
			h.err = err
			return
		}
	}
}

func (h *conformanceHost) take(line []byte) error {
	var message struct {
		JSONRPC string
		ID      json.RawMessage
		Method  string
		Params  json.RawMessage
		conformanceAnswer
	}
	if err := json.Unmarshal(line, &message); err != nil || message.JSONRPC != "2.0" {
		return fmt.Errorf("a line on stdout that is no JSON-RPC message: %q", line)
	}
	switch {
	case message.Method != "" && message.ID != nil:
		go h.answer(message.ID, message.Method, message.Params)
		return nil
	case message.Method != "":
		return nil
	}
	var id int
	if err := json.Unmarshal(message.ID, &id); err != nil {
		return fmt.Errorf("an answer with a foreign id: %q", line)
	}
	h.mu.Lock()
	waiting := h.waiting[id]
	delete(h.waiting, id)
	h.mu.Unlock()
	if waiting == nil {
		return fmt.Errorf("an answer that nobody asked for: %q", line)
	}
	waiting <- message.conformanceAnswer
	return nil
}

// readMessagesForPeople passes the program's stderr on, and follows the sign-in URLs that it shows.
func (h *conformanceHost) readMessagesForPeople(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		fmt.Fprintln(os.Stderr, lines.Text())
		if u, err := url.Parse(strings.TrimSpace(lines.Text())); err == nil && u.IsAbs() && u.Host != "" {
			go h.signIn(u.String())
		}
	}
}

// signIn is the user: opens the page, consents (these authorization servers redirect at once) and looks at what the
// program says in the end.
func (h *conformanceHost) signIn(page string) {
	browser := &http.Client{Timeout: conformanceTimeout}
	resp, err := browser.Get(page)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode < 400 {
			return
		}
		err = fmt.Errorf("%w: %s", errSignInRefused, resp.Status)
	}
	select {
	case h.refused <- err:
	default:
	}
}

func (h *conformanceHost) send(message map[string]any) error {
	message["jsonrpc"] = "2.0"
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err = h.stdin.Write(append(line, '\n'))
	return err
}

// notify sends a notification of the older revisions; the newer one has none that a host must send.
func (h *conformanceHost) notify(method string) error {
	return h.send(map[string]any{"method": method})
}

// request sends a request and waits for its answer.
func (h *conformanceHost) request(method string, params map[string]any) (json.RawMessage, error) {
	if h.revision >= conformanceModern {
		params = h.withMeta(params)
	}
	answer := make(chan conformanceAnswer, 1)
	h.mu.Lock()
	h.lastID++
	id := h.lastID
	h.waiting[id] = answer
	h.mu.Unlock()
	message := map[string]any{"id": id, "method": method}
	if params != nil {
		message["params"] = params
	}
	if err := h.send(message); err != nil {
		return nil, err
	}
	timeout := time.NewTimer(conformanceTimeout)
	defer timeout.Stop()
	select {
	case a := <-answer:
		if a.Error != nil {
			return nil, fmt.Errorf("%s: %w", method, a.Error)
		}
		return a.Result, nil
	case err := <-h.refused:
		return nil, fmt.Errorf("%s: %w", method, err)
	case <-h.gone:
		return nil, fmt.Errorf("%s was not answered: %w", method, h.err)
	case <-timeout.C:
		return nil, fmt.Errorf("%s was not answered in time", method)
	}
}

// conformanceCapabilities are what answer can answer.
func conformanceCapabilities() map[string]any {
	return map[string]any{"elicitation": struct{}{}, "sampling": struct{}{}, "roots": struct{}{}}
}

func conformanceInfo() map[string]any {
	return map[string]any{"name": "conformance-host", "version": "1.0.0"}
}

func (h *conformanceHost) withMeta(params map[string]any) map[string]any {
	with := map[string]any{"_meta": map[string]any{
		"io.modelcontextprotocol/protocolVersion":    h.revision,
		"io.modelcontextprotocol/clientInfo":         conformanceInfo(),
		"io.modelcontextprotocol/clientCapabilities": conformanceCapabilities(),
	}}
	for name, value := range params {
		with[name] = value
	}
	return with
}

// open begins the conversation as a host of its revision does.
func (h *conformanceHost) open() error {
	if h.revision >= conformanceModern {
		return h.discover()
	}
	if _, err := h.request("initialize", map[string]any{
		"protocolVersion": h.revision, "capabilities": conformanceCapabilities(), "clientInfo": conformanceInfo(),
	}); err != nil {
		return err
	}
	return h.notify("notifications/initialized")
}

// discover asks once more where the server refuses the revision (-32022) although it supports it, or another one that
// the host speaks too: the server's list must have come through for that.
func (h *conformanceHost) discover() error {
	_, err := h.request("server/discover", nil)
	var refused *conformanceError
	if !errors.As(err, &refused) || refused.Code != -32022 {
		return err
	}
	var data struct{ Supported []string }
	if err := json.Unmarshal(refused.Data, &data); err != nil {
		return fmt.Errorf("the data of error -32022: %w", err)
	}
	for _, version := range data.Supported {
		if version == h.revision {
			_, err = h.request("server/discover", nil)
		}
	}
	return err
}

// answer answers a request of the server, in the revisions in which a server sends requests.
func (h *conformanceHost) answer(id json.RawMessage, method string, params json.RawMessage) {
	message := map[string]any{"id": id}
	if result, err := h.reply(method, params); err != nil {
		message["error"] = map[string]any{"code": -32601, "message": err.Error()}
	} else {
		message["result"] = result
	}
	if err := h.send(message); err != nil {
		fmt.Fprintln(os.Stderr, "conformance client:", err)
	}
}

// reply is what the host, its user or its model says to a question of the server.
func (h *conformanceHost) reply(method string, params json.RawMessage) (any, error) {
	h.mu.Lock()
	asked := h.asked
	h.asked = nil
	h.mu.Unlock()
	if asked != nil {
		asked()
	}
	switch method {
	case "ping":
		return struct{}{}, nil
	case "roots/list":
		return map[string]any{"roots": []string{}}, nil
	case "sampling/createMessage":
		return map[string]any{"role": "assistant", "model": "none", "content": map[string]any{"type": "text", "text": "yes"}}, nil
	case "elicitation/create":
		return fillForm(params)
	}
	return nil, fmt.Errorf("unknown method %q", method)
}

// fillForm is a user who accepts the defaults and says yes to the rest.
func fillForm(params json.RawMessage) (any, error) {
	var form struct {
		RequestedSchema struct {
			Properties map[string]struct {
				Type    string
				Default json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(params, &form); err != nil {
		return nil, err
	}
	content := make(map[string]any)
	for name, field := range form.RequestedSchema.Properties {
		switch {
		case field.Default != nil:
			content[name] = field.Default
		case field.Type == "boolean":
			content[name] = true
		case field.Type == "string":
			content[name] = "yes"
		default:
			content[name] = 1
		}
	}
	return map[string]any{"action": "accept", "content": content}, nil
}

type conformanceTool struct {
	Name        string
	InputSchema json.RawMessage
}
