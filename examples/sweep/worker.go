package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	_ "github.com/hasplock/hasp/efs"
)

// job is what a worker is told, as JSON in its environment.
type job struct {
	Number  int
	On, Dir string
	Sweep   []byte
	Timeout time.Duration
	Crash   bool
	Keep    bool
}

const jobVar = "HASP_SWEEP_JOB"

// report is what a worker tells its parent, one line of JSON each.
type report struct {
	Kind    string `json:"kind"` // one of the constants below
	Blocker string `json:"blocker,omitempty"`
	Token   uint64 `json:"token,omitempty"`
	ID      string `json:"id,omitempty"` // created, found: with -keep
	Error   string `json:"error,omitempty"`
}

// The kinds of reports.
const (
	isReady    = "ready"
	isWaiting  = "waiting"
	isAcquired = "acquired"
	isHalfway  = "halfway" // and waits for the parent's word, if there is to be a crash
	isReleased = "released"
	isLost     = "lost"
	isCreated  = "created"
	isFound    = "found"
	isFailed   = "failed"
)

// work is a worker's main: one process that needs the sweep.
func work(ctx context.Context, text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return fmt.Errorf("the worker's job: %w", err)
	}
	s, err := parseSweep(j.Sweep)
	if err != nil {
		return err
	}
	words := make(chan struct{})
	go listen(words)
	out := &reporter{enc: json.NewEncoder(os.Stdout), acquired: make(chan struct{})}
	l, err := hasp.Open(ctx, j.On, &hasp.Options{
		TTL:      j.Timeout,
		Owner:    fmt.Sprintf("worker %d", j.Number),
		Observer: out.observe,
	})
	if err != nil {
		return err
	}
	out.send(report{Kind: isReady})
	<-words
	half := func() error {
		if j.Crash {
			<-out.acquired // the parent is to hear of that first
			out.send(report{Kind: isHalfway})
			<-words
		}
		return nil
	}
	var id string
	var created bool
	if j.Keep {
		id, created, err = chooseID(ctx, l, s, half)
	} else {
		created, err = createSweep(ctx, l, j.Dir, s, half)
	}
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return err
	case created:
		out.send(report{Kind: isCreated, ID: id})
	default:
		out.send(report{Kind: isFound, ID: id})
	}
	return nil
}

// listen passes the parent's words on. When the parent has gone there is nobody
// to work for.
func listen(words chan<- struct{}) {
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		words <- struct{}{}
	}
	os.Exit(1)
}

type reporter struct {
	mu   sync.Mutex
	enc  *json.Encoder
	last string

	acquired chan struct{} // closed when the parent has been told of the lock
}

func (r *reporter) send(rep report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.enc.Encode(rep); err != nil {
		os.Exit(1) // nobody listens
	}
}

// observe tells the parent of the lock, and of waiting whenever it is for another. It
// is called in a goroutine of its own.
func (r *reporter) observe(e hasp.Event) {
	switch e.Kind {
	case hasp.EventWaiting:
		who := backend.Printable(e.Blocker.Holder.Owner) // it goes to a terminal
		if e.Err != nil {
			who = backend.Text(e.Err)
		}
		if who != r.last {
			r.last = who
			r.send(report{Kind: isWaiting, Blocker: who})
		}
	case hasp.EventAcquired:
		r.send(report{Kind: isAcquired, Token: e.Token})
		close(r.acquired) // there is one Acquire
	case hasp.EventReleased:
		r.send(report{Kind: isReleased, Token: e.Token})
	case hasp.EventLost:
		r.send(report{Kind: isLost, Token: e.Token})
	}
}
