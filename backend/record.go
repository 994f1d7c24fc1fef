package backend

import (
	"fmt"
	"strings"
	"time"
)

// State is what a store says of a key.
type State string

// The states of a key.
const (
	Free  State = "free"
	Held  State = "held"
	Stale State = "stale" // its holder's TTL has run out; the next claim takes it over
	// Sealed: nobody can take it, since it is kept in another store now. Note says where.
	Sealed State = "sealed"
	// Unknown is of a key in a list whose state cannot be read. Note says why.
	Unknown State = "unknown"
)

// Record is what a store knows of a key. Durations are as of the moment the
// store answered, by the store's own clock.
type Record struct {
	Key    string
	State  State
	ID     string // the claim that holds it; empty if free or unknown
	Holder Holder
	Token  uint64        // the holder's; of a free key the last one known, or 0
	TTL    time.Duration // the holder's; 0 if unknown
	// HeldFor is how long the holder has had the key, from its own acquisition and
	// never longer; 0 if unknown.
	HeldFor time.Duration
	// Remaining is how long until the lock is stale if nothing more is heard of
	// its holder; 0 if it is stale, free, or unknown.
	Remaining time.Duration
	// Note is what a person should know besides, such as "a lock file that
	// cannot be read". Empty as a rule.
	Note string
}

// String describes the holder as error messages do: trainer-7 (host
// ip-10-0-3-4, pid 4123). It is Printable.
func (h Holder) String() string {
	h.Owner, h.Host = Printable(h.Owner), Printable(h.Host)
	var in []string
	if h.Host != "" {
		in = append(in, "host "+h.Host)
	}
	if h.PID != 0 {
		in = append(in, fmt.Sprintf("pid %d", h.PID))
	}
	switch {
	case h.Owner == "" && len(in) == 0:
		return "an unknown holder"
	case h.Owner == "":
		return strings.Join(in, ", ")
	case len(in) == 0:
		return h.Owner
	}
	return h.Owner + " (" + strings.Join(in, ", ") + ")"
}

// String describes the record in one line, without its key. It is Printable.
func (r Record) String() string {
	var b strings.Builder
	switch r.State {
	case Free:
		b.WriteString("free")
		if r.Token != 0 {
			fmt.Fprintf(&b, ", last token %d", r.Token)
		}
		return b.String()
	case Unknown:
		return "unknown: " + r.Note
	case Sealed:
		b.WriteString("sealed")
		if r.Token != 0 {
			fmt.Fprintf(&b, ", last token %d", r.Token)
		}
		if r.Note != "" {
			b.WriteString(" (" + Printable(r.Note) + ")")
		}
		return b.String()
	case Stale:
		b.WriteString("stale, last held by ")
	default:
		b.WriteString("held by ")
	}
	b.WriteString(r.Holder.String())
	if r.HeldFor > 0 {
		fmt.Fprintf(&b, " for %s", Round(r.HeldFor))
	}
	if r.Token != 0 {
		fmt.Fprintf(&b, ", token %d", r.Token)
	}
	if r.Note != "" {
		b.WriteString(" (" + Printable(r.Note) + ")")
	}
	return b.String()
}

// Round shortens a duration to what a person wants to read: three digits or so.
func Round(d time.Duration) time.Duration {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d
}
