package main

// This file knows spans: how they are named and related (W3C Trace Context), what may be said in
// them, and how they come to be lines of a file that several processes share. It does not know
// what is worth a span, nor anything of MCP, HTTP or OAuth but the names of attributes.
//
// The file, traces.jsonl, is what the OpenTelemetry file exporter writes and the Collector's
// otlpjsonfile receiver reads: each line is one TracesData, here always with one span.
//
//	{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"mcp-proxy"}},…]},
//	  "scopeSpans":[{"scope":{"name":"mcp-proxy","version":"…"},"spans":[{
//	    "traceId":"32 hex digits","spanId":"16 hex digits","parentSpanId":"16 hex digits","flags":257,
//	    "name":"tools/call search","kind":2,"startTimeUnixNano":"…","endTimeUnixNano":"…",
//	    "attributes":[{"key":"mcp.method.name","value":{"stringValue":"tools/call"}},…],
//	    "status":{"code":2}}]}]}]}
//
// Ids are hex, enumerations integers and 64-bit integers strings, as OTLP/JSON demands
// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// An attribute is one of the constants below and nothing else: that is the redaction. There is no
// constant for a header, a body, a URL, a path, a query, a parameter (a resource's URI is one), a
// token or a code, so none of them can be written.
type attribute uint8

// A hashedAttribute cannot be set in clear: setString does not take it.
type hashedAttribute attribute

const (
	attrMCPMethod attribute = iota
	attrRequestID
	attrOperation // "execute_tool" for tools/call, else absent
	attrToolName
	attrPromptName
	attrRPCStatus // the JSON-RPC error code, as a string
	attrRPCSystem // "jsonrpc"
	attrErrorType // set by fail
	attrHTTPMethod
	attrHTTPStatus
	attrServerAddress
	attrServerPort
	attrTransport // "pipe" for stdio

	// A session id lets its holder act in the session, so that it is a secret; its hash still
	// tells which messages belong together.
	attrSessionID hashedAttribute = iota
)

var attributeNames = [...]string{
	// Of a message: the conventions for MCP, and for JSON-RPC where those refer to it.
	attrMCPMethod:  "mcp.method.name",
	attrSessionID:  "mcp.session.id",
	attrRequestID:  "jsonrpc.request.id",
	attrOperation:  "gen_ai.operation.name",
	attrToolName:   "gen_ai.tool.name",
	attrPromptName: "gen_ai.prompt.name",
	attrRPCStatus:  "rpc.response.status_code",
	attrRPCSystem:  "rpc.system.name",
	attrErrorType:  "error.type",
	attrTransport:  "network.transport",

	// Of an HTTP request: the conventions for HTTP client spans, without url.full.
	attrHTTPMethod:    "http.request.method",
	attrHTTPStatus:    "http.response.status_code",
	attrServerAddress: "server.address",
	attrServerPort:    "server.port",
}

// A spanKind has the numbers of OTLP's SpanKind.
type spanKind uint8

const (
	spanInternal spanKind = 1
	spanServer   spanKind = 2 // a message of our client
	spanClient   spanKind = 3 // a request of ours
)

const (
	maxTraceFile    = 10 << 20
	rotationSlack   = 256 << 10 // how far past its limit a file may grow while it cannot be renamed
	maxTraceBatch   = 64 << 10  // one write: larger ones are likelier to be torn by a full disk
	maxTracePending = 1 << 20   // what a slow disk may cost in memory
	maxTraceString  = 256       // bytes of a name or a value, before escaping
	traceDelay      = 500 * time.Millisecond
	traceCloseBound = 500 * time.Millisecond
	traceRetryPause = time.Minute // after a failed write
)

// A tracer takes ended spans and has one goroutine write them. A nil *tracer does nothing.
type tracer struct {
	path  string
	limit int64 // maxTraceFile
	log   *logger
	head  []byte // of every line, up to the span

	begun   chan struct{} // pending is no longer empty
	full    chan struct{} // pending holds a batch, do not wait any longer
	stop    chan struct{}
	stopped chan struct{}

	mu      sync.Mutex // guards what follows
	pending []byte     // whole lines
	dropped int
	closed  bool

	// Only the writing goroutine touches these.
	spare      []byte    // becomes pending at the next flush
	torn       bool      // the last write ended within a line
	retry      time.Time // nothing is written before
	complained bool
}

