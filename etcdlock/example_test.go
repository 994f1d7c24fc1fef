package etcdlock_test

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/etcdlock"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A lock on a client that the program has anyway.
func ExampleNew() {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:         []string{"http://etcd-1:2379", "http://etcd-2:2379", "http://etcd-3:2379"},
		DialKeepAliveTime: 5 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	locker := hasp.New(etcdlock.New(client, &etcdlock.Options{Prefix: "team/locks"}), nil)
	defer locker.Close()

	err = hasp.Do(context.Background(), locker, "sweeps/foo", func(ctx context.Context, lease *hasp.Lease) error {
		log.Println("token", lease.Token())
		return nil
	})
	if err != nil {
		log.Print(err)
	}
}

// A lock from a URL; importing this package makes the scheme known.
func Example_open() {
	locker, err := hasp.Open(context.Background(), "etcds://jobs:secret@etcd-1,etcd-2,etcd-3/team?cacert=/etc/ssl/etcd-ca.pem", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer locker.Close()
}

// Data in the same etcd is written by the holder or not at all, however long
// the holder was paused.
func ExampleOwner() {
	ctx := context.Background()
	var client *clientv3.Client
	var lease *hasp.Lease // of a Locker on etcdlock

	owner, ok := etcdlock.Owner(lease.Grant())
	if !ok {
		log.Fatal("the lease is not of etcdlock")
	}
	resp, err := client.Txn(ctx).If(owner).Then(clientv3.OpPut("sweeps/foo/state", "created")).Commit()
	if err != nil {
		log.Fatal(err)
	}
	if !resp.Succeeded {
		log.Fatal(errors.New("the lock was lost, and nothing was written"))
	}
}
