#!/usr/bin/env bash
# Installs by apt-get what building, `make demo` and `make check` need and this Debian machine lacks.
#
# Without root it says what to install. It never replaces a mail server: Debian allows one at a time, and Postfix is
# wanted here only for its smtp-source and smtp-sink and for private instances on loopback ports, so it is installed
# without a configuration of its own and is not started.
set -eu

lacking=()
# want PACKAGE COMMAND: the package is lacking when the command is.
want() { command -v "$2" >/dev/null 2>&1 || [ -x "/usr/sbin/$2" ] || lacking+=("$1"); }

want gcc gcc
want libc6-dev ldd
[ -e /usr/include/stdio.h ] || lacking+=(libc6-dev)
want pkg-config pkg-config
pkg-config --exists openssl 2>/dev/null || lacking+=(libssl-dev)
want sqlite3 sqlite3
want openssl openssl
want python3 python3
want curl curl
want jq jq
want swaks swaks
# swaks only recommends what it needs for TLS.
perl -MNet::SSLeay -e 1 2>/dev/null || lacking+=(libnet-ssleay-perl)
want msmtp msmtp
# A relay with AUTH, and a proxy before it: tests/peers/relay.sh.
want sasl2-bin saslpasswd2
[ -e "$(echo /usr/lib/*/sasl2/libscram.so)" ] || lacking+=(libsasl2-modules)
want dovecot-core dovecot
want microsocks microsocks
[ -e "$(echo /usr/lib/*/libgsasl.so.18)" ] || lacking+=(libgsasl18)
want mandoc mandoc
want procps ps
# A validating resolver and a signed zone: tests/peers/dane.sh and danefront.sh.
want unbound unbound
want ldnsutils ldns-signzone
want iproute2 ip
# Faults under the queue: tests/faults.
want strace strace
want e2fsprogs mkfs.ext4
want btrfs-progs mkfs.btrfs
[ -e "$(echo /usr/lib/*/faketime/libfaketime.so.1)" ] || lacking+=(libfaketime)
# Who judges our signatures, and a mail store: tests/peers/dkim.sh and lmtp.sh.
want opendkim-tools opendkim-testmsg
want python3-dkim dkimverify
[ -e /usr/lib/python3/dist-packages/nacl ] || lacking+=(python3-nacl)
[ -x /usr/lib/dovecot/lmtp ] || lacking+=(dovecot-lmtpd)
want postfix smtp-sink
# `nc -U` and `nc -N` are those of the OpenBSD netcat.
{ nc -h 2>&1 | grep -q -- '-U'; } || lacking+=(netcat-openbsd)

if ! command -v cargo >/dev/null 2>&1; then
  echo "deps: no cargo. Install a Rust toolchain (README.md says which) and come back." >&2
  exit 1
fi
[ ${#lacking[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "deps: lacking ${lacking[*]} (Debian's names); this machine has no apt-get, so install them by hand." >&2
  exit 1
fi
for package in "${lacking[@]}"; do
  [ "$package" = postfix ] || continue
  # dpkg-query prints the other packages that provide a mail server, if any is installed.
  other=$(dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\n' 2>/dev/null |
    awk '$1 == "installed" && / mail-transport-agent/ && $2 != "postfix" { print $2 }')
  if [ -n "$other" ]; then
    echo "deps: $other is this machine's mail server; installing Postfix for smtp-sink would remove it." >&2
    echo "deps: use another machine or a container for make demo, make check and make bench." >&2
    exit 1
  fi
done
if [ "$(id -u)" != 0 ]; then
  echo "deps: not root; please run: apt-get install --no-install-recommends ${lacking[*]}" >&2
  exit 1
fi

echo "deps: installing ${lacking[*]}"
export DEBIAN_FRONTEND=noninteractive
# No package's service is started while we install (and a policy that the machine has is respected).
if [ ! -e /usr/sbin/policy-rc.d ]; then
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
fi
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections 2>/dev/null || true
log=$(mktemp)
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${lacking[@]}"; } >"$log" 2>&1 </dev/null; then
  cat "$log" >&2
  exit 1
fi
rm -f "$log"
