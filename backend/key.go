package backend

import (
	"fmt"
	"unicode/utf8"
)

// MaxKeyLen is the longest key, in bytes, that every backend has to accept
// (if its parts suit the store's own rules, such as a file system's).
const MaxKeyLen = 1024

// ValidateKey checks what no store may be asked to keep: an empty key, one over
// MaxKeyLen bytes, invalid UTF-8, control characters. The error matches
// ErrInvalidKey. A backend adds its own rules.
func ValidateKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidKey)
	case len(key) > MaxKeyLen:
		return fmt.Errorf("%w: it has %d bytes, and %d is the limit", ErrInvalidKey, len(key), MaxKeyLen)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: it is not valid UTF-8", ErrInvalidKey)
	}
	for i, r := range key {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("%w: control character %U at byte %d", ErrInvalidKey, r, i)
		}
	}
	return nil
}

// MaxIDLen is the length limit of Claim.ID.
const MaxIDLen = 64

// ValidateClaim checks c as Claim's comments demand.
func ValidateClaim(c Claim) error {
	if c.ID == "" || len(c.ID) > MaxIDLen {
		return fmt.Errorf("claim ID %q: it must have 1 to %d characters", c.ID, MaxIDLen)
	}
	for _, r := range c.ID {
		switch {
		case r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
		default:
			return fmt.Errorf("claim ID %q: character %q is not allowed", c.ID, r)
		}
	}
	if c.TTL < 1e6 {
		return fmt.Errorf("TTL %v is below 1 ms", c.TTL)
	}
	return nil
}
