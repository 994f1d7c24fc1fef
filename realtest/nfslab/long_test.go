//go:build linux

package nfslab_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

const (
	longGate = "HASP_NFS_LONG" // for how long there are faults
	longSeed = "HASP_NFS_SEED" // of a run that is to be repeated
	// longFaults is a regular expression for the kinds of faults, all of them if it is empty.
	longFaults = "HASP_NFS_FAULTS"
	longTTL    = 4 * time.Second
	// legacyTimeout is that of EfsLock files there; 300 s, the protocol's, would be most of a run.
	legacyTimeout = 30 * time.Second
	longFew       = 2 * time.Second // what a takeover may take over the TTL
)

// The keys of a long run, by what is done to them.
var (
	plainKeys  = []string{"plain/p0", "plain/p1", "plain/p2", "plain/p3", "plain/p4", "plain/p5", "plain/p6", "plain/p7"}
	slowKeys   = []string{"plain/slow"}           // held for longer than a TTL, sometimes
	adminKeys  = []string{"admin/a0", "admin/a1"} // a person deletes what belongs to them
	movedKeys  = []string{"moved/m0"}             // a person moves their directory away
	legacyKeys = []string{"legacy/e0", "legacy/e1"}
)

// writeKeys are for those who hold them for a moment.
var writeKeys = func() (keys []string) {
	for i := range 48 {
		keys = append(keys, fmt.Sprint("plain/w", i))
	}
	return keys
}()

// A campaign is a run with faults.
type campaign struct {
	t     *testing.T
	l     *nfslab.Lab
	w     *nfslab.Witness
	root  string
	query string
	seed  uint64
	spell time.Duration
	begun time.Duration
	over  time.Duration
	slots []*slot
	work  sync.WaitGroup // faults that are not over

	mu      sync.Mutex
	closing bool
	busy    map[string]bool // what a fault is being done to
	spans   []span
	strange []string
}

// A span is a fault, from its begin to its end.
type span struct {
	kind     faultKind
	what     string
	from, to time.Duration
}

func (c *campaign) url() string {
	u := "efs://" + c.root + "?legacy_timeout=" + legacyTimeout.String() + "&create=true"
	if c.query != "" {
		u += "&" + c.query
	}
	return u
}

// TestLong is the worst day that the lab can make: faults of all kinds, at random and at
// once, while workers on three hosts take locks.
func TestLong(t *testing.T) {
	spell, err := time.ParseDuration(os.Getenv(longGate))
	if err != nil {
		t.Skip("set " + longGate + " to how long it is to last, or run make nfs-long")
	}
	seed := rand.Uint64N(1e9)
	if s := os.Getenv(longSeed); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(longSeed, err)
		}
	}
	t.Logf("%v of faults, repeated by %s=%d", spell, longSeed, seed)
	c := newCampaign(t, spell, seed)
	c.fill(1)
	c.begun = c.w.Now()
	c.faults(chosen(t))
	c.over = c.w.Now()
	c.heal()
	r := c.result()
	r.slow = c.probe()
	c.empty()
	r.left = c.leftovers()
	r.took = c.w.Now() - c.begun
	t.Log("\n" + r.String())
	for _, s := range r.longest {
		t.Log(s)
	}
	if file := os.Getenv("HASP_NFS_REPORT"); file != "" {
		if err := r.write(file); err != nil {
			t.Error(err)
		}
	}
	for _, s := range r.wrong() {
		t.Error(s)
	}
}

// chosen are the faults whose kinds HASP_NFS_FAULTS matches.
func chosen(t *testing.T) []chance {
	only, err := regexp.Compile(os.Getenv(longFaults))
	if err != nil {
		t.Fatal(longFaults, err)
	}
	all := slices.DeleteFunc(slices.Clone(allFaults), func(c chance) bool { return !only.MatchString(string(c.kind)) })
	if len(all) == 0 {
		t.Fatalf("%s=%s matches no kind of fault", longFaults, only)
	}
	return all
}

