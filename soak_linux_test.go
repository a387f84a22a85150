package main

// Days of bad weather in ten minutes (make soak): servers that cut, stall,
// throttle, restart and forget, tokens and sessions that expire, and several
// hosts that go on calling. /proc, the collector's trace and, at the end of a
// process's life, the dump of its goroutines tell whether anything grows.

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	soakWorkers   = 4                      // calls at once of each host
	soakPace      = 100 * time.Millisecond // of each worker
	soakStrikes   = 6                      // one request of so many is struck
	soakRevoking  = 75 * time.Second       // between two revocations of a grant: the brake of windows is a minute
	soakQuiet     = 6 * time.Second        // until what lingers is over, before anything is measured
	soakBound     = 3 * time.Minute        // for an answer: it may wait for that brake, and for retries
	soakSettle    = 2 * time.Minute        // what grew until then is what a process needs
	soakGrowth    = 2 << 10                // KiB of resident memory, and
	soakHeap      = 4                      // MiB of live heap that are nothing: what is in flight differs
	soakThreads   = 4                      // so are these: the runtime adds some when a system call takes long
	soakPlain     = 3                      // the last host of each server: the race detector has memory of its own
	soakCopies    = "short-lived copy"     // what hosts start to look around
	soakResumable = "soak-"                // begins the event ids of streams to be resumed
)

// storm is what goes wrong at random with everything that the program speaks to.
type storm struct {
	mu     sync.Mutex // guards all
	random *rand.Rand
	calm   bool
	counts map[string]int
}

// draw is a random number below n.
func (s *storm) draw(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.Intn(n)
}

func (s *storm) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.draw(int(most-least)))
}

func (s *storm) note(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[kind]++
}

func (s *storm) settle(calm bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calm = calm
}

// pick draws one of the faults for a request, "" for none.
func (s *storm) pick(kinds ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calm || s.random.Intn(soakStrikes) > 0 {
		return ""
	}
	kind := kinds[s.random.Intn(len(kinds))]
	s.counts[kind]++
	return kind
}

