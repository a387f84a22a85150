package main

// What this program needs of JSON without decoding it: whether a text is valid, where its top-level members are,
// and how to hold it while it comes in pieces. Messages of up to 256 MiB only pass by, and decoding one would cost
// four times the time. This file knows JSON and the names of the JSON-RPC members; it does not know what they mean.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"unicode/utf8"
)

var (
	errNotJSON   = errors.New("not valid JSON")
	errNotObject = errors.New("not a JSON object")
	errTooLong   = errors.New("longer than the limit")
)

const (
	maxNesting = 10000   // as in encoding/json
	maxID      = 1 << 10 // of an id, as it is written, that a scanner keeps
	white      = " \t\r\n"
)

// A scanner validates one JSON text that is fed to it in pieces of any size. It accepts exactly what json.Valid
// accepts. Of a top-level object it notes where the members of memberNames are; of duplicates the last wins. The
// id it also keeps, so that a line too long to be held can still be answered. The zero value is ready for use.
type scanner struct {
	wanted  *string // one more name
	listing bool    // note the elements of a top-level array

	state   scanState
	first   byte   // of the text, white space aside: '{', '[', …
	nesting []byte // the '{' and '[' that are open
	inKey   bool   // the string being read is a key
	control bool   // there was white space other than blanks
	pos     int    // bytes of all earlier pieces, or where the text broke

	member  int // whose value is being read, index of extents
	start   int // of a value that is not nested deeper
	extents [len(memberNames) + 1]extent
	list    []extent
	named   bool // the object has members at all

	keep keeping // what of the current piece is kept
	from int     // where that begins
	key  []byte  // the part of a top-level key that earlier pieces held
	id   []byte
}

type keeping uint8

const (
	keepNothing keeping = iota
	keepKey
	keepID
)

type extent struct{ start, end int }

// of returns what the extent covers, nil if it is zero.
func (at extent) of(raw []byte) []byte {
	if at.end == 0 {
		return nil
	}
	return raw[at.start:at.end:at.end]
}

// memberNames are the top-level members that every scanner notes. The first entry stands for all others.
var memberNames = [...]string{"", "id", "method", "params", "result", "error", "jsonrpc"}

const (
	idMember     = 1
	wantedMember = len(memberNames)
)

func (s *scanner) feed(p []byte) {
	s.from = 0
	state := s.state
	for i := 0; i < len(p); i++ {
		if state == inString {
			if i += plainLen(p[i:]); i == len(p) {
				break
			}
		}
		s.control = s.control || p[i] < ' '
		next := grammar[state][p[i]]
		if next == endNumber {
			next = grammar[s.endValue(p, i)][p[i]]
		}
		if next > broken {
			next = s.act(next, p, i)
		}
		state = next
		if state == broken {
			s.fail(i)
			return
		}
	}
	s.state = state
	switch s.keep {
	case keepKey:
		s.key = grown(s.key, p[s.from:])
	case keepID:
		s.id = grown(s.id, p[s.from:])
	}
	s.pos += len(p)
}

// fail leaves the scanner in a state that no further piece changes.
func (s *scanner) fail(i int) {
	if s.state != broken {
		s.pos += i
	}
	s.state, s.keep = broken, keepNothing
}

// finish says whether the text as fed so far is a complete JSON object, else the error is errNotJSON or errNotObject.
func (s *scanner) finish() error {
	switch {
	case s.state == broken:
		return fmt.Errorf("%w at byte %d", errNotJSON, s.pos)
	case len(s.nesting) > 0 || s.state != atEnd && grammar[s.state][' '] != endNumber:
		return fmt.Errorf("%w: it ends too early, at byte %d", errNotJSON, s.pos)
	case s.first != '{':
		return errNotObject
	}
	return nil
}

func (s *scanner) isArray() bool { return s.first == '[' }

func (s *scanner) has(name string) bool { return s.extent(name).end > 0 }

// extent is zero when the top-level object has no such member.
func (s *scanner) extent(name string) extent {
	return s.extents[max(0, slices.Index(memberNames[:], name))]
}

// idValue returns the raw id, nil if there is none or if it is longer than maxID.
func (s *scanner) idValue() []byte {
	if !s.has("id") || len(s.id) > maxID {
		return nil
	}
	return s.id
}

