package torture

import "sync"

// flaw is what a process does wrong, to see that the witness notices.
type flaw string

const (
	ignoresLoss  flaw = "ignores loss"  // it stays in and says that its deadline is far
	repeatsToken flaw = "repeats token" // it shows the token that it had first
)

var (
	firstMu     sync.Mutex
	firstTokens = map[string]uint64{}
)

func firstToken(key string, token uint64) uint64 {
	firstMu.Lock()
	defer firstMu.Unlock()
	if firstTokens[key] == 0 {
		firstTokens[key] = token
	}
	return firstTokens[key]
}
