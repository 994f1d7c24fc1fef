package etcdtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// Image is what StartContainer runs: Debian's etcd, the oldest version that is
// tested. scripts/test-images makes it.
const Image = "etcd:3.4"

// HasImage tells whether a Docker engine answers and has Image, and if not, what
// to do.
func HasImage() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "image", "inspect", Image).CombinedOutput(); err != nil {
		return fmt.Errorf("there is no Docker engine with the image %s (scripts/test-images etcd3 makes it): %w: %.200s", Image, err, out)
	}
	return nil
}

// StartContainer starts one node in a container, stops it when the test ends,
// and returns the host and port that clients reach it at.
func StartContainer(tb testing.TB) (addr string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	// The reaper would be another image; the test's cleanup does without it.
	if _, set := os.LookupEnv("TESTCONTAINERS_RYUK_DISABLED"); !set {
		os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true") // not tb.Setenv: tests run beside each other
	}
	c, err := testcontainers.Run(ctx, Image,
		testcontainers.WithExposedPorts("2379/tcp"),
		// without tools in the image, and by a port, not by asking for it inside
		testcontainers.WithWaitStrategy(wait.ForMappedPort("2379/tcp"), wait.ForLog("ready to serve client requests")))
	testcontainers.CleanupContainer(tb, c)
	if err != nil {
		tb.Fatalf("etcdtest: start a container of %s: %v", Image, err)
	}
	endpoint, err := c.PortEndpoint(ctx, "2379/tcp", "")
	if err != nil {
		tb.Fatalf("etcdtest: container of %s: %v", Image, err)
	}
	_, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		tb.Fatalf("etcdtest: container of %s: %v", Image, err)
	}
	// Which of the two answers depends on where the test runs.
	candidates := []string{net.JoinHostPort("127.0.0.1", port), endpoint}
	for {
		for _, addr := range candidates {
			conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
			if err == nil {
				conn.Close()
				return addr
			}
			if ctx.Err() != nil {
				tb.Fatalf("etcdtest: container of %s: its port answers at none of %v: %v", Image, candidates, err)
			}
		}
	}
}
