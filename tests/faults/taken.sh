#!/usr/bin/env bash
# The write-ahead log or the database is removed, or another file is put in its place, under a running daemon.
# Rules: ST-12, ST-11, Q-23
. "$(dirname "$0")/lib.sh"
world_start
fault_config

# taken FILE HOW: 74 within 10 s. What was in a log that is gone is not promised (Q-23); the rest is.
taken() {
  local file=$D/queue/$1 how=$2
  fresh
  daemon_start
  traffic_start 4 4000
  until_true 20 more_answers 250 1 50 || die "no traffic"
  if [ "$how" = removed ]; then rm "$file"; else cp -p "$file" "$file.new"; mv "$file.new" "$file"; fi
  ends_with 74 10
  traffic_stop
  logged "$1 was removed or replaced" || die "the log does not name the cause"
  if [ "$file" = "$D/queue/queue.db" ] && [ "$how" = removed ]; then
    # No empty queue in the place of one that is gone, while its log is there.
    "$BIN/posthasted" -F -f "$D/posthaste.toml" >"$D/again" 2>&1 && die "started without its database"
    grep -q 'put the database back' "$D/again" || die "it does not say what to do: $(tail -n 1 "$D/again")"
    prove "$1 $how: 74 after $ENDED_IN s; no new queue is made over the log that is left"
    return
  fi
  daemon_start
  drained 60
  daemon_stop || die "the daemon ended with $?"
  sound
  prove "$1 $how: 74 after $ENDED_IN s; the next start reads what is left, and goes on"
}
taken queue.db-wal removed
if is_long; then
  taken queue.db-wal replaced
  taken queue.db removed
  taken queue.db replaced
fi
exit 0
