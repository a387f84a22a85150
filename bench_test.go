package main

// "make bench": what the program costs, measured from outside against the
// smallest pipe there can be (_build/floor) and against no pipe at all, in
// turns, so that what else the machine does hits all alike. The ratio of a
// round is taken before the median of the rounds. Nothing here fails because
// of a time: the table says what was met.

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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
	return benchTarget{fmt.Sprintf("≤ %.2f x", bound), func(_, ratio float64) bool { return ratio <= bound }}
}

func ratioAtLeast(bound float64) benchTarget {
	return benchTarget{fmt.Sprintf("≥ %.2f x", bound), func(_, ratio float64) bool { return ratio >= bound }}
}

func atMost(bound float64) benchTarget {
	return benchTarget{fmt.Sprintf("≤ %g", bound), func(figure, _ float64) bool { return figure <= bound }}
}

func exactly(want float64) benchTarget {
	return benchTarget{fmt.Sprintf("%g", want), func(figure, _ float64) bool { return figure == want }}
}

var benchRows = []benchRow{
	{"start to the first answer", "ms", ratioAtMost(1.15)},
	{"requests to the server until then", "", exactly(1)},
	{"one call after another, median", "µs", ratioAtMost(1.15)},
	{"one call after another, 99 %", "µs", benchTarget{}},
	{"64 calls in flight", "calls/s", ratioAtLeast(0.90)},
	{"CPU a call", "µs", benchTarget{}},
	{"connections for them", "", benchTarget{}},
	{"64 in flight, the server takes 20 ms", "calls/s", ratioAtLeast(0.90)},
	{"200 calls beside a slow one, the last", "ms", benchTarget{}},
	{"of these, calls that waited for it", "", exactly(0)},
	{"1 MiB result", "ms", benchTarget{}},
	{"16 MiB result", "ms", benchTarget{}},
	{"64 MiB result", "ms", ratioAtMost(1.25)},
	{"memory for a byte of it", "bytes", atMost(1.15)},
	{"memory kept of it", "MiB", atMost(2)},
	{"1 MiB result as an event", "ms", benchTarget{}},
	{"16 MiB result as an event", "ms", benchTarget{}},
	{"64 MiB result as an event", "ms", ratioAtMost(1.25)},
	{"memory for a byte of the event", "bytes", atMost(1.15)},
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
		{name: "throughput", rounds: 11, quickly: 3, round: (*bench).throughput, after: (*bench).connections},
		{name: "slow server", rounds: 7, quickly: 1, round: (*bench).throughputOfSlow},
		{name: "slow call", rounds: 5, quickly: 1, round: (*bench).besideSlow},
		{name: "results", rounds: 9, quickly: 1, pause: pause, round: (*bench).bodies, after: (*bench).keptOfBodies},
		{name: "events", rounds: 9, quickly: 1, pause: pause, round: (*bench).events, after: (*bench).keptOfEvents},
		{name: "request", rounds: 5, quickly: 1, pause: pause, round: (*bench).largeRequest, after: (*bench).keptOfRequest},
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
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", floor, "./_build/floor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fmt.Printf("%d cores, %s, %s/%s\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
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
			fmt.Printf("\n%s\n\n%s", map[string]string{"h2": "HTTP/2", "http/1.1": "HTTP/1.1"}[protocol], b.table())
		})
	}
}

func newBench(t testing.TB, protocol, binary, floor string) *bench {
	b := &bench{t: t, server: startBenchServer(t, protocol), figures: map[string]map[string][]float64{}}
	user := newUser(t)
	user.binary = binary
	user.env["SSL_CERT_FILE"], user.env["SSL_CERT_DIR"] = b.server.roots, filepath.Dir(b.server.roots)
	signedIn, _ := startProtected(t)
	signedIn.url = b.server.url // where the token is to be used
	user.remember(signedIn)
	b.contenders = []*contender{
		{name: ourName, start: func() benchWay { return startBenchProcess(b.t, user.command("-u", b.server.url)) }},
		{name: floorName, start: func() benchWay {
			cmd := exec.Command(floor, b.server.url)
			cmd.Env = user.environ()
			if protocol != "h2" {
				cmd.Env = append(cmd.Env, "GODEBUG=http2client=0")
			}
			return startBenchProcess(b.t, cmd)
		}},
		{name: directName, start: func() benchWay { return startBenchDirect(b.t, b.server, protocol) }},
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
	b.note(c, "SIGTERM to exit", milliseconds(p.exit(func() { fatal(b.t, p.cmd.Process.Signal(stopSignals()["SIGTERM"])) })))
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
func (b *bench) inFlight(c *contender, flying, calls int, tool string, amount int) (perSecond float64) {
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
			b.note(c, "memory for a byte of "+it, (usageOf(c.way.pid()).peak-c.before.resident)/float64(size))
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
		b.t.Fatalf("%s: got %+v, want the answer to %d with a text of %d bytes", c.name, got, id, text)
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
	fmt.Fprintf(&out, "| %-40s | %9s | %9s | %9s | %-7s | %6s | %-8s | %-6s |\n", "median", ourName, floorName, directName, "", "ratio", "target", "")
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
		fmt.Fprintf(&out, "| %-40s | %9s | %9s | %9s | %-7s | %6s | %-8s | %-6s |\n", row.metric, shown(median(ours)),
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
