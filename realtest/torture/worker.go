package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	_ "github.com/hasplock/hasp/etcdlock"  // for URLs
	_ "github.com/hasplock/hasp/redislock" // for URLs
)

// jobEnv makes a test binary a process that contends, or the command of one.
const jobEnv = "HASP_TORTURE_JOB"

// job is what the variable says, in JSON.
type job struct {
	Who, Witness string
	URL          string // empty for a command under hasp run
	Keys         []string
	Long         bool // it wants the key that is held for long
	TTL          time.Duration
	Seed         uint64
	Flaw         flaw
	Hold         time.Duration // of a command
}

const (
	goroutines = 2 // contend in one process
	retryEvery = 500 * time.Millisecond
	maxWait    = 20 * time.Second
	tellEvery  = 50 * time.Millisecond // how often a deadline is told
	forever    = time.Duration(math.MaxInt64)
)

// Main makes this process what its environment says, and does not return then. The
// tests' TestMain calls it first.
func Main() {
	text := os.Getenv(jobEnv)
	if text == "" {
		return
	}
	var j job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil && j.URL == "" {
		err = j.command()
	} else if err == nil {
		err = j.contend()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (j *job) env() ([]string, error) {
	text, err := json.Marshal(j)
	return append(os.Environ(), jobEnv+"="+string(text)), err
}

// options are those of all Lockers here.
func (j *job) options() *hasp.Options {
	return &hasp.Options{TTL: j.TTL, RetryInterval: retryEvery, MaxWait: maxWait, Owner: j.Who}
}

// contend takes locks, through one Locker, until standard input ends.
func (j *job) contend() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	ln, err := dialWitness(j.Witness, j.Who)
	if err != nil {
		return err
	}
	var l hasp.Locker
	for l == nil {
		l, err = hasp.Open(ctx, j.URL, j.options())
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if err := ln.report(err); err != nil {
				return err
			}
		}
	}
	errs := make(chan error, goroutines)
	var wg sync.WaitGroup
	for i := range goroutines {
		rng := rand.New(rand.NewPCG(j.Seed, uint64(i)))
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := j.round(ctx, l, ln, rng, j.Long && i == 0); err != nil {
					errs <- err
					cancel()
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		errs = make(chan error, 1)
		errs <- ln.report(err)
	}
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// choose chooses a key and how long it is to be held. The first key is held for so long
// that heartbeats have to keep it, and wanted by a few only, which would otherwise all
// stand in its queue. The others are held for moments, so that they change hands often.
func (j *job) choose(rng *rand.Rand, long bool) (key string, hold time.Duration) {
	if long {
		return j.Keys[0], between(rng, ttl/2, ttl+ttl/2)
	}
	return j.Keys[1+rng.IntN(len(j.Keys)-1)], between(rng, 0, 200*time.Millisecond)
}

// round takes one lock once. An error is one of the witness's.
func (j *job) round(ctx context.Context, l hasp.Locker, ln *link, rng *rand.Rand, long bool) error {
	key, hold := j.choose(rng, long)
	acquire := l.Acquire
	if rng.IntN(8) == 0 {
		acquire = l.TryAcquire
	}
	start := time.Now()
	lease, err := acquire(ctx, key)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return ln.report(err)
	}
	v := &visit{j: j, ln: ln, lease: lease, n: ln.visit()}
	in, err := v.enter(time.Since(start))
	if err != nil {
		return err
	}
	if in {
		if err := v.stay(ctx, hold); err != nil {
			return err
		}
	}
	if err := lease.Release(context.WithoutCancel(ctx)); err != nil {
		return ln.report(err)
	}
	return nil
}

// visit is one section.
type visit struct {
	j     *job
	ln    *link
	lease *hasp.Lease
	n     uint64
}

// deadline is the lease's, by the shared clock, and never too late: the clock is read
// before the deadline is.
func (v *visit) deadline() time.Duration {
	if v.j.Flaw == ignoresLoss {
		return forever
	}
	t := now()
	return t + time.Until(v.lease.Deadline())
}

func (v *visit) enter(waited time.Duration) (bool, error) {
	at, deadline := now(), v.deadline()
	token := v.lease.Token()
	if v.j.Flaw == repeatsToken {
		token = firstToken(v.lease.Key(), token)
	}
	return v.ln.ask(message{Verb: verbIn, Visit: v.n, Key: v.lease.Key(), Token: token, At: at, Deadline: deadline, TTL: v.j.TTL, Waited: waited})
}

// stay stays in, tells deadlines, and ends the section.
func (v *visit) stay(ctx context.Context, hold time.Duration) error {
	end := time.NewTimer(hold)
	defer end.Stop()
	tell := time.NewTicker(tellEvery)
	defer tell.Stop()
	lost := v.lease.Done()
	if v.j.Flaw == ignoresLoss {
		lost = nil
	}
	for in := true; in; {
		select {
		case <-lost:
			return v.ln.tell(message{Verb: verbLost, Visit: v.n, At: now()})
		case <-tell.C:
			if err := v.ln.tell(message{Verb: verbUntil, Visit: v.n, Deadline: v.deadline()}); err != nil {
				return err
			}
		case <-end.C:
			in = false
		case <-ctx.Done():
			in = false
		}
	}
	if lost != nil && v.lease.Err() != nil {
		return v.ln.tell(message{Verb: verbLost, Visit: v.n, At: now()})
	}
	_, err := v.ln.ask(message{Verb: verbOut, Visit: v.n})
	return err
}

// tooFewReplicas tells whether an error, or what hasp run says of it, is that the replicas
// that the URL asks for have not acknowledged.
func tooFewReplicas(text string) bool {
	return strings.Contains(text, "replicas asked for acknowledged")
}

// report tells the witness of an error that a process has met.
func (l *link) report(err error) error {
	m := message{Verb: verbError, Text: err.Error()}
	switch {
	case errors.Is(err, hasp.ErrLost):
		m.Kind = "lost"
	case errors.Is(err, hasp.ErrTimeout):
		m.Kind = "timed out"
	case errors.Is(err, hasp.ErrHeld):
		m.Kind = "held"
	case errors.Is(err, hasp.ErrUnavailable):
		m.Kind = "unavailable"
	case tooFewReplicas(m.Text):
		m.Kind = "too few replicas"
	default:
		m.Kind, m.Strange = "other", true
	}
	return l.tell(m)
}
