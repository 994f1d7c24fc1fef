package torture

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/realtest/redistest"
)

// journal hears of all servers behind sentinels what they grant and renew, and tells the
// judge in whose reign that was.
type journal struct {
	tb       testing.TB
	j        *judge
	monitors []*redistest.Monitor

	mu      sync.Mutex
	reign   int                  // the latest that has begun, or is about to
	primary int                  // before it; -1 when all know of it
	two     bool                 // the successor of that one has been promoted
	beside  int                  // what a primary has acknowledged beside its successor
	records []map[string]*record // by server and key
}

// record is a lock that is held, as its server has it.
type record struct {
	token  uint64
	memory time.Duration
}

// newJournal begins to hear.
func newJournal(tb testing.TB, j *judge, nodes []*redistest.Server) *journal {
	jn := &journal{tb: tb, j: j, primary: -1}
	for i, n := range nodes {
		jn.records = append(jn.records, map[string]*record{})
		client := n.Client()
		jn.monitors = append(jn.monitors, redistest.StartMonitor(tb, n,
			func() bool { return jn.attached(i, client) }, func(cmd redistest.Command) { jn.heard(i, cmd) }))
	}
	return jn
}

// sync waits until everything is heard.
func (jn *journal) sync() {
	for _, m := range jn.monitors {
		m.Sync()
	}
}

// begin is called while former is the primary and all others follow it: whichever
// acknowledges anything from now on, until settled, is its successor.
func (jn *journal) begin(former int) {
	jn.mu.Lock()
	defer jn.mu.Unlock()
	jn.reign++
	jn.primary = former
}

// promoted is called when there is a successor.
func (jn *journal) promoted() {
	jn.mu.Lock()
	defer jn.mu.Unlock()
	jn.two = true
}

// settled is called when all follow the new primary.
func (jn *journal) settled() {
	jn.mu.Lock()
	defer jn.mu.Unlock()
	jn.primary, jn.two = -1, false
}

// rebels is how many grants and renewals primaries have acknowledged that had a successor.
func (jn *journal) rebels() int {
	jn.mu.Lock()
	defer jn.mu.Unlock()
	return jn.beside
}

// in is the reign that server i belongs to. Called with mu held.
func (jn *journal) in(i int) int {
	if i == jn.primary {
		return jn.reign - 1
	}
	return jn.reign
}

// attached: a server that was started again may have granted something before it was
// heard, and a replica knows what it renews when it is promoted.
func (jn *journal) attached(i int, client *redis.Client) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	role, err := client.Do(ctx, "role").Slice()
	if err != nil {
		return false
	}
	held, err := heldIn(ctx, client)
	if err != nil {
		return false
	}
	jn.knows(i, held)
	if role[0] != "master" {
		return true
	}
	jn.mu.Lock()
	defer jn.mu.Unlock()
	for key, h := range held {
		jn.j.acked(jn.in(i), key, h.token, now(), h.until)
	}
	return true
}

// knows notes what a server has been told by its primary.
func (jn *journal) knows(i int, held map[string]holding) {
	jn.mu.Lock()
	defer jn.mu.Unlock()
	clear(jn.records[i])
	for key, h := range held {
		jn.records[i][key] = &record{h.token, h.memory}
	}
}

// heard takes in what a script has done to a lock.
func (jn *journal) heard(i int, cmd redistest.Command) {
	if !cmd.Script || len(cmd.Args) < 3 {
		return
	}
	key, ok := strings.CutPrefix(cmd.Args[1], "hasp:{")
	key, ok2 := strings.CutSuffix(key, "}")
	if !ok || !ok2 {
		return
	}
	jn.mu.Lock()
	defer jn.mu.Unlock()
	life := cmd.Args[2]
	switch strings.ToLower(cmd.Args[0]) {
	case "set":
		r, ok := parseRecord(cmd.Args[2])
		if !ok {
			delete(jn.records[i], key) // it is free now
			return
		}
		jn.records[i][key] = &r
		if len(cmd.Args) < 5 {
			return // its life follows
		}
		life = cmd.Args[4]
	case "pexpire":
	default:
		return
	}
	r := jn.records[i][key]
	ms, err := strconv.ParseInt(life, 10, 64)
	if r == nil || err != nil {
		return
	}
	if jn.two && i == jn.primary {
		jn.beside++
	}
	at := now() - time.Since(cmd.At)
	jn.j.acked(jn.in(i), key, r.token, at, at+time.Duration(ms)*time.Millisecond-r.memory)
}

// holding is a lock that is held, with what a renewal is counted from.
type holding struct {
	kept
	memory time.Duration
}

// heldIn reads what a server knows of the locks that are held.
func heldIn(ctx context.Context, client *redis.Client) (map[string]holding, error) {
	out := map[string]holding{}
	for i := range keys {
		name := "hasp:{" + keyName(i) + "}"
		text, err := client.Get(ctx, name).Result()
		if err == redis.Nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		at := now()
		life, err := client.PTTL(ctx, name).Result()
		if err != nil {
			return nil, err
		}
		if r, ok := parseRecord(text); ok {
			out[keyName(i)] = holding{kept{r.token, at + life - r.memory}, r.memory}
		}
	}
	return out, nil
}

// parseRecord reads a lock's value, as redislock's record.lua does; false if it is free.
func parseRecord(text string) (record, bool) {
	f := strings.SplitN(text, " ", 8)
	if len(f) < 8 {
		return record{}, false
	}
	token, err := strconv.ParseUint(f[0], 10, 64)
	memory, err2 := strconv.ParseInt(f[3], 10, 64)
	return record{token, time.Duration(memory) * time.Millisecond}, err == nil && err2 == nil
}
