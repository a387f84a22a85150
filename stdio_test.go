package main

// Lines in and out: what counts as one, which are too long, what they say.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// readLines tells in one text what a reader with this limit makes of the input.
func readLines(in io.Reader, limit int) string {
	r := &lineReader{bufio.NewReaderSize(in, 16), limit}
	var got []string
	for {
		line, id, err := r.next()
		switch {
		case err == io.EOF:
			return strings.Join(got, " ")
		case errors.Is(err, errTooLong):
			got = append(got, fmt.Sprintf("too-long(%s)", id))
		case err != nil:
			return strings.Join(append(got, "error("+err.Error()+")"), " ")
		default:
			got = append(got, string(line))
		}
	}
}

func TestLineReader(t *testing.T) {
	const limit = 64
	fill := func(n int, format string) string { // format with so many letters x in it that it measures n
		return strings.Replace(format, "*", strings.Repeat("x", n-len(format)+1), 1)
	}
	for _, test := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"lines", "{1}\n{2}\n", "{1} {2}"},
		{"last line without its end", "{1}\n{2}", "{1} {2}"},
		{"CR LF", "{1}\r\n{2}\r\n", "{1} {2}"},
		{"blank lines", "\n\r\n \t\n{1}\n\n\n{2}\n \n", "{1} {2}"},
		{"blank rest", "{1}\n   ", "{1}"},
		{"white space around", "  {1}\t\n", "{1}"},
		{"longer than the buffer", fill(40, "{*}") + "\n{2}\n", fill(40, "{*}") + " {2}"},
		{"as long as may be", fill(limit, "{*}") + "\n{2}\n", fill(limit, "{*}") + " {2}"},
		{"as long as may be, at the end", fill(limit, "{*}"), fill(limit, "{*}")},
		{"one longer", fill(limit+1, `{"id":7,"method":"m","a":"*"}`) + "\n{2}\n", "too-long(7) {2}"},
		{"one longer, at the end", fill(limit+1, `{"id":7,"method":"m","a":"*"}`), "too-long(7)"},
		{"id in front", fill(500, `{"id":"a\nb","method":"m","a":"*"}`) + "\n{2}", `too-long("a\nb") {2}`},
		{"id at the end", fill(500, `{"method":"m","params":{"id":1,"a":"*"},"id":-7.5}`) + "\n{2}", "too-long(-7.5) {2}"},
		{"id in the middle", fill(500, `{"method":"m","id":7,"a":"*","id":8}`) + "\n{2}", "too-long(8) {2}"},
		{"a notification", fill(500, `{"method":"m","params":{"id":1,"a":"*"}}`) + "\n{2}", "too-long() {2}"},
		{"a response: the id is the server's", fill(500, `{"id":7,"result":"*"}`) + "\n{2}", "too-long() {2}"},
		{"id null", fill(500, `{"id":null,"method":"m","a":"*"}`) + "\n{2}", "too-long() {2}"},
		{"id that is none", fill(500, `{"id":{"a":1},"method":"m","a":"*"}`) + "\n{2}", "too-long() {2}"},
		{"not JSON", fill(500, `{"id":7,"method":"m",*`) + "\n{2}", "too-long() {2}"},
		{"cut in the middle", fill(500, `{"id":7,"method":"m","a":"*`), "too-long()"},
		{"a batch", fill(500, `[{"id":7,"method":"m","a":"*"}]`) + "\n{2}", "too-long() {2}"},
		{"two in a row", fill(500, `{"id":7,"method":"*"}`) + "\n" + fill(500, `{"id":8,"method":"*"}`) + "\n\n{2}", "too-long(7) too-long(8) {2}"},
	} {
		for name, in := range map[string]io.Reader{
			"": strings.NewReader(test.in), "byte by byte": iotest.OneByteReader(strings.NewReader(test.in)), "EOF with data": iotest.DataErrReader(strings.NewReader(test.in)),
		} {
			if got := readLines(in, limit); got != test.want {
				t.Errorf("%s %s:\ngot  %.200q\nwant %.200q", test.name, name, got, test.want)
			}
		}
	}
	broken := io.MultiReader(strings.NewReader("{1}\n{2"), iotest.ErrReader(errors.New("broken")))
	if got := readLines(broken, limit); got != "{1} error(broken)" {
		t.Errorf("broken pipe: got %q", got)
	}
}

