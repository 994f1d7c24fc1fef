package redislock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

const (
	// scanCount is how many keys a server looks at for each SCAN: about a tenth of a
	// millisecond.
	scanCount = 500
	// scanTries is how often a cluster is looked through whose slots change hands.
	scanTries = 3
	// clusterSlots is how many slots a cluster has.
	clusterSlots = 16384
)

// forEachMaster is what a cluster's client has.
type forEachMaster interface {
	ForEachMaster(context.Context, func(context.Context, *redis.Client) error) error
}

// scan returns, in byte order, the locks' keys that keyOf finds in the names of all
// strings that match pattern. It finds each name that is there from its beginning to
// its end, or returns an error.
func (b *Backend) scan(ctx context.Context, pattern string, keyOf func(name string) (string, bool)) ([]string, error) {
	var mu sync.Mutex
	found := map[string]bool{} // SCAN may return a name twice
	look := func(ctx context.Context, node redis.Cmdable) error {
		it := node.ScanType(ctx, 0, pattern, scanCount, "string").Iterator()
		for it.Next(ctx) {
			if key, ok := keyOf(it.Val()); ok {
				mu.Lock()
				found[key] = true
				mu.Unlock()
			}
		}
		return it.Err()
	}
	err := b.do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		switch c := client.(type) {
		case forEachMaster:
			return scanCluster(ctx, c, look)
		case *redis.Client:
			return onOneConnection(ctx, c, look)
		}
		return look(ctx, client)
	})
	return slices.Sorted(maps.Keys(found)), err
}

// onOneConnection has look use one connection and no other: SCAN's cursor means
// something only to the process that gave it, and a server that was started anew, or
// another one after a failover, would skip keys for it without a word.
func onOneConnection(ctx context.Context, c *redis.Client, look func(context.Context, redis.Cmdable) error) error {
	conn := c.Conn()
	err := look(ctx, conn)
	return errors.Join(err, conn.Close())
}

// scanCluster looks at each master twice, one round after the other. A key that moves
// from A to B meanwhile is found at A in the first round, or was at B in all of the second.
// It could be missed only if it moved twice, so it must be the case that no slot has
// changed hands.
func scanCluster(ctx context.Context, c forEachMaster, look func(context.Context, redis.Cmdable) error) error {
	before, err := owners(ctx, c)
	for range scanTries {
		for range 2 {
			if err != nil {
				return err
			}
			err = c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
				return onOneConnection(ctx, node, look)
			})
		}
		if err != nil {
			return err
		}
		after, err := owners(ctx, c)
		if err != nil {
			return err
		}
		if maps.Equal(before, after) {
			return nil
		}
		before = after
	}
	return backend.Unavailable(errors.New("redis: the cluster's slots changed hands each time that its keys were listed: try again when it has settled"))
}

// owners returns, by the ids of the masters, the epoch and the slots of each, by its own
// word; an error if a slot is nobody's.
func owners(ctx context.Context, c forEachMaster) (map[string]string, error) {
	var mu sync.Mutex
	has := map[string]string{}
	var owned [clusterSlots]bool
	err := c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		text, err := node.ClusterNodes(ctx).Result()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for line := range strings.Lines(text) {
			f := strings.Fields(line) // id, address, flags, master, ping, pong, epoch, link, slots
			if len(f) < 8 || !slices.Contains(strings.Split(f[2], ","), "myself") {
				continue
			}
			own := f[6]
			for _, r := range f[8:] {
				if strings.HasPrefix(r, "[") {
					continue // on the move
				}
				own += " " + r
				from, to, isRange := strings.Cut(r, "-")
				if !isRange {
					to = from
				}
				first, err := strconv.Atoi(from)
				last, err2 := strconv.Atoi(to)
				if err != nil || err2 != nil || first < 0 || last >= clusterSlots {
					return backend.Unavailable(fmt.Errorf("redis: unexpected slots %q in the answer to CLUSTER NODES", r))
				}
				for slot := first; slot <= last; slot++ {
					owned[slot] = true
				}
			}
			has[f[0]] = own
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if slot := slices.Index(owned[:], false); slot >= 0 {
		return nil, backend.Unavailable(fmt.Errorf("redis: no master of the cluster that is known has slot %d, so its keys cannot be listed", slot))
	}
	return has, nil
}
