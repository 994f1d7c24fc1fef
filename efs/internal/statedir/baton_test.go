//go:build unix

package statedir

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hasplock/hasp/backend"
)

func TestBatonNames(t *testing.T) {
	for _, c := range []struct {
		b    Baton
		name string
	}{
		{Baton{Gen: 42, State: Free, Epoch: 7}, "00000000000000000042.free.e7"},
		{Baton{Gen: math.MaxUint64, State: Dirty}, "18446744073709551615.dirty.e0"},
		{Baton{Gen: 42, State: Free, Epoch: 7, Waiters: []Waiter{{Since: 36, ID: "abc"}}}, "00000000000000000042.free.e7.w10-abc"},
		{Baton{Gen: 42, State: Free, Epoch: 7, Waiters: []Waiter{{Since: 36, ID: "abc"}, {Since: 37, ID: "d"}}}, "00000000000000000042.free.e7.w10-abc.w11-d"},
		{Baton{Gen: 42, State: Dirty, Epoch: 7, Value: "ABCDEFGHIJK234", Waiters: []Waiter{{Since: 36, ID: "abc"}}}, "00000000000000000042.dirty.e7.vABCDEFGHIJK234.w10-abc"},
		{Baton{Gen: 42, State: Held, Epoch: 7, Unsettled: true, Value: "ABCDEFGHIJK234", TTL: time.Second, Claim: "c", Nonce: "n"}, "00000000000000000042.held.e7!.vABCDEFGHIJK234.t1000.s0.cc.nn.p0.h.o"},
		{Baton{Gen: 42, State: Sealed, Epoch: 7, Value: "ABCDEFGHIJK234", Seq: 36, Moved: "redis://h:1/0"}, "00000000000000000042.sealed.e7.vABCDEFGHIJK234.s10.mredis%3A%2F%2Fh%3A1%2F0"},
		{Baton{Gen: 42, State: Sealed, Epoch: 7}, "00000000000000000042.sealed.e7.s0.m"},
		{Baton{Gen: 1763862345123456, State: Held, Epoch: 5, Unsettled: true, TTL: 300 * time.Second, Seq: 37, Floor: 9, Claim: "C-1_x", Nonce: "N2",
			HeldFor: 36 * time.Millisecond, Spent: 72 * time.Millisecond,
			Holder: backend.Holder{Owner: "trainer 7", Host: "ip-10-0-3-4.ec2", PID: 4123}},
			"00001763862345123456.held.e5!.t300000.s11.b10.x20.f9.cC-1_x.nN2.p4123.hip-10-0-3-4%2Eec2.otrainer%207"},
	} {
		if got := c.b.Name(); got != c.name {
			t.Errorf("name is %q, want %q", got, c.name)
		}
		got, ok := Parse(c.name)
		got.name = ""
		if !ok || !reflect.DeepEqual(got, c.b) {
			t.Errorf("parse of %q: %+v, %v", c.name, got, ok)
		}
	}
	if b := (Baton{Gen: 1, State: Held, TTL: time.Millisecond + 1, Claim: "c", Nonce: "n"}); !strings.Contains(b.Name(), ".t2.") {
		t.Errorf("a TTL was rounded down: %s", b.Name())
	}
}

// Where a lock has moved is cut if it is too long, and that shows.
func TestLongMoved(t *testing.T) {
	for _, moved := range []string{strings.Repeat("é", 200), "redis://" + strings.Repeat("host-1,", 60) + "/0"} {
		name := Baton{Gen: 42, State: Sealed, Moved: moved}.Name()
		b, ok := Parse(name)
		cut, dots := strings.CutSuffix(b.Moved, "…")
		if !ok || len(name) > maxName || !dots || !strings.HasPrefix(moved, cut) || len(cut) < 40 {
			t.Errorf("%d bytes: %q", len(name), b.Moved)
		}
	}
}

// State directories of the first format are taken over.
func TestFirstFormat(t *testing.T) {
	b, ok := Parse("00000000000000000042.free")
	if !ok || b.State != Dirty || b.Epoch != 0 || b.Gen != 42 {
		t.Errorf("free: %+v, %v", b, ok)
	}
	b, ok = Parse("00001763862345123456.held.300000.7.9.C-1_x.N2.4123.ip-10-0-3-4%2Eec2.trainer%207")
	if !ok || b.State != Held || !b.Unsettled || b.TTL != 300*time.Second || b.Floor != 9 || b.Claim != "C-1_x" || b.Holder.Owner != "trainer 7" || b.Holder.PID != 4123 {
		t.Errorf("held: %+v, %v", b, ok)
	}
}

