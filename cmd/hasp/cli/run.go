package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) runCmd() *cobra.Command {
	var h holdFlags
	cmd := &cobra.Command{
		Use:   "run KEY -- COMMAND [ARG…]",
		Short: "Run a command while holding a lock",
		Long: `Take KEY, run the command, release KEY, and exit as the command did.

The command has HASP_KEY, HASP_TOKEN and HASP_HOLDER in its environment. It is
stopped, with all it has started, before another can take the lock over.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, argv, err := splitArgs(cmd, args)
			if err != nil {
				return err
			}
			return a.hold(&h, key, argv, nil)
		},
	}
	h.add(cmd)
	return cmd
}
