#!/usr/bin/env bash
# One message alone, from the client's dot to the receiver's dot, beside Debian's Postfix, in turns in one run.
#
#   tests/bench/latency.sh [COUNT]      default 50
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix python3
[ "$(id -u)" = 0 ] || die "needs root, for a Postfix of our own"

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
python3 "$(dirname "$0")/latency.py" "$WORLD_PORT" "${1:-50}" "posthaste=$SMTP_PORT" "postfix=$postfix_port" >"$D/out" 2>&1 ||
  die "$(cat "$D/out")"
awk '{ median[$1] = $2; worst[$1] = $3 }
  END { printf "latency: dot to dot, median of %d: posthaste %s ms (worst %s), postfix %s ms (worst %s): %.2f times\n",
    count, median["posthaste"], worst["posthaste"], median["postfix"], worst["postfix"], median["posthaste"] / median["postfix"] }' \
  count="${1:-50}" "$D/out"
