#!/bin/sh
# redis-server 7.0.15 (Debian 12): a SCAN that is under way while the server restarts ends without
# an error, and leaves out keys that were there before, during and after it. The cursor of the old
# process is taken by the new one as if it were its own. But it is a place in a hash table, and the
# seed of the hash is another after each start, so the new process has other keys at the places
# that were looked at already. Seen: of 20,000 keys, looked at by half before the restart,
# about a quarter never came (4,900 to 5,100), and about as many came twice. A client that connects again by itself, as nearly all do,
# gets a listing that ends well and is short.
#
# It installs redis-server and redis-tools from Debian where they are missing, and talks to a server
# of its own over a socket. It fails if what is said here is no longer so.
set -eu
command -v redis-server >/dev/null && command -v redis-cli >/dev/null ||
	apt-get install -y -qq --no-install-recommends redis-server redis-tools >/dev/null
work=$(mktemp -d)
cli() { redis-cli -s "$work/s" "$@"; }
cleanup() {
	cli shutdown nosave >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
start() {
	redis-server --port 0 --unixsocket "$work/s" --dir "$work" --save '' --appendonly no --daemonize yes --logfile "$work/log" >/dev/null
	for _ in $(seq 200); do
		[ "$(cli ping 2>/dev/null)" != PONG ] || return 0
		sleep 0.05
	done
	cat "$work/log" >&2
	exit 2
}
# scan STEPS: goes on from $cursor, at most so many steps.
scan() {
	for _ in $(seq "$1"); do
		cli scan "$cursor" count 1000 >"$work/page"
		cursor=$(head -n 1 "$work/page")
		tail -n +2 "$work/page" >>"$work/seen"
		[ "$cursor" != 0 ] || break
	done
}

start
redis-server --version | cut -d ' ' -f 1-3
seq -f 'SET key%.0f x' 20000 | cli >/dev/null
cursor=0
scan 10
half=$(sort -u "$work/seen" | wc -l)
cli shutdown save >/dev/null
start
[ "$(cli dbsize)" = 20000 ] || { echo "the server came back without all keys" >&2; exit 2; }
scan 100
[ "$cursor" = 0 ] || { echo "the listing did not end" >&2; exit 1; }
all=$(sort -u "$work/seen" | wc -l)
echo "keys: 20000; found before the restart: $half; found when the listing had ended: $all; missed: $((20000 - all))"
[ "$all" -lt 18000 ] || { echo "it is no longer so: nearly all keys were found" >&2; exit 1; }
