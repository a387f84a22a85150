package main

// How the tests run the real program: a testProxy is one process of it and
// the host that talks to it. Every line on stdout is checked, every request must
// be answered exactly once, every process must end cleanly. The machine it
// runs on is in harness_user_test.go.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The role of a process that is the test binary. The browser is told by its
// name instead: it inherits the environment of the program.
const testRole = "MCP_PROXY_TEST_AS"

// testEarly is how long after the sign-in page an initialize is answered; "": as ever.
const testEarly = "MCP_PROXY_TEST_EARLY"

var largeSize = 64 << 20 // bytes of a large message; race_test.go wants less

// testProxy is one process of the program, serving, and the host at its pipes.
type testProxy struct {
	watched
	t        testing.TB
	user     *testUser
	cmd      *exec.Cmd
	stdin    *os.File
	stdout   *os.File
	log      string // stderr is a file: a process that outlives the program may hold it
	lastID   int
	sent     map[string]bool          // ids of requests
	answered map[string][]testMessage // by id; "null" as well
	messages []testMessage            // from the server: notifications and requests
	lines    []string
	eof      bool // stdout is closed
	exited   bool
	exit     int
	killed   bool // need not have answered, nor ended well
}

// startProxy starts the program on a machine of its own.
func startProxy(t testing.TB, args ...string) *testProxy {
	t.Helper()
	return newUser(t).start(args...)
}

// start starts the program as a host does. A forgotten sign-in ends soon.
func (u *testUser) start(args ...string) *testProxy {
	u.t.Helper()
	stdin, hostIn, err := os.Pipe()
	fatal(u.t, err)
	return u.startWith(stdin, hostIn, args...)
}

// startWith starts the program with stdin, of which hostIn is the other end.
func (u *testUser) startWith(stdin, hostIn *os.File, args ...string) *testProxy {
	u.t.Helper()
	p := &testProxy{t: u.t, user: u, sent: map[string]bool{}, answered: map[string][]testMessage{}}
	if !slices.Contains(args, "--login-timeout") && !slices.Contains(args, "--auth-timeout") {
		args = append(slices.Clone(args), "--login-timeout", testPatience.String())
	}
	p.cmd = u.command(args...)
	hostOut, stdout, err := os.Pipe()
	fatal(u.t, err)
	p.log = filepath.Join(u.dir, fmt.Sprintf("stderr-%d", len(u.started)))
	stderr, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	fatal(u.t, err)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, stdout, stderr
	p.stdin, p.stdout = hostIn, hostOut
	if u.prepare != nil {
		u.prepare(p.cmd)
	}
	fatal(u.t, p.cmd.Start())
	for _, theirs := range []*os.File{stdin, stdout, stderr} {
		theirs.Close()
	}
	u.started = append(u.started, p)
	go p.read()
	go func() {
		p.cmd.Wait()
		p.change(func() { p.exited, p.exit = true, p.cmd.ProcessState.ExitCode() })
	}()
	u.t.Cleanup(p.finish)
	return p
}

// finish ends the program as a host does, unless the test did, and checks what it leaves.
func (p *testProxy) finish() {
	p.closeStdin()
	p.wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.sent {
		if n := len(p.answered[id]); n == 0 && !p.killed {
			p.t.Errorf("request %s: got no answer", id)
		}
	}
	p.user.checkText("stderr", p.stderr())
	p.user.checkSecrets("stdout", strings.Join(p.lines, ""))
	if p.t.Failed() {
		p.t.Logf("%s", p.transcript())
	}
}

