//go:build unix

// Command migrate shows a fleet that moves from one store of locks to another while
// it works, and back again:
//
//	go run ./examples/migrate
//
// It starts a redis-server and 12 processes, which contend for 5 locks in a temporary
// directory (package efs). Then it does what an operator does: it takes the steps
// of the migration and, between them, restarts the processes one at a time with the
// next phase, until all take their locks in Redis and nothing is left in the directory. After that
// it goes the whole way back. No process ever waits for the migration.
//
// This process is the witness. Each worker tells it, and waits for its word, when it
// enters and leaves what the lock protects, which value it has found beside the lock,
// and which it is about to set. The witness counts
//
//	overlaps       two were in at the same time, both within their deadlines
//	disorder       a token that is not greater than the one before it on its key
//	values         one that was lost, or came back
//	stuck          a worker that got no lock for a minute
//
// and the program fails if there is one. It draws the fleet while it works, and writes
// a page (-report) with the phases, the steps, the faults, and who held what around each step.
//
// Flags:
//
//	-old URL          where the fleet comes from; default a temporary directory. redis and
//	                  etcd, without more, start a server of their own, as for -new
//	-new URL          where it goes; default redis
//	-processes N      default 12
//	-keys N           default 5
//	-acquisitions N   in all, default 2000: the fleet stays at each stage for its share
//	-legacy N         Python processes of the EfsLock protocol on the same files, until
//	                  their lock files are sealed; needs -old efs
//	-kill             kill and stop workers at random
//	-kill-operator    kill the operator's process in the middle of each step, again and again;
//	                  each time it dies with the record's lock the next one waits for 30 s
//	-away D           take each of the servers that this program has started away for
//	                  D in each phase (SIGSTOP; a directory: a file system of its own that is frozen, as root)
//	-skew D           the clock of a redis-server that this program starts is off by D
//	                  (needs cc)
//	-seed N           of what is random
//	-report FILE      the page; default none
//	-o json           one JSON object instead of a sentence
//
// The parts to copy: worker.go is what a program has to do (nothing but open another URL), and
// roll.go what an operator does, in the order in which it is safe.
package main
