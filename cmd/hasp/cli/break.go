package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// brokenJSON is what break did.
type brokenJSON struct {
	Key    string    `json:"key"`
	Broken bool      `json:"broken"`
	Now    *lockJSON `json:"now"` // who holds it, if that is why it was not broken
}

func (a *app) breakCmd() *cobra.Command {
	var token uint64
	cmd := &cobra.Command{
		Use:   "break [flags] KEY --token N",
		Short: "Take a lock away from its holder",
		Long: `Take a lock away from the holder with this token, which hasp status shows. If
another holds it by now nothing is changed. The holder, if it still lives, is
told that it has lost the lock when it next renews it, or at once where the store
can tell it: see to it first that it does not live, or does not matter.

Token 0 is a lock file of a program that knows no tokens.`,
		Example: `  hasp break /mnt/efs/sweeps/foo/lock --token 1795408169527076`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("token") {
				return usagef("break: --token is missing: give the token that hasp status %s shows", args[0])
			}
			t, err := a.target(args[0])
			if err != nil {
				return err
			}
			if err := backend.ValidateKey(t.key); err != nil {
				return fail(&hasp.Error{Op: "break", Key: t.name, Err: err})
			}
			err = backend.ErrNotHeld
			if ok, serr := t.exists(); serr != nil {
				return fail(serr)
			} else if ok {
				err = a.breakLock(cmd.Context(), t, token)
			}
			return a.reportBreak(t, err)
		},
	}
	cmd.Flags().Uint64Var(&token, "token", 0, "the holder's token")
	return cmd
}

func (a *app) breakLock(ctx context.Context, t target, token uint64) error {
	b, err := a.open(ctx, t.url)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return closing(b, backend.Break(ctx, b, t.key, token))
}

// reportBreak says what came of it. A lock that nobody holds is what was wanted.
func (a *app) reportBreak(t target, err error) error {
	out := brokenJSON{Key: t.name, Broken: err == nil}
	line := t.name + ": broken"
	var held *hasp.HeldError
	var e *exitError
	switch {
	case err == nil:
	case errors.Is(err, backend.ErrNotHeld):
		line = t.name + ": nobody holds it"
		err = nil
	case errors.As(err, &held):
		now := lockOf(t.name, held.Record)
		out.Now = &now
		err = &exitError{exitHeld, fmt.Errorf("break %q: not broken: the token is another's: now %w", t.name, err)}
	case errors.As(err, &e):
		return err
	default:
		return fail(&hasp.Error{Op: "break", Key: t.name, Err: err})
	}
	if a.json() {
		return errors.Join(err, writeJSON(a.stdout, out))
	}
	if err != nil {
		return err
	}
	return writeLine(a.stdout, line)
}
