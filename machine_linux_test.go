package main

// Faults of the machine: a disk that is full, no descriptors left, names that cannot be resolved, a
// process that was stopped for a while. Each request is answered, the user is told, and when the
// fault is over so is its effect. And what the program holds of the messages that have passed:
// /proc shows it.

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// inNamespace has the program start on a machine of its own as far as mounts
// go, which a script sets up; it skips the test where the system allows no such
// thing to users. What is mounted there the test sees below the path returned
// by rootOf.
func inNamespace(t *testing.T, user *testUser, script string) {
	t.Helper()
	isolated := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	probe := exec.Command("sh", "-c", "mount -t tmpfs none /mnt")
	probe.SysProcAttr = isolated
	if out, err := probe.CombinedOutput(); err != nil {
		t.Skipf("no mounts for users on this system: %v %s", err, out)
	}
	user.prepare = func(cmd *exec.Cmd) {
		cmd.SysProcAttr = isolated
		throughShell(t, cmd, script)
	}
}

// throughShell has a script run before the program, in the same process.
func throughShell(t *testing.T, cmd *exec.Cmd, script string) {
	t.Helper()
	shell, err := exec.LookPath("sh")
	fatal(t, err)
	cmd.Args = append([]string{shell, "-ec", script + "\nexec \"$0\" \"$@\"", cmd.Path},
		cmd.Args[1:]...)
	cmd.Path = shell
}

// rootOf is where the test sees the files of a process as the process does.
func rootOf(p *testProxy) string { return fmt.Sprintf("/proc/%d/root", p.cmd.Process.Pid) }

// The disk is full from before the sign-in on: the session works all the same,
// one warning says what is lost, and with room again the tokens are kept.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	fatal(t, os.Mkdir(user.cache, 0o700))
	inNamespace(t, user, `mount -t tmpfs -o size=64k,mode=700 none "$MCP_PROXY_CACHE_DIR"
dd if=/dev/zero of="$MCP_PROXY_CACHE_DIR/hog" bs=4k 2>/dev/null || :`)
	p := user.start("-u", server.url)
	p.initialize()
	p.echo("signed in")
	auth.expireAccess()
	p.echo("refreshed")
	if got := linesWith(p.stderr(), "is lost when this process ends: "); got != 1 ||
		!strings.Contains(p.stderr(), syscall.ENOSPC.Error()) {
		t.Errorf("stderr speaks of the disk %d times, want a word about it:\n%s", got, p.stderr())
	}
	wantOneSignIn(t, user, server)
	inside := filepath.Join(rootOf(p), user.credentialsFile(server.url))
	if data, err := os.ReadFile(inside); err == nil {
		t.Errorf("the full disk holds %q", data)
	}
	fatal(t, os.Remove(filepath.Join(rootOf(p), user.cache, "hog")))
	auth.expireAccess()
	p.echo("refreshed again")
	data, err := os.ReadFile(inside)
	fatal(t, err)
	if !auth.leaked(string(data)) {
		t.Errorf("with room again the file holds no token: %q", data)
	}
	if auth.reuses != 0 {
		t.Errorf("a refresh token was used %d times again", auth.reuses)
	}
}

// No descriptor is left for another connection: what cannot be sent is answered
// with the reason, and what comes when there is one again gets its result.
func TestNoDescriptorsLeft(t *testing.T) {
	t.Parallel()
	server := startMCP(t, "http/1.1") // a connection for each call
	user := newUser(t)
	user.prepare = func(cmd *exec.Cmd) { throughShell(t, cmd, "ulimit -n 16") }
	p := user.start("-u", server.url)
	p.initialize()
	release := server.hold("tools/call echo")
	var ids []string
	for i := 0; i < 30; i++ {
		ids = append(ids, p.request("tools/call", echoParams(fmt.Sprint(i))))
	}
	eventually(t, "answers to what cannot be sent", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.answered)-1+server.count("tools/call echo") == len(ids) // initialize was answered before
	})
	release()
	failures := 0
	for i, id := range ids {
		m := p.answer(id)
		if m.Error == nil {
			p.echoed(id, fmt.Sprint(i))
			continue
		}
		failures++
		if !strings.Contains(m.Error.Message, "too many open files") ||
			!strings.Contains(m.Error.Message, "hint: ") {
			t.Errorf("got %q, want a word about open files", m.Error.Message)
		}
	}
	if failures == 0 || failures == len(ids) {
		t.Errorf("got %d failures of %d calls, want some", failures, len(ids))
	}
	p.echo("there is room again")
}

