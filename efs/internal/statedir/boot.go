//go:build unix

package statedir

import (
	"fmt"
	"strings"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// Make makes the state directory with its first baton, unless there is one by then. The
// directory is built under another name and renamed, so it appears with its baton in it,
// and only one of several can: renaming a directory onto one that is not empty fails.
func (d *Dir) Make() error {
	err := d.boot()
	if err != nil {
		if _, serr := d.fs.Stat(d.path, true); serr == nil {
			err = nil // another was faster
		}
	}
	if err != nil {
		return fmt.Errorf("make state directory %s: %w", d.path, err)
	}
	return nil
}

// sweepBoots removes what was left by those who made the state directory or tried to: none
// of them can succeed any more. It is for whoever takes the first baton, or one of which
// nobody knows that it was taken before: the maker may have been killed.
func (d *Dir) sweepBoots() {
	for slot := 0; slot <= maxBoots; slot++ {
		if err := d.removeBoot(d.bootPath(slot)); err != nil {
			break
		}
	}
}

// maxBoots is how many processes may be making the same state directory at once.
const maxBoots = 1000

// bootPath is where the slot's process makes it. These names are used again. What it makes
// is in there, by a name that is not.
func (d *Dir) bootPath(slot int) string { return fmt.Sprintf("%s.boot%d", d.path, slot) }

func (d *Dir) boot() error {
	if err := d.learnMode(); err != nil {
		return err
	}
	now, err := d.afterTick()
	if err != nil {
		return err
	}
	var path string
	for slot := 0; ; slot++ {
		path = d.bootPath(slot)
		err := d.fs.MakeDir(path, d.mode)
		if err == nil {
			break
		}
		if !fsys.IsTaken(err) || slot == maxBoots {
			return err
		}
	}
	made := path + "/" + NewNonce()
	gen, err := backend.NextToken(0, 0, now)
	if err == nil {
		err = d.fs.MakeDir(made, d.mode)
	}
	if err == nil {
		err = d.fs.Create(made+"/"+Baton{Gen: gen, State: Dirty}.Name(), nil, d.mode&0o666)
	}
	if err == nil {
		if err = d.fs.Rename(made, d.path); err == nil {
			_ = d.fs.RemoveDir(path)
			return nil
		}
		if !fsys.Definite(err) { // it may be carried out yet
			return err
		}
	}
	_ = d.removeBoot(path)
	return err
}

const junkPrefix = "junk."

// removeBoot removes a slot's directory. What is being made in it gets another name first:
// its maker may be about to rename it, or may have, and must not bring a state directory
// without a baton to where a person has removed the one that was there.
func (d *Dir) removeBoot(path string) error {
	names, _, err := d.fs.List(path)
	if err != nil {
		return err
	}
	for _, n := range names {
		junk := path + "/" + n
		if !strings.HasPrefix(n, junkPrefix) {
			junk = path + "/" + junkPrefix + NewNonce()
			if err := d.fs.Rename(path+"/"+n, junk); err != nil {
				if _, serr := d.fs.Stat(junk, true); serr != nil {
					return err
				}
			}
		}
		in, _, err := d.fs.List(junk)
		if err != nil {
			return err
		}
		for _, n := range in {
			_ = d.fs.Remove(junk + "/" + n)
		}
		_ = d.fs.RemoveDir(junk)
	}
	return d.fs.RemoveDir(path)
}
