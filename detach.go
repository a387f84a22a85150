package main

// One sign-in per server and profile for all processes that want it: one leads, the others wait for
// its lock and read its note in the store. A host may kill this process while the user still types
// the password, so the leader is a short-lived detached process of the same program. What a sign-in
// consists of is in signin.go.

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

const (
	// detachedCommand is internal: its order comes on stdin, because everybody on the machine can
	// read the arguments of a process.
	detachedCommand = "detached-login"
	detachedReady   = "ready\n"
	maxOrder        = 1 << 20          // bytes
	detachWait      = 10 * time.Second // for the detached process to come up
	followGrace     = 3 * time.Second  // for the leader to say that its time is over
	maxDetached     = 3                // started for one message
	firstFollow     = 20 * time.Millisecond
	maxFollow       = 500 * time.Millisecond // each costs a waiting process 0.5 ms of CPU
	windowInterval  = time.Minute            // between browser windows that led to no token
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

// signIn gets another token than the one used. Messages that wait together share one outcome.
func (o *oauth) signIn(ctx context.Context, ch challenge, used string) (err error) {
	asked := time.Now()
	if err := o.signingIn.take(ctx); err != nil {
		return err
	}
	defer o.signingIn.give()
	if now := o.stored(); now != used && now != "" {
		return nil
	}
	if o.failedAt.After(asked) || isLasting(o.failure) && time.Since(o.failedAt) < retryPause {
		return o.failure
	}
	ctx, span := o.trace.start(ctx, "oauth wait for sign-in", spanInternal)
	defer func() { span.endWith(err) }()
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-o.leaving:
			stop()
		case <-waiting.Done():
		}
	}()
	err = o.follow(waiting, detachedOrder{Challenge: ch, Used: used}, false)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		err = errLeft
	}
	o.asked()
	if err == nil {
		o.log.notice("mcp-proxy: signed in to " + o.cfg.server.Host)
	} else if ctx.Err() == nil {
		o.failure, o.failedAt = err, time.Now()
	}
	return err
}

var errCancelled = errorKind{authErrorf("sign-in cancelled"), "cancelled"}
var errLeft = errorKind{errors.New("the client closed stdin before anybody signed in; " +
	"the sign-in page stays good for a while, so sign in and start again"), "cancelled"}

// follow waits until a sign-in has ended, and finds a leader if there is none. With login this
// process is the one, for a user who asked for it.
func (o *oauth) follow(ctx context.Context, order detachedOrder, login bool) error {
	waiting, cancel := context.WithTimeout(ctx, o.cfg.loginTimeout+followGrace)
	defer cancel()
	order.Seen = o.store.loadLogin(o.key).Ended
	here, started := login, 0
	var page signInPage // that the user of this process was shown
	var notices int     // of those that came with it
	for wait := time.Duration(0); sleep(waiting, wait); wait = min(2*wait+firstFollow, maxFollow) {
		note, unlock, ended, outcome := o.look(order)
		isLed := unlock == nil && !ended
		if isLed && note.Ended.IsZero() || note.endedSince(order.Seen) {
			if note.signInPage != page && note.URL != "" {
				notices = 0
				if login {
					o.log.notice("mcp-proxy: another process is signing in already")
				}
				o.show(note)
			}
			for ; notices < len(note.Notices); notices++ {
				o.log.notice("mcp-proxy: " + note.Notices[notices])
			}
		}
		page = note.signInPage // also that of a leader that died: it leads nowhere
		switch {
		case ended:
			return outcome
		case isLed:
			continue
		case here || !o.store.keeps(o.key): // nowhere to hand a token over
			defer unlock()
			return o.lead(ctx, order, login)
		}
		unlock()
		if started++; started > maxDetached {
			return errors.New("the sign-in ended without an outcome")
		}
		if err := o.detach(ctx, order); err != nil && ctx.Err() == nil {
			o.log.warnf("the sign-in runs in this process: %v", err)
			here = true
		}
	}
	if ctx.Err() != nil {
		return errCancelled
	}
	return o.nobodySignedIn()
}

