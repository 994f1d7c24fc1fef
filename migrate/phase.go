package migrate

import "fmt"

// Phase says where a process takes its locks.
type Phase string

// The phases.
const (
	PhaseOld  Phase = "old"  // in the old store
	PhaseBoth Phase = "both" // in the old one and then in the new one
	PhaseNew  Phase = "new"  // in the new store
)

// ParsePhase reads a phase's name.
func ParsePhase(s string) (Phase, error) {
	switch p := Phase(s); p {
	case PhaseOld, PhaseBoth, PhaseNew:
		return p, nil
	}
	return "", fmt.Errorf("phase %q: want old, both or new", s)
}

// Stage says which phases are admitted: where the migration as a whole is. It is
// what the record in each store says.
type Stage string

// The stages, in their order. A step leads from one to a neighbour.
const (
	StageOld     Stage = "old"
	StageOldBoth Stage = "old+both"
	StageBoth    Stage = "both"
	StageBothNew Stage = "both+new"
	StageNew     Stage = "new"
	// StageFinished admits nobody: the migration is over, and what was its end is used
	// by its own URL.
	StageFinished Stage = "finished"
)

var stages = []Stage{StageOld, StageOldBoth, StageBoth, StageBothNew, StageNew}

// ParseStage reads the name of a stage that a step can lead to.
func ParseStage(s string) (Stage, error) {
	if st := Stage(s); st.number() > 0 {
		return st, nil
	}
	return "", fmt.Errorf("stage %q: want old, old+both, both, both+new or new", s)
}

// number is 1 to 5, or 0 for a stage that no step leads to.
func (s Stage) number() int {
	for i, x := range stages {
		if x == s {
			return i + 1
		}
	}
	return 0
}

func (s Stage) valid() bool { return s.number() > 0 || s == StageFinished }

// Admits tells whether a process of phase p may take locks.
func (s Stage) Admits(p Phase) bool {
	switch p {
	case PhaseOld:
		return s == StageOld || s == StageOldBoth
	case PhaseBoth:
		return s == StageOldBoth || s == StageBoth || s == StageBothNew
	case PhaseNew:
		return s == StageBothNew || s == StageNew
	}
	return false
}

// Side is one of the two stores.
type Side string

// The sides.
const (
	SideOld Side = "old"
	SideNew Side = "new"
)

func (s Side) other() Side {
	if s == SideOld {
		return SideNew
	}
	return SideOld
}

// takes lists the stores that a phase takes, in the order in which it does.
func (p Phase) takes() []Side {
	switch p {
	case PhaseOld:
		return []Side{SideOld}
	case PhaseBoth:
		return []Side{SideOld, SideNew}
	case PhaseNew:
		return []Side{SideNew}
	}
	return nil
}
