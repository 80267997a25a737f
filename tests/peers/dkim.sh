#!/usr/bin/env bash
# What we sign is judged by others: dkimpy and, in a network of its own, OpenDKIM; of messages as smtp-sink and Debian's Postfix got
# them, with both algorithms, 8-bit text, long lines, folded fields and dots, and of a notice.
# Rules: MSG-7, MSG-9, DSN-10
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix smtp-sink nc opendkim-testmsg unshare ip
need_dkimpy
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }

WORLD_PORT=$(free_port)
tool() { "$BIN/posthaste" -f "$D/posthaste.toml" "$@"; }
tool dkim keygen key="$D/rsa.key" && tool dkim keygen key="$D/ed.key" algorithm=ed25519 || die "keygen ended with $?"
[ "$(stat -c %a "$D/rsa.key" "$D/ed.key" | sort -u)" = 600 ] || die "the keys can be read by others"
config
cat >>"$D/posthaste.toml" <<TOML

[dsn]
from = "mailer@here.test"
collect = "0s"

[[dkim]]
domain = "here.test"
selector = "rsa2026"
key = "$D/rsa.key"

[[dkim]]
domain = "here.test"
selector = "ed2026"
key = "$D/ed.key"

[[dkim]]
domain = "only.test"
selector = "a.b"
key = "$D/rsa.key"
TOML
tool dkim dns >"$D/zone" || die "dkim dns ended with $?"
records=()
while read -r name _ _ rest; do
  records+=("${name%.} TXT $(grep -o '"[^"]*"' <<<"$rest" | tr -d '"\n')")
done <"$D/zone"
[ ${#records[@]} = 3 ] || die "zone: $(cat "$D/zone")"
world=('world.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2'
  'postfix.test MX 10 mx.postfix.test' 'mx.postfix.test A 127.0.0.3')
dns_start "${world[@]}" "${records[@]}"
# Only the daemon's configuration knew no name server before.
sed -i "s/^servers = .*/servers = [\"127.0.0.1:$DNS_PORT\"]/" "$D/posthaste.toml"
smtp-sink -4 "${sink_user[@]}" -d "$D/world/%M." -h mx.world.test "127.0.0.2:$WORLD_PORT" 100 >"$D/sink.out" 2>&1 &
PIDS+=($!)
postfix_start "$D/postfix" "127.0.0.3:$WORLD_PORT" -- \
  "smtpd_recipient_restrictions = check_recipient_access inline:{ {nobody@postfix.test = 550 5.1.1 no such person} }" \
  "virtual_mailbox_domains = postfix.test" "virtual_mailbox_maps = static:all/" "virtual_mailbox_base = $D/postfix/box" \
  "virtual_uid_maps = static:$(id -u "$RUN_USER")" "virtual_gid_maps = static:$(id -g "$RUN_USER")"
until_true 5 port_open 127.0.0.2 "$WORLD_PORT" || die "smtp-sink did not start: $(cat "$D/sink.out")"
daemon_start

# hand_in FROM TO..: one message with everything that could break a signature, and a plain one.
hand_in() {
  "$python" - "$SMTP_PORT" "$@" <<'PY'
import smtplib, sys
port, author, *to = sys.argv[1:]
odd = (b"From: Joe\r\n <" + author.encode() + b">\r\nTo: you (a\r\n\tfold) <a@world.test>\r\nSubject:   blanks \t here  \r\n\ttoo \r\n"
       b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nX-Case: odd\r\n\r\n"
       b".\r\n..two dots \t \r\n" + b"long " * 380 + b"end\r\n" + "gr\u00fc\u00dfe \u65e5\u672c".encode() + b"  \r\n \r\n\xff\xfe no UTF-8\r\n\r\n\r\n")
plain = b"From: " + author.encode() + b"\r\nSubject: plain\r\nDate: Sat, 21 Nov 2026 18:40:00 +0000\r\nMessage-ID: <1@x>\r\n\r\nhello\r\n"
with smtplib.SMTP("127.0.0.1", int(port)) as smtp:
    for content in (odd, plain):
        smtp.sendmail("joe@world.test", to, content, mail_options=["BODY=8BITMIME"])
PY
}
# judge FILE..: what dkimpy says of each signature of each file: selector, good or not.
judge() { "$python" "$ROOT/tests/tools/signatures.py" "$D/zone" "$@"; }
tally() { sort | uniq -c | awk '{print $1, $2, $3, $4}' | paste -sd, ; }
in_box() { [ "$(find "$D/postfix/box" -path '*/new/*' -type f 2>/dev/null | wc -l)" = "$1" ]; }
in_world() { [ "$(find "$D/world" -type f | wc -l)" = "$1" ]; }
wanted() { [ "$2" = "$3" ] || die "$1: $2, wanted $3"; }

echo "As smtp-sink and Postfix got it"
hand_in joe@here.test a@world.test b@postfix.test || die "smtplib ended with $?"
until_true 20 in_world 2 && until_true 20 in_box 2 || die "not delivered: $(ls "$D/world" "$D/postfix/box/all/new")"
good='2 ed2026 here.test good,2 rsa2026 here.test good'
wanted smtp-sink "$(judge "$D"/world/* | tally)" "$good"
wanted Postfix "$(judge "$D"/postfix/box/all/new/* | tally)" "$good"
grep -qr $'\xff\xfe no UTF-8' "$D/postfix/box" || die "the 8-bit text is not what it was"

echo "What was touched on the way is bad, and our own verifier agrees"
odd=$(grep -lr 'two dots' "$D/postfix/box")
tool dkim verify <"$odd" >"$D/out" || die "dkim verify ended with $?: $(cat "$D/out")"
[ "$(grep -c 'result=pass' "$D/out")" = 2 ] || die "dkim verify: $(cat "$D/out")"
sed 's/two dots/too dots/' "$odd" >"$D/touched"
wanted touched "$(judge "$D/touched" | tally)" '1 ed2026 here.test bad,1 rsa2026 here.test bad'
tool dkim verify <"$D/touched" >"$D/out" && die "dkim verify took it"
sed '0,/^Subject:/s//Subject: more\nSubject:/' "$odd" >"$D/touched"
wanted added "$(judge "$D/touched" | tally)" '1 ed2026 here.test bad,1 rsa2026 here.test bad'

echo "A notice"
rm -f "$D"/world/*
printf 'From: a@else.test\r\n\r\nx\r\n' >"$D/mail"
"$python" -c "import smtplib; smtplib.SMTP('127.0.0.1', $SMTP_PORT).sendmail('ann@world.test', ['nobody@postfix.test'], open('$D/mail', 'rb').read())"
until_true 20 in_world 1 || die "no notice"
wanted notice "$(judge "$D"/world/* | tally)" '1 ed2026 here.test good,1 rsa2026 here.test good'

echo "OpenDKIM, which knows RSA, with the test's name server on port 53 of a network of its own"
rm -rf "$D"/postfix/box/all
hand_in joe@only.test b@postfix.test && until_true 20 in_box 2 || die "not delivered"
echo 'nameserver 127.0.0.1' >"$D/resolv.conf"
cat >"$D/inside" <<'SH'
ip link set lo up && mount --bind "$D/resolv.conf" /etc/resolv.conf || exit 99
"$BIN/examples/dns" 127.0.0.1:53 "$@" >"$D/dns53.log" 2>&1 &
for _ in $(seq 50); do grep -q listening "$D/dns53.log" 2>/dev/null && break; sleep 0.1; done
status=0
for file in "$D"/postfix/box/all/new/*; do opendkim-testmsg -t "$D" <"$file" || status=1; done
# The last one, touched.
sed 's/^hello/hallo/; s/two dots/too dots/' "$file" >"$D/touched"
opendkim-testmsg -t "$D" <"$D/touched" >/dev/null 2>&1 && status=2
kill $!
exit $status
SH
export D BIN
unshare --net --mount bash "$D/inside" "${records[@]}" >"$D/out" 2>&1 || die "OpenDKIM ended with $?: $(cat "$D/out")"
daemon_stop || die "the daemon ended with $?"
echo "dkimpy: 10 signatures good and 4 of touched messages bad; OpenDKIM: 2 good; the same by dkim verify"
