package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// other names an error that hasp has no kind for.
func other(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return strings.ReplaceAll(e.Error(), " ", "_")
	}
	return "other"
}

// command is what hasp run runs. It knows no deadline. The lock was acquired after hasp's
// start, so it is valid until nine tenths of a TTL after that at least; what is longer
// does not count.
func command(context.Context) error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	began, err := startOf(os.Getppid())
	if err != nil {
		return err
	}
	w, err := meet(*name)
	if err != nil {
		return err
	}
	if err := w.hello(os.Getenv("HASP_KEY")); err != nil {
		return err
	}
	answer, err := w.ask("in " + os.Getenv("HASP_TOKEN") + " " + w.until(began.Add(*ttl*9/10)))
	if err != nil || answer != "ok" {
		return err
	}
	select {
	case <-told:
		w.tell("lost")
		return nil
	case <-time.After(*hold + rand.N(*more+1)):
	}
	_, err = w.ask("out")
	return err
}

// startOf is when a process began, or a moment before.
func startOf(pid int) (time.Time, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks int64
	if _, err := fmt.Sscan(f[19], &ticks); err != nil {
		return time.Time{}, err
	}
	up, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, err
	}
	var seconds float64
	if _, err := fmt.Sscan(string(up), &seconds); err != nil {
		return time.Time{}, err
	}
	age := time.Duration(seconds*float64(time.Second)) - time.Duration(ticks)*time.Second/100
	return time.Now().Add(-age - 20*time.Millisecond), nil
}
