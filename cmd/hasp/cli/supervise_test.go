//go:build unix

package cli

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/cmd/hasp/internal/job"
	"github.com/hasplock/hasp/memlock"
)

// The guard is this test's program again.
func TestMain(m *testing.M) {
	job.Guard(releaseOrphaned)
	os.Exit(m.Run())
}

// supervised runs a shell script under a lease of a store in memory.
func supervised(t *testing.T, o *hasp.Options, grace time.Duration, script string, meanwhile func(*memlock.Store, *memlock.Client, *hasp.Lease)) (outcome, time.Duration) {
	t.Helper()
	store := memlock.New()
	client := store.Client()
	renewed := make(chan struct{}, 1)
	o.Observer = func(e hasp.Event) {
		if e.Kind == hasp.EventRenewed {
			select {
			case renewed <- struct{}{}:
			default:
			}
		}
	}
	l := hasp.New(client, o)
	defer l.Close()
	lease, err := l.Acquire(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	j, err := job.Start(job.Spec{Path: sh, Args: []string{"sh", "-c", script}, Env: os.Environ(), Grace: grace})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	go meanwhile(store, client, lease)
	s := &supervisor{lease: lease, job: j, grace: grace, renewed: renewed, warn: func(err error) { t.Log(err) }}
	return s.run(), time.Since(begun)
}

// A store that can tell of a loss is not waited for until the deadline.
func TestLossStopsTheCommandAtOnce(t *testing.T) {
	out, took := supervised(t, &hasp.Options{TTL: time.Hour}, time.Minute, "exec sleep 1000",
		func(_ *memlock.Store, c *memlock.Client, lease *hasp.Lease) {
			if err := c.Break(t.Context(), "k", lease.Token()); err != nil {
				t.Error(err)
			}
		})
	if !errors.Is(out.stopped, hasp.ErrLost) || took > 30*time.Second {
		t.Errorf("got %+v after %v", out, took)
	}
}

// A store that cannot be reached ends the command at the deadline, and the
// command that heeds SIGTERM before it. The lease has a tenth of its TTL left then.
func TestPartitionStopsTheCommandByTheDeadline(t *testing.T) {
	const ttl, grace = 10 * time.Second, 3 * time.Second
	for _, c := range []struct {
		name, script string
		signal       int
		least        time.Duration
	}{
		{"heeds SIGTERM", "exec sleep 1000", 15, ttl - ttl/10 - grace},
		{"ignores SIGTERM", "trap '' TERM; while :; do sleep 1; done", 9, ttl - ttl/10},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			out, took := supervised(t, &hasp.Options{TTL: ttl}, grace, c.script,
				func(_ *memlock.Store, client *memlock.Client, _ *hasp.Lease) { client.Partition(true) })
			if !errors.Is(out.stopped, hasp.ErrLost) || out.code != 128+c.signal {
				t.Errorf("got %+v, want a loss and signal %d", out, c.signal)
			}
			// The command was started a moment after the lease.
			if took < c.least-ttl/20 || took > ttl {
				t.Errorf("stopped after %v, want %v to %v", took, c.least, ttl)
			}
		})
	}
}

// A deadline that has moved by what clocks differ is not a renewal.
func TestClockNoiseIsNoRenewal(t *testing.T) {
	t.Parallel()
	l := hasp.New(memlock.New().Client(), &hasp.Options{TTL: time.Minute, NoHeartbeat: true})
	defer l.Close()
	lease, err := l.Acquire(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	j, err := job.Start(job.Spec{Path: sleep, Args: []string{"sleep", "1000"}, Env: os.Environ(), Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	s := &supervisor{lease: lease, job: j, grace: time.Second, term: time.NewTimer(time.Hour), warn: func(err error) { t.Log(err) }}
	s.extend()
	s.deadline = s.deadline.Add(-50 * time.Microsecond)
	s.onTerm()
	if !errors.Is(s.out.stopped, hasp.ErrLost) {
		t.Errorf("its time to end has come, and it was not asked to: %v", s.out.stopped)
	}
	j.Signal(syscall.SIGKILL)
	<-j.Done()
}

// When hasp itself is late, the guard asks the command to end. That is told as the loss
// that it is, and not as a command that a signal has ended.
func TestGuardWasFirst(t *testing.T) {
	t.Parallel()
	const ttl, grace = 4 * time.Second, 2 * time.Second
	client := memlock.New().Client()
	l := hasp.New(client, &hasp.Options{TTL: ttl, RequestTimeout: time.Second})
	defer l.Close()
	lease, err := l.Acquire(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	client.Partition(true)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	j, err := job.Start(job.Spec{Path: sleep, Args: []string{"sleep", "1000"}, Env: os.Environ(), Grace: grace})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	s := &supervisor{lease: lease, job: j, grace: grace, term: time.NewTimer(time.Hour), warn: func(err error) { t.Log(err) }}
	s.extend()
	<-j.Done() // by the guard: nobody runs s
	s.onExit()
	if !errors.Is(s.out.stopped, hasp.ErrLost) || s.out.code <= 128 {
		t.Errorf("got %+v (%v), code %d, and not a loss", s.out, s.out.stopped, s.out.code)
	}
}

// Heartbeats move the deadlines on.
func TestRenewedLeaseIsLeftAlone(t *testing.T) {
	t.Parallel()
	out, took := supervised(t, &hasp.Options{TTL: 5 * time.Second}, time.Second, "sleep 6; exit 4",
		func(*memlock.Store, *memlock.Client, *hasp.Lease) {})
	if out.stopped != nil || out.code != 4 || took < 5*time.Second { // longer than the TTL
		t.Errorf("got %+v after %v", out, took)
	}
}
