//go:build unix

package efs

import (
	"context"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Watch implements backend.Watcher by looking: file systems on a network tell
// nobody. The looks come further and further apart, up to Options.Poll.
func (b *Backend) Watch(ctx context.Context, key string, _ backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	p, err := b.use(key)
	if err != nil {
		return nil, nil, err
	}
	wake := make(chan struct{}, 1)
	quit := make(chan struct{})
	// stop does not wait for the goroutine: it may hang in a system call
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer b.unuse(p)
		b.watch(wctx, p, wake, quit)
	}()
	stop := func(context.Context, bool) error {
		cancel()
		close(quit)
		return nil
	}
	return wake, stop, nil
}

const firstPoll = 2 * time.Millisecond

func (b *Backend) watch(ctx context.Context, p *place, wake chan<- struct{}, quit <-chan struct{}) {
	pause := min(firstPoll, b.poll)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-quit:
			return
		}
		if p.begin(ctx) != nil {
			return
		}
		worth := p.worthTrying()
		p.end()
		if worth {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
		pause = min(pause*5/4+time.Millisecond/2, b.poll)
		timer.Reset(pause)
	}
}

// worthTrying tells whether an attempt could succeed, or would fail in a way
// that whoever waits has to know of. That a holder becomes stale is the engine's
// to time.
func (p *place) worthTrying() bool {
	if err := p.open(false); err != nil {
		return true
	}
	cur, _, err := p.read()
	if err != nil {
		return true
	}
	if cur.held {
		return false
	}
	if p.b.opts.NoLockFile || !p.legacy {
		return true
	}
	s, err := p.look()
	return err != nil || !s.there
}
