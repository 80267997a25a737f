#!/usr/bin/env bash
# DANE over a zone that ldns signed and unbound validates, with Debian's Postfix as the hosts: verified, refused before MAIL,
# postponed where DNSSEC is broken, and nothing asked for where it is proven that there is nothing.
# Rules: DANE-1, DANE-2, DANE-3, DANE-4, DANE-5, DANE-6, DNS-3, DNS-8, SEC-8, STS-8, TLS-1, TLS-3, CTL-15
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
. "$(dirname "$0")/../tools/dnssec.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix openssl python3 swaks nc unbound ldns-keygen ldns-signzone
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }

WORLD_PORT=$(free_port)
https_port=$(free_port)
DNS_PORT=$(free_port)
authority_make
certificate "$D/mx" mx.anchor.test mx.sts.test
certificate "$D/web" mta-sts.sts.test

# host DOMAIN: mail for it goes to mx.DOMAIN, which is the Postfix. TLSA records are for the port that we use.
host() { printf '%s MX 10 mx.%s\nmx.%s A 127.0.0.3\n' "$1" "$1" "$1"; }
tlsa() { echo "_$WORLD_PORT._tcp.mx.$1 TLSA $2"; }
nobody=$(printf 'nobody' | sha256sum | cut -d ' ' -f 1)
zone bogus.test signed <<<"@ MX 10 mx
mx A 127.0.0.3"
zone insecure.test <<<"@ MX 10 mx
mx A 127.0.0.3
$(tlsa insecure.test "3 1 1 $nobody" | sed 's/\.insecure\.test / /')"
{
  for domain in key anchor name wrong unsigned none sts; do host $domain; done
  tlsa key "3 1 1 $(tlsa_key "$D/mx.pem")"
  tlsa anchor "2 0 1 $(tlsa_cert "$D/ca.pem")"
  tlsa name "2 0 1 $(tlsa_cert "$D/ca.pem")"
  tlsa wrong "3 1 1 $nobody"
  tlsa unsigned "3 1 1 $nobody"
  printf 'second MX 10 mx.wrong\nsecond MX 20 mx.key\n'
  printf '_mta-sts.sts TXT "v=STSv1; id=1"\nmta-sts.sts A 127.0.0.4\n'
  printf 'insecure NS ns.insecure\nbogus NS ns.bogus\nns.insecure A 127.0.0.1\nns.bogus A 127.0.0.1\n'
  cat "$D/zones/bogus.test.ds"
} | zone test signed
# What is not what was signed: all addresses of the one, the TLSA record of the other.
sed -i '/^mx\.bogus\.test\..*\sA\s/s/127\.0\.0\.3/127.0.0.5/' "$D/zones/bogus.test"
sed -i "/_tcp\.mx\.unsigned\.test\..*\sTLSA\s/s/$nobody/${nobody//1/2}/" "$D/zones/test"
grep -q '127\.0\.0\.5' "$D/zones/bogus.test" && grep -q "${nobody//1/2}" "$D/zones/test" || die "the zones are whole"
unbound_start "127.0.0.1:$DNS_PORT" test

mkdir -p "$D/web/.well-known"
printf 'version: STSv1\nmode: enforce\nmx: mx.sts.test\nmax_age: 604800\n' >"$D/web/.well-known/mta-sts.txt"
web_start 127.0.0.4 "$https_port"
postfix_start "$D/postfix" "127.0.0.3:$WORLD_PORT" -- \
  "smtpd_tls_security_level = may" "smtpd_tls_chain_files = $D/mx-key.pem, $D/mx-chain.pem" "smtpd_tls_loglevel = 1" \
  "virtual_mailbox_domains = static:all" "virtual_mailbox_maps = static:all/" "virtual_mailbox_base = $D/postfix/box" \
  "virtual_uid_maps = static:$(id -u "$RUN_USER")" "virtual_gid_maps = static:$(id -g "$RUN_USER")"

config
printf '\n[tls]\nca_file = "%s"\nmta_sts_port = %s\nmemory = "off"\n' "$D/ca.pem" "$https_port" >>"$D/posthaste.toml"
daemon_start
send() { quietly swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to "$1"; }
for domain in key anchor second none sts insecure name wrong unsigned bogus; do send "a@$domain.test"; done

