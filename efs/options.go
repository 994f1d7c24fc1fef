package efs

import (
	"fmt"
	"strconv"
	"time"
)

// Options of a Backend. The zero value, and nil, mean the defaults. All processes that
// share a directory must use the same LockFile.
type Options struct {
	// LockFile says what stands at a lock's path while it is held, for processes of the
	// EfsLock protocol. URL option: lockfile=dir, file or false.
	LockFile LockFile
	// LegacyTimeout is after how long a file that an EfsLock process has put there is
	// stale; those processes have such a timeout of their own. Default 300 s. URL option:
	// legacy_timeout=300s.
	LegacyTimeout time.Duration
	// Poll is the longest pause between two looks of a waiter at the lock's state; a look
	// costs one GETATTR. Default 500 ms on a network file system, 20 ms elsewhere. URL
	// option: poll=1s.
	Poll time.Duration
	// Create makes the directory if it is missing, also when that turns out later. OpenPath
	// sets it. URL option: create=true.
	Create bool
	// Mounted refuses a directory that is not on a network file system: one that is to be
	// mounted and is not would be a directory of this host's alone. URL option:
	// mount=required.
	Mounted bool
	// AnyMount opens directories on mounts that Open would refuse, because the protocol
	// does not hold there. URL option: anymount=true.
	AnyMount bool
}

// LockFile is what stands at a lock's path while a hasp process holds the lock.
type LockFile int

const (
	// Directory, the default: a directory with a file in it. EfsLock processes cannot
	// remove it, alive or dead; hasp processes take over from a dead holder.
	Directory LockFile = iota
	// File: a lock file as EfsLock processes write it. They take over from a dead hasp
	// process by themselves, and sometimes from a living one; see PROTOCOL.md.
	File
	// NoLockFile: nothing. EfsLock processes are not kept out.
	NoLockFile
)

// String is how the URL option says it.
func (l LockFile) String() string {
	switch l {
	case Directory:
		return "dir"
	case File:
		return "file"
	case NoLockFile:
		return "false"
	}
	return strconv.Itoa(int(l))
}

// DefaultLegacyTimeout is the EfsLock protocol's own.
const DefaultLegacyTimeout = 300 * time.Second

func parseLockFile(s string) (LockFile, error) {
	switch s {
	case "", "dir", "true":
		return Directory, nil
	case "file":
		return File, nil
	case "false", "none":
		return NoLockFile, nil
	}
	return 0, fmt.Errorf("option lockfile=%s: it is dir, file or false", s)
}

func (o *Options) resolve() (Options, error) {
	var r Options
	if o != nil {
		r = *o
	}
	switch {
	case r.Poll < 0:
		return r, fmt.Errorf("option Poll is %v: it must not be negative", r.Poll)
	case r.LegacyTimeout < 0:
		return r, fmt.Errorf("option LegacyTimeout is %v: it must not be negative", r.LegacyTimeout)
	case r.LockFile < Directory || r.LockFile > NoLockFile:
		return r, fmt.Errorf("option LockFile is %d: it is Directory, File or NoLockFile", r.LockFile)
	case r.LegacyTimeout == 0:
		r.LegacyTimeout = DefaultLegacyTimeout
	}
	return r, nil
}

// pollFor is the longest pause between two looks of a waiter.
func (o Options) pollFor(network bool) time.Duration {
	switch {
	case o.Poll > 0:
		return o.Poll
	case network:
		return 500 * time.Millisecond
	}
	return 20 * time.Millisecond
}
