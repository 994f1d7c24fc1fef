package conformance

import (
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hasplock/hasp/backend"
)

var keyRules = []Rule{
	{ID: "keys-exact", Statement: "keys that differ in anything (case, Unicode form, spaces, any character) are different locks", run: keysExact},
	{ID: "keys-nested", Statement: "a key and another that continues it after a slash are different locks", rests: []string{"keys-exact"}, run: keysNested},
	{ID: "keys-paths", Statement: "keys that a path or a trim would make one (a//b, a/./b, a/b/, a\\b) are different locks, or are refused with ErrInvalidKey", rests: []string{"keys-exact", "keys-nested"}, run: keysPaths},
	{ID: "keys-many", Statement: "as many keys as are held at once, as many locks there are, with hundreds of them", phase: busy, rests: []string{"keys-exact"}, run: keysMany},
	{ID: "keys-long", Statement: "keys up to 1024 bytes are accepted, and count to their last byte", rests: []string{"keys-exact"}, run: keysLong},
	{ID: "keys-refused", Statement: "a key that is empty, too long, not UTF-8 or has control characters gives ErrInvalidKey", run: keysRefused},
}

// oddKeys are the last parts of keys that stores confuse: as paths, patterns,
// hash tags, queries, or after folding of case or of Unicode forms.
var oddKeys = []string{
	"plain", "Plain", "PLAIN", "plain ", " plain", "plain.", ".plain", "plain.lock", "plain~", "-plain", "--",
	"caf\u00e9", "cafe\u0301", "\u212b", "\u00c5", "stra\u00dfe", "strasse", "\u0130", "i\u0307", "\U0001f511", "\u200bplain",
	"{plain}", "{}", "{plain}x", "x{plain}", "%70lain", "%", "%2F", "100%25", "pl*in", "pl?in", "pl[a]in", "*", "**",
	`pl\ain`, `"plain"`, "'plain'", "pl:ain", "pl;ain", "pl|ain", "pl&ain=1", "pl#ain", "pl+ain", "pl ain", "$plain", "~plain", "a,b", "a@b",
	"free", "held", "lock", "token", "0", "00", "1e3", "null", "true", "<plain>", "a\u00a0b", "CON", "nul",
}

func keysExact(x *trial) { x.distinct(oddKeys, func(k string) string { return k }) }

// distinct locks all the keys at once and checks that none stands for another.
func (x *trial) distinct(names []string, show func(string) string) {
	a, b := x.client(), x.client()
	base := x.key()
	tokens := map[string]backend.Grant{}
	for _, name := range names {
		key := base + "/" + name
		g, err := x.attempt(a, key, x.claim(x.long()))
		var held *backend.HeldError
		if errors.As(err, &held) {
			for other, o := range tokens {
				if o.Token == held.Record.Token && o.ID == held.Record.ID {
					x.failf("the key ending in %q is the same lock as that ending in %q", show(name), show(other))
				}
			}
			x.failf("the key ending in %q is held by another key's holder, %s", show(name), held)
		}
		if err != nil {
			x.failf("the key ending in %q gave %q", show(name), err)
		}
		if g.Key != key {
			x.failf("the grant of the key ending in %q is for the key %q", show(name), g.Key)
		}
		tokens[name] = g
	}
	for i, name := range names {
		g := tokens[name]
		if r := x.inspect(b, g.Key); r.ID != "" && r.ID != g.ID || r.Token != g.Token || r.Key != g.Key {
			x.failf("the key ending in %q has token %d, and is shown as key %q, %s", show(name), g.Token, r.Key, r)
		}
		if i%2 == 0 {
			x.release(a, g)
		}
	}
	for i, name := range names {
		if r := x.inspect(b, tokens[name].Key); (r.State == backend.Held) != (i%2 == 1) {
			x.failf("every second key was released, and the one ending in %q is %s", show(name), r)
		}
		if i%2 == 1 {
			x.release(a, tokens[name])
		}
	}
}

func keysNested(x *trial) {
	x.distinct([]string{"a", "a/b", "a/b/c", "a/B", "ab", "a.b", "a:b", "b/a", ".a/b", "a b/c", "d/e", "d"}, func(k string) string { return k })
}

