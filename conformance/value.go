package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

var values = []backend.Capability{backend.CapValues}

// valueRules say what becomes of values. Who may set one, and in which order, say
// valueSetterRules.
var valueRules = []Rule{
	{ID: "value-found", Statement: "what the holder sets is found by every client, when it has released and closed too; before that there is no value", needs: values, run: valueFound},
	{ID: "value-after-expiry", Statement: "a value stays when its setter's TTL has run out and when another has taken over", needs: values, rests: []string{"value-found"}, run: valueAfterExpiry},
	{ID: "value-after-break", Statement: "a value stays when its setter is broken", needs: []backend.Capability{backend.CapValues, backend.CapBreak}, rests: []string{"value-found"}, run: valueAfterBreak},
	{ID: "value-fresh", Statement: "Value and ListValues see every SetValue that has returned, also a client that has looked before", needs: values, rests: []string{"value-found"}, run: valueFresh},
	{ID: "value-exact", Statement: "up to 64 KiB are kept to the byte, whatever they are; a value without bytes is a value", needs: values, rests: []string{"value-found"}, run: valueExact},
	{ID: "value-limit", Statement: "what is no valid value (over 64 KiB, without token or sequence) gets a definite error, and neither the value before it nor the lock is lost", needs: values, rests: []string{"value-found", "value-exact"}, run: valueLimit},
	{ID: "value-deleted", Statement: "a value that was deleted stays as a deleted one, and is listed, until a later one is set", needs: values, rests: []string{"value-found"}, run: valueDeleted},
	{ID: "value-list", Statement: "ListValues has each key that starts with the prefix and has a value, deleted or not, held or free, in byte order, and no others", needs: values, rests: []string{"value-found", "value-deleted"}, run: valueList},
	{ID: "value-own-key", Statement: "a value belongs to its key alone, however like another the key is", needs: values, rests: []string{"value-found", "keys-exact"}, run: valueOwnKey},
	{ID: "value-concurrent", Statement: "one client keeps the values of many keys for many goroutines at once", needs: values, phase: busy, rests: []string{"value-found", "value-own-key", "client-concurrent"}, run: valueConcurrent},
	{ID: "value-errors", Statement: "the verbs about values give ErrClosed after Close and ErrInvalidKey for a key that is none, in words that do not name the key", needs: values, run: valueErrors},
	{ID: "value-partition", Statement: "a client that is cut off fails with ErrUnavailable by its context's deadline, and what it wanted to set can be set when it is back", needs: values, hook: hookPartition, rests: []string{"value-found"}, run: valuePartition},
	{ID: "value-restart", Statement: "a value that was set is there after a restart of the store", needs: values, hook: hookRestart, phase: alone, rests: []string{"value-found", "restart-recovers"}, run: valueRestart},
	{ID: "value-wipe", Statement: "a store that has forgotten everything shows no value, and its former holder cannot set one once another has the key", needs: values, hook: hookWipe, phase: alone, rests: []string{"value-found", "value-only-holder"}, run: valueWipe},
}

// valueOf returns key's value.
func (x *trial) valueOf(b backend.Backend, key string) backend.Value {
	v, err := backend.ReadValue(x.ctx, b, key)
	if err != nil {
		x.restf("value-found", "Value gave %q", err)
	}
	return v
}

// setValue sets what its holder can set.
func (x *trial) setValue(b backend.Backend, g backend.Grant, v backend.Value) backend.Grant {
	next, err := backend.SetValue(x.ctx, b, g, v)
	if err != nil {
		x.restf("value-found", "SetValue of %s by the holder gave %q", sketch(v), err)
	}
	return next
}

