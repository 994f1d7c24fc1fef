/*
 * The lock-file protocol (EfsLock) alone, as its processes behave: a control. Nobody's
 * clock is wrong. `./check` has to see two of its faults, each of which lets two in:
 *
 *   (as it is)    no file is ever stale. A release falls between another's failed create
 *                 and its open; "no such file" makes it remove the path: the next one's file
 *   BREAKS        two find the file of a dead process stale. The second to remove the
 *                 path removes the file that the first has made in the meantime
 *   V_KINDER      the same, with "no such file" followed by another create: without
 *                 BREAKS nothing is found, so it is that removal that does it
 */
#ifndef EFSLOCKS
#define EFSLOCKS 2
#endif
#define NOTHING 0
#define DEADFILE 8

#ifdef BREAKS
byte path = DEADFILE;
#else
byte path = NOTHING;
#endif
byte inside = 0;

active [EFSLOCKS] proctype EfsLock() {
	byte me = _pid + 1, read;
	do
	:: atomic { path == NOTHING -> path = me; inside++; assert(inside <= 1) };
		atomic { inside--; path = NOTHING } /* its release, too, removes whatever is there */
	:: atomic { path != NOTHING }; /* the create fails; now it opens the file */
		atomic { read = path };
		if
#ifndef V_KINDER
		:: read == NOTHING -> atomic { path = NOTHING }
#else
		:: read == NOTHING
#endif
		:: read == DEADFILE -> atomic { path = NOTHING }
		:: read != NOTHING && read != DEADFILE /* held: sleep */
		fi
	od
}
