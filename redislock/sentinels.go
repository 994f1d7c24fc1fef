package redislock

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// sentinels are all of those that a URL names. The library asks one of them where the
// primary is, for as long as that one answers, and believes it. But a sentinel that
// neither the servers nor the other sentinels reach answers with the primary that it knew
// before, for as long as that lasts. So when a connection has turned out to lead to a
// replica, or none could be made, all are asked for a while.
type sentinels struct {
	name  string
	all   []*redis.Options
	dial  func(ctx context.Context, network, addr string) (net.Conn, error) // to a server
	doubt atomic.Int64                                                      // until when, by the wall clock in ns
}

const (
	// doubtFor is how long all sentinels are asked after the last sign that one is wrong.
	doubtFor = 10 * time.Second
	// askWithin is how long they may take to answer, and askOthers how long those that
	// are not the first may take after it.
	askWithin = 2 * time.Second
	askOthers = 200 * time.Millisecond
)

func newSentinels(o *redis.FailoverOptions) *sentinels {
	s := &sentinels{name: o.MasterName, dial: tlsDialer(o.DialTimeout, o.TLSConfig)}
	for _, addr := range o.SentinelAddrs {
		s.all = append(s.all, &redis.Options{
			Addr: addr, Username: o.SentinelUsername, Password: o.SentinelPassword, ClientName: o.ClientName, TLSConfig: o.TLSConfig,
			DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
			ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1, PoolSize: 1, PipelinePoolSize: -1,
		})
	}
	return s
}

func (s *sentinels) doubted() { s.doubt.Store(time.Now().Add(doubtFor).UnixNano()) }

// DialHook is for connections to servers, the subscription's among them.
func (s *sentinels) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if time.Now().UnixNano() < s.doubt.Load() {
			if primary := s.primary(ctx); primary != "" {
				return s.dial(ctx, network, primary)
			}
		}
		c, err := next(ctx, network, addr)
		if err != nil {
			s.doubted() // for the next: this one may have no time left
		}
		return c, err
	}
}

// ProcessHook looks for the answer of a replica. The library closes such a connection.
func (s *sentinels) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		s.look(err)
		return err
	}
}

// ProcessPipelineHook is the same for several commands.
func (s *sentinels) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			s.look(cmd.Err())
		}
		return err
	}
}

func (s *sentinels) look(err error) {
	if err != nil && replies(err.Error(), "READONLY") {
		s.doubted()
	}
}

// answer is what a sentinel says.
type answer struct {
	primary string // its address; empty if there is no answer
	epoch   int64  // of the latest failover that the sentinel knows
}

// primary asks all sentinels, and believes the one that knows of the latest failover, as
// sentinels do among themselves; "" if none answers. When one has answered, the others
// have a moment left: one often goes down together with the primary on its host, and a
// connection is not to wait for it.
func (s *sentinels) primary(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	answers := make(chan answer, len(s.all))
	var wg sync.WaitGroup
	for _, o := range s.all {
		wg.Go(func() { answers <- s.ask(ctx, o) })
	}
	go func() { wg.Wait(); cancel() }() // the library heeds the deadline, and no earlier end
	best := answer{epoch: -1}
	var enough <-chan time.Time
	for range s.all {
		select {
		case a := <-answers:
			if a.primary == "" {
				continue
			}
			if a.epoch > best.epoch {
				best = a
			}
			if enough == nil {
				enough = time.After(askOthers)
			}
		case <-enough:
			return best.primary
		}
	}
	return best.primary
}

// ask asks one sentinel, which may be about to tell of a failover: it names the new
// primary before it counts it as its own.
func (s *sentinels) ask(ctx context.Context, o *redis.Options) answer {
	own := *o // the library changes it
	client := redis.NewSentinelClient(&own)
	defer client.Close()
	at, err := client.GetMasterAddrByName(ctx, s.name).Result()
	if err != nil || len(at) != 2 {
		return answer{}
	}
	about, err := client.Master(ctx, s.name).Result()
	if err != nil {
		return answer{}
	}
	epoch, err := strconv.ParseInt(about["config-epoch"], 10, 64)
	if err != nil {
		return answer{}
	}
	return answer{net.JoinHostPort(at[0], at[1]), epoch}
}
