package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
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
	strings.Repeat("[", 200) + strings.Repeat("]", 200), "{\n\"\xdf\r\":1}", `{"a":"\`, `{"a":"\u00`, `-`, `[-`, `{"a" `, `{"a":1 `, `{"a":1,`, `{"a":1, "`,
}

func decodeMembers(t *testing.T, text string) map[string]json.RawMessage {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		t.Fatal(err)
	}
	return members
}

// checkText compares what is read of a text with what encoding/json says of it.
func checkText(t *testing.T, text string) {
	t.Helper()
	d := readMembers([]byte(text))
	if got, want := d.kind != 0, json.Valid([]byte(text)); got != want {
		t.Fatalf("%.100q: got valid %v, want %v", text, got, want)
	}
	members := map[string]json.RawMessage{}
	if d.kind != 0 {
		if first := strings.TrimLeft(text, white)[0]; d.kind != first {
			t.Fatalf("%.100q: got kind %q, want %q", text, d.kind, first)
		}
		if d.kind == '{' {
			members = decodeMembers(t, text)
		}
	}
	for name, got := range map[string][]byte{
		"id": d.id, "method": d.method, "params": d.params, "result": d.result, "error": d.error, "jsonrpc": d.jsonrpc,
	} {
		if want := members[name]; string(got) != string(want) || (got == nil) != (want == nil) {
			t.Fatalf("%.100q: member %s: got %q, want %q", text, name, got, want)
		}
	}
}

func TestReadMembers(t *testing.T) {
	for _, text := range jsonTexts {
		checkText(t, text)
		for i := range []byte(text) {
			checkText(t, text[:i]) // however it is cut off
		}
	}
	for _, n := range []int{maxNesting, maxNesting + 1} {
		for _, inner := range []string{"", "1", "[]", "{}"} {
			checkText(t, strings.Repeat("[", n)+inner+strings.Repeat("]", n))
		}
		checkText(t, strings.Repeat(`{"a":`, n)+"1"+strings.Repeat("}", n))
	}
}

func TestNewDocument(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		kind       byte
	}{
		{"{}", "{}", '{'},
		{"\r\n{ \n}\r\n\n", "{  }", '{'},
		{"{\"a\":\r\n1}", `{"a":  1}`, '{'},
		{byteOrderMark + " {}", "{}", '{'},
		{"{\"a\":\"\xff\xfeé\xe2\x80\"}", "{\"a\":\"\ufffdé\ufffd\"}", '{'},
		{" /messages?id=1 \n", "/messages?id=1", 0},
		{" [{}]", "[{}]", '['},
		{"7", "7", '7'},
		{"", "", 0},
		{" \n", "", 0},
	} {
		d := newDocument([]byte(tt.text))
		if string(d.raw) != tt.want || d.kind != tt.kind {
			t.Errorf("%q: got %q, %q, want %q, %q", tt.text, d.raw, d.kind, tt.want, tt.kind)
		}
	}
}

func TestWithMember(t *testing.T) {
	for _, tt := range []struct{ object, want string }{
		{`{}`, `{"id":7}`},
		{` { } `, ` {"id":7}`},
		{`{"a": 1 }`, `{"a": 1,"id":7}`},
		{`{"a":{"id":1},"id" : "x" ,"b":2}`, `{"a":{"id":1},"id" : 7 ,"b":2}`},
		{`{"id":1,"\u0069d":[2]}`, `{"id":1,"\u0069d":7}`},
	} {
		if got := string(withMember([]byte(tt.object), "id", []byte("7"))); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.object, got, tt.want)
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

func TestEach(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		want []string
	}{
		{`[1, "a,]" ,{"b":[2,3]},[ ],null ] `, []string{`1`, `"a,]"`, `{"b":[2,3]}`, `[ ]`, `null`}},
		{` [ ] `, nil},
		{`{"a":1}`, nil},
		{`null`, nil},
		{``, nil},
	} {
		if got := listOf([]byte(tt.raw)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.raw, got, tt.want)
		}
	}
}

func listOf(array []byte) (list []string) {
	each(array, func(element []byte) { list = append(list, string(element)) })
	return list
}

// What passes by unread costs memory once, however much there is of it.
func TestNothingIsAllocatedForValues(t *testing.T) {
	raw := []byte(`{"result":{"tools":[` + strings.Repeat(`{"name":"x"},1,`, 10_000) + `null]}}`)
	if got := testing.AllocsPerRun(5, func() {
		each(member(raw, "result", "tools"), func([]byte) {})
	}); got > 5 {
		t.Errorf("got %v allocations", got)
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

func FuzzDocument(f *testing.F) {
	for _, text := range jsonTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		checkText(t, text)
		d := newDocument([]byte(text))
		want := strings.ToValidUTF8(strings.Trim(strings.TrimPrefix(text, byteOrderMark), white), "\ufffd")
		valid := json.Valid([]byte(want))
		want = strings.NewReplacer("\r", " ", "\n", " ").Replace(want)
		if (d.kind != 0) != valid || valid && string(d.raw) != want {
			t.Fatalf("%q: got %q, %q, want %q", text, d.raw, d.kind, want)
		}
		if d.kind != '{' {
			return
		}
		members := decodeMembers(t, string(withMember(d.raw, "id", []byte(`"new"`))))
		if string(members["id"]) != `"new"` {
			t.Fatalf("%q: got id %q", text, members["id"])
		}
	})
}

func FuzzMember(f *testing.F) {
	for _, text := range jsonTexts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		all := listOf(raw)
		member(raw, "id", "a") // must be harmless whatever the text is
		if !json.Valid(raw) {
			return
		}
		var array []json.RawMessage
		if json.Unmarshal(raw, &array) == nil && len(array) != len(all) {
			t.Fatalf("%q: got %d elements, want %d", raw, len(all), len(array))
		}
		for i := range array {
			checkRaw(t, []byte(all[i]), array[i])
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

func benchmarkScan(b *testing.B, text string) {
	raw := []byte("[" + strings.TrimSuffix(strings.Repeat(text, 1+(1<<20)/len(text)), ",") + "]")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		if readMembers(raw).kind != '[' {
			b.Fatal("it is valid")
		}
	}
}

const mixedText = `{"name":"get_weather","enabled":true,"count":1234,"ratio":-0.5e3,"tags":["a","b",null],
	"schema":{"type":"object","properties":{"city":{"type":"string","description":"The name of the \"city\""}}}},`

func BenchmarkScanStrings(b *testing.B) {
	benchmarkScan(b, `{"text":"`+strings.Repeat("The quick brown fox jumps over the lazy dog. ", 40)+`\n"},`)
}

func BenchmarkScanMixed(b *testing.B) { benchmarkScan(b, mixedText) }

func BenchmarkScanSmall(b *testing.B) {
	raw := []byte(`{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello"}}}`)
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		if readMembers(raw).kind != '{' {
			b.Fatal("it is valid")
		}
	}
}
