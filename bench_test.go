package main

// "make bench": what the program costs, measured from outside against the smallest pipe there can
// be (the floor) and against no pipe at all, in turns, so that what else the machine does hits all
// alike. The ratio of a round is taken before the median of the rounds. Nothing here fails because
// of a time: the table says what was met. /proc shows what a process costs; without it those
// figures are missing.

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// benchRow is a row of the table.
type benchRow struct {
	metric, unit string
	target       benchTarget
}

// benchTarget is the bound of a figure; the zero value is none.
type benchTarget struct {
	text string
	met  func(figure, ratio float64) bool
}

func ratioAtMost(bound float64) benchTarget {
	return benchTarget{fmt.Sprintf("≤ %.2f x", bound),
		func(_, ratio float64) bool { return ratio <= bound }}
}

func ratioAtLeast(bound float64) benchTarget {
	return benchTarget{fmt.Sprintf("≥ %.2f x", bound),
		func(_, ratio float64) bool { return ratio >= bound }}
}

func atMost(bound float64) benchTarget {
	return benchTarget{fmt.Sprintf("≤ %g", bound),
		func(figure, _ float64) bool { return figure <= bound }}
}

func exactly(want float64) benchTarget {
	return benchTarget{fmt.Sprintf("%g", want),
		func(figure, _ float64) bool { return figure == want }}
}

var benchRows = []benchRow{
	{"start to the first answer", "ms", ratioAtMost(1.15)},
	{"requests to the server until then", "", exactly(1)},
	{"one call after another, median", "µs", ratioAtMost(1.15)},
	{"one call after another, 99 %", "µs", benchTarget{}},
	{"64 calls in flight", "calls/s", ratioAtLeast(0.80)},
	{"CPU a call", "µs", ratioAtMost(1.25)},
	{"connections for them", "", benchTarget{}},
	{"64 in flight, the server takes 20 ms", "calls/s", ratioAtLeast(0.95)},
	{"200 calls beside a slow one, the last", "ms", benchTarget{}},
	{"of these, calls that waited for it", "", exactly(0)},
	{"1 MiB result", "ms", benchTarget{}},
	{"16 MiB result", "ms", benchTarget{}},
	{"64 MiB result", "ms", ratioAtMost(1.25)},
	{"memory for a byte of it", "bytes", atMost(1.15)},
	{"memory kept of it", "MiB", atMost(2)},
	{"1 MiB result as an event", "ms", benchTarget{}},
	{"16 MiB result as an event", "ms", benchTarget{}},
	{"64 MiB result as an event", "ms", ratioAtMost(1.50)},
	{"memory for a byte of the event", "bytes", atMost(2.2)},
	{"memory kept of the event", "MiB", atMost(2)},
	{"16 MiB request", "ms", benchTarget{}},
	{"memory kept of the request", "MiB", atMost(2)},
	{"10,000 notifications", "ms", ratioAtMost(1.25)},
	{"CPU a notification", "µs", benchTarget{}},
	{"from server to host, paced notifications", "µs", benchTarget{}},
	{"idle, memory", "MiB", ratioAtMost(1.10)},
	{"idle, CPU", "ms/s", benchTarget{}},
	{"idle, wake-ups", "1/s", exactly(0)},
	{"end of stdin to exit", "ms", benchTarget{}},
	{"SIGTERM to exit", "ms", benchTarget{}},
	{"size of the binary", "MiB", atMost(8)},
}

// benchScenario is measured in rounds, each with every contender in turn.
type benchScenario struct {
	name            string
	rounds, quickly int
	pause           time.Duration // before the rounds and after them
	round           func(b *bench, c *contender)
	after           func(b *bench, c *contender) // once; may be nil
}

