package cli

import (
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// versionJSON is what this program is.
type versionJSON struct {
	Version  string   `json:"version"`
	Revision string   `json:"revision"`
	Go       string   `json:"go"`
	OS       string   `json:"os"`
	Arch     string   `json:"arch"`
	Backends []string `json:"backends"`
}

// thisVersion is this program's.
func thisVersion() versionJSON {
	v := versionJSON{Version: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, Backends: allSchemes()}
	if bi, ok := debug.ReadBuildInfo(); ok {
		v.Version, v.Revision = bi.Main.Version, revision(bi)
	}
	return v
}

// versionOf is what a program says that it is.
func versionOf(bi *debug.BuildInfo) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", filepath.Base(bi.Path), bi.Main.Version, revision(bi)))
}

func revision(bi *debug.BuildInfo) string {
	for _, s := range bi.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

func (v versionJSON) String() string {
	return fmt.Sprintf("hasp %s (%s, %s/%s), backends: %s", v.Version, v.Go, v.OS, v.Arch, strings.Join(v.Backends, ", "))
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and the backends",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return a.printVersion() },
	}
}

func (a *app) printVersion() error {
	if a.json() {
		return writeJSON(a.stdout, thisVersion())
	}
	return writeLine(a.stdout, thisVersion().String())
}
