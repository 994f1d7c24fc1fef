package redislock

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Clocks that differ are told from answers that took long.
func TestExamineClock(t *testing.T) {
	for _, c := range []struct {
		off, give time.Duration
		level     backend.Level
	}{
		{0, time.Millisecond, backend.LevelOK},
		{-4 * time.Second, time.Millisecond, backend.LevelOK},
		{time.Hour, time.Millisecond, backend.LevelWarning},
		{-time.Hour, time.Millisecond, backend.LevelWarning},
		{8 * time.Second, 4 * time.Second, backend.LevelOK},
	} {
		var got backend.Finding
		describeClock(func(f backend.Finding) { got = f }, c.off, c.give)
		if got.ID != "clock" || got.Level != c.level || (got.Advice == "") != (c.level == backend.LevelOK) {
			t.Errorf("%+v gave %+v", c, got)
		}
	}
}

// Servers that cannot be had for a test, by what they say of themselves.
func TestExamineKind(t *testing.T) {
	for info, want := range map[string]struct {
		level backend.Level
		words string
	}{
		"redis_version:6.2.0\nredis_mode:standalone":                    {backend.LevelOK, "redis 6.2.0, standalone"},
		"redis_version:6.0.16\nredis_mode:standalone":                   {backend.LevelProblem, "redis 6.0.16: locks need 6.2"},
		"redis_version:7.2.4\nvalkey_version:8.0.1":                     {backend.LevelOK, "valkey 8.0.1"},
		"redis_version:7.2.4\nredict_version:7.3.0":                     {backend.LevelOK, "redict 7.3.0"},
		"redis_version:7.4.0\ndragonfly_version:df-v1.30.0":             {backend.LevelWarning, "dragonfly df-v1.30.0"},
		"redis_version:6.3.4\nexecutable:/usr/bin/keydb-server":         {backend.LevelWarning, "keydb 6.3.4"},
		"redis_version:6.3.4\nexecutable:/k/keydb\nrole:active-replica": {backend.LevelProblem, "several servers take writes"},
		"": {backend.LevelWarning, "does not say"},
	} {
		var got backend.Finding
		(&examiner{}).examineKind(func(f backend.Finding) { got = f }, &node{info: parseInfo(info)})
		if got.Level != want.level || !strings.Contains(got.Seen, want.words) {
			t.Errorf("%q gave %+v, want %+v", info, got, want)
		}
	}
}

// What a server says of slots on the move; other servers' are theirs to say.
func TestSlotsOnTheMove(t *testing.T) {
	const nodes = `aaa 10.0.0.1:6379@16379,host myself,master - 0 0 1 connected 0-5460 [93->-bbb] [77-<-ccc]
bbb 10.0.0.2:6379@16379 master - 0 0 2 connected 5461-10922
ddd :0@0 master,noaddr - 0 0 3 disconnected
short line
`
	got := map[string]bool{}
	addSlotsOnTheMove(got, nodes)
	want := map[string]bool{"slot 93 from 10.0.0.1:6379 to 10.0.0.2:6379": true, "slot 77 from ccc to 10.0.0.1:6379": true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got = map[string]bool{}
	addSlotsOnTheMove(got, "")
	addSlotsOnTheMove(got, "aaa 10.0.0.1:6379@16379 master - 0 0 1 connected 0-5460 [93->-bbb]\n")
	if len(got) > 0 {
		t.Errorf("of others: %v", got)
	}
}

func TestExamineConnections(t *testing.T) {
	for info, found := range map[string]bool{
		"connected_clients:10\nmaxclients:10000":   false,
		"connected_clients:9500\nmaxclients:10000": true,
		"connected_clients:9500":                   false, // it does not tell how many there may be
	} {
		var got []backend.Finding
		(&examiner{}).examineConnections(func(f backend.Finding) { got = append(got, f) }, &node{info: parseInfo(info)})
		if (len(got) == 1) != found {
			t.Errorf("%q gave %+v", info, got)
		}
	}
}
