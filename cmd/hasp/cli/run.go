package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) runCmd() *cobra.Command {
	var h holdFlags
	cmd := &cobra.Command{
		Use:   "run [flags] KEY -- COMMAND [ARG…]",
		Short: "Run a command while holding a lock",
		Long: `Take KEY, run the command, release KEY, and exit as the command did.

The command has HASP_KEY, HASP_TOKEN and HASP_HOLDER in its environment. It is
stopped, with all it has started, before another can take the lock over.

hasp's own flags go before --; what is after it is the command's.

` + exitHelp,
		Example: `  hasp run /mnt/efs/sweeps/foo/lock -- python create_sweep.py
  hasp run --try foo.lock -- make deploy            # one attempt, and 75 if it is held
  hasp run --max-wait 1h --timeout 60s foo.lock -- ./nightly
  hasp run --on redis://cache:6379 sweeps/foo -- python create_sweep.py`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, argv, err := splitArgs(cmd, args)
			if err != nil {
				return err
			}
			return a.hold(&h, key, argv, mode{})
		},
	}
	h.add(cmd)
	return cmd
}
