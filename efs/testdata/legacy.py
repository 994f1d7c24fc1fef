#!/usr/bin/env python3
"""A process of the lock-file protocol (EfsLock), as its real processes behave.

Acquire: sleep a moment; create the lock file with O_CREAT|O_EXCL and write four lines
(time, pid, host, system). If the path exists, open it and read the time in its first
line. A time older than the timeout is stale. Stale, *or any failure to open or read*,
"no such file" included, is followed by os.remove of the path, whatever is there by
then, and by another try at once. An os.remove that fails, as it does on a directory,
is caught and counts as held: sleep, try again, and after max_retries TimeoutError.

Release: os.remove of the path, whatever is there. Errors are caught.

Readings differ in what is made of a file that can be opened and whose first line is no
number (empty, garbage, not UTF-8):
  removed   it is a failure to read like any other
  held      it is held, since its owner may be about to write it
In both a file that cannot be opened is removed. --pause MIN,MAX adds a sleep between
the failed read, or the judgement that the file is stale, and the removal: a log line,
a busy machine, a slow mount.

For each round the process adds one to a counter file under the lock. Its log has, in
ns of the monotonic clock, a line for each:
  section ENTERED LEFT CREATING CREATED    a round; the file was made between the last two
  removed BEFORE AFTER                     a removal that worked, other than by its release
  released BEFORE AFTER                    a release that removed what was at the path
  torn AT                                  the counter was no number: two were in
Lines are written when nothing is held and no removal is pending, so that writing them
widens no gap of the protocol.
"""
import argparse
import os
import platform
import random
import sys
import time


class LockFile:
    def __init__(self, path, timeout=300, retry_interval=(5, 5), max_retries=60, reading="held",
                 first_sleep=(0.1, 1), pause=None, skew=0, log=lambda line: None):
        self.path, self.timeout, self.retry_interval = path, timeout, retry_interval
        self.max_retries, self.reading, self.first_sleep = max_retries, reading, first_sleep
        self.pause, self.skew, self.log = pause, skew, log

    def now(self):
        return time.time() + self.skew

    def to_be_removed(self):
        try:
            with open(self.path) as f:
                line = f.readline()
        except ValueError:  # it opened, and is not text
            return self.reading == "removed"
        except OSError:
            return True
        try:
            return self.now() - float(line) > self.timeout
        except ValueError:
            return self.reading == "removed"

    def remove(self):
        """Removes the path; says whether to try again at once."""
        if self.pause:
            time.sleep(random.uniform(*self.pause))
        before = time.monotonic_ns()
        try:
            os.remove(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        self.log(f"removed {before} {time.monotonic_ns()}")
        return True

    def acquire(self):
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        time.sleep(random.uniform(*self.first_sleep))
        retries = 0
        while True:
            creating = time.monotonic_ns()
            try:
                fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                pass
            else:
                created = time.monotonic_ns()
                with os.fdopen(fd, "w") as f:
                    f.write(f"{self.now()}\n{os.getpid()}\n{platform.node()}\n{platform.system()}\n")
                return creating, created
            if self.to_be_removed() and self.remove():
                continue
            retries += 1
            if retries >= self.max_retries:
                raise TimeoutError(f"could not acquire {self.path} after {retries} attempts")
            time.sleep(random.uniform(*self.retry_interval))

    def release(self):
        before = time.monotonic_ns()
        try:
            os.remove(self.path)
        except OSError:
            return
        self.log(f"released {before} {time.monotonic_ns()}")


def add_one(counter):
    """Adds one; says whether the counter was a number. If not it is left as it is."""
    n = 0
    if os.path.exists(counter):
        with open(counter) as f:
            text = f.read()
        if not text.isdigit():
            return False
        n = int(text)
    with open(counter, "w") as f:
        f.write(str(n + 1))
    return True


def span(text):
    """A number, or two with a comma between them."""
    low, _, high = text.partition(",")
    return float(low), float(high or low)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("path")
    p.add_argument("--timeout", type=float, default=300)
    p.add_argument("--retry-interval", type=span, default=(5, 5), metavar="S|MIN,MAX")
    p.add_argument("--max-retries", type=int, default=60)
    p.add_argument("--reading", choices=["held", "removed"], default="held")
    p.add_argument("--pause", type=span, metavar="MIN,MAX", help="seconds before a removal; default none")
    p.add_argument("--skew", type=float, default=0, help="seconds by which this process's clock is ahead")
    p.add_argument("--first-sleep", type=float, default=1)
    p.add_argument("--counter")
    p.add_argument("--log")
    p.add_argument("--seconds", type=float, default=0, help="go on for this long; 0 for one round")
    p.add_argument("--hold", action="store_true", help="take the lock, say so, and hold it until killed")
    a = p.parse_args()
    lines = []  # not in the log yet
    lock = LockFile(a.path, a.timeout, a.retry_interval, a.max_retries, a.reading,
                    (a.first_sleep / 10, a.first_sleep), a.pause, a.skew, lines.append)
    log = open(a.log, "a") if a.log else None
    end = time.monotonic() + a.seconds
    rounds = 0
    while True:
        creating, created = lock.acquire()
        entered = time.monotonic_ns()
        if a.hold:
            print("held", flush=True)
            time.sleep(3600)
        if a.counter and not add_one(a.counter):
            lines.append(f"torn {entered}")
        left = time.monotonic_ns()
        lock.release()
        rounds += 1
        lines.append(f"section {entered} {left} {creating} {created}")
        if log:
            log.write("".join(line + "\n" for line in lines))
            log.flush()
        lines.clear()
        if time.monotonic() >= end:
            break
    print(f"rounds {rounds}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except TimeoutError as e:
        sys.exit(f"TimeoutError: {e}")
