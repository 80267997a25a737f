#!/usr/bin/env bash
# The programs that people use hand mail in, each in its own manner, and what they hand in arrives as it was.
# Rules: IN-1, IN-2, IN-5, IN-20, IN-29, Q-21, CL-26, SEC-4
. "$(dirname "$0")/../tools/lib.sh"
need swaks msmtp curl python3 nc smtp-sink

WORLD_PORT=$(free_port)
dns_start 'world.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2'
sink_start world 127.0.0.2
config
daemon_start

# A body with everything that framing can spoil: dots, a lone dot, long lines, trailing blanks, 8-bit.
{
  printf 'From: <joe@demo.posthaste.test>\nTo: <x@world.test>\nSubject: body\n\n'
  printf '.\n..\n.dot\ntrailing blanks  \t\n\nGr\303\274\303\237e\n'
  printf 'long %01000d\n' 7
  printf 'end\n'
} >"$D/mail"

echo "swaks over TCP, with an attachment"
swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to swaks@world.test --attach "@$D/mail" \
  >"$D/out" 2>&1 || die "swaks: $(cat "$D/out")"
echo "swaks over the Unix socket, pipelining"
swaks --socket "$D/run/smtp" --pipeline --from joe@demo.posthaste.test --to swaks-unix@world.test \
  >"$D/out" 2>&1 || die "swaks --socket: $(cat "$D/out")"
echo "msmtp"
msmtp --file=/dev/null --host=127.0.0.1 --port="$SMTP_PORT" --tls=off --auth=off --from=joe@demo.posthaste.test \
  msmtp@world.test <"$D/mail" || die "msmtp ended with $?"
echo "curl"
sed 's/$/\r/' "$D/mail" >"$D/mail.crlf"
curl -sS --url "smtp://127.0.0.1:$SMTP_PORT/client.test" --mail-from joe@demo.posthaste.test --mail-rcpt curl@world.test \
  --mail-rcpt curl2@world.test --upload-file "$D/mail.crlf" || die "curl ended with $?"
echo "Python's smtplib, two messages on one connection"
python3 - "$SMTP_PORT" "$D/mail.crlf" <<'PY' || die "smtplib"
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=30) as smtp:
    content = open(sys.argv[2], "rb").read()
    refused = smtp.sendmail("joe@demo.posthaste.test", ["python@world.test"], content, mail_options=["BODY=8BITMIME"])
    assert not refused, refused
    try:
        smtp.sendmail("joe@demo.posthaste.test", ["not an address"], content)
        raise SystemExit("a bad address was taken")
    except smtplib.SMTPRecipientsRefused:
        pass
    smtp.sendmail("", ["python2@world.test"], content)
PY
echo "netcat: a file, piped"
{
  printf 'EHLO nc\r\nMAIL FROM:<joe@demo.posthaste.test>\r\nRCPT TO:<nc@world.test>\r\nDATA\r\n'
  sed -e 's/^\./../' -e 's/$/\r/' "$D/mail"
  printf '.\r\nQUIT\r\n'
} | nc -N 127.0.0.1 "$SMTP_PORT" >"$D/out" || die "nc ended with $?"
grep -q '^250 2.0.0 queued as ' "$D/out" || die "netcat was told: $(cat "$D/out")"
grep -q '^221 ' "$D/out" || die "no answer to QUIT: $(cat "$D/out")"

everybody='curl2@world.test curl@world.test msmtp@world.test nc@world.test python2@world.test python@world.test swaks-unix@world.test swaks@world.test'
until_true 30 at_least 8 || die "arrived: $(arrived)"
until_true 10 queue_is_empty || die "left: $(control list)"
[ "$(arrived | sort | xargs)" = "$everybody" ] || die "arrived: $(arrived | sort | xargs)"
daemon_stop || die "the daemon ended with $?"

# smtp-sink writes LF, an empty line after each message, and the dots as they were before stuffing.
python3 - "$D/world/world" "$D/mail" <<'PY' || die "a body was altered"
import re, sys
dump, mail = (open(name, "rb").read() for name in sys.argv[1:3])
body = mail.split(b"\n\n", 1)[1]
messages = re.split(rb"(?m)^(?=X-Client-Addr: )", dump)[1:]
seen = 0
for message in messages:
    rcpt = re.search(rb"(?m)^X-Rcpt-Args: <([^@]*)@", message)[1]
    if rcpt.startswith(b"swaks"):
        continue
    # Two empty lines end two headers: smtp-sink's own stand directly before the message's.
    got = message.split(b"\n\n", 1)[1]
    if got != body + b"\n":
        sys.exit("%s got %r" % (rcpt, got))
    seen += 1
if seen != 5:
    sys.exit("%d bodies compared" % seen)
PY
echo "swaks, msmtp, curl, smtplib and netcat handed in 7 messages; 8 recipients got theirs, bodies unaltered"
