package hasp

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// One timer serves all requests, and each ends at its own deadline all the same, in
// whatever order they come and go.
func TestRequestsShareATimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all requests
		start := time.Now()
		ends := map[time.Duration]time.Duration{}
		told := make(chan time.Duration)
		// the second is earlier than the timer, the last two in the same instant
		for _, d := range []time.Duration{5 * time.Second, time.Second, 3 * time.Second, 7 * time.Second, 7 * time.Second} {
			r := all.make(context.Background(), true, time.Now().Add(d))
			go func() {
				<-r.Done()
				if r.Err() != context.DeadlineExceeded {
					t.Errorf("after %v: %v", d, r.Err())
				}
				r.finish()
				told <- d
			}()
			synctest.Wait()
		}
		finished := all.make(context.Background(), true, time.Now().Add(2*time.Second))
		finished.Done()
		finished.finish()
		for range 5 {
			d := <-told
			ends[d] = time.Since(start)
		}
		for d, at := range ends {
			if at < d || at > d+2*expirePace {
				t.Errorf("one with a deadline in %v ended after %v", d, at)
			}
		}
		if all.first != nil {
			t.Error("requests that are over are still in the list")
		}
		// and the timer is set again for those that come later
		r := all.make(context.Background(), true, time.Now().Add(time.Second))
		defer r.finish()
		before := time.Now()
		<-r.Done()
		if took := time.Since(before); took != time.Second {
			t.Errorf("a later request with a deadline in 1 s ended after %v", took)
		}
	})
}

// Close ends those that heed it, and those of them that come later; not the others.
func TestRequestsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all requests
		heeds, other := all.make(context.Background(), true, time.Now().Add(time.Hour)), all.make(context.Background(), false, time.Now().Add(time.Hour))
		defer heeds.finish()
		defer other.finish()
		heeds.Done()
		other.Done()
		all.close()
		later := all.make(context.Background(), true, time.Now().Add(time.Hour))
		defer later.finish()
		for name, r := range map[string]*request{"under way": heeds, "later": later} {
			select {
			case <-r.Done():
			default:
				t.Errorf("%s: not ended", name)
			}
			if !errors.Is(r.Err(), context.Canceled) {
				t.Errorf("%s: %v", name, r.Err())
			}
		}
		called := make(chan struct{})
		later.AfterFunc(func() { close(called) })
		<-called
		if other.Err() != nil {
			t.Errorf("one that does not heed it: %v", other.Err())
		}
	})
}

// Closing while requests begin to be waited for misses none.
func TestRequestsCloseRace(t *testing.T) {
	for range 5000 {
		var all requests
		r, s := all.make(context.Background(), true, time.Now().Add(time.Minute)), all.make(context.Background(), true, time.Now().Add(time.Minute))
		var ready atomic.Bool
		go func() {
			for !ready.Load() {
			}
			all.close()
		}()
		called := make(chan struct{})
		ready.Store(true)
		done := r.Done()
		s.AfterFunc(func() { close(called) })
		<-done
		<-called
		r.finish()
		s.finish()
	}
}
