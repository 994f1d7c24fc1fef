//go:build unix

package efs

import (
	"strings"
	"time"

	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/simfs"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// drawMore draws what histories have that came later: the others must stay what they are.
func (w *world) drawMore() {
	r := w.rng
	w.strangers, w.refusals = w.seed&withStrangers != 0, w.seed&withRefusals != 0
	w.server.Replaced, w.server.Written = w.replaced, w.written
	if !w.seals && !w.removals && r.IntN(4) == 0 {
		w.lockFile = File
	}
	if w.strangers && w.lockFile == Directory {
		w.removals = true // strangers do that, too
	}
	if r.IntN(4) == 0 { // what is moved aside
		w.focus = func(r *simfs.Request) bool {
			return strings.Contains(r.To, "/old.") || strings.Contains(r.To, "/.old.")
		}
	}
	if w.seed&withLocal != 0 { // its clock is this host's
		w.server.Local = &simfs.Local{RenameNew: r.IntN(4) > 0}
		w.off, w.drift = 0, 0
	}
	if w.seed&withClocks != 0 {
		w.drawClocks()
	}
}

// setUp makes p's backend what Open makes it on such a file system.
func (w *world) setUp(b *Backend, o guard.Options) {
	if w.server.Local != nil {
		b.mount.Type, b.local, b.poll = "ext4", true, 5*time.Millisecond
		b.files.Store(false)
		o.Network = false
		b.clock.Trust()
	}
	switch b.guard.(type) {
	case guard.File:
		b.guard = guard.File{Options: o, UseLink: &b.files}
	case guard.Directory:
		b.guard = guard.Directory{Options: o}
	}
	w.setClock(b)
}

// begin makes what is there at the beginning, and returns how many hasp processes there
// are.
func (w *world) begin(procs int) int {
	if w.rng.IntN(6) == 0 { // more than have room in a name
		procs += 4
	}
	w.oldState()
	if w.server.Local != nil && w.server.At(stateDir) == nil && w.rng.IntN(3) == 0 {
		w.image()
	}
	return procs
}

// image is a lock that came with an image's lower layer: its guard is at rest, and cannot be
// moved, or stands.
func (w *world) image() {
	if w.lockFile != Directory || w.server.At(lockPath) != nil {
		return
	}
	gen := uint64(w.now().UnixMicro()) - 1e9
	w.server.Put(stateDir, "", 0o777|dirMode, 0, nil)
	b := statedir.Baton{Gen: gen, State: []statedir.State{statedir.Free, statedir.Dirty}[w.rng.IntN(2)], Epoch: gen - 1}
	rest := stateDir + "/" + statedir.RestName(b.Epoch)
	w.server.Put(rest, "", 0o777|dirMode, 0, nil)
	at := rest + "/guard"
	if b.State == statedir.Dirty && w.rng.IntN(2) == 0 {
		at = lockPath
	}
	w.server.Put(at, "", 0o777|dirMode, 0, nil)
	w.server.Put(at+"/"+guard.Entry, "", 0o666, 0, nil)
	w.server.Put(stateDir+"/"+b.Name(), "", 0o666, 0, nil)
	w.server.Lower("/r")
	w.last, w.lower = gen, true
}

// hitLocal is hit on a host's own file system: a request is slow, or its process dies before
// it is carried out, or after.
func (w *world) hitLocal(p *proc, s *slot) bool {
	r := s.req
	if w.rng.IntN(3) > 0 {
		s.notBefore = time.Now().Add(w.pause())
		w.tell(p.name, r, "is slow", nil)
		return true
	}
	if w.rng.IntN(2) == 0 {
		err := r.Apply()
		w.tell(p.name, r, "is its last", err)
	}
	w.note("%-8s dies", p.name)
	w.answer(p, errCrash)
	return true
}
