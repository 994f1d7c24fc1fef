//go:build linux

package main_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
)

// stores returns the URLs of real stores of each kind, for this test.
func stores(t *testing.T) map[string]string {
	return map[string]string{
		"efs":   "efs://" + tempDir(t),
		"redis": redisServer(t),
		"etcd":  etcdServer(t),
	}
}

// redisServer starts a Redis server and returns its URL.
func redisServer(t *testing.T, config ...string) string {
	t.Helper()
	sock := filepath.Join(tempDir(t), "s")
	server := exec.Command("redis-server", append([]string{"--port", "0", "--unixsocket", sock, "--save", ""}, config...)...)
	serve(t, server, func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return "redis+unix://" + sock
}

// etcdServer starts an etcd server and returns its URL.
func etcdServer(t *testing.T) string {
	t.Helper()
	for range 5 {
		// Below the ports that the kernel gives to outgoing connections. Another may
		// take them all the same: then etcd ends, and says so.
		client, peer := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)), fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		server := exec.Command("etcd", "--data-dir", tempDir(t), "--unsafe-no-fsync", "--log-level", "error",
			"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
			"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
		if serve(t, server, func() bool {
			r, err := http.Get("http://" + client + "/health")
			if err == nil {
				r.Body.Close()
			}
			return err == nil && r.StatusCode == http.StatusOK
		}) {
			return "etcd://" + client
		}
	}
	t.Fatal("etcd does not start")
	return ""
}

// serve starts a server, waits until it is ready, and stops it when the test ends.
// It returns false if the server has ended by itself.
func serve(t *testing.T, server *exec.Cmd, ready func() bool) bool {
	t.Helper()
	if err := server.Start(); err != nil {
		t.Fatalf("%v (scripts/test-needs installs what the tests need)", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
	})
	up := false
	eventually(t, server.Path+" is ready", func() bool {
		select {
		case <-ended:
			return true
		default:
			up = ready()
			return up
		}
	})
	return up
}
