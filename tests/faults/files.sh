#!/usr/bin/env bash
# Descriptors run out while mail goes through: accept pauses, control and list work, and it heals by itself.
# Rules: PRC-5
. "$(dirname "$0")/lib.sh"
need prlimit
world_start
fault_config
daemon_start
traffic_start 4 4000
until_true 20 more_answers 250 1 50 || die "no traffic"
traffic_stop
# Room for two more than it has open at rest.
open=$(find "/proc/$DAEMON_PID/fd" -mindepth 1 | wc -l)
limit --nofile="$((open + 2)):" || die "prlimit"
traffic_start 20 4000 0
until_true 30 eval 'logged -i "descriptor\|too many open files\|EMFILE"' || die "the lack was not felt or not logged"
control_answers
ticks() { awk '{print $14 + $15}' "/proc/$DAEMON_PID/stat"; }
seconds=3
is_long && seconds=10
before=$(ticks)
sleep "$seconds"
used=$(($(ticks) - before))
kill -0 "$DAEMON_PID" 2>/dev/null || die "the daemon has ended"
limit --nofile=1024: || die "prlimit"
began=$(ledger_lines)
until_true 30 more_answers 250 "$began" 100 || die "mail is not taken again: $(tail -n 1 "$D/ledger")"
traffic_stop
drained 60
accounts
no_doubles
daemon_stop || die "the daemon ended with $?"
sound
prove "$((open + 2)) descriptors for 20 clients: $(answers 250) taken, all delivered once; $used ticks of processor time in $seconds s"
