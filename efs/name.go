//go:build unix

package efs

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

// A baton is the one file in a state directory. Its name is the lock's whole
// state; it is never opened, stat'ed or linked, only listed and renamed:
//
//	<gen>.free
//	<gen>.held.<ttl ms>.<seq>.<floor>.<claim>.<nonce>.<pid>.<host>.<owner>
//
// gen, 20 digits, is the fencing token; seq counts heartbeats; floor, if not 0,
// is a token that later ones must exceed; nonce makes each attempt's name new.
// No name ever comes back.
type baton struct {
	gen    uint64
	held   bool
	ttl    time.Duration
	seq    uint64
	floor  uint64
	claim  string
	nonce  string
	holder backend.Holder
}

const (
	maxName    = 255 // bytes, on every file system that matters
	genDigits  = 20
	freeSuffix = ".free"
)

// name encodes b. Host and owner are escaped, and cut to what is left of a name's
// 255 bytes.
func (b baton) name() string {
	out := make([]byte, genDigits, maxName)
	for i, g := genDigits-1, b.gen; i >= 0; i, g = i-1, g/10 {
		out[i] = '0' + byte(g%10)
	}
	if !b.held {
		return string(append(out, freeSuffix...))
	}
	out = append(out, ".held"...)
	for _, n := range []uint64{uint64(ttlMillis(b.ttl)), b.seq, b.floor} {
		out = strconv.AppendUint(append(out, '.'), n, 10)
	}
	out = append(append(out, '.'), b.claim...)
	out = append(append(out, '.'), b.nonce...)
	out = append(strconv.AppendInt(append(out, '.'), int64(max(b.holder.PID, 0)), 10), '.')
	room := maxName - len(out) - 1
	host := escape(b.holder.Host, min(64, room/2))
	out = append(append(out, host...), '.')
	return string(append(out, escape(b.holder.Owner, room-len(host))...))
}

// ttlMillis rounds up, so that nobody's TTL is shortened on the way.
func ttlMillis(d time.Duration) int64 {
	ms := d.Milliseconds()
	if time.Duration(ms)*time.Millisecond < d {
		ms++
	}
	return ms
}

// parseBaton decodes a name; ok is false if it is not a baton's.
func parseBaton(name string) (b baton, ok bool) {
	if len(name) <= genDigits || name[genDigits] != '.' {
		return b, false
	}
	var err error
	if b.gen, err = strconv.ParseUint(name[:genDigits], 10, 64); err != nil {
		return b, false
	}
	if name[genDigits:] == freeSuffix {
		return b, true
	}
	var f [9]string
	rest, more := name[genDigits+1:], true
	for i := range f {
		if !more {
			return b, false
		}
		f[i], rest, more = strings.Cut(rest, ".")
	}
	if more || f[0] != "held" {
		return b, false
	}
	b.held = true
	var nums [4]uint64
	for i, text := range [...]string{f[1], f[2], f[3], f[6]} {
		if nums[i], err = strconv.ParseUint(text, 10, 64); err != nil {
			return b, false
		}
	}
	ms, pid := nums[0], nums[3]
	b.seq, b.floor = nums[1], nums[2]
	if ms == 0 || ms > math.MaxInt64/uint64(time.Millisecond) || pid > math.MaxInt32 || f[4] == "" || f[5] == "" {
		return b, false
	}
	b.ttl = time.Duration(ms) * time.Millisecond
	b.claim, b.nonce = f[4], f[5]
	b.holder = backend.Holder{Owner: unescape(f[8]), Host: unescape(f[7]), PID: int(pid)}
	return b, true
}

// freed is the baton after b's holder has let go.
func (b baton) freed() baton { return baton{gen: max(b.gen, b.floor)} }

// beaten is the baton after a heartbeat.
func (b baton) beaten() baton {
	b.seq++
	return b
}

const hexDigits = "0123456789ABCDEF"

// escape writes s with letters, digits, '-' and '_' as they are and every other
// byte as %XX, cut at a whole character to at most room bytes.
func escape(s string, room int) string {
	var out strings.Builder
	for _, r := range s {
		var enc string
		if r == '-' || r == '_' || r < 0x80 && (r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') {
			enc = string(r)
		} else {
			for _, c := range []byte(string(r)) {
				enc += "%" + string(hexDigits[c>>4]) + string(hexDigits[c&15])
			}
		}
		if out.Len()+len(enc) > room {
			break
		}
		out.WriteString(enc)
	}
	return out.String()
}

func unescape(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(c))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// Names beside the lock file "lock". Each is fixed by the lock, or by the lock and
// a generation, so that whoever cleans up after a crash knows what to look for
// without listing a directory that may be large.
func stateName(base string) string { return "." + base + ".hasp" }
func clockName(base string) string { return stateName(base) + ".clock" }
func bootName(base string, slot int) string {
	return fmt.Sprintf("%s.boot%d", stateName(base), slot)
}

// newName is where a lock file is written before it is linked into place.
func newName(base string, gen uint64) string { return fmt.Sprintf("%s.%d.new", stateName(base), gen) }

// asideName is where a lock file is moved before it is removed. A generation uses
// each of asides numbers at most once: the last for its own file, the others for
// those it finds.
func asideName(base string, gen uint64, n int) string {
	return fmt.Sprintf("%s.%d.old%d", stateName(base), gen, n)
}

const asides = 3

// isAside tells the names that asideName makes from the others.
func isAside(name string) bool { return strings.Contains(name[max(0, len(name)-5):], ".old") }

// longestSuffix bounds how long a key's last component may be.
const longestSuffix = len(".") + len(".hasp") + 1 + genDigits + len(".old0")

// splitKey checks key by the rules of file names and returns the directory (as
// a relative path, "." for the root) and the lock file's name.
func splitKey(key string) (dir, base string, err error) {
	if err := backend.ValidateKey(key); err != nil {
		return "", "", err
	}
	parts := strings.Split(key, "/")
	for i, part := range parts {
		switch {
		case part == "":
			return "", "", fmt.Errorf("%w: %q has an empty path component", backend.ErrInvalidKey, key)
		case part == "." || part == "..":
			return "", "", fmt.Errorf("%w: %q has the path component %q", backend.ErrInvalidKey, key, part)
		case len(part) > maxName:
			return "", "", fmt.Errorf("%w: a path component has %d bytes, and %d is the limit", backend.ErrInvalidKey, len(part), maxName)
		case i == len(parts)-1 && len(part)+longestSuffix > maxName:
			return "", "", fmt.Errorf("%w: its last path component has %d bytes, and %d is the limit", backend.ErrInvalidKey, len(part), maxName-longestSuffix)
		case strings.HasPrefix(part, ".") && strings.Contains(part, ".hasp"):
			return "", "", fmt.Errorf("%w: names such as %q are kept for hasp's own files", backend.ErrInvalidKey, part)
		}
	}
	base = parts[len(parts)-1]
	dir = "."
	if len(parts) > 1 {
		dir = strings.Join(parts[:len(parts)-1], "/")
	}
	return dir, base, nil
}