// struck is a request to the MCP server that may not be answered as it should.
func (s *storm) struck(w http.ResponseWriter, r *fakeRequest) bool {
	switch s.pick("429, Retry-After", "503, Retry-After by date", "503", "502", "cut before the answer", "cut within the answer",
		"answer truncated", "slow answer", "stalled, then cut", "HTML instead of an answer") {
	case "429, Retry-After":
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	case "503, Retry-After by date":
		w.Header().Set("Retry-After", time.Now().Add(time.Second).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
	case "503":
		w.WriteHeader(http.StatusServiceUnavailable)
	case "502":
		w.WriteHeader(http.StatusBadGateway)
	case "cut before the answer":
		panic(http.ErrAbortHandler)
	case "cut within the answer":
		begins("application/json")(w)
		writes(`{"jsonrpc":"2.0","id":`)(w)
		panic(http.ErrAbortHandler)
	case "answer truncated":
		begins("application/json")(w)
		writes(`{"jsonrpc":"2.0","id":`)(w)
	case "slow answer":
		sleep(r.Context(), s.between(0, time.Second))
		return false
	case "stalled, then cut":
		sleep(r.Context(), s.between(0, 3*time.Second))
		panic(http.ErrAbortHandler)
	case "HTML instead of an answer":
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html>please sign in to the network</html>")
	default:
		return false
	}
	return true
}

// refreshStruck is the token endpoint out of order before it looked at a
// request: after that a refresh token is used up, and to lose its successor
// would rightly cost the grant.
func (s *storm) refreshStruck(w http.ResponseWriter, r *fakeRequest) bool {
	switch s.pick("token endpoint: 503", "token endpoint: 429, Retry-After", "token endpoint: slow") {
	case "token endpoint: 503":
		w.WriteHeader(http.StatusServiceUnavailable)
	case "token endpoint: 429, Retry-After":
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	case "token endpoint: slow":
		sleep(r.Context(), s.between(0, time.Second))
		return false
	default:
		return false
	}
	return true
}

// soakSite is an MCP server, its authorization server and the hosts that use them.
type soakSite struct {
	*fakeMCP
	storm   *storm
	modern  bool
	hosts   []*testProxy
	revoked time.Time
}

func startSoakSite(t *testing.T, s *storm, modern bool, protocol string) *soakSite {
	server, auth := startProtected(t, protocol)
	server.sessions, server.listens = !modern, !modern
	auth.expiresIn, auth.lives = 5, 5*time.Second
	site := &soakSite{fakeMCP: server, storm: s, modern: modern, revoked: time.Now()}
	for _, label := range []string{"initialize", "notifications/initialized", "tools/call echo", "DELETE"} {
		server.on(label, s.struck)
	}
	server.on("GET", site.resumed)
	server.on("GET", s.struck)
	server.reply("tools/call echo", site.answer)
	auth.on("token refresh_token", s.refreshStruck)
	return site
}

// answer is one of the ways in which a server may answer.
func (s *soakSite) answer(w http.ResponseWriter, r *fakeRequest) bool {
	line := r.msg.result(s.resultOf(w, r))
	switch way := s.storm.draw(3); {
	case way == 0:
		return false // a body of JSON
	case way == 1 && !s.modern:
		s.storm.note("stream ended, to be resumed")
		startEvents(w).send("id: " + soakResumable + base64.RawURLEncoding.EncodeToString([]byte(line)) + "\nretry: 100\ndata: ")
	default:
		stream := startEvents(w)
		stream.send("data: " + faultProgress)
		stream.send("event: message\ndata: " + line)
	}
	return true
}

// resumed answers a GET that goes on with such a stream: its id holds the answer.
func (s *soakSite) resumed(w http.ResponseWriter, r *fakeRequest) bool {
	coded, ours := strings.CutPrefix(r.Header.Get("Last-Event-Id"), soakResumable)
	line, err := base64.RawURLEncoding.DecodeString(coded)
	if !ours || err != nil {
		return false
	}
	if s.authorized(w, r) {
		startEvents(w).send("data: " + string(line))
	}
	return true
}

// happen is an incident: what strikes all requests at once.
func (s *soakSite) happen() {
	kinds := []string{"tokens expired", "server restarted", "message of the server"}
	if !s.modern {
		kinds = append(kinds, "sessions expired")
	}
	if time.Since(s.revoked) > soakRevoking {
		kinds = []string{"grant revoked"}
	}
	kind := kinds[s.storm.draw(len(kinds))]
	s.storm.note(kind)
	switch kind {
	case "tokens expired":
		s.auth.expireAccess()
	case "sessions expired":
		s.endSessions()
	case "server restarted":
		s.endSessions()
		s.restart(s.storm.between(0, 2500*time.Millisecond))
	case "message of the server":
		s.push(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"still here"}}`)
	case "grant revoked":
		s.revoked = time.Now()
		s.auth.revokeAll()
	}
}

func (s *soakSite) start(user *testUser) *testProxy {
	p := user.start("-u", s.url)
	if s.modern {
		return p
	}
	for p.answer(p.request("initialize", initializeParams)).Error != nil {
		s.storm.note("initialize refused, said again")
	}
	p.notify("notifications/initialized", "")
	return p
}

func (s *soakSite) echo(p *testProxy, text string) (id string) {
	if s.modern {
		return p.modernEcho(text)
	}
	return p.request("tools/call", echoParams(text))
}

// forget keeps of the requests that were recorded those that tell a secret.
func (s *soakSite) forget() {
	for _, o := range []*fakeOrigin{s.fakeOrigin, s.auth.fakeOrigin} {
		o.change(func() {
			var kept []*fakeRequest
			for _, r := range o.seen {
				if !r.done || r.label == "notifications/initialized" && r.Header.Get("Mcp-Session-Id") != "" {
					kept = append(kept, r)
				}
			}
			o.seen = kept
		})
	}
}

// vitals are what a process takes.
type vitals struct{ rss, heap, descriptors, threads, goroutines int }

var (
	residentSize   = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB`)
	threadCount    = regexp.MustCompile(`(?m)^Threads:\s+(\d+)`)
	collectorTrace = regexp.MustCompile(`(?m)^gc \d+ @.* \d+->\d+->(\d+) MB`)
	dumped         = regexp.MustCompile(`(?m)^goroutine \d+ .*\[`)
)

// measure looks at a process that has nothing to do.
func measure(t *testing.T, p *testProxy) (v vitals) {
	t.Helper()
	status, pid := "", p.cmd.Process.Pid
	status = proc(pid, "status")
	for into, text := range map[*int][]string{&v.rss: residentSize.FindStringSubmatch(status), &v.threads: threadCount.FindStringSubmatch(status)} {
		if text == nil {
			t.Fatalf("process %d has ended", pid)
		}
		*into, _ = strconv.Atoi(text[1])
	}
	if all := collectorTrace.FindAllStringSubmatch(p.stderr(), -1); all != nil {
		v.heap, _ = strconv.Atoi(all[len(all)-1][1])
	}
	v.descriptors = len(descriptors(t, pid))
	return v
}

