package main

// Hours of a working day in a minute (make soak-tokens): tokens that live for two seconds,
// processes that share them, and an authorization server that takes back the whole grant if a
// refresh token comes twice. And days of bad weather in ten minutes (make soak): servers that cut,
// stall, throttle, restart and forget, tokens and sessions that expire, and several hosts that go
// on calling. /proc, the collector's trace and, at the end of a process's life, the dump of its
// goroutines show whether anything grows.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// traffic is what the hosts of one machine do.
type traffic struct {
	bound time.Duration // for one answer

	mu       sync.Mutex // guards all
	calls    int
	lost     int
	wrong    []string // results of another call
	failures []string // error answers, and lost ones
}

// run calls echo again and again until stop is closed.
func (f *traffic) run(p *testProxy, pace time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.call(p)
		case <-stop:
			return
		}
	}
}

func (f *traffic) call(p *testProxy) { f.ask(p, p.modernEcho("on and on"), "on and on") }

// ask waits for the answer to a call of echo and looks what it is.
func (f *traffic) ask(p *testProxy, id, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), f.bound)
	defer cancel()
	p.watched.wait(ctx, func() bool { return len(p.answered[id]) > 0 || p.eof })
	p.mu.Lock()
	answers := p.answered[id]
	p.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	switch want := fmt.Sprintf(`{"content":[{"type":"text","text":%q}]}`, text); {
	case len(answers) == 0:
		f.lost++
		f.failures = append(f.failures, "no answer")
	case answers[0].Error != nil:
		f.failures = append(f.failures, answers[0].Error.Message)
	case string(answers[0].Result) != want:
		f.wrong = append(f.wrong, fmt.Sprintf("%.200s, want %.200s", answers[0].Result, want))
	}
}

