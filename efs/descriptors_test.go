//go:build unix

package efs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

const descriptorsEnv = "HASP_EFS_DESCRIPTORS"

// descriptorsChild holds a lock, uses up its descriptors, and lets heartbeats go on for
// longer than the TTL.
func descriptorsChild(spec string) int {
	guard, dir, _ := strings.Cut(spec, "|")
	kind, _ := strconv.Atoi(guard)
	run := func() error {
		b, err := Open(dir, &Options{LockFile: LockFile(kind)})
		if err != nil {
			return err
		}
		renewed, failed := make(chan struct{}, 100), make(chan error, 100)
		l := hasp.New(b, &hasp.Options{TTL: 2 * time.Second, Heartbeat: 100 * time.Millisecond, Observer: func(e hasp.Event) {
			switch e.Kind {
			case hasp.EventRenewed:
				renewed <- struct{}{}
			case hasp.EventRenewalFailed, hasp.EventLost, hasp.EventWarning:
				failed <- e.Err
			}
		}})
		lease, err := l.Acquire(ctxBG, "lock")
		if err != nil {
			return err
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}); err != nil {
			return err
		}
		for {
			if _, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); errors.Is(err, syscall.EMFILE) {
				break
			} else if err != nil {
				return err
			}
		}
		for len(renewed) > 0 {
			<-renewed
		}
		for range 30 { // 3 s
			select {
			case <-renewed:
			case err := <-failed: // all of them have to get through
				return fmt.Errorf("a heartbeat: %w", err)
			case <-time.After(20 * time.Second):
				return errors.New("no heartbeat for 20 s")
			}
		}
		if err := lease.Err(); err != nil {
			return err
		}
		if _, err := b.Acquire(ctxBG, "lock", testClaim("b", time.Minute)); err == nil || errors.Is(err, backend.ErrCorrupt) {
			return fmt.Errorf("another in this process: %w", err)
		}
		if err := lease.Release(ctxBG); err != nil {
			return fmt.Errorf("release: %w", err)
		}
		return nil
	}
	if err := run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// A process that has run out of descriptors keeps its locks, and can release them.
func TestHeartbeatsNeedNoDescriptor(t *testing.T) {
	for _, kind := range []LockFile{Directory, File, NoLockFile} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d|%s", descriptorsEnv, kind, dir))
			// Each raise renames what a heartbeat renames.
			b := open(t, dir, &Options{LockFile: kind})
			stop, raised := make(chan struct{}), make(chan int)
			go func() {
				n := 0
				for floor := uint64(1) << 61; ; floor++ {
					select {
					case <-stop:
						raised <- n
						return
					case <-time.After(40 * time.Millisecond):
						if r, err := b.Inspect(ctxBG, "lock"); err == nil && r.State == backend.Held && b.RaiseToken(ctxBG, "lock", floor) == nil {
							n++
						}
					}
				}
			}()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			close(stop)
			if n := <-raised; n < 5 {
				t.Errorf("only %d raises", n)
			}
			if r, err := b.Inspect(ctxBG, "lock"); err != nil || r.State != backend.Free || r.Note != "" {
				t.Errorf("then: %+v, %v", r, err)
			}
			if left, err := leftovers(dir); err != nil || len(left) != 0 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}
