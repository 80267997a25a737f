#!/usr/bin/env bash
# Debian's Postfix as a receiver with a certificate of a private authority: verified, refused for its name, remembered.
# Rules: TLS-1, TLS-3, TLS-5, TLS-6, TLS-7, TLS-11, CTL-15
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix openssl swaks nc
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }

WORLD_PORT=$(free_port)
dns_start \
  'postfix.test MX 10 mx.postfix.test' 'mx.postfix.test A 127.0.0.3' \
  'strict.test MX 10 mx.postfix.test' \
  'agreed.test MX 10 other.postfix.test' \
  'other.test MX 10 other.postfix.test' 'other.postfix.test A 127.0.0.3'

authority_make
certificate "$D/mx" mx.postfix.test

config
cat >>"$D/posthaste.toml" <<TOML

[tls]
ca_file = "$D/ca.pem"

[[tls_policy]]
domains = ["agreed.test"]
level = "verify"
names = ["mx.postfix.test"]

[[tls_policy]]
domains = ["strict.test", "other.test"]
level = "verify"
TOML
daemon_start
start() {
  postfix_start "$D/postfix" "127.0.0.3:$WORLD_PORT" -- \
    "smtpd_tls_security_level = $1" "smtpd_tls_chain_files = $D/mx-key.pem, $D/mx-chain.pem" "smtpd_tls_loglevel = 1" \
    "virtual_mailbox_domains = postfix.test, strict.test, other.test, agreed.test" \
    "virtual_mailbox_maps = static:all/" "virtual_mailbox_base = $D/postfix/box" \
    "virtual_uid_maps = static:$(id -u "$RUN_USER")" "virtual_gid_maps = static:$(id -g "$RUN_USER")"
}
start may
send() { quietly swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to "$1"; }

echo "Verified without being asked for, by a name of the host, and by a name that was agreed on"
send a@postfix.test && attempt a@postfix.test tls=verified tls-policy=opportunistic result=delivered
send a@strict.test && attempt a@strict.test tls=verified tls-policy=verify:tls_policy result=delivered
send a@agreed.test && attempt a@agreed.test tls=verified tls-policy=verify:tls_policy result=delivered

echo "A certificate for another name: temporary, and Postfix has seen no MAIL"
send a@other.test && attempt a@other.test status=4.7.5 result=deferred 'it is for mx.postfix.test and not for other.postfix.test'
grep -q 'disconnect.* ehlo=1 starttls=1 commands=2' "$D/postfix/log" || die "Postfix: $(grep disconnect "$D/postfix/log")"

echo "What tlsinfo finds out"
control "tlsinfo domain=strict.test test" >"$D/out"
grep -q 'host=mx.postfix.test dane=insecure tls-policy=verify:tls_policy tls=verified protocol="TLSv1.3 .* result=ok' "$D/out" ||
  die "tlsinfo: $(cat "$D/out")"

echo "The same host without TLS: remembered, until an operator forgets it"
postfix_stop "$D/postfix"
start none
send b@postfix.test && attempt b@postfix.test status=4.7.4 tls-policy=encrypt:memory result=deferred
control "tlsinfo domain=postfix.test clear" | grep -qx 'OK 1' || die "tlsinfo clear"
control "kick domain=postfix.test" >"$D/out"
attempt b@postfix.test tls=plain tls-policy=opportunistic result=delivered
daemon_stop || die "the daemon ended with $?"
echo "Postfix: three ways of being verified, one refused, one remembered"