func benchScenarios(quick bool) []benchScenario {
	idle, pause := 10*time.Second, time.Second
	if quick {
		idle, pause = time.Second, pause/2
	}
	return []benchScenario{
		{name: "start", rounds: 31, quickly: 7, round: (*bench).coldStart},
		{name: "sequential", rounds: 15, quickly: 3, round: (*bench).sequential},
		{name: "throughput", rounds: 11, quickly: 3, round: (*bench).throughput,
			after: (*bench).connections},
		{name: "slow server", rounds: 7, quickly: 1, round: (*bench).throughputOfSlow},
		{name: "slow call", rounds: 5, quickly: 1, round: (*bench).besideSlow},
		{name: "results", rounds: 9, quickly: 1, pause: pause, round: (*bench).bodies,
			after: (*bench).keptOfBodies},
		{name: "events", rounds: 9, quickly: 1, pause: pause, round: (*bench).events,
			after: (*bench).keptOfEvents},
		{name: "request", rounds: 5, quickly: 1, pause: pause, round: (*bench).largeRequest,
			after: (*bench).keptOfRequest},
		{name: "notifications", rounds: 7, quickly: 3, round: (*bench).notifications},
		{name: "paced", rounds: 3, quickly: 1, round: (*bench).paced},
		{name: "idle", pause: idle, after: func(b *bench, c *contender) { b.idle(c, idle) }},
	}
}

// contender is one of what is compared.
type contender struct {
	name   string
	start  func() benchWay
	way    benchWay
	ids    int
	opened int64      // connections
	before benchUsage // the first round
}

// call sends a call of a tool; its answer is read by next.
func (c *contender) call(tool string, amount int) {
	c.ids++
	c.way.send(benchCall(c.ids, tool, amount, benchText))
}

// begin starts it and says what every host says first.
func (c *contender) begin() {
	c.way = c.start()
	c.ids++
	c.way.send([]byte(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"initialize","params":%s}`+"\n", c.ids, initializeParams)))
	c.way.next()
}

func (c *contender) warm() {
	c.way.send([]byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}` + "\n"))
	for i := 0; i < 100; i++ {
		c.call("echo", 0)
		c.way.next()
	}
}

// bench holds what was measured.
type bench struct {
	t          testing.TB
	server     *benchOrigin
	contenders []*contender
	figures    map[string]map[string][]float64 // by metric and contender, a figure a round
}

const (
	ourName    = "mcp-proxy"
	floorName  = "floor"
	directName = "net/http"
)

func (b *bench) note(c *contender, metric string, figure float64) {
	if !slices.ContainsFunc(benchRows, func(row benchRow) bool { return row.metric == metric }) {
		b.t.Fatalf("no row %q", metric)
	}
	if b.figures[metric] == nil {
		b.figures[metric] = map[string][]float64{}
	}
	b.figures[metric][c.name] = append(b.figures[metric][c.name], figure)
}

// TestBench measures the binary MCP_PROXY_TEST_BINARY where MCP_PROXY_BENCH says
// "full", or "quick" for fewer rounds.
func TestBench(t *testing.T) {
	mode := os.Getenv("MCP_PROXY_BENCH")
	if mode == "" {
		t.Skip("make bench runs it")
	}
	floor := filepath.Join(t.TempDir(), "floor.exe")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", floor,
		"./_build/floor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fmt.Printf("%d cores, %s, %s/%s\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS,
		runtime.GOARCH)
	for _, protocol := range []string{"h2", "http/1.1"} {
		protocol := protocol
		t.Run(strings.TrimSuffix(protocol, "/1.1"), func(t *testing.T) {
			b := newBench(t, protocol, os.Getenv("MCP_PROXY_TEST_BINARY"), floor)
			for _, s := range benchScenarios(mode == "quick") {
				s := s
				if mode == "quick" {
					s.rounds = s.quickly
				}
				t.Run(s.name, func(t *testing.T) { b.t = t; b.run(s) })
			}
			fmt.Printf("\n%s\n\n%s",
				map[string]string{"h2": "HTTP/2", "http/1.1": "HTTP/1.1"}[protocol], b.table())
		})
	}
}

func newBench(t testing.TB, protocol, binary, floor string) *bench {
	b := &bench{t: t, server: startBenchServer(t, protocol),
		figures: map[string]map[string][]float64{}}
	user := newUser(t)
	user.binary = binary
	user.env["SSL_CERT_FILE"], user.env["SSL_CERT_DIR"] = b.server.roots, filepath.Dir(b.server.roots)
	signedIn, _ := startProtected(t)
	signedIn.url = b.server.url // where the token is to be used
	user.remember(signedIn)
	b.contenders = []*contender{
		{name: ourName, start: func() benchWay {
			return startBenchProcess(b.t,
				user.command("-u", b.server.url))
		}},
		{name: floorName, start: func() benchWay {
			cmd := exec.Command(floor, b.server.url)
			cmd.Env = user.environ()
			if protocol != "h2" {
				cmd.Env = append(cmd.Env, "GODEBUG=http2client=0")
			}
			return startBenchProcess(b.t, cmd)
		}},
		{name: directName, start: func() benchWay {
			return startBenchDirect(b.t, b.server,
				protocol)
		}},
	}
	for i, file := range []string{binary, floor} {
		info, err := os.Stat(file)
		fatal(t, err)
		b.note(b.contenders[i], "size of the binary", float64(info.Size())/(1<<20))
	}
	return b
}

