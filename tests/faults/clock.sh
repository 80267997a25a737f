#!/usr/bin/env bash
# The wall clock jumps a day ahead, and a day back, under a running daemon with mail that waits.
# Rules: RT-9
. "$(dirname "$0")/lib.sh"
library=$(echo /usr/lib/*/faketime/libfaketime.so.1)
[ -e "$library" ] || { [ "${CI:-}" = true ] && die "no libfaketime, and on CI it has to be there"; skip "no libfaketime (make deps)"; }
world_start
# Mail may wait an hour, less than the jump.
fault_config 's/^lifetime = .*/lifetime = "1h"/'

# jumps SECONDS
jumps() {
  local count=20
  fresh
  stop "$SINK_PID"
  echo '+0' >"$D/time"
  chmod 644 "$D/time"
  touch "$D/log"
  FAKETIME_TIMESTAMP_FILE=$D/time FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1 LD_PRELOAD=$library \
    "$BIN/posthasted" -F -f "$D/posthaste.toml" >>"$D/log" 2>&1 &
  DAEMON_PID=$!
  PIDS+=("$DAEMON_PID")
  until_true 10 logged ' start version=' || die "the daemon did not start"
  traffic_start 2 1000
  until_true 20 more_answers 250 1 "$count" || die "no traffic"
  # Nobody listens: some have had their attempt, the others wait for the destination.
  until_true 20 logged ' destination-dead ' || die "a destination that refuses is not known as dead"
  echo "$1" >"$D/time"
  # Also what comes after the jump is taken.
  began=$(ledger_lines)
  until_true 20 more_answers 250 "$began" 10 || die "$1: no mail after the jump"
  traffic_stop
  sink_start sink 127.0.0.1
  control_answers
  # The dispatcher looks at the clock once a minute at the latest; the longest interval here is 2 s.
  until_true 90 queue_is_empty || die "$1: $(queued) still wait"
  ! logged 'result=expired' || die "$1: expired without an attempt after the jump: $(grep -m 1 result=expired "$D/log")"
  accounts
  no_doubles
  daemon_stop || die "$1: the daemon ended with $?"
  sound
  prove "a jump of $1: $(answers 250) messages waited over it, all delivered once, none expired"
}
jumps -1d
jumps +1d
exit 0
