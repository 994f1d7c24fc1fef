// Package efs keeps hasp's locks in a directory that all processes can write: on
// AWS EFS, any other NFS version 4.1 or later, or a local disk.
//
//	l, err := hasp.Open(ctx, "efs:///mnt/efs/sweeps", nil)
//	lease, err := l.Acquire(ctx, "foo/lock") // the lock file /mnt/efs/sweeps/foo/lock
//
// or, for one lock named by its path, [Do].
//
// It lives beside processes that use the older lock-file protocol (the Python
// class EfsLock) on the same path: both kinds exclude each other. What neither kind
// can mend about that protocol is written in PROTOCOL.md, together with the
// argument for the protocol that hasp processes use among themselves. Where no such
// process is left, [Options.NoLockFile] makes locking cheaper.
//
// A lock is stale when its holder has not been heard of for its TTL, by the file
// server's clock alone. No two hosts' clocks are compared.
//
// The lock for the key a/b is the file a/b under the root and the directory
// a/.b.hasp beside it, which stays. Keys follow the rules of file names: no empty,
// "." or ".." components, components of at most 255 bytes (the last, 224), and
// names that begin with a dot and contain ".hasp" are kept for hasp. Keys differ by
// case only where file names do.
//
// On Windows the package compiles, and Open says that it is unsupported.
package efs
