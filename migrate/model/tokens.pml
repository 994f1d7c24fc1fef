/*
 * Tokens: one key, two stores, whose clocks are constants and so as far apart as can be
 * (OLDCLOCK, NEWCLOCK). A store grants max(last+1, floor+1, clock).
 *
 * What has to hold: whoever is handed a token gets a greater one than everybody before, and
 * one that was overtaken and does not know it yet has none above that of the one who overtook it.
 *
 * V_... are wrong variants.
 */
#ifndef OLDCLOCK
#define OLDCLOCK 0
#endif
#ifndef NEWCLOCK
#define NEWCLOCK 0
#endif
#ifndef MOST
#define MOST 4
#endif
#define max(a,b) ((a) > (b) -> (a) : (b))
byte lock[2], last[2], kind[2];
byte stage[2] = 1, floor[2];
byte highest;
bool valid[3], handed[3]; byte token[3];
#define admitsOld(s)  (stage[s] == 1 || stage[s] == 2)
#define admitsBoth(s) (stage[s] >= 2 && stage[s] <= 4)
#define admitsNew(s)  (stage[s] >= 4)

inline drop(s) { if :: lock[s] == me -> lock[s] = 0; kind[s] = 0 :: else fi }
/* The engine hands out what it was granted, unless the deadline has come. The last thing
 * that a process of phase both asks a store for is the look, which tells nothing of the lock, so
 * that it may have been overtaken by then. */
inline hand(t) {
	if
	:: valid[me] -> assert(t > highest); highest = t; handed[me] = 1; token[me] = t
	:: else -> assert(!(handed[3-me] && valid[3-me] && token[3-me] <= t))
	fi
}
inline over() { handed[me] = 0; token[me] = 0; valid[me] = 0 }

proctype Process(byte me) {
	byte t, u; bool yes;
again:
	t = 0; u = 0;
	if
	:: atomic { lock[0] == 0 && last[0] < MOST -> lock[0] = me; kind[0] = 0; valid[me] = 1; t = max(last[0]+1, OLDCLOCK); last[0] = t };
		atomic { if
			:: admitsOld(0) ->
#ifdef V_NOFLOOR
				hand(t)
#else
				if :: t > floor[0] -> hand(t) :: else -> last[0] = max(last[0], floor[0]) fi
#endif
			:: else fi };
		atomic { over(); drop(0) }
	:: atomic { lock[1] == 0 && last[1] < MOST -> lock[1] = me; kind[1] = 2; valid[me] = 1; t = max(last[1]+1, NEWCLOCK); last[1] = t };
		atomic { if
			:: admitsNew(1) ->
#ifdef V_NOFLOOR
				hand(t)
#else
				if :: t > floor[1] -> hand(t) :: else -> last[1] = max(last[1], floor[1]) fi
#endif
			:: else fi };
		atomic { over(); drop(1) }
	:: atomic { lock[0] == 0 && last[0] < MOST && last[1] < MOST -> lock[0] = me; kind[0] = 1; valid[me] = 1;
			t = max(last[0]+1, OLDCLOCK);
			/* it may ask for a lead */
			if :: true :: t < MOST-1 -> t = t + 1 fi;
			last[0] = t };
		if
		:: atomic { lock[1] == 0 -> lock[1] = me; kind[1] = 1;
#ifdef V_NOOLDFLOOR
			u = max(last[1]+1, NEWCLOCK);
#else
			u = max(t, max(last[1]+1, NEWCLOCK));   /* not below the old store's: the same one is good enough */
#endif
			last[1] = u }
		:: atomic { lock[1] != 0 -> over(); drop(0); goto again }
		fi;
#ifdef V_NORAISE
		skip;
#elif defined(V_RAISEEQUAL)
		if :: u > t+1 -> last[0] = max(last[0], u) :: else fi;
#else
		if
		:: u > t ->
			last[0] = max(last[0], u);
#ifndef V_NORENEWAL
			atomic { if :: lock[0] == me :: else -> goto back fi };
#endif
		:: else
		fi;
#endif
		atomic { yes = admitsBoth(0) };
		atomic { if :: yes && admitsBoth(1) -> hand(u) :: else fi };
back:
		atomic { over(); drop(1) };
		atomic { drop(0) }
	fi;
	yes = 0;
	goto again
}

proctype Operator() {
	byte f;
	do
	:: atomic { stage[0] == stage[1] && stage[0] < 5 && !(stage[0] == 3 && lock[0] != 0 && kind[0] == 0) ->
		if :: stage[0] == 3 -> f = max(max(floor[0], floor[1]), max(last[0], last[1])) :: else -> f = max(floor[0], floor[1]) fi;
		floor[0] = f; stage[0]++ };
		atomic { floor[1] = f; stage[1] = stage[0]; f = 0 }
	:: atomic { stage[0] == stage[1] && stage[0] > 1 && !(stage[0] == 3 && lock[1] != 0 && kind[1] == 2) ->
		if :: stage[0] == 3 -> f = max(max(floor[0], floor[1]), max(last[0], last[1])) :: else -> f = max(floor[0], floor[1]) fi;
		floor[0] = f; stage[0]-- };
		atomic { floor[1] = f; stage[1] = stage[0]; f = 0 }
	od
}

proctype World() {
	do
	:: atomic { lock[0] != 0 -> valid[lock[0]] = 0; lock[0] = 0; kind[0] = 0 }
	:: atomic { lock[1] != 0 -> valid[lock[1]] = 0; lock[1] = 0; kind[1] = 0 }
	od
}

init { atomic { run World(); run Process(1); run Process(2); run Operator() } }
