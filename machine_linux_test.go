package main

// What only Linux shows, by /proc, mounts and a pseudo terminal. Faults of the machine: each request is
// answered, the user is told, and when the fault is over so is its effect. What the program holds of
// the messages that have passed. What a detached process must not do to the host that its parent had.
// A person at a terminal.

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
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
	if got := linesWith(p.stderr(), "kept only until this process ends: "); got != 1 ||
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

// halfPipes lists a process's descriptors that are one end of a pipe, the other
// end being somebody else's. Go's own poller has both ends of one, up to Go 1.22.
func halfPipes(t *testing.T, pid int) map[string]string {
	t.Helper()
	pipes, ends := descriptors(t, pid), map[string]int{}
	for _, target := range pipes {
		ends[target]++
	}
	for fd, target := range pipes {
		if !strings.HasPrefix(target, "pipe:") || ends[target] > 1 {
			delete(pipes, fd)
		}
	}
	return pipes
}

// running tells whether a process does its work; a zombie does not.
func running(pid int) bool { return proc(pid, "environ") != "" }

// The whole process group of the host is killed, and its pipes break.
func TestHostKilledWithItsGroup(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	user.prepare = func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
	first := user.start("-u", server.url)
	first.request("initialize", initializeParams)
	page := user.awaitOpenings(1)
	user.prepare = nil
	second := user.start("-u", server.url)
	id := second.request("initialize", initializeParams)
	second.awaitURL(1)
	first.change(func() { first.killed = true })
	fatal(t, syscall.Kill(-first.cmd.Process.Pid, syscall.SIGKILL))
	first.wait()
	user.paste(page)
	second.result(id)
	user.awaitEnd(second)
	wantOneSignIn(t, user, server)
}

// A host that closed stderr, or reads it no more, still gets its answers.
func TestBrokenStderr(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	r, w, err := os.Pipe()
	fatal(t, err)
	defer w.Close()
	user.prepare = func(cmd *exec.Cmd) { cmd.Stderr = w }
	fatal(t, r.Close())
	p := user.start("-u", server.url, "--log-level", "debug")
	p.initialize()
	p.echo("unheard")
	user.awaitEnd(p)
	wantOneSignIn(t, user, server)
}

// What the host gave the proxy it gets back when the proxy is killed, although
// the detached process lives on.
func TestDetachedProcessHoldsNothing(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	secret := auth.addClient("the-client", "client_secret_basic").secret
	auth.methods = []string{"client_secret_basic"}
	stderr, theirs, err := os.Pipe()
	fatal(t, err)
	stray, strayEnd, err := os.Pipe() // a descriptor that the host forgot to close
	fatal(t, err)
	user.prepare = func(cmd *exec.Cmd) { cmd.Stderr, cmd.ExtraFiles = theirs, []*os.File{strayEnd} }
	p := user.start("-u", server.url, "-i", "the-client", "-s", secret, "--login-timeout", "5m")
	theirs.Close()
	strayEnd.Close()
	p.request("initialize", initializeParams)
	page := user.awaitOpenings(1)
	leader := user.awaitLeader(server.url, 0).PID

	if got, want := strings.Trim(proc(leader, "cmdline"), "\x00"), testShared().binary+"\x00"+detachedCommand; got != want {
		t.Errorf("arguments: got %q, want %q", got, want)
	}
	if got, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", leader)); got != "/" {
		t.Errorf("working directory: got %q (%v), want /", got, err)
	}
	fields := strings.Fields(proc(leader, "stat"))
	if session := fields[5]; session != strconv.Itoa(leader) {
		t.Errorf("session: got %s, want one of its own, %d", session, leader)
	}
	host := descriptors(t, p.cmd.Process.Pid)
	for n, target := range halfPipes(t, leader) {
		if n > "2" {
			t.Errorf("descriptor %s is %s", n, target)
		}
		for m, theirs := range host {
			if target == theirs && m <= "3" && len(m) == 1 {
				t.Errorf("descriptor %s is the proxy's descriptor %s", n, m)
			}
		}
	}

	killed := time.Now()
	p.kill() // waits for the end of stdout
	for _, r := range []*os.File{stderr, stray} {
		fatal(t, r.SetReadDeadline(time.Now().Add(testPatience)))
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("a pipe of the host is held open: %v", err)
		}
		r.Close()
	}
	if !running(leader) {
		t.Error("the detached process died with the proxy")
	}
	t.Logf("the host saw the end of all pipes %v after the kill", time.Since(killed).Round(time.Millisecond))
	user.paste(page)
	user.awaitEnd()
}

