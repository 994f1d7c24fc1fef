package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

// TestFleet rolls a fleet from the old store to the new one and back while its processes
// contend, requests fail, are late, are executed late or lose their answers, processes
// crash, a second operator takes steps of its own, and, in some runs, a store is wiped.
// Nobody may hold beside another, tokens rise from one holder to the next, and a value
// that was set or seen is never followed by an older one.
//
// HASP_FLEET is how many seeds are run, HASP_FLEET_SEED the first one.
func TestFleet(t *testing.T) {
	seeds, first := 16, 1
	if testing.Short() {
		seeds = 4
	}
	if n, err := strconv.Atoi(os.Getenv("HASP_FLEET")); err == nil {
		seeds = n
	}
	if n, err := strconv.Atoi(os.Getenv("HASP_FLEET_SEED")); err == nil {
		first = n
	}
	var mu sync.Mutex
	total, steps, faults := 0, 0, 0
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+seeds; seed++ {
			t.Run(strconv.Itoa(seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t, uint64(seed))
					f.run()
					mu.Lock()
					defer mu.Unlock()
					total, steps, faults = total+f.taken, steps+f.steps, faults+f.faults
				})
			})
		}
	})
	t.Logf("%d acquisitions, %d steps, %d faults", total, steps, faults)
	if !t.Failed() && (total < 40*seeds || steps < 8*seeds) {
		t.Errorf("too little happened to show anything")
	}
}

const (
	fleetTTL = 10 * time.Second
	fleetMax = 12 * time.Second // the migration's longest TTL
)

type fleet struct {
	t      *testing.T
	seed   uint64
	l      *lab
	skew   [2]time.Duration
	wipes  bool
	end    context.Context
	procs  []*proc
	wg     sync.WaitGroup
	rnd    func(n int) int
	steps  int
	faults int

	mu    sync.Mutex
	keys  map[string]*witness
	taken int
}

// proc is one host's process. Its phase is what it is restarted with next.
type proc struct {
	name string

	mu    sync.Mutex
	phase migrate.Phase
	stop  context.CancelFunc // ends the process that runs
}

func (p *proc) next() migrate.Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase
}

// restart gives the host another phase: the process ends as it likes, and another begins.
func (p *proc) restart(phase migrate.Phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase = phase
	if p.stop != nil {
		p.stop()
	}
}

// witness is what has been seen of a key.
type witness struct {
	holders map[*hasp.Lease]string
	token   uint64        // the greatest handed out
	seen    backend.Value // the newest that was set or read
	tried   map[string]bool
	// sure is false from when a store was wiped: values are lost with it.
	sure bool
}

func newFleet(t *testing.T, seed uint64) *fleet {
	r := rand.New(rand.NewPCG(seed, 2))
	var mu sync.Mutex
	f := &fleet{t: t, seed: seed, l: newLab(t), keys: map[string]*witness{},
		rnd: func(n int) int { mu.Lock(); defer mu.Unlock(); return r.IntN(n) }}
	for i := range f.skew {
		f.skew[i] = time.Duration(f.rnd(3)-1) * 30 * time.Minute
	}
	f.wipes = seed%4 == 0
	return f
}

func (f *fleet) backend(p migrate.Phase) (*migrate.Backend, []*memlock.Client) {
	old, new := f.l.old.Client(), f.l.new.Client()
	b, err := migrate.New(skewed{old, f.skew[0]}, skewed{new, f.skew[1]}, &migrate.Options{Name: "sweeps", Phase: p})
	if err != nil {
		f.t.Error(err)
	}
	return b, []*memlock.Client{old, new}
}

func (f *fleet) run() {
	ctx, stop := context.WithCancel(context.Background())
	f.end = ctx
	if err := f.l.begin(migrate.StageOld, fleetMax); err != nil {
		f.t.Fatal(err)
	}
	for i := range 4 {
		p := &proc{name: fmt.Sprintf("host-%d", i), phase: migrate.PhaseOld}
		f.procs = append(f.procs, p)
		f.wg.Go(func() { f.host(p) })
	}
	f.wg.Go(f.trouble)
	f.wg.Go(f.rival)
	f.roll()
	stop()
	f.wg.Wait()
	time.Sleep(time.Hour) // for what hangs
	if f.t.Failed() {
		f.t.Logf("seed %d, clocks %v, wipes %v", f.seed, f.skew, f.wipes)
	}
}

// host runs one process after the other.
func (f *fleet) host(p *proc) {
	for f.end.Err() == nil {
		ctx, stop := context.WithCancel(f.end)
		p.mu.Lock()
		p.stop = stop
		phase := p.phase
		p.mu.Unlock()
		f.process(ctx, p.name, phase)
		stop()
	}
}

