package etcdlock

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hasplock/hasp/backend"
)

// endpoint is what one server said of itself.
type endpoint struct {
	url    string
	status *clientv3.StatusResponse // nil: it did not answer
	took   time.Duration
	err    error
}

// address is the host and port.
func (e *endpoint) address() string {
	_, address, _ := strings.Cut(e.url, "://")
	return address
}

// answers tells whether there is an etcd, whatever it says.
func (e *endpoint) answers() bool { return e.status != nil || e.wantsUser() }

func (e *endpoint) knowsNoLeader() bool { return e.status != nil && e.status.Leader == 0 }

// wantsUser tells whether it tells its state to users only, as etcd does from 3.6 on.
func (e *endpoint) wantsUser() bool {
	return is(e.err, rpctypes.ErrUserEmpty) || is(e.err, rpctypes.ErrPermissionDenied) || is(e.err, rpctypes.ErrInvalidAuthToken)
}

// ask asks all endpoints at once, through client, or without a user if that is nil.
func (x *examiner) ask(ctx context.Context, client *clientv3.Client, urls []string) ([]*endpoint, error) {
	cfg := x.cfg.client
	if client == nil {
		cfg.Username, cfg.Password = "", ""
		var err error
		if client, err = clientv3.New(cfg); err != nil {
			return nil, err
		}
		defer client.Close()
	}
	var wg sync.WaitGroup
	all := make([]*endpoint, len(urls))
	for i, url := range urls {
		e := &endpoint{url: url}
		all[i] = e
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, statusTimeout)
			defer cancel()
			if e.err = knock(ctx, url, cfg.TLS); e.err == nil {
				start := time.Now()
				e.status, e.err = client.Status(ctx, url)
				e.took = time.Since(start)
			}
			if e.err != nil {
				e.status = nil
			}
		})
	}
	wg.Wait()
	return all, nil
}

// examineEndpoints looks at each server that the URL names, and tells whether locks can be
// tried with them.
func (x *examiner) examineEndpoints(y backend.Finder) (fit bool) {
	fit = true
	answered := 0
	clusters, versions := map[uint64]bool{}, map[string]bool{}
	for _, e := range x.seen {
		at := y.About(e.address())
		switch {
		case e.status != nil:
			answered++
			clusters[e.status.Header.ClusterId] = true
			versions[e.status.Version] = true
			fit = x.examineEndpoint(at, e) && fit
		case e.wantsUser():
			answered++
			at.OK("server", "it answers, and tells this user nothing of its state")
		default:
			level := at.Warn
			if len(x.seen) == 1 {
				level = at.Problem
			}
			level("reach", "see whether it runs, and whether address, port and TLS (etcds:) are right", "it does not answer: %s", x.text(e.err))
		}
	}
	if answered == 0 && len(x.seen) > 1 {
		y.Problem("reach", "see whether they run, and whether addresses, ports and TLS (etcds:) are right", "none of %d servers answers", len(x.seen))
	}
	if len(clusters) > 1 {
		y.Problem("clusters", "name the members of one cluster only", "the servers in the URL are of %d clusters: each grants the same lock", len(clusters))
		fit = false
	}
	if len(versions) > 1 {
		y.Warn("version", "end the upgrade", "the servers are of %d versions", len(versions))
	}
	return fit
}

const spaceAdvice = "etcdctl compact, etcdctl defrag, raise --quota-backend-bytes, then etcdctl alarm disarm"

// defaultQuota is etcd's, where it does not tell.
const defaultQuota = 2 << 30

