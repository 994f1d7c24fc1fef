package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// heldLock is what the guard process has to know to release a lock for a hasp that
// was killed.
type heldLock struct {
	URL   string        `json:"url"`
	Dir   string        `json:"dir"` // that URL's relative paths are relative to
	Grant backend.Grant `json:"grant"`
}

// heldNote describes a lease to the guard process. The URL may have a password in it: it
// goes through a pipe, never into arguments.
func heldNote(url string, lease *hasp.Lease) string {
	g := lease.Grant()
	g.State = nil // the backend's own, of this process
	dir, _ := os.Getwd()
	text, err := json.Marshal(heldLock{url, dir, g})
	if err != nil {
		return "" // then the TTL decides
	}
	return string(text)
}

// releaseOrphaned releases the lock of a hasp that was killed, by its claim. If the
// lock was broken or taken over meanwhile the claim holds nothing, and nothing is
// changed: breaking it by its token would be no safer, and would look to others like
// an operator's doing. It tries for as long as the lock is valid, and once at least.
func releaseOrphaned(text string, left time.Duration) {
	var h heldLock
	if json.Unmarshal([]byte(text), &h) != nil {
		return
	}
	if h.Dir != "" && os.Chdir(h.Dir) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), max(left, requestTimeout))
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil && errors.Is(h.release(ctx), hasp.ErrUnavailable) {
			select {
			case <-ctx.Done():
			case <-time.After(releasePause):
			}
		}
	}()
	select {
	case <-done:
	case <-ctx.Done(): // and no longer, should a call hang on a dead mount
	}
}

// releasePause is between two attempts of the guard process to reach the store.
const releasePause = 500 * time.Millisecond

func (h heldLock) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	b, err := backend.Open(ctx, h.URL)
	if err != nil {
		if ctx.Err() != nil {
			err = backend.Unavailable(err)
		}
		return err
	}
	return closing(b, b.Release(ctx, h.Grant))
}
