//go:build linux

package nfslab_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// A faultKind is a kind of fault.
type faultKind string

const (
	killProcess faultKind = "kill -9 of a worker"
	stopProcess faultKind = "SIGSTOP of a worker past the TTL"
	crashHost   faultKind = "host crashed and booted"
	crashReader faultKind = "host read the paths and crashed"
	stallHost   faultKind = "host stalled"
	cutHost     faultKind = "host cut off and back"
	crashServer faultKind = "server crashed and booted"
	lostReplies faultKind = "replies lost, and the reply cache with the server"
	hostClock   faultKind = "host's clock set by 10 minutes"
	serverClock faultKind = "server's clock set by 10 minutes"
	diskFull    faultKind = "disk full"
	noState     faultKind = "state directory deleted"
	noGuard     faultKind = "guard deleted"
	garbled     faultKind = "junk put into the state directory"
	movedAway   faultKind = "directory moved away"
)

// A chance says how often a kind comes in each deck, and for how long it lasts.
type chance struct {
	kind     faultKind
	cards    int
	min, max time.Duration
}

// A deck takes some 100 s. After a server's crash nothing is to be had for some 15 s, and one
// host at a time has a fault.
var allFaults = []chance{
	{killProcess, 30, 0, 0},
	{stopProcess, 12, longTTL + longTTL/4, 2 * longTTL},
	{crashHost, 2, 0, 2 * longTTL},
	{crashReader, 2, 0, longTTL},
	{stallHost, 4, longTTL / 4, 2 * longTTL},
	{cutHost, 4, longTTL / 4, 2 * longTTL},
	{crashServer, 1, 0, 2 * time.Second},
	{lostReplies, 1, 0, time.Second},
	{hostClock, 8, 0, 0},
	{serverClock, 4, 0, 0},
	{diskFull, 4, time.Second, longTTL},
	{noState, 4, 0, 0},
	{noGuard, 4, 0, 0},
	{garbled, 4, 100 * time.Millisecond, longTTL},
	{movedAway, 4, 0, 0},
}

// graceAndMore is how long a server is left alone after its boot.
const graceAndMore = 15 * time.Second

// A fault is one that is to be done.
type fault struct {
	kind  faultKind
	which int // of those that it can be done to, modulo their number
	spell time.Duration
}

