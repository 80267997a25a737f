"""Clients with a synced ledger, a receiver that writes down what it takes, and a daemon that is killed again and again.

    killed.py DAEMON CONFIG SMTP-PORT WORLD-PORT CONTROL-SOCKET DIRECTORY ROUNDS SEED DOMAINS

The clients write each message that was answered 250 to the ledger, synced, and never send one twice. So whatever arrives
twice is the daemon's doing, and must have been marked beforehand: in the log as in doubt, or, if the receiver kept its
answer to itself, in the record of that attempt (the log's line may have been killed with the daemon). Two copies are the
same message when the trace header has the same id.

Unless DOMAINS is 0, mail goes to so many domains that share the receiver, and it lets few connections in.
"""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

DAEMON, CONFIG, SMTP, WORLD, CONTROL, DIRECTORY, ROUNDS, SEED, DOMAINS = sys.argv[1:]
SMTP, WORLD, ROUNDS, DOMAINS = int(SMTP), int(WORLD), int(ROUNDS), int(DOMAINS)
dice = random.Random(int(SEED))
lock = threading.Lock()
acknowledged = {}  # name -> queue id
sent = 0
arrived = {}  # queue id -> times of its copies
content = {}  # queue id -> name
marked = {}  # queue id -> when it was first marked
unanswered = set()
let_in = 3  # connections at once, if there are DOMAINS
inside = 0
sent_away = 0
starting, over = threading.Event(), threading.Event()


class Gone(Exception):
    pass


def line_of(stream):
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise Gone
    return line


# --- the world


def come_in():
    global inside, sent_away
    with lock:
        full = DOMAINS and inside >= let_in
        inside += not full
        sent_away += bool(full)
    return not full


def receive(connection, seed):
    global inside
    if not come_in():
        try:
            connection.sendall(b"421 4.7.0 too many connections\r\n")
        except OSError:
            pass
        connection.close()
        return
    # A reply is a write of its own, and must not wait for the acknowledgement of the one before it.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    chance = random.Random(seed)
    stream = connection.makefile("rwb")

    def say(words):
        stream.write(words)
        stream.flush()

    try:
        say(b"220 world ESMTP\r\n")
        while True:
            line = line_of(stream)
            verb = line[:4].upper()
            if verb == b"EHLO":
                say(b"250-world\r\n250 PIPELINING\r\n")
            elif verb == b"DATA":
                say(b"354 go on\r\n")
                head = []
                while (line := line_of(stream)) != b".\r\n":
                    head.append(line)
                text = b"".join(head)
                queue_id = int(re.search(rb"\(posthaste\) with \S+ id (\d+)", text)[1])
                name = re.search(rb"(?m)^X-Id: (\S+)\r$", text)[1].decode()
                with lock:
                    arrived.setdefault(queue_id, []).append(time.monotonic())
                    content[queue_id] = name
                # The kill should now and then find an answer on its way, or its commit.
                time.sleep(chance.choice([0, 0, 0.002, 0.02]))
                if chance.random() < 0.02:
                    unanswered.add(queue_id)
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                say(b"250 taken\r\n")
            elif verb == b"QUIT":
                say(b"221 bye\r\n")
                return
            else:
                say(b"250 ok\r\n")
    except (Gone, OSError):
        pass
    finally:
        with lock:
            inside -= 1
        connection.close()


def world(listener):
    seed = int(SEED)
    while True:
        connection, _ = listener.accept()
        seed += 1
        threading.Thread(target=receive, args=(connection, seed), daemon=True).start()


# --- the clients


def hand_in(number, ledger):
    global sent
    count = 0
    while not over.is_set():
        try:
            with socket.create_connection(("127.0.0.1", SMTP), timeout=30) as connection:
                stream = connection.makefile("rwb")

                def ask(words, code):
                    stream.write(words)
                    stream.flush()
                    while (line := line_of(stream))[3:4] == b"-":
                        pass
                    if not line.startswith(code):
                        raise Gone
                    return line

                line_of(stream)
                ask(b"EHLO client.test\r\n", b"250")
                while not over.is_set():
                    count += 1
                    name = "%d-%d" % (number, count)
                    size = 20000 if count % 10 == 0 else 300
                    ask(b"MAIL FROM:<joe@client.test>\r\n", b"250")
                    domain = "d%d.world.test" % (count * 7 % DOMAINS) if DOMAINS else "world.test"
                    ask(b"RCPT TO:<ann@%s>\r\n" % domain.encode(), b"250")
                    ask(b"DATA\r\n", b"354")
                    with lock:
                        sent += 1
                    told = ask(b"X-Id: %s\r\n\r\n%s\r\n.\r\n" % (name.encode(), b"x" * 70 + b"\r\n" + b"y" * (size % 900)), b"250")
                    with lock:
                        acknowledged[name] = int(told.split()[-1])
                        ledger.write(name + "\n")
                        ledger.flush()
                        os.fsync(ledger.fileno())
                    time.sleep(0.01)
        except (Gone, OSError):
            time.sleep(0.005)


