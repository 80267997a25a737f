#!/usr/bin/env bash
# Receivers (Postfix's smtp-sink) that are to get so many messages in a time, or connections at an interval: what waits costs
# neither an attempt nor a worker nor the processor, delays nobody else, and is shown as waiting.
# Rules: SC-4, SC-8, SC-9, RT-7, CFG-5, CFG-19
. "$(dirname "$0")/../tools/lib.sh"
need smtp-sink smtp-source nc

WORLD_PORT=$(free_port)
dns_start 'slow.test MX 10 mx.slow.test' 'twin.test MX 10 mx.slow.test' 'mx.slow.test A 127.0.0.2' \
  'quick.test MX 10 mx.quick.test' 'mx.quick.test A 127.0.0.3' 'dial.test MX 10 mx.dial.test' 'mx.dial.test A 127.0.0.4' \
  'bulk.test MX 10 mx.quick.test'
sink_start slow 127.0.0.2
sink_start quick 127.0.0.3
sink_start dial 127.0.0.4
config
cp "$D/posthaste.toml" "$D/before.toml"
rates() {
  cat "$D/before.toml" - >"$D/posthaste.toml" <<END
[[limit]]
destinations = ["mx.slow.test"]
rate = "$1"
initial = 10
[[limit]]
destinations = ["dial.test"]
dial_interval = "2s"
initial = 10
[[transport]]
name = "bulk"
kind = "direct"
rate = "3/1h"
[[route]]
to = ["bulk.test"]
transport = "bulk"
END
}
rates 10/2s
daemon_start
load() { smtp-source -4 -N -s 4 -m "$1" -l 500 -f joe@demo.posthaste.test -t "$2" "127.0.0.1:$SMTP_PORT" || die "smtp-source"; }
got() { arrived "$1" | sort -u | wc -l; }
has() { [ "$(got "$1")" -ge "$2" ]; }
opened() { control metrics | sed -n 's/^posthaste_connections_total{result="opened"} //p'; }
ticks() { awk '{ print $14 + $15 }' "/proc/$DAEMON_PID/stat"; }

echo "40 messages at 10 in 2 seconds, to two domains with one host, and 50 to somebody else"
load 1 a@slow.test
load 1 b@twin.test
until_true 10 has slow 2 || die "the first did not arrive"
began=$(date +%s%N)
load 19 c@slow.test
load 19 d@twin.test
load 50 e@quick.test
until_true 10 has quick 50 || die "$(got quick) of 50 to the quick one"
control domains | grep -q 'limit="rate 10/2s" until=' || die "nothing waits: $(control domains)"
control 'list limit=1' | grep -q 'blocker="limit: rate 10/2s" until=' || die "not shown: $(control 'list limit=1')"
until_true 30 has slow 40 || die "$(got slow) of 40 to the slow one"
took=$((($(date +%s%N) - began) / 1000000))
# At most 10 are in the bucket, so 28 or more have to be waited for, at 5 a second.
[ $took -ge 5400 ] || die "40 messages in $took ms"

echo "a message an hour: nothing moves, and a reload changes that"
rates 1/1h
control reload | grep -q '^OK' || die "no reload"
load 5 f@slow.test
until_true 5 eval 'control domains | grep -q "limit=\"rate 1/1h\""' || die "nothing waits: $(control domains)"
until_true 5 eval '[ "$(queued)" -ge 4 ]' || die "$(queued) are queued"
before=$(ticks) had=$(got slow)
sleep 2
[ $(($(ticks) - before)) -le 10 ] || die "$(($(ticks) - before)) ticks of the processor for waiting"
[ "$(got slow)" = "$had" ] || die "more arrived"
rates 1000/1s
control reload | grep -q '^OK' || die "no reload"
until_true 10 has slow 45 || die "$(got slow) of 45 after the reload"

echo "20 messages, and a new connection every 2 seconds at most"
before=$(opened) began=$SECONDS
load 20 g@dial.test
until_true 30 has dial 20 || die "$(got dial) of 20 to the one that is dialled seldom"
new=$(($(opened) - before))
[ $new -le $((1 + (SECONDS - began) / 2 + 1)) ] || die "$new connections in $((SECONDS - began)) s"

echo "a direct transport with a rate of its own"
load 5 h@bulk.test
until_true 10 has quick 53 || die "$(got quick) of 53"
control 'domains domain=bulk.test transport=bulk' | grep -q 'destination=.*via:bulk:bulk.test.* limit="rate 3/1h"' ||
  die "not shown: $(control domains)"
[ "$(queued)" = 2 ] || die "$(queued) wait for the transport"
[ "$(grep -c 'result=deferred' "$D/log")" = 0 ] || die "a counted attempt: $(grep -m 1 'result=deferred' "$D/log")"
daemon_stop || die "the daemon ended with $?"
echo "40 messages at 10 in 2 s took $took ms and delayed nobody; 20 messages on $new connections; no attempt was counted"