// The host's working directory may be gone by the time somebody signs in.
func TestWorkingDirectoryRemoved(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	dir := filepath.Join(user.dir, "project")
	fatal(t, os.Mkdir(dir, 0o700))
	user.prepare = func(cmd *exec.Cmd) { cmd.Dir = dir }
	p := user.start("-u", server.url)
	fatal(t, os.Remove(dir))
	id := p.request("initialize", initializeParams)
	page := user.awaitOpenings(1)
	if got, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", user.awaitLeader(server.url, 0).PID)); got != "/" {
		t.Errorf("working directory: got %q (%v), want /", got, err)
	}
	user.paste(page)
	p.result(id)
	user.awaitEnd(p)
	wantOneSignIn(t, user, server)
}

// After a sign-in the proxy has no pipes, locks or children left of it.
func TestSignInLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	p := user.start("-u", server.url)
	p.initialize()
	user.awaitEnd(p)
	pid := p.cmd.Process.Pid
	eventually(t, "the proxy to close and reap all of the sign-in", func() bool {
		n := len(proc(pid, fmt.Sprintf("task/%d/children", pid)))
		for fd, target := range halfPipes(t, pid) {
			if fd != "0" && fd != "1" && !inherited(t, target) {
				n++
			}
		}
		for _, target := range descriptors(t, pid) {
			if strings.HasSuffix(target, ".lock") && strings.HasPrefix(target, user.dir) {
				n++
			}
		}
		return n == 0
	})
}

// inherited tells whether a pipe came from whoever runs the tests.
func inherited(t *testing.T, pipe string) bool {
	for _, target := range descriptors(t, os.Getpid()) {
		if target == pipe {
			return true
		}
	}
	return false
}

// A sign-in ends when its time is over, whatever it waits for at that moment.
func TestDetachedProcessEndsInTime(t *testing.T) {
	for name, prepare := range map[string]func(s *fakeMCP, u *testUser){
		"nobody signs in":     func(_ *fakeMCP, u *testUser) { u.browser = "ignore" },
		"discovery hangs":     func(s *fakeMCP, _ *testUser) { s.hold("PRM") },
		"registration hangs":  func(s *fakeMCP, _ *testUser) { s.auth.hold("register") },
		"the token hangs":     func(s *fakeMCP, _ *testUser) { s.auth.hold("token authorization_code") },
		"the user says no":    func(_ *fakeMCP, u *testUser) { u.browser = "deny" },
		"the user signs in":   func(*fakeMCP, *testUser) {},
		"the refresh is held": func(_ *fakeMCP, u *testUser) { holdLock(u.t, u, lockRefresh) },
	} {
		name, prepare := name, prepare
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startProtected(t)
			user := newUser(t, auth, server)
			user.env["TEST_SERVER"] = server.url
			prepare(server, user)
			timeout := "2s"
			if strings.HasPrefix(name, "the user") {
				timeout = "5m"
			}
			p := user.start("-u", server.url, "--login-timeout", timeout)
			id := p.request("initialize", initializeParams)
			user.awaitEnd(p)
			if name == "the user signs in" {
				p.result(id)
			} else {
				p.failure(id)
			}
		})
	}
}

// A leader that is stopped is not waited for beyond the time for a sign-in.
func TestLeaderStopped(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	first := user.start("-u", server.url, "--login-timeout", "5m")
	first.request("initialize", initializeParams)
	user.awaitOpenings(1)
	leader := user.awaitLeader(server.url, 0).PID
	t.Cleanup(func() { syscall.Kill(leader, syscall.SIGKILL) })
	fatal(t, syscall.Kill(leader, syscall.SIGSTOP))
	second := user.start("-u", server.url, "--login-timeout", "1s")
	if got := second.failure(second.request("initialize", initializeParams)); !strings.Contains(got.Message, "nobody signed in") {
		t.Errorf("got %q, want it to say that nobody signed in", got.Message)
	}
	first.kill()
}

// holdLock takes a lock for a user's server until the test is over.
func holdLock(t testing.TB, u *testUser, purpose string) {
	t.Helper()
	release, ok, err := openStore(u.cache, nil).tryLock(storeKey{Server: u.env["TEST_SERVER"]}, purpose)
	if !ok || err != nil {
		t.Fatalf("lock: %v, %v", ok, err)
	}
	t.Cleanup(release)
}

