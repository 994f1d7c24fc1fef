package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// worker is one of the processes, as its parent sees it.
type worker struct {
	number int
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer

	state   string // the last report's kind
	blocker string
	token   uint64
	id      string // with -keep
	killed  bool
	ended   bool
	since   time.Time
}

// event is a worker's report, or its end if rep is nil.
type event struct {
	w   *worker
	rep *report
}

// fleet is all the processes.
type fleet struct {
	workers []*worker
	events  chan event
	crash   bool
	show    shower

	start     time.Time
	holder    *worker // who has acquired and not released
	created   int
	found     int
	takeovers int
	killed    int
	errs      []string
}

// startFleet starts the processes; each waits for the word to begin.
func startFleet(ctx context.Context, n int, j job, show shower) (*fleet, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &fleet{events: make(chan event), crash: j.Crash, show: show}
	for i := range n {
		j.Number = i + 1
		text, err := json.Marshal(j)
		if err != nil {
			return f, err
		}
		w := &worker{number: i + 1, cmd: exec.CommandContext(ctx, exe), since: time.Now()}
		w.cmd.Env = append(os.Environ(), jobVar+"="+string(text))
		w.cmd.Stderr = &w.stderr
		if w.stdin, err = w.cmd.StdinPipe(); err != nil {
			return f, err
		}
		stdout, err := w.cmd.StdoutPipe()
		if err != nil {
			return f, err
		}
		if err := w.cmd.Start(); err != nil {
			return f, err
		}
		f.workers = append(f.workers, w)
		go f.follow(w, stdout)
	}
	return f, nil
}

// follow passes on what w reports, and then its end.
func (f *fleet) follow(w *worker, stdout io.Reader) {
	for s := bufio.NewScanner(stdout); s.Scan(); {
		var r report
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			r = report{Kind: isFailed, Error: fmt.Sprintf("worker %d said %q", w.number, s.Text())}
		}
		f.events <- event{w, &r}
	}
	f.events <- event{w, nil}
}

// run gives the word when all are ready and returns when all have ended.
func (f *fleet) run() {
	ready, left := 0, len(f.workers)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for left > 0 {
		select {
		case <-tick.C:
			f.show.draw(f.workers)
		case e := <-f.events:
			if e.rep == nil {
				left--
				f.end(e.w)
			} else {
				f.heed(e.w, *e.rep)
			}
			if e.rep == nil && e.w.state == "" || e.rep != nil && e.rep.Kind == isReady {
				if ready++; ready == len(f.workers) {
					f.start = time.Now()
					for _, w := range f.workers {
						w.tell()
					}
				}
			}
			f.show.changed(e.w, f.workers)
		}
	}
	f.show.draw(f.workers)
}

// tell gives w the word it waits for; if it has ended, that is noticed elsewhere.
func (w *worker) tell() { _, _ = io.WriteString(w.stdin, "go\n") }

func (f *fleet) heed(w *worker, r report) {
	w.state, w.blocker, w.since = r.Kind, r.Blocker, time.Now()
	if r.Token != 0 {
		w.token = r.Token
	}
	w.id = r.ID
	switch r.Kind {
	case isAcquired:
		if f.holder != nil && f.holder != w && f.holder.killed {
			f.takeovers++
		}
		f.holder = w
	case isReleased, isLost:
		if f.holder == w {
			f.holder = nil
		}
	case isHalfway:
		if f.crash && f.killed == 0 {
			// The first one: it dies here, holding the lock, half of its work done.
			f.killed++
			w.killed = true
			if err := w.cmd.Process.Kill(); err != nil {
				f.errs = append(f.errs, fmt.Sprintf("worker %d could not be killed: %v", w.number, err))
			}
			return
		}
		w.tell()
	case isCreated:
		f.created++
	case isFound:
		f.found++
	case isFailed:
		f.errs = append(f.errs, r.Error)
	}
}

// end collects w.
func (f *fleet) end(w *worker) {
	err := w.cmd.Wait()
	w.ended = true
	if err != nil && !w.killed {
		f.errs = append(f.errs, fmt.Sprintf("worker %d: %v: %s", w.number, err, strings.TrimSpace(w.stderr.String())))
	}
}
