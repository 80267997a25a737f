"""strace(1): kills at a chosen system call, and says whether it can on this machine."""

import os
import re
import shutil
import subprocess


def usable():
    """Why tracing is not possible here, or None."""
    if not shutil.which("strace"):
        return "strace is not installed (make deps)"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    if tried.returncode:
        return "strace cannot trace on this machine: %s" % (tried.stderr.strip().splitlines() or ["?"])[-1]
    return None


def injection(calls, number):
    """SIGKILL on entry of the number-th of these calls of a thread: the call itself is not made any more."""
    return ["-e", "trace=" + calls, "-e", "inject=%s:signal=SIGKILL:when=%d" % (calls, number)]


def launching(calls, number):
    """In front of a command. The command stays our child and its threads are let alone: the start has but one."""
    return ["strace", "-D", "-q", "-o", os.devnull, *injection(calls, number)]


def attach(threads, calls, number):
    """The tracer of these threads, at work. It ends with them."""
    return trace(threads, ["-o", os.devnull, *injection(calls, number)])


def trace(threads, options):
    """The same with other options."""
    arguments = [word for thread in threads for word in ("-p", str(thread))]
    tracer = subprocess.Popen(["strace", *options, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    attached = 0
    while attached < len(threads):
        line = tracer.stderr.readline()
        if not line:
            raise RuntimeError("strace ended before it was attached")
        attached += bool(re.search(r"Process \d+ attached", line))
    return tracer


def detach(tracer):
    """Leaves the traced alone, if they are still there."""
    if tracer.poll() is None:
        tracer.terminate()
    tracer.wait()
    tracer.stderr.close()
