package hasp

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A request ends as a context of package context would, whoever looks, and whether
// anybody waits for that or not.
func TestRequest(t *testing.T) {
	type key struct{}
	stop := errors.New("stop")
	for name, c := range map[string]struct {
		parent  time.Duration // the caller's deadline; 0: none
		end     func(cancel context.CancelCauseFunc, closeLocker func(), r *request)
		want    error
		cause   error
		instant bool // else it ends by itself a second later
	}{
		"deadline":          {end: func(context.CancelCauseFunc, func(), *request) {}, want: context.DeadlineExceeded, cause: context.DeadlineExceeded},
		"caller's deadline": {parent: 500 * time.Millisecond, end: func(context.CancelCauseFunc, func(), *request) {}, want: context.DeadlineExceeded, cause: context.DeadlineExceeded},
		"cancelled":         {end: func(c context.CancelCauseFunc, _ func(), _ *request) { c(stop) }, want: context.Canceled, cause: stop, instant: true},
		"closed":            {end: func(_ context.CancelCauseFunc, l func(), _ *request) { l() }, want: context.Canceled, cause: context.Canceled, instant: true},
		"finished":          {end: func(_ context.CancelCauseFunc, _ func(), r *request) { r.finish() }, want: context.Canceled, cause: context.Canceled, instant: true},
	} {
		for _, waited := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					parent := context.WithValue(context.Background(), key{}, "value")
					if c.parent > 0 {
						var cancel context.CancelFunc
						parent, cancel = context.WithTimeout(parent, c.parent)
						defer cancel()
					}
					parent, cancel := context.WithCancelCause(parent)
					defer cancel(nil)
					var all requests
					r := all.make(parent, true, time.Now().Add(time.Second))
					defer r.finish()
					left := time.Second
					if c.parent > 0 {
						left = c.parent
					}
					if at, ok := r.Deadline(); !ok || time.Until(at) != left {
						t.Errorf("deadline in %v, want %v", time.Until(at), left)
					}
					if v := r.Value(key{}); v != "value" {
						t.Errorf("value %v", v)
					}
					var child context.Context = context.Background()
					told, stopped := false, false
					if waited {
						var end context.CancelFunc
						child, end = context.WithCancel(r)
						defer end()
						unwanted := context.AfterFunc(r, func() { stopped = true })
						if !unwanted() || unwanted() {
							t.Error("what was to be called at the end could not be stopped, or twice")
						}
						context.AfterFunc(r, func() { told = true })
						select {
						case <-r.Done():
							t.Error("done at the start")
						default:
						}
					}
					if err := r.Err(); err != nil {
						t.Errorf("at the start: %v", err)
					}
					c.end(cancel, all.close, r)
					if !c.instant {
						time.Sleep(time.Second)
					}
					synctest.Wait()
					if waited && (child.Err() == nil || !told || stopped) {
						t.Errorf("child: %v, told: %v, told what did not want to be: %v", child.Err(), told, stopped)
					}
					if err := r.Err(); err != c.want {
						t.Errorf("error %v, want %v", err, c.want)
					}
					if err := context.Cause(r); err != c.cause {
						t.Errorf("cause %v, want %v", err, c.cause)
					}
					select {
					case <-r.Done():
					default:
						t.Error("not done")
					}
				})
			})
		}
	}
}
