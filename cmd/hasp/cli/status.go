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
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "status [flags] KEY",
		Short: "Tell who holds a lock",
		Long: `Tell who holds a lock, for how long, with which token, and when the lock is stale
if nothing more is heard of the holder.

Exit status: 0, whoever holds it; with --exit-code 0 if it is free, 75 if it is
held, and 1 if it is stale, so that the next who wants it takes it over.`,
		Example: `  hasp status /mnt/efs/sweeps/foo/lock
  hasp status --on redis://cache:6379 sweeps/foo -o json
  while hasp status --exit-code foo >/dev/null; [ $? = 75 ]; do sleep 60; done`,
		Args: cobra.ExactArgs(1),
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
				err = writeJSON(a.stdout, lockOf(t.name, rec))
			} else {
				err = writeLine(a.stdout, lockLine(t.name, rec))
			}
			switch {
			case err != nil || !exitCode:
				return err
			case rec.State == backend.Held:
				return &exitError{code: exitHeld}
			case rec.State == backend.Stale:
				return &exitError{code: exitStale}
			case rec.State == backend.Sealed:
				return &exitError{code: exitConfig}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 75 if the lock is held, with 1 if it is stale, and with 78 if it is sealed")
	return cmd
}

// exitStale is the status of status --exit-code for a lock that is stale.
const exitStale = 1

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
