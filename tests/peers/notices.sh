#!/usr/bin/env bash
# Who asks Postfix for notifications gets them through the daemon: from Postfix in front, which passes NOTIFY, RET and ENVID on
# by SMTP, and to Postfix behind, which confirms itself what is passed on to it and takes what the daemon tells.
# Rules: CL-29, DSN-1, DSN-4, DSN-5, DSN-6, DSN-7, DSN-13
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need postfix sendmail smtp-sink nc python3
[ "$(id -u)" = 0 ] || { echo "skipped: a Postfix of our own needs root"; exit 77; }

WORLD_PORT=$(free_port)
postfix_port=$(free_port)
dns_start \
  'world.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2' \
  'postfix.test MX 10 mx.postfix.test' 'mx.postfix.test A 127.0.0.3'
# It announces no DSN.
sink_start world 127.0.0.2 -N
config
printf '\n[dsn]\ncollect = "1s"\n' >>"$D/posthaste.toml"
daemon_start
# What is for postfix.test goes into one maildir, notifications too; everything else goes to the daemon.
postfix_start "$D/postfix" "127.0.0.1:$postfix_port" "127.0.0.3:$WORLD_PORT" -- \
  "inet_interfaces = 127.0.0.1" \
  "relayhost = [127.0.0.1]:$SMTP_PORT" \
  "smtpd_recipient_restrictions = check_recipient_access inline:{ {nobody@postfix.test = 550 5.1.1 no such person} }" \
  "virtual_mailbox_domains = postfix.test" \
  "virtual_mailbox_maps = static:all/" \
  "virtual_mailbox_base = $D/postfix/box" \
  "virtual_uid_maps = static:$(id -u "$RUN_USER")" \
  "virtual_gid_maps = static:$(id -g "$RUN_USER")"

# reports: one line per block of each report in the maildir: reporting MTA, envelope id, action, status, recipient, third part.
reports() {
  python3 - "$D/postfix/box/all/new" <<'PY'
import email, email.policy, pathlib, sys
box = pathlib.Path(sys.argv[1])
for path in sorted(box.glob("*")) if box.is_dir() else ():
    m = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    if m.get_content_type() != "multipart/report":
        continue
    parts = list(m.iter_parts())
    assert not m.defects and len(parts) == 3, (path, m.defects)
    groups = parts[1].get_payload()
    for group in groups[1:]:
        print(groups[0]["Reporting-MTA"], groups[0]["Original-Envelope-Id"], group["Action"], group["Status"],
              group["Final-Recipient"].replace(" ", ""), parts[2].get_content_type())
PY
}
has_report() { reports | grep -Eq "$1"; }
# from_front TO NOTIFY RET ENVID: sendmail -N in front; its pickup and its smtp(8) carry the wishes to the daemon.
from_front() {
  printf 'From: joe@postfix.test\nSubject: to %s\n\nbody\n' "$1" |
    sendmail -C "$D/postfix/etc" -f joe@postfix.test -N "$2" -R "$3" -V "$4" "$1" || die "sendmail ended with $?"
}
us=$(sed -n 's/^hostname = "\(.*\)"/\1/p' "$D/posthaste.toml")

echo "Success toward a host that confirms nothing: the daemon tells the sender"
from_front ann@world.test success,failure hdrs relayed1
until_true 60 has_report "dns; $us relayed1 relayed 2\.[0-9.]+ rfc822;ann@world.test text/rfc822-headers" ||
  die "no report of relaying: $(reports)"

echo "Success toward Postfix behind: it is passed on, and Postfix tells"
printf '%s\r\n' "EHLO client.test" "MAIL FROM:<joe@postfix.test> RET=HDRS ENVID=passed1" \
  "RCPT TO:<ok@postfix.test> NOTIFY=SUCCESS ORCPT=rfc822;first@postfix.test" DATA "Subject: passed" "" body . QUIT |
  nc -N 127.0.0.1 "$SMTP_PORT" >"$D/out" || die "nc: $(cat "$D/out")"
until_true 60 has_report 'dns; postfix.test passed1 delivered 2\.[0-9.]+ rfc822;(ok|first)@postfix.test' ||
  die "Postfix did not confirm: $(reports)"
has_report "dns; $us passed1 " && die "both told: $(reports)"

echo "A refusal by Postfix behind is told by the daemon, whole with RET=FULL; its words are in the report"
from_front ok@world.test never hdrs silent1
printf '%s\r\n' "EHLO client.test" "MAIL FROM:<joe@postfix.test> RET=FULL ENVID=refused1" \
  "RCPT TO:<nobody@postfix.test> NOTIFY=FAILURE" DATA "Subject: refused" "" "the body" . QUIT |
  nc -N 127.0.0.1 "$SMTP_PORT" >"$D/out" || die "nc: $(cat "$D/out")"
until_true 60 has_report "dns; $us refused1 failed 5.1.1 rfc822;nobody@postfix.test message/rfc822" ||
  die "no report of the refusal: $(reports)"
grep -q 'no such person' "$D"/postfix/box/all/new/* || die "Postfix's words are missing"

until_true 20 queue_is_empty || die "$(queued) still in the queue"
has_report ' silent1 ' && die "NOTIFY=NEVER was answered"
[ "$(reports | wc -l)" = 3 ] || die "not three reports: $(reports)"
daemon_stop || die "the daemon ended with $?"
echo "3 reports by $(reports | cut -d' ' -f2 | sort | uniq -c | tr -s ' \n' ' ')as asked for"
