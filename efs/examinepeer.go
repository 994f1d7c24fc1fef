//go:build unix

package efs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

const (
	// peerRounds is how often each mount has to see what the other did.
	peerRounds = 20
	// peerPatience is how long a new directory may take to appear in the other.
	peerPatience = 5 * time.Second
	// peerLate is how late it may be in all until no more is tried, and peerNever from when
	// on a rename is said to be seen never. (sshfs remembers for 20 s.)
	peerLate  = 5 * time.Second
	peerNever = 25 * time.Second
)

// ExaminePeer implements backend.PeerExaminer: peer is another mount of the directory.
func (x *examiner) ExaminePeer(ctx context.Context, peer string, found backend.Finder) error {
	y := found.About("peer")
	if strings.Contains(peer, ":") && !strings.HasPrefix(peer, "/") && !strings.HasPrefix(peer, ".") {
		u, err := url.Parse(peer)
		if err == nil && u.Scheme != "efs" {
			err = errors.New("want a directory, or a URL of scheme efs")
		}
		if err == nil {
			peer, _, err = parseURL(u)
		}
		if err != nil {
			y.Problem("peer", "give the path of another mount of the directory", "%s cannot be looked at: %v", backend.Redact(peer), err)
			return nil
		}
	}
	peer, err := filepath.Abs(peer)
	if err != nil || !x.usable {
		return err // Examine has said why
	}
	if err := x.makeScratch(); err != nil {
		return err
	}
	err = x.comparePeer(ctx, peer, y)
	return errors.Join(err, x.sweep())
}

func (x *examiner) comparePeer(ctx context.Context, peer string, y backend.Finder) error {
	m, known := fsys.MountOf(peer)
	if known {
		describeMount(y, m)
	}
	views := [2]view{{x.fs, x.scratch}, {x.fs, filepath.Join(peer, filepath.Base(x.scratch))}}
	if seen, err := appears(ctx, views[1]); err != nil || !seen {
		y.Problem("peer", "give the path at which the same directory is mounted a second time", "%s is not another view of %s: a directory made in one is not in the other after %v", peer, x.dir, peerPatience)
		return err
	}
	if known && m.Point == x.mount.Point {
		y.Warn("peer", "give a second mount (NFS: with the option nosharecache), or look from another host", "%s is on the same mount as %s: what one remembers the other does too, so this shows little", peer, x.dir)
	}
	x.examineSight(ctx, y, views)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for i := range races {
		for id, race := range map[string]func([2]view, int) error{"peer-rename": raceRename, "peer-mkdir": raceMakeDir} {
			if err := race(views, i); err != nil {
				y.Problem(id, "these two mounts do not exclude each other: mount without caches of names, or keep locks elsewhere", "%v", err)
				return nil
			}
		}
	}
	y.OK("peer-rename", "%d times both renamed one file, and made one directory, at once: one of them did", races)
	return x.handOver(ctx, y, views)
}

// appears waits until the directory of v is there.
func appears(ctx context.Context, v view) (bool, error) {
	for start := time.Now(); time.Since(start) < peerPatience; time.Sleep(10 * time.Millisecond) {
		if _, err := v.fs.Stat(v.dir, true); err == nil {
			return true, nil
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return false, nil
}

// examineSight has each mount rename a file in turn, and looks whether the other shows it at
// once: in a listing that is opened for this, which is how the protocol looks.
func (x *examiner) examineSight(ctx context.Context, y backend.Finder, views [2]view) {
	name := "name0"
	if err := views[0].fs.Create(views[0].path(name), nil, 0o600); err != nil {
		y.Problem("peer-sight", "see whether this user may make and read files through both", "%v", err)
		return
	}
	late, longest, sum, rounds := 0, time.Duration(0), time.Duration(0), 0
	for i := 1; i <= peerRounds && sum < peerLate && ctx.Err() == nil; i++ {
		rounds = i
		does, sees := views[i%2], views[1-i%2]
		if _, _, err := sees.fs.List(sees.dir); err != nil { // so that it has something to remember
			y.Problem("peer-sight", "see whether this user may make and read files through both", "%v", err)
			return
		}
		next := fmt.Sprintf("name%d", i)
		if err := does.fs.Rename(does.path(name), does.path(next)); err != nil {
			y.Problem("peer-sight", "look for a cache of names among the mount options", "what one mount has renamed the other cannot rename further: %v", err)
			return
		}
		name = next
		took, err := shows(ctx, sees, name)
		if err != nil {
			y.Problem("peer-sight", "look for a cache of names among the mount options", "%v", err)
			return
		}
		if took > 0 {
			late, longest, sum = late+1, max(longest, took), sum+took
		}
	}
	if late > 0 {
		y.Warn("peer-sight", "look for a cache of names among the mount options (sshfs: dir_cache=no)", "%d of %d renames through one mount were not to be seen through the other at once, but up to %v late: so late are releases noticed", late, rounds, backend.Round(longest))
		return
	}
	y.OK("peer-sight", "%d renames through one mount were each seen at once through the other", peerRounds)
}

// shows returns how late name alone is listed; 0 if the first listing shows it.
func shows(ctx context.Context, v view, name string) (time.Duration, error) {
	start := time.Now()
	for first := true; ; first = false {
		names, _, err := v.fs.List(v.dir)
		if err != nil {
			return 0, err
		}
		switch {
		case slices.Equal(names, []string{name}) && first:
			return 0, nil
		case slices.Equal(names, []string{name}):
			return max(time.Since(start), 1), nil
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case time.Since(start) > peerNever:
			return 0, fmt.Errorf("what was renamed through one mount is not seen through the other after %v: it lists %q", backend.Round(time.Since(start)), names)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// handOver has locks go from one mount to the other.
func (x *examiner) handOver(ctx context.Context, y backend.Finder, views [2]view) error {
	var bs [2]*Backend
	for i, v := range views {
		b, err := openOn(v.fs, v.dir, &x.opts)
		if err != nil {
			y.Problem("peer-locks", "mend what is named there", "%v", err)
			return nil
		}
		defer b.Close()
		bs[i] = b
	}
	var token uint64
	for i := range peerRounds {
		holds, wants := bs[i%2], bs[1-i%2]
		claim := func() backend.Claim {
			return backend.Claim{ID: rand.Text(), Holder: backend.Holder{Owner: "hasp doctor"}, TTL: time.Minute}
		}
		g, err := holds.Acquire(ctx, "peer", claim())
		if err != nil || g.Token <= token {
			y.Problem("peer-locks", "hasp verify tries every rule", "a lock that was released through one mount cannot be taken through the other, or with token %d after %d: %v", g.Token, token, err)
			return nil
		}
		token = g.Token
		o, err := wants.Acquire(ctx, "peer", claim())
		if err == nil {
			_ = wants.Release(ctx, o)
		}
		rerr := holds.Release(context.WithoutCancel(ctx), g)
		if !errors.Is(err, backend.ErrHeld) || rerr != nil {
			y.Problem("peer-locks", "do not use these two mounts together", "while a lock was held through one mount, an acquire through the other gave %s, and the release %s", backend.Text(err), backend.Text(rerr))
			return nil
		}
	}
	y.OK("peer-locks", "%d locks held through one mount were refused through the other, and handed over with rising tokens", peerRounds)
	return nil
}
