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
	"fmt"
	"math/bits"
	"strings"
	"unicode/utf8"
)

var errTooLong = errors.New("longer than the limit")

const (
	maxNesting    = 10000   // as in encoding/json
	maxID         = 1 << 10 // bytes of an id as it is written; a longer one is nobody's
	white         = " \t\r\n"
	byteOrderMark = "\xef\xbb\xbf"
)

// scan reports whether the text is one valid JSON value: it accepts what json.Valid accepts. The
// members of that object, with their keys as they are written, or the elements of that array, with
// nil keys, are given to visit as they come, also if the text turns out not to be valid after them.
// The value is text[start:end].
func scan(text []byte, visit func(key []byte, start, end int)) bool {
	s := scanner(text)
	end := s.skip(s.skipWhite(0), 0, visit)
	return end >= 0 && s.skipWhite(end) == len(text)
}

// A scanner walks a text once: each pass over a large one costs a tenth of its time.
type scanner []byte

// at returns the byte at i, 0 behind the end of the text.
func (s scanner) at(i int) byte {
	if i < len(s) {
		return s[i]
	}
	return 0
}

// skip returns the end of the value that begins at i, and -1 if no valid one does.
func (s scanner) skip(i, depth int, visit func(key []byte, start, end int)) int {
	switch c := s.at(i); c {
	case '"':
		return s.skipString(i)
	case 't', 'f', 'n':
		for _, word := range []string{"true", "false", "null"} {
			if bytes.HasPrefix(s[i:], []byte(word)) {
				return i + len(word)
			}
		}
		return -1
	case '{', '[':
		if depth == maxNesting {
			return -1
		}
		closing := c + 2 // in ASCII
		if i = s.skipWhite(i + 1); s.at(i) == closing {
			return i + 1
		}
		for {
			var key []byte
			if c == '{' {
				end := s.skipString(i)
				if end < 0 {
					return -1
				}
				key = s[i:end]
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

func (s scanner) skipWhite(i int) int {
	for i < len(s) && s[i] <= ' ' && strings.IndexByte(white, s[i]) >= 0 {
		i++
	}
	return i
}

func (s scanner) skipString(i int) int {
	if s.at(i) != '"' {
		return -1
	}
	for i++; ; i += 2 {
		i += plainLen(s[i:])
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
// a time. Each term has the high bit of a byte set where that byte is below 1 or below 0x20; a
// borrow can spoil only the bytes above the first hit, which are not looked at.
func plainLen(p []byte) (n int) {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(p)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(p[n:])
		quote, backslash := w^ones*'"', w^ones*'\\'
		hits := ((quote-ones)&^quote | (backslash-ones)&^backslash | (w-ones*' ')&^w) & highs
		if hits != 0 {
			return n + bits.TrailingZeros64(hits)/8
		}
	}
	for n < len(p) && p[n] != '"' && p[n] != '\\' && p[n] >= ' ' {
		n++
	}
	return n
}

func (s scanner) skipNumber(i int) int {
	end, plain := i, s.at(i) != '0'
	for end < len(s) && strings.IndexByte("0123456789+-.eE", s[end]) >= 0 {
		plain = plain && isDigit(s[end])
		end++
	}
	if end == i || !plain && !json.Valid(s[i:end]) {
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
	if start, end := place(object, name); end > 0 {
		return bytes.Join([][]byte{object[:start], value, object[end:]}, nil)
	}
	head := bytes.TrimRight(object, white)
	head = bytes.TrimRight(head[:len(head)-1], white)
	comma := ","
	if head[len(head)-1] == '{' {
		comma = ""
	}
	return fmt.Appendf(nil, "%s%s%s:%s}", head, comma, quote(name), value)
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
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// quote writes a string as JSON. What is not UTF-8 becomes U+FFFD.
func quote(s string) []byte {
	raw, _ := json.Marshal(s) // no string fails
	return raw
}

// A document is a text that is meant to be a JSON-RPC message, and its members as they are written,
// nil if absent.
type document struct {
	raw                                        []byte
	id, method, params, result, error, jsonrpc []byte

	kind byte // the first byte of the value, '{' of an object; 0 if the text is not valid JSON
}

// newDocument reads a text. White space and a byte order mark around it are left out, CR and LF in
// it become spaces, in place: outside strings they are white space, and inside them they are not
// JSON. Bytes that are not UTF-8 become U+FFFD: clients in Python end the session over one.
func newDocument(text []byte) *document {
	text = bytes.Trim(bytes.TrimPrefix(text, []byte(byteOrderMark)), white)
	d := readMembers(text)
	if d.kind == 0 {
		return d
	}
	toSpaces(text, '\n')
	toSpaces(text, '\r')
	if !utf8.Valid(text) {
		return readMembers(bytes.ToValidUTF8(text, []byte("\ufffd")))
	}
	return d
}

func toSpaces(p []byte, c byte) {
	for i := bytes.IndexByte(p, c); i >= 0; i = bytes.IndexByte(p, c) {
		p[i] = ' '
		p = p[i+1:]
	}
}

// readMembers reads a text that stays as it is.
func readMembers(text []byte) *document {
	d := &document{raw: text}
	valid := scan(text, func(key []byte, start, end int) {
		if bytes.IndexByte(key, '\\') >= 0 {
			name, _ := unquote(key)
			key = quote(name)
		}
		switch value := text[start:end:end]; string(key) {
		case `"id"`:
			d.id = value
		case `"method"`:
			d.method = value
		case `"params"`:
			d.params = value
		case `"result"`:
			d.result = value
		case `"error"`:
			d.error = value
		case `"jsonrpc"`:
			d.jsonrpc = value
		}
	})
	if !valid {
		return &document{raw: text}
	}
	d.kind = bytes.TrimLeft(text, white)[0]
	return d
}
