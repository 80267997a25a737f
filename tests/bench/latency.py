"""One message alone: from the client's dot to the receiver's dot, in turn over several relays into a receiver of our own.

    latency.py WORLD-PORT COUNT NAME=PORT..      prints NAME MEDIAN WORST in milliseconds, a line for each

Each message is handed in on a connection of its own, and the next one only when it has arrived. The first five of each
relay are not counted: they start its processes and fill its caches.
"""

import queue
import socket
import statistics
import sys
import threading
import time

WARM_UP = 5
BODY = b"Subject: alone\r\n\r\n" + b"".join(b"%078d\r\n" % n for n in range(50))
dots = queue.Queue()


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = connection.makefile("rb")
    connection.sendall(b"220 world ESMTP\r\n")
    for line in stream:
        verb = line[:4].upper()
        if verb == b"EHLO":
            connection.sendall(b"250-world\r\n250 PIPELINING\r\n")
        elif verb == b"DATA":
            connection.sendall(b"354 go on\r\n")
            for line in stream:
                if line == b".\r\n":
                    dots.put(time.perf_counter())
                    break
            connection.sendall(b"250 taken\r\n")
        elif verb == b"QUIT":
            connection.sendall(b"221 bye\r\n")
            break
        else:
            connection.sendall(b"250 ok\r\n")
    connection.close()


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def alone(port):
    """Milliseconds for one message over this relay."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")

        def ask(words, code):
            connection.sendall(words)
            while (line := stream.readline())[3:4] == b"-":
                pass
            if not line.startswith(code):
                sys.exit("port %d: %r" % (port, line))

        ask(b"", b"220")
        ask(b"EHLO client.test\r\n", b"250")
        ask(b"MAIL FROM:<joe@client.test>\r\n", b"250")
        ask(b"RCPT TO:<ann@world.test>\r\n", b"250")
        ask(b"DATA\r\n", b"354")
        connection.sendall(BODY)
        began = time.perf_counter()
        ask(b".\r\n", b"250")
        took = dots.get(timeout=60) - began
        ask(b"QUIT\r\n", b"221")
    return took * 1000


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
threading.Thread(target=accept, args=(listener,), daemon=True).start()
relays = {name: int(port) for name, port in (word.split("=") for word in sys.argv[3:])}
times = {name: [] for name in relays}
for number in range(int(sys.argv[2]) + WARM_UP):
    for name, port in relays.items():
        took = alone(port)
        if number >= WARM_UP:
            times[name].append(took)
for name, values in times.items():
    print("%s %.2f %.2f" % (name, statistics.median(values), max(values)))
