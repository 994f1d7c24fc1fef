//go:build unix

package efs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/fsys/fsystest"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

const (
	crashKey = "lock"
	crashTTL = 150 * time.Millisecond
	childEnv = "HASP_EFS_CRASH_CHILD"

	crashOperatorTTL = 700 * time.Millisecond
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(crashChild(spec))
	}
	if spec := os.Getenv(peerEnv); spec != "" {
		os.Exit(goPeer(spec))
	}
	if spec := os.Getenv(userEnv); spec != "" {
		os.Exit(userChild(spec))
	}
	if spec := os.Getenv(descriptorsEnv); spec != "" {
		os.Exit(descriptorsChild(spec))
	}
	if spec := os.Getenv(soakEnv); spec != "" {
		os.Exit(soakPeer(spec))
	}
	// Most of these tests wait for a TTL to run out, so many fit on few cores.
	flag.Parse()
	_ = flag.Set("test.parallel", "40")
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
	// values are the sequences of the values that may be there afterwards; nil is 0, none.
	values []uint64
}

var ctxBG = context.Background()

func acquireAs(id string) func(*Backend, backend.Grant) error {
	return func(b *Backend, _ backend.Grant) error {
		_, err := b.Acquire(ctxBG, crashKey, testClaim(id, crashTTL))
		// One that is to be killed has no fault to tell of. A machine that stands still may
		// let its TTL run out, or make it doubt that the dead holder's has.
		for start := time.Now(); err != nil && os.Getenv(childEnv) != "" && time.Since(start) < 20*time.Second; time.Sleep(time.Millisecond) {
			if !errors.Is(err, backend.ErrHeld) && !errors.Is(err, backend.ErrUnavailable) {
				break
			}
			_, err = b.Acquire(ctxBG, crashKey, testClaim(id, crashTTL))
		}
		return err
	}
}

func nothing(*Backend) (backend.Grant, error) { return backend.Grant{}, nil }

// take acquires, on a machine that may be too busy for so short a TTL.
func take(b *Backend, id string) (g backend.Grant, err error) {
	for range 20 {
		if g, err = b.Acquire(ctxBG, crashKey, testClaim(id, crashTTL)); !errors.Is(err, backend.ErrUnavailable) {
			return g, err
		}
	}
	return g, err
}

func hold(b *Backend) (backend.Grant, error) { return take(b, "held") }

func holdAndRelease(b *Backend) (backend.Grant, error) {
	g, err := take(b, "before")
	if err == nil {
		err = b.Release(ctxBG, g)
	}
	return g, err
}