echo "Verified by DANE: a key (3 1 1), an authority and the name (2 0 1), the second host where the first one's record is wrong"
attempt a@key.test tls=dane tls-policy=dane:dane result=delivered
attempt a@anchor.test tls=dane tls-policy=dane:dane result=delivered
attempt a@second.test relay=mx.key.test tls=dane tls-policy=dane:dane result=delivered

echo "Proven that there is no TLSA record: the domain's MTA-STS policy, or nothing, is what counts"
attempt a@sts.test tls=verified tls-policy=verify:mta-sts result=delivered
attempt a@none.test tls=encrypted tls-policy=opportunistic result=delivered

echo "Proven that the delegation is not signed: its TLSA record is not even looked at"
attempt a@insecure.test tls=encrypted tls-policy=opportunistic result=delivered

echo "Another key, another name, a broken signature of the record, a broken signature of the address: mail waits"
attempt a@wrong.test status=4.7.5 tls=encrypted tls-policy=dane:dane result=deferred
attempt a@name.test status=4.7.5 tls-policy=dane:dane result=deferred
attempt a@unsigned.test relay=mx.unsigned.test status=4.7.5 result=deferred 'TLSA records of mx.unsigned.test are not known'
attempt a@bogus.test status=4.4.3 relay=none result=deferred
grep -q 'validation failure <mx.bogus.test. A IN>' "$D/unbound.log" || die "unbound: $(tail "$D/unbound.log")"

echo "What show, tlsinfo and metrics say"
control "tlsinfo domain=key.test" "tlsinfo domain=insecure.test" "tlsinfo domain=none.test" "tlsinfo domain=unsigned.test" >"$D/out"
for line in 'host=mx.key.test dane=usable' 'host=mx.insecure.test dane=insecure' 'host=mx.none.test dane=none' \
  'host=mx.unsigned.test dane=failed'; do
  grep -q "$line" "$D/out" || die "tlsinfo: no $line in: $(cat "$D/out")"
done
control metrics >"$D/out"
for line in '{level="plain"} 0' '{level="encrypted"} 2' '{level="verified"} 1' '{level="dane"} 3'; do
  grep -qF "posthaste_tls_total$line" "$D/out" || die "metrics: no $line in: $(grep posthaste_tls_total "$D/out")"
done
control "show id=1" >"$D/out"
grep -q 'rcpt=1 attempt=1 .* tls=dane tls-policy=dane:dane .*result=ok' "$D/out" || die "show: $(cat "$D/out")"

echo "The Postfix has seen MAIL for what was delivered and for nothing else"
daemon_stop || die "the daemon ended with $?"
# mails: how many MAIL commands the Postfix counted in the sessions that have ended.
mails() { sed -n 's/.*disconnect from.* mail=\([0-9]*\).*/\1/p' "$D/postfix/log" | awk '{ sum += $1 } END { print sum + 0 }'; }
ended() { [ "$(grep -c ' connect from' "$D/postfix/log")" = "$(grep -c 'disconnect from' "$D/postfix/log")" ]; }
until_true 10 ended || die "sessions are left: $(grep 'connect from' "$D/postfix/log")"
[ "$(mails)" = 6 ] || die "$(mails) times MAIL: $(grep disconnect "$D/postfix/log")"
[ "$(grep -c 'commands=2$' "$D/postfix/log")" -ge 3 ] || die "no sessions that ended with STARTTLS"

echo "A server that is not in dns.trusted may set AD as it likes: the false records are not looked at"
sed -i 's/^servers = .*/&\ntrusted = ["192.0.2.1"]/' "$D/posthaste.toml"
daemon_start
grep -q ' warn dane-off ' "$D/log" || die "the log does not warn"
send b@wrong.test
attempt b@wrong.test tls=encrypted tls-policy=opportunistic result=delivered
control "tlsinfo domain=key.test" >"$D/out"
grep -q 'host=mx.key.test dane=insecure' "$D/out" || die "tlsinfo: $(cat "$D/out")"
daemon_stop || die "the daemon ended with $?"
echo "3 verified by DANE, 2 refused, 2 postponed for their signatures, 3 without DANE for a proven reason; AD of a stranger not believed"
