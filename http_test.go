package main

// The way to the server: proxies from the environment, a machine that slept,
// origins.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// throughProxy starts a server of another name than loopback's, and a proxy that knows the way to it.
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
				t.Fatalf("got %q of the server and %d connections of the proxy", server.labels(), len(proxy.asked()))
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

// A proxy that refuses is named as what it is, its password is not.
func TestProxyRefuses(t *testing.T) {
	t.Parallel()
	_, proxy, url := throughProxy(t)
	proxy.change(func() { proxy.status = "407 Proxy Authentication Required" })
	user := newUser(t)
	user.env["HTTPS_PROXY"] = "http://me:topsecret@" + proxy.listener.Addr().String()
	p := user.start("-u", url)
	got := p.failure(p.request("initialize", initializeParams))
	if !strings.Contains(got.Message, "through the proxy "+proxy.listener.Addr().String()+": Proxy Authentication Required; hint: check HTTPS_PROXY") {
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
		"refused":           {"https://" + nowhere + "/mcp", "", nowhere + ": dial: ", "is the server up"},
		"no TLS":            {strings.Replace(plain.URL, "http:", "https:", 1), "", "does not speak TLS", "check the port"},
		"other name":        {selfSigned(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example"} }), "", "issued by CN=Company Proxy, is for another name: other.example", "--url"},
		"expired":           {selfSigned(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }), "", "issued by CN=Company Proxy, is not valid", "clock"},
		"unknown authority": {selfSigned(t, func(*x509.Certificate) {}), "", "signed by CN=Company Proxy, which this machine does not trust", "--ca-cert"},
		"proxy refused":     {"https://mcp.test/mcp", "http://me:hunter2@" + nowhere, "mcp.test: through the proxy " + nowhere + ": ", "NO_PROXY=mcp.test"},
		"proxy unknown":     {"https://mcp.test:8443/mcp", "http://proxy.invalid:3128", "mcp.test:8443: through the proxy proxy.invalid:3128: ", "NO_PROXY=mcp.test"},
	} {
		name, test := name, test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			user := newUser(t)
			user.env["HTTPS_PROXY"] = test.proxy
			_, stderr, exit := user.run("login", "-u", test.url)
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			if exit != 3 || len(lines) != 2 || !strings.Contains(lines[0], test.says) || !strings.HasPrefix(lines[1], "hint: ") || !strings.Contains(lines[1], test.hint) {
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
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Company Proxy"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
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
	for status, hint := range map[int]string{403: "-H 'Name: value'", 404: "check the URL", 500: "ask its operator"} {
		status, hint := status, hint
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.lenient = true // 404 has the proxy look for a server of revision 2024-11-05
			server.on("initialize", answerStatus(status))
			p := startProxy(t, "-u", server.url)
			got := p.failure(p.request("initialize", initializeParams))
			said := fmt.Sprintf("%s answered %d %s", strings.TrimPrefix(server.base, "https://"), status, http.StatusText(status))
			if want := "mcp-proxy: " + said + "; hint: "; !strings.HasPrefix(got.Message, want) || !strings.Contains(got.Message, hint) {
				t.Errorf("got %q, want %q and %q", got.Message, want, hint)
			}
			if text := p.stderr(); !strings.HasPrefix(text, "mcp-proxy: "+said+"\nhint: ") || !strings.Contains(text, hint) {
				t.Errorf("got %q on stderr", text)
			}
		})
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
			user.env["HTTPS_PROXY"], user.env["ALL_PROXY"], user.env["HTTP_PROXY"] = "http://"+proxy.listener.Addr().String(), "http://"+proxy.listener.Addr().String(), "http://"+proxy.listener.Addr().String()
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
			p.client.Transport.(traced).RoundTripper.(*awake).clock = func() (time.Duration, time.Duration) { return wall, monotonic }
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			body, err := p.get(ctx, &cursor{}, sessionState{})
			fatal(t, err)
			defer body.Close()
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

func TestSameOrigin(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"https://a.test/x", "https://a.test/y?z", true}, {"https://a.test", "https://A.TEST:443/", true}, {"http://a.test:80", "HTTP://a.test", true},
		{"https://[::1]:8443", "https://[::1]:8443/x", true},
		{"https://a.test", "http://a.test", false}, {"https://a.test", "https://a.test:8443", false}, {"https://a.test", "https://b.test", false},
		{"https://a.test", "https://a.test.b.test", false}, {"https://a.test:80", "http://a.test:80", false}, {"https://a.test", "https://a.test.", false},
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
