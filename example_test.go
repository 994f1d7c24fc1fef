package hasp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/memlock"
)

func ExampleDo() {
	ctx := context.Background()
	l, err := hasp.Open(ctx, "mem:///example", nil) // or efs:///mnt/efs/sweeps, redis://…, etcd://…
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()

	err = hasp.Do(ctx, l, "sweeps/foo", func(ctx context.Context, lease *hasp.Lease) error {
		// Stop when ctx ends: the lease may have been lost. Hand lease.Token() to
		// what can refuse a token lower than one it has seen.
		fmt.Println("alone with", lease.Key())
		return nil
	})
	fmt.Println(err)
	// Output:
	// alone with sweeps/foo
	// <nil>
}

func ExampleOnce() {
	ctx := context.Background()
	l := hasp.New(memlock.New().Client(), nil)
	defer l.Close()

	var config string // in life, a file: done looks whether it is there
	create := func() (bool, error) {
		return hasp.Once(ctx, l, "sweeps/foo",
			func(context.Context) (bool, error) { return config != "", nil },
			func(context.Context, *hasp.Lease) error {
				config = "lr: 0.1"
				return nil
			})
	}
	for range 3 {
		created, err := create()
		fmt.Println(created, err)
	}
	// Output:
	// true <nil>
	// false <nil>
	// false <nil>
}

func ExampleNew() {
	l := hasp.New(memlock.New().Client(), &hasp.Options{
		TTL:     time.Minute,                                                            // stale a minute after the holder's last heartbeat
		Retry:   hasp.Exponential(100*time.Millisecond, 10*time.Second, hasp.Unlimited), // wait with full jitter,
		MaxWait: 5 * time.Minute,                                                        // but no longer than this
		Owner:   "trainer-7",
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Observer: func(e hasp.Event) { // in a goroutine of its own
			switch e.Kind {
			case hasp.EventAcquired:
				fmt.Println("acquired", e.Key, "at attempt", e.Attempt)
			case hasp.EventReleased:
				fmt.Println("released", e.Key)
			}
		},
	})
	lease, err := l.Acquire(context.Background(), "report")
	if err != nil {
		fmt.Println(err)
		return
	}
	holder := lease.Holder()
	err = errors.Join(lease.Release(context.Background()), l.Close()) // after Close there are no more events
	fmt.Println(holder.Owner, "had it:", err)
	// Output:
	// acquired report at attempt 1
	// released report
	// trainer-7 had it: <nil>
}

// A lock that another holds is an error that names the holder.
func ExampleLocker_tryAcquire() {
	ctx := context.Background()
	store := memlock.New()
	mine, theirs := hasp.New(store.Client(), nil), hasp.New(store.Client(), &hasp.Options{Owner: "trainer-7"})
	defer mine.Close()
	defer theirs.Close()
	if _, err := theirs.Acquire(ctx, "report"); err != nil {
		fmt.Println(err)
	}

	_, err := mine.TryAcquire(ctx, "report")
	var held *hasp.HeldError
	if errors.As(err, &held) {
		fmt.Println("held by", held.Record.Holder.Owner)
	}
	// Output: held by trainer-7
}

// Work that must not go on without its lock takes the lease's context.
func ExampleLease_Context() {
	store := memlock.New()
	l := hasp.New(store.Client(), nil)
	defer l.Close()
	lease, err := l.Acquire(context.Background(), "report")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := lease.Context()

	// an operator breaks the lock
	if err := store.Client().Break(ctx, "report", lease.Token()); err != nil {
		fmt.Println(err)
	}
	<-ctx.Done()
	fmt.Println(context.Cause(ctx))
	fmt.Println("lost:", errors.Is(lease.Release(context.Background()), hasp.ErrLost))
	// Output:
	// lock was lost: the store says so
	// lost: true
}

func ExampleOnceValue() {
	ctx := context.Background()
	l := hasp.New(memlock.New().Client(), nil) // in life a store that the processes share
	defer l.Close()

	made := 0
	create := func(context.Context, *hasp.Lease) ([]byte, error) {
		made++
		return fmt.Appendf(nil, "sweep-%d", made), nil
	}
	for range 3 {
		id, created, err := hasp.OnceValue(ctx, l, "sweeps/foo", create)
		fmt.Printf("%s %v %v\n", id, created, err)
	}
	// Output:
	// sweep-1 true <nil>
	// sweep-1 false <nil>
	// sweep-1 false <nil>
}
