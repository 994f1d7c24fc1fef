package hasp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	DefaultMaxRetries    = 60
)

// Options of a Locker. The zero value, and nil, mean the defaults.
type Options struct {
	// TTL is how long a lock stays valid after its holder's last sign of life;
	// then it is stale and anyone may take it over. Default 300 s, at least 1 ms;
	// backends may have a higher minimum.
	TTL time.Duration

	// RetryInterval is the wait between attempts; default 5 s. Waiters are woken
	// earlier when the backend can tell them of a release.
	RetryInterval time.Duration
	// MaxRetries is how many such waits there are before a *TimeoutError: 60 by
	// default, which makes 5 minutes; Unlimited for no end.
	MaxRetries int
	// Retry replaces RetryInterval and MaxRetries.
	Retry RetryPolicy
	// MaxWait bounds the whole wait of one Acquire, whatever the retries say; the
	// attempt that ends it comes on top. 0 means no such bound.
	MaxWait time.Duration

	// Heartbeat is how often a held lease is renewed: TTL/3 by default, with a
	// tenth of jitter. It must be below TTL minus Margin.
	Heartbeat time.Duration
	// NoHeartbeat turns renewal off: a lease then lives its TTL and no longer.
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
	// attempts and renewals, Info for acquired, waiting and released, Warn for
	// failed renewals, Error for loss.
	Logger *slog.Logger
	// Observer is called for every Event, from the goroutine in which it
	// happens: it must return fast and must not call the Locker.
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
	case r.MaxRetries == 0:
		r.MaxRetries = DefaultMaxRetries
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
		return r, fmt.Errorf("hasp: options: %w", errors.Join(errs...))
	}
	return r, nil
}

// bounded returns a context for work that has to be done although the caller's
// context may have ended: it keeps the values and has the request timeout.
func (r *resolved) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), r.RequestTimeout)
}
