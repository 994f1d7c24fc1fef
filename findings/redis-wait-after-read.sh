#!/usr/bin/env bash
# redis-server 7.0.15 (Debian 12): WAIT does not wait for what its connection has written, as its manual says,
# but for all that anybody had written when that connection last asked for anything at all. A
# connection that has never written anything, and has just read a key that another client set, or has
# been refused by SET NX, or has sent a PING, waits until replicas have what was there then.
#
# Expected: a connection that writes nothing has nothing to wait for, and WAIT returns at once with the number
# of replicas; it does before the read, and not after it. So GET and WAIT on one connection tell whether
# what was read would outlive a fail-over, which the manual gives no means for; and in a pool a WAIT may hang
# on a stranger's writes, because the connection has been pinged. The source remembers the
# offset of each command's end "for the WAIT command", without asking whether it was a write.
#
# It installs redis-server and python3 from Debian where they are missing, and starts a server and a replica
# on free ports of 127.0.0.1. It fails if what is said here is no longer so.
set -euo pipefail
command -v redis-server >/dev/null && command -v python3 >/dev/null ||
	apt-get install -y -qq --no-install-recommends redis-server python3 >/dev/null
work=$(mktemp -d)
primary='' replica=''
trap '{ [ -z "$replica" ] || kill -CONT "$replica"; kill -KILL $primary $replica; wait $primary $replica; } 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
p=$(port) r=$(port)
redis-server --version | cut -d ' ' -f 1-3
common=(--bind 127.0.0.1 --save '' --appendonly no --repl-diskless-sync-delay 0 --repl-timeout 600)
mkdir "$work/p" "$work/r"
redis-server --port "$p" --dir "$work/p" "${common[@]}" >"$work/p.log" &
primary=$!
redis-server --port "$r" --dir "$work/r" --replicaof 127.0.0.1 "$p" "${common[@]}" >"$work/r.log" &
replica=$!
timeout 60 python3 - "$p" "$replica" <<'PY'
import os, signal, socket, sys, time

port, replica = int(sys.argv[1]), int(sys.argv[2])


class Client:
    def __init__(self):
        for _ in range(200):
            try:
                self.s = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                time.sleep(0.05)
        self.f = self.s.makefile("rb")

    def __call__(self, *args):
        self.s.sendall(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in map(str.encode, args)))
        line = self.f.readline().strip()
        if line[:1] != b"$":
            return line[1:].decode()
        return None if line == b"$-1" else self.f.read(int(line[1:]) + 2)[:-2].decode()

    def wait(self):
        return int(self("WAIT", "1", "700"))


writer, reader = Client(), Client()
for _ in range(100):  # until the replica is there, and has all
    writer("SET", "k", "before")
    if writer.wait() == 1 and reader("GET", "k") == "before" and reader.wait() == 1:
        break
os.kill(replica, signal.SIGSTOP)
writer("SET", "k", "after")
seen = {"nothing": reader.wait()}
for command in ("PING",), ("GET", "k"), ("SET", "k", "mine", "NX"):
    idle = Client()  # a new connection, which has asked for nothing
    seen["nothing, on a new connection"] = idle.wait()
    answer = idle(*command)
    seen[f"{' '.join(command)} ({answer})"] = idle.wait()
os.kill(replica, signal.SIGCONT)
for command, replicas in seen.items():
    print(f"a client that has written nothing, after {command}: WAIT 1 gives {replicas}")
last = Client()
last("GET", "k")
if list(seen.values()) != [1, 1, 0, 0, 0] or last.wait() != 1:
    sys.exit("it is not so any more")
PY
