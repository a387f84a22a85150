package main

// Fuzz targets for what passes between the host and the MCP server: lines,
// answers, what a server says in headers and events. Where there is a
// grammar, a slow reading of it says what is right.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func FuzzLines(f *testing.F) {
	for _, in := range []string{
		"{1}\n{2}", "\r\n \n{1}\r\n", strings.Repeat("x", 70) + "\n{2}\n", `{"id":7,"method":"m","a":"` + strings.Repeat("x", 70) + "\"}\n{2}",
		strings.Repeat("x", 63) + "\r\n" + strings.Repeat("\r", 80) + "\n", `{"method":"m","params":"` + strings.Repeat("x", 70) + `","id":"a\nb"}`, "\x00\n\xff\n\u00a0\n",
	} {
		f.Add(in, 1)
		f.Add(in, 100)
	}
	const limit = 64
	f.Fuzz(func(t *testing.T, in string, n int) {
		n = 1 + (n&0x7fffffff)%100
		rest := strings.NewReader(in)
		r := &lineReader{r: bufio.NewReaderSize(readerFunc(func(p []byte) (int, error) { return rest.Read(p[:min(len(p), n)]) }), 16), limit: limit, begun: true}
		lines := strings.SplitAfter(in, "\n")
		for _, want := range lines {
			short := strings.TrimSpace(want)
			if short == "" && len(want) <= limit {
				continue
			}
			line, err := r.next()
			if short == "" && err != errTooLong && len(strings.TrimRight(want, "\r\n")) <= limit {
				return // whether the end of a line counts is left open, and this blank one was passed over
			}
			switch {
			case err == errTooLong && len(want) > limit:
			case err != nil || len(strings.TrimRight(want, "\r\n")) > limit || string(line) != short:
				t.Fatalf("%q: got %q, %v, want %q", in, line, err, short)
			}
		}
		if line, err := r.next(); err == nil {
			t.Fatalf("%q: got %q after its end", in, line)
		}
	})
}

// What a body or an event holds becomes the one answer to a request, or none.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"id":"1","result":null,"error":null}`, `{"jsonrpc":"2.0","error":{"code":-1,"message":"x"},"result":1}`, `{"result":1,"result":2,"id":1,"id":2,"jsonrpc":"2.0"}`,
		"{\r\n\"jsonrpc\" : \"2.0\",\n\"id\" : null,\n\"error\" : {\"code\":1.5e1,\"message\":\"\\u0000\"}}", `{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":"x"}}`, `{}`, `{"jsonrpc":"1.0","id":1,"error":"x","result":[1,2]}`, `{"error":{"code":-,"message":""}}`,
	} {
		f.Add([]byte(body), 7)
		f.Add([]byte(body), 1)
	}
	ids := [][]byte{[]byte("1"), []byte(`"a\"b"`), []byte("-1.50e3"), []byte(`"\u00e9"`)}
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		n &= 0x7fffffff
		id := ids[n%len(ids)]
		d := newDocument(bytes.Clone(body))
		if !isAnswer(d) {
			return
		}
		had := decodeMembers(t, strings.ToValidUTF8(strings.TrimPrefix(string(body), byteOrderMark), "\ufffd"))
		out := inOrder(d, id)
		has := decodeMembers(t, string(out))
		if bytes.ContainsAny(out, "\r\n") || !bytes.Equal(has["id"], id) || string(has["jsonrpc"]) == "" {
			t.Fatalf("%q became %q", body, out)
		}
		if version, _ := unquote(has["jsonrpc"]); version != "2.0" || (has["result"] == nil) == (has["error"] == nil) {
			t.Fatalf("%q became %q", body, out)
		}
		for _, name := range []string{"result", "error"} {
			want := strings.NewReplacer("\r", " ", "\n", " ").Replace(string(had[name]))
			if has[name] != nil && string(has[name]) != want {
				t.Fatalf("%q: got %s %q, want %q", body, name, has[name], want)
			}
		}
		if isError(has["error"]) == (has["result"] != nil) {
			t.Fatalf("%q became %q", body, out)
		}
	})
}

