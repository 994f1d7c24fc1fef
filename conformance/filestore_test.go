//go:build unix

package conformance

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hasplock/hasp/backend"
)

// fileStore is a backend that the processes of a host share, for the rules about
// processes: a directory for each key, with numbered versions of its entry. Its mutant field names what is
// broken about it.
type fileStore struct {
	path   string // a directory
	mutant string

	mu     sync.Mutex
	closed bool
}

type fileEntry struct {
	Key     string
	Last    uint64
	Held    bool
	ID      string
	Holder  backend.Holder
	TTL     time.Duration
	Since   int64
	Renewed int64
	Queue   []string       `json:",omitempty"` // only a mutant has one
	Waiters map[string]int `json:",omitempty"` // pids
}

// openFile opens file:PATH or file:PATH#MUTANT, and with watch: before the mutant a
// store that tells of changes.
func openFile(_ context.Context, url string) (backend.Backend, error) {
	path, mutant, _ := strings.Cut(strings.TrimPrefix(url, "file:"), "#")
	if mutant, ok := strings.CutPrefix(mutant, "watch:"); ok {
		return newWatchingFile(&fileStore{path: path, mutant: mutant}), nil
	}
	return &fileStore{path: path, mutant: mutant}, nil
}

// keptVersions is how many former versions of a key's entry stay.
const keptVersions = 64

// update runs f on the key's entry and publishes the outcome as its next version,
// unless another process has published that before: then it starts again. Nobody
// ever waits for a process that is stopped or dead.
func (s *fileStore) update(ctx context.Context, key string, f func(e *fileEntry, now time.Time) error) error {
	if err := backend.ValidateKey(key); err != nil {
		return err
	}
	dir := filepath.Join(s.path, fmt.Sprintf("%x", sha256.Sum256([]byte(key))))
	for {
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return backend.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return backend.Unavailable(err)
		}
		e, version, err := readEntry(dir)
		if err != nil {
			return backend.Unavailable(err)
		}
		e.Key = key
		was := *e
		was.Queue = slices.Clone(e.Queue)
		if s.mutant == "overwrites" {
			time.Sleep(time.Millisecond)
		}
		ferr := f(e, time.Now())
		if reflect.DeepEqual(was, *e) {
			return ferr
		}
		published, err := s.publish(dir, version+1, e)
		if err != nil {
			return backend.Unavailable(err)
		}
		if published {
			return ferr
		}
	}
}

// readEntry returns the newest version in dir.
func readEntry(dir string) (e *fileEntry, version int, err error) {
	for {
		versions, err := filepath.Glob(filepath.Join(dir, "v*"))
		if err != nil || len(versions) == 0 {
			return &fileEntry{}, 0, err
		}
		newest := slices.Max(versions)
		b, err := os.ReadFile(newest)
		if errors.Is(err, os.ErrNotExist) {
			continue // many newer ones have come in the meantime
		}
		if err != nil {
			return nil, 0, err
		}
		e = &fileEntry{}
		if err := json.Unmarshal(b, e); err != nil {
			return nil, 0, err
		}
		version, err = strconv.Atoi(filepath.Base(newest)[1:])
		return e, version, err
	}
}

var fileCount atomic.Int64

// publish makes e the entry's next version; false if there is one already.
func (s *fileStore) publish(dir string, version int, e *fileEntry) (bool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return false, err
	}
	tmp := filepath.Join(dir, fmt.Sprintf("tmp%d-%d", os.Getpid(), fileCount.Add(1)))
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return false, err
	}
	defer os.Remove(tmp)
	name := func(v int) string { return filepath.Join(dir, fmt.Sprintf("v%012d", v)) }
	if s.mutant == "overwrites" {
		return true, os.Rename(tmp, name(version))
	}
	err = os.Link(tmp, name(version))
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// One that was stopped for long may have taken a number that was used and
	// removed.
	if _, newest, err := readEntry(dir); err != nil || newest >= version+keptVersions {
		return false, err
	}
	if err := os.Remove(name(version - keptVersions)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return true, nil
}

func (e *fileEntry) stale(now time.Time) bool {
	return e.Held && now.UnixNano()-e.Renewed >= int64(e.TTL)
}

func (e *fileEntry) record(key string, now time.Time) backend.Record {
	r := backend.Record{Key: key, State: backend.Free, Token: e.Last}
	if e.Held {
		r.State, r.ID, r.Holder, r.TTL = backend.Held, e.ID, e.Holder, e.TTL
		r.HeldFor = time.Duration(now.UnixNano() - e.Since)
		r.Remaining = max(0, e.TTL-time.Duration(now.UnixNano()-e.Renewed))
		if e.stale(now) {
			r.State, r.Remaining = backend.Stale, 0
		}
	}
	return r
}

