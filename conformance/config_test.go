package conformance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// unclosable is a client whose Close does not return.
type unclosable struct{ backend.Backend }

func (unclosable) Close() error { select {} }

// A store that is not there is not waited for without end.
func TestStoreThatIsNotThere(t *testing.T) {
	for name, tc := range map[string]struct {
		open func(context.Context) (backend.Backend, error)
		want string
	}{
		"an Open that heeds its context": {func(ctx context.Context) (backend.Backend, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "down cannot be opened within 50ms: is it there?"},
		"an Open that heeds none": {func(context.Context) (backend.Backend, error) { select {} }, "down cannot be opened within 50ms: is it there?"},
		"a Close":                 {func(context.Context) (backend.Backend, error) { return unclosable{memlock.New().Client()}, nil }, "down cannot be closed within 50ms: is it there?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan error, 1)
			go func() {
				_, err := Check(context.Background(), Config{Name: "down", Open: tc.open, openWithin: 50 * time.Millisecond})
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%v and not %s", err, tc.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("it is still waited for")
			}
		})
	}
}
