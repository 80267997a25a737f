#!/usr/bin/env bash
# Slow, deaf, unlucky and late clients on Python's sockets and smtplib: session_timeout, half commands, unread replies, a
# database that somebody else has locked, SIGTERM before and inside DATA; and our Received field as Python's email reads it.
# Rules: IN-11, IN-12, IN-26, IN-27, IN-28, PRC-2
. "$(dirname "$0")/../tools/lib.sh"
need smtp-sink python3 nc

client() { python3 "$(dirname "$0")/slow.py" "$@" || die "slow.py $1"; }

WORLD_PORT=$(free_port)
dns_start 'world.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2'
sink_start world 127.0.0.2
# Top-level settings stand before the first table.
config 's/^pid_file = .*/&\nshutdown_grace = "3s"/' \
  '$a\[intake]\nsession_timeout = "4s"\nidle_timeout = "2s"'
daemon_start

client received "$SMTP_PORT" "$D/run/smtp" "$DAEMON_PID" "$D/world/world"
client busy "$SMTP_PORT" "$D/run/smtp" "$DAEMON_PID" "$D/queue/queue.db"
client slow "$SMTP_PORT" "$D/run/smtp" "$DAEMON_PID"
until_true 20 queue_is_empty || die "$(queued) are still in the queue"
arrived | grep -q '^late@' || die "content that outlasted its session was lost"
[ "$(arrived | grep -c '^busy@')" = 1 ] || die "what was refused once arrived $(arrived | grep -c '^busy@') times"
arrived | grep -q '^good@' || die "a good client was not served"

id=$(python3 "$(dirname "$0")/slow.py" stop "$SMTP_PORT" "$D/run/smtp" "$DAEMON_PID") || die "$id"
wait "$DAEMON_PID" || die "the daemon ended with $?"
[ -n "$id" ] || die "no 250 within the grace"
daemon_start
until_true 20 queue_is_empty || die "$(queued) are still in the queue"
[ "$(arrived | grep -c '^half@')" = 1 ] || die "what got its 250 during the stop arrived $(arrived | grep -c '^half@') times"
[ "$(arrived | grep -c '^gone@')" = 0 ] || die "content without an end was queued"
daemon_stop || die "the daemon ended with $?"
echo "sessions have an end, deaf clients are cut, a busy store is 451, a stop answers everybody, Received reads well"
