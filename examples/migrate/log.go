//go:build unix

package main

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// log is what happened besides the locks: steps and faults.
type log struct {
	mu    sync.Mutex
	marks []mark
	errs  []error
	tell  func(string) // each line, as it comes; not nil
}

// mark is something that happened at a moment.
type mark struct {
	At    time.Time
	Kind  string // stage, step or fault
	Text  string
	Stage string // of a stage: what has been reached
}

func (l *log) add(m mark) {
	m.At = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marks = append(l.marks, m)
	if m.Kind != "fault" {
		l.tell(m.Text)
	}
}

func (l *log) stage(stage, format string, args ...any) {
	l.add(mark{Kind: "stage", Stage: stage, Text: fmt.Sprintf(format, args...)})
}

// took notes that a step was taken, and the stage that it led to, if to any.
func (l *log) took(step, stage string) {
	if stage == "" {
		l.step("%s: done", step)
		return
	}
	l.stage(stage, "%s: stage %s", step, stage)
}

func (l *log) step(format string, args ...any) {
	l.add(mark{Kind: "step", Text: fmt.Sprintf(format, args...)})
}

func (l *log) fault(format string, args ...any) {
	l.add(mark{Kind: "fault", Text: fmt.Sprintf(format, args...)})
}

// fail keeps what makes the whole a failure.
func (l *log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

func (l *log) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}
