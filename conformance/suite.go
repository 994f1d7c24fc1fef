package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// beside is how many quiet rules run at once: they wait for expiry most of the
// time, so the number of processors does not bound it.
const beside = 24

// Check tries every rule on a backend. The error joins the failures, each
// starting with its rule's id; it is also not nil if cfg is not usable or ctx ends
// before the rules do.
func Check(ctx context.Context, cfg Config) (Report, error) {
	s, err := newSuite(ctx, cfg)
	if err != nil {
		return Report{Name: cfg.Name}, err
	}
	s.start(nil)
	rep := s.finish()
	if ctx.Err() != nil {
		return rep, fmt.Errorf("conformance: interrupted: %w", context.Cause(ctx))
	}
	return rep, rep.Err()
}

// suite is one run over one backend.
type suite struct {
	ctx    context.Context
	cfg    Config
	caps   map[backend.Capability]bool
	nonce  string
	stalls *stalls
	began  time.Time
	origin int64 // clock() then

	rules []Rule
	mu    sync.Mutex
	done  map[string]chan struct{}
	res   map[string]*Result
	holds []Hold
	flts  []Fault
	count int
	ended chan struct{}
}

func newSuite(ctx context.Context, cfg Config) (*suite, error) {
	caps, err := cfg.resolve(ctx)
	if err != nil {
		return nil, err
	}
	s := &suite{
		ctx: ctx, cfg: cfg, caps: map[backend.Capability]bool{}, nonce: rand.Text()[:8],
		stalls: watchStalls(), began: time.Now(), origin: clock(), rules: Rules(),
		done: map[string]chan struct{}{}, res: map[string]*Result{}, ended: make(chan struct{}),
	}
	for _, c := range caps {
		s.caps[c] = true
	}
	for _, r := range s.rules {
		s.done[r.ID] = make(chan struct{})
	}
	return s, nil
}

// start runs the rules that want accepts (nil for all), phase by phase, in the
// background.
func (s *suite) start(want func(Rule) bool) {
	go func() {
		defer close(s.ended)
		for p := phase(0); p < phases; p++ {
			limit := make(chan struct{}, 1)
			if p == quiet {
				limit = make(chan struct{}, beside)
			}
			var wg sync.WaitGroup
			for i := range s.rules {
				r := &s.rules[i]
				if r.phase != p || want != nil && !want(*r) {
					continue
				}
				limit <- struct{}{}
				wg.Go(func() {
					defer func() { <-limit }()
					s.try(r)
				})
			}
			wg.Wait()
		}
	}()
}

// try decides one rule.
func (s *suite) try(r *Rule) {
	res := &Result{Rule: r.ID, Statement: r.Statement}
	begun := time.Now()
	lacks, undeclared := r.lacks(&s.cfg, s.caps)
	switch {
	case s.ctx.Err() != nil:
		res.Outcome, res.Reason = Lacking, "not tried: interrupted"
	case lacks != "":
		res.Outcome, res.Reason = Lacking, lacks
	case undeclared != "":
		res.Outcome, res.Seen = Failed, []string{undeclared}
	default:
		for scale := time.Duration(1); ; scale *= 2 {
			x := s.run(r, scale, res)
			if x.undecided == "" || scale == 8 {
				break
			}
		}
	}
	res.Duration = time.Since(begun)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.res[r.ID] = res
	s.count++
	close(s.done[r.ID])
	if s.cfg.Progress != nil {
		s.cfg.Progress(s.count, len(s.rules), *res)
	}
}

// patience is how long a rule may take before it counts as hanging.
func (s *suite) patience(scale time.Duration) time.Duration {
	if s.cfg.brief {
		return 15*time.Second + scale*(30*s.cfg.MinTTL+6*s.cfg.Slack)
	}
	return 45*time.Second + scale*(30*s.cfg.MinTTL+6*s.cfg.Slack)
}

