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
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// readLines tells in one text what a reader with this limit makes of the input.
func readLines(in io.Reader, limit int) string {
	r := &lineReader{r: bufio.NewReaderSize(in, 16), limit: limit}
	var got []string
	for {
		line, err := r.next()
		switch {
		case err == io.EOF:
			return strings.Join(got, " ")
		case errors.Is(err, errTooLong):
			got = append(got, "too-long")
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
		{"one longer", fill(limit+1, "{*}") + "\n{2}\n", "too-long {2}"},
		{"one longer, at the end", fill(limit+1, "{*}"), "too-long"},
		{"far longer", fill(500, "{*}") + "\r\n{2}", "too-long {2}"},
		{"two in a row", fill(500, "{*}") + "\n" + fill(500, "{*}") + "\n\n{2}", "too-long too-long {2}"},
		{"byte order mark", byteOrderMark + "{1}\n" + byteOrderMark + "{2}", "{1} {2}"},
		{"byte order mark alone", byteOrderMark + "\n{2}", "{2}"},
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
		{`{"jsonrpc":"2.0","id":"` + strings.Repeat("1", maxID) + `","method":"x"}`, "", "", "", codeInvalidRequest, false},
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
		{[]byte("1"), withHint(alsoFailed(withHint(errors.New("x"), ""), withHint(errors.New("z"), "y")), "%s", ""), `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"mcp-proxy: x; z; hint: y"}}`},
		{[]byte("1.0"), fmt.Errorf("more: %w", &rpcError{Code: -7, Message: "no", Data: map[string]any{"n": 1}}), `{"jsonrpc":"2.0","id":1.0,"error":{"code":-7,"message":"no","data":{"n":1}}}`},
		{[]byte("1"), errors.New("a\nb\r"), `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"mcp-proxy: a\nb\r"}}`},
	} {
		if got := string(errorAnswer(test.id, asRPCError(test.err))); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// Whoever writes, and however many do: a line is whole, and one write.
func TestLineWriter(t *testing.T) {
	var lines []string
	out := writerFunc(func(p []byte) (int, error) { lines = append(lines, string(p)); return len(p), nil })
	w := &lineWriter{w: out, stop: func(err error) { t.Errorf("it stopped: %v", err) }}
	var writers sync.WaitGroup
	const n = 12
	for i := 0; i < n; i++ {
		i := i
		writers.Add(1)
		go func() {
			defer writers.Done()
			for j := 0; j < 10; j++ {
				w.write(bytes.Repeat([]byte{'a' + byte(i)}, 100<<i))
			}
		}()
	}
	writers.Wait()
	if len(lines) != 10*n {
		t.Errorf("got %d writes, want %d", len(lines), 10*n)
	}
	for _, line := range lines {
		if len(line) != 100<<(line[0]-'a')+1 || strings.Trim(line, line[:1]) != "\n" {
			t.Fatalf("got a write of %d bytes that begins with %.10q", len(line), line)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// However a sender cuts the text, and whatever length it announces.
func TestReadText(t *testing.T) {
	text := strings.Repeat("0123456789", 30_000)
	for name, cut := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "end with data": iotest.DataErrReader,
	} {
		for _, length := range []int{-1, 0, 10, len(text), len(text) + 1} {
			got, err := readText(cut(strings.NewReader(text)), int64(length), len(text)+1)
			if err != nil || string(got) != text {
				t.Errorf("%s, announced %d: got %d bytes, %v", name, length, len(got), err)
			}
			if _, err := readText(cut(strings.NewReader(text)), int64(length), len(text)-1); err != errTooLong {
				t.Errorf("%s, announced %d: got %v, want %v", name, length, err, errTooLong)
			}
		}
	}
	got, err := readText(io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(io.ErrUnexpectedEOF)), 3, 10)
	if string(got) != "ab" || err != io.ErrUnexpectedEOF {
		t.Errorf("got %q, %v, want the reader's error", got, err)
	}
	for _, in := range []string{`{}`, `{"a":{"b":1}} ` + "\n", `{"a":"` + strings.Repeat("x", 9000) + `"}`, `{"a":{}`, `{`, `x}`} {
		for _, length := range []int64{-1, int64(len(in)), 1 << 20} {
			more := readerFunc(func([]byte) (int, error) { return 0, errMore })
			_, err := readText(io.MultiReader(iotest.OneByteReader(strings.NewReader(in)), more), length, maxMessage)
			if whole := json.Valid([]byte(in)) && length != int64(len(strings.TrimSpace(in))); (err == nil) != whole {
				t.Errorf("%.20s, announced %d: got %v, whole %v", in, length, err, whole)
			}
		}
	}
}

var errMore = errors.New("read on")

// What is held is about as large as what came, whatever the sender announces.
func TestCollectorMemory(t *testing.T) {
	for _, piece := range []int{1, 1000, 16 << 10} {
		for _, size := range []int{100, 32 << 10, 5<<20 + 1} {
			for _, announced := range []int{0, size, maxMessage} {
				c := collector{limit: maxMessage, announced: announced}
				for c.size < size {
					c.add(bytes.Repeat([]byte("x"), min(piece, size-c.size)))
				}
				room := cap(c.last)
				for _, chunk := range c.full {
					room += cap(chunk) + 24
				}
				most := size + size/7 + 2*piece + 2*minChunk
				switch announced {
				case size:
					most = size + 1
				case maxMessage:
					most = 64 * (size + 64<<10) // which nobody has written to
				}
				if room > most {
					t.Errorf("%d bytes in pieces of %d, announced %d: room for %d", size, piece, announced, room)
				}
			}
		}
	}
}

func TestLineWriterWithoutReader(t *testing.T) {
	r, pipe := io.Pipe()
	r.Close()
	ctx, stop := context.WithCancelCause(context.Background())
	w := &lineWriter{w: pipe, stop: stop}
	w.write([]byte("x"))
	if err := context.Cause(ctx); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v, want %v", err, io.ErrClosedPipe)
	}
}

// A host that neither reads nor goes away does not keep the program from ending.
func TestEndWhileHostDoesNotRead(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows knows no signals between processes")
	}
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
		r := &lineReader{r: bufio.NewReaderSize(readerFunc(func(p []byte) (int, error) { return rest.Read(p[:min(len(p), n)]) }), 16), limit: limit}
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
