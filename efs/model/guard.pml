/*
 * The directory guard of package efs, as PROTOCOL.md describes it: why no two are in at
 * once, be they hasp processes or processes of the lock-file protocol (EfsLock).
 * `./check` runs it, with what it is to find.
 *
 * What in the model is what in the code:
 *
 *   path           dir/lock: nothing, the guard directory, or somebody's lock file
 *   made[s]        the directory rest.<e> exists, s standing for the epoch e
 *   rest[s]        what is in it under the name "guard"
 *   ASIDE(s, p)    what is in it under the name old.<generation of p's claim>
 *   baton, owner, unfinished
 *                  the baton's name: free, dirty, or held by owner; "!" of a long way. Its
 *                  epoch is always number 0 (exchange)
 *   alive          bit p: p's lease runs, by p's own clock. Nobody takes over before
 *   sure           bit p: p has been granted the lock and may use it: hasp.Lease.Err is nil
 *   overruled      bit p: an operator has broken p's lease, or taken its guard away
 *   inside         bit q: EfsLock process q works, and no other of its kind has removed its
 *                  file. Whom another has robbed is nobody's that hasp could protect
 *   doubt          an answer of this grant was unknown, or its lease had run out
 *   lengthy        this grant is on the long way; at its end the baton is dirty
 *   shortWay, longWay, stale, holds, release, giveBack
 *                  the steps of PROTOCOL.md. A step of the model is one request
 *
 * What can go wrong:
 *
 *   - A step is one request, executed at any time after the one before: its sender may be
 *     stopped, or dead, before each. Whoever gets an answer looks at its lease, and sends
 *     nothing more once that has run out; so at most one request of a lease is executed
 *     after its end.
 *   - TWICE: a request that moves something is executed a second time, later.
 *   - LATE=n: n times, one at a time, a sender gets no answer and goes on; the request is
 *     executed at any later time, or never.
 *   - BREAK: an operator breaks leases of living holders.
 *   - HANDS: an operator removes the guard from the path by hand.
 *   - STALE: files of dead EfsLock processes are moved aside (else they are waited for).
 *   - ALONE: at any time everything stops for ever, and one new process has to get the
 *     lock within a few turns: no state is a dead end.
 *
 * Epochs are numbers that only grow. Here a number that no name and no memory has any
 * more is given out again, or there would be no end of states.
 *
 * Not in the model: heartbeats where nothing can have happened to the guard, files that
 * somebody puts into the guard, a guard that cannot be moved at all (EXDEV), and what
 * happens to users' data once a lease has run out. Whoever holds ends its use by its own
 * clock before anyone takes over (Time takes alive and sure at once): that is argued in
 * PROTOCOL.md, and is not shown here.
 *
 * V_... are wrong variants, each of which was thought of. check has to see them refuted.
 */

#ifndef HASPS
#define HASPS 2
#endif
#ifndef EFSLOCKS
#define EFSLOCKS 1
#endif
#ifdef ALONE
#define PROCS (HASPS+1)
#define MAYRUN (stopped == newcomer)
#define WORLD (!stopped)
#else
#define PROCS HASPS
#define newcomer 0
#define MAYRUN true
#define WORLD true
#endif
#define EPOCHS (HASPS+3)
#define NOEPOCH 15
#define NOTMINE 14

/* what is at a name; 1 to EFSLOCKS is the file of that EfsLock process, which is in */
#define NOTHING 0
#define DEADFILE 8
#define GUARD 9
#define FILE(x) ((x) != NOTHING && (x) != GUARD)
#define LIVING(x) ((x) != NOTHING && (x) < DEADFILE)

/* answers */
#define DONE 0
#define NOENT 1
#define REFUSED 2
#define UNKNOWN 3

#define FREE 0
#define DIRTY 1
#define HELD 2

#define ONE(p) (1 << (p))
#define LEASED(p) ((alive >> (p)) & 1)
#define MINE(p) (baton == HELD && owner == (p))