// dissect ends a process in such a way that it lists its goroutines.
func dissect(t *testing.T, p *testProxy) (v vitals) {
	t.Helper()
	v = measure(t, p)
	p.change(func() { p.killed = true })
	before := p.stderr()
	p.signal(syscall.SIGQUIT)
	p.wait()
	v.goroutines = len(dumped.FindAllString(strings.TrimPrefix(p.stderr(), before), -1))
	fatal(t, os.WriteFile(p.log, []byte(before), 0o600)) // a dump is no panic
	if v.goroutines == 0 {
		t.Error("a process listed no goroutine")
	}
	return v
}

func (v vitals) String() string {
	text := fmt.Sprintf("%6d KiB resident, %2d MiB live heap, %3d descriptors, %2d threads", v.rss, v.heap, v.descriptors, v.threads)
	if v.goroutines > 0 {
		text += fmt.Sprintf(", %2d goroutines", v.goroutines)
	}
	return text
}

// grown tells whether a process grew since it was settled. What the race
// detector keeps grows with time.
func (v vitals) grown(since vitals, raced bool) bool {
	most := since.rss + soakGrowth
	if raced {
		most = since.rss*5/4 + 4*soakGrowth
	}
	return v.rss > most || v.heap > since.heap+soakHeap || v.descriptors > since.descriptors+2*soakWorkers ||
		v.threads > since.threads+soakThreads || v.goroutines > since.goroutines+2*soakWorkers
}

// traceSizes measures the trace files of a user.
func traceSizes(user *testUser) (sizes []int64) {
	for _, suffix := range []string{"", ".1"} {
		if info, err := os.Stat(user.tracesFile() + suffix); err == nil { // it may be renamed just now
			sizes = append(sizes, info.Size())
		}
	}
	return sizes
}

func checkTraceLines(t *testing.T, user *testUser) (lines int) {
	for _, suffix := range []string{"", ".1"} {
		data, err := os.ReadFile(user.tracesFile() + suffix)
		if err != nil {
			continue // there was not so much to tell
		}
		for _, line := range strings.SplitAfter(string(data), "\n") {
			if line != "" && (!json.Valid([]byte(line)) || !strings.HasSuffix(line, "\n")) {
				t.Errorf("traces.jsonl%s holds %.200q", suffix, line)
			}
			lines++
		}
	}
	return lines
}

