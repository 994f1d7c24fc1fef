// Package migrate moves a fleet from one store of locks to another while it works.
// Its [Backend] is made of two others, the old store and the new one, and takes each
// lock in the one, in both, or in the other, as its phase says:
//
//	b, err := migrate.New(oldStore, newStore, &migrate.Options{Name: "sweeps", Phase: migrate.PhaseBoth})
//	l := hasp.New(b, nil)
//
// or, from configuration alone,
//
//	migrate:?name=sweeps&phase=both&old=efs%3A%2F%2F%2Fmnt%2Fefs%2Fsweeps&new=redis%3A%2F%2Fcache%3A6379
//
// where the stores' URLs are escaped as values of a query are ([URL] does it).
//
// # Phases
//
// The processes of a fleet are given their phase by their configuration, and are
// restarted one at a time:
//
//	phase   takes              may run beside
//	old     old                old, both
//	both    old, then new      old, both, new
//	new     new                both, new
//
// What may run now is recorded in both stores, as a value under [RecordKey]: first old,
// then old+both, both, both+new and new. An operator takes the steps from one to the next,
// forwards and back: [Backend.Advance] and [Backend.Back], or hasp migrate. An Acquire
// looks at the record after it has the lock, and gives it back with [ErrPhase] if its
// own phase is not admitted: a process that was forgotten in the roll-out is refused,
// and never shares a lock with one that does not see it. PROTOCOL.md has the argument.
//
// # What users of a lock notice
//
// Tokens rise throughout, whatever the stores' clocks say. Values (backend.ValueStore)
// are found from every phase. A lease of phase both is lost when it is lost in either store.
// Keys that begin with [RecordKey] are the migration's own and cannot be locked.
//
// Both stores have to be backend.Lister, backend.TokenRaiser and backend.ValueStore.
package migrate
