//go:build linux

package nfslab_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// These tests boot kernels, and run when HASP_NFS is set: make nfs does. HASP_NFS_VERSION
// chooses the version of NFS, and HASP_NFS_QUERY what is added to URLs, such as lockfile=file.
const gate = "HASP_NFS"

var started bool

// inFull chooses: make nfs does a part of what make nfs-long does.
func inFull[T any](all, part T) T {
	if os.Getenv(longGate) != "" {
		return all
	}
	return part
}

// theLab is shared by all tests, which run one after another.
var theLab = sync.OnceValues(func() (*nfslab.Lab, error) {
	started = true
	l, err := nfslab.Start(nfslab.Options{Clients: 3, Version: os.Getenv("HASP_NFS_VERSION")})
	if err != nil {
		return nil, err
	}
	err = nfslab.Build("", "./internal/worker", filepath.Join(l.Bin(), "worker"))
	if err == nil {
		err = nfslab.Build("../../cmd/hasp", ".", filepath.Join(l.Bin(), "hasp"))
	}
	if err != nil {
		l.Close()
	}
	return l, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if started {
		if l, err := theLab(); err == nil {
			if err := l.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
	}
	os.Exit(code)
}

func needsLab(t *testing.T) {
	t.Helper()
	if os.Getenv(gate) == "" {
		t.Skip("boots a server and clients: set " + gate + "=1, or run make nfs")
	}
}

// lab returns the lab, with all hosts up and their clocks right.
func lab(t *testing.T) *nfslab.Lab {
	t.Helper()
	needsLab(t)
	l, err := theLab()
	if err != nil {
		t.Fatal(err)
	}
	restore := func() {
		for _, h := range append([]*nfslab.Host{l.Server}, l.Clients...) {
			if !h.Up() {
				if err := h.Boot(); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.SetClock(patience(t), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	restore()
	t.Cleanup(restore)
	return l
}

// patience is a context for what must happen soon.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// folder makes a folder on the export and returns its path.
func folder(t *testing.T, l *nfslab.Lab) string {
	t.Helper()
	d := filepath.Join(l.Mount(), strings.ReplaceAll(t.Name(), "/", "-"))
	shell(t, l.Clients[0], "mkdir -p "+d)
	return d
}

func shell(t *testing.T, h *nfslab.Host, line string) string {
	t.Helper()
	out, err := h.Shell(patience(t), line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// store is the URL of folder d; HASP_NFS_QUERY chooses the guard.
func store(d string) string {
	u := "efs://" + d
	if q := os.Getenv("HASP_NFS_QUERY"); q != "" {
		u += "?" + q
	}
	return u
}

func witness(t *testing.T, l *nfslab.Lab) *nfslab.Witness {
	t.Helper()
	w, err := l.Witness()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// output collects what a command writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// running is a command in a host.
type running struct {
	*nfslab.Process
	out output // standard output and error
}

func start(t *testing.T, h *nfslab.Host, argv ...string) *running {
	t.Helper()
	r := &running{}
	p, err := h.Start(nfslab.Command{Argv: argv, Stdout: &r.out, Stderr: &r.out})
	if err != nil {
		t.Fatal(err)
	}
	r.Process = p
	t.Cleanup(func() {
		if h.Up() {
			_ = p.Kill()
		}
		<-p.Done()
	})
	return r
}

// status waits for the end.
func (r *running) status(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-r.Done():
	case <-time.After(limit):
		t.Fatalf("still running after %v; it wrote:\n%s", limit, r.out.String())
	}
	code, err := r.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// says waits until the command has written s.
func (r *running) says(t *testing.T, s string, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(limit); !strings.Contains(r.out.String(), s); time.Sleep(5 * time.Millisecond) {
		select {
		case <-r.Done():
			if !strings.Contains(r.out.String(), s) {
				t.Fatalf("it ended without %q; it wrote:\n%s", s, r.out.String())
			}
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("no %q within %v; it wrote:\n%s", s, limit, r.out.String())
		}
	}
}

// crew starts workers for one key.
type crew struct {
	l   *nfslab.Lab
	w   *nfslab.Witness
	dir string
}

const key = "lock"

func (c crew) worker(t *testing.T, h *nfslab.Host, name string, args ...string) *running {
	t.Helper()
	return start(t, h, append([]string{filepath.Join(c.l.Bin(), "worker"), "-url", store(c.dir), "-key", key, "-witness", c.w.Addr(), "-name", name}, args...)...)
}

// in is satisfied when that worker enters.
func (c crew) in(name string) func(nfslab.Event) bool {
	return func(e nfslab.Event) bool { return e.Kind == nfslab.In && e.Worker == name }
}

// check reports overlaps and tokens that did not rise.
func (c crew) check(t *testing.T) {
	t.Helper()
	overlaps, tokens := c.w.Faults(key)
	if len(overlaps) > 0 {
		t.Errorf("%d overlaps; the first: %v; the last: %v", len(overlaps), overlaps[0], overlaps[len(overlaps)-1])
	}
	if len(tokens) > 0 {
		t.Errorf("%d tokens did not rise; the first: %s", len(tokens), tokens[0])
	}
}
