package main

// JSON-RPC lines: what a line is, the reader of stdin, the one writer of
// stdout, error answers. It knows nothing about HTTP.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

const (
	maxMessage = 256 << 20 // bytes of one message, either way
	// The memory of a message larger than this is given back to the system when
	// it has passed: the runtime would keep it for minutes.
	largeMessage = 4 << 20
	// giveBackAfter is how long a large message is waited for that could use the
	// memory of the last one: new memory costs a tenth of a message's time.
	giveBackAfter = 250 * time.Millisecond
	// Up to here messages are copied together to be written in one call.
	smallMessage = 64 << 10
)

// Error codes of JSON-RPC 2.0, section 5.1, and ours for what the transport met.
const (
	codeParse          = -32700
	codeInvalidRequest = -32600
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
	codeTransport      = -32000
	codeHeaderMismatch = -32020 // MCP 2026-07-28, Streamable HTTP, "Server Validation"
)

// message is one line from the client. raw passes to the server untouched.
type message struct {
	raw      []byte
	id       []byte // raw JSON; nil for a notification
	method   string // "" for a response
	params   []byte // raw JSON; nil when absent
	meta     []byte // params._meta, likewise
	version  string // protocol version of a modern message, "" in the earlier eras
	response bool
	unasked  bool // the proxy's own, which nobody waits for: it must not open a browser
}

func (m *message) isRequest() bool { return m.method != "" && m.id != nil }

// rpcError is the error member of an answer.
type rpcError struct {
	Code    int            `json:"code"`
	Message string         `json:"message"`
	Data    map[string]any `json:"data,omitempty"`
}

func (e *rpcError) Error() string { return e.Message }

// asRPCError is how any failure reaches the client. The hint goes with it: the
// client's user sees this text and nothing else.
func asRPCError(err error) *rpcError {
	answer := rpcError{Code: codeTransport, Message: "mcp-proxy: " + err.Error()}
	var rpc *rpcError
	if errors.As(err, &rpc) {
		answer = *rpc
	}
	if hint := hintOf(err); hint != "" {
		answer.Message += "; hint: " + hint
	}
	return &answer
}

// errorAnswer is a whole response line; a nil id becomes null.
func errorAnswer(id []byte, e *rpcError) []byte {
	if id == nil {
		id = []byte("null")
	}
	object, err := json.Marshal(e)
	if err != nil { // data holds numbers and strings only
		panic(err)
	}
	// The id goes back as it was written: Marshal would escape what it likes to.
	return bytes.Join([][]byte{[]byte(`{"jsonrpc":"2.0","id":`), id, []byte(`,"error":`), object, {'}'}}, nil)
}

// parseMessage says what a line is. The error says why it is not a JSON-RPC
// message; its answer goes under the id, where one can be read.
func parseMessage(line []byte) (m *message, id []byte, bad *rpcError) {
	top, err := topLevel(line)
	switch {
	case errors.Is(err, errNotJSON):
		return nil, nil, &rpcError{Code: codeParse, Message: "parse error: the line is not JSON"}
	case top.array:
		// Batches are gone since revision 2025-06-18.
		return nil, nil, &rpcError{Code: codeInvalidRequest, Message: "invalid request: a batch is not supported, send one message a line"}
	case err != nil:
		return nil, nil, &rpcError{Code: codeInvalidRequest, Message: "invalid request: not an object"}
	}
	m = &message{raw: line, params: top.params}
	if validID(top.id) {
		m.id = top.id
	}
	method, isString := unquote(top.method)
	m.method = method
	m.response = top.result != nil || top.error != nil
	switch {
	case !means(top.jsonrpc, "2.0"):
		return nil, m.id, &rpcError{Code: codeInvalidRequest, Message: `invalid request: "jsonrpc" is not "2.0"`}
	case top.method != nil && (!isString || method == ""):
		return nil, m.id, &rpcError{Code: codeInvalidRequest, Message: `invalid request: "method" is not a string`}
	case top.method != nil && top.id != nil && m.id == nil:
		return nil, nil, &rpcError{Code: codeInvalidRequest, Message: `invalid request: "id" is neither a string nor a number`}
	case top.method == nil && !(m.response && top.id != nil):
		return nil, m.id, &rpcError{Code: codeInvalidRequest, Message: "invalid request: neither a request nor a response"}
	}
	m.response = top.method == nil
	if !m.response {
		m.meta = member(m.params, "_meta")
		m.version = modernVersion(m.meta)
	}
	return m, m.id, nil
}

