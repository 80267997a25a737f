# shellcheck shell=bash
# What the fault scripts share, on top of tests/tools/lib.sh: small disks, traffic with a ledger, and the account of it.
# Source it. Mounts are in a mount namespace of the script's own, so nothing of them is left whatever happens to it.
if [ "$(id -u)" = 0 ] && [ -z "${FAULT_NAMESPACE:-}" ] && unshare --mount true 2>/dev/null; then
  FAULT_NAMESPACE=1 exec unshare --mount --propagation private bash "$0" "$@"
fi
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
HERE=$ROOT/tests/faults
FORM=${FORM:-short}
is_long() { [ "$FORM" = long ]; }

skip() { echo "skipped: $*"; exit 77; }
need python3 sqlite3 nc smtp-sink
# prove WORDS..: one line of what was seen.
prove() { echo "  $*"; }

MOUNTED=0
umount_all() {
  if [ "$MOUNTED" = 1 ]; then umount -l "$D/queue" 2>/dev/null; fi
  [ -z "${STRACE_PID:-}" ] || kill -INT "$STRACE_PID" 2>/dev/null
}
trap 'umount_all; clean_up' EXIT

# may_mount: whether this machine lets us have file systems of our own.
may_mount() { [ -n "${FAULT_NAMESPACE:-}" ]; }

# disk KIND MIB [OPTION]: a file system of its own under the queue; false where that is not possible.
disk() {
  local kind=$1 size=$2 options=${3:-}
  may_mount || return 1
  case $kind in
    tmpfs) mount -t tmpfs -o "size=${size}m,mode=700" tmpfs "$D/queue" || return 1 ;;
    ext4)
      truncate -s "${size}M" "$D/disk"
      mkfs.ext4 -q -F -m 0 "$D/disk" || return 1
      mount -o "loop${options:+,$options}" "$D/disk" "$D/queue" 2>"$D/mount" || return 1
      rmdir "$D/queue/lost+found"
      ;;
    btrfs)
      truncate -s "${size}M" "$D/disk"
      mkfs.btrfs -q --mixed "$D/disk" >"$D/mount" 2>&1 || return 1
      mount -o loop "$D/disk" "$D/queue" 2>>"$D/mount" || return 1
      ;;
  esac
  MOUNTED=1
  chown "$RUN_USER:$RUN_GROUP" "$D/queue"
  chmod 700 "$D/queue"
}

disk_end() {
  umount "$D/queue" || umount -l "$D/queue"
  rm -f "$D/disk"
  MOUNTED=0
}

# A receiver at a relay, so that nothing else of the world takes part. What happens to a message is in $D/world/sink.
world_start() {
  WORLD_PORT=$(free_port)
  sink_start sink 127.0.0.1 "$@"
}

# fault_config [SED-EXPRESSION..]
fault_config() {
  config 's/^intervals = .*/intervals = ["2s"]/' 's/^lifetime = .*/lifetime = "5d"/' "$@"
  relay_plain >>"$D/posthaste.toml"
}

# traffic_start THREADS SIZE [PAUSE [MOST]]: smtplib clients; each message has an address of its own, each answer is in the
# ledger. Each hands in MOST messages, or what it can until it is stopped.
traffic_start() {
  python3 "$HERE/client.py" 127.0.0.1 "$SMTP_PORT" "$D/ledger" "$1" "$2" "${3:-0.02}" "${4:-inf}" >"$D/client.out" 2>&1 &
  CLIENT_PID=$!
  PIDS+=("$CLIENT_PID")
}
traffic_stop() {
  stop "$CLIENT_PID"
  [ ! -s "$D/client.out" ] || die "client: $(tail -n 3 "$D/client.out")"
}
# answers CODE [SINCE-LINE]: how many messages were answered so.
answers() { tail -n "+${2:-1}" "$D/ledger" 2>/dev/null | grep -c "^[^ ]* $1"; }
ledger_lines() { wc -l <"$D/ledger"; }
more_answers() { [ "$(answers "$1" "$2")" -ge "$3" ]; }

# drained SECONDS: all mail is gone.
drained() {
  control 'kick all' >/dev/null
  until_true "$1" queue_is_empty || die "$(queued) still in the queue"
}

