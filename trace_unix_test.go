//go:build unix

package main

// Several processes that write to one file of traces as fast as they can. Not
// on Windows, which renames no file that another process has open: there busy
// writers may lose lines while the file is full (see rotationSlack).

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const traceHelperEnv = "MCP_PROXY_TEST_TRACE" // path, limit, number of spans

// TestHelperTraceWriter is a process of TestTraceProcesses; alone it does nothing.
func TestHelperTraceWriter(t *testing.T) {
	args := strings.Split(os.Getenv(traceHelperEnv), ",")
	if len(args) != 3 {
		return
	}
	limit, _ := strconv.ParseInt(args[1], 10, 64)
	count, _ := strconv.Atoi(args[2])
	tr := newTracer(args[0], "v1", nil)
	defer tr.close()
	tr.limit = limit
	var lines []byte
	for i := 1; i <= count; i++ {
		_, s := tr.start(context.Background(), fmt.Sprintf("%d/%d", os.Getpid(), i), spanServer)
		lines = s.appendLine(lines, 0)
		if len(lines) > maxTraceBatch/2 || i == count { // not through the buffer: that may lose some
			if err := tr.appendLines(lines); err != nil {
				t.Fatal(err)
			}
			lines = lines[:0]
		}
	}
}

func runTraceWriters(t *testing.T, path string, processes int, limit int64, count int) {
	t.Helper()
	commands, output := make([]*exec.Cmd, processes), make([]bytes.Buffer, processes)
	for i := range commands {
		c := exec.Command(os.Args[0], "-test.run=^TestHelperTraceWriter$")
		c.Env = append(os.Environ(), testRole+"=helper", fmt.Sprintf("%s=%s,%d,%d", traceHelperEnv, path, limit, count))
		c.Stdout, c.Stderr = &output[i], &output[i]
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		commands[i] = c
	}
	for i, c := range commands {
		if err := c.Wait(); err != nil {
			t.Errorf("a writer failed: %v\n%s", err, &output[i])
		}
	}
}

// Five processes and one rotation: nothing is lost, though all of them want to rotate at once.
func TestTraceProcesses(t *testing.T) {
	const processes, count = 5, 600
	for round := 0; round < 2; round++ {
		path := tracePath(t)
		runTraceWriters(t, path, processes, 1<<20, count) // about 1.4 MiB in all
		spans := readSpans(t, path)
		for name, s := range readSpans(t, path+".1") {
			spans[name] = s
		}
		if len(spans) != processes*count {
			t.Errorf("%d spans are left, want %d", len(spans), processes*count)
		}
		onlyTraceFiles(t, filepath.Dir(path))
	}
}

// Many rotations: the disk does not fill up, and all lines are whole. While one process has the
// lock and is not run, the others may write on, hence the third.
func TestTraceStaysBounded(t *testing.T) {
	path := tracePath(t)
	const processes, limit = 5, 1 << 20 // about 5 MiB are written
	runTraceWriters(t, path, processes, limit, 2000)
	total := onlyTraceFiles(t, filepath.Dir(path))
	if most := int64(3 * limit); total > most || total < limit {
		t.Errorf("%d bytes are on disk, want %d to %d", total, limit, most)
	}
	readSpans(t, path)
	readSpans(t, path+".1")
}