# --- the daemon


def mark(text):
    doubt = re.search(r" doubt=(in-doubt|may-be-sent-twice)", text)
    queue_id = re.search(r" qid=(\d+)", text)
    if doubt and queue_id:
        with lock:
            marked.setdefault(int(queue_id[1]), time.monotonic())


def listen_to(process, log):
    for line in process.stderr:
        log.write(line)
        if " start version=" in line:
            starting.set()
        mark(line)


def ask_control(*lines):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(CONTROL)
        connection.sendall(("\n".join(lines) + "\nquit\n").encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def start(log):
    starting.clear()
    process = subprocess.Popen([DAEMON, "-F", "-f", CONFIG], stderr=subprocess.PIPE, text=True, errors="replace")
    process.ear = threading.Thread(target=listen_to, args=(process, log), daemon=True)
    process.ear.start()
    return process


def kill(process):
    if process.poll() is not None:
        sys.exit("the daemon ended by itself with %s" % process.returncode)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.ear.join()


def main():
    global let_in
    listener = socket.create_server(("127.0.0.1", WORLD), backlog=200)
    threading.Thread(target=world, args=(listener,), daemon=True).start()
    log = open(DIRECTORY + "/log", "a")
    ledger = open(DIRECTORY + "/ledger", "a")
    clients = [threading.Thread(target=hand_in, args=(n, ledger)) for n in range(8)]
    for client in clients:
        client.start()
    try:
        early = 0
        slowest = 0
        for number in range(ROUNDS):
            began = time.monotonic()
            # Fewer and fewer, so that what was learned of it is killed at each size.
            let_in = 3 - 3 * number // ROUNDS
            process = start(log)
            if number % 5 == 4:
                # During the start, recovery included; the next start has the same to do.
                time.sleep(dice.uniform(0, 0.03))
                early += not starting.is_set()
            else:
                if not starting.wait(10):
                    sys.exit("not ready after 10 s")
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(dice.uniform(0, 0.3))
            kill(process)
        over.set()
        let_in = 3
        process = start(log)
        for client in clients:
            client.join()
        deadline = time.monotonic() + 60
        while "OK 0" not in (answer := ask_control("count") if starting.wait(10) else ""):
            if time.monotonic() > deadline:
                sys.exit("still in the queue: %s" % ask_control("count", "domains", "list limit=3"))
            time.sleep(0.1)
        # The record of what nobody answered, for what the log could not say any more.
        for queue_id in unanswered:
            if queue_id not in marked and " doubt=may-be-sent-twice" in ask_control("show id=%d" % queue_id):
                marked[queue_id] = 0
        if "broken" in (answer := ask_control("check")):
            sys.exit("what must not be: %s" % answer)
        if DOMAINS and "destination=mx:mx.world.test" not in (answer := ask_control("domains")):
            sys.exit("the domains share nothing: %s" % answer)
        process.send_signal(signal.SIGTERM)
        if process.wait(20) != 0:
            sys.exit("the daemon ended with %s" % process.returncode)
        process.ear.join()
        process = None
    finally:
        over.set()
        log.flush()
        if process is not None and process.poll() is None:
            process.kill()

    faults = []
    by_name = {}
    for queue_id, name in content.items():
        by_name.setdefault(name, set()).add(queue_id)
    for name, queue_id in acknowledged.items():
        if queue_id not in by_name.get(name, ()):
            faults.append("%s was acknowledged as %d and is lost" % (name, queue_id))
    for name, ids in by_name.items():
        if len(ids) > 1:
            faults.append("%s became several messages: %s" % (name, sorted(ids)))
    twice = 0
    for queue_id, times in arrived.items():
        for when in times[1:]:
            twice += 1
            if marked.get(queue_id, when) >= when:
                faults.append("%d came again without a mark" % queue_id)
    if faults:
        sys.exit("\n".join(faults))
    turned_away = "; %d connections were not let in" % sent_away if DOMAINS else ""
    if not acknowledged or not marked or not twice:
        sys.exit("the test has tested nothing: %d acknowledged, %d marked, %d twice" % (len(acknowledged), len(marked), twice))
    if DOMAINS and not sent_away:
        sys.exit("the test has tested nothing: every connection was let in")
    print(
        "killed %d times, %d of them before it was ready: %d messages acknowledged, none lost; %d arrived that were not "
        "acknowledged; %d came twice, all of them named before (%d were in doubt); slowest start %d ms%s"
        % (ROUNDS, early, len(acknowledged), len(by_name) - len(acknowledged), twice, len(marked), slowest * 1000, turned_away)
    )


main()