func newCampaign(t *testing.T, spell time.Duration, seed uint64) *campaign {
	l := lab(t)
	c := &campaign{t: t, l: l, w: witness(t, l), root: folder(t, l), seed: seed, spell: spell, query: os.Getenv("HASP_NFS_QUERY"), busy: map[string]bool{}}
	for _, d := range []string{"plain", "admin", "moved", "legacy"} {
		shell(t, l.Clients[0], "mkdir -p "+c.root+"/"+d)
	}
	t.Cleanup(func() { // if the test ends early
		c.close()
		c.heal()
		for _, s := range c.slots {
			s.kill()
			<-s.finished
		}
		for _, h := range l.Clients {
			if h.Up() {
				_, _ = h.Shell(patience(t), "rm -rf "+c.root+"*")
				break
			}
		}
	})
	return c
}

// fill starts the workers: on each host some through the API, one that holds for long, and
// hasp run; and peers EfsLock processes for each key that has some.
func (c *campaign) fill(peers int) {
	bin := c.l.Bin()
	for i, h := range c.l.Clients {
		worker := func(name string, args ...string) []string {
			return append([]string{bin + "/worker", "-strict", "-witness", c.w.Addr(), "-name", name, "-ttl", longTTL.String()}, args...)
		}
		all := slices.Concat(plainKeys, adminKeys, movedKeys, legacyKeys)
		c.slot(h, false, func(*rand.Rand) []string {
			return worker(h.Name+"-api", "-url", c.url(), "-key", strings.Join(all, ","), "-parallel", "2", "-more", "20ms", "-pause", "50ms", "-abandon", "0.005")
		})
		c.slot(h, false, func(*rand.Rand) []string {
			return worker(h.Name+"-write", "-url", c.url(), "-key", strings.Join(writeKeys, ","), "-parallel", "4", "-write", "-retry", "500ms")
		})
		c.slot(h, false, func(*rand.Rand) []string {
			return worker(h.Name+"-slow", "-url", c.url(), "-key", slowKeys[0], "-hold", "100ms", "-more", (2 * longTTL).String())
		})
		c.slot(h, true, func(rng *rand.Rand) []string {
			key := plainKeys[rng.IntN(len(plainKeys))]
			return append([]string{bin + "/hasp", "run", "--timeout", longTTL.String(), "--retry-interval", "200ms", "--max-retries", "-1", "--on", c.url(), key, "--"},
				worker(h.Name+nfslab.ByCommand, "-child", "-more", "20ms")...)
		})
		for k := range peers {
			if i >= len(legacyKeys) {
				break
			}
			c.slot(h, false, func(*rand.Rand) []string {
				return []string{bin + "/worker", "-witness", c.w.Addr(), "-name", fmt.Sprintf("%s-efslock%d", h.Name, k), "-efslock", legacyTimeout.String(), "-url", c.root,
					"-key", legacyKeys[i], "-retry", "200ms", "-more", "20ms", "-pause", "100ms"}
			})
		}
	}
}

// reserve says whether what is free, and takes it.
func (c *campaign) reserve(what ...string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range what {
		if c.busy[w] {
			return false
		}
	}
	for _, w := range what {
		c.busy[w] = true
	}
	return true
}

func (c *campaign) release(what ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range what {
		delete(c.busy, w)
	}
}

func (c *campaign) isBusy(what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy[what]
}

func (c *campaign) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

func (c *campaign) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
}

func (c *campaign) odd(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.strange) < 20 {
		c.strange = append(c.strange, fmt.Sprintf(format, args...))
	}
}

// heal waits until all faults are over, and brings everything up.
func (c *campaign) heal() {
	c.work.Wait()
	for _, h := range append([]*nfslab.Host{c.l.Server}, c.l.Clients...) {
		if !h.Up() {
			if err := h.Boot(); err != nil {
				c.t.Error(err)
				continue
			}
		}
		if err := h.SetClock(patience(c.t), 0); err != nil {
			c.t.Error(err)
		}
	}
}