// transcript is all that the process said. The lock is held.
func (p *testProxy) transcript() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q\n--- stdout\n", p.cmd.Args[1:])
	for i, line := range p.lines {
		if i < 40 || i > len(p.lines)-10 {
			fmt.Fprintf(&b, "%.400s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	fmt.Fprintf(&b, "--- stderr\n%.20000s", p.stderr())
	return b.String()
}

// read takes what the program writes until it closes stdout.
func (p *testProxy) read() {
	r := bufio.NewReaderSize(p.stdout, 1<<16)
	for {
		line, err := r.ReadString('\n')
		p.change(func() {
			if line != "" {
				p.receive(line, err == nil)
			}
			p.eof = p.eof || err != nil
		})
		if err != nil {
			return
		}
	}
}

// receive files a line of stdout. The lock is held.
func (p *testProxy) receive(line string, whole bool) {
	p.lines = append(p.lines, line)
	var m testMessage
	err := json.Unmarshal([]byte(line), &m)
	m.line = strings.TrimSuffix(line, "\n")
	switch id := string(m.ID); {
	case err != nil || !whole || m.JSONRPC != "2.0" || strings.ContainsAny(m.line, "\r"):
		if !p.killed {
			p.t.Errorf("stdout: got %.300q, want one JSON-RPC message in a line (%v)", line, err)
		}
	case m.Method != "":
		p.messages = append(p.messages, m)
	case (m.Error == nil) == (m.Result == nil):
		p.t.Errorf("stdout: got %.300q, want either a result or an error", line)
	case id != "null" && !p.sent[id]:
		p.t.Errorf("stdout: got an answer to %s, which was not asked: %.300q", id, line)
	default:
		if p.answered[id] = append(p.answered[id], m); id != "null" && len(p.answered[id]) > 1 {
			p.t.Errorf("request %s: got %d answers, the last %.300q", id, len(p.answered[id]), line)
		}
	}
}

// await waits until cond, called with the lock held, is true.
func (p *testProxy) await(what string, cond func() bool) {
	p.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	if !p.watched.wait(ctx, cond) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.t.Fatalf("waited %v in vain for %s", testPatience, what)
	}
}

// send writes lines as they are. Requests among them have to be answered.
func (p *testProxy) send(lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		var m testMessage
		if json.Unmarshal([]byte(line), &m) == nil && m.isRequest() {
			p.expect(string(m.ID))
		}
	}
	if _, err := io.WriteString(p.stdin, strings.Join(lines, "\n")+"\n"); err != nil {
		p.t.Fatalf("stdin: %v", err)
	}
}

// expect says that an answer to id has to come.
func (p *testProxy) expect(id string) { p.change(func() { p.sent[id] = true }) }

// unexpect says that no answer to id may come: the request was cancelled.
func (p *testProxy) unexpect(id string) { p.change(func() { delete(p.sent, id) }) }

// request sends a request with the next id. params may be "".
func (p *testProxy) request(method, params string) (id string) {
	p.t.Helper()
	p.change(func() { p.lastID++; id = fmt.Sprint(p.lastID) })
	p.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q%s}`, id, method, paramsOf(params)))
	return id
}

// modernMeta is what makes a message one of revision 2026-07-28.
const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}`

// modern sends a request of revision 2026-07-28 with the next id. params are members, or "".
func (p *testProxy) modern(method, params string) (id string) {
	p.t.Helper()
	if params != "" {
		params += ","
	}
	return p.request(method, "{"+params+modernMeta+"}")
}

func (p *testProxy) notify(method, params string) {
	p.t.Helper()
	p.send(fmt.Sprintf(`{"jsonrpc":"2.0","method":%q%s}`, method, paramsOf(params)))
}

func paramsOf(params string) string {
	if params == "" {
		return ""
	}
	return `,"params":` + params
}

// answer waits for the answer to a request.
func (p *testProxy) answer(id string) (m testMessage) {
	p.t.Helper()
	p.await("the answer to "+id, func() bool { return len(p.answered[id]) > 0 || p.eof })
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.answered[id]) == 0 {
		p.t.Fatalf("stdout was closed before the answer to %s", id)
	}
	return p.answered[id][0]
}

// result waits for the answer and wants it to be a result.
func (p *testProxy) result(id string) string {
	p.t.Helper()
	m := p.answer(id)
	if m.Error != nil {
		p.t.Fatalf("request %s: got error %d %q, want a result", id, m.Error.Code, m.Error.Message)
	}
	return string(m.Result)
}

// failure waits for the answer and wants it to be an error.
func (p *testProxy) failure(id string) testError {
	p.t.Helper()
	m := p.answer(id)
	if m.Error == nil {
		p.t.Fatalf("request %s: got %.300q, want an error", id, m.line)
	}
	return *m.Error
}

// refusals waits for n answers to nobody (id null).
func (p *testProxy) refusals(n int) []testMessage {
	p.t.Helper()
	p.await(fmt.Sprintf("%d answers with id null", n), func() bool { return len(p.answered["null"]) >= n })
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.answered["null"])
}

// received waits for n messages of that method from the server.
func (p *testProxy) received(method string, n int) (got []testMessage) {
	p.t.Helper()
	p.await(fmt.Sprintf("%d messages %s", n, method), func() bool {
		got = nil
		for _, m := range p.messages {
			if m.Method == method {
				got = append(got, m)
			}
		}
		return len(got) >= n
	})
	return got
}

// call sends a request and waits for its result.
func (p *testProxy) call(method, params string) string {
	p.t.Helper()
	return p.result(p.request(method, params))
}

const initializeParams = `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}`

