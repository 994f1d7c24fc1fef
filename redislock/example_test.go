package redislock_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/redislock"
)

// A lock by URL. The import registers the schemes redis, rediss and redis+unix.
func Example() {
	ctx := context.Background()
	l, err := hasp.Open(ctx, "redis://localhost:6379/0", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	err = hasp.Do(ctx, l, "sweeps/foo", func(ctx context.Context, lease *hasp.Lease) error {
		// ctx ends when the lease is lost; lease.Token() fences what is written
		fmt.Println("token", lease.Token())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

// A client of the program's own, here with its own certificates.
func ExampleNew() {
	client := redis.NewClient(&redis.Options{
		Addr:                  "redis.internal:6380",
		TLSConfig:             &tls.Config{ServerName: "redis.internal"},
		ContextTimeoutEnabled: true,
	})
	defer client.Close()

	b, err := redislock.New(client, &redislock.Options{Prefix: "training:"})
	if err != nil {
		log.Fatal(err)
	}
	l := hasp.New(b, &hasp.Options{TTL: 30 * time.Second})
	defer l.Close()

	lease, err := l.TryAcquire(context.Background(), "sweeps/foo")
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release(context.Background())
}

// A Redis Cluster, where each acquire waits for a replica to have it.
func ExampleOpen_cluster() {
	l, err := hasp.Open(context.Background(),
		"rediss://app:secret@node1:7000,node2:7000,node3:7000/?replicas=1&replicas_timeout=500ms", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
}
