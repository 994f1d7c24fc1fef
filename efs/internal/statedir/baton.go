//go:build unix

package statedir

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hasplock/hasp/backend"
)

// A Baton is the one file in a state directory. Its name is the lock's whole state;
// it is never opened, stat'ed or linked, only listed and renamed:
//
//	<gen>.free.e<epoch>[.v<value>][.w<since>-<id>]…
//	<gen>.dirty.e<epoch>[.v…][.w…]…
//	<gen>.sealed.e<epoch>[.v…].s<seq>.m<where to>
//	<gen>.held.e<epoch>[!][.v…].t<ttl ms>.s<seq>[.b<ms>][.x<ms>][.f<floor>][.w…]….c<claim>.n<nonce>[.p<pid>].h<host>.o<owner>
//
// gen, 20 digits, is the fencing token. s, b and x are in base 36, for want of room. A name that was replaced never comes back:
// gen rises with each acquisition, seq with each heartbeat, and the nonce is new
// for each attempt.
type Baton struct {
	Gen   uint64
	State State
	// Epoch is the generation of the last takeover: what rests for it is the guard's.
	// 0 if there is none yet.
	Epoch uint64
	// Value names the file that has the key's value, empty if it never had one. Every
	// later name carries it, until another takes its place.
	Value string
	// Waiters are those who wait and have said so, the one that has waited for longest first.
	// They are as many as the name has room for, and at most maxWaiters.
	Waiters []Waiter

	// Seq counts the heartbeats of a held one, and of a sealed one how often it was sealed.
	Seq uint64
	// Moved is of a sealed one: the URL of the store that has the lock now.
	Moved string

	// The rest is of a held one.

	// Unsettled: the holder has not found out yet where its guard is.
	Unsettled bool
	TTL       time.Duration
	HeldFor   time.Duration // when the name was made by its holder
	Spent     time.Duration // of the TTL, when the name was made by another than its holder
	Floor     uint64        // if not 0, a token that later ones must exceed
	Claim     string
	Nonce     string
	Holder    backend.Holder

	name string // as it was listed
}

// State is what a baton says.
type State string

// Dirty is free for hasp processes; what stands at the lock's path is not known.
const (
	Free  State = "free"
	Dirty State = "dirty"
	Held  State = "held"
	// Sealed is nobody's, and nobody may take it: the lock is kept elsewhere.
	Sealed State = "sealed"
)

// isFree tells whether whoever comes may take the baton.
func (s State) isFree() bool { return s == Free || s == Dirty }

// A Waiter has its turn before those who have waited for less long.
type Waiter struct {
	Since uint64 // the server's time in ms when it began to wait, roughly
	ID    string
}

func (w Waiter) String() string { return strconv.FormatUint(w.Since, 36) + "-" + w.ID }

// compare is negative if w has waited for longer than v.
func (w Waiter) compare(v Waiter) int {
	return cmp.Or(cmp.Compare(w.Since, v.Since), strings.Compare(w.ID, v.ID))
}

const (
	maxName   = 255 // bytes, on every file system that matters
	genDigits = 20

	maxWaiters = 4
	// people is what waiters leave of a name for host and owner, whose names are cut.
	people = 48
)

