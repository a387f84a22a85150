package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

var jsonTexts = []string{
	``, ` `, `{}`, ` { } `, `[]`, `[ ]`, `{"a":1}`, `{"a":1,"b":[1,2,{"c":null}]}`, `{"a":1,}`, `{,}`, `[1,]`, `[,1]`, `{"a"}`, `{"a":}`,
	`{a:1}`, `{1:1}`, `{"a" : 1 , "b":2}`, `[1 2]`, `[1,2`, `{"a":1`, `{"a":[}`, `[}`, `{]`, `]`, `}`, `{}{}`, `{} x`, `[]]`, `{"a":{"b":{}},"c":[[],[[]]]}`,
	`0`, `-0`, `-`, `01`, `-01`, `1`, `10`, `1.`, `1.5`, `.5`, `1.5.5`, `1e`, `1e+`, `1e+5`, `1E-05`, `1e5.5`, `1e5e5`, `0e1`, `0.0e0`, `+1`, `1-`, `--1`,
	`[0]`, `[-]`, `[1.]`, `[1e]`, `[1e9,2]`, `[00]`, `{"a":-}`, `12345678901234567890123`, ` 1 `, `1 2`, `0x1`, `1a`, `-a`, `1.a`, `1ea`,
	`true`, `false`, `null`, `tru`, `truex`, `nul`, `nulll`, `fals`, `True`, `[true,false,null]`, `[t]`, `NaN`, `tRue`,
	`""`, `"a"`, `"`, `"a`, `"\"`, `"\\"`, `"\""`, `"\/\b\f\n\r\t"`, `"\u00e9"`, `"\uD83D\uDE00"`, `"\ud83d"`, `"\u12"`, `"\u123"`, `"\u12G4"`, `"\x"`, `"\u"`, `"\U0041"`,
	"\"\x00\"", "\"\x1f\"", "\"\x7f\"", "\"\t\"", "\"\n\"", "\"\xff\"", "\"\xe2\x80\xa8\"", `"é日本"`, "\"12345678\x1f\"", `"1234567\"89"`, "\"1234567", `"12345678901234567890"`,
	"\t{\r\n\"a\"\t:\n1\r}\n", "\v1", "\xef\xbb\xbf{}", "{\"a\x00\":1}", "\x00", "[\x01]", "1\x00", `{"a":1}` + "\x00",
	`{"jsonrpc":"2.0","id":"a\"b","method":"tools/call","params":{"id":7,"name":"x"}}`,
	`{"id":1,"id":{"a":[2]},"result":[],"result":{}}`,
	"{\"\\u0069d\":12e3 ,\n\"error\" : null }",
	`{"id` + strings.Repeat("x", 80) + `":1,"id":2}`,
	`{"":1,"\u0069\u0064":-5.5}`, `{"\ud800id":1}`, "{\"\xff\":1,\"\xef\xbf\xbd\":2}",
	`[{"id":1}]`, `["id",1]`, `{"params":{"id":1}}`, `{"id":"` + strings.Repeat("x", maxID) + `"}`,
	strings.Repeat("[", 200) + strings.Repeat("]", 200),
}

func feedSplit(s *scanner, text string, at ...int) {
	from := 0
	for _, to := range append(at, len(text)) {
		s.feed([]byte(text[from:to]))
		from = to
	}
}

// check compares what a fed scanner says with what encoding/json says of the same text.
func (s *scanner) check(t *testing.T, text string) {
	t.Helper()
	err := s.finish()
	if got, want := !errors.Is(err, errNotJSON), json.Valid([]byte(text)); got != want {
		t.Fatalf("%.100q: got valid %v (%v), want %v", text, got, err, want)
	}
	if errors.Is(err, errNotJSON) {
		return
	}
	first := strings.TrimLeft(text, white)[0]
	if (err == nil) != (first == '{') || s.isArray() != (first == '[') {
		t.Fatalf("%.100q: got error %v, array %v", text, err, s.isArray())
	}
	if err != nil {
		return
	}
	members := decodeMembers(t, text)
	for _, name := range memberNames[1:] {
		want, there := members[name]
		at := s.extent(name)
		if got := text[at.start:at.end]; s.has(name) != there || got != string(want) {
			t.Fatalf("%.100q: member %s: got %q, want %q", text, name, got, want)
		}
	}
	want := []byte(members["id"])
	if len(want) > maxID {
		want = nil
	}
	if got := s.idValue(); !bytes.Equal(got, want) {
		t.Fatalf("%.100q: id kept: got %q, want %q", text, got, want)
	}
}

