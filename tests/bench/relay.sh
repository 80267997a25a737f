#!/usr/bin/env bash
# `make bench`: relay throughput beside Debian's Postfix, in turns in one run, sync on both sides.
#
#   tests/bench/relay.sh [COUNT [ROUNDS [SIZE]]]      defaults 5000 3 4096
#
# smtp-source with 20 sessions (one message per connection, and again with kept connections) goes through the daemon, and
# through a Postfix of our own, into smtp-sink. The disk's mood changes by the minute, so only the ratios mean anything.
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix smtp-source smtp-sink nc
[ "$(id -u)" = 0 ] || die "needs root, for a Postfix of our own"
COUNT=${1:-5000} ROUNDS=${2:-3} SIZE=${3:-4096}

calc() { awk "BEGIN { printf \"%.${2:-1}f\", $1 }"; }
now() { date +%s.%N; }

WORLD_PORT=$(free_port)
postfix_port=$(free_port)
config
cat >>"$D/posthaste.toml" <<TOML
[[transport]]
name = "out"
kind = "relay"
hosts = ["127.0.0.1:$WORLD_PORT"]
tls = "none"
[[route]]
transport = "out"
TOML
daemon_start
postfix_start "$D/postfix" "127.0.0.1:$postfix_port" -- "inet_interfaces = 127.0.0.1" "relayhost = [127.0.0.1]:$WORLD_PORT"
postfix_pid=$(tr -d ' ' <"$D/postfix/spool/pid/master.pid")

# The processor time of a process, its living children and those it has waited for, in seconds.
cpu() {
  local pid total=0 hz
  hz=$(getconf CLK_TCK)
  for pid in "$1" $(pgrep -P "$1"); do
    total=$((total + $(awk '{print $14 + $15 + $16 + $17}' "/proc/$pid/stat" 2>/dev/null || echo 0)))
  done
  calc "$total / $hz" 2
}
taken() { tail -c 100 "$D/sink.out" | tr '\r' '\n' | sed -n 's/.*mesg=\([0-9]*\).*/\1/p' | tail -n 1; }
has_taken() { [ "$(taken)" -ge "$1" ] 2>/dev/null; }

# one NAME PORT PID OPTION..: a round; prints NAME end-to-end accepted cpu-per-1000.
one() {
  local name=$1 port=$2 pid=$3 t0 t1 t2 c0 c1 sink
  shift 3
  smtp-sink -4 -c "${sink_user[@]}" -m 1000 "127.0.0.1:$WORLD_PORT" 1000 >"$D/sink.out" 2>&1 &
  sink=$!
  PIDS+=("$sink")
  until_true 5 port_open 127.0.0.1 "$WORLD_PORT" || die "smtp-sink did not start"
  c0=$(cpu "$pid") t0=$(now)
  smtp-source -4 -C 20 -s 20 -m "$COUNT" -l "$SIZE" -f joe@client.test -t ann@world.test -M client.test "$@" "127.0.0.1:$port" ||
    die "smtp-source ended with $? at $name"
  t1=$(now)
  until_true 300 has_taken "$COUNT" || die "$name: only $(taken) of $COUNT"
  t2=$(now)
  sleep 1
  c1=$(cpu "$pid")
  [ "$(taken)" = "$COUNT" ] || die "$name: $(taken) instead of $COUNT"
  # Sessions that are kept must not find the next round's sink behind their back.
  until_true 60 eval '! ss -Htn state established "sport = :$WORLD_PORT" | grep -q .' || true
  stop "$sink"
  echo "$name $(calc "$COUNT / ($t2 - $t0)") $(calc "$COUNT / ($t1 - $t0)") $(calc "($c1 - $c0) * 1000 / $COUNT" 2)"
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
# column MODE NAME NUMBER: the median of a column of the results.
column() { awk -v m="$1" -v n="$2" -v c="$3" '$1 == m && $2 == n { print $(c + 2) }' "$D/results" | median; }

echo "relay: $COUNT messages of $SIZE octets, 20 sessions, $ROUNDS rounds in turn; filesystem of the queues: $(stat -f -c %T "$D")"
for mode in connect keep; do
  options=()
  [ $mode = keep ] && options=(-d)
  for round in $(seq "$ROUNDS"); do
    for peer in posthaste postfix; do
      if [ $peer = posthaste ]; then port=$SMTP_PORT pid=$DAEMON_PID; else port=$postfix_port pid=$postfix_pid; fi
      line=$(one $peer "$port" "$pid" "${options[@]}") || exit 1
      echo "$mode $line" >>"$D/results"
      echo "$mode round $round: $line" | awk '{ printf "  %-7s %s %s %-9s %7s/s end to end  %7s/s accepted  %5s s CPU per 1000\n", $1, $2, $3, $4, $5, $6, $7 }'
    done
  done
done
echo "medians, and posthaste against postfix:"
for mode in connect keep; do
  e1=$(column $mode posthaste 1) e2=$(column $mode postfix 1) c1=$(column $mode posthaste 3) c2=$(column $mode postfix 3)
  a1=$(column $mode posthaste 2) a2=$(column $mode postfix 2)
  echo "  $mode: end to end $e1/s against $e2/s: $(calc "$e1 / $e2" 2) times; accepted $a1/s against $a2/s: $(calc "$a1 / $a2" 2) times;" \
    "CPU per 1000 $c1 s against $c2 s: $(calc "$c1 / $c2" 2) times"
done
echo "  posthasted's peak memory $(peak_kib "$DAEMON_PID") KiB"
