package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// trial is one rule tried once on one backend.
type trial struct {
	s     *suite
	rule  *Rule
	cfg   *Config
	ctx   context.Context
	scale time.Duration // doubled when the machine stalled the one before
	start time.Time
	wall  time.Time // the same by this host's wall clock alone
	// patience is how long it may take in all.
	patience time.Duration

	mu        sync.Mutex
	seen      []string // what broke the rule
	notes     []string // what was measured
	blockedBy string   // the rule that this one rests on and that is broken
	blocked   string
	undecided string // the machine was too slow
	stalled   bool   // for it stood still
	hopeless  bool   // so much that another try would say no more
	lacking   string
	cleanups  []func(context.Context)
	holds     []Hold
	faults    []Fault
	keys      int
	released  map[string]bool // keys that their holder has released
}

// failf says how the rule was broken and ends the trial. Only the rule's own
// goroutine may call it; others call errorf.
func (x *trial) failf(format string, args ...any) {
	x.errorf(format, args...)
	runtime.Goexit()
}

// errorf says how the rule was broken.
func (x *trial) errorf(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.seen) < 20 {
		x.seen = append(x.seen, fmt.Sprintf(format, args...))
	}
}

// notef adds a measurement to the result.
func (x *trial) notef(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.notes = append(x.notes, fmt.Sprintf(format, args...))
}

func (x *trial) failed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.seen) > 0
}

// restf ends the trial because a rule that it rests on does not hold. If it is
// the rule on trial, that one has failed; otherwise the result depends on what
// became of the other, so that one defect does not make every rule fail.
func (x *trial) restf(on, format string, args ...any) {
	if x.rule.ID == on {
		x.failf(format, args...)
	}
	// A store that goes by clocks doubts them when one was set, which another rule may judge.
	if by := x.clockSet(); by.Abs() > clockSlew {
		x.undecide("this host's clock was set by %v", backend.Round(by))
	}
	x.mu.Lock()
	x.blockedBy, x.blocked = on, fmt.Sprintf(format, args...)
	x.mu.Unlock()
	runtime.Goexit()
}

// clockSlew is more than a clock that is only made to run faster or slower gains in a trial.
const clockSlew = 10 * time.Millisecond

// clockSet is by how much this host's wall clock was set since the trial began.
func (x *trial) clockSet() time.Duration {
	now := time.Now()
	return now.Round(0).Sub(x.wall) - now.Sub(x.start)
}

// lackf ends the trial because the backend cannot do what the rule is about and
// need not.
func (x *trial) lackf(format string, args ...any) {
	x.mu.Lock()
	x.lacking = fmt.Sprintf(format, args...)
	x.mu.Unlock()
	runtime.Goexit()
}

// unlessStalled ends the trial undecided if the machine stalled for longer than
// bearable since then.
func (x *trial) unlessStalled(since time.Time, bearable time.Duration) {
	if long := x.s.stalls.since(since); long > bearable {
		x.mu.Lock()
		x.stalled = true
		x.mu.Unlock()
		x.undecide("the machine did not run this process for %v, and %v could be borne", backend.Round(long), backend.Round(bearable))
	}
}

// latef is failf for what a machine that is too slow may have caused, whether it
// was noticed or not: it takes the same again with a TTL four times as long.
func (x *trial) latef(format string, args ...any) {
	if x.scale < 4 {
		x.undecide(format, args...)
	}
	x.failf(format, args...)
}

// undecide ends the trial because the machine was too slow to see what the rule
// is about; it is repeated with a longer TTL.
func (x *trial) undecide(format string, args ...any) {
	x.mu.Lock()
	x.undecided = fmt.Sprintf(format, args...)
	x.mu.Unlock()
	runtime.Goexit()
}

// despair ends the trial because the machine hardly runs at all. It is not repeated.
func (x *trial) despair(format string, args ...any) {
	x.mu.Lock()
	x.stalled, x.hopeless = true, true
	x.mu.Unlock()
	x.undecide(format, args...)
}

func (x *trial) cleanup(f func(context.Context)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cleanups = append(x.cleanups, f)
}

