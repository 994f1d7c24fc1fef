package recipes

import (
	"context"
	"errors"

	"github.com/hasplock/hasp"
)

// Lead runs lead while this process is the leader, again whenever it becomes the leader
// again, until ctx ends or lead fails. Its context ends when it is the leader no more.
//
// l's MaxRetries is hasp.Unlimited: a follower waits for as long as the leader leads.
func Lead(ctx context.Context, l hasp.Locker, key string, lead func(ctx context.Context, term uint64) error) error {
	for {
		err := hasp.Do(ctx, l, key, func(ctx context.Context, lease *hasp.Lease) error {
			return lead(ctx, lease.Token())
		})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, hasp.ErrLost): // another leads by now, or the store was away
			continue
		default:
			return err
		}
	}
}
