package main

// What a server of revision 2026-07-28 asks of a host that opened with
// initialize, and tells it: rounds of input_required, and the subscription.

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// asks answers with input_required until inputResponses come, then with a
// result in which <responses> and <state> stand for what came back.
func asks(requests, state, result string) fakeAnswer {
	return func(w http.ResponseWriter, r *fakeRequest) bool {
		responses, back := member(r.msg.Params, "inputResponses"), member(r.msg.Params, "requestState")
		if responses == nil {
			question := `{"resultType":"input_required","inputRequests":{` + requests + `}`
			if state != "" {
				question += `,"requestState":` + state
			}
			return rpcResult(question+`}`)(w, r)
		}
		result := strings.NewReplacer("<responses>", string(responses), "<state>", string(back)).Replace(result)
		return rpcResult(result)(w, r)
	}
}

const (
	anElicitation = `{"method":"elicitation/create","params":{"mode":"form","message":"<&>?","requestedSchema":{"type":"object","properties":{}}}}`
	aSample       = `{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}`
	aList         = `{"method":"roots/list"}`
)

// replies is what the host says to a question of the server.
func (p *testProxy) replies(question testMessage, member string) {
	p.t.Helper()
	p.send(`{"jsonrpc":"2.0","id":` + string(question.ID) + `,` + member + `}`)
}

// startBridged starts a server that asks and a host that has opened with these params.
func startBridged(t *testing.T, answer fakeAnswer, params string) (*testProxy, *fakeMCP) {
	server := startFuture(t)
	server.reply("tools/call ask", answer)
	p := startProxy(t, "-u", server.url)
	p.call("initialize", params)
	return p, server
}

