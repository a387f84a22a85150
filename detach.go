package main

// One sign-in per server and profile, whatever number of processes and messages
// wait for it. A host may kill this process while the user still types the
// password, so a short-lived detached process of the same program leads the
// sign-in; everybody else waits for its lock and looks into the store. What a
// sign-in consists of is login.go's.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// detachedCommand is internal: its order comes on stdin, because everybody
	// on the machine can read the arguments of a process.
	detachedCommand = "detached-login"
	detachedReady   = "ready"
	maxOrder        = 1 << 20          // bytes
	detachWait      = 10 * time.Second // for the detached process to come up
	followGrace     = 3 * time.Second  // for the leader to say that its time is over
	maxDetached     = 3                // started for one message
	firstFollow     = 20 * time.Millisecond
	followInterval  = 500 * time.Millisecond // a shorter one would cost a waiting process 1 ms of CPU a second
	lockLogin       = "login"                // held while somebody signs in
	lockRefresh     = "refresh"              // held from reading a token to storing its successor
)

// detachedOrder is what the detached process is told.
type detachedOrder struct {
	Args      []string  `json:"args"`
	Challenge challenge `json:"challenge"`
	Used      string    `json:"used,omitempty"` // the token that will not do
	Seen      time.Time `json:"seen"`           // when the sign-in before this one ended
	Parent    string    `json:"traceparent,omitempty"`
}

// signIn gets another token than the one used. Messages that wait together
// share one outcome, also a failure: one refusal is not asked about twice.
func (o *oauth) signIn(ctx context.Context, ch challenge, used string) error {
	asked := time.Now()
	if err := o.signingIn.take(ctx); err != nil {
		return err
	}
	defer o.signingIn.give()
	if now := o.reread().Token.Access; now != used && now != "" {
		return nil
	}
	if o.failedAt.After(asked) || isLasting(o.failure) && time.Since(o.failedAt) < retryPause {
		return o.failure
	}
	ctx, span := o.trace.start(ctx, "oauth wait for sign-in", spanInternal)
	defer span.end()
	waiting, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	go func() {
		select {
		case <-o.leaving:
			leave(errLeft)
		case <-waiting.Done():
		}
	}()
	err := o.follow(waiting, ch, used)
	if errors.Is(context.Cause(waiting), errLeft) {
		return errLeft
	}
	if err != nil {
		span.fail("sign-in")
		if ctx.Err() == nil {
			o.failure, o.failedAt = err, time.Now()
		}
		return err
	}
	o.log.notice("mcp-proxy: signed in to " + o.cfg.server.Host)
	return nil
}

var errLeft = errors.New("the client closed stdin before anybody signed in; the sign-in page stays good for a while, so sign in and start again")

// leave ends the waiting for a sign-in; the detached process goes on with it.
func (o *oauth) leave() { close(o.leaving) }

