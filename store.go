package main

// The cache directory: one credentials file per server and profile, the locks that processes take
// to refresh or sign in one at a time, the note of a sign-in, and how a private file is opened,
// replaced and removed. It does not know whether a token is still good, nor what a lock is for.

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	storeVersion   = 1
	maxFileName    = 200                    // bytes; file systems stop at 255
	maxLockPoll    = 500 * time.Millisecond // the next holder takes over within a second
	maxPrivateFile = 1 << 20                // bytes; the tokens of some issuers have several KiB
	tempPattern    = ".mcp-proxy-*.tmp"
	tempLife       = 10 * time.Minute // an older temporary file belongs to a writer that was killed
)

// credentials is the content of NAME.json, where NAME is base64url of what storeKey.id returns, or
// its SHA-256 in hex if that name would be too long. Times are in the form of RFC 3339. The version
// rises when an older program would misread the file. Such a program leaves it alone.
type credentials struct {
	Version int `json:"version"`
	storeKey
	Issuer             string `json:"issuer,omitempty"`
	TokenEndpoint      string `json:"token_endpoint,omitempty"`
	RevocationEndpoint string `json:"revocation_endpoint,omitempty"`
	Resource           string `json:"resource,omitempty"`         // sent as the RFC 8707 resource
	RequestedScope     string `json:"requested_scope,omitempty"`  // for the union at step-up
	RefusedScope       string `json:"refused_scope,omitempty"`    // what of it was refused
	ScopeAtRefresh     bool   `json:"scope_at_refresh,omitempty"` // the endpoint wants it there
	Client             client `json:"client"`
	Token              token  `json:"token"`
}

type client struct {
	ID          string `json:"id"`
	Secret      string `json:"secret,omitempty"`
	Source      string `json:"source"` // given | metadata-document | registered
	RedirectURI string `json:"redirect_uri,omitempty"`
	AuthMethod  string `json:"token_endpoint_auth_method,omitempty"`
	SigningAlg  string `json:"token_endpoint_auth_signing_alg,omitempty"` // of a JWT
	Scope       string `json:"scope,omitempty"`                           // as registered
	Doubtful    bool   `json:"doubtful,omitempty"`                        // it may be lost
}

// token's times are the year 1 where they are unknown.
type token struct {
	Access   string    `json:"access_token,omitempty"`
	Refresh  string    `json:"refresh_token,omitempty"`
	Type     string    `json:"token_type,omitempty"`
	Scope    string    `json:"scope,omitempty"`
	Obtained time.Time `json:"obtained_at"`
	Expiry   time.Time `json:"expires_at"`
}

