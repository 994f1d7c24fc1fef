// Command sweep is what hasp was made for: processes that share a directory and
// want a hyperparameter sweep created exactly once.
//
//	go run -v ./examples/sweep
//
// With -v Go names the packages that it compiles the first time.
//
// It starts 8 processes. Each reads sweep.yaml, looks whether config.yaml of that
// sweep is there, and if not creates the sweep under the lock <dir>/<sweep>/lock:
// a file in runs/ for each combination of parameters, and config.yaml last, which
// says that the sweep is complete. One of them does it and the others find it.
//
// With -crash the first to hold the lock is killed (SIGKILL) half-way. The lock
// becomes stale when -timeout has passed, another process takes it over, finds a
// sweep half made, and completes it.
//
// With -keep there is no directory that the processes share: the first to hold the
// lock chooses the sweep's id, which the store keeps beside the lock, and every process
// prints it:
//
//	go run -v ./examples/sweep -keep -on redis://localhost:6379
//
// Flags:
//
//	-on URL        where the lock is kept: efs:///dir (the default, in -dir),
//	               redis://host:port, etcd://host:port. For these the program is
//	               compiled again, with the clients of those stores in it: that
//	               takes longer the first time
//	-dir DIR       where sweeps are; default a temporary directory
//	-file FILE     the sweep; default the sweep.yaml beside this program's source
//	-processes N   default 8
//	-timeout D     the lock's TTL; default 300s, with -crash 2s
//	-crash         kill the first holder
//	-keep          keep the sweep's id beside the lock
//	-o json        one JSON object with the keys processes, created, found,
//	               takeovers, token, seconds and, with -keep, id
//
// The part to copy is createSweep in create.go; with -keep, chooseID in keep.go.
package main