func (s *fileStore) Acquire(ctx context.Context, key string, c backend.Claim) (g backend.Grant, err error) {
	if err := backend.ValidateClaim(c); err != nil {
		return g, err
	}
	err = s.update(ctx, key, func(e *fileEntry, now time.Time) error {
		stale := e.stale(now)
		switch s.mutant {
		case "pid-never-expires": // trusts that a process cleans up after itself
			stale = stale && e.Holder.PID == c.Holder.PID
		case "pid-gone-is-free": // looks whether the process is there, as if that were enough
			if e.Held && syscall.Kill(e.Holder.PID, 0) != nil {
				stale = true
			}
		case "queue-of-the-dead", "queue-of-the-living":
			if s.mutant == "queue-of-the-living" { // those who are there, whether they run or not
				e.Queue = slices.DeleteFunc(e.Queue, func(id string) bool { return syscall.Kill(e.Waiters[id], 0) != nil })
				if e.Waiters == nil {
					e.Waiters = map[string]int{}
				}
				e.Waiters[c.ID] = c.Holder.PID
			}
			if len(e.Queue) > 0 && e.Queue[0] != c.ID && !(e.Held && e.ID == c.ID) {
				if !slices.Contains(e.Queue, c.ID) {
					e.Queue = append(e.Queue, c.ID)
				}
				return &backend.HeldError{Record: e.record(key, now)}
			}
			if e.Held && !stale && e.ID != c.ID && !slices.Contains(e.Queue, c.ID) {
				e.Queue = append(e.Queue, c.ID)
			}
		}
		switch {
		case e.Held && e.ID == c.ID:
			e.Renewed, e.TTL = now.UnixNano(), c.TTL
		case e.Held && !stale:
			r := e.record(key, now)
			return backend.RefusedBy(r)
		default:
			last := e.Last
			token, err := backend.NextToken(last, c.TokenFloor, now)
			if err != nil {
				return err
			}
			if s.mutant == "token-of-pid" {
				token = uint64(c.Holder.PID)<<32 + max(last&(1<<32-1), c.TokenFloor&(1<<32-1)) + 1
			}
			e.Last, e.Held, e.ID, e.Holder, e.TTL = token, true, c.ID, c.Holder, c.TTL
			e.Since, e.Renewed = now.UnixNano(), now.UnixNano()
			if s.mutant == "own-pid-only" {
				e.Holder.PID = 1
			}
			e.Queue = slices.DeleteFunc(e.Queue, func(id string) bool { return id == c.ID })
		}
		g = backend.Grant{Key: key, ID: c.ID, Holder: c.Holder, Token: e.Last, TTL: e.TTL}
		return nil
	})
	return g, err
}

func (s *fileStore) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	err := s.update(ctx, g.Key, func(e *fileEntry, now time.Time) error {
		if !e.Held || e.ID != g.ID {
			return backend.ErrLost
		}
		e.Renewed = now.UnixNano()
		return nil
	})
	return g, err
}

func (s *fileStore) Release(ctx context.Context, g backend.Grant) error {
	return s.update(ctx, g.Key, func(e *fileEntry, now time.Time) error {
		e.Queue = slices.DeleteFunc(e.Queue, func(id string) bool { return id == g.ID })
		switch {
		case e.Held && e.ID == g.ID, s.mutant == "other-pid-released" && e.Held && e.Holder.PID != os.Getpid():
			e.Held, e.ID, e.Holder = false, "", backend.Holder{}
			return nil
		case !e.Held && g.Token != 0 && e.Last == g.Token:
			return nil
		}
		return backend.ErrLost
	})
}

func (s *fileStore) Inspect(ctx context.Context, key string) (r backend.Record, err error) {
	err = s.update(ctx, key, func(e *fileEntry, now time.Time) error {
		r = e.record(key, now)
		return nil
	})
	return r, err
}

func (s *fileStore) List(ctx context.Context, prefix string) (rs []backend.Record, err error) {
	if _, err := s.Inspect(ctx, "list"); err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob(filepath.Join(s.path, "*"))
	for _, dir := range dirs {
		e, _, err := readEntry(dir)
		if err != nil {
			return nil, backend.Unavailable(err)
		}
		if e.Held && strings.HasPrefix(e.Key, prefix) {
			rs = append(rs, e.record(e.Key, time.Now()))
		}
	}
	slices.SortFunc(rs, func(a, b backend.Record) int { return cmp.Compare(a.Key, b.Key) })
	return rs, err
}

func (s *fileStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