// What is left of a list has no hidden tool in it, and lacks no other.
func FuzzShown(f *testing.F) {
	for _, response := range []string{
		`{"result":{"tools":[{"name":"delete"},{"name":"echo"},{"name":"DELETE/all"}]}}`, `{"result":{"tools":[{"name":"\u0064elete"},1,null,{"name":"a","name":"delete"}]},"id":1}`,
		`{"result":{"tools":[],"tools":[{"name":"delete"}]},"result":{"tools":[{"name":"x"},{"name":"Deleted"}]}}`, `{"result":{"tools":{"name":"delete"}}}`, `{"result":[]}`, `[`,
	} {
		f.Add([]byte(response))
	}
	filter, err := newToolFilter([]string{"delete*"})
	if err != nil {
		f.Fatal(err)
	}
	names := func(response []byte) (all []string) {
		each(member(response, "result", "tools"), func(tool []byte) {
			name, _ := unquote(member(tool, "name"))
			all = append(all, name)
		})
		return all
	}
	f.Fuzz(func(t *testing.T, response []byte) {
		out := filter.shown(response)
		if !json.Valid(response) {
			return
		}
		var want []string
		for _, name := range names(response) {
			if !strings.HasPrefix(strings.ToLower(name), "delete") {
				want = append(want, name)
			}
		}
		if got := names(out); !json.Valid(out) || strings.Join(got, "\x00") != strings.Join(want, "\x00") || len(got) != len(want) {
			t.Fatalf("%q became %q", response, out)
		}
	})
}

// Session ids, event ids and versions come back as headers.
func FuzzSessionHeaders(f *testing.F) {
	for _, value := range []string{"1868a90c-0b2d", "2025-11-25", "a\r\nEvil: 1", "", " ", "é", "\x7f", "a\x00", strings.Repeat("x", 5000), "\u0085"} {
		f.Add(value, value, value)
	}
	f.Fuzz(func(t *testing.T, id, version, event string) {
		h := http.Header{}
		sessionState{id: validSessionID(id), version: validVersion(version)}.set(h)
		checkHeader(t, h)
		for name, want := range map[string]string{"Mcp-Session-Id": id, "Mcp-Protocol-Version": version} {
			if got := h.Get(name); got != "" && got != want {
				t.Fatalf("got %s %q, want %q", name, got, want)
			}
		}
		var wire bytes.Buffer
		fatal(t, http.Header{"Last-Event-Id": {validEventID(event)}}.Write(&wire))
		if line := strings.TrimSuffix(wire.String(), "\r\n"); strings.ContainsAny(line, "\r\n\x00") {
			t.Fatalf("%q became %q", event, wire.String())
		}
	})
}

// The endpoint of an old server takes the token: it is of that server's own origin, whoever reads its URL.
func FuzzLegacyEndpoint(f *testing.F) {
	for _, raw := range []string{
		"/messages?sessionId=1", "https://mcp.example/m", "https://MCP.EXAMPLE:443/m", "//evil.example/m", "https://mcp.example@evil.example/", "https://mcp.example\\@evil.example/", "?a=b", "", "http://mcp.example/m",
		"https:mcp.example", "https://mcp.example:4430/", "/\r\nEvil: 1", "javascript:alert(1)", "https://[::1]/", "/%0d%0a", "https://mcp.example./", "? ", "?a HTTP/1.1\t",
	} {
		f.Add(raw)
	}
	server, _ := url.Parse("https://mcp.example/sse?key=1")
	f.Fuzz(func(t *testing.T, raw string) {
		endpoint, err := (&legacy{upstream: &upstream{server: server}}).endpointOf(raw)
		if err != nil {
			checkSaid(t, err.Error(), 0)
			return
		}
		req := (&upstream{}).request(context.Background(), http.MethodPost, endpoint, nil)
		if host := strings.TrimSuffix(strings.ToLower(req.URL.Host), ":443"); req.URL.Scheme != "https" || strings.TrimSuffix(host, ":") != "mcp.example" || req.URL.User != nil {
			t.Fatalf("%q leads to %s", raw, req.URL)
		}
		var wire bytes.Buffer
		if req.Write(&wire) != nil {
			return
		}
		got, err := http.ReadRequest(bufio.NewReader(&wire))
		if err != nil {
			t.Fatalf("%q: the request cannot be read: %v", raw, err)
		}
		if !strings.HasPrefix(strings.ToLower(got.Host), "mcp.example") || len(got.Header) > 2 {
			t.Fatalf("%q: got a request to %q with %v", raw, got.Host, got.Header)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"0", "1", "60", "61", "-1", "+5", "1.5", "1_0", "99999999999999999999", "00030", "", "Fri, 31 Dec 1999 23:59:59 GMT", "soon", "Sun Nov  6 08:49:37 1994"} {
		f.Add(429, value, int64(30))
	}
	f.Add(200, "1", int64(1))
	f.Add(503, "1", int64(-1<<40))
	now := time.Date(2026, 7, 28, 10, 0, 0, 0, time.UTC)
	seconds := regexp.MustCompile(`^[0-9]+$`)
	f.Fuzz(func(t *testing.T, status int, value string, from int64) {
		answer := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {value}}}
		wait, ok := retryAfter(answer, now)
		if ok && (status != 429 && status != 503 || wait < firstBackoff || wait > maxRetryAfter) {
			t.Fatalf("%d %q: got %v", status, value, wait)
		}
		if trimmed := strings.TrimSpace(value); seconds.MatchString(trimmed) && (status == 429 || status == 503) {
			n, _ := new(big.Int).SetString(trimmed, 10)
			if want := n.Cmp(big.NewInt(60)) <= 0; ok != want || want && wait != max(time.Duration(n.Int64())*time.Second, firstBackoff) {
				t.Fatalf("%q: got %v, %v", value, wait, ok)
			}
		}
		from %= 1 << 33 // a few hundred years
		if date := now.Add(time.Duration(from) * time.Second); date.Year() > 0 && date.Year() < 10000 {
			answer.StatusCode = http.StatusServiceUnavailable
			answer.Header.Set("Retry-After", date.Format(http.TimeFormat))
			if wait, ok := retryAfter(answer, now); ok != (from <= 60) || ok && wait != max(time.Duration(from)*time.Second, firstBackoff) {
				t.Fatalf("%v: got %v, %v", date, wait, ok)
			}
		}
	})
}

