#!/usr/bin/env bash
# Debian's Postfix as a smarthost with AUTH by Cyrus SASL and by Dovecot: submission and submissions, every mechanism, a wrong
# password and its end, and the same through a SOCKS5 proxy.
# Rules: RO-5, RO-6, RO-7, RO-8, RO-11, RO-16, RO-17, CFG-7
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix openssl swaks nc saslpasswd2 dovecot microsocks
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }

WORLD_PORT=$(free_port)
submission=$(free_port) submissions=$(free_port) dovecot_port=$(free_port) proxy=$(free_port)
dns_start 'smart.test A 127.0.0.3' 'other.test A 127.0.0.3'
authority_make
certificate "$D/mx" smart.test

# What Cyrus SASL knows of our user. Its file belongs to Postfix. Debian's Postfix looks for its configuration beside its own.
mkdir -p "$D/sasl" "$D/postfix/etc/sasl"
cat >"$D/postfix/etc/sasl/smtpd.conf" <<CONF
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: $D/sasl/db
mech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256
CONF
set_password() {
  printf %s "$1" | saslpasswd2 -p -c -u smart.test -f "$D/sasl/db" web1 || die "saslpasswd2"
  chown -R postfix "$D/sasl"
}
set_password "open sesame"

# The same user for Dovecot, which answers Postfix on a socket.
cat >"$D/dovecot.conf" <<CONF
base_dir = $D/dovecot
log_path = $D/dovecot.log
protocols =
ssl = no
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
passdb {
  driver = passwd-file
  args = username_format=%u $D/dovecot.users
}
service auth {
  unix_listener $D/auth {
    mode = 0666
  }
}
service anvil {
  chroot =
}
CONF
echo 'web1:{PLAIN}open sesame::::::' >"$D/dovecot.users"
dovecot -F -c "$D/dovecot.conf" >"$D/dovecot.out" 2>&1 &
PIDS+=($!)
until_true 10 test -S "$D/auth" || die "Dovecot did not start: $(cat "$D/dovecot.out" "$D/dovecot.log")"

POSTFIX_MASTER="
127.0.0.3:$submissions inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
127.0.0.3:$dovecot_port inet n - n - - smtpd -o smtpd_sasl_type=dovecot -o smtpd_sasl_path=$D/auth" \
  postfix_start "$D/postfix" "127.0.0.3:$submission" -- \
  "mynetworks =" "smtpd_relay_restrictions = permit_sasl_authenticated, reject" \
  "smtpd_tls_security_level = may" "smtpd_tls_chain_files = $D/mx-key.pem, $D/mx-chain.pem" \
  "smtpd_sasl_auth_enable = yes" "smtpd_tls_auth_only = yes" \
  "smtpd_sasl_local_domain = smart.test" \
  "virtual_mailbox_domains = postfix.test" "virtual_mailbox_maps = static:all/" "virtual_mailbox_base = $D/postfix/box" \
  "virtual_uid_maps = static:$(id -u "$RUN_USER")" "virtual_gid_maps = static:$(id -g "$RUN_USER")"
microsocks -i 127.0.0.1 -p "$proxy" -b 127.0.0.9 -u us -P "p:w" >"$D/socks.out" 2>&1 &
PIDS+=($!)

# The account of the daemon reads it again at each reload.
echo "open sesame" >"$D/password"
chown "$RUN_USER" "$D/password"
chmod 600 "$D/password"
config
cp "$D/posthaste.toml" "$D/before.toml"

# relay LINE..: the only transport has these keys besides.
relay() {
  relay_only "ca_file = \"$D/ca.pem\"" 'user = "web1"' "password = { file = \"$D/password\" }" "$@"
}
sent=0
send() {
  sent=$((sent + 1))
  swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to "${1:-m$sent@postfix.test}" >"$D/out" 2>&1 ||
    die "swaks: $(cat "$D/out")"
}
# came_in METHOD: the last message did by this mechanism, and its session was verified.
came_in() {
  attempt "m$sent@postfix.test" tls=verified tls-policy=verify:transport result=delivered
  grep 'sasl_method=' "$D/postfix/log" | tail -n 1 | grep -q "sasl_method=$1, sasl_username=web1" ||
    die "not by $1: $(grep sasl_method= "$D/postfix/log" | tail -n 1)"
}

