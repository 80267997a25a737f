#!/usr/bin/env bash
# Debian's Postfix hands mail to the daemon, and takes mail from it, by TLS: one instance, both ways.
# Rules: CL-1, CL-14, CL-24, CL-29, DV-1, IN-1, IN-2, Q-13
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix smtp-source smtp-sink swaks openssl nc
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }

COUNT=200
WORLD_PORT=$(free_port)
postfix_port=$(free_port)
dns_start \
  'world.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2' \
  'postfix.test MX 10 mx.postfix.test' 'mx.postfix.test A 127.0.0.3'
sink_start world 127.0.0.2
config
daemon_start
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=nobody.knows.test -keyout "$D/key.pem" -out "$D/cert.pem" 2>"$D/out" ||
  die "openssl: $(cat "$D/out")"
# What it takes for postfix.test goes into a maildir; everything else goes to the daemon, as to a smarthost.
postfix_start "$D/postfix" "127.0.0.1:$postfix_port" "127.0.0.3:$WORLD_PORT" -- \
  "inet_interfaces = 127.0.0.1" \
  "relayhost = [127.0.0.1]:$SMTP_PORT" \
  "smtpd_recipient_restrictions = check_recipient_access inline:{ {nobody@postfix.test = 550 5.1.1 no such person} }" \
  "smtpd_tls_security_level = may" "smtpd_tls_cert_file = $D/cert.pem" "smtpd_tls_key_file = $D/key.pem" \
  "virtual_mailbox_domains = postfix.test" \
  "virtual_mailbox_maps = static:all/" \
  "virtual_mailbox_base = $D/postfix/box" \
  "virtual_uid_maps = static:$(id -u "$RUN_USER")" \
  "virtual_gid_maps = static:$(id -g "$RUN_USER")"

echo "Postfix as a client: $COUNT messages by its smtp(8) into the daemon"
smtp-source -4 -N -s 5 -m $COUNT -l 2000 -f joe@demo.posthaste.test -t x@world.test -M client.test "127.0.0.1:$postfix_port" ||
  die "smtp-source ended with $?"
until_true 120 at_least $COUNT || die "only $(arrived | wc -l) of $COUNT arrived; Postfix has $(postfix_queue "$D/postfix")"
each_once $COUNT || die "not each message arrived once"
[ "$(postfix_queue "$D/postfix")" = 0 ] || die "Postfix still has mail: $(tail -n 5 "$D/postfix/log")"

echo "Postfix as a receiver: $COUNT messages by the daemon into a maildir"
smtp-source -4 -N -s 5 -m $COUNT -l 2000 -f joe@demo.posthaste.test -t y@postfix.test -M client.test "127.0.0.1:$SMTP_PORT" ||
  die "smtp-source ended with $?"
in_box() { find "$D/postfix/box/all/new" -type f 2>/dev/null | wc -l; }
until_true 120 eval '[ "$(in_box)" -ge $COUNT ]' || die "only $(in_box) of $COUNT in the maildir; $(tail -n 5 "$D/postfix/log")"
until_true 20 queue_is_empty || die "$(queued) still in the queue"
# Delivered-To names each numbered recipient once.
names=$(cat "$D"/postfix/box/all/new/* | grep -c '^Delivered-To: ')
different=$(cat "$D"/postfix/box/all/new/* | grep '^Delivered-To: ' | sort -u | wc -l)
[ "$names" = $COUNT ] && [ "$different" = $COUNT ] || die "$names deliveries, $different different"

[ "$(grep 'deliver .*@postfix.test> .*result=delivered' "$D/log" | grep -vc 'tls=encrypted')" = 0 ] ||
  die "not everything went by TLS: $(grep 'deliver .*@postfix.test> ' "$D/log" | grep -v tls=encrypted | head -n 1)"

echo "An address that Postfix refuses is final, with Postfix's own words in the log; its fellow gets the mail"
swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to nobody@postfix.test,ok@postfix.test >"$D/out" 2>&1 ||
  die "swaks: $(cat "$D/out")"
until_true 20 grep -q 'deliver .*to=<ok@postfix.test>.*result=delivered' "$D/log" || die "the good recipient was not delivered"
grep 'deliver .*to=<nobody@postfix.test>' "$D/log" | grep 'result=failed' | grep -q 'no such person' ||
  die "the refused recipient: $(grep nobody@postfix.test "$D/log")"
daemon_stop || die "the daemon ended with $?"
echo "$COUNT messages from Postfix and $COUNT to Postfix by TLS, each once"