byte path = NOTHING;
bool made[EPOCHS];
byte rest[EPOCHS];
#ifdef STALE
#define NAMES (PROCS+1) /* the last is of a generation whose request is late: its process has another by then */
byte asides[EPOCHS*NAMES];
#ifdef V_SHAREDASIDE
#define ASIDE(s, p) asides[(s)*NAMES]
#else
#define ASIDE(s, p) asides[(s)*NAMES+(p)]
#endif
#endif
byte baton = FREE, owner = 0;
bool unfinished = false;
byte alive = 0, sure = 0, overruled = 0, inside = 0;

/* epochs that a process has in mind: the one it works in, one it makes, one it sweeps */
byte works[PROCS], makes[PROCS], sweeps[PROCS];

#ifdef LATE
byte late = 0; /* how many there have been */
#endif
byte lateWhat = 0, lateEpoch = NOEPOCH;  /* a request under way: 1 up, 2 down, 3 aside */
#if defined(HANDS) || defined(V_NOFENCE)
#define MAYBEGONE true /* the guard may be gone */
#else
#define MAYBEGONE false
#endif
#ifdef HANDS
#define BETWEEN between = between | ONE(me)
bool acted = false, excused = false; /* the operator has; between a holder's look and its move down */
byte between = 0;
#else
#define BETWEEN skip
#endif
bool stopped = false, won = false;
byte i, j, count; /* within a step only */

/* Nobody is in beside a hasp process that may use the lock. */
inline exclusion() {
	assert((sure & (sure - 1)) == 0);
	assert(sure == 0 || inside == 0)
}

/* The file of EfsLock process q counts no more: it has left, was robbed, or is too old. */
inline leaves(q) {
	if :: path == q -> path = DEADFILE :: else fi;
#ifdef HANDS
	for (i : 0 .. EPOCHS-1) { if :: rest[i] == q -> rest[i] = DEADFILE :: else fi }
#endif
#ifdef STALE
	for (i : 0 .. EPOCHS*NAMES-1) { if :: asides[i] == q -> asides[i] = DEADFILE :: else fi }
#endif
	i = 0;
	inside = inside & ~ONE(q)
}

/* ---- what the file system does ---- */

inline fsUp(s) { /* RENAME rest.s/guard lock: a directory goes onto nothing but an empty directory */
	if
	:: s == NOEPOCH || !made[s] || rest[s] == NOTHING -> answer = NOENT
	:: else ->
		if
		:: path == NOTHING -> path = rest[s]; rest[s] = NOTHING; answer = DONE
		:: else -> answer = REFUSED
		fi
	fi
}

inline fsDown(s) { /* RENAME lock rest.s/guard */
	if
	:: s == NOEPOCH || !made[s] || path == NOTHING -> answer = NOENT
	:: else ->
		if
		:: rest[s] == NOTHING ->
#ifdef HANDS
			assert(path == GUARD || excused);
#else
			assert(path == GUARD); /* no file of an EfsLock process is carried off */
#endif
			rest[s] = path; path = NOTHING; answer = DONE
		:: else -> answer = REFUSED
		fi
	fi
}

inline fsRemoveRest(s) { /* RMDIR rest.s */
	if
	:: s == NOEPOCH || !made[s] -> answer = DONE
	:: else ->
		count = (rest[s] != NOTHING);
#ifdef STALE
		for (j : 0 .. NAMES-1) { count = count + (ASIDE(s, j) != NOTHING) }
		j = 0;
#endif
		/* a request under way to a place that is gone for ever does nothing any more: it is forgotten */
		if :: count == 0 -> made[s] = false; answer = DONE; if :: lateEpoch == s -> lateWhat = 0; lateEpoch = NOEPOCH :: else fi :: else -> answer = REFUSED fi;
		count = 0
	fi
}

/* ---- how a request goes ---- */

/* One request. Its sender looks at its lease when the answer comes, and stops if that has run out. */
#define STEP(effect) atomic { d_step { MAYRUN -> effect; ok = LEASED(me) }; if :: !ok -> goto expired :: else fi }

