//go:build unix

package job

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The guard is this program once more, in a session of its own, at the other
// end of a pipe. It kills the command's group when the pipe ends, because then
// the process that holds the lock has died, and when the deadline that it was
// last told has come, because then that process is stopped or stuck. Rejected:
// a parent between the two (its start would come on top, and the exit status
// and the terminal would be its business), and PR_SET_PDEATHSIG alone, which
// reaches no grandchildren and knows no deadline.
//
// It is started when the command has run for guardDelay, which spares short
// commands its cost. Until then, and on systems that can do it, the kernel kills
// the command itself, though not its children.
type guard struct {
	grace time.Duration
	timer *time.Timer

	mu       sync.Mutex
	p        *os.Process // nil before it was started
	w        *os.File
	pgid     int
	deadline time.Time
	asked    bool  // to end, by SIGTERM
	ended    bool  // the guard is not needed any more
	err      error // why there is no guard, or it cannot be reached
}

// guardName is argv[0] of a guard, and what ps shows.
const guardName = "hasp-guard"

// watch starts the guard over the group, after guardDelay.
func (g *guard) watch(pgid int) error {
	g.pgid = pgid
	if guardDelay == 0 {
		g.start()
		return g.err
	}
	g.timer = time.AfterFunc(guardDelay, g.start)
	return nil
}

// start starts the guard, if that has not been done, and tells it all that is
// known so far.
func (g *guard) start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended || g.p != nil {
		return
	}
	// As arguments, so that there is no moment in which there is a guard that
	// does not know what to do when this process dies.
	args := []string{guardName, fmt.Sprintf("group %d", g.pgid), fmt.Sprintf("grace %d", g.grace)}
	if !g.deadline.IsZero() {
		args = append(args, fmt.Sprintf("left %d", time.Until(g.deadline)))
	}
	if g.asked {
		args = append(args, "stopping")
	}
	if g.p, g.w, g.err = startGuard(args); g.err != nil {
		g.err = fmt.Errorf("it could not be started: %w", g.err)
	}
}

func startGuard(args []string) (*os.Process, *os.File, error) {
	exe := self
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return nil, nil, err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	defer null.Close()
	p, err := os.StartProcess(exe, args, &os.ProcAttr{
		Dir:   "/", // it must not keep a mount busy
		Env:   []string{},
		Files: []*os.File{r, null, null},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	return p, w, nil
}

// send writes a line to the guard, if there is one by now. Called with mu held.
func (g *guard) send(format string, args ...any) {
	if g.p == nil || g.err != nil {
		return
	}
	// A pipe takes 4 KiB at the least, and the guard reads it at once: this does
	// not block, except for a guard that somebody has stopped.
	_ = g.w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := fmt.Fprintf(g.w, format+"\n", args...); err != nil {
		g.err = fmt.Errorf("it cannot be reached: %w", err)
	}
}

// extend sends a duration: this process may be stopped before the guard reads
// it, but then the guard still has the earlier deadline.
func (g *guard) extend(left time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = time.Now().Add(left)
	g.send("left %d", left)
	return g.err
}

func (g *guard) stopping() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = true
	g.send("stopping")
}

// end removes the guard without any harm to the group.
func (g *guard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	if g.timer != nil {
		g.timer.Stop()
	}
	if g.p == nil {
		return
	}
	_ = g.p.Kill()
	_, _ = g.p.Wait()
	g.w.Close()
}

// Guard does a guard's work, and does not return, if this process was started
// as one. Call it first thing in main.
func Guard() {
	if os.Args[0] != guardName {
		return
	}
	// Nobody but its parent has to do with it.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	var w watchman
	for _, line := range os.Args[1:] {
		w.heed(line)
	}
	w.run(os.Stdin)
	os.Exit(0)
}

// watchman is the state of a guard.
type watchman struct {
	pgid     int
	grace    time.Duration
	deadline time.Time // zero before the first is known
	asked    bool      // SIGTERM was sent, here or by the parent
}

func (w *watchman) run(r io.Reader) {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			lines <- s.Text()
		}
	}()
	// A second's tick besides the deadline: a timer stands still while the host
	// is suspended, and the deadline does not.
	tick := time.NewTimer(time.Second)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				w.signal(unix.SIGKILL)
				return
			}
			w.heed(line)
		case <-tick.C:
		}
		tick.Reset(min(w.act(), time.Second))
	}
}

func (w *watchman) heed(line string) {
	verb, arg, _ := strings.Cut(line, " ")
	n, _ := strconv.ParseInt(arg, 10, 64)
	switch verb {
	case "group":
		w.pgid = int(n)
	case "grace":
		w.grace = time.Duration(n)
	case "left":
		w.deadline = time.Now().Add(time.Duration(n))
	case "stopping":
		w.asked = true
	}
}

// act does what is due and returns how long nothing is.
func (w *watchman) act() time.Duration {
	if w.deadline.IsZero() {
		return time.Second
	}
	now := time.Now()
	left := min(w.deadline.Sub(now), w.deadline.Round(0).Sub(now.Round(0)))
	if left <= 0 {
		w.signal(unix.SIGKILL)
		return time.Second // until the parent is back and has seen it
	}
	// The parent sends SIGTERM at deadline - grace: this is for when it does not.
	term := left - w.grace*3/4
	switch {
	case w.asked:
		return left
	case term > 0:
		return term
	}
	w.asked = true
	w.signal(unix.SIGTERM)
	w.signal(unix.SIGCONT)
	return left
}

func (w *watchman) signal(sig syscall.Signal) {
	if w.pgid > 1 {
		_ = unix.Kill(-w.pgid, sig)
	}
}
