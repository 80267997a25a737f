#!/usr/bin/env bash
# TLS on our own listeners against programs that we did not write: what they may speak, what is refused, a reload under
# a session, a Postfix that verifies us, and a REQUIRETLS message to its end.
# Rules: CFG-5, CFG-8, DSN-15, IN-1, IN-10, IN-30, IN-31, IN-32, SEC-8, SEC-10, TLS-12
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/postfix.sh"
need openssl swaks msmtp curl python3 nc smtp-sink

WORLD_PORT=$(free_port)
dns_start 'world.test MX 10 mx.world.test' 'demo.posthaste.test MX 10 mx.world.test' 'mx.world.test A 127.0.0.2'
sink_start world 127.0.0.2
config
STARTTLS_PORT=$(free_port)
while IMPLICIT_PORT=$(free_port); do [ "$IMPLICIT_PORT" != "$STARTTLS_PORT" ] && break; done

quietly() { "$@" >"$D/out" 2>&1 || die "$*: $(tail -n 5 "$D/out")"; }
# issue: a new certificate of our authority for localhost. The key is the account's, so that a reload can read it.
issue() {
  quietly openssl req -newkey rsa:2048 -nodes -subj /CN=front -keyout "$D/new.key" -out "$D/new.csr"
  quietly openssl x509 -req -in "$D/new.csr" -CA "$D/ca.pem" -CAkey "$D/ca.key" -days 2 -out "$D/new.pem" \
    -extfile <(echo 'subjectAltName = DNS:localhost, IP:127.0.0.1')
  chmod 600 "$D/new.key"
  chown "$RUN_USER" "$D/new.key"
  mv "$D/new.key" "$D/front.key"
  mv "$D/new.pem" "$D/front.pem"
}
quietly openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=private authority' -keyout "$D/ca.key" -out "$D/ca.pem"
issue
for listen in "starttls $STARTTLS_PORT" "implicit $IMPLICIT_PORT"; do
  set -- $listen
  printf '\n[[listen]]\nname = "%s"\naddress = "127.0.0.1:%s"\ntls = "%s"\ncert = "%s"\nkey = "%s"\n' \
    "$1" "$2" "$1" "$D/front.pem" "$D/front.key" >>"$D/posthaste.toml"
done

echo "A key that others may read stops the check and the start with 78"
chmod 640 "$D/front.key"
for option in -n -F; do
  timeout 10 "$BIN/posthasted" $option -f "$D/posthaste.toml" >"$D/out" 2>&1
  [ $? = 78 ] || die "$option took a key with mode 0640: $(cat "$D/out")"
  tail -n 1 "$D/out" | grep -q "$D/front.key: group or others may read" || die "$option said: $(cat "$D/out")"
done
chmod 600 "$D/front.key"
daemon_start
grep -q ' certificate listen=implicit file=' "$D/log" || die "no line for the certificate"

# tls HOW OPTION..: openssl s_client at the listener HOW; QUIT is said inside.
tls() {
  local how=$1 at=(-connect "localhost:$IMPLICIT_PORT")
  shift
  [ "$how" = starttls ] && at=(-connect "localhost:$STARTTLS_PORT" -starttls smtp)
  { sleep "${PAUSE:-0}"; printf 'QUIT\r\n'; } | timeout 10 openssl s_client "${at[@]}" -CAfile "$D/ca.pem" -verify_hostname localhost "$@" >"$D/out" 2>&1
}
for how in starttls implicit; do
  echo "$how: openssl s_client, TLS 1.2 and 1.3 and nothing older, without tickets"
  for version in 1_2 1_3; do
    # Tickets of TLS 1.3 would come after the handshake.
    PAUSE=0.5 tls $how -tls$version -msg || die "TLS $version: $(tail -n 3 "$D/out")"
    grep -q 'Verify return code: 0 (ok)' "$D/out" || die "TLS $version: not verified: $(grep Verif "$D/out")"
    grep -q "TLSv${version/_/.}, Cipher is " "$D/out" || die "TLS $version: $(grep Cipher "$D/out")"
    ! grep -qi 'NewSessionTicket\|session ticket:' "$D/out" || die "TLS $version: a ticket"
  done
  for version in 1 1_1; do
    tls $how -tls$version -cipher 'ALL:@SECLEVEL=0'
    grep -q 'alert protocol version' "$D/out" || die "TLS $version was not refused: $(tail -n 3 "$D/out")"
  done
