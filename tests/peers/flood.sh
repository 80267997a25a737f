#!/usr/bin/env bash
# 10 000 messages of 4 KiB from smtp-source, 20 at a time, through the daemon into smtp-sink: each arrives once, and the
# daemon stays small. Then it gives back what the load took: threads and descriptors wholly, memory to within a tenth of the
# level before: after the first work, of what it had used before it did anything; after all later loads, of the first rest.
# Rules: Q-1, Q-13, Q-20, Q-27, SC-1, CL-24, PRC-7
. "$(dirname "$0")/../tools/lib.sh"
need smtp-source smtp-sink nc

COUNT=${COUNT:-10000}
WORLD_PORT=$(free_port)
dns_start 'world.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2'
sink_start world 127.0.0.2
config 's/^\[deliver\]/&\nidle_session = "2s"/'
daemon_start
# Nothing has been asked of it yet: two workers, and no session.
fresh=$(rss_kib "$DAEMON_PID") threads=$(threads_of "$DAEMON_PID") descriptors=$(descriptors_of "$DAEMON_PID")

# load COUNT NAME: hands in so many, to NAME with a number in front; waits until all have left the queue.
load() {
  # -N numbers the recipients, so that one message can be told from another.
  smtp-source -4 -N -s 20 -m "$1" -l 4096 -f joe@demo.posthaste.test -t "$2@world.test" -M client.test \
    "127.0.0.1:$SMTP_PORT" || die "smtp-source ended with $?"
  accepted=$(date +%s%N)
  sent=$((${sent:-0} + $1))
  until_true 300 at_least "$sent" || die "only $(arrived | wc -l) of $sent arrived"
  until_true 30 queue_is_empty || die "$(queued) are still in the queue"
}

# The control client that asked for the queue may still be leaving, hence at most.
as_before() {
  [ "$(threads_of "$DAEMON_PID")" -le "$threads" ] && [ "$(descriptors_of "$DAEMON_PID")" -le "$descriptors" ] &&
    [ "$(rss_kib "$DAEMON_PID")" -le "$1" ]
}
settled() { # LIMIT WHEN
  until_true 90 as_before "$1" || die "$2: $(rss_kib "$DAEMON_PID") KiB (limit $1), $(threads_of "$DAEMON_PID") threads" \
    "($threads), $(descriptors_of "$DAEMON_PID") descriptors ($descriptors)"
}

load $((COUNT / 5)) w
settled $((fresh * 110 / 100)) "after the first work"
level=$(rss_kib "$DAEMON_PID")
limit=$((level * 110 / 100))
start=$(date +%s%N)
load "$COUNT" x
delivered=$(date +%s%N)
first_accepted=$accepted
peak=$(peak_kib "$DAEMON_PID")
settled "$limit" "after the load"
first=$(rss_kib "$DAEMON_PID")
load $((COUNT / 5)) y
load $((COUNT / 5)) z
settled "$limit" "after the third load"
third=$(rss_kib "$DAEMON_PID")

daemon_stop || die "the daemon ended with $?"
each_once "$sent" || die "$(arrived | wc -l) arrived, $(arrived | sort -u | wc -l) different ones, of $sent"
[ "$peak" -lt 65536 ] || die "the daemon used $peak KiB, more than 64 MiB"
echo "$COUNT messages, each once; $((COUNT * 1000000000 / (first_accepted - start)))/s accepted," \
  "$((COUNT * 1000000000 / (delivered - start)))/s end to end; memory $fresh KiB fresh, $level at" \
  "rest, $peak at most, $first after the load, $third after the third"
