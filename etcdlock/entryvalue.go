package etcdlock

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// value is what an entry says, in JSON so that etcdctl shows it.
type value struct {
	ID    string `json:"id"` // the claim's
	Owner string `json:"owner,omitempty"`
	Host  string `json:"host,omitempty"`
	PID   int    `json:"pid,omitempty"`
	// TTL is in milliseconds.
	TTL int64 `json:"ttl_ms"`
	// Wait is the TTL, in milliseconds, of one who waits until it is moved to a lease
	// of the TTL above. 0: it was put there at once.
	Wait int64 `json:"wait_ms,omitempty"`
	// Base is what is added to the entry's create revision to make its token.
	Base uint64 `json:"base"`
	// At is when the claim was made by the claimant's clock, for people.
	At time.Time `json:"at"`
}

func newValue(c backend.Claim, ttl time.Duration, base uint64) value {
	return value{
		ID: c.ID, Owner: c.Holder.Owner, Host: c.Holder.Host, PID: c.Holder.PID,
		TTL: ttl.Milliseconds(), Base: base, At: time.Now().UTC().Truncate(time.Millisecond),
	}
}

func (v value) encode() string {
	text, _ := json.Marshal(v) // strings, numbers and a time of this century: it cannot fail
	return string(text)
}

func (v value) ttl() time.Duration { return time.Duration(v.TTL) * time.Millisecond }

func (v value) holder() backend.Holder {
	return backend.Holder{Owner: v.Owner, Host: v.Host, PID: v.PID}
}

// decode reads an entry. The error matches backend.ErrCorrupt.
func decode(kv *mvccpb.KeyValue) (value, error) {
	var v value
	if err := json.Unmarshal(kv.Value, &v); err != nil || v.TTL <= 0 || v.ID == "" {
		return value{}, fmt.Errorf("%w: the value of etcd key %q is not one that hasp wrote", backend.ErrCorrupt, kv.Key)
	}
	return v, nil
}

// record describes the oldest entry of a key; waiting is how many entries follow it.
//
// That entry's claim holds the key in that nobody else can get it. But where it has
// waited, and has not been moved to its lock's lease, only its own process knows
// whether it has learned of its turn; it may be dead. So it is not called the holder.
func (b *Backend) record(kv *mvccpb.KeyValue, waiting int64) (backend.Record, error) {
	key, ok := b.names.keyOf(string(kv.Key))
	if !ok {
		return backend.Record{}, fmt.Errorf("%w: etcd key %q is not one that hasp wrote", backend.ErrCorrupt, kv.Key)
	}
	v, err := decode(kv)
	if err != nil {
		return backend.Record{}, err
	}
	token, err := tokenOf(v.Base, kv.CreateRevision)
	if err != nil {
		return backend.Record{}, err
	}
	rec := backend.Record{
		Key: key, State: backend.Held, ID: v.ID, Holder: v.holder(), Token: token,
		TTL: v.ttl(),
	}
	var notes []string
	// The first move, or a new base at the granting, is its second version.
	if v.Wait > 0 && kv.Version == 1 && !b.holds(key, v.ID, kv.CreateRevision) {
		notes = append(notes, "it is the turn of "+rec.Holder.String()+", which has not confirmed it yet")
		rec.Holder, rec.TTL = backend.Holder{}, time.Duration(v.Wait)*time.Millisecond
	}
	if !v.At.IsZero() {
		// etcd has no clock to ask how long that is
		notes = append(notes, "claimed at "+v.At.Format(time.RFC3339)+" by its own clock")
	}
	if waiting > 0 {
		notes = append(notes, fmt.Sprintf("%d waiting", waiting))
	}
	rec.Note = strings.Join(notes, ", ")
	return rec, nil
}

// holds tells whether this backend has granted key to the claim with the entry that
// was put at rev.
func (b *Backend) holds(key, id string, rev int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[ident{key, id}]
	return e != nil && e.state == held && e.rev == rev
}
