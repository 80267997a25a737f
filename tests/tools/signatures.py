"""What dkimpy says of DKIM signatures, without a name server.

signatures.py ZONE FILE..   ZONE is what `posthaste dkim dns` prints; a line per signature of each file: selector, domain, good
                            or bad. A file without a signature is "unsigned".
"""

import re
import sys

import dkim

zone = {}
for line in open(sys.argv[1]):
    name, _, _, rest = line.split(" ", 3)
    zone[name.encode()] = "".join(re.findall('"([^"]*)"', rest)).encode()
for path in sys.argv[2:]:
    content = open(path, "rb").read()
    # smtp-sink puts its own fields in front, and none of them was sent.
    content = re.sub(rb"\A(X-[A-Za-z-]+: [^\n]*\n)+", b"", content)
    content = re.sub(rb"\r?\n", b"\r\n", content)
    message = dkim.DKIM(content)
    count = sum(name.lower() == b"dkim-signature" for name, _ in message.headers)
    for n in range(count):
        try:
            good = message.verify(n, dnsfunc=lambda name, timeout=5: zone.get(name))
        except dkim.ValidationError:
            good = False
        print(message.signature_fields[b"s"].decode(), message.signature_fields[b"d"].decode(), "good" if good else "bad")
    if count == 0:
        print("unsigned")
