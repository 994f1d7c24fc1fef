// Package redislock keeps hasp's locks in Redis: one server, a primary with
// replicas behind sentinels, or a Redis Cluster. It needs Redis 6.2 or later,
// Valkey, or Redict.
//
//	import _ "github.com/hasplock/hasp/redislock"
//
//	l, err := hasp.Open(ctx, "redis://localhost:6379", nil)
//
// Each verb is one script and one round trip. Waiters queue, first come first
// served, over all processes: a release wakes the next one and only it, however
// many wait, and a waiter that has died is passed over. A Backend has one
// connection for such messages, whatever it waits for.
//
// # URLs
//
//	redis://user:password@host:6379/0        one server, database 0
//	rediss://user:password@host:6379/0       the same over TLS
//	redis+unix://user:password@/run/redis/redis.sock?db=0
//	redis://host1:7000,host2:7001/           a Redis Cluster
//	redis://host1:7000/?cluster=true         the same, from one of its nodes
//	redis://host1:26379,host2:26379/0?master_name=main    by its sentinels
//
// Options of ours, each also a field of [Options]: prefix, token_memory, patience,
// replicas, replicas_timeout. All others are the client library's, as
// [redis.ParseURL], [redis.ParseClusterURL] and [redis.ParseFailoverURL] have them:
// pool_size, dial_timeout, read_timeout, client_name, skip_verify and so on. Behind
// sentinels the user and password in the URL are the sentinels', and username and
// password are options. IPv6 addresses beyond the first are given as addr=.
//
// For certificates of your own, credentials that change, or a client that you have
// anyway, make the client and hand it to [New]. Opened from the URL of one server, a
// Backend makes its connections itself, as many as pool_size (or max_active_conns) at
// most besides those of the subscription, and a call waits for one of them, and for
// its answer, until its context is cancelled, whatever the server does. Through a
// client, with max_retries, in a cluster or behind sentinels, only the deadline is
// heeded: the engine leaves such a call behind in a goroutine, which costs more where
// processors are few.
//
// # What a user (ACL) needs
//
//	~hasp:* &hasp:* +eval +evalsha +get +set +del +exists +pttl +pexpire +time
//	+zadd +zrem +zrange +zcard +zpopmin +publish +pubsub|numsub +subscribe
//	+scan +wait +ping
//
// with your own prefix in place of hasp:. Without +scan listing fails, without +wait
// the option replicas, and nothing else. A cluster's client also asks for +cluster
// and +command, listing a cluster for +cluster|nodes. What else is missing Open says, by its name, in an error that matches
// [fs.ErrPermission].
//
// # What to expect of it
//
// A lock is stale when its TTL has run out by the server's clock. Redis compares
// it with that clock's reading when the lock was last renewed, so a clock that
// jumps forward shortens what is left by as much.
//
// Redis acknowledges a write before its replicas have it. A failover can therefore
// lose the last locks that were granted, and then two holders can both believe that
// they hold one, until the first one's next heartbeat. The option replicas makes that
// unlikely and not impossible. What protects a resource then is the fencing token:
// the second holder's is greater, so a resource that refuses lesser tokens than it
// has seen is safe. The same goes for a server that loses its memory in a crash:
// persistence with appendfsync always keeps locks across one.
//
// Behind sentinels the library asks one of them where the primary is, and keeps to it
// while it answers. If that one has not heard of a failover, its primary is a replica now,
// or gone. After such an answer (READONLY), or when no connection could be made, a Backend
// that was opened from a URL asks all sentinels that the URL names, for 10 s, and goes to
// the primary of the latest failover. Where sentinels have users, theirs needs
// +sentinel|get-master-addr-by-name and +sentinel|master for it. A primary that was cut off
// from all sentinels, and does not know yet that another was promoted, serves who reaches it.
//
// A value that a holder sets beside its lock stays when the lock is gone. It is as durable
// as the server: use noeviction, appendfsync always and the option replicas where a
// decision must not be forgotten. While a cluster moves the lock's slot, setting a value
// can fail with an error that matches ErrUnavailable until the move is over.
//
// There is no quorum over several independent servers here: it costs five times the
// servers and requests, and without a token it still rests on clocks.
//
// Each key that was ever locked is remembered for an hour after (token_memory), in
// about 200 bytes, so that tokens rise even if the server's clock is set back.
// PROTOCOL.md, next to this file, has the whole argument.
//
// # In unit tests
//
// miniredis (github.com/alicebob/miniredis/v2), a server in the test's own process,
// will do for tests of code that uses locks; it proves nothing about the locks. Its keys
// do not expire by themselves: a lock whose holder is silent is taken over only after
//
//	m.FastForward(ttl)
//
// which takes that time from the TTL of every key, and from a lock that is renewed
// afterwards as little as on a real server. The TIME that it tells is the real one until
// m.SetTime sets it, and then stands still. By it go tokens, and for how long a waiter
// that was woken has its turn ([Options].Patience): with a clock that stands still
// a turn that is let pass lasts until SetTime is called again. m.SetTime(time.Time{})
// gives the real time back.
package redislock
