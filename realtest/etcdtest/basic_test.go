package etcdtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc/connectivity"
)

func TestVerbs(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())

	t.Run("one holder, named", func(t *testing.T) {
		c := claim(5 * time.Second)
		g := mustAcquire(t, a, "k", c)
		he := mustBeHeld(t, b, "k", claim(5*time.Second))
		if he.Record.ID != c.ID || he.Record.Token != g.Token || he.Record.Holder != c.Holder || he.Record.TTL != g.TTL {
			t.Errorf("the HeldError says %+v, the holder is %+v", he.Record, g)
		}
		if g.TTL < c.TTL {
			t.Errorf("TTL in force is %v, claimed was %v", g.TTL, c.TTL)
		}
		rec, err := b.Inspect(ctx, "k")
		if err != nil || rec.State != backend.Held || rec.Token != g.Token || rec.Remaining <= 0 {
			t.Errorf("inspect: %+v, %v", rec, err)
		}
		mustRelease(t, a, g)
		if rec, err := b.Inspect(ctx, "k"); err != nil || rec.State != backend.Free {
			t.Errorf("inspect after release: %+v, %v", rec, err)
		}
		g2 := mustAcquire(t, b, "k", claim(5*time.Second))
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
		mustBe(t, "the first holder releases again", a.Release(ctx, g), backend.ErrLost)
		mustRelease(t, b, g2)
	})

	t.Run("repeated", func(t *testing.T) {
		c := claim(5 * time.Second)
		g := mustAcquire(t, a, "k", c)
		if again := mustAcquire(t, a, "k", c); again.Token != g.Token {
			t.Errorf("acquire again: token %d, then %d", g.Token, again.Token)
		}
		// as after a restart of the process: nothing is remembered
		if again := mustAcquire(t, b, "k", c); again.Token != g.Token {
			t.Errorf("acquire again elsewhere: token %d, then %d", g.Token, again.Token)
		}
		mustRelease(t, b, g)
		mustRelease(t, b, g)
		g.State = nil
		mustRelease(t, b, g)
		mustBe(t, "renew after release", errOf(b.Renew(ctx, g)), backend.ErrLost)
	})

	t.Run("release by ID", func(t *testing.T) {
		c := claim(5 * time.Second)
		mustAcquire(t, a, "k", c)
		mustRelease(t, a, backend.Grant{Key: "k", ID: c.ID})
		mustBe(t, "release of nothing", a.Release(ctx, backend.Grant{Key: "k", ID: claim(time.Second).ID}), backend.ErrLost)
		mustRelease(t, b, mustAcquire(t, b, "k", claim(5*time.Second)))
	})

	t.Run("a stranger", func(t *testing.T) {
		g := mustAcquire(t, a, "k", claim(5*time.Second))
		s := g
		s.ID, s.State = claim(time.Second).ID, nil
		mustBe(t, "renew", errOf(b.Renew(ctx, s)), backend.ErrLost)
		mustBe(t, "release", b.Release(ctx, s), backend.ErrLost)
		mustBe(t, "break", b.Break(ctx, "k", g.Token-1), backend.ErrHeld)
		if _, err := a.Renew(ctx, g); err != nil {
			t.Errorf("renew by the holder: %v", err)
		}
		mustRelease(t, a, g)
	})

	t.Run("break", func(t *testing.T) {
		mustBe(t, "break of a free key", b.Break(ctx, "k", 1), backend.ErrNotHeld)
		g := mustAcquire(t, a, "k", claim(5*time.Second))
		if err := b.Break(ctx, "k", g.Token); err != nil {
			t.Fatal(err)
		}
		mustBe(t, "renew of a broken lock", errOf(a.Renew(ctx, g)), backend.ErrLost)
		g2 := mustAcquire(t, b, "k", claim(5*time.Second))
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
		mustBe(t, "release of a broken lock", a.Release(ctx, g), backend.ErrLost)
		mustBe(t, "break with the old token", a.Break(ctx, "k", g.Token), backend.ErrHeld)
		mustRelease(t, b, g2)
	})

	t.Run("keys are exact", func(t *testing.T) {
		keys := []string{"a", "A", "a/b", "a/", "/a", " a", "a ", ".a", "é", "e\u0301", "a=b&c", "a\\b"}
		var gs []backend.Grant
		for _, k := range keys {
			gs = append(gs, mustAcquire(t, a, k, claim(5*time.Second)))
		}
		recs, err := b.List(ctx, "")
		if err != nil || len(recs) != len(keys) {
			t.Fatalf("list: %d records, %v", len(recs), err)
		}
		for i := 1; i < len(recs); i++ {
			if recs[i-1].Key >= recs[i].Key {
				t.Errorf("list is out of order: %q, %q", recs[i-1].Key, recs[i].Key)
			}
		}
		if recs, err := b.List(ctx, "a/"); err != nil || len(recs) != 2 {
			t.Errorf("list a/: %+v, %v", recs, err)
		}
		for _, g := range gs {
			mustRelease(t, a, g)
		}
		mustBe(t, "a tab", errOf(a.Acquire(ctx, "a\tb", claim(time.Second))), backend.ErrInvalidKey)
	})

	t.Run("owner", func(t *testing.T) {
		g := mustAcquire(t, a, "k", claim(5*time.Second))
		cmp, ok := etcdlock.Owner(g)
		if !ok {
			t.Fatal("no comparison for a grant of etcdlock")
		}
		kv := srv.Client()
		put := func() bool {
			resp, err := kv.Txn(ctx).If(cmp).Then(clientv3.OpPut("data", "x")).Commit()
			if err != nil {
				t.Fatal(err)
			}
			return resp.Succeeded
		}
		if !put() {
			t.Error("the holder's transaction was refused")
		}
		if err := b.Break(ctx, "k", g.Token); err != nil {
			t.Fatal(err)
		}
		mustRelease(t, b, mustAcquire(t, b, "k", claim(5*time.Second)))
		if put() {
			t.Error("the transaction of a former holder was carried out")
		}
		if _, err := kv.Delete(ctx, "data"); err != nil {
			t.Fatal(err)
		}
		if _, ok := etcdlock.Owner(backend.Grant{State: 7}); ok {
			t.Error("a comparison for a grant that is not of etcdlock")
		}
	})

	t.Run("nothing left", func(t *testing.T) {
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Fatal(err)
		}
		keys, idle, err := etcdtest.Left(ctx, srv.Client())
		if err != nil || len(keys) != 1 || len(idle) != 0 {
			t.Errorf("left in etcd: keys %q, leases %v, %v", keys, idle, err)
		}
		mustBe(t, "acquire after close", errOf(a.Acquire(ctx, "k", claim(time.Second))), backend.ErrClosed)
	})
}

