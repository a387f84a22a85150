package main

// A person at a terminal: the program's stdin is a pseudo terminal.

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

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
		{nil, "what works, and what would help", 1},
		{[]string{"-u", "https://mcp.example.invalid/mcp"}, "mcp-proxy: waiting for an MCP client on stdin, Ctrl-C ends", 0},
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
