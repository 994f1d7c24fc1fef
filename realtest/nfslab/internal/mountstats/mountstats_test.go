package mountstats

import (
	"maps"
	"testing"
)

const sample = `device proc mounted on /proc with fstype proc
device 10.0.0.1:/ mounted on /mnt with fstype nfs4 statvers=1.1
	opts:	rw,vers=4.1
	age:	2
	events:	1 0 0
	per-op statistics
	        NULL: 1 1 0 44 24 8 0 8 0
	      RENAME: 4 4 0 100 100 0 1 1 0

device 10.0.0.1:/ mounted on /mnt/other with fstype nfs4 statvers=1.1
	per-op statistics
	     GETATTR: 7 7 0 100 100 0 1 1 0
device tmpfs mounted on /mnt/other/tmp with fstype tmpfs
`

func TestParse(t *testing.T) {
	for path, want := range map[string]Counts{
		"/mnt": {"NULL": 1, "RENAME": 4}, "/mnt/a": {"NULL": 1, "RENAME": 4}, "/mnt/other/b": {"GETATTR": 7},
	} {
		got, err := parse(sample, path)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", path, got, err, want)
		}
	}
	for _, path := range []string{"/", "/proc", "/mntx"} {
		if got, err := parse(sample, path); err == nil {
			t.Errorf("%s: %v, want an error", path, got)
		}
	}
	if d := (Counts{"A": 3, "B": 1}).Sub(Counts{"A": 1, "B": 1}); d["A"] != 2 || len(d) != 1 || d.Sum() != 2 {
		t.Errorf("difference %v", d)
	}
}
