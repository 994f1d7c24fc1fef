#!/usr/bin/env bash
# Linux 6.1 (Debian 12's user-mode-linux 6.1um4; 6.18 does the same): on overlayfs a directory's time
# of last change goes BACK. A file of the lower layer that is opened for writing is copied up, and
# when the copy is complete the kernel gives its directory the time that it had when the copy
# began, for no name has changed by that. What others did in the directory meanwhile is forgotten
# with it: the new names are there, with the old time, as if they had always been.
#
# Expected: a name that changes in a directory moves its time forward, for good. Who reads a directory
# again only when its time has changed, or takes its time for the last sign of life in it, is
# wrong after somebody has opened a large file beside it: in a container, any file of the
# image. The kernel's text on overlayfs lists ways in which it is no POSIX file system, and not
# this one; the source has it ("restore timestamps on parent" in fs/overlayfs/copy_up.c).
#
# It takes the kernel, which runs as a program, and kmod from Debian, into a temporary folder. It
# needs root and e2fsprogs, and takes 15 to 60 s. It fails if what is said here is no longer so.
set -euo pipefail

if [ $$ = 1 ]; then # in that kernel, which has put work=... of its command line into the environment
	export PATH=/usr/sbin:/usr/bin:/sbin:/bin
	mount -t proc proc /proc
	exec >"$work/out" 2>&1
	trap 'echo o >/proc/sysrq-trigger; sleep 10' EXIT
	uname -sr
	"$work/root/bin/insmod" "$work/root/usr/lib/uml/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
	mount -t ext4 /dev/ubda "$work/m"
	cd "$work/m"
	mkdir -p lower/d upper work all
	for i in 1 2 3 4; do head -c 24M /dev/zero >lower/d/large$i; done
	mount -o remount,sync "$work/m" # the copy takes some seconds now, as that of a larger file
	mount -t overlay overlay -o "lowerdir=$PWD/lower,upperdir=$PWD/upper,workdir=$PWD/work" all
	: >all/d/name0
	i=0
	for pause in 0.02 0 0.1 0.3; do # the name is to be changed while the copy is made, which may need some tries
		i=$((i + 1))
		before=$(stat -c %.9Y all/d)
		sleep 0.5
		: >>all/d/large$i & # opens it for writing, and writes nothing
		sleep $pause
		mv all/d/name* all/d/name$i
		during=$(stat -c %.9Y all/d)
		wait
		after=$(stat -c %.9Y all/d)
		echo "a name changes, $(cd all/d && echo name*); the directory's time 0.5 s before: $before, then: $during, when the copy is complete: $after"
		[ "$after" != "$before" ] || break
	done
	exit
fi

[ "$(id -u)" = 0 ] && command -v mkfs.ext4 >/dev/null || { echo "needs root and e2fsprogs" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
self=$(realpath "$0")
cd "$work"
get() { apt-get -o APT::Sandbox::User=root download -qq user-mode-linux kmod >/dev/null; }
get 2>/dev/null || { apt-get update -qq && get; }
for d in *.deb; do dpkg -x "$d" root; done
ln -s kmod root/bin/insmod
mkdir m
truncate -s 500M disk
mkfs.ext4 -q -E lazy_itable_init=0 disk
timeout -k 5 100 root/usr/bin/linux.uml mem=256M rootfstype=hostfs rootflags=/ rw "init=$self" "work=$work" \
	"ubd0=$work/disk" "uml_dir=$work/" con=null con0=null,fd:1 </dev/null >"$work/boot" 2>&1 || true
cat out
grep -Eq 'before: ([0-9.]+), .* complete: \1$' out || { echo "it is not so any more" >&2; tail -n 20 boot >&2; exit 1; }
