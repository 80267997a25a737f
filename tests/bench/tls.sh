#!/usr/bin/env bash
# What TLS costs: processor time of posthasted per message, to one and the same receiver in clear, encrypted, verified by
# name and verified by DANE, with sessions kept and not kept. The row `tls` of run.sh (README.md says how to read it).
#
#   tests/bench/tls.sh      COUNT=3000 messages of 4 KiB, ROUNDS=3 of which the medians are taken, OUT=DIRECTORY
. "$(dirname "$0")/lib.sh"
. "$BENCH/../tools/ca.sh"
. "$BENCH/../tools/dnssec.sh"
bench_needs postfix smtp-source smtp-sink python3 openssl unbound ldns-keygen ldns-signzone
COUNT=${COUNT:-3000} ROUNDS=${ROUNDS:-3} OUT=${OUT:-$ROOT/target/bench}
mkdir -p "$OUT"
: >"$OUT/tls.tsv"
LEVELS=(plain encrypted verified dane)

# The receiver is Postfix's smtpd, for its STARTTLS, which keeps nothing but hands each message through to smtp-sink.
WORLD_PORT=$(free_port)
sink_open
authority_make
certificate "$D/mx" mx.verified.test
mx_port=$(free_port)
postfix_start "$D/postfix" "127.0.0.3:$mx_port" -- \
  "smtpd_tls_security_level = may" "smtpd_tls_chain_files = $D/mx-key.pem, $D/mx-chain.pem" \
  "smtpd_proxy_filter = 127.0.0.1:$WORLD_PORT" "relay_domains = static:all" "default_process_limit = 200"

# One domain for each level; the hosts are one.
for level in "${LEVELS[@]}"; do
  printf '%s MX 10 mx.%s\nmx.%s A 127.0.0.3\n' "$level" "$level" "$level"
  [ "$level" = dane ] && echo "_$mx_port._tcp.mx.dane TLSA 3 1 1 $(tlsa_key "$D/mx.pem")"
done | zone test signed
DNS_PORT=$(free_port)
unbound_start "127.0.0.1:$DNS_PORT" test
for kept in kept single; do
  per_session=100
  [ $kept = kept ] || per_session=1
  TRANSPORT=no posthaste_start $kept "$BIN/posthasted" \
    '[dns]' "servers = [\"127.0.0.1:$DNS_PORT\"]" \
    '[deliver]' "smtp_port = $mx_port" 'allow_private = true' 'family = "only4"' "session_messages = $per_session" \
    '[tls]' "ca_file = \"$D/ca.pem\"" \
    '[[tls_policy]]' 'domains = ["plain.test"]' 'level = "none"' \
    '[[tls_policy]]' 'domains = ["verified.test"]' 'level = "verify"'
done

# measure KEPT LEVEL COUNT: processor milliseconds per message, and messages a second.
measure() {
  local pid=${ROOT_PID[$1]} base c0 c1 t0 t2 got pss watch
  base=$(taken) c0=$(cpu "$pid")
  python3 "$BENCH/watch.py" "$D/sink.out" $((base + $3)) 300 "$pid" >"$D/watch" &
  watch=$!
  sleep 0.3
  t0=$(now)
  smtp-source -4 -d -s 20 -m "$3" -l 4096 -f joe@client.test -t "ann@$2.test" -M client.test "127.0.0.1:${PORT[$1]}" ||
    die "smtp-source ended with $?"
  wait "$watch"
  read -r t2 got pss <"$D/watch"
  sleep 1
  c1=$(cpu "$pid")
  [ "$(taken)" = $((base + $3)) ] || { cp "$D/$1/log" "$D/log"; die "$1 $2: $(($(taken) - base)) of $3"; }
  calc "($c1 - $c0) * 1000 / $3" 3
  echo " $(calc "$3 / ($t2 - $t0)" 0)"
}

for round in $(seq 0 "$ROUNDS"); do
  for kept in kept single; do
    for level in "${LEVELS[@]}"; do
      if [ "$round" = 0 ]; then
        measure $kept "$level" 100 >"$D/measured"
        # The log is the witness that it is what it is called.
        grep -q "deliver .*to=<ann@$level.test>.* tls=$level .*result=delivered" "$D/$kept/log" ||
          { cp "$D/$kept/log" "$D/log"; die "$level is not what it is called"; }
        continue
      fi
      measure $kept "$level" "$COUNT" >"$D/measured"
      read -r cost rate <"$D/measured"
      printf 'tls-%s\t%s\tcpu\t%s\t%s\n' "$kept" "$level" "$round" "$cost" >>"$OUT/tls.tsv"
      echo "  tls-$kept round $round $level: $cost ms CPU a message, $rate/s"
    done
  done
done
python3 - "$OUT/tls.tsv" <<'PYTHON'
import collections, statistics, sys

values = collections.defaultdict(list)
for line in open(sys.argv[1]):
    row, level, _metric, _round, value = line.split("\t")
    values[row, level].append(float(value))
print("| CPU ms a message | plain | encrypted | verified by name | verified by DANE |\n|---|---|---|---|---|")
for row, words in ("tls-kept", "sessions kept (100 messages)"), ("tls-single", "a session per message"):
    cells = []
    plain = statistics.median(values[row, "plain"])
    for level in "plain", "encrypted", "verified", "dane":
        value = statistics.median(values[row, level])
        cells.append("%.2f" % value if level == "plain" else "%.2f (%+.2f)" % (value, value - plain))
    print("| %s | %s |" % (words, " | ".join(cells)))
PYTHON
