# shellcheck shell=bash
# What the demo, the peer tests and the benchmark share: a daemon of its own, its world, and cleaning up.
# Source it. Everything is on loopback, in one temporary directory, and gone at the end (KEEP=1 leaves the files).
set -u

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release
PATH=$PATH:/usr/sbin:/sbin
export PATH LC_ALL=C

# As root the daemon and smtp-sink become nobody, which is also how they would run for real: without rights.
if [ "$(id -u)" = 0 ]; then RUN_USER=nobody RUN_GROUP=nogroup; else RUN_USER=$(id -un) RUN_GROUP=$(id -gn); fi
sink_user=()
[ "$(id -u)" = 0 ] && sink_user=(-u "$RUN_USER")

PIDS=()
D=$(mktemp -d "${TMPDIR:-/tmp}/posthaste.XXXXXX")
chmod 755 "$D"
mkdir "$D/queue" "$D/run" "$D/world"
chown "$RUN_USER:$RUN_GROUP" "$D/queue" "$D/run" "$D/world"
chmod 700 "$D/queue"

clean_up() {
  local pid
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null; done
  for pid in "${PIDS[@]}"; do wait "$pid" 2>/dev/null; done
  if [ "${KEEP:-}" = 1 ]; then echo "kept: $D"; else rm -rf "$D"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

die() {
  echo "FAILED: $*" >&2
  if [ -s "$D/log" ]; then
    echo "--- the last lines of the daemon's log:" >&2
    tail -n "${LOG_TAIL:-25}" "$D/log" >&2
  fi
  exit 1
}

# need PROGRAM..: without it this script is skipped, but on CI that is a failure: there make deps has run.
need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null && continue
    [ "${CI:-}" = true ] && die "$program is not installed, and on CI it has to be"
    echo "skipped: $program is not installed (make deps)"
    exit 77
  done
}

# need_dkimpy: the same for dkimpy with Ed25519. It is Debian's python that has it: $python.
need_dkimpy() {
  python=/usr/bin/python3
  "$python" -c 'import dkim, nacl' 2>/dev/null && return
  [ "${CI:-}" = true ] && die "no dkimpy, and on CI it has to be there"
  echo "skipped: no dkimpy (make deps)"
  exit 77
}

# port_open ADDRESS PORT: whether something accepts there.
port_open() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# free_port: a port that nothing on loopback has, below those that the system hands out by itself.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    port_open 127.0.0.1 "$port" || { echo "$port"; return; }
  done
}

# until_true SECONDS COMMAND..: asks ten times a second; false when the time is over.
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# --- the world -----------------------------------------------------------------------------------------------------

# dns_start 'NAME TYPE VALUE'..: the world's names, on $DNS_PORT.
dns_start() {
  DNS_PORT=$(free_port)
  touch "$D/dns.log"
  "$BIN/examples/dns" "127.0.0.1:$DNS_PORT" "$@" >"$D/dns.log" 2>&1 &
  PIDS+=($!)
  until_true 5 grep -q listening "$D/dns.log" || die "the DNS program did not start: $(cat "$D/dns.log")"
}

# sink_start NAME ADDRESS [OPTION..]: an smtp-sink at ADDRESS:$WORLD_PORT that appends what it gets to $D/world/NAME.
# Its pid is in SINK_PID. Nothing it announces is unusual; -c would print counters.
sink_start() {
  local name=$1 address=$2
  shift 2
  smtp-sink -4 "${sink_user[@]}" -h "mx.$name" -D "$D/world/$name" -m 1000 "$@" "$address:$WORLD_PORT" 1000 \
    >"$D/$name.out" 2>&1 &
  SINK_PID=$!
  PIDS+=("$SINK_PID")
  until_true 5 port_open "$address" "$WORLD_PORT" || die "smtp-sink did not start: $(cat "$D/$name.out")"
}

# web_start ADDRESS PORT: tools/web.py over $D/web with the certificate $D/web.pem of ca.sh. Its pid is in WEB_PID, its log
# in $D/web.log.
web_start() {
  python3 "$ROOT/tests/tools/web.py" "$1" "$2" "$D/web.pem" "$D/web-key.pem" "$D/web" >"$D/web.log" 2>&1 &
  WEB_PID=$!
  PIDS+=("$WEB_PID")
  until_true 10 port_open "$1" "$2" || die "the web server did not start: $(cat "$D/web.log")"
}

# stop PID: ends a program that one of these functions started, and waits for it. How that ended is its own affair.
stop() {
  kill "$1" 2>/dev/null
  wait "$1" 2>/dev/null
  return 0
}

# arrived [NAME..]: one line per recipient of every transaction that the world took: the address.
arrived() {
  local name files=()
  for name in "${@:-}"; do files+=("$D/world/${name:-*}"); done
  # shellcheck disable=SC2086 # the star is meant
  cat ${files[*]} 2>/dev/null | sed -n 's/^X-Rcpt-Args: *<\([^>]*\)>.*/\1/p'
}

