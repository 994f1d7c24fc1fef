#!/usr/bin/env bash
# Linux 6.1 (Debian 12's user-mode-linux 6.1um4, nfs-utils 2.6.2), as NFSv4.1 server and client: a file that
# is made with O_EXCL has for a while a time of last change that is not a time. The server puts the
# request's verifier there, and Linux clients send the clock ticks since they started: it reads
# 2038-01-18 while the client has been up for less than 5 minutes, begins with 1970 then (seen after
# 310 s: 1970-01-01 01:05:53), and is months or years further with each day. Only the client's next
# request, SETATTR, puts the present in. If that is late, or never comes because the client
# was cut off or has died, the file stays as it is, for everybody who looks.
#
# Expected: a new file's time is the present, from its first moment on. Lock files are made with O_EXCL, and
# are said to be stale when that time is long ago. One that has just been made can be decades old to
# whoever looks before the second request, and is broken then though its maker lives; one whose maker
# died there may not be stale for ten years. The time of change of status (ctime) is right all along.
# RFC 5661 (18.16.3) allows a server to keep a verifier in attributes. open(2) and nfs(5) do not say it.
#
# It takes that kernel, which runs as a program, and what NFS needs from Debian, into a temporary folder.
# Client and server are in that kernel, with a relay between them that holds the client's
# next request for 5 s. It needs root, python3 and e2fsprogs. It fails if what is said here is no longer so.
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
	/usr/bin/python3 - /mnt/server/lock <<-'PY' &
		import os, socket, sys, threading, time

		held = threading.Event()

		def pass_on(a, b, from_client):
		    while d := a.recv(65536):
		        if from_client and not held.is_set() and os.path.exists(sys.argv[1]):
		            held.set()
		            time.sleep(5)
		        b.sendall(d)

		listener = socket.create_server(("127.0.0.1", 3049))
		while True:
		    client = listener.accept()[0]
		    server = socket.create_connection(("127.0.0.1", 2049))
		    for args in (client, server, True), (server, client, False):
		        threading.Thread(target=pass_on, args=args, daemon=True).start()
	PY
	for _ in $(seq 40); do
		sleep 0.5
		mount.nfs4 127.0.0.1:/ /mnt/client -o vers=4.1,port=3049,hard,noresvport && break
	done
	touch /mnt/client/first # when the server lets the first one in
	(set -o noclobber && : >/mnt/client/lock) & # O_EXCL
	maker=$!
	for _ in $(seq 1000); do
		[ ! -e /mnt/server/lock ] || break
		sleep 0.01
	done
	sleep 0.5
	stat -c 'it is there, the next request is under way: mtime %y, ctime %z' /mnt/server/lock
	first=$(stat -c %Y /mnt/server/lock)
	wait $maker
	stat -c 'the next request has been carried out: mtime %y, ctime %z' /mnt/server/lock
	last=$(stat -c %Y /mnt/server/lock) now=$(date +%s)
	echo "years off: $(((first - now) / 31557600)), then $(((last - now) / 31557600))"
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
grep -Eq '^years off: (1[0-9]|-[3-9][0-9]), then 0$' out || { echo "it is not so any more" >&2; cat err boot | tail -n 30 >&2; exit 1; }
