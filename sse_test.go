package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// String shows an event for comparison: absent parts are left out.
func (ev *event) String() string {
	s := ev.name + " id=" + ev.id
	if ev.hasID {
		s += " (own)"
	}
	if ev.retry >= 0 {
		s += " retry=" + ev.retry.String()
	}
	if ev.data != nil {
		s += fmt.Sprintf(" data=%q", ev.data)
	}
	return s
}

// readEvents returns what a reader gives up to its end, one event a line, and the error, unless it is io.EOF.
func readEvents(r io.Reader, limit int) string {
	events := newEventReader(r, limit)
	var b strings.Builder
	for {
		ev, err := events.next()
		if err == nil {
			fmt.Fprintln(&b, ev)
			continue
		}
		if err != io.EOF {
			fmt.Fprintln(&b, err)
		}
		return b.String()
	}
}

var streamTests = []struct{ name, stream, want string }{
	{"nothing", "", ""},
	{"one event", "data: a\n\n", "message id= data=\"a\"\n"},
	{"standard: stocks", "data: YHOO\ndata: +2\ndata: 10\n\n", "message id= data=\"YHOO\\n+2\\n10\"\n"},
	{"standard: ids", ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
		"message id=1 (own) data=\"first event\"\nmessage id= (own) data=\"second event\"\nmessage id= data=\" third event\"\n"},
	{"standard: empty data, last one incomplete", "data\n\ndata\ndata\n\ndata:", "message id= data=\"\"\nmessage id= data=\"\\n\"\n"},
	{"standard: optional space", "data:test\n\ndata: test\n\n", "message id= data=\"test\"\nmessage id= data=\"test\"\n"},
	{"named", "event: add\ndata: 1\n\ndata: 2\n\n", "add id= data=\"1\"\nmessage id= data=\"2\"\n"},
	{"named twice, then emptily", "event: a\nevent: b\ndata\n\nevent\ndata\n\n", "b id= data=\"\"\nmessage id= data=\"\"\n"},
	{"CR", "data: a\rdata: b\r\rdata: c\r\r", "message id= data=\"a\\nb\"\nmessage id= data=\"c\"\n"},
	{"CRLF", "data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", "message id= data=\"a\\nb\"\nmessage id= data=\"c\"\n"},
	{"mixed line ends", "data: a\r\ndata: b\n\rdata: c\r\r\n", "message id= data=\"a\\nb\"\nmessage id= data=\"c\"\n"},
	{"LF after a line that ended with CR", "data: a\rdata: b\n\n", "message id= data=\"a\\nb\"\n"},
	{"blank lines are no events", "\n\r\n\r\n\n\ndata: a\n\n\n\n", "message id= data=\"a\"\n"},
	{"byte order mark", "\xef\xbb\xbfdata: a\n\n", "message id= data=\"a\"\n"},
	{"byte order mark before a comment", "\xef\xbb\xbf:x\ndata: a\n\n", "message id= data=\"a\"\n"},
	{"byte order mark alone", "\xef\xbb\xbf\ndata: a\n\n", "message id= data=\"a\"\n"},
	{"byte order mark too late", "\n\xef\xbb\xbfdata: a\n\n", ""},
	{"half a byte order mark", "\xef\xbbdata: a\n\ndata: b\n\n", "message id= data=\"b\"\n"},
	{"colons in the value", "data: {\"a\":1}\n\n", "message id= data=\"{\\\"a\\\":1}\"\n"},
	{"priming", "id: 7\ndata:\n\nid: 8\n\ndata: x\n\n", "message id=7 (own) data=\"\"\nmessage id=8 (own)\nmessage id= data=\"x\"\n"},
	{"without data", "event: ping\n\nretry: 5\n\n", "ping id=\nmessage id= retry=5ms\n"},
	{"comments", ":\n: a\n:data: b\n\n::\ndata: c\n:\n\n", "message id= data=\"c\"\n"},
	{"comment between lines", "data: a\n: x\ndata: b\n\n", "message id= data=\"a\\nb\"\n"},
	{"unknown fields", "foo: 1\nDATA: 2\n data: 3\ndata : 4\n\nbar\n\n", ""},
	{"id with NUL", "id: 1\n\nid: a\x00b\n\nid: a\x00b\ndata\n\n", "message id=1 (own)\nmessage id= data=\"\"\n"},
	{"retry", "retry: 0\n\nretry: 1500\n\nretry: 3600001\n\nretry: 99999999999999999999999999\n\n",
		"message id= retry=0s\nmessage id= retry=1.5s\nmessage id= retry=1h0m0s\nmessage id= retry=1h0m0s\n"},
	{"bad retry", "retry: -1\n\nretry: +1\n\nretry:  1\n\nretry: 1_0\n\nretry: 1s\n\nretry\n\nretry: 1.5\n\nretry: 99999999999999999999s\n\n", ""},
	{"incomplete: no blank line", "id: 1\ndata: a\n\nid: 2\ndata: b\n", "message id=1 (own) data=\"a\"\n"},
	{"incomplete: in a line", "data: a\n\ndata: b", "message id= data=\"a\"\n"},
	{"tabs are no spaces", "event:\tx\ndata\n\n", "\tx id= data=\"\"\n"},
	{"a field named like the standard's, but longer", "dataset: 1\nid0: 1\ndat: 1\n\n", ""},
	{"long field name", strings.Repeat("data", 50) + ": 1\n" + strings.Repeat("x", 100) + "\ndata: a\n\n", "message id= data=\"a\"\n"},
}

