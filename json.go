package main

// What this program needs of JSON without decoding it: whether a text is valid, and where the
// members of its objects and the elements of its arrays are. Messages of up to 256 MiB only pass
// by, and decoding one would take four times as long. This file knows the names of the JSON-RPC
// members, not what they mean.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/bits"
	"strings"
	"unicode/utf8"
)

var (
	errNotJSON   = errors.New("not valid JSON")
	errNotObject = errors.New("not a JSON object")
	errTooLong   = errors.New("longer than the limit")
)

const (
	maxNesting    = 10000   // as in encoding/json
	maxID         = 1 << 10 // bytes of an id as it is written; a longer one is nobody's
	white         = " \t\r\n"
	byteOrderMark = "\xef\xbb\xbf"
)

// A visitor is called for each member of an object, with its key as it is written, or for each
// element of an array, with a nil key. The value is text[start:end].
type visitor func(key []byte, start, end int)

// scan is for a text that is known to be valid.
func scan(text []byte, visit visitor) { (&scanner{text: text}).scan(visit) }

// A scanner walks a text once: each pass over a large one costs a tenth of its time.
type scanner struct {
	text  []byte
	wide  uint64 // has a high bit if a string has a byte beyond ASCII
	lines bool   // there is white space other than blanks
}

// scan reports whether the text is one valid JSON value: it accepts what json.Valid accepts. The
// members or elements of that value, but not those of nested ones, are given to visit as they come,
// also if the text turns out not to be valid after them.
func (s *scanner) scan(visit visitor) bool {
	end := s.skip(s.skipWhite(0), 0, visit)
	return end >= 0 && s.skipWhite(end) == len(s.text)
}

// at returns the byte at i, 0 behind the end of the text.
func (s *scanner) at(i int) byte {
	if i < len(s.text) {
		return s.text[i]
	}
	return 0
}

// skip returns the end of the value that begins at i, and -1 if no valid one does.
func (s *scanner) skip(i, depth int, visit visitor) int {
	if depth > maxNesting {
		return -1
	}
	switch c := s.at(i); c {
	case '"':
		return s.skipString(i)
	case 't':
		return s.skipWord(i, "true")
	case 'f':
		return s.skipWord(i, "false")
	case 'n':
		return s.skipWord(i, "null")
	case '{', '[':
		closing := c + 2 // in ASCII
		if i = s.skipWhite(i + 1); s.at(i) == closing && depth < maxNesting {
			return i + 1
		}
		for {
			var key []byte
			if c == '{' {
				end := s.skipString(i)
				if end < 0 {
					return -1
				}
				key = s.text[i:end]
				if i = s.skipWhite(end); s.at(i) != ':' {
					return -1
				}
				i = s.skipWhite(i + 1)
			}
			end := s.skip(i, depth+1, nil)
			if end < 0 {
				return -1
			}
			if visit != nil {
				visit(key, i, end)
			}
			i = s.skipWhite(end)
			switch s.at(i) {
			case ',':
				i = s.skipWhite(i + 1)
			case closing:
				return i + 1
			default:
				return -1
			}
		}
	}
	return s.skipNumber(i)
}

func (s *scanner) skipWhite(i int) int {
	for ; i < len(s.text) && s.text[i] <= ' '; i++ {
		switch s.text[i] {
		case '\n', '\r', '\t':
			s.lines = true
		case ' ':
		default:
			return i
		}
	}
	return i
}

func (s *scanner) skipWord(i int, word string) int {
	end := i + len(word)
	if end > len(s.text) || string(s.text[i:end]) != word {
		return -1
	}
	return end
}

func (s *scanner) skipString(i int) int {
	if s.at(i) != '"' {
		return -1
	}
	for i++; ; i += 2 {
		n, wide := plainLen(s.text[i:])
		s.wide |= wide
		i += n
		switch s.at(i) {
		case '"':
			return i + 1
		case '\\':
			next := s.at(i + 1)
			if next != 'u' && strings.IndexByte(`"\/bfnrt`, next) < 0 {
				return -1
			}
			for n := 0; next == 'u' && n < 4; n, i = n+1, i+1 {
				if c := s.at(i + 2); !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
					return -1
				}
			}
		default:
			return -1
		}
	}
}

// plainLen counts the leading bytes of p up to the first quote, backslash or control byte, eight at
// a time; wide has a high bit if one of them is beyond ASCII. Each term has the high bit of a byte
// set where that byte is below 1 or below 0x20; a borrow can spoil only the bytes above the first
// hit, which are not looked at.
func plainLen(p []byte) (n int, wide uint64) {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(p)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(p[n:])
		quote, backslash := w^ones*'"', w^ones*'\\'
		hits := ((quote-ones)&^quote | (backslash-ones)&^backslash | (w-ones*' ')&^w) & highs
		if hits != 0 {
			before := bits.TrailingZeros64(hits) &^ 7
			return n + before/8, (wide | w<<(63-before)<<1) & highs
		}
		wide |= w
	}
	for ; n < len(p) && p[n] != '"' && p[n] != '\\' && p[n] >= ' '; n++ {
		wide |= uint64(p[n])
	}
	return n, wide & highs
}

func (s *scanner) skipNumber(i int) int {
	end, plain := i, s.at(i) != '0'
	for end < len(s.text) && strings.IndexByte("0123456789+-.eE", s.text[end]) >= 0 {
		plain = plain && isDigit(s.text[end])
		end++
	}
	if end == i || !plain && !json.Valid(s.text[i:end]) {
		return -1
	}
	return end
}

