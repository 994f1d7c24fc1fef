// Package etcdlock keeps hasp's locks in etcd, version 3.4 or later.
//
//	b := etcdlock.New(client, nil) // on a client that you have
//	b, err := backend.Open(ctx, "etcd://etcd-1,etcd-2,etcd-3/team")
//
// # URLs
//
//	etcd://[user:password@]host[:port][,host[:port]...][/prefix][?option=value&...]
//
// etcds is the same with TLS. The port is 2379 unless given; where one is given
// the last host needs one too, or it is no URL. All keys start with
// the prefix, "hasp/" if there is none; backends with different prefixes know
// nothing of each other. The options:
//
//   - endpoints: more of them, as host:port,host:port
//   - cacert: file with the certificates, in PEM format, that the servers' are
//     signed by, if not by ones that the system trusts
//   - cert, key: files with the client's certificate and key
//   - insecure=true: TLS without checking the servers' certificates
//   - timeout: bounds opening, besides the context (default 10s)
//   - keepalive: how often a quiet connection is probed (default 5s)
//
// Each of cacert, cert, key and insecure means TLS.
//
// # What it keeps in etcd
//
// Each key has a queue of entries, one for the holder and one for each waiter;
// the oldest one holds. The value of an entry tells who that is, in JSON, for
// etcdctl get --prefix hasp/. Deleting a holder's entry breaks its lock, and
// `hasp break` is the better way, because it checks whom it breaks. The holder
// learns of either within a second.
//
// All locks of one TTL that a backend holds are on one etcd lease, so that a
// hundred thousand of them cost one keepalive. Locks whose own heartbeats stop
// run out all the same: the backend removes them, or, if the process has died,
// the lease does. After the process's death a lock that was not being renewed
// may so stand for its TTL from then, and not from its last renewal.
//
// Who waits is on a lease of 10 s, whatever the TTL: one that dies in front of others
// is passed by when that has ended, and one that is stopped or cut off for longer
// queues again at the end. A lock that was waited for is granted for 9 s, and the
// first renewal, which the engine makes at once, gives it its TTL. Until then others
// are shown that the key is held, and in the note whose turn it is.
//
// # Users
//
// A client that is opened from a URL logs in again when its token has expired, on
// all versions. On a client that a program brings along, that is the client
// library's to do, which cannot on etcd before 3.5: [New]'s backend refuses
// such a client. All keepalives of a backend go over one stream, so that they
// are not a login each.
//
// # Proxies, and what is not etcd
//
// Opening fails with an error that names what is lacking if the store is a part of
// etcd only, as those made for Kubernetes are (kine). etcd's grpc-proxy works; each
// heartbeat takes half a second through it. A keepalive that is answered with less
// than the whole TTL is no renewal.
//
// Not so with its option --experimental-leasing-prefix: such a proxy answers
// comparisons by itself, and keeps keys whose lease is over (findings/etcd-leasing-*.sh).
// Nothing here can tell it from another. One of version 3.4 was also seen to close
// connections again and again ("too_many_pings").
//
// A single etcd of version 3.6 or 3.7 takes 7 s to end on SIGTERM while a client has
// a stream open, as backends have for keepalives and watches.
//
// # Time
//
// etcd decides when a lock is stale, by its leader's clock; no client's clock
// matters. TTLs are rounded up to whole seconds, and below 1.5 times etcd's
// election timeout up to that: backend.Grant.TTL tells the TTL in force. The
// lease lives a second longer than the lock's TTL, and etcd looks for expired
// leases twice a second, so a dead holder's lock is taken over up to 1.5 s after
// its TTL. A new leader gives every lease its full TTL once more.
//
// # Tokens
//
// Tokens rise across release, expiry, break, restart and the change of leaders.
// If etcd loses all its data they go on rising, since they start anew from a
// client's clock, in microseconds, provided that this clock is not more than a
// minute behind those that were used before. They do not if floors far beyond
// the clock were demanded for a key; then the floor has to be demanded again.
// After a restore from a backup they may repeat what was granted since the
// backup was made: raise them with RaiseToken, to the clock in microseconds.
//
// # What it cannot promise
//
// No lock service can stop a holder that was paused past its TTL from acting:
// see PROTOCOL.md, which argues why two holders are not certain of one lock at
// once. Send the token along to whatever checks tokens. For data in the same
// etcd, put [Owner] among a transaction's conditions.
package etcdlock
