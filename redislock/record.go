package redislock

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

// A record is a lock's value in Redis: record.lua says what is in it.
type record struct {
	token  uint64
	id     string
	held   bool // or stale; the fields below are zero if not
	ttl    time.Duration
	since  int64 // us of the server's clock
	holder backend.Holder
}

func parseRecord(s string) (r record, err error) {
	f := strings.SplitN(s, " ", 8)
	r.token, err = strconv.ParseUint(f[0], 10, 64)
	if len(f) > 1 {
		r.id = f[1]
	}
	if err == nil && len(f) == 8 {
		var ttl int64
		r.held = true
		ttl, err = strconv.ParseInt(f[2], 10, 64)
		r.ttl = span(ttl)
		if err == nil {
			r.since, err = strconv.ParseInt(f[5], 10, 64)
		}
		var h holderJSON
		if json.Unmarshal([]byte(f[7]), &h) == nil { // it decides nothing
			r.holder = backend.Holder(h)
		}
	}
	if err != nil || len(f) > 2 && len(f) < 8 {
		return r, fmt.Errorf("%w: the value %.80q is not a lock record", backend.ErrCorrupt, s)
	}
	return r, nil
}

// held turns a lock's value into what HeldError tells of it.
func (b *Backend) held(key, value string, left time.Duration) (backend.Record, error) {
	r, err := parseRecord(value)
	if err != nil {
		return backend.Record{}, err
	}
	return r.report(key, left), nil
}

// report is what Inspect tells, but for what the record does not know.
func (r record) report(key string, left time.Duration) backend.Record {
	if !r.held {
		return backend.Record{Key: key, State: backend.Free, Token: r.token}
	}
	state := backend.Held
	if left <= 0 {
		state = backend.Stale
	}
	return backend.Record{
		Key: key, State: state, ID: r.id, Holder: r.holder, Token: r.token, TTL: r.ttl, Remaining: max(0, left),
	}
}

type holderJSON struct {
	Owner string `json:"owner,omitempty"`
	Host  string `json:"host,omitempty"`
	PID   int    `json:"pid,omitempty"`
}

// holderArg is "<channel> <holder>".
func (b *Backend) holderArg(h backend.Holder) string {
	text, _ := json.Marshal(holderJSON(h)) // strings and an int: it cannot fail
	return b.channel + " " + string(text)
}
