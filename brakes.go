package main

// What keeps a broken server from driving the program, or the user's desktop,
// in circles: how often browser windows are opened, and what is no longer tried
// with a server that refuses all it is brought. It knows nothing of how these
// things are done.

import (
	"errors"
	"sync"
	"time"
)

const (
	windowInterval = time.Minute // between two browser windows for the same purpose
	maxWindows     = 3           // per windowInterval, whatever they are for
	brakeTime      = time.Minute // how long what was in vain is not tried again
	maxFruitless   = 3           // tokens in a row that a server refuses at first sight
)

// recent are the windows of the last minute; one from the future is of a clock
// that jumped, and does not count.
func recent(windows []window, now time.Time) []window {
	var kept []window
	for _, w := range windows {
		if age := now.Sub(w.Opened); age >= 0 && age < windowInterval {
			kept = append(kept, w)
		}
	}
	return kept
}

// brake is how long the next window has to wait.
func brake(windows []window, purpose string, now time.Time) time.Duration {
	windows = recent(windows, now)
	var wait time.Duration
	for i, w := range windows {
		if w.Purpose == purpose || len(windows)-i >= maxWindows {
			wait = windowInterval - now.Sub(w.Opened)
		}
	}
	return wait
}

// verdicts are what the MCP server said of the tokens it was sent.
type verdicts struct {
	mu           sync.Mutex // guards all
	taken        string     // the last token that it took
	gained       string     // the token that the last sign-in brought which this process waited for
	lastRefused  string
	fruitless    int       // tokens it refused at first sight since then
	fruitlessAt  time.Time // the last of them
	insatiableAt time.Time // when a message's last step-up did not do either
}

// took notes that the server took a token.
func (v *verdicts) took(token string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if token != "" {
		v.taken, v.fruitless = token, 0
	}
}

// refused notes a 401 about a token. One that was good before has expired or
// was revoked; of the others each counts once, however many messages it came with.
func (v *verdicts) refused(token string, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if token == "" || token == v.taken || token == v.lastRefused {
		return
	}
	v.lastRefused, v.fruitlessAt = token, now
	v.fruitless++
}

// hasTaken tells whether the token was good in this process's time.
func (v *verdicts) hasTaken(token string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return token == v.taken
}

func (v *verdicts) gain(token string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gained = token
}

func (v *verdicts) hasGained(token string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return token == v.gained
}

// allowRefresh is false for a while once several new tokens in a row were refused.
func (v *verdicts) allowRefresh(now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fruitless < maxFruitless || now.Sub(v.fruitlessAt) >= brakeTime
}

// insatiable notes that a message was refused for want of a scope after all
// the step-ups it may cause.
func (v *verdicts) insatiable(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.insatiableAt = now
}

func (v *verdicts) allowStepUp(now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.insatiableAt.IsZero() || now.Sub(v.insatiableAt) >= brakeTime
}

// allowSignIn refuses to ask the user again right after a sign-in whose token
// the server did not take: the next one would be refused as well. revoked says
// that the authorization server has taken the refresh token back; then another
// process's sign-in proves nothing. used is the token that was refused.
func (o *oauth) allowSignIn(ch challenge, used string, revoked bool) error {
	last := o.store.loadLogin(o.key)
	age := time.Since(last.Ended)
	now := o.reread()
	switch {
	case used == "" || used != now.Token.Access || o.verdicts.hasTaken(used):
		return nil
	case last.Error != "" || age < 0 || age >= brakeTime:
		return nil
	case revoked && !o.verdicts.hasGained(used):
		return nil
	case ch.Error == insufficientScope && unionScope(now.RequestedScope, ch.Scope) != now.RequestedScope && o.verdicts.allowStepUp(time.Now()):
		return nil
	}
	return o.refusesNewToken()
}

func (o *oauth) refusesNewToken() error {
	err := authErrorf("%s answers 401 to the token that its authorization server has just given", o.cfg.server.Host)
	return withHint(err, "the two disagree, about the resource or the scope: try --resource or --scope, or tell the server's operator; the next sign-in is possible in a minute")
}

// lastingFailure is another process's failure of that kind.
type lastingFailure struct{ error }

func (l lastingFailure) Unwrap() error { return l.error }

// isLasting tells whether a sign-in failed by the authorization server's word
// against this program. With the same settings it says the same again, after
// one more registration and one more consent of the user. A user's no and a
// network's trouble are of another kind.
func isLasting(err error) bool {
	var told lastingFailure
	var refused registrationRefused
	var answer *responseError
	if errors.As(err, &answer) {
		return answer.code != "server_error" && answer.code != "temporarily_unavailable"
	}
	var unusable *tokenError
	return isRejected(err) || errors.As(err, &unusable) && unusable.unusable || errors.As(err, &told) || errors.As(err, &refused)
}