// follow waits until somebody has signed in, and starts a leader when there is none.
func (o *oauth) follow(ctx context.Context, ch challenge, used string) error {
	until := time.Now().Add(o.cfg.loginTimeout + followGrace)
	seen := o.store.loadLogin(o.key).Ended
	shown, started, here, leader := signInPage{}, 0, false, 0
	for pause := firstFollow; ; pause = min(2*pause, followInterval) {
		unlock, free, err := o.store.tryLock(o.key, lockLogin)
		if err != nil {
			return err
		}
		state := o.store.loadLogin(o.key)
		over := state.endedSince(seen)
		going := !free && state.Ended.IsZero()
		if state.URL != "" && state.signInPage != shown && (going || over) {
			o.show(state.signInPage)
		}
		shown = state.signInPage // also of one that died: it leads nowhere
		if going && state.PID != 0 {
			leader = state.PID
		}
		switch {
		case free && state.PID == 0 && isAlive(leader):
			// The user removed the cache, and the lock with it: the page is open all
			// the same, and its token will be stored.
			unlock()
		case free:
			done, err := o.outcome(state, over, used)
			switch {
			case done:
			case started == maxDetached:
				done, err = true, errors.New("the sign-in ended without an outcome")
			case here || !o.store.keeps(o.key): // nowhere to hand a token over
				done, err = true, o.lead(ctx, ch, used)
			}
			unlock()
			if done {
				return err
			}
			started++
			if err := o.detach(ctx, detachedOrder{Challenge: ch, Used: used, Seen: seen}); err != nil && ctx.Err() == nil {
				o.log.warnf("the sign-in runs in this process: %v", err)
				here = true
			}
			until = time.Now().Add(o.cfg.loginTimeout + followGrace) // its time begins now
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
		if time.Now().After(until) {
			return o.nobodySignedIn()
		}
	}
}

// outcome tells whether the sign-in is done with, and how. The caller has its lock.
func (o *oauth) outcome(state loginState, over bool, used string) (done bool, err error) {
	now := o.reread().Token.Access
	switch {
	case now != used && now != "":
		return true, nil
	case over && (state.Error != "" || now != ""):
		return true, state.failure()
	}
	return false, nil
}

// isAlive tells whether a process is there, where the system tells. Windows
// does not: there nobody can remove the file of a lock that is held.
func isAlive(pid int) bool {
	if pid <= 0 {
		return false
	}
	process, err := os.FindProcess(pid)
	return err == nil && process.Signal(syscall.Signal(0)) == nil
}

// endedSince tells whether another sign-in has ended than the one that the
// note spoke of when it was seen. Times are not put in order: clocks jump.
func (st loginState) endedSince(seen time.Time) bool {
	return !st.Ended.IsZero() && !st.Ended.Equal(seen)
}

// failure is the outcome of somebody else's sign-in.
func (st loginState) failure() error {
	if st.Error == "" {
		return errors.New("the sign-in ended without a token that the server takes")
	}
	err := error(authError{errors.New(st.Error)})
	if st.Lasting {
		err = lastingFailure{err}
	}
	if st.Hint != "" {
		err = withHint(err, "%s", st.Hint)
	}
	return err
}

// detach starts the process that leads the sign-in, and returns when it holds
// the lock or has found that somebody else does.
func (o *oauth) detach(ctx context.Context, order detachedOrder) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	order.Args, order.Parent = o.cfg.args, spanOf(ctx).traceparent()
	text, err := json.Marshal(order)
	if err != nil {
		return err
	}
	cmd := exec.Command(program, detachedCommand)
	cmd.SysProcAttr = detachedProcess()
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(io.LimitReader(out, 64)).ReadString('\n')
		ready <- err
		cmd.Wait() // reaps it, if this process lives as long
	}()
	timer := time.NewTimer(detachWait)
	defer timer.Stop()
	select {
	case err := <-ready:
		return err
	case <-timer.C:
		return errors.New("the detached sign-in did not come up")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// runDetached is the detached process: it signs in, if nobody else does.
func runDetached(ctx context.Context, stdin io.Reader, stdout io.Writer, getenv func(string) string) error {
	var order detachedOrder
	if err := json.NewDecoder(io.LimitReader(stdin, maxOrder)).Decode(&order); err != nil {
		return usagef("%s is internal: use mcp-proxy login", detachedCommand)
	}
	cfg, err := parseArgs(order.Args, getenv)
	if err != nil {
		return err
	}
	if err := cfg.makeAbsolute(); err != nil {
		return err
	}
	a, err := newApp(cfg, nil)
	if err != nil {
		return err
	}
	defer a.close()
	leaveDirectory()
	unlock, free, err := a.auth.store.tryLock(a.auth.key, lockLogin)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, detachedReady)
	if !free {
		return nil
	}
	defer unlock()
	// While this process came up another one may have led and ended.
	now := a.auth.reread().Token.Access
	if now != order.Used && now != "" || a.auth.store.loadLogin(a.auth.key).endedSince(order.Seen) {
		return nil
	}
	a.auth.handsOver = true
	return a.auth.lead(withRemoteParent(ctx, order.Parent), order.Challenge, order.Used)
}

// makeAbsolute keeps what leaveDirectory would lose. A $BROWSER without a path
// is looked for in $PATH.
func (c *config) makeAbsolute() (err error) {
	if c.cacheDir != "" {
		c.cacheDir, err = filepath.Abs(c.cacheDir)
	}
	if err == nil && filepath.Base(c.browser) != c.browser && c.browser != "" {
		c.browser, err = filepath.Abs(c.browser)
	}
	return err
}

