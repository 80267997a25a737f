# shellcheck shell=bash
# What the measurements share: systems that relay from a port of loopback into a receiver on loopback, a receiver, and
# what is read of processes. Source it. Needs root: Postfix of our own, chasquid in a mount namespace.
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/../tools/postfix.sh"
BENCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Peers that cannot be installed beside Postfix are unpacked here, once.
PEERS=${PEERS:-/var/tmp/posthaste-bench}

calc() { awk "BEGIN { printf \"%.${2:-1}f\", $1 }"; }
now() { date +%s.%N; }

# --- what this needs from Debian ---------------------------------------------------------------------------------------

# bench_needs PROGRAM..: what only measurements need is installed here, not by `make deps`.
bench_needs() {
  bash "$BENCH/../tools/deps.sh" || exit 1
  need "$@"
  [ "$(id -u)" = 0 ] || die "needs root, for a Postfix of our own"
}

# chasquid_unpack: Debian's package, unpacked and not installed, because it would replace Postfix; false if it cannot be had.
chasquid_unpack() {
  [ -x "$PEERS/chasquid/usr/bin/chasquid" ] && return 0
  mkdir -p "$PEERS/deb" && (
    cd "$PEERS/deb" || exit 1
    apt-get download -qq chasquid >"$D/apt" 2>&1 || { apt-get update -qq && apt-get download -qq chasquid; } >"$D/apt" 2>&1
    dpkg -x chasquid_*.deb "$PEERS/chasquid"
  ) && [ -x "$PEERS/chasquid/usr/bin/chasquid" ]
}

# --- the systems -------------------------------------------------------------------------------------------------------

# Each system has a port, the process that all others of it are children of, and a command that tries all mail now.
declare -A PORT ROOT_PID FLUSH VERSION

