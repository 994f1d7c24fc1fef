package migrate

import (
	"context"
	"time"

	"github.com/hasplock/hasp/backend"
)

// peer is what is found out before the first Acquire, and decides nothing that the look
// after each Acquire does not decide again, except this: phases old and new take one of
// the stores, and two pairs under one name can only be told apart by the records of
// both. The other store may be away, and is asked now and then, and not for long.
type peer struct {
	turn  chan struct{} // held while asking; a mutex would not end with a context
	err   error
	again time.Time // when to ask anew; zero: never asked
	good  bool
}

const (
	peerWait  = time.Second
	peerAgain = 5 * time.Minute
)

// checkPair refuses a configuration whose two stores are of different migrations. It
// also learns the floor, so that the first Acquire need not be made twice.
func (b *Backend) checkPair(ctx context.Context) error {
	p := &b.peer
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return backend.Unavailable(context.Cause(ctx))
	}
	if p.good || p.err == nil && time.Now().Before(p.again) {
		return nil
	}
	p.again = time.Now().Add(peerAgain)
	own := b.legs[0]
	mine, err := readRecord(ctx, own.b)
	if err != nil || !mine.exists() {
		p.again = time.Time{}
		return nil // it will be found again, after the lock is held
	}
	b.raiseFloor(mine.Floor)
	if len(b.legs) == 2 {
		p.good = true
		return nil // both records are read with every Acquire
	}
	other := b.store(own.side.other())
	ctx, cancel := context.WithTimeout(ctx, peerWait)
	defer cancel()
	rec, err := beside(ctx, b, func(ctx context.Context) (Record, error) { return readRecord(ctx, other.b) })
	if err != nil || !rec.exists() {
		return nil // away, or not begun: nothing speaks against it
	}
	switch {
	case rec.Name != b.name || rec.Side != other.side:
		p.err = b.admits(other, rec)
	case rec.ID != mine.ID:
		p.err = b.otherPair(mine, rec)
	default:
		p.err, p.good = nil, true
	}
	return p.err
}
