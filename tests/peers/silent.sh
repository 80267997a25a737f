#!/usr/bin/env bash
# 1 000 domains, of which 10 take the connection and never say a word: mail to the other 990 is not delayed, neither when
# all of it comes at once, nor when there is more for the silent ones than there are workers.
# Rules: SC-2, SC-3, CL-9, PRC-2, Q-13
. "$(dirname "$0")/../tools/lib.sh"
need python3 smtp-sink nc

WORLD_PORT=$(free_port)
names=()
for n in $(seq 0 989); do names+=("d$n.test MX 10 mx.live.test"); done
for n in $(seq 990 999); do names+=("d$n.test MX 10 mx$n.silent.test" "mx$n.silent.test A 127.0.1.$((n - 989))"); done
dns_start "${names[@]}" 'mx.live.test A 127.0.0.2'
sink_start live 127.0.0.2
# Silent hosts: the kernel takes the connection, nobody accepts it.
python3 - "$WORLD_PORT" >"$D/silent.out" 2>&1 <<'PY' &
import signal, socket, sys
held = [socket.create_server(("127.0.1.%d" % n, int(sys.argv[1])), backlog=50) for n in range(1, 11)]
print("listening", flush=True)
signal.pause()
PY
PIDS+=($!)
until_true 10 grep -q listening "$D/silent.out" || die "no silent hosts: $(cat "$D/silent.out")"
config 's/^pid_file/shutdown_grace = "1s"\npid_file/'
daemon_start

# hand_in FIRST LAST TIMES..: so many messages for each of these domains, on one connection.
hand_in() {
  python3 - "$SMTP_PORT" "$@" <<'PY' || die "smtplib"
import smtplib, sys
words = [int(word) for word in sys.argv[2:]]
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60) as smtp:
    for first, last, times in zip(words[::3], words[1::3], words[2::3]):
        for n in range(first, last - 1, -1):
            for _ in range(times):
                smtp.sendmail("joe@demo.posthaste.test", ["x@d%d.test" % n], b"Subject: hello\r\n\r\nhello\r\n")
PY
}
# slowest: the longest time that a delivered message has spent here, in seconds, as the daemon says itself.
slowest() {
  sed -nE '/ result=delivered /s/.* delay=([^ ]*) .*/\1/p' "$D/log" |
    sed -E 's/^([0-9.]+)s$/\1/; t; s/^0$/0/; t; s/.*/999/' | sort -n | tail -n 1
}
in_time() { awk "BEGIN { exit !($1 < 5) }"; }

# The silent ones first, so that the others have every chance to wait behind them.
hand_in 999 0 1
until_true 30 at_least 990 || die "only $(arrived | wc -l) of 990 arrived in 30 s"
each_once 990 || die "not each message arrived once"
[ "$(queued)" = 10 ] || die "$(queued) are in the queue, not 10"
first=$(slowest)
in_time "$first" || die "a message to a host that answers waited $first s"

# No time limit frees the slots that these hold while the test lasts.
hand_in 999 990 100 989 900 1
until_true 30 at_least 1080 || die "only $(arrived | wc -l) of 1080 arrived in 30 s, while 1010 wait for silent hosts"
second=$(slowest)
in_time "$second" || die "beside 1010 messages to silent hosts a message waited $second s"
[ "$(queued)" = 1010 ] || die "$(queued) are in the queue, not 1010"
daemon_stop || die "the daemon ended with $?"
echo "990 of 1000 domains had their mail at once while 10 hosts kept silent; slowest $first s," \
  "and $second s beside 1010 messages to the silent ones"
