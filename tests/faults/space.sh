#!/usr/bin/env bash
# The disk under the queue fills up while mail goes through, stays full, and gets room again.
# Rules: ST-5, ST-6, ST-7, Q-2, Q-13
. "$(dirname "$0")/lib.sh"
need smtp-sink mkfs.ext4
may_mount || skip "no file systems of our own here (root and mount namespaces are needed)"

# full_disk KIND: on a file system that has no room for a while.
full_disk() {
  local kind=$1 full=5 began refused delivered
  is_long && full=20
  disk "$kind" 48 || { echo "skipped: no $kind: $(tail -n 1 "$D/mount")"; return; }
  daemon_start
  traffic_start 8 20000
  until_true 20 more_answers 250 1 200 || die "$kind: no traffic"
  [ -f "$D/queue/reserve" ] || die "$kind: no reserve"
  # All of it in one stroke, between two looks of the daemon at the room.
  began=$(ledger_lines)
  fallocate -l "$(($(df --output=avail -B1 "$D/queue" | tail -n 1)))" "$D/queue/filler" 2>/dev/null
  dd if=/dev/zero of="$D/queue/filler2" bs=4096 2>/dev/null
  until_true 20 more_answers 452 "$began" 20 || die "$kind: the full disk was not felt: $(tail -n 1 "$D/ledger")"
  grep -q '^[^ ]* 452 .*4\.3\.1' "$D/ledger" || die "$kind: not 452 4.3.1: $(grep -m 1 '^[^ ]* 452' "$D/ledger")"
  control_answers
  sleep "$full"
  control_answers
  kill -0 "$DAEMON_PID" || die "$kind: the daemon has ended"
  # What could be recorded was; nobody got a message again and again.
  delivered=$(arrived sink | sort | uniq -d | wc -l)
  [ "$delivered" = 0 ] || die "$kind: $delivered came twice while the disk was full"
  logged 'under queue.min_free\|no room\|cannot be written' || die "$kind: the log does not say it"
  rm "$D/queue/filler" "$D/queue/filler2"
  began=$(ledger_lines)
  until_true 30 more_answers 250 "$began" 50 || die "$kind: mail is not taken again: $(tail -n 1 "$D/ledger")"
  until_true 15 test -f "$D/queue/reserve" || die "$kind: the reserve was not made again"
  traffic_stop
  drained 60
  accounts
  no_doubles
  refused=$(answers 452)
  daemon_stop || die "$kind: the daemon ended with $?"
  sound
  prove "$kind: $(answers 250) taken, $refused refused with 452 4.3.1 in $full s without room, all delivered once"
}

world_start
fault_config 's/^min_free = .*/min_free = "4MiB"\nreserve = "4MiB"/'
for kind in ext4 tmpfs; do
  [ "$kind" = ext4 ] || is_long || continue
  fresh
  full_disk "$kind"
  disk_end
done

# The outcomes of what is under way when the disk fills up: the receiver has the mail and is slow to say so.
# How many there are is fixed, because the receiver takes only so many in the time that is waited.
outcomes() {
  local count=48
  fresh
  disk ext4 24 || return
  stop "$SINK_PID"
  sink_start sink 127.0.0.1 -W ".:$1"
  daemon_start
  traffic_start 8 4000 0 $((count / 8))
  until_true 20 more_answers 250 1 $count
  traffic_stop
  fallocate -l "$(($(df --output=avail -B1 "$D/queue" | tail -n 1)))" "$D/queue/filler" 2>/dev/null
  dd if=/dev/zero of="$D/queue/filler2" bs=4096 2>/dev/null
  # Every outcome finds its place: in the log from its beginning, or in the reserve.
  until_true 90 queue_is_empty || die "outcomes: $(queued) are left on the full disk"
  accounts
  no_doubles
  control_answers
  daemon_stop || die "outcomes: the daemon ended with $?"
  # It also starts like this, lists, and goes on when there is room.
  daemon_start
  control_answers
  rm "$D/queue/filler" "$D/queue/filler2"
  traffic_start 2 4000
  local began
  began=$(ledger_lines)
  until_true 30 more_answers 250 "$began" 10 || die "outcomes: no mail after a start on a full disk"
  traffic_stop
  drained 60
  accounts
  no_doubles
  daemon_stop || die "outcomes: the daemon ended with $?"
  sound
  prove "outcomes: $(answers 250) delivered and recorded once, most of them on a full disk, over a stop and a start on it"
  disk_end
}
if is_long; then
  outcomes 5
  # A reserve that is smaller than what the log holds.
  sed -i 's/^reserve = .*/reserve = "64KiB"/' "$D/posthaste.toml"
  outcomes 5
else
  outcomes 2
fi
