package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

func (a *app) onceCmd() *cobra.Command {
	var h holdFlags
	var unless string
	cmd := &cobra.Command{
		Use:   "once KEY --unless PATH -- COMMAND [ARG…]",
		Short: "Run a command under a lock unless it has been done",
		Long: `Run the command while holding KEY, unless PATH exists: that is looked at before
KEY is taken and again when it is held. If PATH exists the command is not run and
the exit status is 0; with -o json the result says which it was.

The command must make PATH appear complete, as its last step: write it under
another name and rename it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, argv, err := splitArgs(cmd, args)
			if err != nil {
				return err
			}
			if unless == "" {
				return usagef("once: --unless PATH is missing: the file that tells that the command has been run")
			}
			return a.hold(&h, key, argv, func(context.Context) (bool, error) { return exists(unless) })
		},
	}
	cmd.Flags().StringVar(&unless, "unless", "", "do not run the command if this file or directory exists")
	h.add(cmd)
	return cmd
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if err == nil {
		return true, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return false, fmt.Errorf("--unless: %w", err)
}
