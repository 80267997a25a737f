"""Clients that hand in mail with smtplib and write down what they were told.

    client.py HOST PORT LEDGER THREADS SIZE PAUSE MOST

One message per connection, each to an address of its own. A line of the ledger: address, code and text of the answer to
the dot or of the refusal before it, or `000` when the connection ended without one. Ends at SIGTERM, after the messages
under way, or when each thread has handed in MOST of them.
"""

import signal
import smtplib
import sys
import threading
import time

HOST, PORT, LEDGER, THREADS, SIZE, PAUSE, MOST = sys.argv[1:]
PORT, THREADS, SIZE, PAUSE, MOST = int(PORT), int(THREADS), int(SIZE), float(PAUSE), float(MOST)
over = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: over.set())
ledger = open(LEDGER, "a", buffering=1)
lock = threading.Lock()
stamp = f"{time.time_ns() // 1_000_000:x}"
body = ("x" * 75 + "\r\n") * max(1, SIZE // 77)


def hand_in(thread):
    number = 0
    while number < MOST and not over.is_set():
        number += 1
        address = f"m{stamp}-{thread}-{number}@world.test"
        text = f"From: ann@here.test\r\nTo: {address}\r\nSubject: {number}\r\n\r\n{body}"
        wait = PAUSE
        try:
            with smtplib.SMTP(HOST, PORT, timeout=60) as server:
                server.ehlo("client.test")
                server.mail("ann@here.test")
                answer = server.rcpt(address)
                if answer[0] == 250:
                    answer = server.data(text)
        except smtplib.SMTPResponseException as refused:
            answer = (refused.smtp_code, refused.smtp_error)
        except (OSError, smtplib.SMTPException) as error:
            answer = (0, repr(error).encode())
        if answer[0] != 250:
            wait = max(PAUSE, 0.1)
        with lock:
            ledger.write(f"{address} {answer[0]:03} {answer[1].decode(errors='replace')!r}\n")
        over.wait(wait)


threads = [threading.Thread(target=hand_in, args=(n,)) for n in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    while thread.is_alive():
        thread.join(0.2)
