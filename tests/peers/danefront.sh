#!/usr/bin/env bash
# Debian's Postfix as a client that insists on DANE (dane-only) or on our name (verify), over a validating unbound that is the
# resolver of the whole machine: a network and a mount namespace of our own, with port 53 and /etc/resolv.conf.
# Rules: IN-30, DNS-1, DNS-8
if [ -z "${DANE_NAMESPACE:-}" ]; then
  if [ "$(id -u)" != 0 ] || ! unshare --mount --net true 2>/dev/null; then
    echo "skipped: no network namespaces of our own here"
    exit 77
  fi
  DANE_NAMESPACE=1 exec unshare --mount --net --propagation private bash "$0" "$@"
fi
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
. "$(dirname "$0")/../tools/dnssec.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix smtp-source smtp-sink openssl nc ip unbound ldns-keygen ldns-signzone
ip link set lo up || die "no loopback"

WORLD_PORT=25
SMTP_PORT=2525
authority_make
certificate "$D/front" mx.verify.test
chown "$RUN_USER" "$D/front-key.pem"
nobody=$(printf 'nobody' | sha256sum | cut -d ' ' -f 1)
zone test signed <<ZONE
mx.dane A 127.0.0.1
_587._tcp.mx.dane TLSA 3 1 1 $(tlsa_key "$D/front.pem")
mx.wrong A 127.0.0.1
_587._tcp.mx.wrong TLSA 3 1 1 $nobody
mx.verify A 127.0.0.1
mx.other A 127.0.0.1
dane MX 10 mx.world
wrong MX 10 mx.world
verify MX 10 mx.world
other MX 10 mx.world
mx.world A 127.0.0.2
ZONE
unbound_start 127.0.0.1:53 test
echo 'nameserver 127.0.0.1' >"$D/resolv.conf"
mount --bind "$D/resolv.conf" "$(readlink -f /etc/resolv.conf)" || die "no resolv.conf of our own"

sink_start world 127.0.0.2
config '/^servers = /d'
cat >>"$D/posthaste.toml" <<TOML

[[listen]]
name = "submission"
address = "127.0.0.1:587"
tls = "starttls"
cert = "$D/front-chain.pem"
key = "$D/front-key.pem"
TOML
daemon_start
! grep -q dane-off "$D/log" || die "the resolver of the machine is not trusted"
# All mail of this Postfix goes to our listener; the names by which it finds it differ.
postfix_start "$D/postfix" 127.0.0.1:2526 -- \
  "smtp_dns_support_level = dnssec" "smtp_host_lookup = dns" "smtp_tls_loglevel = 1" "smtp_tls_CAfile = $D/ca.pem" \
  "smtp_tls_security_level = dane-only" \
  "transport_maps = inline:{{dane.test = smtp:[mx.dane.test]:587}, {wrong.test = smtp:[mx.wrong.test]:587}, {verify.test = smtp:[mx.verify.test]:587}, {other.test = smtp:[mx.other.test]:587}}" \
  "smtp_tls_policy_maps = inline:{{[mx.verify.test]:587 = verify}, {[mx.other.test]:587 = verify}}"
# handed COUNT TO: Postfix gets so many messages.
handed() { smtp-source -4 -N -s 2 -m "$1" -f joe@client.test -t "$2" -M client.test 127.0.0.1:2526 || die "smtp-source ended with $?"; }
taken() { [ "$(arrived | grep -c "@$1$")" = "$2" ]; }
handed 20 a@dane.test
handed 20 a@verify.test
handed 1 a@wrong.test
handed 1 a@other.test

echo "dane-only: our certificate matches its TLSA record; verify: it is of the authority and for the name"
until_true 60 taken dane.test 20 || die "$(tail -n 5 "$D/postfix/log")"
until_true 60 taken verify.test 20 || die "$(tail -n 5 "$D/postfix/log")"
for host in dane verify; do
  grep -q "Verified TLS connection established to mx.$host.test\[127.0.0.1\]:587: TLSv1.3" "$D/postfix/log" ||
    die "mx.$host.test is not verified: $(grep TLS "$D/postfix/log")"
done

echo "Another key than that of the TLSA record, another name than that of the certificate: Postfix keeps its mail"
for domain in wrong other; do
  until_true 30 grep -q "to=<1a@$domain.test>.*status=deferred (Server certificate not verified)" "$D/postfix/log" ||
    die "$domain.test: $(grep "$domain.test" "$D/postfix/log")"
done
until_true 30 queue_is_empty || die "left: $(control list)"
each_once 40 || die "arrived: $(arrived | sort | uniq -c)"
[ "$(grep -c ' queued .* proto=ESMTPS tls=TLSv1.3' "$D/log")" = 40 ] || die "not all inside TLS: $(grep ' queued ' "$D/log" | head -n 3)"
daemon_stop || die "the daemon ended with $?"
echo "20 messages of a Postfix that verified us by DANE, 20 of one that verified us by name, 2 that it kept for a false record or name"