func TestParseMessage(t *testing.T) {
	for _, test := range []struct {
		line, id, method, version string
		code                      int
		response                  bool
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"ping"}`, "1", "ping", "", 0, false},
		{`{"method":"p\u0069ng","id":"\u0061","jsonrpc":"2\u002e0","params":[]}`, `"\u0061"`, "ping", "", 0, false},
		{`{"jsonrpc":"2.0","id":-1.5e3,"method":"x"}`, "-1.5e3", "x", "", 0, false},
		{`{"jsonrpc":"2.0","method":"n"}`, "", "n", "", 0, false},
		{`{"jsonrpc":"2.0","id":1,"method":"x","params":{` + modernMeta + `}}`, "1", "x", "2026-07-28", 0, false},
		{`{"jsonrpc":"2.0","id":1,"result":{` + modernMeta + `}}`, "1", "", "", 0, true},
		{`{"jsonrpc":"2.0","id":"x","error":{}}`, `"x"`, "", "", 0, true},
		{`{"jsonrpc":"2.0","id":null,"error":{}}`, "", "", "", 0, true},
		{`{"jsonrpc":"2.0","id":1,"method":"x","result":1}`, "1", "x", "", 0, false},

		{`{"jsonrpc":"2.0","id":1,"method":"x"`, "", "", "", codeParse, false},
		{`{"jsonrpc":"2.0","id":1,"method":"x"}}`, "", "", "", codeParse, false},
		{`[{"jsonrpc":"2.0","id":1,"method":"x"}]`, "", "", "", codeInvalidRequest, false},
		{`"x"`, "", "", "", codeInvalidRequest, false},
		{`{"id":1,"method":"x"}`, "1", "", "", codeInvalidRequest, false},
		{`{"jsonrpc":2.0,"id":1,"method":"x"}`, "1", "", "", codeInvalidRequest, false},
		{`{"jsonrpc":"2.0","id":1,"method":null}`, "1", "", "", codeInvalidRequest, false},
		{`{"jsonrpc":"2.0","id":1,"method":""}`, "1", "", "", codeInvalidRequest, false},
		{`{"jsonrpc":"2.0","id":null,"method":"x"}`, "", "", "", codeInvalidRequest, false},
		{`{"jsonrpc":"2.0","id":[1],"method":"x"}`, "", "", "", codeInvalidRequest, false},
		{`{"jsonrpc":"2.0","id":true,"method":"x"}`, "", "", "", codeInvalidRequest, false},
		{`{"jsonrpc":"2.0","id":1}`, "1", "", "", codeInvalidRequest, false},
		{`{"jsonrpc":"2.0","result":1}`, "", "", "", codeInvalidRequest, false},
	} {
		m, id, bad := parseMessage([]byte(test.line))
		switch {
		case bad != nil && (bad.Code != test.code || string(id) != test.id || m != nil):
			t.Errorf("%s: got error %d under id %s, want %d under %s", test.line, bad.Code, id, test.code, test.id)
		case bad == nil && test.code != 0:
			t.Errorf("%s: got no error", test.line)
		case bad == nil && (string(m.id) != test.id || m.method != test.method || m.version != test.version || m.response != test.response || string(m.raw) != test.line):
			t.Errorf("%s: got %+v", test.line, m)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"ping"}`, `{"jsonrpc":"2.0","method":"n","params":{` + modernMeta + `}}`, `{"jsonrpc":"2.0","id":"a","result":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"x","id":null}`, `[]`, `{`, `{"jsonrpc":"2.0","id":1e400,"method":"\ud800"}`, "{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}", ` {} `,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, id, bad := parseMessage(line)
		if (m == nil) == (bad == nil) {
			t.Fatalf("got message %v and error %v", m, bad)
		}
		if bad != nil {
			if answer := errorAnswer(id, bad); !json.Valid(answer) || id != nil && !validID(id) {
				t.Fatalf("got the answer %q", answer)
			}
			return
		}
		members := decodeMembers(t, string(line))
		var method string
		if raw, there := members["method"]; there && json.Unmarshal(raw, &method) != nil || method != m.method {
			t.Fatalf("got method %q, want %q", m.method, method)
		}
		if m.id != nil && !bytes.Equal(m.id, members["id"]) || m.isRequest() != (method != "" && m.id != nil) || m.response == (method != "") {
			t.Fatalf("got %+v", m)
		}
		if m.version == "" {
			return
		}
		var params struct {
			Meta map[string]json.RawMessage `json:"_meta"`
		}
		list := listRequest(m, []byte(`"next"`)) // in the client's name, after a refusal of this message
		if json.Unmarshal(list.params, &params) != nil || m.version != modernVersion(member(members["params"], "_meta")) || list.version != m.version || list.method != "tools/list" {
			t.Fatalf("got version %q, and lists by %q", m.version, list.raw)
		}
		for name := range params.Meta {
			if !strings.HasPrefix(name, "io.modelcontextprotocol/") {
				t.Fatalf("%q lists by %q", line, list.raw)
			}
		}
	})
}

