#!/usr/bin/env bash
# GNU SASL as the server's side of AUTH: SCRAM bound to the TLS session, by tls-unique in TLS 1.2 and by tls-exporter in 1.3.
# Rules: RO-7, RO-8
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
need python3 openssl swaks nc
python3 -c 'import ctypes; ctypes.CDLL("libgsasl.so.18")' 2>/dev/null || {
  [ "${CI:-}" = true ] && die "libgsasl18 is not installed, and on CI it has to be"
  echo "skipped: libgsasl18 is not installed (make deps)"
  exit 77
}

WORLD_PORT=$(free_port)
dns_start 'smart.test A 127.0.0.3'
authority_make
certificate "$D/mx" smart.test
config
cp "$D/posthaste.toml" "$D/before.toml"

# relay PORT [LINE..]: the only transport. User and password are not as they are written to the server, and the same by
# SASLprep.
relay() {
  relay_only "ca_file = \"$D/ca.pem\"" "hosts = [\"smart.test:$1\"]" 'user = "we=,"' 'password = "o\u0308pen  sésame"' "${@:2}"
}
sent=0
# goes PORT VERSION MECHANISM BINDING [LINE..]
goes() {
  relay "$1" "${@:5}"
  sent=$((sent + 1))
  quietly swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to "m$sent@gsasl.test"
  attempt "m$sent@gsasl.test" tls=verified result=delivered
  [ "$(tail -n 1 "$D/gsasl.$1")" = "$2 $3 $4" ] || die "wanted $2 $3 $4, and it was $(tail -n 1 "$D/gsasl.$1")"
}
serve() {
  local port=$1
  python3 "$(dirname "$0")/gsasl.py" "$port" "$D/mx-chain.pem" "$D/mx-key.pem" "$2" "we=," "$3" \
    PLAIN SCRAM-SHA-1 SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-256-PLUS >"$D/gsasl.$port" 2>"$D/gsasl.err" &
  PIDS+=($!)
  until_true 10 port_open 127.0.0.3 "$port" || die "the server did not start: $(cat "$D/gsasl.err")"
}
old=$(free_port) new=$(free_port) wrong=$(free_port)
serve "$old" 1.2 "öpen  sésame"
serve "$new" 1.3 "öpen  sésame"
serve "$wrong" 1.3 "something else"
relay "$new"
daemon_start
goes "$new" TLSv1.3 SCRAM-SHA-256-PLUS tls-exporter
goes "$old" TLSv1.2 SCRAM-SHA-256-PLUS tls-unique
goes "$new" TLSv1.3 SCRAM-SHA-1-PLUS tls-exporter 'mechanisms = ["SCRAM-SHA-1-PLUS"]' 'helo = "b.test"'
goes "$old" TLSv1.2 SCRAM-SHA-1-PLUS tls-unique 'mechanisms = ["SCRAM-SHA-1-PLUS"]' 'helo = "b.test"'
goes "$new" TLSv1.3 SCRAM-SHA-256 unbound 'mechanisms = ["SCRAM-SHA-256"]' 'helo = "c.test"'
relay "$wrong"
quietly swaks --server "127.0.0.1:$SMTP_PORT" --from joe@demo.posthaste.test --to wrong@gsasl.test
until_true 10 grep -q 'transport-broken transport=out .*535 5.7.8' "$D/log" || die "a wrong password: $(tail -n 3 "$D/log")"
daemon_stop || die "the daemon ended with $?"
echo "GNU SASL: $sent messages, SCRAM bound by tls-exporter and by tls-unique, and a wrong password"
