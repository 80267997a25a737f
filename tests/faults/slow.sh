#!/usr/bin/env bash
# A disk that takes 200 ms for each sync: less mail per second, nothing else.
# Rules: ST-15, Q-1
. "$(dirname "$0")/lib.sh"
may_trace || skip "strace may not trace here"
world_start
fault_config
daemon_start
traffic_start 20 4000
until_true 20 more_answers 250 1 50 || die "no traffic"
inject 'queue.db-wal queue.db' $SYNC delay_exit=200000
began=$(ledger_lines) start=$SECONDS
seconds=4
is_long && seconds=30
sleep "$seconds"
slow=$(answers 250 "$began")
[ "$slow" -gt "$seconds" ] || die "only $slow messages in $seconds s"
bad=$(tail -n "+$began" "$D/ledger" | grep -cv '^[^ ]* 250')
[ "$bad" = 0 ] || die "$bad answers other than 250: $(grep -v '^[^ ]* 250' "$D/ledger" | tail -n 1)"
control_answers
inject_end
took=$((SECONDS - start))
# No answer before its commit: each one of a client takes at least one sync.
[ "$slow" -le $((20 * 5 * (took + 1))) ] || die "$slow answers in $took s are more than 20 clients can have with 200 ms each"
traffic_stop
drained 60
accounts
no_doubles
daemon_stop || die "the daemon ended with $?"
sound
prove "200 ms a sync: $slow messages in $took s from 20 clients, no other answer than 250; all delivered once"