// Name encodes b. Host and owner are escaped, and cut to what is left of a name's 255
// bytes; the pid is left out if it has no room.
func (b Baton) Name() string {
	if b.name != "" {
		return b.name
	}
	out := make([]byte, genDigits, maxName)
	for i, g := genDigits-1, b.Gen; i >= 0; i, g = i-1, g/10 {
		out[i] = '0' + byte(g%10)
	}
	out = append(append(out, '.'), b.State...)
	num := func(tag byte, n uint64) { out = strconv.AppendUint(append(out, '.', tag), n, 10) }
	num('e', b.Epoch)
	if b.State == Held && b.Unsettled {
		out = append(out, '!')
	}
	if b.Value != "" {
		out = append(append(out, ".v"...), b.Value...)
	}
	short := func(tag byte, n uint64) { out = strconv.AppendUint(append(out, '.', tag), n, 36) }
	switch b.State {
	case Sealed:
		short('s', b.Seq)
		out = append(out, ".m"...)
		return string(appendCut(out, b.Moved, maxName-len(out)))
	case Held:
	default:
		return string(b.appendWaiters(out, 0))
	}
	num('t', uint64(Millis(b.TTL)))
	short('s', b.Seq)
	if ms := Millis(b.HeldFor); ms != 0 {
		short('b', uint64(ms))
	}
	if ms := b.Spent.Milliseconds(); ms != 0 {
		short('x', uint64(ms))
	}
	if b.Floor != 0 {
		num('f', b.Floor)
	}
	out = b.appendWaiters(out, len(".c.n.h.o")+len(b.Claim)+len(b.Nonce))
	out = append(append(out, ".c"...), b.Claim...)
	out = append(append(out, ".n"...), b.Nonce...)
	if len(out)+len(".p2147483647.h.o") <= maxName {
		num('p', uint64(max(b.Holder.PID, 0)))
	}
	room := maxName - len(out) - len(".h.o")
	was := len(out)
	out = appendEscaped(append(out, ".h"...), b.Holder.Host, min(64, room/2))
	room -= len(out) - was - len(".h")
	return string(appendEscaped(append(out, ".o"...), b.Holder.Owner, room))
}

// appendWaiters leaves out those for whom there is no room: they find out, and say again
// that they wait.
func (b Baton) appendWaiters(out []byte, rest int) []byte {
	for i, w := range b.Waiters {
		text := w.String()
		if i == 1 && rest > 0 {
			rest += len(".p2147483647") + people
		}
		if len(out)+len(".w")+len(text)+rest > maxName {
			break
		}
		out = append(append(out, ".w"...), text...)
	}
	return out
}

// Millis rounds up, so that nobody's TTL is shortened on the way, without overflow.
func Millis(d time.Duration) int64 {
	ms := d.Milliseconds()
	if time.Duration(ms)*time.Millisecond < d {
		ms++
	}
	return ms
}

