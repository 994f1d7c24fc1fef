/*
 * Who holds: phases, stages and steps, for one key.
 *
 * A process of a phase takes the locks that its phase takes, looks at the record of each
 * store whose lock it holds, and works, or gives back. It may be delayed for any time between any
 * two of these. Operators take steps; each may stop after any request, for ever. A store may
 * lose a lock at any time (its TTL has run out, or somebody has broken it): its holder has noticed
 * by then, or will give no harm that the deadline does not cover, so it is not counted as one that
 * holds, except after a wipe, which no deadline covers: then it works on until it notices.
 *
 * What has to hold: no two are at work at once.
 *
 * Macros: OPS operators, WIPES wipes of a store, START the first stage (1 old to 5 new).
 * V_... are wrong variants.
 */
#ifndef OPS
#define OPS 1
#endif
#ifndef WIPES
#define WIPES 0
#endif
#ifndef START
#define START 1
#endif
#define PROCS 2
#define NONE 0
#define BOTHSTAGE 3
#define OLDST 0
#define NEWST 1

/* lock[s] is who holds in store s; kind[s] the phase that the holder's record tells (0 old, 1 both, 2 new) */
byte lock[2]; byte kind[2];
byte stage[2] = START;
byte latch[2];                /* the record's own lock, by operator */
bool valid[PROCS+1];          /* it holds all that it took, or may believe so after a wipe */
bool working[PROCS+1];
byte robbed[PROCS+1];         /* 1: a store that was wiped has forgotten it, and it does not know */
byte wipesLeft = WIPES;

#define admitsOld(s)  (stage[s] == 1 || stage[s] == 2)
#define admitsBoth(s) (stage[s] >= 2 && stage[s] <= 4)
#define admitsNew(s)  (stage[s] >= 4)
#ifdef V_MISSING
#undef admitsOld
#undef admitsBoth
#undef admitsNew
#define admitsOld(s)  (stage[s] <= 2)
#define admitsBoth(s) (stage[s] == 0 || (stage[s] >= 2 && stage[s] <= 4))
#define admitsNew(s)  (stage[s] == 0 || stage[s] >= 4)
#endif

inline grab(s, ph) { lock[s] = me; kind[s] = ph }
inline drop(s) { if :: lock[s] == me -> lock[s] = NONE; kind[s] = 0 :: else fi }
inline work() {
	working[me] = 1;
	assert(!(valid[me] && valid[3-me] && working[me] && working[3-me]))
}
inline begin() { valid[me] = 1; robbed[me] = 0 }
inline over() { valid[me] = 0; working[me] = 0; robbed[me] = 0 }

proctype Process(byte me) {
	bool yes;
again:
	yes = 0;
	if
	:: true -> /* phase old */
#ifdef V_READFIRST
		yes = admitsOld(OLDST);
#endif
		atomic { lock[OLDST] == NONE -> grab(OLDST, 0); begin() };
#ifndef V_READFIRST
		atomic { yes = admitsOld(OLDST);
			if :: yes -> yes = 0; work() :: else fi };
#else
		atomic { if :: yes -> work() :: else fi };
#endif
		atomic { yes = 0; over(); drop(OLDST) }
	:: true -> /* phase new */
#ifdef V_READFIRST
		yes = admitsNew(NEWST);
#endif
		atomic { lock[NEWST] == NONE -> grab(NEWST, 2); begin() };
#ifndef V_READFIRST
		atomic { yes = admitsNew(NEWST);
			if :: yes -> yes = 0; work() :: else fi };
#else
		atomic { if :: yes -> work() :: else fi };
#endif
		atomic { over(); drop(NEWST) }
	:: true -> /* phase both */
		atomic { lock[OLDST] == NONE -> grab(OLDST, 1); begin() };
		if
		:: atomic { lock[NEWST] == NONE -> grab(NEWST, 1) }
		:: atomic { lock[NEWST] != NONE -> over(); drop(OLDST); goto again }
		fi;
		atomic { yes = admitsBoth(OLDST) };
		atomic {
			yes = yes && admitsBoth(NEWST);
			if :: yes -> yes = 0; work() :: else fi };
		atomic { over(); drop(NEWST) };   /* new first, old last */
		atomic { drop(OLDST) }
	fi;
	goto again
}

#ifdef V_NOFENCE
#define mine(s) (true)
#else
#define mine(s) (latch[s] == me)
#endif
#define oldOnly (lock[OLDST] != NONE && kind[OLDST] == 0)
#define newOnly (lock[NEWST] != NONE && kind[NEWST] == 2)

/* write puts a record, if its lock is still held there; else the step is over */
inline write(s, to) {
	atomic { if :: mine(s) -> stage[s] = to :: else -> goto leave fi }
}

