package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp"
)

// holdFlags are the flags of the subcommands that take a lock.
type holdFlags struct {
	cmd           *cobra.Command
	timeout       time.Duration
	retryInterval time.Duration
	maxRetries    int
	try           bool
	maxWait       time.Duration
	owner         string
	grace         time.Duration
}

func (h *holdFlags) add(cmd *cobra.Command) {
	h.addWaiting(cmd)
	durationVar(cmd.Flags(), &h.grace, "grace", 0, "time from SIGTERM to SIGKILL when the command has to be stopped;\ndefault a fifth of --timeout, but 10s at most")
}

// addWaiting adds those that have to do with the lock and not with a command.
func (h *holdFlags) addWaiting(cmd *cobra.Command) {
	h.cmd = cmd
	f := cmd.Flags()
	f.SortFlags = false
	durationVar(f, &h.timeout, "timeout", hasp.DefaultTTL, "how long the lock stays valid after hasp's last sign of life (its TTL)")
	durationVar(f, &h.retryInterval, "retry-interval", hasp.DefaultRetryInterval, "wait between attempts")
	f.IntVar(&h.maxRetries, "max-retries", 0, "how many such waits; -1 for no end (default 60, or more if\nthose are not 10s longer than --timeout)")
	f.BoolVar(&h.try, "try", false, "make one attempt and do not wait")
	durationVar(f, &h.maxWait, "max-wait", 0, "how long to wait at most; replaces the default of --max-retries")
	f.StringVar(&h.owner, "owner", "", "what others see as the holder; default $USER, or the user's name")
}

// options checks the flags and makes a Locker's options of them.
func (h *holdFlags) options() (*hasp.Options, error) {
	set := h.cmd.Flags().Changed
	for _, d := range []struct {
		name string
		v    time.Duration
		zero bool // allowed
	}{
		{"timeout", h.timeout, false},
		{"retry-interval", h.retryInterval, false},
		{"max-wait", h.maxWait, true},
		{"grace", h.grace, true},
	} {
		switch {
		case d.v < 0:
			return nil, usagef("--%s %v: it must not be negative", d.name, d.v)
		case d.v == 0 && !d.zero:
			return nil, usagef("--%s 0: it must be more than nothing", d.name)
		case d.name == "timeout" && d.v < time.Millisecond:
			return nil, usagef("--timeout %v: the least is 1ms", d.v)
		}
	}
	switch {
	case h.maxRetries < hasp.Unlimited:
		return nil, usagef("--max-retries %d: want a number of retries, or -1 for no end", h.maxRetries)
	case h.try && (set("max-wait") || set("max-retries")):
		return nil, usagef("--try does not wait: it cannot be combined with --max-wait or --max-retries")
	case !set("grace"):
		h.grace = min(h.timeout/5, 10*time.Second)
	case h.grace > h.timeout/3:
		// The lease is renewed after a third of the TTL: the command must not be
		// stopped for want of a heartbeat that is not even due.
		return nil, usagef("--grace %v: it can be a third of --timeout %v at most", h.grace, h.timeout)
	}
	o := &hasp.Options{
		TTL: h.timeout, RetryInterval: h.retryInterval, MaxRetries: h.maxRetries,
		MaxWait: h.maxWait, Owner: h.owner,
	}
	switch {
	case set("max-wait") && h.maxWait == 0, set("max-retries") && h.maxRetries == 0:
		h.try = true // to wait for no time, or no retries, is one attempt
	case set("max-wait") && !set("max-retries"):
		o.MaxRetries = hasp.Unlimited
	}
	return o, nil
}

// misplaced returns those of hasp's own flags that are among the command's arguments
// and not among its own. A command that is hasp again is meant to have them.
func (h *holdFlags) misplaced(argv []string) (names []string) {
	if strings.HasPrefix(filepath.Base(argv[0]), "hasp") {
		return nil
	}
	for _, arg := range argv[1:] {
		if arg == "--" {
			break
		}
		long, isLong := strings.CutPrefix(arg, "--")
		long, _, _ = strings.Cut(long, "=")
		// So many programs have an --output that it says nothing.
		if f := h.cmd.Flags().Lookup(long); isLong && f != nil && !f.Changed && long != "output" && long != "help" && long != "version" {
			names = append(names, "--"+long)
		}
	}
	return names
}

// splitArgs separates what is hasp's from the command after "--".
func splitArgs(cmd *cobra.Command, args []string) (key string, command []string, err error) {
	dash := cmd.ArgsLenAtDash()
	switch {
	case dash < 0 && len(args) > 1:
		return "", nil, usagef("%s: put -- before the command, and hasp's flags before that: hasp %s %q -- %s …", cmd.Name(), cmd.Name(), redactArg(args[0]), redactArg(args[1]))
	case len(args) == 0 || dash == 0:
		return "", nil, usagef("%s: KEY is missing", cmd.Name())
	case dash > 1:
		return "", nil, usagef("%s: one KEY is wanted before --, not %d", cmd.Name(), dash)
	case dash < 0 || len(args) == dash:
		return "", nil, usage(fmt.Errorf("%s: the command is missing: hasp %s KEY -- COMMAND [ARG…]", cmd.Name(), cmd.Name()))
	}
	return args[0], args[1:], nil
}
