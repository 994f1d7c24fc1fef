//go:build linux

package efs

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// mounted makes a file system in an image and mounts it, for as long as the test runs. It
// takes root, and what makes and mounts it; otherwise the test is skipped.
func mounted(t *testing.T, mib int, mkfs []string, mount ...string) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	for _, c := range [][]string{{"losetup"}, {"umount"}, mkfs, mount} {
		if _, err := exec.LookPath(c[0]); err != nil {
			t.Skipf("%s is not installed", c[0])
		}
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(mib)<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", image).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %s", out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d: %s", out)
		}
	})
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], dev)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %s", mkfs[0], out)
	}
	dir = t.TempDir()
	if out, err := exec.Command(mount[0], append(mount[1:], dev, dir)...).CombinedOutput(); err != nil {
		t.Skipf("it cannot be mounted here: %s", out)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	var out []byte
	var err error
	// who looked at it a moment ago may not have closed it
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if out, err = exec.Command("umount", dir).CombinedOutput(); err == nil {
			return
		}
	}
	t.Errorf("umount: %s", out)
	_ = exec.Command("umount", "-l", dir).Run()
}

// contend has clients take the lock and lose it, each without letting go, and reports two that
// may believe in it at once: a holder may for its TTL less the engine's margin, from before its
// last sign of life on. Each attempt of the last client is by one who has seen nothing before.
func contend(t *testing.T, open func(client int) (*Backend, error), ttl, until time.Duration) {
	t.Helper()
	type belief struct {
		from, to time.Time
		who      string
	}
	var mu sync.Mutex
	var beliefs []belief
	var wg sync.WaitGroup
	end := time.Now().Add(until)
	for i := range 3 {
		b, err := open(i)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer func() { b.Close() }()
			for n := 0; time.Now().Before(end); n++ {
				begin := time.Now()
				who := fmt.Sprintf("c%d-%d", i, n)
				g, err := b.Acquire(ctxBG, "lock", testClaim(who, ttl))
				var held *backend.HeldError
				if errors.As(err, &held) {
					time.Sleep(10 * time.Millisecond)
					if i == 2 {
						b.Close()
						if b, err = open(i); err != nil {
							t.Error(err)
							return
						}
					}
					continue
				}
				if err != nil && !errors.Is(err, backend.ErrUnavailable) {
					t.Errorf("acquire: %v", err)
					return
				}
				if err != nil {
					continue
				}
				from := time.Now()
				// It is renewed as often as client and number say, and then dies.
				for k := 0; k < (i+n)%3; k++ {
					time.Sleep(time.Until(begin.Add(ttl * 2 / 3)))
					at := time.Now()
					if g, err = b.Renew(ctxBG, g); err != nil {
						break // this process stood still
					}
					begin = at
				}
				mu.Lock()
				beliefs = append(beliefs, belief{from, begin.Add(ttl * 9 / 10), who})
				mu.Unlock()
				time.Sleep(time.Until(begin.Add(ttl)))
			}
		})
	}
	wg.Wait()
	slices.SortFunc(beliefs, func(a, b belief) int { return a.from.Compare(b.from) })
	for i := 1; i < len(beliefs); i++ {
		if a, b := beliefs[i-1], beliefs[i]; b.from.Before(a.to) {
			t.Errorf("%s has the lock %v before %s has lost it", b.who, a.to.Sub(b.from), a.who)
		}
	}
	t.Logf("taken over %d times", len(beliefs)-1)
	if len(beliefs) < 2 {
		t.Error("nobody took over")
	}
}

func at(dir string, opts *Options) func(int) (*Backend, error) {
	return func(int) (*Backend, error) { return Open(dir, opts) }
}

// With times in whole seconds a TTL of two of them is enough, and less is refused.
func TestTimesInSeconds(t *testing.T) {
	t.Parallel()
	dir := mounted(t, 16, []string{"mkfs.ext4", "-q", "-I", "128"}, "mount")
	b, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err = b.Acquire(ctxBG, "short", testClaim("a", 1900*time.Millisecond)); !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), "in steps of 1s, and it takes two of them, 2s") {
		t.Errorf("a TTL of 1.9 s gave %v", err)
	}
	contend(t, at(dir, nil), 2*time.Second, 20*time.Second)
}

// FAT has times of 2 s, and no modes.
func TestTimesInTwoSeconds(t *testing.T) {
	t.Parallel()
	dir := mounted(t, 16, []string{"mkfs.vfat"}, "mount", "-t", "vfat")
	b, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err = b.Acquire(ctxBG, "short", testClaim("a", 3900*time.Millisecond)); !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), "in steps of 2s, and it takes two of them, 4s") {
		t.Errorf("a TTL of 3.9 s gave %v", err)
	}
	contend(t, at(dir, nil), 4*time.Second, 24*time.Second)
}

