// Command worker takes locks again and again through hasp's public interface, and says so
// to the lab's witness. On standard output it says what it was told:
//
//	in TOKEN          out                released
//	lost ERROR        release ERROR      acquire ERROR
//
// With -efslock it is a process of the EfsLock protocol instead, and with -child it is
// what hasp run runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	_ "github.com/hasplock/hasp/efs"
)

var (
	url      = flag.String("url", "", "the store")
	keys     = flag.String("key", "", "the lock, or more with commas between: one of them each time")
	name     = flag.String("name", "", "the worker's name, for the witness")
	addr     = flag.String("witness", "", "the witness's address")
	ttl      = flag.Duration("ttl", 5*time.Second, "TTL")
	retry    = flag.Duration("retry", 200*time.Millisecond, "between attempts")
	hold     = flag.Duration("hold", 0, "how long to hold at least")
	more     = flag.Duration("more", 0, "hold for up to this much longer, at random")
	pause    = flag.Duration("pause", 0, "from a release to the next acquire")
	length   = flag.Duration("for", 0, "begin no round after this time; 0 for no end")
	rounds   = flag.Int("rounds", 0, "end after the lock was held so often; 0 for no end")
	awake    = flag.Bool("awake", false, "tell the witness when this host has not run for a while")
	abandon  = flag.Float64("abandon", 0, "the probability of being killed while holding")
	parallel = flag.Int("parallel", 1, "so many at once, with one Locker")
	write    = flag.Bool("write", false, "hold only for a write, which the witness refuses if the token is too old: one request for each lock")
	each     = flag.Bool("each", false, "take each of the keys once, all at once, with one Locker")
	strict   = flag.Bool("strict", false, "tell the witness deadlines, and errors by kind")
	child    = flag.Bool("child", false, "be the command of hasp run: the key and the token are in the environment")
	efslock  = flag.Duration("efslock", 0, "be an EfsLock process with this timeout; URL is a directory")
	linger   = flag.Duration("linger", 0, "as an EfsLock process: the longest pause between a failed read and the removal")
)

func main() {
	flag.Parse()
	do := work
	switch {
	case *child:
		do = command
	case *efslock > 0:
		do = legacy
	}
	if err := do(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func work(ctx context.Context) (err error) {
	l, err := hasp.Open(ctx, *url, &hasp.Options{TTL: *ttl, RetryInterval: *retry, MaxRetries: hasp.Unlimited, Owner: *name})
	if err != nil {
		return err
	}
	defer func() {
		if e := l.Close(); err == nil {
			err = e
		}
	}()
	all := strings.Split(*keys, ",")
	switch {
	case *each:
		return atOnce(len(all), func(i int) error { return again(ctx, l, *name, all[i:i+1], 1) })
	case *parallel == 1:
		return again(ctx, l, *name, all, *rounds)
	}
	return atOnce(*parallel, func(i int) error { return again(ctx, l, fmt.Sprintf("%s.%d", *name, i), all, *rounds) })
}

func atOnce(n int, do func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// again goes one round after the other.
func again(ctx context.Context, l hasp.Locker, name string, all []string, rounds int) error {
	w, err := meet(name)
	if err != nil {
		return err
	}
	if err := w.hello(all[0]); err != nil {
		return err
	}
	if *awake {
		go w.watchProcessor()
	}
	if *write {
		return writes(ctx, l, w, all)
	}
	begin := time.Now()
	for n := 0; (rounds == 0 || n < rounds) && (*length == 0 || time.Since(begin) < *length); {
		key := all[rand.N(len(all))]
		if len(all) > 1 {
			if err := w.hello(key); err != nil {
				return err
			}
		}
		w.tell("wants")
		le, err := l.Acquire(ctx, key)
		if err != nil {
			fmt.Println("acquire", err)
			w.failed("acquire", err)
			time.Sleep(*retry) // the store may be away
			continue
		}
		n++
		if err := section(w, le); err != nil {
			return err
		}
		if err := le.Release(ctx); err != nil {
			fmt.Println("release", err)
			w.failed("release", err)
		} else {
			fmt.Println("released")
		}
		time.Sleep(*pause)
	}
	return nil
}

// section is what is done under the lock.
func section(w *witness, le *hasp.Lease) error {
	fmt.Println("in", le.Token())
	line := fmt.Sprint("in ", le.Token())
	if *strict {
		line += " " + w.until(le.Deadline())
	}
	if answer, err := w.ask(line); err != nil || answer != "ok" {
		return err
	}
	d := *hold
	if *more > 0 {
		d += rand.N(*more)
	}
	end := time.NewTimer(d)
	defer end.Stop()
	news := time.NewTicker(*ttl / 8)
	defer news.Stop()
	for inside := true; inside; {
		select {
		case <-le.Done():
			inside = false
		case <-end.C:
			inside = false
		case <-news.C:
			if *strict {
				w.tell("until " + w.until(le.Deadline()))
			}
		}
	}
	if err := le.Err(); err != nil {
		w.tell("lost")
		fmt.Println("lost", err)
		return nil
	}
	if rand.Float64() < *abandon {
		p, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = p.Kill()
		}
		return fmt.Errorf("kill myself: %v", err)
	}
	if _, err := w.ask("out"); err != nil {
		return err
	}
	fmt.Println("out")
	return nil
}

// failed tells the witness of an error, by its kind.
func (w *witness) failed(verb string, err error) {
	if !*strict {
		return
	}
	kind := "other"
	for _, k := range []struct {
		is   error
		name string
	}{{hasp.ErrLost, "lost"}, {hasp.ErrUnavailable, "unavailable"}, {backend.ErrCorrupt, "corrupt"}, {hasp.ErrHeld, "held"}} {
		if errors.Is(err, k.is) {
			kind = k.name
			break
		}
	}
	if kind == "other" {
		kind = other(err)
	}
	w.tell("error " + verb + ":" + kind)
}
