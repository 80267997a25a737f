#!/usr/bin/env bash
# `make bench`: posthaste beside its peers, in turn, in one run, sync on (README.md says how, and what is wanted).
#
#   tests/bench/run.sh [ROW..]      rows: connect keep large backlog latency tls; default all
#
#   COUNT=5000      messages of 4 KiB per round; a quarter of it of 64 KiB
#   ROUNDS=5        of which the medians are taken
#   BACKLOG=20000   messages that are accepted while the receiver is down, and then drained
#   QUICK=1         COUNT=2000 ROUNDS=3 BACKLOG=4000
#   SYSTEMS="posthaste postfix chasquid"
#   OTHER=PROGRAM   another posthasted, measured in turn with the rest as the system `other`
#   OUT=DIRECTORY   where results.tsv and results.md go; default target/bench
. "$(dirname "$0")/lib.sh"
bench_needs postfix smtp-source smtp-sink nc python3 unshare openssl
if [ "${QUICK:-}" = 1 ]; then
  COUNT=${COUNT:-2000} ROUNDS=${ROUNDS:-3} BACKLOG=${BACKLOG:-4000}
fi
COUNT=${COUNT:-5000} ROUNDS=${ROUNDS:-5} BACKLOG=${BACKLOG:-20000}
read -ra rows <<<"${*:-connect keep large backlog latency tls}"
read -ra systems <<<"${SYSTEMS:-posthaste postfix chasquid}"
[ -n "${OTHER:-}" ] && systems+=(other)
OUT=${OUT:-$ROOT/target/bench}
mkdir -p "$OUT"
: >"$OUT/results.tsv"

WORLD_PORT=$(free_port)
present=()
for system in "${systems[@]}"; do
  case $system in
    posthaste) posthaste_start posthaste "$BIN/posthasted" ;;
    other) posthaste_start other "$OTHER" ;;
    postfix) postfix_bench_start ;;
    chasquid)
      chasquid_unpack || { echo "no chasquid: $(tail -n 1 "$D/apt")"; continue; }
      chasquid_start
      ;;
    *) die "no system is called $system" ;;
  esac
  present+=("$system")
done

