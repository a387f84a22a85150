package main

// The MCP server of the benchmark, in a process of its own: it answers with as
// little work as can be, and counts.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// benchCounts is what the server tells of itself when it is asked.
type benchCounts struct {
	Requests, WithToken, Connections int64
}

// benchServer is the role "bench-server" of the test binary. It writes its URL
// and its authority's file in a line each, then its counts for every line it reads.
func benchServer() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	var requests, withToken, connections atomic.Int64
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
				withToken.Add(1)
			}
			serveBench(w, r)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		},
	}
	var o fakeOrigin
	o.listen(server, listener, os.Args[1:])
	fmt.Printf("%s/mcp\n%s\n", o.base, testShared().pki.file)
	for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
		must(json.NewEncoder(os.Stdout).Encode(benchCounts{requests.Load(), withToken.Load(), connections.Load()}))
	}
	return 0
}

// benchCall is a call of one of the server's tools. amount is what it says below.
func benchCall(id int, tool string, amount int, text string) []byte {
	return []byte(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":{"amount":%d,"text":%q}}}`+"\n", id, tool, amount, text))
}

// benchText is what the server says where it matters little.
const benchText = "What a tool of an ordinary server has to say is a few hundred bytes long: a row of a table, the first lines of a file, an issue's title and where it is to be found."

func serveBench(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case http.MethodDelete:
		return
	}
	head := make([]byte, 512) // all that steers is there
	n, _ := io.ReadFull(r.Body, head)
	rest, _ := io.Copy(io.Discard, r.Body)
	head = head[:n]
	id := between(head, `"id":`, ",")
	amount, _ := strconv.Atoi(between(head, `"amount":`, ","))
	switch between(head, `"name":"`, `"`) {
	case "wait": // milliseconds
		<-time.After(time.Duration(amount) * time.Millisecond)
		fallthrough
	case "echo":
		benchAnswer(w, id, benchText)
	case "length":
		benchAnswer(w, id, strconv.Itoa(n+int(rest)))
	case "body", "event": // MiB
		benchBulk(w, id, amount<<20, bytes.Contains(head, []byte(`"event"`)))
	case "burst", "paced": // notifications
		benchNotifications(w, id, amount, bytes.Contains(head, []byte("paced")))
	default:
		if id == "" {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		w.Header().Set("Mcp-Session-Id", "bench")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}}`, id)
	}
}

// between is what stands between two marks.
func between(text []byte, before, after string) string {
	_, text, _ = bytes.Cut(text, []byte(before))
	text, _, _ = bytes.Cut(text, []byte(after))
	return string(text)
}

func benchResult(id, text string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}`, id, text)
}

func benchAnswer(w http.ResponseWriter, id, text string) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, benchResult(id, text))
}

// benchBulk writes a result with a text of so many bytes, in one event or as the body.
func benchBulk(w http.ResponseWriter, id string, amount int, event bool) {
	head, tail, _ := strings.Cut(benchResult(id, "\x00"), "\x00")
	if event {
		w.Header().Set("Content-Type", eventStream)
		head, tail = "data: "+head, tail+"\n\n"
	} else {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(head)+amount+len(tail)))
	}
	io.WriteString(w, head)
	piece := []byte(strings.Repeat(benchText[:126]+`\n`, 256)) // 32 KiB
	for ; amount > 0; amount -= len(piece) {
		w.Write(piece)
	}
	io.WriteString(w, tail)
}

// benchNotifications writes notifications, then the result: at once, or one
// every 20 ms that names the time it was sent at.
func benchNotifications(w http.ResponseWriter, id string, n int, paced bool) {
	stream := startEvents(w)
	for i := 0; i < n; i++ {
		if paced {
			<-time.After(20 * time.Millisecond)
		}
		line := fmt.Sprintf(`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%d,"sent":%d}}`, id, i, time.Now().UnixNano())
		if paced {
			stream.send(line)
		} else {
			io.WriteString(w, line+"\n\n")
		}
	}
	stream.send("data: " + benchResult(id, benchText))
}
