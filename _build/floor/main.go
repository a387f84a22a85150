// The floor of "make bench": the smallest pipe between a host and an MCP server
// that keeps calls apart. It checks nothing, and knows neither sessions nor
// authorization: what any program in its place must cost.
//
//	floor URL
package main

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
)

var (
	pending sync.WaitGroup
	writing sync.Mutex
)

func main() {
	// With the default of 2 it would be no measure: it dials once a call.
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 256
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			pending.Wait()
			return
		}
		pending.Add(1)
		go forward(line)
	}
}

func forward(line []byte) {
	defer pending.Done()
	req, err := http.NewRequest(http.MethodPost, os.Args[1], bytes.NewReader(line))
	check(err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	check(err)
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		relay(bufio.NewReaderSize(resp.Body, 64<<10))
		return
	}
	var body bytes.Buffer
	body.Grow(int(resp.ContentLength) + 1 + bytes.MinRead) // so much is there before a read
	_, err = body.ReadFrom(resp.Body)
	check(err)
	if body.Len() > 0 {
		body.WriteByte('\n')
		write(body.Bytes())
	}
}

func relay(events *bufio.Reader) {
	for {
		line, err := events.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		check(err)
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			write(data)
		}
	}
}

func write(line []byte) {
	writing.Lock()
	defer writing.Unlock()
	_, err := os.Stdout.Write(line)
	check(err)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
