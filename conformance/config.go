package conformance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/hasplock/hasp/backend"
)

// Processes is what Config.Lacks calls a store that other processes cannot
// reach.
const Processes = "processes"

// Config says which backend is on trial.
type Config struct {
	// Name is the backend's, in tables and reports.
	Name string
	// URL is what worker processes open: with the function given to Main or
	// WorkerMain, else with backend.Open. It must be the same store as Open's.
	URL string
	// Open returns a new, independent client of one and the same store. Default:
	// backend.Open of URL.
	Open func(ctx context.Context) (backend.Backend, error)

	// MinTTL is the shortest TTL that the store keeps well on the machine at hand;
	// most of the time a run takes is proportional to it. Default 500 ms.
	MinTTL time.Duration
	// Slack is how long after a holder's TTL another may have to wait until it
	// can take over. Default 1 s.
	Slack time.Duration
	// KeyPrefix starts every key, so that a store in use is not disturbed.
	// Default "hasp-conformance/".
	KeyPrefix string
	// Fair claims that waiting processes are served in the order they came.
	Fair bool

	// Lacks names what this backend cannot do, each with the reason, which the
	// results show: a capability (backend.CapWatch ...), Processes, or the id of
	// a rule. What is lacking and not named here fails.
	Lacks map[string]string

	// The hooks, each optional: a rule that needs one that is not given is shown
	// as lacking it.

	// Skew opens a client as if on a host whose wall clock is wrong by that much.
	Skew func(ctx context.Context, by time.Duration) (backend.Backend, error)
	// Partition cuts a client that Open returned off from its store, and heal
	// puts it back.
	Partition func(ctx context.Context, b backend.Backend) (heal func() error, err error)
	// Restart stops the store as a crash or an operator would and starts it again
	// with what it keeps over that. It returns when the store can be reached.
	Restart func(ctx context.Context) error
	// Wipe makes the store forget everything, as an operator might.
	Wipe func(ctx context.Context) error
	// Leftovers looks at the store itself (server, directory) and returns what
	// should not be there any more when every client is closed and every lock
	// released. Token state that is meant to stay is not for it to list.
	Leftovers func(ctx context.Context) ([]string, error)

	// Progress, if not nil, is told of every result as it comes, from one
	// goroutine at a time.
	Progress func(done, all int, r Result)
	// WorkerCommand is the program, with its arguments, that calls WorkerMain.
	// Default: this program, which must call Main or WorkerMain at its start.
	WorkerCommand []string

	// for the tests of the suite
	brief      bool          // less contention
	openWithin time.Duration // openTime
}

// resolve fills in the defaults and finds mistakes.
func (c *Config) resolve(ctx context.Context) ([]backend.Capability, error) {
	if c.Open == nil && c.URL == "" {
		return nil, errors.New("conformance: Config has neither Open nor URL")
	}
	if c.Open == nil {
		url := c.URL
		c.Open = func(ctx context.Context) (backend.Backend, error) { return backend.Open(ctx, url) }
	}
	if c.Name == "" {
		c.Name, _, _ = strings.Cut(c.URL, ":")
	}
	if c.MinTTL == 0 {
		c.MinTTL = 500 * time.Millisecond
	}
	if c.Slack == 0 {
		c.Slack = time.Second
	}
	if c.KeyPrefix == "" {
		c.KeyPrefix = "hasp-conformance/"
	}
	if c.MinTTL < 10*time.Millisecond || c.Slack < 0 {
		return nil, fmt.Errorf("conformance: MinTTL %v or Slack %v is too short to be measured", c.MinTTL, c.Slack)
	}
	caps, err := c.capabilities(ctx)
	if err != nil {
		return nil, err
	}
	return caps, c.checkLacks(caps)
}

// openTime is how long opening a client, to see what it can do, may take, and closing it.
const openTime = 30 * time.Second

// capabilities opens a client and closes it again, to see what it can do. A store that
// is not there is not waited for without end, also by an Open that heeds no context.
func (c *Config) capabilities(ctx context.Context) ([]backend.Capability, error) {
	var b backend.Backend
	if err := c.inTime(ctx, "opened", func(ctx context.Context) (err error) { b, err = c.Open(ctx); return err }); err != nil {
		return nil, err
	}
	caps := backend.Capabilities(b)
	if err := c.inTime(ctx, "closed", func(context.Context) error { return b.Close() }); err != nil {
		return nil, err
	}
	return caps, nil
}

func (c *Config) inTime(ctx context.Context, what string, f func(context.Context) error) error {
	within := cmp.Or(c.openWithin, openTime)
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("within %v: is it there?", within))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done: // it heeds its context
		case <-time.After(time.Second):
			err = ctx.Err()
		}
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("conformance: %s cannot be %s %w (%w)", c.Name, what, context.Cause(ctx), err)
	}
	return fmt.Errorf("conformance: %s cannot be %s: %w", c.Name, what, err)
}

// checkLacks finds declarations that say nothing, or what is not so.
func (c *Config) checkLacks(caps []backend.Capability) error {
	known := []string{Processes}
	for _, cp := range AllCapabilities {
		known = append(known, string(cp))
	}
	for _, r := range Rules() {
		known = append(known, r.ID)
	}
	var errs *multierror.Error
	for what, why := range c.Lacks {
		switch {
		case !slices.Contains(known, what):
			errs = multierror.Append(errs, fmt.Errorf("conformance: Config.Lacks names %q, which is neither a capability nor a rule", what))
		case why == "":
			errs = multierror.Append(errs, fmt.Errorf("conformance: Config.Lacks gives no reason for %q", what))
		case slices.Contains(caps, backend.Capability(what)):
			errs = multierror.Append(errs, fmt.Errorf("conformance: Config.Lacks names %q, which this backend has", what))
		}
	}
	return errs.ErrorOrNil()
}

// AllCapabilities are those that package backend knows.
var AllCapabilities = []backend.Capability{
	backend.CapWatch, backend.CapBreak, backend.CapList,
	backend.CapBatchRenew, backend.CapLossNotify, backend.CapRaiseToken, backend.CapValues,
	backend.CapClear, backend.CapSeal,
}
