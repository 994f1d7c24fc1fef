/*
 * The guard as a plain file (lockfile=file), which EfsLock processes can remove: a wrong
 * variant. One hasp process is enough, with the baton always its own. No file is ever
 * judged stale. `./check` has to see an EfsLock process in beside it.
 */
#ifndef EFSLOCKS
#define EFSLOCKS 1
#endif
#define NOTHING 0
#define GUARD 9

byte path = NOTHING, inside = 0;
bool sure = false;

inline robs(q) { if :: q != NOTHING && q != GUARD && (inside >> q) & 1 -> inside = inside & ~(1 << q) :: else fi }

active proctype Hasp() {
	do
	:: atomic { path == NOTHING -> path = GUARD; sure = true; assert(inside == 0) };
		do
		:: atomic { /* heartbeat: a guard that is gone is put back, another's file is loss */
			if :: path == NOTHING -> path = GUARD :: path != NOTHING && path != GUARD -> sure = false :: else fi }
		:: break
		od;
		atomic { if :: sure && path == GUARD -> path = NOTHING :: else fi; sure = false }
	od
}

active [EFSLOCKS] proctype EfsLock() {
	byte me = _pid, read;
	do
	:: atomic { path == NOTHING -> path = me; inside = inside | (1 << me); assert(!sure) };
		atomic { inside = inside & ~(1 << me); robs(path); path = NOTHING }
	:: path != NOTHING;
		read = path;
		if :: read == NOTHING -> atomic { robs(path); path = NOTHING } :: else fi
	od
}
