package main

// The event-stream grammar of the HTML standard
// (https://html.spec.whatwg.org/multipage/server-sent-events.html, section "Interpreting an event
// stream"). It does not know MCP: what an event's name or data mean is not decided here.

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strconv"
	"time"
)

const (
	streamBuffer  = 32 << 10
	maxFieldValue = 64 << 10
	maxRetry      = time.Hour
)

// An event is what stands before a blank line, if it holds any field that counts.
type event struct {
	name  string        // "message" unless it is named
	id    string        // its own, which is the stream's from here on
	hasID bool          // it has one, which may be empty
	retry time.Duration // -1 when absent
	data  []byte        // nil without a data field
}

type eventReader struct {
	in      *bufio.Reader
	limit   int
	afterCR bool // a LF that comes next belongs to a line end that was seen already
	begun   bool // the first line, which may begin with a byte order mark, is over
}

// newEventReader returns a reader of events that hold at most limit bytes of data.
func newEventReader(r io.Reader, limit int) *eventReader {
	return &eventReader{in: bufio.NewReaderSize(r, streamBuffer), limit: limit}
}

// next returns an event as soon as the blank line behind it is read. The error is errTooLong or the
// underlying reader's; an event that is incomplete by then is discarded, as the standard says.
func (r *eventReader) next() (*event, error) {
	ev := &event{name: "message", retry: -1}
	for counts := false; ; {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 && counts {
			return ev, nil
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		isData := string(field) == "data"
		if isData && ev.data != nil {
			value = append(append(ev.data, '\n'), value...)
		}
		kept := slices.Contains([]string{"event", "id", "retry"}, string(field))
		if isData && len(value) > r.limit || kept && len(value) > maxFieldValue {
			return nil, errTooLong
		}
		switch string(field) {
		case "data":
			if ev.data = value; value == nil {
				ev.data = []byte{}
			}
		case "event":
			if ev.name = string(value); ev.name == "" {
				ev.name = "message"
			}
		case "id":
			if bytes.IndexByte(value, 0) >= 0 {
				continue
			}
			ev.id, ev.hasID = string(value), true
		case "retry":
			if len(value) == 0 || len(bytes.Trim(value, "0123456789")) > 0 {
				continue
			}
			ms, _ := strconv.ParseUint(string(value), 10, 64) // out of range it is the largest number
			ev.retry = time.Duration(min(ms, uint64(maxRetry/time.Millisecond))) * time.Millisecond
		default:
			continue
		}
		counts = true
	}
}

// line returns the next line without its end, in memory of its own. A CR ends it at once: waiting
// for the LF that may follow would hold back the event.
func (r *eventReader) line() ([]byte, error) {
	c := collector{limit: r.limit + maxFieldValue}
	for end := false; !end; {
		if _, err := r.in.Peek(1); err != nil {
			return nil, err
		}
		p, _ := r.in.Peek(r.in.Buffered())
		if r.afterCR {
			r.afterCR = false
			if p[0] == '\n' {
				r.in.Discard(1)
				continue
			}
		}
		n := len(p)
		for _, end := range []byte("\n\r") {
			if i := bytes.IndexByte(p[:n], end); i >= 0 {
				n = i
			}
		}
		if err := c.add(p[:n]); err != nil {
			return nil, err
		}
		if end = n < len(p); end {
			r.afterCR = p[n] == '\r'
			n++
		}
		r.in.Discard(n)
	}
	line := c.bytes()
	if !r.begun {
		line, r.begun = bytes.TrimPrefix(line, []byte(byteOrderMark)), true
	}
	return line, nil
}
