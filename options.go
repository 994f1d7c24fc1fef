package hasp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/user"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// The defaults: what the lock files of training jobs have always used.
const (
	DefaultTTL           = 300 * time.Second
	DefaultRetryInterval = 5 * time.Second
	DefaultMaxRetries    = 60 // at least; see Options.MaxRetries
)

// takeoverSlack is how much longer than its holder's TTL the default wait is. A
// store may take that long to call a lock stale that it last heard of when the wait
// began: it counts in whole seconds, looks for what has run out once in a while, or
// allows for a clock.
const takeoverSlack = 10 * time.Second

// defaultRetries returns how many retries outlast a dead holder, and the next look
// after that. With 60 of 5 s, as EfsLock had them, waiting ended at the very moment
// at which a lock with the default TTL becomes stale, so a fleet that started
// together never got the lock of a first holder that died early. It is a number of
// retries and not a time, so that who sets a longer RetryInterval waits for longer,
// as ever.
func defaultRetries(ttl, interval time.Duration) int {
	interval = max(interval, minWait)
	n := ttl/interval + takeoverSlack/interval + 2 // both are rounded down
	return int(min(max(n, DefaultMaxRetries), math.MaxInt32))
}

// Options of a Locker. The zero value, and nil, mean the defaults.
type Options struct {
	// TTL is how long a lock stays valid after its holder's last sign of life;
	// then it is stale and anyone may take it over. Default 300 s, at least 1 ms;
	// backends may have a higher minimum.
	TTL time.Duration

	// RetryInterval is the wait between attempts; default 5 s. Waiters are woken
	// earlier when the backend can tell them of a release.
	RetryInterval time.Duration
	// MaxRetries is how many such waits there are before a *TimeoutError; Unlimited
	// for no end. By default there are as many as outlast a dead holder, whose lock
	// is stale only when its TTL has run out: 60, which is 5 minutes at 5 s, or more
	// if they are less than 10 s longer than TTL (which is taken for the holder's,
	// too). So if nothing is set waiting ends after 64 of them, 320 s. If MaxWait is
	// set it alone decides.
	MaxRetries int
	// Retry replaces RetryInterval and MaxRetries.
	Retry RetryPolicy
	// MaxWait bounds the whole wait of one Acquire, whatever the retries say; the
	// attempt that ends it comes on top. 0 means no such bound. To outlast a dead
	// holder it has to be a few seconds longer than the holder's TTL.
	MaxWait time.Duration

	// Heartbeat is how often a held lease is renewed: TTL/3 by default, with a
	// tenth of jitter. It must be below TTL minus Margin.
	Heartbeat time.Duration
	// NoHeartbeat turns renewal off: a lease then lives its TTL and no longer. A
	// lease that the backend grants for less at first (see backend.Grant) is renewed
	// once.
	NoHeartbeat bool
	// Margin is how long before its TTL has run out a lease that could not be
	// renewed is given up, since clocks of holder and store do not run at quite
	// the same speed and stopping the work takes time. Default TTL/10, at most 5 s.
	Margin time.Duration

	// Owner names this holder to others; default: the user's name. Host and pid
	// are added.
	Owner string

	// RequestTimeout bounds each call to the backend; default 10 s.
	RequestTimeout time.Duration
	// MaxUnavailable is how long an Acquire goes on while the backend gives no
	// answer at all; default 10 s, negative to fail at once.
	MaxUnavailable time.Duration

	// Logger gets what happens to locks; nil for no logging. Levels: Debug for
	// attempts and renewals, Info for acquired, failed, waiting and released, Warn for
	// failed renewals, Error for loss. It is called as Observer is.
	Logger *slog.Logger
	// Observer is called for every Event of the Locker, for one at a time and in the
	// order in which they happened, from a goroutine that does nothing else: no lock
	// waits for it. So it may be told of an Event after the call that led to it has
	// returned. If it is so slow that 65,536 events wait for it, the next ones are
	// dropped, and an EventWarning says how many. Close tells what has not been told
	// yet, for 1 s at most; after Close there are no calls. Observer may call the
	// Locker's methods and its leases', except Close, which would wait for it.
	Observer func(Event)
}

// resolved is Options with the defaults filled in.
type resolved struct {
	Options
	holder backend.Holder
}

var userName = sync.OnceValue(func() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
})

func (o *Options) resolve() (resolved, error) {
	var r resolved
	if o != nil {
		r.Options = *o
	}
	var errs []error
	def := func(name string, d *time.Duration, def time.Duration) {
		if *d < 0 {
			errs = append(errs, fmt.Errorf("%s is %v: it must not be negative", name, *d))
		}
		if *d == 0 {
			*d = def
		}
	}
	def("TTL", &r.TTL, DefaultTTL)
	def("RetryInterval", &r.RetryInterval, DefaultRetryInterval)
	def("MaxWait", &r.MaxWait, 0)
	def("Heartbeat", &r.Heartbeat, r.TTL/3)
	def("Margin", &r.Margin, min(r.TTL/10, 5*time.Second))
	def("RequestTimeout", &r.RequestTimeout, 10*time.Second)
	if r.MaxUnavailable == 0 {
		r.MaxUnavailable = 10 * time.Second
	}
	switch {
	case r.MaxRetries == 0 && r.MaxWait > 0:
		r.MaxRetries = Unlimited
	case r.MaxRetries == 0:
		r.MaxRetries = defaultRetries(r.TTL, r.RetryInterval)
	case r.MaxRetries < Unlimited:
		errs = append(errs, fmt.Errorf("MaxRetries is %d: it must not be negative, but for Unlimited", r.MaxRetries))
	}
	if r.Retry == nil {
		r.Retry = Constant(r.RetryInterval, r.MaxRetries)
	}
	if v, ok := r.Retry.(interface{ validate() error }); ok && r.RetryInterval >= 0 {
		if err := v.validate(); err != nil {
			errs = append(errs, fmt.Errorf("policy in Retry: %w", err))
		}
	}
	// what two options make of each other is worth a word if each is right
	switch {
	case len(errs) > 0:
	case r.TTL < time.Millisecond:
		errs = append(errs, fmt.Errorf("TTL is %v: the least is 1 ms", r.TTL))
	case r.Margin >= r.TTL:
		errs = append(errs, fmt.Errorf("the Margin, %v, leaves nothing of the TTL, %v", r.Margin, r.TTL))
	case !r.NoHeartbeat && r.Heartbeat >= r.TTL-r.Margin:
		errs = append(errs, fmt.Errorf("the Heartbeat, %v, is not below the TTL, %v, less the Margin, %v: leases would be lost", r.Heartbeat, r.TTL, r.Margin))
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	r.holder = backend.Holder{Owner: r.Owner, Host: host, PID: os.Getpid()}
	if r.holder.Owner == "" {
		r.holder.Owner = userName()
	}
	if len(errs) > 0 {
		return r, fmt.Errorf("options: %w", errors.Join(errs...))
	}
	return r, nil
}

// valid is how long a lease with this grant lives from the request that set its
// TTL. Of a grant that is shorter than claimed the margin takes no more than half,
// or one that is longer than such a grant would leave nothing of it.
func (r *resolved) valid(g backend.Grant) time.Duration {
	if g.TTL < r.TTL {
		return g.TTL - min(r.Margin, g.TTL/2)
	}
	return g.TTL - r.Margin
}

// bounded returns a context for work that has to be done although the caller's
// context may have ended: it keeps the values and has the request timeout.
func (r *resolved) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), r.RequestTimeout)
}
