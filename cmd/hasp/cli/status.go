package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status KEY",
		Short: "Tell who holds a lock",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.target(args[0])
			if err != nil {
				return err
			}
			rec, err := a.inspect(cmd.Context(), t)
			if err != nil {
				return err
			}
			if a.json() {
				return writeJSON(a.stdout, lockOf(t.name, rec))
			}
			return writeLine(a.stdout, lockLine(t.name, rec))
		},
	}
}

// inspect asks the store.
func (a *app) inspect(ctx context.Context, t target) (backend.Record, error) {
	none := backend.Record{Key: t.key, State: backend.Free}
	if err := backend.ValidateKey(t.key); err != nil {
		return none, fail(&hasp.Error{Op: "inspect", Key: t.name, Err: err})
	}
	if ok, err := t.exists(); err != nil {
		return none, fail(err)
	} else if !ok {
		return none, nil
	}
	b, err := a.open(ctx, t.url)
	if err != nil {
		return none, err
	}
	l := hasp.New(b, nil)
	rec, err := l.Inspect(ctx, t.key)
	if err = closing(l, t.named(err)); err != nil {
		return none, fail(err)
	}
	return rec, nil
}

// closing closes c and joins what goes wrong with err.
func closing(c io.Closer, err error) error {
	if cerr := c.Close(); cerr != nil {
		return errors.Join(err, cerr)
	}
	return err
}
