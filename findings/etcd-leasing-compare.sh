#!/usr/bin/env bash
# etcd 3.4.23 (Debian 12; the Go package client/v3/leasing v3.7.3 does the same): at a leasing proxy
# a key that does not exist is equal to everything. When the proxy has the keys of a transaction that
# writes nothing, it evaluates the comparisons itself, and for a key that it knows to be missing it
# looks at nothing: "=" holds, with any value, version, revision or lease, and "!=", "<" and ">" do not.
#
# Expected: the server's answer, which is that a missing key has version and revisions 0 and no value. So
# the question that every lock on etcd is built on, "has this key still the create revision that it
# had when I took it?" (IsOwner of the package concurrency), is answered with yes at the proxy when the
# lock has been deleted, if somebody has looked at the key since. Nothing about it is in the
# package's manual, nor in the proxy's. (At the server a comparison of a missing key's value is
# always false, with "!=" as well as with "=". That is not in the manual either.)
#
# It takes etcd-server and etcd-client from Debian into a temporary folder, and starts a server and a
# proxy on free ports of 127.0.0.1. It needs python3. It fails if what is said here is no longer so.
set -euo pipefail
work=$(mktemp -d)
pids=
trap '{ [ -z "$pids" ] || kill -KILL $pids; wait $pids; } 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
get() { (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq etcd-server=3.4.23-4+b4 etcd-client=3.4.23-4+b4 >/dev/null); }
get 2>/dev/null || { apt-get update -qq && get; }
for d in "$work"/*.deb; do dpkg -x "$d" "$work/root"; done
export PATH=$work/root/usr/bin:$PATH ETCDCTL_API=3
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
server=127.0.0.1:$(port) proxy=127.0.0.1:$(port) peer=http://127.0.0.1:$(port)
etcd --data-dir "$work/data" --listen-client-urls "http://$server" --advertise-client-urls "http://$server" --listen-peer-urls "$peer" \
	--initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" >"$work/etcd.log" 2>&1 &
pids=$!
etcd grpc-proxy start --endpoints "$server" --listen-addr "$proxy" --experimental-leasing-prefix leasing/ >"$work/proxy.log" 2>&1 &
pids="$pids $!"
at() { timeout 20 etcdctl --command-timeout=10s --endpoints "$@"; }
up=
for _ in $(seq 100); do
	! at "$proxy" get x >/dev/null 2>&1 || { up=yes; break; }
	sleep 0.2
done
[ -n "$up" ] || { cat "$work"/*.log >&2; exit 2; }
etcd --version | sed -n 1p

# ask COMPARISON: the server's answer, and the proxy's, with whether they are the ones told of
ask() {
	local s p
	s=$(printf '%s\n\n\n\n' "$1" | at "$server" txn | sed -n 1p)
	p=$(printf '%s\n\n\n\n' "$1" | at "$proxy" txn | sed -n 1p)
	echo "$1: server $s, proxy $p"
	[ "$s $p" = "$2" ] || { echo "it is not so any more" >&2; exit 1; }
}
at "$proxy" put lock alice >/dev/null
revision=$(at "$proxy" get -w fields lock | sed -n 's/^"CreateRevision" : //p')
ask "create(\"lock\") = \"$revision\"" "SUCCESS SUCCESS"
ask "create(\"lock\") = \"$((revision + 1))\"" "FAILURE FAILURE"
at "$proxy" del lock >/dev/null
echo "the key is deleted; a look at the proxy shows '$(at "$proxy" get lock)'"
ask "create(\"lock\") = \"$revision\"" "FAILURE SUCCESS"
ask 'mod("lock") = "123456789"' "FAILURE SUCCESS"
ask 'val("lock") = "bob"' "FAILURE SUCCESS"
ask 'val("lock") != "bob"' "FAILURE FAILURE"
ask 'ver("lock") = "0"' "SUCCESS SUCCESS"
ask 'ver("lock") < "7"' "SUCCESS FAILURE"