# posthaste_start NAME POSTHASTED [CONFIGURATION-LINE..]: the daemon in its default configuration, but for where things are.
# TRANSPORT=no leaves out the relay; the lines come at the end of the file.
posthaste_start() {
  local name=$1 program=$2 dir=$D/$1 log=$D/$1/log starts
  shift 2
  PORT[$name]=${PORT[$name]:-$(free_port)}
  mkdir -p "$dir/queue" "$dir/run"
  chown "$RUN_USER:$RUN_GROUP" "$dir" "$dir/queue" "$dir/run"
  chmod 700 "$dir/queue"
  cat >"$dir/posthaste.toml" <<TOML
hostname = "bench.posthaste.test"
user = "$RUN_USER"
group = "$RUN_GROUP"
pid_file = "$dir/run/pid"
[queue]
path = "$dir/queue"
[[listen]]
name = "tcp"
address = "127.0.0.1:${PORT[$name]}"
role = "relay"
[control]
path = "$dir/run/control"
[log]
to = "stderr"
TOML
  [ "${TRANSPORT:-}" = no ] || relay_plain >>"$dir/posthaste.toml"
  [ $# = 0 ] || printf '%s\n' "$@" >>"$dir/posthaste.toml"
  touch "$log"
  starts=$(grep -c ' start version=' "$log")
  "$program" -F -f "$dir/posthaste.toml" >>"$log" 2>&1 &
  ROOT_PID[$name]=$!
  PIDS+=("${ROOT_PID[$name]}")
  until_true 30 eval '[ "$(grep -c " start version=" "'"$log"'")" -gt '"$starts"' ]' ||
    { cp "$log" "$D/log"; die "$name did not start"; }
  FLUSH[$name]="printf 'kick all\nquit\n' | nc -U $dir/run/control"
  VERSION[$name]=$("$program" -V 2>/dev/null || echo posthasted)
}

# postfix_bench_start: Debian's programs with their default configuration.
postfix_bench_start() {
  PORT[postfix]=$(free_port)
  postfix_start "$D/postfix" "127.0.0.1:${PORT[postfix]}" -- "inet_interfaces = 127.0.0.1" \
    "relayhost = [127.0.0.1]:$WORLD_PORT"
  ROOT_PID[postfix]=$(tr -d ' ' <"$D/postfix/spool/pid/master.pid")
  FLUSH[postfix]="postqueue -c $D/postfix/etc -f"
  VERSION[postfix]="Postfix $(postconf -dh mail_version)"
}

# chasquid_start: it has no relaying by address and no smarthost. So world.test is a local domain whose ann is an alias of
# an address outside, which a name server of ours, seen through a private resolv.conf, puts on loopback; the port is set
# by the flag of its own tests. Its queue takes 200 messages, compiled in, so there is no backlog to measure.
chasquid_start() {
  local dir=$D/chasquid dns=127.0.53.$((RANDOM % 250 + 1))
  PORT[chasquid]=$(free_port)
  mkdir -p "$dir/etc/domains/world.test" "$dir/etc/certs/bench.test" "$dir/data"
  echo "ann: ann@out.test" >"$dir/etc/domains/world.test/aliases"
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=bench.test \
    -keyout "$dir/etc/certs/bench.test/privkey.pem" -out "$dir/etc/certs/bench.test/fullchain.pem" 2>/dev/null
  cat >"$dir/etc/chasquid.conf" <<CONF
hostname: "bench.test"
smtp_address: "127.0.0.1:${PORT[chasquid]}"
data_dir: "$dir/data"
mail_delivery_agent_bin: "/bin/true"
mail_log_path: "$dir/maillog"
CONF
  echo "nameserver $dns" >"$dir/resolv.conf"
  printf '127.0.0.1 localhost mx.out.test\n::1 localhost\n' >"$dir/hosts"
  python3 "$BENCH/dns.py" "$dns" out.test mx.out.test 127.0.0.1 >"$dir/dns.log" 2>&1 &
  PIDS+=($!)
  # shellcheck disable=SC2016 # for the shell inside
  unshare -m --propagation private bash -c 'mount --bind "$1/resolv.conf" /etc/resolv.conf && mount --bind "$1/hosts" /etc/hosts &&
    exec "$2" -config_dir="$1/etc" -testing__outgoing_smtp_port="$3"' - \
    "$dir" "$PEERS/chasquid/usr/bin/chasquid" "$WORLD_PORT" >"$dir/log" 2>&1 &
  ROOT_PID[chasquid]=$!
  PIDS+=("$!")
  until_true 10 port_open 127.0.0.1 "${PORT[chasquid]}" || die "chasquid did not start: $(tail -n 5 "$dir/log")"
  VERSION[chasquid]="chasquid $(cd "$PEERS/deb" && ls chasquid_*.deb | sed 's/chasquid_\(.*\)_.*/\1/')"
}

# --- processes -----------------------------------------------------------------------------------------------------------

# cpu PID: processor seconds of a process, its living children and all it has waited for.
cpu() {
  local pid total=0
  for pid in "$1" $(pgrep -P "$1"); do
    total=$((total + $(awk '{print $14 + $15 + $16 + $17}' "/proc/$pid/stat" 2>/dev/null || echo 0)))
  done
  calc "$total / $(getconf CLK_TCK)" 2
}

# pss_mib PID: proportional memory of a process and its children.
pss_mib() {
  local pid total=0
  for pid in "$1" $(pgrep -P "$1"); do
    total=$((total + $(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup" 2>/dev/null || echo 0)))
  done
  calc "$total / 1024" 1
}

# --- the receiver ----------------------------------------------------------------------------------------------------------

sink_open() {
  : >"$D/sink.out"
  smtp-sink -4 -c "${sink_user[@]}" -m 1000 "127.0.0.1:$WORLD_PORT" 1000 >"$D/sink.out" 2>&1 &
  SINK_PID=$!
  PIDS+=("$SINK_PID")
  until_true 5 port_open 127.0.0.1 "$WORLD_PORT" || die "smtp-sink did not start: $(cat "$D/sink.out")"
}
taken() {
  local n
  n=$(tail -c 100 "$D/sink.out" | tr '\r' '\n' | sed -n 's/.*mesg=\([0-9]*\).*/\1/p' | tail -n 1)
  echo "${n:-0}"
}
sink_close() { stop "$SINK_PID"; }

# machine: a line about where this runs.
machine() {
  echo "$(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)," \
    "queues on $(stat -f -c %T "$D"), load before $(cut -d' ' -f1 /proc/loadavg)"
}
