// Package adapters makes two public lock libraries backends of hasp, so that package
// conformance can say what each of them promises: bsm/redislock, and the Mutex of
// etcd's client/v3/concurrency. It is for tests, not for use: redislock and etcdlock
// of this project keep the whole contract.
//
// An adapter does with its library what the library's documentation shows, and leaves
// to it what excludes. Where the library only lacks something that can be written
// beside the lock (who holds it), the adapter writes it; what it could only give by a
// protocol of its own (fencing tokens in Redis, waking of waiters, breaking) it does not have.
// docs/adapters.md has what the suite says.
package adapters

import (
	"encoding/json"
	"errors"
	"math"
	"time"

	"github.com/hasplock/hasp/backend"
)

// looks is how often an adapter asks again who holds a key that was refused and is
// free when it looks.
const looks = 3

// errFloor refuses a claim rather than give it a token that does not exceed its floor:
// neither library's numbers can be raised.
var errFloor = errors.New("the library cannot give a token that is greater than the claim's floor")

// note is what an adapter writes about a holder.
type note struct {
	ID     string
	Key    string
	Holder backend.Holder
	TTL    time.Duration
}

func (n note) String() string {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(b)
}

// ceil is d in whole units, the last one perhaps begun: libraries cut off what is
// less than one. The longest duration there is stays that.
func ceil(d, unit time.Duration) time.Duration {
	rest := d % unit
	if rest == 0 || d > math.MaxInt64-unit {
		return d
	}
	return d - rest + unit
}

// check finds what no attempt should be made with.
func check(key string, c backend.Claim) error {
	if err := backend.ValidateKey(key); err != nil {
		return err
	}
	return backend.ValidateClaim(c)
}