// look tries the lock, and looks at the note and the token. ended: there is another token, or a
// sign-in has failed, with that outcome. If none has ended and nobody leads one (none was begun, or
// its leader died), the caller has the lock; else unlock is nil.
func (o *oauth) look(order detachedOrder) (note loginState, unlock func(), ended bool, err error) {
	unlock, free, err := o.store.tryLock(o.key, lockLogin)
	note = o.store.loadLogin(o.key)
	if !free {
		return note, nil, err != nil, err
	}
	token := o.stored()
	switch {
	case token != "" && token != order.Used:
	case note.endedSince(order.Seen) && (note.Error != "" || token != ""):
		err = note.failure()
	default:
		return note, unlock, false, nil
	}
	unlock()
	return note, nil, true, err
}

// endedSince reports whether another sign-in has ended than the one that had ended at seen. Times
// are not put in order: clocks jump.
func (st loginState) endedSince(seen time.Time) bool {
	return !st.Ended.IsZero() && !st.Ended.Equal(seen)
}

// failure is the outcome of somebody else's sign-in.
func (st loginState) failure() error {
	if st.Error == "" {
		return errors.New("the sign-in ended without a token that the server takes")
	}
	err := error(errorKind{authError{errors.New(st.Error)}, st.Type})
	if st.Lasting {
		err = lastingFailure{err}
	}
	return withHint(err, "%s", st.Hint)
}

