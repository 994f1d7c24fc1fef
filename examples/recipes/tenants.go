package recipes

import (
	"context"
	"errors"

	"github.com/hasplock/hasp"
)

// ServeTenants does the work of each tenant that nobody else is at. Any number of workers
// may call it, over and over: they share the tenants among them.
func ServeTenants(ctx context.Context, l hasp.Locker, tenants []string, work func(ctx context.Context, tenant string) error) error {
	var errs []error
	for _, tenant := range tenants {
		err := hasp.Do(ctx, l, "tenants/"+tenant, func(ctx context.Context, _ *hasp.Lease) error {
			return work(ctx, tenant)
		}, hasp.NoWait())
		if errors.Is(err, hasp.ErrHeld) {
			continue // another worker has this one
		}
		errs = append(errs, err) // one tenant's failure is not the others'
	}
	return errors.Join(errs...)
}
