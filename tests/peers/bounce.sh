#!/usr/bin/env bash
# A receiver refuses for good, and the sender hears of it, in a message that Python's email package can read; a refused
# notice is told to nobody. Rules: DSN-1, DSN-2, DSN-4, DSN-5, DSN-6, DV-16, SEC-5
. "$(dirname "$0")/../tools/lib.sh"
need swaks smtp-sink python3 nc

WORLD_PORT=$(free_port)
dns_start \
  'no.test MX 10 mx.no.test' 'mx.no.test A 127.0.0.2' \
  'yes.test MX 10 mx.yes.test' 'mx.yes.test A 127.0.0.3'
sink_start no 127.0.0.2 -f RCPT -B '550 5.1.1 No such user here'
sink_start yes 127.0.0.3
config '$a [dsn]\ncollect = "100ms"'
daemon_start

# One of the two is refused; the sender is at a host that takes mail.
swaks --server "127.0.0.1:$SMTP_PORT" --helo swaks --from sender@yes.test --to ann@no.test,bob@yes.test --body hello >"$D/out" 2>&1 ||
  die "swaks: $(cat "$D/out")"
# Here the sender's own host refuses the notice.
swaks --server "127.0.0.1:$SMTP_PORT" --helo swaks --from nobody@no.test --to carl@no.test --body hello >"$D/out" 2>&1 ||
  die "swaks: $(cat "$D/out")"
until_true 30 grep -q 'X-Rcpt-Args: <sender@yes.test>' "$D/world/yes" || die "the sender was not told"
until_true 30 grep -q 'deliver .*to=<nobody@no.test> from=<> .*result=failed' "$D/log" || die "no notice to nobody@no.test was tried"
until_true 30 queue_is_empty || die "left: $(control list)"
[ "$(arrived yes | sort | xargs)" = "bob@yes.test sender@yes.test" ] || die "arrived: $(arrived yes | xargs)"
daemon_stop || die "the daemon ended with $?"

python3 - "$D/world/yes" <<'PY' || die "the notice is not what RFC 3464 asks for"
import email, email.policy, re, sys
dump = open(sys.argv[1], "rb").read()
[notice] = [m for m in re.split(rb"(?m)^(?=X-Client-Addr: )", dump) if b"X-Rcpt-Args: <sender@yes.test>" in m]
assert re.search(rb"(?m)^X-Mail-Args: <>", notice), "the reverse-path is not null"
message = email.message_from_bytes(notice, policy=email.policy.default)
assert message.get_content_type() == "multipart/report", message.get_content_type()
assert message.get_param("report-type") == "delivery-status"
assert message["Auto-Submitted"] == "auto-replied" and message["To"] == "sender@yes.test", message.items()
text, status, original = list(message.iter_parts())
assert "ann@no.test" in text.get_content() and "No such user here" in text.get_content()
per_message, recipient = status.get_payload()
assert per_message["Reporting-MTA"] == "dns; demo.posthaste.test", per_message.items()
assert recipient["Final-Recipient"].replace(" ", "") == "rfc822;ann@no.test", recipient.items()
assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.1"), recipient.items()
assert recipient["Diagnostic-Code"].startswith("smtp;"), recipient.items()
assert original.get_content_type() in ("text/rfc822-headers", "message/rfc822"), original.get_content_type()
PY
echo "the sender was told of the refused recipient once, and nobody of the refused notice"
