//go:build unix

// Package fsys is what hasp's file protocols ask of a file system, one request a
// method, and nothing that decides anything. OS makes the system calls; tests put
// wrappers around it, or another file system in its place.
//
// Paths are absolute. Nothing is kept open between two calls: a path is looked up
// each time, so a directory that was moved or replaced is noticed without asking
// for it, a process that has run out of descriptors can still rename (see Reserve), and no
// listing comes from a descriptor that a file system filled when it was opened.
package fsys

import (
	"io/fs"
	"time"
)

// ID tells one file from another on the same host.
type ID struct{ Dev, Ino uint64 }

// Info is what the protocols want to know of a file.
type Info struct {
	ID    ID
	Mode  fs.FileMode
	Mtime time.Time
	Ctime time.Time // of the last change of anything about it, its name included
	Size  int64
	Nlink uint64
	UID   uint32
}

// FS makes requests of a file system. After an error nothing is known of whether a
// request was carried out, or will be.
type FS interface {
	// Stat looks at path itself: it follows no symbolic link at its end. Fresh has
	// the client ask the server for the attributes, and find out by them whether the
	// names below path that it remembers are still good; else what it remembers will
	// do.
	Stat(path string, fresh bool) (Info, error)
	// List opens the directory anew and returns the names in it, and what was known
	// of the directory before they were read.
	List(dir string) (names []string, before Info, err error)
	// Rename is rename(2): a file replaces a file, a directory an empty directory.
	Rename(from, to string) error
	// RenameNew fails with an error that matches fs.ErrExist if the target exists, and
	// with ErrNoRenameNew where no such request can be made.
	RenameNew(from, to string) error
	Link(from, to string) error
	// Remove removes a file.
	Remove(path string) error
	// RemoveDir removes an empty directory.
	RemoveDir(path string) error
	// MakeDir makes a directory with exactly this mode, whatever the umask.
	MakeDir(path string, mode fs.FileMode) error
	// Create makes a new file with this content and exactly this mode. The file may be
	// there, unfinished, if it fails.
	Create(path string, content []byte, mode fs.FileMode) error
	// Store is Create, and what it has made is on the server's disk when it returns.
	Store(path string, content []byte, mode fs.FileMode) error
	// SyncDir returns when the changes of names in a directory that were made before are on
	// disk. No request is made for it on a network, where each answer says that.
	SyncDir(dir string) error
	// Read returns the first bytes of a file, most of them. What is not a regular file gives
	// an error that matches ErrNotRegular, and does not block.
	Read(path string, most int) ([]byte, Info, error)
	// Overwrite writes content at the start of the file, if ours says so of what it has;
	// else the error is ErrReplaced.
	Overwrite(path string, content []byte, ours func([]byte) bool) error
	// Touch makes sure that the file exists, sets its time to the server's present time
	// and returns that.
	Touch(path string, mode fs.FileMode) (time.Time, error)
}

// MaxRead is how much of a lock file is read: more than one has.
const MaxRead = 4096
