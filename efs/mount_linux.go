package efs

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOf finds the mount that d is on.
func mountOf(d *os.File) (mount, bool) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return mount{}, false
	}
	defer f.Close()
	want := ""
	var st unix.Statx_t
	if err := unix.Statx(int(d.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err == nil && st.Mask&unix.STATX_MNT_ID != 0 {
		want = strconv.FormatUint(st.Mnt_id, 10)
	}
	dir, err := filepath.EvalSymlinks(d.Name())
	if err != nil {
		dir = d.Name()
	}
	var best mount
	longest := -1
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// id parent major:minor root mountpoint options … - fstype source super-options
		left, right, ok := strings.Cut(sc.Text(), " - ")
		lf, rf := strings.Fields(left), strings.Fields(right)
		if !ok || len(lf) < 6 || len(rf) < 3 {
			continue
		}
		m := mount{fstype: rf[0], options: append(strings.Split(lf[5], ","), strings.Split(rf[2], ",")...)}
		if want != "" {
			if lf[0] == want {
				return m, true
			}
			continue
		}
		point := unescapeMount(lf[4])
		if (dir == point || point == "/" || strings.HasPrefix(dir, point+"/")) && len(point) >= longest {
			best, longest = m, len(point)
		}
	}
	return best, longest >= 0
}

// unescapeMount decodes the octal escapes for blanks in mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
