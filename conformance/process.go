package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// worker is a process that the suite has started.
type worker struct {
	x    *trial
	who  string
	cmd  *exec.Cmd
	in   io.WriteCloser
	errs *tail

	mu      sync.Mutex
	open    *Hold // told of, and not ended
	openEnd int64 // its deadline when it began
	dead    bool

	replies chan reply // no events; closed at the end of its output
	waiting chan struct{}
	ended   chan struct{}
}

// worker starts a process and waits until it is ready.
func (x *trial) worker(who string) *worker {
	argv := x.cfg.WorkerCommand
	if len(argv) == 0 {
		exe, err := os.Executable()
		if err != nil {
			x.failf("this program cannot be found to be started as a worker: %v", err)
		}
		argv = []string{exe}
	}
	w := &worker{
		x: x, who: who, cmd: exec.Command(argv[0], argv[1:]...), errs: &tail{},
		replies: make(chan reply, 16), waiting: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	w.cmd.Env = append(os.Environ(), workerEnv+"="+x.cfg.URL)
	w.cmd.Stderr = w.errs
	in, err := w.cmd.StdinPipe()
	if err != nil {
		x.failf("a worker cannot be started: %v", err)
	}
	out, err := w.cmd.StdoutPipe()
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		x.failf("a worker cannot be started: %v", err)
	}
	w.in = in
	x.cleanup(func(context.Context) { w.end() })
	ready := make(chan struct{})
	go w.read(out, ready)
	select {
	case <-ready:
	case <-w.ended:
		x.failf("%s ended before it was ready: %s", who, w.errs)
	case <-time.After(60 * time.Second):
		x.failf("%s was not ready after a minute: %s", who, w.errs)
	}
	return w
}

// read takes what the worker says.
func (w *worker) read(out io.Reader, ready chan<- struct{}) {
	defer close(w.ended)
	defer close(w.replies)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // cut off by the kill, or another's print
		}
		w.mu.Lock()
		switch r.Event {
		case "ready":
			close(ready)
		case "waiting":
			select {
			case w.waiting <- struct{}{}:
			default:
			}
		case "held":
			h := r.Hold
			w.open, w.openEnd = &h, r.Deadline
		case "hold":
			w.open = nil
			r.Hold.Who = w.who
			w.x.hold(r.Hold)
		default:
			select {
			case w.replies <- r:
			default:
			}
		}
		w.mu.Unlock()
	}
}

// send makes a request and does not wait for what comes of it.
func (w *worker) send(r request) {
	b, err := json.Marshal(r)
	if err == nil {
		_, err = w.in.Write(append(b, '\n'))
	}
	if err != nil {
		w.x.failf("%s cannot be asked: %v %s", w.who, err, w.errs)
	}
}

// reply waits for the answer to the last request.
func (w *worker) reply(within time.Duration) reply {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case r, ok := <-w.replies:
		if !ok {
			w.x.failf("%s ended: %s", w.who, w.errs)
		}
		return r
	case <-timer.C:
		w.x.failf("%s had not answered after %v", w.who, within)
	}
	panic("unreachable")
}

// ask makes a request that must succeed.
func (w *worker) ask(r request, within time.Duration) reply {
	w.send(r)
	p := w.reply(within)
	if p.Err != "" && r.Do != doStatus && r.Do != doRelease {
		w.x.failf("%s: %s: %s", w.who, r.Do, p.Err)
	}
	return p
}

// kill ends the process as kill -9 does. A hold that it was in ended then, or
// with the deadline that it knew.
func (w *worker) kill() time.Time {
	at := clock()
	if err := w.cmd.Process.Kill(); err != nil {
		w.x.failf("%s cannot be killed: %v", w.who, err)
	}
	killed := time.Now()
	w.x.fault(w.who, "killed")
	<-w.ended
	_ = w.cmd.Wait() // "signal: killed"
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
	if h := w.open; h != nil {
		h.Who, h.End, h.Until = w.who, "killed", max(h.From, min(at, w.openEnd))
		w.x.hold(*h)
		w.open = nil
	}
	return killed
}

func (w *worker) stop() {
	w.x.fault(w.who, "stopped")
	if err := stopProcess(w.cmd.Process); err != nil {
		w.x.failf("%s cannot be stopped: %v", w.who, err)
	}
}

func (w *worker) cont() {
	w.x.fault(w.who, "continued")
	if err := continueProcess(w.cmd.Process); err != nil {
		w.x.failf("%s cannot be continued: %v", w.who, err)
	}
}

// quit lets the worker end by itself, and waits for it.
func (w *worker) quit() {
	_ = w.in.Close()
	select {
	case <-w.ended:
	case <-time.After(30 * time.Second):
		w.x.failf("%s did not end by itself: %s", w.who, w.errs)
	}
	for r := range w.replies {
		if r.Err != "" {
			w.x.errorf("%s: %s", w.who, r.Err)
		}
	}
	err := w.cmd.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
	if err != nil {
		w.x.errorf("%s ended with %v: %s", w.who, err, w.errs)
	}
}

// end sees to it that the process is gone, stopped or not.
func (w *worker) end() {
	w.mu.Lock()
	dead := w.dead
	w.dead = true
	w.mu.Unlock()
	if dead {
		return
	}
	_ = w.in.Close()
	if err := w.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return
	}
	<-w.ended
	_ = w.cmd.Wait()
}

// tail keeps the last bytes of a worker's standard error.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - 4096; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buf.Len() == 0 {
		return "(it said nothing)"
	}
	return fmt.Sprintf("(it said: %s)", bytes.TrimSpace(t.buf.Bytes()))
}