// abandon leaves a lock whose holder has been dead for long enough.
func abandon(b *Backend) (backend.Grant, error) {
	g, err := take(b, "dead")
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

// dirty leaves a lock that is free, and whose guard nobody knows where it is.
func dirty(b *Backend) (backend.Grant, error) {
	g, err := hold(b)
	if err == nil {
		g.State = nil // what is not known ends dirty
		err = b.Release(ctxBG, g)
	}
	return g, err
}

// dirtyUp leaves a free lock whose guard stands.
func dirtyUp(b *Backend) (backend.Grant, error) {
	g, err := hold(b)
	if err == nil {
		_, err = letBatonGo(b, g)
	}
	return g, err
}

// letBatonGo lets go of a grant's baton, and leaves its guard where it is.
func letBatonGo(b *Backend, g backend.Grant) (ok bool, err error) {
	err = b.with(context.Background(), g.Key, func(p *place) error {
		st, _, err := p.holdOf(g)
		if err == nil && st != nil { // else another has it
			ok, err = st.hold.Free(false)
		}
		return err
	})
	return ok, err
}

// abandonAside leaves a dead holder that has moved a stale file aside, and no more.
func abandonAside(b *Backend) (backend.Grant, error) {
	g, err := abandon(b)
	if err == nil && b.opts.LockFile == Directory {
		cur := g.State.(*grantState).hold.Baton
		rest := filepath.Join(b.dir, statedir.StateName(crashKey), statedir.RestName(cur.Epoch))
		err = os.WriteFile(rest+"/old.7", []byte("1.0\n1\nelsewhere\nLinux\n"), 0o644)
		if err == nil {
			old := time.Now().Add(-time.Hour)
			err = os.Chtimes(rest+"/old.7", old, old)
		}
	}
	return g, err
}

// robbed is a holder whose guard was removed by a person.
func robbed(b *Backend) (backend.Grant, error) {
	g, err := hold(b)
	if err == nil && b.opts.LockFile != NoLockFile {
		err = os.RemoveAll(filepath.Join(b.dir, crashKey))
	}
	return g, err
}

// valued is a holder that has set a value.
func valued(b *Backend) (backend.Grant, error) {
	g, err := hold(b)
	if err == nil {
		g, err = b.SetValue(ctxBG, g, crashValue(1))
	}
	return g, err
}

// sealed leaves a lock that has moved.
func sealed(b *Backend) (backend.Grant, error) {
	g, err := holdAndRelease(b)
	if err == nil {
		err = b.Seal(ctxBG, crashKey, sealedTo)
	}
	return g, err
}

// sealedAndRobbed is one whose guard a person has removed.
func sealedAndRobbed(b *Backend) (backend.Grant, error) {
	g, err := sealed(b)
	if err == nil {
		err = os.RemoveAll(filepath.Join(b.dir, crashKey))
	}
	return g, err
}

// unsealed repeats an operator's command until nothing is in the way, with b. Once a lock
// is sealed nobody gets it before that.
func (sc scenario) unsealed(t testing.TB, b *Backend) {
	t.Helper()
	again := func(what string, do func() error) {
		t.Helper()
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			err := do()
			if err == nil || what == "unseal" && errors.Is(err, backend.ErrNotHeld) {
				return
			}
			if time.Since(start) > crashOperatorTTL+crashTTL+20*time.Second || !errors.Is(err, backend.ErrHeld) && !errors.Is(err, backend.ErrUnavailable) {
				t.Fatalf("%s again: %v", what, err)
			}
		}
	}
	if strings.HasPrefix(sc.name, "seal ") && sc.name != "seal of a new lock" {
		if _, err := b.Acquire(ctxBG, crashKey, testClaim("early", crashTTL)); !errors.Is(err, backend.ErrMoved) {
			t.Errorf("a sealed lock: %v", err)
		}
	}
	if strings.HasPrefix(sc.name, "seal") {
		again("seal", func() error { return b.Seal(ctxBG, crashKey, sealedTo) })
		isSealed(t, b.dir, crashKey)
	}
	again("unseal", func() error { return b.Unseal(ctxBG, crashKey) })
	if _, err := os.Lstat(filepath.Join(b.dir, crashKey)); err == nil {
		t.Error("its guard still stands")
	}
}

// abandonValue leaves a dead holder that has written a value, and no more.
func abandonValue(b *Backend) (backend.Grant, error) {
	g, err := valued(b)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, statedir.StateName(crashKey), ".values", "ABCDEFGHIJK234"), []byte("torn"), 0o644)
	}
	for err == nil {
		var r backend.Record
		if r, err = b.Inspect(ctxBG, crashKey); r.State == backend.Stale {
			break
		}
	}
	return g, err
}

func crashValue(seq uint64) backend.Value {
	return backend.Value{Token: 1, Seq: seq, Data: fmt.Appendf(nil, "value %d", seq)}
}

func setValue(seq uint64) func(b *Backend, g backend.Grant) error {
	return func(b *Backend, g backend.Grant) error {
		_, err := b.SetValue(ctxBG, g, crashValue(seq))
		return err
	}
}