func (x *examiner) examineEndpoint(y backend.Finder, e *endpoint) (fit bool) {
	fit = true
	s := e.status
	role := "follower"
	switch {
	case s.Leader == 0:
		role = "without a leader"
	case s.Leader == s.Header.MemberId:
		role = "leader"
	}
	if before(s.Version, 3, 4) {
		y.Problem("server", "upgrade it", "etcd %s: locks need 3.4", s.Version)
	} else {
		y.OK("server", "etcd %s, %s, term %d, answered in %v", s.Version, role, s.RaftTerm, backend.Round(e.took.Round(time.Microsecond)))
	}
	if s.IsLearner {
		y.Warn("learner", "promote it, or leave it out of the URL", "it is a learner, and refuses most requests")
	}
	for _, text := range s.Errors {
		switch {
		case strings.Contains(text, "NOSPACE"):
			fit = false
			y.Problem("alarm", spaceAdvice, "alarm NOSPACE: its database is full, and no lock can be taken")
		case strings.Contains(text, "CORRUPT"):
			fit = false
			y.Problem("alarm", "find out which member's data differ (etcdctl endpoint hashkv --cluster), and replace that member", "alarm CORRUPT: the members' data differ, so locks may be held twice")
		case strings.Contains(text, "no leader"):
			y.Problem("leader", "bring back members until more than half of them run and reach each other", "it knows no leader: it is without quorum, or cut off from the others")
		default:
			y.Warn("alarm", "see what the server's log says", "it says: %s", text)
		}
	}
	quota, told := s.DbSizeQuota, ""
	if quota <= 0 {
		quota, told = defaultQuota, " (if that is etcd's default: it does not tell)"
	}
	switch seen := fmt.Sprintf("%.1f of %d MiB%s, %.1f of them in use", mebibytes(s.DbSize), quota>>20, told, mebibytes(s.DbSizeInUse)); {
	case s.DbSize > quota/10*8:
		y.Warn("space", "compact and defragment it (etcdctl compact, etcdctl defrag), or raise --quota-backend-bytes: when it is full, no lock can be taken", "its database is nearly full: %s", seen)
	default:
		y.OK("space", "its database has %s", seen)
	}
	return fit
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

// examineMembers looks at how many there are, and whether more than the quorum answer.
func (x *examiner) examineMembers(ctx context.Context, y backend.Finder, b *Backend) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	resp, err := b.client.MemberList(ctx)
	if err != nil {
		y.Warn("members", "see whether the user may", "they cannot be listed: %s", x.text(b.explain(ctx, err)))
		return
	}
	voters, silent := 0, []string{}
	var urls []string
	owner := map[string]string{}
	for _, m := range resp.Members {
		if m.IsLearner {
			continue
		}
		voters++
		if len(m.ClientURLs) == 0 {
			silent = append(silent, fmt.Sprintf("%x (not started)", m.ID))
			continue
		}
		urls = append(urls, m.ClientURLs[0])
		owner[m.ClientURLs[0]] = m.Name
	}
	asked, err := x.ask(ctx, b.client, urls)
	if err != nil {
		return
	}
	for _, e := range asked {
		if !e.answers() {
			silent = append(silent, fmt.Sprintf("%s at %s", owner[e.url], e.address()))
		}
	}
	spare := (voters - 1) / 2
	switch {
	case len(silent) > 0:
		y.Warn("members", "see whether they run; if they do, and only this host cannot reach them, there is nothing to do",
			"%d of %d members do not answer this host: %s; locks go on as long as %d run", len(silent), voters, strings.Join(silent, ", "), voters-spare)
	case spare == 0:
		y.Warn("members", "run three, or five", "members: %d; none may fail, or nobody gets a lock until it is back", voters)
	default:
		y.OK("members", "%d members, of which %d may fail", voters, spare)
	}
	if len(x.seen) < voters && voters > 1 {
		y.Warn("endpoints", "name all members in the URL: etcd://host1,host2,host3/", "the URL names %d of %d members: when those are down, this process has no store", len(x.seen), voters)
	}
}

// longLease is from what least TTL on it is told to be long.
const longLease = 10 * time.Second

// examineLease finds out the shortest lease that there is.
func (x *examiner) examineLease(ctx context.Context, y backend.Finder, b *Backend) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	resp, err := b.client.Grant(ctx, 1)
	if err != nil {
		y.Problem("lease", "see what the server's log says", "a lease cannot be made: %s", x.text(b.explain(ctx, err)))
		return
	}
	// If this fails it ends by itself, in that time.
	_, _ = b.client.Revoke(context.WithoutCancel(ctx), resp.ID)
	least := time.Duration(resp.TTL) * time.Second
	if least > longLease {
		y.Warn("lease", "lower --election-timeout, which it is 1.5 times of", "the shortest lease is %v: a shorter TTL becomes that, and a dead waiter in front of others costs them as much", least)
		return
	}
	y.OK("lease", "the shortest lease is %v: a shorter TTL becomes that", least)
}

const (
	// leaderWatch is for how long the leader is watched, and leaderLook how often.
	leaderWatch = 2 * time.Second
	leaderLook  = 200 * time.Millisecond
)

// examineLeader looks whether the leader changes all the time.
func (x *examiner) examineLeader(ctx context.Context, y backend.Finder, b *Backend) {
	var first, last uint64
	changes, lost := 0, 0
	leader := uint64(0)
	tick := time.NewTicker(leaderLook)
	defer tick.Stop()
	for start := time.Now(); time.Since(start) < leaderWatch; {
		asked, err := x.ask(ctx, b.client, x.cfg.client.Endpoints)
		if err != nil {
			return
		}
		for _, e := range asked {
			switch {
			case e.status == nil:
				continue
			case e.status.Leader == 0:
				lost++
				continue
			}
			if first == 0 {
				first, leader = e.status.RaftTerm, e.status.Leader
			}
			if e.status.RaftTerm > last {
				last = e.status.RaftTerm
				if e.status.Leader != leader {
					leader, changes = e.status.Leader, changes+1
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	if last > first || lost > 0 || changes > 0 {
		y.Warn("leader", "find out why: a slow disk (etcd's log: slow fdatasync), a slow network, or an --election-timeout that is too short for it",
			"in %v the term went from %d to %d, the leader changed %d times, and %d answers knew none: while there is none no lock is taken or renewed", leaderWatch, first, last, changes, lost)
		return
	}
	y.OK("leader", "the same for %v, in term %d", leaderWatch, last)
}
