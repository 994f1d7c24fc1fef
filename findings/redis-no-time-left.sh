#!/bin/sh
# redis-server 7.0.15 (Debian 12): a key that is there, and will expire, can have a PTTL of 0. In one
# transaction GET gives its value and PTTL says 0: in the last millisecond the key is not over yet,
# since it goes when the clock has passed its time and not when it has reached it, and nothing
# is left. The command's manual knows -2 for no key and -1 for one that stays, and a program
# that takes 0 for "not known" or "no time set" is wrong once in a while: about once for each
# thousand looks in a key's last second. TTL rounds, and says 0 for the whole last half second.
#
# It installs redis-server and python3 from Debian where they are missing, and talks to a server
# of its own over a socket. It fails if what is said here is no longer so.
set -eu
command -v redis-server >/dev/null && command -v python3 >/dev/null ||
	apt-get install -y -qq --no-install-recommends redis-server python3 >/dev/null
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
redis-server --version | cut -d ' ' -f 1-3
redis-server --port 0 --unixsocket "$work/s" --dir "$work" --save '' --appendonly no >"$work/log" &
server=$!
python3 - "$work/s" <<'PY'
import socket, sys, time

s = socket.socket(socket.AF_UNIX)
for _ in range(200):
    try:
        s.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.05)
f = s.makefile("rb")


def ask(*args):
    s.sendall(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in map(str.encode, args)))


def answer():
    line = f.readline().strip()
    kind, rest = line[:1], line[1:]
    if kind == b"$":
        if rest == b"-1":
            return None
        return f.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return [answer() for _ in range(int(rest))]
    if kind == b":":
        return int(rest)
    return rest


looks = zero = keys = seconds = 0
while zero < 5 and keys < 2000:
    keys += 1
    ask("SET", "k", "v", "PX", "20")
    answer()
    while True:
        for command in (["MULTI"], ["GET", "k"], ["PTTL", "k"], ["TTL", "k"], ["EXEC"]):
            ask(*command)
        value, left, whole = [answer() for _ in range(5)][4]
        if value is None:
            break
        looks += 1
        zero += left == 0
        seconds += whole == 0
print(f"{keys} keys of 20 ms, {looks} looks that gave the value: PTTL 0 in {zero}, TTL 0 in {seconds}")
sys.exit(0 if zero else "it is no longer so: no key was there with a PTTL of 0")
PY