#ifdef TWICE
#define OR_TWICE(effect) :: d_step { MAYRUN && LEASED(me) -> effect; answer = 0 }; STEP(effect)
#else
#define OR_TWICE(effect)
#endif
#ifdef LATE
#define OR_LATE(what, s) \
	:: atomic { d_step { MAYRUN && !stopped && lateWhat == 0 && late < LATE && (LATE > 1 || me == 0) -> late++; \
		lateWhat = what; lateEpoch = s; ok = LEASED(me); doubt = doubt || ok; answer = UNKNOWN }; \
		if :: !ok -> goto expired :: else fi }
#else
#define OR_LATE(what, s)
#endif
#if LATE == 1
#define OR_LATE_ONCE(what, s) OR_LATE(what, s)
#else
#define OR_LATE_ONCE(what, s)
#endif

inline moveUp(s)   { if :: STEP(fsUp(s))   OR_TWICE(fsUp(s))   OR_LATE(1, s) fi }
inline moveDown(s) { if :: STEP(fsDown(s)) OR_TWICE(fsDown(s)) OR_LATE(2, s) fi }
inline look()      { STEP(seen = path) }

#ifdef STALE
inline fsAside(s, p) { /* RENAME lock rest.s/old.M, onto a plain file put there before, so that a directory does not go */
	if
	:: s == NOEPOCH || !made[s] || path == NOTHING -> answer = NOENT
	:: else -> if :: path == GUARD -> answer = REFUSED :: else -> ASIDE(s, p) = path; path = NOTHING; answer = DONE fi
	fi
}
inline fsBack(s) { /* LINK rest.s/old.M lock */
	answer = REFUSED;
	if
	:: made[s] && path == NOTHING -> path = ASIDE(s, me); answer = DONE
	:: made[s] && path != NOTHING && path == ASIDE(s, me) -> answer = DONE
	:: else
	fi
}
inline fsMakeOwn(s) { /* RENAME rest.s/old.<other> rest.s/old.M, of one, if this process has none */
	if
	:: made[s] && ASIDE(s, me) == NOTHING ->
		do :: j < NAMES && ASIDE(s, j) == NOTHING -> j++ :: else -> break od;
		if :: j < NAMES -> ASIDE(s, me) = ASIDE(s, j); ASIDE(s, j) = NOTHING :: else fi;
		j = 0
	:: else
	fi
}
inline moveAside(s) { if :: STEP(fsAside(s, me)) OR_TWICE(fsAside(s, me)) OR_LATE_ONCE(3, s) fi }
inline lookAside(s) { STEP(seen = (made[s] -> ASIDE(s, me) : NOTHING)) }
inline dropAside(s) { STEP(seen = 0; if :: made[s] -> ASIDE(s, me) = NOTHING :: else fi) }
#endif

inline fsMakeRest() { /* MKDIR rest.M: a number that nothing has */
	do
	:: j < EPOCHS ->
		count = made[j] || j == 0 || lateEpoch == j;
		for (i : 0 .. PROCS-1) { count = count || works[i] == j || makes[i] == j || sweeps[i] == j }
		if :: count -> j++ :: else -> break fi
	:: else -> break
	od;
	assert(j < EPOCHS);
	count = 0;
	for (i : 0 .. EPOCHS-1) { count = count + made[i] }
	assert(count <= HASPS + 1); /* what the dead leave does not pile up */
	makes[me] = j; made[j] = true; rest[j] = NOTHING;
	i = 0; j = 0; count = 0
}

inline fsListOthers() { /* a directory to sweep; the same listing shows the own baton, so all others are older */
	do :: j < EPOCHS && (!made[j] || j == works[me]) -> j++ :: else -> break od;
	sweeps[me] = (j < EPOCHS -> j : NOEPOCH);
	j = 0;
#ifndef V_SWEEPALL
	if :: !MINE(me) -> sweeps[me] = NOTMINE :: else fi
#endif
}

