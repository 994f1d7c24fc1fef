package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/migrate"
)

// sealJSON is what seal or unseal did.
type sealJSON struct {
	Op      string       `json:"op"`
	DryRun  bool         `json:"dry_run"`
	Done    bool         `json:"done"`
	Keys    []string     `json:"keys"` // that were sealed, or unsealed
	Refused *refusalJSON `json:"refused"`
	Notes   []string     `json:"notes"`
}

func (a *app) migrateSealCmds() []*cobra.Command {
	return []*cobra.Command{
		a.migrateSealCmd("seal", "Close the old store's locks to programs that do not look at the record",
			`Seal every lock that the old store knows of, and every lock file of an EfsLock process that stands
there. EfsLock processes then end with their TimeoutError and never have one of these locks, whatever
their clocks say; hasp processes without the migration are told where the locks have moved (78).
Processes of phase both go on. It is for stage both, before the step to both+new. A lock that is
held is refused (75), and the others stay sealed: repeat it, or use --wait. A lock that nobody has
used yet is not sealed: repeat it later, and take from the users of EfsLock the permission to make
new directories.`,
			(*migrate.Backend).Seal),
		a.migrateSealCmd("unseal", "Let those programs in again, on the way back",
			`Unseal what was sealed. It is for stage both, before the step back to old+both: as long as phase
new is admitted it is refused. Each lock is unsealed while the new store's is held, so that nobody
who relied on the seal is in.`,
			(*migrate.Backend).Unseal),
	}
}

func (a *app) migrateSealCmd(op, short, long string, do func(*migrate.Backend, context.Context, *migrate.StepOptions) (migrate.Sealed, error)) *cobra.Command {
	var f migrateFlags
	cmd := &cobra.Command{
		Use: op + " [flags] [URL]", Short: short, Long: long,
		Example: "  hasp migrate " + op + ` --wait 'migrate:?name=sweeps&old=efs%3A%2F%2F%2Fmnt%2Fefs%2Fsweeps&new=redis%3A%2F%2Fcache'`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.maxWait < 0 {
				return usagef("migrate %s: a duration has to be more than nothing", op)
			}
			m, err := a.openMigration(cmd.Context(), op, args)
			if err != nil {
				return err
			}
			ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
			switch {
			case f.maxWait > 0:
				f.wait = true
				ctx, cancel = context.WithTimeout(ctx, f.maxWait)
			case !f.wait:
				ctx, cancel = context.WithTimeout(ctx, time.Minute)
			}
			defer cancel()
			done, err := do(m, ctx, &migrate.StepOptions{By: f.by, Wait: f.wait, DryRun: f.dryRun})
			if cerr := m.Close(); err == nil && cerr != nil {
				done.Notes = append(done.Notes, backend.Text(cerr))
			}
			return a.reportSeal(op, f, done, err)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.wait, "wait", false, "wait for locks that are held")
	durationVar(fs, &f.maxWait, "max-wait", 0, "wait, and give up after that long")
	fs.BoolVar(&f.dryRun, "dry-run", false, "look whether the stage is the right one, and change nothing")
	fs.StringVar(&f.by, "by", userName(), "who does it, for the record")
	return cmd
}

func (a *app) reportSeal(op string, f migrateFlags, s migrate.Sealed, err error) error {
	out := sealJSON{Op: op, DryRun: f.dryRun, Done: err == nil, Keys: append([]string{}, s.Keys...), Refused: refusalOf(err), Notes: append([]string{}, s.Notes...)}
	if a.json() && (err == nil || out.Refused != nil) {
		if werr := writeJSON(a.stdout, out); werr != nil {
			return werr
		}
	}
	if !a.json() {
		if err == nil && f.dryRun {
			if werr := writeLine(a.stdout, op+": the stage is the right one"); werr != nil {
				return werr
			}
		}
		if !f.dryRun && (err == nil || len(s.Keys) > 0) {
			if werr := writeLine(a.stdout, fmt.Sprintf("%s: %d locks", op, len(s.Keys))); werr != nil {
				return werr
			}
		}
		for _, n := range s.Notes {
			if werr := writeLine(a.stderr, "hasp: "+n); werr != nil {
				return werr
			}
		}
	}
	if err != nil {
		return fail(err)
	}
	return nil
}
