#!/usr/bin/env python3
"""A receiver that lets in so many sessions at once and no more: 421 to the others. Written on Python's own asyncio.

limits.py ADDRESS PORT SESSIONS FILE: a line in FILE for each recipient it got, for each refusal, and for the most it had at once."""

import asyncio
import sys

ADDRESS, PORT, SESSIONS, FILE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
now, most = 0, 0
out = open(FILE, "a", buffering=1)


async def session(reader, writer):
    global now, most
    now += 1
    try:
        if now > SESSIONS:
            out.write("refused\n")
            writer.write(b"421 4.7.0 mx.limits.test too many connections from your address\r\n")
            return
        if now > most:
            most = now
            out.write(f"most {most}\n")
        writer.write(b"220 mx.limits.test\r\n")
        recipients = []
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                writer.write(b"354 go on\r\n")
                while (await reader.readline()) != b".\r\n":
                    pass
                await asyncio.sleep(0.02)
                for recipient in recipients:
                    out.write(f"got {recipient}\n")
                recipients = []
            elif verb == b"RCPT":
                recipients.append(line.split(b"<")[1].split(b">")[0].decode())
            writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            await writer.drain()
            if verb == b"QUIT":
                return
    except ConnectionError:
        pass
    finally:
        now -= 1
        writer.close()


async def main():
    server = await asyncio.start_server(session, ADDRESS, PORT)
    async with server:
        await server.serve_forever()


asyncio.run(main())
