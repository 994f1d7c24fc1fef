// Package newbackend is a whole hasp backend in one file, to begin your own from:
// locks in a SQLite database of one host. CONTRIBUTING.md explains it.
//
//	l, err := hasp.Open(ctx, "sqlite:///var/lib/jobs/locks.db", nil)
package newbackend

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"net/url"
	"reflect"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // the driver

	"github.com/hasplock/hasp/backend"
)

func init() { backend.Register("sqlite", Open) }

// A row outlives its lock, so that tokens rise even if the clock is set back.
const schema = `CREATE TABLE IF NOT EXISTS hasp_locks (
	key   TEXT PRIMARY KEY COLLATE BINARY, -- exact: nothing is folded
	id    TEXT NOT NULL,    -- the claim that holds the key, or released it last
	owner TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
	token INTEGER NOT NULL, -- the last one granted: the bits of a uint64
	ttl   INTEGER NOT NULL, -- ns
	since INTEGER NOT NULL, until INTEGER NOT NULL, -- ms since 1970; until is 0 if the key is free
	value BLOB, deleted INTEGER NOT NULL, vtoken INTEGER NOT NULL, vseq INTEGER NOT NULL -- vtoken is 0 if there is none
) STRICT, WITHOUT ROWID;
REPLACE INTO hasp_locks (` + columns + `) SELECT ` + columns + ` FROM hasp_locks WHERE FALSE` // can it be written?

const columns = `key, id, owner, host, pid, token, ttl, since, until, value, deleted, vtoken, vseq`

// clock, in ms, is the store's. SQLite runs in the process that uses it, so it is
// the wall clock of the host, one for all who share the file. If it is set
// forward, silent holders are stale that much earlier; if back, later.
const clock = `CAST(round(unixepoch('subsec') * 1000) AS INTEGER)`

const cut = 2 // ms that a TTL and a clock reading lose by being cut to whole ones: no TTL may end early

// settings of every connection. A transaction locks the file before it reads, and
// waits for that until its context ends. A power failure can undo the last
// commits: their holders are gone then, too, and tokens have the clock in them.
const settings = "_txlock=immediate&_busy_timeout=60000&_synchronous=NORMAL&_error_rc=true"

// Backend is one process's use of a database.
type Backend struct {
	db     *sql.DB
	closed atomic.Bool
}

// Open opens sqlite:///path/to/file.db, which it creates if it is missing.
func Open(ctx context.Context, u *url.URL) (backend.Backend, error) {
	if u.Host != "" || u.Path == "" {
		return nil, errors.New("want sqlite:///path/to/file.db")
	}
	if err := backend.NewQuery(u).Err(); err != nil { // there are no options
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Path: u.Path, RawQuery: settings}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // goroutines queue for it, which is faster than polling the file's lock
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	_, _ = db.ExecContext(ctx, `PRAGMA journal_mode = WAL`) // only faster; refused while others do it
	return &Backend{db: db}, nil
}

type row struct {
	key, id             string
	holder              backend.Holder
	ttl                 time.Duration
	token, since, until int64
	value               []byte
	deleted             bool
	vtoken, vseq        int64 // the bits of uint64s
}

func (r *row) fields() []any {
	return []any{&r.key, &r.id, &r.holder.Owner, &r.holder.Host, &r.holder.PID, &r.token, &r.ttl, &r.since, &r.until, &r.value, &r.deleted, &r.vtoken, &r.vseq}
}

func (r *row) record(now int64) backend.Record {
	rec := backend.Record{Key: r.key, State: backend.Free, Token: uint64(r.token)}
	if r.until != 0 {
		rec.State, rec.ID, rec.Holder, rec.TTL = backend.Stale, r.id, r.holder, r.ttl
		rec.HeldFor = max(time.Duration(now-r.since)*time.Millisecond, 0)
	}
	if r.until > now {
		rec.State, rec.Remaining = backend.Held, time.Duration(min(r.until-now, r.ttl.Milliseconds()))*time.Millisecond
	}
	return rec
}

