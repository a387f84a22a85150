package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var testKey = storeKey{Server: "https://mcp.example.com/mcp"}

func testCredentials(n int) *credentials {
	text := strings.Repeat(strconv.Itoa(n), 3000)
	return &credentials{
		Issuer: "https://auth.example.com",
		Client: client{ID: "id", Secret: "s&<>", Source: "registered",
			RedirectURI: "http://127.0.0.1:1/callback"},
		Token: token{Access: "a" + text, Refresh: "r" + text, Type: "Bearer", Scope: "read write",
			Obtained: time.Date(2026, 7, 28, 10, 0, 0, 5, time.UTC), Expiry: time.Date(2026, 7, 28,
				11, 0, 0, 0, time.UTC)},
	}
}

// testStore returns a store and a function that returns what it has warned about, and forgets it.
func testStore(t testing.TB, dir string) (*store, func() string) {
	var mu sync.Mutex
	var said strings.Builder
	s := openStore(dir, nil)
	s.warn = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&said, format+"\n", args...)
	}
	return s, func() string {
		mu.Lock()
		defer mu.Unlock()
		defer said.Reset()
		return said.String()
	}
}

// closedDir returns a directory as the store likes it; what t.TempDir makes is open to others.
func closedDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustSave(t testing.TB, s *store, k storeKey, c *credentials) {
	t.Helper()
	if err := s.save(k, c); err != nil {
		t.Fatal(err)
	}
}

func wantAccess(t *testing.T, c *credentials, want *credentials) {
	t.Helper()
	if c == nil || c.Token.Access != want.Token.Access || c.Token.Refresh != want.Token.Refresh {
		t.Fatalf("got %.100v, want %.100v", c, want)
	}
}

func wantNothing(t *testing.T, c *credentials) {
	t.Helper()
	if c != nil {
		t.Fatalf("got credentials of %s, want none", c.Server)
	}
}

func wantSaid(t *testing.T, said, want string) {
	t.Helper()
	if (want == "") != (said == "") || !strings.Contains(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
}

func TestStoreRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "cache")
	s, said := testStore(t, dir)
	wantNothing(t, s.load(testKey))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading made the directory: %v", err)
	}
	second := storeKey{testKey.Server, "work", "g", "read", "https://mcp.example.com/"}
	mustSave(t, s, testKey, testCredentials(1))
	mustSave(t, s, second, testCredentials(2))

	other, _ := testStore(t, dir)
	want := testCredentials(1)
	want.Version, want.storeKey = storeVersion, testKey
	if got := other.load(testKey); got == nil || *got != *want {
		t.Errorf("got %.200v, want %.200v", got, want)
	}
	wantAccess(t, other.load(second), testCredentials(2))
	without := second
	without.GivenScope = ""
	wantNothing(t, other.load(without))
	if all, err := other.list(); err != nil || len(all) != 2 || all[1].storeKey != second {
		t.Errorf("list: %d, %v", len(all), err)
	}
	if _, err := s.remove(testKey); err != nil {
		t.Error(err)
	}
	if _, err := s.remove(testKey); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
	wantNothing(t, other.load(testKey))
	wantAccess(t, other.load(second), testCredentials(2))
	wantSaid(t, said(), "")
	if s.usable() != nil {
		t.Error("not persistent")
	}
}

func TestStoreNames(t *testing.T) {
	long := "https://mcp.example.com/" + strings.Repeat("x", 200)
	for _, test := range []struct {
		key  storeKey
		want string
	}{
		{storeKey{Server: "https://a.example/~"}, "aHR0cHM6Ly9hLmV4YW1wbGUvfg.json"},
		{storeKey{Server: "https://a.example/~", Profile: "p"},
			"aHR0cHM6Ly9hLmV4YW1wbGUvfiNw.json"},
		{storeKey{Server: "https://a.example/~", Grant: "g"}, "aHR0cHM6Ly9hLmV4YW1wbGUvfgBn.json"},
		{storeKey{Server: "https://a.example/~", GivenScope: "s"},
			"aHR0cHM6Ly9hLmV4YW1wbGUvfgBzY29wZT1z.json"},
		{storeKey{Server: "https://a.example/~", GivenResource: "s"},
			"aHR0cHM6Ly9hLmV4YW1wbGUvfgByZXNvdXJjZT1z.json"},
		{storeKey{Server: long},
			"d3809587910566a6a5093cf41bf7246dd12f0b46061c2b8285bb6a793a2f6370.json"},
	} {
		if got := test.key.file(); got != test.want {
			t.Errorf("%v: got %s, want %s", test.key, got, test.want)
		}
	}
	s, _ := testStore(t, closedDir(t))
	mustSave(t, s, storeKey{Server: long}, testCredentials(1))
	wantAccess(t, s.load(storeKey{Server: long}), testCredentials(1))
}

