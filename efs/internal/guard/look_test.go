//go:build unix

package guard

import (
	"testing"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// Two files of the EfsLock protocol that have the same number, times and length are told from
// one another by the time that is written in them: a server's clock may have been set back.
func TestFilesOfTheSameTime(t *testing.T) {
	at := time.Unix(1700000000, 0)
	file := func(content string) seen {
		i := fsys.Info{ID: fsys.ID{Ino: 7}, Mtime: at, Ctime: at, Size: int64(len(content))}
		return seen{kind: aFile, Info: i, content: content, lockFile: parseLockFile([]byte(content))}
	}
	one, other := file("1700000000.123456\n1\nhost\nLinux\n"), file("1700000000.654321\n1\nhost\nLinux\n")
	if one.signature() == other.signature() {
		t.Errorf("both are %q", one.signature())
	}
	if again := file(one.content); again.signature() != one.signature() {
		t.Errorf("one file is %q and %q", one.signature(), again.signature())
	}
}
