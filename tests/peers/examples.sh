#!/usr/bin/env bash
# The examples of the manual and of the README, pasted by a new user: installed as the README says, started with the sample
# as shipped, every command run as it stands, every configuration checked. In namespaces of our own, with an /etc, a
# /usr/local and a /var of their own: this machine is not touched.
# Rules: CFG-4, CTL-1
if [ -z "${EXAMPLES_NAMESPACE:-}" ]; then
  if [ "$(id -u)" != 0 ] || ! unshare --mount --net --uts true 2>/dev/null; then
    echo "skipped: no namespaces of our own here"
    exit 77
  fi
  EXAMPLES_NAMESPACE=1 exec unshare --mount --net --uts --propagation private bash "$0" "$@"
fi
. "$(dirname "$0")/../tools/lib.sh"
. "$(dirname "$0")/../tools/ca.sh"
need python3 nc jq ip make openssl smtp-source useradd hostname
MAN=$ROOT/man

# blocks FILE SECTION NAME: the examples, into $D/NAME.1, $D/NAME.2 and so on.
blocks() {
  python3 "$ROOT/tests/tools/examples.py" "$1" "$2" >"$D/blocks" || die "examples of $1"
  awk -v "to=$D/$3." '/^--$/ { n++; next } { print > (to n + 1) }' "$D/blocks"
}
blocks "$ROOT/README.md" Install install
blocks "$ROOT/README.md" "First configuration" first
blocks "$ROOT/README.md" "Every day" daily
blocks "$MAN/posthaste.8" EXAMPLES tool
blocks "$MAN/posthasted.8" EXAMPLES daemon
blocks "$MAN/posthaste.toml.5" EXAMPLES toml
blocks "$MAN/posthaste-control.5" EXAMPLES control

ip link set lo up && ip address add 10.1.0.5/32 dev lo || die "no loopback"
hostname web1.example.org
cp -a /etc "$D/etc" && rm -rf "$D/etc/posthaste" "$D/etc/resolv.conf" && echo 'nameserver 127.0.0.1' >"$D/etc/resolv.conf"
sed -i '/^posthaste:/d' "$D/etc/passwd" "$D/etc/group" "$D/etc/shadow"
mount --bind "$D/etc" /etc || die "no /etc of our own"
for directory in /usr/local /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs "$directory" || die "no $directory of our own"; done
hash -r
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

echo "Installed as the README says, but for what is built already"
cat >"$D/sudo" <<SUDO
[ "\$1 \$2" = "make install" ] && set -- make -s -C "$ROOT" install-bin SENDMAIL=yes CARGO=true
exec "\$@"
SUDO
install -D -m 755 "$D/sudo" /usr/local/bin/sudo
grep -v '^make$' "$D/install.1" >"$D/install" && bash -e "$D/install" >"$D/out" 2>&1 || die "$(cat "$D/out")"

# commands FILE: one by one, with what continues a line.
commands() { sed -e ':a' -e '/[|\\]$/{N;s/\\\?\n */ /;ba' -e '}' "$1"; }
# paste FILE..: runs every command. 0, or 1 where nothing matched; no answer of the daemon but OK.
paste_all() {
  local file status
  for file; do
    while read -r command; do
      [ -n "$command" ] || continue
      # Between its commands this one says: name it in the configuration.
      [[ $command != *"dkim dns"* ]] || printf '\n[[dkim]]\ndomain = "here.example"\nselector = "mail2026"\nkey = "%s"\n' \
        /etc/posthaste/dkim/mail2026.key >>/etc/posthaste/posthaste.toml
      (cd "$D" && timeout 20 bash -c "$command") >"$D/out" 2>&1 </dev/null
      status=$?
      case "$status $command" in
        "0 "*) ;;
        # The queue has nothing like it, which is an answer.
        "1 posthaste "*"text="* | "1 posthaste "*older=* | "1 posthaste "*state=held*) ;;
        *) die "$status from: $command: $(cat "$D/out")" ;;
      esac
      ! grep -q '^ERR' "$D/out" || die "$command: $(cat "$D/out")"
      pasted=$((pasted + 1))
      echo "  $command"
    done < <(commands "$file")
  done
}
pasted=0 LOG_TAIL=5

