package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// exitNoValue is the status of value if there is none.
const exitNoValue = 1

// valueJSON is a value as -o json shows it.
type valueJSON struct {
	Key      string  `json:"key"`
	Exists   bool    `json:"exists"`
	Value    *string `json:"value"`    // null if there is none
	Encoding string  `json:"encoding"` // utf-8, or base64 for what is not; empty if there is none
	Token    uint64  `json:"token"`    // under which it was set, or deleted; 0 if it never was
}

func (a *app) valueCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "value [flags] KEY",
		Short: "Print the value that is kept beside a lock",
		Long: `Print the value that is kept beside KEY, to the byte, with no line end added. A
program sets it while it holds the lock: hasp once --keep, or Lease.SetValue. Whether
anybody holds the lock now does not matter.

With -o json the value is in a string, as base64 if it is not UTF-8.

Exit status: 0; 1 if there is no value; 64 if the store keeps none.`,
		Example: `  hasp value --on redis://cache:6379 sweeps/foo
  id=$(hasp value /mnt/efs/sweeps/foo/lock) || echo "not created yet"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.target(args[0])
			if err != nil {
				return err
			}
			v, err := a.readValue(cmd.Context(), t)
			if err != nil {
				return err
			}
			switch {
			case a.json():
				err = writeJSON(a.values, valueOf(t.name, v))
			case v.Exists():
				_, werr := a.values.Write(v.Data)
				return written(werr)
			default:
				return &exitError{exitNoValue, &hasp.Error{Op: "value", Key: t.name, Err: hasp.ErrNoValue}}
			}
			if err == nil && !v.Exists() {
				err = &exitError{code: exitNoValue}
			}
			return err
		},
	}
}

func valueOf(name string, v backend.Value) valueJSON {
	j := valueJSON{Key: name, Exists: v.Exists(), Token: v.Token}
	if j.Exists {
		s := string(v.Data)
		j.Encoding = "utf-8"
		if !utf8.ValidString(s) {
			j.Encoding, s = "base64", base64.StdEncoding.EncodeToString(v.Data)
		}
		j.Value = &s
	}
	return j
}

// readValue asks the store, once.
func (a *app) readValue(ctx context.Context, t target) (v backend.Value, err error) {
	wrap := func(err error) error { return fail(&hasp.Error{Op: "value", Key: t.name, Err: err}) }
	if err := backend.ValidateKey(t.key); err != nil {
		return v, wrap(err)
	}
	if ok, err := t.exists(); err != nil {
		return v, fail(err)
	} else if !ok {
		return v, nil
	}
	b, err := a.open(ctx, t.url)
	if err != nil {
		return v, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	v, err = backend.ReadValue(ctx, b, t.key)
	if err = closing(b, err); err != nil {
		return v, wrap(err)
	}
	return v, nil
}

// forgottenJSON is what forget did.
type forgottenJSON struct {
	Key       string `json:"key"`
	Forgotten bool   `json:"forgotten"` // false: there was no value
	Token     uint64 `json:"token"`     // under which it was forgotten; 0 if there was none
}

func (a *app) forgetCmd() *cobra.Command {
	var h holdFlags
	cmd := &cobra.Command{
		Use:   "forget [flags] KEY",
		Short: "Delete the value that is kept beside a lock",
		Long: `Take KEY, delete the value that is kept beside it, and release KEY. The next hasp
once --keep then runs its command again. That there is no value is no error, and KEY is
not taken then. While another holds the lock hasp waits for it, as run does.