// ttl is the shortest that the store can be trusted with.
func (x *trial) ttl() time.Duration { return x.cfg.MinTTL * x.scale }

// steady is a TTL for locks that are kept by heartbeats.
func (x *trial) steady() time.Duration { return max(x.ttl(), 500*time.Millisecond*x.scale) }

// long is a TTL that does not run out during a trial.
func (x *trial) long() time.Duration { return max(2*time.Minute, 60*x.cfg.MinTTL) }

// slack is how late a takeover may be that is due since then, with what the machine has
// held it up. That it stood still before that does not make a store late: most of what a
// rule waits for is a TTL, and in all that time any machine is late for a moment.
func (x *trial) slack(due time.Time) time.Duration {
	return x.cfg.Slack + 2*x.s.stalls.since(due)
}

// await waits for ch, for as long as that and twice what the machine stands still
// meanwhile, within reason: then the trial ends. A select beside a timer would take either
// when both are ready, as they are when a stall is over.
func await[T any](x *trial, ch <-chan T, within time.Duration) (v T, ok bool) {
	begun := time.Now()
	for {
		more := 2 * x.s.stalls.since(begun)
		most := 3*within + 5*time.Second
		left := time.Until(begun.Add(within + min(more, most)))
		if left <= 0 {
			select {
			case v = <-ch:
				return v, true
			default:
			}
			if more > most {
				x.despair("the machine did not run this process for %v in %v", backend.Round(more/2), backend.Round(time.Since(begun)))
			}
			return v, false
		}
		timer := time.NewTimer(left)
		select {
		case v = <-ch:
			timer.Stop()
			return v, true
		case <-timer.C:
		case <-x.ctx.Done():
			runtime.Goexit()
		}
	}
}

// within returns a context that ends when await would give up.
func (x *trial) within(d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(x.ctx)
	begun := time.Now()
	var timer *time.Timer
	var mu sync.Mutex // timer is set by the time it is used
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		if left := time.Until(begun.Add(d + 2*x.s.stalls.since(begun))); left > 0 && ctx.Err() == nil {
			timer.Reset(left)
			return
		}
		cancel()
	})
	return ctx, func() { timer.Stop(); cancel() }
}

// tooLong tells whether what has been going on since then has taken longer than that, and
// than twice what the machine stood still meanwhile.
func (x *trial) tooLong(since time.Time, bound time.Duration) bool {
	return time.Since(since) > bound+2*x.s.stalls.since(since)
}

// soon is a bound for what takes no waiting.
func (x *trial) soon() time.Duration {
	if x.cfg.brief {
		return 2*time.Second + x.cfg.Slack
	}
	return 5*time.Second + x.cfg.Slack
}

// wait is longer than any wait among a few contenders takes, some of whom fall
// silent.
func (x *trial) wait() time.Duration {
	w := 2*x.soon() + 8*(x.steady()+x.cfg.Slack)
	if x.cfg.brief {
		w /= 3
	}
	return w
}

// poll is the pause between attempts.
func (x *trial) poll() time.Duration {
	return min(max(x.ttl()/40, 5*time.Millisecond), 50*time.Millisecond)
}

func (x *trial) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-x.ctx.Done():
		runtime.Goexit()
	}
}

// key returns a key that no other trial uses.
func (x *trial) key(names ...string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.keys++
	return x.prefix() + fmt.Sprintf("k%d", x.keys) + strings.Join(append([]string{""}, names...), "/")
}

func (x *trial) prefix() string {
	return fmt.Sprintf("%s%s/%s-%d/", x.cfg.KeyPrefix, x.s.nonce, x.rule.ID, x.scale)
}

// client opens a client that is closed after the trial, if not before.
func (x *trial) client() backend.Backend {
	b, err := x.cfg.Open(x.ctx)
	if err != nil {
		x.failf("a client cannot be opened: %v", err)
	}
	x.cleanup(func(context.Context) { _ = b.Close() })
	return b
}