func decodeMembers(t *testing.T, text string) map[string]json.RawMessage {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		t.Fatal(err)
	}
	return members
}

func TestScannerSplitAnywhere(t *testing.T) {
	for _, text := range jsonTexts {
		for i := 0; i <= len(text); i++ {
			var s scanner
			feedSplit(&s, text, i)
			s.check(t, text)
		}
		var s scanner
		for i := range []byte(text) {
			s.feed([]byte(text[i : i+1]))
		}
		s.check(t, text)
	}
}

func TestScannerNesting(t *testing.T) {
	for _, n := range []int{maxNesting, maxNesting + 1} {
		for _, text := range []string{
			strings.Repeat("[", n) + strings.Repeat("]", n),
			strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n),
		} {
			var s scanner
			s.feed([]byte(text))
			s.check(t, text)
		}
	}
}

func TestScannerKeepsIDOfOverlongText(t *testing.T) {
	tests := []struct{ name, head, tail, want string }{
		{"before", `{"id":"abc","params":"`, `"}`, `"abc"`},
		{"after", `{"params":"`, `","id":42}`, `42`},
		{"last of two", `{"id":1,"params":"`, `","id":[2]}`, `[2]`},
		{"none", `{"params":{"id":1,"a":"`, `"}}`, ``},
		{"too long itself", `{"id":"`, `"}`, ``},
	}
	for _, tt := range tests {
		var s scanner
		s.feed([]byte(tt.head))
		for i := 0; i < 1000; i++ {
			s.feed([]byte("0123456789"))
		}
		for _, c := range []byte(tt.tail) {
			s.feed([]byte{c})
		}
		if err := s.finish(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := string(s.idValue()); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if cap(s.id) > 2*maxID+64 {
			t.Errorf("%s: %d bytes kept", tt.name, cap(s.id))
		}
	}
}

func TestTopLevel(t *testing.T) {
	got, err := topLevel([]byte(` {"jsonrpc":"2.0", "id" : 1.0,"method":"m","params":[ ],"x":{"error":1}}`))
	want := fields{id: []byte("1.0"), method: []byte(`"m"`), params: []byte("[ ]"), jsonrpc: []byte(`"2.0"`)}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := topLevel([]byte(`[{"id":1}]`)); !errors.Is(err, errNotObject) || !got.array {
		t.Errorf("array: got %v, %v", got, err)
	}
	if _, err := topLevel([]byte(`7`)); !errors.Is(err, errNotObject) {
		t.Errorf("number: got %v", err)
	}
	if _, err := topLevel([]byte(`{"id":1`)); !errors.Is(err, errNotJSON) {
		t.Errorf("cut: got %v", err)
	}
}

// write gives a document its text in pieces of n bytes.
func writePieces(t *testing.T, d *document, text string, n int) {
	t.Helper()
	for len(text) > 0 {
		n := min(n, len(text))
		if _, err := d.Write([]byte(text[:n])); err != nil {
			t.Fatal(err)
		}
		text = text[n:]
	}
}

func TestDocument(t *testing.T) {
	long := strings.Repeat("0123456789", 3000)
	tests := []struct{ text, want, withID string }{
		{"{}", "{}", `{"id":7}`},
		{"\r\n{ \n}\r\n\n", "{  }", `{"id":7  }`},
		{"{\"a\":\r\n1}", `{"a":  1}`, `{"id":7,"a":  1}`},
		{`{"id":null,"a":1}`, `{"id":null,"a":1}`, `{"id":7,"a":1}`},
		{`{"a":"` + long + `","id": "x" }`, `{"a":"` + long + `","id": "x" }`, `{"a":"` + long + `","id": 7 }`},
		{`{"a":"` + long + `"}` + strings.Repeat("\n ", 9000), `{"a":"` + long + `"}`, `{"id":7,"a":"` + long + `"}`},
	}
	for _, tt := range tests {
		for _, piece := range []int{1, 7, 5000, 1 << 20} {
			for _, announced := range []int{0, 10, len(tt.text)} {
				d := &document{}
				d.grow(announced)
				writePieces(t, d, tt.text, piece)
				if err := d.finish(); err != nil {
					t.Fatalf("%.40q: %v", tt.text, err)
				}
				for _, got := range []string{string(d.bytes()), string(bytes.Join(d.parts(), nil))} {
					if got != tt.want || d.size() != len(got) {
						t.Errorf("%.40q: got %.40q of %d, size %d", tt.text, got, len(got), d.size())
					}
				}
				if got := string(bytes.Join(d.withID([]byte("7")), nil)); got != tt.withID {
					t.Errorf("%.40q with id: got %.40q, want %.40q", tt.text, got, tt.withID)
				}
			}
		}
	}
}

// However a reader cuts the text, and wherever it says that this was all.
func TestDocumentReadFrom(t *testing.T) {
	text := "\r\n {\"a\":\n\"" + strings.Repeat("0123456789", 3000) + "\"}\n"
	want := strings.ReplaceAll(strings.TrimSpace(text), "\n", " ")
	for name, cut := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "end with data": iotest.DataErrReader,
	} {
		for _, announced := range []int{0, 10, len(text)} {
			d := &document{}
			d.grow(announced)
			n, err := d.ReadFrom(cut(strings.NewReader(text)))
			if err != nil || n != int64(len(text)) || d.finish() != nil || string(d.bytes()) != want {
				t.Errorf("%s: got %d bytes, %v, %.40q", name, n, err, d.bytes())
			}
		}
	}
	d := &document{limit: len(text) - 1}
	if _, err := d.ReadFrom(strings.NewReader(text)); err != errTooLong {
		t.Errorf("got %v, want %v", err, errTooLong)
	}
	if _, err := d.ReadFrom(iotest.ErrReader(io.ErrUnexpectedEOF)); err != errTooLong {
		t.Errorf("again: got %v, want %v", err, errTooLong)
	}
	if _, err := (&document{}).ReadFrom(iotest.ErrReader(io.ErrUnexpectedEOF)); err != io.ErrUnexpectedEOF {
		t.Errorf("got %v, want the reader's error", err)
	}
}