// setSilently is setValue by a silent holder, whose TTL may begin anew with it.
func (x *trial) setSilently(b backend.Backend, s silent, v backend.Value) silent {
	next, err := silent{asked: time.Now()}, error(nil)
	next.Grant, err = backend.SetValue(x.ctx, b, s.Grant, v)
	next.answered = time.Now()
	if took := next.answered.Sub(s.asked); errors.Is(err, backend.ErrLost) && took >= s.TTL {
		x.unlessStalled(s.asked, s.TTL/8)
		x.latef("SetValue, %v after its key was locked with a TTL of %v, gave %q", backend.Round(took), s.TTL, err)
	}
	if err != nil {
		x.restf("value-found", "SetValue of %s by the holder gave %q", sketch(v), err)
	}
	return next
}

// hasValue checks that b finds want; after says what it should have survived.
func (x *trial) hasValue(b backend.Backend, key string, want backend.Value, after string) {
	if got := x.valueOf(b, key); !sameValue(got, want) {
		x.failf("after %s the value is %s, and %s was set", after, sketch(got), sketch(want))
	}
}

func sameValue(v, w backend.Value) bool {
	return v.Compare(w) == 0 && v.Deleted == w.Deleted && bytes.Equal(v.Data, w.Data)
}

// sketch says which value v is, in few words.
func sketch(v backend.Value) string {
	switch {
	case v.Token == 0 && v.Seq == 0 && len(v.Data) == 0 && !v.Deleted:
		return "none"
	case v.Deleted && len(v.Data) == 0:
		return fmt.Sprintf("a deleted one (token %d, sequence %d)", v.Token, v.Seq)
	}
	deleted := ""
	if v.Deleted {
		deleted = ", deleted"
	}
	return fmt.Sprintf("%d bytes %.24q (token %d, sequence %d%s)", len(v.Data), v.Data, v.Token, v.Seq, deleted)
}

// text is the n-th value of g.
func text(g backend.Grant, n uint64, s string) backend.Value {
	return backend.Value{Data: []byte(s), Token: g.Token, Seq: n}
}

func valueFound(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	none := func(after string) {
		for _, c := range []backend.Backend{a, b} {
			x.hasValue(c, key, backend.Value{}, after)
		}
	}
	none("nothing")
	g := x.acquire(a, key, x.long())
	none("Acquire")
	v := text(g, 1, "first")
	g = x.setValue(a, g, v)
	x.hasValue(a, key, v, "SetValue")
	x.hasValue(b, key, v, "SetValue by another client")
	v = text(g, 2, "second")
	g = x.setValue(a, g, v)
	x.hasValue(b, key, v, "a second SetValue")
	x.release(a, g)
	x.hasValue(a, key, v, "Release")
	x.hasValue(b, key, v, "another client's Release")
	if err := a.Close(); err != nil {
		x.failf("Close gave %q", err)
	}
	x.hasValue(b, key, v, "Close of the client that set it")
	x.hasValue(x.client(), key, v, "Release, by a client that was opened later,")
	next := x.acquire(b, key, x.long())
	x.hasValue(b, key, v, "the next Acquire")
	x.release(b, next)
	x.hasValue(b, key, v, "the next Release")
}

func valueAfterExpiry(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	v := text(s.Grant, 1, "decided")
	s = x.setSilently(a, s, v)
	x.outlive(s)
	x.hasValue(b, s.Key, v, "the TTL had run out")
	g, _ := x.takeover(b, s, x.long())
	x.hasValue(a, s.Key, v, "a takeover")
	x.release(b, g)
	x.hasValue(b, s.Key, v, "a takeover and a release")
}

func valueAfterBreak(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	v := text(g, 1, "decided")
	g = x.setValue(a, g, v)
	x.breakKey(b, g)
	x.hasValue(a, g.Key, v, "Break")
	x.acquire(b, g.Key, x.long())
	x.hasValue(a, g.Key, v, "Break and the next Acquire")
}

