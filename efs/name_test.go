//go:build unix

package efs

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hasplock/hasp/backend"
)

func TestBatonNames(t *testing.T) {
	for _, c := range []struct {
		b    baton
		name string
	}{
		{baton{gen: 42}, "00000000000000000042.free"},
		{baton{gen: math.MaxUint64}, "18446744073709551615.free"},
		{baton{gen: 1763862345123456, held: true, ttl: 300 * time.Second, seq: 7, floor: 9, claim: "C-1_x", nonce: "N2",
			holder: backend.Holder{Owner: "trainer 7", Host: "ip-10-0-3-4.ec2", PID: 4123}},
			"00001763862345123456.held.300000.7.9.C-1_x.N2.4123.ip-10-0-3-4%2Eec2.trainer%207"},
	} {
		if got := c.b.name(); got != c.name {
			t.Errorf("name is %q, want %q", got, c.name)
		}
		if got, ok := parseBaton(c.name); !ok || got != c.b {
			t.Errorf("parse of %q: %+v, %v", c.name, got, ok)
		}
	}
	if b := (baton{gen: 1, held: true, ttl: time.Millisecond + 1, claim: "c", nonce: "n"}); !strings.Contains(b.name(), ".held.2.") {
		t.Errorf("a TTL was rounded down: %s", b.name())
	}
}

func TestNotBatons(t *testing.T) {
	for _, name := range []string{"", "x", "free", "00000000000000000042", "00000000000000000042.", "42.free",
		"0000000000000000004x.free", "99999999999999999999.free", "00000000000000000042.freed",
		"00000000000000000042.held.1.2.3.c.n.4.h", "00000000000000000042.held.0.2.3.c.n.4.h.o",
		"00000000000000000042.held.-1.2.3.c.n.4.h.o", "00000000000000000042.held.1.x.3.c.n.4.h.o",
		"00000000000000000042.held.1.2.3..n.4.h.o", "00000000000000000042.held.9223372036855.2.3.c.n.4.h.o",
		"00000000000000000042.gone.1.2.3.c.n.4.h.o", "00000000000000000042.held.1.2.3.c.n.4.h.o.more"} {
		if b, ok := parseBaton(name); ok {
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
		b := baton{gen: gen, held: true, ttl: math.MaxInt64 / 1000 / 1000 * 1000 * 1000, seq: seq, floor: gen,
			claim: strings.Repeat("c", backend.MaxIDLen), nonce: strings.Repeat("n", 23), holder: backend.Holder{Owner: owner, Host: host, PID: pid}}
		name := b.name()
		if len(name) > maxName || strings.ContainsAny(name, "/\x00") {
			t.Fatalf("not a file name (%d bytes): %q", len(name), name)
		}
		got, ok := parseBaton(name)
		if !ok {
			t.Fatalf("%q does not parse", name)
		}
		if utf8.ValidString(owner) && !strings.HasPrefix(owner, got.holder.Owner) || utf8.ValidString(host) && !strings.HasPrefix(host, got.holder.Host) {
			t.Errorf("owner %q, host %q became %+v", owner, host, got.holder)
		}
		got.holder = b.holder
		if got != b {
			t.Errorf("got %+v, want %+v", got, b)
		}
	})
}

func TestLockFiles(t *testing.T) {
	at := time.UnixMicro(1763862345123456)
	b := baton{gen: 99, held: true, ttl: time.Minute, claim: "C", holder: backend.Holder{Owner: "a\nb", Host: "h", PID: 12}}
	got := string(formatLockFile(b, at))
	lines := strings.Split(got, "\n")
	if len(lines) != 7 || lines[0] != "1763862345.123456" || lines[1] != "12" || lines[2] != "h" || lines[3] != system() || lines[5] != "owner=a b" {
		t.Errorf("lock file is %q", got)
	}
	f := parseLockFile([]byte(got))
	if !f.ok || !f.hasp || f.gen != 99 || f.claim != "C" || f.ttl != time.Minute || f.holder.PID != 12 || f.holder.Host != "h" {
		t.Errorf("parsed: %+v", f)
	}
	for _, s := range []time.Time{{}, time.Unix(0, 0), time.Unix(9999999999, 999999000)} {
		if got := formatStamp(s); len(got) != 17 {
			t.Errorf("stamp %q has %d characters: it is refreshed in place", got, len(got))
		}
	}
	legacy := parseLockFile([]byte("1763862345.98\n4123\nip-10-0-3-4\nLinux\nsomething else\n"))
	if !legacy.ok || legacy.hasp || legacy.holder.PID != 4123 || legacy.holder.Host != "ip-10-0-3-4" {
		t.Errorf("parsed: %+v", legacy)
	}
	for _, s := range []string{"", "\n", "x", "nan\n1\nh\nLinux", "inf", "\x00\x00", "12.3.4"} {
		if f := parseLockFile([]byte(s)); f.ok {
			t.Errorf("%q parses: %+v", s, f)
		}
	}
	for _, s := range []string{"1", "1.5", " 1.5 \n", "1e9\n"} {
		if f := parseLockFile([]byte(s)); !f.ok {
			t.Errorf("%q does not parse, and Python's float takes it", s)
		}
	}
}
