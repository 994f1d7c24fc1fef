//go:build unix

package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is the command, built once, with hasp-etcd beside it.
var bin string

// echoVar makes this program one that says which signals it gets, until its
// standard input ends. (A shell is not up to that: its traps wait for its reads.)
const echoVar = "HASP_TEST_ECHO"

var echoed = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT,
}

func echo() {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, echoed...)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("up")
	for sig := range ch {
		fmt.Println(sig)
	}
}

// sleepVar makes this program one that does nothing, for ever. (Debian's sh loses
// a SIGINT that comes while it starts a program.)
const sleepVar = "HASP_TEST_SLEEP"

func sleep() {
	fmt.Println("ready")
	for {
		time.Sleep(time.Hour)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(sleepVar) != "" {
		sleep()
	}
	if os.Getenv(rootVar) != "" && os.Geteuid() != os.Getuid() {
		becomeRoot()
		os.Exit(0)
	}
	if os.Getenv(echoVar) != "" {
		echo()
	}
	// Under nohup, what is started here would ignore it too. What is caught is not passed on.
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // those that are parallel wait
	dir, err := os.MkdirTemp("", "hasp-test-")
	if err == nil {
		bin = filepath.Join(dir, "hasp")
		build := exec.Command("go", "build", "-o", dir+"/", ".", "./hasp-etcd")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		err = build.Run()
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "the command cannot be built:", err)
	} else {
		os.Unsetenv("HASP_URL")
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// patience bounds what has to happen soon, on a machine that may be busy.
const patience = 30 * time.Second

// proc is a hasp that was started.
type proc struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  *bufio.Reader // standard output
	stderr *watched
	done   chan struct{}
}

// start starts hasp with these arguments.
func start(t *testing.T, args ...string) *proc {
	t.Helper()
	return startCmd(t, exec.Command(bin, args...))
}

func startCmd(t *testing.T, cmd *exec.Cmd) *proc {
	t.Helper()
	stderr := &watched{}
	cmd.Stderr = stderr
	p := startOn(t, cmd)
	p.stderr = stderr
	return p
}

// startOn leaves standard error as it is.
func startOn(t *testing.T, cmd *exec.Cmd) *proc {
	t.Helper()
	p := &proc{t: t, cmd: cmd, stderr: &watched{}, done: make(chan struct{})}
	// Children of a hasp that was killed may keep standard error open.
	p.cmd.WaitDelay = time.Second
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines, p.cmd.Stdout = bufio.NewReader(r), w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.cmd.Process.Kill()
		<-p.done
		r.Close()
	})
	return p
}

// line returns the next line of standard output.
func (p *proc) line() string {
	p.t.Helper()
	type result struct {
		s   string
		err error
	}
	ch := make(chan result, 1)
	go func() {
		s, err := p.lines.ReadString('\n')
		ch <- result{s, err}
	}()
	select {
	case r := <-ch:
		if r.err != nil {
			p.t.Fatalf("standard output ended at %q: %v; standard error: %s", r.s, r.err, p.errors())
		}
		return strings.TrimSuffix(r.s, "\n")
	case <-time.After(patience):
		p.t.Fatal("no line on standard output")
	}
	return ""
}

// pid returns the next line of standard output, which is one.
func (p *proc) pid() int {
	p.t.Helper()
	var pid int
	if _, err := fmt.Sscan(p.line(), &pid); err != nil {
		p.t.Fatal(err)
	}
	return pid
}

// wait returns the exit status.
func (p *proc) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(2 * patience):
		p.t.Fatal("hasp does not end")
		return 0
	}
}

// errors returns what is on standard error so far.
func (p *proc) errors() string { return p.stderr.String() }

func (p *proc) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// run runs hasp to its end.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runCmd(t, exec.Command(bin, args...))
}

func runCmd(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// alive tells whether a process runs; one that is only waiting to be reaped
// does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !errors.Is(err, os.ErrNotExist)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// eventually waits for cond, and returns how long that took.
func eventually(t *testing.T, what string, cond func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !cond() {
		if time.Since(begun) > patience {
			t.Fatalf("still not so: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
	return time.Since(begun)
}

// waiting returns when p has said that it waits.
func (p *proc) waiting() {
	p.t.Helper()
	eventually(p.t, "it says that it waits", func() bool { return strings.Contains(p.errors(), "waiting for") })
}

// watched is a buffer that can be read while it is written.
type watched struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// asNobody starts hasp as a user who may do nothing.
func asNobody(t *testing.T, args ...string) *proc {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user; what it is for is tested by CI, which is root")
	}
	// The build is in a directory that only its owner may enter.
	open := filepath.Join(tempDir(t), "hasp")
	if err := os.Link(bin, open); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(open); strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(open, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return startCmd(t, cmd)
}

// lockPath returns the path of a lock file in a new directory.
func lockPath(t *testing.T) string { return filepath.Join(tempDir(t), "lock") }

// tempDir is a folder that is removed when the test has ended. The guard process of a hasp
// that is killed then may be about to free its lock in there, so more than one try is made.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hasp-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := os.RemoveAll(dir)
		for end := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(end); err = os.RemoveAll(dir) {
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return dir
}

// holding starts a hasp that holds the lock until its standard input ends.
func holding(t *testing.T, key string, flags ...string) *proc {
	t.Helper()
	p := start(t, append(append([]string{"run"}, flags...), key, "--", "sh", "-c", "echo up; read x; exit 0")...)
	if got := p.line(); got != "up" {
		t.Fatalf("the holder says %q", got)
	}
	return p
}
