//go:build linux

package nfslab_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// What the other tests rest on: that the lab does to hosts what it says.
func TestLab(t *testing.T) {
	l := lab(t)
	a, b := l.Clients[0], l.Clients[1]
	d := folder(t, l)

	t.Run("commands", func(t *testing.T) {
		r := start(t, a, "sh", "-c", "echo out; echo err >&2; exit 7")
		if code := r.status(t, time.Minute); code != 7 || !strings.Contains(r.out.String(), "out\n") || !strings.Contains(r.out.String(), "err\n") {
			t.Errorf("status %d, output %q", code, r.out.String())
		}
		r = start(t, a, "sh", "-c", "echo up; sleep 1000")
		r.says(t, "up", time.Minute)
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		if code := r.status(t, time.Minute); code != 128+9 {
			t.Errorf("a killed command has status %d", code)
		}
		if _, err := a.Run(patience(t), "/no/such/program"); err == nil {
			t.Error("a program that does not exist was run")
		}
	})
	t.Run("clock", func(t *testing.T) {
		if err := a.SetClock(patience(t), -time.Hour); err != nil {
			t.Fatal(err)
		}
		if got := shell(t, a, `echo $(( $(date +%s) / 60 ))`); strings.TrimSpace(got) == strings.TrimSpace(shell(t, b, `echo $(( $(date +%s) / 60 ))`)) {
			t.Error("setting one host's clock set the other's, or none")
		}
	})
	t.Run("stall", func(t *testing.T) { still(t, a, d, a.Stall, a.Resume) })
	t.Run("cut", func(t *testing.T) { still(t, a, d, a.Cut, a.Heal) })
	// A server that was down waits for the clients that it remembers before it lets anybody
	// open a file, for as long as its lease time.
	t.Run("grace", func(t *testing.T) {
		shell(t, a, "echo >"+d+"/a")
		shell(t, b, "echo >"+d+"/b")
		b.Crash()
		l.Server.Crash()
		begin := time.Now()
		if err := l.Server.Boot(); err != nil {
			t.Fatal(err)
		}
		shell(t, a, "echo >"+d+"/c")
		if took := time.Since(begin); took < 8*time.Second {
			t.Errorf("a file was made %v after the server's boot: there was no grace period", took)
		}
	})
}

// still looks that a host does nothing between stop and resume, and loses nothing.
func still(t *testing.T, h *nfslab.Host, d string, stop, resume func() error) {
	r := start(t, h, "sh", "-c", "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); echo $i; echo $i >"+d+"/n; sleep 0.02; done")
	r.says(t, "\n5\n", time.Minute)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if out, err := h.Run(ctx, "hostname"); err == nil {
		t.Errorf("the host answered: %s", out)
	}
	before := len(r.out.String())
	select {
	case <-r.Done():
		t.Error("the command ended")
	case <-time.After(time.Second):
	}
	if n := len(r.out.String()); n != before {
		t.Errorf("%d bytes came out of it", n-before)
	}
	if err := resume(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); len(r.out.String()) == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the host does not go on")
		}
	}
}
