//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// Inspect implements backend.Backend.
func (b *Backend) Inspect(ctx context.Context, key string) (r backend.Record, err error) {
	err = b.with(ctx, key, func(p *place) error {
		r, err = p.inspect()
		return err
	})
	return r, err
}

func (p *place) inspect() (backend.Record, error) {
	r := backend.Record{Key: p.key, State: backend.Free}
	if err := p.prepare(false); err != nil {
		if fsys.IsGone(err) {
			return r, nil
		}
		return r, err
	}
	cur, changed, err := p.dir.ReadNow()
	switch {
	case errors.Is(err, statedir.ErrGone):
		cur = statedir.Baton{State: statedir.Free}
	case err != nil:
		return r, err
	case cur.State == statedir.Held:
		now, err := p.dir.Now()
		if err != nil {
			now = time.Time{}
		}
		if r = p.dir.Record(cur, changed, now); err != nil {
			r.Note = fmt.Sprintf("the file server's clock cannot be read: %v", err)
		}
	default:
		r = p.dir.Record(cur, changed, time.Time{})
	}
	peer, ok, our, err := p.b.guard.Peer(p.dir, r.Token)
	switch {
	case err != nil && cur.State == statedir.Held:
		r.Note = joinNotes(r.Note, err.Error())
	case err != nil:
		return r, err
	case cur.State == statedir.Sealed:
		if ok || !our && p.b.opts.LockFile == Directory {
			r.Note = joinNotes(r.Note, "its guard was removed, so processes of the EfsLock protocol are not kept out until it is sealed again")
		}
		if ok {
			r.Note = joinNotes(r.Note, "one of them has put a lock file there: "+peer.String())
		}
	case ok && cur.State != statedir.Held:
		return peer, nil
	case ok && peer.State == backend.Held:
		peer.Note = joinNotes(peer.Note, "where hasp's holder is "+r.String())
		return peer, nil
	case our && cur.State != statedir.Held:
		r.Note = "its guard still stands: processes of the EfsLock protocol are kept out until a hasp process takes the lock, or hasp clear is run"
	case our:
		if names := guard.Foreign(p.dir); len(names) > 0 {
			r.Note = joinNotes(r.Note, fmt.Sprintf("%s has something in it that hasp did not put there: %.200q", p.dir.LockPath(), names))
		}
	}
	return r, nil
}

func joinNotes(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
