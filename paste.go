package main

// A sign-in in a terminal whose browser is on another machine: the browser ends
// at an address that it cannot reach, and the user pastes that address here.

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
)

// asTerminal is stdin when a person may type there, else nil.
func asTerminal(stdin io.Reader) io.Reader {
	f, ok := stdin.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	if null, err := os.Stat(os.DevNull); err == nil && os.SameFile(info, null) {
		return nil
	}
	return f
}

// pastes brings what is pasted to the sign-in page shown last.
type pastes struct {
	log *logger

	mu       sync.Mutex // guards redirect
	redirect *url.URL   // of the page shown last
}

// readAnswers takes addresses from the terminal until the program ends. The
// returned function is to be called with every page that the user is shown.
func readAnswers(ctx context.Context, terminal io.Reader, log *logger) (shown func(address string)) {
	p := &pastes{log: log}
	var once sync.Once
	return func(address string) {
		p.mu.Lock()
		p.redirect = redirectOf(address)
		p.mu.Unlock()
		log.notice("hint: is the browser on another machine? paste here the address that it ends at, even if it shows an error")
		once.Do(func() { go p.read(ctx, terminal) })
	}
}

func (p *pastes) read(ctx context.Context, terminal io.Reader) {
	lines := bufio.NewScanner(terminal)
	lines.Buffer(nil, maxCallbackHeader)
	for lines.Scan() {
		line := strings.Trim(lines.Text(), " \t\r'\"")
		if line == "" {
			continue
		}
		if err := p.deliver(ctx, line); err != nil {
			p.log.report(err)
		}
	}
}

// deliver takes the pasted address where the browser would have: to the
// callback, of this process or of the one that signs in, which checks it as it
// checks every other. An address elsewhere is not requested.
func (p *pastes) deliver(ctx context.Context, pasted string) error {
	p.mu.Lock()
	redirect := p.redirect
	p.mu.Unlock()
	if redirect == nil {
		return errors.New("nothing is to be pasted for this sign-in")
	}
	u, err := pastedAnswer(pasted, redirect)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	direct := &http.Client{ // through no proxy
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := direct.Do(req)
	if err != nil {
		return withHint(errors.New("nobody waits for that address any more"), "start the sign-in again")
	}
	discard(resp)
	if resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusNotFound {
		return withHint(errors.New("that is not the answer to this sign-in: it may be an old one"), "sign in at the page above, and paste where it ends")
	}
	if next := resp.Header.Get("Location"); next != "" {
		p.log.notice("mcp-proxy: the authorization server has to be asked once more, at this address:\n" + next)
	}
	return nil // what comes of it the sign-in says
}

// pastedAnswer reads an address of the callback at redirect, with an answer in it.
func pastedAnswer(pasted string, redirect *url.URL) (*url.URL, error) {
	u, err := url.Parse(pasted)
	if err != nil || u.Scheme != redirect.Scheme || u.Host != redirect.Host || u.Path != redirect.Path || u.RawQuery == "" || strings.Contains(u.RawQuery, " ") {
		return nil, withHint(errors.New("that is not where the sign-in page leads to"), "paste the address that begins with %s?", redirect)
	}
	return u, nil
}
