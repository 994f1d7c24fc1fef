package job

import (
	"os"
	"os/signal"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// children collects the children of this process that nobody waits for: orphans
// that it has adopted, because it is their subreaper or process 1.
var children reaper

type reaper struct {
	mu     sync.Mutex // held while a child is made, and while one is collected
	own    map[int]bool
	users  int
	quit   chan struct{}
	ours   int       // a zombie of this process's own group: whose?
	ourAge time.Time // since when it is known
}

// ownPatience is how long a zombie in this process's own group is left to whoever
// may have started it here, such as a library that runs a helper program and waits
// for it. Adopted ones are in other groups, as a rule, since the command is.
const ownPatience = time.Second

// fork makes a child for which its maker will wait.
func (r *reaper) fork(f func() (pid int, err error)) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := f()
	if err == nil {
		if r.own == nil {
			r.own = map[int]bool{}
		}
		r.own[pid] = true
	}
	return pid, err
}

// waited says that the maker has done so.
func (r *reaper) waited(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.own, pid)
}

// start has orphans collected until stop is called as often as start was.
func (r *reaper) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users++; r.users > 1 {
		return
	}
	r.quit = make(chan struct{})
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go r.run(ended, r.quit)
}

func (r *reaper) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users--; r.users == 0 {
		close(r.quit)
	}
}

func (r *reaper) run(ended chan os.Signal, quit <-chan struct{}) {
	defer signal.Stop(ended)
	for {
		var again <-chan time.Time
		if d := r.collect(); d > 0 {
			again = time.After(d)
		}
		select {
		case <-ended:
		case <-again:
		case <-quit:
			return
		}
	}
}

// collect collects all zombies that it may, and returns when to come again for
// one that somebody else should have, or 0.
func (r *reaper) collect() time.Duration {
	for {
		pid, again := r.collectOne()
		if pid == 0 {
			return again
		}
	}
}

func (r *reaper) collectOne() (pid int, again time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid = zombie()
	switch {
	case pid == 0:
		return 0, 0
	case r.own[pid]:
		return 0, time.Millisecond // its maker is about to
	}
	// The kernel names the same zombie until it is collected: this one must not
	// stand in the way of the others for long.
	if pgid, err := unix.Getpgid(pid); err == nil && pgid == unix.Getpgrp() {
		if r.ours != pid {
			r.ours, r.ourAge = pid, time.Now()
		}
		if age := time.Since(r.ourAge); age < ownPatience {
			return 0, min(10*time.Millisecond, ownPatience-age)
		}
	}
	r.ours = 0
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil); err != nil && err != unix.EINTR && err != unix.ECHILD {
		return 0, ownPatience
	}
	return pid, 0
}

// zombie returns a child that has ended, without collecting it, or 0.
func zombie() int {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0
		}
		// x/sys leaves the field out. It follows three integers, aligned as a pointer is.
		const at = 12 + 12%unsafe.Sizeof(uintptr(0))
		return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), at)))
	}
}
