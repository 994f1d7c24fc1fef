//go:build unix

package efs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A soakGuard is what hasp's processes keep at the lock's path in a soak.
type soakGuard struct {
	name string
	// query is the URL's: the one place where a soak depends on how a guard is
	// asked for. Empty means the default, and then efs.Do itself is used.
	query string
	// exact guards allow nothing. Of others the rate of what happened is shown.
	exact bool
	// control: a guard that does not guard. A soak that finds nothing is broken.
	control bool
}

var soakGuards = []soakGuard{
	{name: "directory", exact: true},
	{name: "file", query: "lockfile=file"},
	{name: "none", query: "lockfile=false", control: true},
}

// An efsLock is how one process of the lock-file protocol behaves.
type efsLock []string

var (
	removesUnreadable = efsLock{"--reading=removed"}
	awaitsUnreadable  = efsLock{"--reading=held"}
	removesLate       = efsLock{"--reading=removed", "--pause=0,0.3"}
	awaitsLate        = efsLock{"--reading=held", "--pause=0,0.3"}
	yearAhead         = efsLock{"--reading=removed", "--skew=31536000"}
)

var soakScenarios = []struct {
	name  string
	peers []efsLock
	long  bool // not on every run, of guards that are not exact
}{
	{"one that removes what it cannot read", []efsLock{removesUnreadable}, false},
	{"one that awaits what it cannot read", []efsLock{awaitsUnreadable}, true},
	{"one that removes late", []efsLock{removesLate}, true},
	{"one that awaits and removes late", []efsLock{awaitsLate}, true},
	{"one whose clock is a year ahead", []efsLock{yearAhead}, true},
	{"two", []efsLock{removesUnreadable, awaitsUnreadable}, true},
	{"three", []efsLock{removesUnreadable, removesLate, awaitsLate}, true},
	{"four", []efsLock{removesUnreadable, awaitsUnreadable, removesLate, yearAhead}, true},
}

// soakTime is how long each soak goes on: HASP_SOAK, or a time fit for every run.
func soakTime(t *testing.T) (d time.Duration, long bool) {
	if s := os.Getenv("HASP_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("HASP_SOAK: %v", err)
		}
		return d, true
	}
	return 3 * time.Second, false
}

// Processes of the lock-file protocol, as the real ones behave, and all kinds of hasp
// processes add to one counter on one path.
func TestSoakBesideEfsLock(t *testing.T) {
	d, long := soakTime(t)
	bin := buildCommand(t)
	slots := make(chan struct{}, 2) // a soak is to be busy, and not to starve itself
	for _, g := range soakGuards {
		for _, sc := range soakScenarios {
			if g.control && len(sc.peers) > 1 || !g.exact && sc.long && !long {
				continue
			}
			t.Run(g.name+"/"+sc.name, func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				n := d
				if g.control {
					n = min(d, 5*time.Second)
				}
				r := soak(t, n, g, bin, sc.peers)
				for i := 0; g.control && r.found() == 0 && i < 20; i++ { // a machine that is busy elsewhere
					r = soak(t, n, g, bin, sc.peers)
				}
				t.Log(r)
				r.judge(t, g, len(sc.peers))
			})
		}
	}
}

// buildCommand builds the command as it is in this tree.
func buildCommand(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "hasp")
	if out, err := exec.Command("go", "build", "-C", "../cmd/hasp", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build of the command: %v\n%s", err, out)
	}
	return bin
}

// soak lets processes contend for d, and reads what they have logged.
func soak(t *testing.T, d time.Duration, g soakGuard, bin string, peers []efsLock) *soakResult {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	path, counter := filepath.Join(root, "sweep", "lock"), filepath.Join(dir, "counter")
	ctx, cancel := context.WithTimeout(ctxBG, d+2*time.Minute)
	defer cancel()
	res := &soakResult{time: d}
	var wg sync.WaitGroup
	start := func(who string, f func(log string) error) {
		log := filepath.Join(dir, who)
		res.logs = append(res.logs, &soakLog{who: who, legacy: strings.HasPrefix(who, "EfsLock"), file: log})
		wg.Go(func() {
			if err := f(log); err != nil {
				t.Errorf("%s: %v", who, err)
			}
		})
	}
	for i, flags := range peers {
		start(fmt.Sprintf("EfsLock %d", i+1), func(log string) error {
			args := append([]string{"testdata/legacy.py", path, "--retry-interval=0.02,0.05", "--max-retries=1000000",
				"--first-sleep=0.01", "--counter=" + counter, "--log=" + log, fmt.Sprintf("--seconds=%g", d.Seconds())}, flags...)
			return runPeer(exec.CommandContext(ctx, python(t), args...))
		})
	}
	for _, kind := range []string{"efs.Do", "Locker"} {
		start(kind, func(log string) error {
			return runPeer(soakPeerCmd(ctx, kind, d.String(), root, g.query, log, counter))
		})
	}
	start("command", func(log string) error {
		for end := time.Now().Add(d); time.Now().Before(end); soakBreath() {
			section := soakPeerCmd(ctx, "section", "", "", "", log, counter)
			cmd := exec.CommandContext(ctx, bin, "run", "--on", soakURL(root, g.query), "--timeout=300s", "--retry-interval=20ms",
				"--max-retries=-1", soakKey, "--", section.Path)
			cmd.Env = section.Env
			err := runPeer(cmd)
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() == 76 {
				err = appendLine(log, "lost %d", monotonic())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	wg.Wait()
	for _, l := range res.logs {
		l.read(t)
	}
	if c, err := os.ReadFile(counter); err == nil {
		res.counter, _ = strconv.Atoi(string(c))
	}
	res.compare()
	return res
}

func runPeer(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, out.Bytes())
	}
	return nil
}