func TestStoreRefusals(t *testing.T) {
	file := func(version int, k storeKey) string {
		c := testCredentials(1)
		c.Version, c.storeKey = version, k
		data, _ := json.Marshal(c)
		return string(data)
	}
	good := file(storeVersion, testKey)
	for _, test := range []struct {
		name, content, said string
		aside               bool
	}{
		{"empty", "", "is damaged", true},
		{"half", good[:len(good)/2], "is damaged", true},
		{"more behind", good + "x", "is damaged", true},
		{"another type", `{"version":1,"server":7}`, "is damaged", true},
		{"no object", `[]`, "is damaged", true},
		{"null", `null`, "is damaged", true},
		{"no version", file(0, testKey), "is damaged", true},
		{"negative version", file(-1, testKey), "is damaged", true},
		{"newer version", `{"version":2,"server":["other types"]}`, "a newer mcp-proxy wrote it",
			false},
		{"another server", file(storeVersion, storeKey{Server: "https://evil.example"}),
			"another server or profile", false},
		{"another profile", file(storeVersion, storeKey{Server: testKey.Server, Profile: "p"}),
			"another server or profile", false},
		{"ambiguous", file(storeVersion,
			storeKey{Server: "https://mcp.example.com",
				Profile: "/mcp"}), "another server or profile", false},
		{"too large", good + strings.Repeat(" ", maxPrivateFile), "it is larger", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, said := testStore(t, closedDir(t))
			path := s.path(testKey.file())
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if all, err := s.list(); len(all) != 0 && test.name == "too large" || err != nil {
				t.Errorf("list: %d, %v", len(all), err)
			}
			s.said.Range(func(k, _ any) bool { s.said.Delete(k); return true })
			said()
			wantNothing(t, s.load(testKey))
			wantSaid(t, said(), test.said)
			wantNothing(t, s.load(testKey))
			wantSaid(t, said(), "")

			kept := path
			if test.aside {
				kept += ".corrupt"
			}
			if data, err := os.ReadFile(kept); err != nil || string(data) != test.content {
				t.Errorf("not kept: %v", err)
			}
			if test.aside {
				mustSave(t, s, testKey, testCredentials(2))
				wantAccess(t, s.load(testKey), testCredentials(2))
				if _, err := s.remove(testKey); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(kept); err == nil {
					t.Error("removing left the damaged file, which may hold a token")
				}
			}
		})
	}
}

func TestStoreLeavesNewerFileAlone(t *testing.T) {
	s, said := testStore(t, closedDir(t))
	const newer = `{"version":99}`
	if err := os.WriteFile(s.path(testKey.file()), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.save(testKey, testCredentials(1)); !errors.Is(err, errNewer) {
		t.Errorf("got %v, want %v", err, errNewer)
	}
	wantSaid(t, said(), "a newer mcp-proxy wrote it")
	if data, _ := os.ReadFile(s.path(testKey.file())); string(data) != newer {
		t.Errorf("the file is now %.50q", data)
	}
}

func TestStoreNoRegularFile(t *testing.T) {
	s, said := testStore(t, closedDir(t))
	path := s.path(testKey.file())
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, s.load(testKey))
	wantSaid(t, said(), "no regular file")
	if s.save(testKey, testCredentials(1)) == nil {
		t.Error("saved over a directory")
	}
	wantSaid(t, said(), "until this process ends")
	if left, _ := filepath.Glob(s.path(tempPattern)); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// No mode keeps root out, but nobody can make a directory below a file.
func TestStoreWithoutDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", filepath.Join(file, "cache")} {
		s, said := testStore(t, dir)
		wantNothing(t, s.load(testKey))
		wantSaid(t, said(), "")
		if s.usable() == nil {
			t.Errorf("%q is persistent", dir)
		}
		if s.save(testKey, testCredentials(1)) == nil {
			t.Error("no error")
		}
		text := said()
		wantSaid(t, text, "until this process ends")
		wantSaid(t, text, "\nhint: set MCP_PROXY_CACHE_DIR")
		testExclusion(t, s, s)
		wantSaid(t, said(), "")
	}
	if got := openStore("", nil).path(testKey.file()); got != "" {
		t.Errorf("without a directory %s is read", got)
	}
}

