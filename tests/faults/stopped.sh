#!/usr/bin/env bash
# A stop signal, a while, and a continue, with mail in flight on both sides.
# Rules: PRC-6, Q-13
. "$(dirname "$0")/lib.sh"
# A receiver that takes a moment for each dot, so that some are always waiting for their reply.
world_start -W '.:1'
fault_config
daemon_start
traffic_start 8 4000
until_true 20 more_answers 250 1 50 || die "no traffic"
seconds=3
is_long && seconds=60
kill -STOP "$DAEMON_PID"
sleep "$seconds"
kill -CONT "$DAEMON_PID"
began=$(ledger_lines)
until_true 20 more_answers 250 "$began" 20 || die "no mail after the continue: $(tail -n 1 "$D/ledger")"
traffic_stop
control_answers
drained 120
accounts
no_doubles
daemon_stop || die "the daemon ended with $?"
sound
prove "stopped for $seconds s: $(answers 250) taken, all delivered once"