func TestDocumentField(t *testing.T) {
	value := `"` + strings.Repeat("x", 10000) + `"`
	d := &document{}
	writePieces(t, d, `  {"result":`+value+`,"error":1}`, 100)
	if err := d.finish(); err != nil {
		t.Fatal(err)
	}
	if got := string(d.field("result")); got != value {
		t.Errorf("got %.20q… of %d bytes", got, len(got))
	}
	if got := string(d.field("error")); got != "1" || !d.has("error") {
		t.Errorf("error: got %q", got)
	}
	if d.has("id") || d.field("id") != nil || d.has("other") || d.has("") {
		t.Error("members that are not there are found")
	}
}

func TestDocumentNotJSON(t *testing.T) {
	d := &document{}
	writePieces(t, d, " /messages?id=1 \n", 3)
	if err := d.finish(); !errors.Is(err, errNotJSON) || string(d.bytes()) != "/messages?id=1" {
		t.Errorf("got %q, %v", d.bytes(), err)
	}
	d = &document{}
	if err := d.finish(); !errors.Is(err, errNotJSON) || d.size() != 0 || len(d.bytes()) != 0 {
		t.Errorf("empty: got %q, %v", d.bytes(), err)
	}
	d = &document{}
	writePieces(t, d, "[{}]", 4)
	if err := d.finish(); !errors.Is(err, errNotObject) || !d.isArray() {
		t.Errorf("array: got %v", err)
	}
}