// newTracer does no I/O: a program that ends without a span leaves no file.
func newTracer(path, version string, log *logger) *tracer {
	t := &tracer{
		path:    path,
		limit:   maxTraceFile,
		log:     log,
		head:    traceHead(version),
		begun:   make(chan struct{}, 1),
		full:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	go t.write()
	return t
}

// traceHead names the program and the process, but neither the host nor the command line: that
// may hold secrets.
func traceHead(version string) []byte {
	b := []byte(`{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"mcp-proxy"}},` +
		`{"key":"service.version","value":{"stringValue":`)
	b = appendString(b, version)
	b = append(b, `}},{"key":"process.pid","value":{"intValue":"`...)
	b = strconv.AppendInt(b, int64(os.Getpid()), 10)
	b = append(b, `"}}]},"scopeSpans":[{"scope":{"name":"mcp-proxy","version":`...)
	b = appendString(b, version)
	return append(b, `},"spans":[{"traceId":"`...)
}

// A spanContext is the part of a span that travels.
type spanContext struct {
	trace [16]byte
	span  [8]byte
	flags byte
}

const (
	flagSampled = 1
	// https://www.w3.org/TR/trace-context-2/#trace-flags: besides sampled there is random, to be
	// passed on; bits that are not known are not.
	knownFlags = 3
	// OTLP's Span.flags says beside the W3C flags whether the parent is in another process.
	flagKnowsRemote = 0x100
	flagRemote      = 0x200
)

// A span is one timed step. Its methods may be called from any goroutine; what comes after end
// has no effect. A nil *span does nothing.
type span struct {
	spanContext
	parent [8]byte // zero: none
	remote bool    // the parent is in another process
	shared bool    // so is the root: the trace is the caller's
	kind   spanKind
	tracer *tracer
	name   string
	start  time.Time

	mu     sync.Mutex // guards what follows
	attrs  []spanAttribute
	room   [8]spanAttribute // of attrs, so that most spans are one allocation
	failed bool
	ended  bool
}

// A spanAttribute is small: every message has some ten.
type spanAttribute struct {
	text  string
	num   int32
	isNum bool
	key   attribute
}

type spanKey struct{}   // of a *span in a context
type remoteKey struct{} // of a spanContext in a context

// start begins a span below the span in ctx, else below the remote parent in ctx, else a trace.
func (t *tracer) start(ctx context.Context, name string, kind spanKind) (context.Context, *span) {
	if t == nil {
		return ctx, nil
	}
	s := &span{tracer: t, name: name, kind: kind, start: time.Now()}
	s.attrs = s.room[:0]
	if parent := spanOf(ctx); parent != nil {
		s.spanContext, s.parent, s.shared = parent.spanContext, parent.span, parent.shared
	} else if parent, ok := ctx.Value(remoteKey{}).(spanContext); ok {
		s.spanContext, s.parent, s.remote, s.shared = parent, parent.span, true, true
	} else {
		binary.BigEndian.PutUint64(s.trace[:8], randomID())
		binary.BigEndian.PutUint64(s.trace[8:], randomID())
		s.flags = flagSampled
	}
	binary.BigEndian.PutUint64(s.span[:], randomID())
	return context.WithValue(ctx, spanKey{}, s), s
}

// randomID is never 0, which means "no id". Ids have to be unique, not secret, so the cheap
// source will do: it is seeded by the runtime and takes no lock.
func randomID() uint64 {
	for {
		if id := rand.Uint64(); id != 0 {
			return id
		}
	}
}

// withRemoteParent returns a context whose spans belong to the caller's trace. A traceparent that
// is not valid is ignored, and a new trace begins.
func withRemoteParent(ctx context.Context, traceparent string) context.Context {
	if parent, ok := parseTraceparent(traceparent); ok {
		return context.WithValue(ctx, remoteKey{}, parent)
	}
	return ctx
}

// parseTraceparent reads version-trace-parent-flags (https://www.w3.org/TR/trace-context/#traceparent-header).
// A later version may append to it what we do not know, after a further dash.
func parseTraceparent(s string) (c spanContext, ok bool) {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(s) < length || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return c, false
	}
	if len(s) > length && (s[:2] == "00" || s[length] != '-') || strings.ToLower(s[:length]) != s[:length] {
		return c, false
	}
	raw, err := hex.DecodeString(s[:2] + s[3:35] + s[36:52] + s[53:55])
	if err != nil || raw[0] == 0xff {
		return c, false
	}
	copy(c.trace[:], raw[1:17])
	copy(c.span[:], raw[17:25])
	c.flags = raw[25] & knownFlags
	return c, c.trace != [16]byte{} && c.span != [8]byte{}
}

