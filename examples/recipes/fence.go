package recipes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrFenced is for a write by one who has had a successor.
var ErrFenced = errors.New("a later holder of the lock has written")

// SetBalance writes to a row unless a higher token has: the row remembers the highest. It
// takes a lock's token as int64, as SQL has it: tokens stay below 2^63 for 292,000 years.
func SetBalance(ctx context.Context, db *sql.DB, account string, balance int64, token uint64) error {
	r, err := db.ExecContext(ctx, `UPDATE accounts SET balance = ?, token = ? WHERE name = ? AND token <= ?`,
		balance, int64(token), account, int64(token))
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return fmt.Errorf("account %q, token %d: %w", account, token, ErrFenced)
}

// WriteReport writes a file that a late holder cannot overwrite: each token has a file of
// its own, and readers take the one with the highest.
func WriteReport(dir string, data []byte, token uint64) error {
	path := filepath.Join(dir, fmt.Sprintf("report.%020d", token))
	if err := os.WriteFile(path+".part", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".part", path) // complete, or not there
}

// ReadReport returns the newest holder's report.
func ReadReport(dir string) ([]byte, error) {
	all, err := filepath.Glob(filepath.Join(dir, "report."+"[0-9]*[0-9]")) // in order: the tokens have 20 digits
	if err != nil || len(all) == 0 {
		return nil, errors.Join(err, os.ErrNotExist)
	}
	return os.ReadFile(all[len(all)-1])
}