var scenarios = []scenario{
	{"bootstrap", nothing, acquireAs("first"), nil},
	{"acquire", holdAndRelease, acquireAs("again"), nil},
	{"acquire cold", func(b *Backend) (backend.Grant, error) {
		g, err := holdAndRelease(b)
		b.mu.Lock()
		b.trim(0)
		b.mu.Unlock()
		return g, err
	}, acquireAs("cold"), nil},
	{"acquire dirty", dirty, acquireAs("taker"), nil},
	{"acquire dirty, guard up", dirtyUp, acquireAs("taker"), nil},
	{"takeover", abandon, acquireAs("taker"), nil},
	{"takeover, file aside", abandonAside, acquireAs("taker"), nil},
	{"takeover of a file", abandonFile, acquireAs("taker"), nil},
	{"heartbeat", hold, func(b *Backend, g backend.Grant) error { _, err := b.Renew(ctxBG, g); return err }, nil},
	{"heartbeat of a removed file", robbed, func(b *Backend, g backend.Grant) error { _, err := b.Renew(ctxBG, g); return err }, nil},
	{"release", hold, func(b *Backend, g backend.Grant) error { return b.Release(ctxBG, g) }, nil},
	{"withdraw", hold, func(b *Backend, g backend.Grant) error {
		return b.Release(ctxBG, backend.Grant{Key: g.Key, ID: g.ID})
	}, nil},
	{"late release", func(b *Backend) (backend.Grant, error) {
		g, err := hold(b)
		if err == nil {
			g.State.(*grantState).hold.Beat = time.Now().Add(-crashTTL)
		}
		return g, err
	}, func(b *Backend, g backend.Grant) error { return b.Release(ctxBG, g) }, nil},
	{"break", hold, func(b *Backend, g backend.Grant) error { return b.Break(ctxBG, crashKey, g.Token) }, nil},
	{"clear", abandon, func(b *Backend, g backend.Grant) error {
		_, err := b.Clear(ctxBG, "", true)
		return err
	}, nil},
	{"set value", hold, setValue(1), []uint64{0, 1}},
	{"set value again", valued, setValue(2), []uint64{1, 2}},
	{"set value twice", valued, setValue(1), []uint64{1}},
	{"release with a value", valued, func(b *Backend, g backend.Grant) error { return b.Release(ctxBG, g) }, []uint64{1}},
	{"seal", holdAndRelease, func(b *Backend, g backend.Grant) error { return b.Seal(ctxBG, crashKey, sealedTo) }, nil},
	{"seal of a new lock", nothing, func(b *Backend, g backend.Grant) error { return b.Seal(ctxBG, crashKey, sealedTo) }, nil},
	{"seal again", sealed, func(b *Backend, g backend.Grant) error { return b.Seal(ctxBG, crashKey, sealedTo) }, nil},
	{"seal of a removed guard", sealedAndRobbed, func(b *Backend, g backend.Grant) error { return b.Seal(ctxBG, crashKey, sealedTo) }, nil},
	{"unseal", sealed, func(b *Backend, g backend.Grant) error { return b.Unseal(ctxBG, crashKey) }, nil},
	{"takeover of half a value", abandonValue, acquireAs("taker"), []uint64{1}},
}

// ttlOf is for how long a process that was cut short in sc can keep the lock.
func ttlOf(sc scenario) time.Duration {
	if sc.name == "break" || sc.name == "clear" || strings.Contains(sc.name, "seal") {
		return crashOperatorTTL
	}
	return crashTTL
}

// modes are the guards, the file as on a local disk and as on a network file system.
var modes = []string{"dir", "file", "file by link", "none"}

// openMode opens dir with a file system around that of the host, which can fail.
func openMode(dir, mode string) (*Backend, *fsystest.Faulty, error) {
	f := &fsystest.Faulty{FS: fsys.OS{}}
	kind := map[string]LockFile{"dir": Directory, "none": NoLockFile, "file": File, "file by link": File}[mode]
	b, err := openOn(f, dir, &Options{LockFile: kind})
	if err == nil {
		b.operatorTTL = crashOperatorTTL
	}
	if err == nil && mode == "file by link" {
		b.files.Store(true)
	}
	return b, f, err
}

func openFaulty(t *testing.T, dir string, kind LockFile) (*Backend, *fsystest.Faulty) {
	t.Helper()
	f := &fsystest.Faulty{FS: fsys.OS{}}
	b, err := openOn(f, dir, &Options{LockFile: kind})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b, f
}