// spanOf is the span that ctx is in, nil if there is none.
func spanOf(ctx context.Context) *span {
	s, _ := ctx.Value(spanKey{}).(*span)
	return s
}

// traceparent is the header that makes this span the parent of what the server does. A caller
// that did not sample its trace still gets a span in our file, which is there for the user of
// this machine; but its decision is passed on.
func (s *span) traceparent() string {
	if s == nil {
		return ""
	}
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = appendHex(b, s.trace[:])
	b = append(b, '-')
	b = appendHex(b, s.span[:])
	b = append(b, '-')
	return string(appendHex(b, []byte{s.flags}))
}

func (s *span) setString(key attribute, v string) {
	s.set(spanAttribute{key: key, text: v})
}

func (s *span) setInt(key attribute, v int) {
	s.set(spanAttribute{key: key, num: int32(v), isNum: true})
}

// setHash writes 12 hex digits of the SHA-256 of v: enough to tell values apart, too few to
// be worth anything.
func (s *span) setHash(key hashedAttribute, v string) {
	if s == nil {
		return
	}
	sum := sha256.Sum256([]byte(v))
	s.setString(attribute(key), hex.EncodeToString(sum[:6]))
}

// set replaces what key had before: the keys of a span are unique.
func (s *span) set(a spanAttribute) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	for i := range s.attrs {
		if s.attrs[i].key == a.key {
			s.attrs[i] = a
			return
		}
	}
	s.attrs = append(s.attrs, a)
}

// fail marks the span as an error of a kind: one of a small set of names, an HTTP status or a
// JSON-RPC error code, never a message.
func (s *span) fail(errorType string) {
	if s == nil {
		return
	}
	s.setString(attrErrorType, errorType)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
}

// end hands the span over and returns at once. A second end does nothing.
func (s *span) end() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	s.tracer.add(s, time.Since(s.start))
}

// appendLine takes the duration from the monotonic clock: the wall clock may be set meanwhile.
func (s *span) appendLine(b []byte, took time.Duration) []byte {
	b = append(b, s.tracer.head...)
	b = appendHex(b, s.trace[:])
	b = append(b, `","spanId":"`...)
	b = appendHex(b, s.span[:])
	flags := int64(s.flags) | flagKnowsRemote
	if s.parent != [8]byte{} {
		b = append(b, `","parentSpanId":"`...)
		b = appendHex(b, s.parent[:])
	}
	if s.remote {
		flags |= flagRemote
	}
	b = append(b, `","flags":`...)
	b = strconv.AppendInt(b, flags, 10)
	b = append(b, `,"name":`...)
	b = appendString(b, s.name)
	b = append(b, `,"kind":`...)
	b = strconv.AppendInt(b, int64(s.kind), 10)
	b = append(b, `,"startTimeUnixNano":"`...)
	b = strconv.AppendInt(b, s.start.UnixNano(), 10)
	b = append(b, `","endTimeUnixNano":"`...)
	b = strconv.AppendInt(b, s.start.UnixNano()+int64(took), 10)
	b = append(b, `","attributes":[`...)
	for i := range s.attrs {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.attrs[i].append(b)
	}
	b = append(b, `],"status":{`...)
	if s.failed {
		b = append(b, `"code":2`...) // STATUS_CODE_ERROR
	}
	return append(b, "}}]}]}]}\n"...)
}

func (a *spanAttribute) append(b []byte) []byte {
	b = append(b, `{"key":"`...)
	b = append(b, attributeNames[a.key]...)
	if a.isNum {
		b = append(b, `","value":{"intValue":"`...)
		b = strconv.AppendInt(b, int64(a.num), 10)
		return append(b, `"}}`...)
	}
	b = append(b, `","value":{"stringValue":`...)
	b = appendString(b, a.text)
	return append(b, `}}`...)
}

