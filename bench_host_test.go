package main

// The host of the benchmark, and what it talks to: the program, the floor, or
// the server itself through net/http. /proc tells what a process costs; where
// there is none, those figures are missing.

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
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

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
	transport := &http.Transport{MaxIdleConnsPerHost: 256, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: protocol == "h2"}
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

func usageOf(pid int) benchUsage {
	u := benchUsage{math.NaN(), math.NaN(), math.NaN(), math.NaN()}
	dir := fmt.Sprintf("/proc/%d/", pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return u
	}
	u.resident, u.peak = statusField(status, "VmRSS:")/1024, statusField(status, "VmHWM:")/1024
	stat, _ := os.ReadFile(dir + "stat")
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64) // utime and stime, in hundredths of a second
	system, _ := strconv.ParseFloat(fields[12], 64)
	u.cpu = 10 * (user + system)
	u.switches = 0
	threads, _ := filepath.Glob(dir + "task/*/status")
	for _, thread := range threads {
		status, _ := os.ReadFile(thread)
		u.switches += statusField(status, "voluntary_ctxt_switches:") + statusField(status, "nonvoluntary_ctxt_switches:")
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
