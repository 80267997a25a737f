#!/usr/bin/env bash
# A smarthost (Python's socketserver) whose connections vanish without FIN or reset, as by a lost entry of address
# translation: it is left as soon as its system says that it knows of none, and not after minutes.
# Rules: DV-15, CL-9, Q-14
. "$(dirname "$0")/../tools/lib.sh"
need python3 nc smtp-sink

WORLD_PORT=$(free_port)
sink_start two 127.0.0.3
echo dot >"$D/mode"
python3 - "$WORLD_PORT" "$D/mode" "$D/world/one" >"$D/one.out" 2>&1 <<'PY' &
import socket, socketserver, sys
TCP_REPAIR = 19  # tcp(7) of Linux: what is closed under it says nothing to the peer
out = open(sys.argv[3], "a", buffering=1)
class Session(socketserver.StreamRequestHandler):
    def vanish(self, where):
        out.write(f"vanished at the {where}\n")
        # All that came is acknowledged first, or it would be sent again, and answered with a reset, at once.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    def handle(self):
        mode = open(sys.argv[2]).read().strip()
        if mode == "greeting":
            return self.vanish(mode)
        self.wfile.write(b"220 mx.one\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() != b".\r\n":
                    pass
                if mode == "dot":
                    return self.vanish(mode)
                out.write("got\n")
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            if verb == b"QUIT":
                return
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    def shutdown_request(self, request):
        # Without the FIN of the base class.
        request.close()
Server(("127.0.0.2", int(sys.argv[1])), Session).serve_forever()
PY
PIDS+=($!)
until_true 5 port_open 127.0.0.2 "$WORLD_PORT" || die "no receiver: $(cat "$D/one.out")"
config
relay_plain "127.0.0.2:$WORLD_PORT" "127.0.0.3:$WORLD_PORT" >>"$D/posthaste.toml"
daemon_start
# hand_in RECIPIENT
hand_in() {
  printf 'EHLO client.test\r\nMAIL FROM:<joe@demo.posthaste.test>\r\nRCPT TO:<%s>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n' "$1" |
    nc -q 5 127.0.0.1 "$SMTP_PORT" >"$D/nc.out"
}
logged() { grep -q "$1" "$D/log"; }

echo "It vanishes while its reply to the dot is awaited"
hand_in dot@world.test
until_true 60 logged 'deliver .*to=<dot@world.test>.*result=deferred' || die "it is still waited for: $(control list)"
logged 'deliver .*to=<dot@world.test>.*stage=final-dot .*doubt=may-be-sent-twice' || die "not in doubt: $(grep 'deliver ' "$D/log")"

echo "It vanishes before it has greeted"
echo greeting >"$D/mode"
hand_in greeting@world.test
until_true 60 logged 'deliver .*to=<greeting@world.test>' || die "it is still waited for: $(control list)"
logged 'deliver .*to=<greeting@world.test>.*relay=127.0.0.3.*attempt=1 .*result=delivered' ||
  die "not by the other host in the same attempt: $(grep 'deliver ' "$D/log")"
grep -q '^vanished at the greeting' "$D/world/one" || die "the first host was not asked: $(cat "$D/world/one")"

control kick all >"$D/kick"
until_true 60 queue_is_empty || die "$(queued) still in the queue: $(control list)"
[ "$(arrived two | sort)" = "$(printf '%s\n' dot@world.test greeting@world.test)" ] || die "arrived: $(arrived two)"
daemon_stop || die "the daemon ended with $?"
echo "connections that vanished at the dot and before the greeting were given up at once, in doubt and for the other host"
