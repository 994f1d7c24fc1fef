//go:build linux

package nfslab

import (
	"fmt"
	"time"
)

// Fairness is how a lock went from worker to worker.
type Fairness struct {
	Grants int // while somebody else was waiting
	Again  int // of those: to the worker that had just held it
	// Passed is the most times that one worker got the lock during one wait of
	// another, although it had begun to want it later, and the other had been running
	// since the grant before.
	Passed int
	By     string // who passed over whom
	// Asleep is how often one was passed over that had not been running: such a host cannot
	// ask for anything, and on a busy machine that may last for longer than others
	// hold the lock.
	Asleep int
}

func (f Fairness) String() string {
	return fmt.Sprintf("of %d grants while others waited %d went to the last holder; one waiter was passed over by one worker %d times (%s); %d times a waiter was that did not run", f.Grants, f.Again, f.Passed, f.By, f.Asleep)
}

// Judge goes through the events of one key.
func Judge(events []Event) Fairness {
	type pair struct{ by, waiter string }
	var (
		f      Fairness
		last   string
		wants  = map[string]int{} // worker: the number of the event that says so
		passed = map[pair]int{}
		before time.Duration // the last grant
		stood  = map[string][]Event{}
	)
	for _, e := range events {
		if e.Kind == Stood {
			stood[e.Worker] = append(stood[e.Worker], e)
		}
	}
	ran := func(worker string, from, to time.Duration) bool {
		for _, e := range stood[worker] {
			if e.At-e.For < to && from < e.At {
				return false
			}
		}
		return true
	}
	for i, e := range events {
		switch e.Kind {
		case Wants:
			wants[e.Worker] = i
		case In:
			mine := wants[e.Worker]
			delete(wants, e.Worker)
			if len(wants) > 0 {
				f.Grants++
				if e.Worker == last {
					f.Again++
				}
			}
			last = e.Worker
			for waiter, since := range wants {
				switch {
				case since >= mine:
				case !ran(waiter, before, e.At):
					f.Asleep++
				default:
					p := pair{e.Worker, waiter}
					if passed[p]++; passed[p] > f.Passed {
						f.Passed, f.By = passed[p], p.by+" over "+p.waiter
					}
				}
			}
			for p := range passed {
				if p.waiter == e.Worker {
					delete(passed, p)
				}
			}
			before = e.At
		}
	}
	return f
}
