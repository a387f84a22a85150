//go:build unix && !aix && !solaris

package main

import (
	"context"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
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
		s.path(testKey.login()): 0o600, s.path(testKey.base() + ".login.lock"): 0o600,
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
	wantSaid(t, said(), "is open to others (mode 0644)")
	if got := modeOf(t, s.path(testKey.file())); got != 0o600 {
		t.Errorf("got %v", got)
	}
	os.Chmod(dir, 0o755)
	s, said = testStore(t, dir)
	s.persistent()
	wantSaid(t, said(), "is open to others (mode 0755)")
	if got := modeOf(t, dir).Perm(); got != 0o700 {
		t.Errorf("got %v", got)
	}
}

func TestStoreLeavesSharedDirectoryOpen(t *testing.T) {
	dir := closedDir(t)
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	s, _ := testStore(t, dir)
	mustSave(t, s, testKey, testCredentials(1))
	if got := modeOf(t, dir).Perm(); got != 0o777 {
		t.Errorf("got %v", got)
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

	lock := s.path(testKey.base() + ".login.lock")
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
}

// A limit on the size of files stands for the full disk: both let files be made and fail the writing.
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
	if left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// 50 ms in 30 s are allowed to a follower. The first two seconds are the dearest, it asks more often then;
// the bound leaves room for a busy machine, and a wait that asks every few milliseconds takes ten times as much.
func TestLockWaitingCostsLittle(t *testing.T) {
	s, _ := testStore(t, closedDir(t))
	other, _ := testStore(t, s.dir)
	release, err := other.lock(context.Background(), testKey, "login")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	before := cpuTime(t)
	s.lock(ctx, testKey, "login")
	used := cpuTime(t) - before
	t.Logf("waiting for two seconds took %v of CPU", used)
	if used > 20*time.Millisecond {
		t.Errorf("waiting for two seconds took %v of CPU", used)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