// MCP_PROXY_TEST_TRAFFIC=60s makes it a minute (make soak-tokens), on the program
// MCP_PROXY_TEST_BINARY if that is given.
func TestTokensUnderTraffic(t *testing.T) {
	span := 6 * time.Second
	if given := os.Getenv("MCP_PROXY_TEST_TRAFFIC"); given != "" {
		var err error
		span, err = time.ParseDuration(given)
		fatal(t, err)
	}
	for name, expiresIn := range map[string]any{"expires_in": 2, "no expires_in": nil} {
		expiresIn := expiresIn
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, auth := startModernProtected(t)
			auth.expiresIn, auth.lives = expiresIn, 2*time.Second
			user := newUser(t, auth)
			user.binary = os.Getenv("MCP_PROXY_TEST_BINARY")
			all := traffic{bound: testPatience}
			var hosts sync.WaitGroup
			stop := make(chan struct{})
			for i := 0; i < 5; i++ {
				p := user.start("-u", server.url, "--no-trace")
				for worker := 0; worker < 2; worker++ {
					hosts.Add(1)
					go func() {
						defer hosts.Done()
						all.run(p, 40*time.Millisecond, stop)
					}()
				}
			}
			probes, began := 0, time.Now()
			for ; time.Since(began) < span; probes++ {
				probe := user.start("-u", server.url,
					"--no-trace") // a short-lived copy, as hosts start them
				all.call(probe)
				probe.closeStdin()
				probe.wait()
				<-time.After(time.Second)
			}
			close(stop)
			hosts.Wait()
			took := time.Since(began).Round(time.Second) // more than span on a busy machine
			refused := server.count("tools/call echo") - all.calls
			auth.mu.Lock()
			reuses := auth.reuses
			auth.mu.Unlock()
			figures := fmt.Sprintf("%v: %d calls by 5 processes and %d short-lived ones, %d of them refused once or more; %d refreshes, %d reuses, %d failed calls, %d browser windows",
				took, all.calls, probes, refused, auth.count("token refresh_token"), reuses, len(all.failures), len(user.openings()))
			t.Log(figures)
			if reuses != 0 || len(all.failures)+len(all.wrong) != 0 || len(user.openings()) != 1 ||
				auth.count("token authorization_code") != 1 {
				t.Errorf("got %s, want no reuse, no failed call and 1 window; %.300q %.300q",
					figures, all.failures, all.wrong)
			}
			if got, want := auth.count("token refresh_token"), int(took/auth.lives); got < want/3 ||
				got > 2*want {
				t.Errorf("got %d refreshes, want about %d", got, want)
			}
		})
	}
}

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
	switch s.pick("429, Retry-After", "503, Retry-After by date", "503", "502",
		"cut before the answer", "cut within the answer",
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
	switch s.pick("token endpoint: 503", "token endpoint: 429, Retry-After",
		"token endpoint: slow") {
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
	for _, label := range []string{"initialize", "notifications/initialized", "tools/call echo",
		"DELETE"} {
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
		startEvents(w).send("id: " + soakResumable +
			base64.RawURLEncoding.EncodeToString([]byte(line)) + "\nretry: 100\ndata: ")
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
				if !r.done || r.label == "notifications/initialized" &&
					r.Header.Get("Mcp-Session-Id") != "" {
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
	pid := p.cmd.Process.Pid
	status := proc(pid, "status")
	for into, text := range map[*int][]string{&v.rss: residentSize.FindStringSubmatch(status),
		&v.threads: threadCount.FindStringSubmatch(status)} {
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
	text := fmt.Sprintf("%6d KiB resident, %2d MiB live heap, %3d descriptors, %2d threads", v.rss,
		v.heap, v.descriptors, v.threads)
	if v.goroutines > 0 {
		text += fmt.Sprintf(", %2d goroutines", v.goroutines)
	}
	return text
}

// grown tells whether a process grew since then. Warm says that it had settled
// by then, and that there is no race detector in it, which keeps ever more.
func (v vitals) grown(since vitals, warm bool) bool {
	most := since.rss + soakGrowth
	if !warm {
		most = since.rss*5/4 + 4*soakGrowth
	}
	return v.rss > most || v.heap > since.heap+soakHeap ||
		v.descriptors > since.descriptors+2*soakWorkers ||
		v.threads > since.threads+soakThreads || v.goroutines > since.goroutines+2*soakWorkers
}

// traceSizes measures the trace files of a user.
func traceSizes(user *testUser) (sizes []int64) {
	for _, suffix := range []string{"", ".1"} {
		if info, err := os.Stat(user.tracesFile() +
			suffix); err == nil { // it may be renamed just now
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

// soak is all of it.
type soak struct {
	t       *testing.T
	weather *storm
	sites   []*soakSite
	user    *testUser
	all     *traffic
	stop    chan struct{}
	workers sync.WaitGroup
	going   sync.RWMutex // held by every call, and by who wants them all to be over
	settled map[*testProxy]vitals
	largest int64 // size of a trace file that was seen
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
	s := &soak{
		t: t, weather: &storm{random: rand.New(rand.NewSource(seed)), calm: true,
			counts: map[string]int{}},
		user: newUser(t), all: &traffic{bound: soakBound}, stop: make(chan struct{}), settled: map[*testProxy]vitals{},
	}
	s.sites = []*soakSite{startSoakSite(t, s.weather, false, "h2"),
		startSoakSite(t, s.weather, true, "http/1.1")}
	s.startHosts()
	began, settle := time.Now(), min(soakSettle, span/5)
	s.weather.settle(false)
	for time.Since(began) < span {
		s.incident()
		if len(s.settled) == 0 && time.Since(began) > settle {
			s.measureAll()
		}
	}
	s.weather.settle(true)
	close(s.stop)
	s.workers.Wait()
	<-time.After(soakQuiet)
	s.checkGrowth(settle)
	s.report(time.Since(began))
}

func (s *soak) startHosts() {
	raced, plain := os.Getenv("MCP_PROXY_TEST_BINARY"), os.Getenv("MCP_PROXY_TEST_PLAIN_BINARY")
	s.user.env["GODEBUG"] = "gctrace=1"
	for _, site := range s.sites {
		s.user.keepers = append(s.user.keepers, site.auth, site.fakeMCP)
		for i := 0; i <= soakPlain; i++ {
			if s.user.binary = raced; i == soakPlain {
				s.user.binary = plain
			}
			p := site.start(s.user)
			site.hosts = append(site.hosts, p)
			for worker := 0; worker < soakWorkers; worker++ {
				s.workers.Add(1)
				go s.work(site, p, fmt.Sprintf("host %d, worker %d, call", i, worker))
			}
		}
	}
	s.user.binary = raced
}

// work is a worker of a host, which calls and waits for the answer until the end.
func (s *soak) work(site *soakSite, p *testProxy, name string) {
	defer s.workers.Done()
	for n := 0; ; n++ {
		select {
		case <-time.After(s.weather.between(soakPace/2, soakPace*3/2)):
		case <-s.stop:
			return
		}
		s.going.RLock()
		if p.killed { // only who holds going alone kills
			s.going.RUnlock()
			return
		}
		text := fmt.Sprint(name, " ", n)
		s.all.ask(p, site.echo(p, text), text)
		s.going.RUnlock()
	}
}

// incident is one, after a while.
func (s *soak) incident() {
	<-time.After(s.weather.between(500*time.Millisecond, 3*time.Second))
	site := s.sites[s.weather.draw(len(s.sites))]
	if s.weather.draw(4) > 0 {
		site.happen()
	} else {
		s.weather.note(soakCopies)
		p := site.start(s.user)
		s.all.ask(p, site.echo(p, "just looking"), "just looking")
		p.closeStdin()
		p.wait()
	}
	for _, site := range s.sites {
		site.forget()
	}
	for _, size := range traceSizes(s.user) {
		s.largest = max(s.largest, size)
	}
}

// measureAll measures the hosts while none of them has anything to do. It costs the first ones
// their lives.
func (s *soak) measureAll() {
	s.weather.settle(true)
	s.going.Lock()
	<-time.After(soakQuiet)
	for _, site := range s.sites {
		for i, p := range site.hosts {
			if i == 0 {
				s.settled[p] = dissect(s.t, p)
			} else {
				s.settled[p] = measure(s.t, p)
			}
		}
	}
	s.going.Unlock()
	s.weather.settle(false)
}

// checkGrowth measures the hosts again. The goroutines of the second ones are compared with the
// first ones'.
func (s *soak) checkGrowth(settle time.Duration) {
	for _, site := range s.sites {
		first := s.settled[site.hosts[0]]
		s.t.Logf("%s host 0 at %v: %v", site.era(), settle, first)
		for i, p := range site.hosts[1:] {
			name := fmt.Sprint(site.era(), " host ", i+1)
			if i+1 == soakPlain {
				name += ", without race detector"
			}
			p.result(site.echo(p, "after the storm"))
			since, end := s.settled[p], measure(s.t, p)
			s.t.Logf("%s at %v: %v", name, settle, since)
			if i == 0 {
				since.goroutines = first.goroutines
				end = dissect(s.t, p)
			}
			s.t.Logf("%s at the end: %v", name, end)
			if end.grown(since, i+1 == soakPlain && settle == soakSettle) {
				s.t.Errorf("%s grew", name)
			}
		}
	}
}

func (s *soakSite) era() string {
	if s.modern {
		return "2026-07-28"
	}
	return "2025-11-25"
}

// report prints the figures, and fails the test for what must not be.
func (s *soak) report(took time.Duration) {
	doubled, said := 0, 0
	for _, p := range s.user.started {
		p.mu.Lock()
		for _, answers := range p.answered {
			doubled += len(answers) - 1
		}
		said += len(p.lines)
		p.mu.Unlock()
	}
	reuses, refreshes := 0, 0
	for _, site := range s.sites {
		site.auth.mu.Lock()
		reuses += site.auth.reuses
		refreshes += len(site.auth.refresh)
		site.auth.mu.Unlock()
	}
	all, lines := s.all, checkTraceLines(s.t, s.user)
	table := [][2]string{
		{"took", took.Round(time.Second).String()},
		{"calls", fmt.Sprintf("%d of %d processes, %d lines on stdout", all.calls,
			len(s.user.started), said)},
		{"error answers", fmt.Sprint(len(all.failures) - all.lost)},
		{"answers lost, doubled, wrong",
			fmt.Sprintf("%d, %d, %d", all.lost, doubled, len(all.wrong))},
		{"refresh tokens", fmt.Sprintf("%d, %d browser windows, %d reuses", refreshes,
			len(s.user.openings()), reuses)},
		{"traces", fmt.Sprintf("%d lines in %d files, the largest %.1f MiB", lines,
			len(traceSizes(s.user)), float64(s.largest)/(1<<20))},
	}
	for _, kind := range s.weather.kinds() {
		table = append(table, [2]string{"  " + kind, fmt.Sprint(s.weather.counts[kind])})
	}
	for _, row := range table {
		s.t.Logf("%-36s %s", row[0], row[1])
	}
	if all.lost+doubled+len(all.wrong)+reuses > 0 {
		s.t.Errorf("got %d lost, %d doubled, %d wrong answers and %d reuses of a refresh token, want none: %.1000q", all.lost, doubled, len(all.wrong), reuses, all.wrong)
	}
	if s.largest > maxTraceFile+rotationSlack {
		s.t.Errorf("a trace file measured %d bytes", s.largest)
	}
	if good := all.calls - len(all.failures); good < all.calls/2 {
		s.t.Errorf("%d of %d calls were answered with a result, want most of them; %.1000q", good,
			all.calls, all.failures)
	}
}

// kinds are the names of what happened, in order.
func (s *storm) kinds() (kinds []string) {
	for kind := range s.counts {
		kinds = append(kinds, kind)
	}
	sort.Strings(kinds)
	return kinds
}

// descriptors lists what a process has open, by number.
func descriptors(t *testing.T, pid int) map[string]string {
	t.Helper()
	open := map[string]string{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	fatal(t, err)
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			open[filepath.Base(link)] = target
		}
	}
	return open
}
