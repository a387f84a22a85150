package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// The shape of OTLP/JSON, as far as we write it. Decoding is strict, so that a member in a wrong
// place or of a wrong type is noticed.
type (
	otlpTraces struct {
		ResourceSpans []struct {
			Resource   struct{ Attributes []otlpAttribute }
			ScopeSpans []struct {
				Scope struct{ Name, Version string }
				Spans []otlpSpan
			}
		}
	}
	otlpSpan struct {
		TraceID           string `json:"traceId"`
		SpanID            string `json:"spanId"`
		ParentSpanID      string `json:"parentSpanId"`
		Flags             uint32
		Name              string
		Kind              int
		StartTimeUnixNano string
		EndTimeUnixNano   string
		Attributes        []otlpAttribute
		Status            struct{ Code int }
	}
	otlpAttribute struct {
		Key   string
		Value struct{ StringValue, IntValue *string }
	}
)

func (s otlpSpan) attribute(t *testing.T, key string) string {
	t.Helper()
	found := ""
	for _, a := range s.Attributes {
		if a.Key != key {
			continue
		}
		if found != "" {
			t.Errorf("span %q has %s twice", s.Name, key)
		}
		if v := a.Value; v.StringValue != nil && v.IntValue == nil {
			found = *v.StringValue
		} else if v.IntValue != nil && v.StringValue == nil {
			found = "int " + *v.IntValue
		}
	}
	return found
}

func decodeLine(t *testing.T, line []byte) (resource []otlpAttribute, s otlpSpan) {
	t.Helper()
	var traces otlpTraces
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&traces); err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	if len(traces.ResourceSpans) != 1 || len(traces.ResourceSpans[0].ScopeSpans) != 1 ||
		len(traces.ResourceSpans[0].ScopeSpans[0].Spans) != 1 {
		t.Fatalf("line %q does not hold exactly one span", line)
	}
	return traces.ResourceSpans[0].Resource.Attributes,
		traces.ResourceSpans[0].ScopeSpans[0].Spans[0]
}

// readSpans reads a file that must hold whole lines, and returns its spans by name.
func readSpans(t *testing.T, path string) map[string]otlpSpan {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > 0 && raw[len(raw)-1] != '\n' {
		t.Errorf("%s does not end with a newline", filepath.Base(path))
	}
	spans := map[string]otlpSpan{}
	for _, line := range bytes.SplitAfter(raw, []byte("\n")) {
		if len(line) > 0 {
			_, s := decodeLine(t, line)
			spans[s.Name] = s
		}
	}
	return spans
}

func tracePath(t *testing.T) string { return filepath.Join(t.TempDir(), "cache", "traces.jsonl") }

// finishTracer closes a tracer and waits longer than close does: the machine may be busy.
func finishTracer(tr *tracer) {
	tr.close()
	<-tr.stopped
}

// tracerWithoutWriter returns a tracer whose goroutine has ended, so that a test can write itself.
func tracerWithoutWriter(path string, log *logger) *tracer {
	tr := newTracer(path, "v1", log)
	finishTracer(tr)
	return tr
}

// writeSpan ends a span of that name and writes it.
func writeSpan(tr *tracer, name string) {
	_, s := tr.start(context.Background(), name, spanServer)
	s.end()
	tr.write(endedLines(tr))
}

// endedLines takes the lines that wait to be written.
func endedLines(tr *tracer) []byte {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	lines := tr.ended
	tr.ended = nil
	return lines
}

