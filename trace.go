package main

// Spans: how they are named and related (W3C Trace Context), what may be said in them, and how they
// become lines of a file that several processes share. It does not know what is worth a span.
//
// The file, traces.jsonl, is what the OpenTelemetry file exporter writes and the Collector's
// otlpjsonfile receiver reads: each line is one TracesData, here always with one span.
//
//	{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{…}},…]},
//	  "scopeSpans":[{"scope":{"name":"mcp-proxy","version":"…"},"spans":[{
//	    "traceId":"32 hex digits","spanId":"16 hex digits","parentSpanId":"16 hex digits",
//	    "flags":257,"name":"tools/call search","kind":2,"startTimeUnixNano":"…",
//	    "attributes":[{"key":"mcp.method.name","value":{"stringValue":"tools/call"}},…],
//	    "endTimeUnixNano":"…","status":{"code":2}}]}]}]}
//
// Ids are hex, enumerations integers and 64-bit integers strings, as OTLP/JSON demands
// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// An attribute is one of the constants below and nothing else: that is the redaction. There is no
// constant for a header, a body, a URL, a path, a query, a parameter (a resource's URI is one), a
// token or a code, so none of them can be written.
type attribute string

// A hashedAttribute cannot be set in clear: setString does not take it.
type hashedAttribute string

const (
	// Of a message: the conventions for MCP.
	attrMCPMethod  attribute = "mcp.method.name"
	attrMCPVersion attribute = "mcp.protocol.version"
	attrRequestID  attribute = "jsonrpc.request.id"
	attrOperation  attribute = "gen_ai.operation.name" // "execute_tool" for tools/call, else absent
	attrToolName   attribute = "gen_ai.tool.name"
	attrPromptName attribute = "gen_ai.prompt.name"
	attrRPCStatus  attribute = "rpc.response.status_code" // the JSON-RPC error code, as a string
	attrTransport  attribute = "network.transport"        // "pipe" for stdio
	attrErrorType  attribute = "error.type"               // set by fail

	// A session id lets its holder act in the session, so it is a secret; its hash still shows
	// which messages belong together.
	attrSessionID hashedAttribute = "mcp.session.id"

	// Of an HTTP request: the conventions for HTTP client spans, without url.full.
	attrHTTPMethod      attribute = "http.request.method"
	attrHTTPStatus      attribute = "http.response.status_code"
	attrServerAddress   attribute = "server.address"
	attrServerPort      attribute = "server.port"
	attrProtocolVersion attribute = "network.protocol.version" // of HTTP: no name is given
)

// A spanKind has the numbers of OTLP's SpanKind.
type spanKind uint8

const (
	spanInternal spanKind = 1
	spanServer   spanKind = 2 // a message of our client
	spanClient   spanKind = 3 // a request of ours
)

const (
	maxTraceFile    = 10 << 20
	rotationSlack   = 256 << 10 // how far the file may exceed that while it cannot be renamed
	maxTraceBatch   = 2 << 20   // bytes that wait to be written at once; more are lost
	maxTraceString  = 256       // bytes of a name or a value, before escaping
	traceDelay      = 50 * time.Millisecond
	traceCloseBound = 500 * time.Millisecond
)

// A tracer takes ended spans and has one goroutine write them. A nil *tracer does nothing.
type tracer struct {
	path  string
	limit int64 // maxTraceFile
	log   *logger
	head  string // of every line, up to the span

	mu      sync.Mutex    // guards ended
	ended   []byte        // lines
	some    chan struct{} // holds one: there are lines
	stop    context.CancelFunc
	stopped chan struct{}

	// Only the writing goroutine uses these.
	torn   bool // the last write ended within a line
	warned bool
}

// newTracer does no I/O: a program that ends without a span leaves no file. The head names the
// program and the process, but neither the host nor the command line: that may hold secrets.
func newTracer(path, version string, log *logger) *tracer {
	ctx, stop := context.WithCancel(context.Background())
	t := &tracer{
		path: path, limit: maxTraceFile, log: log, some: make(chan struct{}, 1), stop: stop,
		head: fmt.Sprintf(`{"resourceSpans":[{"resource":{"attributes":[`+
			`{"key":"service.name","value":{"stringValue":"mcp-proxy"}},`+
			`{"key":"service.version","value":{"stringValue":%s}},`+
			`{"key":"process.pid","value":{"intValue":"%d"}}]},`+
			`"scopeSpans":[{"scope":{"name":"mcp-proxy","version":%[1]s},"spans":[{`,
			quote(version), os.Getpid()),
		stopped: make(chan struct{}),
	}
	go t.run(ctx)
	return t
}

// A spanContext is the part of a span that travels.
type spanContext struct {
	trace [16]byte
	span  [8]byte
	flags byte
}

