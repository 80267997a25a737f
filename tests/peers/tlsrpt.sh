#!/usr/bin/env bash
# TLS reports about Debian's Postfix, taken by a web server of Python's and by that Postfix, and read by somebody who did
# not write them (dkimpy, tlsrpt.py). The day passes by libfaketime.
# Rules: RPT-1, RPT-2, RPT-3, RPT-4
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix openssl swaks python3 nc gzip
need_dkimpy
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }
library=$(echo /usr/lib/*/faketime/libfaketime.so.1)
if [ ! -e "$library" ]; then
  [ "${CI:-}" = true ] && die "no libfaketime, and on CI it has to be there"
  echo "skipped: no libfaketime (make deps)"
  exit 77
fi
reader=$(dirname "$(realpath "$0")")/tlsrpt.py

WORLD_PORT=$(free_port)
https_port=$(free_port)
post="https://reports.test:$https_port/v1?from=here"
dns_start \
  'good.test MX 10 mx.good.test' 'mx.good.test A 127.0.0.3' 'reports.test A 127.0.0.4' \
  'mta-sts.good.test A 127.0.0.4' '_mta-sts.good.test TXT v=STSv1; id=1' \
  "_smtp._tls.good.test TXT v=TLSRPTv1; rua=$post,mailto:reports@good.test" \
  'wrong.test MX 10 mx.wrong.test' 'mx.wrong.test A 127.0.0.3' \
  'mta-sts.wrong.test A 127.0.0.4' '_mta-sts.wrong.test TXT v=STSv1; id=1' \
  "_smtp._tls.wrong.test TXT v=TLSRPTv1;rua=$post" \
  'xnocert.test MX 10 mx.good.test' \
  'mta-sts.xnocert.test A 127.0.0.4' '_mta-sts.xnocert.test TXT v=STSv1; id=1' \
  "_smtp._tls.xnocert.test TXT v=TLSRPTv1; rua=$post"

authority_make
certificate "$D/mx" mx.good.test
certificate "$D/web" mta-sts.good.test mta-sts.wrong.test reports.test

mkdir -p "$D/web/.well-known"
printf 'version: STSv1\r\nmode: testing\r\nmx: mx.good.test\r\nmx: mx.wrong.test\r\nmax_age: 604800\r\n' >"$D/web/.well-known/mta-sts.txt"
web_start 127.0.0.4 "$https_port"

config
printf '\n[tls]\nca_file = "%s"\nmta_sts_port = %s\nmemory = "off"\nreport_from = "tls@demo.posthaste.test"\n' \
  "$D/ca.pem" "$https_port" >>"$D/posthaste.toml"
postfix_start "$D/postfix" "127.0.0.3:$WORLD_PORT" -- \
  "smtpd_tls_security_level = may" "smtpd_tls_chain_files = $D/mx-key.pem, $D/mx-chain.pem" \
  "virtual_mailbox_domains = good.test, wrong.test, xnocert.test" \
  "virtual_mailbox_maps = static:all/" "virtual_mailbox_base = $D/postfix/box" \
  "virtual_uid_maps = static:$(id -u "$RUN_USER")" "virtual_gid_maps = static:$(id -g "$RUN_USER")"

echo "Two sessions with a good host, one with a false certificate, a third domain with a policy that cannot be had"
daemon_start
send() { quietly swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to "$1"; }
send a@good.test && attempt a@good.test tls=verified result=delivered
send a@wrong.test && attempt a@wrong.test tls=encrypted result=delivered
send a@xnocert.test && attempt a@xnocert.test tls=verified result=delivered
daemon_stop || die "the daemon ended with $?"
# Another daemon, so another session.
daemon_start
send b@good.test && attempt b@good.test tls=verified result=delivered
daemon_stop || die "the daemon ended with $?"

# later DAYS: a daemon at 00:07 UTC so many days from now. It sends one report; its next one would come five minutes later.
began=$(date +%s)
later() {
  offset=$(($(date -u -d "@$began" +%s) / 86400 * 86400 + $1 * 86400 + 420 - began))
  FAKETIME="+$offset" FAKETIME_DONT_FAKE_MONOTONIC=1 LD_PRELOAD=$library \
    "$BIN/posthasted" -F -f "$D/posthaste.toml" >>"$D/log" 2>&1 &
  DAEMON_PID=$!
  PIDS+=("$DAEMON_PID")
}
posted() { [ "$(grep -c 'tls-report .*result=posted' "$D/log")" -ge "$1" ]; }

echo "The next day each domain gets its report, by HTTPS"
openssl genpkey -algorithm ed25519 -out "$D/dkim.pem" 2>/dev/null && chmod 600 "$D/dkim.pem" && chown "$RUN_USER" "$D/dkim.pem"
cp "$D/posthaste.toml" "$D/unsigned.toml"
printf '\n[[dkim]]\ndomain = "demo.posthaste.test"\nselector = "one"\nkey = "%s"\n' "$D/dkim.pem" >>"$D/posthaste.toml"
for count in 1 2 3; do
  later 1
  until_true 20 posted "$count" || die "report $count did not come"
  [ "$count" = 1 ] && attempt reports@good.test result=delivered
  daemon_stop || die "the daemon ended with $?"
done
# says N WORDS..: whether a line of what the reader says of report N has all these words.
says() {
  local n=$1 lines word
  lines=$(python3 "$reader" read "$D/web/posted/$n") || die "report $n: $(gzip -dc <"$D/web/posted/$n")"
  shift
  for word; do lines=$(grep -F -- "$word" <<<"$lines") || die "report $n: no $*: $(gzip -dc <"$D/web/posted/$n")"; done
}
for n in 1 2 3; do
  grep -qx 'Content-Type: application/tlsrpt+gzip' "$D/web/posted/$n.txt" || die "$(cat "$D/web/posted/$n.txt")"
  grep -q '^POST /v1?from=here HTTP/1.1' "$D/web/posted/$n.txt" || die "$(cat "$D/web/posted/$n.txt")"
  says "$n" organization=demo.posthaste.test contact=tls@demo.posthaste.test
done
says 1 policy=sts domain=good.test good=2 bad=0 'words=version: STSv1,mode: testing,max_age: 604800,mx: mx.good.test,mx: mx.wrong.test'
says 2 policy=sts domain=wrong.test good=0 bad=1
says 2 failure=certificate-host-mismatch host=mx.wrong.test helo=postfix.test count=1
says 3 policy=sts domain=xnocert.test good=0 bad=1
says 3 failure=sts-webpki-invalid count=1
says 3 policy=no-policy-found domain=xnocert.test good=1 bad=0

echo "The same by mail, signed, as dkimpy and Python's reader see it"
letter=$(grep -l '^TLS-Report-Domain: good.test' "$D/postfix/box/all/new/"*) || die "no letter"
"$BIN/posthaste" -f "$D/posthaste.toml" dkim dns >"$D/zone" || die "dkim dns ended with $?"
# A signature of the future is none: the verifier lives in the day of the letter.
judge() { FAKETIME="+$offset" LD_PRELOAD=$library "$python" "$ROOT/tests/tools/signatures.py" "$D/zone" "$1"; }
[ "$(judge "$letter")" = "one demo.posthaste.test good" ] || die "dkimpy: $(judge "$letter"): $(head -30 "$letter")"
sed 's/^Content-Type: text\/plain/&; x=y/' "$letter" >"$D/touched"
[ "$(judge "$D/touched")" = "one demo.posthaste.test bad" ] || die "dkimpy takes a letter that was touched: $(judge "$D/touched")"
python3 "$reader" mail "$letter" >"$D/letter.out" || die "the letter: $(cat "$letter")"
grep -q 'mail domain=good.test submitter=demo.posthaste.test from=tls@demo.posthaste.test' "$D/letter.out" || die "$(cat "$D/letter.out")"
cmp "$letter.gz" "$D/web/posted/1" || die "the letter brings another report than the post"

echo "Once per day and domain, and nothing about the letter's own session"
later 1
until_true 10 eval 'control "tlsinfo reports" >"$D/out" 2>/dev/null && grep -qx "OK 3" "$D/out"' || die "tlsinfo reports: $(cat "$D/out")"
[ "$(grep -c 'state=done' "$D/out")" = 3 ] || die "$(cat "$D/out")"
send c@good.test && attempt c@good.test tls=verified result=delivered
daemon_stop || die "the daemon ended with $?"
[ "$(find "$D/web/posted" -name '*.txt' | wc -l)" = 3 ] || die "$(ls "$D/web/posted")"

echo "Without a key nothing is mailed, and the log says so"
cp "$D/unsigned.toml" "$D/posthaste.toml"
later 2
until_true 20 posted 4 || die "the report of the second day did not come"
daemon_stop || die "the daemon ended with $?"
says 4 policy=sts domain=good.test good=1 bad=0
[ "$(grep -c 'tls-report-unsigned domain=demo.posthaste.test' "$D/log")" = 1 ] || die "$(grep tls-report "$D/log")"
[ "$(grep -l '^TLS-Report-Domain:' "$D/postfix/box/all/new/"* | wc -l)" = 1 ] || die "a second letter"
echo "four reports of real sessions, read and checked by somebody else, one of them by mail too, whose signature dkimpy verified"
