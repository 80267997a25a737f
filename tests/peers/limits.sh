#!/usr/bin/env bash
# A receiver (Python's asyncio) that lets three sessions in and answers 421 to others: what we learn of it, that no message
# has an attempt counted for it, and that we still know after a restart.
# Rules: SC-4, SC-5, SC-6, RT-7, CTL-16
. "$(dirname "$0")/../tools/lib.sh"
need python3 smtp-source nc

COUNT=600 DOMAINS=200
WORLD_PORT=$(free_port)
python3 "$(dirname "$0")/limits.py" 127.0.0.2 "$WORLD_PORT" 3 "$D/world/few" >"$D/few.out" 2>&1 &
PIDS+=($!)
until_true 5 port_open 127.0.0.2 "$WORLD_PORT" || die "no receiver: $(cat "$D/few.out")"
names=('few.test MX 10 mx.few.test' 'mx.few.test A 127.0.0.2')
for n in $(seq 1 $DOMAINS); do names+=("d$n.test MX 10 mx.few.test"); done
dns_start "${names[@]}"
config
daemon_start
load() { smtp-source -4 -N -s 8 -m "$1" -l 1000 -f joe@demo.posthaste.test -t "$2@few.test" "127.0.0.1:$SMTP_PORT" || die "smtp-source"; }
refused() { grep -c refused "$D/world/few"; }
window() { control domains | sed -n 's/.*destination="\{0,1\}mx:mx.few.test"\{0,1\} .*window=\([0-9]*\).*/\1/p'; }

echo "$COUNT messages"
load $COUNT a
until_true 60 queue_is_empty || die "$(queued) still in the queue: $(control domains list | head -n 5)"
first=$(refused)
[ "$(window)" -le 3 ] || die "a window of $(window): $(control domains)"
control domains | grep -q 'cause="421 .*too many connections' || die "no cause: $(control domains)"
[ "$first" -ge 1 ] && [ "$first" -le 10 ] || die "$first refusals"
echo "as many again"
load $COUNT b
until_true 60 queue_is_empty || die "$(queued) still in the queue"
[ "$(refused)" -le $((first + 1)) ] || die "$(refused) refusals, and $first before"
[ "$(grep '^got' "$D/world/few" | sort -u | wc -l)" = $((2 * COUNT)) ] || die "$(grep -c '^got' "$D/world/few") arrived"
[ "$(grep -c 'result=deferred' "$D/log")" = 0 ] || die "a counted attempt: $(grep -m 1 'result=deferred' "$D/log")"

learned=$(control domains | sed -n 's/.*\(cause="[^"]*" learned=[^ ]*\).*/\1/p')
daemon_stop || die "the daemon ended with $?"
daemon_start
[ "$(control domains | sed -n 's/.*\(cause="[^"]*" learned=[^ ]*\).*/\1/p')" = "$learned" ] || die "after a restart: $(control domains)"
[ "$(window)" -le 3 ] || die "a window of $(window) after a restart"
before=$(refused)
load 100 c
until_true 30 queue_is_empty || die "$(queued) still in the queue"
[ "$(refused)" = "$before" ] || die "refused again after a restart"
echo "$DOMAINS domains on that host"
control pause >/dev/null
for n in $(seq 1 $DOMAINS); do
  printf 'MAIL FROM:<joe@demo.posthaste.test>\r\nRCPT TO:<bob@d%s.test>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\n' "$n"
done | { printf 'EHLO client.test\r\n'; cat; printf 'QUIT\r\n'; } | nc 127.0.0.1 "$SMTP_PORT" >"$D/nc.out"
[ "$(queued)" = $DOMAINS ] || die "$(queued) were queued: $(tail -n 3 "$D/nc.out")"
before=$(refused)
control resume >/dev/null
began=$SECONDS
until_true 25 queue_is_empty || die "$(queued) of $DOMAINS are still there: $(control domains 'list limit=3')"
took=$((SECONDS - began)) together=$(($(refused) - before))
[ "$together" -le 1 ] || die "$together refusals although the domains share a window"
[ "$(grep '^got bob@d' "$D/world/few" | sort -u | wc -l)" = $DOMAINS ] || die "$(grep -c '^got bob@d' "$D/world/few") arrived"
[ "$(grep -c 'result=deferred' "$D/log")" = 0 ] || die "a counted attempt: $(grep -m 1 'result=deferred' "$D/log")"
control 'domains domain=few.test set=1 pin' | grep -q '^OK 1' || die "not pinned"
control domains | grep -q 'window=1 .*pinned=yes' || die "not pinned: $(control domains)"
control 'domains domain=few.test clear' | grep -q '^OK 1' || die "not cleared"
[ -z "$(window)" ] || die "not cleared: $(control domains)"
daemon_stop || die "the daemon ended with $?"
echo "$((2 * COUNT)) messages at three sessions: $first refusals, few afterwards, no attempt, known after a restart; $DOMAINS domains in $took s with $together"