/* Epochs are only names: that of the baton is always number 0 here. */
#define OTHER(x, k) (x == 0 -> k : (x == k -> 0 : x))
inline exchange(k) { /* epochs 0 and k change their numbers */
	for (i : 0 .. PROCS-1) {
		works[i] = OTHER(works[i], k);
		if :: i != me -> makes[i] = OTHER(makes[i], k) :: else fi;
		sweeps[i] = OTHER(sweeps[i], k)
	}
	lateEpoch = OTHER(lateEpoch, k);
	i = made[0]; made[0] = made[k]; made[k] = i;
	i = rest[0]; rest[0] = rest[k]; rest[k] = i;
#ifdef STALE
	for (j : 0 .. NAMES-1) { i = asides[j]; asides[j] = asides[k*NAMES+j]; asides[k*NAMES+j] = i }
	j = 0;
#endif
	i = 0
}

inline believe() { if :: LEASED(me) && !(overruled & ONE(me)) -> sure = sure | ONE(me); exclusion() :: else fi }

/* What a process has in mind of a lease that is over. */
inline forget() {
	works[me] = NOEPOCH; makes[me] = NOEPOCH; sweeps[me] = NOEPOCH;
	alive = alive & ~ONE(me); sure = sure & ~ONE(me); overruled = overruled & ~ONE(me);
#ifdef HANDS
	between = between & ~ONE(me);
#endif
	doubt = false; lengthy = false; answer = 0; seen = 0; ok = false
}

/* A rename of the baton, which only its present holder can make. */
#define ASHOLDER(effect) atomic { d_step { MAYRUN -> \
	if :: MINE(me) -> alive = alive | ONE(me); effect; ok = true :: else -> forget() fi }; \
	if :: !ok -> goto begin :: else fi }

#ifdef ALONE
#define TURN skip; d_step { if :: newcomer -> turns++; assert(turns <= 12) :: else fi }
#else
#define TURN skip
#endif

/* ---- a hasp process ---- */

