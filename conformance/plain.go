package conformance

import (
	"regexp"
	"strings"
)

// plainWords are what a page says instead of the names that Go programs know: who
// reads it operates a store, and need not write one.
var plainWords = strings.NewReplacer(
	"a *HeldError", "the answer that another holds it", "*HeldError", "the answer that another holds it", "*TimeoutError", "a time-out",
	"ErrInvalidKey", "“invalid key”", "ErrUnavailable", "“unavailable”", "ErrClosed", "“closed”", "ErrNotHeld", "“not held”",
	"ErrTimeout", "“timed out”", "ErrLost", "“lost”", "ErrOldValue", "“an old value”", "ErrHeld", "“held by another”",
	"TryAcquire", "an attempt that does not wait", "RaiseToken", "raising tokens", "TokenFloor", "least token", "RenewAll", "renewal of a batch",
	"RetryAfter", "time to wait", "OnLoss", "notice of losses", "HeldFor", "time held", "MinTTL", "least TTL",
	"Config.Lacks", "the configuration", "Config.Skew", "a way to set a clock wrong", "Config.Partition", "a way to cut a client off",
	"Config.Restart", "a way to restart the store", "Config.Wipe", "a way to make the store forget", "Config.Leftovers", "a way to look for what is left",
	"Config.Fair", "order is part of the promise", "Config.URL", "the store's address", "no hook given: ", "not given: ",
)

// ownKey is the beginning of a key of the suite's: the prefix, the run, the rule
// and how often it was tried. The page says the rule beside it.
var ownKey = regexp.MustCompile(`[^\s"]*/[A-Z2-7]{8}/[a-z-]+-\d+/`)

// goType is what %T and %v make of a Go value.
var goType = regexp.MustCompile(`<nil>`)

// plain is s as an operator reads it.
func plain(s string) string {
	s = ownKey.ReplaceAllString(s, "…/")
	return plainWords.Replace(goType.ReplaceAllString(s, "no error"))
}
