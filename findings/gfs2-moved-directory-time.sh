#!/usr/bin/env bash
# Linux 6.1 (Debian 12's user-mode-linux 6.1um4) with gfs2-utils 3.5.0: on GFS2 a directory that is
# moved into another directory gets a new time of last modification ITSELF, although no name in it
# has changed. On ext4 it keeps its own; so it does on xfs, btrfs, jfs, reiserfs, udf and ocfs2, which were tried
# beside it. Renamed within its directory it keeps it on GFS2, too. (minix does it in both cases.)
#
# Expected: a rename changes the two directories that the name leaves and comes to. What is moved keeps
# its mtime, as everybody who sorts, caches or copies by it relies on: a directory's mtime says when
# a name in it was last made or taken away. On GFS2 "nothing has changed in it since" is wrong
# after a mv, and a directory is not known again by its number and mtime. The cause is its
# entry "..", which has to name another directory then, and counts as one that has changed.
#
# It takes the kernel, which runs as a program, kmod and gfs2-utils from Debian, into a temporary folder. It
# needs root and e2fsprogs, and takes 10 to 40 s. It fails if what is said here is no longer so.
set -euo pipefail

if [ $$ = 1 ]; then # in that kernel, which has put work=... of its command line into the environment
	export PATH=/usr/sbin:/usr/bin:/sbin:/bin
	mount -t proc proc /proc
	exec >"$work/out" 2>&1
	trap 'echo o >/proc/sysrq-trigger; sleep 10' EXIT
	uname -sr
	for m in configfs/configfs dlm/dlm gfs2/gfs2; do
		"$work/root/bin/insmod" "$work/root/usr/lib/uml/modules/$(uname -r)/kernel/fs/$m.ko"
	done
	mount -i -t ext4 /dev/ubda "$work/ext4"
	mount -i -t gfs2 /dev/ubdb "$work/gfs2"
	for fs in ext4 gfs2; do
		cd "$work/$fs"
		mkdir -p from/moved to
		: >from/moved/file
		before=$(stat -c %.9Y from/moved)
		sleep 1.1
		mv from/moved from/renamed
		within=$(stat -c %.9Y from/renamed)
		sleep 1.1
		mv from/renamed to/
		across=$(stat -c %.9Y to/renamed)
		echo "$fs: its mtime is $before, renamed in its directory $within, moved to another $across"
	done
	exit
fi

[ "$(id -u)" = 0 ] && command -v mkfs.ext4 >/dev/null || { echo "needs root and e2fsprogs" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
self=$(realpath "$0")
cd "$work"
get() { apt-get -o APT::Sandbox::User=root download -qq user-mode-linux kmod gfs2-utils >/dev/null; }
get 2>/dev/null || { apt-get update -qq && get; }
for d in *.deb; do dpkg -x "$d" root; done
ln -s kmod root/bin/insmod
mkdir ext4 gfs2
truncate -s 100M disk0
truncate -s 300M disk1
mkfs.ext4 -q disk0
root/usr/sbin/mkfs.gfs2 -q -O -p lock_nolock -j 1 -J 32 disk1
timeout -k 5 100 root/usr/bin/linux.uml mem=256M rootfstype=hostfs rootflags=/ rw "init=$self" "work=$work" \
	"ubd0=$work/disk0" "ubd1=$work/disk1" "uml_dir=$work/" con=null con0=null,fd:1 </dev/null >"$work/boot" 2>&1 || true
cat out
ok=1
grep -Eq '^ext4: its mtime is ([0-9.]+), renamed in its directory \1, moved to another \1$' out || ok=
grep -Eq '^gfs2: its mtime is ([0-9.]+), renamed in its directory \1, moved to another [0-9.]+$' out || ok=
grep -Eq '^gfs2: its mtime is ([0-9.]+), .* another \1$' out && ok=
[ "$ok" ] || { echo "it is not so any more" >&2; tail -n 20 boot >&2; exit 1; }
