//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// startEtcd starts one etcd node in a process of its own. It waits for its disk,
// as servers do that are to lose nothing.
func (l *lab) startEtcd(ctx context.Context) error {
	client, err := freeAddr()
	if err != nil {
		return err
	}
	peer, err := freeAddr()
	if err != nil {
		return err
	}
	p, err := startChild(task{Role: "etcd", Addr: client, Peer: peer, Dir: filepath.Join(l.tmp, "etcd")})
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	l.stops = append(l.stops, p.end)
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := p.expect(ctx, "ready", nil); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	l.etcd = "http://" + client
	l.servers[l.etcd] = p.cmd.Process
	return nil
}

// serveEtcd is that process.
func serveEtcd(t task) error {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel = "bench", t.Dir, "error"
	cfg.LogOutputs = []string{t.Dir + ".log"} // it calls its own closing an error
	client, peer := url.URL{Scheme: "http", Host: t.Addr}, url.URL{Scheme: "http", Host: t.Peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return err
	}
	if err := say("ready", nil); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the parent ends
	return err
}

// newEtcd makes the client that every contestant uses.
func newEtcd(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Logger: zap.NewNop(), DialTimeout: readyTimeout,
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
}

// etcdRequests counts the messages that clients have sent to the server: each call,
// and on streams (watches, keepalives) each message.
func etcdRequests(ctx context.Context, endpoint string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var sum float64
	seen := false
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "grpc_server_msg_received_total{") {
			continue
		}
		n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("etcd's metrics: %q: %w", line, err)
		}
		seen = true
		sum += n
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if !seen {
		return 0, fmt.Errorf("etcd at %s has no metric grpc_server_msg_received_total", endpoint)
	}
	return sum, nil
}
