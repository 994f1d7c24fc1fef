//go:build unix

package statedir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// What killed processes have left of their trials is removed by those who come after
// them, also where every name is taken, and nothing else is.
func TestLeftTrials(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	for _, left := range []int{1, 3, maxTrials} {
		dir := t.TempDir()
		d := newDir(t, fsys.OS{}, filepath.Join(dir, "lock"))
		for slot := range left {
			p := d.trialPath(slot)
			if err := errors.Join(os.Mkdir(p, 0o700), os.WriteFile(p+"/b", nil, 0o600), os.Chtimes(p, old, old)); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.ProveTimes(); err != nil {
			t.Errorf("%d left: %v", left, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("%d left: %v, %v", left, names, err)
		}
	}
	dir := t.TempDir()
	d := newDir(t, fsys.OS{}, filepath.Join(dir, "lock"))
	mine, theirs := d.trialPath(0), d.trialPath(1) // a person's, and one that is in use
	if err := errors.Join(os.Mkdir(mine, 0o700), os.WriteFile(mine+"/notes", nil, 0o600), os.Chtimes(mine, old, old), os.Mkdir(theirs, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.dirClock(); err != nil {
		t.Error(err)
	}
	for _, p := range []string{mine + "/notes", theirs} {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
}

// A job array begins everywhere at once, and each of its processes may have to try file times out.
func TestManyTrialsAtOnce(t *testing.T) {
	dir := t.TempDir()
	d := newDir(t, fsys.OS{}, filepath.Join(dir, "lock"))
	for slot := range 32 { // in use
		if err := os.Mkdir(filepath.Join(dir, filepath.Base(d.trialPath(slot))), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.ProveTimes(); err != nil {
		t.Error(err)
	}
}
