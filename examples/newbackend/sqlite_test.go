package newbackend_test

import (
	"testing"

	"github.com/hasplock/hasp/conformance"
	_ "github.com/hasplock/hasp/examples/newbackend"
)

func TestMain(m *testing.M) { conformance.Main(m) }

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Config{
		URL: "sqlite://" + t.TempDir() + "/locks.db",
		Lacks: map[string]string{
			"watch":       "SQLite does not tell other processes of changes",
			"loss-notify": "SQLite does not tell other processes of changes",
			"batch-renew": "left out: a transaction takes a fraction of a millisecond",
			"list":        "left out: the example is to be short",
			"raise-token": "left out: the example is to be short",
		},
	})
}