// leaveDirectory lets go of the host's working directory, which may be on a
// disk that is to be unmounted. What was named relative to it is read before.
func leaveDirectory() {
	_, _ = x509.SystemCertPool() // reads $SSL_CERT_FILE, once
	dir, _ := os.Getwd()         // it may be gone
	_ = os.Chdir(filepath.VolumeName(dir) + string(filepath.Separator))
}

// leader is the one sign-in that is going on.
type leader struct {
	*oauth

	mu    sync.Mutex // guards state
	state loginState
}

// lead signs in and tells the others by the login state: the URL, then the outcome.
func (o *oauth) lead(ctx context.Context, ch challenge, used string) error {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.loginTimeout)
	defer cancel()
	l := &leader{oauth: o}
	earlier := o.store.loadLogin(o.key)
	l.update(func(st *loginState) {
		*st = loginState{PID: os.Getpid(), Started: time.Now(), Windows: earlier.Windows}
	})
	err := o.authorize(ctx, ch, used, l.ask)
	l.update(func(st *loginState) {
		st.Ended = time.Now()
		if err != nil {
			st.Error, st.Hint, st.Code, st.Lasting = err.Error(), hintOf(err), exitCode(err), isLasting(err)
		}
	})
	return err
}

func (l *leader) update(change func(*loginState)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.state)
	if err := l.store.saveLogin(l.key, l.state); err != nil {
		l.log.debugf("login state: %v", err)
	}
}

// ask shows the URL to everybody who waits, and opens a window.
func (l *leader) ask(ctx context.Context, page signInPage, start, purpose string) {
	l.update(func(st *loginState) { st.signInPage = page })
	l.show(page)
	if l.cfg.opensBrowser() && start != "" {
		go l.window(ctx, start, purpose)
	}
}

// window opens a browser, once the last window for the same purpose is long
// enough ago: a loop of sign-ins must not flood the user's desktop.
func (l *leader) window(ctx context.Context, address, purpose string) {
	l.mu.Lock()
	wait := brake(l.state.Windows, purpose, time.Now())
	l.mu.Unlock()
	if wait > 0 {
		l.log.infof("a window for this sign-in was opened a moment ago: the next one comes in %v", wait.Round(time.Second))
		if !sleep(ctx, wait) {
			return // signed in meanwhile by the printed URL
		}
	}
	l.update(func(st *loginState) { st.Windows = append(recent(st.Windows, time.Now()), window{time.Now(), purpose}) })
	if err := openBrowser(l.cfg.browser, address); err != nil {
		l.log.warnf("no browser could be opened (%v): open the URL by hand", err)
	}
}

// show tells the user where to sign in. The URL stands on a line of its own,
// to be copied.
func (o *oauth) show(page signInPage) {
	if page.Note != "" {
		o.log.notice(page.Note)
	}
	if page.UserCode != "" {
		o.log.notice(page.deviceWords(o.cfg.server.Host))
		return
	}
	address := page.URL
	text := "mcp-proxy: sign in to " + o.cfg.server.Host + " in the browser"
	if o.cfg.opensBrowser() {
		text += "; if no window opens, use this address:"
	} else {
		text += " at this address:"
	}
	text += "\n" + address
	if port := callbackPort(address); o.cfg.sshServer != "" && port != "" {
		text += fmt.Sprintf("\nhint: this is an SSH session; first run on your own machine: ssh -L %s:localhost:%s %s", port, port, o.cfg.sshServer)
	}
	o.log.notice(text)
	if o.shown != nil {
		o.shown(address)
	}
}

func callbackPort(address string) string {
	if redirect := redirectOf(address); redirect != nil {
		return redirect.Port()
	}
	return ""
}

// redirectOf is where a sign-in page sends the browser back to; nil if it does not.
func redirectOf(address string) *url.URL {
	u, err := url.Parse(address)
	if err != nil {
		return nil
	}
	redirect, err := url.Parse(u.Query().Get("redirect_uri"))
	if err != nil || redirect.Host == "" {
		return nil
	}
	return redirect
}