// process works until ctx ends, or crashes.
func (f *fleet) process(ctx context.Context, name string, phase migrate.Phase) {
	b, clients := f.backend(phase)
	l := hasp.New(b, &hasp.Options{Owner: name, TTL: fleetTTL, RetryInterval: time.Second, RequestTimeout: 2 * time.Second, Margin: time.Second})
	crash := f.rnd(20) == 0
	defer func() {
		if crash { // it is gone, and its leases run out
			for _, c := range clients {
				c.Partition(true)
			}
		}
		_ = l.Close()
	}()
	for ctx.Err() == nil {
		key := fmt.Sprintf("k%d", f.rnd(3))
		if f.rnd(8) == 0 {
			f.read(ctx, b, key)
		}
		wait, cancel := context.WithTimeout(ctx, 15*time.Second)
		lease, err := l.Acquire(wait, key)
		cancel()
		if err != nil {
			if errors.Is(err, migrate.ErrPhase) {
				sleep(ctx, time.Second) // until somebody gives it another phase
			}
			continue
		}
		f.enter(b, lease, name+" in "+string(phase))
		f.work(ctx, b, lease)
		f.leave(lease)
		if crash && f.rnd(3) == 0 {
			return
		}
		_ = lease.Release(context.Background())
		sleep(ctx, time.Duration(f.rnd(1500))*time.Millisecond)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (f *fleet) witness(key string) *witness {
	w := f.keys[key]
	if w == nil {
		w = &witness{holders: map[*hasp.Lease]string{}, tried: map[string]bool{}, sure: true}
		f.keys[key] = w
	}
	return w
}

func (f *fleet) enter(b *migrate.Backend, le *hasp.Lease, who string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.witness(le.Key())
	for other, name := range w.holders {
		if other.Err() == nil && le.Err() == nil {
			f.t.Errorf("%s and %s hold %q at once", name, who, le.Key())
		}
	}
	// who has just lost it again may be late
	if le.Err() == nil && le.Token() <= w.token {
		f.t.Errorf("%s got token %d of %q after %d", who, le.Token(), le.Key(), w.token)
	}
	w.token = max(w.token, le.Token())
	w.holders[le] = who
	f.taken++
}

func (f *fleet) leave(le *hasp.Lease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.witness(le.Key()).holders, le)
}

// work holds the lock for a while, and sets its value now and then.
func (f *fleet) work(ctx context.Context, b *migrate.Backend, le *hasp.Lease) {
	f.read(ctx, b, le.Key())
	if f.rnd(2) == 0 {
		text := fmt.Sprintf("%d", le.Token())
		f.mu.Lock()
		f.witness(le.Key()).tried[text] = true
		f.mu.Unlock()
		sctx, cancel := context.WithTimeout(ctx, 4*time.Second)
		err := le.SetValue(sctx, []byte(text))
		cancel()
		if err == nil {
			f.saw(le.Key(), backend.Value{Data: []byte(text), Token: le.Token(), Seq: 1})
		}
	}
	t := time.NewTimer(time.Duration(f.rnd(4000)) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-le.Done():
	}
}

// saw notes that a value has been set, or read.
func (f *fleet) saw(key string, v backend.Value) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.witness(key); v.Compare(w.seen) > 0 {
		w.seen = v
	}
}

// read reads a value: not an older one than anybody has seen before it began.
func (f *fleet) read(ctx context.Context, b *migrate.Backend, key string) {
	f.mu.Lock()
	before := f.witness(key).seen
	f.mu.Unlock()
	rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	v, err := b.Value(rctx, key)
	if err != nil {
		return
	}
	f.mu.Lock()
	w := f.witness(key)
	if w.sure && v.Compare(before) < 0 {
		f.t.Errorf("the value of %q is %q (%d), and %q (%d) was seen before", key, v.Data, v.Token, before.Data, before.Token)
	}
	if v.Exists() && !w.tried[string(v.Data)] {
		f.t.Errorf("the value of %q is %q, which nobody has set", key, v.Data)
	}
	f.mu.Unlock()
	f.saw(key, v)
}

// roll is the operator who has the plan: there and back.
func (f *fleet) roll() {
	op, _ := f.backend("")
	defer op.Close()
	path := []migrate.Stage{migrate.StageOldBoth, migrate.StageBoth, migrate.StageBothNew, migrate.StageNew}
	for range 2 {
		for _, dir := range []int{+1, -1} {
			for i := range path {
				to := path[i]
				if dir < 0 {
					to = []migrate.Stage{migrate.StageBothNew, migrate.StageBoth, migrate.StageOldBoth, migrate.StageOld}[i]
				}
				f.reach(op, to)
				f.deploy(to, dir)
			}
		}
	}
}

