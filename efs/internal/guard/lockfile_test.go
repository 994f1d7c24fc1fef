//go:build unix

package guard

import (
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

func TestLockFiles(t *testing.T) {
	at := time.UnixMicro(1763862345123456)
	b := statedir.Baton{Gen: 99, State: statedir.Held, TTL: time.Minute, Claim: "C", Holder: backend.Holder{Owner: "a\nb", Host: "h", PID: 12}}
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
	for _, s := range []string{"", "\n", "x", "nan\n1\nh\nLinux", "inf", "\x00\x00", "12.3.4", "1", " 12345 \n", "8080\n", "-1e9", "1e300", "1763862345123\n",
		"1.5\n2.5\n3.5\n4.5\n", "1\n2\n3\n4\n", "1\n2\nx\ny z\n"} {
		if f := parseLockFile([]byte(s)); f.ok {
			t.Errorf("%q parses: %+v", s, f)
		}
	}
	for _, s := range []string{"1763862345", " 1763862345.5 \n", "1e9\n", "1763862345.5\n17", "0.5\n17\nhost\nLinux\n", "1\n17\n\nWindows"} {
		if f := parseLockFile([]byte(s)); !f.ok {
			t.Errorf("%q does not parse", s)
		}
	}
}
