package recipes

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/hasplock/hasp"
)

// Migrate brings a database to the newest schema. Of several instances that start at the
// same time one does it, and the others wait until it is done.
func Migrate(ctx context.Context, l hasp.Locker, db *sql.DB, steps []string) (ran bool, err error) {
	version := func(ctx context.Context) (n int, err error) {
		err = db.QueryRowContext(ctx, `SELECT coalesce(max(n), 0) FROM schema_version`).Scan(&n)
		return n, err
	}
	done := func(ctx context.Context) (bool, error) {
		n, err := version(ctx)
		return n >= len(steps), err
	}
	return hasp.Once(ctx, l, "migrate", done, func(ctx context.Context, _ *hasp.Lease) error {
		n, err := version(ctx)
		if err != nil {
			return err
		}
		for ; n < len(steps); n++ {
			tx, err := db.BeginTx(ctx, nil) // rolled back when the lock is lost: ctx ends then
			if err != nil {
				return err
			}
			// The version is the fence here: a second one that is at the same step fails.
			if _, err = tx.ExecContext(ctx, `INSERT INTO schema_version (n) VALUES (?)`, n+1); err == nil {
				_, err = tx.ExecContext(ctx, steps[n])
			}
			if err != nil {
				_ = tx.Rollback()
				return fmt.Errorf("step %d: %w", n+1, err)
			}
			if err := tx.Commit(); err != nil {
				return err
			}
		}
		return nil
	})
}