# each_once COUNT: whether the world has exactly COUNT recipients, no two alike.
each_once() { [ "$(arrived | wc -l)" = "$1" ] && [ "$(arrived | sort -u | wc -l)" = "$1" ]; }
at_least() { [ "$(arrived | wc -l)" -ge "$1" ]; }

# --- the daemon ----------------------------------------------------------------------------------------------------

# config [SED-EXPRESSION..]: etc/demo.toml with this run's directory, ports and account, to $D/posthaste.toml.
config() {
  SMTP_PORT=${SMTP_PORT:-$(free_port)}
  local edits=() edit
  for edit in "$@"; do edits+=(-e "$edit"); done
  sed -e "s|/tmp/posthaste-demo|$D|g" \
    -e "s/:2525\"/:$SMTP_PORT\"/" \
    -e "s/^smtp_port = .*/smtp_port = $WORLD_PORT/" \
    -e "s/^servers = .*/servers = [\"127.0.0.1:${DNS_PORT:-9}\"]/" \
    -e "s/^user = .*/user = \"$RUN_USER\"/" \
    -e "s/^group = .*/group = \"$RUN_GROUP\"/" \
    "${edits[@]}" "$ROOT/etc/demo.toml" >"$D/posthaste.toml"
}

# transport NAME KIND LINE.., route NAME [LINE..]: such tables of a configuration, on standard output.
transport() {
  printf '\n[[transport]]\nname = "%s"\nkind = "%s"\n' "$1" "$2"
  printf '%s\n' "${@:3}"
}
route() {
  printf '\n[[route]]\ntransport = "%s"\n' "$1"
  [ $# = 1 ] || printf '%s\n' "${@:2}"
}

# relay_plain [HOST:PORT..]: the same for a relay without TLS that takes everything, at first hand 127.0.0.1:$WORLD_PORT.
relay_plain() {
  local hosts
  hosts=$(printf '"%s", ' "${@:-127.0.0.1:$WORLD_PORT}")
  transport out relay "hosts = [${hosts%, }]" 'tls = "none"'
  route out
}

# relay_only LINE..: a relay with these keys is the only transport beside $D/before.toml; a running daemon reads it again.
relay_only() {
  { cat "$D/before.toml"; transport out relay "$@"; route out; } >"$D/posthaste.toml"
  # There may be a password in it.
  chmod 600 "$D/posthaste.toml"
  chown "$RUN_USER" "$D/posthaste.toml"
  [ -z "${DAEMON_PID:-}" ] || control reload | grep -q '^OK' || die "reload: $(control reload)"
}

# daemon_start: in the foreground, so that it is ours to stop; its log goes to $D/log.
daemon_start() {
  local starts
  touch "$D/log"
  starts=$(grep -c ' start version=' "$D/log")
  "$BIN/posthasted" -F -f "$D/posthaste.toml" >>"$D/log" 2>&1 &
  DAEMON_PID=$!
  PIDS+=("$DAEMON_PID")
  # It listens before it says so, and says so only when all of it is there.
  until_true 10 eval '[ "$(grep -c " start version=" "$D/log")" -gt '"$starts"' ]' || die "the daemon did not start"
}

daemon_stop() {
  kill "$DAEMON_PID"
  wait "$DAEMON_PID"
}

# attempts ADDRESS [WORD..]: the log's lines of attempts for this address that have all these words.
attempts() {
  local lines word
  lines=$(grep "deliver .*to=<$1>" "$D/log")
  shift
  for word; do lines=$(grep -F -- "$word" <<<"$lines"); done
  [ -n "$lines" ] && echo "$lines"
}

# attempt ADDRESS WORD..: waits for such a line.
attempt() { until_true 20 attempts "$@" >/dev/null || die "$1: ${*:2} not among: $(attempts "$1")"; }

# control LINE..: requests over the control socket, the answers on standard output. nc ends when the daemon closes.
control() { { printf '%s\n' "$@"; echo quit; } | nc -U "$D/run/control"; }

# queued: how many recipients are not final.
queued() { control count | sed -n 's/^OK \([0-9]*\).*/\1/p' | head -n 1; }
queue_is_empty() { [ "$(queued)" = 0 ]; }

# as_sendmail NAME ARGUMENT..: the names sendmail, mailq and newaliases, for this daemon instead of the one in /etc.
as_sendmail() { "$BIN/posthaste" -f "$D/posthaste.toml" "$@"; }

# rss_kib PID, threads_of PID, descriptors_of PID: what a process has now.
rss_kib() { awk '/^VmRSS/{print $2}' "/proc/$1/status"; }
threads_of() { awk '/^Threads/{print $2}' "/proc/$1/status"; }
descriptors_of() { find "/proc/$1/fd" -mindepth 1 | wc -l; }

# peak_kib PID: the most memory that a process has had resident.
peak_kib() { awk '/^VmHWM/{print $2}' "/proc/$1/status"; }
