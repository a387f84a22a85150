//go:build !windows

package main

// What the store and the sockets owe to the system: modes, owners, links, fifos, a full disk, peers
// that are gone.

import (
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestStoreModes(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "a")
	s, said := testStore(t, filepath.Join(parent, "cache"))
	mustSave(t, s, testKey, testCredentials(1))
	if err := s.saveLogin(testKey, loginState{}); err != nil {
		t.Fatal(err)
	}
	release, _, _ := s.tryLock(testKey, "login")
	release()
	for path, want := range map[string]fs.FileMode{
		parent: fs.ModeDir | 0o700, s.dir: fs.ModeDir | 0o700, s.path(testKey.file()): 0o600,
		s.path(testKey.login()): 0o600, s.path(testKey.lock("login")): 0o600,
	} {
		if got := modeOf(t, path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
	wantSaid(t, said(), "")
}

func TestStoreTightensModes(t *testing.T) {
	dir := closedDir(t)
	s, said := testStore(t, dir)
	mustSave(t, s, testKey, testCredentials(1))
	said()
	os.Chmod(s.path(testKey.file()), 0o644)
	wantAccess(t, s.load(testKey), testCredentials(1))
	wantSaid(t, said(), "to others (mode 0644)")
	if got := modeOf(t, s.path(testKey.file())); got != 0o600 {
		t.Errorf("got %v", got)
	}
}

// A directory that was there before keeps its mode, and holds no token if others can write to it.
func TestStoreDirectoryOfOthers(t *testing.T) {
	for _, test := range []struct {
		name string
		mode fs.FileMode
		uid  int
		said string
	}{
		{"others read", 0o755, os.Geteuid(), ""},
		{"group writes", 0o770, os.Geteuid(), "others can write to "},
		{"shared", 0o777 | fs.ModeSticky, os.Geteuid(), "others can write to "},
		{"another owner", 0o755, 1, " belongs to another user"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := closedDir(t)
			s, _ := testStore(t, dir)
			mustSave(t, s, testKey, testCredentials(1)) // while it is ours alone
			if test.uid != os.Geteuid() && os.Geteuid() != 0 {
				return // only root can give it away
			}
			fatal(t, os.Chown(dir, test.uid, -1))
			fatal(t, os.Chmod(dir, test.mode))
			before, _ := os.ReadFile(s.path(testKey.file()))
			s, said := testStore(t, dir)
			if c := s.load(testKey); (c != nil) != (test.said == "") {
				t.Errorf("loaded %.50v", c)
			}
			wantSaid(t, said(), test.said)
			if err := s.save(testKey, testCredentials(2)); (err == nil) != (test.said == "") {
				t.Errorf("saved: %v", err)
			}
			wantSaid(t, said(), test.said)
			after, _ := os.ReadFile(s.path(testKey.file()))
			if string(before) == string(after) != (test.said != "") {
				t.Error("the file was replaced, or not")
			}
			testExclusion(t, s, s)
			if locks, _ := filepath.Glob(s.path("*.lock")); (len(locks) != 0) != (test.said == "") {
				t.Errorf("got the locks %q", locks)
			}
			if got := modeOf(t, dir); got != fs.ModeDir|test.mode {
				t.Errorf("got %v, want %v", got, test.mode)
			}
		})
	}
}

func TestStoreSymlink(t *testing.T) {
	s, said := testStore(t, closedDir(t))
	mustSave(t, s, testKey, testCredentials(1))
	path := s.path(testKey.file())
	target := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(path, target); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(target)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	said()
	wantNothing(t, s.load(testKey))
	wantSaid(t, said(), "no regular file")
	mustSave(t, s, testKey, testCredentials(2)) // in the link's place, not at its end
	wantAccess(t, s.load(testKey), testCredentials(2))
	if after, _ := os.ReadFile(target); string(after) != string(before) {
		t.Error("wrote through the symbolic link")
	}

	lock := s.path(testKey.lock("login"))
	if err := os.Symlink(filepath.Join(t.TempDir(), "made"), lock); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.tryLock(testKey, "login"); ok || err == nil {
		t.Errorf("a lock file that is a symbolic link: %v, %v", ok, err)
	}
}

func TestStoreFifo(t *testing.T) {
	s, said := testStore(t, closedDir(t))
	if err := syscall.Mkfifo(s.path(testKey.file()), 0o600); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, s.load(testKey)) // and does not wait for a writer
	wantSaid(t, said(), "no regular file")
	mustSave(t, s, testKey, testCredentials(1))
	wantAccess(t, s.load(testKey), testCredentials(1))
}

