//go:build linux

package nfslab_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// An administrator on another host moves or removes the directory of a lock that is
// held and wanted. The holder is told at a heartbeat or at its release; who waits goes
// on with the new directory. How soon a host can see it is for its attribute cache
// to say (acdirmax), so these hosts have short ones, or those in HASP_NFS_MOUNT.
func TestTheDirectoryIsTakenAway(t *testing.T) {
	l := lab(t)
	mount := filepath.Join(l.Bin(), "../again")
	options := "acregmin=1,acregmax=2,acdirmin=1,acdirmax=2"
	if o, ok := os.LookupEnv("HASP_NFS_MOUNT"); ok {
		options = o
	}
	for _, h := range l.Clients[:2] {
		shell(t, h, "mkdir -p "+mount)
		if err := h.MountAgain(patience(t), mount, options); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = h.Run(context.Background(), "umount", "-l", mount) })
	}
	w := witness(t, l)
	// All at the same time: they mostly wait.
	t.Run("all", func(t *testing.T) {
		for _, does := range []string{"mv", "rm"} {
			for _, told := range []struct{ at, ttl string }{{"heartbeat", "6s"}, {"release", "300s"}} {
				t.Run(does+"-command-"+told.at, func(t *testing.T) {
					t.Parallel()
					underCommands(t, l, mount, does, told.ttl)
				})
				t.Run(does+"-locker-"+told.at, func(t *testing.T) {
					t.Parallel()
					underLockers(t, l, w, mount, does, told.ttl)
				})
			}
		}
	})
}

// takeAway does it, on a host with a mount of its own, and makes the directory again if
// it is to be.
func takeAway(t *testing.T, l *nfslab.Lab, does, name string, again bool) {
	t.Helper()
	d := filepath.Join(l.Mount(), name)
	line := "mv " + d + " " + d + ".away"
	if does == "rm" {
		// Under another name, so that nothing new is removed with it. Who has it open can
		// still put something in.
		line += " && until rm -rf " + d + ".away; do sleep 0.1; done"
	}
	if again {
		line += " && mkdir " + d
	}
	shell(t, l.Clients[2], line)
}

// makeFolder makes what is taken away.
func makeFolder(t *testing.T, l *nfslab.Lab) (name string) {
	t.Helper()
	name = strings.ReplaceAll(t.Name(), "/", "-")
	shell(t, l.Clients[2], "mkdir -p "+filepath.Join(l.Mount(), name))
	return name
}

// underCommands does it under hasp run, on a lock named by its path, which makes
// missing directories itself.
func underCommands(t *testing.T, l *nfslab.Lab, mount, does, ttl string) {
	name := makeFolder(t, l)
	path := filepath.Join(mount, name, "lock")
	// The command lasts long enough for a heartbeat, and for caches.
	holder := start(t, l.Clients[0], l.Bin()+"/hasp", "run", "-o", "json", "--timeout", ttl, path, "--", "sh", "-c", "echo inside; exec sleep 8")
	holder.says(t, "inside", time.Minute)
	waiter := start(t, l.Clients[1], l.Bin()+"/hasp", "run", "--timeout", ttl, "--retry-interval", "500ms", "--max-wait", "60s", path, "--", "echo", "inside")
	waiter.says(t, "waiting for", time.Minute)
	takeAway(t, l, does, name, false)
	begin := time.Now()
	code := holder.status(t, time.Minute)
	t.Logf("the holder ended %v later with status %d: %s", time.Since(begin).Round(10*time.Millisecond), code, lastLine(holder.out.String()))
	if code != 76 {
		t.Errorf("the holder ended with status %d, want 76", code)
	}
	code = waiter.status(t, 90*time.Second)
	t.Logf("the waiter ended %v later with status %d", time.Since(begin).Round(10*time.Millisecond), code)
	if code != 0 || !strings.Contains(waiter.out.String(), "inside") {
		t.Errorf("the waiter ended with status %d; it wrote:\n%s", code, waiter.out.String())
	}
}

// underLockers does it to the root of a Locker that is open for long, which has to be there.
func underLockers(t *testing.T, l *nfslab.Lab, w *nfslab.Witness, mount, does, ttl string) {
	name := makeFolder(t, l)
	worker := func(h *nfslab.Host, who string, args ...string) *running {
		return start(t, h, append([]string{l.Bin() + "/worker", "-url", store(filepath.Join(mount, name)), "-key", "lock", "-witness", w.Addr(), "-name", name + "/" + who, "-ttl", ttl, "-retry", "500ms"}, args...)...)
	}
	// Two rounds: it can go on, too.
	holder := worker(l.Clients[0], "holder", "-hold", "8s", "-rounds", "2")
	holder.says(t, "in ", time.Minute)
	waiter := worker(l.Clients[1], "waiter", "-rounds", "1")
	if _, ok := w.Await("lock", time.Minute, func(e nfslab.Event) bool { return e.Kind == nfslab.Wants && e.Worker == name+"/waiter" }); !ok {
		t.Fatal("the waiter does not begin to wait")
	}
	time.Sleep(time.Second) // it has found out that the lock is held
	takeAway(t, l, does, name, true)
	begin := time.Now()
	holder.says(t, "\nrelease", time.Minute)
	if strings.Contains(holder.out.String(), "\nreleased") {
		t.Errorf("the holder was not told; it says:\n%s", holder.out.String())
	}
	t.Logf("the holder's first round ended %v later; it says:\n%s", time.Since(begin).Round(10*time.Millisecond), holder.out.String())
	if code := waiter.status(t, 90*time.Second); code != 0 || !strings.HasSuffix(waiter.out.String(), "released\n") {
		t.Errorf("the waiter ended with status %d; it says:\n%s", code, waiter.out.String())
	}
	if code := holder.status(t, 90*time.Second); code != 0 || !strings.HasSuffix(holder.out.String(), "released\n") {
		t.Errorf("the holder's second round ended with status %d; it says:\n%s", code, holder.out.String())
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
