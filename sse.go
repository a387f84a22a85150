package main

// The event-stream grammar of the HTML standard (https://html.spec.whatwg.org/multipage/server-sent-events.html,
// section "Interpreting an event stream"). It knows nothing about MCP: what an event's name or data mean is not its
// business.

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
	linePiece     = 4 << 10 // a line's end is looked for in so many bytes at a time
	maxFieldName  = 64      // a longer one is cut: it is none of ours
	maxFieldValue = 64 << 10
	maxRetry      = time.Hour
	byteOrderMark = "\xef\xbb\xbf"
)

// An event is what stands before a blank line, where it holds any field that counts.
type event struct {
	name  string        // "message" unless it is named
	id    string        // the stream's last event id, this event's own or an earlier one's
	hasID bool          // it is this event's own
	retry time.Duration // -1 when absent
	data  *document     // the caller calls finish; nil without a data field, of size 0 where that is empty
}

type eventReader struct {
	lastID string // of the events that next returned

	in      *bufio.Reader
	limit   int
	afterCR bool // a LF that comes next belongs to a line end that was seen already
	begun   bool // the first field name, where a byte order mark may stand, is over
	name    []byte
	value   []byte
}

// newEventReader returns a reader of events that hold at most limit bytes of data, 0 being no limit.
func newEventReader(r io.Reader, limit int) *eventReader {
	return &eventReader{in: bufio.NewReaderSize(r, streamBuffer), limit: limit}
}

// next returns an event as soon as the blank line behind it is read. The error is errTooLong or the underlying
// reader's; an event that is incomplete by then is discarded, as the standard says.
func (r *eventReader) next() (*event, error) {
	ev := &event{id: r.lastID, retry: -1}
	counts := false
	for {
		field, blank, err := r.readLine(ev)
		switch {
		case err != nil:
			return nil, err
		case !blank:
			counts = r.apply(ev, field) || counts
		case counts:
			r.lastID = ev.id
			if ev.name == "" {
				ev.name = "message"
			}
			return ev, nil
		}
	}
}

// apply gives the event the field that was read and says whether it is one that counts.
func (r *eventReader) apply(ev *event, field string) bool {
	value := string(r.value)
	switch {
	case field == "data":
	case field == "event":
		ev.name = value
	case field == "id" && !strings.Contains(value, "\x00"):
		ev.id, ev.hasID = value, true
	case field == "retry" && value != "" && strings.Trim(value, digits) == "":
		ms, _ := strconv.ParseUint(value, 10, 64) // out of range it is the largest number
		ev.retry = time.Duration(min(ms, uint64(maxRetry/time.Millisecond))) * time.Millisecond
	default:
		return false
	}
	return true
}

// readLine reads one line: its field's value goes into r.value, but data goes straight into the event, as it may be
// large.
func (r *eventReader) readLine(ev *event) (field string, blank bool, err error) {
	r.name, r.value = r.name[:0], r.value[:0]
	inName, atSpace := true, false
	for {
		p, end, err := r.piece()
		if err != nil {
			return "", false, err
		}
		if inName {
			name, rest, colon := bytes.Cut(p, []byte(":"))
			r.name = append(r.name, name[:min(len(name), maxFieldName-len(r.name))]...)
			if colon || end {
				inName, atSpace = false, colon
				field = r.fieldName()
				blank = field == "" && !colon
				r.beginValue(ev, field)
			}
			p = rest
		}
		if atSpace && len(p) > 0 {
			p = bytes.TrimPrefix(p, []byte(" "))
			atSpace = false
		}
		if err := r.addValue(ev, field, p); err != nil || end {
			return field, blank, err
		}
	}
}

func (r *eventReader) fieldName() string {
	name := string(r.name)
	if !r.begun {
		name = strings.TrimPrefix(name, byteOrderMark)
		r.begun = true
	}
	return name
}

// beginValue makes room for a data line. Where the line end before it makes the data too long, what follows says so.
func (r *eventReader) beginValue(ev *event, field string) {
	switch {
	case field != "data":
	case ev.data == nil:
		ev.data = &document{limit: r.limit}
	default:
		_, _ = ev.data.Write([]byte("\n")) // too long is said again by the next Write
	}
}

func (r *eventReader) addValue(ev *event, field string, p []byte) error {
	switch field {
	case "data":
		_, err := ev.data.Write(p)
		return err
	case "event", "id", "retry":
		if len(r.value)+len(p) > maxFieldValue {
			return errTooLong
		}
		r.value = append(r.value, p...)
	}
	return nil
}

// piece returns what is there of the current line, and whether the line ends behind it. A CR ends a line at once:
// waiting for the LF that may follow would hold back the event. The bytes are valid until the next call.
func (r *eventReader) piece() (p []byte, end bool, err error) {
	for {
		if _, err := r.in.Peek(1); err != nil {
			return nil, false, err
		}
		p, _ = r.in.Peek(min(r.in.Buffered(), linePiece))
		if !r.afterCR || p[0] != '\n' {
			break
		}
		r.afterCR = false
		r.in.Discard(1)
	}
	r.afterCR = false
	n := lineLen(p)
	if n == len(p) {
		r.in.Discard(n)
		return p, false, nil
	}
	r.afterCR = p[n] == '\r'
	r.in.Discard(n + 1)
	return p[:n], true, nil
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
