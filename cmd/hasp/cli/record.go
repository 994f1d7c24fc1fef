package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/hasplock/hasp/backend"
)

// lockJSON is a lock as -o json shows it. Every key is always there; durations
// are seconds.
type lockJSON struct {
	Key              string      `json:"key"`
	State            string      `json:"state"` // free, held, stale, or in a list unknown
	Holder           *holderJSON `json:"holder"`
	Token            uint64      `json:"token"`
	TTLSeconds       float64     `json:"ttl_seconds"`
	HeldSeconds      float64     `json:"held_seconds"`
	RemainingSeconds float64     `json:"remaining_seconds"`
	Note             string      `json:"note"`
}

type holderJSON struct {
	Owner string `json:"owner"`
	Host  string `json:"host"`
	PID   int    `json:"pid"`
}

func lockOf(name string, r backend.Record) lockJSON {
	l := lockJSON{
		Key: name, State: string(r.State), Token: r.Token, Note: r.Note,
		TTLSeconds: seconds(r.TTL), HeldSeconds: seconds(r.HeldFor), RemainingSeconds: seconds(r.Remaining),
	}
	if r.State == backend.Held || r.State == backend.Stale {
		l.Holder = &holderJSON{r.Holder.Owner, r.Holder.Host, r.Holder.PID}
	}
	return l
}

// seconds is d to the microsecond.
func seconds(d time.Duration) float64 { return d.Round(time.Microsecond).Seconds() }

// lockLine is a lock as text.
func lockLine(name string, r backend.Record) string {
	s := fmt.Sprintf("%s: %s", name, r)
	if r.State == backend.Held && r.Remaining > 0 {
		s += fmt.Sprintf(", stale in %s unless renewed", backend.Round(r.Remaining))
	}
	return s
}

// writeJSON writes v in one line.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return written(e.Encode(v))
}

// written makes of a failed write of the output this program's end. A reader that
// has gone has seen enough, as with head: the end is then what SIGPIPE's would be.
func written(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE):
		return &exitError{code: exitSignal + 13}
	}
	return &exitError{exitIO, fmt.Errorf("the output cannot be written: %w", err)}
}

// writeLine writes a line of text.
func writeLine(w io.Writer, s string) error {
	_, err := fmt.Fprintln(w, backend.Printable(s))
	return written(err)
}
