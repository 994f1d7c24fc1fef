//go:build unix

package efs

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// trials are what the protocol asks of a file system, each tried in an empty directory. try
// returns what was seen, or what is wrong.
var trials = []struct {
	id    string
	guard bool // only the guard needs it
	try   func(f fsys.FS, dir string) (seen string, err error)
}{
	{"rename", false, tryRename},
	{"mkdir", false, tryMakeDir},
	{"guard", true, tryGuard},
	{"fence", true, tryFence},
	{"listing", false, tryListing},
}

// races is how often two requests are made at once of which one must fail.
const races = 50

// tryRename: of two who rename one file one succeeds, and it is then under the name that this
// one gave it.
func tryRename(f fsys.FS, dir string) (string, error) {
	views := [2]view{{f, dir}, {f, dir}}
	for i := range races {
		if err := raceRename(views, i); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d times two renamed one file, and one of them did", races), nil
}

// view is a directory as it is seen through one mount.
type view struct {
	fs  fsys.FS
	dir string
}

func (v view) path(name string) string { return v.dir + "/" + name }

// raceRename has two rename one file to names of their own.
func raceRename(views [2]view, n int) error {
	from := fmt.Sprintf("from%d", n)
	if err := views[n%2].fs.Create(views[n%2].path(from), nil, 0o600); err != nil {
		return err
	}
	to := [2]string{fmt.Sprintf("a%d", n), fmt.Sprintf("b%d", n)}
	errs := both(func(i int) error { return views[i].fs.Rename(views[i].path(from), views[i].path(to[i])) })
	won := slices.Index(errs[:], nil)
	switch {
	case errs[0] == nil && errs[1] == nil:
		return errors.New("two renamed one file to two names, and both succeeded: a rename is no compare-and-swap here")
	case won < 0:
		return fmt.Errorf("two renamed one file, and neither did: %w; %w", errs[0], errs[1])
	case !fsys.IsGone(errs[1-won]):
		return fmt.Errorf("of two who renamed one file one was not told that it is gone: %w", errs[1-won])
	}
	if _, err := views[won].fs.Stat(views[won].path(to[won]), true); err != nil {
		return fmt.Errorf("a file that was renamed is not under its new name: %w", err)
	}
	return views[won].fs.Remove(views[won].path(to[won]))
}

// both calls f for 0 and 1 at once.
func both(f func(i int) error) (errs [2]error) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range errs {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// tryMakeDir: of two who make one directory one does.
func tryMakeDir(f fsys.FS, dir string) (string, error) {
	views := [2]view{{f, dir}, {f, dir}}
	for i := range races {
		if err := raceMakeDir(views, i); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d times two made one directory, and one of them did", races), nil
}

func raceMakeDir(views [2]view, n int) error {
	name := fmt.Sprintf("made%d", n)
	errs := both(func(i int) error { return views[i].fs.MakeDir(views[i].path(name), 0o700) })
	won := slices.Index(errs[:], nil)
	switch {
	case errs[0] == nil && errs[1] == nil:
		return errors.New("two made one directory, and both succeeded")
	case won < 0:
		return fmt.Errorf("two made one directory, and neither did: %w; %w", errs[0], errs[1])
	case !fsys.IsTaken(errs[1-won]):
		return fmt.Errorf("of two who made one directory one was not told that it exists: %w", errs[1-won])
	}
	return views[won].fs.RemoveDir(views[won].path(name))
}

// tryGuard: a directory with an entry can be moved, and neither removed nor replaced.
func tryGuard(f fsys.FS, dir string) (string, error) {
	v := view{f, dir}
	for _, name := range []string{"guard", "rest", "other"} {
		if err := f.MakeDir(v.path(name), 0o700); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"guard/entry", "file"} {
		if err := f.Create(v.path(name), nil, 0o600); err != nil {
			return "", err
		}
	}
	for what, do := range map[string]func() error{
		"removed as a file":      func() error { return f.Remove(v.path("guard")) },
		"removed as a directory": func() error { return f.RemoveDir(v.path("guard")) },
		"replaced by a file":     func() error { return f.Rename(v.path("file"), v.path("guard")) },
		"replaced":               func() error { return f.Rename(v.path("other"), v.path("guard")) },
		"opened for reading": func() error {
			_, _, err := f.Read(v.path("guard"), 16)
			return err
		},
		"created over": func() error { return f.Create(v.path("guard"), nil, 0o600) },
	} {
		if do() == nil {
			return "", fmt.Errorf("a directory with a file in it was %s", what)
		}
		if i, err := f.Stat(v.path("guard/entry"), true); err != nil || !i.Mode.IsRegular() {
			return "", fmt.Errorf("a directory with a file in it is gone after it was to be %s: %w", what, err)
		}
	}
	for _, move := range [][2]string{{"guard", "rest/guard"}, {"rest/guard", "guard"}} {
		if err := f.Rename(v.path(move[0]), v.path(move[1])); err != nil {
			return "", fmt.Errorf("a directory cannot be moved to another (lockfile=false needs no such moves): %w", err)
		}
		if _, err := f.Stat(v.path(move[1]+"/entry"), true); err != nil {
			return "", fmt.Errorf("a directory that was moved has lost what was in it: %w", err)
		}
	}
	return "a directory with a file in it can be moved, and neither removed, replaced, read nor created over", nil
}

// tryFence: nothing can be moved into a directory that was removed.
func tryFence(f fsys.FS, dir string) (string, error) {
	v := view{f, dir}
	for _, name := range []string{"old", "guard"} {
		if err := f.MakeDir(v.path(name), 0o700); err != nil {
			return "", err
		}
	}
	if err := f.RemoveDir(v.path("old")); err != nil {
		return "", err
	}
	if err := f.Rename(v.path("guard"), v.path("old/guard")); err == nil {
		return "", errors.New("something was moved into a directory that had been removed: a late request of a former holder can do harm")
	}
	return "nothing can be moved into a directory that was removed", nil
}

// listed is of how many names a listing is tried.
const listed = 100

// tryListing: a listing has every name, and each once, and not those that were changed.
func tryListing(f fsys.FS, dir string) (string, error) {
	v := view{f, dir}
	var want []string
	for i := range listed {
		want = append(want, fmt.Sprintf("name%03d", i))
		if err := f.Create(v.path(want[i]), nil, 0o600); err != nil {
			return "", err
		}
	}
	for i := 0; i < listed; i += 3 {
		to := want[i] + "x"
		if err := f.Rename(v.path(want[i]), v.path(to)); err != nil {
			return "", err
		}
		want[i] = to
	}
	names, _, err := f.List(dir)
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		return "", fmt.Errorf("a listing of %d files, some of them just renamed, shows %d names, and not those that there are", listed, len(names))
	}
	return fmt.Sprintf("a listing of %d files shows at once which were renamed", listed), nil
}
