#!/usr/bin/env bash
# A quota and a file size limit: the file system has room, and yet nothing can be written.
# Rules: ST-3, ST-4, ST-5, ST-8
. "$(dirname "$0")/lib.sh"
world_start
fault_config 's/^min_free = .*/min_free = "1MiB"\nreserve = "1MiB"/'

# refused_and_back NAME PHRASE CODE LIFT..: with traffic running and the limit in force; LIFT takes it away.
refused_and_back() {
  local name=$1 phrase=$2 code=$3 began
  shift 3
  began=$(ledger_lines)
  until_true 30 more_answers "$code" "$began" 10 || die "$name: not refused: $(tail -n 1 "$D/ledger")"
  control_answers
  kill -0 "$DAEMON_PID" 2>/dev/null || die "$name: the daemon has ended"
  logged -i "$phrase" || die "$name: the log does not name it"
  "$@" || die "$name: the limit cannot be lifted"
  began=$(ledger_lines)
  until_true 30 more_answers 250 "$began" 20 || die "$name: mail is not taken again: $(tail -n 1 "$D/ledger")"
  traffic_stop
  drained 60
  accounts
  no_doubles
  daemon_stop || die "$name: the daemon ended with $?"
  sound
  prove "$name: $(answers 250) taken, $(answers "$code") refused with $code, all delivered once"
}

# ST-8: a limit on file sizes, lowered and lifted while it runs. SIGXFSZ would have killed it.
file_size() {
  local log
  fresh
  daemon_start
  traffic_start 4 20000
  until_true 20 more_answers 250 1 50 || die "no traffic"
  log=$(stat -c %s "$D/queue/queue.db-wal")
  # Neither the log nor the database may grow beyond what the log is now. The hard limit stays.
  limit --fsize="$((log / 4)):" || die "prlimit"
  refused_and_back "file size limit" 'file too large' 452 limit --fsize=unlimited:
}
command -v prlimit >/dev/null && file_size

# The same word from the system for a quota, on whatever the temporary directory is on.
injected() {
  fresh
  daemon_start
  traffic_start 4 4000
  until_true 20 more_answers 250 1 50 || die "no traffic"
  inject queue.db-wal pwrite64 error=EDQUOT
  refused_and_back "EDQUOT by strace" 'quota' 452 inject_end
}

# Some file systems say it only at the sync. Then the frames are written and nobody knows: 451, and no end (ST-3, ST-5).
at_the_sync() {
  fresh
  daemon_start
  traffic_start 4 4000
  until_true 20 more_answers 250 1 50 || die "no traffic"
  inject queue.db-wal "$SYNC" error=ENOSPC
  refused_and_back "ENOSPC at the sync, by strace" 'no space left' 451 inject_end
}
if may_trace; then
  injected
  at_the_sync
else
  prove "no strace here: EDQUOT and ENOSPC are not injected"
fi

# A real one. The kernels at hand have no ext4 quota, but btrfs limits a subvolume with the same errno.
real() {
  fresh
  disk btrfs 160 || { prove "no btrfs here: $(tail -n 1 "$D/mount")"; return; }
  btrfs quota enable "$D/queue" && btrfs subvolume create "$D/queue/limited" >/dev/null || { prove "no btrfs quota here"; return; }
  mount --bind "$D/queue/limited" "$D/queue"
  chown "$RUN_USER:$RUN_GROUP" "$D/queue"
  chmod 700 "$D/queue"
  daemon_start
  traffic_start 4 20000
  until_true 20 more_answers 250 1 50 || die "no traffic"
  btrfs qgroup limit "${1}M" "$D/queue" || { prove "no btrfs qgroups here"; return; }
  refused_and_back "btrfs quota" 'quota' 452 btrfs qgroup limit none "$D/queue"
  umount "$D/queue"
  disk_end
}
if is_long; then
  if command -v mkfs.btrfs >/dev/null && may_mount; then real 12; else prove "no btrfs here: no real quota"; fi
fi
exit 0