# put ROW SYSTEM METRIC VALUE
put() { printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$round" "$4" >>"$OUT/results.tsv"; }
say() { printf '  %-8s round %-2s %-10s %s\n' "$1" "$round" "$2" "$3"; }

# send PORT COUNT SIZE [OPTION..]
send() {
  local port=$1 count=$2 size=$3
  shift 3
  smtp-source -4 -C 20 -s 20 -m "$count" -l "$size" -f joe@client.test -t ann@world.test -M client.test "$@" "127.0.0.1:$port"
}

# relay ROW SYSTEM COUNT SIZE [OPTION..]: through a system into the receiver; the system `generators` is none at all.
relay() {
  local row=$1 system=$2 count=$3 size=$4 pid=0 port=$WORLD_PORT base watch t0 t1 t2 got pss c0=0 c1=0
  shift 4
  if [ "$system" != generators ]; then
    pid=${ROOT_PID[$system]} port=${PORT[$system]}
    c0=$(cpu "$pid")
  fi
  base=$(taken)
  python3 "$BENCH/watch.py" "$D/sink.out" $((base + count)) 300 "$pid" >"$D/watch" &
  watch=$!
  # The watcher is there before the first message.
  sleep 0.3
  t0=$(now)
  send "$port" "$count" "$size" "$@" || die "smtp-source ended with $? at $system"
  t1=$(now)
  wait "$watch"
  read -r t2 got pss <"$D/watch"
  # What belongs to this work and comes after it.
  sleep 1
  [ "$pid" = 0 ] || c1=$(cpu "$pid")
  [ "$(taken)" = $((base + count)) ] || die "$system: $(($(taken) - base)) of $count"
  [ "$round" -gt 0 ] || return 0
  put "$row" "$system" rate "$(calc "$count / ($t2 - $t0)")"
  put "$row" "$system" accepted "$(calc "$count / ($t1 - $t0)")"
  [ "$pid" = 0 ] || put "$row" "$system" cpu "$(calc "($c1 - $c0) * 1000 / $count" 3)"
  [ "$pid" = 0 ] || put "$row" "$system" pss "$(calc "$pss / 1024")"
  say "$row" "$system" "$(calc "$count / ($t2 - $t0)" 0)/s, $(calc "($c1 - $c0) * 1000 / $count" 2) s CPU per 1000, $(calc "$pss / 1024" 0) MiB"
}

# in_turn ROW COUNT SIZE [OPTION..]: a short round that does not count, then the others.
in_turn() {
  local row=$1 count=$2 size=$3 system
  shift 3
  sink_open
  for round in $(seq 0 "$ROUNDS"); do
    for system in "${present[@]}" generators; do
      relay "$row" "$system" $((round == 0 ? 200 : count)) "$size" "$@"
    done
  done
  sink_close
}

# backlog SYSTEM: accepts with nobody to give it to, then gives it.
backlog() {
  local system=$1 pid=${ROOT_PID[$1]} t0 t1 t2 c0 c1 c2 got pss watch
  c0=$(cpu "$pid") t0=$(now)
  send "${PORT[$system]}" "$BACKLOG" 4096 || die "smtp-source ended with $? at $system"
  t1=$(now)
  # Until first attempts at a receiver that is down, and checkpoints, are over.
  sleep 3
  c1=$(cpu "$pid")
  put accept "$system" rate "$(calc "$BACKLOG / ($t1 - $t0)")"
  put accept "$system" cpu "$(calc "($c1 - $c0) * 1000 / $BACKLOG" 3)"
  put accept "$system" pss "$(pss_mib "$pid")"
  say accept "$system" "$(calc "$BACKLOG / ($t1 - $t0)" 0)/s, $(calc "($c1 - $c0) * 1000 / $BACKLOG" 2) s CPU per 1000"
  sink_open
  python3 "$BENCH/watch.py" "$D/sink.out" "$BACKLOG" 600 "$pid" >"$D/watch" &
  watch=$!
  sleep 0.3
  c1=$(cpu "$pid") t1=$(now)
  bash -c "${FLUSH[$system]}" >"$D/flush" 2>&1 &
  wait "$watch"
  read -r t2 got pss <"$D/watch"
  sleep 1
  c2=$(cpu "$pid")
  [ "$(taken)" = "$BACKLOG" ] || die "$system: $(taken) of a backlog of $BACKLOG"
  put drain "$system" rate "$(calc "$BACKLOG / ($t2 - $t1)")"
  put drain "$system" cpu "$(calc "($c2 - $c1) * 1000 / $BACKLOG" 3)"
  put drain "$system" pss "$(calc "$pss / 1024")"
  say drain "$system" "$(calc "$BACKLOG / ($t2 - $t1)" 0)/s, $(calc "($c2 - $c1) * 1000 / $BACKLOG" 2) s CPU per 1000, $(calc "$pss / 1024" 0) MiB"
  sink_close
}

{
  machine
  for system in "${present[@]}"; do echo "$system: ${VERSION[$system]}"; done
  echo "$ROUNDS rounds in turn, $COUNT messages each, a backlog of $BACKLOG, 20 sessions"
} | tee "$OUT/machine.txt"
for row in "${rows[@]}"; do
  case $row in
    connect) in_turn connect "$COUNT" 4096 ;;
    keep) in_turn keep "$COUNT" 4096 -d ;;
    large) in_turn large $((COUNT / 4)) 65536 ;;
    backlog)
      for round in $(seq "$ROUNDS"); do
        for system in "${present[@]}"; do
          [ "$system" = chasquid ] || backlog "$system"
        done
      done
      ;;
    latency)
      words=()
      for system in "${present[@]}"; do words+=("$system=${PORT[$system]}"); done
      python3 "$BENCH/latency.py" "$WORLD_PORT" $((ROUNDS * 10)) "${words[@]}" >"$D/latency" 2>&1 || die "$(cat "$D/latency")"
      round=1
      while read -r system median worst; do
        put latency "$system" median "$median"
        put latency "$system" worst "$worst"
        say latency "$system" "$median ms, worst $worst ms"
      done <"$D/latency"
      ;;
    # A receiver, a DNS zone and daemons of its own.
    tls) COUNT=$((COUNT / 2)) ROUNDS=$ROUNDS OUT=$OUT bash "$BENCH/tls.sh" || die "tls.sh ended with $?" ;;
    *) die "no row is called $row" ;;
  esac
done
python3 "$BENCH/report.py" "$OUT/results.tsv" | tee "$OUT/results.md"
echo "in $OUT: results.tsv (row, system, metric, round, value), results.md, machine.txt"
