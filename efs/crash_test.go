//go:build unix

package efs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

const (
	crashKey = "lock"
	crashTTL = 150 * time.Millisecond
	childEnv = "HASP_EFS_CRASH_CHILD"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(crashChild(spec))
	}
	if spec := os.Getenv(peerEnv); spec != "" {
		os.Exit(goPeer(spec))
	}
	// Most of these tests wait for a TTL to run out, so many fit on few cores.
	flag.Parse()
	_ = flag.Set("test.parallel", "16")
	os.Exit(m.Run())
}

func testClaim(id string, ttl time.Duration) backend.Claim {
	return backend.Claim{ID: id, TTL: ttl, Holder: backend.Holder{Owner: "crash test", Host: "here", PID: os.Getpid()}}
}

// A scenario is a part of the protocol that can be cut at every step. prepare runs
// before the counting begins.
type scenario struct {
	name    string
	prepare func(b *Backend) (backend.Grant, error)
	run     func(b *Backend, g backend.Grant) error
}

var ctxBG = context.Background()

func acquireAs(id string) func(*Backend, backend.Grant) error {
	return func(b *Backend, _ backend.Grant) error {
		_, err := b.Acquire(ctxBG, crashKey, testClaim(id, crashTTL))
		return err
	}
}

func nothing(*Backend) (backend.Grant, error) { return backend.Grant{}, nil }

func hold(b *Backend) (backend.Grant, error) {
	return b.Acquire(ctxBG, crashKey, testClaim("held", crashTTL))
}

func holdAndRelease(b *Backend) (backend.Grant, error) {
	g, err := b.Acquire(ctxBG, crashKey, testClaim("before", crashTTL))
	if err == nil {
		err = b.Release(ctxBG, g)
	}
	return g, err
}

// abandon leaves a lock whose holder has been dead for long enough.
func abandon(b *Backend) (backend.Grant, error) {
	g, err := b.Acquire(ctxBG, crashKey, testClaim("dead", 20*time.Millisecond))
	for err == nil {
		var r backend.Record
		if r, err = b.Inspect(ctxBG, crashKey); r.State == backend.Stale {
			break
		}
	}
	return g, err
}

// abandonFile leaves a stale file of the lock-file protocol.
func abandonFile(b *Backend) (backend.Grant, error) {
	path := filepath.Join(b.dir, crashKey)
	if err := os.WriteFile(path, []byte("1.0\n1\nelsewhere\nLinux\n"), 0o644); err != nil {
		return backend.Grant{}, err
	}
	old := time.Now().Add(-time.Hour)
	return backend.Grant{}, os.Chtimes(path, old, old)
}

// robbed is a holder whose lock file was removed by a process of the other kind.
func robbed(b *Backend) (backend.Grant, error) {
	g, err := hold(b)
	if err == nil && !b.opts.NoLockFile {
		err = os.Remove(filepath.Join(b.dir, crashKey))
	}
	return g, err
}

var scenarios = []scenario{
	{"bootstrap", nothing, acquireAs("first")},
	{"acquire", holdAndRelease, acquireAs("again")},
	{"acquire cold", func(b *Backend) (backend.Grant, error) {
		g, err := holdAndRelease(b)
		b.mu.Lock()
		b.trim(0)
		b.mu.Unlock()
		return g, err
	}, acquireAs("cold")},
	{"takeover", abandon, acquireAs("taker")},
	{"takeover of a file", abandonFile, acquireAs("taker")},
	{"heartbeat", hold, func(b *Backend, g backend.Grant) error { _, err := b.Renew(ctxBG, g); return err }},
	{"heartbeat of a removed file", robbed, func(b *Backend, g backend.Grant) error { _, err := b.Renew(ctxBG, g); return err }},
	{"release", hold, func(b *Backend, g backend.Grant) error { return b.Release(ctxBG, g) }},
	{"withdraw", hold, func(b *Backend, g backend.Grant) error {
		return b.Release(ctxBG, backend.Grant{Key: g.Key, ID: g.ID})
	}},
	{"break", hold, func(b *Backend, g backend.Grant) error { return b.Break(ctxBG, crashKey, g.Token) }},
}

// modes are the ways in which the lock file is dealt with: not at all, as on a
// local disk, and as on a network file system.
var modes = []string{"no lock file", "rename", "link"}

func openMode(dir, mode string) (*Backend, error) {
	b, err := Open(dir, &Options{NoLockFile: mode == "no lock file"})
	if err == nil && mode == "link" {
		b.useLink.Store(true)
	}
	return b, err
}

