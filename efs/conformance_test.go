//go:build unix

package efs_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/efs"
)

// TestMain is taken by the tests of crashes.
func init() { conformance.WorkerMain() }

func conformanceConfig(name, dir, options string) conformance.Config {
	return conformance.Config{
		Name:   name,
		URL:    "efs://" + dir + options,
		MinTTL: 500 * time.Millisecond,
		Lacks: map[string]string{
			string(backend.CapBatchRenew): "a heartbeat is one rename, and a directory has no request for several",
			string(backend.CapLossNotify): "a file server does not tell its clients of changes",
		},
		Wipe:      func(context.Context) error { return wipe(dir) },
		Leftovers: func(context.Context) ([]string, error) { return efs.Leftovers(dir) },
	}
}

// A key is also a path, so a and a/b cannot both be locked.
func TestConformanceDirectory(t *testing.T) {
	t.Parallel()
	cfg := conformanceConfig("efs", t.TempDir(), "")
	cfg.Lacks["keys-nested"] = "the guard of a is in the way of the directory for a/b"
	conformance.Run(t, cfg)
}

func TestConformanceFile(t *testing.T) {
	t.Parallel()
	cfg := conformanceConfig("efs, lock file", t.TempDir(), "?lockfile=file")
	cfg.Lacks["keys-nested"] = "the lock file a is in the way of the directory for a/b"
	conformance.Run(t, cfg)
}

func TestConformanceNoLockFile(t *testing.T) {
	t.Parallel()
	conformance.Run(t, conformanceConfig("efs, no lock file", t.TempDir(), "?lockfile=false"))
}

// wipe removes what is in dir, as an operator might who thinks it is not needed.
func wipe(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// a waiter may put something there in the meantime
		for range 10 {
			if err = os.RemoveAll(filepath.Join(dir, e.Name())); err == nil {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
