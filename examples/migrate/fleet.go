//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hasplock/hasp/migrate"
)

// fleet is the workers, each a process of the operating system.
type fleet struct {
	old, new string // URLs
	keys     int
	ttl      time.Duration
	witness  *witness
	log      *log

	mu      sync.Mutex
	workers []*process // by number; a killed or rolled one is replaced
	rolling sync.Mutex // held while one is replaced or stopped
	lives   []life
	kills   int
	stops   int
}

// process is one worker. What others read of it is guarded by fleet.mu.
type process struct {
	number int
	phase  string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer
	ready  chan struct{}
	ended  chan struct{} // closed when all it has said was heard
	begun  time.Time

	kind   kind // of its last message
	key    string
	token  uint64
	text   string
	since  time.Time // it has waited for a lock since then
	frozen bool
}

// life is a process's, for the picture.
type life struct {
	Worker   int
	Phase    string
	From, To time.Time
	Ended    string // rolled, killed
}

// child runs this program again, as j says.
func child(j job) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), jobVar+"="+string(text))
	return c, nil
}

// start starts worker number in a phase.
func (f *fleet) start(number int, phase migrate.Phase) error {
	c, err := child(job{URL: migrate.URL(name, phase, f.old, f.new), Number: number, Keys: f.keys, TTL: f.ttl})
	if err != nil {
		return err
	}
	now := time.Now()
	p := &process{number: number, phase: string(phase), cmd: c, ready: make(chan struct{}), ended: make(chan struct{}), begun: now, since: now}
	c.Stderr = &p.stderr
	if p.stdin, err = c.StdinPipe(); err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	f.mu.Lock()
	for len(f.workers) < number {
		f.workers = append(f.workers, nil)
	}
	f.workers[number-1] = p
	f.mu.Unlock()
	go f.hear(p, out)
	return nil
}

// hear passes on what p says until its end.
func (f *fleet) hear(p *process, out io.Reader) {
	defer close(p.ended)
	for s := bufio.NewScanner(out); s.Scan(); {
		var m message
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			f.log.fail(fmt.Errorf("worker %d said %q", p.number, s.Text()))
			continue
		}
		if m.Kind == isReady {
			close(p.ready)
			continue
		}
		m.heard = time.Now().UnixNano()
		f.witness.hear(p, m)
		f.mu.Lock()
		if m.Kind == isWaiting && p.kind != isFailed || m.Kind == isOut {
			p.since = time.Unix(0, m.At)
		}
		p.kind, p.key, p.text = m.Kind, m.Key, m.Text
		if m.Token != 0 {
			p.token = m.Token
		}
		f.mu.Unlock()
		if m.Kind.answered() {
			_, _ = io.WriteString(p.stdin, wordGo+"\n") // one that was killed does not hear it
		}
	}
	f.witness.gone(p)
}

// end waits for p, which was told or made to end.
func (f *fleet) end(p *process, how string) error {
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		<-p.ended
		_ = p.cmd.Wait()
		f.mu.Lock()
		f.workers[p.number-1] = nil
		f.mu.Unlock()
		return fmt.Errorf("worker %d did not end within a minute: its last word was %q about %s %s", p.number, p.kind, p.key, p.text)
	}
	err := p.cmd.Wait()
	f.mu.Lock()
	f.workers[p.number-1] = nil
	f.lives = append(f.lives, life{p.number, p.phase, p.begun, time.Now(), how})
	f.mu.Unlock()
	if err != nil && how != "killed" {
		return fmt.Errorf("worker %d: %w: %s", p.number, err, strings.TrimSpace(p.stderr.String()))
	}
	return nil
}

// replace ends worker number and starts it again in a phase, when it is ready.
func (f *fleet) replace(number int, phase migrate.Phase) error {
	f.rolling.Lock()
	defer f.rolling.Unlock()
	f.mu.Lock()
	p := f.workers[number-1]
	f.mu.Unlock()
	if p == nil {
		return f.log.err()
	}
	_, _ = io.WriteString(p.stdin, wordStop+"\n")
	if err := f.end(p, "rolled"); err != nil {
		return err
	}
	if err := f.start(number, phase); err != nil {
		return err
	}
	f.mu.Lock()
	p = f.workers[number-1]
	f.mu.Unlock()
	select {
	case <-p.ready:
		return nil
	case <-p.ended:
		return fmt.Errorf("worker %d did not start: %s", number, strings.TrimSpace(p.stderr.String()))
	case <-time.After(time.Minute):
		return fmt.Errorf("worker %d was not ready within a minute: %s", number, p.text)
	}
}

// stop ends all workers.
func (f *fleet) stop() error {
	f.rolling.Lock()
	defer f.rolling.Unlock()
	var errs []error
	f.mu.Lock()
	workers := slices.Clone(f.workers)
	f.mu.Unlock()
	for _, p := range workers {
		if p != nil {
			_, _ = io.WriteString(p.stdin, wordStop+"\n")
		}
	}
	for _, p := range workers {
		if p != nil {
			errs = append(errs, f.end(p, ""))
		}
	}
	return errors.Join(errs...)
}

// harm kills and stops workers at random until done is closed. One that was killed
// starts again in the same phase; one that is stopped goes on after a time that is
// sometimes longer than its lock's TTL.
func (f *fleet) harm(rnd *rand.Rand, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(200+rnd.IntN(800)) * time.Millisecond):
		}
		f.rolling.Lock()
		f.mu.Lock()
		p := f.workers[rnd.IntN(len(f.workers))]
		if p == nil { // it could not be started again, which ends the run
			f.mu.Unlock()
			f.rolling.Unlock()
			return
		}
		kill := rnd.IntN(2) == 0
		if p.frozen = !kill; kill {
			f.kills++
		} else {
			f.stops++
		}
		f.mu.Unlock()
		if kill {
			f.log.fault("kill -9 worker %d", p.number)
			_ = p.cmd.Process.Kill()
			_ = f.end(p, "killed")
			if err := f.start(p.number, migrate.Phase(p.phase)); err != nil {
				f.log.fail(err)
			}
		} else {
			d := time.Duration(rnd.Int64N(int64(2 * f.ttl)))
			f.log.fault("stop worker %d for %v", p.number, d.Round(time.Millisecond))
			_ = p.cmd.Process.Signal(syscall.SIGSTOP)
			select {
			case <-time.After(d):
			case <-done:
			}
			_ = p.cmd.Process.Signal(syscall.SIGCONT)
			f.mu.Lock()
			p.frozen = false
			f.mu.Unlock()
		}
		f.rolling.Unlock()
	}
}

// stuck names a worker that has waited for too long.
func (f *fleet) stuck(limit time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.workers {
		if p != nil && !p.frozen && time.Since(p.since) > limit {
			return fmt.Errorf("worker %d (phase %s) has had no lock for %v; its last word: %s %s %s", p.number, p.phase, limit, p.kind, p.key, p.text)
		}
	}
	return nil
}