proctype Operator(byte me) {
	byte o, n, from, to;
#ifdef V_LISTEARLY
	bool clean;
#endif
again:
	atomic { latch[OLDST] == NONE -> latch[OLDST] = me };
	atomic { latch[NEWST] == NONE -> latch[NEWST] = me };
	o = stage[OLDST];
	atomic { n = stage[NEWST];
#ifdef V_HALF   /* half a step taken for a whole one: what the old store says is taken for both */
		if :: o != 0 && n != 0 -> n = o :: else fi;
#endif
		if
		:: o == 0 && n == 0 -> goto leave
		:: (o == 0) != (n == 0) -> goto repair
		:: else
		fi;
		/* both are the step's from or its to */
		if
		:: o == n && o < 5 -> from = o; to = o + 1
		:: o == n && o > 1 -> from = o; to = o - 1
		:: o != n -> from = o; to = n
		:: o != n -> from = n; to = o
		fi;
#ifdef V_UNLISTED  /* the record of the store that is not listed is asked only */
		if :: from == BOTHSTAGE && to == 4 && n != BOTHSTAGE -> goto leave
		:: from == BOTHSTAGE && to == 2 && o != BOTHSTAGE -> goto leave
		:: else fi;
#else
		if :: from == BOTHSTAGE && (o != BOTHSTAGE || n != BOTHSTAGE) -> goto leave :: else fi;
#endif
#ifdef V_UNLISTED
		if :: n == BOTHSTAGE -> from = BOTHSTAGE; to = 4
		:: o == BOTHSTAGE -> from = BOTHSTAGE; to = 2
		:: true fi;
#endif
	};
#ifdef V_NOLIST
#elif defined(V_LISTEARLY)  /* the listing is made before "both" is written */
	atomic {
		if
		:: from == BOTHSTAGE -> if :: clean -> clean = 0 :: else -> goto leave fi
		:: from == 2 && to == BOTHSTAGE -> clean = !oldOnly
		:: from == 4 && to == BOTHSTAGE -> clean = !newOnly
		:: else
		fi };
#else
	atomic {
		if
		:: from == BOTHSTAGE && to == 4 && oldOnly -> goto leave
		:: from == BOTHSTAGE && to == 2 && newOnly -> goto leave
		:: else
		fi };
#endif
	atomic { o = 0; n = 0 };
#if !defined(V_NOSECONDLOOK) && !defined(V_UNLISTED) && !defined(V_HALF)
	if
	:: from == BOTHSTAGE ->
		atomic { if :: stage[OLDST] == BOTHSTAGE :: else -> goto leave fi };
		atomic { if :: stage[NEWST] == BOTHSTAGE :: else -> goto leave fi }
	:: else
	fi;
#endif
#ifdef V_ANYORDER
	if
	:: write(NEWST, to); if :: skip :: goto leave fi; write(OLDST, to); goto leave
	:: true
	fi;
#endif
	write(OLDST, to);
	if :: skip :: goto leave fi;          /* killed in between, or the second write fails */
	write(NEWST, to);
leave:
	atomic { o = 0; n = 0; from = 0; to = 0;     /* what is not needed any more makes no states */
		if :: latch[NEWST] == me -> latch[NEWST] = NONE :: else fi;
		if :: latch[OLDST] == me -> latch[OLDST] = NONE :: else fi;
		goto again };
repair:
#ifndef V_NOWAIT
	(!robbed[1] && !robbed[2]);           /* the longest TTL has passed */
#endif
	if
	:: o == 0 -> write(OLDST, n)
	:: else -> write(NEWST, o)
	fi;
	goto leave
}

inline lose(s) {
#ifdef V_LOOSE   /* who has lost one of two still believes */
	if :: kind[s] == 1 && lock[1-s] == lock[s] :: else -> valid[lock[s]] = 0 fi;
#else
	valid[lock[s]] = 0;
#endif
	lock[s] = NONE; kind[s] = 0
}

proctype World() {
	do
	:: atomic { lock[OLDST] != NONE -> lose(OLDST) }
	:: atomic { lock[NEWST] != NONE -> lose(NEWST) }
	:: atomic { latch[OLDST] != NONE -> latch[OLDST] = NONE }
	:: atomic { latch[NEWST] != NONE -> latch[NEWST] = NONE }
#if WIPES > 0
	:: atomic { wipesLeft > 0 && stage[OLDST] != 0 && stage[NEWST] != 0 -> wipesLeft--;
		if :: lock[OLDST] != NONE -> robbed[lock[OLDST]] = 1 :: else fi;
		lock[OLDST] = NONE; kind[OLDST] = 0; stage[OLDST] = 0; latch[OLDST] = NONE }
	:: atomic { wipesLeft > 0 && stage[OLDST] != 0 && stage[NEWST] != 0 -> wipesLeft--;
		if :: lock[NEWST] != NONE -> robbed[lock[NEWST]] = 1 :: else fi;
		lock[NEWST] = NONE; kind[NEWST] = 0; stage[NEWST] = 0; latch[NEWST] = NONE }
	/* it notices: its renewal is refused, or its deadline has come */
	:: atomic { robbed[1] -> robbed[1] = 0; valid[1] = 0 }
	:: atomic { robbed[2] -> robbed[2] = 0; valid[2] = 0 }
#endif
	od
}

init {
	atomic {
		run World(); run Process(1); run Process(2); run Operator(8);
#if OPS > 1
		run Operator(9)
#endif
	}
}
