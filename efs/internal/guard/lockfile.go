//go:build unix

package guard

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// A lockFile is the content of the file that processes of the lock-file protocol
// go by: four lines (time, pid, host, system), of which they read the first. A
// file of hasp's has two more lines, which they ignore.
type lockFile struct {
	ok         bool // the first line is a time, as it has to be
	unreadable bool // to this user
	holder     backend.Holder
	hasp       bool // written by hasp: then these are set
	gen        uint64
	claim      string
	ttl        time.Duration
}

// of tells whether it is the one that was written for claim.
func (f lockFile) of(claim string) bool { return f.hasp && f.claim == claim }

// formatStamp is the first line: seconds since 1970 as a decimal fraction, always
// 17 characters, so that it can be refreshed in place.
func formatStamp(t time.Time) string {
	us := max(0, t.UnixMicro())
	return fmt.Sprintf("%010d.%06d", us/1e6, us%1e6)
}

// system is what Python's platform.system() says.
func system() string {
	switch runtime.GOOS {
	case "linux":
		return "Linux"
	case "darwin":
		return "Darwin"
	case "freebsd":
		return "FreeBSD"
	}
	return runtime.GOOS
}

// formatLockFile writes b's holder as a lock file.
func formatLockFile(b statedir.Baton, now time.Time) []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n%s\nhasp token=%d claim=%s ttl=%d\nowner=%s\n",
		formatStamp(now), b.Holder.PID, oneLine(b.Holder.Host), system(),
		b.Gen, b.Claim, statedir.Millis(b.TTL), oneLine(b.Holder.Owner))
}

func oneLine(s string) string {
	if len(s) > 512 {
		s = strings.ToValidUTF8(s[:512], "")
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// parseLockFile reads what either kind wrote. A file that is empty, torn or
// anything else has ok unset.
func parseLockFile(content []byte) (f lockFile) {
	text := string(content)
	line := func() (s string) {
		s, text, _ = strings.Cut(text, "\n")
		return s
	}
	stamp, err := strconv.ParseFloat(strings.TrimSpace(line()), 64)
	f.ok = err == nil && (isTime(stamp) || stamp >= 0 && isRest(text))
	if !f.ok {
		return f
	}
	if strings.Count(text, "\n") > 0 { // else the second line may be half written
		f.holder.PID, _ = strconv.Atoi(strings.TrimSpace(line()))
		f.holder.Host = oneLine(strings.TrimSpace(line()))
	}
	line() // the system
	f.hasp = f.parseClaim(line())
	if f.hasp {
		f.holder.Owner = strings.TrimPrefix(line(), "owner=")
	}
	return f
}

// IsEfsLock tells whether content can be nothing but the lock file of a process of the
// EfsLock protocol: all four lines.
func IsEfsLock(content []byte) bool {
	first, rest, _ := strings.Cut(string(content), "\n")
	stamp, err := strconv.ParseFloat(strings.TrimSpace(first), 64)
	return err == nil && isTime(stamp) && isRest(rest) && !parseLockFile(content).hasp
}

// isTime tells whether a number can be of seconds since 1970: since 2001, to be exact. A
// file with another number and nothing more is that of a pid, a port, or a counter.
func isTime(stamp float64) bool { return stamp >= 1e9 && stamp < 1e11 }

// isRest tells whether text is the pid, host and system of a lock file: those are also
// written by a host whose clock was never set.
func isRest(text string) bool {
	lines := strings.Split(text, "\n")
	if len(lines) < 3 {
		return false
	}
	_, err := strconv.ParseUint(strings.TrimSpace(lines[0]), 10, 32)
	system := strings.TrimSpace(lines[2])
	return err == nil && system != "" && strings.Trim(system, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == "" && !isNumber(system)
}

func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

// parseClaim reads "hasp token=<gen> claim=<claim> ttl=<ms>".
func (f *lockFile) parseClaim(line string) bool {
	rest, ok := strings.CutPrefix(line, "hasp token=")
	token, rest, ok2 := strings.Cut(rest, " claim=")
	claim, rest, ok3 := strings.Cut(rest, " ttl=")
	ttl, _, _ := strings.Cut(rest, " ") // a later version may say more
	gen, gerr := strconv.ParseUint(token, 10, 64)
	ms, terr := strconv.ParseInt(ttl, 10, 64)
	if !ok || !ok2 || !ok3 || gerr != nil || terr != nil || claim == "" || ms <= 0 {
		return false
	}
	f.gen, f.claim, f.ttl = gen, claim, time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond)))*time.Millisecond
	return true
}