// run measures a scenario, beginning with another contender in each round.
func (b *bench) run(s benchScenario) {
	for _, c := range b.contenders {
		opened := b.server.counts().Connections
		c.begin()
		c.warm()
		c.opened = b.server.counts().Connections - opened
	}
	<-time.After(s.pause)
	for _, c := range b.contenders {
		c.before = usageOf(c.way.pid())
	}
	for i := 0; i < s.rounds; i++ {
		for j := range b.contenders {
			c := b.contenders[(i+j)%len(b.contenders)]
			opened := b.server.counts().Connections
			s.round(b, c)
			c.opened += b.server.counts().Connections - opened
		}
	}
	<-time.After(s.pause)
	for _, c := range b.contenders {
		if s.after != nil {
			s.after(b, c)
		}
		c.way.end()
	}
}

// coldStart starts one process more: to the first answer, and to its end.
func (b *bench) coldStart(c *contender) {
	if c.way.pid() == 0 {
		return
	}
	running, before, began := c.way, b.server.counts(), time.Now()
	c.begin()
	b.note(c, "start to the first answer", milliseconds(time.Since(began)))
	after := b.server.counts()
	b.note(c, "requests to the server until then", float64(after.Requests-before.Requests))
	if c.name == ourName && after.WithToken == before.WithToken {
		b.t.Error("the program sent no token")
	}
	p := c.way.(*benchProcess)
	b.note(c, "end of stdin to exit", milliseconds(p.exit(func() { p.stdin.Close() })))
	c.begin()
	p = c.way.(*benchProcess)
	b.note(c, "SIGTERM to exit",
		milliseconds(p.exit(func() { fatal(b.t, p.cmd.Process.Signal(stopSignals()["SIGTERM"])) })))
	c.way = running
}