Exit status: 0; 75 if another holds the lock, and those that hasp help run lists.`,
		Example: `  hasp forget --on redis://cache:6379 sweeps/foo
  hasp forget --try /mnt/efs/sweeps/foo/lock`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.target(args[0])
			if err != nil {
				return err
			}
			opts, err := h.options()
			if err != nil {
				return err
			}
			out, err := a.forget(t, opts, h.try)
			switch {
			case err != nil:
				return err
			case a.json():
				return writeJSON(a.stdout, out)
			case !out.Forgotten:
				return writeLine(a.stdout, t.name+": there was no value")
			}
			return writeLine(a.stdout, t.name+": value forgotten")
		},
	}
	h.addWaiting(cmd)
	return cmd
}

func (a *app) forget(t target, opts *hasp.Options, try bool) (forgottenJSON, error) {
	out := forgottenJSON{Key: t.name}
	if err := backend.ValidateKey(t.key); err != nil {
		return out, fail(&hasp.Error{Op: "delete value", Key: t.name, Err: err})
	}
	if ok, err := t.exists(); err != nil {
		return out, fail(err)
	} else if !ok {
		return out, nil
	}
	if err := handOver(t.url); err != nil {
		return out, err
	}
	sigs := catchSignals()
	defer sigs.stop()
	ctx, heed := sigs.cancelOn(context.Background())
	defer heed()
	p := newProgress(a.stderr, backend.Redact(t.name), a.json())
	defer p.stop()
	opts.Observer = p.observe
	if opts.Owner == "" {
		opts.Owner = a.getenv("USER")
	}
	b, err := a.open(ctx, t.url)
	if err != nil {
		return out, err
	}
	l := hasp.New(b, opts)
	var terms []hasp.AcquireOption
	if try {
		terms = append(terms, hasp.NoWait())
	}
	none := func(ctx context.Context) (bool, error) {
		_, err := l.Value(ctx, t.key)
		if errors.Is(err, hasp.ErrNoValue) {
			return true, nil
		}
		return false, err
	}
	_, err = hasp.Once(ctx, l, t.key, none, func(ctx context.Context, lease *hasp.Lease) error {
		if err := lease.DeleteValue(ctx); err != nil {
			return err
		}
		out.Forgotten, out.Token = true, lease.Token()
		return nil
	}, terms...)
	p.stop()
	err = closing(l, err)
	switch {
	case err == nil:
	case out.Forgotten: // and that the release failed costs others a TTL at most
		p.warn(fmt.Errorf("%w; the value was forgotten before that", t.named(err)))
	default:
		return out, fail(t.named(bySignal(ctx, "delete value", t.name, err)))
	}
	return out, nil
}

func (a *app) raiseCmd() *cobra.Command {
	var token uint64
	cmd := &cobra.Command{
		Use:   "raise [flags] KEY --token N",
		Short: "Make a lock's later tokens greater than a number",
		Long: `Make every token that is granted for KEY from now on greater than N, so that tokens
go on rising where a lock moves to another store, or a resource has seen a token that
the store has lost. Who holds the lock keeps it, and its token. If tokens are above N
already nothing changes.`,
		Example: `  hasp raise --on redis://cache:6379 sweeps/foo --token 1795408169527076`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("token") {
				return usagef("raise: --token is missing: give the number that later tokens have to exceed")
			}
			t, err := a.target(args[0])
			if err != nil {
				return err
			}
			if err := backend.ValidateKey(t.key); err != nil {
				return fail(&hasp.Error{Op: "raise", Key: t.name, Err: err})
			}
			b, err := a.open(cmd.Context(), t.url)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
			defer cancel()
			if err := closing(b, backend.RaiseToken(ctx, b, t.key, token)); err != nil {
				return fail(&hasp.Error{Op: "raise", Key: t.name, Err: err})
			}
			if a.json() {
				return writeJSON(a.stdout, raisedJSON{t.name, token})
			}
			return writeLine(a.stdout, fmt.Sprintf("%s: later tokens are greater than %d", t.name, token))
		},
	}
	cmd.Flags().Uint64Var(&token, "token", 0, "the number that later tokens exceed")
	return cmd
}

// raisedJSON is what raise did.
type raisedJSON struct {
	Key   string `json:"key"`
	Above uint64 `json:"above"`
}