// What could not be saved counts in this process until another one writes the file.
func TestStoreUnsavedGivesWay(t *testing.T) {
	dir := closedDir(t)
	s, said := testStore(t, dir)
	o := &oauth{cfg: &config{}, key: testKey, store: s}
	other, _ := testStore(t, dir)
	fatal(t, o.keep(testCredentials(1)))
	huge := testCredentials(2)
	huge.Token.Access = strings.Repeat("x", maxPrivateFile)
	if o.keep(huge) == nil {
		t.Fatal("no error")
	}
	wantSaid(t, said(), "would be larger")
	wantAccess(t, o.reread(), huge)
	wantAccess(t, other.load(testKey), testCredentials(1))
	mustSave(t, other, testKey, testCredentials(3))
	wantAccess(t, o.reread(), testCredentials(3))
}

func TestStoreLogin(t *testing.T) {
	dir := closedDir(t)
	s, said := testStore(t, dir)
	if got := s.loadLogin(testKey); got.PID != 0 {
		t.Errorf("got %+v", got)
	}
	now := time.Now().UTC().Round(0)
	want := loginState{Entry: testKey.hash(), PID: 7, Started: now, signInPage: signInPage{URL: "https://auth.example.com/authorize?a=b&c=d", UserCode: "AB-CD", Complete: "https://auth.example.com/d?c=AB-CD"}, Error: "no", Hint: "yes",
		Doubtful: true, Notices: []string{"no"}, Window: now}
	if err := s.saveLogin(testKey, want); err != nil {
		t.Fatal(err)
	}
	other, _ := testStore(t, dir)
	if got := other.loadLogin(testKey); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if all, err := s.list(); len(all) != 0 || err != nil {
		t.Errorf("list: %d, %v", len(all), err)
	}
	wantSaid(t, said(), "")
	mixedUp := storeKey{Server: "https://MCP.example.com/mcp"} // where file systems fold case
	fatal(t, os.Rename(s.path(testKey.login()), s.path(mixedUp.login())))
	if got := s.loadLogin(mixedUp); got.PID != 0 {
		t.Errorf("got another server's note %+v", got)
	}
	os.WriteFile(s.path(testKey.login()), []byte("{"), 0o600)
	if got := other.loadLogin(testKey); got.PID != 0 {
		t.Errorf("got %+v", got)
	}
}

// On a file system that folds case, servers whose names are equal then have locks of their own.
func TestStoreLocksFoldNoCase(t *testing.T) {
	s, _ := testStore(t, closedDir(t))
	for server := range map[string]bool{"https://a.example/1": true, "https://a.example/Y": true} {
		name := storeKey{Server: server}.lock(lockLogin)
		release, ok, err := s.tryLock(storeKey{Server: server}, lockLogin)
		if !ok || err != nil || name != strings.ToLower(name) {
			t.Errorf("%s is %s: got %v, %v", server, name, ok, err)
		}
		defer release()
		if _, err := os.Stat(s.path(name)); err != nil {
			t.Error(err)
		}
	}
}

