package recipes

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	_ "modernc.org/sqlite"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/memlock"
	_ "github.com/hasplock/hasp/redislock"
)

// locker is a process that shares store with others.
func locker(t *testing.T, store *memlock.Store) hasp.Locker {
	t.Helper()
	l := hasp.New(store.Client(), &hasp.Options{MaxRetries: hasp.Unlimited})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func database(t *testing.T, schema string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", t.TempDir()+"/db?_pragma=busy_timeout(60000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Exec(schema); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestOncePerDay(t *testing.T) {
	store := memlock.New()
	day := time.Date(2026, 3, 1, 23, 0, 0, 0, time.UTC)
	var runs atomic.Int64
	call := func(at time.Time) bool {
		ran, err := OncePerDay(t.Context(), locker(t, store), "report", at, func(context.Context, *hasp.Lease) error {
			runs.Add(1)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return ran
	}
	var wg sync.WaitGroup
	var ran atomic.Int64
	for range 8 {
		wg.Go(func() {
			if call(day) {
				ran.Add(1)
			}
		})
	}
	wg.Wait()
	if runs.Load() != 1 || ran.Load() != 1 {
		t.Errorf("%d runs on the first day, told of %d", runs.Load(), ran.Load())
	}
	if call(day.Add(30*time.Minute)) || !call(day.Add(2*time.Hour)) || call(day) {
		t.Error("the next day is another, and an earlier one is over")
	}
	// A host that is at it is not waited for.
	held, err := locker(t, store).Acquire(t.Context(), "report")
	if err != nil {
		t.Fatal(err)
	}
	if call(day.Add(72 * time.Hour)) {
		t.Error("it ran beside another")
	}
	if err := held.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLead(t *testing.T) {
	store := memlock.New()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	terms := make(chan uint64)
	var wg sync.WaitGroup
	for range 3 {
		l := locker(t, store)
		wg.Go(func() {
			err := Lead(ctx, l, "leader", func(ctx context.Context, term uint64) error {
				select {
				case terms <- term:
				case <-ctx.Done():
				}
				<-ctx.Done()
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("lead ended with %v", err)
			}
		})
	}
	operator := locker(t, store)
	last := uint64(0)
	for range 3 {
		term := <-terms
		if term <= last {
			t.Errorf("term %d after %d", term, last)
		}
		last = term
		if err := operator.Break(ctx, "leader", term); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
}

func TestMigrate(t *testing.T) {
	store, db := memlock.New(), database(t, `CREATE TABLE schema_version (n INTEGER PRIMARY KEY)`)
	steps := []string{`CREATE TABLE a (x)`, `CREATE TABLE b (x)`}
	var wg sync.WaitGroup
	var ran atomic.Int64
	for range 4 {
		l := locker(t, store)
		wg.Go(func() {
			did, err := Migrate(t.Context(), l, db, steps)
			if err != nil {
				t.Error(err)
			}
			if did {
				ran.Add(1)
			}
		})
	}
	wg.Wait()
	if ran.Load() != 1 {
		t.Errorf("%d instances migrated", ran.Load())
	}
	steps = append(steps, `no SQL`)
	if _, err := Migrate(t.Context(), locker(t, store), db, steps); err == nil || !strings.Contains(err.Error(), "step 3") {
		t.Errorf("a wrong step gave %v", err)
	}
	var n int
	if err := db.QueryRow(`SELECT max(n) FROM schema_version`).Scan(&n); err != nil || n != 2 {
		t.Errorf("after it the version is %d, %v", n, err)
	}
}

func TestServeTenants(t *testing.T) {
	store := memlock.New()
	tenants := []string{"ann", "bob", "eve"}
	at := make(chan string)
	var wg sync.WaitGroup
	slow := locker(t, store)
	goOn := make(chan struct{})
	wg.Go(func() {
		if err := ServeTenants(t.Context(), slow, tenants[:1], func(context.Context, string) error {
			at <- "ann"
			<-goOn
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	<-at
	var did []string
	err := ServeTenants(t.Context(), locker(t, store), tenants, func(_ context.Context, tenant string) error {
		did = append(did, tenant)
		if tenant == "bob" {
			return errors.New("bob's books are wrong")
		}
		return nil
	})
	close(goOn)
	wg.Wait()
	if got := strings.Join(did, " "); got != "bob eve" {
		t.Errorf("worked for %q", got)
	}
	if err == nil || !strings.Contains(err.Error(), "bob's books") {
		t.Errorf("got %v", err)
	}
}

// A former holder, which was stopped for too long, writes after its successor: to SQL, and
// to a file.
func TestFence(t *testing.T) {
	store, db, dir := memlock.New(), database(t, `CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER, token INTEGER);
		INSERT INTO accounts VALUES ('ann', 0, 0)`), t.TempDir()
	former, err := locker(t, store).Acquire(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	store.Expire("ann")
	next, err := locker(t, store).Acquire(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(SetBalance(t.Context(), db, "ann", 2, next.Token()), WriteReport(dir, []byte("next"), next.Token())); err != nil {
		t.Fatal(err)
	}
	if err := SetBalance(t.Context(), db, "ann", 1, former.Token()); !errors.Is(err, ErrFenced) {
		t.Errorf("a late write gave %v", err)
	}
	if err := WriteReport(dir, []byte("former"), former.Token()); err != nil {
		t.Error(err)
	}
	var balance int
	if err := db.QueryRow(`SELECT balance FROM accounts`).Scan(&balance); err != nil || balance != 2 {
		t.Errorf("the balance is %d, %v", balance, err)
	}
	if text, err := ReadReport(dir); err != nil || string(text) != "next" {
		t.Errorf("the report is %q, %v", text, err)
	}
	if err := next.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if err := former.Release(t.Context()); !errors.Is(err, hasp.ErrLost) {
		t.Errorf("the former's release gave %v", err)
	}
}

// Your own tests: a store in memory that loses locks when it is told to.
func TestWithMemlock(t *testing.T) {
	store := memlock.New()
	l := hasp.New(store.Client(), nil)
	defer l.Close()
	err := hasp.Do(t.Context(), l, "job", func(ctx context.Context, lease *hasp.Lease) error {
		if err := store.Client().Break(ctx, "job", lease.Token()); err != nil {
			return err
		}
		<-ctx.Done() // what does your job do now?
		return nil
	})
	if !errors.Is(err, hasp.ErrLost) {
		t.Errorf("got %v", err)
	}
}

// Your own tests, with the Redis backend and no Redis.
func TestWithMiniredis(t *testing.T) {
	server := miniredis.RunT(t)
	l, err := hasp.Open(t.Context(), "redis://"+server.Addr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lease, err := l.Acquire(t.Context(), "job")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.TryAcquire(t.Context(), "job"); !errors.Is(err, hasp.ErrHeld) {
		t.Errorf("a second one got %v", err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// What docs/recipes.md shows in Go is here.
func TestExcerpts(t *testing.T) {
	doc, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer
	for _, name := range []string{"cron.go", "leader.go", "migrate.go", "tenants.go", "fence.go", "recipes_test.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files.Write(text)
	}
	blocks := strings.Split(string(doc), "```go\n")[1:]
	if len(blocks) < 7 {
		t.Fatalf("%d excerpts", len(blocks))
	}
	for _, b := range blocks {
		if excerpt, _, _ := strings.Cut(b, "```"); !strings.Contains(files.String(), excerpt) {
			t.Errorf("docs/recipes.md shows what is not here:\n%s", excerpt)
		}
	}
}
