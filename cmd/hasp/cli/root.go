package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// app is one call of the command.
type app struct {
	stdout, stderr io.Writer
	getenv         func(string) string

	// the flags that all subcommands have
	on         string
	noLockfile bool
	output     string

	interrupted bool // by Ctrl-C, which was meant for the calling script too
}

// run parses the arguments, does what they say and returns the exit status.
func (a *app) run(args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = usage(err) // cobra's own: unknown commands, flags, arguments
	}
	if e.err != nil {
		fmt.Fprintln(a.stderr, message(e.err))
		if e.code == exitUsage {
			fmt.Fprintln(a.stderr, "hasp: see hasp help")
		}
	}
	return e.code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "hasp",
		Short: "Lock things between processes and hosts",
		Long: `hasp takes locks on whatever store all your processes can reach: a shared
directory (AWS EFS, any NFS, a local disk), Redis, or etcd.

KEY is the path of a lock file. With --on URL, or HASP_URL in the environment,
it is the name of a lock in that store.`,
		Example: `  hasp run /mnt/efs/sweeps/foo/lock -- python create_sweep.py
  hasp once foo --unless /mnt/efs/sweeps/foo/config.yaml --on redis://cache:6379 -- python create_sweep.py
  hasp status /mnt/efs/sweeps/foo/lock`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(a.stderr)
			_ = cmd.Help()
			return &exitError{code: exitUsage}
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	f := root.PersistentFlags()
	f.StringVar(&a.on, "on", "", "URL of the store of locks; default HASP_URL, else KEY is a path")
	f.BoolVar(&a.noLockfile, "no-lockfile", false, "on a file system, leave out the lock file that other programs look for")
	f.StringVarP(&a.output, "output", "o", "text", "text or json")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "text" && a.output != "json" {
			return usage(fmt.Errorf("-o %q: want text or json", a.output))
		}
		return nil
	}
	root.AddCommand(a.runCmd(), a.onceCmd(), a.statusCmd(), a.listCmd(), a.breakCmd(), a.verifyCmd(), a.versionCmd())
	return root
}

// json tells whether the output is to be JSON.
func (a *app) json() bool { return a.output == "json" }
