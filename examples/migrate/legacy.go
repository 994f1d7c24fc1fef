//go:build unix

package main

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed legacy.py
var legacyScript string

// legacy is processes of the EfsLock protocol. They know nothing of hasp, of tokens or
// of the migration. Each has a key of its own, since two of them on one key can rob each
// other, with hasp or without.
type legacy struct {
	f        *fleet
	dir      string
	n        int
	mu       sync.Mutex
	procs    []*exec.Cmd
	pipes    []io.WriteCloser
	wg       sync.WaitGroup
	sections int
	timeouts int
}

const legacyPhase = "EfsLock"

func (l *legacy) start() error {
	for i := range l.n {
		c := exec.Command("python3", "-c", legacyScript, l.dir, fmt.Sprintf("key-%d", i), "300")
		in, err := c.StdinPipe()
		if err != nil {
			return err
		}
		out, err := c.StdoutPipe()
		if err != nil {
			return err
		}
		if err := c.Start(); err != nil {
			return fmt.Errorf("-legacy: %w", err)
		}
		l.procs, l.pipes = append(l.procs, c), append(l.pipes, in)
		p := &process{number: 100 + i, phase: legacyPhase, begun: time.Now()}
		l.wg.Go(func() { l.hear(p, in, out) })
	}
	return nil
}

// hear passes on what one of them says. It has no token: the key's last one is taken
// for it, so that only its being there counts.
func (l *legacy) hear(p *process, in io.Writer, out io.Reader) {
	for s := bufio.NewScanner(out); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) != 3 {
			l.f.log.fail(fmt.Errorf("an EfsLock process said %q", s.Text()))
			return
		}
		at, _ := strconv.ParseInt(words[2], 10, 64)
		l.mu.Lock()
		switch words[0] {
		case "in":
			l.sections++
			// it has no deadline, and ends in time if nobody takes its file
			l.f.witness.hear(p, message{Kind: isIn, Key: words[1], At: at, Until: at + int64(time.Hour)})
		case "out":
			l.f.witness.hear(p, message{Kind: isOut, Key: words[1], At: at})
		case "timeout":
			l.timeouts++
		}
		l.mu.Unlock()
		_, _ = io.WriteString(in, "\n")
	}
}

// stop ends them; each first finishes what it is at.
func (l *legacy) stop() {
	for _, in := range l.pipes {
		_ = in.Close()
	}
	l.wg.Wait()
	for _, c := range l.procs {
		_ = c.Wait()
	}
	l.procs, l.pipes = nil, nil
}
