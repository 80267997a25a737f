#!/usr/bin/env bash
# A smarthost (Python's socketserver) that hangs up on the first five connections at MAIL, by turns with 421 and without a
# word: the message is there once, in one counted attempt.
# Rules: RO-10, Q-13
. "$(dirname "$0")/../tools/lib.sh"
need python3 nc

WORLD_PORT=$(free_port)
python3 - "$WORLD_PORT" "$D/world/got" >"$D/hangup.out" 2>&1 <<'PY' &
import socketserver, sys
connections = 0
out = open(sys.argv[2], "a", buffering=1)
class Session(socketserver.StreamRequestHandler):
    def handle(self):
        global connections
        number = 0
        self.wfile.write(b"220 mx.test\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"MAIL" and number == 0:
                connections += 1
                number = connections
            if verb == b"MAIL" and number <= 5:
                if number % 2:
                    self.wfile.write(b"421 4.3.2 restarting\r\n")
                out.write("hung up\n")
                return
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() != b".\r\n":
                    pass
                out.write("got\n")
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            if verb == b"QUIT":
                return
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("127.0.0.2", int(sys.argv[1])), Session).serve_forever()
PY
PIDS+=($!)
until_true 5 port_open 127.0.0.2 "$WORLD_PORT" || die "no receiver: $(cat "$D/hangup.out")"
config
cat >>"$D/posthaste.toml" <<TOML

[[transport]]
name = "out"
kind = "relay"
hosts = ["127.0.0.2:$WORLD_PORT"]
tls = "none"
redial = 5

[[route]]
transport = "out"
TOML
daemon_start
printf 'EHLO client.test\r\nMAIL FROM:<joe@demo.posthaste.test>\r\nRCPT TO:<bob@dest.test>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n' |
  nc -q 5 127.0.0.1 "$SMTP_PORT" >"$D/nc.out"
until_true 40 queue_is_empty || die "still in the queue: $(control list)"
[ "$(grep -c '^got' "$D/world/got")" = 1 ] || die "it arrived $(grep -c '^got' "$D/world/got") times"
grep -q 'deliver .* attempt=1 .*result=delivered' "$D/log" || die "not in its first attempt: $(grep deliver "$D/log")"
[ "$(grep -c 'deliver ' "$D/log")" = 1 ] || die "more than one attempt: $(grep 'deliver ' "$D/log")"
hung=$(grep -c '^hung up' "$D/world/got")
[ "$hung" = 5 ] || die "it hung up $hung times"
daemon_stop || die "the daemon ended with $?"
echo "hung up on $hung connections at MAIL, and got the message once in one attempt"
