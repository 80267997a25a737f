#!/usr/bin/env bash
# What the running daemon costs while very much waits: through its real sockets, at several lengths of the queue.
#
#   tests/bench/growth.sh [WAITING..]      default 1000 100000 1000000
#
# Half of what waits is for one dead domain, the rest for 10 000 others; all of it waits for an hour but one message, which
# is due at the start. Prints a line for each length. OUT= as in run.sh.
. "$(dirname "$0")/lib.sh"
bench_needs smtp-source smtp-sink nc python3
[ $# -gt 0 ] || set -- 1000 100000 1000000
cd "$ROOT" || exit
fill=$(cargo bench --locked --bench queue --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\)).*/\1/p')
[ -x "$fill" ] || die "cargo bench --bench queue --no-run: $fill"
WORLD_PORT=$(free_port)
sink_open
machine

# timed COUNT REQUEST..: milliseconds for one of COUNT answers to the request over the control socket, each on its own
# connection; %d in it is a queue id.
timed() {
  python3 - "$dir/run/control" "$@" <<'PY'
import socket, statistics, sys, time
path, count, request = sys.argv[1], int(sys.argv[2]), sys.argv[3]
times = []
for n in range(count):
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(path)
        began = time.perf_counter()
        control.sendall(request.replace("%d", str(n + 1)).encode() + b"\nquit\n")
        answer = b""
        while piece := control.recv(65536):
            answer += piece
        times.append((time.perf_counter() - began) * 1000)
    if not answer.splitlines()[-2].startswith(b"OK "):
        sys.exit("%s: %r" % (request, answer[-200:]))
print("%.2f" % statistics.median(times))
PY
}

for waiting in "$@"; do
  dir=$D/posthaste
  rm -rf "$dir"
  mkdir -p "$dir/queue"
  "$fill" fill="$waiting" size=512 dir="$dir/queue" || die "cannot fill a queue"
  # What was filled in is on disk, so that no request waits for its writing.
  sync -f "$dir/queue"
  chown -R "$RUN_USER:$RUN_GROUP" "$dir"
  base=$(taken)
  python3 "$BENCH/watch.py" "$D/sink.out" $((base + 1)) 60 0 >"$D/watch" &
  watch=$!
  sleep 0.3
  t0=$(now)
  PORT=() # a new one
  posthaste_start posthaste "$BIN/posthasted"
  wait "$watch"
  read -r t1 _ _ <"$D/watch"
  pid=${ROOT_PID[posthaste]}
  first=$(calc "($t1 - $t0) * 1000" 0)
  idle=$(pss_mib "$pid")
  list=$(timed 20 "list limit=100")
  show=$(timed 50 "show id=%d")
  kick=$(timed 20 "kick id=%d")
  metrics=$(timed 20 metrics)
  c0=$(cpu "$pid") t0=$(now)
  base=$(taken)
  python3 "$BENCH/watch.py" "$D/sink.out" $((base + 3000)) 120 "$pid" >"$D/watch" &
  watch=$!
  smtp-source -4 -C 20 -s 20 -m 3000 -l 4096 -f joe@client.test -t ann@world.test -M client.test "127.0.0.1:${PORT[posthaste]}" ||
    die "smtp-source ended with $?"
  wait "$watch"
  read -r t1 _ pss <"$D/watch"
  sleep 1
  c1=$(cpu "$pid")
  echo "waiting $waiting: start to first delivery $first ms; list 100 $list ms, show $show ms, kick of one $kick ms," \
    "metrics $metrics ms; relay 3000 of 4 KiB $(calc "3000 / ($t1 - $t0)" 0)/s, $(calc "($c1 - $c0) / 3" 2) s CPU per 1000;" \
    "PSS $idle MiB idle, $(calc "$pss / 1024" 1) MiB at work"
  stop "$pid"
done
sink_close