// processorTime is the time that all threads of a process have spent on a processor.
func processorTime(t *testing.T, pid int) (total time.Duration) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	fatal(t, err)
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		var ns int64
		if _, err := fmt.Sscan(string(data), &ns); err == nil {
			total += time.Duration(ns)
		}
	}
	return total
}

// A process that waits for somebody else's sign-in looks for its end some times a second. With
// MCP_PROXY_TEST_IDLE=30s it does so for that long, and 50 ms of processor time in 30 s are
// allowed, on MCP_PROXY_TEST_BINARY if given.
func TestWaitingCostsLittle(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	user.binary = os.Getenv("MCP_PROXY_TEST_BINARY")
	span, err := time.ParseDuration(os.Getenv("MCP_PROXY_TEST_IDLE"))
	measured := err == nil
	if !measured {
		span = 3 * time.Second
	}
	leader := user.start("-u", server.url, "--login-timeout", "5m")
	leader.request("initialize", initializeParams)
	user.awaitOpenings(1)
	leader.kill() // what it began goes on, and is not counted
	follower := user.start("-u", server.url, "--login-timeout", "5m")
	follower.request("initialize", initializeParams)
	follower.awaitURL(1)
	pid := follower.cmd.Process.Pid
	before, opened := processorTime(t, pid), watchOpens(t, user.cache, "."+lockLogin+".lock")
	<-time.After(span) // idleness is what is measured
	spent, looks := processorTime(t, pid)-before, opened()
	follower.kill() // or it would wait a while for the user
	t.Logf("%d looks and %v of processor time in %v", looks, spent, span)
	if most := int(span/maxFollow) + 10; looks == 0 || looks > most {
		t.Errorf("looked %d times in %v, want %d at most", looks, span, most)
	}
	if limit := 50 * time.Millisecond * span / (30 * time.Second); measured && spent > limit {
		t.Errorf("waiting cost %v of processor time in %v, want at most %v", spent, span, limit)
	}
}

// Who waits for a lock tries it a few times a second. How long a try takes is the machine's matter.
func TestLockWaitingCostsLittle(t *testing.T) {
	t.Parallel()
	s, _ := testStore(t, closedDir(t))
	other, _ := testStore(t, s.dir)
	release, ok, err := other.tryLock(testKey, lockLogin)
	if !ok || err != nil {
		t.Fatalf("got %v, %v", ok, err)
	}
	defer release()
	opened := watchOpens(t, s.dir, "."+lockLogin+".lock")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s.lock(ctx, testKey, lockLogin)
	if tries := opened(); tries == 0 || tries > 20 {
		t.Errorf("%d tries in two seconds, want 20 at most", tries)
	}
}

// watchOpens counts how often a file of a directory whose name ends so is opened.
func watchOpens(t *testing.T, dir, ending string) (opened func() int) {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	fatal(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	_, err = syscall.InotifyAddWatch(fd, dir, syscall.IN_OPEN|syscall.IN_CLOSE) // two alike would be one
	fatal(t, err)
	return func() (n int) {
		events := make([]byte, 1<<20)
		size, err := syscall.Read(fd, events)
		fatal(t, err)
		return bytes.Count(events[:size], []byte(ending+"\x00")) / 2
	}
}

// openTerminal returns the two ends: what is typed is written to the first.
func openTerminal(t *testing.T) (keyboard, stdin *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	fatal(t, err)
	var number, unlocked uint32
	for request, value := range map[uintptr]*uint32{syscall.TIOCSPTLCK: &unlocked, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, keyboard.Fd(), request, uintptr(unsafe.Pointer(value))); errno != 0 {
			t.Fatal(errno)
		}
	}
	stdin, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	fatal(t, err)
	return keyboard, stdin
}

// startInTerminal starts a command, and returns what to type on.
func (u *testUser) startInTerminal(t *testing.T, args ...string) (p *testProxy, keyboard *os.File) {
	t.Helper()
	keyboard, stdin := openTerminal(t)
	return u.startWith(stdin, keyboard, args...), keyboard
}

// landing is where a browser on another machine ends: the address that cannot be shown there.
func landing(t *testing.T, page string) string {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: testShared().pki.roots}, DisableKeepAlives: true}
	resp, err := (&http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}).Get(page)
	fatal(t, err)
	resp.Body.Close()
	return resp.Header.Get("Location")
}

