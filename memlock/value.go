package memlock

import (
	"bytes"
	"context"
	"sort"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Value implements backend.ValueStore.
func (c *Client) Value(ctx context.Context, key string) (v backend.Value, err error) {
	err = c.do(ctx, OpValue, key, func(time.Time) error {
		v = c.s.entry(key).value
		v.Data = bytes.Clone(v.Data)
		return nil
	})
	return v, err
}

// SetValue implements backend.ValueStore. It restarts the TTL.
func (c *Client) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	if err := v.Validate(); err != nil {
		return g, err
	}
	v.Data = bytes.Clone(v.Data)
	err := c.do(ctx, OpSetValue, g.Key, func(now time.Time) error {
		if err := c.s.renew(g, now); err != nil {
			return err
		}
		e := c.s.entry(g.Key)
		switch order := v.Compare(e.value); {
		case order > 0:
			e.value = v
		case order < 0 || v.Deleted != e.value.Deleted || !bytes.Equal(v.Data, e.value.Data):
			return backend.ErrOldValue
		}
		return nil
	})
	return g, err
}

// ListValues implements backend.ValueStore.
func (c *Client) ListValues(ctx context.Context, prefix string) (kvs []backend.KeyValue, err error) {
	err = c.run(ctx, OpListValues, prefix, func(time.Time) error {
		for key, e := range c.s.entries {
			if e.value.Token != 0 && strings.HasPrefix(key, prefix) {
				v := e.value
				v.Data = bytes.Clone(v.Data)
				kvs = append(kvs, backend.KeyValue{Key: key, Value: v})
			}
		}
		return nil
	})
	sort.Slice(kvs, func(i, j int) bool { return kvs[i].Key < kvs[j].Key })
	return kvs, err
}
