package redislock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/redislock/internal/conn"
)

// Defaults of Options.
const (
	DefaultPrefix          = "hasp:"
	DefaultTokenMemory     = time.Hour
	DefaultPatience        = time.Second
	DefaultReplicasTimeout = time.Second
)

// Options configure a Backend. Nil and the zero value stand for the defaults.
type Options struct {
	// Prefix starts every name the backend uses in Redis, of keys and channels:
	// lock "sweeps/foo" is key "hasp:{sweeps/foo}". Locks with different prefixes
	// know nothing of each other. It has no braces, spaces or control characters.
	Prefix string

	// TokenMemory is how long the last token of a key is remembered after its lock
	// was released or has run out. Forgetting it is safe unless the server's clock is
	// set back by more than this: see PROTOCOL.md. Default 1 h.
	TokenMemory time.Duration

	// Patience is how long a waiter whose turn it is may take to make its attempt
	// before the next one is served. Default 1 s.
	Patience time.Duration

	// Replicas is how many replicas have to acknowledge an acquire before it
	// counts (Redis's WAIT). Default 0: none is waited for. It narrows what a
	// failover can lose and does not close it: the fencing token does.
	Replicas int

	// ReplicasTimeout is how long to wait for them. It must be shorter than the
	// client's read timeout. Default 1 s.
	ReplicasTimeout time.Duration
}

// Backend keeps locks in Redis. Its methods may be called concurrently.
type Backend struct {
	client  redis.UniversalClient
	own     bool   // Close closes client
	where   string // for errors: the server's address
	user    string // for errors; "" is the default one
	prefix  string
	channel string // unique to this Backend

	// exact: one server executes the scripts and has all the subscribers, so
	// PUBLISH inside a script tells whether a waiter's process is alive, and one
	// script may have the keys of many locks.
	exact bool
	// repeats: the client may send a command again after an attempt of unknown
	// outcome, so an error reply proves nothing about the attempts before it.
	repeats bool
	// punctual: the client heeds a context's deadline, though not its cancellation.
	punctual bool

	patience        time.Duration
	memory          int64  // ms
	memoryText      string // in ms
	manners         any    // how to treat waiters, a string: turn.lua says what is in it
	replicas        int
	replicasTimeout time.Duration

	notifier *notifier
	conns    *conn.Pool // nil: client does it all
	closed   atomic.Bool
	warnings []string
}

var (
	_ backend.Backend      = (*Backend)(nil)
	_ backend.Watcher      = (*Backend)(nil)
	_ backend.Breaker      = (*Backend)(nil)
	_ backend.Lister       = (*Backend)(nil)
	_ backend.BatchRenewer = (*Backend)(nil)
	_ backend.LossNotifier = (*Backend)(nil)
	_ backend.TokenRaiser  = (*Backend)(nil)
	_ backend.ValueStore   = (*Backend)(nil)
	_ backend.Warner       = (*Backend)(nil)
	_ backend.Prompt       = (*Backend)(nil)
	_ backend.Repeater     = (*Backend)(nil)
	_ backend.Punctual     = (*Backend)(nil)
)

// New returns a backend that uses client, which stays the caller's: Close does
// not close it. The client should have ContextTimeoutEnabled set, or calls can
// outlast their context by its read timeout; Warnings tells when it has not.
//
// A *redis.Ring is refused: it moves a key to another server while the key's own
// does not answer, and each could have a holder.
func New(client redis.UniversalClient, opts *Options) (*Backend, error) {
	return newBackend(client, opts)
}

