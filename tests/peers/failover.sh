#!/usr/bin/env bash
# Two smarthosts (smtp-sink) under load, of which one is killed: seconds, and no message an attempt. And how few connections
# 5000 messages need.
# Rules: RO-5, RO-10, CL-8, CL-24, SC-5
. "$(dirname "$0")/../tools/lib.sh"
need smtp-sink smtp-source nc

COUNT=5000 CONNECTIONS=8
WORLD_PORT=$(free_port)
sink_start one 127.0.0.2
one=$SINK_PID
sink_start two 127.0.0.3
config
{
  printf '\n[limits]\nconnections = %s\n' "$CONNECTIONS"
  relay_plain "127.0.0.2:$WORLD_PORT" "127.0.0.3:$WORLD_PORT"
} >>"$D/posthaste.toml"
sed -i 's/^\[deliver\]/[deliver]\nsession_messages = 10000/' "$D/posthaste.toml"
daemon_start
metric() { control metrics | sed -n "s/^posthaste_$1 //p"; }
load() { smtp-source -4 -N -s 4 -m "$1" -l 1000 -f joe@demo.posthaste.test -t "$2@world.test" "127.0.0.1:$SMTP_PORT" || die "smtp-source"; }

echo "$COUNT messages through one of them"
load $COUNT a
until_true 60 queue_is_empty || die "$(queued) still in the queue"
opened=$(metric 'connections_total{result="opened"}')
new=$(metric 'transactions_total{session="new"}') reused=$(metric 'transactions_total{session="reused"}')
[ "$opened" -le $CONNECTIONS ] || die "$opened connections, and no more than $CONNECTIONS at once are permitted"
[ "$new" = "$opened" ] && [ $((new + reused)) = $COUNT ] || die "$new on new sessions and $reused on reused ones"
[ -z "$(arrived two)" ] || die "the second host had something to do"

echo "The first is killed in the middle of as much again"
load $COUNT b &
loader=$!
until_true 30 at_least $((COUNT + COUNT / 4)) || die "no load: $(arrived | wc -l)"
kill -9 "$one"
killed=$(date +%s%N)
count_two() { [ "$(arrived two | wc -l)" -ge "$1" ]; }
until_true 30 count_two 100 || die "the second host gets nothing"
took=$((($(date +%s%N) - killed) / 1000000))
wait "$loader" || die "smtp-source"
# What was at its dot when the host died is in doubt and comes once more after its retry interval.
until_true 60 queue_is_empty || die "$(queued) still in the queue: $(control list | head -n 3)"
lost=$(seq 1 $COUNT | sed 's/$/b@world.test/' | sort | comm -23 - <(arrived | sort -u) | wc -l)
[ "$lost" = 0 ] || die "$lost messages never arrived"
doubt=$(grep -c 'deliver .*result=deferred .*doubt=may-be-sent-twice' "$D/log")
others=$(grep 'deliver .*result=deferred' "$D/log" | grep -vc doubt=)
[ "$others" = 0 ] || die "$others messages lost an attempt: $(grep 'deliver .*result=deferred' "$D/log" | grep -v doubt= | head -n 1)"
[ "$doubt" -le $CONNECTIONS ] || die "$doubt in doubt on $CONNECTIONS connections"
[ "$(arrived | sort | uniq -d | wc -l)" -le "$doubt" ] || die "more came twice than were in doubt"
unreached=$(metric 'connections_total{result="unreached"}')
[ "$unreached" -le $((CONNECTIONS * 3)) ] || die "the dead host was dialled $unreached times"
daemon_stop || die "the daemon ended with $?"
echo "$COUNT messages on $opened connections; one of two hosts killed: the other had 100 messages after $took ms," \
  "$unreached dials of the dead one, $doubt in doubt, no other attempt lost"
