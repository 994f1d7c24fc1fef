package etcdtest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/internal/port"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// promptly is how long after its deadline a call may return on a slow machine.
const promptly = 3 * time.Second

// mustFail checks that do fails in time, in these words.
func mustFail(t *testing.T, timeout time.Duration, do func(context.Context) error, unavailable bool, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	start := time.Now()
	err := do(ctx)
	if took := time.Since(start); took > timeout+promptly {
		t.Errorf("it took %v, the deadline was %v", took, timeout)
	}
	if err == nil {
		t.Fatal("no error")
	}
	t.Log(err)
	if errors.Is(err, backend.ErrUnavailable) != unavailable {
		t.Errorf("unavailable: %v, want %v", !unavailable, unavailable)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q", w)
		}
	}
}

func opening(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		b, err := backend.Open(ctx, url)
		if err == nil {
			err = b.Close()
		}
		return err
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent := l.Addr().String() // accepts, and never answers
	closed := port.Nobody
	mustFail(t, 2*time.Second, opening("etcd://"+closed+"/"), true, closed, "connection refused")
	mustFail(t, 2*time.Second, opening("etcd://"+silent+"/"), true, silent, "cannot be reached")
	mustFail(t, 2*time.Second, opening("etcd://"+silent+","+closed+"/"), true, silent, closed, "connection refused")
	mustFail(t, 2*time.Second, opening("etcd://no-such-host.invalid/"), true, "no-such-host.invalid")

	// one of several is enough
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	b, err := backend.Open(ctx, "etcd://"+closed+","+silent+","+srv.Addr()+"/")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	mustRelease(t, b, mustAcquire(t, b, "k", claim(20*time.Second)))

	// a server that goes away later
	g := mustAcquire(t, b, "k", claim(20*time.Second))
	srv.Kill()
	mustFail(t, 2*time.Second, func(ctx context.Context) error { return errOf(b.Acquire(ctx, "k2", claim(20*time.Second))) }, true, srv.Addr())
	mustFail(t, 2*time.Second, func(ctx context.Context) error { return errOf(b.Renew(ctx, g)) }, true, srv.Addr())
	mustFail(t, 2*time.Second, func(ctx context.Context) error { return errOf(b.Inspect(ctx, "k")) }, true, srv.Addr())
	mustFail(t, 2*time.Second, func(ctx context.Context) error { return b.Release(ctx, g) }, true, srv.Addr())
}

func TestNoQuorum(t *testing.T) {
	t.Parallel()
	cl := etcdtest.StartCluster(t, 3, nil)
	b := newBackend(t, cl.Client())
	g := mustAcquire(t, b, "k", claim(20*time.Second))
	cl.Members[0].Kill()
	cl.Members[1].Kill()
	survivor := cl.Members[2]
	// The first requests can meet a connection to a killed member that has not
	// broken yet. They fail with that, and the engine asks again.
	settled := func(do func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			for {
				actx, cancel := context.WithTimeout(ctx, 4*time.Second)
				err := do(actx)
				cancel()
				if err == nil || strings.Contains(err.Error(), "quorum") || ctx.Err() != nil {
					return err
				}
				mustBe(t, "a request while connections break", err, backend.ErrUnavailable)
				t.Log("at first:", err)
				time.Sleep(50 * time.Millisecond) // between looks
			}
		}
	}
	mustFail(t, 20*time.Second, settled(func(ctx context.Context) error { return errOf(b.Acquire(ctx, "k2", claim(20*time.Second))) }), true, "quorum")
	mustFail(t, 20*time.Second, settled(func(ctx context.Context) error { return errOf(b.Renew(ctx, g)) }), true, "quorum")
	mustFail(t, 20*time.Second, settled(func(ctx context.Context) error { return errOf(b.Inspect(ctx, "k")) }), true, "quorum")
	mustFail(t, 20*time.Second, opening(survivor.URL("")), true, "quorum")
}

func TestOutOfSpace(t *testing.T) {
	srv := etcdtest.Start(t, &etcdtest.Options{Quota: 2 << 20})
	ctx := testContext(t)
	c := srv.Client()
	b := newBackend(t, c)
	g := mustAcquire(t, b, "held", claim(20*time.Second))
	junk := strings.Repeat("x", 200<<10)
	for i := 0; ; i++ {
		if _, err := c.Put(ctx, "junk"+string(rune('a'+i)), junk); err != nil {
			break
		}
	}
	for range 3 {
		mustFail(t, 5*time.Second, func(ctx context.Context) error { return errOf(b.Acquire(ctx, "k", claim(20*time.Second))) }, false, "out of space", "NOSPACE")
	}
	// what is held can be kept and given back
	if _, err := b.Renew(ctx, g); err != nil {
		t.Error(err)
	}
	mustRelease(t, b, g)
	mustHaveNoLocks(t, srv)
}

