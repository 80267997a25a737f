#!/usr/bin/env bash
# Commands behind the content of the message before, to a quick relay with fewer connections than messages: smtp-sink reads
# on, each message arrives once, in one attempt. One that does not announce PIPELINING gets none.
# Rules: CL-14, Q-11, Q-13
. "$(dirname "$0")/../tools/lib.sh"
need smtp-sink smtp-source nc python3

COUNT=3000
WORLD_PORT=$(free_port)
tap=$(free_port)
python3 "$ROOT/tests/peers/following.py" "$tap" "$WORLD_PORT" "$D/behind" 2>"$D/tap.err" &
PIDS+=($!)
until_true 5 port_open 127.0.0.1 "$tap" || die "the tap did not start: $(cat "$D/tap.err")"
config
{
  printf '\n[limits]\nconnections = 4\n'
  relay_plain "127.0.0.1:$tap"
} >>"$D/posthaste.toml"
daemon_start
load() { smtp-source -4 -N -s 20 -m $COUNT -l 2000 -f joe@demo.posthaste.test -t "$1@world.test" "127.0.0.1:$SMTP_PORT" || die "smtp-source"; }
behind() { cat "$D/behind" 2>/dev/null || echo 0; }

sink_start one 127.0.0.1
load a
until_true 60 each_once $COUNT || die "$(arrived | wc -l) arrived, $(arrived | sort -u | wc -l) of them different, of $COUNT"
until_true 60 queue_is_empty || die "$(queued) still in the queue"
followed=$(behind)
[ "$followed" -ge $((COUNT / 20)) ] || die "commands went out behind the content $followed times in $COUNT"
others=$(grep ' deliver ' "$D/log" | grep -v ' attempt=1 .* result=delivered ')
[ -z "$others" ] || die "not delivered at once: $(head -n 1 <<<"$others")"

stop "$SINK_PID"
sink_start two 127.0.0.1 -p
load b
until_true 60 each_once $((2 * COUNT)) || die "$(arrived | wc -l) arrived, of $((2 * COUNT))"
until_true 60 queue_is_empty || die "$(queued) still in the queue"
[ "$(behind)" = "$followed" ] || die "without PIPELINING: $(behind), $followed before"
daemon_stop || die "the daemon ended with $?"
echo "$COUNT messages on 4 connections, $followed of them on the heels of another, each once; none without PIPELINING"
