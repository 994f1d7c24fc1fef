package etcdlock

import (
	"github.com/hasplock/hasp/backend"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Owner returns a comparison that holds exactly while g's lock is held. A
// transaction that has it among its conditions is carried out by the holder or
// not at all, whatever pauses, expires or is partitioned meanwhile: for data in
// the same etcd it is the fence. It is for transactions of the client that was given to
// New, or of one whose KV is wrapped in the same namespace: in any other it never holds.
// g is the grant of a hasp lease; the answer is false if it did not come from this
// package.
func Owner(g backend.Grant) (clientv3.Cmp, bool) {
	st, ok := g.State.(grantState)
	if !ok {
		return clientv3.Cmp{}, false
	}
	return exists(st.name, st.rev), true
}
