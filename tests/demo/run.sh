#!/usr/bin/env bash
# `make run`: the daemon of the demo in the foreground, with its world, until Ctrl-C.
. "$(dirname "$0")/../tools/lib.sh"
need nc smtp-sink

# Fixed ports where they are free, so that what is on the screen can be typed again tomorrow.
WORLD_PORT=2526 SMTP_PORT=2525
port_open 127.0.0.2 "$WORLD_PORT" && WORLD_PORT=$(free_port)
port_open 127.0.0.1 "$SMTP_PORT" && SMTP_PORT=$(free_port)
dns_start \
  'blue.test MX 10 mx.blue.test' 'mx.blue.test A 127.0.0.2' \
  'green.test MX 10 mx.green.test' 'mx.green.test A 127.0.0.3' \
  'busy.test MX 10 mx.busy.test' 'mx.busy.test A 127.0.0.4' \
  'no.test MX 10 mx.no.test' 'mx.no.test A 127.0.0.5' \
  'dead.test MX 10 mx.dead.test' 'mx.dead.test A 127.0.0.6' \
  'null.test MX 0 .'
sink_start blue 127.0.0.2
sink_start green 127.0.0.3
sink_start busy 127.0.0.4 -r RCPT -b '450 4.2.1 Mailbox busy, come back later'
sink_start no 127.0.0.5 -f RCPT -B '550 5.1.1 No such user here'
config

cat <<TEXT

posthasted runs in the foreground now; Ctrl-C ends it and all that belongs to it. In another terminal:

  mail in     swaks --server 127.0.0.1:$SMTP_PORT --from joe@demo.posthaste.test --to ann@blue.test
              swaks --server 127.0.0.1:$SMTP_PORT --from joe@demo.posthaste.test --to ann@busy.test,bob@no.test,carol@dead.test
              smtp-source -s 5 -m 100 -l 4096 -f joe@demo.posthaste.test -t ann@green.test 127.0.0.1:$SMTP_PORT
  the queue   printf 'list\nstats\nquit\n' | nc -U $D/run/control
              $BIN/posthaste -s $D/run/control list
  what came   tail -f $D/world/blue
  its files   $D/posthaste.toml, $D/queue/queue.db

  blue.test, green.test take mail; busy.test says 450; no.test says 550; dead.test refuses connections; null.test has a null MX.

TEXT
"$BIN/posthasted" -F -f "$D/posthaste.toml" &
DAEMON_PID=$!
PIDS+=("$DAEMON_PID")
# Ctrl-C reaches the daemon too, as it would in a terminal of its own; wait for its orderly end.
trap ':' INT TERM
wait "$DAEMON_PID"
status=$?
while kill -0 "$DAEMON_PID" 2>/dev/null; do wait "$DAEMON_PID"; status=$?; done
exit "$status"
