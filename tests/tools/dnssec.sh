# shellcheck shell=bash
# A validating resolver over zones of our own: ldns signs them, unbound reads and validates them. Source it after lib.sh.
#
# unbound fetches from its authority zones as from a name server (for-upstream), so what it answers has gone through its
# validator like anything from the network, and the AD bit, SERVFAIL and silence about insecure names are its own.

# zone NAME [signed]: records from standard input become $D/zones/NAME; DS records for a parent are in $D/zones/NAME.ds.
zone() {
  local name=$1 key
  mkdir -p "$D/zones"
  {
    printf '$ORIGIN %s.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 127.0.0.1\n' "$name"
    cat
  } >"$D/zones/$name"
  [ "${2:-}" = signed ] || return 0
  key=$(cd "$D/zones" && ldns-keygen -k -a ECDSAP256SHA256 "$name.") || die "ldns-keygen $name"
  (cd "$D/zones" && ldns-signzone -f "$name.signed" "$name" "$key" && mv "$name.signed" "$name") >"$D/out" 2>&1 ||
    die "ldns-signzone $name: $(cat "$D/out")"
  mv "$D/zones/$key.ds" "$D/zones/$name.ds"
}

# unbound_start ADDRESS:PORT ANCHOR: serves all zones made so far; the keys of ANCHOR, one of them, are believed.
unbound_start() {
  local name
  {
    cat <<CONF
server:
  directory: "$D"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  val-log-level: 2
  interface: ${1%:*}@${1##*:}
  access-control: 127.0.0.0/8 allow
  do-ip6: no
  num-threads: 1
  module-config: "validator iterator"
  trust-anchor-file: "$D/zones/$2.ds"
  local-zone: "test." nodefault
remote-control:
  control-enable: no
CONF
    for name in $(cd "$D/zones" && ls | grep -v '\.ds$\|^K'); do
      printf 'auth-zone:\n  name: "%s."\n  zonefile: "%s"\n  for-upstream: yes\n  for-downstream: no\n  fallback-enabled: no\n' \
        "$name" "$D/zones/$name"
    done
  } >"$D/unbound.conf"
  unbound -d -p -c "$D/unbound.conf" >"$D/unbound.log" 2>&1 &
  UNBOUND_PID=$!
  PIDS+=("$UNBOUND_PID")
  until_true 10 grep -q 'start of service' "$D/unbound.log" || die "unbound did not start: $(cat "$D/unbound.log")"
}