// span is Millis's opposite: the longest TTL there is stays the longest.
func span(ms uint64) time.Duration {
	if ms > math.MaxInt64/uint64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// Parse decodes a name; ok is false if it is not a baton's.
func Parse(name string) (b Baton, ok bool) {
	if len(name) <= genDigits || name[genDigits] != '.' {
		return b, false
	}
	var err error
	if b.Gen, err = strconv.ParseUint(name[:genDigits], 10, 64); err != nil {
		return b, false
	}
	b.name = name
	state, rest, more := strings.Cut(name[genDigits+1:], ".")
	b.State = State(state)
	if !more && b.State == Free { // of the first format, which knew no guard at rest
		b.State = Dirty
		return b, true
	}
	if b.State == Held && rest != "" && rest[0] != 'e' {
		return b, b.parseFirstFormat(rest)
	}
	if !b.State.isFree() && b.State != Held && b.State != Sealed {
		return b, false
	}
	for more {
		var f string
		f, rest, more = strings.Cut(rest, ".")
		if f == "" || !b.parseField(f[0], f[1:]) {
			return b, false
		}
	}
	if b.State == Held && (b.TTL <= 0 || b.Claim == "" || b.Nonce == "") {
		return b, false
	}
	return b, true
}

func (b *Baton) parseField(tag byte, text string) bool {
	switch tag {
	case 'c':
		b.Claim = text
		return true
	case 'n':
		b.Nonce = text
		return true
	case 'v':
		b.Value = text
		return isValueName(text)
	case 'm':
		b.Moved = unescape(text)
		return true
	case 'h':
		b.Holder.Host = unescape(text)
		return true
	case 'o':
		b.Holder.Owner = unescape(text)
		return true
	case 'w':
		since, id, ok := strings.Cut(text, "-")
		n, err := strconv.ParseUint(since, 36, 64)
		b.Waiters = append(b.Waiters, Waiter{Since: n, ID: id})
		return ok && err == nil && id != ""
	case 'e':
		text, b.Unsettled = strings.CutSuffix(text, "!")
	}
	base := 10
	if tag == 's' || tag == 'b' || tag == 'x' {
		base = 36
	}
	n, err := strconv.ParseUint(text, base, 64)
	if err != nil {
		return false
	}
	switch tag {
	case 'e':
		b.Epoch = n
	case 't':
		b.TTL = span(n)
	case 's':
		b.Seq = n
	case 'b':
		b.HeldFor = span(n)
	case 'x':
		b.Spent = span(n)
	case 'f':
		b.Floor = n
	case 'p':
		b.Holder.PID = int(n)
		return n <= math.MaxInt32
	default:
		return false // of a version that knows more: it must not be guessed at
	}
	return true
}

// parseFirstFormat reads <ttl>.<seq>.<floor>.<claim>.<nonce>.<pid>.<host>.<owner>.
func (b *Baton) parseFirstFormat(rest string) bool {
	f := strings.Split(rest, ".")
	if len(f) != 8 {
		return false
	}
	b.Unsettled = true
	for i, tag := range []byte("tsfcnpho") {
		if !b.parseField(tag, f[i]) {
			return false
		}
	}
	return b.TTL > 0 && b.Claim != "" && b.Nonce != ""
}

// beat tells one sign of life of a holder from another: what others than the holder
// may change of a name is left out.
func (b Baton) beat() string {
	if b.State != Held {
		return ""
	}
	return fmt.Sprintf("%d.%d.%s.%s", b.Gen, b.Seq, b.Claim, b.Nonce)
}

// identity tells one state of the chain from another: whoever waits, or raises the token,
// may change a name and bring it back.
func (b Baton) identity() string {
	if b.State == Held {
		return b.beat()
	}
	return fmt.Sprintf("%d.%s.%d", b.Gen, b.State, b.Epoch)
}

// LastToken is the greatest token that was given out, or must be exceeded.
func (b Baton) LastToken() uint64 { return max(b.Gen, b.Floor) }

// Freed is the baton after b's holder has let go. Clean says that its guard is at rest,
// and that nothing of its holder's can move it any more.
func (b Baton) Freed(clean bool) Baton {
	f := Baton{Gen: b.LastToken(), State: Dirty, Epoch: b.Epoch, Value: b.Value, Waiters: b.Waiters}
	if clean {
		f.State = Free
	}
	return f
}

// Beaten is the baton after a heartbeat by its holder.
func (b Baton) Beaten(heldFor time.Duration) Baton {
	b.name = ""
	b.Seq++
	b.HeldFor = max(b.HeldFor, heldFor)
	b.Spent = 0
	return b
}

// With is b after change, under a name of its own.
func (b Baton) With(change func(*Baton)) Baton {
	b.name = ""
	change(&b)
	return b
}

const hexDigits = "0123456789ABCDEF"

// appendEscaped appends s with letters, digits, '-' and '_' as they are and every other byte as
// %XX, cut at a whole character to at most room bytes.
func appendEscaped(out []byte, s string, room int) []byte {
	most := len(out) + room
	for _, r := range s {
		if r == '-' || r == '_' || r < utf8.RuneSelf && (r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') {
			if len(out) >= most {
				break
			}
			out = append(out, byte(r))
			continue
		}
		if len(out)+3*utf8.RuneLen(r) > most {
			break
		}
		for _, c := range []byte(string(r)) {
			out = append(out, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return out
}

// appendCut is appendEscaped, and shows by an ellipsis that something was cut.
func appendCut(out []byte, s string, room int) []byte {
	was := len(out)
	if out = appendEscaped(out, s, 9*len(s)); len(out)-was <= room {
		return out
	}
	const ellipsis = "%E2%80%A6"
	return append(appendEscaped(out[:was], s, room-len(ellipsis)), ellipsis...)
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
