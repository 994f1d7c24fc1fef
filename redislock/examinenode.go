package redislock

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// node is one server, as INFO describes it.
type node struct {
	client *redis.Client
	addr   string // empty where there is only one
	info   map[string]string
}

// masters returns the servers that have locks, in the order of their addresses.
func (x *examiner) masters(ctx context.Context) (ns []*node, err error) {
	switch c := x.b.client.(type) {
	case *redis.Client:
		return []*node{{client: c}}, nil
	case *redis.ClusterClient:
		var mu sync.Mutex
		err = c.ForEachMaster(ctx, func(_ context.Context, m *redis.Client) error { // called for all at once
			mu.Lock()
			defer mu.Unlock()
			ns = append(ns, &node{client: m, addr: m.Options().Addr})
			return nil
		})
		slices.SortFunc(ns, func(a, b *node) int { return strings.Compare(a.addr, b.addr) })
	}
	return ns, err
}

// sorted returns the elements of a set.
func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// allowed tells whether a command was carried out; if the user may not use it, that is
// noted.
func (x *examiner) allowed(err error, right string) bool {
	if err != nil && permitted(err) {
		x.unseen[right] = true
	}
	return err == nil
}

func (x *examiner) examineNodes(ctx context.Context, y backend.Finder) {
	ns, err := x.masters(ctx)
	if err != nil {
		_, err = x.b.explain(err)
		y.Problem("servers", "see whether they run, and what their logs say", "the cluster's servers cannot be listed: %s", backend.Text(err))
		return
	}
	for _, n := range ns {
		y := y
		if n.addr != "" {
			y = y.About(n.addr)
		}
		x.examineTime(ctx, y, n)
		text, err := n.client.Info(ctx).Result()
		if !x.allowed(err, "+info") {
			if !permitted(err) {
				_, err = x.b.explain(err)
				y.Problem("server", "see what its log says", "it does not describe itself: %s", backend.Text(err))
			}
			continue
		}
		n.info = parseInfo(text)
		x.examineKind(y, n)
		x.examineEviction(y, n)
		x.examinePersistence(ctx, y, n)
		x.examineReplication(y, n)
		x.examineConnections(y, n)
	}
}

// parseInfo reads INFO's lines, NAME:VALUE.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		if name, value, ok := strings.Cut(sc.Text(), ":"); ok {
			info[name] = strings.TrimSpace(value)
		}
	}
	return info
}

func (n *node) number(name string) int64 {
	v, _ := strconv.ParseInt(n.info[name], 10, 64) // 0 if it does not tell
	return v
}

// kind is what server it is, and which version.
func (n *node) kind() (name, version string) {
	for _, name := range []string{"valkey", "redict", "dragonfly", "kvrocks", "garnet"} {
		if v := n.info[name+"_version"]; v != "" {
			return name, v
		}
	}
	if strings.Contains(n.info["executable"], "keydb") {
		return "keydb", n.info["redis_version"]
	}
	return "redis", n.info["redis_version"]
}

func (x *examiner) examineKind(y backend.Finder, n *node) {
	name, version := n.kind()
	var major, minor int
	parts, _ := fmt.Sscanf(version, "%d.%d", &major, &minor)
	switch {
	case version == "":
		y.Warn("server", "run hasp verify on it", "it does not say which server and version it is")
	case strings.HasPrefix(n.info["role"], "active"):
		y.Problem("server", "give one server alone the clients, and let the others be plain replicas", "%s %s with %s: several servers take writes, and each can grant a lock", name, version, n.info["role"])
	case name == "redis" && parts == 2 && (major < 6 || major == 6 && minor < 2):
		y.Problem("server", "upgrade it to 6.2 or later", "redis %s: locks need 6.2", version)
	case name == "redis" || name == "valkey" || name == "redict":
		y.OK("server", "%s %s, %s", name, version, orNone(n.info["redis_mode"], n.info["server_mode"]))
	default:
		y.Warn("server", "run hasp verify on it", "%s %s, with which locks have not been tested", name, version)
	}
}

func orNone(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return "mode unknown"
}

// nearlyFull is the share of its memory from which on a server's is told to be short.
const nearlyFull = 0.9

func (x *examiner) examineEviction(y backend.Finder, n *node) {
	policy, limit, used := n.info["maxmemory_policy"], n.number("maxmemory"), n.number("used_memory")
	const advice = "CONFIG SET maxmemory-policy noeviction, and the same in the configuration file; or give locks a server of their own"
	what := "locks"
	if !strings.HasPrefix(policy, "allkeys") {
		what = "locks, since they have a TTL"
	}
	switch {
	case policy == "":
		y.Warn("eviction", "see that its policy is noeviction", "it does not say what it does when memory is full")
	case policy != "noeviction" && limit > 0:
		y.Problem("eviction", advice, "maxmemory-policy %s removes %s, held ones too, when memory is full (%d of %d MiB used)", policy, what, used>>20, limit>>20)
	case policy != "noeviction":
		y.Warn("eviction", advice, "maxmemory-policy %s removes %s as soon as a maxmemory is set", policy, what)
	case limit > 0 && float64(used) > nearlyFull*float64(limit):
		y.Warn("memory", "raise maxmemory, or remove what is not needed: when it is full, locks are refused", "%d of %d MiB are used, and nothing is evicted", used>>20, limit>>20)
	default:
		y.OK("eviction", "noeviction: no lock is removed for want of memory (%d MiB used of %s)", used>>20, limitText(limit))
	}
}

