"""dns.py ADDRESS DOMAIN HOST IP: a name server with one MX, and its host. Every other question has an empty
answer, which may be kept as long."""

import socket
import struct
import sys

address, domain, host, ip = sys.argv[1:]


def wire(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((address, 53))
while True:
    query, client = server.recvfrom(1500)
    end = query.find(b"\0", 12) + 1
    name, kind = query[12:end].lower(), query[end : end + 2]
    if (name, kind) == (wire(domain), b"\0\x0f"):
        data = struct.pack(">H", 10) + wire(host)
    elif (name, kind) == (wire(host), b"\0\1"):
        data = socket.inet_aton(ip)
    else:
        data = None
    if data is not None:
        answer = b"\xc0\x0c" + kind + struct.pack(">HIH", 1, 60, len(data)) + data
        count = struct.pack(">HHHH", 1, 1, 0, 0)
    else:
        # RFC 2308 §3: without an SOA nobody would keep it.
        soa = wire("ns.test") + wire("root.test") + struct.pack(">IIIII", 1, 3600, 600, 86400, 60)
        answer = b"\0\0\x06" + struct.pack(">HIH", 1, 60, len(soa)) + soa
        count = struct.pack(">HHHH", 1, 0, 1, 0)
    server.sendto(query[:2] + b"\x81\x80" + count + query[12 : end + 4] + answer, client)