// initialize is what every host does first.
func (p *testProxy) initialize() {
	p.t.Helper()
	p.call("initialize", initializeParams)
	p.notify("notifications/initialized", "")
}

func echoParams(text string) string {
	return fmt.Sprintf(`{"name":"echo","arguments":{"text":%q}}`, text)
}

// echo calls the tool and checks what it says.
func (p *testProxy) echo(text string) {
	p.t.Helper()
	p.echoed(p.request("tools/call", echoParams(text)), text)
}

// echoed checks the answer to a call of echo.
func (p *testProxy) echoed(id, text string) {
	p.t.Helper()
	want := fmt.Sprintf(`{"content":[{"type":"text","text":%q}]}`, text)
	if got := p.result(id); got != want {
		p.t.Errorf("echo: got %.300s, want %.300s", got, want)
	}
}

// stderr is what the program has told people so far.
func (p *testProxy) stderr() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// awaitStderr waits for a text on stderr.
func (p *testProxy) awaitStderr(text string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%q on stderr", text), func() bool { return strings.Contains(p.stderr(), text) })
}

// awaitURL waits for the n-th sign-in URL on stderr.
func (p *testProxy) awaitURL(n int) string {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%d sign-in URLs on stderr", n), func() bool {
		return len(printedURL.FindAllString(p.stderr(), -1)) >= n
	})
	return printedURL.FindAllString(p.stderr(), -1)[n-1]
}

func (p *testProxy) closeStdin() { p.stdin.Close() }

// closeStdout is a host that no longer reads.
func (p *testProxy) closeStdout() {
	p.change(func() { p.eof = true })
	p.stdout.Close()
}

// stopSignals are what a host stops the program with. Windows knows no signals
// between processes: hosts close stdin there, or kill.
func stopSignals() map[string]os.Signal {
	if runtime.GOOS == "windows" {
		return nil
	}
	signals := map[string]os.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": os.Interrupt}
	if !signal.Ignored(syscall.SIGHUP) { // the tests run under nohup
		signals["SIGHUP"] = syscall.SIGHUP
	}
	return signals
}

// endings are the ways in which a host ends the program.
func endings() map[string]func(p *testProxy) {
	all := map[string]func(p *testProxy){"EOF": func(p *testProxy) { p.closeStdin() }}
	for name, s := range stopSignals() {
		s := s
		all[name] = func(p *testProxy) { p.signal(s) }
	}
	return all
}

// signal ends the test where there are no signals between processes.
func (p *testProxy) signal(s os.Signal) {
	p.t.Helper()
	if runtime.GOOS == "windows" {
		p.kill()
		p.t.Skip("Windows knows no signals between processes")
	}
	fatal(p.t, p.cmd.Process.Signal(s))
}

// kill ends the process as kill -9 does.
func (p *testProxy) kill() {
	p.t.Helper()
	p.change(func() { p.killed = true })
	fatal(p.t, p.cmd.Process.Kill())
	p.wait()
}

// wait waits for the end of the process and wants a good one.
func (p *testProxy) wait() {
	p.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	if !p.watched.wait(ctx, func() bool { return p.exited }) {
		p.t.Errorf("the program did not end within %v", testPatience)
		p.change(func() { p.killed = true })
		p.cmd.Process.Kill()
	}
	p.await("the end of stdout: does a child of the program hold it?", func() bool { return p.exited && p.eof })
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit != 0 && !p.killed {
		p.t.Errorf("exit code: got %d, want 0", p.exit)
	}
}

// eventually waits for what no channel tells: files that processes write.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := patience()
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v in vain for: %s", testPatience, what)
		}
	}
}

func parsedURL(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	fatal(t, err)
	return u
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// freePort is a port that was free a moment ago.
func freePort(t testing.TB) int {
	t.Helper()
	for i := 0; i < 1000; i++ {
		port := int(nextPort.Add(1))%lowPorts + firstLowPort
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// Below those that systems give to whoever asks for any: else one of these takes
// the port before the program does. No two tests get the same.
const firstLowPort, lowPorts = 10240, 20000

var nextPort = func() *atomic.Int64 {
	var at atomic.Int64
	at.Store(time.Now().UnixNano() % lowPorts) // another run of the tests begins elsewhere
	return &at
}()

// checkMode wants these permissions, where the system has such.
func checkMode(t testing.TB, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	fatal(t, err)
	if got := info.Mode().Perm(); got != want && runtime.GOOS != "windows" {
		t.Errorf("%s: got mode %o, want %o", filepath.Base(path), got, want)
	}
}