func TestErrorAnswer(t *testing.T) {
	for _, test := range []struct {
		id   []byte
		err  error
		want string
	}{
		{nil, errors.New("x"), `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"mcp-proxy: x"}}`},
		{[]byte(`"\u0061<&>"`), withHint(errors.New("x"), "do %s", "y"), `{"jsonrpc":"2.0","id":"\u0061<&>","error":{"code":-32000,"message":"mcp-proxy: x; hint: do y"}}`},
		{[]byte("1.0"), fmt.Errorf("more: %w", &rpcError{Code: -7, Message: "no", Data: map[string]any{"n": 1}}), `{"jsonrpc":"2.0","id":1.0,"error":{"code":-7,"message":"no","data":{"n":1}}}`},
		{[]byte("1"), errors.New("a\nb\r"), `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"mcp-proxy: a\nb\r"}}`},
	} {
		if got := string(errorAnswer(test.id, asRPCError(test.err))); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// Whoever writes, and however many do: a line is whole.
func TestLineWriter(t *testing.T) {
	var out bytes.Buffer
	w := &lineWriter{w: &out, stop: func(err error) { t.Errorf("it stopped: %v", err) }}
	var writers sync.WaitGroup
	const n, large = 8, 100
	for i := 0; i < n; i++ {
		i := i
		writers.Add(1)
		go func() {
			defer writers.Done()
			piece := bytes.Repeat([]byte{'a' + byte(i)}, smallMessage/large)
			parts := make([][]byte, large+i) // some fit into one write, some do not
			for j := range parts {
				parts[j] = piece
			}
			for j := 0; j < 10; j++ {
				w.write(parts...)
			}
		}()
	}
	writers.Wait()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 10*n {
		t.Errorf("got %d lines, want %d", len(lines), 10*n)
	}
	for _, line := range lines {
		if line == "" || strings.Trim(line, line[:1]) != "" || len(line) != (large+int(line[0]-'a'))*(smallMessage/large) {
			t.Fatalf("got a line of %d bytes that begins with %.10q", len(line), line)
		}
	}
}

// writeSizes notes how large each write was.
type writeSizes struct {
	bytes.Buffer
	sizes []int
}

func (w *writeSizes) Write(p []byte) (int, error) {
	w.sizes = append(w.sizes, len(p))
	return w.Buffer.Write(p)
}

// Notifications are written together, none waits for ever, and all come before
// what is written after them.
func TestLineWriterTogether(t *testing.T) {
	var out writeSizes
	w := &lineWriter{w: &out, stop: func(err error) { t.Errorf("it stopped: %v", err) }}
	w.writeSoon([]byte("one"))
	w.writeSoon([]byte("t"), []byte("wo"))
	if len(out.sizes) != 0 {
		t.Errorf("got writes of %v bytes, want them to wait", out.sizes)
	}
	w.writeNow()
	w.writeNow()
	w.writeSoon([]byte("three"))
	w.write([]byte("four"))
	large := strings.Repeat("x", smallMessage)
	w.writeSoon([]byte("five"))
	w.writeSoon([]byte(large))
	w.writeNow()
	if want := "one\ntwo\nthree\nfour\nfive\n" + large + "\n"; out.String() != want {
		t.Errorf("got %.60q", out.String())
	}
	if want := []int{8, 11, 5, smallMessage + 1}; !slices.Equal(out.sizes, want) {
		t.Errorf("got writes of %v bytes, want %v", out.sizes, want)
	}
}

func TestLineWriterWithoutReader(t *testing.T) {
	r, pipe := io.Pipe()
	r.Close()
	ctx, stop := context.WithCancelCause(context.Background())
	w := &lineWriter{w: pipe, stop: stop}
	w.write([]byte("x"))
	if err := context.Cause(ctx); !errors.Is(err, errStdoutClosed) {
		t.Errorf("got %v, want %v", err, errStdoutClosed)
	}
}

// A host that neither reads nor goes away does not keep the program from ending.
func TestEndWhileHostDoesNotRead(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.reply("tools/call large", func(w http.ResponseWriter, r *fakeRequest) bool {
		return says(200, "application/json", r.msg.result(`"`+strings.Repeat("x", 1<<20)+`"`))(w, r)
	})
	user := newUser(t)
	cmd := user.command("-u", server.url)
	stdin, err := cmd.StdinPipe()
	fatal(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	fatal(t, err)
	fatal(t, cmd.Start())
	kill := time.AfterFunc(testPatience, func() {
		t.Error("the program did not end")
		cmd.Process.Kill()
	})
	defer kill.Stop()
	fmt.Fprintf(stdin, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":%s}`+"\n", initializeParams)
	out := bufio.NewReaderSize(stdout, 16)
	_, err = out.ReadString('\n')
	fatal(t, err)
	for i := 2; i < 5; i++ {
		fmt.Fprintf(stdin, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"large"}}`+"\n", i)
	}
	_, err = out.Peek(1) // an answer has begun and is stuck in the pipe
	fatal(t, err)
	fatal(t, cmd.Process.Signal(syscall.SIGTERM))
	cmd.Wait()
	if got := server.count("DELETE"); got != 1 {
		t.Errorf("got %d DELETE, want 1", got)
	}
}
