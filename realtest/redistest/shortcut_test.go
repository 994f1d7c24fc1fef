package redistest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/realtest/redistest"
)

// lua reads files of redislock as one script.
func lua(t *testing.T, names ...string) *redis.Script {
	t.Helper()
	var text strings.Builder
	for _, name := range names {
		if name == "" { // what a shortcut does first
			text.WriteString("local lock = redis.call('GET', KEYS[1])\n")
			continue
		}
		part, err := os.ReadFile(filepath.Join("..", "..", "redislock", "lua", name+".lua"))
		if err != nil {
			t.Fatal(err)
		}
		text.Write(part)
	}
	return redis.NewScript(text.String())
}

// The shortcuts in front of acquire and release do what the scripts behind them do:
// both run on the same states, and give the same answer and leave the same.
func TestShortcuts(t *testing.T) {
	s := redistest.Start(t, nil)
	c := s.Client()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	now := time.Now().UnixMicro()
	ahead := strconv.FormatInt(now+1e9, 10)
	held := func(token, id, floor string) string {
		return token + " " + id + " 30000 3600000 " + floor + " 99 chan {}"
	}
	type lock struct {
		name, value string
		ttl         time.Duration
	}
	const memory, fresh = time.Hour, time.Hour + 30*time.Second
	locks := []lock{
		{"none", "", 0},
		{"free", "100", memory}, {"freed by me", "100 me", memory}, {"freed by another", "100 other_1-2", memory},
		{"free, ahead of the clock", ahead, memory}, {"free, no token", "99999999999999999999", memory},
		{"free, the last token", "18446744073709551615", memory},
		{"held", held("100", "other", "0"), fresh}, {"mine", held("100", "me", "0"), fresh},
		{"mine, raised", held("100", "me", ahead), fresh}, {"mine, with another TTL", strings.Replace(held("100", "me", "0"), "30000", "20000", 1), fresh},
		{"mine, other token", held("1007", "me", "0"), fresh},
		{"stale", held("100", "other", "0"), memory - time.Second}, {"mine, stale", held("100", "me", "0"), memory - time.Second},
		{"stale, raised", held("100", "other", ahead), memory - time.Second},
		{"not ours", "hello, world", 0}, {"nearly ours", "100 me?", memory},
	}
	queues := map[string][]string{"empty": nil, "me": {"me chan"}, "another": {"x chanx"}, "another and me": {"x chanx", "me chan"}}
	turns := map[string]string{
		"none": "", "mine": fmt.Sprintf("me chan %d 3600000", now+3600e6), "another's": fmt.Sprintf("y chany %d 3600000", now+3600e6),
		"another's, of a clock set back": fmt.Sprintf("y chany %d 3600000", now+7200e6),
		"another's, over":                fmt.Sprintf("y chany %d 1000", now-1e6),
	}
	libraries := []string{"record", "turn", "token"}
	scripts := map[string]struct {
		long, short *redis.Script
		args        [][]any
	}{
		"acquire": {
			long:  lua(t, append(append([]string{""}, libraries...), "acquire")...),
			short: lua(t, append(append([]string{"acquire-free"}, libraries...), "acquire")...),
			args: [][]any{
				{"me", "30000 3600000 0", "3630000", "0", "chan {}", "1000 0"},
				{"me", "30000 3600000 0", "3630000", ahead, "chan {}", "1000 0"},
			},
		},
		"release": {
			long:  lua(t, append(append([]string{""}, libraries...), "release")...),
			short: lua(t, append(append([]string{"release-held"}, libraries...), "release")...),
			args: [][]any{
				{"me", "1000 0", "100 me 30000 3600000 0 ", "3600000"},
				{"me", "1000 0", "", "3600000"},
			},
		},
	}
	// The scripts ran at different moments: what is near the present is the present.
	number := regexp.MustCompile(`\d{16}`)
	until := regexp.MustCompile(`\b(4[56]\d{5})\b`) // ms of memory, until the clock is past a token that is ahead
	plain := func(v any) string {
		return number.ReplaceAllStringFunc(until.ReplaceAllString(fmt.Sprint(v), "LONGER"), func(n string) string {
			if us, err := strconv.ParseInt(n, 10, 64); err == nil && us >= now && us < now+600e6 {
				return "NOW"
			}
			return n
		})
	}
	n, took := 0, map[string]int{}
	for verb, sc := range scripts {
		for _, l := range locks {
			for qname, q := range queues {
				for tname, turn := range turns {
					for i := range 2 * len(sc.args) {
						args, withdrawn := sc.args[i/2], i%2 == 1
						n++
						run := func(script *redis.Script, key string) (did, left string, ttl time.Duration) {
							names := []string{"{" + key + "}", "{" + key + "}:queue", "{" + key + "}:turn", "{" + key + "}:withdrawn:me"}
							if l.value != "" {
								c.Set(ctx, names[0], l.value, l.ttl)
							}
							for i, w := range q {
								c.ZAdd(ctx, names[1], redis.Z{Score: float64(now) + float64(i), Member: w})
							}
							if turn != "" {
								c.Set(ctx, names[2], turn, time.Hour)
							}
							if withdrawn {
								c.Set(ctx, names[3], "1", time.Minute)
							}
							reply, err := script.Run(ctx, c, names, args...).Result()
							if err != nil {
								reply = err.Error()
								if i := strings.Index(err.Error(), "HASP"); i >= 0 {
									reply = err.Error()[i:]
								}
							}
							if list, ok := reply.([]any); ok && len(list) > 1 {
								list[1] = "ms" // what is left of a TTL
							}
							value, err := c.Get(ctx, names[0]).Result()
							if err != nil && err != redis.Nil {
								t.Fatal(err)
							}
							queue, err := c.ZRange(ctx, names[1], 0, -1).Result()
							if err != nil {
								t.Fatal(err)
							}
							turn, err := c.Get(ctx, names[2]).Result()
							if err != nil && err != redis.Nil {
								t.Fatal(err)
							}
							ttl, err = c.PTTL(ctx, names[0]).Result()
							if err != nil {
								t.Fatal(err)
							}
							return plain(reply), plain(fmt.Sprintf("%q, queue %q, turn %q", value, queue, turn)), ttl
						}
						did, left, ttl := run(sc.long, fmt.Sprintf("long%d", n))
						didShort, leftShort, ttlShort := run(sc.short, fmt.Sprintf("short%d", n))
						if did != didShort || left != leftShort || (ttl-ttlShort).Abs() > 10*time.Second {
							t.Errorf("%s %v of a lock that is %s, queue %s, turn %s, withdrawn %v:\nwithout the shortcut %s, left %s for %v\nwith it             %s, left %s for %v",
								verb, args, l.name, qname, tname, withdrawn, did, left, ttl, didShort, leftShort, ttlShort)
						}
						took[verb+" "+did]++
					}
				}
			}
		}
	}
	// that the states are worth something: there are those that either verb takes on
	if took["acquire NOW"] == 0 || took["release 1"] == 0 || took["release 0"] == 0 {
		t.Errorf("%d states, and these answers: %v", n, took)
	}
	t.Logf("%d states", n)
}
