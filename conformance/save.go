package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// DirEnv names the environment variable with the directory to which Run writes
// its report, as JSON, in a file named after the backend. Command matrix shows what
// is there side by side.
const DirEnv = "HASP_CONFORMANCE_DIR"

// save writes the report to the directory that DirEnv names, if any.
func (r Report) save() error {
	dir := os.Getenv(DirEnv)
	if dir == "" {
		return nil
	}
	b, err := json.Marshal(r)
	if err == nil {
		name := strings.Map(func(c rune) rune {
			if c == '/' || c == os.PathSeparator {
				return '-'
			}
			return c
		}, r.Name)
		err = os.WriteFile(filepath.Join(dir, name+".json"), b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("conformance: save the report of %s: %w", r.Name, err)
	}
	return nil
}