func appendHex(b, id []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range id {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// appendString appends s, at most maxTraceString bytes of it, as a JSON string of valid UTF-8.
func appendString(b []byte, s string) []byte {
	if len(s) > maxTraceString {
		n := maxTraceString
		for n > maxTraceString-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // no string fails; what is not UTF-8 becomes U+FFFD
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// add never waits for the disk: where spans come faster than they can be written, they are lost.
func (t *tracer) add(s *span, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := len(t.pending)
	if t.closed {
		return
	}
	if before >= maxTracePending {
		t.dropped++
		return
	}
	t.pending = s.appendLine(t.pending, took)
	if before == 0 {
		nudge(t.begun)
	}
	if before < maxTraceBatch && len(t.pending) >= maxTraceBatch {
		nudge(t.full)
	}
}

// nudge leaves a token in c, whose buffer has room for one.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// close writes what has ended so far, as far as that takes no longer than traceCloseBound.
func (t *tracer) close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	again, dropped := t.closed, t.dropped
	t.closed = true
	t.mu.Unlock()
	if again {
		return
	}
	if dropped > 0 {
		t.log.debugf("%d spans were lost: they came faster than they could be written", dropped)
	}
	close(t.stop)
	bound := time.NewTimer(traceCloseBound)
	defer bound.Stop()
	select {
	case <-t.stopped:
	case <-bound.C:
		t.log.debugf("the last traces could not be written in time")
	}
}

// write sleeps until there is something to write, with no timer running, and then waits a little
// longer, so that many spans are one write.
func (t *tracer) write() {
	defer close(t.stopped)
	for {
		select {
		case <-t.begun:
		case <-t.stop:
			t.flush()
			return
		}
		delay := time.NewTimer(traceDelay)
		select {
		case <-delay.C:
		case <-t.full:
		case <-t.stop:
		}
		delay.Stop()
		t.flush()
	}
}

// flush writes what is pending, or loses it: traces are not worth a message.
func (t *tracer) flush() {
	t.mu.Lock()
	lines := t.pending
	t.pending, t.spare = t.spare, nil
	t.mu.Unlock()
	if time.Now().After(t.retry) {
		if err := t.appendLines(lines); err != nil {
			t.retry = time.Now().Add(traceRetryPause)
			t.complain(err)
		}
	}
	if cap(lines) <= 4*maxTraceBatch { // a burst's buffer goes back to the system
		t.spare = lines[:0]
	}
}

// complain warns once. The disk may recover, and then there are traces again.
func (t *tracer) complain(err error) {
	if !t.complained {
		t.log.warnf("cannot write traces: %v", err)
	}
	t.complained = true
}

func (t *tracer) appendLines(lines []byte) error {
	for len(lines) > 0 {
		n := len(lines)
		if n > maxTraceBatch {
			n = bytes.LastIndexByte(lines[:maxTraceBatch], '\n') + 1
		}
		if err := t.appendBatch(lines[:n]); err != nil {
			return err
		}
		lines = lines[n:]
	}
	return nil
}

// appendBatch opens the file anew each time. That costs little beside the write, it always finds
// the file that is the current one, whoever rotated it, and it lets Windows rename it, which it
// does not do with an open file.
func (t *tracer) appendBatch(batch []byte) error {
	f, size, err := openTraces(t.path)
	if err == nil && size >= t.limit {
		f.Close()
		rotation := rotateTraces(t.path, t.limit)
		f, size, err = openTraces(t.path)
		if err == nil && rotation != nil && size >= t.limit+rotationSlack {
			f.Close()
			return fmt.Errorf("%s is full: %w", t.path, rotation)
		}
	}
	if err != nil {
		return err
	}
	if t.torn {
		batch = append([]byte{'\n'}, batch...)
	}
	n, err := f.Write(batch)
	if n > 0 {
		t.torn = batch[n-1] != '\n'
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}

// openTraces opens the file at path for appending and tells its size. It makes the file and its
// directory where they are missing. What is not a regular file of our own is refused, a symbolic
// link above all: it could lead the lines to any file of the user's.
func openTraces(path string) (*os.File, int64, error) {
	before, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	} else if err == nil {
		err = acceptableTraces(path, before)
	}
	if err != nil {
		return nil, 0, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|warily, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil {
		err = acceptableTraces(path, info) // the path may lead elsewhere by now
	}
	if err == nil && isLoose(info) {
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func acceptableTraces(path string, info fs.FileInfo) error {
	if err := acceptable(info); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// rotateTraces makes the full file the only old one. Several processes find it full at the same
// time; without the lock, the slow one would replace the file that the fast one has just put
// aside by the fresh one in its place.
func rotateTraces(path string, limit int64) error {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|warily, 0o600)
	if err != nil {
		return err
	}
	ok, err := tryLock(lock)
	if !ok {
		lock.Close()
		return err // nil: another process is at it, the file may grow a little meanwhile
	}
	defer unlock(lock)
	if info, err := os.Lstat(path); err != nil || info.Size() < limit {
		return nil // another process has done it
	}
	return os.Rename(path, path+".1")
}