// A traceLog is a log that two goroutines may use.
type traceLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *traceLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *traceLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestTraceFile(t *testing.T) {
	path := tracePath(t)
	tr := newTracer(path, "v1.2.3", nil)
	ctx, message := tr.start(context.Background(), "tools/call search", spanServer)
	message.setString(attrMCPMethod, "tools/call")
	message.setString(attrToolName, "search")
	message.setHash(attrSessionID, hashOf("a-session-id-nobody-may-see"))
	_, post := tr.start(ctx, "POST", spanClient)
	post.setInt(attrHTTPStatus, "503")
	post.fail("503")
	post.end()
	_, step := tr.start(ctx, "wait", spanInternal)
	step.end()
	message.end()
	finishTracer(tr)

	spans := readSpans(t, path)
	m, p, w := spans["tools/call search"], spans["POST"], spans["wait"]
	hexID := regexp.MustCompile(`^[0-9a-f]+$`)
	for _, s := range spans {
		if s.TraceID != m.TraceID || len(s.TraceID) != 32 || len(s.SpanID) != 16 ||
			!hexID.MatchString(s.TraceID+s.SpanID) {
			t.Errorf("span %q has ids %q and %q", s.Name, s.TraceID, s.SpanID)
		}
		start, err1 := strconv.ParseInt(s.StartTimeUnixNano, 10, 64)
		end, err2 := strconv.ParseInt(s.EndTimeUnixNano, 10, 64)
		if err1 != nil || err2 != nil || end < start ||
			time.Since(time.Unix(0, start)) > time.Minute {
			t.Errorf("span %q runs from %q to %q", s.Name, s.StartTimeUnixNano, s.EndTimeUnixNano)
		}
	}
	if m.ParentSpanID != "" || p.ParentSpanID != m.SpanID || w.ParentSpanID != m.SpanID {
		t.Errorf("parents are %q, %q and %q, want none and twice %q", m.ParentSpanID,
			p.ParentSpanID, w.ParentSpanID, m.SpanID)
	}
	if m.Kind != 2 || p.Kind != 3 || w.Kind != 1 {
		t.Errorf("kinds are %d, %d and %d, want 2, 3 and 1", m.Kind, p.Kind, w.Kind)
	}
	if m.Status.Code != 0 || p.Status.Code != 2 {
		t.Errorf("status codes are %d and %d, want 0 and 2", m.Status.Code, p.Status.Code)
	}
	for _, want := range []struct {
		s          otlpSpan
		key, value string
	}{
		{m, "mcp.method.name", "tools/call"},
		{m, "gen_ai.tool.name", "search"},
		{m, "mcp.session.id", "88dfc6c79351"},
		{p, "http.response.status_code", "int 503"},
		{p, "error.type", "503"},
	} {
		if got := want.s.attribute(t, want.key); got != want.value {
			t.Errorf("%s: got %q, want %q", want.key, got, want.value)
		}
	}
}

func TestTraceResource(t *testing.T) {
	path := tracePath(t)
	tr := newTracer(path, `v1 "quoted"`, nil)
	_, s := tr.start(context.Background(), "ping", spanServer)
	s.end()
	finishTracer(tr)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	resource, _ := decodeLine(t, raw)
	got := otlpSpan{Attributes: resource}
	for key, want := range map[string]string{
		"service.name":    "mcp-proxy",
		"service.version": `v1 "quoted"`,
		"process.pid":     fmt.Sprint("int ", os.Getpid()),
	} {
		if v := got.attribute(t, key); v != want {
			t.Errorf("%s: got %q, want %q", key, v, want)
		}
	}
	if len(resource) != 3 {
		t.Errorf("the resource has %d attributes, want 3", len(resource))
	}
}

func TestTraceFileModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // modes are not kept there
	}
	path := tracePath(t)
	write := func() {
		tr := newTracer(path, "v1", nil)
		_, s := tr.start(context.Background(), "ping", spanServer)
		s.end()
		finishTracer(tr)
	}
	check := func(name string, want fs.FileMode) {
		t.Helper()
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", filepath.Base(name), got, want)
		}
	}
	write()
	check(path, 0o600)
	check(filepath.Dir(path), 0o700)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	write()
	check(path, 0o600)
}

func TestTraceWithoutSpansLeavesNothing(t *testing.T) {
	path := tracePath(t)
	newTracer(path, "v1", nil).close()
	if _, err := os.Lstat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}

