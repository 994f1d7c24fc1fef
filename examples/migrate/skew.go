//go:build unix

package main

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

//go:embed skew.c.txt
var skewSource []byte

// skewed has the server that c starts see a wall clock that is off by d. libfaketime does
// not do for a redis-server whose allocator is jemalloc, as Debian's: it never starts.
func skewed(c *exec.Cmd, home string, d time.Duration) error {
	source, lib := filepath.Join(home, "skew.c"), filepath.Join(home, "skew.so")
	if err := os.WriteFile(source, skewSource, 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O1", "-o", lib, source).CombinedOutput(); err != nil {
		return fmt.Errorf("-skew needs a C compiler (cc): %w: %s", err, out)
	}
	c.Env = append(os.Environ(), "LD_PRELOAD="+lib, fmt.Sprintf("SKEW_SECONDS=%d", int(d.Seconds())))
	return nil
}