func (x *trial) clients(n int) []backend.Backend {
	bs := make([]backend.Backend, n)
	for i := range bs {
		bs[i] = x.client()
	}
	return bs
}

// locker returns the engine on a client of its own.
func (x *trial) locker(change func(*hasp.Options)) hasp.Locker {
	return x.lockerOn(x.client(), change)
}

func (x *trial) lockerOn(b backend.Backend, change func(*hasp.Options)) hasp.Locker {
	o := &hasp.Options{
		TTL: x.steady(), RetryInterval: 2 * x.poll(), MaxRetries: hasp.Unlimited,
		Owner: x.rule.ID,
	}
	if change != nil {
		change(o)
	}
	l := hasp.New(guarded{b, x}, o)
	x.cleanup(func(context.Context) { _ = l.Close() })
	return l
}

var host, _ = os.Hostname()

func (x *trial) claim(ttl time.Duration) backend.Claim {
	return backend.Claim{
		ID:     rand.Text(),
		Holder: backend.Holder{Owner: x.rule.ID, Host: host, PID: os.Getpid()},
		TTL:    ttl,
	}
}

// acquire takes key, which must be free.
func (x *trial) acquire(b backend.Backend, key string, ttl time.Duration) backend.Grant {
	return x.acquireAs(b, key, x.claim(ttl))
}

func (x *trial) acquireAs(b backend.Backend, key string, c backend.Claim) backend.Grant {
	g, err := x.attempt(b, key, c)
	if err != nil {
		if x.wasReleased(key) && errors.Is(err, backend.ErrHeld) {
			x.restf("release-frees", "a claim after Release gave %q", err)
		}
		x.failf("a free key was refused: %v", err)
	}
	return g
}

// attempt makes one attempt and sees to it that what it gets is released.
func (x *trial) attempt(b backend.Backend, key string, c backend.Claim) (backend.Grant, error) {
	g, err := b.Acquire(x.ctx, key, c)
	if err == nil {
		x.noteReleased(key, false)
		x.releaseLater(b, g)
	}
	if definite(err) && x.has(b, key, c, err) {
		x.blame("error-definite", "an attempt gave %q, and its claim holds the key", err)
		x.releaseLater(b, backend.Grant{Key: key, ID: c.ID})
	}
	return g, err
}

// has tells whether a claim that was refused holds its key nevertheless.
func (x *trial) has(b backend.Backend, key string, c backend.Claim, refused error) bool {
	var held *backend.HeldError
	if errors.As(refused, &held) {
		return c.ID != "" && held.Record.ID == c.ID && held.Record.State == backend.Held
	}
	if errors.Is(refused, backend.ErrInvalidKey) || errors.Is(refused, backend.ErrClosed) || c.ID == "" {
		return false
	}
	r, err := b.Inspect(x.ctx, key)
	return err == nil && r.State == backend.Held && r.ID == c.ID
}