// On exFAT through FUSE a rename does not move the directory's time.
func TestTimesThatNoRenameMoves(t *testing.T) {
	t.Parallel()
	dir := mounted(t, 16, []string{"mkfs.exfat"}, "mount.exfat-fuse")
	if m, known := fsys.MountOf(dir); !known || m.Type != "fuseblk" {
		t.Skipf("it is mounted as %+v", m)
	}
	if b, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "time does not move") || !strings.Contains(err.Error(), dir) {
		t.Fatalf("open gave %v, %v", b, err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) > 0 {
		t.Errorf("the refusal left %v, %v", names, err)
	}
	contend(t, at(dir, &Options{AnyMount: true}), 4*time.Second, 20*time.Second)
}

// A file system that does not change modes can hold locks.
func TestNoModes(t *testing.T) {
	t.Parallel()
	below := t.TempDir()
	if err := os.Chmod(below, 0o777); err != nil {
		t.Fatal(err)
	}
	dir := relayed(t, "bindfs", "--chmod-deny", below)
	for _, kind := range []LockFile{Directory, File, NoLockFile} {
		b, err := Open(dir, &Options{LockFile: kind})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		g, err := b.Acquire(ctxBG, fmt.Sprintf("lock%d", kind), testClaim("a", time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Release(ctxBG, g); err != nil {
			t.Error(err)
		}
	}
}

// relayed mounts what a program shows, which goes on in the background until the test ends.
func relayed(t *testing.T, program ...string) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	if _, err := exec.LookPath(program[0]); err != nil {
		t.Skipf("%s is not installed", program[0])
	}
	dir = t.TempDir()
	if out, err := exec.Command(program[0], append(program[1:], dir)...).CombinedOutput(); err != nil {
		t.Skipf("it cannot be mounted here: %s", out)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// sshd starts a server for this test alone, and returns the options with which sshfs gets in.
func sshd(t *testing.T) (options string) {
	t.Helper()
	for _, c := range []string{"sshfs", "ssh-keygen", "/usr/sbin/sshd"} {
		if _, err := exec.LookPath(c); err != nil {
			t.Skipf("%s is not installed", c)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can run a server for it")
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/"+key).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %s", out)
		}
	}
	for range 10 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().(*net.TCPAddr)
		l.Close()
		var out bytes.Buffer
		cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", fmt.Sprint(addr.Port), "-h", dir+"/host",
			"-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-o", "UsePAM=no", "-o", "StrictModes=no", "-o", "PasswordAuthentication=no",
			"-o", "PermitRootLogin=prohibit-password", "-o", "AuthorizedKeysFile="+dir+"/user.pub", "-o", "Subsystem=sftp internal-sftp")
		cmd.Stderr = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		for up := false; ; time.Sleep(10 * time.Millisecond) {
			if c, err := net.Dial("tcp", addr.String()); err == nil {
				c.Close()
				up = true
			}
			select {
			case <-ended: // another had taken the port
				t.Logf("sshd: %s", out.String())
			default:
				if !up {
					continue
				}
				t.Cleanup(func() {
					_ = cmd.Process.Kill()
					<-ended
				})
				return fmt.Sprintf("IdentityFile=%s/user,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR,port=%d", dir, addr.Port)
			}
			break
		}
	}
	t.Skip("no sshd can be started here")
	return ""
}

// Two hosts have mounted one directory with sshfs, which remembers attributes, also when it is
// asked anew, and listings. One that looks for the first time does not rob a live holder, and
// nobody else does.
func TestTwoMountsOfSSHFS(t *testing.T) {
	t.Parallel()
	options, below := sshd(t), t.TempDir()
	a, b := relayed(t, "sshfs", "-o", options, "root@127.0.0.1:"+below), relayed(t, "sshfs", "-o", options, "root@127.0.0.1:"+below)
	const ttl = 3 * time.Second
	holder, err := Open(a, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	g, err := holder.Acquire(ctxBG, "lock", testClaim("a", ttl))
	if err != nil {
		t.Fatal(err)
	}
	// The other host has looked at the directory, and not at what is in it.
	if _, err := os.Stat(b + "/.lock.hasp"); err != nil {
		t.Fatal(err)
	}
	beat := time.Now()
	for start := beat; time.Since(start) < 3*ttl; time.Sleep(ttl / 3) {
		beat = time.Now()
		if g, err = holder.Renew(ctxBG, g); err != nil {
			t.Fatal(err)
		}
	}
	other, err := Open(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = other.Acquire(ctxBG, "lock", testClaim("b", ttl))
	if late := time.Since(beat) > ttl; err == nil && !late {
		t.Errorf("the holder's lock was taken %v after a sign of life, with a TTL of %v", time.Since(beat), ttl)
	}
	if _, err := holder.Renew(ctxBG, g); err != nil {
		t.Errorf("the holder's heartbeat: %v", err)
	}
	contend(t, func(i int) (*Backend, error) { return Open([]string{a, b, b}[i], nil) }, ttl, 20*time.Second)
}