// act does what a step of the grammar asks for and returns the state after it.
func (s *scanner) act(step scanState, p []byte, i int) scanState {
	switch {
	case step == beginValue:
		return s.beginValue(p, i)
	case step == beginKey:
		s.inKey = true
		if len(s.nesting) == 1 {
			s.named, s.key, s.keep, s.from = true, s.key[:0], keepKey, i
		}
		return inString
	case step == endString && s.inKey:
		if len(s.nesting) == 1 {
			s.endKey(p[s.from : i+1])
		}
		return wantColon
	case step == closeBrace:
		s.nesting = s.nesting[:len(s.nesting)-1]
	}
	return s.endValue(p, i+1)
}

func (s *scanner) beginValue(p []byte, i int) scanState {
	switch len(s.nesting) {
	case 0:
		s.first = p[i]
	case 1:
		s.start = s.pos + i
		if s.member == idMember {
			s.id, s.keep, s.from = s.id[:0], keepID, i
		}
	}
	next := grammar[inValue][p[i]]
	switch next {
	case inString:
		s.inKey = false
	case wantKeyOrEnd, wantElementOrEnd:
		if len(s.nesting) == maxNesting {
			return broken
		}
		s.nesting = append(s.nesting, p[i])
	}
	return next
}

// endValue notes the value that ends before p[i].
func (s *scanner) endValue(p []byte, i int) scanState {
	if len(s.nesting) == 1 {
		at := extent{s.start, s.pos + i}
		if s.listing && s.first == '[' {
			s.list = append(s.list, at)
		}
		if s.member != 0 {
			s.extents[s.member] = at
		}
		if s.member == idMember {
			s.id = grown(s.id, p[s.from:i])
			s.keep = keepNothing
		}
		s.member = 0
	}
	switch {
	case len(s.nesting) == 0:
		return atEnd
	case s.nesting[len(s.nesting)-1] == '{':
		return afterMember
	}
	return afterElement
}

// endKey takes the end of a key and finds out whose value comes next.
func (s *scanner) endKey(raw []byte) {
	if len(s.key) > 0 {
		s.key = grown(s.key, raw)
		raw = s.key
	}
	s.keep = keepNothing
	key := raw[1 : len(raw)-1]
	s.member = memberNumber(key)
	if s.member == 0 && !isVerbatim(raw) {
		decoded, _ := unquote(raw)
		key = []byte(decoded)
		s.member = memberNumber(key)
	}
	if s.wanted != nil && string(key) == *s.wanted {
		s.member = wantedMember
	}
}

// memberNumber is the place of a key in memberNames, 0 where it has none.
func memberNumber(key []byte) int {
	for i, name := range memberNames[1:] {
		if string(key) == name {
			return 1 + i
		}
	}
	return 0
}

// grown appends p to a kept key or id, up to one byte over maxID: longer ones are of no use.
func grown(kept, p []byte) []byte {
	return append(kept, p[:min(len(p), maxID+1-len(kept))]...)
}

// A scanState is what of a JSON text is read or may come next.
type scanState uint8

const (
	wantValue scanState = iota
	wantElementOrEnd
	wantKeyOrEnd
	wantKey
	wantColon
	afterMember
	afterElement
	atEnd // of the text; up to here white space may come
	inString
	inEscape
	inHex4 // four digits are to come
	inHex3
	inHex2
	inHex1
	inValue // its first byte
	afterMinus
	afterZero
	inInteger
	afterPoint
	inFraction
	afterE
	afterESign
	inExponent
	inT
	inTr
	inTru
	inF
	inFa
	inFal
	inFals
	inN
	inNu
	inNul
	broken
	beginValue // from here on: what to do, the state after it depends
	beginKey
	endString
	endLiteral
	endNumber // with the byte before
	closeBrace
)

const (
	digits    = "0123456789"
	hexDigits = digits + "abcdefABCDEF"
)