func errOf[T any](_ T, err error) error { return err }

// wrapped returns a client in a namespace.
func wrapped(srv *etcdtest.Server, ns string) *clientv3.Client {
	client := srv.Client()
	client.KV = namespace.NewKV(client.KV, ns)
	client.Watcher = namespace.NewWatcher(client.Watcher, ns)
	client.Lease = namespace.NewLease(client.Lease, ns)
	return client
}

// The locks of a client that is wrapped in a namespace are in it, all of them, and are
// those of every other client in it, whichever way it was got.
func TestNamespacedClient(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	raw := srv.Client()
	client := wrapped(srv, "app/")
	a, b := newBackend(t, client), newBackend(t, wrapped(srv, "app/"))
	inside := etcdlock.New(srv.Client(), &etcdlock.Options{Prefix: "app/" + etcdlock.DefaultPrefix})
	defer inside.Close()

	g := mustAcquire(t, a, "k", claim(5*time.Minute))
	for _, b := range []*etcdlock.Backend{b, inside} {
		if he := mustBeHeld(t, b, "k", claim(5*time.Minute)); he.Record.Token != g.Token {
			t.Errorf("token %d holds, want %d", he.Record.Token, g.Token)
		}
	}
	if _, err := a.Renew(ctx, g); err != nil {
		t.Errorf("renew: %v", err)
	}
	many := []backend.Grant{g}
	for i := range 150 { // more than go into one transaction
		many = append(many, mustAcquire(t, a, fmt.Sprint("many/", i), claim(5*time.Minute)))
	}
	for _, r := range a.RenewAll(ctx, many) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if recs, err := inside.List(ctx, "many/"); err != nil || len(recs) != 150 {
		t.Errorf("listed %d, %v", len(recs), err)
	}
	v := setTo(g.Token, 1, "x")
	mustSet(t, a, g, v)
	mustHaveValue(t, b, "k", v)
	mustHaveValue(t, inside, "k", v)
	if err := a.RaiseToken(ctx, "raised", 1<<62); err != nil {
		t.Error(err)
	}
	if rec, err := b.Inspect(ctx, "k"); err != nil || rec.ID != g.ID || rec.Remaining <= 0 {
		t.Errorf("inspected %+v, %v", rec, err)
	}

	// for data in the namespace the lock is the fence, and elsewhere it is not
	cmp, ok := etcdlock.Owner(g)
	if !ok {
		t.Fatal("the grant has no owner")
	}
	for which, c := range map[bool]*clientv3.Client{true: client, false: raw} {
		resp, err := c.Txn(ctx).If(cmp).Then(clientv3.OpPut("data", "x")).Commit()
		if err != nil || resp.Succeeded != which {
			t.Errorf("a transaction in the namespace: %v; carried out: %v, %v", which, resp.Succeeded, err)
		}
	}

	lost := make(chan string, 1)
	defer a.OnLoss(func(key, _ string) {
		select {
		case lost <- key:
		default:
		}
	})()
	if err := inside.Break(ctx, "k", g.Token); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-ctx.Done():
		t.Error("the loss was not reported")
	}

	stays := claim(5 * time.Minute)
	mustAcquire(t, a, "stays", stays)
	held := mustAcquire(t, inside, "k", claim(5*time.Minute))
	waited := make(chan error, 1)
	go func() {
		g, err := acquireWaiting(ctx, a, "k", claim(5*time.Minute), never)
		if err == nil {
			g, err = a.Renew(ctx, g) // it moves
		}
		if err == nil {
			err = a.Release(ctx, g)
		}
		waited <- err
	}()
	for {
		rec, err := b.Inspect(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(rec.Note, "1 waiting") {
			break
		}
	}
	mustRelease(t, inside, held)
	if err := <-waited; err != nil {
		t.Errorf("waiting: %v", err)
	}
	// An attempt that was given up is settled by a fence, and what waited leaves nothing.
	sctx, cancel := context.WithCancel(ctx)
	cancel()
	given := claim(5 * time.Minute)
	mustBe(t, "acquire with a context that has ended", errOf(a.Acquire(sctx, "given-up", given)), backend.ErrUnavailable)
	if err := a.Release(ctx, backend.Grant{Key: "given-up", ID: given.ID}); err != nil && !errors.Is(err, backend.ErrLost) {
		t.Error(err)
	}

	all, err := raw.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range all.Kvs {
		if !strings.HasPrefix(string(kv.Key), "app/") {
			t.Errorf("%q is outside of the namespace", kv.Key)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if he := mustBeHeld(t, b, "stays", claim(5*time.Minute)); he.Record.ID != stays.ID {
		t.Errorf("after Close of its holder's backend %q holds, want %q", he.Record.ID, stays.ID)
	}
	// Close leaves the client as it was
	if _, err := client.Put(ctx, "more", ""); err != nil {
		t.Error(err)
	}
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if resp := <-client.Watch(wctx, "more", clientv3.WithCreatedNotify()); !resp.Created {
		t.Errorf("a watch after Close: %+v", resp)
	}
	// and another namespace is another world
	plain := newBackend(t, raw)
	mustRelease(t, plain, mustAcquire(t, plain, "stays", claim(5*time.Minute)))
}

// While the connection is being made anew, requests wait for it.
func TestWaitsForConnection(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	client := srv.Client()
	b := newBackend(t, client)
	g := mustAcquire(t, b, "k", claim(time.Minute))
	srv.Kill()
	conn := client.ActiveConnection()
	for s := conn.GetState(); s != connectivity.TransientFailure; s = conn.GetState() {
		conn.Connect()
		if !conn.WaitForStateChange(ctx, s) {
			t.Fatalf("the connection is %v after the server's death", s)
		}
	}
	errs := make(chan error, 2)
	go func() { _, err := b.Acquire(ctx, "another", claim(time.Minute)); errs <- err }()
	go func() { errs <- b.Release(ctx, g) }()
	srv.Restart()
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// An error of a request that its context has ended matches the context's error and
// its cause.
func TestCanceledRequest(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	b := newBackend(t, srv.Client())
	g := mustAcquire(t, b, "k", claim(time.Minute))
	srv.Freeze()
	defer srv.Thaw()
	cause := errors.New("the caller's own reason")
	for what, call := range map[string]func(context.Context) error{
		"acquire": func(ctx context.Context) error { return errOf(b.Acquire(ctx, "another", claim(time.Minute))) },
		"release": func(ctx context.Context) error { return b.Release(ctx, g) },
	} {
		ctx, cancel := context.WithCancelCause(testContext(t))
		time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
		err := call(ctx)
		for _, want := range []error{context.Canceled, cause, backend.ErrUnavailable} {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v does not match %v", what, err, want)
			}
		}
	}
}
