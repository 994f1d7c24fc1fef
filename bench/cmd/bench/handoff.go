//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
)

// turn is one contestant's part in a round of hand-offs.
type turn struct {
	kind, title string
	addr        string
	times       int           // hand-offs in a round
	settle      time.Duration // the least time that the waiter waits before the release
	spread      time.Duration // and up to this much more, so that a poll is met at any phase
}

// pause is how long a waiter of hasp's on Redis has waited when the lock is released,
// and how long nobody has done anything when a lonely round trip is measured.
const pause = 20 * time.Millisecond

// handOff measures from the call of release in one process to the return of
// acquire in another that waits.
func handOff(ctx context.Context, l *lab, r *report) error {
	dir, err := l.folder(l.dir, "handoff")
	if err != nil {
		return err
	}
	turns := []turn{
		{haspRedis, "Redis", l.redis, 5, pause, 0},
		{bsmName, "Redis", l.redis, 1, 50 * time.Millisecond, 2 * bsmBackoff},
		{redsyncName, "Redis", l.redis, 1, 50 * time.Millisecond, 400 * time.Millisecond},
		{rueidisName, "Redis", l.redis, 5, pause, 0},
		// the server brings new watches up to date ten times a second
		{haspEtcd, "etcd, one node, fsync", l.etcd, 1, 250 * time.Millisecond, 0},
		{mutexName, "etcd, one node, fsync", l.etcd, 1, 250 * time.Millisecond, 0},
		{haspDir, "directory on " + fileSystem(dir), dir, 1, 100 * time.Millisecond, 50 * time.Millisecond},
	}
	relays := make([]*relay, len(turns))
	for i, t := range turns {
		var err error
		if relays[i], err = openRelay(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t.kind, err)
		}
		defer relays[i].abandon()
	}
	c := newRedis(l.redis)
	defer c.Close()
	for range l.handoffs {
		for i, t := range turns {
			for range t.times {
				if err := relays[i].pass(ctx); err != nil {
					return fmt.Errorf("%s: %w", t.kind, err)
				}
			}
		}
		if err := pings(ctx, c, 10, 0, &r.ping); err != nil {
			return err
		}
		if err := pings(ctx, c, 5, pause, &r.coldPing); err != nil {
			return err
		}
	}
	for i, t := range turns {
		if err := relays[i].close(); err != nil {
			return fmt.Errorf("%s: %w", t.kind, err)
		}
		r.handOffs = append(r.handOffs, handOffs{turn: t, times: relays[i].times})
	}
	return nil
}

// pings measures n round trips to Redis, each after a pause in which nobody does
// anything.
func pings(ctx context.Context, c *redis.Client, n int, pause time.Duration, to *sample) error {
	for range n {
		time.Sleep(pause)
		start := time.Now()
		if err := c.Ping(ctx).Err(); err != nil {
			return err
		}
		to.add(time.Since(start))
	}
	return nil
}

// handOffs is what came of it.
type handOffs struct {
	turn
	times sample
}

// relay passes one lock from this process to another, again and again.
type relay struct {
	turn
	peer  *peer
	take  acquire
	other *child
	times sample
}

const relayKey = "handoff"

func openRelay(ctx context.Context, t turn) (*relay, error) {
	p, err := openPeer(t.kind, t.addr, true)
	if err != nil {
		return nil, err
	}
	take, err := p.waiter(relayKey)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	other, err := startChild(task{Role: "handoff", Kind: t.kind, Addr: t.addr, Key: relayKey})
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	r := &relay{turn: t, peer: p, take: take, other: other}
	if err := other.expect(ctx, "ready", nil); err != nil {
		r.abandon()
		return nil, err
	}
	return r, nil
}

// pass makes one hand-off.
func (r *relay) pass(ctx context.Context) error {
	let, err := r.take(ctx)
	if err != nil {
		return err
	}
	if err := r.other.tell("take"); err != nil {
		return err
	}
	if err := r.other.expect(ctx, "waiting", nil); err != nil {
		return err
	}
	wait := r.settle
	if r.spread > 0 {
		wait += rand.N(r.spread)
	}
	time.Sleep(wait)
	start := now()
	if err := let(ctx); err != nil {
		return err
	}
	var got time.Duration
	if err := r.other.expect(ctx, "got", &got); err != nil {
		return err
	}
	if got < start {
		return errors.New("the waiting process got the lock before it was released")
	}
	r.times.add(got - start)
	return r.other.expect(ctx, "released", nil)
}

func (r *relay) close() error {
	err := errors.Join(r.other.end(), r.peer.close())
	r.other = nil
	return err
}

// abandon is close where another error is reported.
func (r *relay) abandon() {
	if r.other != nil {
		_ = r.close()
	}
}

// waitForHandOffs is the other process.
func waitForHandOffs(t task) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	p, err := openPeer(t.Kind, t.Addr, true)
	if err != nil {
		return err
	}
	take, err := p.waiter(t.Key)
	if err != nil {
		return errors.Join(err, p.close())
	}
	if err := say("ready", nil); err != nil {
		return err
	}
	for range orders(stop) {
		if err := say("waiting", nil); err != nil {
			return err
		}
		let, err := take(ctx)
		for errors.Is(err, errGaveUp) && ctx.Err() == nil {
			let, err = take(ctx)
		}
		if ctx.Err() != nil {
			return nil // the other end has given up, and says why
		}
		if err != nil {
			return err
		}
		got := now()
		if err := say("got", got); err != nil {
			return err
		}
		if err := let(ctx); err != nil {
			return err
		}
		if err := say("released", nil); err != nil {
			return err
		}
	}
	return p.close()
}
