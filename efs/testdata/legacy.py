#!/usr/bin/env python3
"""A process of the lock-file protocol, written from its description.

It creates the lock file with O_CREAT|O_EXCL, writes four lines (time, pid, host,
system) and removes the path when it is done. Finding the file, it reads the first
line; older than the timeout means stale, and it removes the path and tries again at
once. What it makes of a file that is empty or does not parse is its reading: "held",
or "removed" at once.

For each round it adds one to a counter file under the lock and appends a line
"<entered ns> <left ns>" of the monotonic clock to its log.
"""
import argparse
import os
import platform
import random
import sys
import time


class LockFile:
    def __init__(self, path, timeout=300, retry_interval=5, max_retries=60, reading="held", first_sleep=(0.1, 1)):
        self.path, self.timeout, self.retry_interval = path, timeout, retry_interval
        self.max_retries, self.reading, self.first_sleep = max_retries, reading, first_sleep

    def stale(self):
        try:
            with open(self.path) as f:
                line = f.readline()
        except FileNotFoundError:
            return None
        except OSError:
            return False
        try:
            return time.time() - float(line) > self.timeout
        except ValueError:
            return self.reading == "removed"

    def acquire(self):
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        time.sleep(random.uniform(*self.first_sleep))
        retries = 0
        while True:
            try:
                fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                pass
            else:
                with os.fdopen(fd, "w") as f:
                    f.write(f"{time.time()}\n{os.getpid()}\n{platform.node()}\n{platform.system()}\n")
                return
            stale = self.stale()
            if stale is None:
                continue
            if stale:
                try:
                    os.remove(self.path)
                    continue
                except FileNotFoundError:
                    continue
                except OSError:
                    pass
            retries += 1
            if retries >= self.max_retries:
                raise TimeoutError(f"could not acquire {self.path} after {retries} attempts")
            time.sleep(self.retry_interval)

    def release(self):
        try:
            os.remove(self.path)
        except FileNotFoundError:
            pass


def main():
    p = argparse.ArgumentParser()
    p.add_argument("path")
    p.add_argument("--timeout", type=float, default=300)
    p.add_argument("--retry-interval", type=float, default=5)
    p.add_argument("--max-retries", type=int, default=60)
    p.add_argument("--reading", choices=["held", "removed"], default="held")
    p.add_argument("--first-sleep", type=float, default=1)
    p.add_argument("--counter")
    p.add_argument("--log")
    p.add_argument("--seconds", type=float, default=0, help="go on for this long; 0 for one round")
    p.add_argument("--hold", action="store_true", help="take the lock, say so, and hold it until killed")
    a = p.parse_args()
    lock = LockFile(a.path, a.timeout, a.retry_interval, a.max_retries, a.reading,
                    (a.first_sleep / 10, a.first_sleep))
    end = time.monotonic() + a.seconds
    rounds = 0
    while True:
        lock.acquire()
        entered = time.monotonic_ns()
        if a.hold:
            print("held", flush=True)
            time.sleep(3600)
        if a.counter:
            n = 0
            if os.path.exists(a.counter):
                with open(a.counter) as f:
                    n = int(f.read())
            with open(a.counter, "w") as f:
                f.write(str(n + 1))
        left = time.monotonic_ns()
        lock.release()
        rounds += 1
        if a.log:
            with open(a.log, "a") as f:
                f.write(f"{entered} {left}\n")
        if time.monotonic() >= end:
            break
    print(f"rounds {rounds}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except TimeoutError as e:
        sys.exit(f"TimeoutError: {e}")