// loginState is the content of NAME.login: the sign-in that is going on or ended last for a server.
// Other processes show their users the URL and the outcome.
type loginState struct {
	Entry   string    `json:"entry"` // hash of the key: file systems that fold case mix up names
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"` // the year 1 while it goes on
	signInPage
	Error   string    `json:"error,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	Type    string    `json:"type,omitempty"`    // the failure's error.type
	Lasting bool      `json:"lasting,omitempty"` // trying again at once would fail the same way
	Notices []string  `json:"notices,omitempty"` // what else the user should know
	Window  time.Time `json:"window"`            // the last browser window that led to no token

	Doubtful bool `json:"doubtful,omitempty"` // the registration: nobody came back with an answer
}

// signInPage is where the user is to go, and with what.
type signInPage struct {
	URL      string `json:"url,omitempty"`
	UserCode string `json:"user_code,omitempty"`    // of the device authorization grant
	Complete string `json:"complete_url,omitempty"` // the address that holds the code
	Note     string `json:"note,omitempty"`         // what the user should know first: whole lines
}

// storeKey identifies cached credentials. Grant is empty for a user's: a machine's token must not
// replace a user's refresh token. Scope and resource are those given on the command line: whoever
// asks for less than another entry holds must not get that entry's token.
type storeKey struct {
	Server        string `json:"server"`
	Profile       string `json:"profile,omitempty"`
	Grant         string `json:"grant,omitempty"`          // client_credentials
	GivenScope    string `json:"given_scope,omitempty"`    // --scope
	GivenResource string `json:"given_resource,omitempty"` // --resource
}

// id is the server's URL, #PROFILE, and a zero byte before each of the grant, scope=SCOPE and
// resource=RESOURCE that are set. It is unambiguous: the URL never holds a fragment, and no
// argument holds a zero byte.
func (k storeKey) id() string {
	id := k.Server
	for _, part := range [][2]string{
		{"#", k.Profile}, {"\x00", k.Grant}, {"\x00scope=", k.GivenScope},
		{"\x00resource=", k.GivenResource},
	} {
		if part[1] != "" {
			id += part[0] + part[1]
		}
	}
	return id
}

func (k storeKey) base() string {
	base := base64.RawURLEncoding.EncodeToString([]byte(k.id()))
	if len(base)+len(".json") > maxFileName {
		return k.hash()
	}
	return base
}

func (k storeKey) hash() string { return fmt.Sprintf("%x", sha256.Sum256([]byte(k.id()))) }

func (k storeKey) file() string  { return k.base() + ".json" }
func (k storeKey) login() string { return k.base() + ".login" }

// lock is a name in lower case: on a file system that folds case, two servers must not share a
// lock.
func (k storeKey) lock(purpose string) string { return k.hash() + "." + purpose + ".lock" }

type store struct {
	dir    string
	warn   func(format string, args ...any)
	usable func() error // why nothing can be saved, nil if it can

	locked sync.Map // names of the locks that this process holds
	said   sync.Map // what was warned about
}

// openStore touches nothing yet: a server without authorization leaves no directory behind.
func openStore(dir string, log *logger) *store {
	s := &store{dir: dir, warn: log.warnf}
	s.usable = sync.OnceValue(s.prepare)
	return s
}

// prepare makes the directory if there is none and removes what killed writers left in it.
func (s *store) prepare() error {
	if s.dir == "" {
		return errors.New("no cache directory is known")
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := checkDir(s.dir); err != nil {
		return err
	}
	left, _ := fs.Glob(os.DirFS(s.dir), tempPattern)
	for _, name := range left {
		info, err := os.Lstat(s.path(name))
		if err == nil && acceptable(info) == nil && time.Since(info.ModTime()) > tempLife {
			os.Remove(s.path(name))
		}
	}
	return probe(s.dir)
}

// checkDir returns an error if another user can replace what is in the directory. Its mode is not
// changed: if others can write to it, its owner may have wanted that.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !isOurs(info):
		return fmt.Errorf("%s belongs to another user", dir)
	case isLoose(info) && info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others can write to %s (mode %#o)", dir, info.Mode().Perm())
	}
	return nil
}

// probe reports whether a file can be made in the directory, which its mode alone does not tell.
func probe(dir string) error {
	f, err := os.CreateTemp(dir, tempPattern)
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}

// keeps reports whether other processes will find credentials that are saved for the key. The
// caller holds the lock of the sign-in, whose note is saved to find out if there is room.
func (s *store) keeps(k storeKey) bool {
	info, err := os.Lstat(s.path(k.file()))
	return (err != nil || !info.IsDir()) && !s.isNewer(k.file()) &&
		s.saveLogin(k, s.loadLogin(k)) == nil
}

// load returns the credentials, nil if there are none that can be used. It warns once about a file
// that it ignores, and renames a damaged one to NAME.json.corrupt.
func (s *store) load(k storeKey) *credentials {
	name, path := k.file(), s.path(k.file())
	c, seen, err := s.parse(name)
	if errors.Is(err, errDamaged) {
		now, gone := os.Lstat(path)
		switch {
		case gone != nil || !os.SameFile(seen, now) || !seen.ModTime().Equal(now.ModTime()):
			return nil // another process has replaced it
		case patiently(func() error { return os.Rename(path, path+".corrupt") }) == nil:
			s.warn("%s is damaged, kept as %s.corrupt", path, name)
			return nil
		}
	}
	s.ignore(name, err)
	return c
}

// look returns the credentials and changes none of them; never nil.
func (s *store) look(k storeKey) (*credentials, error) {
	c, _, err := s.parse(k.file())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &credentials{}, nil
	case err != nil:
		return &credentials{}, &fs.PathError{Op: "read", Path: s.path(k.file()), Err: err}
	}
	return c, nil
}

func (s *store) save(k storeKey, c *credentials) error {
	file := *c
	file.Version, file.storeKey = storeVersion, k
	return s.write(k.file(), &file)
}

// knows reports whether there is anything to remove, even if it cannot be read.
func (s *store) knows(k storeKey) bool {
	for _, name := range []string{k.file(), k.file() + ".corrupt", k.login()} {
		if _, err := os.Lstat(s.path(name)); err == nil {
			return true
		}
	}
	return false
}

// remove removes the credentials, the damaged file that may still hold a token, and the note of the
// last sign-in. It leaves the note of one that is going on, and reports it: others find its page
// there.
func (s *store) remove(k storeKey) (signingIn bool, err error) {
	names := []string{k.file() + ".corrupt", k.file(), k.login()}
	unlock, free, err := s.tryLock(k, lockLogin)
	if free {
		defer unlock()
	} else {
		signingIn, names = err == nil, names[:2]
	}
	for _, name := range names {
		path := s.path(name)
		failed := patiently(func() error { return os.Remove(path) })
		if _, gone := os.Lstat(path); gone == nil && failed != nil {
			err = failed
		}
	}
	return signingIn, err
}

// list returns the content of every credentials file that can be used, in the order of their names.
func (s *store) list() (all []*credentials, err error) {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		c, _, err := s.parse(e.Name())
		if err == nil {
			all = append(all, c)
		}
		s.ignore(e.Name(), err)
	}
	if errors.Is(err, fs.ErrNotExist) { // so is a directory without a name
		err = nil
	}
	return all, err
}

// loadLogin returns the zero value if there is no note of the server's or it cannot be read.
func (s *store) loadLogin(k storeKey) (st loginState) {
	data, _, err := s.read(k.login())
	if err == nil && json.Unmarshal(data, &st) != nil {
		err = errors.New("it is damaged") // an error of a time quotes what stands there
	}
	s.ignore(k.login(), err)
	if err != nil || st.Entry != k.hash() {
		return loginState{}
	}
	return st
}

func (s *store) saveLogin(k storeKey, st loginState) error {
	st.Entry = k.hash()
	return s.write(k.login(), &st)
}

// lock waits for the lock of that purpose until ctx ends. It polls, because ctx could not end a
// wait in the kernel; polling twice a second costs 0.5 ms of CPU.
func (s *store) lock(ctx context.Context, k storeKey, purpose string) (release func(), err error) {
	for wait := 4 * time.Millisecond; ctx.Err() == nil; wait = min(wait*3/2, maxLockPoll) {
		release, ok, err := s.tryLock(k, purpose)
		if ok || err != nil {
			return release, err
		}
		sleep(ctx, wait)
	}
	return nil, ctx.Err()
}

// tryLock takes the lock of that purpose ("refresh", "login") if nobody holds it, in this process
// or in another; ok reports that. If there is nothing to lock with, it excludes only callers in
// this process. It never removes a lock file: a process that has opened it already would lock the
// removed file, the next one a new file of the same name, and both would hold the lock.
func (s *store) tryLock(k storeKey, purpose string) (release func(), ok bool, err error) {
	name := k.lock(purpose)
	if _, taken := s.locked.LoadOrStore(name, true); taken {
		return nil, false, nil
	}
	var f *os.File
	release = sync.OnceFunc(func() {
		if f != nil {
			unlock(f)
		}
		s.locked.Delete(name)
	})
	if s.usable() == nil {
		f, _, err = openPrivate(s.path(name), os.O_RDWR|os.O_CREATE)
	}
	switch {
	case f == nil && err == nil, err != nil && probe(s.dir) != nil:
		return release, true, nil // no directory, or its disk has filled up or became read-only
	case err != nil:
		release()
		return nil, false, withHint(err, "remove %s", s.path(name))
	}
	if ok, err = tryLock(f); err != nil { // NFS without a lock service, some FUSE file systems
		s.warnOnce("lock", "other processes may refresh or sign in at the same time: %v",
			withHint(err, "set MCP_PROXY_CACHE_DIR to a directory on a local disk"))
	} else if !ok {
		release()
		return nil, false, nil
	}
	return release, true, nil
}

var errDamaged = errors.New("it is damaged")
var errNewer = errors.New("a newer mcp-proxy wrote it")

// parse returns the credentials in a file and its state at that moment. It looks at the version
// first: a newer file may not even have our types. A file without one is not ours.
func (s *store) parse(name string) (*credentials, fs.FileInfo, error) {
	data, seen, err := s.read(name)
	if err != nil {
		return nil, nil, err
	}
	var head struct{ Version int }
	c := new(credentials)
	switch bad := json.Unmarshal(data, &head); {
	case bad == nil && head.Version > storeVersion:
		return nil, seen, errNewer
	case bad != nil || head.Version < 1 || json.Unmarshal(data, c) != nil:
		return nil, seen, errDamaged
	case c.file() != name:
		return nil, seen, errors.New("it is for another server or profile")
	}
	return c, seen, nil
}

func (s *store) isNewer(name string) bool {
	_, _, err := s.parse(name)
	return errors.Is(err, errNewer)
}

// read returns the content of a file and its state at that moment. It makes the file private.
func (s *store) read(name string) ([]byte, fs.FileInfo, error) {
	path := s.path(name)
	if _, err := os.Lstat(path); err != nil {
		return nil, nil, fs.ErrNotExist // write says why a directory cannot be used
	}
	if err := checkDir(s.dir); err != nil {
		return nil, nil, err
	}
	f, info, err := openPrivate(path, os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if isLoose(info) { // some file systems have one mode for all files: once
		s.warnOnce("mode of "+name, "closing %s to others (mode %#o)", path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPrivateFile+1))
	if len(data) > maxPrivateFile {
		err = fmt.Errorf("it is larger than %d bytes", maxPrivateFile)
	}
	return data, info, err
}

// write replaces a file in one step: whoever reads it, or kills this process, finds the old content
// or the new. It warns once about an error.
func (s *store) write(name string, content any) (err error) {
	defer func() {
		if err != nil {
			s.warnOnce("unsaved", "a sign-in is kept only until this process ends: %v", err)
		}
	}()
	path := s.path(name)
	data, err := json.MarshalIndent(content, "", "  ")
	switch {
	case err != nil:
		return err
	case s.usable() != nil:
		return withHint(s.usable(), "set MCP_PROXY_CACHE_DIR to a directory of your own")
	case filepath.Ext(name) == ".json" && s.isNewer(name):
		return fmt.Errorf("%s: %w", path, errNewer) // a note is good for minutes: any version may
	case len(data) > maxPrivateFile:
		return fmt.Errorf("%s would be larger than %d bytes", path, maxPrivateFile)
	}
	_ = os.MkdirAll(s.dir, 0o700)               // the user may have removed it
	f, err := os.CreateTemp(s.dir, tempPattern) // mode 0600
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync() // else a power cut may leave the new name with nothing in it
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = patiently(func() error { return os.Rename(f.Name(), path) })
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (s *store) ignore(name string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.warnOnce(name, "ignoring %s: %v", s.path(name), err)
	}
}

// warnOnce prints the last argument's hint too, if that is an error with one.
func (s *store) warnOnce(about, format string, args ...any) {
	if _, said := s.said.LoadOrStore(about, true); said {
		return
	}
	if err, ok := args[len(args)-1].(error); ok && hintOf(err) != "" {
		format, args = format+"\nhint: %s", append(args, hintOf(err))
	}
	s.warn(format, args...)
}

// path is empty, which no call accepts, if no directory is known: it must not be the working
// directory.
func (s *store) path(name string) string {
	if s.dir == "" {
		return ""
	}
	return filepath.Join(s.dir, name)
}

// openPrivate opens a regular file of this user's and closes it to others; the FileInfo has the
// mode from before. It refuses a symbolic link, which could lead to any file of the user's, and
// does not wait for a fifo. With O_CREATE it makes the file and its directory if they are missing.
func openPrivate(path string, flags int) (f *os.File, info fs.FileInfo, err error) {
	info, err = os.Lstat(path) // before any open: opening a device may do something
	if err == nil {
		err = acceptable(info)
	} else if errors.Is(err, fs.ErrNotExist) && flags&os.O_CREATE != 0 {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = patiently(func() (err error) {
			f, err = os.OpenFile(path, flags|warily, 0o600)
			return err
		})
	}
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err == nil {
		err = acceptable(info) // the path may lead elsewhere by now
	}
	if err == nil && isLoose(info) {
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
	}
	return f, info, err
}

func acceptable(info fs.FileInfo) error {
	return firstBroken(
		rule{!info.Mode().IsRegular(), "it is no regular file", ""},
		rule{!isOurs(info), "it belongs to another user", ""},
	)
}
