package main

import (
	_ "embed"
	"fmt"
	"path/filepath"
	"sort"

	"go.yaml.in/yaml/v3"
)

//go:embed sweep.yaml
var builtin []byte

// sweep is what a sweep file says.
type sweep struct {
	Name       string           `yaml:"name"`
	Command    string           `yaml:"command"`
	Parameters map[string][]any `yaml:"parameters"`
}

// run is one combination of the parameters' values.
type run struct {
	Command    string         `yaml:"command"`
	Parameters map[string]any `yaml:"parameters"`
}

// config is what config.yaml of a complete sweep says.
type config struct {
	Sweep sweep `yaml:"sweep"`
	Runs  int   `yaml:"runs"`
	// Token is the lock's when the sweep was created: it tells this creation from
	// that of anyone who held the lock before.
	Token uint64 `yaml:"token"`
}

func parseSweep(text []byte) (sweep, error) {
	var s sweep
	if err := yaml.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("the sweep cannot be read: %w", err)
	}
	if s.Name == "" || !filepath.IsLocal(s.Name) {
		return s, fmt.Errorf("the sweep's name %q cannot be a directory's", s.Name)
	}
	for name, values := range s.Parameters {
		if len(values) == 0 {
			return s, fmt.Errorf("parameter %q has no values", name)
		}
	}
	return s, nil
}

// runs lists the combinations, in the same order each time.
func (s sweep) runs() []run {
	names := make([]string, 0, len(s.Parameters))
	for name := range s.Parameters {
		names = append(names, name)
	}
	sort.Strings(names)
	runs := []run{{Command: s.Command, Parameters: map[string]any{}}}
	for _, name := range names {
		var next []run
		for _, r := range runs {
			for _, v := range s.Parameters[name] {
				p := map[string]any{name: v}
				for k, old := range r.Parameters {
					p[k] = old
				}
				next = append(next, run{s.Command, p})
			}
		}
		runs = next
	}
	return runs
}
