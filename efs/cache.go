//go:build unix

package efs

import (
	"context"
	"errors"

	"github.com/hasplock/hasp/backend"
)

// maxIdle is how many places that nobody uses are kept open, two descriptors each.
// A process may hold many more locks: their directories are opened again when a
// heartbeat is due.
const maxIdle = 128

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
	if isGone(err) && !errors.Is(err, backend.ErrLost) {
		p.shut()
		return backend.Unavailable(err)
	}
	return classify(err)
}

// use returns key's place and keeps it from being closed.
func (b *Backend) use(key string) (*place, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, backend.ErrClosed
	}
	b.using++
	p := b.places[key]
	if p == nil {
		var err error
		if p, err = b.newPlace(key); err != nil {
			b.using--
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
	if p.refs--; p.refs == 0 {
		b.idle++
		if b.closed {
			b.trim(0)
		} else {
			b.trim(maxIdle)
		}
	}
	_ = b.leave()
}

// leave ends one use of the root. After Close the last to leave closes it: a watcher
// may be in the middle of a call, and its descriptor's number must not become
// another file's meanwhile. Called with mu held.
func (b *Backend) leave() error {
	if b.using--; !b.closed || b.using > 0 {
		return nil
	}
	return errors.Join(b.root.Close(), b.rootDir.Close())
}

// trim closes the places that have been idle longest until keep are left. Called
// with mu held.
func (b *Backend) trim(keep int) {
	for p := b.lru.prev; p != &b.lru && b.idle > keep; {
		prev := p.prev
		if p.refs == 0 && b.closed {
			p.tidy()
		}
		if p.refs == 0 && (b.closed || len(p.litter) == 0) {
			p.unlink()
			delete(b.places, p.key)
			b.idle--
			p.shut()
		}
		p = prev
	}
}
