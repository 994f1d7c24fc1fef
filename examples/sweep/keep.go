package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hasplock/hasp"
)

// chooseID returns the sweep's id, which the first process that needs it chooses, and
// tells whether that was this one. There is no directory in it: the id is kept beside
// the lock. half is called before it is chosen.
func chooseID(ctx context.Context, l hasp.Locker, s sweep, half func() error) (id string, created bool, err error) {
	value, created, err := hasp.OnceValue(ctx, l, s.Name, func(ctx context.Context, lease *hasp.Lease) ([]byte, error) {
		if err := half(); err != nil {
			return nil, err
		}
		// In life the sweep is created here, at a service that answers with its id. A
		// lease that is lost ends ctx; an id that comes too late is not kept.
		return fmt.Appendf(nil, "%s-%s", s.Name, strings.ToLower(rand.Text()[:8])), context.Cause(ctx)
	})
	return string(value), created, err
}

// ids checks that every process has the same id, and prints what each has. token is the
// one under which it was chosen, 0 if that was before.
func (f *fleet) ids(out io.Writer) (id string, token uint64, err error) {
	for _, w := range f.workers {
		switch {
		case w.killed:
			fmt.Fprintf(out, "worker %d: was killed\n", w.number)
			continue
		case w.id == "":
			return "", 0, fmt.Errorf("worker %d has no id", w.number)
		case id != "" && w.id != id:
			return "", 0, fmt.Errorf("worker %d has the id %s, and another %s", w.number, w.id, id)
		}
		id = w.id
		how := "found"
		if w.state == isCreated {
			how, token = "chosen", w.token
		}
		fmt.Fprintf(out, "worker %d: %s, %s\n", w.number, w.id, how)
	}
	if id == "" {
		return "", 0, errors.New("nobody has an id")
	}
	return id, token, nil
}
