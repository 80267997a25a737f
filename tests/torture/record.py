"""Records a daemon: its writes, syncs and words in one trace, and what was handed in beside it."""

import json
import os
import shutil
import threading
import time

import old
import trace
from scenario import Stage, program
from world import Client, Gone

RUNS = ("first", "second")


class Recorder:
    """A daemon under strace, and mail through it."""

    def __init__(self, directory, load=0, options=()):
        self.directory = directory
        self.load = load
        self.options = options
        self.stage = None
        self.ports = []

    def run(self):
        stage = self.stage = Stage(program(), interval="100ms", workers=8)
        try:
            self._start("first")
            self._mail("a", self.load)
            # As many attempts as there is room for hang when the daemon is killed.
            for n in range(2):
                stage.hand_in("h%d" % n, ["hang-h%d@world.test" % n])
            stage.until("hanging", lambda: sum(to.startswith("hang-") for _, to in list(stage.receiver.copies)) == 2)
            self._wait_until_quiet("first")
            stage.daemon.kill()
            stage.client.close()
            stage.operator.close()
            self._start("second")
            stage.daemon.control("kick all")
            self._mail("b", max(2, self.load // 4))
            stage.ask("pause", "pause")
            stage.hand_in("p", ["ok-p@world.test"])
            if stage.daemon.stop() != 0:
                raise RuntimeError("the daemon did not stop as it should")
            self._write_facts()
        finally:
            stage.close()

    def migrate(self):
        """The other recording: a start that migrates, and the old mail going out."""
        template = old.template()
        stage = self.stage = Stage(program(), template, interval="100ms")
        try:
            shutil.copytree(template.queue, os.path.join(self.directory, "present"))
            self._start("first")
            stage.until("the end of it", lambda: "OK 0\n" in stage.daemon.control("count"))
            if stage.daemon.stop() != 0:
                raise RuntimeError("the daemon did not stop as it should")
            self._write_facts()
        finally:
            stage.close()
            template.close()

    def _write_facts(self):
        facts = {"queue": self.stage.daemon.queue, "ports": self.ports, "world": self.stage.receiver.port,
                 "ledger": self.stage.ledger}
        with open(os.path.join(self.directory, "facts"), "w") as file:
            json.dump(facts, file)

    def _start(self, run):
        record = ["-o", os.path.join(self.directory, run)]
        self.stage.daemon.start(["strace", *trace.RECORD, *self.options, *record])
        self.stage.daemon.wait_ready()
        self.ports.append(self.stage.daemon.port)
        self.stage.connect()

    def _wait_until_quiet(self, run):
        path = os.path.join(self.directory, run)
        size = -1
        while size != os.path.getsize(path):
            size = os.path.getsize(path)
            time.sleep(0.3)

    def _mail(self, prefix, load):
        """Several clients at once, and an operator."""
        failed = []

        def client(number):
            try:
                self._client("%s%d" % (prefix, number), load)
            except (Gone, OSError, TimeoutError) as error:
                failed.append(error)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        self._operator(prefix)
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        self.stage.until("the end of it", lambda: "OK 0\n" in self.stage.daemon.control("count"))

    def _client(self, prefix, load):
        stage = self.stage
        client = Client(stage.daemon.port, stage.events)
        kinds = (["ok"], ["ok", "later", "never"], ["mute"], ["ok", "ok2"], ["never"], ["later"])
        for n in range(load):
            name = "%s-%d" % (prefix, n)
            # Large ones fill the log, so that it is copied and begins anew.
            size = 700_000 if n % 3 == 2 else 1000
            to = ["%s-%s@world.test" % (kind, name) for kind in kinds[n % len(kinds)]]
            stage.hand_in(name, to, size, client)
        client.close()

    def _operator(self, prefix):
        stage = self.stage
        stage.ask("pause", "pause domain=held.test")
        dropped = stage.hand_in(prefix + "d", ["ok-%sd@held.test" % prefix])
        stage.ask("drop", "drop id=%d" % dropped)


def record(parent, name, load=0, options=()):
    """With a load the long story, else the migration."""
    directory = os.path.join(parent, name)
    os.mkdir(directory)
    recorder = Recorder(directory, load, options)
    if load:
        recorder.run()
    else:
        recorder.migrate()
    return directory
