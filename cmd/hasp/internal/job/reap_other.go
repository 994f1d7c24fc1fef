//go:build unix && !linux

package job

// children does nothing: where there are no subreapers, orphans are init's.
var children reaper

type reaper struct{}

func (reaper) fork(f func() (int, error)) (int, error) { return f() }
func (reaper) waited(int)                              {}
func (reaper) start()                                  {}
func (reaper) stop()                                   {}
