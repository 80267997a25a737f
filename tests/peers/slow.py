#!/usr/bin/env python3
"""Clients that are slow, deaf, unlucky, or still there when the daemon stops. Written on Python's own sockets, smtplib, sqlite3
and email."""

import email.parser
import email.policy
import email.utils
import os
import re
import signal
import smtplib
import socket
import sys
import time

SMTP, UNIX, PID = int(sys.argv[2]), sys.argv[3], int(sys.argv[4])


def fail(words):
    sys.exit(f"FAILED: {words}")


class Client:
    """One session, byte by byte."""

    def __init__(self, unix=False):
        if unix:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(UNIX)
        else:
            self.sock = socket.create_connection(("127.0.0.1", SMTP))
        self.sock.settimeout(30)
        self.file = self.sock.makefile("rb")
        self.expect("220")

    def send(self, octets):
        self.sock.sendall(octets)

    def reply(self):
        while True:
            line = self.file.readline().decode()
            if not line or line[3:4] != "-":
                return line.strip()

    def expect(self, code):
        reply = self.reply()
        if not reply.startswith(code):
            fail(f"expected {code}, got {reply!r}")
        return reply

    def say(self, line, code):
        self.send(line.encode() + b"\r\n")
        return self.expect(code)

    def to_data(self, name, helo="client.test"):
        self.say(f"EHLO {helo}", "250")
        self.say("MAIL FROM:<joe@demo.posthaste.test>", "250")
        self.say(f"RCPT TO:<{name}@world.test>", "250")
        self.say("DATA", "354")

    def at_end(self):
        if self.file.read(1):
            fail("the session goes on")


def slow():
    """IN-12: session_timeout is 4 s, command idle_timeout 2 s (the script sets them)."""
    # NOOP every half second keeps it from being idle, but not from being long.
    client = Client()
    client.say("EHLO client.test", "250")
    start = time.monotonic()
    while True:
        client.send(b"NOOP\r\n")
        reply = client.reply()
        if reply.startswith("421"):
            break
        if time.monotonic() - start > 20:
            fail("the session has no end")
        time.sleep(0.5)
    if "4.4.2" not in reply:
        fail(reply)
    client.at_end()
    # Content that has begun may end, however long the session is by then.
    client = Client()
    client.to_data("late")
    client.send(b"Subject: late\r\n\r\n")
    for _ in range(12):
        client.send(b"a line every half second\r\n")
        time.sleep(0.5)
    client.say("the end\r\n.", "250")
    client.expect("421")
    # Half a command does not keep it open, however often it grows.
    client = Client()
    client.say("EHLO client.test", "250")
    start = time.monotonic()
    client.sock.setblocking(False)
    while time.monotonic() - start < 20:
        try:
            client.sock.send(b"N")
            if client.sock.recv(100).startswith(b"421 4.4.2"):
                break
        except BlockingIOError:
            pass
        time.sleep(0.2)
    else:
        fail("half a line keeps the session open")
    # One that never reads is cut, and the daemon's buffers stay as they are.
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(UNIX)
    deaf.settimeout(20)
    try:
        deaf.sendall(b"EHLO client.test\r\n" + b"HELP\r\n" * 4_000_000)
        fail("the daemon reads commands of a client that does not read its replies")
    except (BrokenPipeError, ConnectionResetError):
        pass
    # Nobody else felt it.
    with smtplib.SMTP("127.0.0.1", SMTP, timeout=10) as good:
        good.sendmail("joe@demo.posthaste.test", ["good@world.test"], "Subject: x\r\n\r\nbody\r\n")


