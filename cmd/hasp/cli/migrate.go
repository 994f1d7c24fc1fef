package cli

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/migrate"
)

// migrateFlags are those of the actions that change something.
type migrateFlags struct {
	wait       bool
	maxWait    time.Duration
	dryRun     bool
	by         string
	legacyGone bool
	to         string
	maxTTL     time.Duration
}

func (a *app) migrateCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Move a fleet from one store of locks to another while it works",
		Long: `Take the steps of a migration between two stores, and tell how far it is. URL (or --on, or
HASP_URL) names both:

  migrate:?name=NAME&old=URL&new=URL

with each URL escaped as a value: %3A for :, %2F for /, %3F for ?, %26 for &. Processes have
phase=old, phase=both or phase=new in it besides, and are restarted one at a time:

  stage      admits      then
  old        old         hasp migrate advance
  old+both   old, both   restart each process of phase old in phase both; advance
  both       both        seal, if EfsLock processes use the old store; advance, which makes sure
                         that nobody holds in the old store alone
  both+new   both, new   restart each process in phase new; advance
  new        new         advance again until it is settled; then the old store may go

hasp migrate back takes the same way in the other direction. Every action can be repeated:
whoever was interrupted in the middle, it finishes what was begun or undoes it. A step that was
taken is followed by the next one then, unless --to says which is meant. What is refused says
why and what to do, and has changed nothing.

Exit status: 0 if it was done; 64 if the arguments or the URL are wrong; 69 if a store does not
answer; 75 if it was refused and may be taken later, as with --wait; 78 if it was refused and
somebody has to do something first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(a.stderr)
			_ = cmd.Help()
			return &exitError{code: exitUsage}
		},
	}
	c.AddCommand(a.migrateStatusCmd(),
		a.migrateStepCmd("start", "Begin the migration, at stage old",
			`Write the first record into both stores. It is refused if either has one, and if locks are held in
the new store: give the migration a prefix or a directory of its own there.`,
			func(ctx context.Context, m *migrate.Backend, o migrate.StepOptions, f migrateFlags) (migrate.Step, error) {
				return m.Start(ctx, &migrate.StartOptions{StepOptions: o, MaxTTL: f.maxTTL})
			}),
		a.migrateStepCmd("advance", "Take the step to the next stage, towards new",
			`Take the step to the next stage, towards new, or finish one that was interrupted.

The step to both+new is refused as long as a process that is not of phase both holds a lock in the
old store. At stage new it is not over before nobody of phase both is left and every value that is
kept beside a lock has been copied: advance says when it is settled, and until then is repeated.

Repeated after a step that was taken, it takes the next one. With --to STAGE it does not: say it
in a script, or if you do not know whether the step was taken.`,
			func(ctx context.Context, m *migrate.Backend, o migrate.StepOptions, _ migrateFlags) (migrate.Step, error) {
				return m.Advance(ctx, &o)
			}),
		a.migrateStepCmd("back", "Take the step to the stage before, towards old",
			`Take the step to the stage before, towards old, or undo one that was interrupted. The step to
old+both is refused as long as a process that is not of phase both holds a lock in the new store.

Repeated after a step that was taken, it takes the next one. With --to STAGE it does not.`,
			func(ctx context.Context, m *migrate.Backend, o migrate.StepOptions, _ migrateFlags) (migrate.Step, error) {
				return m.Back(ctx, &o)
			}),
		a.migrateStepCmd("repair", "Write the record of a store that was wiped, from the other store's",
			`Write the record of a store that has none any more. Processes that take that store are refused
until then. It takes as long as the longest TTL that the migration admits, because holders from
before may believe in their locks for so long: without --wait it says how long that is.`,
			func(ctx context.Context, m *migrate.Backend, o migrate.StepOptions, _ migrateFlags) (migrate.Step, error) {
				return m.Repair(ctx, &o)
			}),
		a.migrateStepCmd("finish", "End the migration, when it is settled",
			`End the migration, when it is settled at new, or back at old: no phase is admitted any more, and both
