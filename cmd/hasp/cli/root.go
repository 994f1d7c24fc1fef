package cli

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// app is one call of the command.
type app struct {
	stdout io.Writer
	values io.Writer // standard output too, for what must get there to the byte
	stderr *errorWriter
	getenv func(string) string

	// the flags that all subcommands have
	on            string
	noLockfile    bool
	mounted       bool
	legacyTimeout time.Duration
	output        string

	interrupted bool // by Ctrl-C, which was meant for the calling script too; see heard
}

// run parses the arguments, does what they say and returns the exit status.
func (a *app) run(args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	a.heard(err)
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
	var version bool
	root := &cobra.Command{
		Use:   "hasp",
		Short: "Lock things between processes and hosts",
		Long: `hasp takes locks on whatever store all your processes can reach: a shared
directory (AWS EFS, any NFS, a local disk), Redis, or etcd.

KEY is the path of a lock file. With --on URL, or HASP_URL in the environment,
it is the name of a lock in that store.

The exit status of run and once is the command's own; that it was not run, or was
stopped, has one between 64 and 78, which hasp help run lists.`,
		Example: `  hasp run /mnt/efs/sweeps/foo/lock -- python create_sweep.py
  hasp once foo --unless /mnt/efs/sweeps/foo/config.yaml --on redis://cache:6379 -- python create_sweep.py
  hasp once foo --keep --on redis://cache:6379 -- python create_sweep.py   # prints what it prints, to everyone
  hasp status /mnt/efs/sweeps/foo/lock`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return a.printVersion()
			}
			cmd.SetOut(a.stderr)
			_ = cmd.Help()
			return &exitError{code: exitUsage}
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.Flags().BoolVar(&version, "version", false, "print the version and the backends")
	f := root.PersistentFlags()
	f.StringVar(&a.on, "on", "", "URL of the store of locks; default HASP_URL, else KEY is a path")
	f.BoolVar(&a.noLockfile, "no-lockfile", false, "on a file system, leave out what keeps programs of the EfsLock protocol out")
	f.BoolVar(&a.mounted, "mounted", false, "refuse a directory that is not on a network file system")
	durationVar(f, &a.legacyTimeout, "legacy-timeout", 0, "after how long a lock file of the EfsLock protocol is stale (default 5m0s)")
	f.StringVarP(&a.output, "output", "o", "text", "text or json")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch {
		case a.output != "text" && a.output != "json":
			return usage(fmt.Errorf("-o %q: want text or json", a.output))
		case f.Changed("legacy-timeout") && a.legacyTimeout <= 0:
			return usagef("--legacy-timeout %v: it must be more than nothing", a.legacyTimeout)
		}
		return nil
	}
	root.AddCommand(a.runCmd(), a.onceCmd(), a.statusCmd(), a.listCmd(), a.breakCmd(), a.clearCmd(), a.valueCmd(), a.forgetCmd(), a.raiseCmd(), a.migrateCmd(), a.verifyCmd(), a.doctorCmd(), a.versionCmd())
	return root
}

// json tells whether the output is to be JSON.
func (a *app) json() bool { return a.output == "json" }