const (
	flagSampled = 1
	// https://www.w3.org/TR/trace-context-2/#trace-flags: "sampled" and "random" are passed on;
	// unknown bits must not be.
	knownFlags = 3
	// OTLP's Span.flags says beside the W3C flags whether the parent is in another process.
	flagKnowsRemote = 0x100
	flagRemote      = 0x200
)

// A span is one timed step. Its methods may be called from any goroutine; what comes after end
// has no effect. A nil *span does nothing. Without a tracer it is a parent in another process.
type span struct {
	spanContext
	shared bool // the trace is the caller's
	tracer *tracer
	start  time.Time

	mu     sync.Mutex // guards what follows
	line   *[]byte    // of the file, as far as it is known; nil once the span has ended
	status string     // the members of its status
}

type spanKey struct{} // of a *span in a context

// start begins a span below the span in ctx, else a trace.
func (t *tracer) start(ctx context.Context, name string, kind spanKind) (context.Context, *span) {
	if t == nil {
		return ctx, nil
	}
	s := &span{tracer: t, start: time.Now(), line: spanLines.Get().(*[]byte)}
	var parent []byte
	flags := flagKnowsRemote
	if p := spanOf(ctx); p != nil {
		s.spanContext, s.shared, parent = p.spanContext, p.shared, p.span[:]
		if p.tracer == nil {
			flags |= flagRemote
		}
	} else {
		binary.BigEndian.PutUint64(s.trace[:8], rand.Uint64()) // unique, not secret
		binary.BigEndian.PutUint64(s.trace[8:], rand.Uint64())
		s.flags = flagSampled
	}
	binary.BigEndian.PutUint64(s.span[:], rand.Uint64())
	b := appendHex(append((*s.line)[:0], `"traceId":"`...), s.trace[:])
	b = appendHex(append(b, `","spanId":"`...), s.span[:])
	b = appendHex(append(b, `","parentSpanId":"`...), parent)
	b = strconv.AppendInt(append(b, `","flags":`...), int64(flags|int(s.flags)), 10)
	b = strconv.AppendInt(append(b, `,"kind":`...), int64(kind), 10)
	b = strconv.AppendInt(append(b, `,"startTimeUnixNano":"`...), s.start.UnixNano(), 10)
	*s.line = append(appendQuoted(append(b, `","name":`...), name), `,"attributes":[`...)
	return context.WithValue(ctx, spanKey{}, s), s
}

// withRemoteParent returns a context whose spans belong to the caller's trace. A traceparent that
// is not valid is ignored, and a new trace begins.
func withRemoteParent(ctx context.Context, traceparent string) context.Context {
	if parent, ok := parseTraceparent(traceparent); ok {
		return context.WithValue(ctx, spanKey{}, &span{spanContext: parent, shared: true})
	}
	return ctx
}

// parseTraceparent reads version-trace-parent-flags
// (https://www.w3.org/TR/trace-context/#traceparent-header). A later version may append to it what
// we do not know, after a further dash.
func parseTraceparent(s string) (c spanContext, ok bool) {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	head := s[:min(len(s), length)]
	raw, err := hex.DecodeString(strings.ReplaceAll(head, "-", ""))
	switch {
	case err != nil || len(raw) != 1+16+8+1 || raw[0] == 0xff,
		fmt.Sprintf("%x-%x-%x-%x", raw[:1], raw[1:17], raw[17:25], raw[25:]) != head,
		len(s) > length && (raw[0] == 0 || s[length] != '-'):
		return c, false
	}
	copy(c.trace[:], raw[1:17])
	copy(c.span[:], raw[17:25])
	c.flags = raw[25] & knownFlags
	return c, c.trace != [16]byte{} && c.span != [8]byte{}
}

// spanOf returns the span that ctx is in, nil if there is none.
func spanOf(ctx context.Context) *span {
	s, _ := ctx.Value(spanKey{}).(*span)
	return s
}

// traceparent is the header that makes this span the parent of what the server does. A caller that
// did not sample its trace still gets a span in our file, which is there for the user of this
// machine; but its decision is passed on.
func (s *span) traceparent() string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("00-%x-%x-%02x", s.trace, s.span, s.flags)
}

// setString adds an attribute. A key is set once: the keys of a span are unique.
func (s *span) setString(key attribute, v string) { s.set(key, "stringValue", v) }

func (s *span) setInt(key attribute, digits string) { s.set(key, "intValue", digits) }

// A shortHash is 12 hex digits of a SHA-256: enough to tell values apart, too few to use.
type shortHash string

func hashOf(v string) shortHash {
	sum := sha256.Sum256([]byte(v))
	return shortHash(hex.EncodeToString(sum[:6]))
}

func (s *span) setHash(key hashedAttribute, v shortHash) { s.setString(attribute(key), string(v)) }

