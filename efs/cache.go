//go:build unix

package efs

import (
	"context"
	"errors"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// maxIdle is how many places that nobody uses are remembered.
const maxIdle = 1024

// with runs f with key's place, which f has to itself.
func (b *Backend) with(ctx context.Context, key string, f func(*place) error) error {
	p, err := b.use(key)
	if err != nil {
		return err
	}
	defer b.unuse(p)
	if err := p.begin(ctx); err != nil {
		return err
	}
	defer p.end()
	err = f(p)
	if err != nil && (errors.Is(err, statedir.ErrGone) || fsys.IsGone(err)) && !errors.Is(err, backend.ErrLost) {
		p.checked = false
		p.dir.Forget()
		return backend.Unavailable(err)
	}
	return fsys.Classify(err)
}

// use returns key's place and keeps it from being forgotten.
func (b *Backend) use(key string) (*place, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, backend.ErrClosed
	}
	p := b.places[key]
	if p == nil {
		var err error
		if p, err = b.newPlace(key); err != nil {
			return nil, err
		}
		b.places[key] = p
	} else {
		p.unlink()
		if p.refs == 0 {
			b.idle--
		}
	}
	p.refs++
	b.lru.next.prev, p.next = p, b.lru.next
	b.lru.next, p.prev = p, &b.lru
	return p, nil
}

func (p *place) unlink() { p.prev.next, p.next.prev = p.next, p.prev }

func (b *Backend) unuse(p *place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.refs--; p.refs > 0 {
		return
	}
	b.idle++
	if b.closed {
		b.trim(0)
	} else {
		b.trim(maxIdle)
	}
}

// trim forgets the places that have been idle longest until keep are left. Called with
// mu held.
func (b *Backend) trim(keep int) {
	for p := b.lru.prev; p != &b.lru && b.idle > keep; {
		prev := p.prev
		if p.refs == 0 && b.closed {
			p.dir.Tidy()
		}
		if p.refs == 0 && (b.closed || !p.dir.Untidy()) {
			p.unlink()
			delete(b.places, p.key)
			b.idle--
		}
		p = prev
	}
}
