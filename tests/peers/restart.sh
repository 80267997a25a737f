#!/usr/bin/env bash
# Mail waits for a receiver that is down, over a stop and a start, and arrives once; the bounds of an idle daemon.
# Rules: SEC-2, Q-13, Q-16, RT-5, PRC-2, PRC-9, SC-1, CTL-11
. "$(dirname "$0")/../tools/lib.sh"
need smtp-source smtp-sink nc

COUNT=500
WORLD_PORT=$(free_port)
dns_start 'world.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2'
# Minutes between attempts: what was tried before arrives soon after the start because it was kicked.
config 's/^intervals = .*/intervals = ["10m"]/' 's/^lifetime = .*/lifetime = "1h"/' 's|run/smtp"|run/made/smtp"|'
umask 077
daemon_start
umask 022
# A directory that is made for a socket has its mode whatever the umask, or nobody else could reach the socket.
[ "$(stat -c %a "$D/run/made" "$D/run/made/smtp" | xargs)" = "755 666" ] || die "modes: $(stat -c '%a %n' "$D"/run/made/* "$D/run/made")"
smtp-source -4 -N -s 10 -m $COUNT -l 1000 -f joe@demo.posthaste.test -t x@world.test -M client.test "127.0.0.1:$SMTP_PORT" ||
  die "smtp-source ended with $?"
[ "$(queued)" = $COUNT ] || die "$(queued) in the queue, not $COUNT"
# The first attempts find nobody; from then on the destination is dead, and the rest only waits (SC-7).
until_true 60 grep -q ' destination-dead ' "$D/log" || die "a destination that refuses is not known as dead"
[ "$(grep -c ' result=deferred ' "$D/log")" -lt $COUNT ] || die "each message was tried although nobody was there"
daemon_stop || die "the daemon ended with $?"

daemon_start
[ "$(queued)" = $COUNT ] || die "after the start $(queued) in the queue, not $COUNT"
sink_start world 127.0.0.2
control 'kick all' | grep -q "^OK " || die "kick was refused"
until_true 60 queue_is_empty || die "$(queued) still in the queue"
each_once $COUNT || die "$(arrived | wc -l) arrived, $(arrived | sort -u | wc -l) different ones, of $COUNT"

# Idle: no processor time to speak of, no question to the name server.
ticks() { awk '{print $14 + $15}' "/proc/$DAEMON_PID/stat"; }
sleep 1
before=$(ticks) asked=$(grep -c . "$D/dns.log")
sleep 3
used=$(($(ticks) - before)) asked=$(($(grep -c . "$D/dns.log") - asked))
[ "$used" -le 2 ] || die "idle for 3 s it used $used ticks of processor time"
[ "$asked" = 0 ] || die "idle it asked $asked questions"
daemon_stop || die "the daemon ended with $?"
echo "$COUNT messages over a stop and a start, each once; idle: $used ticks in 3 s, $asked questions"
