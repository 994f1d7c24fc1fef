package etcdlock

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hasplock/hasp/backend"
)

func init() {
	backend.RegisterExaminer("etcd", openExaminer)
	backend.RegisterExaminer("etcds", openExaminer)
}

// examiner implements backend.Examiner. It does nothing under the prefix of the locks, since
// opening one that is new would write to it.
type examiner struct {
	cfg    config // with the prefix of what is tried
	prefix string // of the locks
	usable bool
	seen   []*endpoint
}

var _ backend.Examiner = (*examiner)(nil)

func openExaminer(_ context.Context, u *url.URL) (backend.Examiner, error) {
	cfg, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	prefix := cfg.prefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	prefix = strings.TrimSuffix(prefix, "/") + "/"
	cfg.prefix = prefix + "doctor-" + strings.ToLower(rand.Text()) + "/"
	return &examiner{cfg: cfg, prefix: prefix}, nil
}

// answerTimeout bounds one question to a server that may not answer.
const answerTimeout = 5 * time.Second

// text is err in words, with the prefix that users know.
func (x *examiner) text(err error) string {
	return strings.ReplaceAll(backend.Text(err), x.cfg.prefix, x.prefix)
}

// Examine implements backend.Examiner.
func (x *examiner) Examine(ctx context.Context, y backend.Finder) (err error) {
	if x.seen, err = x.ask(ctx, nil, x.cfg.client.Endpoints); err != nil {
		y.Problem("reach", "see what is wrong with the URL", "%s", x.text(err))
		return nil
	}
	if !slices.ContainsFunc(x.seen, (*endpoint).answers) {
		x.examineEndpoints(y)
		return ctx.Err()
	}
	cctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	b, lerr := x.cfg.connect(cctx)
	if lerr == nil {
		defer func() { err = errors.Join(err, x.leave(ctx, b)) }()
		if slices.ContainsFunc(x.seen, (*endpoint).wantsUser) && b.user != "" {
			if x.seen, err = x.ask(ctx, b.client, x.cfg.client.Endpoints); err != nil {
				return err
			}
		}
	}
	fit := x.examineEndpoints(y)
	if lerr != nil {
		y.Problem("login", "see whether user and password are right", "%s", x.text(lerr))
		return ctx.Err()
	}
	works, answered := x.examineUse(cctx, y, b)
	x.examineLogin(y, b)
	x.usable = works && fit
	if !answered && ctx.Err() == nil && !slices.ContainsFunc(x.seen, (*endpoint).knowsNoLeader) {
		x.examineLeader(ctx, y, b) // it may be why
	}
	if !works || ctx.Err() != nil {
		return ctx.Err()
	}
	for _, look := range []func(context.Context, backend.Finder, *Backend){x.examineMembers, x.examineLease, x.examineLeader} {
		look(ctx, y, b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// leave takes away what was written, and closes b.
func (x *examiner) leave(ctx context.Context, b *Backend) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	var err error
	if b.tokens.wrote() {
		if _, err = b.do(ctx, clientv3.OpDelete(x.cfg.prefix, clientv3.WithPrefix())); err != nil {
			err = fmt.Errorf("what was tried under %q could not be removed: %w", x.cfg.prefix, b.explain(ctx, err))
		}
	}
	return errors.Join(err, b.Close())
}

// examineUse asks for what locks need, which takes a quorum, and tells whether it is there,
// and whether there was an answer at all.
func (x *examiner) examineUse(ctx context.Context, y backend.Finder, b *Backend) (works, answered bool) {
	err := b.examineElected(ctx)
	switch {
	case err == nil:
		y.OK("quorum", "a read that needs a quorum was answered; transactions, keepalives of leases and watches work under prefix %q", x.prefix)
		return true, true
	case lacks(err):
		y.Problem("part", "give the address of an etcd of its own: what Kubernetes distributions have instead of it does not do for locks", "%s", x.text(err))
	case is(err, rpctypes.ErrPermissionDenied), is(err, rpctypes.ErrUserEmpty):
		y.Problem("rights", fmt.Sprintf("as root: etcdctl role grant-permission ROLE readwrite %s --prefix, and give user and password in the URL", x.prefix), "%s", x.text(err))
	case is(err, rpctypes.ErrNoSpace):
		y.Problem("quorum", spaceAdvice, "%s", x.text(err))
	case errors.Is(err, backend.ErrUnavailable):
		y.Problem("quorum", "bring back members until more than half of them run and reach each other: etcdctl endpoint status --cluster", "%s", x.text(err))
		return false, false
	default:
		y.Problem("quorum", "see what the server's log says", "%s", x.text(err))
	}
	return false, true
}

// shortSession is from what lifetime on a login's token is told to be short.
const shortSession = 30 * time.Second

func (x *examiner) examineLogin(y backend.Finder, b *Backend) {
	if b.user == "" {
		return
	}
	token := b.login.current()
	ttl, signed := tokenTTL(token)
	switch {
	case token == "":
		y.Warn("login", "etcdctl auth enable, or leave the user out of the URL", "a user was given, and the store has no users: anybody who reaches it can take and break locks")
	case signed && ttl > 0 && ttl < shortSession:
		y.Warn("login", "raise the ttl of --auth-token", "a login is valid for %v: each process logs in that often, which costs etcd a password check", ttl)
	case signed && ttl > 0:
		y.OK("login", "a login is valid for %v, and is then made again", ttl)
	default:
		y.OK("login", "a login is valid for --auth-token-ttl, 300s by default, after its last use, and is then made again; how long that is the store does not tell")
	}
	for _, e := range x.seen {
		if e.status != nil && token != "" && before(e.status.Version, 3, 5) {
			y.Warn("users", "upgrade to 3.5 or later, or give such programs the URL instead of a client", "etcd %s has users: opened from this URL, locks log in again when their login has expired; a program that hands a client of its own to New cannot, and is refused", e.status.Version)
			return
		}
	}
}

// tokenTTL reads from a signed token (JWT) for how long it is valid. The simple ones do not
// tell.
func tokenTTL(token string) (ttl time.Duration, signed bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, false
	}
	var claims struct{ Exp, Iat float64 }
	if json.Unmarshal(text, &claims) != nil || claims.Exp == 0 {
		return 0, false
	}
	issued := time.Now()
	if claims.Iat > 0 {
		issued = time.Unix(int64(claims.Iat), 0)
	}
	return time.Unix(int64(claims.Exp), 0).Sub(issued).Round(time.Second), true
}

// Scratch implements backend.Examiner: under a prefix that nobody else has.
func (x *examiner) Scratch(ctx context.Context) (backend.Backend, func(context.Context) error, error) {
	if !x.usable {
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, x.cfg.dialTimeout)
	defer cancel()
	b, err := openConfig(ctx, x.cfg)
	if err != nil {
		return nil, nil, err
	}
	return b, func(ctx context.Context) error { return x.leave(ctx, b.(*Backend)) }, nil
}

// Close implements backend.Examiner.
func (x *examiner) Close() error { return nil }
