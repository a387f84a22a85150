package main

// What a detached process must not do to the host that its parent had: hold
// its pipes, its directory, its secrets. /proc tells.

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
			began := time.Now()
			timeout := "2s"
			if strings.HasPrefix(name, "the user") {
				timeout = "5m"
			}
			p := user.start("-u", server.url, "--login-timeout", timeout)
			id := p.request("initialize", initializeParams)
			user.awaitEnd(p)
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("the detached process ended after %v", took)
			}
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
	first := user.start("-u", server.url)
	first.request("initialize", initializeParams)
	user.awaitOpenings(1)
	leader := user.awaitLeader(server.url, 0).PID
	t.Cleanup(func() { syscall.Kill(leader, syscall.SIGKILL) })
	fatal(t, syscall.Kill(leader, syscall.SIGSTOP))
	second := user.start("-u", server.url, "--login-timeout", "1s")
	began := time.Now()
	if got := second.failure(second.request("initialize", initializeParams)); !strings.Contains(got.Message, "nobody signed in") {
		t.Errorf("got %q, want it to say that nobody signed in", got.Message)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("waited %v for a sign-in that may take 1s", took)
	}
	first.kill()
}

// holdLock takes a lock for a user's server until the test is over.
func holdLock(t testing.TB, u *testUser, purpose string) {
	t.Helper()
	release, ok, err := openStore(u.cache, nil).tryLock(storeKey{server: u.env["TEST_SERVER"]}, purpose)
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

// A process that waits for somebody else's sign-in costs next to nothing: 50 ms
// of processor time in 30 s. MCP_PROXY_TEST_IDLE=30s measures for that long, on
// MCP_PROXY_TEST_BINARY if given.
func TestWaitingCostsLittle(t *testing.T) {
	t.Parallel()
	span, limit := 3*time.Second, 15*time.Millisecond // the race detector takes its share
	server, auth := startProtected(t)
	user := newUser(t, auth, server)
	user.browser = "ignore"
	user.binary = os.Getenv("MCP_PROXY_TEST_BINARY")
	if given := os.Getenv("MCP_PROXY_TEST_IDLE"); given != "" {
		var err error
		span, err = time.ParseDuration(given)
		fatal(t, err)
		limit = 50 * time.Millisecond * span / (30 * time.Second)
	}
	leader := user.start("-u", server.url, "--login-timeout", "5m")
	leader.request("initialize", initializeParams)
	user.awaitOpenings(1)
	follower := user.start("-u", server.url, "--login-timeout", "5m")
	follower.request("initialize", initializeParams)
	follower.awaitURL(1)
	pid := follower.cmd.Process.Pid
	before := processorTime(t, pid)
	<-time.After(span) // idleness is what is measured
	spent := processorTime(t, pid) - before
	follower.kill() // or it would wait a while for the user
	leader.kill()
	t.Logf("%v of processor time in %v", spent, span)
	if spent > limit {
		t.Errorf("waiting cost %v of processor time in %v, want at most %v", spent, span, limit)
	}
}
