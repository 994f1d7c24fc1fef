package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// workerEnv tells a process that it is a worker, and which URL to open.
const workerEnv = "HASP_CONFORMANCE_WORKER"

// workersReady is set once this program is known to call WorkerMain.
var workersReady atomic.Bool

// Main runs a test binary's tests, or, in a process that the suite has started,
// the worker: the rules about several processes need it in TestMain.
//
//	func TestMain(m *testing.M) { conformance.Main(m) }
//
// open, at most one, opens Config.URL in the worker; without it backend.Open does.
func Main(m *testing.M, open ...func(ctx context.Context, url string) (backend.Backend, error)) {
	WorkerMain(open...)
	os.Exit(m.Run())
}

// WorkerMain is for programs that have more to do at their start than Main
// allows, or a TestMain for something else: call it first, in main, TestMain or an
// init function. It returns at once unless the process is a worker; a worker does
// its work and exits.
func WorkerMain(open ...func(ctx context.Context, url string) (backend.Backend, error)) {
	url, is := os.LookupEnv(workerEnv)
	if !is {
		workersReady.Store(true)
		return
	}
	o := backend.Open
	if len(open) > 0 {
		o = open[0]
	}
	if err := work(o, url); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// The requests that a worker gets, one JSON object a line.
const (
	doAcquire = "acquire" // waits for the key
	doWatch   = "watch"   // waits for the key in the background
	doStatus  = "status"
	doRelease = "release"
	doBreak   = "break"
	doCount   = "count"   // adds to a counter in a file, under the lock
	doContend = "contend" // takes and releases the key until it is ended
)

type request struct {
	Do          string
	Key         string        `json:",omitempty"`
	File        string        `json:",omitempty"`
	Token       uint64        `json:",omitempty"`
	Rounds      int           `json:",omitempty"`
	TTL         time.Duration `json:",omitempty"`
	Retry       time.Duration `json:",omitempty"`
	Pause       time.Duration `json:",omitempty"` // the longest in the critical section
	NoHeartbeat bool          `json:",omitempty"`
	Seed        uint64        `json:",omitempty"`
}

// reply is what a worker says, one JSON object a line. A reply with Event is
// about what a request that is still under way has seen.
type reply struct {
	Event    string         `json:",omitempty"` // "hold", "held", "waiting"
	Err      string         `json:",omitempty"`
	Kind     string         `json:",omitempty"` // of the error
	Hold     Hold           `json:",omitzero"`
	Grant    backend.Grant  `json:",omitzero"`
	Holder   backend.Holder `json:",omitzero"`
	Deadline int64          `json:",omitempty"` // the lease's, by clock()
	At       int64          `json:",omitempty"` // by clock()
	Longest  time.Duration  `json:",omitempty"`
}

// kindOf is what becomes of an error on its way to another process.
func kindOf(err error) string {
	for _, k := range []struct {
		err  error
		kind string
	}{
		{hasp.ErrLost, "lost"}, {hasp.ErrReleased, "released"}, {hasp.ErrTimeout, "timeout"},
		{hasp.ErrHeld, "held"}, {hasp.ErrUnavailable, "unavailable"}, {hasp.ErrClosed, "closed"},
	} {
		if errors.Is(err, k.err) {
			return k.kind
		}
	}
	return "other"
}

func failure(err error) reply { return reply{Err: err.Error(), Kind: kindOf(err), At: clock()} }

type workerState struct {
	mu    sync.Mutex
	out   *json.Encoder
	b     func() (backend.Backend, error)
	l     hasp.Locker
	lease *hasp.Lease
}

// work obeys until standard input ends, which it does also when the suite's own
// process dies.
func work(open func(context.Context, string) (backend.Backend, error), url string) error {
	w := &workerState{out: json.NewEncoder(os.Stdout)}
	w.b = func() (backend.Backend, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return open(ctx, url)
	}
	in := bufio.NewScanner(os.Stdin)
	requests := make(chan request)
	ended := make(chan error, 1)
	go func() {
		defer close(requests)
		for in.Scan() {
			var r request
			if err := json.Unmarshal(in.Bytes(), &r); err != nil {
				ended <- err
				return
			}
			requests <- r
		}
		ended <- in.Err()
	}()
	if err := w.out.Encode(reply{Event: "ready"}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	busy := make(chan struct{}, 1)
	for r := range requests {
		busy <- struct{}{}
		go func() {
			defer func() { <-busy }()
			w.say(w.obey(ctx, r))
		}()
	}
	cancel()
	select {
	case busy <- struct{}{}:
	case <-time.After(20 * time.Second):
		return errors.New("conformance: a worker's last request hangs")
	}
	return <-ended
}

// say tells the suite. A pipe that nobody reads any more ends the worker with its
// input.
func (w *workerState) say(r reply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Encode(r)
}

func (w *workerState) locker(r request) (hasp.Locker, error) {
	b, err := w.b()
	if err != nil {
		return nil, err
	}
	return hasp.New(b, &hasp.Options{
		TTL: r.TTL, RetryInterval: r.Retry, MaxRetries: hasp.Unlimited, NoHeartbeat: r.NoHeartbeat,
		Owner: "worker",
		Observer: func(e hasp.Event) {
			if e.Kind == hasp.EventWaiting && r.Do == doWatch {
				w.say(reply{Event: "waiting"})
			}
		},
	}), nil
}

func (w *workerState) obey(ctx context.Context, r request) reply {
	switch r.Do {
	case doAcquire, doWatch:
		l, err := w.locker(r)
		if err != nil {
			return failure(err)
		}
		w.l = l
		if w.lease, err = l.Acquire(ctx, r.Key); err != nil {
			return failure(err)
		}
		return w.status()
	case doStatus:
		return w.status()
	case doRelease:
		err := w.lease.Release(ctx)
		if cerr := w.l.Close(); err == nil { // it waits for what a late Release does
			err = cerr
		}
		if err != nil {
			return failure(err)
		}
		return reply{At: clock()}
	case doBreak:
		return w.breakKey(ctx, r)
	case doCount:
		return w.count(ctx, r)
	case doContend:
		return w.contend(ctx, r)
	}
	return failure(fmt.Errorf("unknown request %q", r.Do))
}

func (w *workerState) breakKey(ctx context.Context, r request) reply {
	b, err := w.b()
	if err == nil {
		err = backend.Break(ctx, b, r.Key, r.Token)
		if cerr := b.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return failure(err)
	}
	return reply{At: clock()}
}

func (w *workerState) status() reply {
	g := w.lease.Grant()
	g.State = nil
	at := clock()
	p := reply{Grant: g, Holder: w.lease.Holder(), Deadline: at + int64(time.Until(w.lease.Deadline())), At: at}
	if err := w.lease.Err(); err != nil {
		p.Err, p.Kind = err.Error(), kindOf(err)
	}
	return p
}

// count adds one to the number in a file, Rounds times, each under the lock.
func (w *workerState) count(ctx context.Context, r request) reply {
	l, err := w.locker(r)
	if err != nil {
		return failure(err)
	}
	defer l.Close()
	rnd := rand.New(rand.NewPCG(r.Seed, 1))
	var longest time.Duration
	for range r.Rounds {
		begun := time.Now()
		err := hasp.Do(ctx, l, r.Key, func(context.Context, *hasp.Lease) error {
			longest = max(longest, time.Since(begun))
			n, err := readCounter(r.File)
			if err != nil {
				return err
			}
			time.Sleep(time.Duration(rnd.Int64N(int64(r.Pause) + 1)))
			return os.WriteFile(r.File, strconv.AppendInt(nil, int64(n+1), 10), 0o600)
		})
		if err != nil {
			return failure(err)
		}
	}
	return reply{Longest: longest, At: clock()}
}

func readCounter(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// contend takes and releases the lock until its input ends and tells of every
// hold, before it could be killed in it and after.
func (w *workerState) contend(ctx context.Context, r request) reply {
	l, err := w.locker(r)
	if err != nil {
		return failure(err)
	}
	defer l.Close()
	rnd := rand.New(rand.NewPCG(r.Seed, 2))
	for ctx.Err() == nil {
		lease, err := l.Acquire(ctx, r.Key)
		from := clock()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return failure(err)
		}
		h := Hold{Key: r.Key, Token: lease.Token(), From: from, Until: from, End: "released"}
		if lease.Err() != nil {
			continue // it was stopped before it could be certain of anything
		}
		w.say(reply{Event: "held", Hold: h, Deadline: clock() + int64(time.Until(lease.Deadline()))})
		end := time.Now().Add(time.Duration(rnd.Int64N(int64(r.Pause) + 1)))
		for {
			now := clock() // before the lease looks at its clocks
			if lease.Err() != nil {
				h.End = "lost"
				break
			}
			h.Until = now
			if !time.Now().Before(end) {
				break
			}
			time.Sleep(500 * time.Microsecond)
		}
		w.say(reply{Event: "hold", Hold: h})
		_ = lease.Release(ctx) // a loss has been noted
		time.Sleep(time.Duration(rnd.Int64N(int64(r.Pause)/2 + 1)))
	}
	return reply{}
}