// run makes one trial of a rule and notes its outcome in res.
func (s *suite) run(r *Rule, scale time.Duration, res *Result) *trial {
	ctx, cancel := context.WithTimeout(s.ctx, s.patience(scale))
	defer cancel()
	x := &trial{s: s, rule: r, cfg: &s.cfg, ctx: ctx, scale: scale, start: time.Now()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.run(x)
	}()
	dump := ""
	select {
	case <-ended:
	case <-ctx.Done():
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
			dump = goroutines()
		}
		if s.ctx.Err() == nil {
			x.errorf("the trial was not over after %v", s.patience(scale))
		}
	}
	s.clean(x)

	x.mu.Lock()
	defer x.mu.Unlock()
	res.Outcome, res.Seen, res.Notes, res.Dump = Passed, x.seen, x.notes, dump
	switch {
	case s.ctx.Err() != nil: // and whatever was seen may come of that
		res.Outcome, res.Reason, res.Seen = Lacking, "not tried to the end: interrupted", nil
	case len(x.seen) > 0:
		res.Outcome = Failed
	case x.undecided != "":
		res.Outcome, res.Seen = Failed, []string{"could not be decided: " + x.undecided}
	case x.blockedBy != "":
		res.Outcome, res.restsOn, res.Seen = Failed, x.blockedBy, []string{x.blocked}
	case x.lacking != "":
		res.Outcome, res.Reason = Lacking, x.lacking
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = append(s.holds, x.holds...)
	s.flts = append(s.flts, x.faults...)
	return x
}

// clean releases and closes what the trial has left, last first, also when the
// run was interrupted; a backend that hangs is not waited for.
func (s *suite) clean(x *trial) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 10*time.Second)
	defer cancel()
	x.mu.Lock()
	fs := x.cleanups
	x.cleanups = nil
	x.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := len(fs) - 1; i >= 0; i-- {
			fs[i](ctx)
		}
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// finish waits for the rules that were started and makes the report.
func (s *suite) finish() Report {
	<-s.ended
	s.stalls.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	rep := Report{
		Name: s.cfg.Name, Started: s.began, Duration: time.Since(s.began),
		MinTTL: s.cfg.MinTTL, Slack: s.cfg.Slack, Origin: s.origin, Holds: s.holds, Faults: s.flts,
	}
	for _, c := range AllCapabilities {
		if s.caps[c] {
			rep.Capabilities = append(rep.Capabilities, c)
		}
	}
	for _, r := range s.rules {
		res := s.res[r.ID]
		if res == nil {
			continue // not selected
		}
		s.settle(res)
		rep.Results = append(rep.Results, *res)
	}
	return rep
}

// settle decides a rule that has failed and rests on others: if one of those
// failed, or could not be tried for the same reason, this one could not be tried
// either. Called with mu held, when all rules are done.
func (s *suite) settle(res *Result) {
	if res.Outcome != Failed || res.settled {
		return
	}
	res.settled = true // rules that rest on each other end here
	rests := []string{res.restsOn}
	for _, r := range s.rules {
		if r.ID == res.Rule {
			rests = append(rests, r.rests...)
		}
	}
	for _, name := range rests {
		on := s.res[name]
		if on == nil {
			continue
		}
		s.settle(on)
		if on.Outcome == Failed || on.untried {
			res.Outcome, res.untried = Lacking, true
			res.Reason = "not tried: it rests on " + name + ", which failed"
			res.Seen = nil
			return
		}
	}
}

// goroutines dumps all stacks.
func goroutines() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

const label = "hasp-conformance"

// labelled runs f so that every goroutine that comes of it bears a name.
func labelled(ctx context.Context, name string, f func(context.Context)) {
	pprof.Do(ctx, pprof.Labels(label, name), f)
}

// stacks returns the goroutines that bear the name.
func stacks(name string) []string {
	var buf bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&buf, 1); err != nil {
		return []string{"the goroutine profile cannot be read: " + err.Error()}
	}
	want := fmt.Sprintf("%q:%q", label, name)
	var found []string
	for _, s := range strings.Split(buf.String(), "\n\n") {
		if strings.Contains(s, want) {
			found = append(found, s)
		}
	}
	return found
}
