package etcdlock

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hasplock/hasp/backend"
)

// What a server says that is in a state which cannot be had for a test.
func TestExamineEndpoint(t *testing.T) {
	for name, c := range map[string]struct {
		status *clientv3.StatusResponse
		level  backend.Level
		id     string
		words  string
		fit    bool
	}{
		"old":     {&clientv3.StatusResponse{Version: "3.3.27"}, backend.LevelProblem, "server", "locks need 3.4", true},
		"present": {&clientv3.StatusResponse{Version: "3.6.0"}, backend.LevelOK, "server", "etcd 3.6.0", true},
		"learner": {&clientv3.StatusResponse{Version: "3.6.0", IsLearner: true}, backend.LevelWarning, "learner", "promote", true},
		"corrupt": {&clientv3.StatusResponse{Version: "3.6.0", Errors: []string{"memberID:1 alarm:CORRUPT"}}, backend.LevelProblem, "alarm", "replace that member", false},
		"full":    {&clientv3.StatusResponse{Version: "3.6.0", Errors: []string{"memberID:1 alarm:NOSPACE"}}, backend.LevelProblem, "alarm", "disarm", false},
		"other":   {&clientv3.StatusResponse{Version: "3.6.0", Errors: []string{"something new"}}, backend.LevelWarning, "alarm", "something new", true},
		"size":    {&clientv3.StatusResponse{Version: "3.4.0", DbSize: 1900 << 20}, backend.LevelWarning, "space", "1900.0 of 2048 MiB", true},
	} {
		c.status.Header = &etcdserverpb.ResponseHeader{MemberId: 1}
		found := false
		fit := (&examiner{}).examineEndpoint(func(f backend.Finding) {
			if f.Level == c.level && f.ID == c.id && strings.Contains(f.Seen+f.Advice, c.words) {
				found = true
			}
			if (f.Advice == "") != (f.Level == backend.LevelOK) {
				t.Errorf("%s: what to do? %+v", name, f)
			}
		}, &endpoint{status: c.status})
		if !found || fit != c.fit {
			t.Errorf("%s: found %v, fit %v", name, found, fit)
		}
	}
}

// Signed tokens say for how long they are valid; those that cannot be read say nothing.
func TestTokenTTL(t *testing.T) {
	signed := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for token, want := range map[string]struct {
		ttl    time.Duration
		signed bool
	}{
		"":                                      {0, false},
		"NTIohTjlyQpSQYvJ.36":                   {0, false},
		signed(`{"exp":1000300,"iat":1000000}`): {5 * time.Minute, true},
		signed(`{"revision":1,"username":"u"}`): {0, false},
		signed(`no`):                            {0, false},
		"a.!.c":                                 {0, false},
	} {
		if ttl, signed := tokenTTL(token); ttl != want.ttl || signed != want.signed {
			t.Errorf("%q: %v, %v; want %+v", token, ttl, signed, want)
		}
	}
	soon := signed(`{"exp":32503680000}`) // the year 3000
	if ttl, ok := tokenTTL(soon); !ok || ttl < time.Hour {
		t.Errorf("without the time of issue: %v, %v", ttl, ok)
	}
}

// Servers of several versions are told, and of several clusters.
func TestExamineEndpointsTogether(t *testing.T) {
	of := func(cluster uint64, version string) *endpoint {
		return &endpoint{url: "http://10.0.0.1:2379", status: &clientv3.StatusResponse{Version: version, Header: &etcdserverpb.ResponseHeader{ClusterId: cluster}}}
	}
	for _, c := range []struct {
		seen []*endpoint
		id   string
		fit  bool
	}{
		{[]*endpoint{of(1, "3.6.0"), of(1, "3.6.0")}, "", true},
		{[]*endpoint{of(1, "3.5.9"), of(1, "3.6.0")}, "version", true},
		{[]*endpoint{of(1, "3.6.0"), of(2, "3.6.0")}, "clusters", false},
	} {
		id := ""
		fit := (&examiner{seen: c.seen}).examineEndpoints(func(f backend.Finding) {
			if f.Level != backend.LevelOK {
				id = f.ID
			}
		})
		if id != c.id || fit != c.fit {
			t.Errorf("found %q, fit %v; want %+v", id, fit, c)
		}
	}
}
