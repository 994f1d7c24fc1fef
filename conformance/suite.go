package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

	spoiled atomic.Bool  // nothing else can be tried
	hung    atomic.Int64 // rules whose call did not return
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

// start tries the rules, phase by phase, in the background. around, if not nil, is
// called for each of them from a goroutine of its own, and calls try, which returns
// when the rule is decided, or does not.
func (s *suite) start(around func(r *Rule, try func())) {
	if around == nil {
		around = func(_ *Rule, try func()) { try() }
	}
	go func() {
		defer close(s.ended)
		var all sync.WaitGroup
		defer all.Wait()
		for _, p := range phases {
			limit := make(chan struct{}, 1)
			if p == quiet {
				limit = make(chan struct{}, beside)
			}
			var tried sync.WaitGroup
			for i := range s.rules {
				r := &s.rules[i]
				if r.phase != p {
					continue
				}
				limit <- struct{}{}
				tried.Add(1)
				all.Go(func() {
					// A rule that has failed may wait for one of a later phase to be
					// decided, and is in nobody's way then.
					leave := sync.OnceFunc(func() { <-limit; tried.Done() })
					defer leave()
					defer s.skip(r)
					around(r, func() {
						s.try(r)
						leave()
						s.decide(r)
					})
				})
			}
			tried.Wait()
		}
	}()
}

// skip notes that the rule was not selected, if it was not tried.
func (s *suite) skip(r *Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.res[r.ID] == nil {
		close(s.done[r.ID])
	}
}