done
echo "no resumption, no renegotiation"
timeout 20 openssl s_client -connect "localhost:$IMPLICIT_PORT" -tls1_2 -reconnect </dev/null >"$D/out" 2>&1
grep -q '^New, TLSv1.2' "$D/out" || die "s_client -reconnect: $(cat "$D/out")"
! grep -q '^Reused' "$D/out" || die "a session was resumed"
{ sleep 1; echo R; sleep 1; } | timeout 10 openssl s_client -connect "localhost:$IMPLICIT_PORT" -tls1_2 >"$D/out" 2>&1
grep -q RENEGOTIATING "$D/out" && grep -q 'no renegotiation' "$D/out" || die "renegotiation: $(tail -n 4 "$D/out")"

echo "every cipher of TLS 1.2 that this openssl has, one by one"
tried=0 taken=()
for cipher in $(openssl ciphers -s -tls1_2 'ALL:COMPLEMENTOFALL:@SECLEVEL=0' | tr : ' '); do
  tried=$((tried + 1))
  if tls implicit -tls1_2 -cipher "$cipher:@SECLEVEL=0" && grep -q "Cipher is $cipher" "$D/out"; then taken+=("$cipher"); fi
done
printf '%s\n' "${taken[@]}" | grep -vE '^(ECDHE|DHE)-RSA-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)$' >"$D/weak" &&
  die "weak ciphers are spoken: $(xargs <"$D/weak")"
