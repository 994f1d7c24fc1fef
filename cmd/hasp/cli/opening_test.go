//go:build unix

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// called is sent to when a store of the scheme hangs is opened, which does not return, as
// on a mount whose server is gone.
var called = make(chan struct{})

func init() {
	backend.Register("hangs", func(context.Context, *url.URL) (backend.Backend, error) {
		called <- struct{}{}
		select {}
	})
}

// What hangs while a store is opened does not keep a signal from ending hasp.
func TestSignalWhileOpeningHangs(t *testing.T) {
	for _, args := range [][]string{
		{"run", "k", "--", "true"},
		{"once", "k", "--keep", "--", "true"},
		{"forget", "k"},
		{"doctor"},
	} {
		a := &app{stdout: io.Discard, values: io.Discard, stderr: &errorWriter{w: io.Discard}, getenv: os.Getenv}
		code := make(chan int, 1)
		go func() { code <- a.run(append([]string{"--on", "hangs:"}, args...)) }()
		<-called
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-code:
			if got != exitSignal+int(syscall.SIGTERM) {
				t.Errorf("%s: exit %d", args[0], got)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s does not end", args[0])
		}
	}
}

// Why a store could not be opened has the status that fits, and not that of a wrong URL.
func TestStatusOfOpening(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"the URL":                      {errors.New("no endpoint is given"), exitUsage},
		"no rights":                    {fmt.Errorf("etcd: %w", fs.ErrPermission), exitPermission},
		"no rights, joined":            {errors.Join(errors.New("user u lacks a role"), fs.ErrPermission), exitPermission},
		"no rights, of one that fails": {backend.Unavailable(fmt.Errorf("etcd: %w", fs.ErrPermission)), exitPermission},
		"no rights, of the system":     {&fs.PathError{Op: "mkdir", Path: "/d", Err: syscall.EACCES}, exitPermission},
		"a store that is no store":     {fmt.Errorf("etcd: %w", hasp.ErrUnsupported), exitUsage},
		"no answer":                    {backend.Unavailable(errors.New("etcd: no answer")), exitUnavailable},
		"a signal":                     {&hasp.Error{Op: "open", Key: "etcd://h", Err: &signalError{syscall.SIGTERM}}, 128 + 15},
	} {
		for _, wrapped := range []error{c.err, fmt.Errorf("hasp: open %q: %w", "etcd://h", c.err)} {
			if e := failOpen(wrapped); e.code != c.want || !strings.Contains(e.Error(), c.err.Error()) {
				t.Errorf("%s: exit %d, want %d: %v", name, e.code, c.want, e)
			}
		}
	}
}

// A signal that came before the command begins ends hasp, and one that comes later is left
// for the command.
func TestSignalBeforeTheCommand(t *testing.T) {
	for range 1000 {
		s := &signals{make(chan os.Signal, 8)}
		ctx, heed := s.cancelOn(context.Background())
		s.ch <- syscall.SIGWINCH
		s.ch <- syscall.SIGTERM
		heed()
		var sig *signalError
		if !errors.As(context.Cause(ctx), &sig) || len(s.ch) > 0 {
			t.Fatalf("it goes on: %v; %d signals are left", context.Cause(ctx), len(s.ch))
		}
		s.ch <- syscall.SIGTERM
		if heed(); len(s.ch) != 1 {
			t.Fatal("a later one is not left")
		}
	}
}