// blame notes that a rule that everything rests on does not hold, from any
// goroutine: whatever this trial sees then is not judged.
func (x *trial) blame(on, format string, args ...any) {
	if x.rule.ID == on {
		x.errorf(format, args...)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.blockedBy, x.blocked = on, fmt.Sprintf(format, args...)
}

func (x *trial) releaseLater(b backend.Backend, g backend.Grant) {
	x.cleanup(func(ctx context.Context) {
		if err := b.Release(ctx, g); errors.Is(err, backend.ErrClosed) {
			if fresh, err := x.cfg.Open(ctx); err == nil {
				_ = fresh.Release(ctx, g)
				_ = fresh.Close()
			}
		}
	})
}

// refused makes an attempt that must find key held.
func (x *trial) refused(b backend.Backend, key string) *backend.HeldError {
	g, err := x.attempt(b, key, x.claim(x.long()))
	if err == nil {
		x.restf("exclusive-clients", "a second claim got token %d of a key that was held", g.Token)
	}
	var held *backend.HeldError
	if !errors.As(err, &held) {
		x.restf("exclusive-clients", "an attempt at a held key gave %q, not a *HeldError", err)
	}
	return held
}

// release frees g's key.
func (x *trial) release(b backend.Backend, g backend.Grant) {
	if err := b.Release(x.ctx, g); err != nil {
		x.restf("release-frees", "Release by the holder gave %q", err)
	}
	x.noteReleased(g.Key, true)
}

func (x *trial) noteReleased(key string, released bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.released == nil {
		x.released = map[string]bool{}
	}
	x.released[key] = released
}

func (x *trial) wasReleased(key string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.released[key]
}

func (x *trial) inspect(b backend.Backend, key string) backend.Record {
	r, err := b.Inspect(x.ctx, key)
	if err != nil {
		x.restf("inspect-fresh", "Inspect gave %q", err)
	}
	return r
}

// stillHolds checks that g has its key; after says what it should have
// survived.
func (x *trial) stillHolds(b backend.Backend, g backend.Grant, after string) {
	r := x.inspect(b, g.Key)
	if r.State != backend.Held || r.Token != g.Token || r.ID != g.ID {
		x.failf("after %s the holder with token %d is gone: the key is %s", after, g.Token, r)
	}
}

// isFree checks that nobody has key; after says why that is so.
func (x *trial) isFree(b backend.Backend, key, after string) {
	if r := x.inspect(b, key); r.State == backend.Held {
		if x.wasReleased(key) {
			x.restf("release-frees", "after Release the key is %s", r)
		}
		x.failf("after %s the key is not free but %s", after, r)
	}
}

// silent is a holder that has not been heard of since then.
type silent struct {
	backend.Grant
	asked    time.Time // before the last sign of life was sent
	answered time.Time // after it
}

// end is when the TTL is over for certain.
func (s silent) end() time.Time { return s.answered.Add(s.TTL) }

// outlive sleeps until s is stale for certain: a single attempt after it is to succeed.
// What the machine stands still meanwhile is added, and again what it does in that.
func (x *trial) outlive(s silent) {
	for range 4 {
		d := time.Until(s.end().Add(x.slack(s.end())))
		if d <= 0 {
			return
		}
		x.sleep(d)
	}
}

// holdSilently takes key and says nothing more.
func (x *trial) holdSilently(b backend.Backend, key string, ttl time.Duration) silent {
	s := silent{asked: time.Now()}
	s.Grant = x.acquire(b, key, ttl)
	s.answered = time.Now()
	return s
}

// takeover claims the silent holder's key until it gets it. at is when the
// attempt that succeeded was answered.
func (x *trial) takeover(b backend.Backend, s silent, ttl time.Duration) (g backend.Grant, at time.Time) {
	next := x.takeoverSilently(b, s, ttl)
	return next.Grant, next.answered
}

// takeoverSilently is takeover by one that says nothing more after it.
func (x *trial) takeoverSilently(b backend.Backend, s silent, ttl time.Duration) silent {
	x.sleep(time.Until(s.asked.Add(s.TTL * 9 / 10)))
	c := x.claim(ttl)
	for {
		begun := time.Now()
		g, err := x.attempt(b, s.Key, c)
		if err == nil {
			return silent{g, begun, time.Now()}
		}
		if !errors.Is(err, backend.ErrHeld) {
			x.restf("stale-after-ttl", "an attempt at a stale key gave %q", err)
		}
		if late := begun.Sub(s.end()); late > x.slack(s.end()) {
			if _, err := x.attempt(b, s.Key, x.claim(s.TTL)); err == nil && ttl > s.TTL {
				x.restf("stale-waiter-long", "a claim with a TTL of %v was refused %v after the holder's TTL of %v had run out", ttl, backend.Round(late), s.TTL)
			}
			x.restf("stale-after-ttl", "%v after its holder's TTL of %v had run out the key was still %q", backend.Round(late), s.TTL, err)
		}
		x.sleep(x.poll())
	}
}

// returns runs f and checks that it comes back in time.
func (x *trial) returns(within time.Duration, what string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer x.recovered()
		f()
	}()
	if _, ok := await(x, done, within); !ok {
		x.failf("%s had not returned after %v", what, within)
	}
}
