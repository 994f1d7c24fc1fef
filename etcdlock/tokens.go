package etcdlock

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// An entry's token is its create revision plus a base. Create revisions rise
// from one holder to the next, because the oldest entry holds; the base makes up
// for what revisions cannot do: exceed another store's tokens, and keep rising
// when the store is wiped and starts again from revision 1.
//
// There is one base for all keys, so that nothing is kept of a key that nobody
// uses. It starts from a host's clock, in microseconds, and is raised as floors
// demand, but never much beyond the clock: then the base that is made after a
// wipe exceeds every token from before, since etcd does not commit a million
// revisions a second. A floor that is beyond the clock gets its key a base of its
// own, which stays: no other store that follows hasp's rule for tokens has such
// tokens, so there will not be many.
type base struct {
	sum uint64
	// floor is what every token granted from now on exceeds. It is kept apart
	// from sum because raising sum by it would waste tokens, near the greatest
	// uint64 all of them.
	floor uint64
	// keyed tells, in the base for all keys, that some have their own.
	keyed bool
	// text is the value that was read; empty: there is none, or it has not been
	// read yet. Transactions compare it, and not its revision: after a wipe
	// another base may stand there that was written at the same revision.
	text string
}

// tokens has the bases of a store's keys, as last read.
type tokens struct {
	*store
	names names

	mu  sync.Mutex
	all base
	own map[string]base // by key, of those that have one
}

// ahead is how far beyond this host's clock the base for all keys may be raised.
// The first base is twice that beyond it, so that the clock of whoever makes the
// base after a wipe may be this much behind.
const ahead = time.Minute

// tokenOf adds a create revision to a base.
func tokenOf(sum uint64, rev int64) (uint64, error) {
	if sum > math.MaxUint64-uint64(rev) {
		return 0, backend.ErrTokensExhausted
	}
	return sum + uint64(rev), nil
}

func (bs base) encode() base {
	bs.text = strconv.FormatUint(bs.sum, 10) + " " + strconv.FormatUint(bs.floor, 10)
	if bs.keyed {
		bs.text += " keyed"
	}
	return bs
}

func decodeBase(kv *mvccpb.KeyValue) (base, error) {
	bs := base{text: string(kv.Value)}
	text, keyed := strings.CutSuffix(bs.text, " keyed")
	sum, floor, _ := strings.Cut(text, " ")
	var err, err2 error
	bs.keyed = keyed
	bs.sum, err = strconv.ParseUint(sum, 10, 64)
	bs.floor, err2 = strconv.ParseUint(floor, 10, 64)
	if err != nil || err2 != nil {
		return base{}, fmt.Errorf("%w: the value of etcd key %q is not two numbers", backend.ErrCorrupt, kv.Key)
	}
	return bs, nil
}

// bases is what decides the tokens of one key.
type bases struct {
	all base
	own base // with no text: the key has none
}

func (bs bases) sum() uint64   { return max(bs.all.sum, bs.own.sum) }
func (bs bases) floor() uint64 { return max(bs.all.floor, bs.own.floor) }

func (n names) ownBase(key string) string { return n.base() + "/" + key }

// unchanged holds while the store has the bases that this backend knows.
func (n names) unchanged(key string, bs bases) cmps {
	cs := cmps{clientv3.Compare(clientv3.Value(n.base()), "=", bs.all.text)}
	switch {
	case bs.own.text != "":
		cs = append(cs, clientv3.Compare(clientv3.Value(n.ownBase(key)), "=", bs.own.text))
	case bs.all.keyed:
		cs = append(cs, exists(n.ownBase(key), 0)) // there is none
	}
	return cs
}

// readBases is what learn takes in.
func (n names) readBases(key string) []clientv3.Op {
	return ops{clientv3.OpGet(n.base()), clientv3.OpGet(n.ownBase(key))}
}

// known returns key's bases as last read, asking the store the first time.
func (t *tokens) known(ctx context.Context, key string) (bases, error) {
	t.mu.Lock()
	bs := bases{all: t.all, own: t.own[key]}
	t.mu.Unlock()
	if bs.all.text != "" {
		return bs, nil
	}
	return t.ask(ctx, key)
}

func (t *tokens) ask(ctx context.Context, key string) (bases, error) {
	if err := t.checkLogin(ctx); err != nil {
		return bases{}, err
	}
	resp, err := t.txn(ctx, nil, t.names.readBases(key), nil)
	switch {
	case lacks(err): // it was only a read
		return bases{}, t.incomplete("transactions", err)
	case err != nil:
		return bases{}, t.explain(ctx, err)
	}
	return t.learn(ctx, key, resp.Responses)
}