// counter cuts at step number at, counted from when it is armed.
type counter struct {
	mu    sync.Mutex
	armed bool
	n     int
	at    int
	op    string
	hit   func(op string, do func() error) error
}

func (c *counter) fault(op string, do func() error) error {
	c.mu.Lock()
	cut := false
	if c.armed {
		c.n++
		if cut = c.n == c.at; cut {
			c.op = op
		}
	}
	c.mu.Unlock()
	if cut {
		return c.hit(op, do)
	}
	return do()
}

// crashChild runs one scenario and kills itself, with SIGKILL, before or after step
// n. It exits with 0 if there is no such step.
func crashChild(spec string) int {
	f := strings.SplitN(spec, "|", 5) // scenario, step, before or after, mode, directory
	i, _ := strconv.Atoi(f[0])
	at, _ := strconv.Atoi(f[1])
	sc := scenarios[i]
	b, err := openMode(f[4], f[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	c := &counter{at: at, hit: func(op string, do func() error) error {
		if f[2] == "after" {
			_ = do()
		}
		fmt.Println(op)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}}
	b.sys.fault = c.fault
	g, err := sc.prepare(b)
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		return 3
	}
	fmt.Printf("token %d\n", g.Token)
	c.mu.Lock()
	c.armed = true
	c.mu.Unlock()
	if err := sc.run(b, g); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		return 3
	}
	return 0
}

// contents lists a directory and its state directory.
func contents(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if p != dir && err == nil {
			rel, _ := filepath.Rel(dir, p)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return names
}

// recovers checks what must be true after a crash or an error at any step: the
// lock can be had within TTL plus a second, its token is greater than all before,
// and nothing remains but the state directory with one baton.
func recovers(t *testing.T, dir, mode string, above uint64, ttl time.Duration) {
	t.Helper()
	b, err := openMode(dir, mode)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	start := time.Now()
	var g backend.Grant
	for {
		g, err = b.Acquire(ctxBG, crashKey, testClaim("next", time.Minute))
		if err == nil {
			break
		}
		var held *backend.HeldError
		if !errors.As(err, &held) {
			t.Fatalf("the next process gets: %v", err)
		}
		if time.Since(start) > ttl+time.Second {
			t.Fatalf("not to be had after %v: %v", time.Since(start), err)
		}
		time.Sleep(max(held.RetryAfter, time.Millisecond))
	}
	if g.Token <= above {
		t.Errorf("token %d after %d: tokens must rise", g.Token, above)
	}
	if !b.opts.NoLockFile {
		if f, err := os.ReadFile(filepath.Join(dir, crashKey)); err != nil || parseLockFile(f).claim != "next" {
			t.Errorf("lock file of the next holder: %q, %v", f, err)
		}
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Errorf("release by the next process: %v", err)
	}
	want := []string{stateName(crashKey), filepath.Join(stateName(crashKey), baton{gen: g.Token}.name())}
	if got := contents(t, dir); !slices.Equal(got, want) {
		t.Errorf("left behind: %q, want %q", got, want)
	}
}

// Every step of every part of the protocol is found by counting, and the process
// is killed before it, and after it.
func TestKillAtEveryStep(t *testing.T) {
	for i, sc := range scenarios {
		for _, mode := range modes {
			if sc.name == "takeover of a file" && mode == "no lock file" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", sc.name, mode), func(t *testing.T) {
				t.Parallel()
				ops := 0
				for at := 1; ; at++ {
					finished := false
					for _, when := range []string{"before", "after"} {
						dir := t.TempDir()
						cmd := exec.Command(os.Args[0])
						cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d|%d|%s|%s|%s", childEnv, i, at, when, mode, dir))
						var stderr strings.Builder
						cmd.Stderr = &stderr
						out, err := cmd.Output()
						lines := strings.Fields(string(out))
						if err == nil {
							finished = true
							break
						}
						var exit *exec.ExitError
						if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
							t.Fatalf("step %d, %s: child ended with %v: %s", at, when, err, stderr.String())
						}
						ops++
						token, _ := strconv.ParseUint(lines[1], 10, 64)
						ok := t.Run(fmt.Sprintf("%02d-%s-%s", at, when, lines[2]), func(t *testing.T) {
							recovers(t, dir, mode, token, crashTTL)
						})
						if !ok {
							return
						}
					}
					if finished {
						break
					}
				}
				if ops < 2 {
					t.Errorf("only %d cuts were made", ops)
				}
				t.Logf("%d cuts", ops)
			})
		}
	}
}

