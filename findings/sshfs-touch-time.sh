#!/bin/sh
# sshfs 3.7.3 (Debian 12; OpenSSH 9.2p1, libfaketime 0.9.10): a touch that names no time (utimensat with
# UTIME_NOW, "the present, by whoever keeps the file") writes the time of the host that has
# mounted, not the server's; a directory that is made, or in which a name changes, gets the server's.
# NFS sends "now" and lets the server fill it in. So on sshfs a touched file does not tell the
# server's time, and comparing its time with a directory's compares two hosts' clocks.
#
# It installs sshfs, openssh-server and faketime from Debian where they are missing, starts an sshd
# of its own on 127.0.0.1, and mounts a directory with an sshfs whose clock is an hour ahead. It
# needs root and /dev/fuse. It fails if what is said here is no longer so.
set -eu
[ "$(id -u)" = 0 ] && [ -c /dev/fuse ] || { echo "needs root and /dev/fuse" >&2; exit 2; }
lib() { find /usr/lib -name libfaketime.so.1 2>/dev/null | head -n 1; }
command -v sshfs >/dev/null && [ -x /usr/sbin/sshd ] && [ -n "$(lib)" ] ||
	apt-get install -y -qq --no-install-recommends sshfs openssh-server faketime >/dev/null
work=$(mktemp -d)
sshd=
cleanup() {
	umount "$work/a" 2>/dev/null || true
	[ -z "$sshd" ] || kill "$sshd" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
mkdir -p /run/sshd "$work/srv" "$work/a"
ssh-keygen -q -t ed25519 -N '' -f "$work/host"
ssh-keygen -q -t ed25519 -N '' -f "$work/user"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
/usr/sbin/sshd -D -f /dev/null -p "$port" -h "$work/host" -E "$work/log" -o ListenAddress=127.0.0.1 -o PidFile=none -o UsePAM=no \
	-o StrictModes=no -o PasswordAuthentication=no -o PermitRootLogin=prohibit-password -o AuthorizedKeysFile="$work/user.pub" \
	-o "Subsystem=sftp internal-sftp" &
sshd=$!
sleep 1
LD_PRELOAD=$(lib) FAKETIME=+3600 FAKETIME_DONT_FAKE_MONOTONIC=1 \
	sshfs -o "IdentityFile=$work/user,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR,port=$port" "root@127.0.0.1:$work/srv" "$work/a"
sshfs -V 2>&1 | grep -i 'sshfs version'

now=$(date +%s)
touch "$work/a/file"
mkdir "$work/a/dir"
file=$(($(stat -c %Y "$work/srv/file") - now)) dir=$(($(stat -c %Y "$work/srv/dir") - now))
echo "on the server a touched file's time is $file s ahead, and a new directory's $dir s"
[ "$file" -ge 3590 ] && [ "$dir" -lt 60 ] || { echo "it is not so any more" >&2; exit 1; }
