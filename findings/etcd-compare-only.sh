#!/usr/bin/env bash
# etcd 3.4.23 (Debian 12; 3.7.3 has the same lines): a transaction that compares and does nothing else is
# answered from one member's memory, without asking the others. So a member that is cut off goes on to
# say "yes, it is yours" of a lock that has long been another's, while it answers no plain get.
#
# Expected: the answer of a majority, or an error. The manual says of every request but a range read that
# asks for "serializable", and watches, that it is linearizable, and there is no way to ask for less in
# a transaction but in each read that it has. The server asks the others if one of the operations
# is a read that did not ask for less; where there is no operation, none is found. So what looks like the
# surest question to ask, Txn().If(mutex.IsOwner()).Commit(), is the one that proves nothing; with
# one Get in its Then, of whatever key, it is answered by a majority.
#
# It takes etcd-server and etcd-client from Debian into a temporary folder, and starts three members in two
# network namespaces that a cable joins, which is then pulled. It needs root and iproute2. It takes
# 30 s, and fails if what is said here is no longer so.
set -euo pipefail
[ "$(id -u)" = 0 ] && command -v ip >/dev/null || { echo "needs root and iproute2" >&2; exit 2; }
work=$(mktemp -d)
alone=findings$$a majority=findings$$b pids=
cleanup() {
	{ [ -z "$pids" ] || kill -KILL $pids; wait $pids; } 2>/dev/null || true
	for n in $alone $majority; do ip netns del "$n" 2>/dev/null || true; done
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
get() { (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq etcd-server=3.4.23-4+b4 etcd-client=3.4.23-4+b4 >/dev/null); }
get 2>/dev/null || { apt-get update -qq && get; }
for d in "$work"/*.deb; do dpkg -x "$d" "$work/root"; done
export PATH=$work/root/usr/bin:$PATH ETCDCTL_API=3

ip netns add $alone
ip netns add $majority
ip -n $alone link add cable type veth peer name cable netns $majority
ip -n $alone addr add 192.0.2.1/24 dev cable
ip -n $majority addr add 192.0.2.2/24 dev cable
for n in $alone $majority; do ip -n "$n" link set lo up && ip -n "$n" link set cable up; done
member() { # NAMESPACE NAME ADDRESS CLIENTPORT PEERPORT
	ip netns exec "$1" etcd --name "$2" --data-dir "$work/$2" --listen-client-urls "http://$3:$4" --advertise-client-urls "http://$3:$4" \
		--listen-peer-urls "http://$3:$5" --initial-advertise-peer-urls "http://$3:$5" \
		--initial-cluster a=http://192.0.2.1:1001,b=http://192.0.2.2:1001,c=http://192.0.2.2:1003 >"$work/$2.log" 2>&1 &
	pids="$pids $!"
}
member $alone a 192.0.2.1 1000 1001
member $majority b 192.0.2.2 1000 1001
member $majority c 192.0.2.2 1002 1003
at_a() { ip netns exec $alone timeout 20 etcdctl --command-timeout=5s --endpoints 192.0.2.1:1000 "$@"; }
at_b() { ip netns exec $majority timeout 20 etcdctl --command-timeout=5s --endpoints 192.0.2.2:1000 "$@"; }
try() { # COMMAND...: until it succeeds
	for _ in $(seq 20); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.5
	done
	tail -n 5 "$work"/*.log >&2
	exit 2
}
etcd --version | sed -n 1p
try at_a put lock alice
ip -n $alone link set cable down
try at_b put lock bob # when the other two have a leader
sleep 5
echo "the majority: lock is '$(at_b get --print-value-only lock)'"
plain=$(at_a get lock 2>/dev/null) || plain="error"
compared=$(printf 'val("lock") = "alice"\n\n\n\n' | at_a txn 2>/dev/null | sed -n 1p) || compared="error"
with_get=$(printf 'val("lock") = "alice"\n\nget x\n\nget x\n\n' | at_a txn 2>/dev/null | sed -n 1p) || with_get="error"
echo "the member that is cut off: get: $plain; is it alice's, with a get beside it: $with_get; is it alice's: $compared"
[ "$plain $compared $with_get" = "error SUCCESS error" ] || { echo "it is not so any more" >&2; exit 1; }