func TestStoreOtherOwner(t *testing.T) {
	if os.Geteuid() != 0 { // cannot give a file away, but the root directory is somebody else's
		info, err := os.Stat("/")
		if err != nil || isOurs(info) {
			t.Errorf("/ is ours? %v", err)
		}
		return
	}
	s, said := testStore(t, closedDir(t))
	mustSave(t, s, testKey, testCredentials(1))
	if err := os.Chown(s.path(testKey.file()), 1, 1); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, s.load(testKey))
	wantSaid(t, said(), "belongs to another user")
	path := s.path(testKey.lock("login")) // which another user could hold for ever
	fatal(t, os.WriteFile(path, nil, 0o666))
	fatal(t, os.Chown(path, 1, 1))
	if _, ok, err := s.tryLock(testKey, "login"); ok || hintOf(err) != "remove "+path {
		t.Errorf("got %v, %v", ok, err)
	}
}

// A limit on the size of files stands for the full disk: both let files be made and fail the
// writing.
func TestStoreDiskFull(t *testing.T) {
	dir := closedDir(t)
	s, _ := testStore(t, dir)
	mustSave(t, s, testKey, testCredentials(1))
	signal.Ignore(syscall.SIGXFSZ) // so does the child then
	defer signal.Reset(syscall.SIGXFSZ)
	cmd, line := startHelper(t, "full", dir, "sh", "-c", `ulimit -f 1; exec "$0" "$@"`)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(line, syscall.EFBIG.Error()) {
		t.Errorf("got %q, want %q", line, syscall.EFBIG)
	}
	wantAccess(t, s.load(testKey), testCredentials(1))
	if left, _ := filepath.Glob(filepath.Join(dir, tempPattern)); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A half-open connection is found within a minute: silence by probes, and on Linux and macOS what
// was sent by a time limit. Whether the system keeps to it is not ours to test.
func TestDeadPeerIsFound(t *testing.T) {
	raw, err := dialed(t).SyscallConn()
	fatal(t, err)
	option := func(level, name int) (value int) {
		t.Helper()
		fatal(t, raw.Control(func(fd uintptr) {
			value, err = syscall.GetsockoptInt(int(fd), level, name)
		}))
		fatal(t, err)
		return value
	}
	if got := option(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); got == 0 {
		t.Error("no probes are sent")
	}
	options := socketOptions[runtime.GOOS]
	if len(options) < 3 {
		return // the system's own time
	}
	for _, o := range options {
		if got := option(syscall.IPPROTO_TCP, o[0]); got != o[1] {
			t.Errorf("option %d: got %d, want %d", o[0], got, o[1])
		}
	}
	idle, interval, count := options[0][1], options[1][1], options[2][1]
	if idle+interval*count > 60 {
		t.Errorf("%d s and then %d probes of %d s, want a minute at most", idle, count, interval)
	}
}

// twoFiles are files of one descriptor, as stdin's are, which must not be closed behind each other.
var twoFiles []*os.File

// Reads of stdin wait in the poller, unless somebody else may have the file.
func TestPolledStdin(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	fatal(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	regular, err := os.Create(filepath.Join(t.TempDir(), "x"))
	fatal(t, err)
	defer regular.Close()
	reader, writer, err := os.Pipe() // it is in the poller
	fatal(t, err)
	defer reader.Close()
	defer writer.Close()
	for name, test := range map[string][2]*os.File{
		"a file": {regular, writer}, "stdout": {ours, ours}, "polled": {reader, writer},
	} {
		if got, _ := polled(test[0], test[1]); got != test[0] {
			t.Errorf("%s: got another file", name)
		}
	}
	reads, restore := polled(ours, theirs)
	stdin, _ := reads.(*os.File)
	twoFiles = append(twoFiles, ours, stdin)
	if stdin == ours || stdin.SetReadDeadline(time.Time{}) != nil {
		t.Fatal("it is not in the poller")
	}
	theirs.WriteString("x")
	theirs.Close()
	if got, err := io.ReadAll(stdin); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	restore()
	flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[0]), syscall.F_GETFL, 0)
	if flags&syscall.O_NONBLOCK != 0 {
		t.Error("who reads it next finds it non-blocking")
	}
}

// Whoever reads the same pipe after the program, as the next command of a script does, can.
func TestStdinIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	fatal(t, err)
	defer reader.Close()
	ours := int(reader.Fd()) // blocking from here on
	theirs, err := syscall.Dup(ours)
	fatal(t, err)
	p := newUser(t).startWith(os.NewFile(uintptr(theirs), "stdin"), writer, "-u", startMCP(t).url)
	p.initialize()
	p.closeStdin()
	p.wait()
	flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(ours), syscall.F_GETFL, 0)
	if flags&syscall.O_NONBLOCK != 0 {
		t.Error("it is non-blocking")
	}
}