// faults does faults for the campaign's spell, from decks that are shuffled: the seed decides
// what, how long, to whom and when. One whose object has a fault already waits until that is
// over, unless one of its kind waits: so each kind comes about as often as it is in the decks.
func (c *campaign) faults(chances []chance) {
	rng := rand.New(rand.NewPCG(c.seed, 0))
	var deck []chance
	var waiting []fault
	for start := time.Now(); time.Since(start) < c.spell; {
		if len(deck) == 0 {
			for _, ch := range chances {
				deck = append(deck, slices.Repeat([]chance{ch}, ch.cards)...)
			}
			rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		ch := deck[0]
		deck = deck[1:]
		f := fault{ch.kind, rng.IntN(1 << 20), ch.min + time.Duration(rng.Int64N(int64(ch.max-ch.min)+1))}
		pause := 300*time.Millisecond + time.Duration(rng.Int64N(int64(1700*time.Millisecond)))
		waiting = slices.DeleteFunc(waiting, c.do)
		if !slices.ContainsFunc(waiting, func(w fault) bool { return w.kind == f.kind }) && !c.do(f) {
			waiting = append(waiting, f)
		}
		time.Sleep(pause)
	}
}

// do begins a fault, unless what it is for has one.
func (c *campaign) do(f fault) bool {
	h := c.l.Clients[f.which%len(c.l.Clients)]
	const oneHost, server = "a host", "the server"
	switch f.kind {
	case killProcess:
		if s := c.victim(f, true); s != nil {
			return c.begin(f, s.h.Name, nil, func() { s.kill() })
		}
	case stopProcess:
		if s := c.victim(f, false); s != nil {
			p := s.process()
			return c.begin(f, s.h.Name, []string{s.name}, func() {
				if p.Signal(syscall.SIGSTOP) == nil {
					time.Sleep(f.spell)
					_ = p.Signal(syscall.SIGCONT)
				}
			})
		}
	case crashHost, crashReader:
		return c.begin(f, h.Name, []string{oneHost, h.Name}, func() {
			if f.kind == crashReader {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				_, _ = h.Shell(ctx, "cd "+c.root+" && for f in */*; do cat $f; stat $f; ls $f; done >/dev/null 2>&1; true")
				cancel()
			}
			h.Crash()
			time.Sleep(f.spell)
			c.boot(h)
		})
	case stallHost:
		return c.begin(f, h.Name, []string{oneHost, h.Name}, func() {
			if h.Stall() == nil {
				time.Sleep(f.spell)
				_ = h.Resume()
			}
		})
	case cutHost:
		return c.begin(f, h.Name, []string{oneHost, h.Name}, func() {
			_ = h.Cut()
			time.Sleep(f.spell)
			_ = h.Heal()
		})
	case crashServer, lostReplies:
		if !c.reserve(server) {
			return false
		}
		var objects []string
		if f.kind == lostReplies {
			objects = []string{oneHost, h.Name}
		}
		again := func() { c.release(server) }
		begun := c.begin(f, server, objects, func() {
			if f.kind == lostReplies {
				// What the host has sent is carried out, and what the server says to that is lost.
				_ = h.Cut()
				time.Sleep(20 * time.Millisecond)
			}
			c.l.Server.Crash()
			time.Sleep(f.spell)
			c.boot(c.l.Server)
			if f.kind == lostReplies {
				_ = h.Heal()
			}
			c.work.Go(func() { // before the next: of these 10 s are its grace period
				time.Sleep(graceAndMore)
				again()
			})
		})
		if !begun {
			again()
		}
		return begun
	case hostClock:
		return c.begin(f, h.Name, []string{h.Name}, func() { c.clock(h, f.which) })
	case serverClock:
		return c.begin(f, server, []string{server}, func() { c.clock(c.l.Server, f.which) })
	case diskFull:
		return c.begin(f, server, []string{server}, func() {
			export := filepath.Join(filepath.Dir(c.l.Mount()), "export")
			c.shell(c.l.Server, "fallocate -l $(df --output=avail -B1 "+export+" | tail -1) "+export+"/fill; dd if=/dev/zero of="+export+"/more bs=4k 2>/dev/null; true")
			time.Sleep(f.spell)
			c.shell(c.l.Server, "rm -f "+export+"/fill "+export+"/more")
		})
	case noState, noGuard, garbled:
		return c.admin(f, h)
	case movedAway:
		return c.begin(f, movedKeys[0], []string{movedKeys[0]}, func() {
			old := fmt.Sprintf("%s/old%d", c.root, f.which)
			c.shell(h, "mv "+c.root+"/moved "+old)
			time.Sleep(2 * longTTL)
			c.removed(old)
		})
	}
	return false
}

// admin is what a person does to a lock's files. Not to one lock twice within some TTLs: with the state
// and the guard away at once nothing tells of its holder.
func (c *campaign) admin(f fault, h *nfslab.Host) bool {
	key := adminKeys[f.which/7%len(adminKeys)]
	state := filepath.Join(c.root, filepath.Dir(key), "."+filepath.Base(key)+".hasp")
	return c.begin(f, key, []string{key}, func() {
		switch f.kind {
		case noState:
			c.shell(h, "for i in 1 2 3 4 5; do rm -rf "+state+" && break; done; true")
		case noGuard:
			guard := filepath.Join(c.root, key)
			c.shell(h, "rm -rf "+guard)
			// Cut short it leaves an empty directory, which hasp never takes for its own.
			c.onSome("rmdir "+guard+" 2>/dev/null; [ ! -d "+guard+" ] || [ -e "+guard+"/held-by-hasp ]", guard)
		case garbled:
			c.shell(h, "echo junk >"+state+"/junk")
			time.Sleep(f.spell)
			c.removed(state + "/junk")
		}
		time.Sleep(3 * longTTL)
	})
}

// begin does f beside the others, and notes from when to when.
func (c *campaign) begin(f fault, what string, objects []string, do func()) bool {
	if !c.reserve(objects...) {
		return false
	}
	c.work.Go(func() {
		defer c.release(objects...)
		s := span{kind: f.kind, what: what, from: c.w.Now()}
		do()
		s.to = c.w.Now()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spans = append(c.spans, s)
	})
	return true
}

// victim is the slot that f is for, if it has a process on a host that is well; one of hasp
// run only if commands are meant too.
func (c *campaign) victim(f fault, commands bool) *slot {
	all := c.slots
	if !commands {
		all = slices.DeleteFunc(slices.Clone(all), func(s *slot) bool { return s.command })
	}
	s := all[f.which%len(all)]
	if s.process() == nil || !s.h.Up() || c.isBusy(s.h.Name) {
		return nil
	}
	return s
}

func (c *campaign) boot(h *nfslab.Host) {
	if err := h.Boot(); err != nil {
		c.odd("%v", err)
		if err := h.Boot(); err != nil {
			c.odd("%v", err)
		}
	}
}

func (c *campaign) clock(h *nfslab.Host, which int) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	offsets := []time.Duration{10 * time.Minute, -10 * time.Minute, 0}
	if err := h.SetClock(ctx, offsets[which/11%len(offsets)]); err != nil && h.Up() {
		c.odd("%v", err)
	}
}

// removed removes what a fault has made.
func (c *campaign) removed(path string) { c.onSome("rm -rf "+path, path) }

// onSome runs a line on any host that answers, until it is done.
func (c *campaign) onSome(line, path string) {
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, h := range c.l.Clients {
			if c.isBusy(h.Name) || !h.Up() {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			_, err := h.Shell(ctx, line)
			cancel()
			if err == nil {
				return
			}
		}
	}
	c.odd("%s could not be removed", path)
}

// shell runs a line that may fail: the store may be away, or full.
func (c *campaign) shell(h *nfslab.Host, line string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, _ = h.Shell(ctx, line)
}
