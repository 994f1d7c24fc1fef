package etcdtest_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// addUsers makes alice, who may use the prefix team/, and turns authentication on.
func addUsers(t *testing.T, root *clientv3.Client) {
	t.Helper()
	ctx := testContext(t)
	for _, err := range []error{
		errOf(root.RoleAdd(ctx, "locks")),
		errOf(root.RoleGrantPermission(ctx, "locks", "team/", clientv3.GetPrefixRangeEnd("team/"), clientv3.PermissionType(clientv3.PermReadWrite))),
		errOf(root.UserAdd(ctx, "root", "rootpw")), errOf(root.UserGrantRole(ctx, "root", "root")),
		errOf(root.UserAdd(ctx, "alice", "secret")), errOf(root.UserGrantRole(ctx, "alice", "locks")),
		errOf(root.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Locks are kept, and every verb works, after the token that the client has got from
// the server has expired.
func TestExpiredToken(t *testing.T) {
	const tokenTTL = time.Second
	type server struct {
		addr string
		root *clientv3.Client
	}
	for name, start := range map[string]func(t *testing.T) server{
		"3.4": func(t *testing.T) server {
			path, err := etcdtest.FindProgram()
			if err != nil {
				t.Skip(err)
			}
			srv := etcdtest.StartProgram(t, path, "--auth-token-ttl=1")
			return server{srv.Addr(), srv.Client("", "")}
		},
		"present": func(t *testing.T) server {
			srv := etcdtest.Start(t, &etcdtest.Options{AuthTokenTTL: tokenTTL})
			return server{srv.Addr(), srv.Client()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := start(t)
			addUsers(t, srv.root)
			ctx := testContext(t)
			b, err := backend.Open(ctx, "etcd://alice:secret@"+srv.addr+"/team")
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			within := func(what string, f func(ctx context.Context) error) {
				t.Helper()
				cctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				start := time.Now()
				if err := f(cctx); err != nil {
					t.Errorf("%s: after %v: %v", what, time.Since(start), err)
				}
			}
			defer b.(backend.LossNotifier).OnLoss(func(key, id string) { t.Errorf("%q is lost", key) })()
			g := mustAcquire(t, b, "k", claim(20*time.Second))
			for _, what := range []string{"renew", "inspect", "acquire", "wait", "release"} {
				if t.Failed() {
					return
				}
				time.Sleep(2*tokenTTL + tokenTTL/2) // the token expires
				switch what {
				case "renew":
					within(what, func(ctx context.Context) error { return errOf(b.Renew(ctx, g)) })
				case "inspect":
					within(what, func(ctx context.Context) error { return errOf(b.Inspect(ctx, "k")) })
				case "acquire":
					within(what, func(ctx context.Context) error {
						g, err := b.Acquire(ctx, "k2", claim(20*time.Second))
						if err == nil {
							err = b.Release(ctx, g)
						}
						return err
					})
				case "wait":
					within(what, func(ctx context.Context) error {
						// the stream of the watch for losses is as old as the first token
						c := claim(20 * time.Second)
						wake, stop, err := b.(backend.Watcher).Watch(ctx, "k", c)
						if err != nil {
							return err
						}
						for metric(t, srv.addr, "etcd_debugging_mvcc_watcher_total ", "") < 2 {
							if ctx.Err() != nil {
								return errors.New("the watches are refused")
							}
						}
						if err := b.Release(ctx, g); err != nil {
							return err
						}
						select {
						case <-wake:
						case <-ctx.Done():
							return errors.New("the waiter was not woken")
						}
						g, err = b.Acquire(ctx, "k", c)
						return errors.Join(err, stop(ctx, err == nil))
					})
				case "release":
					within(what, func(ctx context.Context) error { return errors.Join(errOf(b.Renew(ctx, g)), b.Release(ctx, g)) })
				}
			}
		})
	}
}

// Heartbeats are not a login each, nor is anything else.
func TestLoginsAreFew(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	addUsers(t, srv.Client())
	ctx := testContext(t)
	given, err := clientv3.New(clientv3.Config{
		Endpoints: []string{srv.Endpoint()}, Username: "alice", Password: "secret", Logger: zap.NewNop(), DialTimeout: bound,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = given.Close() })
	url := "etcd://alice:secret@" + srv.Addr() + "/team"
	for name, open := range map[string]func() (backend.Backend, error){
		"from a URL":  func() (backend.Backend, error) { return backend.Open(ctx, url) },
		"on a client": func() (backend.Backend, error) { return etcdlock.New(given, &etcdlock.Options{Prefix: "team"}), nil },
	} {
		t.Run(name, func(t *testing.T) {
			b, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			g := mustAcquire(t, b, "k", claim(20*time.Second))
			if _, err := b.Renew(ctx, g); err != nil {
				t.Fatal(err)
			}
			before := handled(t, srv, "Authenticate")
			sent := handled(t, srv, "Txn")
			for range 5 {
				time.Sleep(1200 * time.Millisecond) // each needs a keepalive
				if g, err = b.Renew(ctx, g); err != nil {
					t.Fatal(err)
				}
			}
			if n := handled(t, srv, "Txn") - sent; n < 5 {
				t.Errorf("%v looks: the counter does not count", n)
			}
			if n := handled(t, srv, "Authenticate") - before; n > 1 {
				t.Errorf("%v logins in five heartbeats", n)
			}
			mustRelease(t, b, g)
		})
	}
}

// On a client with a user that cannot log in again everything is refused at once, with
// what to do.
func TestOldServerWithUsers(t *testing.T) {
	path, err := etcdtest.FindProgram()
	if err != nil {
		t.Skip(err)
	}
	srv := etcdtest.StartProgram(t, path)
	addUsers(t, srv.Client("", ""))
	b := newBackend(t, srv.Client("alice", "secret"))
	for what, do := range map[string]func(context.Context) error{
		"acquire": func(ctx context.Context) error { return errOf(b.Acquire(ctx, "k", claim(20*time.Second))) },
		"wait": func(ctx context.Context) error {
			_, _, err := b.Watch(ctx, "k", claim(20*time.Second))
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			mustFail(t, 5*time.Second, do, false, "3.4", "expired", "by URL", "3.5")
		})
	}
}

// A user who may not do what locks need is told so, as by a file system.
func TestPermissionDenied(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	addUsers(t, srv.Client())
	ctx := testContext(t)
	b, err := backend.Open(ctx, "etcd://alice:secret@"+srv.Addr()+"/other")
	if err == nil {
		_ = b.Close()
	}
	mustBe(t, "opening under a prefix that is not the user's", err, fs.ErrPermission)
}
