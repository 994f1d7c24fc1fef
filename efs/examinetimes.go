//go:build unix

package efs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// coarseTimes is from what step on times are told to be coarse.
const coarseTimes = 100 * time.Millisecond

func (x *examiner) examineTimes(y backend.Finder, d *statedir.Dir) {
	files, dirs, err := d.Steps()
	step := max(files, dirs)
	switch {
	case errors.Is(err, statedir.ErrTimesStand), errors.Is(err, statedir.ErrClockStands):
		y.Problem("times", "keep locks elsewhere; with anymount=true a dead holder's lock is taken over by one who has seen it stand still for its TTL", "%v", err)
	case err != nil:
		y.Problem("times", "see whether this user may make files and directories there", "file times cannot be tried: %v", err)
	case step >= coarseTimes:
		y.Warn("times", fmt.Sprintf("use a --timeout of %v at least, or a file system with finer times (ext4: inodes of 256 bytes)", 2*step),
			"file times advance in steps of %v: shorter TTLs than %v are refused, and a dead holder's lock is free up to %v later", step, 2*step, step)
	default:
		y.OK("times", "a rename moves a directory's time; steps of %v for files and %v for directories at most", files, dirs)
	}
}

func (x *examiner) examineClock(y backend.Finder, d *statedir.Dir) {
	off, err := d.Offset()
	const advice = "let both hosts' clocks be set by NTP"
	switch {
	case err != nil:
		y.Problem("clock", "see whether this user may make files there", "the file server's clock cannot be read: %v", err)
	case x.mount.Relayed():
		y.OK("clock", "times here may be this host's own, so they are not gone by")
	case max(off, -off) > statedir.MaxTolerance:
		y.Warn("clock", advice, "the file server's clock is %v: hasp goes by neither then, so a dead holder's lock is taken over only by one who has waited for its TTL", aheadBy(off))
	case off != 0:
		y.OK("clock", "the file server's clock is %v: that matters with TTLs below %v, where a dead holder's lock is taken over only by one who has waited for it", aheadBy(off), backend.Round(20*max(off, -off)))
	default:
		y.OK("clock", "the file server's clock and this host's agree, as closely as file times show")
	}
}

func aheadBy(off time.Duration) string {
	if off < 0 {
		return backend.Round(-off).String() + " behind this host's"
	}
	return backend.Round(off).String() + " ahead of this host's"
}

// examineDelegations finds out whether the server promises a host that has read a file to ask
// it before others change the file.
func (x *examiner) examineDelegations(y backend.Finder) {
	before := fsys.Requests(x.mount.Point)
	if !strings.HasPrefix(x.mount.Type, "nfs4") || before == nil {
		return
	}
	path := filepath.Join(x.scratch, "read")
	// A server that keeps files open for a while gives none for one that was just written.
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = f.Close()
	}
	for range 3 {
		if err == nil {
			_, _, err = x.fs.Read(path, 16)
		}
	}
	if err == nil {
		err = x.fs.Remove(path) // which returns a delegation first
	}
	if err != nil {
		y.Warn("delegations", "see whether this user may make, read and remove files there", "whether the server gives delegations cannot be tried: %v", err)
		return
	}
	const id = "DELEGRETURN"
	switch given := fsys.Requests(x.mount.Point)[id] > before[id]; {
	case !given:
		y.OK("delegations", "the server gave no delegation for a file that was read")
	case x.opts.LockFile == NoLockFile:
		y.OK("delegations", "the server gives read delegations; with lockfile=false no lock is a file that is read")
	case x.opts.LockFile == File:
		y.Warn("delegations", "use lockfile=dir, or switch delegations off on the server (Linux: sysctl fs.leases-enable=0, before nfsd starts)",
			"the server gives read delegations: when a host that has read a lock file dies, its holder's heartbeat hangs for the server's lease time (90 s by default), and the lock may be lost")
	default:
		y.Warn("delegations", "if EfsLock processes still run, switch delegations off on the server (Linux: sysctl fs.leases-enable=0, before nfsd starts); else there is nothing to do",
			"the server gives read delegations: hasp's own locks are no files here, but when a host that has read an EfsLock process's file dies, others wait for the server's lease time (90 s by default) to change it")
	}
}

// requestRounds is over how many acquires and releases requests are counted.
const requestRounds = 20

// examineRequests counts what an acquire and a release ask of the server.
func (x *examiner) examineRequests(ctx context.Context, y backend.Finder) error {
	if !strings.HasPrefix(x.mount.Type, "nfs") {
		return nil
	}
	opts := x.opts
	opts.AnyMount = true
	b, err := openOn(x.fs, x.scratch, &opts)
	if err != nil {
		return nil // the command opens it too, and says why not
	}
	defer b.Close()
	round := func() error {
		g, err := b.Acquire(ctx, "requests", backend.Claim{ID: rand.Text(), Holder: backend.Holder{Owner: "hasp doctor"}, TTL: time.Minute})
		if err != nil {
			return err
		}
		return b.Release(context.WithoutCancel(ctx), g)
	}
	for range 2 { // the first makes what is needed
		if err := round(); err != nil {
			return nil // the same
		}
	}
	before, start := fsys.Requests(x.mount.Point), time.Now()
	for range requestRounds {
		if err := round(); err != nil {
			return ctx.Err()
		}
	}
	took, after := time.Since(start), fsys.Requests(x.mount.Point)
	var counts []string
	for _, kind := range slices.Sorted(maps.Keys(after)) {
		if n := after[kind] - before[kind]; 4*n >= requestRounds {
			counts = append(counts, fmt.Sprintf("%.1f %s", float64(n)/requestRounds, kind))
		}
	}
	if before == nil || len(counts) == 0 {
		counts = []string{"requests are not counted on this system"}
	}
	y.OK("requests", "acquire + release: %s, in %v; others on this host are counted too", strings.Join(counts, ", "), backend.Round(took/requestRounds))
	return nil
}