# accounts: nothing acknowledged is missing, nothing refused came, nothing came twice unless it was marked before.
accounts() {
  arrived sink | sort >"$D/arrived"
  grep '^[^ ]* 250' "$D/ledger" | cut -d' ' -f1 | sort >"$D/acked"
  # A refusal of the queue keeps nothing. An answer that was lost, or 451 for an unknown outcome, promises neither.
  grep '^[^ ]* 452' "$D/ledger" | cut -d' ' -f1 | sort >"$D/refused"
  local lost
  lost=$(comm -23 "$D/acked" <(sort -u "$D/arrived"))
  [ -z "$lost" ] || die "$(wc -w <<<"$lost") acknowledged and lost: $(head -n 3 <<<"$lost" | xargs)"
  lost=$(comm -12 "$D/refused" <(sort -u "$D/arrived"))
  [ -z "$lost" ] || die "$(wc -w <<<"$lost") refused and yet delivered: $(head -n 3 <<<"$lost" | xargs)"
  local twice address id unmarked=0
  twice=$(uniq -d "$D/arrived")
  TWICE=$(grep -c . <<<"$twice")
  for address in $twice; do
    id=$(grep -o "qid=[0-9]* rcpt=1 to=<$address>" "$D/log" | head -n 1 | cut -d' ' -f1)
    grep -q "$id .*doubt=" "$D/log" || { unmarked=$((unmarked + 1)); echo "$address twice, $id not marked"; }
  done
  [ "$unmarked" = 0 ] || die "$unmarked came twice without a mark"
}

# no_doubles: for faults that kill nobody there is no excuse.
no_doubles() { [ "${TWICE:-0}" = 0 ] || die "$TWICE came twice"; }

sound() {
  [ "$(sqlite3 "$D/queue/queue.db" 'PRAGMA integrity_check')" = ok ] || die "the database is damaged"
  [ -z "$(sqlite3 "$D/queue/queue.db" 'PRAGMA foreign_key_check')" ] || die "rows without their owners"
}

# control_answers: list, count and stats, each within a few seconds.
control_answers() {
  local verb
  for verb in list count stats; do
    # Into a file: a grep that ends early would cut nc off in the middle.
    { printf '%s\nquit\n' "$verb"; } | timeout 5 nc -U "$D/run/control" >"$D/said"
    grep -q '^OK' "$D/said" || die "control: $verb: $(tail -n 1 "$D/said")"
  done
}

# ends_with STATUS SECONDS: the daemon ends by itself, so and so soon; ENDED_IN in seconds.
ends_with() {
  local status began=$SECONDS
  until_true "$2" eval '! kill -0 "$DAEMON_PID" 2>/dev/null' || die "the daemon is still there after $2 s"
  wait "$DAEMON_PID"
  status=$?
  [ "$status" = "$1" ] || die "the daemon ended with $status, not $1"
  ENDED_IN=$((SECONDS - began))
}

logged() { grep -q "$@" "$D/log"; }

# may_trace: whether strace may change what system calls answer.
may_trace() { need strace; strace -o /dev/null -e trace=getpid -e inject=getpid:error=EIO true 2>/dev/null; }

# The call by which SQLite syncs depends on how it was built.
SYNC=fsync,fdatasync

# inject FILE CALLS FAULT: from now on these calls on this file of the queue answer so.
inject() {
  local files=() file
  for file in $1; do files+=(-P "$D/queue/$file"); done
  [ "$1" ] || files=()
  strace -f -qq -p "$DAEMON_PID" -o "$D/strace" "${files[@]}" -e "trace=$2" -e "inject=$2:$3" 2>"$D/strace.err" &
  STRACE_PID=$!
  # Until the last of its threads is traced, or the fault has already ended it.
  until_true 10 eval '! grep -L "^TracerPid:[[:space:]]*[1-9]" "/proc/$DAEMON_PID"/task/*/status 2>/dev/null | grep -q . ' ||
    die "strace: $(cat "$D/strace.err")"
}
# inject_end: everything answers as before.
inject_end() {
  kill -INT "$STRACE_PID" 2>/dev/null
  wait "$STRACE_PID" 2>/dev/null
  STRACE_PID=
}

# limit OPTION..: prlimit(1) on the running daemon, as its own account: root may lack the right in a container.
limit() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid "$RUN_USER" --regid "$RUN_GROUP" --clear-groups prlimit --pid "$DAEMON_PID" "$@"
  else
    prlimit --pid "$DAEMON_PID" "$@"
  fi
}

# fresh: the next case of a script with several starts with nothing.
fresh() {
  rm -rf "$D/ledger" "$D/world/sink" "$D/log" "$D/queue"/*
}
