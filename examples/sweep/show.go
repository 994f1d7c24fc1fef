package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

// shower shows people what the processes are doing.
type shower interface {
	changed(w *worker, all []*worker)
	draw(all []*worker)
}

// lines prints one line per change; it is for pipes, and for large fleets.
type lines struct{ out io.Writer }

func (l lines) changed(w *worker, _ []*worker) {
	if w.state != isReady && w.state != isReleased && !w.ended {
		fmt.Fprintln(l.out, w.doing())
	}
}
func (l lines) draw([]*worker) {}

// table keeps one line per process up to date on a terminal.
type table struct {
	out   io.Writer
	drawn int
	at    time.Time
}

// frame is how often a table is drawn at most.
const frame = 40 * time.Millisecond

func (t *table) changed(_ *worker, all []*worker) {
	if time.Since(t.at) >= frame {
		t.draw(all)
	}
}

func (t *table) draw(all []*worker) {
	t.at = time.Now()
	var b strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	for _, w := range all {
		fmt.Fprintf(&b, "\r\x1b[K%s\n", w.doing())
	}
	t.drawn = len(all)
	fmt.Fprint(t.out, b.String())
}

// none shows nothing.
type none struct{}

func (none) changed(*worker, []*worker) {}
func (none) draw([]*worker)             {}

// doing says in a line what w is at.
func (w *worker) doing() string {
	s := fmt.Sprintf("worker %-3d pid %-8d", w.number, w.cmd.Process.Pid)
	if w.killed {
		return s + fmt.Sprintf("was killed (SIGKILL) while it held the lock, token %d", w.token)
	}
	switch w.state {
	case isWaiting:
		s += "waits for " + w.blocker
		if d := time.Since(w.since).Truncate(100 * time.Millisecond); d > 0 {
			s += fmt.Sprintf(", %v", d)
		}
		return s
	case isAcquired:
		return s + fmt.Sprintf("holds the lock, token %d", w.token)
	case isHalfway:
		return s + fmt.Sprintf("has made half of the sweep, token %d", w.token)
	case isReleased:
		return s + "has released the lock"
	case isLost:
		return s + "has lost the lock"
	case isCreated:
		return s + fmt.Sprintf("created the sweep%s, token %d", named(w.id), w.token)
	case isFound:
		return s + "found the sweep" + named(w.id)
	case isFailed:
		return s + "failed"
	}
	return s + "starts"
}

// named is the sweep's id, if it has one, as it follows its noun.
func named(id string) string {
	if id == "" {
		return ""
	}
	return " " + backend.Printable(id)
}
