package torture

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// command is what hasp run runs. It knows no deadline: hasp and its guard see to it
// that it ends before the lease does, so it is in for as long as it lives and has not
// been told to end.
func (j *job) command() error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	token, err := strconv.ParseUint(os.Getenv("HASP_TOKEN"), 10, 64)
	if err != nil {
		return fmt.Errorf("HASP_TOKEN: %w", err)
	}
	if !awaitGuard(told) {
		return nil
	}
	at := now()
	ln, err := dialWitness(j.Witness, j.Who)
	if err != nil {
		return err
	}
	n := ln.visit()
	in, err := ln.ask(message{Verb: verbIn, Visit: n, Key: os.Getenv("HASP_KEY"), Token: token, At: at, Deadline: forever, TTL: j.TTL, Command: true})
	if err != nil || !in {
		return err
	}
	select {
	case <-told:
		return ln.tell(message{Verb: verbLost, Visit: n, At: now()})
	case <-time.After(j.Hold):
	}
	_, err = ln.ask(message{Verb: verbOut, Visit: n})
	return err
}

// awaitGuard waits until hasp has its guard process, which is some 50 ms after the
// command's start: before that nobody ends the command if hasp is stopped, as hasp's
// documentation says. false if the command is told to end first, or hasp stays stopped.
func awaitGuard(told <-chan os.Signal) bool {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	late := time.After(10 * time.Second)
	for !guarded(os.Getppid()) {
		select {
		case <-look.C:
		case <-told:
			return false
		case <-late:
			return false
		}
	}
	return true
}

// guarded tells whether the hasp with this pid has a guard process.
func guarded(pid int) bool {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range lists {
		list, _ := os.ReadFile(name) // a thread may have ended
		for _, child := range strings.Fields(string(list)) {
			args, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if bytes.HasPrefix(args, []byte("hasp-guard")) {
				return true
			}
		}
	}
	return false
}