relay "hosts = [\"smart.test:$submission\"]" 'probe = "require"'
daemon_start
grep -q 'transport-probe transport=out result=ok' "$D/log" || die "it was not tried at the start"
echo "Submission by Cyrus SASL and by Dovecot: the best mechanism, then each alone"
for port in "$submission" "$dovecot_port"; do
  relay "hosts = [\"smart.test:$port\"]"
  send
  came_in SCRAM-SHA-256
  for mechanism in SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN; do
    relay "hosts = [\"smart.test:$port\"]" "mechanisms = [\"$mechanism\"]"
    send
    came_in "$mechanism"
  done
done

echo "Submissions, through a proxy, from its address"
relay "hosts = [\"smart.test:$submissions\"]" 'tls = "implicit"' "proxy = \"socks5://us:p%3Aw@127.0.0.1:$proxy\"" \
  'helo = "hidden.posthaste.test"'
send
came_in SCRAM-SHA-256
grep -q 'connect from unknown\[127.0.0.9\]' "$D/postfix/log" || die "not through the proxy: $(grep connect "$D/postfix/log" | tail -n 2)"

echo "A certificate for another name: broken, and neither AUTH nor MAIL was said"
relay "hosts = [\"other.test:$submission\"]"
send waits@postfix.test
until_true 10 grep -q 'transport-broken transport=out .*it is for smart.test and not for other.test' "$D/log" || die "not broken"
grep -q 'disconnect.* ehlo=1 starttls=1 commands=2' "$D/postfix/log" || die "Postfix: $(grep disconnect "$D/postfix/log" | tail -n 1)"

echo "A wrong password: one line, no attempt; mended: everything leaves"
before=$(grep -c transport-broken "$D/log")
set_password "something else"
# Under another name, because sessions from before are as good as they were.
relay "hosts = [\"smart.test:$submission\"]" 'helo = "later.posthaste.test"'
for _ in 1 2 3 4 5 6 7 8; do send; done
until_true 10 eval 'control "transports" | grep -q "transport=out .*state=broken"' || die "$(control transports)"
sleep 1
[ $(($(grep -c transport-broken "$D/log") - before)) = 1 ] || die "not one line: $(grep transport-broken "$D/log")"
control metrics | grep -q '^posthaste_transport_broken{transport="out"} 1' || die "$(control metrics | grep broken)"
[ "$(control list | grep -c ' attempts=0 ')" = "$(queued)" ] || die "attempts were counted: $(control list)"
control "transports test=out" >"$D/out"
grep -q 'step=tls result=ok text="verified, TLSv1.3' "$D/out" && grep -q 'step=auth result=error text="5.7.8 ' "$D/out" &&
  grep -q 'ERR temporary' "$D/out" || die "transports test: $(cat "$D/out")"
set_password "open sesame"
control "transports test=out" >"$D/out"
grep -q 'step=quit result=ok' "$D/out" || die "transports test: $(cat "$D/out")"
control "kick all" >"$D/out"
until_true 20 queue_is_empty || die "$(queued) still in the queue: $(control list)"
grep -q 'result=\(failed\|expired\)' "$D/log" && die "something bounced"

cat "$D/log" "$D/postfix/log" >"$D/all"
"$BIN/posthasted" -p -f "$D/posthaste.toml" >>"$D/all"
control stats metrics transports >>"$D/all"
grep -q 'sesame\|p:w' "$D/all" && die "a password was shown: $(grep -m 1 'sesame\|p:w' "$D/all")"
daemon_stop || die "the daemon ended with $?"
echo "Postfix: $sent messages, 5 mechanisms of Cyrus SASL and 5 of Dovecot, submissions, SOCKS5, a wrong password without a bounce"
