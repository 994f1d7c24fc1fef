package conformance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

var _ backend.ValueStore = (*labClient)(nil)

// valueEntry is where key's value is.
func (s *lab) valueEntry(key string) *labEntry {
	if s.is("values folded", key) {
		for k, e := range s.keys {
			if strings.EqualFold(k, key) && e.value.Token != 0 {
				return e
			}
		}
	}
	return s.entry(key)
}

func (c *labClient) Value(ctx context.Context, key string) (v backend.Value, err error) {
	s := c.s
	mixed := false
	if s.is("values mixed up", key) {
		mixed = c.busy.Add(1) > 1
		time.Sleep(time.Millisecond)
		defer c.busy.Add(-1)
	}
	if err := c.enter(ctx, key); err != nil {
		if s.is("values of a closed client", key) && errors.Is(err, backend.ErrClosed) {
			return v, nil
		}
		return v, err
	}
	defer s.mu.Unlock()
	v = s.valueEntry(key).value
	if !s.is("values share memory", key) {
		v.Data = bytes.Clone(v.Data)
	}
	switch {
	case mixed:
		v.Seq++
	case s.is("values are cached", key):
		if kept, ok := c.values[key]; ok {
			return kept, nil
		}
		c.values[key] = v
	case s.is("values outlive a wipe", key):
		if v.Token == 0 {
			return c.values[key], nil
		}
		c.values[key] = v
	case s.is("empty values are none", key) && len(v.Data) == 0 && !v.Deleted:
		return backend.Value{}, nil
	case s.is("deleted values are none", key) && v.Deleted:
		return backend.Value{}, nil
	}
	return v, nil
}

// before tells whether v comes before w, with the defects that there are about it.
func (s *lab) before(v, w backend.Value, key string) bool {
	text := func(n uint64) string { return fmt.Sprint(n) }
	switch {
	case s.is("values in no order", key):
		return false
	case s.is("values by sequence alone", key):
		return v.Seq < w.Seq
	case s.is("values by token alone", key):
		return v.Token < w.Token
	case s.is("values ordered as text", key):
		return cmp.Or(strings.Compare(text(v.Token), text(w.Token)), strings.Compare(text(v.Seq), text(w.Seq))) < 0
	case s.is("values ordered as floating point", key):
		return cmp.Or(cmp.Compare(float64(v.Token), float64(w.Token)), cmp.Compare(float64(v.Seq), float64(w.Seq))) < 0
	}
	return v.Compare(w) < 0
}

func (c *labClient) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	s := c.s
	if s.is("setting that was given up comes later", g.Key) && ctx.Done() != nil {
		select {
		case <-time.After(700 * time.Microsecond):
		case <-ctx.Done():
			time.AfterFunc(5*time.Millisecond, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.entry(g.Key).value = v
			})
			return g, backend.Unavailable(ctx.Err())
		}
	}
	switch err := v.Validate(); {
	case err == nil:
	case s.is("long values are cut", g.Key) && len(v.Data) > backend.MaxValueLen:
		v.Data = v.Data[:backend.MaxValueLen]
	case s.is("a bad value ends the lock", g.Key):
		s.mu.Lock()
		defer s.mu.Unlock()
		if e := s.entry(g.Key); e.held && e.id == g.ID {
			s.free(e, "released")
		}
		return g, err
	case s.is("a bad value clears the key's", g.Key):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.entry(g.Key).value = backend.Value{}
		return g, err
	default:
		if c.enter(ctx, g.Key) == nil { // a bad key is told first
			s.mu.Unlock()
			return g, err
		}
	}
	c.mu.Lock()
	cut := c.heal != nil
	c.mu.Unlock()
	if cut && s.is("setting assumed", g.Key) {
		return g, nil
	}
	if err := c.enter(ctx, g.Key); err != nil {
		return g, err
	}
	defer s.mu.Unlock()
	e := s.entry(g.Key)
	if !e.held || !sameID(e.id, g.ID, s) {
		fate := e.ids[g.ID]
		switch {
		case s.is("anyone may set", g.Key) && fate == "",
			s.is("setting after release", g.Key) && fate == "released",
			s.is("setting after takeover", g.Key) && fate == "taken",
			s.is("setting after break", g.Key) && fate == "broken",
			s.is("setting after a wipe", g.Key) && s.wipes > 0:
			e.value = v
			return g, nil
		case s.is("set, then told that it is lost", g.Key):
			e.value = v
		case s.is("lost setting names the key", g.Key):
			return g, fmt.Errorf("%q: %w", g.Key, backend.ErrLost)
		}
		return g, backend.ErrLost
	}
	if s.is("setting needs State", g.Key) && g.State == nil {
		return g, backend.ErrLost
	}
	if s.is("setting spends the grant", g.Key) {
		n, _ := g.State.(int)
		if n < e.sets {
			return g, backend.ErrLost
		}
		e.sets++
		g.State = e.sets
	}
	if s.is("checks, then sets", g.Key) {
		s.mu.Unlock()
		time.Sleep(8 * time.Millisecond)
		s.mu.Lock()
	}
	switch same := v.Compare(e.value) == 0; {
	case s.is("second setting fails", g.Key) && same:
		return g, backend.ErrOldValue
	case s.is("same place, other data", g.Key) && same:
		// taken
	case same && (v.Deleted != e.value.Deleted || !bytes.Equal(v.Data, e.value.Data)) && !s.is("values in no order", g.Key) && !s.is("values by token alone", g.Key):
		return g, backend.ErrOldValue
	case s.before(v, e.value, g.Key):
		if s.is("older values are skipped", g.Key) {
			return g, nil
		}
		return g, backend.ErrOldValue
	}
	s.store(e, v)
	switch {
	case s.is("setting shortens the TTL", g.Key):
		e.renewed = e.renewed.Add(-e.ttl / 3)
	case s.is("setting takes a token", g.Key):
		e.last++
	case s.is("setting makes anonymous", g.Key):
		e.holder = backend.Holder{}
	case s.is("setting returns no grant", g.Key):
		return backend.Grant{}, nil
	}
	return g, nil
}

