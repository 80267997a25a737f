"""Waits until the receiver has taken so many messages, and looks at the memory of a system meanwhile.

    watch.py SINK-OUT MESSAGES SECONDS PID      prints when it had them (seconds since 1970), how many, the largest PSS in KiB

SINK-OUT is what `smtp-sink -c` writes. PID 0 is nobody. The end is met to within 2 ms; memory is looked at every half
second, because that costs the system something.
"""

import os
import re
import sys
import time

LAST = re.compile(rb"mesg=(\d+)")
path, wanted, limit, root = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])


def taken(fd):
    tail = os.pread(fd, 100, max(0, os.fstat(fd).st_size - 100))
    found = LAST.findall(tail)
    return int(found[-1]) if found else 0


def family():
    pids = [root]
    for task in os.listdir("/proc/%d/task" % root):
        with open("/proc/%d/task/%s/children" % (root, task)) as children:
            pids += [int(pid) for pid in children.read().split()]
    return pids


def pss():
    total = 0
    try:
        for pid in family():
            try:
                with open("/proc/%d/smaps_rollup" % pid) as rollup:
                    total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
            except OSError:
                pass
    except OSError:
        pass
    return total


fd = os.open(path, os.O_RDONLY)
began = time.time()
largest, next_look = 0, 0.0
while True:
    count, at = taken(fd), time.time()
    if count >= wanted or at - began > limit:
        break
    if root and at >= next_look:
        largest = max(largest, pss())
        next_look = time.time() + 0.5
    time.sleep(0.002)
print("%.6f %d %d" % (at, count, max(largest, pss() if root else 0)))
