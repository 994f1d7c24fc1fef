//go:build unix && !linux

package fsys

// MountOf knows nothing of mounts here; nothing is refused for them.
func MountOf(string) (Mount, bool) { return Mount{}, false }

// Unmounted knows nothing of mounts either.
func Unmounted(string, string) []Mount { return nil }
