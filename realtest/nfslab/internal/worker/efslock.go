package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// legacy is a process of the EfsLock protocol, as its real ones behave: whatever goes wrong
// with opening and reading the file that is in the way is followed by its removal.
func legacy(context.Context) error {
	w, err := meet(*name)
	if err != nil {
		return err
	}
	begin := time.Now()
	all := strings.Split(*keys, ",")
	for n := 0; (*rounds == 0 || n < *rounds) && (*length == 0 || time.Since(begin) < *length); n++ {
		key := all[rand.N(len(all))]
		if err := w.hello(key); err != nil {
			return err
		}
		w.tell("wants")
		path := filepath.Join(*url, key)
		for !create(path) {
			if unreadableOrOld(path, *efslock) {
				time.Sleep(rand.N(*linger + 1)) // it logs a line, or its mount is slow
				if os.Remove(path) == nil {
					continue
				}
			}
			time.Sleep(*retry/2 + rand.N(*retry))
		}
		// It believes in its file for the timeout.
		if _, err := w.ask("in 0 " + w.until(time.Now().Add(*efslock))); err != nil {
			return err
		}
		time.Sleep(*hold + rand.N(*more+1))
		if _, err := w.ask("out"); err != nil {
			return err
		}
		_ = os.Remove(path)
		time.Sleep(*pause)
	}
	return nil
}

func create(path string) bool {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return false
	}
	host, _ := os.Hostname()
	_, _ = fmt.Fprintf(f, "%f\n%d\n%s\nLinux\n", float64(time.Now().UnixMicro())/1e6, os.Getpid(), host)
	_ = f.Close()
	return true
}

func unreadableOrOld(path string, timeout time.Duration) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return true
	}
	line, _, _ := strings.Cut(string(b), "\n")
	at, err := strconv.ParseFloat(line, 64)
	if err != nil {
		return false // its owner may be about to write it
	}
	return float64(time.Now().UnixMicro())/1e6-at > timeout.Seconds()
}
