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
	var keep bool
	cmd := &cobra.Command{
		Use:   "once [flags] KEY (--unless PATH | --keep) -- COMMAND [ARG…]",
		Short: "Run a command under a lock unless it has been done",
		Long: `Run the command while holding KEY, unless it has been done. That is looked at
before KEY is taken and again when it is held. If it has been done the command is not
run and the exit status is 0; with -o json the result says which it was.

With --unless PATH it has been done if PATH exists. The command must make PATH appear
complete, as its last step: write it under another name and rename it.

With --keep it has been done if the store keeps a value beside KEY, which is printed
then. Else the command is run, and if it exits with 0 what it has written to its
standard output is kept as the value (to the byte, up to 64 KiB), and printed. So each
call prints the same, on whichever host, also where no directory is shared. hasp
value shows the value, and hasp forget lets the command be run again.

Standard output has nothing but a value that is kept. If the command fails, the lock is
lost, or the output is longer than 64 KiB (exit status 65) nothing is kept, and
what the command has written goes to standard error.

hasp's own flags go before --; what is after it is the command's.

` + exitHelp,
		Example: `  hasp once foo/lock --unless foo/config.yaml -- python create_sweep.py
  hasp once --on redis://cache:6379 foo --unless foo/config.yaml -- python create_sweep.py
  id=$(hasp once --on redis://cache:6379 sweeps/foo --keep -- python create_sweep.py) || exit`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, argv, err := splitArgs(cmd, args)
			if err != nil {
				return err
			}
			switch {
			case unless != "" && keep:
				return usagef("once: --unless and --keep are two ways to tell that the command has been run: give one")
			case keep:
				return a.hold(&h, key, argv, mode{keep: true})
			case unless == "":
				return usagef("once: --unless PATH is missing: the file that tells that the command has been run; or --keep, to keep what it prints")
			}
			return a.hold(&h, key, argv, mode{done: func(context.Context) (bool, error) { return exists(unless) }})
		},
	}
	cmd.Flags().StringVar(&unless, "unless", "", "do not run the command if this file or directory exists")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep what the command writes to standard output beside the lock, and\nprint that instead of running the command again")
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
