package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp/backend"
)

func (a *app) clearCmd() *cobra.Command {
	var stale bool
	cmd := &cobra.Command{
		Use:   "clear [flags] [PREFIX]",
		Short: "Take away what dead holders have left in the way of EfsLock programs",
		Long: `Take away the guards that hasp processes have left which died, or let go in the
middle of trouble: programs of the EfsLock protocol wait for them, and cannot take
them away. The next hasp process that wants the lock does it too, so this is for
directories where no hasp process comes any more, from a cron job say.

Without --stale it is the guards of locks that nobody holds. With --stale also
those of holders that have not been heard of for their TTL. A live holder is never
touched; for that there is hasp break.

PREFIX is a directory, or with --on URL the beginning of keys. What was cleared is
printed as hasp list does, and what could not be read as unknown.

Exit status: 0; 1 if something could not be read.`,
		Example: `  hasp clear --stale /mnt/efs/sweeps`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			store, prefix, dir, err := a.listed("clear", prefix)
			if err != nil {
				return err
			}
			b, err := a.open(cmd.Context(), store)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), clearTimeout)
			defer cancel()
			recs, err := backend.Clear(ctx, b, prefix, stale)
			if err = closing(b, err); err != nil {
				return fail(fmt.Errorf("clear: %w", err))
			}
			return a.printList(recs, dir)
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "also the guards of holders that are stale")
	return cmd
}

// clearTimeout bounds clear, which looks at every lock below a directory.
const clearTimeout = 10 * requestTimeout
