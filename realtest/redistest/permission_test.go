package redistest_test

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

// documented is what the package documentation says a user needs.
var documented = []any{
	"~hasp:*", "&hasp:*", "+eval", "+evalsha", "+get", "+set", "+del", "+exists", "+pttl", "+pexpire", "+time",
	"+zadd", "+zrem", "+zrange", "+zcard", "+zpopmin", "+publish", "+pubsub|numsub", "+subscribe", "+scan", "+wait", "+ping",
}

// eachServer runs f on every program that speaks Redis's protocol.
func eachServer(t *testing.T, o redistest.Options, f func(t *testing.T, s *redistest.Server)) {
	for _, program := range redistest.Programs() {
		t.Run(filepath.Base(program), func(t *testing.T) {
			o := o
			o.Program = program
			f(t, redistest.Start(t, &o))
		})
	}
}

func user(s *redistest.Server, name string, rules ...any) string {
	s.Do(append([]any{"acl", "setuser", name, "reset", "on", ">tresor"}, rules...)...)
	return "redis://" + name + ":tresor@" + s.Addr()
}

// The documented permissions suffice.
func TestACLUser(t *testing.T) {
	eachServer(t, redistest.Options{}, func(t *testing.T, s *redistest.Server) {
		ctx := context.Background()
		b := open(t, user(s, "full", documented...)+"?"+unhurried)
		g := acquire(t, b, "k", claim(time.Minute))
		c := claim(time.Minute)
		wake, stop := mustWatch(t, b, "k", c)
		wake2, stop2 := mustWatch(t, b, "k", claim(time.Minute))
		if _, err := b.Renew(ctx, g); err != nil {
			t.Error(err)
		}
		if rs, err := b.List(ctx, ""); err != nil || len(rs) != 1 {
			t.Errorf("list: %v, %v", rs, err)
		}
		release(t, b, g)
		mustWake(t, "the waiter", wake)
		g = acquire(t, b, "k", c)
		stop(true)
		if err := b.RaiseToken(ctx, "k", 5); err != nil {
			t.Error(err)
		}
		if err := b.Break(ctx, "k", g.Token); err != nil {
			t.Error(err)
		}
		mustWake(t, "the second waiter", wake2)
		stop2(false)
		mustLeaveNothing(t, s.Keys)
	})
}

// What a user lacks shows at Open, at once, and by its name.
func TestMissingPermission(t *testing.T) {
	eachServer(t, redistest.Options{}, func(t *testing.T, s *redistest.Server) {
		refused := func(t *testing.T, err error, right string) {
			t.Helper()
			if !errors.Is(err, fs.ErrPermission) || errors.Is(err, backend.ErrUnavailable) {
				t.Errorf("%v\nwant it to match fs.ErrPermission, and not ErrUnavailable", err)
			}
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), right+" ") || !strings.Contains(err.Error(), `user "some"`) || !strings.Contains(err.Error(), "ACL SETUSER some ") {
				t.Errorf("%v\nwant the user and %q in it", err, right)
			}
		}
		without := func(rights ...any) []any {
			return slices.DeleteFunc(slices.Clone(documented), func(r any) bool { return slices.Contains(rights, r) })
		}
		for _, right := range documented {
			t.Run(right.(string), func(t *testing.T) {
				s.Do("script", "flush")
				url := user(s, "some", without(right)...)
				options := ""
				switch right {
				case "+scan":
					b := open(t, url)
					_, err := b.List(context.Background(), "")
					refused(t, err, "+scan")
					return
				case "+wait":
					open(t, url) // not needed without replicas
					options = "?replicas=1"
				}
				start := time.Now()
				refused(t, mustNotOpen(t, url+options, "lacks a permission"), right.(string))
				if took := time.Since(start); took > 5*time.Second { // it waits for 10 s where that may help
					t.Errorf("it took %v", took)
				}
			})
		}
		t.Run("all that scripts need", func(t *testing.T) {
			url := user(s, "some", without("+zadd", "+zpopmin", "+publish")...)
			refused(t, mustNotOpen(t, url, "+zadd +zpopmin +publish"), "+publish")
		})
		t.Run("taken away later", func(t *testing.T) {
			b := open(t, user(s, "some", documented...))
			client := redis.NewClient(&redis.Options{Addr: s.Addr(), Username: "some", Password: "tresor", ContextTimeoutEnabled: true, MaxRetries: -1})
			defer client.Close()
			mine, err := redislock.New(client, nil) // nobody asks at once
			if err != nil {
				t.Fatal(err)
			}
			defer mine.Close()
			for _, b := range []*redislock.Backend{b, mine} {
				user(s, "some", documented...)
				release(t, b, acquire(t, b, "later", claim(time.Minute)))
				s.Do("acl", "setuser", "some", "-set")
				_, err = b.Acquire(context.Background(), "later", claim(time.Minute))
				if !errors.Is(err, fs.ErrPermission) || errors.Is(err, backend.ErrUnavailable) {
					t.Errorf("acquire: %v", err)
				}
				// a lock that was taken is not said not to be held, whatever fails after that
				user(s, "some", documented...)
				g := acquire(t, b, "later", claim(time.Minute))
				c := claim(time.Minute)
				wake, stop := mustWatch(t, b, "later", c)
				s.Do("acl", "setuser", "some", "-zrem", "-del")
				release(t, b, g)
				mustWake(t, "the waiter", wake)
				g = acquire(t, b, "later", c)
				user(s, "some", documented...)
				stop(true)
				release(t, b, g)
				s.Do("del", "hasp:{later}:turn", "hasp:{later}:queue")
			}
		})
	})
}