// Only what a killed writer of ours left is removed, however old the files of others are.
func TestStoreSweepsOldTemporaryFiles(t *testing.T) {
	dir := closedDir(t)
	long := time.Now().Add(-2 * tempLife)
	gone := map[string]bool{".mcp-proxy-1.tmp": true, ".tmp-1": false, "mcp-proxy-1.tmp": false,
		".mcp-proxy-1": false, ".mcp-proxy-d.tmp": false}
	for name := range gone {
		path := filepath.Join(dir, name)
		if name == ".mcp-proxy-d.tmp" {
			fatal(t, os.Mkdir(path, 0o700))
		} else {
			fatal(t, os.WriteFile(path, nil, 0o600))
		}
		fatal(t, os.Chtimes(path, long, long))
	}
	gone[".mcp-proxy-2.tmp"] = false // young: somebody may be writing it
	fatal(t, os.WriteFile(filepath.Join(dir, ".mcp-proxy-2.tmp"), nil, 0o600))
	s, _ := testStore(t, dir)
	mustSave(t, s, testKey, testCredentials(1))
	for name, want := range gone {
		if _, err := os.Stat(filepath.Join(dir, name)); (err != nil) != want {
			t.Errorf("%s: %v, want it gone: %v", name, err, want)
		}
	}
}

// testExclusion takes a lock through one store and tries it through the other.
func testExclusion(t *testing.T, one, other *store) {
	t.Helper()
	release, ok, err := one.tryLock(testKey, "refresh")
	if !ok || err != nil {
		t.Fatalf("first: %v, %v", ok, err)
	}
	if _, ok, err := other.tryLock(testKey, "refresh"); ok || err != nil {
		t.Fatalf("second: %v, %v", ok, err)
	}
	for _, free := range []struct {
		key     storeKey
		purpose string
	}{{testKey, "login"}, {storeKey{Server: testKey.Server, Profile: "p"}, "refresh"}} {
		release, ok, err := other.tryLock(free.key, free.purpose)
		if !ok || err != nil {
			t.Fatalf("%v: %v, %v", free, ok, err)
		}
		release()
	}
	release()
	release() // harmless
	again, ok, err := other.tryLock(testKey, "refresh")
	if !ok || err != nil {
		t.Fatalf("after the release: %v, %v", ok, err)
	}
	release() // not the second holder's lock
	if _, ok, _ := one.tryLock(testKey, "refresh"); ok {
		t.Fatal("a second release gave another's lock back")
	}
	again()
}

func TestLockExcludes(t *testing.T) {
	dir := closedDir(t)
	s, said := testStore(t, dir)
	other, _ := testStore(t, dir)
	testExclusion(t, s, s)
	testExclusion(t, s, other) // by the kernel alone, as from another process
	wantSaid(t, said(), "")
}