inline hasp() {
	skip;
begin:	TURN;
	/* The baton's name says free, dirty, or held by one whose lease has run out. The rename works only from
	 * the name that was read. So reading and renaming are one step. */
	d_step { MAYRUN && (baton != HELD || !LEASED(owner)) ->
		lengthy = (baton != FREE); works[me] = 0; baton = HELD; owner = me; unfinished = lengthy; alive = alive | ONE(me) };
	if :: lengthy -> goto longWay :: else fi;

shortWay: TURN;
	moveUp(works[me]);
#ifdef V_NOLOOKUP
	if :: answer == DONE -> STEP(believe()); goto holds :: else fi;
#endif
	STEP(seen = path; if :: seen == GUARD -> believe() :: else fi); /* whatever the answer was */
	if
	:: seen == GUARD -> goto holds
	:: FILE(seen) ->
#ifdef STALE
		if :: seen == DEADFILE && !doubt -> goto stale :: else -> goto giveBack fi
#else
		goto giveBack
#endif
	:: seen == NOTHING && answer != NOENT -> goto shortWay
	:: else
	fi;
	/* neither at rest nor at the path */
	ASHOLDER(unfinished = true; lengthy = true; answer = 0; seen = 0);

longWay: TURN;
#ifdef STALE
	/* what earlier ones have moved aside, and may be about to remove or to put back */
	STEP(fsMakeOwn(works[me]));
	lookAside(works[me]);
	if
	:: seen == DEADFILE -> dropAside(works[me]); goto longWay
	:: LIVING(seen) ->
		STEP(fsBack(works[me]));
		if :: answer == DONE -> dropAside(works[me]) :: else fi;
		goto giveBack
	:: else
	fi;
#endif
	moveUp(works[me]);
	look();
	if
	:: FILE(seen) && made[works[me]] -> /* else the fence stands already, and the file is for the new epoch */
#ifdef STALE
		if :: seen == DEADFILE && !doubt -> goto stale :: else -> goto giveBack fi
#else
		goto giveBack
#endif
	:: seen == NOTHING && answer != NOENT -> goto longWay
	:: else
	fi;
#ifdef V_FIXEDPLACE
	/* no epochs: the one place to rest stays, and a guard that is nowhere is made there */
	if :: seen == NOTHING -> STEP(rest[works[me]] = GUARD); goto longWay :: else fi;
	ASHOLDER(unfinished = false; lengthy = false; if :: seen == GUARD -> believe() :: else fi);
	if :: seen == GUARD -> goto holds :: else -> goto shortWay fi;
#endif
	/* the fence: what earlier holders have sent finds no such directory from here on */
#ifdef V_NOFENCE
	answer = DONE;
#else
	STEP(seen = 0; fsRemoveRest(works[me]));
#endif
	if :: answer != DONE -> goto longWay :: else fi;
	STEP(seen = path; assert(seen == GUARD || MAYBEGONE || !LEASED(me) || !MINE(me) || (overruled & ONE(me))));
sweep:	skip; /* directories of takers that came to nothing */
	STEP(fsListOthers());
	if
	:: sweeps[me] == NOTMINE -> goto expired
	:: sweeps[me] < EPOCHS ->
		STEP(if :: made[sweeps[me]] -> rest[sweeps[me]] = NOTHING :: else fi; fsRemoveRest(sweeps[me]); answer = DONE; sweeps[me] = NOEPOCH);
		goto sweep
	:: else
	fi;
	STEP(fsMakeRest());
	if :: seen != GUARD -> STEP(if :: made[makes[me]] -> rest[makes[me]] = GUARD :: else fi) :: else fi;
	ASHOLDER(unfinished = false; lengthy = false; exchange(makes[me]); works[me] = 0; makes[me] = NOEPOCH;
		if :: seen == GUARD -> believe() :: else fi);
	if :: seen == GUARD -> goto holds :: else -> goto shortWay fi;

#ifdef STALE
stale:	skip;
	moveAside(works[me]);
#ifndef V_ASIDEUNKNOWN
	/* it may yet be executed, and take away the file of one that is in: no more is done here, and the next goes the long way */
	if :: answer == UNKNOWN -> goto giveBack :: else fi;
#endif
	lookAside(works[me]);
	if
	:: LIVING(seen) -> /* another came between the look and the move */
		STEP(fsBack(works[me]));
		if :: answer == DONE -> dropAside(works[me]) :: else -> doubt = true fi;
		goto giveBack
	:: seen == DEADFILE -> dropAside(works[me])
	:: else
	fi;
	d_step { seen = 0; answer = 0 };
	if :: lengthy -> goto longWay :: else -> goto shortWay fi;
#endif

holds:	skip;
	d_step { seen = 0; answer = 0 };
	if :: newcomer -> goto done :: else fi;
#ifdef HANDS
	do /* heartbeats: before the operator has acted they change nothing */
	:: acted -> ASHOLDER(skip);
		STEP(seen = path; if :: seen != GUARD -> sure = sure & ~ONE(me) :: else fi);
		if
		:: seen == GUARD
		:: FILE(seen) -> goto release
		:: else -> moveUp(works[me])
		fi;
		d_step { seen = 0; answer = 0 }
	:: break
	od;
#endif
release: skip;
	STEP(sure = sure & ~ONE(me));
#ifdef V_BATONFIRST
	d_step { MAYRUN -> if :: MINE(me) -> baton = FREE; owner = 0; unfinished = false :: else fi };
#endif
#ifndef V_NOLOOKDOWN
	STEP(seen = path; BETWEEN);
	if :: seen != GUARD -> doubt = true; goto giveBack :: else fi;
#endif
	moveDown(works[me]);
	if
	:: answer == DONE
	:: else -> STEP(seen = (made[works[me]] -> rest[works[me]] : NOTHING)); if :: seen != GUARD -> doubt = true :: else fi
	fi;
giveBack: skip;
	d_step { MAYRUN ->
		if
		:: MINE(me) ->
#ifdef V_CLEANAFTERDOUBT
			baton = (lengthy -> DIRTY : FREE);
#else
			baton = (doubt || lengthy -> DIRTY : FREE);
#endif
			owner = 0; unfinished = false
		:: else
		fi;
		forget() };
	goto begin;

expired: skip; /* it does no more; or its user calls Release now, which heartbeats first */
	if
	:: d_step { MAYRUN -> forget() }; goto begin
	:: d_step { MAYRUN && !stopped && MINE(me) && !unfinished -> alive = alive | ONE(me); seen = 0; answer = 0; ok = false;
#ifndef V_CLEANLATERELEASE
		doubt = true
#endif
	   }; goto release
	fi;
done:	skip
}