func (b *bench) sequential(c *contender) {
	const calls = 300
	took := make([]time.Duration, calls)
	for i := range took {
		began := time.Now()
		c.call("echo", 0)
		b.expect(c, c.way.next(), c.ids, 0)
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	b.note(c, "one call after another, median", microseconds(took[calls/2]))
	b.note(c, "one call after another, 99 %", microseconds(took[calls*99/100]))
}

// inFlight makes calls, so many at a time.
func (b *bench) inFlight(c *contender, flying, calls int, tool string,
	amount int) (perSecond float64) {
	open := map[int]bool{}
	began := time.Now()
	for sent, done := 0, 0; done < calls; done++ {
		for ; sent < calls && len(open) < flying; sent++ {
			c.call(tool, amount)
			open[c.ids] = true
		}
		line := c.way.next()
		if !open[line.id] {
			b.t.Fatalf("%s: got an answer to %d, which is not open", c.name, line.id)
		}
		delete(open, line.id)
	}
	return float64(calls) / time.Since(began).Seconds()
}

func (b *bench) throughput(c *contender) {
	const calls = 2000
	usage := usageOf(c.way.pid())
	b.note(c, "64 calls in flight", b.inFlight(c, 64, calls, "echo", 0))
	b.note(c, "CPU a call", 1000*(usageOf(c.way.pid()).cpu-usage.cpu)/float64(calls))
}

func (b *bench) connections(c *contender) { b.note(c, "connections for them", float64(c.opened)) }

func (b *bench) throughputOfSlow(c *contender) {
	b.note(c, "64 in flight, the server takes 20 ms", b.inFlight(c, 64, 640, "wait", 20))
}

// besideSlow makes 200 calls at once while the server is busy with another one.
func (b *bench) besideSlow(c *contender) {
	const calls = 200
	began := time.Now()
	c.call("wait", 1500)
	slow, last, waited := c.ids, time.Duration(0), calls
	for i := 0; i < calls; i++ {
		c.call("echo", 0)
	}
	for i, answered := 0, false; i <= calls; i++ {
		switch line := c.way.next(); {
		case line.id == slow:
			answered = true
		case !answered:
			waited--
			last = time.Since(began)
		}
	}
	b.note(c, "200 calls beside a slow one, the last", milliseconds(last))
	b.note(c, "of these, calls that waited for it", float64(waited))
}

func (b *bench) bodies(c *contender) { b.results(c, "body", "", "it") }
func (b *bench) events(c *contender) { b.results(c, "event", " as an event", "the event") }

// results asks for large results; memory is measured with the largest.
func (b *bench) results(c *contender, tool, how, it string) {
	for _, size := range []int{1, 16, 64} {
		resetPeak(c.way.pid())
		began := time.Now()
		c.call(tool, size)
		line := c.way.next()
		b.note(c, fmt.Sprintf("%d MiB result%s", size, how), milliseconds(time.Since(began)))
		b.expect(c, line, c.ids, size<<20)
		if size == 64 {
			b.note(c, "memory for a byte of "+it,
				(usageOf(c.way.pid()).peak-c.before.resident)/float64(size))
		}
	}
}

// What the process still has of the results a little later.
func (b *bench) keptOfBodies(c *contender) { b.kept(c, "it") }
func (b *bench) keptOfEvents(c *contender) { b.kept(c, "the event") }

func (b *bench) keptOfRequest(c *contender) { b.kept(c, "the request") }

func (b *bench) kept(c *contender, it string) {
	b.note(c, "memory kept of "+it, usageOf(c.way.pid()).resident-c.before.resident)
}

func (b *bench) largeRequest(c *contender) {
	c.ids++
	line := benchCall(c.ids, "length", 0, strings.Repeat("x", 16<<20))
	began := time.Now()
	c.way.send(line)
	answer := c.way.next()
	b.note(c, "16 MiB request", milliseconds(time.Since(began)))
	b.expect(c, answer, c.ids, 0)
}

func (b *bench) notifications(c *contender) {
	const n = 10000
	usage, began := usageOf(c.way.pid()), time.Now()
	c.call("burst", n)
	for i := 0; i < n; i++ {
		b.expect(c, c.way.next(), 0, 0)
	}
	b.expect(c, c.way.next(), c.ids, 0)
	b.note(c, "10,000 notifications", milliseconds(time.Since(began)))
	b.note(c, "CPU a notification", 1000*(usageOf(c.way.pid()).cpu-usage.cpu)/n)
}

func (b *bench) paced(c *contender) {
	const n = 50
	delays := make([]time.Duration, n)
	c.call("paced", n)
	for i := range delays {
		delays[i] = time.Since(time.Unix(0, c.way.next().sent))
	}
	b.expect(c, c.way.next(), c.ids, 0)
	slices.Sort(delays)
	b.note(c, "from server to host, paced notifications", microseconds(delays[n/2]))
}

func (b *bench) idle(c *contender, span time.Duration) {
	now := usageOf(c.way.pid())
	b.note(c, "idle, memory", now.resident)
	b.note(c, "idle, CPU", (now.cpu-c.before.cpu)/span.Seconds())
	b.note(c, "idle, wake-ups", (now.switches-c.before.switches)/span.Seconds())
}

// expect is the least that must be right for a time to mean anything: whose
// answer it is, and whether all of it came.
func (b *bench) expect(c *contender, got benchLine, id, text int) {
	if got.id != id || text > 0 && got.size != len(benchResult(fmt.Sprint(id), ""))+text {
		b.t.Fatalf("%s: got %+v, want the answer to %d with a text of %d bytes", c.name, got, id,
			text)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func median(of []float64) float64 {
	if len(of) == 0 {
		return math.NaN()
	}
	sorted := slices.Clone(of)
	slices.Sort(sorted)
	return (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
}

// table says what was measured, in Markdown.
func (b *bench) table() string {
	var out strings.Builder
	fmt.Fprintf(&out, "| %-40s | %9s | %9s | %9s | %-7s | %6s | %-8s | %-6s |\n", "median", ourName,
		floorName, directName, "", "ratio", "target", "")
	out.WriteString("|---|--:|--:|--:|---|--:|---|---|\n")
	for _, row := range benchRows {
		figures := b.figures[row.metric]
		ours, floors := figures[ourName], figures[floorName]
		if len(ours) == 0 {
			continue
		}
		ratios := make([]float64, min(len(ours), len(floors)))
		for i := range ratios {
			ratios[i] = ours[i] / floors[i]
		}
		verdict := ""
		if row.target.met != nil {
			verdict = "missed"
			if row.target.met(median(ours), median(ratios)) {
				verdict = "met"
			}
		}
		fmt.Fprintf(&out, "| %-40s | %9s | %9s | %9s | %-7s | %6s | %-8s | %-6s |\n", row.metric,
			shown(median(ours)),
			shown(median(floors)), shown(median(figures[directName])), row.unit, shown(median(ratios)), row.target.text, verdict)
	}
	return out.String()
}

// shown writes a figure with the digits that mean something.
func shown(figure float64) string {
	switch {
	case math.IsNaN(figure) || math.IsInf(figure, 0):
		return ""
	case figure == math.Trunc(figure) || figure >= 100:
		return fmt.Sprintf("%.0f", figure)
	case figure >= 10:
		return fmt.Sprintf("%.1f", figure)
	}
	return fmt.Sprintf("%.2f", figure)
}

// benchOrigin is the server's process as the host sees it.
type benchOrigin struct {
	t     testing.TB
	url   string
	roots string // PEM file
	stdin *os.File
	told  *bufio.Reader
}

func startBenchServer(t testing.TB, protocol string) *benchOrigin {
	cmd := exec.Command(testShared().binary, protocol)
	cmd.Env = append(os.Environ(), testRole+"=bench-server")
	cmd.Stderr = os.Stderr
	in, stdin, err := os.Pipe()
	fatal(t, err)
	stdout, out, err := os.Pipe()
	fatal(t, err)
	cmd.Stdin, cmd.Stdout = in, out
	fatal(t, cmd.Start())
	in.Close()
	out.Close()
	s := &benchOrigin{t: t, stdin: stdin, told: bufio.NewReader(stdout)}
	t.Cleanup(func() {
		stdin.Close()
		fatal(t, cmd.Wait())
	})
	s.url, s.roots = s.line(), s.line()
	return s
}

func (s *benchOrigin) line() string {
	line, err := s.told.ReadString('\n')
	fatal(s.t, err)
	return strings.TrimSuffix(line, "\n")
}

func (s *benchOrigin) counts() (c benchCounts) {
	io.WriteString(s.stdin, "\n")
	fatal(s.t, json.Unmarshal([]byte(s.line()), &c))
	return c
}

// benchLine is a line that reached the host.
type benchLine struct {
	id   int   // 0: a notification
	size int   // bytes
	sent int64 // when the server sent it, where it says so
}

// benchWay is a way to the server and back.
type benchWay interface {
	send(line []byte)
	next() benchLine
	pid() int // 0: it is no process
	end()
}

// parseBenchLine looks at the first bytes of a line alone: the host's own work
// is in all the figures.
func parseBenchLine(head []byte, size int) benchLine {
	l := benchLine{size: size}
	l.id, _ = strconv.Atoi(between(head, `"id":`, ","))
	l.sent, _ = strconv.ParseInt(between(head, `"sent":`, "}"), 10, 64)
	return l
}

// benchProcess is a program between host and server.
type benchProcess struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File
	lines  *bufio.Reader
}

func startBenchProcess(t testing.TB, cmd *exec.Cmd) *benchProcess {
	in, stdin, err := os.Pipe()
	fatal(t, err)
	stdout, out, err := os.Pipe()
	fatal(t, err)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	fatal(t, cmd.Start())
	in.Close()
	out.Close()
	fatal(t, stdout.SetReadDeadline(time.Now().Add(10*time.Minute))) // whatever hangs: not for ever
	return &benchProcess{t, cmd, stdin, stdout, bufio.NewReaderSize(stdout, 64<<10)}
}

func (p *benchProcess) send(line []byte) {
	_, err := p.stdin.Write(line)
	fatal(p.t, err)
}

func (p *benchProcess) next() benchLine {
	head, err := p.lines.ReadSlice('\n')
	size := len(head)
	line := parseBenchLine(head[:min(size, 256)], 0)
	for err == bufio.ErrBufferFull {
		head, err = p.lines.ReadSlice('\n')
		size += len(head)
	}
	fatal(p.t, err)
	line.size = size - 1
	return line
}

func (p *benchProcess) pid() int { return p.cmd.Process.Pid }

func (p *benchProcess) end() { p.exit(func() { p.stdin.Close() }) }

// exit is how long the process took to end when it was told to.
func (p *benchProcess) exit(tell func()) time.Duration {
	defer p.stdout.Close()
	defer p.stdin.Close()
	began := time.Now()
	tell()
	err := p.cmd.Wait()
	took := time.Since(began)
	var exited *exec.ExitError // the floor knows no signal
	if err != nil && !(errors.As(err, &exited) && exited.ExitCode() < 0) {
		p.t.Fatalf("%s: %v", filepath.Base(p.cmd.Path), err)
	}
	return took
}

// benchDirect asks the server itself.
type benchDirect struct {
	t      testing.TB
	url    string
	client *http.Client
	lines  chan benchLine
}

func startBenchDirect(t testing.TB, s *benchOrigin, protocol string) *benchDirect {
	pem, err := os.ReadFile(s.roots)
	fatal(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{MaxIdleConnsPerHost: 256,
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: protocol == "h2"}
	return &benchDirect{t, s.url, &http.Client{Transport: transport}, make(chan benchLine, 1<<14)}
}

func (d *benchDirect) send(line []byte) { go d.forward(line) }
func (d *benchDirect) next() benchLine  { return <-d.lines }
func (d *benchDirect) pid() int         { return 0 }
func (d *benchDirect) end()             { d.client.CloseIdleConnections() }

func (d *benchDirect) forward(line []byte) {
	req, err := http.NewRequest(http.MethodPost, d.url, bytes.NewReader(line))
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		err = d.exchange(req)
	}
	if err != nil {
		d.t.Errorf("net/http: %v", err)
		close(d.lines)
	}
}

// exchange reads the answer and keeps no more of it than where a line begins.
func (d *benchDirect) exchange(req *http.Request) error {
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		head, err := body.ReadSlice('\n')
		head = bytes.TrimPrefix(bytes.TrimSuffix(head, []byte("\n")), []byte("data: "))
		line := parseBenchLine(head[:min(len(head), 256)], len(head))
		for err == bufio.ErrBufferFull {
			head, err = body.ReadSlice('\n')
			line.size += len(bytes.TrimSuffix(head, []byte("\n")))
		}
		if line.size > 0 {
			d.lines <- line
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// benchUsage is what a process has used and uses; NaN where the system does not tell.
type benchUsage struct {
	resident, peak float64 // MiB
	cpu            float64 // ms
	switches       float64 // of context, of all its threads
}

// proc reads a file of a process under /proc, "" if it has ended.
func proc(pid int, name string) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	return string(data)
}

func usageOf(pid int) benchUsage {
	u := benchUsage{math.NaN(), math.NaN(), math.NaN(), math.NaN()}
	dir := fmt.Sprintf("/proc/%d/", pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return u
	}
	u.resident, u.peak = statusField(status, "VmRSS:")/1024, statusField(status, "VmHWM:")/1024
	u.cpu, u.switches = 0, 0
	threads, _ := filepath.Glob(dir + "task/*")
	for _, thread := range threads {
		// The hundredths of a second in stat are a tenth of a round.
		ran, _, _ := strings.Cut(proc(pid, "task/"+filepath.Base(thread)+"/schedstat"), " ")
		ns, _ := strconv.ParseFloat(ran, 64)
		u.cpu += ns / 1e6
		status, _ := os.ReadFile(thread + "/status")
		u.switches += statusField(status, "voluntary_ctxt_switches:") +
			statusField(status, "nonvoluntary_ctxt_switches:")
	}
	return u
}

func statusField(status []byte, name string) float64 {
	value, _ := strconv.ParseFloat(strings.Fields(between(status, "\n"+name, "\n") + " x")[0], 64)
	return value
}

// resetPeak lets the peak begin anew.
func resetPeak(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) // not on every system
}

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
		must(json.NewEncoder(os.Stdout).Encode(benchCounts{requests.Load(), withToken.Load(),
			connections.Load()}))
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
