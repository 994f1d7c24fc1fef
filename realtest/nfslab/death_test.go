//go:build linux

package nfslab_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// A server gives a client that reads a file a delegation, and does not let others
// write until the client has returned it, or its lease has run out. A client that is
// dead returns nothing. A live holder must not need what a dead host was given.
func TestAHostThatLookedDies(t *testing.T) {
	l := lab(t)
	c := crew{l, witness(t, l), folder(t, l)}
	const ttl = 6 * time.Second
	holder := c.worker(t, l.Clients[0], "holder", "-ttl", ttl.String(), "-rounds", "1", "-hold", "30s")
	if _, ok := c.w.Await(key, time.Minute, c.in("holder")); !ok {
		t.Fatalf("nobody holds:\n%s", holder.out.String())
	}
	lock := filepath.Join(c.dir, key)
	shell(t, l.Clients[1], "cat "+lock+" >/dev/null 2>&1; ls -la "+lock+" "+c.dir+"; stat "+lock+"; cat "+lock+" >/dev/null 2>&1; true")
	l.Clients[1].Crash()
	crashed := c.w.Now()
	e, _ := c.w.Await(key, time.Minute, func(e nfslab.Event) bool { return e.Kind == nfslab.Out || e.Kind == nfslab.Lost })
	code := holder.status(t, time.Minute)
	if e.Kind != nfslab.Out || code != 0 || !strings.HasSuffix(holder.out.String(), "released\n") {
		t.Errorf("the holder ended with %q %v after the other host's death, status %d; it says:\n%s", e.Kind, (e.At - crashed).Round(time.Millisecond), code, holder.out.String())
	}
}

// A waiter has the lock of a host that is dead when its TTL has run out, and does not
// wait for what the server keeps for the dead host.
func TestTheHoldersHostDies(t *testing.T) {
	needsLab(t)
	for _, ttl := range inFull([]time.Duration{3 * time.Second, 5 * time.Second, 8 * time.Second}, []time.Duration{5 * time.Second}) {
		t.Run(ttl.String(), func(t *testing.T) {
			l := lab(t)
			c := crew{l, witness(t, l), folder(t, l)}
			holder := c.worker(t, l.Clients[0], "holder", "-ttl", ttl.String(), "-rounds", "1", "-hold", "1h")
			if _, ok := c.w.Await(key, time.Minute, c.in("holder")); !ok {
				t.Fatalf("nobody holds:\n%s", holder.out.String())
			}
			waiter := c.worker(t, l.Clients[1], "waiter", "-ttl", ttl.String(), "-rounds", "1")
			time.Sleep(ttl) // so that both have gone through heartbeats
			crashed := c.w.Now()
			l.Clients[0].Crash()
			e, ok := c.w.Await(key, 90*time.Second, c.in("waiter"))
			if !ok {
				t.Fatalf("the waiter does not get the lock; it says:\n%s\nits host:\n%s", waiter.out.String(), stuck(t, l.Clients[1]))
			}
			took := e.At - crashed
			t.Logf("the waiter had the lock %v after the holder's host died", took.Round(10*time.Millisecond))
			if took > ttl+2*time.Second {
				t.Errorf("that is more than the TTL and 2 s; it says:\n%s", waiter.out.String())
			}
			if code := waiter.status(t, time.Minute); code != 0 || !strings.HasSuffix(waiter.out.String(), "released\n") {
				t.Errorf("the waiter ended with status %d; it says:\n%s", code, waiter.out.String())
			}
			c.check(t)
		})
	}
}

// stuck shows where in the kernel a host's workers wait, and what the kernel says.
func stuck(t *testing.T, h *nfslab.Host) string {
	t.Helper()
	return shell(t, h, `for p in $(grep -lx worker /proc/[0-9]*/comm); do for k in ${p%/comm}/task/*; do echo "$k $(cat $k/wchan)"; cat $k/stack; done; done; dmesg | tail -5`)
}

// A guard that other hosts have moved meanwhile is found by one that remembers it where it
// was: by a name that nobody uses any more.
func TestGuardMovedByOthers(t *testing.T) {
	l := lab(t)
	c := crew{l, witness(t, l), folder(t, l)}
	const ttl = 4 * time.Second
	round := func(n int, name string, args ...string) {
		t.Helper()
		begun := c.w.Now()
		r := c.worker(t, l.Clients[n], name, append([]string{"-ttl", ttl.String(), "-rounds", "1"}, args...)...)
		e, ok := c.w.Await(key, 30*time.Second, c.in(name))
		if !ok {
			t.Fatalf("%s does not get the lock; it says:\n%s", name, r.out.String())
		}
		r.status(t, time.Minute)
		t.Logf("%s had the lock after %v", name, (e.At - begun).Round(time.Millisecond))
	}
	round(0, "first")
	round(1, "dies", "-abandon", "1")
	round(2, "taker")
	// One attempt: a second one looks around, and Linux learns from that where the guard is.
	r := start(t, l.Clients[0], l.Bin()+"/hasp", "run", "--try", "--timeout", ttl.String(), "--on", store(c.dir), key, "--", "true")
	if code := r.status(t, time.Minute); code != 0 {
		t.Errorf("a host that remembers the guard elsewhere has status %d; it wrote:\n%s", code, r.out.String())
	}
	c.check(t)
}
