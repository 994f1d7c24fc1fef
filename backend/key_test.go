package backend_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

func TestValidateKey(t *testing.T) {
	for _, key := range []string{"k", "a/b", " ", "-", ".hidden", "..", "ключ", "鍵", "a b", "🔒", "\u0085", strings.Repeat("x", backend.MaxKeyLen)} {
		if err := backend.ValidateKey(key); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	for key, want := range map[string]string{
		"":                                       "empty",
		strings.Repeat("x", backend.MaxKeyLen+1): "1025 bytes, and 1024 is the limit",
		strings.Repeat("é", backend.MaxKeyLen/2+1): "1026 bytes",
		"a\x00b":      "U+0000 at byte 1",
		"line\nbreak": "U+000A at byte 4",
		"é\t":         "U+0009 at byte 2",
		"\x1f":        "U+001F",
		"\x7f":        "U+007F",
		"a\xffb":      "UTF-8",
		"\xc3":        "UTF-8",
	} {
		err := backend.ValidateKey(key)
		if !errors.Is(err, backend.ErrInvalidKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want an ErrInvalidKey with %q", key, err, want)
		}
	}
}

func TestValidateClaim(t *testing.T) {
	valid := backend.Claim{ID: "azAZ09-_", TTL: time.Millisecond}
	for _, id := range []string{valid.ID, "a", strings.Repeat("x", backend.MaxIDLen)} {
		c := valid
		c.ID = id
		if err := backend.ValidateClaim(c); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", strings.Repeat("x", backend.MaxIDLen+1), "a b", "a.b", "a/b", "é", "a\x00"} {
		c := valid
		c.ID = id
		if err := backend.ValidateClaim(c); err == nil || !strings.Contains(err.Error(), "claim ID") {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, ttl := range []time.Duration{0, -time.Second, time.Millisecond - 1} {
		c := valid
		c.TTL = ttl
		if err := backend.ValidateClaim(c); err == nil || !strings.Contains(err.Error(), "below 1 ms") {
			t.Errorf("TTL %v: %v", ttl, err)
		}
	}
}
