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
// last told has come, because then that process is stopped or stuck. In the first
// case it also does what is left to do when nobody of the group runs any more, such
// as to release the lock. Rejected:
// a parent between the two (its start would come on top, and the exit status
// and the terminal would be its business), and PR_SET_PDEATHSIG alone, which
// reaches no grandchildren and knows no deadline.
//
// It is started when the command has run for guardDelay, which spares short
// commands its cost. Until then, and on systems that can do it, the kernel kills
// the command itself, though not its children.
type guard struct {
	grace time.Duration
	then  func() string
	timer *time.Timer

	mu       sync.Mutex
	p        *os.Process // nil before it was started
	w        *os.File
	died     chan struct{} // closed when the guard has ended
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
		args = append(args, leftLine(time.Until(g.deadline)))
	}
	if g.asked {
		args = append(args, "stopping")
	}
	then := ""
	if g.then != nil {
		then = g.then()
	}
	if g.p, g.w, g.err = startGuard(args, then); g.err != nil {
		g.err = fmt.Errorf("it could not be started: %w", g.err)
		return
	}
	g.died = make(chan struct{})
	go func(p *os.Process, died chan<- struct{}) {
		defer close(died)
		_, _ = p.Wait()
		children.waited(p.Pid)
	}(g.p, g.died)
}

func startGuard(args []string, then string) (*os.Process, *os.File, error) {
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
	if then != "" && len(then) <= MaxThen {
		// Not as an argument, which everyone on the host could read. Before there is a
		// guard: an empty pipe has room for it.
		_ = w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := fmt.Fprintf(w, "then %s\n", then); err != nil {
			w.Close()
			return nil, nil, err
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	defer null.Close()
	var p *os.Process
	_, err = children.fork(func() (pid int, err error) {
		p, err = os.StartProcess(exe, args, &os.ProcAttr{
			Dir:   "/",          // it must not keep a mount busy
			Env:   os.Environ(), // what a store's client looks at
			Files: []*os.File{r, null, null},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return 0, err
		}
		return p.Pid, nil
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
	g.send("%s", leftLine(left))
	return g.err
}

// leftLine is the line for a deadline, with the time of day from which left counts: the
// guard may read it late. Not the time of the deadline, which a clock that is set back
// would put off.
func leftLine(left time.Duration) string {
	return fmt.Sprintf("left %d %d", left, time.Now().UnixNano())
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
	<-g.died
	g.w.Close()
}

// Guard does a guard's work, and does not return, if this process was started
// as one. Call it first thing in main. When the process that it was started by has
// died and nobody of the group runs any more, it calls release with that one's
// Spec.Then's text; left is until the last deadline.
func Guard(release func(then string, left time.Duration)) {
	if os.Args[0] != guardName {
		return
	}
	// Nobody but its parent has to do with it.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	var w watchman
	for _, line := range os.Args[1:] {
		w.heed(line)
	}
	if w.run(os.Stdin) && w.then != "" {
		release(w.then, max(0, w.left()))
	}
	os.Exit(0)
}

// watchman is the state of a guard.
type watchman struct {
	group    group
	then     string
	grace    time.Duration
	deadline time.Time     // zero before the first is known
	notice   time.Duration // how long before it SIGTERM is sent
	asked    bool          // SIGTERM was sent, here or by the parent
}

// run returns when the parent has died, and tells whether the group has ended.
func (w *watchman) run(r io.Reader) bool {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(r); s.Scan(); { // a line is shorter than its buffer
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
				return w.end()
			}
			w.heed(line)
		case <-tick.C:
		}
		tick.Reset(min(w.act(), time.Second))
	}
}

func (w *watchman) heed(line string) {
	verb, arg, _ := strings.Cut(line, " ")
	if verb == "then" {
		w.then = arg
		return
	}
	arg, since, _ := strings.Cut(arg, " ")
	n, _ := strconv.ParseInt(arg, 10, 64)
	switch verb {
	case "group":
		w.group.pgid = int(n)
	case "grace":
		w.grace = time.Duration(n)
	case "left":
		w.deadline = time.Now().Add(time.Duration(n))
		if at, err := strconv.ParseInt(since, 10, 64); err == nil {
			w.deadline = w.deadline.Add(-max(0, time.Since(time.Unix(0, at))))
		}
		// The parent sends SIGTERM that long before, or with a third of it left if that is
		// later: this is for when it does not, and comes after it.
		w.notice = min(w.grace, time.Duration(n)/3) * 3 / 4
	case "stopping":
		w.asked = true
	}
}

// act does what is due and returns how long nothing is.
func (w *watchman) act() time.Duration {
	if w.deadline.IsZero() {
		return time.Second
	}
	left := w.left()
	if left <= 0 {
		w.signal(unix.SIGKILL)
		return time.Second // until the parent is back and has seen it
	}
	term := left - w.notice
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

// left is how long it is until the deadline, by the clock that says less.
func (w *watchman) left() time.Duration {
	now := time.Now()
	return min(w.deadline.Sub(now), w.deadline.Round(0).Sub(now.Round(0)))
}

// end kills the group, and tells whether it has ended before the deadline: after
// that the lock is no longer this one's to release. What cannot be killed is another
// user's, or hangs in a system call.
func (w *watchman) end() bool {
	w.signal(unix.SIGKILL)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if w.group.gone() {
			return true
		}
		if w.left() <= 0 {
			return false
		}
		time.Sleep(pause)
	}
}

func (w *watchman) signal(sig syscall.Signal) { _ = w.group.signal(sig) }
