//go:build unix

package efs

import (
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/simfs"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// A stranger is a person or a program that knows nothing of locks, and puts things of its
// own where one is. No hasp process may remove or overwrite them. One that moved a thing
// aside in a race has to bring it back, and leaves it in the state directory if it dies.

// A thing is a stranger's.
type thing struct {
	p       *proc
	what    string
	node    *simfs.Node // nil until it is made
	content string
	names   []string // if it is a directory
	inWay   bool     // whoever sees it calls the lock corrupt
	anyones bool     // hasp may remove it
	over    bool     // somebody other than hasp has removed it, or may have
	end     time.Time
}

// A spoiled value is one whose file was removed, or overwritten.
type spoiled struct{ name, content string }

const database = "SQLite format 3\x00 rows and rows"

// gone is told of each node of the thing's that a request of c's has removed or replaced.
func (th *thing) gone(w *world, n *simfs.Node, c *simfs.Client, how, path string) {
	by := madeBy(c.Who)
	if !n.Gone() || th.over { // it has another name, or a person has taken it away
		if by.kind == strangerProc {
			th.finish()
		}
		return
	}
	// A guard takes the place of an empty directory where no rename spares it: PROTOCOL.md has it.
	// And a client that remembers a file there sends a request that removes an empty directory.
	emptied := n.IsDir() && len(th.names) == 0 && (w.server.Local == nil || how == "replaced" && !w.server.Local.RenameNew)
	if by.kind == haspProc || by.kind == operatorProc {
		if !th.anyones && !emptied {
			w.fail("%s %s %s, a stranger's, at %s", by.name, how, th.what, path)
		}
	}
	th.finish()
}

func (th *thing) finish() {
	if !th.over {
		th.over, th.end = true, time.Now()
	}
}

func (w *world) replaced(c *simfs.Client, n *simfs.Node, path string) {
	by := madeBy(c.Who)
	if path == stateDir && w.noBaton { // it was empty, and who makes a new one remembers that there is none
		w.wiped()
	}
	switch tag := n.Tag.(type) {
	case *thing:
		tag.gone(w, n, c, "replaced", path)
	case *ticket:
		switch {
		case !n.Gone():
		case by.kind != haspProc, w.righted.After(tag.since), w.carried:
			tag.robbed = true
		case strings.Contains(path, "/old."): // a move aside was carried out twice, and met two
			tag.robbed, w.carried = true, true
		case tag.protected(time.Now()) && w.lockFile == Directory:
			w.fail("%s replaced the live file of %s at %s", by.name, tag.p.name, path)
		}
	}
}

func (w *world) written(c *simfs.Client, n *simfs.Node, path string) {
	if th, ok := n.Tag.(*thing); ok {
		w.fail("%s wrote into %s, a stranger's, at %s", madeBy(c.Who).name, th.what, path)
	}
}

// strange tells whether something of a stranger's has been in the way since a time.
func (w *world) strange(since time.Time) bool {
	if w.noBaton || w.spoiled != nil || !w.mended.Before(since) && !w.mended.IsZero() {
		return true
	}
	for _, th := range w.things {
		switch {
		case th.node == nil:
		case th.inWay && (!th.over || !th.end.Before(since)):
			return true
		case slices.ContainsFunc(w.server.Paths(th.node), func(path string) bool { return th.inWay || strings.Contains(path, "/junk.") }):
			return true // it is back, or in a guard that is to be removed
		}
	}
	return false
}

// took notes what a person's removal of more than one thing has taken away.
func (w *world) took() {
	for _, th := range w.things {
		if th.node != nil && th.node.Gone() {
			th.finish()
		}
	}
}

// intact looks at what strangers have put somewhere.
func (w *world) intact() {
	for _, th := range w.things {
		switch {
		case th.over || th.anyones || th.node == nil:
		case len(w.server.Paths(th.node)) == 0:
			w.fail("%s, a stranger's, is gone", th.what)
		case th.node.Content() != th.content:
			w.fail("%s, a stranger's, has another content: %q", th.what, th.node.Content())
		case th.node.IsDir() && !slices.Equal(th.node.Names(), th.names):
			w.fail("%s, a stranger's, has %q in it", th.what, th.node.Names())
		}
	}
}

// takeAway is the end of it: strangers take their things away, and what they have spoiled is
// put right.
func (w *world) takeAway() {
	for _, th := range w.things {
		if th.node == nil { // one that is over had another name, and may be back
			continue
		}
		for _, path := range w.server.Paths(th.node) {
			w.note("%-8s takes %s away from %s", "stranger", th.what, path)
			w.server.RemoveAll(path)
		}
		th.finish()
	}
	if _, b := w.baton(); w.noBaton || b.LastToken() == math.MaxUint64 {
		w.note("%-8s removes the state directory", "stranger")
		_ = (&proc{w: w}).removeState()
	}
	w.restore()
}

// restore puts a value's file back as it was, from a backup.
func (w *world) restore() {
	if w.spoiled == nil {
		return
	}
	if _, b := w.baton(); b.Value == w.spoiled.name {
		w.server.Put(valuesDir+"/"+b.Value, w.spoiled.content, 0o666, 0, nil)
		w.took()
	}
	w.spoiled, w.mended = nil, time.Now()
}

// baton is the one in the state directory, and its name, empty if there is none.
func (w *world) baton() (name string, b statedir.Baton) {
	if d := w.server.At(stateDir); d != nil {
		for _, n := range d.Names() {
			if x, ok := statedir.Parse(n); ok {
				return n, x
			}
		}
	}
	return "", b
}

// put is done in one step. Path may be taken by a file, and then that goes.
func (p *proc) put(th *thing, path string, mode fs.FileMode) bool {
	w := p.w
	if old := w.server.At(path); old != nil {
		if old.IsDir() {
			return false
		}
		switch tag := old.Tag.(type) {
		case *ticket:
			tag.robbed = true
		case *thing:
			tag.finish()
		}
	}
	th.p = p
	if th.node = w.server.Put(path, th.content, mode, p.user, th); th.node == nil {
		return false
	}
	w.things = append(w.things, th)
	for _, name := range th.names {
		w.server.Put(path+"/"+name, "mine", 0o644, p.user, &thing{p: p, what: th.what + "'s " + name, names: nil})
	}
	return true
}

// atPath is a thing for the lock's path.
func (p *proc) atPath() (th *thing, mode fs.FileMode) {
	th = &thing{inWay: true}
	switch p.rng.IntN(8) {
	case 0:
		th.what, th.content, mode = "a database", database, 0o644
	case 5:
		th.what, th.content, mode = "a pid file", "4123\n", 0o644
	case 6: // which is in the way of lock files
		th.what, mode = "an empty directory", fs.ModeDir|0o755
		if p.w.lockFile == File {
			th.what, th.names = "a guard", []string{guard.Entry}
		}
	case 1: // its first line is what a lock file has
		th.what, th.content, mode = "a log", strings.Repeat("1763862345.5\n", 500), 0o644
	case 2:
		th.what, mode = "an empty directory", fs.ModeDir|0o755
	case 3:
		th.what, th.names, mode = "a directory", []string{"data"}, fs.ModeDir|0o755
	case 4:
		th.what, th.content, mode = "a link", "nowhere", fs.ModeSymlink|0o777
	default: // which this user may not read, and is no lock file by its size
		th.what, th.content, mode = "a private database", strings.Repeat(database, 200), 0o600
	}
	return th, mode
}

// junk has names that are not, or not quite, those of what hasp makes.
var junk = []string{"notes.txt", ".DS_Store", "rest.x", "rest.007", "00000000000000000042.free.e1.z9", "00000000000000000042.gone.e1", "00000000000000000042.free.e1.",
	"00000000000000000042.held.e1.t5.cc", "00000000000000000042.held.1.2.3", "00000000000000000042.held.?.2.3.c.n.4.h.o", "0000000000000000004x.free"}

func runStranger(p *proc) {
	w := p.w
	for range 2 + p.rng.IntN(5) {
		p.sleep(p.upTo(w.ttl))
		if p.rng.IntN(5) == 0 {
			p.byRequests()
			continue
		}
		what := p.rng.IntN(12)
		err := p.client.Do(&simfs.Request{Op: "a person", Resolve: func() error { return nil }, Apply: func() error { return p.act(what) }})
		w.note("%-8s did %d: %v", p.name, what, err)
	}
}

// byRequests is what a program does, whose requests may be late as those of others.
func (p *proc) byRequests() {
	w := p.w
	th := &thing{p: p, what: "a file that was moved there", content: database, inWay: true}
	from := fmt.Sprintf("/r/db%d", len(w.things))
	w.things = append(w.things, th)
	p.client.Who = th
	defer func() { p.client.Who = p }()
	n, err := p.client.CreateFile(from, []byte(database), 0o644)
	if th.node = n; err != nil {
		th.anyones = true // it may be empty
	} else if p.rng.IntN(2) == 0 {
		err = p.client.Rename(from, lockPath)
	} else {
		err = p.client.Link(from, lockPath)
	}
	w.note("%-8s puts a file there: %v", p.name, err)
	if p.rng.IntN(2) == 0 {
		p.sleep(p.upTo(w.ttl))
		err = p.client.Remove(lockPath)
		w.note("%-8s removes it: %v", p.name, err)
	}
}

// act is a step on the server.
func (p *proc) act(what int) error {
	w := p.w
	state, ours := w.server.At(stateDir), w.lockFile == Directory
	switch {
	case what < 4: // into the lock's path
		if th, mode := p.atPath(); p.put(th, lockPath, mode) {
			w.note("%-8s puts %s there", p.name, th.what)
		}
	case what == 4 && state != nil && state.IsDir():
		name := junk[p.rng.IntN(len(junk))]
		p.put(&thing{what: name, content: "junk", inWay: name[0] != '.'}, stateDir+"/"+name, 0o644)
	case what == 5 && state != nil && state.IsDir():
		for _, n := range state.Names() {
			if _, ok := statedir.ParseRest(n); ok || n == ".values" {
				p.put(&thing{what: "a file in " + n, content: "junk", inWay: n[0] != '.'}, stateDir+"/"+n+"/notes", 0o644)
			}
		}
	case what == 6 && ours:
		if name, b := w.baton(); name != "" && b.State != statedir.Sealed {
			w.server.RemoveAll(stateDir + "/" + name)
			w.noBaton = true
		}
	case what == 7 && ours && state != nil:
		if err := p.removeState(); err != nil {
			return err
		}
		p.put(&thing{what: "a file for the state directory", content: "mine", inWay: true}, stateDir, 0o644)
	case what == 8 && ours && p.rng.IntN(4) == 0:
		p.maim()
	case what == 8 && ours && p.rng.IntN(3) == 0:
		return p.removeGuard()
	case what == 9 && ours:
		if g := w.guard(); g != "" {
			p.put(&thing{what: "a file in a guard", content: "mine"}, g+"/notes", 0o644)
		}
	case what == 10 && w.values && w.spoiled == nil:
		p.spoil()
	default: // it takes something away, or puts something right
		w.restore()
		if w.noBaton {
			return p.removeState()
		}
		for _, th := range w.things {
			if th.node != nil && !th.over && !th.anyones && p.rng.IntN(2) == 0 {
				for _, path := range w.server.Paths(th.node) {
					w.server.RemoveAll(path)
				}
				th.finish()
			}
		}
	}
	return nil
}

// guard is where one is, wherever that is.
func (w *world) guard() string {
	for _, path := range append(w.server.Tree(stateDir), lockPath) {
		if w.server.At(path+"/"+guard.Entry) != nil {
			return path
		}
	}
	return ""
}

// maim takes a guard's entry: nothing tells it from a person's empty directory then, and
// who finds it calls the lock corrupt.
func (p *proc) maim() {
	w := p.w
	path := w.guard()
	if path == "" {
		return
	}
	w.server.RemoveAll(path + "/" + guard.Entry)
	w.halved(p, path)
	w.hands, w.maimed = true, true
	for _, p := range w.procs {
		p.exposed = true
	}
}

// halved notes that a guard has lost its entry.
func (w *world) halved(p *proc, path string) {
	th := &thing{p: p, what: "a guard without its entry", node: w.server.At(path), inWay: true, anyones: true}
	th.node.Tag = th
	w.things = append(w.things, th)
}

// spoil removes the value's file, or overwrites it.
func (p *proc) spoil() {
	w := p.w
	_, b := w.baton()
	path := valuesDir + "/" + b.Value
	n := w.server.At(path)
	if b.Value == "" || n == nil {
		return
	}
	w.spoiled = &spoiled{name: b.Value, content: n.Content()}
	w.server.RemoveAll(path)
	switch p.rng.IntN(4) {
	case 0:
		p.put(&thing{what: "half a value", content: w.spoiled.content[:len(w.spoiled.content)/2], anyones: true}, path, 0o666)
	case 2:
		p.put(&thing{what: "no value", content: "junk", anyones: true}, path, 0o666)
	case 1: // which nobody else removes
		p.put(&thing{what: "a directory for a value"}, path, fs.ModeDir|0o777)
	}
}
