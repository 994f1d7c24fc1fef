package redistest_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/internal/pause"
	"github.com/hasplock/hasp/realtest/redistest"
)

// setBack does to a lock what setting the server's clock back does: every time that
// is stored is further off by as much. (Times are compared with the clock only, so
// nobody can tell the one from the other; and other tests need their server's clock.)
func setBack(t *testing.T, s *redistest.Server, key string, d time.Duration) {
	t.Helper()
	s.Do("eval", `
		for _, key in ipairs(KEYS) do
			local left = redis.call('PTTL', key)
			if left > 0 then
				redis.call('PEXPIRE', key, left + ARGV[1] / 1000)
			end
		end
		local queue = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
		for i = 1, #queue, 2 do
			redis.call('ZADD', KEYS[2], string.format('%.0f', queue[i + 1] + ARGV[1]), queue[i])
		end
		local turn = redis.call('GET', KEYS[3])
		if turn then
			turn = string.gsub(turn, '^(%S+ %S+ )(%d+)', function(who, at) return who .. string.format('%.0f', at + ARGV[1]) end)
			redis.call('SET', KEYS[3], turn, 'KEEPTTL')
		end`,
		3, "hasp:{"+key+"}", "hasp:{"+key+"}:queue", "hasp:{"+key+"}:turn", d.Microseconds())
}

func TestClockIsSetBack(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, nil)
	const step = time.Hour
	// The function that it returns says what has happened, which must be within so long.
	within := func(t *testing.T, most time.Duration) func(what string) {
		start, stood := time.Now(), pause.Watch()
		return func(what string) {
			t.Helper()
			took, late := time.Since(start), stood()
			t.Logf("%s after %v, of which the machine stood still for %v", what, took.Round(time.Millisecond), late.Round(time.Millisecond))
			if took-late > most {
				t.Errorf("want %v at most", most)
			}
		}
	}

	t.Run("while a stopped waiter has its turn", func(t *testing.T) {
		b := open(t, s.URL())
		g := acquire(t, b, "turn", claim(time.Minute))
		w := startWorker(t, "wait", s.URL(), "turn", 1)
		w.line()
		c := claim(time.Minute)
		wake, stop := mustWatch(t, b, "turn", c)
		w.signal(syscall.SIGSTOP)
		release(t, b, g)
		setBack(t, s, "turn", step)
		done := within(t, 5*time.Second)
		mustWake(t, "the next", wake)
		done("the next is woken")
		g = acquire(t, b, "turn", c)
		stop(true)
		release(t, b, g)
	})

	t.Run("while a dead process holds", func(t *testing.T) {
		b := open(t, s.URL())
		const ttl = time.Second
		w := startWorker(t, "hold", s.URL(), "held", ttl)
		w.line()
		c := claim(time.Minute)
		wake, stop := mustWatch(t, b, "held", c)
		w.kill()
		setBack(t, s, "held", step)
		done := within(t, 2*ttl+3*time.Second)
		var g backend.Grant
		for err := backend.ErrHeld; err != nil; { // its turn may have come before the step
			if !errors.Is(err, backend.ErrHeld) {
				t.Fatal(err)
			}
			mustWake(t, "the waiter", wake)
			g, err = b.Acquire(t.Context(), "held", c)
		}
		done("the waiter has it")
		stop(true)
		release(t, b, g)
	})

	t.Run("while a live one holds", func(t *testing.T) {
		b := open(t, s.URL())
		g := acquire(t, b, "live", claim(2*time.Second))
		setBack(t, s, "live", step)
		asked := time.Now()
		mustBeHeld(t, b, "live", g) // its TTL begins anew
		eventually(t, "it is stale", func() bool {
			_, err := b.Acquire(t.Context(), "live", claim(time.Minute))
			return err == nil
		})
		if alive := time.Since(asked); alive < 2*time.Second {
			t.Errorf("it was taken over %v after the step, its TTL is 2 s", alive)
		}
	})

	t.Run("while some wait", func(t *testing.T) {
		b := open(t, s.URL(unhurried))
		g := acquire(t, b, "queue", claim(time.Minute))
		c := claim(time.Minute)
		wake, stop := mustWatch(t, b, "queue", c)
		setBack(t, s, "queue", step)
		wake2, stop2 := mustWatch(t, b, "queue", claim(time.Minute))
		release(t, b, g)
		mustWake(t, "who came first", wake)
		select {
		case <-wake2:
			t.Error("who came later had its turn before")
		default:
		}
		g = acquire(t, b, "queue", c)
		stop(true)
		stop2(false)
		release(t, b, g)
	})

	t.Run("a grant with another TTL", func(t *testing.T) {
		// what counts is the TTL last asked for, not the one in the record
		b := open(t, s.URL())
		c := claim(time.Minute)
		g := acquire(t, b, "longer", c)
		g.TTL = 10 * time.Minute
		if _, err := b.Renew(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if left := mustBeHeld(t, b, "longer", g).Record.Remaining; left < 9*time.Minute {
			t.Errorf("%v are left of ten minutes", left)
		}
		c.TTL = time.Hour
		g = acquire(t, b, "longer", c)
		if left := mustBeHeld(t, b, "longer", g).Record.Remaining; left < 50*time.Minute {
			t.Errorf("%v are left of an hour", left)
		}
		release(t, b, g)
	})
}