[ ${#taken[@]} -ge 4 ] || die "only ${taken[*]}"

echo "what this openssl cannot even offer: SSL, RC4, 3DES, export, NULL; compression; close_notify"
for listen in "$IMPLICIT_PORT implicit" "$STARTTLS_PORT starttls"; do
  # shellcheck disable=SC2086 # two words
  python3 "$(dirname "$0")/hello.py" 127.0.0.1 $listen >"$D/hello" 2>&1 || die "$(tail -n 5 "$D/hello")"
  cat "$D/hello"
done

echo "swaks, msmtp with GnuTLS, curl and Python, with STARTTLS and implicit"
from=joe@demo.posthaste.test
quietly swaks --server localhost --port "$STARTTLS_PORT" -tls --tls-verify --tls-ca-path "$D/ca.pem" --from $from --to swaks@world.test
quietly swaks --server localhost --port "$IMPLICIT_PORT" -tlsc --tls-verify --tls-ca-path "$D/ca.pem" --from $from --to swaks-implicit@world.test
printf 'From: <joe@demo.posthaste.test>\nSubject: x\n\nbody\n' >"$D/mail"
for how in on off; do
  port=$STARTTLS_PORT
  [ $how = on ] || port=$IMPLICIT_PORT
  msmtp --file=/dev/null --host=localhost --port="$port" --tls=on --tls-starttls=$how --tls-trust-file="$D/ca.pem" --auth=off \
    --from=$from "msmtp-$how@world.test" <"$D/mail" >"$D/out" 2>&1 || die "msmtp, STARTTLS $how: $(cat "$D/out")"
done
sed 's/$/\r/' "$D/mail" >"$D/mail.crlf"
quietly curl -sS --ssl-reqd --cacert "$D/ca.pem" --url "smtp://localhost:$STARTTLS_PORT/c.test" --mail-from $from \
  --mail-rcpt curl@world.test --upload-file "$D/mail.crlf"
quietly curl -sS --cacert "$D/ca.pem" --url "smtps://localhost:$IMPLICIT_PORT/c.test" --mail-from $from \
  --mail-rcpt curl-implicit@world.test --upload-file "$D/mail.crlf"
grep -q 'queued .* proto=ESMTPS tls=TLSv1.3/TLS_' "$D/log" || die "no TLS in the log: $(grep ' queued ' "$D/log")"

echo "Python: a session goes on over a reload, the next one sees the new certificate, a faulty one changes nothing"
cat >"$D/session.py" <<'PY'
import smtplib, socket, ssl, subprocess, sys
port, directory = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=directory + "/ca.pem")

def control(line):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(directory + "/run/control")
        s.sendall(line.encode() + b"\nquit\n")
        return b"".join(iter(lambda: s.recv(4096), b"")).decode()

def session():
    smtp = smtplib.SMTP("localhost", port, timeout=30)
    smtp.starttls(context=context)
    smtp.ehlo()
    return smtp, smtp.sock.getpeercert()["serialNumber"]

first, old = session()
assert session()[1] == old
open(sys.argv[3], "w").close()
for line in sys.stdin:
    step = line.strip()
    if step == "renewed":
        answer = control("reload")
        assert "changed=listen.cert" in answer, answer
        assert session()[1] != old, "the old certificate is shown"
        new = session()[1]
    elif step == "faulty":
        answer = control("reload")
        assert "ERR" in answer and "front.pem" in answer, answer
        assert session()[1] == new
    open(sys.argv[3], "w").close()
first.sendmail("joe@demo.posthaste.test", ["python@world.test"], "Subject: x\r\n\r\nbody\r\n")
first.quit()
plain = smtplib.SMTP("localhost", port, timeout=30)
plain.ehlo()
assert not plain.has_extn("requiretls") and plain.has_extn("starttls")
assert plain.mail("joe@demo.posthaste.test", ["REQUIRETLS"])[0] == 530
inside, _ = session()
assert inside.has_extn("requiretls") and not inside.has_extn("starttls")
inside.sendmail("joe@demo.posthaste.test", ["secret@world.test"], "Subject: confidential\r\n\r\nsecret body\r\n",
                mail_options=["REQUIRETLS", "RET=FULL"])
PY
mkfifo "$D/steps"
python3 "$D/session.py" "$STARTTLS_PORT" "$D" "$D/step.done" <"$D/steps" >"$D/python" 2>&1 &
python=$!
PIDS+=("$python")
exec 7>"$D/steps"
done_step() { until_true 20 test -e "$D/step.done" || die "Python: $(cat "$D/python")"; rm "$D/step.done"; }
done_step
issue
echo renewed >&7
done_step
mv "$D/front.pem" "$D/good.pem"
echo rubbish >"$D/front.pem"
echo faulty >&7
done_step
mv "$D/good.pem" "$D/front.pem"
exec 7>&-
wait "$python" || die "Python: $(cat "$D/python")"

echo "REQUIRETLS: the host proves nothing, so nothing is sent, and the notice has nothing of the original"
until_true 20 grep -q 'deliver .*to=<secret@world.test>.*status=5.7.30.*result=failed' "$D/log" || die "$(grep secret "$D/log")"
until_true 30 eval 'arrived | grep -q "^joe@demo.posthaste.test$"' || die "no notice: $(grep notice "$D/log")"
grep -q 'notice .*text="without the original' "$D/log" || die "$(grep notice "$D/log")"
! grep -rqi 'confidential\|secret body' "$D/world" || die "parts of a REQUIRETLS message are in the world"

echo "other protocols, and plain SMTP, at the implicit port"
for words in 'GET / HTTP/1.1\r\nHost: x\r\n\r\n' 'EHLO x\r\nMAIL FROM:<joe@demo.posthaste.test>\r\n'; do
  # shellcheck disable=SC2059
  printf "$words" | timeout 10 nc -N 127.0.0.1 "$IMPLICIT_PORT" >"$D/out"
  ! grep -aq '^[25][0-9][0-9]' "$D/out" || die "it was answered: $(cat "$D/out")"
done
until_true 5 grep -q ' rejected client=127.0.0.1 listen=implicit .*text="TLS: http request"' "$D/log" || die "no line for the handshake"
printf 'EHLO x\r\nSTARTTLS\r\nMAIL FROM:<evil@world.test>\r\n' | nc -N 127.0.0.1 "$STARTTLS_PORT" >"$D/out"
grep -q '^554 5.5.1' "$D/out" && ! grep -q '^250 2.1.0' "$D/out" || die "an injected command: $(cat "$D/out")"

everybody='curl-implicit@world.test curl@world.test joe@demo.posthaste.test msmtp-off@world.test msmtp-on@world.test python@world.test'
everybody+=' swaks-implicit@world.test swaks@world.test'
until_true 30 queue_is_empty || die "left: $(control list)"
[ "$(arrived | sort | xargs)" = "$everybody" ] || die "arrived: $(arrived | sort | xargs)"

if [ "$(id -u)" = 0 ] && command -v postfix >/dev/null; then
  echo "Postfix, smtp_tls_security_level = verify"
  postfix_port=$(free_port)
  postfix_start "$D/postfix" "127.0.0.1:$postfix_port" -- "inet_interfaces = 127.0.0.1" \
    "relayhost = [localhost]:$STARTTLS_PORT" "smtp_tls_security_level = verify" "smtp_tls_CAfile = $D/ca.pem" "smtp_tls_loglevel = 1"
  smtp-source -4 -N -s 2 -m 20 -f $from -t postfix@world.test -M client.test "127.0.0.1:$postfix_port" || die "smtp-source ended with $?"
  until_true 60 eval '[ "$(arrived | grep -c "postfix@world.test$")" = 20 ]' || die "$(tail -n 5 "$D/postfix/log")"
  grep -q "Verified TLS connection established to localhost\[127.0.0.1\]:$STARTTLS_PORT: TLSv1.3" "$D/postfix/log" ||
    die "not verified: $(grep TLS "$D/postfix/log" | head -n 3)"
  verified=', 20 messages of a Postfix that verifies'
fi
[ "$(grep -c BEGIN "$D/log")" = 0 ] || die "something of a key is in the log"
daemon_stop || die "the daemon ended with $?"
echo "TLS 1.2 and 1.3 with ${#taken[@]} of $tried ciphers of 1.2, 7 clients${verified:-}"