// crashChild runs one scenario and kills itself, with SIGKILL, before or after step
// n. It exits with 0 if there is no such step.
func crashChild(spec string) int {
	f := strings.SplitN(spec, "|", 5) // scenario, step, before or after, mode, directory
	i, _ := strconv.Atoi(f[0])
	at, _ := strconv.Atoi(f[1])
	sc := scenarios[i]
	b, c, err := openMode(f[4], f[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	c.At, c.Hit = at, func(op string, do func() error) error {
		if f[2] == "after" {
			_ = do()
		}
		fmt.Println(op)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	g, err := sc.prepare(b)
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		return 3
	}
	fmt.Printf("token %d\n", g.Token)
	c.Arm(true)
	if err := sc.run(b, g); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		return 3
	}
	return 0
}

// contents lists a directory and its state directory.
func contents(t testing.TB, dir string) []string {
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
// lock can be had within TTL plus a second, its token is greater than all before, its
// value is one that was set, and nothing remains but the state directory with one baton.
func recovers(t testing.TB, dir, mode string, above uint64, sc scenario) {
	t.Helper()
	ttl := ttlOf(sc)
	b, _, err := openMode(dir, mode)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if strings.Contains(sc.name, "seal") {
		sc.unsealed(t, b)
	}
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
	switch i, err := os.Stat(filepath.Join(dir, crashKey)); b.opts.LockFile {
	case Directory:
		if err != nil || !i.IsDir() {
			t.Errorf("guard of the next holder: %v, %v", i, err)
		}
	case File:
		if f, err := os.ReadFile(filepath.Join(dir, crashKey)); err != nil || !strings.Contains(string(f), " claim=next ") {
			t.Errorf("lock file of the next holder: %q, %v", f, err)
		}
	}
	v, err := b.Value(ctxBG, crashKey)
	if want := sc.values; err != nil || want == nil && v.Token != 0 || want != nil && !slices.Contains(want, v.Seq) || v.Token != 0 && !equal(v, crashValue(v.Seq)) {
		t.Errorf("the value is %+v, %v; want sequence %d", v, err, want)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Errorf("release by the next process: %v", err)
	}
	left, err := leftovers(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	most := 5
	if sc.values != nil {
		most = 7
	}
	if names := contents(t, dir); len(names) > most {
		t.Errorf("left behind: %q", names)
	}
}

// Every step of every part of the protocol is found by counting, and the process
// is killed before it, and after it.
func TestKillAtEveryStep(t *testing.T) {
	for i, sc := range scenarios {
		for _, mode := range modes {
			if strings.Contains(sc.name, "file") && mode == "none" || (strings.Contains(sc.name, "aside") || strings.Contains(sc.name, "seal")) && mode != "dir" {
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
							recovers(t, dir, mode, token, sc)
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
			if strings.Contains(sc.name, "file") && mode == "none" || (strings.Contains(sc.name, "aside") || strings.Contains(sc.name, "seal")) && mode != "dir" {
				continue
			}
			for _, f := range faults {
				t.Run(fmt.Sprintf("%s/%s/%s", sc.name, mode, f.name), func(t *testing.T) {
					t.Parallel()
					cut := true
					one := func(t testing.TB, at int) {
						dir := t.TempDir()
						b, c, err := openMode(dir, mode)
						if err != nil {
							t.Fatal(err)
						}
						c.At = at
						c.Hit = func(op string, do func() error) error {
							if f.done && !slices.Contains(fsystest.Changes, op) {
								return do()
							}
							if f.done {
								_ = do()
							}
							return &fs.PathError{Op: op, Path: "(injected)", Err: f.err}
						}
						g, err := sc.prepare(b)
						if err != nil {
							t.Fatal("prepare:", err)
						}
						c.Arm(true)
						err = sc.run(b, g)
						c.Arm(false)
						n, op := c.Count()
						cut = n >= at
						where := fmt.Sprintf("step %d (%s), which returned %v", at, op, err)
						token := afterError(t, b, sc, g, err, where)
						b.Close()
						recovers(t, dir, mode, max(token, g.Token), sc)
						if t.Failed() {
							t.Fatal(where)
						}
					}
					for at := 1; cut && !t.Failed(); at++ {
						try(t, func(t testing.TB) { one(t, at) })
					}
				})
			}
		}
	}
}

// afterError does what the engine does with the outcome of a verb, and checks that
// the outcome was true. It returns the greatest token seen.
func afterError(t testing.TB, b *Backend, sc scenario, g backend.Grant, err error, where string) uint64 {
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
		// a guard that was gone for a while is told of at the end
		release(g, strings.Contains(sc.name, "removed"))
	case strings.Contains(sc.name, "release") || sc.name == "withdraw":
		if err == nil && held(g.ID) {
			t.Errorf("%s: still held", where)
		}
		if err != nil {
			release(g, sc.name == "withdraw")
		}
	case strings.HasPrefix(sc.name, "set value"):
		v, verr := b.Value(ctxBG, crashKey)
		want := sc.values[len(sc.values)-1]
		switch {
		case verr != nil || errors.Is(err, backend.ErrLost) || !held(g.ID):
			t.Errorf("%s: the value is %+v, %v", where, v, verr)
		case err == nil && v.Seq != want:
			t.Errorf("%s: but the value is %+v", where, v)
		case err != nil && !unknown && len(sc.values) > 1 && v.Seq == want:
			t.Errorf("%s: a definite error, but it was set", where)
		}
		if _, err := b.SetValue(ctxBG, g, crashValue(want)); err != nil {
			t.Errorf("%s: then the same again: %v", where, err)
		}
		if v, err := b.Value(ctxBG, crashKey); err != nil || !equal(v, crashValue(want)) {
			t.Errorf("%s: then the value is %+v, %v", where, v, err)
		}
		release(g, false)
	case strings.Contains(sc.name, "seal"):
		if want := sc.name != "unseal"; err == nil && want != (rec.State == backend.Sealed) {
			t.Errorf("%s: but it is %v", where, rec)
		}
	case sc.name == "clear":
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