func FuzzTraceparent(f *testing.F) {
	const rest = "-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
	for _, s := range []string{"00" + rest + "01", "00" + rest + "ff", "cc" + rest + "01-more", "00" + rest + "01-more", "ff" + rest + "01", "00" + rest + "0", "", "00" + strings.ToUpper(rest) + "01", "00-" + strings.Repeat("0", 32) + rest[33:] + "01"} {
		f.Add(s)
	}
	form := regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f])([0-9a-f])(-(?s:.*))?$`)
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseTraceparent(s)
		m := form.FindStringSubmatch(s)
		want := m != nil && m[1] != "ff" && (m[1] != "00" || m[6] == "") && strings.Trim(m[2], "0") != "" && strings.Trim(m[3], "0") != ""
		if ok != want {
			t.Fatalf("%q: got %v, want %v", s, ok, want)
		}
		if !ok {
			return
		}
		sp := &span{spanContext: got}
		if text := fmt.Sprintf("00-%s-%s-0%d", m[2], m[3], strings.IndexByte("0123456789abcdef", m[5][0])&3); sp.traceparent() != text {
			t.Fatalf("%q: goes on as %q, want %q", s, sp.traceparent(), text)
		}
	})
}

// Names and values of others in a trace, an error and a log line.
func FuzzText(f *testing.F) {
	for _, s := range []string{"tools/call x", "a\r\n\"}", "\xff\x00\u2028", strings.Repeat("é", 200), strings.Repeat("x", 255) + "é", "\x1b[2J", "\ufffd", "\u202e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		checkSaid(t, excerpt(s), 1)
		var said string
		quoted := appendString(nil, traceString(s))
		if bytes.ContainsAny(quoted, "\r\n") || json.Unmarshal(quoted, &said) != nil || len(said) > 3*maxTraceString {
			t.Fatalf("%q became %q", s, quoted)
		}
		if utf8.ValidString(s) && !strings.HasPrefix(s, said) || len(s) < maxTraceString && utf8.ValidString(s) && said != s {
			t.Fatalf("%q became %q", s, said)
		}
		tr := newTracer("", "v1", nil)
		tr.close()
		_, sp := tr.start(context.Background(), s, spanClient)
		sp.setString(attrToolName, s)
		sp.setInt(attrHTTPStatus, 200)
		line := sp.appendLine(nil)
		if !json.Valid(line) || bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("%q: the line is %q", s, line)
		}
		line = errorAnswer(nil, asRPCError(fmt.Errorf("%s", s)))
		if !json.Valid(line) || bytes.ContainsAny(line, "\r\n") {
			t.Fatalf("%q: the answer is %q", s, line)
		}
	})
}
