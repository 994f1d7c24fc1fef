package pause

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/internal/child"
)

// watchVar makes this program one that watches itself until its standard input ends.
const watchVar = "HASP_TEST_PAUSE"

func TestMain(m *testing.M) {
	if os.Getenv(watchVar) != "" {
		stop := Watch()
		fmt.Println("watching")
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // until it ends
		fmt.Println(stop().Microseconds())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// What a process is stopped for is seen, also in the very end.
func TestWatch(t *testing.T) {
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(me)
	cmd.Env = append(os.Environ(), watchVar+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	const each = 150 * time.Millisecond
	var stopped time.Duration
	for last := range 2 {
		if err := child.Stop(cmd.Process); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		time.Sleep(each)
		stopped += time.Since(begun)
		if last == 1 {
			in.Close() // it finds out when it is to end
		}
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	var us int64
	if _, err := fmt.Fscan(lines, &us); err != nil {
		t.Fatal(err)
	}
	if stood := time.Duration(us) * time.Microsecond; stood < stopped-2*(tick+usual) {
		t.Errorf("it says that it stood still for %v, and was stopped for %v", stood, stopped)
	}
}
