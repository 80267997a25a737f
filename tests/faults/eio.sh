#!/usr/bin/env bash
# The disk fails once, at a write or a sync of the log or of the database, while mail goes through: the daemon ends with
# 74 within 5 s, the next start reads what is really there, and nothing acknowledged is missing.
# Rules: ST-3, ST-4, Q-1, Q-12
. "$(dirname "$0")/lib.sh"
may_trace || skip "strace may not trace here"
world_start
fault_config

# fails FILE CALL SIZE: with messages of SIZE octets, the third such call from now fails, once. Whatever comes after would succeed.
fails() {
  local began
  fresh
  # The database is written at a checkpoint, every 8 MiB.
  daemon_start
  traffic_start 8 "$3" 0
  until_true 20 more_answers 250 1 50 || die "no traffic"
  inject "$1" "$2" "error=EIO:when=3"
  until_true 20 eval 'grep -q INJECTED "$D/strace"' || die "$1 $2: no such call came"
  began=$(date +%s%N)
  ends_with 74 5
  ENDED_IN=$((($(date +%s%N) - began) / 1000000))
  inject_end
  traffic_stop
  logged 'the queue has ended' || die "the log does not say why: $(tail -n 2 "$D/log")"
  logged -i 'i/o error\|input/output' || die "the log does not name the cause"
  daemon_start
  drained 60
  accounts
  daemon_stop || die "the daemon ended with $?"
  sound
  prove "$2 of $1: 74 after $ENDED_IN ms; $(answers 250) acknowledged, all there; $TWICE twice, marked before"
}
fails queue.db-wal pwrite64 4000
fails queue.db-wal $SYNC 4000
if is_long; then
  fails queue.db pwrite64 100000
  fails queue.db $SYNC 100000
fi
exit 0