func (s *span) set(key attribute, kind, v string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line != nil {
		b := append(append(append(*s.line, `{"key":"`...), key...), `","value":{"`...)
		*s.line = append(appendQuoted(append(append(b, kind...), `":`...), v), "}},"...)
	}
	if key == attrErrorType {
		s.status = `"code":2` // STATUS_CODE_ERROR
	}
}

// fail marks the span as an error of a kind: one of a small set of names, an HTTP status or a
// JSON-RPC error code, never a message.
func (s *span) fail(errorType string) { s.setString(attrErrorType, errorType) }

// An errorKind gives an error the error.type of the spans that fail by it.
type errorKind struct {
	error
	kind string
}

func (e errorKind) Unwrap() error { return e.error }

func (s *span) endWith(err error) {
	if err != nil {
		s.fail(errorType(err))
	}
	s.end()
}

// end queues the span and returns at once: if spans come faster than they can be written, they are
// lost. A second end does nothing.
func (s *span) end() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == nil {
		return
	}
	took := time.Since(s.start) // monotonic: the wall clock may be set meanwhile
	b := append(bytes.TrimSuffix(*s.line, []byte(",")), `],"endTimeUnixNano":"`...)
	b = append(strconv.AppendInt(b, s.start.Add(took).UnixNano(), 10), `","status":{`...)
	*s.line = append(append(b, s.status...), "}}]}]}]}\n"...)
	t := s.tracer
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ended) < maxTraceBatch {
		t.ended = append(append(t.ended, t.head...), *s.line...)
	}
	spanLines.Put(s.line)
	s.line = nil
	select {
	case t.some <- struct{}{}:
	default: // the writer knows already
	}
}

// spanLines are used again: they were a fifth of all garbage.
var spanLines = sync.Pool{New: func() any { line := make([]byte, 0, 1<<10); return &line }}

func appendHex(b, raw []byte) []byte {
	var text [2 * 16]byte
	return append(b, text[:hex.Encode(text[:], raw)]...)
}

// appendQuoted appends a string as JSON, or as much of it as may be written.
func appendQuoted(b []byte, s string) []byte {
	if len(s) > maxTraceString {
		s = strings.ToValidUTF8(s[:maxTraceString], "") // no half character at the end
	}
	whole := append(append(append(b, '"'), s...), '"')
	if text := whole[len(b)+1:]; plainLen(text) < len(s) || !utf8.Valid(text) {
		return append(b, quote(s)...)
	}
	return whole
}

// close writes the spans that have ended, if that takes no longer than traceCloseBound.
func (t *tracer) close() {
	if t == nil {
		return
	}
	t.stop()
	select {
	case <-t.stopped:
	case <-time.After(traceCloseBound):
	}
}

// run sleeps without a timer until a span has ended, then a little longer, so that many spans are
// one write.
func (t *tracer) run(ctx context.Context) {
	defer close(t.stopped)
	var lines []byte
	for going := true; going; {
		select {
		case <-t.some:
		case <-ctx.Done():
		}
		going = sleep(ctx, traceDelay)
		t.mu.Lock()
		lines, t.ended = t.ended, lines[:0]
		t.mu.Unlock()
		t.write(lines)
	}
}

// write appends the lines to the file, or loses them: traces are not worth a message. It warns
// once; the disk may recover, and then there are traces again.
func (t *tracer) write(lines []byte) {
	if len(lines) == 0 {
		return
	}
	if err := t.append(lines); err != nil && !t.warned {
		t.warned = true
		t.log.warnf("cannot write traces to %s: %v", t.path, err)
	}
}

// append opens the file anew each time: it always finds the current one, whoever rotated it, and
// Windows can rename it, which it does not do with an open file.
func (t *tracer) append(lines []byte) error {
	var rotation error
	if info, err := os.Lstat(t.path); err == nil && info.Size() >= t.limit {
		rotation = t.rotate()
	}
	f, info, err := openPrivate(t.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return err
	}
	if rotation != nil && info.Size() >= t.limit+rotationSlack {
		f.Close()
		return fmt.Errorf("the file is full: %w", rotation)
	}
	if t.torn {
		lines = append([]byte{'\n'}, lines...)
	}
	n, err := f.Write(lines)
	t.torn = n > 0 && lines[n-1] != '\n' || n == 0 && t.torn
	return errors.Join(err, f.Close())
}

// rotate makes the full file the only old one. Several processes find it full at the same time;
// without the lock, a slow one would replace the file that a fast one has just put aside by the new
// one in its place.
func (t *tracer) rotate() error {
	lock, _, err := openPrivate(t.path+".lock", os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	ok, err := tryLock(lock)
	if !ok {
		lock.Close()
		return err // nil: another process rotates, the file may grow a little meanwhile
	}
	defer unlock(lock)
	if info, err := os.Lstat(t.path); err != nil || info.Size() < t.limit {
		return nil // another process has done it
	}
	return os.Rename(t.path, t.path+".1")
}