func TestNotBatons(t *testing.T) {
	for _, name := range []string{"", "x", "free", "00000000000000000042", "00000000000000000042.", "42.free",
		"0000000000000000004x.free", "99999999999999999999.free", "00000000000000000042.freed",
		"00000000000000000042.held.1.2.3.c.n.4.h", "00000000000000000042.held.0.2.3.c.n.4.h.o",
		"00000000000000000042.held.-1.2.3.c.n.4.h.o", "00000000000000000042.held.1.?.3.c.n.4.h.o",
		"00000000000000000042.held.1.2.3..n.4.h.o", "00000000000000000042.gone.1.2.3.c.n.4.h.o",
		"00000000000000000042.held.1.2.3.c.n.4.h.o.more",
		"00000000000000000042.free.e", "00000000000000000042.free.e1.", "00000000000000000042.free.e1.z9",
		"00000000000000000042.free.e1.w5", "00000000000000000042.held.e1", "00000000000000000042.held.e1.t0.cc.nn",
		"00000000000000000042.free.e1.v", "00000000000000000042.free.e1.vABC", "00000000000000000042.free.e1.vabcdefghijk234",
		"00000000000000000042.free.e1.vABCDEFGHIJK2345", "00000000000000000042.held.e1.t5.nn", "00000000000000000042.held.e1.t5.cc", "00000000000000000042.gone.e1"} {
		if b, ok := Parse(name); ok {
			t.Errorf("%q was taken for a baton: %+v", name, b)
		}
	}
}

// Whatever a holder is called, the name fits and says the same to those who read it.
func FuzzBatonName(f *testing.F) {
	f.Add("trainer-7", "ip-10-0-3-4", 1, uint64(1), uint64(0))
	f.Add("", "", 0, uint64(math.MaxUint64), uint64(math.MaxUint64))
	f.Add(strings.Repeat("ä", 300), strings.Repeat(".", 300), math.MaxInt32, uint64(5), uint64(6))
	f.Add("a/b\x00c%2F", "%", -1, uint64(5), uint64(6))
	f.Fuzz(func(t *testing.T, owner, host string, pid int, gen, seq uint64) {
		pid &= math.MaxInt32
		b := Baton{Gen: gen, State: Held, Epoch: gen, Unsettled: seq%2 == 0, Value: "ABCDEFGHIJK234", TTL: math.MaxInt64, Seq: seq, Floor: gen,
			HeldFor: math.MaxInt64, Spent: 1 << 43 * time.Millisecond, Waiters: []Waiter{{Since: 1 << 45, ID: waiterID(owner)}, {Since: 1<<45 + 1, ID: waiterID(host)}},
			Claim: strings.Repeat("c", backend.MaxIDLen), Nonce: strings.Repeat("n", 23), Holder: backend.Holder{Owner: owner, Host: host, PID: pid}}
		name := b.Name()
		if len(name) > maxName || strings.ContainsAny(name, "/\x00") {
			t.Fatalf("not a file name (%d bytes): %q", len(name), name)
		}
		got, ok := Parse(name)
		if !ok {
			t.Fatalf("%q does not parse", name)
		}
		if utf8.ValidString(owner) && !strings.HasPrefix(owner, got.Holder.Owner) || utf8.ValidString(host) && !strings.HasPrefix(host, got.Holder.Host) {
			t.Errorf("owner %q, host %q became %+v", owner, host, got.Holder)
		}
		got.Holder = b.Holder
		if len(got.Waiters) == 0 || !slices.Equal(got.Waiters, b.Waiters[:len(got.Waiters)]) {
			t.Errorf("waiters %v, want %v, or the first of them", got.Waiters, b.Waiters)
		}
		got.name, got.Waiters, b.Waiters = "", nil, nil
		if !reflect.DeepEqual(got, b) {
			t.Errorf("got %+v, want %+v", got, b)
		}
	})
}