// The browser is elsewhere: the address where it ends is pasted, wrong ones before it.
func TestLoginByPasting(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	p, keyboard := user.startInTerminal(t, "login", "-u", server.url, "--no-browser")
	page := p.awaitURL(1)
	p.awaitStderr("paste here")
	good := landing(t, page)
	redirect, _, _ := strings.Cut(good, "?")
	stolen := parsedURL(t, good)
	q := stolen.Query()
	q.Set("state", "another")
	stolen.RawQuery = q.Encode()
	complaint := regexp.MustCompile("(?m)^mcp-proxy: that is not.*")
	for i, test := range []struct{ typed, says string }{
		{"yes please", "that is not where the sign-in page leads to"},
		{strings.Replace(good, parsedURL(t, good).Host, parsedURL(t, server.url).Host, 1), "that is not where the sign-in page leads to"},
		{stolen.String(), "that is not the answer to this sign-in"},
		{redirect + "?" + url.Values{"state": {"x"}, "error": {"access_denied"}}.Encode(), "that is not the answer to this sign-in"},
	} {
		io.WriteString(keyboard, test.typed+"\n")
		var complaints []string
		eventually(t, "a complaint", func() bool {
			complaints = complaint.FindAllString(p.stderr(), -1)
			return len(complaints) == i+1
		})
		if !strings.HasPrefix(complaints[i], "mcp-proxy: "+test.says) {
			t.Errorf("%s: got %q, want %q", test.typed, complaints[i], test.says)
		}
	}
	io.WriteString(keyboard, "  '"+good+"#_=_'\n")
	p.wait()
	p.awaitStderr("signed in to")
	checkCredentials(t, user, server)
}

// The sign-in is another process's, of a client that has no terminal.
func TestPastingForAnotherProcess(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	p := user.start("-u", server.url)
	id := p.request("initialize", initializeParams)
	page := p.awaitURL(1)
	login, keyboard := user.startInTerminal(t, "login", "-u", server.url)
	login.awaitURL(1)
	io.WriteString(keyboard, landing(t, page)+"\n")
	p.result(id)
	login.wait()
}

// With a device code nothing is pasted, whatever its address looks like: what is typed is left to
// the shell.
func TestDeviceLeavesTheTerminal(t *testing.T) {
	t.Parallel()
	server, auth, user := startDevices(t)
	auth.device = func(doc map[string]any) {
		doc["verification_uri"] = auth.base + "/device?redirect_uri=http://127.0.0.1:6379/x"
	}
	keyboard, stdin := openTerminal(t)
	shell, err := syscall.Open(stdin.Name(), syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	fatal(t, err)
	defer syscall.Close(shell)
	io.WriteString(keyboard, "typed ahead\n")
	p := user.startWith(stdin, keyboard, "login", "-u", server.url, "--device")
	p.wait()
	p.awaitStderr("signed in to")
	line := make([]byte, 64)
	if n, err := syscall.Read(shell, line); err != nil || string(line[:n]) != "typed ahead\n" {
		t.Errorf("got %q, %v, want what was typed", line[:max(n, 0)], err)
	}
	if strings.Contains(p.stderr(), "paste here") {
		t.Errorf("got %q, want nothing to paste", p.stderr())
	}
}

// A refusal that is pasted ends the sign-in, as it does in the browser.
func TestPastedRefusal(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	auth.denies = true
	user := newUser(t, auth, server)
	p, keyboard := user.startInTerminal(t, "login", "-u", server.url, "--no-browser")
	page := p.awaitURL(1)
	io.WriteString(keyboard, landing(t, page)+"\n")
	p.change(func() { p.killed = true }) // it must not end well
	p.wait()
	p.awaitStderr("access_denied")
	if p.exit != 2 || strings.Contains(p.stderr(), "that is not") {
		t.Errorf("got exit code %d, %q", p.exit, p.stderr())
	}
}

// Who starts the program by hand learns what it is for.
func TestStartedByHand(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		says string
		exit int
	}{
		{nil, "walk the way to the server, say what helps", 1},
		{[]string{"-u", "https://mcp.example.invalid/mcp"}, "mcp-proxy: waiting for an MCP client; Ctrl-C ends; for people: login, doctor\n", 0},
	} {
		user := newUser(t)
		keyboard, stdin := openTerminal(t)
		cmd := user.command(test.args...)
		var stderr strings.Builder
		cmd.Stdin, cmd.Stderr = stdin, &stderr
		_, err := io.WriteString(keyboard, "\x04") // the end of input
		fatal(t, err)
		_ = cmd.Run()
		if exit := cmd.ProcessState.ExitCode(); exit != test.exit || !strings.Contains(stderr.String(), test.says) {
			t.Errorf("%q: got exit code %d, %q", test.args, exit, stderr.String())
		}
		keyboard.Close()
		stdin.Close()
	}
}