func valueFresh(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	look := func(want backend.Value, after string) {
		for _, c := range []backend.Backend{a, b} {
			x.hasValue(c, key, want, after)
			kvs, err := backend.ListValues(x.ctx, c, key)
			if err != nil {
				x.failf("ListValues gave %q", err)
			}
			if n := len(kvs); n > 0 != (want.Token != 0) || n > 0 && kvs[0].Value.Compare(want) != 0 {
				x.failf("after %s ListValues has %d keys, %v", after, n, kvs)
			}
		}
	}
	look(backend.Value{}, "nothing")
	for round := range 3 {
		for i, c := range []backend.Backend{a, b} {
			g := x.acquire(c, key, x.long())
			for n := range uint64(3) {
				v := text(g, n+1, fmt.Sprint("round ", round, i, n))
				g = x.setValue(c, g, v)
				look(v, "SetValue")
			}
			x.release(c, g)
		}
	}
}

func valueExact(x *trial) {
	a, b := x.client(), x.client()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	big := make([]byte, backend.MaxValueLen)
	_, _ = rand.Read(big)
	g := x.acquire(a, x.key(), x.long())
	for n, data := range [][]byte{
		[]byte("plain"), nil, {}, {0}, []byte("a\x00b"), []byte("line\n"), []byte(" \r\n\t "), {0xff, 0xfe, 0xc3}, []byte("caf\u00e9 cafe\u0301"),
		all, []byte(`{"a": "b\n"} %d 'q' "Q" $1 ;--`), []byte("0"), []byte("1e3"), []byte("null"), big[:len(big)-1], big, make([]byte, len(big)),
	} {
		v := backend.Value{Data: bytes.Clone(data), Token: g.Token, Seq: uint64(n) + 1}
		want := v
		want.Data = data
		g = x.setValue(a, g, v)
		for i := range v.Data { // it is the caller's again
			v.Data[i] ^= 0x55
		}
		got := x.valueOf(b, g.Key)
		if !sameValue(got, want) || !got.Exists() {
			x.failf("%s was set and %s is there", sketch(want), sketch(got))
		}
		for i := range got.Data {
			got.Data[i] ^= 0x55
		}
		if got := x.valueOf(b, g.Key); !sameValue(got, want) {
			x.failf("%s was set, and after its reader wrote into what it got %s is there", sketch(want), sketch(got))
		}
	}
}

func valueLimit(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	v := text(g, 1, "before")
	g = x.setValue(a, g, v)
	for what, bad := range map[string]backend.Value{
		"a value of 65537 bytes":             {Data: make([]byte, backend.MaxValueLen+1), Token: g.Token, Seq: 2},
		"a value of 1 MiB":                   {Data: make([]byte, 1<<20), Token: g.Token, Seq: 2},
		"a value without token":              {Data: []byte("x"), Seq: 2},
		"a value without sequence":           {Data: []byte("x"), Token: g.Token + 1},
		"a value that is deleted, with data": {Data: []byte("x"), Token: g.Token, Seq: 2, Deleted: true},
	} {
		switch _, err := backend.SetValue(x.ctx, a, g, bad); {
		case err == nil:
			x.failf("SetValue of %s succeeded", what)
		case errors.Is(err, backend.ErrUnavailable), errors.Is(err, backend.ErrLost), errors.Is(err, backend.ErrHeld), errors.Is(err, backend.ErrOldValue):
			x.failf("SetValue of %s gave %q: it is not the store's doing, nor another's", what, err)
		}
		x.hasValue(b, g.Key, v, what+" was refused")
		x.stillHolds(b, g, what+" was refused")
	}
	v = text(g, 2, "after")
	g = x.setValue(a, g, v)
	x.hasValue(b, g.Key, v, "what was refused, and another SetValue,")
	if _, err := a.Renew(x.ctx, g); err != nil {
		x.failf("after what was refused Renew gave %q", err)
	}
}

