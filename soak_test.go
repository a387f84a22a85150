package main

// Hours of a working day in a minute: tokens that live for two seconds, five
// processes that share them, and an authorization server that takes back the
// whole grant when a refresh token comes twice.

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// traffic is what the hosts of one machine do.
type traffic struct {
	bound time.Duration // for one answer

	mu       sync.Mutex // guards all
	calls    int
	lost     int
	wrong    []string // results of another call
	failures []string // error answers, and lost ones
}

// run calls echo again and again until stop is closed.
func (f *traffic) run(p *testProxy, pace time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.call(p)
		case <-stop:
			return
		}
	}
}

func (f *traffic) call(p *testProxy) { f.ask(p, p.modernEcho("on and on"), "on and on") }

// ask waits for the answer to a call of echo and looks what it is.
func (f *traffic) ask(p *testProxy, id, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), f.bound)
	defer cancel()
	p.watched.wait(ctx, func() bool { return len(p.answered[id]) > 0 || p.eof })
	p.mu.Lock()
	answers := p.answered[id]
	p.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	switch want := fmt.Sprintf(`{"content":[{"type":"text","text":%q}]}`, text); {
	case len(answers) == 0:
		f.lost++
		f.failures = append(f.failures, "no answer")
	case answers[0].Error != nil:
		f.failures = append(f.failures, answers[0].Error.Message)
	case string(answers[0].Result) != want:
		f.wrong = append(f.wrong, fmt.Sprintf("%.200s, want %.200s", answers[0].Result, want))
	}
}

// MCP_PROXY_TEST_TRAFFIC=60s makes it a minute (make soak-tokens), on the program
// MCP_PROXY_TEST_BINARY if that is given.
func TestTokensUnderTraffic(t *testing.T) {
	span := 6 * time.Second
	if given := os.Getenv("MCP_PROXY_TEST_TRAFFIC"); given != "" {
		var err error
		span, err = time.ParseDuration(given)
		fatal(t, err)
	}
	for name, expiresIn := range map[string]any{"expires_in": 2, "no expires_in": nil} {
		expiresIn := expiresIn
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			auth.expiresIn, auth.lives = expiresIn, 2*time.Second
			user := newUser(t, auth)
			user.binary = os.Getenv("MCP_PROXY_TEST_BINARY")
			all := traffic{bound: testPatience}
			var hosts sync.WaitGroup
			stop := make(chan struct{})
			for i := 0; i < 5; i++ {
				p := user.start("-u", server.url, "--no-trace")
				for worker := 0; worker < 2; worker++ {
					hosts.Add(1)
					go func() {
						defer hosts.Done()
						all.run(p, 40*time.Millisecond, stop)
					}()
				}
			}
			probes, began := 0, time.Now()
			for ; time.Since(began) < span; probes++ {
				probe := user.start("-u", server.url, "--no-trace") // a short-lived copy, as hosts start them
				all.call(probe)
				probe.closeStdin()
				probe.wait()
				<-time.After(time.Second)
			}
			close(stop)
			hosts.Wait()
			took := time.Since(began).Round(time.Second) // more than span on a busy machine
			refused := server.count("tools/call echo") - all.calls
			auth.mu.Lock()
			reuses := auth.reuses
			auth.mu.Unlock()
			figures := fmt.Sprintf("%v: %d calls by 5 processes and %d short-lived ones, %d of them refused once or more; %d refreshes, %d reuses, %d failed calls, %d browser windows",
				took, all.calls, probes, refused, auth.count("token refresh_token"), reuses, len(all.failures), len(user.openings()))
			t.Log(figures)
			if reuses != 0 || len(all.failures)+len(all.wrong) != 0 || len(user.openings()) != 1 || auth.count("token authorization_code") != 1 {
				t.Errorf("got %s, want no reuse, no failed call and 1 window; %.300q %.300q", figures, all.failures, all.wrong)
			}
			if got, want := auth.count("token refresh_token"), int(took/auth.lives); got < want/3 || got > 2*want {
				t.Errorf("got %d refreshes, want about %d", got, want)
			}
		})
	}
}