def stop():
    """IN-27: what each of them hears when the daemon is told to stop."""
    idle, mail, half, unread = Client(), Client(True), Client(), Client(True)
    idle.say("EHLO client.test", "250")
    mail.say("EHLO client.test", "250")
    mail.say("MAIL FROM:<joe@demo.posthaste.test>", "250")
    half.to_data("half")
    half.send(b"Subject: half\r\n\r\nthe first half\r\n")
    unread.to_data("gone")
    unread.send(b"never ended\r\n")
    os.kill(PID, signal.SIGTERM)
    for client in (idle, mail):
        client.expect("421")
        client.at_end()
    # In the grace time content may end, and its 250 is true: the script looks for it after the restart.
    half.send(b"the second half\r\n.\r\n")
    reply = half.expect("250")
    print(re.fullmatch(r"250 2\.0\.0 queued as (\d+)", reply).group(1))
    half.expect("421")
    # The one that never ends is cut when the grace is over: nothing of it is queued.
    if not unread.reply().startswith("421"):
        fail("no 421 for content without an end")


def busy(path):
    """IN-26: another program holds the database's lock for longer than the daemon waits for it."""
    import sqlite3

    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    text = "Subject: busy\r\n\r\nbody\r\n"
    with smtplib.SMTP("127.0.0.1", SMTP, timeout=60) as client:
        try:
            client.sendmail("joe@demo.posthaste.test", ["busy@world.test"], text)
            fail("a 250 without a commit")
        except smtplib.SMTPDataError as error:
            if error.smtp_code != 451 or not error.smtp_error.startswith(b"4.3.0"):
                fail(error)
    other.execute("ROLLBACK")
    other.close()
    # What the client tries again is one message. Its session has been too long by then.
    with smtplib.SMTP("127.0.0.1", SMTP, timeout=10) as client:
        client.sendmail("joe@demo.posthaste.test", ["busy@world.test"], text)


def received(path):
    """IN-28: the field as Python's email reads it, from what smtp-sink wrote."""
    odd = "odd\\(name);,client"
    with smtplib.SMTP("127.0.0.1", SMTP, local_hostname="client.test", timeout=10) as good:
        good.sendmail("joe@demo.posthaste.test", ["one@world.test"], "Subject: one\r\n\r\nbody\r\n")
        good.sendmail(
            "joe@demo.posthaste.test",
            ["two@world.test", "three@world.test"],
            "Subject: two\r\n\r\nbody\r\n",
        )
    client = Client()
    client.to_data("four", odd)
    client.say("Subject: four\r\n\r\nbody\r\n.", "250")
    seen = {}
    deadline = time.monotonic() + 20
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
        with open(path, "rb") as file:
            mails = re.split(rb"(?m)^(?=X-Client-Addr: )", file.read())
        for mail in mails:
            # smtp-sink has put fields of its own in front.
            message = email.parser.BytesParser(policy=email.policy.default).parsebytes(mail)
            subject = message["Subject"]
            if subject in ("one", "two", "four"):
                seen[subject] = message
    if len(seen) < 3:
        fail(f"only {list(seen)} arrived")
    for subject, message in seen.items():
        fields = [f for f in message.get_all("Received") if "by demo.posthaste.test" in f]
        if len(fields) != 1:
            fail(f"{subject}: {message.get_all('Received')}")
        if message.defects:
            fail(f"{subject}: {message.defects}")
        # Folded with tabs, which are blanks to whoever reads it (RFC 5322 §2.2.3).
        field = fields[0].replace("\t", " ")
        if not field.isascii() or not field.isprintable():
            fail(f"odd bytes in {field!r}")
        words, date = field.rsplit(";", 1)
        if abs(email.utils.parsedate_to_datetime(date.strip()).timestamp() - time.time()) > 60:
            fail(f"the date of {field}")
        if not re.search(r"from \S.* \(\[127\.0\.0\.1\]\) by demo\.posthaste\.test \(posthaste\) with ESMTP id \d+", words):
            fail(field)
        if ("for <one@world.test>" in words) != (subject == "one") or "two@" in words or "three@" in words:
            fail(f"{subject}: {field}")
        if max(len(line) for line in message.as_bytes().splitlines()) > 998:
            fail("a line is too long")


what = {"slow": slow, "stop": stop, "busy": lambda: busy(sys.argv[5]), "received": lambda: received(sys.argv[5])}
what[sys.argv[1]]()
