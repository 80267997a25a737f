#!/usr/bin/env bash
# MTA-STS with servers that we did not write: Python's for the policies, Debian's Postfix as the MX hosts.
# Rules: STS-2, STS-3, STS-5, STS-7, STS-8, STS-10, SEC-8
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix openssl swaks python3 nc
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }

WORLD_PORT=$(free_port)
https_port=$(free_port)
dns_start \
  'good.test MX 10 mx.good.test' 'mx.good.test A 127.0.0.3' \
  'mta-sts.good.test A 127.0.0.4' '_mta-sts.good.test TXT v=STSv1; id=20261122T000000;' \
  'wrong.test MX 10 mx.wrong.test' 'mx.wrong.test A 127.0.0.3' \
  'mta-sts.wrong.test A 127.0.0.4' '_mta-sts.wrong.test TXT v=STSv1; id=1' \
  'unlisted.test MX 10 mx.good.test' \
  'mta-sts.unlisted.test A 127.0.0.4' '_mta-sts.unlisted.test TXT v=STSv1; id=1' \
  'nocert.test MX 10 mx.wrong.test' \
  'mta-sts.nocert.test A 127.0.0.4' '_mta-sts.nocert.test TXT v=STSv1; id=1'

authority_make
certificate "$D/mx" mx.good.test
certificate "$D/web" mta-sts.good.test mta-sts.wrong.test mta-sts.unlisted.test

# One server for all policies.
mkdir -p "$D/web/.well-known" "$D/web/mta-sts.unlisted.test/.well-known"
printf 'version: STSv1\r\nmode: enforce\r\nmx: mx.good.test\r\nmx: *.wrong.test\r\nmax_age: 604800\r\n' >"$D/web/.well-known/mta-sts.txt"
sed 's/mx: mx.good.test/mx: mx.elsewhere.test/' "$D/web/.well-known/mta-sts.txt" \
  >"$D/web/mta-sts.unlisted.test/.well-known/mta-sts.txt"
web_start 127.0.0.4 "$https_port"

config
printf '\n[tls]\nca_file = "%s"\nmta_sts_port = %s\nmemory = "off"\n' "$D/ca.pem" "$https_port" >>"$D/posthaste.toml"
daemon_start
postfix_start "$D/postfix" "127.0.0.3:$WORLD_PORT" -- \
  "smtpd_tls_security_level = may" "smtpd_tls_chain_files = $D/mx-key.pem, $D/mx-chain.pem" \
  "virtual_mailbox_domains = good.test, wrong.test, unlisted.test, nocert.test" \
  "virtual_mailbox_maps = static:all/" "virtual_mailbox_base = $D/postfix/box" \
  "virtual_uid_maps = static:$(id -u "$RUN_USER")" "virtual_gid_maps = static:$(id -g "$RUN_USER")"
send() { quietly swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to "$1"; }
fetches() { grep -c "GET /.*mta-sts.txt" "$D/web.log"; }

echo "A listed host with a certificate for its name: verified; the policy is fetched once for two messages"
send a@good.test && attempt a@good.test tls=verified tls-policy=verify:mta-sts result=delivered
send b@good.test && attempt b@good.test tls=verified tls-policy=verify:mta-sts result=delivered
[ "$(fetches)" = 1 ] || die "$(fetches) fetches: $(cat "$D/web.log")"

echo "A listed host with a certificate for another name: temporary, and Postfix has seen no MAIL"
send a@wrong.test && attempt a@wrong.test status=4.7.5 tls-policy=verify:mta-sts result=deferred
until_true 10 grep -q 'disconnect.* ehlo=1 starttls=1 commands=2' "$D/postfix/log" || die "Postfix: $(grep disconnect "$D/postfix/log")"
[ "$(grep -c 'disconnect.* mail=' "$D/postfix/log")" -le 2 ] || die "Postfix: $(grep disconnect "$D/postfix/log")"

echo "A host that the policy does not list is not dialled"
send a@unlisted.test && attempt a@unlisted.test status=4.7.5 result=deferred 'does not list mx.good.test'

echo "A policy whose server has no certificate for its name is none"
send a@nocert.test && attempt a@nocert.test tls=encrypted tls-policy=opportunistic result=delivered
grep -q 'sts-failed domain=nocert.test kind=sts-webpki-invalid' "$D/log" || die "no word of the certificate"

echo "Web server gone, daemon started again: the policy still holds"
stop "$WEB_PID"
daemon_stop || die "the daemon ended with $?"
daemon_start
send c@good.test && attempt c@good.test tls=verified tls-policy=verify:mta-sts result=delivered
send c@wrong.test && attempt c@wrong.test status=4.7.5 result=deferred
daemon_stop || die "the daemon ended with $?"
echo "verified by policy, two kinds of host refused, a false web server ignored, and all of it after a restart"
