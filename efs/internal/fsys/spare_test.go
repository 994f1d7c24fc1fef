//go:build linux

package fsys

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func descriptors(t *testing.T) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

// One descriptor serves all who have reserved it, one after the other, and is gone when
// they are.
func TestSpareDescriptor(t *testing.T) {
	before := descriptors(t)
	a, b := Reserve(), Reserve()
	if n := descriptors(t); n != before+1 {
		t.Errorf("%d descriptors, and %d before", n, before)
	}
	a()
	a = Reserve()

	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var all []int
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(before) + 40, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		all = append(all, fd)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			path := filepath.Join(dir, string(rune('a'+i)))
			for range 20 {
				err := OS{}.Create(path, []byte("x"), 0o600)
				content, _, rerr := OS{}.Read(path, MaxRead)
				_, _, lerr := OS{}.List(dir)
				if err := errors.Join(err, rerr, lerr, OS{}.Remove(path)); err != nil || string(content) != "x" {
					t.Errorf("%q, %v", content, err)
				}
			}
		})
	}
	wg.Wait()
	for _, fd := range all {
		unix.Close(fd)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	a()
	if n := descriptors(t); n != before+1 {
		t.Errorf("%d descriptors while one has reserved, and %d before", n, before)
	}
	b()
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, and %d before", n, before)
	}
}
