//go:build unix

package efs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

const dirMode = fs.ModeDir

// clockKind is what Open finds out of a file system's times.
type clockKind int

const (
	asDrawn clockKind = iota // proven, or nothing, each process by itself
	relayedClock
	foreignClock
)

func (w *world) drawClocks() {
	r := w.rng
	w.clocks = clockKind(r.IntN(3))
	if w.clocks == foreignClock && w.server.Local == nil { // each host's own, where a file is touched
		w.server.Touched = func() time.Time { return time.Now().Truncate(w.tick) }
	}
	if w.coarse = r.IntN(6) == 0; w.coarse {
		w.tick = time.Duration(1+r.IntN(2)) * time.Second
		if w.ttl = 10 * time.Second; r.IntN(6) == 0 { // which is refused
			w.ttl = time.Second
		}
		w.timeout = w.ttl * time.Duration(1+r.IntN(4))
	}
}

// tooShort tells whether no lock is to be had with this TTL.
func (w *world) tooShort() bool { return w.coarse && w.ttl < 2*w.tick }

func (w *world) setClock(b *Backend) {
	switch w.clocks {
	case relayedClock:
		b.clock.Relayed()
	case foreignClock:
		if w.variant.has("a foreign clock believed") {
			return
		}
		b.clock.Foreign()
	}
}

// oldState makes a state directory of the first format, or, where a new one takes long, one
// that has been there.
func (w *world) oldState() {
	r := w.rng
	if w.seed&withClocks == 0 || !w.coarse && r.IntN(3) > 0 {
		return
	}
	gen := uint64(w.now().UnixMicro()) - 1e9
	name := fmt.Sprintf("%020d.free", gen)
	switch r.IntN(3) {
	case 0: // its holder is dead
		name = fmt.Sprintf("%020d.held.%d.7.%d.C-1_x.N2.4123.ip-10-0-3-4%%2Eec2.trainer%%207", gen, statedir.Millis(w.ttl), []uint64{0, gen + 5}[r.IntN(2)])
	case 1:
		name = statedir.Baton{Gen: gen, State: statedir.Dirty}.Name()
	}
	w.server.Put(stateDir, "", dirMode|0o777, 0, nil)
	w.server.Put(stateDir+"/"+name, "", 0o666, 0, nil)
	w.last = gen
}

// operateMore is what operators do besides, in later histories.
func (p *proc) operateMore(b *Backend) {
	w := p.w
	start := time.Now()
	var err error
	switch p.rng.IntN(5) {
	case 4:
		if w.removals && w.strangers && p.rng.IntN(4) == 0 { // somebody has to remove the state then
			err = b.RaiseToken(ctxBG, simKey, math.MaxUint64)
			w.note("%-8s leaves no token: %v", p.name, err)
		}
	case 0:
		err = b.Break(ctxBG, simKey, 0)
		w.note("%-8s break of token 0: %v", p.name, err)
	case 1:
		_, err = b.Inspect(ctxBG, simKey)
		w.note("%-8s inspect: %v", p.name, err)
	case 2:
		err = b.with(ctxBG, simKey, p.steps)
	default:
		err = b.with(ctxBG, simKey, p.offset)
	}
	if errors.Is(err, backend.ErrCorrupt) && !w.hands && !w.strange(start) {
		w.fail("%s calls the lock corrupt: %v", p.name, err)
	}
}

// steps is what verify and doctor ask.
func (p *proc) steps(pl *place) error {
	w := p.w
	off := w.off
	files, dirs, err := pl.dir.Steps()
	w.note("%-8s steps of %v and %v: %v", p.name, files, dirs, err)
	if err == nil && w.coarse && w.off == off && (dirs != w.tick || files != w.tick) {
		w.fail("%s found steps of %v and %v, and they are of %v", p.name, files, dirs, w.tick)
	}
	return err
}

// offset is what verify and doctor ask. What it says is right within the time that it took.
func (p *proc) offset(pl *place) error {
	w := p.w
	off, start := w.off, time.Now()
	got, err := pl.dir.Offset()
	w.note("%-8s offset %v: %v", p.name, got, err)
	is := time.Until(w.now())
	near := w.tick + pl.b.clock.Granule() + time.Since(start) + 20*time.Millisecond
	if err == nil && w.off == off && (got-is).Abs() > near {
		w.fail("%s found the server's clock %v ahead, and it is %v", p.name, got, is)
	}
	return err
}
