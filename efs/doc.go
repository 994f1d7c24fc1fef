// Package efs keeps hasp's locks in a directory that all processes can write: on
// AWS EFS, any other NFS version 4.1 or later, or a local disk.
//
//	l, err := hasp.Open(ctx, "efs:///mnt/efs/sweeps", nil)
//	lease, err := l.Acquire(ctx, "foo/lock") // the lock at /mnt/efs/sweeps/foo/lock
//
// or, for one lock named by its path, [Do].
//
// It lives beside processes that use the older lock-file protocol (the Python
// class EfsLock) on the same path. While a hasp process holds a lock, a directory
// stands at its path, which those cannot remove; their lock files are holders to
// hasp. PROTOCOL.md has the argument, and what remains. [Options.LockFile] has
// two other ways: a lock file, and nothing.
//
// A lock is stale when its holder has not been heard of for its TTL, by the file
// server's clock, or by having been seen to stand still for as long. No two hosts'
// clocks are compared, but to find out that one of them was set.
//
// The lock for the key a/b is the path a/b under the root and the directory
// a/.b.hasp beside it, which stays. Keys follow the rules of file names: no empty,
// "." or ".." components, components of at most 255 bytes (the last, 223), and
// names that begin with a dot and contain ".hasp" are kept for hasp. Keys differ by
// case only where file names do. A key is also a path, so a and a/b cannot both be
// locks.
//
// A key's value ([Backend.SetValue]) is a file in the lock's state directory, and goes
// with it. Versions of hasp that know no values call a lock that has one corrupt, and
// do not touch it.
//
// A lock that has moved to another store is sealed ([Backend.Seal]): its guard stands for
// good, and hasp processes are told where the lock is.
//
// What is made for a lock has the mode of the directory that it is in, whatever the
// umask, so that those who may write there share its locks.
//
// On Windows the package compiles, and Open says that it is unsupported.
package efs
