#!/usr/bin/env bash
# A receiver (Postfix's smtp-sink) each address of which is to get three messages a day: what is over that is not sent, also
# after a restart and when an operator kicks it, is shown as waiting, and ends with a notice when its life is over.
# Rules: SC-8, SC-9, RT-4, RT-7, CFG-5
. "$(dirname "$0")/../tools/lib.sh"
need smtp-sink smtp-source nc

# A day that ends in the middle of this would begin to count anew.
left=$((86400 - $(date +%s) % 86400))
[ $left -gt 90 ] || sleep $((left + 1))
WORLD_PORT=$(free_port)
dns_start 'dest.test MX 10 mx.dest.test' 'mx.dest.test A 127.0.0.2' 'demo.posthaste.test MX 10 mx.demo.test' \
  'mx.demo.test A 127.0.0.3'
sink_start dest 127.0.0.2
sink_start demo 127.0.0.3
config 's/^lifetime = .*/lifetime = "5d"/'
printf '\n[[limit]]\ndestinations = ["dest.test"]\nper_address_day = 3\n' >>"$D/posthaste.toml"
daemon_start
load() { smtp-source -4 -m "$1" -l 500 -f joe@demo.posthaste.test -t "$2" "127.0.0.1:$SMTP_PORT" || die "smtp-source"; }
parked() { [ "$(control list | grep -c "blocker=\"limit: per_address_day 3\" until=$(date -u -d tomorrow +%F)T00:00:00Z")" = "$1" ]; }

echo "five messages to each of two addresses, and one to each of 40 others"
load 5 bob@dest.test
load 5 Joe@dest.test
smtp-source -4 -N -s 4 -m 40 -l 500 -f joe@demo.posthaste.test -t many@dest.test "127.0.0.1:$SMTP_PORT" || die "smtp-source"
until_true 20 parked 4 || die "not shown: $(control list)"
until_true 20 eval '[ "$(queued)" = 4 ]' || die "$(queued) are queued"
had=$(arrived dest | wc -l)
for who in bob Joe; do
  [ "$(arrived dest | grep -c "$who@dest.test")" = 3 ] || die "$(arrived dest | grep -c "$who@dest.test") arrived for $who"
done
[ "$had" = 46 ] || die "$had arrived"

echo "a restart, and a kick"
daemon_stop || die "the daemon ended with $?"
daemon_start
parked 4 || die "after a restart: $(control list)"
control 'kick all' | grep -q '^OK 4' || die "not kicked"
until_true 10 parked 4 || die "after a kick: $(control list)"
load 1 BOB@dest.test
until_true 10 parked 5 || die "a sixth: $(control list)"
[ "$(arrived dest | wc -l)" = "$had" ] || die "more arrived"

echo "their life is over"
sed -i 's/^lifetime = .*/lifetime = "1s"/' "$D/posthaste.toml"
control reload | grep -q '^OK' || die "no reload: $(control reload)"
control 'kick all' | grep -q '^OK 5' || die "not kicked"
until_true 10 queue_is_empty || die "still there: $(control list)"
[ "$(grep -c 'status=4.4.7 result=expired .*limit: per_address_day 3' "$D/log")" = 5 ] || die "not in the log: $(tail -n 5 "$D/log")"
until_true 10 eval '[ "$(arrived demo | wc -l)" = 5 ]' || die "$(arrived demo | wc -l) notices"
[ "$(arrived dest | wc -l)" = "$had" ] || die "more arrived"
[ "$(grep -c 'result=deferred' "$D/log")" = 0 ] || die "a counted attempt: $(grep -m 1 'result=deferred' "$D/log")"
daemon_stop || die "the daemon ended with $?"
echo "three messages a day to each of two addresses; what was over that waited, and ended with a notice each"
