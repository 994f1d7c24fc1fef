package migrate

import "sync"

// watch passes a store's wake-ups on until it is told to end.
type watch struct {
	wake chan struct{}
	side Side

	mu     sync.Mutex
	spent  bool          // the claim has given back what it got under the ID that waits
	ended  chan struct{} // closed to end what passes on
	closed bool
	done   chan struct{} // closed when that has ended
}

func newWatch(side Side, inner <-chan struct{}) *watch {
	w := &watch{side: side, wake: make(chan struct{}, 1), ended: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		defer close(w.wake)
		for {
			select {
			case _, ok := <-inner:
				if !ok {
					return
				}
				select {
				case w.wake <- struct{}{}:
				default:
				}
			case <-w.ended:
				return
			}
		}
	}()
	return w
}

// spend ends the watch because the claim has had the lock there and given it back. Its
// next attempt goes under another ID, so a grant is none of the one that waits here.
func (w *watch) spend() {
	w.mu.Lock()
	w.spent = true
	w.mu.Unlock()
	w.finish()
}

// isSpent tells whether spend was called. A watch that has only ended may still be of the
// ID that the claim is granted: some stores know a waiter and a holder by one entry, and
// who told them that it was not granted would free the lock.
func (w *watch) isSpent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spent
}

// end returns when nothing is passed on any more.
func (w *watch) end() {
	w.finish()
	<-w.done
}

func (w *watch) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.ended)
	}
}