// changes are the steps that change something: only those can have been carried
// out although the answer says that there is no such file.
var changes = []string{"rename", "rename-new", "link", "unlink", "rmdir", "mkdir"}

// Every step fails once, with each error that matters: the outcome is told right,
// and the next process finds a lock in order.
func TestErrorAtEveryStep(t *testing.T) {
	faults := []struct {
		name string
		err  error
		done bool // the call is carried out all the same
	}{
		{"EIO", syscall.EIO, false}, {"ESTALE", syscall.ESTALE, false}, {"ENOSPC", syscall.ENOSPC, false},
		{"EACCES", syscall.EACCES, false}, {"EDQUOT", syscall.EDQUOT, false}, {"EINTR", syscall.EINTR, false},
		{"ENOENT-though-done", syscall.ENOENT, true}, {"EIO-though-done", syscall.EIO, true},
	}
	for _, sc := range scenarios {
		for _, mode := range modes {
			if sc.name == "takeover of a file" && mode == "no lock file" {
				continue
			}
			for _, f := range faults {
				t.Run(fmt.Sprintf("%s/%s/%s", sc.name, mode, f.name), func(t *testing.T) {
					t.Parallel()
					for at := 1; ; at++ {
						dir := t.TempDir()
						c := &counter{at: at}
						c.hit = func(op string, do func() error) error {
							if f.done && !slices.Contains(changes, op) {
								return do()
							}
							if f.done {
								_ = do()
							}
							return fail(op, "(injected)", f.err)
						}
						b, err := openMode(dir, mode)
						if err != nil {
							t.Fatal(err)
						}
						b.sys.fault = c.fault
						g, err := sc.prepare(b)
						if err != nil {
							t.Fatal("prepare:", err)
						}
						c.armed = true
						err = sc.run(b, g)
						c.mu.Lock()
						c.armed = false
						cut := c.n >= at
						c.mu.Unlock()
						where := fmt.Sprintf("step %d (%s), which returned %v", at, c.op, err)
						token := afterError(t, b, sc, g, err, where)
						b.Close()
						recovers(t, dir, mode, max(token, g.Token), crashTTL)
						if t.Failed() {
							t.Fatal(where)
						}
						if !cut {
							return
						}
					}
				})
			}
		}
	}
}

// afterError does what the engine does with the outcome of a verb, and checks that
// the outcome was true. It returns the greatest token seen.
func afterError(t *testing.T, b *Backend, sc scenario, g backend.Grant, err error, where string) uint64 {
	t.Helper()
	rec, ierr := b.Inspect(ctxBG, crashKey)
	if ierr != nil {
		t.Errorf("%s: inspect: %v", where, ierr)
	}
	held := func(id string) bool { return rec.State != backend.Free && rec.ID == id }
	unknown := errors.Is(err, backend.ErrUnavailable)
	release := func(g backend.Grant, mayBeLost bool) {
		rerr := b.Release(ctxBG, g)
		for i := 0; i < 3 && errors.Is(rerr, backend.ErrUnavailable); i++ {
			rerr = b.Release(ctxBG, g)
		}
		if rerr != nil && !(mayBeLost && errors.Is(rerr, backend.ErrLost)) {
			t.Errorf("%s: then release: %v", where, rerr)
		}
	}
	switch {
	case strings.HasPrefix(sc.name, "heartbeat"):
		if errors.Is(err, backend.ErrLost) || !held(g.ID) {
			t.Errorf("%s: the lease is gone (%v), and nobody took it", where, rec)
		}
		if _, rerr := b.Renew(ctxBG, g); rerr != nil {
			t.Errorf("%s: then renew: %v", where, rerr)
		}
		release(g, false)
	case sc.name == "release" || sc.name == "withdraw":
		if err == nil && held(g.ID) {
			t.Errorf("%s: still held", where)
		}
		if err != nil {
			release(g, sc.name == "withdraw")
		}
	case sc.name == "break":
		if err == nil && held(g.ID) {
			t.Errorf("%s: still held", where)
		}
	default: // an acquire
		id := map[string]string{"bootstrap": "first", "acquire": "again", "acquire cold": "cold"}[sc.name]
		if id == "" {
			id = "taker"
		}
		switch {
		case err == nil && !held(id):
			t.Errorf("%s: not held, but %v", where, rec)
		case err != nil && !unknown && held(id):
			t.Errorf("%s: a definite error, but held", where)
		}
		if err == nil || unknown {
			release(backend.Grant{Key: crashKey, ID: id}, true)
		}
	}
	return rec.Token
}