// grammar says for each state and byte what comes next.
var grammar = newGrammar(
	scanStep{wantValue, `"{[-tfn` + digits, beginValue},
	scanStep{wantElementOrEnd, `"{[-tfn` + digits, beginValue}, scanStep{wantElementOrEnd, "]", closeBrace},
	scanStep{wantKeyOrEnd, `"`, beginKey}, scanStep{wantKeyOrEnd, "}", closeBrace},
	scanStep{wantKey, `"`, beginKey}, scanStep{wantColon, ":", wantValue},
	scanStep{afterMember, ",", wantKey}, scanStep{afterMember, "}", closeBrace},
	scanStep{afterElement, ",", wantValue}, scanStep{afterElement, "]", closeBrace},

	scanStep{inString, `"`, endString}, scanStep{inString, `\`, inEscape},
	scanStep{inEscape, `"\/bfnrt`, inString}, scanStep{inEscape, "u", inHex4},
	scanStep{inHex4, hexDigits, inHex3}, scanStep{inHex3, hexDigits, inHex2}, scanStep{inHex2, hexDigits, inHex1}, scanStep{inHex1, hexDigits, inString},

	scanStep{inValue, `"`, inString}, scanStep{inValue, "{", wantKeyOrEnd}, scanStep{inValue, "[", wantElementOrEnd},
	scanStep{inValue, digits, inInteger}, scanStep{inValue, "-", afterMinus}, scanStep{inValue, "0", afterZero},
	scanStep{afterMinus, digits, inInteger}, scanStep{afterMinus, "0", afterZero},
	scanStep{afterZero, ".", afterPoint}, scanStep{afterZero, "eE", afterE},
	scanStep{inInteger, digits, inInteger}, scanStep{inInteger, ".", afterPoint}, scanStep{inInteger, "eE", afterE},
	scanStep{afterPoint, digits, inFraction}, scanStep{inFraction, digits, inFraction}, scanStep{inFraction, "eE", afterE},
	scanStep{afterE, digits, inExponent}, scanStep{afterE, "+-", afterESign}, scanStep{afterESign, digits, inExponent}, scanStep{inExponent, digits, inExponent},
	scanStep{afterZero, white + ",]}", endNumber}, scanStep{inInteger, white + ",]}", endNumber},
	scanStep{inFraction, white + ",]}", endNumber}, scanStep{inExponent, white + ",]}", endNumber},

	scanStep{inValue, "t", inT}, scanStep{inT, "r", inTr}, scanStep{inTr, "u", inTru}, scanStep{inTru, "e", endLiteral},
	scanStep{inValue, "f", inF}, scanStep{inF, "a", inFa}, scanStep{inFa, "l", inFal}, scanStep{inFal, "s", inFals}, scanStep{inFals, "e", endLiteral},
	scanStep{inValue, "n", inN}, scanStep{inN, "u", inNu}, scanStep{inNu, "l", inNul}, scanStep{inNul, "l", endLiteral},
)

type scanStep struct {
	in scanState
	on string
	to scanState
}

// newGrammar makes the table of steps, of which a later one overrules an earlier one. All others break the text.
func newGrammar(steps ...scanStep) (table [broken + 1][256]scanState) {
	for in := range table {
		for c := range table[in] {
			table[in][c] = broken
		}
	}
	for c := ' '; c <= 0xff; c++ {
		table[inString][c] = inString
	}
	for in := wantValue; in <= atEnd; in++ {
		for _, c := range []byte(white) {
			table[in][c] = in
		}
	}
	for _, step := range steps {
		for _, c := range []byte(step.on) {
			table[step.in][c] = step.to
		}
	}
	return table
}

// plainLen counts the leading bytes of p up to the first quote, backslash or control byte, eight at a time.
// Each term has the high bit of a byte set where that byte is below 1 or below 0x20; a borrow can spoil only the
// bytes above the first hit, which are not looked at.
func plainLen(p []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; len(p)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(p[i:])
		quote, backslash := w^ones*'"', w^ones*'\\'
		hits := ((quote-ones)&^quote | (backslash-ones)&^backslash | (w-ones*' ')&^w) & highs
		if hits != 0 {
			return i + bits.TrailingZeros64(hits)/8
		}
	}
	for i < len(p) && p[i] != '"' && p[i] != '\\' && p[i] >= ' ' {
		i++
	}
	return i
}

// fields are the members of a JSON-RPC message as they are written; nil where one is absent.
type fields struct {
	id, method, params, result, error, jsonrpc []byte
	array                                      bool // the text is no object but an array: a batch
}

