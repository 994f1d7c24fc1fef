#!/bin/sh
# exfat-fuse 1.3.0+git20220115 (Debian 12): a directory's time of last change moves when a file in it
# is made or removed, and not when one is renamed. POSIX has it move with each of those, and so do
# the file systems that most programs are tried on. Who looks at a directory's time to see whether
# the names in it have changed misses every rename.
#
# It installs exfat-fuse and exfatprogs from Debian where they are missing, and mounts a small image.
# It needs root, a loop device and /dev/fuse. It fails if what is said here is no longer so.
set -eu
[ "$(id -u)" = 0 ] && [ -c /dev/fuse ] || { echo "needs root and /dev/fuse" >&2; exit 2; }
command -v mount.exfat-fuse >/dev/null && command -v mkfs.exfat >/dev/null ||
	apt-get install -y -qq --no-install-recommends exfat-fuse exfatprogs >/dev/null
work=$(mktemp -d)
dev=
cleanup() {
	umount "$work/m" 2>/dev/null || true
	[ -z "$dev" ] || losetup -d "$dev" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
truncate -s 16M "$work/image"
mkdir "$work/m"
dev=$(losetup -f --show "$work/image")
mkfs.exfat "$dev" >/dev/null
mount.exfat-fuse "$dev" "$work/m"

time_of() { stat --cached=never -c %Y "$1"; }
mkdir "$work/m/d"
: >"$work/m/d/a"
made=$(time_of "$work/m/d")
sleep 5 # its times have steps of 2 s
mv "$work/m/d/a" "$work/m/d/b"
renamed=$(time_of "$work/m/d")
: >"$work/m/d/c"
created=$(time_of "$work/m/d")
echo "5 s after a file was made in it the directory's time moves by $((renamed - made)) s when that is renamed, and by $((created - made)) s when another is made"
[ "$renamed" = "$made" ] && [ "$created" -gt "$made" ] || { echo "it is not so any more" >&2; exit 1; }
