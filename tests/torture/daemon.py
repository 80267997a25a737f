"""A daemon of its own in a directory of its own, to be killed, traced and started again."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

CONFIG = """
hostname = "torture.test"
pid_file = "{run}/pid"
shutdown_grace = "2s"
workers = {workers}
{account}
[queue]
path = "{queue}"
min_free = "1MiB"
reserve = "0B"
# It dies more often than any message would deserve.
poison_limit = 1000
[[listen]]
name = "smtp"
address = "127.0.0.1:0"
role = "relay"
[control]
path = "{run}/control"
[log]
to = "stderr"
[retry]
intervals = ["{interval}"]
lifetime = "1h"
delay_notices = []
[dsn]
collect = "20ms"
[[transport]]
name = "out"
kind = "relay"
hosts = ["127.0.0.1:{world}"]
tls = "none"
[[route]]
transport = "out"
[dns]
servers = ["127.0.0.1:9"]
"""

READY = 20  # seconds


class Died(Exception):
    """The daemon ended while somebody waited for it."""


class Daemon:
    """Its files and, while it runs, its process."""

    def __init__(self, program, world_port, directory=None, interval="150ms", workers=1):
        self.program = program
        self.directory = directory or tempfile.mkdtemp(prefix="posthaste-torture.")
        self.queue = os.path.join(self.directory, "queue")
        self.run = os.path.join(self.directory, "run")
        self.config = os.path.join(self.directory, "posthaste.toml")
        self.process = self.port = None
        self.log = []
        self.marked = {}  # (queue id, recipient's number) -> when the log first called it doubtful
        self.ready = threading.Event()
        # As root it would refuse to stay root, so it becomes nobody.
        account = 'user = "nobody"\ngroup = "nogroup"' if os.geteuid() == 0 else ""
        os.chmod(self.directory, 0o755)
        for path in (self.queue, self.run):
            os.mkdir(path, 0o700)
        self.own()
        with open(self.config, "w") as file:
            file.write(CONFIG.format(run=self.run, queue=self.queue, account=account, world=world_port,
                                     interval=interval, workers=workers))

    def own(self):
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for top, _, files in os.walk(self.directory):
                if top != self.directory:
                    for path in [top] + [os.path.join(top, name) for name in files]:
                        os.chown(path, nobody.pw_uid, nobody.pw_gid)

    def take_queue(self, source):
        """Begins with a copy of another queue directory."""
        shutil.rmtree(self.queue)
        shutil.copytree(source, self.queue)
        os.chmod(self.queue, 0o700)
        self.own()

    @property
    def database(self):
        return os.path.join(self.queue, "queue.db")

    def start(self, wrapper=()):
        self.ready.clear()
        self.process = subprocess.Popen([*wrapper, self.program, "-F", "-f", self.config], stdin=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True, errors="replace")
        self.process.ear = threading.Thread(target=self._listen, args=(self.process,), daemon=True)
        self.process.ear.start()

    def _listen(self, process):
        for line in process.stderr:
            self.log.append(line)
            if found := re.search(r" listen address=127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
            if found := re.search(r" start version=\S+ pid=(\d+)", line):
                process.daemon_pid = int(found[1])
                self.ready.set()
            doubt = re.search(r" doubt=(in-doubt|may-be-sent-twice)", line)
            row = re.search(r" qid=(\d+) rcpt=(\d+)", line)
            if doubt and row:
                self.marked.setdefault((int(row[1]), int(row[2])), time.monotonic())

    def wait_ready(self):
        """Seconds until it was ready, from now."""
        began = time.monotonic()
        while not self.ready.wait(0.05):
            if self.process.poll() is not None:
                self.reap()
                raise Died("%s; %s" % (self.process.returncode, self.log[-1:]))
            if time.monotonic() - began > READY:
                raise TimeoutError("not ready after %d s" % READY)
        return time.monotonic() - began

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def threads(self, *wanted):
        """Thread ids by name, once those are there: a thread gives itself its name when it first runs."""
        deadline = time.monotonic() + READY
        while not set(wanted) <= (found := self._threads()).keys():
            if time.monotonic() > deadline:
                raise TimeoutError("no thread %s in %s" % (wanted, sorted(found)))
            time.sleep(0.005)
        return found

    def _threads(self):
        found = {}
        pid = self.process.daemon_pid
        for tid in os.listdir("/proc/%d/task" % pid):
            try:
                with open("/proc/%d/task/%s/comm" % (pid, tid)) as file:
                    found.setdefault(file.read().strip(), []).append(int(tid))
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has ended
        return found

    def control(self, *lines):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(self.run + "/control")
            connection.sendall(("\n".join(lines) + "\nquit\n").encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def check(self):
        """What its own checks find wrong."""
        return re.findall(r"check=.* result=(?!ok).*|ERR.*", self.control("check"))

    def reap(self):
        self.process.wait()
        self.process.ear.join()
        self.process.stderr.close()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.reap()

    def stop(self):
        """Its exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(READY)
        finally:
            self.kill()
        return self.process.returncode

    def remove(self):
        if self.alive():
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
