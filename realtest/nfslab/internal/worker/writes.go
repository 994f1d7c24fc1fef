package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hasplock/hasp"
)

// writes takes one lock after another for a write, and another if one is not to be had soon.
func writes(ctx context.Context, l hasp.Locker, w *witness, all []string) error {
	for begin := time.Now(); *length == 0 || time.Since(begin) < *length; {
		le, err := l.Acquire(ctx, all[rand.N(len(all))], hasp.WithMaxWait(*retry))
		switch {
		case errors.Is(err, hasp.ErrTimeout):
			continue
		case err != nil:
			w.failed("acquire", err)
			time.Sleep(*retry) // the store may be away
			continue
		}
		if _, err := w.ask(fmt.Sprintf("write %s %d %s", le.Key(), le.Token(), w.until(le.Deadline()))); err != nil {
			return err
		}
		if err := le.Release(ctx); err != nil {
			w.failed("release", err)
		}
	}
	return nil
}
