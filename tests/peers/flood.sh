#!/usr/bin/env bash
# 10 000 messages of 4 KiB from smtp-source, 20 at a time, through the daemon into smtp-sink: each arrives once, and the
# daemon stays small. Rules: Q-1, Q-13, Q-20, Q-27, SC-1, CL-24, PRC-7
. "$(dirname "$0")/../tools/lib.sh"
need smtp-source smtp-sink nc

COUNT=${COUNT:-10000}
WORLD_PORT=$(free_port)
dns_start 'world.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2'
sink_start world 127.0.0.2
config
daemon_start

start=$(date +%s%N)
# -N numbers the recipients, so that one message can be told from another.
smtp-source -4 -N -s 20 -m "$COUNT" -l 4096 -f joe@demo.posthaste.test -t x@world.test -M client.test "127.0.0.1:$SMTP_PORT" ||
  die "smtp-source ended with $?"
accepted=$(date +%s%N)
until_true 300 at_least "$COUNT" || die "only $(arrived | wc -l) of $COUNT arrived"
delivered=$(date +%s%N)
until_true 30 queue_is_empty || die "$(queued) are still in the queue"

peak=$(peak_kib "$DAEMON_PID")
daemon_stop || die "the daemon ended with $?"
each_once "$COUNT" || die "$(arrived | wc -l) arrived, $(arrived | sort -u | wc -l) different ones, of $COUNT"
[ "$peak" -lt 65536 ] || die "the daemon used $peak KiB, more than 64 MiB"
echo "$COUNT messages, each once; $((COUNT * 1000000000 / (accepted - start)))/s accepted," \
  "$((COUNT * 1000000000 / (delivered - start)))/s end to end, peak memory $peak KiB"
