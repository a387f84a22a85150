package main

// The browser with the user in front of it: a process of its own, the test
// binary under a name that begins with "browser". It knows pages and redirects
// and nothing of OAuth.

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
)

// The environment of the browser.
const (
	browserMode = "MCP_PROXY_TEST_BROWSER"     // consent (default) | deny | ignore
	browserLog  = "MCP_PROXY_TEST_BROWSER_LOG" // a file: a line an opening and a last page
	browserCA   = "MCP_PROXY_TEST_BROWSER_CA"  // whom it trusts
)

// browserEvent is a line of the browser's log: an opening, or (Status) the
// page where the user ended up.
type browserEvent struct {
	URL    string      `json:"url"`
	Status int         `json:"status,omitempty"`
	Header http.Header `json:"header,omitempty"`
	Body   string      `json:"body,omitempty"`
	Error  string      `json:"error,omitempty"`
}

// browse plays the user's browser and the user.
func browse() int {
	fmt.Println("A browser says all sorts of things.") // must reach nobody's stdout
	io.Copy(io.Discard, os.Stdin)                      // must not be the host's
	if len(os.Args) != 2 {
		logBrowser(browserEvent{Error: fmt.Sprintf("called with %d arguments", len(os.Args)-1)})
		return 1
	}
	logBrowser(browserEvent{URL: os.Args[1]})
	mode := os.Getenv(browserMode)
	if mode == "ignore" {
		return 0
	}
	logBrowser(visit(os.Args[1], os.Getenv(browserCA), mode))
	return 0
}

func logBrowser(e browserEvent) {
	line, _ := json.Marshal(e)
	f, err := os.OpenFile(os.Getenv(browserLog), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return // the test is over
	}
	defer f.Close()
	f.Write(append(line, '\n'))
}

// visit opens the page, says what mode says, and follows all redirects.
func visit(page, caFile, mode string) browserEvent {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return browserEvent{URL: page, Error: err.Error()}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequest(http.MethodGet, page, nil)
	if err != nil {
		return browserEvent{URL: page, Error: err.Error()}
	}
	req.Header.Set(decisionHeader, mode)
	jar, err := cookiejar.New(nil)
	if err != nil {
		return browserEvent{URL: page, Error: err.Error()}
	}
	resp, err := (&http.Client{Transport: transport, Jar: jar}).Do(req)
	if err != nil {
		return browserEvent{URL: page, Error: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	e := browserEvent{
		URL: resp.Request.URL.String(), Status: resp.StatusCode, Header: resp.Header, Body: string(body),
	}
	if err != nil {
		e.Error = err.Error()
	}
	return e
}