echo "The daemon, with the sample as shipped"
paste_all "$D/daemon.1"
until_true 10 test -S /run/posthaste/control || die "it does not run"
trap 'kill "$(cat /run/posthaste/pid)"; clean_up' EXIT

echo "Another file for the log, a reload, a message by netcat"
install -d -o posthaste -g posthaste /var/log/posthaste
sed -i 's|^\[log\]$|&\nto = "/var/log/posthaste/posthaste.log"|' /etc/posthaste/posthaste.toml
paste_all "$D/daemon.3"
until_true 10 grep -q ' reloaded ' /var/log/posthaste/posthaste.log || die "no reload"
paste_all "$D/daemon.5"
grep -q '^250 2.0.0 queued as 1' "$D/out" || die "not queued: $(cat "$D/out")"

echo "Message 42, and what one asks about it every day"
smtp-source -s 1 -m 40 -f app@shop.example -t bob@example.org 127.0.0.1:25 || die "smtp-source"
smtp-source -s 1 -m 1 -r 3 -f app@shop.example -t bob@example.org 127.0.0.1:25 || die "smtp-source"
posthaste show id=42 >"$D/out" && grep -q 'recipients=3' "$D/out" || die "no message 42: $(cat "$D/out")"
paste_all "$D/daemon.4"
grep -v 'posthaste reload\|posthaste shutdown' "$D/daily.1" >"$D/daily"
paste_all "$D/daily" "$D/daily.2"

echo "posthaste(8), with a daemon under etc/demo.toml beside it"
WORLD_PORT=$(free_port)
config
cp "$D/posthaste.toml" "$D/etc/demo.toml"
daemon_start
sed -i 's|42/3|42/2|' "$D"/tool.*
paste_all "$D"/tool.*
[ "$(queued)" = 1 ] || die "the other daemon has $(queued)"
daemon_stop || die "the daemon ended with $?"

echo "posthaste-control(5)"
for file in "$D"/control.*; do
  # The answer that one of them gets is no command.
  grep -q '^id=42 ' "$file" && continue
  paste_all "$file"
  grep -q '^OK' "$D/out" || grep -q jq "$file" || die "no answer: $(cat "$D/out")"
done

echo "posthaste.toml(5) and the README: every configuration is one"
authority_make
certificate "$D/out.example" out.example.org
install -m 644 "$D/out.example-chain.pem" /etc/posthaste/out.example.org.pem
install -m 600 "$D/out.example-key.pem" /etc/posthaste/out.example.org.key
echo secret | install -m 600 -o posthaste /dev/stdin /etc/posthaste/relay.password
checked=0
# The one that makes a password comes before those that name it.
file=$(grep -L '^hostname' "$D"/toml.*)
[ "$(wc -w <<<"$file")" = 1 ] && echo secret | bash "$file" || die "no password: $file"
for file in $(grep -l '^hostname' "$D"/toml.* "$D"/first.*); do
  checked=$((checked + 1))
  posthasted -n -f "$file" >"$D/out" 2>&1 || die "$(cat "$file"): $(cat "$D/out")"
done

echo "The trial without root, in the foreground"
install -d -m 1777 "$D/tmp"
sed "s|/tmp/trial|$D/tmp/trial|" "$(grep -l trial.example.test "$D"/toml.*)" >"$D/posthaste.toml"
: >"$D/log"
(cd "$D" && exec setpriv --reuid nobody --regid nogroup --clear-groups bash -c "$(cat "$D/daemon.2")") >"$D/log" 2>&1 &
DAEMON_PID=$!
PIDS+=("$DAEMON_PID")
until_true 10 grep -q ' start version=' "$D/log" || die "it does not start"
printf 'EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n\r\n.\r\nQUIT\r\n' | nc -N 127.0.0.1 2525 >"$D/out"
grep -q 'queued as 1' "$D/out" || die "not queued: $(cat "$D/out")"
kill "$DAEMON_PID" && wait "$DAEMON_PID" || die "it ended with $?"

grep 'posthaste reload\|posthaste shutdown' "$D/daily.1" >"$D/daily"
pid=$(cat /run/posthaste/pid)
trap clean_up EXIT
paste_all "$D/daily"
until_true 30 eval '! kill -0 "$pid" 2>/dev/null' || die "it does not stop"
[ ! -e /run/posthaste/pid ] || die "the pid file is left"
echo "$pasted commands pasted, $checked configurations checked"
