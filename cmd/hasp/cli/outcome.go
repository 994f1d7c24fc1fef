package cli

import (
	"errors"
	"fmt"

	"github.com/hasplock/hasp"
)

// outcome is how a command under a lock ended.
type outcome struct {
	code    int
	stopped error // why hasp had to stop it, or nil
	how     string
	// interrupted: the terminal's Ctrl-C came to hasp, not to the command alone.
	interrupted bool
}

func (o outcome) String() string { return o.how }

// ending says what became of the group if the lease was lost. Whoever reads it has to
// know whether something ran on without the lock, so it says no more than is known.
func (s *supervisor) ending() string {
	who := "the command"
	if s.orphans {
		who = "what the command had left running"
	}
	switch {
	case s.out.stopped == nil:
		return ""
	case s.gone:
		return "the command has ended"
	case s.gaveUp && s.refused:
		return who + " cannot be stopped, and still runs"
	case s.gaveUp:
		return "some of its processes do not end even when killed"
	case s.refused:
		return who + " could not be stopped, and has ended by itself"
	case s.spent:
		return who + " had been killed before, and ended only after that"
	}
	return who + " was stopped"
}

// verdict turns what happened into this program's end. err is what taking or
// releasing the lock said, and cerr what closing the store did.
func verdict(t target, ran bool, end outcome, err, cerr error, warn func(error)) error {
	lost := end.stopped
	if lost == nil && errors.Is(err, hasp.ErrLost) {
		lost = err // only the release found out
		end.how = "the command had run to its end by then, and another may have held the lock meanwhile"
	}
	switch {
	case !ran:
		if err == nil && cerr == nil {
			return nil
		}
		if err == nil {
			err = cerr
		}
		return fail(t.named(err))
	case lost != nil:
		var e *hasp.Error
		if errors.As(lost, &e) {
			lost = e.Err // its operation and key are said here
		}
		how := end.String()
		if how == "" {
			how = "the command had ended by itself, and the release found out"
		}
		return &exitError{exitLost, fmt.Errorf("run %q: %w; %s", t.name, lost, how)}
	}
	// The command ran to its end while the lock was held, so its status is what
	// counts. That the release did not get through costs others one TTL.
	if err != nil {
		warn(fmt.Errorf("%w; the lock frees itself when its TTL has run out", t.named(err)))
	}
	if end.code != exitOK {
		return &exitError{code: end.code}
	}
	return nil
}
