package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// ValueStore is for backends that can keep one value beside a key: what was decided
// under the lock, so that whoever comes later finds it, also where no directory is
// shared. Only the key's holder can set it.
type ValueStore interface {
	// Value returns what was set for key last, and the zero Value if nothing ever was.
	// It sees every SetValue that has returned, whoever made it: it is no cached or
	// replicated read. Who holds the key, and whether anybody does, does not matter.
	Value(ctx context.Context, key string) (Value, error)

	// SetValue makes v the value of g's key, in the one atomic step that checks that
	// g holds the key, and returns the grant to pass from then on, as Renew does. It
	// may restart the TTL and never shortens it. The engine never makes it beside a
	// Renew or another SetValue of the same grant.
	//
	// An error that matches ErrLost is definite: g does not hold its key, v is not
	// set and never will be. If SetValue cannot tell whether v is set, the error
	// must match ErrUnavailable, and the caller repeats it with the same v. So a v
	// that equals what is set, Data too, is no error.
	//
	// A v that does not come after what is set (Value.Compare) changes nothing, and the
	// error matches ErrOldValue: a request that arrives late must not undo the next
	// one. g's own token need not be v.Token: a value that is copied from one store to
	// another keeps its Token and Seq.
	//
	// Data of up to MaxValueLen bytes is kept as it is. Values stay for ever: when
	// the lock is released, taken over or broken, and when its TTL has run out.
	SetValue(ctx context.Context, g Grant, v Value) (Grant, error)

	// ListValues returns the keys that start with prefix and have a value, deleted
	// ones too, in the keys' byte order. Data may be left out. One that cannot be read
	// makes the whole an error: who copies values must not miss one.
	ListValues(ctx context.Context, prefix string) ([]KeyValue, error)
}

// MaxValueLen is the longest Value.Data, in bytes, that every ValueStore has to keep.
const MaxValueLen = 64 << 10

// ErrOldValue means that a value was not set because what is set comes after it.
var ErrOldValue = errors.New("a later value is set already")

// Value is what a store keeps beside a key.
type Value struct {
	Data []byte
	// Deleted means that the value was forgotten on purpose. It is kept like a value,
	// without Data, so that an older one that turns up in another store stays forgotten.
	Deleted bool
	// Token is the fencing token under which it was set, and Seq which of the values
	// set under that token it is, from 1 on.
	Token, Seq uint64
}

// KeyValue is a key and its value.
type KeyValue struct {
	Key   string
	Value Value
}

// Exists tells whether there is something to read: v was set, and not forgotten.
func (v Value) Exists() bool { return v.Token != 0 && !v.Deleted }

// Compare orders values by when they were set: it is negative if v was set before w,
// positive if after w. The zero Value comes before all others.
func (v Value) Compare(w Value) int {
	return cmp.Or(cmp.Compare(v.Token, w.Token), cmp.Compare(v.Seq, w.Seq))
}

// Validate says what is wrong with v as an argument of SetValue.
func (v Value) Validate() error {
	switch {
	case len(v.Data) > MaxValueLen:
		return fmt.Errorf("value of %d bytes: %d is the limit", len(v.Data), MaxValueLen)
	case v.Token == 0 || v.Seq == 0:
		return fmt.Errorf("value with token %d and sequence %d: both count from 1", v.Token, v.Seq)
	case v.Deleted && len(v.Data) > 0:
		return errors.New("value that is deleted and has data")
	}
	return nil
}