func TestAuthentication(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	root := srv.Client()
	for _, err := range []error{
		errOf(root.RoleAdd(ctx, "locks")),
		errOf(root.RoleGrantPermission(ctx, "locks", "team/", clientv3.GetPrefixRangeEnd("team/"), clientv3.PermissionType(clientv3.PermReadWrite))),
		errOf(root.RoleAdd(ctx, "reads")),
		errOf(root.RoleGrantPermission(ctx, "reads", "team/", clientv3.GetPrefixRangeEnd("team/"), clientv3.PermissionType(clientv3.PermRead))),
		errOf(root.UserAdd(ctx, "root", "rootpw")), errOf(root.UserGrantRole(ctx, "root", "root")),
		errOf(root.UserAdd(ctx, "alice", "secret")), errOf(root.UserGrantRole(ctx, "alice", "locks")),
		errOf(root.UserAdd(ctx, "bob", "secret")), errOf(root.UserGrantRole(ctx, "bob", "reads")),
		errOf(root.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mustFail(t, 5*time.Second, opening("etcd://alice:wrong@"+srv.Addr()+"/team"), false, "refuses the password", `"alice"`)
	mustFail(t, 5*time.Second, opening("etcd://"+srv.Addr()+"/team"), false, "asks for a user")
	mustFail(t, 5*time.Second, opening("etcd://alice:secret@"+srv.Addr()+"/other"), false, "denies permission", `"alice"`, `"other/"`)

	b, err := backend.Open(ctx, "etcd://alice:secret@"+srv.Addr()+"/team")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	g := mustAcquire(t, b, "k", claim(20*time.Second))
	if _, err := b.Renew(ctx, g); err != nil {
		t.Error(err)
	}
	if rec, err := b.Inspect(ctx, "k"); err != nil || rec.Token != g.Token {
		t.Errorf("inspect: %+v, %v", rec, err)
	}
	r, err := backend.Open(ctx, "etcd://bob:secret@"+srv.Addr()+"/team")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	mustFail(t, 5*time.Second, func(ctx context.Context) error { return errOf(r.Acquire(ctx, "k2", claim(20*time.Second))) }, false, "denies permission", `"bob"`)
	mustRelease(t, b, g)
}

// certificate writes a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcdtest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	srv := etcdtest.Start(t, &etcdtest.Options{CertFile: cert, KeyFile: key})
	ctx := testContext(t)
	for _, u := range []string{
		"etcds://" + srv.Addr() + "/?cacert=" + cert,
		"etcd://" + srv.Addr() + "/?cacert=" + cert,
		"etcds://" + srv.Addr() + "/?insecure=true",
	} {
		b, err := backend.Open(ctx, u)
		if err != nil {
			t.Errorf("%s: %v", u, err)
			continue
		}
		mustRelease(t, b, mustAcquire(t, b, "k", claim(20*time.Second)))
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	mustFail(t, 3*time.Second, opening("etcds://"+srv.Addr()+"/"), true, srv.Addr(), "certificate")
	mustFail(t, 3*time.Second, opening("etcd://"+srv.Addr()+"/"), true, srv.Addr(), "etcds://")
	plain := etcdtest.Start(t, nil)
	mustFail(t, 3*time.Second, opening("etcds://"+plain.Addr()+"/?insecure=true"), true, plain.Addr())
}

// A cancelled call returns at once and leaves nothing that lasts.
func TestCancelledAcquire(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	b := newBackend(t, srv.Client())
	mustRelease(t, b, mustAcquire(t, b, "k", claim(20*time.Second)))
	for i := range 60 {
		c := claim(20 * time.Second)
		actx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Duration(i)*50*time.Microsecond, cancel)
		g, err := b.Acquire(actx, "k", c)
		cancel()
		if err == nil {
			mustRelease(t, b, g)
			continue
		}
		mustBe(t, "acquire", err, backend.ErrUnavailable)
		mustBe(t, "acquire", err, context.Canceled)
		// as the engine does
		if err := b.Release(ctx, backend.Grant{Key: "k", ID: c.ID}); err != nil {
			mustBe(t, "release of an attempt of unknown outcome", err, backend.ErrLost)
		}
		// Nobody holds it now, and nothing arrives late.
		mustRelease(t, b, mustAcquire(t, b, "k", claim(20*time.Second)))
	}
	mustHaveNoLocks(t, srv)
}

func TestNoGoroutineLeft(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	opened := func() {
		b, err := backend.Open(ctx, srv.URL("x"))
		if err != nil {
			t.Fatal(err)
		}
		defer b.(backend.LossNotifier).OnLoss(func(key, id string) {})()
		g := mustAcquire(t, b, "k", claim(5*time.Second))
		_, stop, err := b.(backend.Watcher).Watch(ctx, "k", claim(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		if _, err := b.Renew(ctx, g); err != nil {
			t.Error(err)
		}
		if err := stop(ctx, false); err != nil {
			t.Error(err)
		}
		mustRelease(t, b, g)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		mustBe(t, "close again", b.Close(), nil)
	}
	opened()
	before := runtime.NumGoroutine()
	for range 3 {
		opened()
	}
	for runtime.NumGoroutine() > before {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
	keys, idle, err := etcdtest.Left(ctx, srv.Client())
	if err != nil || len(keys) != 1 || len(idle) != 0 {
		t.Errorf("left in etcd: keys %q, leases %v, %v", keys, idle, err)
	}
}
