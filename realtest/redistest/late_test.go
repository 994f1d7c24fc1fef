package redistest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
)

// An attempt that the network holds back, and that was withdrawn meanwhile, takes
// nothing when it arrives.
func TestLateAttemptIsWithdrawn(t *testing.T) {
	s := redistest.Start(t, nil)
	p := redistest.StartProxy(t, s.Addr())
	late, direct := open(t, "redis://"+p.Addr()), open(t, s.URL())
	for _, key := range []string{"free", "freed"} {
		release(t, late, acquire(t, late, "warm", claim(time.Minute))) // connected, the scripts known
		if key == "freed" {
			release(t, direct, acquire(t, direct, key, claim(time.Minute)))
		}
		p.Cut()
		c := claim(time.Hour)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		_, err := late.Acquire(ctx, key, c)
		cancel()
		if !errors.Is(err, backend.ErrUnavailable) {
			t.Fatalf("an attempt that was cut off gave %v", err)
		}
		if err := direct.Release(context.Background(), backend.Grant{Key: key, ID: c.ID}); !errors.Is(err, backend.ErrLost) {
			t.Fatalf("the withdrawal gave %v", err)
		}
		before := s.Commands()["evalsha"]
		p.Heal()
		for begun := time.Now(); s.Commands()["evalsha"] == before; time.Sleep(time.Millisecond) {
			if time.Since(begun) > patient {
				t.Fatal("the attempt did not arrive")
			}
		}
		release(t, direct, acquire(t, direct, key, claim(time.Minute)))
		// the mark goes by itself
		if ms, ok := s.Do("pttl", "hasp:{"+key+"}:withdrawn:"+c.ID).(int64); !ok || ms <= 0 || ms > 60000 {
			t.Errorf("the mark of the withdrawal lives for %v ms", ms)
		}
		// it is for that claim alone, and for that of another key
		g := acquire(t, direct, key, claim(time.Minute))
		release(t, direct, g)
		release(t, direct, acquire(t, direct, key+"2", c))
		if _, err := direct.Acquire(context.Background(), key, c); err == nil || !strings.Contains(err.Error(), "withdrawn") {
			t.Errorf("an attempt of a withdrawn claim gave %v", err)
		}
	}
}