func valueDeleted(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	deleted := backend.Value{Token: g.Token, Seq: 2, Deleted: true}
	for _, c := range []struct {
		v     backend.Value
		after string
	}{{text(g, 1, "x"), "SetValue"}, {deleted, "deletion"}, {text(g, 3, "y"), "a deletion and SetValue"}, {backend.Value{Token: g.Token, Seq: 4, Deleted: true}, "a second deletion"}} {
		g = x.setValue(a, g, c.v)
		x.hasValue(b, g.Key, c.v, c.after)
		x.listsValue(b, g.Key, c.v, c.after)
	}
	last := x.valueOf(a, g.Key)
	x.release(a, g)
	x.hasValue(b, g.Key, last, "a deletion and Release")
	x.listsValue(b, g.Key, last, "a deletion and Release")
	// without a value before it
	g = x.acquire(a, x.key(), x.long())
	never := backend.Value{Token: g.Token, Seq: 1, Deleted: true}
	g = x.setValue(a, g, never)
	x.hasValue(b, g.Key, never, "a deletion of nothing")
	x.listsValue(b, g.Key, never, "a deletion of nothing")
}

// listsValue checks that ListValues has key with this value.
func (x *trial) listsValue(b backend.Backend, key string, want backend.Value, after string) {
	kvs, err := backend.ListValues(x.ctx, b, key)
	if err != nil {
		x.failf("ListValues gave %q", err)
	}
	if len(kvs) != 1 || kvs[0].Key != key || kvs[0].Value.Compare(want) != 0 || kvs[0].Value.Deleted != want.Deleted {
		x.failf("after %s ListValues has %v, and %s was set", after, kvs, sketch(want))
	}
}

