package main

// The cache directory: one credentials file per server and profile, the locks that processes take to
// refresh or sign in one at a time, and the note of the sign-in that is going on. It knows names and
// formats; how a file is read and written safely is private.go's business, whether a token is still good
// and what a lock is for the caller's.

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	storeVersion = 1
	maxFileName  = 200                    // bytes; file systems stop at 255, and the names of locks are longer
	maxLockPoll  = 500 * time.Millisecond // the next holder takes over within a second
)

// credentials is the content of NAME.json, where NAME is base64url of what storeKey.id returns, or its
// SHA-256 in hex if that name would be too long:
//
//	{
//	  "version": 1,
//	  "server": "https://mcp.example.com/mcp",
//	  "issuer": "https://auth.example.com",
//	  "token_endpoint": "https://auth.example.com/token",
//	  "resource": "https://mcp.example.com/mcp",
//	  "client": {"id": "…", "source": "registered", "redirect_uri": "http://127.0.0.1:41234/callback"},
//	  "token": {"access_token": "…", "refresh_token": "…", "token_type": "Bearer",
//	            "obtained_at": "2026-07-28T10:00:00Z", "expires_at": "2026-07-28T11:00:00Z"}
//	}
//
// The version rises when an older program would misread the file. Such a program leaves it alone.
type credentials struct {
	Version            int    `json:"version"`
	Server             string `json:"server"`
	Profile            string `json:"profile,omitempty"`
	GivenScope         string `json:"given_scope,omitempty"`    // --scope
	GivenResource      string `json:"given_resource,omitempty"` // --resource
	Issuer             string `json:"issuer,omitempty"`
	TokenEndpoint      string `json:"token_endpoint,omitempty"`
	RevocationEndpoint string `json:"revocation_endpoint,omitempty"`
	Resource           string `json:"resource,omitempty"`         // sent as the RFC 8707 resource
	RequestedScope     string `json:"requested_scope,omitempty"`  // what was asked for, for the union at step-up
	RefusedScope       string `json:"refused_scope,omitempty"`    // what of it the authorization server refused
	ScopeAtRefresh     bool   `json:"scope_at_refresh,omitempty"` // the token endpoint wants the scope there
	Grant              string `json:"grant,omitempty"`            // client_credentials; none: a user has signed in
	Client             client `json:"client"`
	Token              token  `json:"token"`
}