proctype Hasp(byte me) {
	byte answer, seen;
	bool doubt, lengthy, ok;
#ifdef ALONE
	byte turns; bool newcomer = false;
#endif
	hasp()
}

/* Everything that a process of the lock-file protocol can do. After its failed create it reads and removes
 * at any later time, so there may be a removal of any file at any time. A directory it cannot remove. */
proctype EfsLock(byte me) {
	byte x;
	do
	:: d_step { WORLD && FILE(path) -> x = path; path = NOTHING; if :: x != DEADFILE -> leaves(x) :: else fi; x = 0 }
	:: d_step { WORLD && path == NOTHING -> path = me; inside = inside | ONE(me); exclusion() };
		if :: skip :: d_step { WORLD -> leaves(me) } /* it outlives its own timeout, or dies */ fi;
		d_step { WORLD -> leaves(me); x = path; if :: FILE(x) -> path = NOTHING; if :: x != DEADFILE -> leaves(x) :: else fi :: else fi; x = 0 }
	od
}

proctype Time() {
	do
	:: d_step { WORLD && LEASED(0) -> alive = alive & ~1; sure = sure & ~1 }
#if HASPS > 1
	:: d_step { WORLD && LEASED(1) -> alive = alive & ~2; sure = sure & ~2 }
#endif
#if HASPS > 2
	:: d_step { WORLD && LEASED(2) -> alive = alive & ~4; sure = sure & ~4 }
#endif
	od
}

#ifdef LATE
proctype Network() {
	byte answer;
	do
	:: d_step { WORLD && lateWhat != 0 ->
		if
		:: lateWhat == 1 -> fsUp(lateEpoch)
		:: lateWhat == 2 -> fsDown(lateEpoch)
#ifdef STALE
		:: lateWhat == 3 -> fsAside(lateEpoch, PROCS)
#endif
		fi;
		lateWhat = 0; lateEpoch = NOEPOCH; answer = 0 }
	:: d_step { WORLD && lateWhat != 0 -> lateWhat = 0; lateEpoch = NOEPOCH }
	od
}
#endif

#if defined(BREAK) || defined(HANDS)
proctype Operator() {
#ifdef BREAK
	do
	:: d_step { WORLD && baton == HELD && LEASED(owner) -> overruled = overruled | ONE(owner); sure = sure & ~ONE(owner);
#ifdef V_BREAKTOFREE
		baton = FREE;
#else
		baton = DIRTY;
#endif
		owner = 0; unfinished = false }
	od
#else
	d_step { WORLD && path == GUARD -> path = NOTHING; acted = true; excused = (between != 0);
		if :: baton == HELD -> overruled = overruled | ONE(owner); sure = sure & ~ONE(owner) :: else fi }
#endif
}
#endif

#ifdef ALONE
proctype Newcomer(byte me) {
	byte answer, seen, turns;
	bool doubt, lengthy, ok, newcomer = true;
	(stopped);
	hasp();
	won = true
}
proctype Stop() {
	d_step {
		alive = 0; sure = 0; leaves(1);
#ifndef STALE
		if :: path == DEADFILE -> path = NOTHING :: else fi;
#endif
		stopped = true };
	timeout -> assert(won)
}
#endif

init {
	atomic {
		d_step {
			for (i : 0 .. PROCS-1) { works[i] = NOEPOCH; makes[i] = NOEPOCH; sweeps[i] = NOEPOCH }
			i = 0; made[0] = true; rest[0] = GUARD };
		run Hasp(0);
#if HASPS > 1
		run Hasp(1);
#endif
#if HASPS > 2
		run Hasp(2);
#endif
		run EfsLock(1);
#if EFSLOCKS > 1
		run EfsLock(2);
#endif
		run Time();
#ifdef LATE
		run Network();
#endif
#if defined(BREAK) || defined(HANDS)
		run Operator();
#endif
#ifdef ALONE
		run Newcomer(HASPS);
		run Stop();
#endif
	}
}
