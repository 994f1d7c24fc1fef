package redislock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

func init() {
	for _, scheme := range []string{"redis", "rediss", "redis+unix"} {
		backend.RegisterExaminer(scheme, openExaminer)
	}
}

// examiner implements backend.Examiner. Its Backend was not asked at all whether it can be
// used.
type examiner struct {
	b      *Backend
	url    *url.URL
	usable bool
	unseen map[string]bool // what this user may not see
}

var _ backend.Examiner = (*examiner)(nil)

func openExaminer(_ context.Context, u *url.URL) (backend.Examiner, error) {
	b, err := connect(u, nil)
	if err != nil {
		return nil, err
	}
	return &examiner{b: b, url: u, unseen: map[string]bool{}}, nil
}

// Examine implements backend.Examiner.
func (x *examiner) Examine(ctx context.Context, y backend.Finder) error {
	if !x.reach(ctx, y) {
		return ctx.Err()
	}
	x.usable = x.examineRights(ctx, y)
	for _, look := range []func(context.Context, backend.Finder){x.examineNodes, x.examineCluster, x.examinePath} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		look(ctx, y)
	}
	if len(x.unseen) > 0 {
		rights := sorted(x.unseen)
		y.Warn("unseen", fmt.Sprintf("let doctor look as another user, or grant it: ACL SETUSER %s %s; locks need none of it", x.user(), strings.Join(rights, " ")),
			"some of the server's settings cannot be seen by user %q", x.user())
	}
	return ctx.Err()
}

func (x *examiner) user() string {
	if x.b.user == "" {
		return "default"
	}
	return x.b.user
}

// reach tells whether the server answers, and what if not.
func (x *examiner) reach(ctx context.Context, y backend.Finder) bool {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	start := time.Now()
	// Unlike the client, it ends when ctx does.
	err := x.b.do(ctx, func(ctx context.Context, client redis.UniversalClient) error { return client.Ping(ctx).Err() })
	var reply redis.Error
	switch {
	case err == nil, errors.As(err, &reply) && permitted(err):
		y.OK("reach", "%s answers, in %v", x.b.where, backend.Round(time.Since(start).Round(time.Microsecond)))
		return true
	case hungUp(err):
		if refused := x.refusedByProxy(ctx); len(refused) > 0 {
			y.Problem("proxy", "give the address of the Redis server itself: locks need HELLO, and SUBSCRIBE for those who wait",
				"a proxy is in between: at %s PING is answered, and on %s the connection is closed, as twemproxy does with what it does not know", x.b.where, strings.Join(refused, ", "))
			return false
		}
	}
	advice := "see whether the server runs, and whether address, port and TLS (rediss:) are right"
	if reply != nil {
		advice = "see whether user and password are right, and what the server's log says"
	}
	_, err = x.b.explain(err)
	y.Problem("reach", advice, "%s", backend.Text(err))
	return false
}

// permitted tells whether an error reply is about rights alone: then the server is there.
func permitted(err error) bool {
	for _, d := range denials {
		if replies(err.Error(), d) {
			return true
		}
	}
	return false
}

// hungUp tells whether the connection was closed instead of an answer.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// examineRights tells what the user lacks, and returns whether locks can be tried.
func (x *examiner) examineRights(ctx context.Context, y backend.Finder) bool {
	b := x.b
	_, missing, err := b.ask(ctx, b.probeName())
	if err != nil {
		_, err = b.explain(err)
	} else if len(missing) > 0 {
		err = b.lackAll(missing)
	}
	serr := b.notifier.subscribed(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission):
	case err != nil:
		y.Problem("scripts", "mend what is named there; the server's log may say more", "%s", backend.Text(err))
	case serr == nil:
		y.OK("scripts", "each command that locks need works in a script, and the subscription that wakes waiters is confirmed")
	}
	var lacking []error
	for _, err := range []error{err, serr} {
		if errors.Is(err, fs.ErrPermission) {
			lacking = append(lacking, err)
		}
	}
	if serr != nil && !errors.Is(serr, fs.ErrPermission) && err == nil {
		y.Problem("subscription", "let SUBSCRIBE through: a proxy that does not know it is passed by giving the server's own address",
			"%s: waiters would only look now and then", backend.Text(serr))
	}
	for _, err := range lacking {
		y.Problem("rights", "grant what is named there", "%s", backend.Text(err))
	}
	return x.examineExtraRights(ctx, y) && err == nil && !errors.Is(serr, fs.ErrPermission)
}

// examineExtraRights looks at those that not every use of locks needs, and tells whether
// this one has them.
func (x *examiner) examineExtraRights(ctx context.Context, y backend.Finder) bool {
	b := x.b
	if err := b.client.Scan(ctx, 0, b.prefix+"doctor-none", 1).Err(); err != nil && permitted(err) {
		y.Warn("rights", fmt.Sprintf("ACL SETUSER %s +scan", x.user()), "user %q lacks +scan: locks work, and cannot be listed", x.user())
	}
	if b.replicas > 0 {
		if err := b.askWait(ctx, b.probeName()); err != nil && permitted(err) {
			y.Problem("rights", fmt.Sprintf("ACL SETUSER %s +wait", x.user()), "user %q lacks +wait, which replicas=%d needs", x.user(), b.replicas)
			return false
		}
	}
	return true
}

// Scratch implements backend.Examiner: under a prefix that nobody else has, and without
// remembering tokens, so that nothing stays.
func (x *examiner) Scratch(ctx context.Context) (backend.Backend, func(context.Context) error, error) {
	if !x.usable {
		return nil, nil, nil
	}
	b, err := connect(x.url, func(o *Options) {
		if o.Prefix == "" {
			o.Prefix = DefaultPrefix
		}
		o.Prefix += "doctor-" + strings.ToLower(rand.Text()) + ":"
		o.TokenMemory = time.Millisecond
	})
	if err != nil {
		return nil, nil, err
	}
	if err := b.probe(ctx); err != nil {
		b.Close()
		return nil, nil, err
	}
	return b, func(context.Context) error { return b.Close() }, nil
}

// Close implements backend.Examiner.
func (x *examiner) Close() error { return x.b.Close() }
