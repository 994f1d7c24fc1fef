//go:build linux

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const secret = "hunter2"

// secretURLs are the forms of URLs that the backends document, of servers that
// cannot be reached, and some with mistakes.
var secretURLs = []string{
	"redis://user:hunter2@127.0.0.1:1/0",
	"rediss://user:hunter2@127.0.0.1:1/0",
	"redis+unix://user:hunter2@/nonexistent/redis.sock?db=0",
	"redis://user:hunter2@127.0.0.1:1,127.0.0.1:2/",
	"redis://user:hunter2@127.0.0.1:1/?cluster=true",
	"redis://sentinel:hunter2@127.0.0.1:1,127.0.0.1:2/0?master_name=main&username=u&password=hunter2",
	"redis://127.0.0.1:1/0?master_name=main&password=hunter2",
	"redis://127.0.0.1:1/0?password=hunter2",
	"redis://127.0.0.1:1/0?db=0;password=hunter2",
	"redis://127.0.0.1:1/0?master_name=m&password=%zzhunter2",
	"redis://user:%zzhunter2@127.0.0.1:1/0",
	"redis://user:hunter2/x@127.0.0.1:1/0",
	"redis://user:hunter2?x@127.0.0.1:1/0",
	"redis://user:12?hunter2@127.0.0.1:1/0",
	"redis://user:12/hunter2@127.0.0.1:1/0",
	"redis://user:a hunter2@127.0.0.1:1/0",
	"redis://user:a\"hunter2@127.0.0.1:1/0",
	"REDIS://user:hunter2@127.0.0.1:1/0?db=x",
	"redis://hunter2@127.0.0.1:1/0",
	"etcd://user:hunter2@127.0.0.1:1/prefix?timeout=1s",
	"etcds://user:hunter2@127.0.0.1:1,127.0.0.1:2/prefix?timeout=1s",
	"etcd://hunter2@127.0.0.1:1/?timeout=1s",
	"etcd://127.0.0.1:1/?timeout=1s&endpoints=http://user:hunter2@127.0.0.1:2",
	"nosuch://user:hunter2@host/?token=hunter2",
	"migrate:?name=s&phase=both&old=redis%3A%2F%2Fuser%3Ahunter2%40127.0.0.1%3A1&new=efs%3A%2F%2F%2Fnonexistent",
	"migrate:?name=s&phase=old&old=redis://user:hunter2@127.0.0.1:1&new=redis://user:12#hunter2@127.0.0.1:1",
	"migrate:?name=s&phase=new&old=efs%3A%2F%2F%2Fnonexistent&new=etcd%3A%2F%2F127.0.0.1%3A1%2F%3Ftimeout%3D1s%26password%3Dhunter2",
	"efs:///nonexistent/hasp?password=hunter2",
}

// Nothing that hasp prints has a password in it, wherever the URL was given.
func TestNoSecretIsPrinted(t *testing.T) {
	limit := make(chan struct{}, 4)
	var wg sync.WaitGroup
	for i, url := range secretURLs {
		report := filepath.Join(tempDir(t), fmt.Sprintf("report%d.html", i))
		for _, args := range [][]string{
			{"run", "--on", url, "k", "--", "true"},
			{"run", "--on=" + url, "-o", "json", "k", "--", "true"},
			{"run", url, "--", "true"},
			{"run", "-o", "json", url, "--", "true"},
			{"run", "k", url, "--", "true"},
			{"run", url, url},
			{"run", "--on", "nosuch:x", url, "--", "true"},
			{"run", "--timeout", url, "k", "--", "true"},
			{"run", "-o", url, "k", "--", "true"},
			{"run", "-o", "json", "--on", "mem:", "k", "--", url},
			{"once", "--on", url, "k", "--unless", url, "--", url},
			{"status", "--on", url, "k"},
			{"status", url},
			{"list", url},
			{"list", "--on", url, "-o", "json"},
			{"break", url, "--token", url},
			{"break", "--on", url, "k"},
			{"break", "--on", url, "k", "--token", "1"},
			{"run", "--no-lockfile", "--on", url, "k", "--", "true"},
			{"verify", url, "--report", report, "-o", "json"},
			{"verify", "--on", url},
			{"migrate", "status", url},
			{"migrate", "advance", "-o", "json", "--on", url},
			{url},
			{"help", url},
		} {
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				code, stdout, stderr := run(t, args...)
				page, _ := os.ReadFile(report)
				if all := stdout + stderr + string(page); strings.Contains(all, secret) {
					t.Errorf("hasp %q: exit %d: %s", args, code, all)
				}
			})
		}
	}
	wg.Wait()
}

// What ps shows of hasp, of what it hands over to, and of its guard has no password
// in it; nor has what a waiter says of a key that is a URL.
func TestNoSecretIsInProcessTitles(t *testing.T) {
	url := strings.Replace(redisServer(t, "--requirepass", secret), "redis+unix://", "redis+unix://:"+secret+"@", 1)
	key := "https://user:" + secret + "@host/data"
	p := start(t, "run", "--on", url, key, "--", "sh", "-c", `echo "$HASP_KEY"; read x; exit 0`)
	if got := p.line(); got != key {
		t.Errorf("HASP_KEY is %q, want %q", got, key)
	}
	for _, pid := range []int{p.cmd.Process.Pid, p.guarded()} {
		title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(title) == 0 || bytes.Contains(title, []byte(secret)) {
			t.Errorf("the arguments of process %d are %q, error %v", pid, title, err)
		}
	}
	waiter := start(t, "run", "-o", "json", "--max-wait", "100ms", "--on", url, key, "--", "true")
	if code := waiter.wait(); code != 75 || strings.Contains(waiter.errors(), secret) {
		t.Errorf("a waiter: exit %d: %s", code, waiter.errors())
	}
	p.in.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("exit %d: %s", code, p.errors())
	}
}

// The scheme may be written in any case.
func TestSchemeInAnyCase(t *testing.T) {
	url := redisServer(t)
	for _, on := range []string{strings.Replace(url, "redis+unix", "Redis+UNIX", 1), "MEM:", "EFS://" + tempDir(t)} {
		if code, out, stderr := runCmd(t, exec.Command(bin, "run", "--on", on, "k", "--", "echo", "ran")); code != 0 || out != "ran\n" {
			t.Errorf("%s: exit %d: %s%s", on, code, out, stderr)
		}
	}
}
