package etcdlock

import (
	"crypto/rand"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// separator stands between a lock's key and the rest of an entry's name. Control
// characters cannot occur in a key, so entries of "a" and "a/b" never mix, and
// since it sorts before every character that can, entries come in the byte order
// of the locks' keys. A tab, and not a zero byte, because people can type and
// read it.
const separator = "\t"

// names maps locks to etcd keys:
//
//	<prefix>lock/<key> TAB <place>   one entry for the holder and each waiter
//	<prefix>token-base               the base of all tokens; see tokens.go
//	<prefix>token-base/<key>         that of one key, if it needs its own
//	<prefix>fence/<lease ID>         see fence.go
//	<prefix>value/<key>              the value beside a lock; see value.go
//
// A place is the backend's own and is used again and again: see places. The
// claim's ID would be the obvious name for its entry, and was tried: etcd keeps
// a deleted name in its index until it is compacted, which by default is never,
// and every look at a queue would pass all the names that it ever had.
type names struct{ prefix string }

func (n names) base() string { return n.prefix + "token-base" }

// locks is the prefix of all entries.
func (n names) locks() string { return n.prefix + "lock/" }

// queue is the prefix of the entries of one key, holder and waiters.
func (n names) queue(key string) string { return n.locks() + key + separator }

// keyOf returns the lock that an entry belongs to.
func (n names) keyOf(name string) (key string, ok bool) {
	rest, ok := strings.CutPrefix(name, n.locks())
	if !ok {
		return "", false
	}
	key, place, ok := strings.Cut(rest, separator)
	return key, ok && key != "" && place != ""
}

// owner reads the entry that holds key: the oldest.
func (n names) owner(key string) clientv3.Op {
	return clientv3.OpGet(n.queue(key), clientv3.WithFirstCreate()...)
}

// places gives out names for entries: <instance>.<n> with the least n that is
// not in use. The instance is random, and is replaced when a deletion by name
// is of unknown outcome: it may arrive late, and must find nothing new then.
type places struct{ instance string }

func (p *places) renew() { p.instance = rand.Text()[:13] } // 65 bits

func (p *places) name(queue string, used func(name string) bool) string {
	for n := 0; ; n++ {
		if name := queue + p.instance + "." + strconv.Itoa(n); !used(name) {
			return name
		}
	}
}
