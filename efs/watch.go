//go:build unix

package efs

import (
	"context"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// Watch implements backend.Watcher by looking: file systems on a network tell nobody. The
// looks come further and further apart, up to Options.Poll.
func (b *Backend) Watch(ctx context.Context, key string, c backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	p, err := b.use(key)
	if err != nil {
		return nil, nil, err
	}
	wake := make(chan struct{}, 1)
	quit := make(chan struct{})
	wait := &statedir.Wait{Claim: c}
	p.waiting(wait, true)
	// stop does not wait for the goroutine: it may hang in a system call
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer b.unuse(p)
		b.watch(wctx, p, wait, wake, quit)
		p.waiting(wait, false)
	}()
	stop := func(ctx context.Context, granted bool) error {
		cancel()
		close(quit)
		if granted {
			return nil
		}
		return b.with(ctx, key, func(p *place) error { return p.lostIfGone(p.dir.Leave(wait)) })
	}
	return wake, stop, nil
}

const firstPoll = 2 * time.Millisecond

func (b *Backend) watch(ctx context.Context, p *place, wait *statedir.Wait, wake chan<- struct{}, quit <-chan struct{}) {
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
		worth := ctx.Err() == nil && p.worthTrying(wait)
		p.end()
		if worth {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
		if pause = min(pause*5/4+time.Millisecond/2, b.poll); wait.Passed {
			pause = min(firstPoll, b.poll)
		}
		timer.Reset(pause)
	}
}

// worthTrying tells whether an attempt could succeed, or would fail in a way that whoever
// waits has to know of.
func (p *place) worthTrying(wait *statedir.Wait) bool {
	if strings.HasPrefix(p.b.mount.Type, "nfs") {
		changed, err := p.dir.Changed()
		if err != nil {
			return true
		}
		if !changed && p.dir.WasHeld() {
			return false
		}
	}
	worth, err := p.dir.Worth(wait)
	if err != nil {
		return true
	}
	if !worth || !p.legacy {
		return worth
	}
	r, ok, _, err := p.b.guard.Peer(p.dir, 0)
	return err != nil || !ok || r.State != backend.Held
}
