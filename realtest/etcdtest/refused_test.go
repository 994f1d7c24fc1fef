package etcdtest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/etcdtest"
)

// A refused Open ends, whichever of its requests is refused first: etcd's client can
// wait for ever when a watch is closed at the moment in which its refusal arrives.
func TestRefusedOpenEnds(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	root := srv.Client()
	for _, err := range []error{
		errOf(root.UserAdd(ctx, "root", "rootpw")), errOf(root.UserGrantRole(ctx, "root", "root")),
		errOf(root.UserAdd(ctx, "alice", "secret")), errOf(root.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error)
	for i := range 8 {
		go func() {
			for range 150 {
				b, err := backend.Open(context.Background(), fmt.Sprintf("etcd://alice:secret@%s/%d", srv.Addr(), i))
				if err == nil {
					_ = b.Close()
				}
				ended <- err
			}
		}()
	}
	for i := range 8 * 150 {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("opened without permission")
			}
		case <-time.After(bound):
			t.Fatalf("%d Opens have ended, and no other does", i)
		}
	}
}
