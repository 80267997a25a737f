#!/usr/bin/env bash
# Dovecot's LMTP server over a Unix socket and over TLS: each recipient of one message by its own reply after the dot; and smtp-sink
# speaking LMTP.
# Rules: RO-14, CFG-20, RO-6
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
need dovecot smtp-sink openssl swaks nc
[ -x /usr/lib/dovecot/lmtp ] || { [ "${CI:-}" = true ] && die "no dovecot-lmtpd"; echo "skipped: no dovecot-lmtpd (make deps)"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "skipped: a Dovecot of our own needs root"; exit 77; }

WORLD_PORT=$(free_port)
lmtp_port=$(free_port)
dns_start 'lmtp.test A 127.0.0.1' 'else.test A 127.0.0.1'
authority_make
certificate "$D/lmtp" lmtp.test

V=$D/dovecot
mkdir -p "$V/run" "$V/state" "$V/mail"
chmod 755 "$V" "$V/run"
chown nobody:nogroup "$V/mail"
# big may have much, small nothing worth mention; both have the quota of whom it is asked for.
cat >"$V/users" <<USERS
big::65534:65534::$V/mail/big::
small::65534:65534::$V/mail/small::userdb_quota_rule=*:bytes=10
USERS
cat >"$V/conf" <<CONF
base_dir = $V/run
state_dir = $V/state
instance_name = posthaste-test
log_path = $V/log
protocols = lmtp
ssl = yes
ssl_cert = <$D/lmtp-chain.pem
ssl_key = <$D/lmtp-key.pem
default_internal_user = nobody
default_login_user = nobody
default_internal_group = nogroup
first_valid_uid = 1
first_valid_gid = 1
hostname = demo.posthaste.test
mail_location = maildir:$V/mail/%n
mail_plugins = quota
plugin {
  quota = maildir:all of it
  quota_rule = *:bytes=1000000
}
protocol lmtp {
  mail_plugins = quota
  auth_username_format = %n
}
passdb {
  driver = passwd-file
  args = $V/users
}
userdb {
  driver = passwd-file
  args = $V/users
}
service lmtp {
  unix_listener $V/lmtp {
    mode = 0666
  }
  inet_listener lmtp {
    address = 127.0.0.1
    port = $lmtp_port
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
CONF
dovecot -F -c "$V/conf" >"$V/out" 2>&1 &
PIDS+=($!)
until_true 10 test -S "$V/lmtp" || die "Dovecot did not start: $(cat "$V/out" "$V/log")"
smtp-sink -L "${sink_user[@]}" -d "$D/world/%M." "unix:$D/world/sink" 100 >"$D/sink.out" 2>&1 &
PIDS+=($!)
until_true 5 test -S "$D/world/sink" || die "smtp-sink did not start: $(cat "$D/sink.out")"

config
{
  transport store lmtp "hosts = [\"unix:$V/lmtp\"]"
  transport tls lmtp "hosts = [\"lmtp.test:$lmtp_port\"]" "ca_file = \"$D/ca.pem\""
  transport wrong lmtp "hosts = [\"else.test:$lmtp_port\"]" "ca_file = \"$D/ca.pem\""
  transport sink lmtp "hosts = [\"unix:$D/world/sink\"]"
  for name in store tls wrong; do route $name "to = [\"$name.test\"]"; done
  route sink
} >>"$D/posthaste.toml"
daemon_start
send() { quietly swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to "$1" --body "${2:-hello}"; }
box() { find "$V/mail/$1/new" -type f 2>/dev/null | wc -l; }

echo "One message, three recipients, three ends: kept, over quota after the dot, unknown at RCPT"
send big@store.test,small@store.test,nobody@store.test
attempt big@store.test "relay=unix:$V/lmtp" stage=final-dot code=250 result=delivered
attempt small@store.test stage=final-dot code=552 status=5.2.2 result=failed
attempt nobody@store.test stage=rcpt status=5.1.1 result=failed
[ "$(box big)" = 1 ] && [ "$(box small)" = 0 ] || die "boxes: $(box big) $(box small)"
grep -q 'lmtp(big.*saved mail to INBOX' "$V/log" || die "Dovecot: $(cat "$V/log")"

echo "The session is used again"
send big@store.test again
until_true 10 eval '[ "$(box big)" = 2 ]' || die "not delivered again"
[ "$(grep -c 'lmtp(.*Connect from local' "$V/log")" = 1 ] || die "Dovecot saw: $(grep Connect "$V/log")"

echo "Over TCP with STARTTLS, verified by name; and not for another name"
send big@tls.test && attempt big@tls.test tls=verified code=250 result=delivered
send big@wrong.test && attempt big@wrong.test status=4.7.5 result=deferred
[ "$(box big)" = 3 ] || die "boxes: $(box big)"
control "drop all" >"$D/out"

echo "smtp-sink as LMTP server, with a reply for each of two"
send a@sink.test,b@sink.test
attempt a@sink.test code=250 result=delivered
attempt b@sink.test code=250 result=delivered
until_true 20 queue_is_empty || die "left: $(control list)"
daemon_stop || die "the daemon ended with $?"
echo "Dovecot: 1 kept, 1 over quota, 1 unknown of one message; 3 kept in all over a socket and TLS; smtp-sink: 2 replies for 2"
