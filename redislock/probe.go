package redislock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

const (
	// openTimeout bounds Open if its context has no deadline.
	openTimeout = 30 * time.Second
	// openPatience is how long Open goes on asking a server that is there and cannot
	// serve. It is what Acquire's is by default.
	openPatience = 10 * time.Second
)

// probe does what the first acquire will do, and leaves nothing behind. It repeats
// that while the server says that it cannot serve now.
func (b *Backend) probe(ctx context.Context) error {
	ctx, cancel := bounded(ctx, openTimeout)
	defer cancel()
	start := time.Now()
	var before error // what the server said last
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		v, err := b.probeOnce(ctx)
		switch {
		case err == nil, v == refused, v == misfit:
			return err
		case v == unknown:
			if before != nil && ctx.Err() != nil {
				err = fmt.Errorf("%w (%w)", before, ctx.Err())
			}
			return backend.Unavailable(err)
		case time.Since(start)+pause > openPatience:
			return backend.Unavailable(err)
		}
		before = err
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return backend.Unavailable(fmt.Errorf("%w (%w)", err, ctx.Err()))
		}
	}
}

func (b *Backend) probeOnce(ctx context.Context) (verdict, error) {
	if c, ok := b.client.(*redis.Client); ok && c.Options().TLSConfig != nil && c.Options().Dialer != nil {
		// The pool dials without the context's deadline, and a handshake that hangs
		// would look like a server that does not answer.
		o := c.Options()
		conn, err := o.Dialer(ctx, o.Network, o.Addr)
		if err != nil {
			return b.explain(err)
		}
		_ = conn.Close()
	}
	name := b.probeName()
	mode, missing, err := b.ask(ctx, name)
	if err == nil && b.replicas > 0 && len(missing) == 0 {
		err = b.askWait(ctx, name)
	}
	if err != nil {
		if cerr := context.Cause(ctx); cerr != nil && !errors.Is(err, cerr) {
			err = fmt.Errorf("%w (%w)", err, cerr)
		}
		return b.explain(err)
	}
	if mode == "cluster" && b.exact {
		return misfit, fmt.Errorf("redis at %s: %s", b.where, inCluster)
	}
	if len(missing) > 0 {
		return refused, b.lackAll(missing)
	}
	// That it is not confirmed in time is no reason not to open; that it is refused is.
	if err := b.notifier.subscribed(ctx); err != nil && !errors.Is(err, backend.ErrUnavailable) {
		return refused, err
	}
	return unknown, nil
}

// probeName is a key that no lock has.
func (b *Backend) probeName() string { return b.prefix + "{" + b.channel + "}:probe" }

// ask runs the probe, and asks the server what it is: "standalone", "cluster",
// "sentinel", or "" if it does not tell. CLUSTER KEYSLOT would not do: there are
// servers that answer it without being in a cluster.
func (b *Backend) ask(ctx context.Context, name string) (mode string, missing []string, err error) {
	exact := "0"
	if b.exact {
		exact = "1"
		// What it answers decides nothing else, so an error is none; and every user may ask.
		hello, _ := b.client.Do(ctx, "hello").Result()
		if mode = modeOf(hello); mode != "" {
			b.notifier.start() // the subscription is made meanwhile
		}
	}
	missing, err = probeScript().Run(ctx, b.client, []string{name}, b.channel, exact).StringSlice()
	return mode, missing, err
}

// modeOf finds the mode in HELLO's answer, a map or, in RESP2, a list.
func modeOf(hello any) string {
	switch h := hello.(type) {
	case map[any]any:
		mode, _ := h["mode"].(string)
		return mode
	case []any:
		for i := 0; i+1 < len(h); i += 2 {
			if h[i] == "mode" {
				mode, _ := h[i+1].(string)
				return mode
			}
		}
	}
	return ""
}

// askWait finds out whether the user may wait for replicas: for none, it is over at once.
func (b *Backend) askWait(ctx context.Context, name string) error {
	node, err := master(ctx, b.client, name)
	if err != nil {
		return err
	}
	return node.Do(ctx, "wait", 0, 1).Err()
}

// lackAll makes the error of what the probe was denied: pairs of a command and an
// error.
func (b *Backend) lackAll(missing []string) error {
	var rights []string
	seen := map[string]bool{}
	for i := 0; i+1 < len(missing); i += 2 {
		right, _ := b.denied(missing[i+1])
		if right == "" {
			right = "+" + missing[i]
		}
		if !seen[right] {
			rights, seen[right] = append(rights, right), true
		}
	}
	return b.lacks(errors.New(missing[1]), rights...)
}

// username is who client logs in as; "" if that is not known.
func username(client redis.UniversalClient) string {
	switch c := client.(type) {
	case *redis.Client:
		if c != nil {
			return c.Options().Username
		}
	case *redis.ClusterClient:
		if c != nil {
			return c.Options().Username
		}
	}
	return ""
}
