// Package verify gives a program that is made of package cli the subcommand verify.
// Import it for its side effect. It is apart because the conformance suite makes each
// start of a program slower.
package verify

import (
	"context"
	"fmt"
	"strings"

	"github.com/hasplock/hasp/cmd/hasp/cli"
	"github.com/hasplock/hasp/conformance"
)

func init() { cli.Provide(suite{}) }

// suite is package conformance as cli uses it.
type suite struct{}

func (suite) Worker() { conformance.WorkerMain() }

func (suite) Check(ctx context.Context, v cli.Verification) (cli.Verdict, error) {
	cfg := conformance.Config{
		Name: v.Name, URL: v.URL, MinTTL: v.MinTTL, Slack: v.Slack, KeyPrefix: v.KeyPrefix, Fair: v.Fair,
		Lacks: map[string]string{}, WorkerCommand: v.WorkerCommand,
	}
	for _, c := range conformance.AllCapabilities {
		if !v.Has[c] {
			cfg.Lacks[string(c)] = "this backend has no such capability"
		}
	}
	if v.InMemory {
		cfg.Lacks[conformance.Processes] = "memory of one process"
	}
	if v.LockFiles {
		cfg.Lacks["keys-nested"] = "the lock file a is in the way of the directory for a/b"
	}
	if v.Progress != nil {
		cfg.Progress = func(done, all int, r conformance.Result) {
			line := fmt.Sprintf("[%*d/%d] %-10s  %s", len(fmt.Sprint(all)), done, all, r.Outcome, r.Rule)
			switch r.Outcome {
			case conformance.Failed:
				line += ": " + strings.Join(r.Seen, "; ")
			case conformance.Lacking, conformance.NotJudged:
				line += ": " + r.Reason
			}
			v.Progress(line)
		}
	}
	rep, err := conformance.Check(ctx, cfg)
	return verdict{rep}, err
}

// verdict is a report, and marshals to JSON as that does.
type verdict struct{ conformance.Report }

func (v verdict) Tried() bool  { return len(v.Results) > 0 }
func (v verdict) Failed() bool { return v.Count(conformance.Failed) > 0 }
