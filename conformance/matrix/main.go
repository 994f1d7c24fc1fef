// Command matrix prints the conformance rules against the backends whose reports
// are in a directory:
//
//	HASP_CONFORMANCE_DIR=/tmp/reports go test ./...
//	go run ./conformance/matrix /tmp/reports [NAME…]
//
// It fails if a rule failed, or if there is no report of one of the names.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hasplock/hasp/conformance"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: matrix DIR [NAME…]")
	}
	files, err := filepath.Glob(filepath.Join(args[0], "*.json"))
	if err != nil {
		return err
	}
	var reports []conformance.Report
	var names []string
	failed := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var r conformance.Report
		if err := json.Unmarshal(b, &r); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		for _, res := range r.Results {
			if res.Outcome == conformance.Failed {
				failed++
			}
		}
		reports, names = append(reports, r), append(names, r.Name)
	}
	if err := conformance.WriteMatrix(os.Stdout, reports...); err != nil {
		return err
	}
	for _, want := range args[1:] {
		if !slices.Contains(names, want) {
			return fmt.Errorf("there is no report of %q; there are %q", want, names)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d rules failed", failed)
	}
	return nil
}
