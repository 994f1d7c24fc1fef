package memlock_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/memlock"
)

// export is the program under test: it writes pages until it is done or has lost
// its lock.
func export(ctx context.Context, l hasp.Locker, write func(page int)) error {
	return hasp.Do(ctx, l, "report", func(ctx context.Context, lease *hasp.Lease) error {
		for page := range 100 {
			if err := context.Cause(ctx); err != nil {
				return fmt.Errorf("stopped at page %d: %w", page, err)
			}
			write(page)
		}
		return nil
	})
}

// What does a program do when it loses its lock? Here an operator breaks it in
// the middle of the work.
func ExampleClient_Break() {
	store := memlock.New()
	l := hasp.New(store.Client(), nil)
	defer l.Close()

	err := export(context.Background(), l, func(page int) {
		if page == 3 {
			rec, _ := l.Inspect(context.Background(), "report")
			_ = store.Client().Break(context.Background(), "report", rec.Token)
			time.Sleep(10 * time.Millisecond) // the context ends in another goroutine
		}
	})
	fmt.Println("lost:", errors.Is(err, hasp.ErrLost))
	// Output: lost: true
}

// And when the store cannot be reached any more? The lease is lost by its
// deadline, without anyone's word.
func ExampleClient_Partition() {
	client := memlock.New().Client()
	l := hasp.New(client, &hasp.Options{TTL: 300 * time.Millisecond})
	defer l.Close()

	err := export(context.Background(), l, func(int) {
		client.Partition(true)
		time.Sleep(10 * time.Millisecond)
	})
	client.Partition(false)
	fmt.Println("lost:", errors.Is(err, hasp.ErrLost))
	// Output: lost: true
}

// The same as a test, with the TTL that the program has in life: in a synctest
// bubble five minutes pass in no time.
func TestExportStopsWhenTheStoreIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := memlock.New().Client()
		l := hasp.New(client, nil)
		defer l.Close()
		pages := 0 // of 10 s each
		err := export(t.Context(), l, func(int) {
			pages++
			client.Partition(true)
			time.Sleep(10 * time.Second)
		})
		client.Partition(false)
		if !errors.Is(err, hasp.ErrLost) || pages > 30 {
			t.Errorf("%v after %d pages: from the 300th second on another may hold the lock", err, pages)
		}
	})
}

// A store that fails: what the user reads.
func ExampleStore_Inject() {
	ctx := context.Background()
	store := memlock.New()
	store.Inject(memlock.OpAcquire, "report", memlock.Fault{Err: errors.New("permission denied")})
	l := hasp.New(store.Client(), nil)
	defer l.Close()

	_, err := l.Acquire(ctx, "report")
	fmt.Println(err)
	_, err = l.Acquire(ctx, "report") // the fault was for one request
	fmt.Println(err)
	// Output:
	// hasp: acquire "report": permission denied
	// <nil>
}
