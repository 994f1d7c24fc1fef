//go:build unix

package efs

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// A trial is a part of a test that uses locks of so short a TTL that a machine which
// stands still lets them run out. What fails then says nothing, and is tried again; what
// fails while the machine goes on, or time after time, has failed.
type trial struct {
	testing.TB
	mu   sync.Mutex
	said []string
}

func (x *trial) say(s string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.said = append(x.said, s)
}

func (x *trial) Error(args ...any)                 { x.say(fmt.Sprintln(args...)) }
func (x *trial) Errorf(format string, args ...any) { x.say(fmt.Sprintf(format, args...)) }
func (x *trial) Fatal(args ...any)                 { x.Error(args...); runtime.Goexit() }
func (x *trial) Fatalf(format string, args ...any) { x.Errorf(format, args...); runtime.Goexit() }
func (x *trial) Failed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.said) > 0
}

// tolerable is for how long altogether a machine may stand still in a trial that counts.
const tolerable = crashTTL / 5

// try runs f, in a goroutine of its own, until that says something.
func try(t *testing.T, f func(t testing.TB)) {
	t.Helper()
	const most = 10
	for n := 1; ; n++ {
		x := &trial{TB: t}
		before := stillness()
		done := make(chan struct{})
		go func() {
			defer close(done)
			f(x)
		}()
		<-done
		stood := stillness() - before
		if len(x.said) == 0 {
			return
		}
		if stood < tolerable || n == most {
			for _, s := range x.said {
				t.Errorf("in try %d, in which the machine stood still for %v: %s", n, stood, s)
			}
			return
		}
		t.Logf("the machine stood still for %v: that says nothing: %s", stood, x.said[0])
	}
}

var clockwork = sync.OnceValue(func() func() time.Duration {
	const tick, usual = 10 * time.Millisecond, 3 * time.Millisecond
	var mu sync.Mutex
	var stood time.Duration
	last := time.Now()
	look := func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if late := time.Since(last) - tick; late > usual {
			stood += late
			last = time.Now()
		}
		return stood
	}
	dir, err := os.MkdirTemp("", "hasp-efs-")
	if err != nil {
		panic(err)
	}
	_ = os.Remove(dir)
	go func() { // until the process ends
		for {
			time.Sleep(tick)
			// A disk that others wait for is waited for here, too.
			if os.Mkdir(dir, 0o700) == nil {
				_ = os.Remove(dir)
			}
			look()
			mu.Lock()
			last = time.Now()
			mu.Unlock()
		}
	}()
	return look
})

// stillness is for how long altogether this process has stood still so far: it got no
// processor, or its file system did not answer.
func stillness() time.Duration { return clockwork()() }

// A trial that fails is told of unless the machine stood still, and then is repeated.
func TestTrial(t *testing.T) {
	runs := 0
	try(t, func(t testing.TB) {
		if runs++; runs == 1 {
			clockwork()
			time.Sleep(20 * time.Millisecond)
			pretend := time.Now().Add(2 * tolerable)
			for before := stillness(); stillness()-before < tolerable; { // keep all processors from it
				var wg sync.WaitGroup
				for range 4 * runtime.GOMAXPROCS(0) {
					wg.Go(func() {
						for time.Now().Before(pretend) {
						}
					})
				}
				wg.Wait()
				pretend = time.Now().Add(2 * tolerable)
			}
			t.Fatal("while the machine stands still")
		}
	})
	if runs != 2 {
		t.Errorf("it ran %d times, want 2", runs)
	}
	x := &trial{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.Errorf("%d", 1)
		x.Fatal("2")
		x.Error("not reached")
	}()
	<-done
	if !x.Failed() || len(x.said) != 2 {
		t.Errorf("it says %q", x.said)
	}
}
