#!/usr/bin/env bash
# No new thread can be had for a while, for want of memory or of processes: 421 or a try later, never an end.
# Rules: PRC-4, Q-1
. "$(dirname "$0")/lib.sh"
may_trace || skip "strace may not trace here"
world_start
fault_config

# without ERRNO
without() {
  local began
  fresh
  daemon_start
  traffic_start 2 4000
  until_true 20 more_answers 250 1 20 || die "no traffic"
  traffic_stop
  inject '' clone3,clone "error=$1"
  # More clients at once than have been there before, so that threads are wanted.
  began=$(ledger_lines)
  traffic_start 30 4000
  until_true 20 more_answers '\(421\|000\|250\)' "$began" 60 || die "$1: no answers"
  kill -0 "$DAEMON_PID" 2>/dev/null || die "$1: the daemon has ended"
  refused=$(answers 421 "$began")
  until_true 10 grep -q INJECTED "$D/strace" || die "$1: no thread was asked for"
  inject_end
  began=$(ledger_lines)
  until_true 30 more_answers 250 "$began" 60 || die "$1: mail is not taken again: $(tail -n 1 "$D/ledger")"
  traffic_stop
  control_answers
  drained 60
  accounts
  no_doubles
  daemon_stop || die "$1: the daemon ended with $?"
  sound
  prove "$1 for threads: $refused answers 421, $(answers 250) taken, all delivered once"
}
without EAGAIN
if is_long; then without ENOMEM; fi
exit 0
