package conformance

import (
	"testing"
	"time"
)

// A first measurement that met a pause of the machine is soon forgotten.
func TestAimLearns(t *testing.T) {
	const takes = time.Millisecond
	a := aim{10 * time.Second}
	givenUp := 0
	for range 60 {
		ctx, cancel := a.context(t.Context())
		select {
		case <-ctx.Done():
		case <-time.After(takes):
		}
		up := ctx.Err() != nil
		cancel()
		a.saw(up)
		if up {
			givenUp++
		}
	}
	if givenUp < 10 {
		t.Errorf("%d of 60 requests were given up", givenUp)
	}
}
