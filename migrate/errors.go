package migrate

import (
	"errors"
	"fmt"

	"github.com/hasplock/hasp/backend"
)

// ErrPhase is what every *PhaseError matches.
var ErrPhase = errors.New("not admitted by the migration")

// PhaseError says that nothing was acquired because the migration's record does not
// admit this process, or cannot be relied on. Trying again does not help before
// somebody has done what it says.
type PhaseError struct {
	Name  string // of the migration
	Phase Phase  // of the process
	Side  Side   // whose record it is about
	Why   string
	Do    string
}

func (e *PhaseError) Error() string {
	return fmt.Sprintf("%v %q in phase %s: %s: %s", ErrPhase, e.Name, e.Phase, e.Why, e.Do)
}

// Is makes errors.Is(err, ErrPhase) true.
func (e *PhaseError) Is(target error) bool { return target == ErrPhase }

// sided adds to err which of the two stores it came from. It keeps what err matches.
func sided(s Side, err error) error {
	if err == nil {
		return nil
	}
	return &sideError{s, err}
}

type sideError struct {
	side Side
	err  error
}

func (e *sideError) Error() string { return fmt.Sprintf("%s store: %s", e.side, backend.Text(e.err)) }
func (e *sideError) Unwrap() error { return e.err }