func TestDocumentLimit(t *testing.T) {
	d := &document{limit: 4}
	if _, err := d.Write([]byte("{} \n")); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 2; i++ {
		if _, err := d.Write([]byte(" ")); err != errTooLong {
			t.Errorf("got %v, want %v", err, errTooLong)
		}
	}
}

func TestDocumentMemory(t *testing.T) {
	piece := bytes.Repeat([]byte("x"), 16<<10)
	for _, announce := range []bool{false, true} {
		for _, size := range []int{32 << 10, 5 << 20, 17<<20 + 1} {
			d := &document{}
			if announce {
				d.grow(size)
			}
			for left := size; left > 0; left -= len(piece) {
				d.Write(piece[:min(left, len(piece))])
			}
			room := 0
			for _, chunk := range d.chunks {
				room += cap(chunk)
			}
			if most := size + size/7; room > most || announce && room != size+1 {
				t.Errorf("%d bytes, announced %v: room for %d", size, announce, room)
			}
		}
	}
}

func TestMember(t *testing.T) {
	raw := []byte(` {"a":{"b\n":[1,{"c":"}]\""}],"x":1,"x": 2 }, "d":null,"e":"s","f":{},"\u0067":3.5 } `)
	tests := []struct {
		path []string
		want string
	}{
		{[]string{"a", "b\n"}, `[1,{"c":"}]\""}]`},
		{[]string{"a", "x"}, `2`},
		{[]string{"a", "y"}, ``},
		{[]string{"d"}, `null`},
		{[]string{"d", "x"}, ``},
		{[]string{"e"}, `"s"`},
		{[]string{"e", "x"}, ``},
		{[]string{"f"}, `{}`},
		{[]string{"f", "x"}, ``},
		{[]string{"g"}, `3.5`},
		{[]string{"c"}, ``},
	}
	for _, tt := range tests {
		if got := member(raw, tt.path...); string(got) != tt.want || (got == nil) != (tt.want == "") {
			t.Errorf("%q: got %q, want %q", tt.path, got, tt.want)
		}
	}
	if got := member(nil, "a"); got != nil {
		t.Errorf("of nothing: got %q", got)
	}
}

func TestElements(t *testing.T) {
	tests := []struct {
		raw  string
		want []string
	}{
		{`[1, "a,]" ,{"b":[2,3]},[ ],null ] `, []string{`1`, `"a,]"`, `{"b":[2,3]}`, `[ ]`, `null`}},
		{` [ ] `, []string{}},
		{`{"a":1}`, nil},
		{`null`, nil},
		{``, nil},
	}
	for _, tt := range tests {
		got := elements([]byte(tt.raw))
		if len(got) != len(tt.want) || (got == nil) != (tt.want == nil) {
			t.Errorf("%q: got %q, want %q", tt.raw, got, tt.want)
			continue
		}
		for i := range got {
			if string(got[i]) != tt.want[i] {
				t.Errorf("%q: got %q, want %q", tt.raw, got, tt.want)
			}
		}
	}
}

