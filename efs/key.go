//go:build unix

package efs

import (
	"fmt"
	"strings"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

const maxName = 255 // bytes, on every file system that matters

// splitKey checks key by the rules of file names and returns the directory (as a relative
// path, "." for the root) and the lock's name in it.
func splitKey(key string) (dir, base string, err error) {
	if err := backend.ValidateKey(key); err != nil {
		return "", "", err
	}
	parts := strings.Split(key, "/")
	for i, part := range parts {
		switch {
		case part == "":
			return "", "", fmt.Errorf("%w: %q has an empty path component", backend.ErrInvalidKey, key)
		case part == "." || part == "..":
			return "", "", fmt.Errorf("%w: %q has the path component %q", backend.ErrInvalidKey, key, part)
		case len(part) > maxName:
			return "", "", fmt.Errorf("%w: a path component has %d bytes, and %d is the limit", backend.ErrInvalidKey, len(part), maxName)
		case i == len(parts)-1 && len(part)+statedir.LongestSuffix > maxName:
			return "", "", fmt.Errorf("%w: its last path component has %d bytes, and %d is the limit", backend.ErrInvalidKey, len(part), maxName-statedir.LongestSuffix)
		case strings.HasPrefix(part, ".") && strings.Contains(part, ".hasp"):
			return "", "", fmt.Errorf("%w: names such as %q are kept for hasp's own files", backend.ErrInvalidKey, part)
		}
	}
	base = parts[len(parts)-1]
	dir = "."
	if len(parts) > 1 {
		dir = strings.Join(parts[:len(parts)-1], "/")
	}
	return dir, base, nil
}