func TestLockEndsWithContext(t *testing.T) {
	s, _ := testStore(t, closedDir(t))
	release, err := s.lock(context.Background(), testKey, "login")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := s.lock(ctx, testKey, "login"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	release()
	if _, err := s.lock(ctx, testKey, "login"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a free lock after the end of the context: got %v", err)
	}
}

func TestLockFileInTheWay(t *testing.T) {
	s, _ := testStore(t, closedDir(t))
	if err := os.Mkdir(s.path(testKey.lock("login")), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.tryLock(testKey, "login"); ok || err == nil {
		t.Errorf("got %v, %v", ok, err)
	}
	if _, err := s.lock(context.Background(), testKey, "login"); err == nil {
		t.Error("no error")
	}
}

// TestHelperStore is what child processes of these tests run; it is nothing by itself.
func TestHelperStore(t *testing.T) {
	role, dir, _ := strings.Cut(os.Getenv("STORE_TEST_ROLE"), " ")
	roles := map[string]func(*testing.T, *store){"write": helperWrite, "hold": helperHold,
		"count": helperCount, "full": helperFull}
	if play := roles[role]; play != nil {
		s := openStore(dir, nil)
		play(t, s)
	}
}

func helperWrite(t *testing.T, s *store) {
	fmt.Println("ready")
	for n := os.Getpid(); ; n++ {
		mustSave(t, s, testKey, testCredentials(n%10))
	}
}

func helperHold(t *testing.T, s *store) {
	if _, err := s.lock(context.Background(), testKey, "refresh"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

// helperCount adds to a number in a file, as carelessly as only a holder of the lock may.
func helperCount(t *testing.T, s *store) {
	fmt.Println("ready")
	path := s.path("number")
	for i := 0; i < 25; i++ {
		release, err := s.lock(context.Background(), testKey, "refresh")
		if err != nil {
			t.Fatal(err)
		}
		data, _ := os.ReadFile(path)
		n, _ := strconv.Atoi(string(data))
		if err := os.WriteFile(path, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
			t.Fatal(err)
		}
		release()
	}
}

// helperFull finds a full disk, see TestStoreDiskFull.
func helperFull(t *testing.T, s *store) {
	wantAccess(t, s.load(testKey), testCredentials(1))
	if s.usable() != nil {
		t.Error("not persistent")
	}
	err := s.save(testKey, testCredentials(2))
	if err == nil {
		t.Error("no error")
	}
	wantAccess(t, s.load(testKey), testCredentials(1))
	testExclusion(t, s, s)
	fmt.Println("ready", err)
}

// startHelper starts a child in that role and waits for its first line. It ends with the test at
// the latest.
func startHelper(t *testing.T, role, dir string, wrap ...string) (*exec.Cmd, string) {
	t.Helper()
	args := append(wrap, os.Args[0], "-test.run=^TestHelperStore$")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), testRole+"=helper", "STORE_TEST_ROLE="+role+" "+dir,
		"GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready") {
		t.Fatalf("helper said %q, %v", line, err)
	}
	return cmd, line
}

// Whenever a writer is killed, the file holds what one save wrote.
func TestStoreSurvivesKill(t *testing.T) {
	t.Parallel()
	dir := closedDir(t)
	s, said := testStore(t, dir)
	mustSave(t, s, testKey, testCredentials(0))
	random := rand.New(rand.NewSource(1))
	contents := map[byte]int{}
	for i := 0; i < 500; i++ {
		cmd, _ := startHelper(t, "write", dir)
		<-time.After(time.Duration(random.Intn(5000)) * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		c := s.load(testKey)
		if c == nil {
			t.Fatalf("kill %d: nothing left: %s", i, said())
		}
		digit := c.Token.Access[1]
		contents[digit]++
		wantAccess(t, c, testCredentials(int(digit-'0')))
	}
	wantSaid(t, said(), "")
	if len(contents) < 2 {
		t.Errorf("only ever killed after the same save: %v", contents)
	}
	left, _ := filepath.Glob(filepath.Join(dir, tempPattern))
	t.Logf("killed within a write: %d of 500", len(left))
	if len(left) == 0 {
		t.Error("no kill hit a write, so nothing is proved")
	}
}

func TestStoreTwoWriters(t *testing.T) {
	t.Parallel()
	dir := closedDir(t)
	s, said := testStore(t, dir)
	mustSave(t, s, testKey, testCredentials(0))
	startHelper(t, "write", dir)
	startHelper(t, "write", dir)
	for i := 0; i < 300; i++ {
		c := s.load(testKey)
		if c == nil {
			t.Fatal(said())
		}
		wantAccess(t, c, testCredentials(int(c.Token.Access[1]-'0')))
		if i%10 == 0 {
			mustSave(t, s, testKey, c)
		}
	}
	wantSaid(t, said(), "")
}

func TestLockAcrossProcesses(t *testing.T) {
	t.Parallel()
	dir := closedDir(t)
	var all []*exec.Cmd
	for i := 0; i < 4; i++ {
		cmd, _ := startHelper(t, "count", dir)
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "number")); string(data) != "100" {
		t.Errorf("counted to %s, want 100", data)
	}
}

func TestLockOfKilledHolder(t *testing.T) {
	dir := closedDir(t)
	s, _ := testStore(t, dir)
	holder, _ := startHelper(t, "hold", dir)
	if _, ok, err := s.tryLock(testKey, "refresh"); ok || err != nil {
		t.Fatalf("not held: %v, %v", ok, err)
	}
	ctx, cancel := patience()
	defer cancel()
	time.AfterFunc(firstFollow, func() { holder.Process.Kill() })
	release, err := s.lock(ctx, testKey, "refresh")
	fatal(t, err)
	release()
}

// What is in the cache may be anything: what is loaded is for this server and comes back as it was
// saved, what is damaged is set aside as it was.
func FuzzStoreFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"server":"https://mcp.example.com/mcp","client":{"id":"a","source":"given"},"token":{"access_token":"t"}}`))
	f.Add([]byte(`{"version":1,"server":"https://evil.example","SERVER":"https://mcp.example.com/mcp"}`))
	f.Add([]byte(`{"version":1,"server":"https://mcp.example.com/mcp","token":{"expires_at":"9999-12-31T23:59:59-23:59"}}`))
	f.Add([]byte(`{"pid":1,"started":"2026-07-28T10:00:00Z","ended":"0001-01-01T00:00:00Z","url":"https://as.example/","windows":[{"opened":"9999-12-31T23:59:59Z","purpose":"x"}]}`))
	f.Add([]byte(`{"ended":"-1","windows":null}`))
	f.Add([]byte("{\"started\":\"\x7f\"}"))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte("\x00"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		var said strings.Builder
		s := openStore(dir, &logger{level: levelDebug, w: &said})
		path, note := s.path(testKey.file()), s.path(testKey.login())
		for _, file := range []string{path, note} {
			fatal(t, os.WriteFile(file, data, 0o600))
			defer os.Remove(file)
		}
		defer os.Remove(path + ".corrupt")
		s.loadLogin(testKey)
		if fatal(t, s.saveLogin(testKey, loginState{PID: 7})); s.loadLogin(testKey).PID != 7 {
			t.Fatalf("a note after %q cannot be saved", data)
		}
		c := s.load(testKey)
		for _, line := range strings.Split(strings.TrimSuffix(said.String(), "\n"), "\n") {
			checkSaid(t, line, 3)
		}
		if c == nil {
			left, err := os.ReadFile(path)
			aside, gone := os.ReadFile(path + ".corrupt")
			if err != nil && (gone != nil || !bytes.Equal(aside, data)) || err == nil &&
				!bytes.Equal(left, data) {
				t.Fatalf("%q: the file is lost (%v, %v)", data, err, gone)
			}
			return
		}
		if c.Server != testKey.Server || c.Profile != "" || c.Version != storeVersion {
			t.Fatalf("loaded %+v", c)
		}
		mustSave(t, s, testKey, c)
		saved, _ := json.Marshal(c)
		if loaded, _ := json.Marshal(s.load(testKey)); !bytes.Equal(saved, loaded) {
			t.Fatalf("saved %s, loaded %s", saved, loaded)
		}
	})
}

// The user may remove the cache under running processes: their locks still exclude each other.
func TestStoreLocksAreRecreated(t *testing.T) {
	s, said := testStore(t, filepath.Join(closedDir(t), "cache"))
	other, _ := testStore(t, s.dir)
	for i := 0; i < 2; i++ {
		release, ok, err := s.tryLock(testKey, lockRefresh)
		if !ok || err != nil {
			t.Fatalf("got %v, %v, want the lock", ok, err)
		}
		if _, ok, err := other.tryLock(testKey, lockRefresh); ok || err != nil {
			t.Errorf("got %v, %v for a lock that somebody has", ok, err)
		}
		release()
		if err := os.RemoveAll(s.dir); err != nil {
			t.Fatal(err)
		}
	}
	wantSaid(t, said(), "")
}

// What a newer version wrote stays, however often this one saves, and nobody is told to look there.
func TestStoreKeeps(t *testing.T) {
	s, _ := testStore(t, closedDir(t))
	if !s.keeps(testKey) {
		t.Error("an empty directory keeps nothing")
	}
	mustSave(t, s, testKey, testCredentials(1))
	if !s.keeps(testKey) {
		t.Error("credentials are not kept")
	}
	path := s.path(testKey.file())
	const newer = `{"version":2}`
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 3; i++ {
		if s.keeps(testKey) {
			t.Error("a newer version's file is to be replaced")
		}
		if err := s.save(testKey, testCredentials(2)); !errors.Is(err, errNewer) {
			t.Errorf("got %v, want %v", err, errNewer)
		}
	}
	if data, err := os.ReadFile(path); string(data) != newer {
		t.Errorf("got %q (%v), want the newer version's file", data, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if s.keeps(testKey) {
		t.Error("a directory is to be replaced")
	}
}
