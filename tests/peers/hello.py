"""What a TLS listener answers to greetings that no library of today would send: old versions, weak ciphers, compression.

hello.py HOST PORT starttls|implicit   fails with what was wrong; the last line counts what was tried.
"""

import os
import socket
import ssl
import struct
import sys

HOST, PORT, HOW = sys.argv[1], int(sys.argv[2]), sys.argv[3]
GOOD = [0xC02F, 0xC030, 0xC02B, 0xC02C, 0xCCA8, 0xCCA9]  # ECDHE with AES-GCM or ChaCha20
WEAK = {
    "NULL": [0x0001, 0x0002, 0x003B, 0xC006, 0xC010],
    "anonymous": [0x0018, 0x001B, 0x0034, 0x003A, 0x006C, 0x00A6, 0xC018, 0xC019],
    "export": [0x0003, 0x0006, 0x0008, 0x000B, 0x000E, 0x0011, 0x0014, 0x0017, 0x0062, 0x0064],
    "DES": [0x0009, 0x000C, 0x000F, 0x0012, 0x0015, 0x001A],
    "3DES": [0x000A, 0x0010, 0x0013, 0x0016, 0xC008, 0xC012],
    "RC4": [0x0004, 0x0005, 0xC007, 0xC011],
    "IDEA, SEED": [0x0007, 0x0096, 0x009A],
    "CBC": [0x002F, 0x0035, 0x003C, 0x003D, 0x0067, 0x006B, 0xC009, 0xC00A, 0xC013, 0xC014, 0xC027, 0xC028],
    "without forward secrecy": [0x002F, 0x0035, 0x009C, 0x009D, 0xC09C],
}
PROTOCOL_VERSION, HANDSHAKE_FAILURE, INAPPROPRIATE_FALLBACK = 70, 40, 86


def connect():
    sock = socket.create_connection((HOST, PORT), timeout=10)
    if HOW == "starttls":
        read = sock.makefile("rb")
        read.readline()
        sock.sendall(b"EHLO client.test\r\n")
        while read.readline()[3:4] == b"-":
            pass
        sock.sendall(b"STARTTLS\r\n")
        line = read.readline()
        assert line.startswith(b"220"), line
    return sock


def extension(number, data):
    return struct.pack("!HH", number, len(data)) + data


def hello(version, ciphers, compression=b"\0"):
    """A ClientHello for TLS 1.2 and older: no supported_versions extension, so that the version is what it says."""
    groups = extension(10, struct.pack("!HHHH", 6, 29, 23, 24)) + extension(11, b"\x01\x00")
    signatures = extension(13, struct.pack("!H8H", 16, 0x0403, 0x0503, 0x0804, 0x0805, 0x0401, 0x0501, 0x0201, 0x0203))
    extensions = groups + signatures + extension(0xFF01, b"\0")
    body = struct.pack("!H", version) + os.urandom(32) + b"\0" + struct.pack("!H", 2 * len(ciphers))
    body += b"".join(struct.pack("!H", cipher) for cipher in ciphers)
    body += bytes([len(compression)]) + compression + struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return b"\x16" + struct.pack("!HH", min(version, 0x0301), len(message)) + message


def answer(octets):
    """("alert", number), ("hello", version, cipher, compression) or ("closed", what came)."""
    with connect() as sock:
        sock.sendall(octets)
        got = b""
        try:
            while len(got) < 100 and (more := sock.recv(4096)):
                got += more
                if got[0] == 0x15 and len(got) >= 7:
                    return "alert", got[6]
        except ConnectionResetError:
            pass
    if got[:1] != b"\x16" or got[5] != 2:
        return "closed", got
    version, after = struct.unpack_from("!H", got, 9)[0], 44 + got[43]
    return "hello", version, struct.unpack_from("!H", got, after)[0], got[after + 2]


tried = 0


def expect(name, octets, *wanted):
    global tried
    tried += 1
    got = answer(octets)
    if got[: len(wanted)] != wanted:
        sys.exit(f"{name}: {got}, not {wanted}")
    return got


# A hello that is fine shows that this program can say one.
good = expect("TLS 1.2", hello(0x0303, GOOD), "hello", 0x0303)
assert good[2] in GOOD and good[3] == 0, good
expect("SSL 3", hello(0x0300, GOOD + WEAK["CBC"]), "alert")
for name, version in {"TLS 1.0": 0x0301, "TLS 1.1": 0x0302}.items():
    expect(name, hello(version, GOOD + WEAK["CBC"]), "alert", PROTOCOL_VERSION)
for name, ciphers in WEAK.items():
    expect(f"all of {name}", hello(0x0303, ciphers), "alert", HANDSHAKE_FAILURE)
    for cipher in ciphers:
        expect(f"{name} {cipher:#06x}", hello(0x0303, [cipher]), "alert", HANDSHAKE_FAILURE)
# CRIME: deflate is offered first, and not taken.
got = expect("compression", hello(0x0303, GOOD, b"\x01\0"), "hello", 0x0303)
assert got[3] == 0, got
# RFC 7507: who comes back with an older version because somebody cut the first try is told so.
expect("fallback", hello(0x0303, GOOD + [0x5600]), "alert", INAPPROPRIATE_FALLBACK)
# SSL 2: a record of another form.
ssl2 = struct.pack("!BHHHH", 1, 2, 3, 0, 16) + b"\x01\0\x80" + os.urandom(16)
assert expect("SSL 2", struct.pack("!H", 0x8000 | len(ssl2)) + ssl2)[0] in ("alert", "closed")


# close_notify: ours follows the 221, and answers the client's. What comes on the plain socket after it is neither read nor answered.
def session(version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    sock = context.wrap_socket(connect(), server_hostname="localhost", suppress_ragged_eofs=False)
    if HOW == "implicit":
        sock.recv(4096)
    return sock


def end_of(sock):
    """What comes on the plain socket until it is closed."""
    got = b""
    try:
        sock.sendall(b"NOOP\r\nMAIL FROM:<evil@world.test>\r\n")
        while more := sock.recv(4096):
            got += more
    except (ConnectionResetError, BrokenPipeError):
        pass
    return got


for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    tried += 3
    sock = session(version)
    sock.sendall(b"QUIT\r\n")
    assert sock.recv(4096).startswith(b"221"), "no 221"
    # An end without close_notify would be an SSLEOFError here.
    assert sock.recv(4096) == b"", "octets after the 221"
    for words in b"", b"EHLO x\r\nMAIL FROM:<joe@demo.posthaste.test>\r\nRCPT TO:<cut@world.test>\r\nDATA\r\nSubject: cut\r\n\r\nhalf":
        sock = session(version)
        if words:
            sock.sendall(words)
            got = b""
            while b"\n354" not in got:
                got += sock.recv(4096)
        try:
            plain = sock.unwrap()
        except ssl.SSLError as error:
            # The client's half is closed; content without its dot is answered in the other half, as a half-closed TCP is.
            assert words and error.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY", error
            plain = socket.socket(fileno=sock.detach())
            # The descriptor does not block, and the new object does not know that without a limit of its own.
            plain.settimeout(10)
        end = end_of(plain)
        assert not any(code in end for code in (b"250", b"354", b"421", b"5.5.")), f"clear text is answered: {end}"
print(f"{HOW}: {tried} tries")
