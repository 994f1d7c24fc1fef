package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	tcredis "github.com/testcontainers/testcontainers-go/modules/redis"
	"github.com/testcontainers/testcontainers-go/wait"
)

// dockerHas tells whether a Docker engine answers and has the image. It is asked
// once: images do not come and go during a test run.
func dockerHas(image string) bool {
	images.Lock()
	defer images.Unlock()
	has, ok := images.has[image]
	if !ok {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		has = exec.CommandContext(ctx, "docker", "image", "inspect", image).Run() == nil
		images.has[image] = has
	}
	return has
}

var images = struct {
	sync.Mutex
	has map[string]bool
}{has: map[string]bool{}}

func startContainer(tb testing.TB) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// The reaper would be another image; the test's cleanup does without it.
	if _, set := os.LookupEnv("TESTCONTAINERS_RYUK_DISABLED"); !set {
		os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	}
	// The module's own wait asks for the port with tools that the image lacks, and
	// by an address that may not be the right one: reachable does that instead.
	c, err := tcredis.Run(ctx, Image, testcontainers.WithWaitStrategy(
		wait.ForMappedPort("6379/tcp"), wait.ForLog("Ready to accept connections").WithStartupTimeout(30*time.Second)))
	testcontainers.CleanupContainer(tb, c)
	if err != nil {
		tb.Fatalf("start a container of %s: %v (HASP_TEST_REDIS=binary does without Docker)", Image, err)
	}
	addr, err := reachable(ctx, c)
	if err != nil {
		tb.Fatalf("container of %s: %v", Image, err)
	}
	return &Server{tb: tb, addr: addr}
}

// reachable finds the address at which the published port answers. On a machine
// that looks like a container itself testcontainers names the bridge's gateway,
// where a firewall may stop us.
func reachable(ctx context.Context, c *tcredis.RedisContainer) (string, error) {
	endpoint, err := c.PortEndpoint(ctx, "6379/tcp", "")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", err
	}
	candidates := []string{net.JoinHostPort("127.0.0.1", port), endpoint}
	for ctx.Err() == nil {
		for _, addr := range candidates {
			d := net.Dialer{Timeout: time.Second}
			conn, derr := d.DialContext(ctx, "tcp", addr)
			if derr == nil {
				conn.Close()
				return addr, nil
			}
			err = derr
		}
	}
	return "", fmt.Errorf("its port answers at none of %v: %w", candidates, err)
}
