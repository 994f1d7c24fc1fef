//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/guard"
)

func openURL(_ context.Context, u *url.URL) (backend.Backend, error) {
	dir, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	return Open(dir, opts)
}

// parseURL reads a URL without looking at what it names.
func parseURL(u *url.URL) (dir string, opts *Options, err error) {
	q := backend.NewQuery(u)
	opts = &Options{
		LegacyTimeout: q.Duration("legacy_timeout", 0),
		Poll:          q.Duration("poll", 0),
		AnyMount:      q.Bool("anymount", false),
		Create:        q.Bool("create", false),
	}
	kind, mount := q.String("lockfile", ""), q.String("mount", "")
	if err := q.Err(); err != nil {
		return "", nil, err
	}
	if opts.LockFile, err = parseLockFile(kind); err != nil {
		return "", nil, err
	}
	switch mount {
	case "", "any":
	case "required":
		opts.Mounted = true
	default:
		return "", nil, fmt.Errorf("option mount=%q: it is required, or left out", mount)
	}
	if u.Host != "" || u.User != nil || u.Fragment != "" {
		return "", nil, fmt.Errorf("write efs:///dir, with three slashes: there is no host in it")
	}
	dir = u.Path
	if u.Opaque != "" {
		dir = u.Opaque // efs:relative/dir
	}
	return dir, opts, nil
}

// Open opens a directory as the root of a tree of locks: the key a/b is the lock at
// dir/a/b. It has to exist, unless Options.Create is set. It checks that the file system, and the way in which it is mounted,
// can hold the promises.
func Open(dir string, opts *Options) (*Backend, error) {
	return openOn(fsys.OS{}, dir, opts)
}

func openOn(f fsys.FS, dir string, opts *Options) (*Backend, error) {
	b := &Backend{places: map[string]*place{}, fs: f, operatorTTL: operatorTTL}
	b.lru.prev, b.lru.next = &b.lru, &b.lru
	var err error
	if b.opts, err = opts.resolve(); err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, errors.New("the directory's path is empty")
	}
	if b.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if b.opts.Create {
		levels, err := b.makeRoot()
		if err != nil {
			return nil, err
		}
		if levels > 1 {
			b.warn = append(b.warn, fmt.Sprintf("%s did not exist, and was made, %d levels of it: if a file system was to be mounted there, it is not", b.dir, levels))
		}
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	b.unreserve = fsys.Reserve()
	o := guard.Options{Timeout: b.opts.LegacyTimeout, Network: !b.local}
	switch b.opts.LockFile {
	case File:
		b.guard = guard.File{Options: o, UseLink: &b.files}
	case NoLockFile:
		b.guard = guard.None{}
	default:
		b.guard = guard.Directory{Options: o}
	}
	return b, nil
}

// OpenPath opens the directory of the lock at path, which is made if it is missing, and
// returns the key of that lock. It is for those who name a lock by its path.
func OpenPath(path string, opts *Options) (*Backend, string, error) {
	if path == "" {
		return nil, "", fmt.Errorf("%w: the lock's path is empty", backend.ErrInvalidKey)
	}
	if path[len(path)-1] == '/' {
		return nil, "", fmt.Errorf("%w: %q names a directory, and a lock's path is needed", backend.ErrInvalidKey, path)
	}
	dir, key := filepath.Dir(path), filepath.Base(path)
	if _, _, err := splitKey(key); err != nil {
		return nil, "", err
	}
	o := Options{}
	if opts != nil {
		o = *opts
	}
	o.Create = true
	b, err := Open(dir, &o)
	return b, key, err
}

// makeRoot makes the root if it is missing, and returns how many levels that took.
func (b *Backend) makeRoot() (levels int, err error) {
	base := existing(b.dir)
	if base == b.dir {
		return 0, nil
	}
	if b.opts.Mounted {
		if err := checkMounted(base); err != nil {
			return 0, err
		}
	}
	if err := b.notInGuard(base, false); err != nil {
		return 0, err
	}
	if i, err := b.fs.Stat(base+"/.", false); err == nil && b.dev != 0 && i.ID.Dev != b.dev {
		return 0, backend.Unavailable(fmt.Errorf("%s is gone, and with it the file system that it was on", b.dir))
	}
	for dir := b.dir; dir != base; dir = filepath.Dir(dir) {
		levels++
	}
	if err := os.MkdirAll(b.dir, 0o777); err != nil {
		return 0, fmt.Errorf("make the lock's directory: %w", err)
	}
	return levels, nil
}

// existing is the part of dir that is there.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