// reach takes steps until the migration is at a stage, against what the rival does.
func (f *fleet) reach(op *migrate.Backend, to migrate.Stage) {
	begun := time.Now()
	for f.end.Err() == nil {
		ctx, cancel := context.WithTimeout(f.end, time.Minute)
		st, err := op.Status(ctx)
		if err == nil && st.Stores[0].Err == nil && st.Stores[1].Err == nil {
			o, n := st.Stores[0].Record.Stage, st.Stores[1].Record.Stage
			if o == to && n == to && st.Stores[0].HasRecord && st.Stores[1].HasRecord {
				cancel()
				return
			}
			var err error
			switch {
			case !st.Stores[0].HasRecord || !st.Stores[1].HasRecord:
				_, err = op.Repair(ctx, &migrate.StepOptions{Wait: true})
			case at(o)+at(n) < 2*at(to):
				_, err = op.Advance(ctx, nil)
			default:
				_, err = op.Back(ctx, nil)
			}
			if err == nil {
				f.steps++
			} else {
				f.fix(err)
			}
		}
		cancel()
		if time.Since(begun) > 2*time.Hour {
			f.t.Errorf("two hours, and stage %s is not reached: %v", to, st.Consistent)
			return
		}
		sleep(f.end, time.Duration(500+f.rnd(1500))*time.Millisecond)
	}
}

// fix does what a refusal asks for: processes of a phase that is on its way out are
// given the one that may run.
func (f *fleet) fix(err error) {
	var r *migrate.RefusedError
	if errors.As(err, &r) && len(r.Holders) > 0 && f.rnd(3) == 0 {
		for _, p := range f.procs {
			p.restart(migrate.PhaseBoth)
		}
	}
}

func at(s migrate.Stage) int {
	for i, x := range stages {
		if x == s {
			return i
		}
	}
	return 0
}

// deploy gives one host after the other the phase that the stage is for.
func (f *fleet) deploy(stage migrate.Stage, dir int) {
	want := migrate.PhaseBoth
	switch {
	case dir > 0 && stage == migrate.StageBothNew, stage == migrate.StageNew:
		want = migrate.PhaseNew
	case dir < 0 && stage == migrate.StageOldBoth, stage == migrate.StageOld:
		want = migrate.PhaseOld
	}
	for _, p := range f.procs {
		sleep(f.end, time.Duration(f.rnd(5000))*time.Millisecond)
		if p.next() != want && f.rnd(10) > 0 { // one is forgotten now and then
			p.restart(want)
		}
	}
	sleep(f.end, time.Duration(f.rnd(20000))*time.Millisecond)
}

// rival is a second operator, with plans of its own, who is killed now and then.
func (f *fleet) rival() {
	for f.end.Err() == nil {
		sleep(f.end, time.Duration(f.rnd(60000))*time.Millisecond)
		op, clients := f.backend("")
		ctx, cancel := context.WithTimeout(f.end, time.Duration(1+f.rnd(20000))*time.Millisecond)
		if f.rnd(2) == 0 {
			_, _ = op.Advance(ctx, nil)
		} else {
			_, _ = op.Back(ctx, nil)
		}
		cancel()
		if f.rnd(2) == 0 {
			for _, c := range clients {
				c.Partition(true)
			}
		}
		_ = op.Close()
	}
}

// trouble makes requests fail.
func (f *fleet) trouble() {
	ops := []memlock.Op{memlock.OpAcquire, memlock.OpRenew, memlock.OpRelease, memlock.OpInspect, memlock.OpWatch, memlock.OpList,
		memlock.OpRaiseToken, memlock.OpValue, memlock.OpSetValue, memlock.OpListValues, memlock.OpAny}
	for f.end.Err() == nil {
		sleep(f.end, time.Duration(f.rnd(4000))*time.Millisecond)
		s := f.l.old
		if f.rnd(2) == 0 {
			s = f.l.new
		}
		f.faults++
		op := ops[f.rnd(len(ops))]
		switch f.rnd(12) {
		case 0, 1, 2:
			s.Inject(op, "", memlock.Fault{Delay: time.Duration(f.rnd(6000)) * time.Millisecond, Times: 1 + f.rnd(3)})
		case 3, 4, 5:
			s.Inject(op, "", memlock.Fault{LoseReply: errFault, Times: 1 + f.rnd(3)})
		case 6, 7:
			s.Inject(op, "", memlock.Fault{Err: errFault, Times: 1 + f.rnd(3)})
		case 8, 9, 10: // executed late, whatever became of whoever asked
			ch := make(chan struct{})
			s.Inject(op, "", memlock.Fault{Hang: ch})
			time.AfterFunc(time.Duration(f.rnd(30000))*time.Millisecond, func() { close(ch) })
		case 11:
			switch {
			case f.wipes && f.rnd(3) == 0:
				f.wipe(s)
			default: // away for ten seconds
				remove := s.Inject(memlock.OpAny, "", memlock.Fault{Err: errFault, Times: -1})
				sleep(f.end, 10*time.Second)
				remove()
			}
		}
	}
}

// wipe makes a store forget everything, unless the other one has already: of two there
// is nothing left to repair from.
func (f *fleet) wipe(s *memlock.Store) {
	other := f.l.old
	if s == other {
		other = f.l.new
	}
	if v, err := other.Client().Value(context.Background(), migrate.RecordKey); err != nil || !v.Exists() {
		return
	}
	if v, err := s.Client().Value(context.Background(), migrate.RecordKey); err != nil || !v.Exists() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.keys {
		w.sure = false
	}
	s.Wipe()
}