// learn takes in what readBases has read, and writes the first base if
// there is none.
func (t *tokens) learn(ctx context.Context, key string, read []*etcdserverpb.ResponseOp) (bs bases, err error) {
	if kvs := read[0].GetResponseRange().Kvs; len(kvs) == 0 {
		bs.all, err = t.first(ctx)
	} else {
		bs.all, err = decodeBase(kvs[0])
	}
	if kvs := read[1].GetResponseRange().Kvs; err == nil && len(kvs) > 0 {
		bs.own, err = decodeBase(kvs[0])
	}
	if err != nil {
		return bases{}, err
	}
	t.keep(key, bs)
	return bs, nil
}

// wrote tells whether there is a base, as far as is known.
func (t *tokens) wrote() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.text != ""
}

func (t *tokens) keep(key string, bs bases) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = bs.all
	if bs.own.text != "" {
		t.own[key] = bs.own
	} else {
		delete(t.own, key)
	}
}

// first writes the base of a store that has none, because it is new or was
// wiped. Starting from 0 would repeat every token after a wipe.
func (t *tokens) first(ctx context.Context) (base, error) {
	t.mu.Lock()
	last := t.all
	t.mu.Unlock()
	first := base{sum: max(micros(2*ahead), last.sum), floor: last.floor}.encode()
	name := t.names.base()
	resp, err := t.txn(ctx, cmps{clientv3.Compare(clientv3.CreateRevision(name), "=", 0)},
		ops{clientv3.OpPut(name, first.text)}, ops{clientv3.OpGet(name)})
	if err != nil {
		return base{}, t.explain(ctx, err)
	}
	if !resp.Succeeded {
		return decodeBase(resp.Responses[0].GetResponseRange().Kvs[0])
	}
	return first, nil
}

// micros is this host's clock in microseconds since 1970, put forward.
func micros(forward time.Duration) uint64 {
	return uint64(max(time.Now().Add(forward).UnixMicro(), 0))
}

// lift returns key's bases under which an entry that was created at rev gets a
// token above floor, and what writes them. With rev 0 only the floor is raised.
func (t *tokens) lift(key string, bs bases, rev int64, floor uint64) (bases, []clientv3.Op, error) {
	if floor == math.MaxUint64 {
		return bases{}, nil, backend.ErrTokensExhausted
	}
	need := uint64(0)
	if want := floor + 1; rev > 0 && want > uint64(rev) {
		need = want - uint64(rev)
	}
	if most := micros(ahead); floor <= most {
		// Floors follow a clock, that of another store as a rule. Raised to just what is
		// needed, the base would be written anew with every grant, and all who are about
		// to acquire any key would have to begin again.
		if rev > 0 && most > uint64(rev) {
			need = max(need, most-uint64(rev))
		}
		bs.all = base{sum: max(bs.all.sum, need), floor: max(bs.all.floor, floor), keyed: bs.all.keyed}.encode()
		return bs, ops{clientv3.OpPut(t.names.base(), bs.all.text)}, nil
	}
	bs.own = base{sum: max(bs.sum(), need), floor: max(bs.own.floor, floor)}.encode()
	puts := ops{clientv3.OpPut(t.names.ownBase(key), bs.own.text)}
	if !bs.all.keyed {
		bs.all.keyed = true
		bs.all = bs.all.encode()
		puts = append(puts, clientv3.OpPut(t.names.base(), bs.all.text))
	}
	return bs, puts, nil
}

// RaiseToken implements [backend.TokenRaiser]. It may raise the tokens of other
// keys too, which is harmless: tokens need to rise, not to be dense.
func (b *Backend) RaiseToken(ctx context.Context, key string, floor uint64) error {
	const op = "raise token"
	if err := backend.ValidateKey(key); err != nil {
		return b.fail(op, key, err)
	}
	if err := b.enter(op, key); err != nil {
		return err
	}
	return b.fail(op, key, b.tokens.raise(ctx, key, floor))
}

func (t *tokens) raise(ctx context.Context, key string, floor uint64) error {
	bs, err := t.ask(ctx, key)
	for {
		if err != nil {
			return err
		}
		if bs.floor() >= floor {
			return nil
		}
		next, puts, err := t.lift(key, bs, 0, floor)
		if err != nil {
			return err
		}
		resp, err := t.txn(ctx, t.names.unchanged(key, bs), puts, t.names.readBases(key))
		if err != nil {
			return t.explain(ctx, err)
		}
		if resp.Succeeded {
			t.keep(key, next)
			return nil
		}
		if bs, err = t.learn(ctx, key, resp.Responses); err != nil {
			return err
		}
	}
}