func newBackend(client redis.UniversalClient, opts *Options) (*Backend, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("redislock: %w", err)
	}
	b := &Backend{
		client:          client,
		prefix:          o.Prefix,
		channel:         o.Prefix + "wake:" + rand.Text(),
		repeats:         true,
		patience:        o.Patience,
		memory:          wholeMillis(o.TokenMemory),
		memoryText:      millis(o.TokenMemory),
		replicas:        o.Replicas,
		replicasTimeout: o.ReplicasTimeout,
	}
	b.user = username(client)
	heeds, known := true, true
	switch c := client.(type) {
	case nil:
		return nil, errors.New("redislock: the client is nil")
	case *redis.Ring:
		return nil, errors.New("redislock: a redis.Ring cannot keep locks: when a server does not answer it sends the keys to another, and each could have a holder")
	case *redis.Client:
		co := c.Options()
		b.exact, b.where = true, co.Addr
		b.repeats, heeds = co.MaxRetries > 0, co.ContextTimeoutEnabled
	case *redis.ClusterClient:
		co := c.Options()
		b.where, heeds = strings.Join(co.Addrs, ","), co.ContextTimeoutEnabled
		if co.ReadOnly {
			// List and Inspect would read from replicas, which lag behind.
			return nil, errors.New("redislock: the cluster client must not read from replicas (ReadOnly, RouteByLatency, RouteRandomly): they lag behind their masters")
		}
	default:
		known = false
	}
	b.punctual = heeds && known
	b.manners = millis(o.Patience) + " 0"
	if b.exact {
		b.manners = millis(o.Patience) + " 1"
	}
	if !heeds {
		b.warnings = append(b.warnings, "the Redis client was made without ContextTimeoutEnabled: a call to a server that does not answer returns only after the client's read timeout, not when its context ends")
	}
	b.notifier = newNotifier(b)
	return b, nil
}

func (o *Options) check() error {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if err := backend.ValidateKey(o.Prefix); err != nil || strings.ContainsAny(o.Prefix, "{} ") {
		return fmt.Errorf("prefix %q: it must have no braces, spaces or control characters", o.Prefix)
	}
	def := func(name string, d *time.Duration, dflt time.Duration) error {
		if *d < 0 || *d > 0 && *d < time.Millisecond {
			return fmt.Errorf("%s %v is below 1 ms", name, *d)
		}
		if *d == 0 {
			*d = dflt
		}
		return nil
	}
	if o.Replicas < 0 {
		return fmt.Errorf("replicas %d is negative", o.Replicas)
	}
	return errors.Join(
		def("token memory", &o.TokenMemory, DefaultTokenMemory),
		def("patience", &o.Patience, DefaultPatience),
		def("replicas timeout", &o.ReplicasTimeout, DefaultReplicasTimeout),
	)
}

// Punctual implements backend.Punctual: go-redis looks at a context's deadline
// before it reads or writes, and not again until that is done.
func (b *Backend) Punctual() bool { return b.punctual }

// Repeats implements backend.Repeater: go-redis sends a command again when its answer was
// lost, unless MaxRetries is below 0, and its cluster client always.
func (b *Backend) Repeats() bool { return b.repeats }

// Prompt implements backend.Prompt: calls end with their context where the backend
// was opened from the URL of one server, and made its connections itself.
func (b *Backend) Prompt() bool { return b.conns != nil }

// Warnings tells what is wrong with the client, if anything.
func (b *Backend) Warnings() []string { return b.warnings }

// Close ends the subscription and, if the backend was opened from a URL, closes
// the client. A client given to New stays open. Locks are not released. Another
// Close does nothing.
func (b *Backend) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	b.notifier.close()
	if b.conns != nil {
		b.conns.Close()
	}
	if b.own {
		return b.client.Close()
	}
	return nil
}

// begin is what every verb does first.
func (b *Backend) begin(key string) error {
	if b.closed.Load() {
		return backend.ErrClosed
	}
	return backend.ValidateKey(key)
}

// wholeMillis rounds up to milliseconds, which is what Redis counts in.
func wholeMillis(d time.Duration) int64 {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		ms++
	}
	return ms
}

func millis(d time.Duration) string { return strconv.FormatInt(wholeMillis(d), 10) }

// span is wholeMillis's opposite. The longest TTL there is, rounded up, is more than a
// Duration holds, and stays the longest.
func span(ms int64) time.Duration {
	if ms > int64(math.MaxInt64/time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// ceilMillis is d in whole milliseconds, or the longest there is.
func ceilMillis(d time.Duration) time.Duration { return span(wholeMillis(d)) }

// bounded gives an operation that has no deadline one.
func bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}
