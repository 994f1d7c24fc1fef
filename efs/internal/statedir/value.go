//go:build unix

package statedir

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// A key's value is a file whose name is in the baton's:
//
//	.lock.hasp/.values/<value>
//
// The file is complete, and on disk, before anybody knows its name, and is never changed.
// One rename of the baton, by its holder, puts the name into it: so the step that proves
// who holds the lock is the one that publishes the value. Names are never used twice.
//
// The directory is one of its own, so that the state directory's time, which tells of the
// holder's signs of life, moves with the baton alone: once in the life of a lock it is
// made. Its name begins with a dot, so that versions that know no values can read the
// state until one is set.

const valuesName = ".values"

func (d *Dir) values() string { return d.path + "/" + valuesName }

// valueNameLen makes 70 random bits. A counter would need more room.
const valueNameLen = 14

func newValueName() string { return rand.Text()[:valueNameLen] }

func isValueName(s string) bool {
	return len(s) == valueNameLen && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// A valueHead is what is remembered of a value: which of two comes later, and whether
// they are the same.
type valueHead struct {
	name string
	backend.Value
	sum [sha256.Size]byte
}

const maxValueFile = backend.MaxValueLen + 256

// encodeValue is a value's file. By its first line it is seen whether it is the one that
// was written under this name, and all of it.
func encodeValue(name string, v backend.Value) []byte {
	out := fmt.Appendf(make([]byte, 0, len(v.Data)+256), "hasp value 1 %s token=%d seq=%d deleted=%t length=%d ", name, v.Token, v.Seq, v.Deleted, len(v.Data))
	all := sha256.New()
	all.Write(out)
	all.Write(v.Data)
	return append(fmt.Appendf(out, "sha256=%x\n", all.Sum(nil)), v.Data...)
}

func decodeValue(name string, content []byte) (v backend.Value, ok bool) {
	head, data, _ := bytes.Cut(content, []byte{'\n'})
	var length int
	var sum, found string
	if n, err := fmt.Sscanf(string(head), "hasp value 1 %s token=%d seq=%d deleted=%t length=%d sha256=%s", &found, &v.Token, &v.Seq, &v.Deleted, &length, &sum); n != 6 || err != nil {
		return v, false
	}
	v.Data = data
	return v, bytes.Equal(encodeValue(name, v), content) && v.Validate() == nil
}

// loadValue reads the value of a name that a baton has. Missing: the file is not there.
func (d *Dir) loadValue(name string) (v backend.Value, missing bool, err error) {
	path := d.values() + "/" + name
	content, i, err := d.fs.Read(path, maxValueFile)
	if fsys.IsGone(err) && !d.Local {
		// A client may remember it as missing, from a time when a person had moved it away.
		if _, err = d.fs.Stat(d.values()+"/.", true); err == nil {
			content, i, err = d.fs.Read(path, maxValueFile)
		}
	}
	switch {
	case fsys.IsGone(err):
		return v, true, nil
	case errors.Is(err, fsys.ErrNotRegular):
		return v, false, Corrupt("%s is not a regular file, and the key's value belongs there", path)
	case err != nil:
		return v, false, fmt.Errorf("read the key's value: %w", err)
	}
	v, ok := decodeValue(name, content)
	if !ok || i.Size > maxValueFile {
		return backend.Value{}, false, Corrupt("%s, which has the key's value, was changed or cut short (%d bytes): restore it; if that cannot be done and no process holds the lock, remove %s, and with it the value", path, i.Size, d.path)
	}
	if len(v.Data) == 0 {
		v.Data = nil
	}
	d.value = valueHead{name: name, Value: v, sum: sha256.Sum256(v.Data)}
	d.value.Data = nil
	return v, false, nil
}

func (d *Dir) valueLost(name string) error {
	return Corrupt("the key's value was in %s/%s, which is missing: restore it; if that cannot be done and no process holds the lock, remove %s, and with it the value", d.values(), name, d.path)
}

// Value reads the value that was published last, the zero Value if there never was one.
func (d *Dir) Value() (v backend.Value, err error) {
	gone, lost, name := false, 0, ""
	for range 16 {
		b, _, err := d.Read()
		if errors.Is(err, ErrGone) {
			if gone {
				return v, nil
			}
			gone = true // as the client remembers; now it is made to ask
			if _, err := d.fs.Stat(d.above, true); err != nil {
				return v, fmt.Errorf("look at %s: %w", filepath.Dir(d.lock), err)
			}
			continue
		}
		if err != nil || b.Value == "" {
			return v, err
		}
		v, missing, err := d.loadValue(b.Value)
		if !missing {
			return v, err
		}
		// Another value has been set since the listing, and this one was removed.
		if b.Value != name {
			lost, name = 0, b.Value
		}
		if lost++; lost == 3 {
			return backend.Value{}, d.valueLost(name)
		}
	}
	return v, backend.Unavailable(fmt.Errorf("the key's value in %s changes faster than it can be read", d.values()))
}

// ErrReplaced: another has the baton by now, and it is not known whether the value was set
// before.
var ErrReplaced = errors.New("the lock was taken over, and another value set")

// errValueMoved is for one whose value is another than the one that was compared.
var errValueMoved = errors.New("the value has changed")

// SetValue publishes v. It is a heartbeat, too. Ok is false if another has the baton by
// now, and then v was not set, and never will be. The error matches backend.ErrOldValue if
// what is set comes after v; nothing is changed then.
func (h *Hold) SetValue(v backend.Value) (ok bool, err error) {
	for range 4 {
		ok, err := h.setValue(v)
		if !errors.Is(err, errValueMoved) {
			return ok, err
		}
	}
	return false, backend.Unavailable(fmt.Errorf("the key's value in %s changes faster than it can be set", h.Dir.values()))
}

func (h *Hold) setValue(v backend.Value) (ok bool, err error) {
	d, had := h.Dir, h.Baton.Value
	same := func(b *Baton) error {
		if b.Value != had { // an earlier attempt's, whose answer was lost
			return errValueMoved
		}
		return nil
	}
	if had != "" && d.value.name != had {
		_, missing, err := d.loadValue(had)
		if err != nil {
			return false, err
		}
		if missing { // or another holds the lock, and has set one
			if ok, err := h.next(same); err != nil || !ok {
				return false, err
			}
			return false, d.valueLost(had)
		}
	}
	if had != "" {
		if order := v.Compare(d.value.Value); order <= 0 {
			if ok, err := h.next(same); err != nil || !ok {
				return false, err
			}
			if order < 0 || v.Deleted != d.value.Deleted || sha256.Sum256(v.Data) != d.value.sum {
				return true, backend.ErrOldValue
			}
			return true, d.syncNames()
		}
	}
	old, err := d.listValues()
	if err != nil {
		return false, err
	}
	name := newValueName()
	path := d.values() + "/" + name
	if err := d.fs.Store(path, encodeValue(name, v), d.mode&0o666); err != nil {
		d.Discard(path)
		return false, fmt.Errorf("write the key's value: %w", err)
	}
	if err := d.syncDir(d.values()); err != nil {
		d.Discard(path)
		return false, err
	}
	ok, err = h.next(func(b *Baton) error {
		if b.Value == name { // it is published, and a waiter has renamed the baton since
			return nil
		}
		if err := same(b); err != nil {
			return err
		}
		b.Value = name
		return nil
	})
	switch {
	case errors.Is(err, backend.ErrUnavailable), errors.Is(err, ErrGone):
		h.unsure = append(h.unsure, name) // it may be published yet
		return false, err
	case err != nil && h.Baton.Value == name:
		// It is published, by an attempt that was told otherwise, and what was refused is a
		// second one, after a waiter had renamed the baton.
		return false, backend.Unavailable(fmt.Errorf("the value is set, and then: %w", err))
	case err != nil:
		d.Discard(path)
		return false, err
	case !ok && h.Now().Value == name: // it was, and then the lock was taken over
		return true, nil
	case !ok:
		d.Discard(path)
		if h.Now().Value != had {
			// It may have been set for a while, before this one.
			return false, backend.Unavailable(ErrReplaced)
		}
		return false, nil
	}
	d.value = valueHead{name: name, Value: v, sum: sha256.Sum256(v.Data)}
	d.value.Data = nil
	if err := d.syncNames(); err != nil {
		h.unsure = append(h.unsure, old...) // they stay until another step of h's has succeeded
		return false, err
	}
	// What was listed is older than the proof that this process still held the lock, so
	// none of it can be a successor's.
	for _, n := range old {
		d.Discard(d.values() + "/" + n)
	}
	return true, nil
}

// syncNames puts the baton's name on disk, so that what was decided outlives a power cut.
func (d *Dir) syncNames() error { return d.syncDir(d.path) }

func (d *Dir) syncDir(path string) error {
	if !d.Local {
		return nil
	}
	if err := d.fs.SyncDir(path); err != nil {
		return backend.Unavailable(fmt.Errorf("put the key's value on disk: %w", err))
	}
	return nil
}

// listValues lists the files of values, and makes their directory if there is none.
func (d *Dir) listValues() (names []string, err error) {
	for range 2 {
		all, _, err := d.fs.List(d.values())
		if err == nil {
			for _, n := range all {
				if isValueName(n) { // what else is there is a person's
					names = append(names, n)
				}
			}
			return names, nil
		}
		if !fsys.IsMissing(err) {
			return nil, fmt.Errorf("list the key's values: %w", err)
		}
		mode, err := d.Mode()
		if err != nil {
			return nil, err
		}
		if err := d.fs.MakeDir(d.values(), mode); err != nil && !fsys.IsTaken(err) {
			return nil, fmt.Errorf("make a directory for the key's value: %w", err)
		}
	}
	return nil, nil
}

// sweepValues removes what an earlier holder has left that was cut short while it set a
// value, unless that one has said that it left nothing.
func (h *Hold) sweepValues() {
	d := h.Dir
	if h.Old.State == Free || !d.hasValues {
		return
	}
	names, err := d.listValues()
	if err != nil {
		h.unswept = true
		return
	}
	left := names[:0]
	for _, n := range names {
		if n != h.Baton.Value {
			left = append(left, n)
		}
	}
	if len(left) == 0 {
		return
	}
	// h may have been overtaken before the listing, and then a successor's may be in it.
	if ok, err := h.Next(func(*Baton) {}); err != nil || !ok {
		h.unswept = true
		return
	}
	for _, n := range left {
		if n != h.Baton.Value {
			d.Discard(d.values() + "/" + n)
		}
	}
}

// settleUnsure removes the values of which it was not known whether they would be
// published, once the baton has had a later name: cur's.
func (h *Hold) settleUnsure(cur Baton) {
	for _, n := range h.unsure {
		if n != cur.Value {
			h.Dir.Discard(h.Dir.values() + "/" + n)
		}
	}
	h.unsure = nil
}

// adopt goes on with the name that the baton has by now.
func (h *Hold) adopt(cur Baton) {
	if old := h.Baton.Value; old != "" && old != cur.Value {
		h.unsure = append(h.unsure, old) // h's own attempt to replace it has been carried out
	}
	h.Baton = cur
}