func TestNilTracer(t *testing.T) {
	var tr *tracer
	ctx, session := context.Background(), hashOf("id")
	allocs := testing.AllocsPerRun(10, func() {
		got, s := tr.start(ctx, "ping", spanServer)
		s.setString(attrMCPMethod, "ping")
		s.setInt(attrHTTPStatus, "200")
		s.setHash(attrSessionID, session)
		s.fail("500")
		if got != ctx || s.traceparent() != "" {
			t.Error("a nil tracer did something")
		}
		s.end()
		tr.close()
	})
	if allocs != 0 {
		t.Errorf("a nil tracer costs %v allocations", allocs)
	}
}

func TestRemoteParent(t *testing.T) {
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for _, c := range []struct {
		name, traceparent, flags string // flags "": the parent is ignored
	}{
		{"sampled", "00-" + trace + "-" + parent + "-01", "01"},
		{"not sampled", "00-" + trace + "-" + parent + "-00", "00"},
		{"unknown flags are not passed on", "00-" + trace + "-" + parent + "-ff", "03"},
		{"later version", "cc-" + trace + "-" + parent + "-01", "01"},
		{"later version with more", "cc-" + trace + "-" + parent + "-01-What.next", "01"},
		{"later version, no dash", "cc-" + trace + "-" + parent + "-01.more", ""},
		{"version 00 with more", "00-" + trace + "-" + parent + "-01-more", ""},
		{"version ff", "ff-" + trace + "-" + parent + "-01", ""},
		{"upper case", "00-" + strings.ToUpper(trace) + "-" + parent + "-01", ""},
		{"no trace id", "00-" + strings.Repeat("0", 32) + "-" + parent + "-01", ""},
		{"no parent id", "00-" + trace + "-" + strings.Repeat("0", 16) + "-01", ""},
		{"no hex", "00-" + trace[:31] + "g-" + parent + "-01", ""},
		{"wrong dashes", "00_" + trace + "_" + parent + "_01", ""},
		{"short", "00-" + trace + "-" + parent, ""},
		{"empty", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := tracePath(t)
			tr := newTracer(path, "v1", nil)
			ctx, s := tr.start(withRemoteParent(context.Background(), c.traceparent), "ping",
				spanServer)
			_, child := tr.start(ctx, "POST", spanClient)
			header := child.traceparent()
			child.end()
			s.end()
			finishTracer(tr)

			spans := readSpans(t, path)
			p, post := spans["ping"], spans["POST"]
			if c.flags == "" {
				if p.TraceID == trace || p.ParentSpanID != "" || p.Flags != 0x101 {
					t.Errorf("the parent was taken: %+v", p)
				}
				return
			}
			if p.TraceID != trace || p.ParentSpanID != parent || p.Flags&^0xff != 0x300 {
				t.Errorf("the parent was not taken: %+v", p)
			}
			if post.ParentSpanID != p.SpanID || post.Flags&^0xff != 0x100 {
				t.Errorf("the child of %s is %+v", p.SpanID, post)
			}
			if want := "00-" + trace + "-" + post.SpanID + "-" + c.flags; header != want {
				t.Errorf("traceparent: got %q, want %q", header, want)
			}
		})
	}
}