func TestUnquote(t *testing.T) {
	tests := []struct {
		raw, want string
		ok        bool
	}{
		{`"a"`, "a", true},
		{`""`, "", true},
		{`"\u00e9\n"`, "é\n", true},
		{"\"\xff\"", "\ufffd", true},
		{`"\ud800"`, "\ufffd", true},
		{`1`, "", false},
		{`null`, "", false},
		{``, "", false},
		{`"`, "", false},
	}
	for _, tt := range tests {
		if got, ok := unquote([]byte(tt.raw)); got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %q, %v, want %q, %v", tt.raw, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzScanner(f *testing.F) {
	for i, text := range jsonTexts {
		f.Add(text, int64(i))
	}
	f.Fuzz(func(t *testing.T, text string, seed int64) {
		random := rand.New(rand.NewSource(seed))
		var s scanner
		var d document
		for rest := text; len(rest) > 0; {
			n := 1 + random.Intn(min(len(rest), 20))
			s.feed([]byte(rest[:n]))
			d.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		s.check(t, text)
		if (d.finish() == nil) != (s.finish() == nil) {
			t.Fatalf("%q: document %v, scanner %v", text, d.finish(), s.finish())
		}
		if d.finish() == nil {
			checkDocument(t, &d, text)
		}
	})
}

func checkDocument(t *testing.T, d *document, text string) {
	t.Helper()
	want := strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.Trim(text, white))
	if got := string(d.bytes()); got != want || d.size() != len(want) {
		t.Fatalf("%q: got %q, size %d", text, got, d.size())
	}
	members := decodeMembers(t, string(bytes.Join(d.withID([]byte(`"new"`)), nil)))
	if got := string(members["id"]); got != `"new"` {
		t.Fatalf("%q: id got %q", text, got)
	}
}

func FuzzMember(f *testing.F) {
	for _, text := range jsonTexts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		all := elements(raw)
		member(raw, "id", "a") // must be harmless whatever the text is
		if !json.Valid(raw) {
			return
		}
		var array []json.RawMessage
		if json.Unmarshal(raw, &array) == nil && len(array) != len(all) {
			t.Fatalf("%q: got %d elements, want %d", raw, len(all), len(array))
		}
		for i := range array {
			checkRaw(t, all[i], array[i])
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) != nil {
			return
		}
		for name, want := range object {
			checkRaw(t, member(raw, name), want)
		}
	})
}

func checkRaw(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	var s string
	wanted := want[0] == '"' && json.Unmarshal(want, &s) == nil
	if decoded, ok := unquote(got); ok != wanted || decoded != s {
		t.Fatalf("%q: decoded to %q, %v, want %q, %v", got, decoded, ok, s, wanted)
	}
}

func benchmarkScanner(b *testing.B, text string) {
	piece := 32 << 10
	text = strings.Repeat(text, 1+(1<<20)/len(text))
	raw := []byte("[" + strings.TrimSuffix(text, ",") + "]")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		var s scanner
		for p := raw; len(p) > 0; p = p[min(len(p), piece):] {
			s.feed(p[:min(len(p), piece)])
		}
		if err := s.finish(); !errors.Is(err, errNotObject) {
			b.Fatal(err)
		}
	}
}

const mixedText = `{"name":"get_weather","enabled":true,"count":1234,"ratio":-0.5e3,"tags":["a","b",null],
	"schema":{"type":"object","properties":{"city":{"type":"string","description":"The name of the \"city\""}}}},`

func BenchmarkScannerStrings(b *testing.B) {
	benchmarkScanner(b, `{"text":"`+strings.Repeat("The quick brown fox jumps over the lazy dog. ", 40)+`\n"},`)
}

func BenchmarkScannerMixed(b *testing.B) { benchmarkScanner(b, mixedText) }

func BenchmarkScannerSmall(b *testing.B) {
	raw := []byte(`{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello"}}}`)
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		if _, err := topLevel(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMember(b *testing.B) {
	raw := []byte(`{"arguments":[` + strings.Repeat(mixedText, 1000) + `0],"_meta":{"a":1}}`)
	b.SetBytes(int64(len(raw)))
	for i := 0; i < b.N; i++ {
		if member(raw, "_meta", "a") == nil {
			b.Fatal("not found")
		}
	}
}

// A member of a member is found wherever the chunks of the text end.
func TestDocumentMember(t *testing.T) {
	const text = `{"id":1,"result":{"a":{"want":1},"want":[1, "x"],"b":2},"want":3}`
	for cut := 0; cut <= len(text); cut++ {
		d := newDocument([]byte(text))
		d.chunks = [][]byte{[]byte(text[:cut]), []byte(text[cut:])}
		if got := string(d.member("result", "want")); got != `[1, "x"]` {
			t.Errorf("cut at %d: got %s", cut, got)
		}
		if got := d.member("result", "none"); got != nil {
			t.Errorf("cut at %d: got %s, want nothing", cut, got)
		}
		if got := d.member("error", "want"); got != nil {
			t.Errorf("cut at %d: got %s, want nothing", cut, got)
		}
	}
}