func TestSoak(t *testing.T) {
	span, err := time.ParseDuration(os.Getenv("MCP_PROXY_TEST_SOAK"))
	if err != nil {
		t.Skip("make soak runs it")
	}
	seed := time.Now().UnixNano()
	if given := os.Getenv("MCP_PROXY_TEST_SEED"); given != "" {
		seed, err = strconv.ParseInt(given, 10, 64)
		fatal(t, err)
	}
	t.Logf("seed %d", seed)
	weather := &storm{random: rand.New(rand.NewSource(seed)), calm: true, counts: map[string]int{}}
	sites := []*soakSite{startSoakSite(t, weather, false, "h2"), startSoakSite(t, weather, true, "http/1.1")}
	user := newUser(t)
	for _, site := range sites {
		user.keepers = append(user.keepers, site.auth, site.fakeMCP)
	}
	raced := os.Getenv("MCP_PROXY_TEST_BINARY")
	user.env["GODEBUG"] = "gctrace=1"
	all := &traffic{bound: soakBound}
	var going sync.RWMutex // held by every call, and by who wants them all to be over
	var workers sync.WaitGroup
	stop := make(chan struct{})
	work := func(site *soakSite, p *testProxy, name string) {
		defer workers.Done()
		for n := 0; ; n++ {
			select {
			case <-time.After(weather.between(soakPace/2, soakPace*3/2)):
			case <-stop:
				return
			}
			going.RLock()
			if p.killed { // guarded by going: only who holds it alone kills
				going.RUnlock()
				return
			}
			text := fmt.Sprint(name, " ", n)
			all.ask(p, site.echo(p, text), text)
			going.RUnlock()
		}
	}
	for _, site := range sites {
		for i := 0; i <= soakPlain; i++ {
			if user.binary = raced; i == soakPlain {
				user.binary = os.Getenv("MCP_PROXY_TEST_PLAIN_BINARY")
			}
			p := site.start(user)
			site.hosts = append(site.hosts, p)
			for worker := 0; worker < soakWorkers; worker++ {
				workers.Add(1)
				go work(site, p, fmt.Sprintf("host %d, worker %d, call", i, worker))
			}
		}
	}
	user.binary = raced
	settled := map[*testProxy]vitals{}
	quietly := func(do func()) {
		weather.settle(true)
		going.Lock()
		<-time.After(soakQuiet)
		do()
		going.Unlock()
		weather.settle(false)
	}
	weather.settle(false)
	largest, began := int64(0), time.Now()
	settle := min(soakSettle, span/5)
	for time.Since(began) < span {
		<-time.After(weather.between(500*time.Millisecond, 3*time.Second))
		site := sites[weather.draw(len(sites))]
		if weather.draw(4) > 0 {
			site.happen()
		} else {
			weather.note(soakCopies)
			p := site.start(user)
			all.ask(p, site.echo(p, "just looking"), "just looking")
			p.closeStdin()
			p.wait()
		}
		for _, site := range sites {
			site.forget()
		}
		for _, size := range traceSizes(user) {
			largest = max(largest, size)
		}
		if len(settled) == 0 && time.Since(began) > settle {
			quietly(func() {
				for _, site := range sites {
					for i, p := range site.hosts {
						if i == 0 {
							settled[p] = dissect(t, p)
						} else {
							settled[p] = measure(t, p)
						}
					}
				}
			})
		}
	}
	weather.settle(true)
	close(stop)
	workers.Wait()
	<-time.After(soakQuiet)
	for _, site := range sites {
		for i, p := range site.hosts {
			if i == 0 {
				t.Logf("%s host %d at %v: %v", site.era(), i, settle, settled[p])
				continue
			}
			p.result(site.echo(p, "after the storm"))
			end := measure(t, p)
			since := settled[p]
			if i == 1 {
				end = dissect(t, p)
				since.goroutines = settled[site.hosts[0]].goroutines // of its sibling
			}
			name := fmt.Sprint(site.era(), " host ", i)
			if i == soakPlain {
				name += ", without race detector"
			}
			t.Logf("%s at %v: %v", name, settle, settled[p])
			t.Logf("%s at the end: %v", name, end)
			if end.grown(since, i != soakPlain) {
				t.Errorf("a process grew: %v, before %v", end, since)
			}
		}
	}
	lines := checkTraceLines(t, user)
	if largest > maxTraceFile+rotationSlack {
		t.Errorf("the trace file measured %d bytes", largest)
	}
	report(t, all, weather, user, sites, fmt.Sprintf("%v; largest trace file %.1f MiB, %d lines in %d files", time.Since(began).Round(time.Second), float64(largest)/(1<<20), lines, len(traceSizes(user))))
}

func (s *soakSite) era() string {
	if s.modern {
		return "2026-07-28"
	}
	return "2025-11-25"
}

// report prints the figures, and fails the test for what must not be.
func report(t *testing.T, all *traffic, weather *storm, user *testUser, sites []*soakSite, more string) {
	doubled, said := 0, 0
	for _, p := range user.started {
		p.mu.Lock()
		for _, answers := range p.answered {
			doubled += len(answers) - 1
		}
		said += len(p.lines)
		p.mu.Unlock()
	}
	reuses, refreshes := 0, 0
	for _, site := range sites {
		site.auth.mu.Lock()
		reuses += site.auth.reuses
		refreshes += len(site.auth.refresh)
		site.auth.mu.Unlock()
	}
	var kinds []string
	total := 0
	for kind, n := range weather.counts {
		kinds = append(kinds, kind)
		total += n
	}
	sort.Strings(kinds)
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-34s %d of %d processes, %d lines on stdout", "calls", all.calls, len(user.started), said)
	fmt.Fprintf(&table, "\n%-34s %d", "error answers", len(all.failures)-all.lost)
	fmt.Fprintf(&table, "\n%-34s %d\n%-34s %d\n%-34s %d", "answers lost", all.lost, "answers doubled", doubled, "wrong answers", len(all.wrong))
	fmt.Fprintf(&table, "\n%-34s %d tokens, %d browser windows, %d reuses", "refresh", refreshes, len(user.openings()), reuses)
	fmt.Fprintf(&table, "\n%-34s %d", "faults", total)
	for _, kind := range kinds {
		fmt.Fprintf(&table, "\n  %-32s %d", kind, weather.counts[kind])
	}
	t.Logf("%s\n%s", table.String(), more)
	if all.lost+doubled+len(all.wrong)+reuses > 0 {
		t.Errorf("got %d lost, %d doubled, %d wrong answers and %d reuses of a refresh token, want none: %.1000q", all.lost, doubled, len(all.wrong), reuses, all.wrong)
	}
	if good := all.calls - len(all.failures); good < all.calls/2 {
		t.Errorf("%d of %d calls were answered with a result, want most of them; %.1000q", good, all.calls, all.failures)
	}
}