// store keeps v, with the defects that there are about that. Called with mu held.
func (s *lab) store(e *labEntry, v backend.Value) {
	if !s.is("values share memory", e.key) {
		v.Data = bytes.Clone(v.Data)
	}
	switch {
	case s.is("values are cut", e.key):
		v.Data = v.Data[:min(len(v.Data), 32<<10)]
	case s.is("values end with NUL", e.key):
		v.Data, _, _ = bytes.Cut(v.Data, []byte{0})
	case s.is("values in UTF-8", e.key):
		v.Data = bytes.ToValidUTF8(v.Data, []byte("?"))
	case s.is("values trimmed", e.key):
		v.Data = bytes.TrimSpace(v.Data)
	case s.is("deleted values keep data", e.key) && v.Deleted:
		v.Data = e.value.Data
	case s.is("deletion is forgotten", e.key) && v.Deleted:
		v = backend.Value{}
	case s.is("torn values", e.key) && len(e.value.Data) > 0 && len(v.Data) > 1:
		half := len(v.Data) / 2
		old := e.value.Data[min(half, len(e.value.Data)):]
		e.value = backend.Value{Data: slices.Concat(v.Data[:half], old), Token: v.Token, Seq: v.Seq}
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		s.mu.Lock()
	case s.is("data first, sequence later", e.key):
		e.value.Data = v.Data
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		s.mu.Lock()
	}
	e.value = v
}

// endValue is what the end of a grant does to its value: nothing, without a defect.
func (s *lab) endValue(e *labEntry, how string) {
	if s.is("values die with a release", e.key) && how == "released" ||
		s.is("values die with a takeover", e.key) && how == "taken" ||
		s.is("values die with a break", e.key) && how == "broken" {
		e.value = backend.Value{}
	}
}

func (c *labClient) ListValues(ctx context.Context, prefix string) (kvs []backend.KeyValue, err error) {
	if err := c.enterAll(ctx); err != nil {
		return nil, err
	}
	s := c.s
	defer s.mu.Unlock()
	for key, e := range s.keys {
		v := e.value
		switch {
		case !strings.HasPrefix(key, prefix) && !(s.mut == "list of values by a pattern" && like(key, prefix)), v.Token == 0,
			s.mut == "list of values misses the deleted" && v.Deleted,
			s.is("list of values misses the held", key) && e.held,
			s.mut == "deleted values are none" && v.Deleted:
			continue
		}
		v.Data = bytes.Clone(v.Data)
		kvs = append(kvs, backend.KeyValue{Key: key, Value: v})
	}
	slices.SortFunc(kvs, func(a, b backend.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	switch {
	case s.mut == "list of values in reverse":
		slices.Reverse(kvs)
	case s.mut == "list of values ends at a hundred" && len(kvs) > 100:
		kvs = kvs[:100]
	}
	return kvs, nil
}