// The name of the server cannot be resolved, then it can: no restart is needed.
func TestNameServiceGone(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	user := newUser(t)
	hosts, resolver := filepath.Join(user.dir, "hosts"), filepath.Join(user.dir, "resolv.conf")
	fatal(t, os.WriteFile(hosts, nil, 0o600))
	fatal(t, os.WriteFile(resolver, []byte("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n"),
		0o600)) // where nobody listens
	user.env["GODEBUG"] = "netdns=go"
	inNamespace(t, user, "mount --bind hosts /etc/hosts\nmount --bind resolv.conf \"$(readlink -f /etc/resolv.conf)\"")
	p := user.start("-u", strings.Replace(server.url, "127.0.0.1", "mcp.test", 1))
	got := p.failure(p.request("initialize", initializeParams))
	if !strings.Contains(got.Message, "mcp.test") ||
		!strings.Contains(got.Message, "the name cannot be resolved; hint: ") {
		t.Errorf("got %q, want a word about the name", got.Message)
	}
	fatal(t, os.WriteFile(hosts, []byte("127.0.0.1 mcp.test\n"), 0o600))
	eventually(t, "an answer when the name is known again", func() bool {
		return p.answer(p.request("initialize", initializeParams)).Error == nil
	})
	p.notify("notifications/initialized", "")
	p.echo("as if nothing had been")
}