// update is every verb: one transaction in which f looks at key's row and changes
// it, or returns an error and nothing is written. So f's errors are definite. SQLite's
// are not: it may have committed, now or in an earlier attempt by the same claim.
func (b *Backend) update(ctx context.Context, key string, f func(r *row, now int64) error) error {
	if b.closed.Load() {
		return backend.ErrClosed
	}
	if err := backend.ValidateKey(key); err != nil {
		return err
	}
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return backend.Unavailable(err)
	}
	defer tx.Rollback() // does nothing after Commit
	r, now := row{key: key}, int64(0)
	err = tx.QueryRowContext(ctx, `SELECT `+clock).Scan(&now)
	if err == nil {
		err = tx.QueryRowContext(ctx, `SELECT `+columns+` FROM hasp_locks WHERE key = ?`, key).Scan(r.fields()...)
	}
	if err != nil && err != sql.ErrNoRows {
		return backend.Unavailable(err)
	}
	old := r
	if err := f(&r, now); err != nil || reflect.DeepEqual(r, old) {
		return err
	}
	if _, err = tx.ExecContext(ctx, `REPLACE INTO hasp_locks (`+columns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)`, r.fields()...); err == nil {
		err = tx.Commit()
	}
	return backend.Unavailable(err)
}

func (b *Backend) Acquire(ctx context.Context, key string, c backend.Claim) (g backend.Grant, err error) {
	if err := backend.ValidateClaim(c); err != nil {
		return g, err
	}
	err = b.update(ctx, key, func(r *row, now int64) error {
		if r.until == 0 || r.id != c.ID { // else an earlier attempt took it, and its answer was lost
			if rec := r.record(now); rec.State == backend.Held {
				return backend.RefusedBy(rec)
			}
			token, err := backend.NextToken(uint64(r.token), c.TokenFloor, time.UnixMilli(now))
			if err != nil {
				return err
			}
			r.id, r.holder, r.token, r.since = c.ID, c.Holder, int64(token), now
		}
		r.ttl, r.until = c.TTL, now+c.TTL.Milliseconds()+cut
		g = backend.Grant{Key: key, ID: c.ID, Holder: r.holder, Token: uint64(r.token), TTL: r.ttl}
		return nil
	})
	return g, err
}

// Renew also renews a stale grant that nobody took over: nobody else held the key.
func (b *Backend) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	return g, b.update(ctx, g.Key, func(r *row, now int64) error {
		if r.until == 0 || r.id != g.ID {
			return backend.ErrLost
		}
		r.until = now + r.ttl.Milliseconds() + cut
		return nil
	})
}

// Release leaves the claim's ID, so that releasing again is no error.
func (b *Backend) Release(ctx context.Context, g backend.Grant) error {
	return b.update(ctx, g.Key, func(r *row, _ int64) error {
		if r.id != g.ID {
			return backend.ErrLost
		}
		r.until = 0
		return nil
	})
}

func (b *Backend) Inspect(ctx context.Context, key string) (rec backend.Record, err error) {
	err = b.update(ctx, key, func(r *row, now int64) error {
		rec = r.record(now)
		return nil
	})
	return rec, err
}

// Break drops the claim's ID, so that its holder's Release is told.
func (b *Backend) Break(ctx context.Context, key string, token uint64) error {
	return b.update(ctx, key, func(r *row, now int64) error {
		switch {
		case r.until == 0:
			return backend.ErrNotHeld
		case uint64(r.token) != token:
			return &backend.HeldError{Record: r.record(now)}
		}
		r.id, r.until = "", 0
		return nil
	})
}

func (r *row) val() backend.Value {
	return backend.Value{Data: r.value, Deleted: r.deleted, Token: uint64(r.vtoken), Seq: uint64(r.vseq)}
}

func (b *Backend) Value(ctx context.Context, key string) (v backend.Value, err error) {
	err = b.update(ctx, key, func(r *row, now int64) error {
		v = r.val()
		return nil
	})
	return v, err
}

// SetValue also renews, as every sign of life of a holder may.
func (b *Backend) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	return g, b.update(ctx, g.Key, func(r *row, now int64) error {
		if err := v.Validate(); err != nil {
			return err
		}
		if r.until == 0 || r.id != g.ID {
			return backend.ErrLost
		}
		old, same := r.val(), v.Deleted == r.deleted && bytes.Equal(v.Data, r.value)
		if order := v.Compare(old); order < 0 || order == 0 && !same {
			return backend.ErrOldValue
		}
		r.value, r.deleted, r.vtoken, r.vseq = v.Data, v.Deleted, int64(v.Token), int64(v.Seq)
		r.until = now + r.ttl.Milliseconds() + cut
		return nil
	})
}

func (b *Backend) ListValues(ctx context.Context, prefix string) (kvs []backend.KeyValue, err error) {
	if b.closed.Load() {
		return nil, backend.ErrClosed
	}
	rows, err := b.db.QueryContext(ctx, `SELECT `+columns+` FROM hasp_locks WHERE vtoken != 0 AND substr(key, 1, length(?1)) = ?1 ORDER BY key`, prefix)
	if err != nil {
		return nil, backend.Unavailable(err)
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(r.fields()...); err != nil {
			return nil, backend.Unavailable(err)
		}
		kvs = append(kvs, backend.KeyValue{Key: r.key, Value: r.val()})
	}
	return kvs, backend.Unavailable(rows.Err())
}

func (b *Backend) Close() error {
	b.closed.Store(true)
	return b.db.Close()
}
