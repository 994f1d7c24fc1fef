//go:build unix

package conformance

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// watchingFile is a fileStore that tells of changes and can be broken. It looks,
// every few milliseconds, so that it hears of other processes too; three of its
// mutants hear of their own only.
type watchingFile struct {
	*fileStore
	mu    sync.Mutex
	mine  map[string]backend.Grant // by claim
	ears  map[int]func(key, id string)
	count int
	stop  chan struct{}
}

const fileLook = 4 * time.Millisecond

// changed is closed and made anew when this process has changed something.
var changed = struct {
	sync.Mutex
	ch     chan struct{}
	broken map[string]bool // claims
	known  map[string]backend.Record
}{ch: make(chan struct{}), broken: map[string]bool{}, known: map[string]backend.Record{}}

func noteChange(path string, key string, r *backend.Record) {
	changed.Lock()
	defer changed.Unlock()
	close(changed.ch)
	changed.ch = make(chan struct{})
	if r != nil {
		changed.known[path+"\x00"+key] = *r
	}
}

func newWatchingFile(s *fileStore) *watchingFile {
	return &watchingFile{fileStore: s, mine: map[string]backend.Grant{}, ears: map[int]func(string, string){}, stop: make(chan struct{})}
}

func (s *watchingFile) changedHere(ctx context.Context, key string) {
	r, err := s.fileStore.Inspect(ctx, key)
	if err != nil {
		return
	}
	noteChange(s.path, key, &r)
}

func (s *watchingFile) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	g, err := s.fileStore.Acquire(ctx, key, c)
	if err == nil {
		s.mu.Lock()
		s.mine[g.ID] = g
		s.mu.Unlock()
		s.changedHere(ctx, key)
	}
	return g, err
}

func (s *watchingFile) Release(ctx context.Context, g backend.Grant) error {
	s.mu.Lock()
	delete(s.mine, g.ID)
	s.mu.Unlock()
	err := s.fileStore.Release(ctx, g)
	s.changedHere(ctx, g.Key)
	return err
}

func (s *watchingFile) Inspect(ctx context.Context, key string) (backend.Record, error) {
	r, err := s.fileStore.Inspect(ctx, key)
	if s.mutant == "inspects what its process knows" && err == nil {
		changed.Lock()
		defer changed.Unlock()
		if known, ok := changed.known[s.path+"\x00"+key]; ok {
			return known, nil
		}
	}
	return r, err
}

func (s *watchingFile) Break(ctx context.Context, key string, token uint64) error {
	var id string
	err := s.update(ctx, key, func(e *fileEntry, now time.Time) error {
		switch {
		case !e.Held:
			return backend.ErrNotHeld
		case e.Last != token:
			return &backend.HeldError{Record: e.record(key, now)}
		}
		id = e.ID
		e.Held, e.ID, e.Holder = false, "", backend.Holder{}
		e.Last++ // the holder's late Release is told
		return nil
	})
	if err == nil {
		changed.Lock()
		changed.broken[id] = true
		changed.Unlock()
		s.changedHere(ctx, key)
	}
	return err
}

// Watch looks again and again, and wakes whenever the key is free, and once more
// each time it has changed.
func (s *watchingFile) Watch(ctx context.Context, key string, _ backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	if _, err := s.fileStore.Inspect(ctx, key); err != nil {
		return nil, nil, err
	}
	wake := make(chan struct{}, 1)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		var last backend.Record
		for {
			changed.Lock()
			here := changed.ch
			changed.Unlock()
			r, err := s.fileStore.Inspect(context.Background(), key)
			if err == nil && r.State != backend.Held && (last.State != r.State || last.Token != r.Token) {
				select {
				case wake <- struct{}{}:
				default:
				}
			}
			last = r
			every := time.After(fileLook)
			if s.mutant == "wakes its own process only" {
				every = nil
			}
			select {
			case <-ended:
				return
			case <-s.stop:
				return
			case <-here:
			case <-every:
			}
		}
	})
	return wake, func(context.Context, bool) error { close(ended); wg.Wait(); return nil }, nil
}

func (s *watchingFile) OnLoss(f func(key, id string)) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.count
	s.count++
	s.ears[n] = f
	if n == 0 {
		go s.listen()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ears, n)
	}
}

// listen looks after this client's grants until it is closed.
func (s *watchingFile) listen() {
	for {
		select {
		case <-s.stop:
			return
		case <-time.After(fileLook):
		}
		s.mu.Lock()
		mine := maps.Clone(s.mine)
		s.mu.Unlock()
		for id, g := range mine {
			lost := false
			if s.mutant == "tells its own process of losses only" {
				changed.Lock()
				lost = changed.broken[id]
				changed.Unlock()
			} else if r, err := s.fileStore.Inspect(context.Background(), g.Key); err == nil {
				lost = r.ID != id
			}
			if !lost {
				continue
			}
			s.mu.Lock()
			_, ours := s.mine[id]
			delete(s.mine, id)
			var fs []func(string, string)
			for _, f := range s.ears {
				fs = append(fs, f)
			}
			s.mu.Unlock()
			for _, f := range fs {
				if ours {
					f(g.Key, id)
				}
			}
		}
	}
}

func (s *watchingFile) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	return s.fileStore.Close()
}
