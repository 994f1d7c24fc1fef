package redislock

import "strings"

// names are what one lock is called in Redis. All have the same hash tag, so
// that they share a slot of a Redis Cluster: the braces and what is between
// them.
type names struct{ lock, queue, turn string }

func (b *Backend) names(key string) names {
	lock := b.lockName(key)
	both := lock + ":queue" + lock + ":turn"
	n := len(lock) + len(":queue")
	return names{lock, both[:n], both[n:]}
}

func (n names) all() []string { return []string{n.lock, n.queue, n.turn} }

// with is all and the mark that a claim has been withdrawn.
func (n names) with(claim string) []string {
	return []string{n.lock, n.queue, n.turn, n.lock + ":withdrawn:" + claim}
}

// A hash tag ends at the first closing brace, so keys may not bring any of their
// own; an opening one does no harm.
var (
	tagEscaper   = strings.NewReplacer("%", "%25", "}", "%7D")
	tagUnescaper = strings.NewReplacer("%25", "%", "%7D", "}")
)

func (b *Backend) lockName(key string) string {
	if strings.ContainsAny(key, "%}") {
		key = tagEscaper.Replace(key)
	}
	return b.prefix + "{" + key + "}"
}

// valueSuffix ends the name of what is kept beside a lock.
const valueSuffix = ":value"

func (b *Backend) valueName(key string) string { return b.lockName(key) + valueSuffix }

// keyOf is lockName's inverse; false if name is not a lock's.
func (b *Backend) keyOf(name string) (string, bool) {
	tag, ok := strings.CutPrefix(name, b.prefix+"{")
	if !ok {
		return "", false
	}
	tag, rest, ok := strings.Cut(tag, "}")
	if !ok || rest != "" || tag == "" {
		return "", false
	}
	return tagUnescaper.Replace(tag), true
}

// globEscape makes s match only itself in SCAN's patterns.
var globEscape = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`)

// pattern matches the locks whose key starts with prefix, and their companions.
func (b *Backend) pattern(prefix string) string {
	return globEscape.Replace(b.prefix+"{"+tagEscaper.Replace(prefix)) + "*"
}
