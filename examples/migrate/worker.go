//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/migrate"
)

// work is a worker's life. Where its locks are is in its URL alone.
func work(ctx context.Context, j job) error {
	w := &worker{job: j, out: json.NewEncoder(os.Stdout), words: make(chan struct{}, 1)}
	ctx, w.stop = context.WithCancel(ctx)
	defer w.stop()
	go w.listen(os.Stdin)
	l, err := w.open(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil: // it was told to end before it had begun
		return nil
	default:
		return err
	}
	w.say(message{Kind: isReady})
	for n := 0; ctx.Err() == nil; n++ {
		w.round(ctx, l, fmt.Sprintf("key-%d", rand.IntN(j.Keys)), n)
	}
	return l.Close()
}

type worker struct {
	job   job
	out   *json.Encoder
	words chan struct{}
	stop  context.CancelFunc
}

// open tries until the store is there: it may be away.
func (w *worker) open(ctx context.Context) (hasp.Locker, error) {
	o := &hasp.Options{
		TTL: w.job.TTL, RetryInterval: 20 * time.Millisecond, MaxRetries: hasp.Unlimited,
		RequestTimeout: time.Second, MaxUnavailable: 2 * time.Second,
		Owner: fmt.Sprintf("worker %d", w.job.Number),
	}
	for {
		l, err := hasp.Open(ctx, w.job.URL, o)
		if err == nil || ctx.Err() != nil || !errors.Is(err, hasp.ErrUnavailable) {
			return l, err
		}
		w.say(message{Kind: isFailed, Text: err.Error()})
		pause(ctx, 100*time.Millisecond)
	}
}

// round takes one lock, looks at its value, and perhaps sets another.
func (w *worker) round(ctx context.Context, l hasp.Locker, key string, n int) {
	w.say(message{Kind: isWaiting, Key: key})
	lease, err := l.Acquire(ctx, key)
	switch {
	case ctx.Err() != nil:
		if err == nil {
			_ = lease.Release(ctx)
		}
		return
	case err != nil:
		k := isFailed
		if errors.Is(err, migrate.ErrPhase) {
			k = isRefused
		}
		w.say(message{Kind: k, Key: key, Text: err.Error()})
		pause(ctx, 50*time.Millisecond)
		return
	}
	// What the lock protects is in here. The lease's context ends if it is lost, and
	// not when this process is asked to stop: it finishes its round.
	held := lease.Context()
	at := message{Key: key, Token: lease.Token()}
	w.ask(at, isIn, lease.Deadline(), "")
	if v, err := l.Value(held, key); err == nil || errors.Is(err, hasp.ErrNoValue) {
		w.ask(at, isRead, time.Time{}, string(v))
		if errors.Is(err, hasp.ErrNoValue) || rand.IntN(20) == 0 {
			w.set(held, lease, at, fmt.Sprintf("%s by %d.%d, round %d", key, w.job.Number, os.Getpid(), n))
		}
	} else if held.Err() == nil {
		w.say(message{Kind: isFailed, Key: key, Text: err.Error()})
	}
	pause(held, time.Duration(rand.IntN(2000))*time.Microsecond)
	w.ask(at, isOut, time.Time{}, "")
	if err := lease.Release(ctx); errors.Is(err, hasp.ErrLost) {
		w.say(message{Kind: isLost, Key: key, Text: err.Error()})
	} else if err != nil {
		w.say(message{Kind: isFailed, Key: key, Text: err.Error()})
	}
}

// set sets a value, and says whether it is set if that is known.
func (w *worker) set(ctx context.Context, lease *hasp.Lease, at message, value string) {
	w.ask(at, isSetting, time.Time{}, value)
	err := lease.SetValue(ctx, []byte(value))
	at.Value = value
	switch {
	case err == nil:
		at.Kind = isSet
	case errors.Is(err, hasp.ErrUnavailable), errors.Is(err, context.Canceled):
		at.Kind, at.Text = isFailed, err.Error()
	default:
		at.Kind, at.Text = isUnset, err.Error()
	}
	w.say(at)
}

func (w *worker) say(m message) {
	if m.At == 0 {
		m.At = time.Now().UnixNano()
	}
	if w.out.Encode(m) != nil {
		os.Exit(1) // the witness has gone
	}
}

// ask says m and waits for the witness's word.
func (w *worker) ask(m message, k kind, until time.Time, value string) {
	m.Kind, m.Value = k, value
	if !until.IsZero() {
		m.Until = until.UnixNano()
	}
	w.say(m)
	<-w.words
}

// listen hears the witness; when that has gone so does this process.
func (w *worker) listen(in io.Reader) {
	for s := bufio.NewScanner(in); s.Scan(); {
		switch s.Text() {
		case wordGo:
			w.words <- struct{}{}
		case wordStop:
			w.stop()
		}
	}
	os.Exit(1)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
