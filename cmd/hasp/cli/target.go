package cli

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// target is a key and the store that it is in.
type target struct {
	url  string
	key  string
	name string // as the user gave it
	dir  string // where the lock file is, if the key was given as a path
}

// store returns the URL that --on or HASP_URL gives, or "".
func (a *app) store() string {
	if a.on != "" {
		return a.on
	}
	return a.getenv("HASP_URL")
}

// target finds out what KEY means.
func (a *app) target(key string) (target, error) {
	if store := a.store(); store != "" {
		u, err := a.withOptions(store)
		return target{url: u, key: key, name: key}, err
	}
	if key == "" {
		return target{}, usagef("KEY is empty: want the path of a lock file, or --on URL and a key")
	}
	if hasURL(key) && !strings.HasPrefix(key, "://") {
		return target{}, usagef("KEY %q is a URL: want --on URL and a key, or the path of a lock file", backend.RedactURL(key))
	}
	// Split by hand, and links resolved before anyone else sees it: filepath.Clean
	// makes b of a/../b, which is another file than open(2)'s if a is a link.
	i := strings.LastIndexByte(filepath.ToSlash(key), '/')
	dir, base := key[:i+1], key[i+1:]
	if base == "" || base == "." || base == ".." {
		return target{}, usagef("KEY %q is a directory: want the path of a lock file in it", key)
	}
	t := target{key: base, name: key}
	var err error
	if len(dir) > 1 {
		dir = dir[:len(dir)-1] // mkdir says other things of a path with a slash at its end
	}
	if t.dir, err = absolute(dir); err != nil {
		return t, fail(err)
	}
	if real, err := filepath.EvalSymlinks(t.dir); err == nil {
		t.dir = real
	}
	t.url, err = a.withOptions((&url.URL{Scheme: "efs", Path: filepath.ToSlash(t.dir), RawQuery: "create=true"}).String())
	return t, err
}

func absolute(dir string) (string, error) {
	if filepath.IsAbs(dir) {
		return dir, nil
	}
	wd, err := os.Getwd()
	if err != nil || dir == "" {
		return wd, err
	}
	return wd + string(filepath.Separator) + dir, nil
}

// withOptions adds what flags say to the URL.
func (a *app) withOptions(store string) (string, error) {
	options := map[string]string{}
	flags := ""
	set := func(on bool, flag, option, value string) {
		if on {
			options[option] = value
			flags += " " + flag
		}
	}
	set(a.noLockfile, "--no-lockfile", "lockfile", "false")
	set(a.mounted, "--mounted", "mount", "required")
	set(a.legacyTimeout > 0, "--legacy-timeout", "legacy_timeout", a.legacyTimeout.String())
	if len(options) == 0 {
		return store, nil
	}
	u, err := url.Parse(store)
	if scheme := schemeOf(store); scheme == "" {
		err = nil
		u = &url.URL{Scheme: "efs", Path: store} // a bare path, as backend.Open takes it
		if !filepath.IsAbs(store) {
			if u.Path, err = absolute(store); err != nil {
				return "", fail(err)
			}
		}
	}
	if err != nil || schemeOf(u.Scheme+":") != "efs" {
		return "", usagef("%s: for stores on a file system, and --on says otherwise", strings.TrimSpace(flags))
	}
	q := u.Query()
	for option, value := range options {
		q.Set(option, value) // what was asked for here, whatever the URL says
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// schemeOf returns the scheme of a store's URL, in lower case as it is known to
// backends, or "" for a bare path.
func schemeOf(store string) string {
	scheme, _, ok := strings.Cut(store, ":")
	if !ok || strings.ContainsAny(scheme, `/\.`) {
		return ""
	}
	return strings.ToLower(scheme)
}

// exists tells whether the lock can have been taken at all: looking at a lock
// file in a directory that is missing must not make the directory.
func (t target) exists() (bool, error) {
	if t.dir == "" {
		return true, nil
	}
	_, err := os.Stat(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// check refuses what is no key, before a directory is made for it.
func (t target) check() error {
	if t.dir == "" {
		return nil
	}
	if err := backend.ValidateKey(t.key); err != nil {
		return fail(&hasp.Error{Op: "acquire", Key: t.name, Err: err})
	}
	return nil
}

// open opens the target's store, or hands over to the program that can. Who catches
// signals has to hand over before that; see handOver.
func (a *app) open(ctx context.Context, url string) (backend.Backend, error) {
	if err := handOver(url); err != nil {
		return nil, err
	}
	b, err := opening(ctx, url, backend.Open)
	if err != nil {
		return nil, failOpen(err)
	}
	return b, nil
}

// named replaces the key in a locker's error by what the user calls it.
func (t target) named(err error) error {
	if e, ok := err.(*hasp.Error); ok {
		return &hasp.Error{Op: e.Op, Key: t.name, Err: e.Err}
	}
	return err
}