// topLevel validates one contiguous JSON text. The error is errNotJSON or errNotObject.
func topLevel(raw []byte) (fields, error) {
	var s scanner
	s.feed(raw)
	if err := s.finish(); err != nil {
		return fields{array: s.isArray()}, err
	}
	value := func(name string) []byte { return s.extent(name).of(raw) }
	return fields{
		id: value("id"), method: value("method"), params: value("params"),
		result: value("result"), error: value("error"), jsonrpc: value("jsonrpc"),
	}, nil
}

// member returns the raw value at a path of object keys in valid JSON, nil if there is none. The last of
// duplicates wins, as in encoding/json.
func member(raw []byte, path ...string) []byte {
	for _, name := range path {
		s := scanner{wanted: &name}
		s.feed(raw)
		raw = s.extents[wantedMember].of(raw)
	}
	return raw
}

// elements returns the raw elements of an array in valid JSON: nil if raw is no array, else not nil.
func elements(raw []byte) [][]byte {
	s := scanner{listing: true}
	s.feed(raw)
	if !s.isArray() {
		return nil
	}
	values := make([][]byte, len(s.list))
	for i, at := range s.list {
		values[i] = at.of(raw)
	}
	return values
}

// isVerbatim says whether a raw string means just what stands between its quotes.
func isVerbatim(raw []byte) bool {
	return len(raw) >= 2 && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw)
}