type client struct {
	ID          string `json:"id"`
	Secret      string `json:"secret,omitempty"`
	Source      string `json:"source"` // given | metadata-document | registered
	RedirectURI string `json:"redirect_uri,omitempty"`
	AuthMethod  string `json:"token_endpoint_auth_method,omitempty"`
	SigningAlg  string `json:"token_endpoint_auth_signing_alg,omitempty"` // with private_key_jwt
	Scope       string `json:"scope,omitempty"`                           // that a registration is good for; "": nobody said
	Doubtful    bool   `json:"doubtful,omitempty"`                        // a registration that may be lost: the next sign-in makes another
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
// Other processes tell their users the URL and the outcome by it.
type loginState struct {
	Entry   string    `json:"entry"` // hash of the key: file systems that fold case mix up names
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"` // the year 1 while it goes on
	signInPage
	Error   string    `json:"error,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	Code    int       `json:"code,omitempty"`    // the exit code that the failure stands for
	Lasting bool      `json:"lasting,omitempty"` // the same would come out if it were tried again at once
	Notices []string  `json:"notices,omitempty"` // what else the user should know
	Window  time.Time `json:"window"`            // the last browser window, unless it led to a token
}

// signInPage is where the user is to go, and with what.
type signInPage struct {
	URL      string `json:"url,omitempty"`
	UserCode string `json:"user_code,omitempty"`    // of the device authorization grant
	Complete string `json:"complete_url,omitempty"` // the address that holds the code
	Note     string `json:"note,omitempty"`         // what the user should know first
}

// storeKey identifies cached credentials. grant is empty for a user's: a machine's token must not
// replace a user's refresh token. scope and resource are those given on the command line: whoever asks
// for less than another entry holds must not get that entry's token.
type storeKey struct{ server, profile, grant, scope, resource string }

func keyOf(c *credentials) storeKey {
	return storeKey{c.Server, c.Profile, c.Grant, c.GivenScope, c.GivenResource}
}

// id is the server's URL, #PROFILE, and a zero byte before each of the grant, scope=SCOPE and
// resource=RESOURCE that are set. It is unambiguous: the URL never holds a fragment, and no argument
// holds a zero byte.
func (k storeKey) id() string {
	id := k.server
	for _, part := range [][2]string{{"#", k.profile}, {"\x00", k.grant}, {"\x00scope=", k.scope}, {"\x00resource=", k.resource}} {
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

func (k storeKey) hash() string {
	sum := sha256.Sum256([]byte(k.id()))
	return hex.EncodeToString(sum[:])
}

func (k storeKey) file() string  { return k.base() + ".json" }
func (k storeKey) login() string { return k.base() + ".login" }

// store keeps what cannot be written in memory, so that a full disk or a read-only home costs the next
// process a sign-in but not this one its session.
type store struct {
	dir  string
	warn func(format string, args ...any)

	once    sync.Once
	problem error // why the directory cannot be written; set once by usable

	locked sync.Map // names of locks this process has
	said   sync.Map // what was warned about

	mu      sync.Mutex // guards unsaved
	unsaved map[string]unsavedFile
}

// unsavedFile is content that stands for a file until the file changes: then another process had more
// luck, and its content is the newer one. No data means that the file could not be removed.
type unsavedFile struct {
	data []byte
	seen fs.FileInfo // the file when writing it failed, nil if there was none
}

// openStore touches nothing yet: a server without authorization leaves no directory behind.
func openStore(dir string, log *logger) *store {
	return &store{dir: dir, warn: log.warnf, unsaved: map[string]unsavedFile{}}
}

// persistent tells whether other processes will see what this one saves.
func (s *store) persistent() bool { return s.usable() == nil }

// keeps tells whether credentials saved for the key will be found by other
// processes: no newer program's file is in their place, nor a directory, and
// there is room. What can be tried is tried with the note of the sign-in, whose
// lock the caller has.
func (s *store) keeps(k storeKey) bool {
	info, err := os.Lstat(s.path(k.file()))
	return s.persistent() && !(err == nil && info.IsDir()) && !s.isNewer(k.file()) && s.saveLogin(k, s.loadLogin(k)) == nil
}

func (s *store) usable() error {
	s.once.Do(func() {
		if err := makePrivateDir(s.dir, s.warn); err != nil {
			s.problem = withHint(err, "set MCP_PROXY_CACHE_DIR to a directory that can be written")
			s.warnOnce("unsaved", "signing in will be necessary again after this process ends: %v", s.problem)
		}
	})
	return s.problem
}

// load returns a copy of the credentials, nil if there are none that can be used. What is wrong with a
// file is said once; a damaged one is set aside as NAME.json.corrupt.
func (s *store) load(k storeKey) *credentials {
	c, seen, err := s.parse(k.file())
	switch {
	case errors.Is(err, errDamaged):
		s.setAside(k.file(), seen)
	case err != nil:
		s.ignore(k.file(), err)
	case keyOf(c) != k:
		s.ignore(k.file(), errForeign)
	default:
		return c
	}
	return nil
}

// look returns the credentials as they are and touches nothing, not even a damaged file; nil if there are
// none.
func (s *store) look(k storeKey) (*credentials, error) {
	c, _, err := s.parse(k.file())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err == nil && keyOf(c) != k:
		err = errForeign
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: s.path(k.file()), Err: err}
	}
	return c, nil
}

// save writes the credentials under the key's name. After an error, which has been said, load returns
// them all the same in this process.
func (s *store) save(k storeKey, c *credentials) error {
	file := *c
	file.Version, file.Server, file.Profile, file.Grant = storeVersion, k.server, k.profile, k.grant
	file.GivenScope, file.GivenResource = k.scope, k.resource
	file.Token = c.Token.storable()
	data, err := json.MarshalIndent(&file, "", "  ")
	if err != nil {
		return err
	}
	if s.isNewer(k.file()) {
		return s.settle(k.file(), data, fmt.Errorf("%s: %w", s.path(k.file()), errNewer))
	}
	return s.write(k.file(), data)
}

// knows tells whether there is anything to forget, were it unreadable.
func (s *store) knows(k storeKey) bool {
	for _, name := range []string{k.file(), k.file() + ".corrupt", k.login()} {
		if _, err := os.Lstat(s.path(name)); err == nil {
			return true
		}
	}
	return false
}

// remove forgets the credentials, and the damaged file that may still hold a token.
func (s *store) remove(k storeKey) error {
	err := removePrivate(s.path(k.file() + ".corrupt"))
	if gone := removePrivate(s.path(k.file())); gone != nil {
		err = gone
	}
	return s.settle(k.file(), nil, err)
}

// list returns every file that can be used, in the order of their names.
func (s *store) list() ([]*credentials, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && s.dir != "" && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []*credentials
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		c, _, err := s.parse(e.Name())
		if err == nil && keyOf(c).file() != e.Name() {
			err = errForeign
		}
		if err != nil {
			s.ignore(e.Name(), err)
			continue
		}
		all = append(all, c)
	}
	return all, nil
}

// loadLogin returns the zero value when there is no note or it cannot be read.
func (s *store) loadLogin(k storeKey) loginState {
	var st loginState
	data, _, err := s.read(k.login())
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	if err != nil {
		s.ignore(k.login(), err)
		return loginState{}
	}
	if st.Entry != k.hash() {
		return loginState{}
	}
	return st
}

// removeLogin leaves the note of a sign-in that is going on, and says so: others find its page by it.
func (s *store) removeLogin(k storeKey) (going bool, err error) {
	unlock, free, err := s.tryLock(k, lockLogin)
	if err != nil || !free {
		return !free, err
	}
	defer unlock()
	return false, s.settle(k.login(), nil, removePrivate(s.path(k.login())))
}

func (s *store) saveLogin(k storeKey, st loginState) error {
	st.Entry = k.hash()
	data, err := json.MarshalIndent(&st, "", "  ")
	if err != nil {
		return err
	}
	return s.write(k.login(), data)
}

// lock waits for the lock of that purpose until ctx ends. It asks again and again instead of blocking in
// the kernel, because ctx could not end such a wait; what twice a second costs is the waking up, 0.5 ms.
func (s *store) lock(ctx context.Context, k storeKey, purpose string) (release func(), err error) {
	for wait := 4 * time.Millisecond; ctx.Err() == nil; wait = min(wait*3/2, maxLockPoll) {
		release, ok, err := s.tryLock(k, purpose)
		if ok || err != nil {
			return release, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil, ctx.Err()
}

// tryLock takes the lock of that purpose ("refresh", "login") if nobody has it, in this process or in
// another; ok tells. Where the directory cannot be written it excludes this process's callers alone.
func (s *store) tryLock(k storeKey, purpose string) (release func(), ok bool, err error) {
	name := k.base() + "." + purpose + ".lock"
	// The kernel's lock would exclude the callers in this process too, except where it belongs to the
	// process (lock_fcntl.go) and where there is no directory to lock in.
	if _, taken := s.locked.LoadOrStore(name, true); taken {
		return nil, false, nil
	}
	f, ok, err := s.kernelLock(name)
	if !ok {
		s.locked.Delete(name)
		return nil, false, err
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			if f != nil {
				unlock(f)
			}
			s.locked.Delete(name)
		})
	}, true, nil
}

// kernelLock returns true and no file where there is nothing to lock with. The lock file is never removed:
// a process that has opened it already would lock the file that is gone, the next one a new file of the
// same name, and both would hold the lock.
func (s *store) kernelLock(name string) (*os.File, bool, error) {
	if s.usable() != nil {
		return nil, true, nil
	}
	f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE|warily, 0o600)
	if errors.Is(err, fs.ErrNotExist) && os.MkdirAll(s.dir, 0o700) == nil { // removed meanwhile
		f, err = os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE|warily, 0o600)
	}
	if err != nil {
		if probe(s.dir) != nil { // filled up or made read-only meanwhile
			return nil, true, nil
		}
		return nil, false, withHint(err, "remove %s", s.path(name))
	}
	ok, err := tryLock(f)
	if ok {
		return f, true, nil
	}
	f.Close()
	if err != nil { // NFS without a lock service, some FUSE file systems
		s.warnOnce("lock", "other processes may refresh or sign in at the same time: %v",
			withHint(err, "set MCP_PROXY_CACHE_DIR to a directory on a local disk"))
	}
	return nil, err != nil, nil
}

var (
	errDamaged = errors.New("it is damaged")
	errNewer   = errors.New("a newer mcp-proxy wrote it")
	errForeign = errors.New("it is for another server or profile")
)

func (s *store) parse(name string) (*credentials, fs.FileInfo, error) {
	data, seen, err := s.read(name)
	if err != nil {
		return nil, nil, err
	}
	c, err := decodeCredentials(data)
	return c, seen, err
}

// isNewer looks at the disk, whatever stands for the file in memory.
func (s *store) isNewer(name string) bool {
	data, _, err := readPrivate(s.path(name), func(string, ...any) {})
	if err == nil {
		_, err = decodeCredentials(data)
	}
	return errors.Is(err, errNewer)
}

// decodeCredentials looks at the version first: a newer file need not even have our types. There is no
// older format, so a file without a version is none of ours.
func decodeCredentials(data []byte) (*credentials, error) {
	var head struct{ Version int }
	if json.Unmarshal(data, &head) != nil || head.Version < 1 {
		return nil, errDamaged
	}
	if head.Version > storeVersion {
		return nil, errNewer
	}
	c := new(credentials)
	if json.Unmarshal(data, c) != nil {
		return nil, errDamaged
	}
	return c, nil
}

// storable brings times into the years that RFC 3339 can write: "expires_in": 999999999999 exists.
func (t token) storable() token {
	for _, at := range []*time.Time{&t.Obtained, &t.Expiry} {
		if *at = at.UTC(); at.Year() > 9999 {
			*at = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
		}
	}
	return t
}

// read returns the file's content, or what stands for it because it could not be written.
func (s *store) read(name string) ([]byte, fs.FileInfo, error) {
	now, err := os.Lstat(s.path(name))
	s.mu.Lock()
	left, ok := s.unsaved[name]
	if ok && !unchanged(left.seen, now) {
		delete(s.unsaved, name)
		ok = false
	}
	s.mu.Unlock()
	switch {
	case ok && left.data != nil:
		return left.data, nil, nil
	case ok, err != nil: // why the directory cannot be looked into is said when it is written to
		return nil, nil, fs.ErrNotExist
	}
	return readPrivate(s.path(name), func(format string, args ...any) {
		s.warnOnce("mode of "+name, format, args...) // some file systems have one mode for all, and keep it
	})
}

func (s *store) write(name string, data []byte) error {
	err := s.usable()
	if err == nil {
		err = replacePrivate(s.path(name), data)
	}
	return s.settle(name, data, err)
}

// settle ends a change of the file: what could not be written lives on in memory. No data: removed.
func (s *store) settle(name string, data []byte, err error) error {
	if err != nil {
		s.warnOnce("unsaved", "a change of the cache is lost when this process ends: %v", err)
	}
	now, _ := os.Lstat(s.path(name))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unsaved, name)
	if err != nil {
		s.unsaved[name] = unsavedFile{data, now}
	}
	return err
}

// setAside takes a damaged file out of the way, unless another process has replaced it by now.
func (s *store) setAside(name string, seen fs.FileInfo) {
	path := s.path(name)
	if now, _ := os.Lstat(path); seen == nil || !unchanged(seen, now) {
		return
	}
	if patiently(func() error { return os.Rename(path, path+".corrupt") }) != nil {
		s.ignore(name, errDamaged)
		return
	}
	s.warn("%s is damaged, kept as %s.corrupt", path, name)
}

func (s *store) ignore(name string, err error) {
	if !errors.Is(err, fs.ErrNotExist) {
		s.warnOnce(name, "ignoring %s: %v", s.path(name), err)
	}
}

// warnOnce prints the last argument's hint too, if that is an error with a remedy.
func (s *store) warnOnce(about, format string, args ...any) {
	if _, told := s.said.LoadOrStore(about, true); told {
		return
	}
	if err, ok := args[len(args)-1].(error); ok && hintOf(err) != "" {
		format, args = format+"\nhint: %s", append(args, hintOf(err))
	}
	s.warn(format, args...)
}

// path is empty, which no call accepts, where no directory is known: the working directory is none.
func (s *store) path(name string) string {
	if s.dir == "" {
		return ""
	}
	return filepath.Join(s.dir, name)
}
