//go:build linux

package nfslab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hasplock/hasp/realtest/internal/child"
	"github.com/hasplock/hasp/realtest/nfslab/internal/agent"
)

// Host is a user-mode kernel.
type Host struct {
	Name string

	lab *Lab
	n   int

	mu        sync.Mutex
	cmd       *exec.Cmd     // nil while it is off
	end       chan struct{} // closed when its process has ended
	processes map[*agent.Process]bool
	onCrash   []func()
}

func newHost(l *Lab, n int) *Host {
	name := "server"
	if n > 1 {
		name = fmt.Sprintf("client%d", n-1)
	}
	return &Host{Name: name, lab: l, n: n, processes: map[*agent.Process]bool{}}
}

func (h *Host) addr() string { return fmt.Sprint(network, h.n) }
func (h *Host) tap() string  { return fmt.Sprint("tap", h.n) }
func (h *Host) log() string  { return filepath.Join(h.lab.dir, h.Name+".log") }

// Boot starts a host that is off. It returns when the server serves, or the client
// has mounted the export: during a server's grace period already.
func (h *Host) Boot() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd != nil {
		return fmt.Errorf("nfslab: %s is up", h.Name)
	}
	if err := h.start(); err != nil {
		return fmt.Errorf("nfslab: boot %s: %w", h.Name, err)
	}
	end := time.Now().Add(bootLimit)
	for {
		c, err := h.lab.net.dial(h.addr(), agent.Port, time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case <-h.end:
			err = errors.New("it went off again")
		case <-time.After(20 * time.Millisecond): // it says nowhere that it is up
			if time.Now().Before(end) {
				continue
			}
		}
		b, _ := os.ReadFile(h.log())
		h.kill()
		return fmt.Errorf("nfslab: boot %s: %w; its console:\n%s", h.Name, err, tail(string(b), 20))
	}
}

func (h *Host) start() error {
	l := h.lab
	c := agent.HostConfig{Name: h.Name, Addr: h.addr() + "/24", Dir: l.dir, Lease: int(l.opts.Lease / time.Second), Point: filepath.Join(l.dir, "export")}
	args := []string{"mem=" + l.opts.Memory, "rootfstype=hostfs", "rootflags=/", "rw", "init=" + filepath.Join(l.dir, "host"),
		"nfshost=" + filepath.Join(l.dir, h.Name+".json"), "uml_dir=" + l.dir + "/", "umid=" + h.Name, "con=null", "con0=null,fd:1", "panic=-1", "quiet",
		fmt.Sprintf("vec0:transport=tap,ifname=%s,mac=02:00:00:00:77:%02x,depth=128,gro=1", h.tap(), h.n)}
	if h.n == 1 {
		args = append(args, "ubd0="+filepath.Join(l.dir, "disk"))
	} else {
		c.Source, c.Point = l.Server.addr()+":/", l.Mount()
		c.Options = l.mountOptions(l.opts.Mount)
	}
	b, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(filepath.Join(l.dir, h.Name+".json"), b, 0o644)
	}
	if err != nil {
		return err
	}
	if err := l.net.run("ip tuntap add "+h.tap()+" mode tap", "ip link set "+h.tap()+" master "+bridge+" up"); err != nil {
		return err
	}
	console, err := os.Create(h.log())
	if err != nil {
		return err
	}
	defer console.Close()
	cmd := exec.Command("linux.uml", args...)
	cmd.Stdout, cmd.Stderr = console, console
	// As the first process of a namespace of its own it takes all of the kernel's
	// helpers with it when it is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := l.net.start(cmd); err != nil {
		return err
	}
	// A session is a group to the scheduler, and hosts share two processors with whatever else
	// the machine does: one that waits for a processor as long as others hold a lock
	// would be the scheduler's test. Where there are no such groups, this fails, and nothing is lost.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", cmd.Process.Pid), []byte("-15"), 0)
	end := make(chan struct{})
	go func() {
		defer close(end)
		_ = cmd.Wait()
	}()
	h.cmd, h.end = cmd, end
	return nil
}

func (l *Lab) mountOptions(more string) string {
	o := "vers=" + l.opts.Version + "," + MountOptions
	if more != "" {
		o += "," + more
	}
	return o
}

// Crash is a power failure: the host is gone, without a word to anybody. What the
// server has written to its disk stays.
func (h *Host) Crash() {
	h.mu.Lock()
	h.kill()
	lost, hooks := h.processes, h.onCrash
	h.processes = map[*agent.Process]bool{}
	h.mu.Unlock()
	for p := range lost {
		p.Disconnect()
	}
	for _, f := range hooks {
		f()
	}
}

func (h *Host) kill() {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Kill() // a stopped one as well
	<-h.end
	h.cmd = nil
	_ = h.lab.net.run("ip link del " + h.tap())
}

// Up tells whether the host is on, be it stalled or cut off.
func (h *Host) Up() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cmd != nil
}

// Stall stops the whole host, as a suspended virtual machine is; Resume ends that.
func (h *Host) Stall() error { return h.tell(child.Stop) }

// Resume lets a stalled host go on.
func (h *Host) Resume() error {
	return h.tell(func(p *os.Process) error { return p.Signal(syscall.SIGCONT) })
}

// Cut takes the host off the network: its link stays up and leads nowhere. Commands
// that run in it go on, and their output arrives after Heal.
func (h *Host) Cut() error { return h.lab.net.run("ip link set " + h.tap() + " nomaster") }

// Heal puts the host back on the network.
func (h *Host) Heal() error { return h.lab.net.run("ip link set " + h.tap() + " master " + bridge) }

func (h *Host) tell(f func(*os.Process) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		return fmt.Errorf("nfslab: %s is off", h.Name)
	}
	return f(h.cmd.Process)
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