// decide waits until it is known whether a failure is this rule's, and tells of it.
func (s *suite) decide(r *Rule) {
	s.mu.Lock()
	res := s.res[r.ID]
	s.mu.Unlock()
	if res.Outcome == Failed {
		s.awaitRests(res)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(res)
	s.count++
	if s.cfg.Progress != nil {
		s.cfg.Progress(s.count, len(s.rules), *res)
	}
}

// awaitRests waits for all rules that settle looks at for res: those that it rests on,
// and those that the failed ones of them do, also by what they have found.
func (s *suite) awaitRests(res *Result) {
	waited := map[string]bool{res.Rule: true}
	next := s.restsOf(res)
	for len(next) > 0 {
		name := next[0]
		next = next[1:]
		if waited[name] {
			continue
		}
		waited[name] = true
		<-s.done[name]
		s.mu.Lock()
		on := s.res[name]
		s.mu.Unlock()
		if on != nil { // it was selected
			next = append(next, s.restsOf(on)...)
		}
	}
}

// restsOf lists the rules that this one rests on: always, and by what it has found.
func (s *suite) restsOf(res *Result) []string {
	all := slices.Clone(foundations)
	if res.restsOn != "" {
		all = append(all, res.restsOn)
	}
	for _, r := range s.rules {
		if r.ID == res.Rule {
			all = append(all, r.rests...)
		}
	}
	return all
}

// try decides one rule.
func (s *suite) try(r *Rule) {
	res := &Result{Rule: r.ID, Statement: r.Statement}
	begun := time.Now()
	lacks, undeclared := r.lacks(&s.cfg, s.caps)
	switch {
	case s.ctx.Err() != nil:
		res.Outcome, res.Reason = NotJudged, "interrupted"
	case s.spoiled.Load():
		res.Outcome, res.Reason = NotJudged, "not tried: "+foundations[0]+" or "+foundations[1]+" failed, on which everything rests"
	case lacks != "":
		res.Outcome, res.Reason = Lacking, lacks
	case undeclared != "":
		res.Outcome, res.Seen = Failed, []string{undeclared}
	default:
		for scale := time.Duration(1); ; scale *= 2 {
			x := s.run(r, scale, res)
			if x.undecided == "" || x.hopeless || scale == 8 {
				break
			}
		}
	}
	res.Duration = time.Since(begun)
	s.mu.Lock()
	defer s.mu.Unlock()
	if res.Outcome == Failed && slices.Contains(foundations, r.ID) {
		s.spoiled.Store(true)
	}
	s.res[r.ID] = res
	close(s.done[r.ID])
}

// patience is how long a rule may take before it counts as hanging.
func (s *suite) patience(p phase, scale time.Duration) time.Duration {
	d := 30 * time.Second
	switch {
	case s.cfg.brief:
		d = 15 * time.Second
	case p != quiet:
		d = 45 * time.Second
	}
	// where rules hang, the others that do are not waited for as long
	return d/time.Duration(1+min(s.hung.Load(), 2)) + scale*(30*s.cfg.MinTTL+6*s.cfg.Slack)
}

// run makes one trial of a rule and notes its outcome in res.
func (s *suite) run(r *Rule, scale time.Duration, res *Result) *trial {
	patience := s.patience(r.phase, scale)
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	now := time.Now()
	x := &trial{s: s, rule: r, cfg: &s.cfg, ctx: ctx, scale: scale, start: now, wall: now.Round(0), patience: patience}
	ended := make(chan struct{})
	name := fmt.Sprintf("%s-%s-%d", s.nonce, r.ID, scale)
	go labelled(ctx, name, func(context.Context) {
		defer close(ended)
		defer x.recovered()
		r.run(x)
	})
	dump := ""
	select {
	case <-ended:
	case <-ctx.Done():
		held := s.stalls.since(x.start)
		select {
		case <-ended:
		case <-time.After(2*time.Second + held):
			s.hung.Add(1)
			found := stacks(name)
			dump = strings.Join(found, "\n\n")
			if s.ctx.Err() == nil {
				x.errorf("a call did not return, although its context had ended: %s", waitsIn(found))
			}
		}
		switch {
		case s.ctx.Err() != nil || x.failed():
		case held > patience/8:
			x.mu.Lock()
			x.stalled, x.hopeless, x.undecided = true, true, fmt.Sprintf("it was not over after %v, of which the machine did not run this process for %v", patience, backend.Round(held))
			x.mu.Unlock()
		default:
			x.errorf("it was not over after %v", patience)
		}
	}
	s.clean(x)

	x.mu.Lock()
	defer x.mu.Unlock()
	seen := x.seen
	if x.blockedBy != "" {
		seen = append([]string{x.blocked}, seen...)
	}
	res.Outcome, res.Seen, res.Notes, res.Dump = Passed, seen, x.notes, dump
	switch {
	case s.ctx.Err() != nil: // and whatever was seen may come of that
		res.Outcome, res.Reason, res.Seen = NotJudged, "not tried to the end: interrupted", nil
	case x.stalled: // whatever else was seen may come of that
		res.Outcome, res.Reason, res.Seen = NotJudged, "could not be decided on this machine: "+x.undecided, nil
	case len(seen) > 0 && scale < 8 && r.hook == "" && onlyUnavailable(seen):
		// A request took longer than its TTL, or its time-out: that says nothing
		// of the rule, or of the one that it rests on, unless it is always so.
		x.undecided = seen[0]
		res.Outcome = Failed
	case x.blockedBy != "":
		res.Outcome, res.restsOn = Failed, x.blockedBy
	case len(seen) > 0:
		res.Outcome = Failed
	case x.undecided != "" && s.stalls.since(x.start) > x.ttl()/4:
		res.Outcome, res.Reason, res.Seen = NotJudged, "could not be decided on this machine: "+x.undecided, nil
	case x.undecided != "":
		res.Outcome, res.Seen = Failed, []string{"could not be decided: " + x.undecided}
	case x.lacking != "":
		res.Outcome, res.Reason = Lacking, x.lacking
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = append(s.holds, x.holds...)
	s.flts = append(s.flts, x.faults...)
	return x
}

// onlyUnavailable tells whether all that was seen is that the store did not answer.
func onlyUnavailable(seen []string) bool {
	for _, s := range seen {
		if !strings.Contains(s, backend.ErrUnavailable.Error()) {
			return false
		}
	}
	return true
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
			func() {
				defer x.recovered()
				fs[i](ctx)
			}()
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
	for _, name := range s.restsOf(res) {
		on := s.res[name]
		if on == nil || on == res {
			continue
		}
		s.settle(on)
		if on.Outcome == Failed || on.untried {
			res.Outcome, res.untried = NotJudged, true
			res.Reason = "it rests on " + name + ", which failed"
			if on.untried {
				res.Reason = "it rests on " + name + ", which is not judged"
			}
			res.Seen = nil
			return
		}
	}
}

// waitsIn says, of goroutines that hang, in which call of the backend the rule's own
// does.
func waitsIn(found []string) string {
	for _, stack := range found {
		if !strings.Contains(stack, "conformance.(*suite).run") {
			continue
		}
		for _, line := range strings.Split(stack, "\n") {
			f := strings.Fields(line) // "#", address, function+offset, file:line
			if len(f) < 4 || !strings.Contains(f[2], "/") && !strings.HasPrefix(f[2], "main.") {
				continue // the standard library's
			}
			fn, _, _ := strings.Cut(f[2], "+0x")
			return fmt.Sprintf("it is in %s (%s)", shortFunc(fn), shortPath(f[3]))
		}
	}
	return "nobody knows in which"
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
