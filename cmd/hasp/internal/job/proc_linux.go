package job

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// stat is what the kernel says of a process.
type stat struct {
	state   string // one letter
	parent  int
	group   int
	threads int
}

func readStat(pid string) (s stat, err error) {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return s, err
	}
	// pid (name) state ppid pgrp …, and the name may have anything in it
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 18 {
		return s, fmt.Errorf("/proc/%s/stat has %d fields", pid, len(f))
	}
	s.state = f[0]
	for i, n := range map[int]*int{1: &s.parent, 2: &s.group, 17: &s.threads} {
		if *n, err = strconv.Atoi(f[i]); err != nil {
			return s, fmt.Errorf("/proc/%s/stat: %w", pid, err)
		}
	}
	return s, nil
}

// ended tells whether the process does nothing any more. One whose first thread
// has ended, and no other, looks like a zombie and is none.
func (s stat) ended() bool { return s.state == "X" || s.state == "Z" && s.threads <= 1 }

// parent returns a process's parent, or 0.
func parent(pid int) int {
	s, err := readStat(strconv.Itoa(pid))
	if err != nil {
		return 0
	}
	return s.parent
}

// nobodyRuns tells whether all that is left of the group is zombies. It is false
// where that cannot be known.
func nobodyRuns(pgid int) bool {
	if !seesAll() {
		return false
	}
	d, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return false
	}
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		s, err := readStat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
		case err != nil, s.group == pgid && !s.ended():
			return false
		}
	}
	return true
}

// seesAll tells whether /proc has every process, under the number by which this
// process knows it. It has not if it was mounted with hidepid, or if it is still
// that of the namespace in which this one was made.
func seesAll() bool {
	if _, err := readStat("1"); err != nil {
		return false
	}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.TrimSpace(pids) == strconv.Itoa(os.Getpid())
		}
	}
	return false
}
