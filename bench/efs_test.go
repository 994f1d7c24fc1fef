//go:build unix

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs"
)

// Uncontended acquire and release on a local directory, beside the alternatives:
// flock(2), which vanishes with its process and does not work across NFS clients
// in the way that is asked for here, and the file operations of the lock-file
// protocol, without its sleep of 0.1 to 1 s before each acquire.
func BenchmarkLocalDirectory(b *testing.B) {
	locker := func(b *testing.B, o efs.Options) hasp.Locker {
		be, err := efs.Open(b.TempDir(), &o)
		if err != nil {
			b.Fatal(err)
		}
		l := hasp.New(be, nil)
		b.Cleanup(func() { l.Close() })
		return l
	}
	cpu := func(b *testing.B) {
		start := cpuTime()
		b.Cleanup(func() { b.ReportMetric(float64((cpuTime()-start).Nanoseconds())/float64(b.N), "cpu-ns/op") })
	}
	cycle := func(b *testing.B, l hasp.Locker) {
		ctx := context.Background()
		cpu(b)
		for b.Loop() {
			le, err := l.Acquire(ctx, "lock")
			if err != nil {
				b.Fatal(err)
			}
			if err := le.Release(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("flock", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "lock")
		cpu(b)
		for b.Loop() {
			l := flock.New(path)
			if ok, err := l.TryLock(); !ok || err != nil {
				b.Fatal(ok, err)
			}
			if err := l.Unlock(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hasp without guard", func(b *testing.B) { cycle(b, locker(b, efs.Options{LockFile: efs.NoLockFile})) })
	b.Run("lock-file protocol", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "lock")
		host, _ := os.Hostname()
		cpu(b)
		for b.Loop() {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				b.Fatal(err)
			}
			fmt.Fprintf(f, "%f\n%d\n%s\nLinux\n", float64(time.Now().UnixMicro())/1e6, os.Getpid(), host)
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hasp with guard", func(b *testing.B) { cycle(b, locker(b, efs.Options{})) })
}

// Heartbeats of 10,000 leases in a local directory, one after the other.
func BenchmarkLocalHeartbeats(b *testing.B) {
	const leases = 10000
	be, err := efs.Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer be.Close()
	ctx := context.Background()
	grants := make([]backend.Grant, leases)
	for i := range grants {
		claim := backend.Claim{ID: fmt.Sprintf("claim-%d", i), TTL: time.Hour, Holder: backend.Holder{Owner: "bench", Host: "here", PID: 1}}
		if grants[i], err = be.Acquire(ctx, fmt.Sprintf("d%d/lock", i), claim); err != nil {
			b.Fatal(err)
		}
	}
	start, i := cpuTime(), 0
	for b.Loop() {
		if grants[i], err = be.Renew(ctx, grants[i]); err != nil {
			b.Fatal(err)
		}
		i = (i + 1) % leases
	}
	b.ReportMetric(float64((cpuTime()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
}
