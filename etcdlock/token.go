package etcdlock

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
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
func (n names) unchanged(key string, bs bases) []*etcdserverpb.Compare {
	cs := append(make([]*etcdserverpb.Compare, 0, 4), valueIs(n.base(), bs.all.text))
	switch {
	case bs.own.text != "":
		cs = append(cs, valueIs(n.ownBase(key), bs.own.text))
	case bs.all.keyed:
		cs = append(cs, createdAt(n.ownBase(key), 0))
	}
	return cs
}

// basesAre is unchanged for the client library's transactions.
func (n names) basesAre(key string, bs bases) []clientv3.Cmp {
	var cs cmps
	for _, c := range n.unchanged(key, bs) {
		cs = append(cs, clientv3.FromCompare(c))
	}
	return cs
}

// readBases is what learnBases takes in.
func (n names) readBases(key string) []clientv3.Op {
	return ops{clientv3.OpGet(n.base()), clientv3.OpGet(n.ownBase(key))}
}

// knownBases returns key's bases as last read, asking the store the first time.
func (b *Backend) knownBases(ctx context.Context, key string) (bases, error) {
	b.mu.Lock()
	bs := bases{all: b.base, own: b.ownBases[key]}
	b.mu.Unlock()
	if bs.all.text != "" {
		return bs, nil
	}
	return b.askBases(ctx, key)
}

func (b *Backend) askBases(ctx context.Context, key string) (bases, error) {
	resp, err := b.txn(ctx, nil, b.names.readBases(key), nil)
	if err != nil {
		return bases{}, b.explain(ctx, err)
	}
	return b.learnBases(ctx, key, resp.Responses)
}

// learnBases takes in what readBases has read, and writes the first base if
// there is none.
func (b *Backend) learnBases(ctx context.Context, key string, read []*etcdserverpb.ResponseOp) (bs bases, err error) {
	if kvs := read[0].GetResponseRange().Kvs; len(kvs) == 0 {
		bs.all, err = b.firstBase(ctx)
	} else {
		bs.all, err = decodeBase(kvs[0])
	}
	if kvs := read[1].GetResponseRange().Kvs; err == nil && len(kvs) > 0 {
		bs.own, err = decodeBase(kvs[0])
	}
	if err != nil {
		return bases{}, err
	}
	b.keepBases(key, bs)
	return bs, nil
}

func (b *Backend) keepBases(key string, bs bases) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.base = bs.all
	if bs.own.text != "" {
		b.ownBases[key] = bs.own
	} else {
		delete(b.ownBases, key)
	}
}

// firstBase writes the base of a store that has none, because it is new or was
// wiped. Starting from 0 would repeat every token after a wipe.
func (b *Backend) firstBase(ctx context.Context) (base, error) {
	b.mu.Lock()
	last := b.base
	b.mu.Unlock()
	first := base{sum: max(micros(2*ahead), last.sum), floor: last.floor}.encode()
	name := b.names.base()
	resp, err := b.txn(ctx, cmps{clientv3.Compare(clientv3.CreateRevision(name), "=", 0)},
		ops{clientv3.OpPut(name, first.text)}, ops{clientv3.OpGet(name)})
	if err != nil {
		return base{}, b.explain(ctx, err)
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
func (b *Backend) lift(key string, bs bases, rev int64, floor uint64) (bases, []clientv3.Op, error) {
	if floor == math.MaxUint64 {
		return bases{}, nil, backend.ErrTokensExhausted
	}
	need := uint64(0)
	if want := floor + 1; rev > 0 && want > uint64(rev) {
		need = want - uint64(rev)
	}
	if floor <= micros(ahead) {
		bs.all = base{sum: max(bs.all.sum, need), floor: max(bs.all.floor, floor), keyed: bs.all.keyed}.encode()
		return bs, ops{clientv3.OpPut(b.names.base(), bs.all.text)}, nil
	}
	bs.own = base{sum: max(bs.sum(), need), floor: max(bs.own.floor, floor)}.encode()
	puts := ops{clientv3.OpPut(b.names.ownBase(key), bs.own.text)}
	if !bs.all.keyed {
		bs.all.keyed = true
		bs.all = bs.all.encode()
		puts = append(puts, clientv3.OpPut(b.names.base(), bs.all.text))
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
	bs, err := b.askBases(ctx, key)
	for {
		if err != nil {
			return b.fail(op, key, err)
		}
		if bs.floor() >= floor {
			return nil
		}
		next, puts, err := b.lift(key, bs, 0, floor)
		if err != nil {
			return b.fail(op, key, err)
		}
		resp, err := b.txn(ctx, b.names.basesAre(key, bs), puts, b.names.readBases(key))
		if err != nil {
			return b.fail(op, key, b.explain(ctx, err))
		}
		if resp.Succeeded {
			b.keepBases(key, next)
			return nil
		}
		if bs, err = b.learnBases(ctx, key, resp.Responses); err != nil {
			return b.fail(op, key, err)
		}
	}
}