stores can take part in another. Give processes the URL of the store that it led to before, which
they may use beside those of the last phase.`,
			func(ctx context.Context, m *migrate.Backend, o migrate.StepOptions, _ migrateFlags) (migrate.Step, error) {
				return m.Finish(ctx, &o)
			}),
	)
	c.AddCommand(a.migrateSealCmds()...)
	return c
}

type migrateAction func(context.Context, *migrate.Backend, migrate.StepOptions, migrateFlags) (migrate.Step, error)

func (a *app) migrateStepCmd(op, short, long string, do migrateAction) *cobra.Command {
	f := migrateFlags{}
	cmd := &cobra.Command{
		Use: op + " [flags] [URL]", Short: short, Long: long,
		Example: "  hasp migrate " + op + ` 'migrate:?name=sweeps&old=efs%3A%2F%2F%2Fmnt%2Fefs%2Fsweeps&new=redis%3A%2F%2Fcache'`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.maxWait < 0 || cmd.Flags().Changed("max-ttl") && f.maxTTL <= 0 {
				return usagef("migrate %s: a duration has to be more than nothing", op)
			}
			var to migrate.Stage
			if cmd.Flags().Changed("to") {
				var err error
				if to, err = migrate.ParseStage(f.to); err != nil {
					return usagef("migrate %s: %v", op, err)
				}
			}
			m, err := a.openMigration(cmd.Context(), op, args)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			switch {
			case f.maxWait > 0:
				f.wait = true
				ctx, cancel = context.WithTimeout(cmd.Context(), f.maxWait)
			case !f.wait:
				ctx, cancel = context.WithTimeout(cmd.Context(), migrateTimeout)
			}
			defer cancel()
			step, err := do(ctx, m, migrate.StepOptions{By: f.by, Wait: f.wait, DryRun: f.dryRun, LegacyGone: f.legacyGone, To: to}, f)
			if cerr := m.Close(); err == nil && cerr != nil {
				step.Notes = append(step.Notes, backend.Text(cerr))
			}
			return a.reportStep(op, f, step, err)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.wait, "wait", false, "wait until it is safe, and until it is settled")
	durationVar(fs, &f.maxWait, "max-wait", 0, "wait, and give up after that long")
	fs.BoolVar(&f.dryRun, "dry-run", false, "look whether it would be done, and change nothing")
	fs.StringVar(&f.by, "by", userName(), "who does it, for the record")
	switch op {
	case "start":
		durationVar(fs, &f.maxTTL, "max-ttl", migrate.DefaultMaxTTL, "the longest TTL (hasp run --timeout) that processes may use meanwhile; a repair takes that long")
	case "advance":
		fs.BoolVar(&f.legacyGone, "legacy-gone", false, "say that no process of the EfsLock protocol uses the old store any more")
	}
	if op == "advance" || op == "back" {
		fs.StringVar(&f.to, "to", "", "the stage that it should lead to: at it already, nothing is done; elsewhere, it is refused")
	}
	return cmd
}

// migrateTimeout bounds an action that does not wait.
const migrateTimeout = 6 * requestTimeout

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "an operator"
}

// openMigration opens both stores. Who looks or takes steps is of no phase.
func (a *app) openMigration(ctx context.Context, op string, args []string) (*migrate.Backend, error) {
	store := a.store()
	if len(args) == 1 {
		store = args[0]
	}
	old, new, ok := migrate.StoreURLs(store)
	if !ok {
		if store != "" {
			return nil, usagef("migrate %s: %q is not the URL of a migration: want migrate:?name=NAME&old=URL&new=URL, with each URL escaped as a value", op, backend.RedactURL(store))
		}
		return nil, usagef("migrate %s: want the URL of a migration, as an argument, with --on or in HASP_URL: migrate:?name=NAME&old=URL&new=URL", op)
	}
	if err := handOver(store); err != nil {
		return nil, err
	}
	b, err := backend.Open(ctx, migrate.URL(migrate.NameOf(store), "", old, new))
	if err != nil {
		return nil, failOpen(err)
	}
	return b.(*migrate.Backend), nil
}

// stepJSON is what an action did.
type stepJSON struct {
	Op      string       `json:"op"`
	DryRun  bool         `json:"dry_run"`
	Done    bool         `json:"done"` // or with dry_run, would be
	From    string       `json:"from"`
	To      string       `json:"to"`
	Settled bool         `json:"settled"`
	Copied  int          `json:"copied"`
	Pending *refusalJSON `json:"pending"`
	Refused *refusalJSON `json:"refused"`
	Notes   []string     `json:"notes"`
}

type refusalJSON struct {
	Why     string     `json:"why"`
	Do      string     `json:"do"`
	Passes  bool       `json:"passes"` // by itself
	Holders []lockJSON `json:"holders"`
}

func refusalOf(err error) *refusalJSON {
	var r *migrate.RefusedError
	if !errors.As(err, &r) || r == nil {
		return nil
	}
	out := &refusalJSON{Why: r.Why, Do: r.Do, Passes: r.Passes, Holders: []lockJSON{}}
	for _, h := range r.Holders {
		out.Holders = append(out.Holders, lockOf(h.Key, h))
	}
	return out
}

func (a *app) reportStep(op string, f migrateFlags, s migrate.Step, err error) error {
	out := stepJSON{Op: op, DryRun: f.dryRun, Done: err == nil, From: string(s.From), To: string(s.To), Settled: s.Settled,
		Copied: s.Copied, Refused: refusalOf(err), Notes: s.Notes}
	if out.Notes == nil {
		out.Notes = []string{}
	}
	if s.Pending != nil {
		out.Pending = refusalOf(s.Pending)
	}
	switch {
	case a.json():
		if err != nil && out.Refused == nil {
			return fail(err)
		}
		if werr := writeJSON(a.stdout, out); werr != nil {
			return werr
		}
	case err == nil:
		if werr := a.writeStep(op, f, s); werr != nil {
			return werr
		}
	}
	if err != nil {
		return fail(err)
	}
	if s.Pending != nil && f.wait {
		return fail(s.Pending)
	}
	return nil
}

func (a *app) writeStep(op string, f migrateFlags, s migrate.Step) error {
	line := fmt.Sprintf("%s: stage %s", op, s.To)
	switch {
	case f.dryRun && op == "repair":
		line = fmt.Sprintf("%s: it would write the record that is missing, with stage %s", op, s.To)
	case f.to != "" && s.From == s.To:
		line = fmt.Sprintf("%s: at stage %s already", op, s.To)
	case f.dryRun && s.From == s.To:
		line = fmt.Sprintf("%s: at stage %s, which is the last", op, s.To)
	case f.dryRun && s.From == "":
		line = fmt.Sprintf("%s: it would lead to stage %s", op, s.To)
	case f.dryRun:
		line = fmt.Sprintf("%s: it would lead from stage %s to %s", op, s.From, s.To)
	case s.From != "" && s.From != s.To:
		line = fmt.Sprintf("%s: from stage %s to %s", op, s.From, s.To)
	}
	if s.Settled {
		line += ", settled: the other store is not needed any more"
	}
	if s.Copied > 0 {
		line += fmt.Sprintf("; %d values copied", s.Copied)
	}
	if err := writeLine(a.stdout, line); err != nil {
		return err
	}
	if s.Pending != nil {
		if err := writeLine(a.stdout, "not settled: "+s.Pending.Error()); err != nil {
			return err
		}
	}
	for _, n := range s.Notes {
		if err := writeLine(a.stdout, "note: "+n); err != nil {
			return err
		}
	}
	return nil
}
