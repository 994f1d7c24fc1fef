/*
 * Values: one key. That no two hold it at once is exclusion.pml's business, so a holder is
 * one at a time here, and the stage one number. A value is a number that grows with each
 * set, as its token and sequence do.
 *
 * What has to hold: nobody reads an older value than one that was set, or read, before.
 * At the last stage, when it is settled, only the store of that end is read.
 *
 * V_... are wrong variants.
 */
#define MOST 5
#define max(a,b) ((a) > (b) -> (a) : (b))
byte value[2];
byte stage = 1;               /* 1 old to 5 new */
bool settledOld = 1, settledNew;
byte known;                   /* the newest that was set or read */
byte next = 1;
byte holder;                  /* 0 none; phase+1 */
#define phaseOld  (stage <= 2)
#define phaseBoth (stage >= 2 && stage <= 4)
#define phaseNew  (stage >= 4)
#ifdef V_NOWAIT
#define nobodyLeft (true)
#else
#define nobodyLeft (holder != 2)
#endif

inline look(p, v) {
	if
#ifdef V_OWNSTORE
	:: p == 0 -> v = value[0]
	:: p == 2 -> v = value[1]
	:: p == 1 -> v = max(value[0], value[1])
#else
	:: p == 0 && settledOld -> v = value[0]
	:: p == 2 && settledNew -> v = value[1]
	:: else -> v = max(value[0], value[1])
#endif
	fi;
	assert(v >= known);
	known = v; v = 0
}

proctype Holder() {
	byte p, v, n;
	do
	:: atomic { holder == 0 && next < MOST ->
		if :: phaseOld -> p = 0 :: phaseBoth -> p = 1 :: phaseNew -> p = 2 fi;
		holder = p + 1; look(p, v) };
		atomic { n = next; next++ };
		if
		:: atomic { p == 0 -> value[0] = n; known = n }
		:: atomic { p == 2 -> value[1] = n; known = n }
		:: p == 1 && stage >= 4 -> value[1] = n; if :: atomic { value[0] = n; known = n } :: skip fi
		:: p == 1 && stage < 4 -> value[0] = n; if :: atomic { value[1] = n; known = n } :: skip fi
		:: p == 1 -> skip      /* it stops before it sets anything */
		fi;
		atomic { holder = 0; p = 0; n = 0 }
	od
}

proctype Reader() {
	byte p, v;
	do
	:: atomic {
		if :: phaseOld -> p = 0 :: phaseBoth -> p = 1 :: phaseNew -> p = 2 fi;
		look(p, v); p = 0 }
	od
}

/* The step to an end first admits nobody of phase both any more, then waits for those who
 * are there, and copies under the key's lock in the store that stays. */
proctype Operator() {
	byte x;
	do
	:: atomic { stage < 4 && !(stage == 3 && holder == 1) -> stage++; settledOld = 0; settledNew = 0 }
	:: atomic { stage > 2 && !(stage == 3 && holder == 3) -> stage--; settledOld = 0; settledNew = 0 }
	:: atomic { stage == 4 -> stage = 5 }
	:: atomic { stage == 2 -> stage = 1 }
	:: atomic { stage == 5 && !settledNew && nobodyLeft -> x = value[0] };
#ifdef V_COPYABSENT
		atomic { if :: value[1] == 0 -> value[1] = x :: else fi };
#elif defined(V_COPYOVER)
		value[1] = x;
#elif defined(V_NOCOPY)
		skip;
#else
		atomic { (holder != 3) -> value[1] = max(value[1], x) };
#endif
		atomic { if :: stage == 5 -> settledNew = 1 :: else fi; x = 0 }
	:: atomic { stage == 1 && !settledOld && nobodyLeft -> x = value[1] };
#ifdef V_COPYABSENT
		atomic { if :: value[0] == 0 -> value[0] = x :: else fi };
#elif defined(V_COPYOVER)
		value[0] = x;
#elif defined(V_NOCOPY)
		skip;
#else
		atomic { (holder != 1) -> value[0] = max(value[0], x) };
#endif
		atomic { if :: stage == 1 -> settledOld = 1 :: else fi; x = 0 }
	od
}

init { atomic { run Holder(); run Reader(); run Operator() } }
