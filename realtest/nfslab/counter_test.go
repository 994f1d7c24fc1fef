//go:build linux

package nfslab_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Processes on several hosts add to a number in a file, which none of them can do at
// the same time as another.
func TestCounter(t *testing.T) {
	l := lab(t)
	d := folder(t, l)
	shell(t, l.Clients[0], "echo 0 >"+d+"/number")
	processes, rounds := inFull(4, 2), 5
	line := fmt.Sprintf(`cd %s; i=0; while [ $i -lt %d ]; do i=$((i+1))
		%s/hasp run --on '%s' --retry-interval 100ms --max-retries -1 lock -- sh -c 'n=$(cat number) && echo $((n+1)) >number' || exit
	done`, d, rounds, l.Bin(), store(d))
	begin := time.Now()
	var all []*running
	for _, h := range l.Clients {
		for range processes {
			all = append(all, start(t, h, "sh", "-c", line))
		}
	}
	for _, r := range all {
		if code := r.status(t, 3*time.Minute); code != 0 {
			t.Errorf("status %d; it wrote:\n%s", code, r.out.String())
		}
	}
	want := fmt.Sprint(len(all) * rounds)
	if got := strings.TrimSpace(shell(t, l.Clients[0], "cat "+d+"/number")); got != want {
		t.Errorf("the number is %s, want %s", got, want)
	}
	t.Logf("%s times in %v", want, time.Since(begin).Round(time.Millisecond))
}