func TestInputOfAllKinds(t *testing.T) {
	t.Parallel()
	const state = `"eyJ\u00e9\/=="`
	p, server := startBridged(t, asks(`"c\"":`+anElicitation+`,"a":`+aSample+`,"b":`+aList, state, `{"content":[],"got":<responses>,"state":<state>}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask","arguments":{"x":1},"_meta":{"progressToken":9}}`)
	sample, roots, form := p.received("sampling/createMessage", 1)[0], p.received("roots/list", 1)[0], p.received("elicitation/create", 1)[0]
	if got, want := string(form.Params), string(member([]byte(anElicitation), "params")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if sample.line == "" || !isOwnID(sample.ID) || string(sample.ID) == string(roots.ID) {
		t.Errorf("got ids %s and %s, want ones of the proxy's own", sample.ID, roots.ID)
	}
	p.echo("meanwhile")
	p.replies(form, `"result":{"action":"accept","content":{"n":12345678901234567890}}`)
	p.replies(roots, `"result":{"roots":[]}`)
	p.replies(sample, `"result":{"role":"assistant","model":"m","content":{"type":"text","text":"<&>"}}`)
	want := `{"content":[],"got":{"a":{"role":"assistant","model":"m","content":{"type":"text","text":"<&>"}},"b":{"roots":[]},` +
		`"c\"":{"action":"accept","content":{"n":12345678901234567890}}},"state":` + state + `}`
	if got := p.result(id); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	calls := server.requests("tools/call ask")
	if len(calls) != 2 || string(calls[0].msg.ID) == string(calls[1].msg.ID) {
		t.Errorf("got %d calls, want two with an id each", len(calls))
	}
	for _, want := range []string{`"arguments":{"x":1}`, `"progressToken":9`, `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`} {
		if !strings.Contains(calls[1].msg.line, want) {
			t.Errorf("got %s, want the original params, %s among them", calls[1].msg.line, want)
		}
	}
	p.replies(form, `"result":{"action":"cancel"}`) // once more, which answers nothing
	p.echo("after")
	if got := server.count("response"); got != 0 {
		t.Errorf("got %d responses at the server, want none", got)
	}
}

// The prompts and resources may ask as well, nothing else may.
func TestInputOfWhat(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	p := startProxy(t, "-u", server.url)
	p.call("initialize", everyCapability)
	for _, test := range []struct {
		label, method, params string
		may                   bool
	}{
		{"prompts/get ask", "prompts/get", `{"name":"ask"}`, true},
		{"resources/read ask:", "resources/read", `{"uri":"ask:"}`, true},
		{"tools/list", "tools/list", `{}`, false},
		{"completion/complete", "completion/complete", `{}`, false},
	} {
		before := len(p.received("roots/list", 0))
		server.reply(test.label, asks(`"q":`+aList, "", `{"done":<responses>}`))
		id := p.request(test.method, test.params)
		if !test.may {
			if got := p.failure(id); got.Code != -32603 {
				t.Errorf("%s: got %+v", test.method, got)
			}
			continue
		}
		p.replies(p.received("roots/list", before+1)[before], `"result":{"roots":[]}`)
		if got := p.result(id); got != `{"done":{"q":{"roots":[]}}}` {
			t.Errorf("%s: got %s", test.method, got)
		}
		if calls := server.requests(test.label); strings.Contains(calls[1].msg.line, "requestState") {
			t.Errorf("got %s, want no state where there was none", calls[1].msg.line)
		}
	}
}

// Several rounds of several requests at once: each has its own answers and state.
func TestInputInManyRounds(t *testing.T) {
	t.Parallel()
	const calls, rounds = 4, 3
	server := startFuture(t)
	server.on("tools/call ask", func(w http.ResponseWriter, r *fakeRequest) bool {
		who, _ := unquote(member(r.msg.Params, "arguments", "who"))
		round, _ := unquote(member(r.msg.Params, "requestState"))
		if said, _ := unquote(member(r.msg.Params, "inputResponses", "q", "content", "said")); said != round {
			t.Errorf("%s: got %q back in round %q", who, said, round)
		}
		if strings.Count(round, ".") == rounds {
			return rpcResult(`{"content":[],"who":"`+who+`"}`)(w, r)
		}
		if round == "" {
			round = who
		}
		round += "."
		return rpcResult(fmt.Sprintf(`{"resultType":"input_required","requestState":%q,"inputRequests":{"q":{"method":"elicitation/create","params":{"message":%q}}}}`, round, round))(w, r)
	})
	p := startProxy(t, "-u", server.url)
	p.call("initialize", everyCapability)
	ids := map[string]string{}
	for i := 0; i < calls; i++ {
		who := fmt.Sprintf("call-%d", i)
		ids[who] = p.request("tools/call", `{"name":"ask","arguments":{"who":"`+who+`"}}`)
	}
	for n := 0; n < calls*rounds; n++ {
		question := p.received("elicitation/create", n+1)[n]
		said := member(question.Params, "message")
		p.replies(question, `"result":{"action":"accept","content":{"said":`+string(said)+`}}`)
	}
	for who, id := range ids {
		if got := p.result(id); got != `{"content":[],"who":"`+who+`"}` {
			t.Errorf("%s: got %s", who, got)
		}
	}
}

func TestInputRefused(t *testing.T) {
	for name, test := range map[string]struct{ question, reply, want string }{
		"declined":                {anElicitation, `"result":{"action":"decline"}`, `"result":{"got":{"q":{"action":"decline"}}}`},
		"an elicitation fails":    {anElicitation, `"error":{"code":-32601,"message":"Method not found"}`, `"result":{"got":{"q":{"action":"cancel"}}}`},
		"a sample is refused":     {aSample, `"error":{"code":-1,"message":"User rejected sampling request"}`, `"error":{"code":-1,"message":"mcp-proxy: the client refused sampling/createMessage: User rejected sampling request"}`},
		"the roots fail":          {aList, `"error":{"code":-32603,"message":"no"}`, `"error":{"code":-32603,"message":"mcp-proxy: the client refused roots/list: no"}`},
		"the answer is no object": {aList, `"result":null`, `"error":{"code":-32603,"message":"mcp-proxy: the client's answer to roots/list is no object"}`},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := startBridged(t, asks(`"q":`+test.question, `"s"`, `{"got":<responses>}`), everyCapability)
			id := p.request("tools/call", `{"name":"ask"}`)
			method, _ := unquote(member([]byte(test.question), "method"))
			p.replies(p.received(method, 1)[0], test.reply)
			if got, want := p.answer(id).line, `{"jsonrpc":"2.0","id":`+id+`,`+test.want+`}`; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// When one answer ends the request, the host need not think about the others.
func TestInputIsWithdrawn(t *testing.T) {
	t.Parallel()
	p, server := startBridged(t, asks(`"a":`+aSample+`,"b":`+anElicitation, "", `{}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask"}`)
	form := p.received("elicitation/create", 1)[0]
	p.replies(p.received("sampling/createMessage", 1)[0], `"error":{"code":-1,"message":"no"}`)
	p.failure(id)
	if got, want := string(p.received("notifications/cancelled", 1)[0].Params), `{"requestId":`+string(form.ID)+`}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	id = p.request("tools/call", `{"name":"ask"}`)
	p.received("elicitation/create", 2)
	p.unexpect(id)
	p.notify("notifications/cancelled", fmt.Sprintf(`{"requestId":%s}`, id))
	p.received("notifications/cancelled", 3)
	p.echo("meanwhile")
	if got := server.count("tools/call ask"); got != 2 {
		t.Errorf("got %d calls, want no round after the end", got)
	}
}

// What the host cannot do it is not asked, nor what nobody knows.
func TestInputThatIsNotAsked(t *testing.T) {
	host := func(capabilities string) string {
		return `{"protocolVersion":"2025-11-25","capabilities":` + capabilities + `,"clientInfo":{"name":"x","version":"1"}}`
	}
	const aURL = `{"method":"elicitation/create","params":{"mode":"url","message":"?","url":"https://x.example/"}}`
	many := make([]string, maxQuestions+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"%d":%s`, i, aList)
	}
	for name, test := range map[string]struct{ requests, host string }{
		"no sampling":        {`"q":` + aSample, host(`{"elicitation":{},"roots":{}}`)},
		"no tools":           {`"q":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1,"tools":[]}}`, host(`{"sampling":{}}`)},
		"no roots":           {`"q":` + aList, host(`{"elicitation":{},"sampling":{}}`)},
		"no elicitation":     {`"q":` + anElicitation, host(`{"sampling":{},"roots":{}}`)},
		"no URLs":            {`"q":` + aURL, host(`{"elicitation":{}}`)},
		"URLs alone":         {`"q":` + anElicitation, host(`{"elicitation":{"url":{}}}`)},
		"one of two":         {`"a":` + anElicitation + `,"b":` + aSample, host(`{"elicitation":{}}`)},
		"an unknown kind":    {`"q":{"method":"tools/call","params":{}}`, everyCapability},
		"no kind":            {`"q":{}`, everyCapability},
		"no request":         {`"q":[1]`, everyCapability},
		"more than too many": {strings.Join(many, ","), everyCapability},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, server := startBridged(t, asks(test.requests, `"s"`, `{}`), test.host)
			if got := p.failure(p.request("tools/call", `{"name":"ask"}`)); got.Code != -32603 {
				t.Errorf("got %+v", got)
			}
			p.echo("goes on")
			if got := len(p.messages); got != 0 {
				t.Errorf("got %d messages, want no question", got)
			}
			if got := server.count("tools/call ask"); got != 1 {
				t.Errorf("got %d calls, want 1", got)
			}
		})
	}
}

func TestInputOfOddResults(t *testing.T) {
	big := `"` + strings.Repeat("s", 1<<20) + `"`
	for name, test := range map[string]struct {
		result string
		fails  bool
	}{
		"nothing asked":           {`{"resultType":"input_required"}`, true},
		"nothing asked, empty":    {`{"resultType":"input_required","inputRequests":{},"requestState":null}`, true},
		"requests in a list":      {`{"resultType":"input_required","inputRequests":[]}`, true},
		"state alone":             {`{"resultType":"input_required","requestState":"s"}`, false},
		"state and no requests":   {`{"resultType":"input_required","inputRequests":null,"requestState":"s"}`, false},
		"an enormous state":       {`{"resultType":"input_required","requestState":` + big + `}`, false},
		"a state of another sort": {`{"resultType":"input_required","requestState":{"a":[1]}}`, false},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := startBridged(t, func(w http.ResponseWriter, r *fakeRequest) bool {
				state := member(r.msg.Params, "requestState")
				if state == nil {
					return rpcResult(test.result)(w, r)
				}
				if want := member([]byte(test.result), "requestState"); string(state) != string(want) {
					t.Errorf("got a state of %d bytes, want %d as they were", len(state), len(want))
				}
				if strings.Contains(r.msg.line[:min(2000, len(r.msg.line))], "inputResponses") {
					t.Error("got inputResponses where nothing was asked")
				}
				return rpcResult(`{"content":[]}`)(w, r)
			}, everyCapability)
			id := p.request("tools/call", `{"name":"ask"}`)
			if !test.fails {
				p.result(id)
			} else if got := p.failure(id); got.Code != -32603 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// A server that never has enough is given up.
func TestInputWithoutEnd(t *testing.T) {
	t.Parallel()
	p, server := startBridged(t, rpcResult(`{"resultType":"input_required","inputRequests":{"q":`+aList+`}}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask"}`)
	for n := 0; n < maxRounds; n++ {
		p.replies(p.received("roots/list", n+1)[n], `"result":{"roots":[]}`)
	}
	if got := p.failure(id); !strings.Contains(got.Message, "more than 100 times") {
		t.Errorf("got %+v", got)
	}
	if got := server.count("tools/call ask"); got != maxRounds {
		t.Errorf("got %d calls, want %d", got, maxRounds)
	}
}

// A host that has revision 2025-11-25 needs an id for a URL that it shows.
func TestInputOfURLs(t *testing.T) {
	t.Parallel()
	p, _ := startBridged(t, asks(`"q":{"method":"elicitation/create","params":{"mode":"url","message":"?","url":"https://x.example/"}}`, "", `{"got":<responses>}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask"}`)
	question := p.received("elicitation/create", 1)[0]
	if got, _ := unquote(member(question.Params, "elicitationId")); got == "" {
		t.Errorf("got %s, want an elicitationId", question.Params)
	}
	p.replies(question, `"result":{"action":"accept"}`)
	p.result(id)
}

// The end of the host is the end of what it was asked.
func TestInputAtTheEnd(t *testing.T) {
	for name, end := range endings() {
		name, end := name, end
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, server := startBridged(t, asks(`"q":`+anElicitation, "", `{}`), everyCapability)
			id := p.request("tools/call", `{"name":"ask"}`)
			p.received("elicitation/create", 1)
			began := time.Now()
			end(p)
			p.wait()
			p.failure(id)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the program ended after %v: there was nothing to wait for", took)
			}
			if got := server.count("tools/call ask"); got != 1 {
				t.Errorf("got %d calls, want 1", got)
			}
		})
	}
}

// An answer that was read before the end still counts.
func TestInputAnsweredAtTheEnd(t *testing.T) {
	t.Parallel()
	p, _ := startBridged(t, asks(`"q":`+aList, "", `{"content":[]}`), everyCapability)
	id := p.request("tools/call", `{"name":"ask"}`)
	p.replies(p.received("roots/list", 1)[0], `"result":{"roots":[]}`)
	p.closeStdin()
	p.result(id)
}

// Nobody is asked who is gone.
func TestInputAskedAfterTheEnd(t *testing.T) {
	t.Parallel()
	p, server := startBridged(t, asks(`"q":`+aList, "", `{}`), everyCapability)
	server.acknowledges("")
	p.notify("notifications/initialized", "")
	server.filter(1)
	release := server.hold("tools/call ask")
	id := p.request("tools/call", `{"name":"ask"}`)
	server.await("tools/call ask", 1)
	p.closeStdin()
	eventually(t, "the end of the subscription, by which the end of input shows", func() bool { return server.answered("subscriptions/listen") == 1 })
	release()
	if got := p.failure(id); !strings.Contains(got.Message, "closed its input") {
		t.Errorf("got %+v", got)
	}
	if got := len(p.messages); got != 0 {
		t.Errorf("got %d messages, want no question", got)
	}
}

// acknowledges answers subscriptions/listen as subscribes does, and honors the
// filter as it is, without the resources of which refused is a prefix.
func (s *fakeMCP) acknowledges(refused string) {
	s.reply("subscriptions/listen", func(w http.ResponseWriter, r *fakeRequest) bool {
		stream, filter := startEvents(w), string(member(r.msg.Params, "notifications"))
		if refused != "" {
			filter = strings.ReplaceAll(filter, `"`+refused, `"not-`+refused)
		}
		meta := `"_meta":{"io.modelcontextprotocol/subscriptionId":` + string(r.msg.ID) + `}`
		stream.send(`data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":` + filter + `,` + meta + `}}`)
		next := 0
		s.change(func() { next, s.streams = len(s.pushed), s.streams+1 })
		for ; s.wait(r.Context(), func() bool { return len(s.pushed) > next }); next++ {
			s.mu.Lock()
			line := s.pushed[next]
			s.mu.Unlock()
			if line == "" {
				return true
			}
			stream.send("data: " + strings.ReplaceAll(line, "<meta>", meta))
		}
		return true
	})
}

// filter waits for the n-th subscription that is acknowledged: what is pushed from then on comes on it.
func (s *fakeMCP) filter(n int) string {
	s.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	if !s.wait(ctx, func() bool { return s.streams >= n }) {
		s.t.Fatalf("waited in vain for subscription %d; saw %q", n, s.labels())
	}
	return string(member(s.await("subscriptions/listen", n).msg.Params, "notifications"))
}

const (
	toolsChanged    = `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{<meta>}}`
	promptsChanged  = `{"jsonrpc":"2.0","method":"notifications/prompts/list_changed","params":{<meta>}}`
	resourceChanged = `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{<meta>,"uri":"x:1"}}`
)

func TestBridgeListens(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("")
	p := startProxy(t, "-u", server.url)
	p.call("initialize", everyCapability)
	p.echo("not yet")
	if got := server.count("subscriptions/listen"); got != 0 {
		t.Errorf("got %d subscriptions before notifications/initialized", got)
	}
	p.notify("notifications/initialized", "")
	if got, want := server.filter(1), `{"toolsListChanged":true}`; got != want {
		t.Errorf("got %s, want what the server announces: %s", got, want)
	}
	server.push(promptsChanged) // which was not asked for
	server.push(toolsChanged)
	if got, want := p.received("notifications/tools/list_changed", 1)[0].line, `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	if got := p.call("resources/subscribe", `{"uri":"x:1"}`); got != `{}` {
		t.Errorf("got %s", got)
	}
	if got, want := server.filter(2), `{"toolsListChanged":true,"resourceSubscriptions":["x:1"]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	eventually(t, "the end of the first stream", func() bool { return server.answered("subscriptions/listen") == 1 })
	server.push(strings.Replace(resourceChanged, "x:1", "x:2", 1)) // which was not asked for
	server.push(resourceChanged)
	if got, want := p.received("notifications/resources/updated", 1)[0].line, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:1"}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.call("resources/subscribe", `{"uri":"x:1"}`) // again, which changes nothing
	p.call("resources/unsubscribe", `{"uri":"x:1"}`)
	if got, want := server.filter(3), `{"toolsListChanged":true}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.call("resources/unsubscribe", `{"uri":"x:1"}`)
	p.failure(p.request("resources/subscribe", `{}`))
	if got := len(p.messages); got != 2 {
		t.Errorf("got %d messages, want the two", got)
	}
	began := time.Now()
	p.closeStdin()
	p.wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the program ended after %v: there was nothing to wait for", took)
	}
	if got := server.count("subscriptions/listen"); got != 3 {
		t.Errorf("got %d subscriptions, want 3", got)
	}
}

// What the first request brings about is heard.
func TestBridgeListensFirst(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("")
	server.reply("tools/call change", func(w http.ResponseWriter, r *fakeRequest) bool {
		server.push(toolsChanged)
		return rpcResult(`{"content":[]}`)(w, r)
	})
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.call("tools/call", `{"name":"change"}`)
	p.received("notifications/tools/list_changed", 1)
}

// A server that acknowledges nothing is listened to on one stream all the same.
func TestBridgeListensWithoutAcknowledgement(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.reply("subscriptions/listen", func(w http.ResponseWriter, r *fakeRequest) bool {
		startEvents(w).send(": open")
		<-r.Context().Done()
		return true
	})
	p := startProxy(t, "-u", server.url)
	p.opens()
	p.call("resources/subscribe", `{"uri":"x:1"}`)
	eventually(t, "the end of the first stream", func() bool { return server.answered("subscriptions/listen") == 1 })
}

// A stream that breaks, or that the server ends, is opened again.
func TestBridgeListensAgain(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("")
	p := startProxy(t, "-u", server.url)
	p.opens()
	server.filter(1)
	p.call("resources/subscribe", `{"uri":"x:1"}`)
	filter := server.filter(2)
	server.push("") // breaks off
	if got := server.filter(3); got != filter {
		t.Errorf("got %s, want %s", got, filter)
	}
	server.on("subscriptions/listen", func() fakeAnswer {
		first := true
		return func(w http.ResponseWriter, r *fakeRequest) bool {
			was := first
			first = false
			return was && rpcFailure(200, -32603, "")(w, r) // "Subscription limit reached"
		}
	}())
	server.push("")
	server.filter(4) // the fifth request
	eventually(t, "the subscription", func() bool {
		server.push(resourceChanged)
		return len(p.received("notifications/resources/updated", 0)) > 0
	})
}

func TestBridgeListensNoMore(t *testing.T) {
	for name, answer := range map[string]fakeAnswer{
		"unknown":     rpcFailure(404, -32601, ""),
		"405":         says(405, "", ""),
		"bad params":  rpcFailure(400, -32602, ""),
		"bad, in 200": rpcFailure(200, -32602, ""),
	} {
		answer := answer
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startFuture(t)
			server.reply("subscriptions/listen", answer)
			p := startProxy(t, "-u", server.url)
			p.opens()
			eventually(t, "the refusal", func() bool { return server.answered("subscriptions/listen") == 1 })
			p.failure(p.request("resources/subscribe", `{"uri":"x:1"}`))
			p.echo("goes on")
		})
	}
}

// A resource to which the server accepts no subscription.
func TestBridgeSubscriptionThatIsNotHonored(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("secret:")
	p := startProxy(t, "-u", server.url)
	p.opens()
	server.filter(1)
	p.call("resources/subscribe", `{"uri":"x:1"}`)
	if got := p.failure(p.request("resources/subscribe", `{"uri":"secret:1"}`)); got.Code != -32002 {
		t.Errorf("got %+v", got)
	}
	if got, want := server.filter(4), `{"toolsListChanged":true,"resourceSubscriptions":["x:1"]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	eventually(t, "the subscription that was", func() bool {
		server.push(resourceChanged)
		return len(p.received("notifications/resources/updated", 0)) > 0
	})
}

// A host that says all it has to say at once, and closes its input, is not listened for.
func TestBridgeListensToNothingAfterTheEnd(t *testing.T) {
	t.Parallel()
	server := startFuture(t)
	server.acknowledges("")
	release := server.hold("server/discover")
	p := startProxy(t, "-u", server.url)
	id := p.request("initialize", everyCapability)
	p.notify("notifications/initialized", "")
	server.await("server/discover", 1)
	began := time.Now()
	p.closeStdin()
	release()
	p.result(id)
	p.wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the program ended after %v: there was nothing to wait for", took)
	}
}

func TestBridgeListensUntilTheEnd(t *testing.T) {
	for name, end := range endings() {
		end := end
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startFuture(t)
			server.acknowledges("")
			p := startProxy(t, "-u", server.url)
			p.opens()
			server.await("subscriptions/listen", 1)
			began := time.Now()
			end(p)
			p.wait()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the program ended after %v: there was nothing to wait for", took)
			}
		})
	}
}
