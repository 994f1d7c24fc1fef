#!/usr/bin/env bash
# Linux 6.1 as NFSv4.1 client (Debian 12's user-mode-linux 6.1um4, nfs-utils 2.6.2): a directory that another host
# has moved cannot be moved on by a host that knows it from its old place. rename(2) fails with ESTALE,
# "stale file handle", without a request to the server and however often it is repeated,
# though the directory is there and everything else works. One stat(2) of its new name, and
# the same rename succeeds.
#
# Expected: the rename is carried out, as it is by a host that has never seen the directory before, and as
# it is with a file in its place; or at least that a repetition helps, since the
# kernel itself looks names up anew after ESTALE. But a directory has one place in a client's memory.
# A lookup that finds it elsewhere moves it there, for which it has to lock renames of the whole
# file system; the lookup is a part of a rename, which has that lock already, and so it gives up.
# rename(2) says nothing of ESTALE, and nfs(5) tells of it only for what was deleted.
# Rotating directories between hosts (spools, queues, locks) meets this.
#
# It takes that kernel, which runs as a program, and what NFS needs from Debian, into a temporary folder.
# Client and server are in that kernel; what the other host does is done at the server. It
# needs root, python3 and e2fsprogs. It fails if what is said here is no longer so.
set -euo pipefail

if [ $$ = 1 ]; then # in that kernel, which has put work=... of its command line into the environment
	export PATH=$work/root/bin:$work/root/usr/sbin:$work/root/sbin:/usr/sbin:/usr/bin:/sbin:/bin
	export LD_LIBRARY_PATH=$work/root/lib/x86_64-linux-gnu:$work/root/usr/lib/x86_64-linux-gnu
	mount -t proc proc /proc
	exec >"$work/out" 2>"$work/err"
	trap 'echo o >/proc/sysrq-trigger; sleep 10' EXIT
	echo "$(uname -sr), up for $(cut -d . -f 1 /proc/uptime) s; $(mount.nfs4 -V | tr -d '\n')"
	mount --bind "$work/etc" /etc
	for t in run var/lib mnt; do mount -t tmpfs tmpfs "/$t"; done
	mkdir -p /var/lib/nfs/v4recovery /mnt/server /mnt/client
	touch /var/lib/nfs/etab /var/lib/nfs/rmtab
	ip link set lo up
	mount -t ext4 /dev/ubda /mnt/server
	echo "$work/modprobe" >/proc/sys/kernel/modprobe # which the kernel calls for what it lacks
	"$work/modprobe" nfsd
	"$work/modprobe" nfsv4
	mount -t nfsd nfsd /proc/fs/nfsd
	exportfs -o rw,no_root_squash,fsid=0,insecure,no_subtree_check,sync '*:/mnt/server'
	rpc.mountd -N 3 --no-udp -p 20048
	rpc.nfsd -N 3 -U --lease-time 10 --grace-time 10 2
	for _ in $(seq 40); do
		sleep 0.5
		mount.nfs4 127.0.0.1:/ /mnt/client -o vers=4.1,hard,noresvport && break
	done
	touch /mnt/client/first # when the server lets the first one in
	/usr/bin/python3 - <<-'PY'
		import os

		server, client = "/mnt/server/", "/mnt/client/"

		def made(what, path):
		    os.mkdir(path) if what == "directory" else open(path, "x").close()

		def rename(of, to):
		    try:
		        os.rename(client + of, client + to)
		        return "done"
		    except OSError as e:
		        return os.strerror(e.errno)

		for what in "directory", "file":
		    for d in "a", "b", "c":
		        os.mkdir(server + what + d)
		    made(what, server + what + "a/x")
		    os.stat(client + what + "a/x")  # so the client knows it
		    os.rename(server + what + "a/x", server + what + "b/x")  # another host moves it
		    tries = [rename(what + "b/x", what + "c/x") for _ in range(100)]
		    print(f"{what}: rename, 100 times: " + ", ".join(f"{tries.count(t)} x {t}" for t in sorted(set(tries))))
		    if tries[-1] != "done" and "done" not in tries:
		        os.stat(client + what + "b/x")
		        print(f"{what}: rename after a stat: " + rename(what + "b/x", what + "c/x"))
	PY
	exit
fi

[ "$(id -u)" = 0 ] && command -v mkfs.ext4 >/dev/null && [ -x /usr/bin/python3 ] || { echo "needs root, e2fsprogs and python3" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
self=$(realpath "$0")
cd "$work"
get() {
	apt-get -o APT::Sandbox::User=root download -qq user-mode-linux kmod nfs-common nfs-kernel-server libtirpc3 libtirpc-common \
		libnfsidmap1 libevent-core-2.1-7 libwrap0 libkeyutils1 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 >/dev/null
}
get 2>/dev/null || { apt-get update -qq && get; }
for d in *.deb; do dpkg -x "$d" root; done
cp -a /etc etc
cp root/etc/netconfig etc/
: >etc/exports
ln -s kmod root/bin/modprobe
mkdir -p mod/lib
ln -s "$work/root/usr/lib/uml/modules" mod/lib/modules
printf '#!/bin/sh\nexec "%s" -d "%s" "$@"\n' "$work/root/bin/modprobe" "$work/mod" >modprobe
chmod +x modprobe
truncate -s 32M disk
mkfs.ext4 -q disk
timeout -k 5 110 root/usr/bin/linux.uml mem=256M rootfstype=hostfs rootflags=/ rw "init=$self" "work=$work" \
	"ubd0=$work/disk" "uml_dir=$work/" con=null con0=null,fd:1 </dev/null >boot 2>&1 || true
cat out
grep -q '^directory: rename, 100 times: 100 x Stale file handle$' out &&
	grep -q '^directory: rename after a stat: done$' out &&
	grep -q '^file: .*1 x done' out || { echo "it is not so any more" >&2; cat err boot | tail -n 30 >&2; exit 1; }
