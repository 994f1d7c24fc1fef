#!/usr/bin/env bash
# etcd 3.4.23 (Debian 12; the Go package client/v3/leasing v3.7.3 does the same): behind a leasing
# proxy a key that expired is still there, for as long as the proxy runs. The proxy keeps a key that was
# asked for, and tells etcd that it does, so that who writes through another such proxy takes it back
# first. A key is not kept if it has a lease, since etcd itself will remove it then and tell
# nobody. But that is looked at only when the key is read. One that was read while it did not exist, and
# is then put with a lease through the same proxy, is kept, without its lease; and those are
# just the steps of a lock: look whether it is free, and take it with a lease.
#
# Expected: when a lease has run out its keys are gone, for all who ask: the package's manual promises
# linearizable reads, if all writers use it. The holder of this lock is dead, its lease is
# over, etcd itself says that there is no such key, and all who ask at that proxy wait for ever.
# Neither the package's manual nor the proxy's --help says a word about keys with leases.
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

lease=$(at "$proxy" lease grant 2 | cut -d ' ' -f 2)
echo "before: '$(at "$proxy" get --print-value-only lock)'"
at "$proxy" put --lease="$lease" lock alice >/dev/null
sleep 10
left=$(at "$server" lease timetolive "$lease")
direct=$(at "$server" get --print-value-only lock)
behind=$(at "$proxy" get --print-value-only lock)
again=$(at "$server" get --print-value-only lock)
echo "10 s after a put with a lease of 2 s: $left; etcd has '$direct', the proxy '$behind'"
[ -z "$direct" ] && [ -z "$again" ] && [ "$behind" = alice ] || { echo "it is not so any more" >&2; exit 1; }