// The process is stopped, as by a laptop that is closed or a debugger, while the
// server goes away and comes back: what was under way is answered, what was said
// meanwhile is heard, and nothing is sent twice.
func TestStoppedForAWhile(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		protocol := protocol
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t, protocol)
			server.listens = true
			p := newUser(t).start("-u", server.url)
			p.initialize()
			server.await("GET", 1)
			lost := server.hold("tools/call lost")
			defer lost()
			var under []string
			for i := 0; i < 5; i++ {
				under = append(under, p.request("tools/call", `{"name":"lost","arguments":{}}`))
			}
			server.await("tools/call lost", len(under))
			p.signal(syscall.SIGSTOP)
			eventually(t, "the process is stopped", func() bool {
				return strings.Fields(proc(p.cmd.Process.Pid, "stat"))[2] == "T"
			})
			server.restart(0)
			server.push(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"awake?"}}`)
			var said []string
			for i := 0; i < 20; i++ {
				said = append(said, p.request("tools/call", echoParams(fmt.Sprint(i))))
			}
			p.signal(syscall.SIGCONT)
			for _, id := range under {
				if got := p.failure(id); !strings.Contains(got.Message, "127.0.0.1") {
					t.Errorf("got %q, want the server's name", got.Message)
				}
			}
			failed := 0
			for i, id := range said {
				if m := p.answer(id); m.Error != nil {
					failed++ // it went out on a connection that was dead, and may have been processed
					continue
				}
				p.echoed(id, fmt.Sprint(i))
			}
			p.received("notifications/message", 1) // on a stream that was opened anew
			p.echo("awake")
			if sent := server.count("tools/call lost") +
				server.count("tools/call echo"); sent > len(under)+len(said)+1 {
				t.Errorf("%d calls were sent %d times", len(under)+len(said)+1, sent)
			}
			t.Logf("%d of %d calls that were made meanwhile failed", failed, len(said))
		})
	}
}

// The memory of a large message goes back to the system, whichever way it came.
func TestLargeMessagesAreForgotten(t *testing.T) {
	const size, kept = 32 << 20, 16 // bytes, and MiB: half of it
	if largeSize < size {
		t.Skip("the race detector keeps memory of its own")
	}
	for _, how := range []string{"body", "event", "request"} {
		how := how
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			text := `"` + strings.Repeat("x", size) + `"`
			server.on("tools/call large", func(w http.ResponseWriter, r *fakeRequest) bool {
				switch how {
				case "request":
					return says(200, "application/json", r.msg.result(`{}`))(w, r)
				case "event":
					startEvents(w).send("data: " + r.msg.result(text))
					return true
				}
				return says(200, "application/json", r.msg.result(text))(w, r)
			})
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.echo("before")
			before := usageOf(p.cmd.Process.Pid).resident
			if how == "request" {
				p.call("tools/call", `{"name":"large","arguments":{"text":`+text+`}}`)
			} else {
				p.call("tools/call", `{"name":"large"}`)
			}
			now := 0.0
			eventually(t, fmt.Sprintf("no more than %d MiB kept of %d", kept, size>>20),
				func() bool {
					now = usageOf(p.cmd.Process.Pid).resident
					return now < before+kept
				})
			t.Logf("%.1f MiB before, %.1f after", before, now)
		})
	}
}

// What a server sends in bulk costs a small multiple of its size, and a few lines on stderr.
func TestBulk(t *testing.T) {
	size, lines := largeSize/32, 12
	fill := func(unit string) string { return strings.Repeat(unit, size/len(unit)) }
	event := func(data string) fakeAnswer {
		return func(w http.ResponseWriter, r *fakeRequest) bool {
			startEvents(w).send(data + "data: " + r.msg.result(`{}`))
			return true
		}
	}
	for name, answer := range map[string]fakeAnswer{
		"a batch":             rpcBody(`[` + fill(`1,`) + `1]`),
		"a batch in an event": event("data: [" + fill(`1,`) + "1]\n\n"),
		"events":              event(fill("data: 1\n\n")),
		"data lines":          event(fill("data\n") + "\n"),
		"answers to nobody":   event(fill(`data: {"jsonrpc":"2.0","id":"no","result":{}}` + "\n\n")),
		"an id":               event(`data: {"jsonrpc":"2.0","id":"` + fill("1") + `","result":{}}` + "\n\n"),
		"nesting":             rpcBody(fill("[")),
		"tools":               rpcResult(`{"tools":[` + fill(`{"name":"a","inputSchema":{"x-mcp-header":1}},`) + `1]}`),
		"small tools":         rpcResult(`{"tools":[` + fill(`1,`) + `1]}`),
		"what the tools teach": rpcResult(`{"tools":[` +
			fill(`{"name":"\u0061","inputSchema":{"properties":{"p":{"type":"string","x-mcp-header":"P"}}}},`) + `1]}`),
		"inputs": rpcResult(`{"resultType":"input_required","inputRequests":{` + fill(`"a":1,`) + `"b":1}}`),
	} {
		answer := answer
		t.Run(name, func(t *testing.T) {
			server := startFuture(t)
			server.reply("tools/call bulk", answer)
			server.reply("tools/list", answer)
			p := startProxy(t, "-u", server.url, "--ignore-tool", "hidden*")
			p.opens()
			p.echo("before")
			before := usageOf(p.cmd.Process.Pid).resident
			if strings.Contains(name, "tools") {
				p.call("tools/list", `{}`)
			} else {
				p.answer(p.request("tools/call", `{"name":"bulk"}`))
			}
			if got := strings.Count(p.stderr(), "\n"); got > lines || len(p.stderr()) > 1000*lines {
				t.Errorf("%d lines on stderr, want at most %d: %.3000s", got, lines, p.stderr())
			}
			peak := usageOf(p.cmd.Process.Pid).peak - before
			t.Logf("%.1f MiB for %d", peak, size>>20)
			if most := 6*float64(size>>20) + 16; largeSize > 4<<20 && peak > most { // the race detector has memory of its own
				t.Errorf("%.0f MiB were used for %d, want at most %.0f", peak, size>>20, most)
			}
		})
	}
}

func rpcBody(body string) fakeAnswer { return says(200, "application/json", body) }
