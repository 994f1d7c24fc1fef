package torture

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp"
)

// prober acquires every key when the faults are over.
type prober struct {
	tb testing.TB
	s  *store
	w  *witness
	r  *result
	l  hasp.Locker
	ln *link
}

func (p *prober) open() {
	ctx, cancel := context.WithTimeout(context.Background(), p.s.bound)
	defer cancel()
	j := job{Who: "prober", TTL: ttl}
	o := j.options()
	o.MaxWait = p.s.bound
	var err error
	if p.l, err = hasp.Open(ctx, p.s.direct, o); err != nil {
		p.tb.Fatal(err)
	}
	if p.ln, err = dialWitness(p.w.addr(), "prober"); err != nil {
		p.tb.Fatal(err)
	}
}

func (p *prober) all(worst *time.Duration, when string) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	start := time.Now()
	for i := range keys {
		wg.Go(func() {
			err := p.one(keyName(i))
			mu.Lock()
			defer mu.Unlock()
			took := time.Since(start)
			*worst = max(*worst, took)
			if err != nil {
				p.r.slow = append(p.r.slow, fmt.Sprintf("%s, after %v: %v", when, took, err))
			}
		})
	}
	wg.Wait()
}

func (p *prober) one(key string) error {
	start := time.Now()
	lease, err := p.l.Acquire(context.Background(), key)
	if err != nil {
		return err
	}
	v := &visit{j: &job{TTL: ttl}, ln: p.ln, lease: lease, n: p.ln.visit()}
	if in, err := v.enter(time.Since(start)); err != nil || !in {
		return fmt.Errorf("token of %q: %v, %w", key, in, err)
	}
	if err := v.stay(context.Background(), 0); err != nil {
		return err
	}
	return lease.Release(context.Background())
}

func (p *prober) close() {
	if err := p.l.Close(); err != nil {
		p.tb.Error(err)
	}
	p.ln.conn.Close()
}
