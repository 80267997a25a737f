#!/usr/bin/env bash
# A stop at the very moment that a foreign MTA has the dot and has not answered it: Debian's Postfix, which thinks about each
# message for a while. Within the grace nothing is lost and nothing is sent twice; beyond it, what may be was named before.
# Rules: PRC-2, Q-12, Q-13, Q-14
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix smtp-source nc
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }

WORLD_PORT=$(free_port)
dns_start 'postfix.test MX 10 mx.postfix.test' 'mx.postfix.test A 127.0.0.3'
# postfix_run SECONDS: it thinks for so long about each message.
postfix_run() {
  postfix_start "$D/postfix" "127.0.0.3:$WORLD_PORT" -- "smtpd_end_of_data_restrictions = sleep $1, permit" \
    "virtual_mailbox_domains = postfix.test" "virtual_mailbox_maps = static:all/" "virtual_mailbox_base = $D/postfix/box" \
    "virtual_uid_maps = static:$(id -u "$RUN_USER")" "virtual_gid_maps = static:$(id -g "$RUN_USER")"
}
# hand COUNT NAME: messages for 1NAME, 2NAME and so on.
hand() { smtp-source -4 -N -s 4 -m "$1" -f joe@demo.posthaste.test -t "$2@postfix.test" "127.0.0.1:$SMTP_PORT" || die "smtp-source ended with $?"; }
# at_dot COUNT: whether so many transactions wait for the reply to their dot.
at_dot() { [ "$(control 'list state=claimed' | grep -c 'stage=final-dot')" -ge "$1" ]; }
# sent NAME: the addresses of a kind that Postfix has delivered, one a line.
sent() { sed -n "s/.* to=<\([0-9]*$1@postfix.test\)>.*status=sent.*/\1/p" "$D/postfix/log" | sort; }
sent_all() { [ "$(sent "$1" | sort -u | wc -l)" = "$2" ]; }

config '/^user = /i shutdown_grace = "20s"'
printf '\n[limits]\nconnections = 5\ninitial = 5\n' >>"$D/posthaste.toml"
daemon_start
postfix_run 2

echo "SIGTERM while Postfix has five dots and no answer, and 10 messages wait: the five end, the others wait for the next start"
hand 15 a
until_true 20 at_dot 5 || die "not at the dot: $(control 'list state=claimed')"
daemon_stop || die "the daemon ended with $?"
delivered=$(grep -c 'deliver .*a@postfix.test>.*result=delivered' "$D/log")
[ "$delivered" -ge 5 ] && [ "$delivered" -lt 15 ] || die "$delivered were delivered at the stop"
daemon_start
control 'kick all' >"$D/out"
until_true 40 queue_is_empty || die "left: $(control list)"
until_true 10 sent_all a 15 || die "lost: $(sent a)"
[ "$(sent a | wc -l)" = 15 ] || die "twice: $(sent a | uniq -d)"
! grep -q 'doubt' "$D/log" || die "doubt without a reason: $(grep doubt "$D/log")"

echo "A second SIGTERM at the dot: what Postfix may have is in doubt, is called so before it is tried again, and nothing is lost"
hand 8 b
until_true 20 at_dot 5 || die "not at the dot: $(control 'list state=claimed')"
kill "$DAEMON_PID"
# Of two signals at once the daemon would see one.
until_true 5 eval '[ "$(grep -c " stopping " "$D/log")" = 2 ]' || die "it does not stop"
kill "$DAEMON_PID"
wait "$DAEMON_PID"
daemon_start
sed -n 's/.* warn queued qid=\([0-9]*\) .*doubt=in-doubt.*/\1/p' "$D/log" | sort >"$D/doubtful"
[ "$(wc -l <"$D/doubtful")" = 5 ] || die "in doubt: $(cat "$D/doubtful")"
until_true 40 queue_is_empty || die "left: $(control list)"
until_true 10 sent_all b 8 || die "lost: $(sent b)"
while read -r address; do
  qid=$(sed -n "s/.* queued qid=\([0-9]*\) .* to=<$address> .*/\1/p" "$D/log")
  grep -qx "$qid" "$D/doubtful" || die "$address came twice and was not in doubt"
done < <(sent b | uniq -d)
[ "$(sent b | uniq -c | awk '$1 > 2' | wc -l)" = 0 ] || die "more than twice: $(sent b | uniq -c)"
twice=$(sent b | uniq -d | wc -l)
daemon_stop || die "the daemon ended with $?"
echo "15 messages over a stop at the dot, each once; 8 over one that was cut short, 5 in doubt, of which $twice came twice"