func limitText(limit int64) string {
	if limit == 0 {
		return "no limit"
	}
	return fmt.Sprintf("%d MiB", limit>>20)
}

func (x *examiner) examinePersistence(ctx context.Context, y backend.Finder, n *node) {
	const token = "; a resource that refuses lesser tokens is safe all the same"
	for name, what := range map[string]string{"aof_last_write_status": "its append-only file", "rdb_last_bgsave_status": "a snapshot"} {
		if s := n.info[name]; s != "" && s != "ok" {
			y.Problem("persistence", "see the server's log: while it cannot write to its disk it refuses locks, or forgets them", "it could not write %s (%s: %s)", what, name, s)
			return
		}
	}
	if n.info["aof_enabled"] != "1" {
		forgets := "the locks that were granted since its last snapshot"
		if save, seen := x.config(ctx, n, "save"); seen && save == "" {
			forgets = "every lock"
		}
		y.Warn("persistence", "appendonly yes and appendfsync always keep locks across a restart"+token,
			"no append-only file: a restart forgets %s, and each can have two holders then", forgets)
		return
	}
	switch fsync, seen := x.config(ctx, n, "appendfsync"); {
	case fsync == "always":
		y.OK("persistence", "append-only file, appendfsync always: a restart forgets no lock")
	case !seen:
		y.Warn("persistence", "see that appendfsync is always"+token, "append-only file; how often it is written to disk cannot be seen")
	default:
		y.Warn("persistence", "appendfsync always keeps locks across a crash of the host"+token, "append-only file, appendfsync %s: a crash of the host forgets the locks of the last seconds", fsync)
	}
}

// config asks for a setting.
func (x *examiner) config(ctx context.Context, n *node, name string) (value string, seen bool) {
	v, err := n.client.ConfigGet(ctx, name).Result()
	if !x.allowed(err, "+config|get") {
		return "", false
	}
	value, seen = v[name]
	return value, seen
}

func (x *examiner) examineReplication(y backend.Finder, n *node) {
	replicas, wanted := n.number("connected_slaves"), int64(x.b.replicas)
	switch {
	case n.info["role"] == "slave":
		y.Problem("replication", "give the primary's address, or let sentinels find it (master_name=)", "it is a read-only replica of %s:%s", n.info["master_host"], n.info["master_port"])
	case wanted > replicas:
		x.usable = false
		y.Problem("replication", "connect the replicas, or lower the option replicas", "replicas=%d asks for more than the %d that are connected: no lock is granted", wanted, replicas)
	case wanted > 0:
		y.OK("replication", "%d replicas are connected, and %d have to have a lock before it counts", replicas, wanted)
	case replicas > 0:
		y.Warn("replication", "replicas=1 in the URL waits for one of them; only tokens protect for certain",
			"%d replicas are connected, and none is waited for: a failover can forget the locks of the last moments, and each can have two holders then", replicas)
	default:
		y.OK("replication", "no replicas, so no failover can forget locks")
	}
}

func (x *examiner) examineConnections(y backend.Finder, n *node) {
	used, limit := n.number("connected_clients"), n.number("maxclients")
	if limit > 0 && float64(used) > nearlyFull*float64(limit) {
		y.Warn("connections", "raise maxclients, or find out who has so many", "%d of %d connections are in use: a process more may be refused", used, limit)
	}
}

// clockOff is from what difference on clocks are told to differ.
const clockOff = 5 * time.Second

func (x *examiner) examineTime(ctx context.Context, y backend.Finder, n *node) {
	start := time.Now()
	t, err := n.client.Time(ctx).Result()
	if !x.allowed(err, "+time") {
		return
	}
	took := time.Since(start)
	describeClock(y, t.Sub(start.Add(took/2)), took/2)
}

// describeClock: off is by how much the clocks differ, give or take.
func describeClock(y backend.Finder, off, give time.Duration) {
	if off = off.Abs(); off > clockOff+give {
		y.Warn("clock", "let both hosts' clocks be set by NTP", "its clock and this host's differ by %v: locks do not go by this host's, but tokens are the server's time, and a failover to a server that is behind can repeat them", backend.Round(off))
		return
	}
	y.OK("clock", "its clock and this host's differ by %v at most", (off + give).Round(time.Millisecond))
}
