#!/bin/sh
# sshfs 3.7.3 (Debian 12; OpenSSH 9.2p1, fuse 3.14): a stat that must not be answered from a cache
# (statx with AT_STATX_FORCE_SYNC, here stat --cached=never) is answered from sshfs's own, which is
# up to 20 s old, while a listing made in the same moment shows the names of now. So of one
# directory the names are new and the time is old, and a program that takes a name that is there for
# as old as the directory's last change is wrong. The kernel's flag ends at the kernel: FUSE has no
# way to pass it on. With -o dir_cache=no the time is that of now.
#
# It installs sshfs and openssh-server from Debian where they are missing, starts an sshd of
# its own on 127.0.0.1, and mounts one directory twice. It needs root and /dev/fuse. It fails if
# what is said here is no longer so.
set -eu
[ "$(id -u)" = 0 ] && [ -c /dev/fuse ] || { echo "needs root and /dev/fuse" >&2; exit 2; }
command -v sshfs >/dev/null && [ -x /usr/sbin/sshd ] || apt-get install -y -qq --no-install-recommends sshfs openssh-server >/dev/null
work=$(mktemp -d)
sshd=
cleanup() {
	for m in a b c; do umount "$work/$m" 2>/dev/null || true; done
	[ -z "$sshd" ] || kill "$sshd" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
mkdir -p /run/sshd "$work/srv/d" "$work/a" "$work/b" "$work/c"
: >"$work/srv/d/first"
ssh-keygen -q -t ed25519 -N '' -f "$work/host"
ssh-keygen -q -t ed25519 -N '' -f "$work/user"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
/usr/sbin/sshd -D -f /dev/null -p "$port" -h "$work/host" -E "$work/log" -o ListenAddress=127.0.0.1 -o PidFile=none -o UsePAM=no \
	-o StrictModes=no -o PasswordAuthentication=no -o PermitRootLogin=prohibit-password -o AuthorizedKeysFile="$work/user.pub" \
	-o "Subsystem=sftp internal-sftp" &
sshd=$!
sleep 1
o=IdentityFile=$work/user,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR,port=$port
sshfs -o "$o" "root@127.0.0.1:$work/srv" "$work/a"
sshfs -o "$o" "root@127.0.0.1:$work/srv" "$work/b"
sshfs -o "$o,dir_cache=no" "root@127.0.0.1:$work/srv" "$work/c"
sshfs -V 2>&1 | grep -i "sshfs version"

before=$(stat --cached=never -c %Y "$work/b/d") # b remembers it
stat --cached=never -c %Y "$work/c/d" >/dev/null
sleep 3
mv "$work/a/d/first" "$work/a/d/second"
names=$(ls "$work/b/d")
b=$(stat --cached=never -c %Y "$work/b/d") c=$(stat --cached=never -c %Y "$work/c/d") real=$(stat -c %Y "$work/srv/d")
echo "the directory's time was $before and is $real; the other mount lists '$names' and says $b; one without a cache says $c"
[ "$names" = second ] && [ "$b" = "$before" ] && [ "$b" -lt "$real" ] && [ "$c" = "$real" ] ||
	{ echo "it is not so any more" >&2; exit 1; }
