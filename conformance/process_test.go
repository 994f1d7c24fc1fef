//go:build unix

package conformance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

func TestMain(m *testing.M) { Main(m, openFile) }

func fileConfig(dir, mutant string) Config {
	url := "file:" + dir
	if mutant != "" {
		url += "#" + mutant
	}
	no := "plain files"
	if strings.HasPrefix(mutant, "watch:") {
		return Config{
			Name: "file with watches", URL: url, MinTTL: 300 * time.Millisecond,
			Open:  func(ctx context.Context) (backend.Backend, error) { return openFile(ctx, url) },
			Lacks: map[string]string{string(backend.CapBatchRenew): no, string(backend.CapRaiseToken): no, string(backend.CapValues): no},
		}
	}
	return Config{
		Name: "file", URL: url, MinTTL: 300 * time.Millisecond,
		Open: func(ctx context.Context) (backend.Backend, error) { return openFile(ctx, url) },
		Lacks: map[string]string{
			string(backend.CapWatch): no, string(backend.CapBreak): no, string(backend.CapBatchRenew): no,
			string(backend.CapLossNotify): no, string(backend.CapRaiseToken): no,
			string(backend.CapValues): no,
		},
	}
}

// A store that processes share keeps every rule: those about processes can be
// passed.
func TestFileStore(t *testing.T) {
	dir := t.TempDir()
	Run(t, fileConfig(dir, ""))
}

// So does one that tells of changes, also of those that other processes make.
func TestFileStoreWithWatches(t *testing.T) {
	cfg := fileConfig(t.TempDir(), "watch:")
	for _, r := range Rules() {
		if !r.procs && len(r.needs) == 0 {
			cfg.Lacks[r.ID] = "see TestFileStore"
		}
	}
	Run(t, cfg)
}
