package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

// RecordKey is the key in both stores beside which the migration's record is kept, as
// its value, and whose lock a step is taken under. There is one in a store, whatever the
// migration is called: a store takes part in one migration at a time. Keys that begin
// with it are the migration's own.
const RecordKey = "hasp.migration"

const (
	// seenKey is where processes tell of themselves.
	seenKey = RecordKey + ".seen"
	// clockKey is taken to learn a store's tokens, and for nothing else.
	clockKey = RecordKey + ".clock"
)

// Record is what a store knows of the migration that it is part of.
type Record struct {
	// Name is what the migration is called, and ID what its Start gave it: two pairs
	// of stores under one name have different ones.
	Name string `json:"name"`
	ID   string `json:"id"`
	// Side tells which of the two stores this one is.
	Side Side `json:"side"`
	// Stage is which phases are admitted.
	Stage Stage `json:"stage"`
	// Floor is a token that every token granted from now on exceeds.
	Floor uint64 `json:"floor,omitempty"`
	// MaxTTL is the longest TTL with which locks may be taken.
	MaxTTL time.Duration `json:"max_ttl_ns"`
	// Complete tells that every value that has been set is in this store: nobody needs
	// to look into the other one.
	Complete bool `json:"complete,omitempty"`
	// Starting is set until the new store has its first record: until then no step is
	// taken, so that nobody has ever held a lock there, and Start may be repeated.
	Starting bool `json:"starting,omitempty"`
	// Sealed tells that every key that the old store knew of was sealed, so that programs
	// that do not look at the record cannot take one.
	Sealed bool `json:"sealed,omitempty"`
	// Stores say what the two were called when the migration began, for people.
	Stores [2]string `json:"stores"`
	// By and At tell who wrote this, and when by that host's clock. They are for people.
	By string    `json:"by"`
	At time.Time `json:"at"`

	value backend.Value // as it was read; zero: there is none
}

// exists tells whether there is a record at all.
func (r Record) exists() bool { return r.value.Exists() }

// same tells whether nobody has written the record in between.
func (r Record) same(o Record) bool { return r.value.Compare(o.value) == 0 && r.Stage == o.Stage }

// String describes the record to people.
func (r Record) String() string {
	if !r.exists() {
		return "no record"
	}
	return fmt.Sprintf("migration %q (%s), %s store, stage %s", r.Name, r.ID, r.Side, r.Stage)
}

// decodeRecord reads what a store has as the record's value.
func decodeRecord(v backend.Value) (r Record, err error) {
	if !v.Exists() {
		return Record{}, nil
	}
	bad := func(why any) (Record, error) {
		return Record{}, fmt.Errorf("%w: the value of %q is not a migration's record: %v", backend.ErrCorrupt, RecordKey, why)
	}
	if err := json.Unmarshal(v.Data, &r); err != nil {
		return bad("it is not JSON of the right form")
	}
	switch {
	case checkName(r.Name) != nil:
		return bad(checkName(r.Name))
	case r.ID == "":
		return bad("it has no ID")
	case r.Side != SideOld && r.Side != SideNew:
		return bad(fmt.Sprintf("side %q", r.Side))
	case !r.Stage.valid():
		return bad(fmt.Sprintf("stage %q, of a later version of hasp perhaps", r.Stage))
	case r.MaxTTL <= 0:
		return bad("it has no longest TTL")
	}
	r.value = v
	return r, nil
}

// encode makes a value of r, to be set under a lock with this token.
func (r Record) encode(token, seq uint64) (backend.Value, error) {
	data, err := json.Marshal(r)
	return backend.Value{Data: data, Token: token, Seq: seq}, err
}

// readRecord asks a store: a read that sees every write that has returned.
func readRecord(ctx context.Context, b backend.Backend) (Record, error) {
	v, err := backend.ReadValue(ctx, b, RecordKey)
	if err != nil {
		return Record{}, err
	}
	return decodeRecord(v)
}