// probe kills all workers and looks how long it takes until each key can be had: each
// host has some of them to take, all at once. EfsLock processes end before: hasp waits
// for their timeout.
func (c *campaign) probe() (slow []string) {
	c.close()
	for _, s := range c.slots {
		s.kill()
		<-s.finished
	}
	all := slices.Concat(plainKeys, writeKeys, slowKeys, adminKeys, movedKeys)
	shares := make([][]string, len(c.l.Clients))
	for i, key := range all {
		shares[i%len(shares)] = append(shares[i%len(shares)], key)
	}
	start := c.w.Now()
	late := make([]string, len(all))
	var asked sync.WaitGroup
	for n, h := range c.l.Clients {
		name := "probe-" + h.Name
		var out output
		p, err := h.Start(nfslab.Command{Argv: []string{c.l.Bin() + "/worker", "-strict", "-witness", c.w.Addr(), "-name", name, "-ttl", longTTL.String(),
			"-url", c.url(), "-key", strings.Join(shares[n], ","), "-each"}, Stdout: &out, Stderr: &out})
		if err != nil {
			c.t.Error(err)
			continue
		}
		for i := n; i < len(all); i += len(shares) {
			asked.Go(func() {
				e, ok := c.w.Await(all[i], time.Minute, func(e nfslab.Event) bool { return e.Kind == nfslab.In && e.Worker == name })
				switch took := e.At - start; {
				case !ok:
					late[i] = fmt.Sprintf("%s: not within a minute after the workers were killed; %s says:\n%s", all[i], name, out.about(all[i]))
					c.diagnose(h, all[i])
				case took > longTTL+longFew+longBusy:
					late[i] = fmt.Sprintf("%s: %v after the workers were killed", all[i], took.Round(time.Millisecond))
				}
			})
		}
		defer func() { // when all have been asked for
			_ = p.Kill()
			<-p.Done()
		}()
	}
	asked.Wait()
	return slices.DeleteFunc(late, func(s string) bool { return s == "" })
}

// about is the last that was written about a key.
func (o *output) about(key string) string {
	lines := strings.Split(o.String(), "\n")
	slices.Reverse(lines)
	if i := slices.IndexFunc(lines, func(s string) bool { return strings.Contains(s, key) }); i >= 0 {
		return lines[i]
	}
	return lines[0]
}

// longBusy is what a machine may add that runs four kernels: to start a process there, and to
// open a store.
const longBusy = 4 * time.Second

func (c *campaign) empty() {
	c.close()
	for _, s := range c.slots {
		<-s.finished
	}
}

// leftovers are what grows: a lock that nobody holds is one state directory with the baton
// and the guard at rest.
func (c *campaign) leftovers() (left []string) {
	const most = 8
	for _, key := range slices.Concat(plainKeys, writeKeys, slowKeys, adminKeys, movedKeys, legacyKeys) {
		dir, base := filepath.Split(key)
		files := strings.Fields(shell(c.t, c.l.Clients[0], "cd "+c.root+"/"+dir+" && find . -path './."+base+".*' -o -path ./"+base+" -o -path './"+base+"/*'"))
		if len(files) > most {
			left = append(left, fmt.Sprintf("%s: %d files: %s", key, len(files), strings.Join(files, " ")))
		}
	}
	return left
}

// diagnose shows how a lock's files look on a host that cannot have it, and on the next.
func (c *campaign) diagnose(h *nfslab.Host, key string) {
	dir, base := filepath.Split(key)
	state := "." + base + ".hasp"
	look := "cd " + c.root + "/" + dir + " && stat -c '%n %i %F %y' . " + state + " " + state + "/* " + state + "/rest.*/* " + base + " " + base + "/* 2>&1; date"
	other := c.l.Clients[(slices.Index(c.l.Clients, h)+1)%len(c.l.Clients)]
	for _, h := range []*nfslab.Host{h, other} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		out, err := h.Shell(ctx, look)
		cancel()
		c.t.Logf("%s sees of %s: %v\n%s", h.Name, key, err, out)
	}
}