func TestTraceparentOfNewTrace(t *testing.T) {
	tr := newTracer(tracePath(t), "v1", nil)
	defer tr.close()
	_, a := tr.start(context.Background(), "a", spanServer)
	_, b := tr.start(context.Background(), "b", spanServer)
	valid := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`)
	if !valid.MatchString(a.traceparent()) {
		t.Errorf("traceparent is %q", a.traceparent())
	}
	if a.trace == b.trace || a.span == b.span {
		t.Error("two traces share an id")
	}
}

func TestTraceStrings(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "tools/call", "tools/call"},
		{"quotes", `a"b\c`, `a"b\c`},
		{"line ends", "a\r\nb\x00\x1b[2J", "a\r\nb\x00\x1b[2J"},
		{"markup", "<&>", "<&>"},
		{"umlaut", "Müller\u2028", "Müller\u2028"},
		{"no UTF-8", "a\xffb", "a\ufffdb"},
		{"long", strings.Repeat("x", 1000), strings.Repeat("x", 256)},
		{"cut before a character", strings.Repeat("x", 255) + "€", strings.Repeat("x", 255)},
		{"long and no UTF-8", strings.Repeat("a\x80", 1000), strings.Repeat("a", 128)},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := appendQuoted(nil, c.in)
			if bytes.ContainsAny(raw, "\r\n") || !utf8.Valid(raw) {
				t.Errorf("got %q", raw)
			}
			var got string
			if err := json.Unmarshal(raw, &got); err != nil || got != c.want {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
		})
	}
}

// TestTraceRedaction reads the source of the program: every attribute that it sets must be one
// of the constants, which a string literal or a conversion would get around.
func TestTraceRedaction(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	secret := regexp.MustCompile(`header|body|query|url|path|token|verifier|argument|resource|secret|authorization`)
	constants, calls := 0, 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "attr") {
				value, ok := spec.Values[0].(*ast.BasicLit)
				if typ := fmt.Sprint(spec.Type); !ok ||
					!strings.HasSuffix(strings.ToLower(typ), "attribute") ||
					secret.MatchString(value.Value) ||
					strings.Contains(value.Value, "session") != (typ == "hashedAttribute") {
					t.Errorf("%s: %s is %v %v", name, spec.Names[0].Name, spec.Type, spec.Values[0])
				}
				constants++
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if id, ok := call.Fun.(*ast.Ident); ok &&
				(id.Name == "hashedAttribute" || id.Name == "attribute" && name != "trace.go") {
				t.Errorf("%s makes an attribute of its own", name)
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || name == "trace.go" && sel.Sel.Name == "setString" {
				return true // setHash and fail
			}
			switch sel.Sel.Name {
			case "setString", "setInt", "setHash":
				calls++
				if id, ok := call.Args[0].(*ast.Ident); !ok || !strings.HasPrefix(id.Name, "attr") {
					t.Errorf("%s: %s is given something else than a constant", name, sel.Sel.Name)
				}
			}
			return true
		})
	}
	if constants < 10 || calls < 10 {
		t.Errorf("%d constants in %d calls: the test looks at the wrong place", constants, calls)
	}
}

func TestTraceConcurrency(t *testing.T) {
	path := tracePath(t)
	tr := newTracer(path, "v1", nil)
	ctx, root := tr.start(context.Background(), "root", spanServer)
	const workers, each = 8, 50
	var wg sync.WaitGroup
	for w := 0; w < workers; w++ {
		wg.Add(1)
		go func(w int) {
			defer wg.Done()
			for i := 0; i < each; i++ {
				_, s := tr.start(ctx, fmt.Sprintf("%d/%d", w, i), spanClient)
				s.setInt(attrServerPort, strconv.Itoa(i))
				root.fail("x")
				s.end()
			}
		}(w)
	}
	wg.Wait()
	root.end()
	finishTracer(tr)
	if spans := readSpans(t, path); len(spans) != workers*each+1 {
		t.Errorf("%d spans were written, want %d", len(spans), workers*each+1)
	}
}

func TestSpanAfterItsEnd(t *testing.T) {
	path := tracePath(t)
	tr := newTracer(path, "v1", nil)
	_, s := tr.start(context.Background(), "once", spanServer)
	_, late := tr.start(context.Background(), "late", spanServer)
	s.end()
	s.end()
	s.fail("too late")
	finishTracer(tr)
	late.end()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(raw, []byte("\n")) != 1 || !bytes.Contains(raw, []byte(`"once"`)) ||
		bytes.Contains(raw, []byte("too late")) {
		t.Errorf("the file holds %s", raw)
	}
}

// The writer wakes by itself: close is not needed to see a span.
func TestTraceIsWrittenWhileRunning(t *testing.T) {
	path := tracePath(t)
	tr := newTracer(path, "v1", nil)
	defer tr.close()
	for i := 0; i < 2; i++ { // a second time: the writer went back to sleep
		_, s := tr.start(context.Background(), fmt.Sprint("span ", i), spanServer)
		s.end()
		want := fmt.Sprintf(`"span %d"`, i)
		eventually(t, want+" in the file", func() bool {
			raw, _ := os.ReadFile(path)
			return bytes.Contains(raw, []byte(want))
		})
	}
}

// Spans that end while others are written are neither lost nor mixed with these.
func TestTraceWhileWriting(t *testing.T) {
	path := tracePath(t)
	tr := newTracer(path, "v1", nil)
	waiting := func() int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return len(tr.ended)
	}
	ended, writes := 0, 0
	for size := int64(0); writes < 3; {
		if waiting() < maxTraceBatch/4 {
			_, s := tr.start(context.Background(), fmt.Sprint(ended), spanServer)
			s.end()
			ended++
		}
		if info, err := os.Stat(path); err == nil && info.Size() != size {
			size = info.Size()
			writes++
		}
	}
	finishTracer(tr)
	if spans := readSpans(t, path); len(spans) != ended {
		t.Errorf("the file holds %d spans, want %d", len(spans), ended)
	}
}

// With the disk stuck, spans are lost, and end still returns.
func TestFullTraceQueue(t *testing.T) {
	tr := tracerWithoutWriter(tracePath(t), nil)
	for before := -1; len(tr.ended) > before && before < 2*maxTraceBatch; {
		before = len(tr.ended)
		_, s := tr.start(context.Background(), strings.Repeat("x", 1000), spanServer)
		s.end()
		if got := len(tr.ended) - before; got > 4*maxTraceString {
			t.Fatalf("a line of %d bytes is waiting", got)
		}
	}
	if got := len(tr.ended); got < maxTraceBatch || got > maxTraceBatch+4*maxTraceString {
		t.Errorf("%d bytes are waiting, want about %d", got, maxTraceBatch)
	}
	lines := endedLines(tr)
	tr.write(lines)
	readSpans(t, tr.path)
	if raw, _ := os.ReadFile(tr.path); !bytes.Equal(raw, lines) {
		t.Errorf("%d of %d bytes were written", len(raw), len(lines))
	}
}

func TestTraceCloseIsBounded(t *testing.T) {
	tr := tracerWithoutWriter(tracePath(t), nil)
	tr.stopped = make(chan struct{}) // a writer that is stuck for good
	began := time.Now()
	tr.close()
	if took := time.Since(began); took < traceCloseBound || took >= testPatience {
		t.Errorf("close took %v, want about %v", took, traceCloseBound)
	}
}

func TestTraceErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"below a file", func(path string) error {
			return os.WriteFile(filepath.Dir(path), nil, 0o600)
		}, ""},
		{"a directory", func(path string) error {
			return os.MkdirAll(path, 0o700)
		}, "no regular file"},
		{"a symbolic link", func(path string) error {
			os.Mkdir(filepath.Dir(path), 0o700)
			return os.Symlink(filepath.Join(filepath.Dir(filepath.Dir(path)), "precious"), path)
		}, "no regular file"},
		{"a dangling symbolic link", func(path string) error {
			os.Mkdir(filepath.Dir(path), 0o700)
			return os.Symlink("nowhere", path)
		}, "no regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := tracePath(t)
			precious := filepath.Join(filepath.Dir(filepath.Dir(path)), "precious")
			if err := os.WriteFile(precious, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.make(path); err != nil {
				if runtime.GOOS == "windows" && strings.Contains(c.name, "link") {
					return // making one needs a privilege there
				}
				t.Fatal(err)
			}
			log := &traceLog{}
			tr := tracerWithoutWriter(path, &logger{level: levelWarn, w: log})
			for i := 0; i < 3; i++ {
				writeSpan(tr, "ping")
			}
			if strings.Count(log.String(), "cannot write traces to ") != 1 ||
				!strings.Contains(log.String(), c.want) {
				t.Errorf("the log is %q, want one line about traces with %q", log, c.want)
			}
			if got, _ := os.ReadFile(precious); string(got) != "mine" {
				t.Errorf("what the link leads to holds %q", got)
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(path), "nowhere")); err == nil {
				t.Error("what the link leads to was made")
			}
		})
	}
}

func TestTraceRetry(t *testing.T) {
	path := tracePath(t)
	tr := tracerWithoutWriter(path, nil)
	fatal(t, os.WriteFile(filepath.Dir(path), nil, 0o600))
	writeSpan(tr, "lost")
	fatal(t, os.Remove(filepath.Dir(path)))
	tr.torn = true
	writeSpan(tr, "there again")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if raw[0] != '\n' { // ends the torn line, so that it costs no other
		t.Errorf("the file begins with %q", raw[0])
	}
	if _, s := decodeLine(t, raw); s.Name != "there again" ||
		bytes.Count(raw[1:], []byte("\n")) != 1 {
		t.Errorf("the file holds %s", raw)
	}
}

// A burst is one write; the file is rotated before the next.
func TestTraceBatches(t *testing.T) {
	path := tracePath(t)
	tr := tracerWithoutWriter(path, nil)
	tr.limit = 150_000
	for i := 0; i < 400; i++ { // some 280 KB
		_, s := tr.start(context.Background(), fmt.Sprint(i), spanServer)
		s.setString(attrToolName, strings.Repeat("x", 200))
		s.end()
	}
	tr.write(endedLines(tr))
	writeSpan(tr, "next")
	old, now := readSpans(t, path+".1"), readSpans(t, path)
	if len(old) != 400 || len(now) != 1 {
		t.Errorf("the files hold %d and %d spans, want 400 and 1", len(old), len(now))
	}
}

// Whoever finds the file full while another process has just put it aside must leave both alone.
func TestLateRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traces.jsonl")
	for name, content := range map[string]string{path: "fresh",
		path + ".1": "full, and put aside"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fatal(t, (&tracer{path: path, limit: 10}).rotate())
	for name, want := range map[string]string{path: "fresh", path + ".1": "full, and put aside"} {
		if got, _ := os.ReadFile(name); string(got) != want {
			t.Errorf("%s holds %q, want %q", filepath.Base(name), got, want)
		}
	}
	onlyTraceFiles(t, filepath.Dir(path))
}

// A file that cannot be rotated stops growing.
func TestTraceFileThatCannotRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traces.jsonl")
	if err := os.MkdirAll(path+".lock", 0o700); err != nil {
		t.Fatal(err)
	}
	tr := newTracer(path, "v1", nil)
	defer tr.close()
	tr.limit = 10_000
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		err = tr.append(append(bytes.Repeat([]byte("x"), 999), '\n'))
	}
	info, statErr := os.Stat(path)
	fatal(t, statErr)
	if most := tr.limit + rotationSlack + 1000; err == nil || info.Size() > most {
		t.Errorf("the file has %d bytes, want at most %d and an error (%v)", info.Size(), most, err)
	}
}

func onlyTraceFiles(t *testing.T, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "traces.jsonl", "traces.jsonl.1", "traces.jsonl.lock":
		default:
			t.Errorf("%s was left behind", e.Name())
		}
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
	}
	return total
}

const traceHelperEnv = "MCP_PROXY_TEST_TRACE" // path, limit, number of spans

// TestHelperTraceWriter is a process of TestTraceProcesses; alone it does nothing.
func TestHelperTraceWriter(t *testing.T) {
	args := strings.Split(os.Getenv(traceHelperEnv), ",")
	if len(args) != 3 {
		return
	}
	limit, _ := strconv.ParseInt(args[1], 10, 64)
	count, _ := strconv.Atoi(args[2])
	tr := tracerWithoutWriter(args[0], nil)
	tr.limit = limit
	var lines []byte
	for i := 1; i <= count; i++ {
		_, s := tr.start(context.Background(), fmt.Sprintf("%d/%d", os.Getpid(), i), spanServer)
		s.end()
		lines = append(lines, endedLines(tr)...)
		if len(lines) > 256<<10 || i == count { // not through the queue: that may lose some
			if err := tr.append(lines); err != nil {
				t.Fatal(err)
			}
			lines = lines[:0]
		}
	}
}

func runTraceWriters(t *testing.T, path string, processes int, limit int64, count int) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no file is renamed there that another process has open: busy writers may lose lines")
	}
	commands, output := make([]*exec.Cmd, processes), make([]bytes.Buffer, processes)
	for i := range commands {
		c := exec.Command(os.Args[0], "-test.run=^TestHelperTraceWriter$")
		c.Env = append(os.Environ(), testRole+"=helper",
			fmt.Sprintf("%s=%s,%d,%d", traceHelperEnv, path, limit, count))
		c.Stdout, c.Stderr = &output[i], &output[i]
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		commands[i] = c
	}
	for i, c := range commands {
		if err := c.Wait(); err != nil {
			t.Errorf("a writer failed: %v\n%s", err, &output[i])
		}
	}
}

// Five processes and one rotation: nothing is lost, though all of them want to rotate at once.
func TestTraceProcesses(t *testing.T) {
	const processes, count = 5, 600
	for round := 0; round < 2; round++ {
		path := tracePath(t)
		runTraceWriters(t, path, processes, 1<<20, count) // about 1.4 MiB in all
		spans := readSpans(t, path)
		for name, s := range readSpans(t, path+".1") {
			spans[name] = s
		}
		if len(spans) != processes*count {
			t.Errorf("%d spans are left, want %d", len(spans), processes*count)
		}
		onlyTraceFiles(t, filepath.Dir(path))
	}
}

// Many rotations: the disk does not fill up, and all lines are whole. While one process has the
// lock and is not run, the others may write on, hence the third.
func TestTraceStaysBounded(t *testing.T) {
	path := tracePath(t)
	const processes, limit = 5, 1 << 20 // about 5 MiB are written
	runTraceWriters(t, path, processes, limit, 2000)
	total := onlyTraceFiles(t, filepath.Dir(path))
	if most := int64(3 * limit); total > most || total < limit {
		t.Errorf("%d bytes are on disk, want %d to %d", total, limit, most)
	}
	readSpans(t, path)
	readSpans(t, path+".1")
}

func BenchmarkSpan(b *testing.B) {
	tr := newTracer(filepath.Join(b.TempDir(), "traces.jsonl"), "v1.2.3", nil)
	defer tr.close()
	ctx := context.Background()
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		_, s := tr.start(ctx, "tools/call search", spanServer)
		s.setString(attrMCPMethod, "tools/call")
		s.setInt(attrHTTPStatus, "200")
		s.end()
	}
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
		quoted := appendQuoted(nil, s)
		if bytes.ContainsAny(quoted, "\r\n") || json.Unmarshal(quoted, &said) != nil || len(said) > 3*maxTraceString {
			t.Fatalf("%q became %q", s, quoted)
		}
		if utf8.ValidString(s) && !strings.HasPrefix(s, said) || len(s) < maxTraceString && utf8.ValidString(s) && said != s {
			t.Fatalf("%q became %q", s, said)
		}
		tr := tracerWithoutWriter("", nil)
		_, sp := tr.start(context.Background(), s, spanClient)
		sp.setString(attrToolName, s)
		sp.setInt(attrHTTPStatus, "200")
		sp.end()
		line := endedLines(tr)
		if !json.Valid(line) || bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("%q: the line is %q", s, line)
		}
		line = errorAnswer(nil, asRPCError(fmt.Errorf("%s", s)))
		if !json.Valid(line) || bytes.ContainsAny(line, "\r\n") {
			t.Fatalf("%q: the answer is %q", s, line)
		}
	})
}

// A result with a null error beside it, as JSON-RPC 1.0 had it, is no failure.
func TestTraceNullError(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	for name, isError := range map[string]string{"fine": "false", "fails": "true"} {
		server.reply("tools/call "+name, says(200, "application/json",
			`{"jsonrpc":"2.0","id":<id>,"result":{"content":[],"isError":`+isError+`},"error":null}`))
	}
	user := newUser(t)
	p := user.start("-u", server.url)
	p.initialize()
	for _, name := range []string{"fine", "fails"} {
		p.call("tools/call", `{"name":"`+name+`"}`)
	}
	p.closeStdin()
	p.wait()
	got := map[string]string{}
	for _, span := range user.spans() {
		got[span.Name] = fmt.Sprint(span.Status.Code, span.attribute("error.type"))
	}
	if got["tools/call fine"] != "0" || got["tools/call fails"] != "2tool_error" {
		t.Errorf("got %q", got)
	}
}
