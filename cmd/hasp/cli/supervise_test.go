//go:build unix

package cli

import (
	"errors"
	"os"
	"os/exec"
	"strings"
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

// looked starts a command under a lease, with a supervisor that nobody runs.
func looked(t *testing.T, script string) (s *supervisor, lose func()) {
	t.Helper()
	client := memlock.New().Client()
	l := hasp.New(client, &hasp.Options{TTL: time.Hour})
	t.Cleanup(func() { l.Close() })
	lease, err := l.Acquire(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	j, err := job.Start(job.Spec{Path: sh, Args: []string{"sh", "-c", script}, Env: os.Environ(), Grace: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = j.Kill()
		<-j.Done()
		j.Close()
	})
	s = &supervisor{lease: lease, job: j, grace: time.Minute, term: time.NewTimer(time.Hour), warn: func(err error) { t.Log(err) }}
	s.extend()
	return s, func() {
		if err := client.Break(t.Context(), "k", lease.Token()); err != nil {
			t.Fatal(err)
		}
		<-lease.Done()
	}
}

// In whichever order the exit, the kill and the loss come: once the group was killed and
// the lease is lost, its end is not waited for without an end, and it is not said to
// have been stopped.
func TestGivesUpInEachOrder(t *testing.T) {
	t.Parallel()
	for name, events := range map[string][]string{
		"loss, kill":       {"loss", "kill"},
		"exit, kill, loss": {"exit", "kill", "loss"},
		"exit, loss, kill": {"exit", "loss", "kill"},
		"loss, exit, kill": {"loss", "exit", "kill"},
		"loss, kill, exit": {"loss", "kill", "exit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What is left cannot be killed, as far as is known: nobody looks again.
			s, lose := looked(t, "trap '' TERM; sleep 1000 & exit 0")
			for _, e := range events {
				switch e {
				case "loss":
					lose()
					s.onLost()
				case "kill":
					s.onKill()
				case "exit":
					<-s.job.Done()
					s.exited = true
				}
			}
			if s.out.stopped == nil || s.giveUp == nil {
				t.Fatalf("stopped: %v; gives up: %v", s.out.stopped, s.giveUp != nil)
			}
			s.gaveUp = true
			if how := s.ending(); how != "some of its processes do not end even when killed" {
				t.Errorf("it says that %s", how)
			}
		})
	}
}

// A group that is being stopped is not asked a second time, which many programs take for
// an order to drop everything, and is not given more time, whatever comes meanwhile.
func TestAskedOnce(t *testing.T) {
	t.Parallel()
	said := t.TempDir() + "/said"
	s, lose := looked(t, `exec 2>/dev/null; trap 'echo term >>`+said+`' TERM; trap 'echo usr1 >>`+said+`' USR1; echo up >>`+said+`; while :; do sleep 0.01; done`)
	until := func(what string) string {
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if text, _ := os.ReadFile(said); strings.Contains(string(text), what) {
				return string(text)
			}
		}
		t.Fatalf("it does not say %s", what)
		return ""
	}
	until("up\n")
	lose()
	s.onLost()
	at := s.killAt
	until("term\n")
	s.forward(syscall.SIGCONT)
	s.onLost()
	s.forward(syscall.SIGUSR1) // of both it would hear
	if all := until("usr1\n"); strings.Count(all, "term") != 1 {
		t.Errorf("it was sent SIGTERM again: %q", all)
	}
	if !s.killAt.Equal(at) {
		t.Errorf("its end was put off by %v", s.killAt.Sub(at))
	}
}
