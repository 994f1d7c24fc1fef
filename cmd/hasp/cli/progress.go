package cli

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// progress tells a person who waits for a lock what for: on a terminal in one
// line that is kept up to date, elsewhere with a line whenever the holder changes.
type progress struct {
	w     *errorWriter
	name  string
	quiet bool       // -o json: standard error has the result alone
	width func() int // of the terminal; nil without one

	mu    sync.Mutex
	last  hasp.Event // the last one of waiting
	at    time.Time  // when that was
	shown string     // who was in the way then
	seen  time.Time  // since when that has been so, as far as it is known here
	drawn bool       // there is a line on the terminal
	quit  chan struct{}
	ended bool
}

func newProgress(w *errorWriter, name string, quiet bool) *progress {
	p := &progress{w: w, name: name, quiet: quiet}
	if f, ok := w.w.(*os.File); ok && terminalWidth(f) > 0 && os.Getenv("TERM") != "dumb" {
		p.width = func() int { return terminalWidth(f) }
	}
	return p
}

// observe is the Locker's observer.
func (p *progress) observe(e hasp.Event) {
	switch e.Kind {
	case hasp.EventWaiting:
		p.waiting(e)
	case hasp.EventWarning:
		p.warn(e.Err)
	case hasp.EventRenewalFailed:
		p.warn(fmt.Errorf("%s could not be renewed, and is lost in %s if that goes on: %w", p.name, backend.Round(e.Margin), e.Err))
	}
}

// warn prints what the result will not show.
func (p *progress) warn(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet {
		return
	}
	p.clear()
	fmt.Fprintf(p.w, "hasp: warning: %s\n", strings.TrimPrefix(backend.Text(err), "hasp: "))
}

func (p *progress) waiting(e hasp.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.quiet {
		return
	}
	p.last, p.at = e, time.Now()
	who := blocker(e)
	isNew := who != p.shown
	if isNew {
		p.shown, p.seen = who, p.at
	}
	if p.width == nil {
		if isNew {
			fmt.Fprintln(p.w, p.line())
		}
		return
	}
	if p.quit == nil {
		p.quit = make(chan struct{})
		go p.refresh(p.quit)
	}
	p.draw(p.at)
}

// blocker is equal for two events exactly if the same is in the way.
func blocker(e hasp.Event) string {
	if e.Err != nil {
		return "?"
	}
	return fmt.Sprintf("%s %s %d", e.Blocker.ID, e.Blocker.Holder, e.Blocker.Token)
}

func (p *progress) refresh(quit <-chan struct{}) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			p.mu.Lock()
			if !p.ended && !p.w.busy() { // else the terminal is stopped
				p.draw(now)
			}
			p.mu.Unlock()
		case <-quit:
			return
		}
	}
}

// line says who is in the way, for a log.
func (p *progress) line() string {
	e := p.last
	s := "hasp: waiting for " + backend.Printable(p.name) + ": "
	if e.Err != nil {
		s += backend.Text(e.Err)
	} else {
		s += e.Blocker.String()
	}
	waited := e.Waited.Round(time.Second)
	if e.Left < 0 {
		return fmt.Sprintf("%s; waited %v, without end", s, waited)
	}
	return fmt.Sprintf("%s; waited %v, up to %v left", s, waited, e.Left.Round(time.Second))
}

// draw shows the line in place of the last one. Called with mu held.
func (p *progress) draw(now time.Time) {
	e, since := p.last, now.Sub(p.at)
	left := e.Left
	if left >= 0 {
		left = max(0, left-since)
	}
	l := waitLine{name: p.name}
	if e.Err != nil {
		l.what, l.times = e.Err.Error(), waitTimes(0, -1, left)
	} else {
		held := e.Blocker.HeldFor
		if held > 0 {
			held += since
		}
		l.what, l.times = holderText(e.Blocker), waitTimes(held, now.Sub(p.seen), left)
	}
	// A line that wraps could not be taken back, and some terminals wrap a full one.
	fmt.Fprintf(p.w, "\r\x1b[K%s", l.fit(p.width()-1))
	p.drawn = true
}

func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// stop ends the showing; the terminal is the command's from then on.
func (p *progress) stop() {
	defer p.w.flush(100 * time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.clear()
	if p.quit != nil {
		close(p.quit)
		p.quit = nil
	}
}
