"""The world around a daemon under torture: a receiver that writes down what it takes, and a client that keeps a ledger.

What becomes of a recipient is in its address: `ok-..` is taken, `later-..` is told 450 once, `never-..` 550, and of `mute-..`
the content is taken and the answer kept once, the connection being closed or, for `hang-..`, left open. Notices go to the sender's address, which is taken too. Two copies are the
same message when the trace header has the same id.
"""

import hashlib
import re
import socket
import threading
import time


class Gone(Exception):
    """The other side is not there any more, or refuses."""


def line_of(stream):
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise Gone
    return line


def hang_up(stream, connection):
    try:
        stream.close()
    except OSError:
        pass  # what was to be said has nobody to hear it
    connection.close()


def body_hash(text):
    """Of what follows the header: the same at both ends (Q-21)."""
    return hashlib.sha256(text.partition(b"\r\n\r\n")[2]).hexdigest()


class Events:
    """What happened last, as seen from outside: names the instant at which the daemon dies."""

    def __init__(self):
        self.last = "idle"
        self.all = []

    def add(self, what):
        self.last = what
        self.all.append((time.monotonic(), what))


class Receiver:
    """An SMTP server on a port of its own."""

    def __init__(self, events):
        self.events = events
        self.lock = threading.Lock()
        self.copies = {}  # (queue id, or Message-ID of a notice; address) -> when each came
        self.hashes = {}  # queue id -> hashes of the bodies that came
        self.names = {}  # queue id -> X-Id
        self.answered_later = set()
        self.muted = set()  # (queue id, address)
        self.connections = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        # Wakes the thread that accepts; a close alone would not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with connection, connection.makefile("rwb") as stream:
                self._session(stream)
        except (Gone, OSError, ValueError):
            pass
        finally:
            with self.lock:
                self.connections.discard(connection)

    def _session(self, stream):
        def say(words):
            stream.write(words)
            stream.flush()

        say(b"220 world ESMTP\r\n")
        recipients = []
        while True:
            line = line_of(stream)
            verb = line[:4].upper()
            if verb == b"EHLO":
                say(b"250-world\r\n250 PIPELINING\r\n")
            elif verb == b"MAIL":
                self.events.add("contact")
                recipients = []
                say(b"250 ok\r\n")
            elif verb == b"RCPT":
                address = line.partition(b"<")[2].partition(b">")[0].decode()
                reply = self._judge(address)
                if reply is None:
                    recipients.append(address)
                say(reply or b"250 ok\r\n")
            elif verb == b"DATA":
                if not recipients:
                    say(b"554 nobody to take it\r\n")
                    continue
                say(b"354 go on\r\n")
                head = []
                while (line := line_of(stream)) != b".\r\n":
                    head.append(line[1:] if line.startswith(b"..") else line)
                if self._take(b"".join(head), recipients):
                    if recipients[0].startswith("hang-"):
                        stream.read(1)
                    return
                say(b"250 taken\r\n")
                self.events.add("answered")
            elif verb == b"QUIT":
                say(b"221 bye\r\n")
                return
            else:
                say(b"250 ok\r\n")

    def _judge(self, address):
        """The refusal, if any."""
        if address.startswith("never-"):
            return b"550 5.1.1 nobody here\r\n"
        with self.lock:
            if address.startswith("later-") and address not in self.answered_later:
                self.answered_later.add(address)
                return b"450 4.2.0 later\r\n"
        return None

    def _take(self, text, recipients):
        """Writes it down; true when the sender shall not hear of it."""
        head = text.partition(b"\r\n\r\n")[0]
        if trace := re.search(rb"\(posthaste\)(?: with \S+)?\s+id (\d+)", head):
            queue_id = int(trace[1])
        else:
            # A notice has no trace header; its Message-ID is in the queue as well.
            queue_id = re.search(rb"(?mi)^Message-ID: (\S+)", head)[1].decode()
        name = re.search(rb"(?m)^X-Id: (\S+)\r?$", head)
        silent = False
        with self.lock:
            for address in recipients:
                self.copies.setdefault((queue_id, address), []).append(time.monotonic())
                if address.startswith(("mute-", "hang-")) and (queue_id, address) not in self.muted:
                    self.muted.add((queue_id, address))
                    silent = True
            self.hashes.setdefault(queue_id, set()).add(body_hash(text))
            if name:
                self.names[queue_id] = name[1].decode()
        self.events.add("taken")
        return silent


class Client:
    """One connection to the daemon."""

    def __init__(self, port, events):
        self.events = events
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.stream = self.connection.makefile("rwb")
        self._reply(b"220")
        self._ask(b"EHLO client.test\r\n", b"250")

    def close(self):
        hang_up(self.stream, self.connection)

    def _reply(self, code):
        while (line := line_of(self.stream))[3:4] == b"-":
            pass
        if not line.startswith(code):
            raise Gone(line)
        return line

    def _ask(self, words, code):
        self.stream.write(words)
        self.stream.flush()
        return self._reply(code)

    def begin(self, sender, recipients, text):
        """All of a message but its dot."""
        self._ask(b"MAIL FROM:<%s>\r\n" % sender.encode(), b"250")
        for address in recipients:
            self._ask(b"RCPT TO:<%s>\r\n" % address.encode(), b"250")
        self._ask(b"DATA\r\n", b"354")
        self.events.add("content sent")
        self.stream.write(text)
        self.stream.flush()

    def hand_in(self, sender, recipients, text):
        """The queue id of a message that was answered 250."""
        self.begin(sender, recipients, text)
        self.events.add("dot sent")
        queue_id = int(self._ask(b".\r\n", b"250").split()[-1])
        self.events.add("250")
        return queue_id


class Operator:
    """One connection to the control socket."""

    def __init__(self, path):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(60)
        self.connection.connect(path)
        self.stream = self.connection.makefile("rwb")
        self.ask("version")

    def close(self):
        hang_up(self.stream, self.connection)

    def ask(self, line):
        """Returns when it was answered OK."""
        self.stream.write(line.encode() + b"\n")
        self.stream.flush()
        while not (answer := line_of(self.stream)).startswith(b"OK"):
            if answer.startswith(b"ERR"):
                raise Gone(answer)
