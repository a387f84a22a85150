package main

// Odd servers: what comes back is not what the specification shows, and the
// client must see valid JSON-RPC and one answer to each request all the same.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// says answers with a status, a content type ("" for none) and a body.
func says(status int, media, body string) fakeAnswer {
	return func(w http.ResponseWriter, r *fakeRequest) bool {
		w.Header()["Content-Type"] = nil // no guessing
		if media != "" {
			w.Header().Set("Content-Type", media)
		}
		w.WriteHeader(status)
		io.WriteString(w, strings.ReplaceAll(body, "<id>", string(r.msg.ID)))
		return true
	}
}

// neverEnding answers with headers and part of a body, and keeps the rest to itself.
func neverEnding(status int, media, body string) fakeAnswer {
	return func(w http.ResponseWriter, r *fakeRequest) bool {
		says(status, media, body)(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
}

// Whatever a server says to a notification, it is delivered, and what follows is not held up.
func TestOddAnswersToNotifications(t *testing.T) {
	t.Parallel()
	server := startMCP(t, "http/1.1") // where a body that is not read costs the connection
	p := startProxy(t, "-u", server.url)
	p.initialize()
	const json, events = "application/json", "text/event-stream"
	for name, answer := range map[string]fakeAnswer{
		"200 empty":                says(200, "", ""),
		"200 null":                 says(200, json, "null"),
		"200 HTML":                 says(200, "text/html; charset=utf-8", "<!DOCTYPE html><p>ok"),
		"200 text":                 says(200, "text/plain", "ok"),
		"200 JSON-RPC":             says(200, json, `{"jsonrpc":"2.0","id":null,"result":{}}`),
		"202 text":                 says(202, "text/plain", "Accepted"),
		"204":                      says(204, "", ""),
		"200 stream that ends":     says(200, events, ": nothing\n\n"),
		"200 stream without end":   neverEnding(200, events, ": nothing\n\n"),
		"200 body without end":     neverEnding(200, json, "{"),
		"500 body without end":     neverEnding(500, "text/html", "<p>"),
		"400 JSON-RPC without end": neverEnding(400, json, `{"jsonrpc":"2.0","error":{"code":-1,`),
	} {
		answer := answer
		t.Run(name, func(t *testing.T) {
			method := "notifications/" + name
			server.reply(method, answer)
			began := time.Now()
			p.notify(method, "")
			p.echo("the next message")
			if took := time.Since(began); took > deliveryWait {
				t.Errorf("it held up the next message for %v", took)
			}
			if got := server.count(method); got != 1 {
				t.Errorf("got %d notifications, want 1", got)
			}
		})
	}
}

// A server may say something of its own even there.
func TestMessagesOnTheAnswerToNotification(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.reply("notifications/initialized", neverEnding(200, "text/event-stream", `data: {"jsonrpc":"2.0","id":"s1","method":"roots/list"}`+"\n\n"))
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.received("roots/list", 1)
	p.send(`{"jsonrpc":"2.0","id":"s1","result":{"roots":[]}}`)
	server.await("response", 1)
}

// What is no answer becomes an error, at once.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	p := startProxy(t, "-u", server.url)
	p.initialize()
	const json, events = "application/json", "text/event-stream"
	for name, answer := range map[string]fakeAnswer{
		"200 empty":                 says(200, json, ""),
		"200 white space":           says(200, json, " \n"),
		"200 null":                  says(200, json, "null"),
		"200 HTML":                  says(200, "text/html", "<!DOCTYPE html><p>secret"),
		"200 text":                  says(200, "text/plain", "secret"),
		"200 string":                says(200, json, `"secret"`),
		"200 empty batch":           says(200, json, `[]`),
		"200 batch for others":      says(200, json, `[{"jsonrpc":"2.0","id":"secret","result":{}}]`),
		"202 empty":                 says(202, "", ""),
		"202 text":                  says(202, "text/plain", "Accepted, secret"),
		"204":                       says(204, "", ""),
		"error that is text":        says(200, json, `{"error":"invalid_token","error_description":"secret"}`),
		"error without code":        says(200, json, `{"jsonrpc":"2.0","id":<id>,"error":{"message":"secret"}}`),
		"error without message":     says(200, json, `{"jsonrpc":"2.0","id":<id>,"error":{"code":-1}}`),
		"null error alone":          says(200, json, `{"jsonrpc":"2.0","id":<id>,"error":null}`),
		"another request's id":      says(200, json, `{"jsonrpc":"2.0","id":"secret","result":{}}`),
		"a request":                 says(200, json, `{"jsonrpc":"2.0","id":1,"method":"secret"}`),
		"duplicate of the request":  says(200, json, `{"jsonrpc":"2.0","id":<id>,"method":"tools/call","params":{}}`),
		"two bodies":                says(200, json, `{"jsonrpc":"2.0","id":<id>,"result":{}}{"jsonrpc":"2.0","id":<id>,"result":{}}`),
		"stream as JSON":            says(200, json, "data: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{}}\n\n"),
		"stream without answer":     says(200, events, ": secret\n\ndata: secret\n\n"),
		"stream of HTML":            says(200, events, "<!DOCTYPE html><p>secret"),
		"stream that breaks off":    says(200, events, `data: {"jsonrpc":"2.0","id":<id>,"result":{`),
		"event without a blank":     says(200, events, `data: {"jsonrpc":"2.0","id":<id>,"result":{}}`),
		"answer in an other event":  says(200, events, "event: secret\ndata: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{}}\n\n"),
		"400 text":                  says(400, "text/plain", "secret"),
		"400 error that is text":    says(400, json, `{"error":"invalid_request","error_description":"secret"}`),
		"400 error without message": says(400, json, `{"jsonrpc":"2.0","id":<id>,"error":{"code":-1}}`),
		"400 without end":           neverEnding(400, json, `{"jsonrpc":"2.0","id":<id>,"error":{`),
		"500 HTML without end":      neverEnding(500, "text/html", "<p>secret"),
		"418":                       says(418, "", ""),
		"599":                       says(599, "", ""),
		"301":                       says(301, "text/html", "secret"),
	} {
		answer := answer
		t.Run(name, func(t *testing.T) {
			server.reply("tools/call "+name, answer)
			got := p.failure(p.request("tools/call", fmt.Sprintf(`{"name":%q}`, name)))
			if got.Code != -32000 || !strings.Contains(got.Message, "127.0.0.1") || strings.Contains(got.Message+string(got.Data), "secret") {
				t.Errorf("got error %d %q %s, want -32000 that names the host and quotes nothing", got.Code, got.Message, got.Data)
			}
			if got := server.count("tools/call " + name); got != 1 {
				t.Errorf("got %d calls, want 1", got)
			}
		})
	}
	p.echo("the next one")
}

// Answers that are not quite what they should be, and what the client gets.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.sessions = false
	p := startProxy(t, "-u", server.url)
	p.initialize()
	const json, events = "application/json", "text/event-stream"
	const plain = `{"jsonrpc":"2.0","id":<id>,"result":{"n":1}}`
	const refused = `{"jsonrpc":"2.0","id":<id>,"error":{"code":-7,"message":"no","data":[1]}}`
	for _, test := range []struct {
		name   string
		id     string // of the request, raw
		answer fakeAnswer
		want   string
	}{
		{"plain", `1`, says(200, json, plain), plain},
		{"pretty-printed", `1`, says(200, json, "{\r\n  \"jsonrpc\": \"2.0\",\r\n\t\"id\": <id>,\n  \"result\": {\n    \"n\": 1\n  }\n}\n"),
			"{    \"jsonrpc\": \"2.0\",  \t\"id\": <id>,   \"result\": {     \"n\": 1   } }"},
		{"pretty-printed event", `1`, says(200, events, "data: {\ndata:   \"jsonrpc\": \"2.0\", \"id\": <id>,\ndata:   \"result\": {}\ndata: }\n\n"),
			`{   "jsonrpc": "2.0", "id": <id>,   "result": {} }`},
		{"not UTF-8", `1`, says(200, json, "{\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"caf\xe9\":\"\xff\xfe é\"}}"),
			"{\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"caf\ufffd\":\"\ufffd é\"}}"},
		{"not UTF-8, in an event", `1`, says(200, events, "data: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":\"caf\xe9\"}\n\n"),
			"{\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":\"caf\ufffd\"}"},
		{"byte order mark", `1`, says(200, json, byteOrderMark+plain), plain},
		{"byte order mark before events", `1`, says(200, events, byteOrderMark+"data: "+plain+"\n\n"), plain},
		{"id null in an error", `1`, says(200, json, `{"jsonrpc":"2.0","id":null,"error":{"code":-7,"message":"no","data":[1]}}`), refused},
		{"id null in a 400", `"x"`, says(400, json, `{"jsonrpc":"2.0","id":null,"error":{"code":-7,"message":"no","data":[1]}}`), refused},
		{"no id in a 400", `1`, says(400, json, `{"jsonrpc":"2.0","error":{"code":-7,"message":"no","data":[1]}}`), `{"jsonrpc":"2.0","error":{"code":-7,"message":"no","data":[1]},"id":<id>}`},
		{"a made-up id in a 400", `1`, says(400, json, `{"jsonrpc":"2.0","id":"server-error","error":{"code":-7,"message":"no","data":[1]}}`), refused},
		{"error in a 500", `1`, says(500, json, refused), refused},
		{"error as text/plain", `1`, says(404, "text/plain", refused), refused},
		{"id as a string", `7`, says(200, json, `{"jsonrpc":"2.0","id":"7","result":{"n":1}}`), plain},
		{"id as a number", `"7"`, says(200, json, `{"jsonrpc":"2.0","id":7,"result":{"n":1}}`), plain},
		{"id as a double", `7`, says(200, json, `{"jsonrpc":"2.0","id":7.0,"result":{"n":1}}`), plain},
		{"id rounded to a double", `9007199254740993`, says(200, json, `{"jsonrpc":"2.0","id":9007199254740992,"result":{"n":1}}`), plain},
		{"id kept beyond 2^53", `12345678901234567890123`, says(200, json, plain), plain},
		{"id written by PHP", `"a/b"`, says(200, json, `{"jsonrpc":"2.0","id":"a\/b","result":{"n":1}}`), plain},
		{"id written by Python", `"é"`, says(200, json, `{"jsonrpc":"2.0","id":"\u00e9","result":{"n":1}}`), plain},
		{"error null beside the result", `1`, says(200, json, `{"jsonrpc":"2.0","id":<id>,"result":{"n":1},"error":null}`), plain},
		{"result null beside the error", `1`, says(200, json, `{"jsonrpc":"2.0","id":<id>,"result":null,"error":{"code":-7,"message":"no","data":[1]}}`), refused},
		{"no version", `1`, says(200, json, `{"id":<id>,"result":{"n":1}}`), plain},
		{"another version", `1`, says(200, events, "data: {\"jsonrpc\":2.0,\"id\":<id>,\"result\":{\"n\":1}}\n\n"), plain},
		{"batch of one", `1`, says(200, json, `[`+plain+`]`), plain},
		{"batch in an event", `1`, says(200, events, `data: [{"jsonrpc":"2.0","method":"notifications/message"},`+plain+"]\n\n"), plain},
		{"charset", `1`, says(200, "application/json; charset=utf-8", plain), plain},
		{"content type in capitals", `1`, says(200, "Application/JSON", plain), plain},
		{"no content type", `1`, says(200, "", plain), plain},
		{"text/plain", `1`, says(200, "text/plain", plain), plain},
		{"201", `1`, says(201, json, plain), plain},
		{"202 with the answer", `1`, says(202, json, plain), plain},
		{"event stream with a charset", `1`, says(200, `text/event-stream;charset="utf-8"`, "data: "+plain+"\n\n"), plain},
		{"event stream in capitals", `1`, says(200, `Text/Event-Stream`, "data: "+plain+"\n\n"), plain},
		{"event of no name", `1`, says(200, events, "event:\ndata: "+plain+"\n\n"), plain},
		{"other events", `1`, says(200, events, "event: ping\ndata: "+plain[:9]+"\n\ndata:\n\ndata: [DONE]\n\ndata: x\n\nevent: message\ndata: "+plain+"\n\ndata: [DONE]\n\n"), plain},
		{"answered twice", `1`, says(200, events, "data: "+plain+"\n\ndata: "+plain+"\n\ndata: "+refused+"\n\n"), plain},
		{"line separators", `1`, says(200, events, "data: {\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"t\":\"a\u2028b\u2029c\u0085d\\u2028e\"}}\n\n"),
			"{\"jsonrpc\":\"2.0\",\"id\":<id>,\"result\":{\"t\":\"a\u2028b\u2029c\u0085d\\u2028e\"}}"},
		{"large integers", `1`, says(200, json, `{"jsonrpc":"2.0","id":<id>,"result":{"n":9007199254740993,"m":-18446744073709551617,"e":1e400}}`),
			`{"jsonrpc":"2.0","id":<id>,"result":{"n":9007199254740993,"m":-18446744073709551617,"e":1e400}}`},
	} {
		for era, meta := range map[string]string{"session": `"_meta":{}`, "modern": modernMeta} {
			name, meta, test := test.name+" "+era, meta, test
			t.Run(name, func(t *testing.T) {
				server.reply("tools/call "+name, test.answer)
				p.change(func() { p.sent, p.answered = map[string]bool{}, map[string][]testMessage{} }) // ids come again
				p.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,%s}}`, test.id, name, meta))
				if got, want := p.answer(test.id).line, strings.ReplaceAll(test.want, "<id>", test.id); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		}
	}
}

// One stream may bring the answers to other requests as well.
func TestAnswersToSeveralRequestsInOneStream(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	var answers string
	server.reply("tools/call silent", func(w http.ResponseWriter, r *fakeRequest) bool {
		server.change(func() {
			answers += "data: " + strings.Replace(r.msg.result(`{"content":[]}`), `"id":3`, `"id":"3"`, 1) + "\n\n"
		})
		<-r.Context().Done()
		return true
	})
	server.reply("tools/call talks", func(w http.ResponseWriter, r *fakeRequest) bool {
		says(200, "text/event-stream", answers+"data: "+r.msg.result(`{"content":[]}`)+"\n\n")(w, r)
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	ids := []string{p.request("tools/call", `{"name":"silent"}`), p.request("tools/call", `{"name":"silent"}`)}
	server.await("tools/call silent", 2)
	eventually(t, "both answers are ready", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return strings.Count(answers, "data:") == 2
	})
	for _, id := range append(ids, p.request("tools/call", `{"name":"talks"}`)) {
		p.result(id)
	}
}

// A server may accept a request and answer on the stream that is listened to.
func TestAnswerOnListeningStream(t *testing.T) {
	for _, body := range []string{"", "Accepted"} {
		body := body
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			server := startMCP(t)
			server.listens = true
			server.reply("tools/call later", func(w http.ResponseWriter, r *fakeRequest) bool {
				says(http.StatusAccepted, "text/plain", body)(w, r)
				server.push(strings.Replace(r.msg.result(`{"content":[]}`), `"id":2`, `"id":"2"`, 1))
				return true
			})
			p := startProxy(t, "-u", server.url)
			p.initialize()
			p.call("tools/call", `{"name":"later"}`)
		})
	}
}

// What is not JSON-RPC does not reach the client, on whichever stream it comes.
func TestServerMessagesAreChecked(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	server.listens = true
	p := startProxy(t, "-u", server.url)
	p.initialize()
	for _, line := range []string{
		`hello`, `{}`, `[]`, `null`, `{"jsonrpc":"1.0","method":"notifications/message"}`, `{"method":"notifications/message"}`, `{"jsonrpc":"2.0","method":7}`,
		`{"jsonrpc":"2.0","id":99,"result":{}}`, `{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x"}}`, `{"jsonrpc":"2.0","id":"mcp-proxy:x","result":{}}`,
		`[{"jsonrpc":"2.0","method":"notifications/message","params":{"n":0}},{"jsonrpc":"2.0","method":"notifications/message","params":{"n":1}}]`,
		`{"jsonrpc":"2.0","method":"notifications/message","params":{"n":2}}`,
	} {
		server.push(line)
	}
	for i, m := range p.received("notifications/message", 3) {
		if want := fmt.Sprintf(`{"n":%d}`, i); string(m.Params) != want {
			t.Errorf("got %s, want %s", m.Params, want)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := len(p.lines); got != 4 { // and the answer to initialize
		t.Errorf("got %d lines, want 4: %q", got, p.lines)
	}
}

// A stream that goes on after its answer does not hold up the answer, may say
// more for a little, and is closed then.
func TestStreamWithoutEnd(t *testing.T) {
	t.Parallel()
	server := startMCP(t)
	closed := make(chan struct{}, 2)
	endless := func(encoding string) fakeAnswer {
		return func(w http.ResponseWriter, r *fakeRequest) bool {
			w, flush, _ := encoded(w, encoding)
			says(200, "text/event-stream", "data: "+r.msg.result(`{"content":[]}`)+"\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n")(w, r)
			flush()
			<-r.Context().Done()
			closed <- struct{}{}
			return true
		}
	}
	server.reply("tools/call plain", endless(""))
	server.reply("tools/call gzip", endless("gzip"))
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.call("tools/call", `{"name":"plain"}`)
	p.call("tools/call", `{"name":"gzip"}`)
	p.received("notifications/message", 2)
	p.echo("meanwhile")
	for i := 0; i < 2; i++ {
		select { // after lingerTime
		case <-closed:
		case <-time.After(testPatience):
			t.Error("a stream is still open")
		}
	}
}

func TestBodyCutInTheMiddle(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		for _, media := range []string{"application/json", "text/event-stream"} {
			protocol, media := protocol, media
			t.Run(protocol+" "+media, func(t *testing.T) {
				t.Parallel()
				server := startMCP(t, protocol)
				server.reply("tools/call cut", func(w http.ResponseWriter, r *fakeRequest) bool {
					w.Header().Set("Content-Length", "1000")
					says(200, media, `{"jsonrpc":"2.0","id":<id>,"result":{"a":"b`)(w, r)
					return true
				})
				p := startProxy(t, "-u", server.url)
				p.initialize()
				if got := p.failure(p.request("tools/call", `{"name":"cut"}`)); got.Code != -32000 || !strings.Contains(got.Message, "127.0.0.1") {
					t.Errorf("got %+v", got)
				}
			})
		}
	}
}

func TestManyNotificationsInOneStream(t *testing.T) {
	t.Parallel()
	const n = 10000
	server := startMCP(t)
	server.reply("tools/call talkative", func(w http.ResponseWriter, r *fakeRequest) bool {
		var b strings.Builder
		for i := 0; i < n; i++ {
			fmt.Fprintf(&b, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"n\":%d}}\n\n", i)
		}
		says(200, "text/event-stream", b.String()+"data: "+r.msg.result(`{"content":[]}`)+"\n\n")(w, r)
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.initialize()
	p.call("tools/call", `{"name":"talkative"}`)
	got := p.received("notifications/message", n)
	if len(got) != n {
		t.Errorf("got %d notifications, want %d", len(got), n)
	}
	for i, m := range got {
		if want := fmt.Sprintf(`{"n":%d}`, i); string(m.Params) != want {
			t.Fatalf("notification %d: got %s", i, m.Params)
		}
	}
}

func TestSameID(t *testing.T) {
	for _, test := range []struct {
		got, want string
		same      bool
	}{
		{`1`, `1`, true}, {`"1"`, `1`, true}, {`1`, `"1"`, true}, {`1.0`, `1`, true}, {`1e2`, `100`, true}, {`"a"`, `"a"`, true}, {`"\u0061"`, `"a"`, true},
		{`9007199254740992`, `9007199254740993`, true}, {`"a\/b"`, `"a/b"`, true},
		{`1`, `2`, false}, {`"a"`, `"b"`, false}, {`null`, `1`, false}, {``, `1`, false}, {`""`, `1`, false}, {`"1 "`, `1`, false}, {`{}`, `1`, false}, {`-1`, `1`, false},
		{`"A"`, `"a"`, false}, {`9007199254740995`, `9007199254740993`, false},
	} {
		if got := looseID([]byte(test.got)) == looseID([]byte(test.want)); got != test.same {
			t.Errorf("%s for %s: got %v, want %v", test.got, test.want, got, test.same)
		}
	}
}

// Whose answer an id is costs no more than reading it once, however many calls are open.
func TestAnswerToNobodyIsCheap(t *testing.T) {
	p := &proxy{calls: map[string]*call{}}
	for i := 0; i < 1000; i++ {
		id := []byte(fmt.Sprintf(`"\u0061%d"`, i))
		p.calls[string(id)] = &call{m: &message{id: id}, loose: looseID(id)}
	}
	for _, size := range []int{10, maxID, 1 << 20} {
		id := []byte(`"\u0062` + strings.Repeat("1", size-8) + `"`)
		if got := testing.AllocsPerRun(10, func() {
			if p.answered(nil, id) != nil {
				t.Error("it answers a call")
			}
		}); got > 20 {
			t.Errorf("an id of %d bytes: %v allocations", size, got)
		}
	}
	if p.answered(nil, []byte(`"a7"`)) == nil {
		t.Error("an id that is written in another way answers none")
	}
}

// largeServer says what it is told, and remembers how much that was. It looks
// at no message: the tests would take longer than the program.
type largeServer struct {
	got    bytes.Buffer
	media  string
	answer string
}

func (s *largeServer) label(*fakeRequest) string { return "large" }

func (s *largeServer) serve(w http.ResponseWriter, r *fakeRequest) {
	s.got.Reset()
	s.got.Write(r.body)
	says(200, s.media, s.answer)(w, r)
}

// A message of 64 MiB (fewer under the race detector) passes either way, whole and unchanged.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("0123456789abcde\u00e9", largeSize/17+1)
	request := `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"large":"` + large + `"}}`
	answer := `{"jsonrpc":"2.0","id":1,"result":{"large":"` + large + `"}}`
	const small, pong = `{"jsonrpc":"2.0","id":1,"method":"ping"}`, `{"jsonrpc":"2.0","id":1,"result":{}}`
	server := &largeServer{}
	origin := startOrigin(t)
	origin.parts = []fakePart{server}
	user := newUser(t)
	cmd := user.command("-u", origin.base+"/mcp", "--no-trace")
	stdin, err := cmd.StdinPipe()
	fatal(t, err)
	stdout, err := cmd.StdoutPipe()
	fatal(t, err)
	fatal(t, cmd.Start())
	kill := time.AfterFunc(3*testPatience, func() { cmd.Process.Kill() })
	defer kill.Stop()
	out := bufio.NewReaderSize(stdout, 1<<20)
	for _, test := range []struct{ name, request, media, answer, want string }{
		{"request", request, "application/json", pong, pong},
		{"JSON", small, "application/json", answer, answer},
		{"event", small, "text/event-stream", "data: " + answer + "\n\n", answer},
	} {
		server.media, server.answer = test.media, test.answer
		_, err := io.WriteString(stdin, test.request+"\n")
		fatal(t, err)
		line, err := out.ReadString('\n')
		fatal(t, err)
		if line != test.want+"\n" {
			t.Errorf("%s: got %d bytes, want %d unchanged", test.name, len(line), len(test.want))
		}
		if server.got.String() != test.request {
			t.Errorf("%s: the server got %d bytes, want %d unchanged", test.name, server.got.Len(), len(test.request))
		}
	}
	stdin.Close()
	fatal(t, cmd.Wait())
}
