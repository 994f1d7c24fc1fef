package cli

import (
	"fmt"
	"io"
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
	w     io.Writer
	name  string
	quiet bool       // -o json: standard error has the result alone
	width func() int // of the terminal; nil without one

	mu    sync.Mutex
	last  hasp.Event // the last one of waiting
	at    time.Time  // when that was
	shown string     // who was in the way in the last line logged
	drawn bool       // there is a line on the terminal
	quit  chan struct{}
	ended bool
}

func newProgress(w io.Writer, name string, quiet bool) *progress {
	p := &progress{w: w, name: name, quiet: quiet}
	if f, ok := w.(*os.File); ok && terminalWidth(f) > 0 && os.Getenv("TERM") != "dumb" {
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
	fmt.Fprintf(p.w, "hasp: warning: %s\n", strings.TrimPrefix(err.Error(), "hasp: "))
}

func (p *progress) waiting(e hasp.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.quiet {
		return
	}
	p.last, p.at = e, time.Now()
	if p.width == nil {
		if who := blocker(e); who != p.shown {
			p.shown = who
			fmt.Fprintln(p.w, p.line(p.name, p.at))
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
			if !p.ended {
				p.draw(now)
			}
			p.mu.Unlock()
		case <-quit:
			return
		}
	}
}

// line says who is in the way as of now.
func (p *progress) line(name string, now time.Time) string {
	e, since := p.last, now.Sub(p.at)
	s := "hasp: waiting for " + name + ": "
	if e.Err != nil {
		s += e.Err.Error()
	} else {
		r := e.Blocker
		if r.HeldFor > 0 {
			r.HeldFor += since
		}
		s += r.String()
	}
	waited := (e.Waited + since).Round(time.Second)
	if e.Left < 0 {
		return fmt.Sprintf("%s; waited %v, without end", s, waited)
	}
	return fmt.Sprintf("%s; waited %v, up to %v left", s, waited, max(0, e.Left-since).Round(time.Second))
}

// draw shows the line in place of the last one. Called with mu held.
func (p *progress) draw(now time.Time) {
	line := []rune(p.line(p.name, now))
	over := len(line) - (p.width() - 1) // a line that wraps could not be taken back
	if over > 0 {
		// who holds it is news, and the key is not: its end will do
		name := []rune(p.name)
		cut := min(over+1, len(name)-8)
		if cut > 0 {
			line = []rune(p.line("…"+string(name[cut:]), now))
		}
		if over = len(line) - (p.width() - 1); over > 0 {
			line = append(line[:max(0, len(line)-over-1)], '…')
		}
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", string(line))
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.clear()
	if p.quit != nil {
		close(p.quit)
		p.quit = nil
	}
}
