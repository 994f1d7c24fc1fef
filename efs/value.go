//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// Value implements backend.ValueStore. The value is in the lock's state directory: who
// removes that, with the lock or alone, has removed the value.
func (b *Backend) Value(ctx context.Context, key string) (v backend.Value, err error) {
	err = b.with(ctx, key, func(p *place) error {
		v, err = p.value()
		return err
	})
	return v, err
}

func (p *place) value() (v backend.Value, err error) {
	if err := p.prepare(false); fsys.IsGone(err) {
		there, err := p.refresh()
		if err != nil || !there {
			return v, err
		}
		if err := p.prepare(false); err != nil {
			return v, err
		}
	} else if err != nil {
		return v, err
	}
	return p.dir.Value()
}

// refresh makes the client ask the server for the directories on the way to the lock's,
// which it may remember as missing, and tells whether they are there. That the root is
// not says nothing of the keys in it.
func (p *place) refresh() (there bool, err error) {
	if _, err := p.b.fs.Stat(p.b.dir+"/.", true); err != nil {
		return false, backend.Unavailable(fmt.Errorf("%s cannot be looked at, so nothing is known of the values in it: %w", p.b.dir, err))
	}
	path := p.b.dir
	for name := range strings.SplitSeq(p.rel, "/") {
		path += "/" + name
		if _, err := p.b.fs.Stat(path+"/.", true); fsys.IsMissing(err) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}

// SetValue implements backend.ValueStore. It is a heartbeat, too. A holder whose guard is
// gone sets nothing.
func (b *Backend) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	if err := v.Validate(); err != nil {
		return g, err
	}
	err := b.with(ctx, g.Key, func(p *place) error {
		p.dir.Tidy()
		st, cur, err := p.holdOf(g)
		if err != nil {
			return p.lostIfGone(err)
		}
		if st == nil {
			return p.lostTo(cur)
		}
		h := &st.hold
		defer h.Rest()
		ok := true
		if !h.Alive() { // then the guard may be another's
			ok, err = h.Next(func(*statedir.Baton) {})
		}
		if ok && err == nil {
			if err = p.guarded(ctx, st); err == nil {
				ok, err = h.SetValue(v)
			}
		}
		switch {
		case errors.Is(err, statedir.ErrReplaced):
			st.lost = p.lostTo(h.Now()) // asked again, it need not try
			return err
		case err != nil:
			return p.lostIfGone(err)
		case !ok:
			st.lost = p.lostTo(h.Now())
			return st.lost
		}
		g.State = st
		return nil
	})
	return g, err
}

// ListValues implements backend.ValueStore, without Data: there may be many.
func (b *Backend) ListValues(ctx context.Context, prefix string) (kvs []backend.KeyValue, err error) {
	err = b.walk(ctx, prefix, func(key string) error {
		v, err := b.Value(ctx, key)
		if err != nil {
			return fmt.Errorf("the value of %q: %w", key, err)
		}
		if v.Token != 0 {
			v.Data = nil
			kvs = append(kvs, backend.KeyValue{Key: key, Value: v})
		}
		return nil
	}, func(dir string, err error) error {
		if !strings.HasPrefix(dir, prefix) {
			return nil
		}
		return fmt.Errorf("there may be values in %q: %w", dir, err)
	})
	if err != nil {
		return nil, fsys.Classify(err)
	}
	sort.Slice(kvs, func(i, j int) bool { return kvs[i].Key < kvs[j].Key })
	return kvs, nil
}