// detach starts the process that leads the sign-in, out of the reach of the host, and returns when
// it holds the lock or has found that somebody else does.
func (o *oauth) detach(ctx context.Context, order detachedOrder) error {
	order.Args, order.Parent = o.cfg.args, spanOf(ctx).traceparent()
	text, _ := json.Marshal(order) // strings, and a time that was read from a note
	program, _ := os.Executable()  // without it none is started
	var cmd *exec.Cmd
	var out io.Reader
	var err error
	for _, attributes := range detachedProcess() { // the first that the system allows
		cmd = exec.Command(program, detachedCommand)
		cmd.SysProcAttr, cmd.Stdin = attributes, bytes.NewReader(text)
		if out, err = cmd.StdoutPipe(); err == nil {
			err = cmd.Start()
		}
		if err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	go func() {
		_, err = io.ReadFull(out, make([]byte, len(detachedReady)))
		close(ready)
		cmd.Wait() // reaps it, if this process lives as long
	}()
	if !awaitClosed(ctx, ready, detachWait) {
		return errors.New("the detached sign-in did not come up")
	}
	return err
}

// runDetached is the detached process: it signs in, if nobody else does.
func runDetached(
	ctx context.Context, stdin io.Reader, stdout io.Writer, getenv func(string) string) error {
	var order detachedOrder
	if err := json.NewDecoder(io.LimitReader(stdin, maxOrder)).Decode(&order); err != nil {
		return usagef("%s is internal: use mcp-proxy login", detachedCommand)
	}
	cfg, err := parseArgs(order.Args, getenv)
	if err == nil && cfg.cacheDir != "" {
		cfg.cacheDir, err = filepath.Abs(cfg.cacheDir)
	}
	if err != nil {
		return err
	}
	a, err := newApp(cfg, nil)
	if err != nil {
		return err
	}
	o := a.auth
	defer func() { o.lingering.linger(ctx) }() // last: nobody waits for that
	defer a.trace.close()
	// The host's working directory may be on a disk that is to be unmounted. What was named
	// relative to it has been read.
	_, _ = x509.SystemCertPool()   // reads $SSL_CERT_FILE, once
	cfg.browserDir, _ = os.Getwd() // it may be gone
	_ = os.Chdir(filepath.VolumeName(cfg.browserDir) + string(filepath.Separator))
	_, unlock, _, _ := o.look(order)
	io.WriteString(stdout, detachedReady)
	if unlock == nil { // while this process came up another one has led, or does
		return nil
	}
	defer unlock()
	o.handsOver = true
	return o.lead(withRemoteParent(ctx, order.Parent), order, false)
}

// leader is the one sign-in that is going on for a server.
type leader struct {
	*oauth
	doubtful      bool      // the registration may be lost: nobody came back with an answer
	lastWindow    time.Time // of an earlier sign-in, which led to no token
	registrations int       // with a device code and with a browser together

	mu   sync.Mutex // guards note
	note loginState
}

// lead signs in and tells the others by the note: the page, then the outcome.
func (o *oauth) lead(ctx context.Context, order detachedOrder, login bool) error {
	last := o.store.loadLogin(o.key)
	if o.led.Started.After(last.Started) {
		last = o.led
	}
	if login { // for which a window always opens, and no token was refused
		order.Used, last.Window = "", time.Time{}
	}
	limited, cancel := context.WithTimeout(ctx, o.cfg.loginTimeout)
	defer cancel()
	l := &leader{oauth: o, doubtful: last.Doubtful, lastWindow: last.Window}
	begun := loginState{PID: os.Getpid(), Started: time.Now(), Window: last.Window}
	l.change(func(note *loginState) { *note = begun })
	err := l.authorize(limited, order.Challenge, order.Used)
	o.led = l.change(func(note *loginState) {
		if note.Ended = time.Now(); err == nil {
			note.Window = time.Time{}
			return
		}
		note.Error, note.Hint, note.Type = err.Error(), hintOf(err), errorType(err)
		note.Lasting, note.Doubtful = isLasting(err), l.doubtful
	})
	return err
}

func (l *leader) change(change func(*loginState)) loginState {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.note.Ended.IsZero() {
		return l.note // what is stored may be another leader's by now
	}
	change(&l.note)
	if err := l.store.saveLogin(l.key, l.note); err != nil {
		l.log.debugf("note of the sign-in: %v", err)
	}
	return l.note
}

// ask shows the page to everybody who waits, and opens a browser at start if that is not empty; ctx
// ends with the wait for it. A loop of sign-ins that lead to no token must not fill the user's
// desktop: then the next window waits a minute from the last.
func (l *leader) ask(ctx context.Context, page signInPage, start string) {
	l.show(l.change(func(note *loginState) { note.signInPage, note.Notices = page, nil }))
	if start == "" || !l.cfg.opensBrowser() {
		return
	}
	go func() {
		age := time.Since(l.lastWindow) // negative if the clock was set back
		if wait := windowInterval - age; age >= 0 && wait > 0 {
			l.notify("a window was opened a moment ago, and nobody signed in: the next one opens " +
				"in " + inWords(wait))
			if !sleep(ctx, wait) {
				return // signed in meanwhile by the printed URL
			}
		}
		l.change(func(note *loginState) { note.Window = time.Now() })
		if err := openBrowser(l.cfg.browser, l.cfg.browserDir, start); err != nil {
			l.notify(fmt.Sprintf("no browser could be opened (%v): open the address by hand", err))
		}
	}()
}

// notify tells everybody who waits.
func (l *leader) notify(text string) {
	l.change(func(note *loginState) { note.Notices = append(note.Notices, text) })
	l.log.notice("mcp-proxy: " + text)
}

// show tells the user where to sign in. The URL stands on a line of its own, to be copied.
func (o *oauth) show(note loginState) {
	how, redirect := "in the browser at this address", redirectOf(note.URL)
	if note.UserCode != "" { // no browser comes back, whatever the address says
		how, redirect = "in any browser: open this address and enter the code "+note.UserCode, nil
	} else if o.cfg.opensBrowser() {
		how = "in the browser; if no window opens, use this address"
	}
	text := note.Note + "mcp-proxy: sign in to " + o.cfg.server.Host + " " + how + ":\n" + note.URL
	if note.Complete != "" {
		text += "\nor this one, which holds the code; it must show the same:\n" + note.Complete
	}
	switch {
	case redirect == nil || redirect.Port() == "":
	case o.cfg.sshServer != "":
		text += fmt.Sprintf("\nhint: this is an SSH session; first run on your own machine: "+
			"ssh -L %[1]s:localhost:%[1]s %s", redirect.Port(), o.cfg.sshServer)
	case o.cfg.container && o.cfg.browser == "": // else the host has set up the way, as editors do
		text += fmt.Sprintf("\nhint: a browser outside this container does not reach port %s: "+
			"add --device, or paste the address where it ends into %s, "+
			"or run the container with --network host", redirect.Port(), o.cfg.typed("login"))
	}
	o.log.notice(text)
	o.shown(redirect)
}
