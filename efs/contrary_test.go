//go:build unix

package efs

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// contrary is a file system on which a file is there when one is to be made, and not when
// it is looked at: what a client remembers may be so.
type contrary struct {
	fsys.FS
	path string
}

func (c contrary) RenameNew(from, to string) error {
	if to == c.path {
		return syscall.EEXIST
	}
	return c.FS.RenameNew(from, to)
}

func (c contrary) Link(from, to string) error {
	if to == c.path {
		return syscall.EEXIST
	}
	return c.FS.Link(from, to)
}

// An attempt ends, and says what it saw.
func TestLockFileThatIsThereAndIsNot(t *testing.T) {
	dir := t.TempDir()
	b, err := openOn(contrary{fsys.OS{}, dir + "/lock"}, dir, &Options{LockFile: File})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(ctxBG, 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { _, err := b.Acquire(ctx, "lock", testClaim("a", time.Minute)); done <- err }()
	select {
	case err := <-done:
		if !errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), "none when it is looked at") {
			t.Errorf("it gave %v", err)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("it goes on although its context has ended")
	}
}
