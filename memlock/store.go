// Package memlock is hasp's backend in memory: the reference for what a backend
// does, and a store whose faults a test can script.
//
// A [Store] is what a Redis server or a shared directory is to other backends;
// each [Client] of it is one process's connection. Use it to test what your
// program does when it loses a lock:
//
//	store := memlock.New()
//	l := hasp.New(store.Client(), nil)
//	lease, _ := l.Acquire(ctx, "report")
//	store.Forget("report") // as if the server had been flushed
//	// the next heartbeat finds out: lease.Done() is closed
//
// Time is the time package's, so it works with testing/synctest, where minutes
// pass in milliseconds.
package memlock

import (
	"context"
	"net/url"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

func init() {
	backend.Register("mem", open)
}

// stores are those opened by URL: mem:///name twice is the same store.
var stores = struct {
	sync.Mutex
	m map[string]*Store
}{m: map[string]*Store{}}

func open(_ context.Context, u *url.URL) (backend.Backend, error) {
	q := backend.NewQuery(u)
	if err := q.Err(); err != nil {
		return nil, err
	}
	name := u.Host + u.Path + u.Opaque
	stores.Lock()
	defer stores.Unlock()
	s := stores.m[name]
	if s == nil {
		s = New()
		stores.m[name] = s
	}
	return s.Client(), nil
}

// Store holds locks in memory.
type Store struct {
	mu      sync.Mutex
	entries map[string]*entry
	faults  faults
}

// entry is what the store knows of a key.
type entry struct {
	last    uint64 // the last token
	raised  uint64 // RaiseToken's
	held    bool
	id      string
	holder  backend.Holder
	ttl     time.Duration
	since   time.Time
	renewed time.Time
	value   backend.Value
	watches map[*watch]struct{}
}

type watch struct{ wake chan struct{} }

// New returns an empty store.
func New() *Store { return &Store{entries: map[string]*entry{}} }

// Client returns a new client of the store.
func (s *Store) Client() *Client { return &Client{s: s, losses: map[int]func(string, string){}} }

// entry returns key's, made if need be. Called with mu held.
func (s *Store) entry(key string) *entry {
	e := s.entries[key]
	if e == nil {
		e = &entry{}
		s.entries[key] = e
	}
	return e
}

func (e *entry) stale(now time.Time) bool { return e.held && now.Sub(e.renewed) >= e.ttl }

// free ends the present holder's grant and wakes those who wait.
func (e *entry) free() {
	e.held, e.id, e.holder = false, "", backend.Holder{}
	e.wake()
}

// forget is free, and nothing is left.
func (e *entry) forget() {
	e.last, e.raised, e.value = 0, 0, backend.Value{}
	e.free()
}

func (e *entry) wake() {
	for w := range e.watches {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (e *entry) record(key string, now time.Time) backend.Record {
	r := backend.Record{Key: key, State: backend.Free, Token: e.last}
	if !e.held {
		return r
	}
	r.State, r.ID, r.Holder, r.TTL = backend.Held, e.id, e.holder, e.ttl
	r.HeldFor = now.Sub(e.since)
	r.Remaining = e.ttl - now.Sub(e.renewed)
	if e.stale(now) {
		r.State, r.Remaining = backend.Stale, 0
	}
	return r
}

// list returns the records of held keys. Called with mu held.
func (s *Store) list(prefix string, now time.Time) []backend.Record {
	var rs []backend.Record
	for key, e := range s.entries {
		if e.held && strings.HasPrefix(key, prefix) {
			rs = append(rs, e.record(key, now))
		}
	}
	sort.Slice(rs, func(i, j int) bool { return rs[i].Key < rs[j].Key })
	return rs
}
