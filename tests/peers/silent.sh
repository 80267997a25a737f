#!/usr/bin/env bash
# 1 000 domains, of which 10 take the connection and never say a word: mail to the other 990 is not delayed.
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

# The silent ones first, so that the others have every chance to wait behind them.
python3 - "$SMTP_PORT" <<'PY' || die "smtplib"
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60) as smtp:
    for n in reversed(range(1000)):
        smtp.sendmail("joe@demo.posthaste.test", ["x@d%d.test" % n], b"Subject: hello\r\n\r\nhello\r\n")
PY
start=$SECONDS
until_true 30 at_least 990 || die "only $(arrived | wc -l) of 990 arrived in 30 s"
took=$((SECONDS - start))
each_once 990 || die "not each message arrived once"
[ "$(queued)" = 10 ] || die "$(queued) are in the queue, not 10"
daemon_stop || die "the daemon ended with $?"
echo "990 of 1000 domains had their mail within $took s of the last acceptance, while 10 hosts kept silent"