func TestEventStream(t *testing.T) {
	for _, tt := range streamTests {
		for i := 0; i <= len(tt.stream); i++ {
			r := io.MultiReader(strings.NewReader(tt.stream[:i]), strings.NewReader(tt.stream[i:]))
			if got := readEvents(r, maxMessage); got != tt.want {
				t.Fatalf("%s, split at %d: got\n%swant\n%s", tt.name, i, got, tt.want)
			}
		}
		if got := readEvents(iotest.OneByteReader(strings.NewReader(tt.stream)), maxMessage); got != tt.want {
			t.Errorf("%s, byte by byte: got\n%swant\n%s", tt.name, got, tt.want)
		}
		if got := readEvents(iotest.DataErrReader(strings.NewReader(tt.stream)), maxMessage); got != tt.want {
			t.Errorf("%s, data with the error: got\n%swant\n%s", tt.name, got, tt.want)
		}
		if got := referenceEvents(tt.stream); got != tt.want {
			t.Errorf("%s: the reference says\n%swant\n%s", tt.name, got, tt.want)
		}
	}
}

// TestEventStreamAtOnce ends the readable part of the stream right behind the last line end: reading on would panic.
func TestEventStreamAtOnce(t *testing.T) {
	for _, end := range []string{"\n\n", "\r\r", "\r\n\r\n", "\r\n\r", "\n\r"} {
		stream := io.MultiReader(strings.NewReader("data: a"+end), readerFunc(func([]byte) (int, error) {
			panic("the event is held back until more comes")
		}))
		if ev, err := newEventReader(stream, maxMessage).next(); err != nil || ev.String() != `message id= data="a"` {
			t.Errorf("%q: got %v, %v", end, ev, err)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestEventStreamLimits(t *testing.T) {
	long := strings.Repeat("x", maxFieldValue)
	tests := []struct{ name, stream, want string }{
		{"data", "data: 1234567890\n\n", "message id= data=\"1234567890\"\n"},
		{"data too long", "data: a\n\ndata: 12345678901\n\n", "message id= data=\"a\"\n" + errTooLong.Error() + "\n"},
		{"lines", "data: 1234\ndata: 56789\n\n", "message id= data=\"1234\\n56789\"\n"},
		{"lines too long", "data: 1234\ndata: 567890\n\n", errTooLong.Error() + "\n"},
		{"line ends too long", strings.Repeat("data\n", 12) + "\n", errTooLong.Error() + "\n"},
		{"long id", "id:" + long + "\n\n", "message id=" + long + " (own)\n"},
		{"id too long", "id:" + long + "x\n\n", errTooLong.Error() + "\n"},
		{"long comment", ":" + long + "\ndata: a\n\n", "message id= data=\"a\"\n"},
		{"long unknown field", "x:" + long + "\n" + long + "\ndata: a\n\n", "message id= data=\"a\"\n"},
	}
	for _, tt := range tests {
		if got := readEvents(strings.NewReader(tt.stream), 10); got != tt.want {
			t.Errorf("%s: got %.200q, want %.200q", tt.name, got, tt.want)
		}
	}
}

// Proxies send long comments, so that what buffers lets events through.
func TestEventStreamPadding(t *testing.T) {
	stream := strings.Repeat(":"+strings.Repeat(" ", 2*maxFieldValue)+"\n", 2) + "data: a\n\n"
	if got, want := readEvents(strings.NewReader(stream), maxMessage), "message id= data=\"a\"\n"; got != want {
		t.Errorf("got %.200q, want %q", got, want)
	}
}

func TestEventStreamError(t *testing.T) {
	cut := errors.New("connection lost")
	r := io.MultiReader(strings.NewReader("data: a\n\ndata: b\n"), iotest.ErrReader(cut))
	if got, want := readEvents(r, maxMessage), "message id= data=\"a\"\nconnection lost\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEventStreamLargeData(t *testing.T) {
	want := `{"a":"` + strings.Repeat("0123456789", 1<<20) + `"}`
	events := newEventReader(strings.NewReader("data: "+want+"\n\n"), maxMessage)
	ev, err := events.next()
	if err != nil {
		t.Fatal(err)
	}
	if string(ev.data) != want {
		t.Errorf("got %d bytes, want %d", len(ev.data), len(want))
	}
}

// referenceEvents says by the letter of the standard what readEvents must say of a stream without limits.
func referenceEvents(stream string) string {
	stream = strings.TrimPrefix(stream, byteOrderMark)
	lines := regexp.MustCompile("\r\n|\n|\r").Split(stream, -1)
	var b strings.Builder
	var name, id, data, own, retry string
	var hasData, counts bool
	for _, line := range lines[:len(lines)-1] { // the last one has no line end
		if line == "" {
			if counts {
				if name == "" {
					name = "message"
				}
				fmt.Fprint(&b, name, " id=", id, own, retry)
				if hasData {
					fmt.Fprintf(&b, " data=%q", strings.TrimSuffix(data, "\n"))
				}
				fmt.Fprintln(&b)
			}
			name, id, data, own, retry, hasData, counts = "", "", "", "", "", false, false
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case field == "event":
			name = value
		case field == "data":
			data += value + "\n"
			hasData = true
		case field == "id" && !strings.Contains(value, "\x00"):
			id, own = value, " (own)"
		case field == "retry" && regexp.MustCompile(`^[0-9]+$`).MatchString(value):
			ms, err := strconv.Atoi(value)
			if err != nil || ms > 3600000 {
				ms = 3600000
			}
			retry = " retry=" + (time.Duration(ms) * time.Millisecond).String()
		default:
			continue
		}
		counts = true
	}
	return b.String()
}

func FuzzEventStream(f *testing.F) {
	for _, tt := range streamTests {
		f.Add(tt.stream, 1)
		f.Add(tt.stream, 5)
	}
	f.Fuzz(func(t *testing.T, stream string, n int) {
		n = 1 + (n&0x7fffffff)%16
		var pieces readerFunc
		rest := strings.NewReader(stream)
		pieces = func(p []byte) (int, error) { return rest.Read(p[:min(len(p), n)]) }
		if got, want := readEvents(pieces, maxMessage), referenceEvents(stream); got != want {
			t.Fatalf("%q in pieces of %d: got\n%swant\n%s", stream, n, got, want)
		}
	})
}

func BenchmarkEventStream(b *testing.B) {
	stream := "data: {\"a\":\"" + strings.Repeat("0123456789", 1<<20) + "\"}\n\n"
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		ev, err := newEventReader(bufio.NewReader(strings.NewReader(stream)), maxMessage).next()
		if err != nil || len(ev.data) < 10<<20 {
			b.Fatal(err)
		}
	}
}
