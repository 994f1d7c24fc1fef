//go:build unix

package statedir

import (
	"fmt"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// File times are tried out in a directory beside the lock. One that a killed process has
// left is removed by the next that finds its name taken, so there are few names.

const (
	// maxTrials is how many processes may be at it at once, those counted that were killed
	// at it within trialAge: a job array begins everywhere at the same moment.
	maxTrials = 64
	// trialAge is after how long one is left over: a trial takes 5 s at most.
	trialAge = time.Minute
)

func (d *Dir) trialPath(slot int) string { return fmt.Sprintf("%s.times%d", d.path, slot) }

func trialNames(dir string) [2]string { return [2]string{dir + "/a", dir + "/b"} }

// makeTrial makes the directory for a trial, and removes those that are left over if it
// met one.
func (d *Dir) makeTrial() (dir string, err error) {
	for range 2 {
		for slot := range maxTrials {
			dir = d.trialPath(slot)
			if err = d.fs.MakeDir(dir, d.mode); err == nil {
				if slot > 0 {
					if i, err := d.fs.Stat(dir, true); err == nil {
						d.sweepTrials(slot, i.Mtime)
					}
				}
				return dir, nil
			}
			if !fsys.IsTaken(err) {
				return "", err
			}
		}
		now, cerr := d.readClock()
		if cerr != nil {
			return "", cerr
		}
		d.sweepTrials(maxTrials, now)
	}
	return "", err
}

// sweepTrials removes those of the first slots that are left over at the server's time now.
func (d *Dir) sweepTrials(slots int, now time.Time) {
	for slot := range slots {
		dir := d.trialPath(slot)
		if i, err := d.fs.Stat(dir, true); err == nil && i.Mode.IsDir() && now.Sub(i.Mtime) > trialAge {
			d.removeTrial(dir)
		}
	}
}

// removeTrial removes a directory of a trial, and nothing that a person has put there.
func (d *Dir) removeTrial(dir string) {
	err := d.fs.RemoveDir(dir)
	if err == nil || fsys.IsGone(err) {
		return
	}
	for _, n := range trialNames(dir) {
		_ = d.fs.Remove(n)
	}
	_ = d.fs.RemoveDir(dir)
}