// validID tells whether raw is a string or a number: null and everything else
// is no id of a request (MCP, Base Protocol, "Requests").
func validID(raw []byte) bool {
	return len(raw) > 0 && (raw[0] == '"' || raw[0] == '-' || isDigit(raw[0]))
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// lineReader reads one message a line.
type lineReader struct {
	r     *bufio.Reader
	limit int
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{bufio.NewReaderSize(r, 64<<10), maxMessage}
}

// next returns the next line that is not blank, without its line end. A last
// line without newline counts. A line over the limit is passed over:
// errTooLong, and its id where one can be read.
func (l *lineReader) next() (line, id []byte, err error) {
	for {
		line, id, err = l.line()
		line = bytes.TrimSpace(line)
		if len(line) > 0 || err != nil {
			return line, id, err
		}
	}
}

// line collects a long line in pieces: a slice that grows would be copied again
// and again, and the collector would wait for each copy.
func (l *lineReader) line() (line, id []byte, err error) {
	var pieces [][]byte
	for size := 0; ; {
		piece, err := l.r.ReadSlice('\n')
		if len(bytes.TrimRight(piece, "\r\n"))+size > l.limit {
			return nil, l.passOver(append(pieces, piece), err), errTooLong
		}
		piece = bytes.Clone(piece) // the reader's own
		size += len(piece)
		if err == bufio.ErrBufferFull {
			pieces = append(pieces, piece)
			continue
		}
		if line = piece; len(pieces) > 0 {
			line = bytes.Join(append(pieces, piece), nil)
		}
		if err == io.EOF && len(bytes.TrimSpace(line)) > 0 {
			err = nil // the next call says EOF again
		}
		return line, nil, err
	}
}

// passOver reads to the end of an over-long line, keeping nothing of it but
// its id. What is no request has none to answer: a response bears the server's.
func (l *lineReader) passOver(pieces [][]byte, err error) []byte {
	var s scanner
	for _, piece := range pieces {
		s.feed(piece)
	}
	for err == bufio.ErrBufferFull {
		var piece []byte
		piece, err = l.r.ReadSlice('\n')
		s.feed(piece)
	}
	if id := s.idValue(); s.finish() == nil && s.has("method") && validID(id) {
		return id
	}
	return nil // what looks like an id may be a piece of something else
}

// lineWriter is the only writer of stdout.
type lineWriter struct {
	stop context.CancelCauseFunc // a stdout that is closed ends the program

	mu      sync.Mutex // guards what follows: a message is written whole
	w       io.Writer
	waiting []byte // messages to be written together
}

var errStdoutClosed = errors.New("stdout is closed")

// write puts one message, given in pieces, on a line of its own. Goroutines that
// are about to write go first, where there are any, and all is one system call:
// each wakes the host, too.
func (w *lineWriter) write(parts ...[]byte) {
	w.writeSoon(parts...)
	runtime.Gosched()
	w.writeNow()
}

// writeSoon is write for what may wait until writeNow, at the latest: a system
// call for each of many notifications costs more than all else about them.
func (w *lineWriter) writeSoon(parts ...[]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(parts)
}

func (w *lineWriter) writeNow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
}

// add takes a message. A large one is not copied.
func (w *lineWriter) add(parts [][]byte) {
	size := len(w.waiting) + 1
	for _, p := range parts {
		size += len(p)
	}
	if size > smallMessage {
		w.flush()
	}
	for _, p := range parts {
		if len(p) > smallMessage {
			w.flush()
			w.put(p)
		} else {
			w.waiting = append(w.waiting, p...)
		}
	}
	w.waiting = append(w.waiting, '\n')
}

// flush writes what waits.
func (w *lineWriter) flush() {
	if len(w.waiting) > 0 {
		w.put(w.waiting)
		w.waiting = w.waiting[:0]
	}
}

func (w *lineWriter) put(p []byte) {
	if _, err := w.w.Write(p); err != nil {
		w.stop(fmt.Errorf("%w: %w", errStdoutClosed, err))
	}
}

// forget makes the memory of a large message free for the next one, and gives it
// back to the system when there is none for a while. It is called where nothing
// refers to the message any more: what is in use stays.
func forget(size int) {
	if size > largeMessage {
		runtime.GC()
		runtime.GC() // once is not enough for what net/http keeps in pools
		giveBack.Reset(giveBackAfter)
	}
}

var giveBack = time.AfterFunc(math.MaxInt64, debug.FreeOSMemory)
