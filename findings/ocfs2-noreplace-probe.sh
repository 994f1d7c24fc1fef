#!/usr/bin/env bash
# Linux 6.1 (Debian 12's user-mode-linux 6.1um4) with ocfs2-tools 1.8.7: on OCFS2 renameat2 with
# RENAME_NOREPLACE answers EEXIST if the target exists, as promised, and EINVAL if it does not: it is
# never carried out. The kernel looks at the target before it asks the file system whether it knows the flag.
# On ext4 the same two calls answer EEXIST and success.
#
# Expected: a program that wants to know whether a file system knows the flag tries it where nothing can go wrong,
# on a target that exists, and takes EEXIST for yes; manual pages say of EINVAL that the file system does
# not know one of the flags, and nothing of when that is said. Here that program is told yes, and
# its first rename that matters fails. The flag is only known where one without a target succeeds.
#
# It takes the kernel, which runs as a program, kmod and ocfs2-tools from Debian, into a temporary folder. It
# needs root, e2fsprogs and python3, and takes 10 to 40 s. It fails if what is said here is no longer so.
set -euo pipefail

if [ $$ = 1 ]; then # in that kernel, which has put work=... of its command line into the environment
	export PATH=/usr/sbin:/usr/bin:/sbin:/bin
	mount -t proc proc /proc
	exec >"$work/out" 2>&1
	trap 'echo o >/proc/sysrq-trigger; sleep 10' EXIT
	uname -sr
	for m in configfs/configfs quota/quota_tree ocfs2/cluster/ocfs2_nodemanager ocfs2/ocfs2_stackglue ocfs2/ocfs2; do
		"$work/root/bin/insmod" "$work/root/usr/lib/uml/modules/$(uname -r)/kernel/fs/$m.ko"
	done
	mount -i -t ext4 /dev/ubda "$work/ext4"
	mount -i -t ocfs2 /dev/ubdb "$work/ocfs2"
	for fs in ext4 ocfs2; do
		cd "$work/$fs"
		: >a
		: >b
		python3 - "$fs" <<'PY'
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NOREPLACE = -100, 1
def rename(a, b):
    if libc.renameat2(AT_FDCWD, a, AT_FDCWD, b, NOREPLACE) == 0:
        return "success"
    return errno.errorcode[ctypes.get_errno()]
print(f"{sys.argv[1]}: onto a name that exists {rename(b'a', b'b')}, to a new one {rename(b'a', b'c')}")
PY
	done
	exit
fi

[ "$(id -u)" = 0 ] && command -v mkfs.ext4 >/dev/null && command -v python3 >/dev/null || { echo "needs root, e2fsprogs and python3" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
self=$(realpath "$0")
cd "$work"
get() { apt-get -o APT::Sandbox::User=root download -qq user-mode-linux kmod ocfs2-tools libdlm3 libcmap4 libqb100 libaio1 >/dev/null; }
get 2>/dev/null || { apt-get update -qq && get; }
for d in *.deb; do dpkg -x "$d" root; done
ln -s kmod root/bin/insmod
mkdir ext4 ocfs2
truncate -s 100M disk0
truncate -s 300M disk1
mkfs.ext4 -q disk0
libs=$(find "$work/root" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:)
LD_LIBRARY_PATH=$libs root/sbin/mkfs.ocfs2 -q -F -M local disk1 2>mkfs || { cat mkfs >&2; exit 1; }
timeout -k 5 100 root/usr/bin/linux.uml mem=256M rootfstype=hostfs rootflags=/ rw "init=$self" "work=$work" \
	"ubd0=$work/disk0" "ubd1=$work/disk1" "uml_dir=$work/" con=null con0=null,fd:1 </dev/null >"$work/boot" 2>&1 || true
cat out
grep -q '^ext4: onto a name that exists EEXIST, to a new one success$' out &&
	grep -q '^ocfs2: onto a name that exists EEXIST, to a new one EINVAL$' out ||
	{ echo "it is not so any more" >&2; tail -n 20 boot >&2; exit 1; }
