package fsys

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MountOf finds the mount that dir is on.
func MountOf(dir string) (Mount, bool) {
	want := ""
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err == nil && st.Mask&unix.STATX_MNT_ID != 0 {
		want = strconv.FormatUint(st.Mnt_id, 10)
	}
	dir = resolved(dir)
	var best Mount
	longest := -1
	for _, m := range mounts() {
		switch {
		case want != "":
			if m.id == want {
				return m.Mount, true
			}
		case m.covers(dir) && len(m.Point) >= longest:
			best, longest = m.Mount, len(m.Point)
		}
	}
	return best, longest >= 0
}

// mounted is a line of mountinfo.
type mounted struct {
	id string
	Mount
}

// covers tells whether dir is the mount point or below it.
func (m Mount) covers(dir string) bool {
	return dir == m.Point || m.Point == "/" || strings.HasPrefix(dir, m.Point+"/")
}

// mounts are those that this process sees, the later ones on top.
func mounts() (ms []mounted) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// id parent major:minor root mountpoint options … - fstype source super-options
		left, right, ok := strings.Cut(sc.Text(), " - ")
		lf, rf := strings.Fields(left), strings.Fields(right)
		if !ok || len(lf) < 6 || len(rf) < 3 {
			continue
		}
		ms = append(ms, mounted{lf[0], Mount{Type: rf[0], Source: unescapeMount(rf[1]), Point: unescapeMount(lf[4]),
			Options: append(strings.Split(lf[5], ","), strings.Split(rf[2], ",")...)}})
	}
	return ms
}

// Unmounted returns the file systems that table, in the format of fstab(5), has for dir or
// a directory above it, and that are not mounted there now.
func Unmounted(table, dir string) (missing []Mount) {
	text, err := os.ReadFile(table)
	if err != nil {
		return nil
	}
	dir = resolved(dir)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || !strings.HasPrefix(f[1], "/") {
			continue
		}
		m := Mount{Type: f[2], Source: unescapeMount(f[0]), Point: unescapeMount(f[1])}
		if m.Point != "/" {
			m.Point = strings.TrimRight(m.Point, "/")
		}
		if !m.covers(dir) {
			continue
		}
		// An automounter's own mark is no file system yet.
		point := resolved(m.Point)
		if !slices.ContainsFunc(mounts(), func(o mounted) bool { return o.Point == point && o.Type != "autofs" }) {
			missing = append(missing, m)
		}
	}
	return missing
}

// resolved is path without symbolic links, as far as it exists.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// unescapeMount decodes the octal escapes for blanks in mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
