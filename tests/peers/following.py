#!/usr/bin/env python3
"""Hands octets through between its port and another, and counts how often commands stand right behind a final dot.

  following.py PORT TO-PORT FILE     the count so far is in FILE"""

import os
import re
import socket
import sys
import threading

BEHIND = re.compile(rb"\r\n\.\r\nMAIL FROM:")
lock = threading.Lock()
seen = 0


def add(found):
    global seen
    with lock:
        seen += found
        with open(sys.argv[3] + ".new", "w") as file:
            print(seen, file=file)
        os.replace(sys.argv[3] + ".new", sys.argv[3])


def through(source, sink, count):
    """Until the source has no more."""
    try:
        while octets := source.recv(1 << 17):
            if count and (found := len(BEHIND.findall(octets))):
                add(found)
            sink.sendall(octets)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(client):
    server = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    for one in (client, server):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = threading.Thread(target=through, args=(server, client, False), daemon=True)
    back.start()
    through(client, server, True)
    back.join()
    client.close()
    server.close()


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
