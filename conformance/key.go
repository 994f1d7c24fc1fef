package conformance

import (
	"errors"
	"strings"

	"github.com/hasplock/hasp/backend"
)

var keyRules = []Rule{
	{ID: "keys-exact", Statement: "keys that differ in anything (case, Unicode form, spaces, any character) are different locks", run: keysExact},
	{ID: "keys-nested", Statement: "a key and another that continues it after a slash are different locks", rests: []string{"keys-exact"}, run: keysNested},
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
