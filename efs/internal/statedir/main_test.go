//go:build unix

package statedir

import (
	"flag"
	"os"
	"testing"
)

// Most of these tests wait for a TTL to run out, so many fit on few cores.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "16")
	os.Exit(m.Run())
}
