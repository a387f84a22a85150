package main

// JSON-RPC lines: what a line is, the reader of stdin, the one writer of stdout, error answers, and
// how bytes that come in pieces become one text. It does not know HTTP.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

const (
	maxMessage    = 256 << 20             // bytes of one message, either way
	largeMessage  = 4 << 20               // one whose memory is given back
	giveBackAfter = 10 * time.Millisecond // so that a burst costs one collection
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
	name     []byte // params.name
	version  string // protocol version of a modern message, "" in the earlier eras
	response bool
	own      bool // a request of the proxy itself
	unasked  bool // the proxy's own, which nobody waits for: it must not open a browser
	again    bool // an initialize that the proxy says again, for another session or connection
}

func (m *message) isRequest() bool { return m.method != "" && m.id != nil }

// rpcError is the error member of an answer.
type rpcError struct {
	Code    int            `json:"code"`
	Message string         `json:"message"`
	Data    map[string]any `json:"data,omitempty"`
}

func (e *rpcError) Error() string { return e.Message }

// asRPCError is how any failure reaches the client. The hint goes with it: the client's user sees
// this text and nothing else.
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
	object, _ := json.Marshal(e) // data holds numbers and strings only
	// The id goes back as it was written: Marshal would escape what it likes to.
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"error":%s}`, id, object)
}

// parseMessage says what a line is. The error says why it is not a JSON-RPC message; it is answered
// under the id, if one can be read.
func parseMessage(line []byte) (m *message, id []byte, bad *rpcError) {
	top := readMembers(line)
	m = &message{raw: line, params: top.params, response: top.method == nil}
	if validID(top.id) {
		m.id = top.id
	}
	m.method, _ = unquote(top.method)
	m.readParams()
	var why string
	switch {
	case top.kind == 0:
		return nil, nil, &rpcError{Code: codeParse, Message: "parse error: the line is not JSON"}
	case top.kind == '[': // gone since revision 2025-06-18
		why = "a batch is not supported, send one message a line"
	case top.kind != '{':
		why = "not an object"
	case !means(top.jsonrpc, "2.0"):
		why = `"jsonrpc" is not "2.0"`
	case m.response && (top.id == nil || top.result == nil && top.error == nil):
		why = "neither a request nor a response"
	case !m.response && m.method == "":
		why = `"method" is not a string`
	case !m.response && top.id != nil && m.id == nil:
		why = `"id" is neither a string nor a number of at most 1 KiB`
	default:
		return m, m.id, nil
	}
	return nil, m.id, invalidRequest(why)
}

// readParams reads what matters of params, once: they may be large.
func (m *message) readParams() {
	scan(m.params, func(key []byte, start, end int) {
		switch value := m.params[start:end:end]; {
		case means(key, "_meta"):
			m.meta = value
		case means(key, "name"):
			m.name = value
		}
	})
	m.version = modernVersion(m.meta)
}

func invalidRequest(why string) *rpcError {
	return &rpcError{Code: codeInvalidRequest, Message: "invalid request: " + why}
}

// validID reports whether raw can be the id of a request: a string or a number (MCP, Base Protocol,
// "Requests"), and not a very long one.
func validID(raw []byte) bool {
	return len(raw) > 0 && len(raw) <= maxID && (raw[0] == '"' || raw[0] == '-' || isDigit(raw[0]))
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// polled has reads of a pipe or a socket wait in the poller: a thread blocked in a read keeps its
// processor for a while from the message that it has just read (a tenth of a call's time). What may
// be others' as well, a terminal or stdout, stays as it is. A later reader of it needs restore.
func polled(stdin io.Reader, stdout io.Writer) (_ io.Reader, restore func()) {
	in, _ := stdin.(*os.File)
	out, _ := stdout.(*os.File)
	info, err := in.Stat()
	other, _ := out.Stat()
	kinds := os.ModeSocket
	if runtime.GOOS == "linux" { // elsewhere the end of a named one may be missed
		kinds |= os.ModeNamedPipe
	}
	if err != nil || info.Mode()&kinds == 0 || os.SameFile(info, other) ||
		in.SetReadDeadline(time.Time{}) == nil { // it is in the poller
		return stdin, func() {}
	}
	fd := in.Fd()
	if setNonblock(fd, true) != nil {
		return stdin, func() {}
	}
	return os.NewFile(fd, in.Name()), func() { _ = setNonblock(fd, false) }
}

// lineReader reads one message a line.
type lineReader struct {
	r     *bufio.Reader
	limit int
}

// next returns the next line that is not blank, without its line end and a byte order mark. A last
// line without newline counts. A line over the limit is passed over: errTooLong.
func (l *lineReader) next() ([]byte, error) {
	for {
		c := collector{limit: l.limit}
		var tooLong error
		err := bufio.ErrBufferFull
		for err == bufio.ErrBufferFull {
			var piece []byte
			if piece, err = l.r.ReadSlice('\n'); err != bufio.ErrBufferFull {
				piece = bytes.TrimRight(piece, "\r\n")
			}
			tooLong = c.add(piece)
		}
		line := bytes.TrimSpace(bytes.TrimPrefix(c.bytes(), []byte(byteOrderMark)))
		switch {
		case tooLong != nil:
			return nil, tooLong
		case len(line) > 0 && (err == nil || err == io.EOF):
			return line, nil // after EOF the next call says it again
		case err != nil:
			return nil, err
		}
	}
}

// lineWriter is the only writer of stdout.
type lineWriter struct {
	stop context.CancelCauseFunc // a stdout that is closed ends the program

	mu sync.Mutex // a message is written whole
	w  io.Writer
}

// write puts one message on a line of its own, in one system call. The line's end may go into spare
// room behind the message: a large one is not copied for it.
func (w *lineWriter) write(message []byte) {
	line := append(message, '\n')
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.w.Write(line); err != nil {
		w.stop(fmt.Errorf("stdout is closed: %w", err))
	}
}

const (
	minChunk  = 4 << 10
	maxChunk  = 4 << 20
	smallText = 64 << 10
)

// A collector makes one text of bytes that come in pieces. It holds them as a list of chunks, so
// that nothing is copied again and again, and joins these at the end; of a length that is announced
// it makes one buffer.
type collector struct {
	limit     int // of bytes
	announced int // bytes in all, as the sender says; 0 if it does not

	size int // over the limit once there was too much
	full [][]byte
	last []byte
}

// add fails only with errTooLong.
func (c *collector) add(p []byte) error {
	if c.size+len(p) > c.limit {
		c.size = c.limit + 1
		return errTooLong
	}
	for len(p) > 0 {
		n := copy(c.room(len(p)), p)
		c.take(n)
		p = p[n:]
	}
	return nil
}

// room is where the next bytes go, of which n are at hand.
func (c *collector) room(n int) []byte {
	switch {
	case len(c.last) < cap(c.last):
	case c.announced > 0 && c.size <= c.announced:
		// Memory that is not written to costs nothing, but a sender who lies gets no more than 64
		// times what came. One byte more shows the end without another buffer, and takes the line's.
		c.last = append(make([]byte, 0, min(c.announced+1, 64*(c.size+64<<10))), c.last...)
	default:
		if c.size > 0 {
			c.full = append(c.full, c.last)
			n = max(n, c.size/8, minChunk)
		}
		c.last = make([]byte, 0, min(n+1, maxChunk)) // as for a line's end
	}
	return c.last[len(c.last):cap(c.last)]
}

// take makes the first n bytes of room part of the text.
func (c *collector) take(n int) {
	c.size += n
	c.last = c.last[:len(c.last)+n]
}

// bytes returns the text, with room for a line end behind it where it is large.
func (c *collector) bytes() []byte {
	if len(c.full) == 0 {
		return c.last
	}
	text := make([]byte, 0, c.size+1)
	for _, chunk := range c.full {
		text = append(text, chunk...)
	}
	return append(text, c.last...)
}

// readText reads a text of at most limit bytes to its end; length is -1 if it is not known. A small
// JSON text that is whole need not end, and its end may be left unread. With an error comes what
// was read.
func readText(r io.Reader, length int64, limit int) ([]byte, error) {
	if length > int64(limit) {
		return nil, errTooLong
	}
	c := collector{limit: limit, announced: max(0, int(length))}
	for {
		n, err := r.Read(c.room(minChunk))
		switch c.take(n); {
		case c.size > limit:
			return c.bytes(), errTooLong
		case err == io.EOF:
			return c.bytes(), nil
		case err != nil:
			return c.bytes(), err
		case c.size != c.announced && c.size <= smallText &&
			bytes.HasSuffix(bytes.TrimRight(c.last, white), []byte{'}'}) && scan(c.bytes(), nil):
			return c.bytes(), nil
		}
	}
}

// forget gives the memory of a large message back to the system: the runtime would keep it for
// minutes. It is called where nothing refers to the message any more.
func forget(size int) {
	if size > largeMessage {
		giveBack.Reset(giveBackAfter)
	}
}

var giveBack = time.AfterFunc(math.MaxInt64, func() {
	runtime.GC() // once is not enough for what net/http keeps in pools
	debug.FreeOSMemory()
})

var _ = giveBack.Stop() // while it runs, the scheduler reads the clock again and again
