//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

func init() {
	backend.RegisterExaminer("efs", openExaminer)
}

// examiner implements backend.Examiner and backend.PeerExaminer.
type examiner struct {
	dir   string
	opts  Options
	fs    fsys.FS
	fstab string

	// What Examine has found out.
	mount   fsys.Mount
	usable  bool   // things can be tried
	scratch string // where
}

var (
	_ backend.Examiner     = (*examiner)(nil)
	_ backend.PeerExaminer = (*examiner)(nil)
)

func openExaminer(_ context.Context, u *url.URL) (backend.Examiner, error) {
	dir, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	return newExaminer(fsys.OS{}, dir, opts)
}

func newExaminer(f fsys.FS, dir string, opts *Options) (*examiner, error) {
	x := &examiner{fs: f, fstab: "/etc/fstab"}
	var err error
	if x.opts, err = opts.resolve(); err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, errors.New("the directory's path is empty")
	}
	x.dir, err = filepath.Abs(dir)
	return x, err
}

// Examine implements backend.Examiner.
func (x *examiner) Examine(ctx context.Context, y backend.Finder) error {
	fi, err := os.Stat(x.dir)
	x.examineMounted(y, fi)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		y.Problem("directory", "make it, or mount the file system that has it", "%s does not exist", x.dir)
		return nil
	case err != nil:
		y.Problem("directory", "see whether this user may look there, and whether the file system answers", "%s: %v", x.dir, err)
		return nil
	case !fi.IsDir():
		y.Problem("directory", "give the directory that the locks are in", "%s is not a directory", x.dir)
		return nil
	}
	x.examineMount(y)
	x.examineWriters(y, fi)
	x.examineSpace(y)
	if err := x.makeScratch(); err != nil {
		y.Problem("write", "give this user the right to write there, or let doctor look at a directory below in which it can", "nothing can be tried: %v", err)
		return nil
	}
	x.usable = true
	err = x.try(ctx, y)
	return errors.Join(err, x.sweep())
}

// makeScratch makes the directory in which things are tried.
func (x *examiner) makeScratch() (err error) {
	x.scratch, err = os.MkdirTemp(x.dir, "hasp-doctor-")
	return err
}

// sweep takes it away.
func (x *examiner) sweep() error {
	dir := x.scratch
	x.scratch = ""
	if dir == "" {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("the directory in which things were tried is left: %w", err)
	}
	return nil
}

// try does what locks rest on.
func (x *examiner) try(ctx context.Context, y backend.Finder) error {
	for _, t := range trials {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if t.guard && x.opts.LockFile == NoLockFile {
			continue
		}
		dir := filepath.Join(x.scratch, t.id)
		if err := x.fs.MakeDir(dir, 0o700); err != nil {
			return err
		}
		seen, err := t.try(x.fs, dir)
		if err != nil {
			y.Problem(t.id, "locks do not exclude on this file system: keep them on another, in Redis or in etcd", "%v", err)
			continue
		}
		y.OK(t.id, "%s", seen)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var clock statedir.Clock
	judgeTimes(&clock, x.mount)
	d := statedir.New(x.fs, &clock, "", filepath.Join(x.scratch, "try"))
	x.examineTimes(y, d)
	x.examineClock(y, d)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	x.examineDelegations(y)
	return x.examineRequests(ctx, y)
}

// Scratch implements backend.Examiner.
func (x *examiner) Scratch(context.Context) (backend.Backend, func(context.Context) error, error) {
	if !x.usable {
		return nil, nil, nil
	}
	// The root is opened as users do, for the checks, and locks are taken below it.
	b, err := openOn(x.fs, x.dir, &x.opts)
	if err != nil {
		return nil, nil, err
	}
	if err := b.Close(); err != nil {
		return nil, nil, err
	}
	if err := x.makeScratch(); err != nil {
		return nil, nil, err
	}
	if b, err = openOn(x.fs, x.scratch, &x.opts); err != nil {
		return nil, nil, errors.Join(err, x.sweep())
	}
	return b, func(context.Context) error { return errors.Join(b.Close(), x.sweep()) }, nil
}

// Close implements backend.Examiner.
func (x *examiner) Close() error { return x.sweep() }
