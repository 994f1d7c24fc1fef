"""A process of the EfsLock protocol: lock files, and whatever goes wrong with reading one
is followed by its removal. It says "in KEY NS" when it holds a lock, "out KEY NS" before
it lets go, with Unix times, and waits for a line in between each. It ends when its standard input does."""
import os
import random
import sys
import time

root, key, timeout = sys.argv[1], sys.argv[2], float(sys.argv[3])


def say(*words):
    print(*words, time.time_ns(), flush=True)
    if not sys.stdin.readline():
        sys.exit()


def stale(path):
    """Whether the file at path is to be removed."""
    try:
        with open(path) as f:
            return time.time() - float(f.readline()) > timeout
    except (OSError, ValueError):
        return True


while True:
    path = os.path.join(root, key)
    taken = False
    for _ in range(100):
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if stale(path):
                try:
                    os.remove(path)
                    continue
                except OSError:
                    pass
            time.sleep(random.uniform(0.005, 0.03))
            continue
        os.write(fd, ("%f\n%d\nexample\nLinux\n" % (time.time(), os.getpid())).encode())
        os.close(fd)
        taken = True
        break
    if not taken:
        say("timeout", key)
        continue
    say("in", key)
    time.sleep(random.uniform(0, 0.002))
    say("out", key)
    try:
        os.remove(path)
    except OSError:
        pass
    time.sleep(random.uniform(0, 0.02))