// keysPaths tells apart what the store takes; it may refuse what is no path to it.
func keysPaths(x *trial) {
	a := x.client()
	base := x.key()
	var taken, refused []string
	for _, name := range []string{
		"a/b", "a//b", "a///b", "a/./b", "./a/b", "a/x/../b", "a/b/", "a/b//", "a/b/.", "/a/b", `a\b`, "a/b ", "a/b.", "a/b..", "A/b",
	} {
		c := x.claim(x.long())
		g, err := x.attempt(a, base+"-0/"+name, c)
		switch {
		case errors.Is(err, backend.ErrInvalidKey):
			refused = append(refused, name)
			continue
		case err == nil:
			x.release(a, g)
		case !errors.Is(err, backend.ErrHeld):
			x.failf("the key ending in %q gave %q, which is neither a lock nor ErrInvalidKey", name, err)
		}
		taken = append(taken, name)
	}
	if len(refused) > 0 {
		x.notef("refused: %q", refused)
	}
	x.distinct(taken, func(k string) string { return k })
}

func keysMany(x *trial) {
	const n = 800 // two of them have the same 16 bits, but for 1 run in 130
	a := x.client()
	base := x.key()
	// Without a pattern: a checksum tells apart what differs in a few bits only.
	names := make([]string, n)
	for i := range names {
		names[i] = rand.Text()
	}
	gs := make([]backend.Grant, n)
	x.each(n, func(i int) {
		g, err := x.attempt(a, base+"/"+names[i], x.claim(x.long()))
		var held *backend.HeldError
		if errors.As(err, &held) {
			x.errorf("a key that was never locked is held by another's holder: two of %d keys are one lock", n)
		} else if err != nil {
			x.errorf("one of %d keys gave %q", n, err)
		}
		gs[i] = g
	})
	if x.failed() {
		return
	}
	x.each(n, func(i int) {
		if err := a.Release(x.ctx, gs[i]); err != nil {
			x.errorf("Release of one of %d keys gave %q", n, err)
		}
	})
}

// each runs f for 0 to n-1, a few at a time, until one has failed.
func (x *trial) each(n int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		x.spawn(&wg, func() {
			for i := int(next.Add(1) - 1); i < n && !x.failed() && x.ctx.Err() == nil; i = int(next.Add(1) - 1) {
				f(i)
			}
		})
	}
	wg.Wait()
}

func keysLong(x *trial) {
	room := backend.MaxKeyLen - len(x.prefix()) - len("k1/")
	// parts of 100 bytes suit a file system's limit of 255
	long := strings.Repeat(strings.Repeat("p", 99)+"/", 20)[:room-1]
	long = strings.TrimSuffix(long, "/") // a trailing slash would make the last byte a part of its own
	for len(long) < room-1 {
		long += "q"
	}
	x.distinct([]string{long + "1", long + "2", long, strings.ToUpper(long[:1]) + long[1:] + "1"}, func(k string) string {
		return k[:1] + "..." + k[len(k)-10:]
	})
}

func keysRefused(x *trial) {
	b := x.client()
	p := x.prefix()
	for what, key := range map[string]string{
		"an empty key":            "",
		"a key of 1025 bytes":     p + strings.Repeat("x/", backend.MaxKeyLen)[:backend.MaxKeyLen+1-len(p)],
		"a key with NUL":          p + "a\x00b",
		"a key with a line feed":  p + "a\nb",
		"a key with DEL":          p + "a\x7fb",
		"a key that is not UTF-8": p + "a\xffb",
	} {
		if _, err := x.attempt(b, key, x.claim(x.ttl())); !errors.Is(err, backend.ErrInvalidKey) {
			x.failf("Acquire of %s gave %v and not ErrInvalidKey", what, err)
		}
		if _, err := b.Inspect(x.ctx, key); !errors.Is(err, backend.ErrInvalidKey) {
			x.failf("Inspect of %s gave %v and not ErrInvalidKey", what, err)
		}
	}
}
