package etcdtest_test

import (
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
)

// What is not hasp's own among the locks is listed as what it is, and hides no other.
func TestListShowsWhatItCannotRead(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	op := srv.Client()
	b := newBackend(t, op)
	mustAcquire(t, b, "good", claim(20*time.Second))
	for name, text := range map[string]string{"bad\tx": "junk", "nobody's": "junk"} {
		if _, err := op.Put(ctx, etcdlock.DefaultPrefix+"lock/"+name, text); err != nil {
			t.Fatal(err)
		}
	}
	recs, err := b.List(ctx, "")
	if err != nil || len(recs) != 3 {
		t.Fatalf("got %v, %v", recs, err)
	}
	for i, want := range []backend.Record{
		{Key: "bad", State: backend.Unknown}, {Key: "good", State: backend.Held}, {Key: "nobody's", State: backend.Unknown},
	} {
		if recs[i].Key != want.Key || recs[i].State != want.State || recs[i].Note == "" {
			t.Errorf("number %d is %+v, want %+v", i, recs[i], want)
		}
	}
}