func valueList(x *trial) {
	a, b := x.client(), x.client()
	base := x.key() + "/"
	names := []string{"b/2", "a/1", "a/10", "a/2", "A/1", "a1", "\u00e9", "a/1 x", "aa/1", "z{1}", "a/%41", "a_2", "a%", "%"}
	many := 150 // more than stores return at once
	if x.cfg.brief {
		many = 120
	}
	for i := range many {
		names = append(names, fmt.Sprintf("many/%d", i))
	}
	want := map[string]backend.Value{}
	gs := x.locked(a, base, names, x.long())
	for i, name := range names {
		g := gs[i]
		v := text(g, 1, name)
		g = x.setValue(a, g, v)
		if i%3 == 1 {
			v = backend.Value{Token: g.Token, Seq: 2, Deleted: true}
			g = x.setValue(a, g, v)
		}
		want[g.Key] = v
		if i%2 == 0 {
			x.release(a, g)
		}
	}
	x.acquire(a, base+"a/held", x.long()) // and no value
	x.valueOf(b, base+"a/looked-at")
	for _, prefix := range []string{base, base + "a", base + "a/", base + "a/1", base + "A", base + "nothing", base + "a/*", base + "z{", base + "many/1", base + "a_", base + "a%", base + "%"} {
		var keys []string
		for key := range want {
			if strings.HasPrefix(key, prefix) {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		kvs, err := backend.ListValues(x.ctx, b, prefix)
		if err != nil {
			x.failf("ListValues(%q) gave %q", prefix, err)
		}
		for i, kv := range kvs {
			if i >= len(keys) || kv.Key != keys[i] {
				x.failf("ListValues(%q) has key %q in place %d of %d, and %d have a value", prefix, kv.Key, i+1, len(kvs), len(keys))
			}
			v := want[kv.Key]
			if kv.Value.Compare(v) != 0 || kv.Value.Deleted != v.Deleted || len(kv.Value.Data) > 0 && !bytes.Equal(kv.Value.Data, v.Data) {
				x.failf("ListValues(%q) has %s for %q, and %s was set", prefix, sketch(kv.Value), kv.Key, sketch(v))
			}
		}
		if len(kvs) != len(keys) {
			x.failf("ListValues(%q) has %d keys, and %d have a value", prefix, len(kvs), len(keys))
		}
	}
}

func valueOwnKey(x *trial) {
	a, b := x.client(), x.client()
	base := x.key() + "/"
	want := map[string]backend.Value{}
	for i, name := range slices.Concat(oddKeys, []string{"value", "plain:value", "plain.value", "value:plain", "value.plain", "plain/", "v", "plain value", "{plain}:value"}) {
		if strings.HasSuffix(name, "/") {
			continue // a path, to some
		}
		key := base + name
		want[key] = backend.Value{}
		if i%2 == 0 {
			g := x.acquire(a, key, x.long())
			want[key] = text(g, 1, name)
			x.release(a, x.setValue(a, g, want[key]))
		}
	}
	for key, v := range want {
		if got := x.valueOf(b, key); !sameValue(got, v) {
			x.failf("the key ending in %q has the value %s, and %s was set", strings.TrimPrefix(key, base), sketch(got), sketch(v))
		}
	}
}

func valueConcurrent(x *trial) {
	b := x.client()
	var wg sync.WaitGroup
	for i := range 32 {
		key := x.key()
		x.spawn(&wg, func() {
			g, err := x.attempt(b, key, x.claim(x.long()))
			for n := uint64(1); n <= 4 && err == nil; n++ {
				v := text(g, n, strings.Repeat(fmt.Sprint("value ", i, n), 50))
				var got backend.Value
				if g, err = backend.SetValue(x.ctx, b, g, v); err == nil {
					got, err = backend.ReadValue(x.ctx, b, key)
				}
				if err == nil && !sameValue(got, v) {
					x.errorf("one of 32 goroutines with keys of their own set %s and found %s", sketch(v), sketch(got))
				}
			}
			if err == nil {
				err = b.Release(x.ctx, g)
			}
			if err != nil {
				x.errorf("one of 32 goroutines with keys of their own: %v", err)
			}
		})
	}
	wg.Wait()
}

func valueErrors(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	x.cleanup(func(ctx context.Context) { _ = b.Release(ctx, g) })
	check := func(what string, err, want error, key string) {
		switch {
		case !errors.Is(err, want):
			x.failf("%s gave %v and not %q", what, err, want)
		case key != "" && strings.Contains(err.Error(), key):
			x.failf("the error of %s names the key: %q", what, err)
		case backend.Text(err) != err.Error() || strings.HasSuffix(err.Error(), ":"):
			x.failf("the error of %s is not fit to be printed: %q", what, err)
		}
	}
	for what, key := range map[string]string{
		"an empty key": "", "a key with a line feed": x.prefix() + "a\nb", "a key that is not UTF-8": x.prefix() + "a\xffb",
	} {
		_, err := backend.ReadValue(x.ctx, a, key)
		check("Value of "+what, err, backend.ErrInvalidKey, "")
		_, err = backend.SetValue(x.ctx, a, backend.Grant{Key: key, ID: g.ID, Token: g.Token, TTL: g.TTL}, text(g, 1, "x"))
		check("SetValue of "+what, err, backend.ErrInvalidKey, "")
	}
	_, err := backend.SetValue(x.ctx, b, backend.Grant{Key: g.Key, ID: rand.Text(), Token: g.Token, TTL: g.TTL}, text(g, 1, "x"))
	check("SetValue by one who does not hold the key", err, backend.ErrLost, g.Key)
	g = x.setValue(a, g, text(g, 2, "x"))
	_, err = backend.SetValue(x.ctx, a, g, text(g, 1, "x"))
	check("SetValue of an older value", err, backend.ErrOldValue, g.Key)
	if err := a.Close(); err != nil {
		x.failf("Close gave %q", err)
	}
	_, err = backend.ReadValue(x.ctx, a, g.Key)
	check("Value after Close", err, backend.ErrClosed, g.Key)
	_, err = backend.SetValue(x.ctx, a, g, text(g, 3, "x"))
	check("SetValue after Close", err, backend.ErrClosed, g.Key)
	_, err = backend.ListValues(x.ctx, a, x.prefix())
	check("ListValues after Close", err, backend.ErrClosed, x.prefix())
	x.hasValue(b, g.Key, text(g, 2, "x"), "Close, and SetValue after it,")
}

func valuePartition(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	before, v := text(g, 1, "before"), text(g, 2, "during")
	g = x.setValue(a, g, before)
	heal := x.cut(a)
	limit := 500 * time.Millisecond
	for what, call := range map[string]func(context.Context) error{
		"Value":      func(ctx context.Context) error { _, err := backend.ReadValue(ctx, a, g.Key); return err },
		"SetValue":   func(ctx context.Context) error { _, err := backend.SetValue(ctx, a, g, v); return err },
		"ListValues": func(ctx context.Context) error { _, err := backend.ListValues(ctx, a, g.Key); return err },
	} {
		var err error
		x.returns(limit+x.soon(), what+" by a client that is cut off", func() {
			ctx, cancel := context.WithTimeout(x.ctx, limit)
			defer cancel()
			err = call(ctx)
		})
		switch {
		case err == nil:
			x.failf("%s by a client that is cut off succeeded", what)
		case !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded):
			x.failf("%s by a client that is cut off gave %q and not ErrUnavailable", what, err)
		}
	}
	x.hasValue(b, g.Key, before, "SetValue by a client that was cut off")
	heal()
	x.eventually("SetValue by a client that was put back", func() error {
		next, err := backend.SetValue(x.ctx, a, g, v)
		if errors.Is(err, backend.ErrLost) {
			x.failf("SetValue by a holder that was cut off for less than its TTL gave %q", err)
		}
		if err == nil {
			g = next
		}
		return err
	})
	x.hasValue(b, g.Key, v, "the client was put back, and SetValue was repeated,")
	x.release(a, g)
}

func valueRestart(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	v := text(g, 1, "decided")
	x.release(a, x.setValue(a, g, v))
	if err := x.cfg.Restart(x.ctx); err != nil {
		x.failf("the store could not be restarted: %v", err)
	}
	x.fault("store", "restarted")
	for _, c := range []backend.Backend{a, b} {
		var got backend.Value
		x.eventually("Value after a restart", func() (err error) {
			got, err = backend.ReadValue(x.ctx, c, g.Key)
			return err
		})
		if !sameValue(got, v) {
			x.failf("after a restart the value is %s, and %s was set", sketch(got), sketch(v))
		}
	}
}

func valueWipe(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	g = x.setValue(a, g, text(g, 1, "decided"))
	x.hasValue(b, g.Key, text(g, 1, "decided"), "SetValue")
	if err := x.cfg.Wipe(x.ctx); err != nil {
		x.failf("the store could not be wiped: %v", err)
	}
	x.fault("store", "wiped")
	for _, c := range []backend.Backend{a, b, x.client()} {
		var got backend.Value
		x.eventually("Value after a wipe", func() (err error) {
			got, err = backend.ReadValue(x.ctx, c, g.Key)
			return err
		})
		if got.Token != 0 {
			x.failf("after a wipe the value is %s", sketch(got))
		}
	}
	c := x.claim(x.long())
	x.eventually("a claim after a wipe", func() error {
		_, err := x.attempt(b, g.Key, c)
		return err
	})
	late := backend.Value{Data: []byte("late"), Token: g.Token + 1<<40, Seq: 2}
	x.eventually("SetValue by the former holder", func() error {
		_, err := backend.SetValue(x.ctx, a, g, late)
		if errors.Is(err, backend.ErrUnavailable) {
			return err
		}
		if !errors.Is(err, backend.ErrLost) {
			x.failf("after a wipe another has the key, and SetValue by its former holder gave %v and not ErrLost", err)
		}
		return nil
	})
	x.hasValue(b, g.Key, backend.Value{}, "a wipe, and SetValue by the former holder,")
}
