package main

// The event-stream grammar of the HTML standard
// (https://html.spec.whatwg.org/multipage/server-sent-events.html, section "Interpreting an event
// stream"). It does not know MCP: what an event's name or data mean is not decided here.

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
	"strings"
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
	id    string        // the stream's last event id, this event's own or an earlier one's
	hasID bool          // it is this event's own
	retry time.Duration // -1 when absent
	data  []byte        // nil without a data field
}

type eventReader struct {
	lastID string // of the events that next returned

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
	ev := &event{name: "message", id: r.lastID, retry: -1}
	counts := false
	for {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if len(line) > 0 {
			field, value, _ := bytes.Cut(line, []byte(":"))
			known, err := r.apply(ev, string(field), bytes.TrimPrefix(value, []byte(" ")))
			if err != nil {
				return nil, err
			}
			counts = counts || known
		} else if counts {
			r.lastID = ev.id
			return ev, nil
		}
	}
}

// apply gives the event a field and reports whether it is one that counts.
func (r *eventReader) apply(ev *event, field string, value []byte) (known bool, err error) {
	switch field {
	case "data":
		switch {
		case ev.data != nil:
			ev.data = append(append(ev.data, '\n'), value...)
		case value != nil:
			ev.data = value
		default:
			ev.data = []byte{}
		}
		if len(ev.data) > r.limit {
			return false, errTooLong
		}
		return true, nil
	case "event", "id", "retry":
		if len(value) > maxFieldValue {
			return false, errTooLong
		}
	}
	text := string(value)
	switch {
	case field == "event":
		if ev.name = text; text == "" {
			ev.name = "message"
		}
	case field == "id" && !strings.Contains(text, "\x00"):
		ev.id, ev.hasID = text, true
	case field == "retry" && text != "" && strings.Trim(text, "0123456789") == "":
		ms, _ := strconv.ParseUint(text, 10, 64) // out of range it is the largest number
		ev.retry = time.Duration(min(ms, uint64(maxRetry/time.Millisecond))) * time.Millisecond
	default:
		return false, nil
	}
	return true, nil
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
		n := lineLen(p)
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

// lineLen counts the bytes of p before the first CR or LF.
func lineLen(p []byte) int {
	if i := bytes.IndexByte(p, '\n'); i >= 0 {
		p = p[:i]
	}
	if i := bytes.IndexByte(p, '\r'); i >= 0 {
		p = p[:i]
	}
	return len(p)
}
