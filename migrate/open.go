package migrate

import (
	"context"
	"fmt"
	"net/url"
	"sync/atomic"

	"github.com/hasplock/hasp/backend"
)

func init() { backend.Register("migrate", open) }

// URL returns the URL of a migration between the stores that old and new name. Without
// a phase it serves to look and to take steps.
func URL(name string, p Phase, old, new string) string {
	u := "migrate:?name=" + url.QueryEscape(name)
	if p != "" {
		u += "&phase=" + url.QueryEscape(string(p))
	}
	return u + "&old=" + url.QueryEscape(old) + "&new=" + url.QueryEscape(new)
}

// StoreURLs returns the URLs of the two stores that the URL of a migration names; ok is
// false if it is none, or cannot be read.
func StoreURLs(raw string) (old, new string, ok bool) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "migrate" { // Parse makes it lower case
		return "", "", false
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", "", false
	}
	return q.Get("old"), q.Get("new"), true
}

// NameOf returns the migration's name in its URL, or "".
func NameOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Query().Get("name")
}

// open is backend.Open for URLs of a migration. A store that the phase does not take
// need not be there: it is opened when it is needed first.
func open(ctx context.Context, u *url.URL) (backend.Backend, error) {
	const form = "want migrate:?name=NAME&phase=old|both|new&old=URL&new=URL, with each URL escaped as a value: %3A for :, %2F for /, %3F for ?, %26 for &"
	q := backend.NewQuery(u)
	o := &Options{Name: q.String("name", ""), Phase: Phase(q.String("phase", ""))}
	urls := [2]string{q.String("old", ""), q.String("new", "")}
	if err := q.Err(); err != nil {
		return nil, fmt.Errorf("%w; %s", err, form)
	}
	if u.Opaque != "" || u.Host != "" || u.Path != "" {
		return nil, fmt.Errorf("there is something before the question mark: %s", form)
	}
	if err := checkName(o.Name); err != nil {
		return nil, fmt.Errorf("%w; %s", err, form)
	}
	if o.Phase != "" {
		if _, err := ParsePhase(string(o.Phase)); err != nil {
			return nil, err
		}
	}
	if urls[0] == "" || urls[1] == "" {
		return nil, fmt.Errorf("old or new is missing: %s", form)
	}
	if urls[0] == urls[1] {
		return nil, fmt.Errorf("old and new are the same store")
	}
	o.OldName, o.NewName = backend.RedactURL(urls[0]), backend.RedactURL(urls[1])
	takes := map[Side]bool{}
	for _, s := range o.Phase.takes() {
		takes[s] = true
	}
	var stores [2]backend.Backend
	for i, side := range []Side{SideOld, SideNew} {
		if _, _, nested := StoreURLs(urls[i]); nested {
			return nil, fmt.Errorf("the %s store is a migration itself: one has to be finished before the next begins", side)
		}
		if !takes[side] {
			stores[i] = &lateStore{side: side, turn: make(chan struct{}, 1), open: func(ctx context.Context) (backend.Backend, error) { return backend.Open(ctx, urls[i]) }}
			continue
		}
		b, err := backend.Open(ctx, urls[i])
		if err != nil {
			if stores[0] != nil {
				_ = stores[0].Close()
			}
			return nil, sided(side, err)
		}
		stores[i] = b
	}
	b, err := New(stores[0], stores[1], o)
	if err != nil {
		for _, s := range stores {
			_ = s.Close()
		}
		return nil, err
	}
	return b, nil
}

// lateStore is opened when something is asked of it first, and again if that failed.
type lateStore struct {
	side Side
	open func(context.Context) (backend.Backend, error)

	closed atomic.Bool
	turn   chan struct{} // held while b is looked at, or opened; a mutex would not end with a context
	b      backend.Backend
}

var (
	_ backend.Backend     = (*lateStore)(nil)
	_ backend.Breaker     = (*lateStore)(nil)
	_ backend.Lister      = (*lateStore)(nil)
	_ backend.TokenRaiser = (*lateStore)(nil)
	_ backend.ValueStore  = (*lateStore)(nil)
	_ backend.Warner      = (*lateStore)(nil)
)

// get opens the store. An error is one of a store that is away: nothing was asked of it.
func (l *lateStore) get(ctx context.Context) (backend.Backend, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, backend.Unavailable(context.Cause(ctx))
	}
	switch {
	case l.closed.Load():
		return nil, backend.ErrClosed
	case l.b != nil:
		return l.b, nil
	}
	b, err := l.open(ctx)
	if err != nil {
		return nil, backend.Unavailable(err)
	}
	if err := (&store{side: l.side, b: b}).check(); err != nil {
		_ = b.Close()
		return nil, err
	}
	if l.b = b; l.closed.Load() { // meanwhile, and Close did not wait
		l.b = nil
		_ = b.Close()
		return nil, backend.ErrClosed
	}
	return b, nil
}

func (l *lateStore) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	b, err := l.get(ctx)
	if err != nil {
		return backend.Grant{}, err
	}
	return b.Acquire(ctx, key, c)
}

func (l *lateStore) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	b, err := l.get(ctx)
	if err != nil {
		return g, err
	}
	return b.Renew(ctx, g)
}

func (l *lateStore) Release(ctx context.Context, g backend.Grant) error {
	b, err := l.get(ctx)
	if err != nil {
		return err
	}
	return b.Release(ctx, g)
}

func (l *lateStore) Inspect(ctx context.Context, key string) (backend.Record, error) {
	b, err := l.get(ctx)
	if err != nil {
		return backend.Record{}, err
	}
	return b.Inspect(ctx, key)
}

func (l *lateStore) Break(ctx context.Context, key string, token uint64) error {
	b, err := l.get(ctx)
	if err != nil {
		return err
	}
	return backend.Break(ctx, b, key, token)
}

func (l *lateStore) List(ctx context.Context, prefix string) ([]backend.Record, error) {
	b, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return backend.List(ctx, b, prefix)
}

func (l *lateStore) RaiseToken(ctx context.Context, key string, floor uint64) error {
	b, err := l.get(ctx)
	if err != nil {
		return err
	}
	return backend.RaiseToken(ctx, b, key, floor)
}

func (l *lateStore) Value(ctx context.Context, key string) (backend.Value, error) {
	b, err := l.get(ctx)
	if err != nil {
		return backend.Value{}, err
	}
	return backend.ReadValue(ctx, b, key)
}

func (l *lateStore) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	b, err := l.get(ctx)
	if err != nil {
		return g, err
	}
	return backend.SetValue(ctx, b, g, v)
}

func (l *lateStore) ListValues(ctx context.Context, prefix string) ([]backend.KeyValue, error) {
	b, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return backend.ListValues(ctx, b, prefix)
}

// Warnings has nothing to say before the store is open.
func (l *lateStore) Warnings() []string {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	default:
		return nil
	}
	if l.b == nil {
		return nil
	}
	return backend.Warnings(l.b)
}

// Close does not wait for an opening that hangs.
func (l *lateStore) Close() error {
	l.closed.Store(true)
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	default:
		return nil // whoever opens it just now will see
	}
	if l.b == nil {
		return nil
	}
	return l.b.Close()
}