// place returns where the value at a path of object keys lies in valid JSON; 0, 0 if there is none.
// The last of duplicates wins, as in encoding/json.
func place(raw []byte, path ...string) (start, end int) {
	end = len(raw)
	for _, name := range path {
		from, to := 0, 0
		scan(raw[start:end], func(key []byte, at, until int) {
			if key != nil && means(key, name) {
				from, to = at, until
			}
		})
		if to == 0 {
			return 0, 0
		}
		start, end = start+from, start+to
	}
	return start, end
}

// member returns the raw value at a path of object keys in valid JSON, nil if there is none.
func member(raw []byte, path ...string) []byte {
	start, end := place(raw, path...)
	if end == 0 {
		return nil
	}
	return raw[start:end:end]
}

// each calls do with the elements of an array in valid JSON, and not at all if raw is no array. It
// keeps no list of them: a server may send millions.
func each(raw []byte, do func(element []byte)) {
	scan(raw, func(key []byte, start, end int) {
		if key == nil {
			do(raw[start:end:end])
		}
	})
}

// withMember returns an object in valid JSON whose member name has a raw value: in the place of
// what it had, else last.
func withMember(object []byte, name string, value []byte) []byte {
	start, end := place(object, name)
	out := make([]byte, 0, len(object)+len(name)+len(value)+8) // and a line end
	if end > 0 {
		return append(append(append(out, object[:start]...), value...), object[end:]...)
	}
	object = bytes.TrimRight(object, white)
	out = append(out, bytes.TrimRight(object[:len(object)-1], white)...)
	if out[len(out)-1] != '{' {
		out = append(out, ',')
	}
	out = append(append(out, quote(name)...), ':')
	return append(append(out, value...), '}')
}

// without returns an object in valid JSON without one of its members.
func without(object []byte, name string) []byte {
	out := append(make([]byte, 0, len(object)), '{')
	scan(object, func(key []byte, start, end int) {
		if !means(key, name) {
			out = append(append(append(out, key...), ':'), object[start:end]...)
			out = append(out, ',')
		}
	})
	return append(bytes.TrimRight(out, ","), '}')
}

// isVerbatim reports whether a raw string means just what stands between its quotes.
func isVerbatim(raw []byte) bool {
	return len(raw) >= 2 && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw)
}

// means reports whether raw is the string text.
func means(raw []byte, text string) bool {
	if isVerbatim(raw) {
		return string(raw[1:len(raw)-1]) == text // as nearly always, and nothing is allocated
	}
	got, ok := unquote(raw)
	return ok && got == text
}

// unquote decodes a raw string; false if raw is another kind of value.
func unquote(raw []byte) (string, bool) {
	if isVerbatim(raw) {
		return string(raw[1 : len(raw)-1]), true
	}
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// quote writes a string as JSON.
func quote(s string) []byte {
	raw, err := json.Marshal(s)
	if err != nil { // a string always can be
		panic(err)
	}
	return raw
}

// A document is a text that is meant to be a JSON-RPC message, and its members as they are written,
// nil if absent.
type document struct {
	raw                                        []byte
	id, method, params, result, error, jsonrpc []byte

	err error // errNotJSON, errNotObject or nil
}

// newDocument reads a text. White space and a byte order mark around it are left out, CR and LF in
// it become spaces, in place: outside strings they are white space, and inside them they are not
// JSON. Bytes that are not UTF-8 become U+FFFD: clients in Python end the session over one.
func newDocument(text []byte) *document {
	text = bytes.Trim(bytes.TrimPrefix(text, []byte(byteOrderMark)), white)
	s := scanner{text: text}
	d := s.document()
	if d.err == errNotJSON {
		return d
	}
	if s.lines {
		toSpaces(text, '\n')
		toSpaces(text, '\r')
	}
	if s.wide != 0 && !utf8.Valid(text) {
		return readMembers(bytes.ToValidUTF8(text, []byte("\ufffd")))
	}
	return d
}

// readMembers reads a text that stays as it is.
func readMembers(text []byte) *document { return (&scanner{text: text}).document() }

func (s *scanner) document() *document {
	d := &document{raw: s.text}
	valid := s.scan(func(key []byte, start, end int) {
		if key == nil {
			return
		}
		name, value := key[1:len(key)-1], s.text[start:end:end]
		if bytes.IndexByte(name, '\\') >= 0 {
			decoded, _ := unquote(key)
			name = []byte(decoded)
		}
		switch string(name) {
		case "id":
			d.id = value
		case "method":
			d.method = value
		case "params":
			d.params = value
		case "result":
			d.result = value
		case "error":
			d.error = value
		case "jsonrpc":
			d.jsonrpc = value
		}
	})
	switch {
	case !valid:
		*d = document{raw: s.text, err: errNotJSON}
	case s.at(s.skipWhite(0)) != '{':
		d.err = errNotObject
	}
	return d
}

// isBatch reports whether the text is a valid array.
func (d *document) isBatch() bool {
	return d.err == errNotObject && bytes.TrimLeft(d.raw, white)[0] == '['
}

func toSpaces(p []byte, c byte) {
	for i := bytes.IndexByte(p, c); i >= 0; i = bytes.IndexByte(p, c) {
		p[i] = ' '
		p = p[i+1:]
	}
}