// means tells whether raw is the string text.
func means(raw []byte, text string) bool {
	if len(raw) == len(text)+2 && raw[0] == '"' && string(raw[1:len(raw)-1]) == text {
		return true // as nearly always, and nothing is allocated
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

const (
	minChunk = 4 << 10
	maxChunk = 4 << 20
)

// A document is one text, meant to be JSON, received in pieces and held as a list of chunks, so that what is held
// is never copied to grow. It also holds what turns out not to be JSON: finish says so. Leading white space is
// dropped, CR and LF become spaces: outside strings they are white space, and inside them they are not JSON.
// The methods that read are for use after finish.
type document struct {
	limit int // of bytes received, 0 is none

	scan     scanner
	chunks   [][]byte
	received int
	held     int
	expected int
}

// newDocument holds a text that is there already, and is finished.
func newDocument(raw []byte) *document {
	d := &document{chunks: [][]byte{raw}, held: len(raw), received: len(raw)}
	d.scan.feed(raw)
	return d
}

// grow announces how many bytes are to come in all, so that no memory is left over but for one byte, which lets a
// reader see the end without another chunk.
func (d *document) grow(n int) { d.expected = n + 1 }

// Write fails only with errTooLong, and does so for good.
func (d *document) Write(p []byte) (int, error) {
	for n := len(p); ; {
		copied := copy(d.room(len(p)), p)
		if err := d.take(copied); err != nil {
			return 0, err
		}
		if p = p[copied:]; len(p) == 0 {
			return n, nil
		}
	}
}

// ReadFrom reads all of r, straight into the chunks.
func (d *document) ReadFrom(r io.Reader) (int64, error) {
	for before := d.received; ; {
		n, err := r.Read(d.room(minChunk))
		if tooLong := d.take(n); tooLong != nil {
			err = tooLong
		}
		switch {
		case err == io.EOF:
			return int64(d.received - before), nil
		case err != nil:
			return int64(d.received - before), err
		}
	}
}

// room is where the next bytes go, of which n are at hand.
func (d *document) room(n int) []byte {
	last := len(d.chunks) - 1
	if last < 0 || len(d.chunks[last]) == cap(d.chunks[last]) {
		d.chunks = append(d.chunks, make([]byte, 0, d.nextChunk(n)))
		last++
	}
	return d.chunks[last][len(d.chunks[last]):cap(d.chunks[last])]
}

// take makes the first n bytes of room part of the text.
func (d *document) take(n int) error {
	d.received += n
	if d.limit > 0 && d.received > d.limit {
		return errTooLong
	}
	last := len(d.chunks) - 1
	chunk := d.chunks[last]
	p := chunk[len(chunk) : len(chunk)+n]
	if d.held == 0 {
		n = copy(p, bytes.TrimLeft(p, white))
		p = p[:n]
	}
	d.scan.feed(p)
	if d.scan.control || d.scan.state == broken {
		toSpaces(p, '\n')
		toSpaces(p, '\r')
	}
	d.chunks[last] = chunk[:len(chunk)+n]
	d.held += n
	return nil
}

// nextChunk is an eighth of what is held already, which bounds what the last chunk can leave unused. The first is as
// large as what is at hand: most events and bodies are whole then.
func (d *document) nextChunk(n int) int {
	switch missing := d.expected - d.held; {
	case missing > 0:
		return min(missing, maxChunk)
	case d.held == 0:
		return min(max(n, 1), maxChunk)
	}
	return min(max(d.held/8, minChunk), maxChunk)
}

func toSpaces(p []byte, c byte) {
	for i := bytes.IndexByte(p, c); i >= 0; i = bytes.IndexByte(p, c) {
		p[i] = ' '
		p = p[i+1:]
	}
}

// finish ends the text: it drops trailing white space and says whether the rest is a JSON object, else the error is
// errNotJSON or errNotObject.
func (d *document) finish() error {
	for last := len(d.chunks) - 1; last >= 0; last-- {
		rest := bytes.TrimRight(d.chunks[last], white)
		d.held -= len(d.chunks[last]) - len(rest)
		d.chunks[last] = rest
		if len(rest) > 0 {
			break
		}
		d.chunks = d.chunks[:last]
	}
	return d.scan.finish()
}

// whole tells whether an object or array is closed: nothing but white space may follow.
func (d *document) whole() bool { return d.scan.state == atEnd }

func (d *document) size() int            { return d.held }
func (d *document) isArray() bool        { return d.scan.isArray() }
func (d *document) has(name string) bool { return d.scan.has(name) }
func (d *document) parts() [][]byte      { return d.chunks }

// bytes returns the text in one piece: a copy, unless one chunk holds it.
func (d *document) bytes() []byte { return join(d.chunks) }

// field returns a top-level member's raw value: a copy, where it crosses chunks; nil if there is none.
func (d *document) field(name string) []byte {
	if !d.has(name) {
		return nil
	}
	at := d.scan.extent(name)
	if len(d.chunks) == 1 {
		return at.of(d.chunks[0])
	}
	return join(d.cut(at.start, at.end))
}

// member returns a member of a top-level member, of which it copies nothing else.
func (d *document) member(name, inner string) []byte {
	at := d.scan.extent(name)
	s := scanner{wanted: &inner}
	for _, piece := range d.cut(at.start, at.end) {
		s.feed(piece)
	}
	found := s.extents[wantedMember]
	if found.end == 0 {
		return nil
	}
	return join(d.cut(at.start+found.start, at.start+found.end))
}

// withID returns the parts of an object with id, a raw value, as its id.
func (d *document) withID(id []byte) [][]byte {
	at := d.scan.extent("id")
	if !d.has("id") {
		at = extent{1, 1}
		id = append([]byte(`"id":`), id...)
		if d.scan.named {
			id = append(id, ',')
		}
	}
	return append(append(d.cut(0, at.start), id), d.cut(at.end, d.held)...)
}

// withMember returns an object in valid JSON whose member name has a raw value, in the place of what it had, else last.
func withMember(object []byte, name string, value []byte) []byte {
	s := scanner{wanted: &name}
	s.feed(object)
	at := s.extents[wantedMember]
	if at.end > 0 {
		return bytes.Join([][]byte{object[:at.start], value, object[at.end:]}, nil)
	}
	head := bytes.TrimRight(object, white)
	head = head[:len(head)-1]
	comma := []byte{}
	if s.named {
		comma = []byte{','}
	}
	return bytes.Join([][]byte{head, comma, quote(name), {':'}, value, {'}'}}, nil)
}

// without is an object in valid JSON without one of its members.
func without(object []byte, name string) []byte {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(object, &all); err != nil { // it was looked at
		panic(err)
	}
	delete(all, name)
	raw, err := json.Marshal(all)
	if err != nil { // made of valid JSON
		panic(err)
	}
	return raw
}

// cut returns the parts that hold the bytes from start to end.
func (d *document) cut(start, end int) [][]byte {
	var parts [][]byte
	for _, chunk := range d.chunks {
		if from, to := max(start, 0), min(end, len(chunk)); from < to {
			parts = append(parts, chunk[from:to:to])
		}
		start -= len(chunk)
		end -= len(chunk)
	}
	return parts
}

func join(parts [][]byte) []byte {
	if len(parts) == 1 {
		return parts[0]
	}
	return bytes.Join(parts, nil)
}
