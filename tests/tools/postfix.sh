# shellcheck shell=bash
# A Postfix of our own beside whatever the machine has: Debian's programs, own directory, own ports. Needs root.
# Source it after lib.sh.

# postfix_start DIR ADDRESS:PORT.. -- MAIN.CF-LINE..: an instance that takes mail at those addresses. What is in
# POSTFIX_MASTER are further lines of its master.cf.
postfix_start() {
  local dir=$1 listen
  shift
  [ "$(id -u)" = 0 ] || die "a Postfix of our own needs root"
  mkdir -p "$dir/etc" "$dir/spool" "$dir/data" "$dir/box"
  chown postfix "$dir/data"
  chown "$RUN_USER" "$dir/box"
  chmod 755 "$dir"
  {
    echo "maillog_file = $dir/log"
    echo "maillog_file_prefixes = $dir"
    cat <<CF
compatibility_level = 3.6
queue_directory = $dir/spool
data_directory = $dir/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
meta_directory = /etc/postfix
setgid_group = postdrop
mail_owner = postfix
inet_protocols = ipv4
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
local_recipient_maps =
alias_maps =
alias_database =
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_host_lookup = native
smtp_dns_support_level = disabled
smtp_tls_security_level = none
CF
  } >"$dir/etc/main.cf"
  : >"$dir/etc/master.cf"
  while [ "$1" != -- ]; do
    listen=$1
    echo "$listen inet n - n - - smtpd" >>"$dir/etc/master.cf"
    shift
  done
  shift
  printf '%s\n' "${POSTFIX_MASTER:-}" >>"$dir/etc/master.cf"
  [ $# -gt 0 ] && printf '%s\n' "$@" >>"$dir/etc/main.cf"
  # The services of Debian's master.cf that mail by SMTP needs, without chroot.
  cat >>"$dir/etc/master.cf" <<'CF'
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
CF
  # Not under the shell's job control, and away from our standard output: master is a daemon.
  postfix -c "$dir/etc" start >"$dir/start.out" 2>&1 </dev/null || die "Postfix did not start: $(cat "$dir/start.out")"
  # shellcheck disable=SC2064 # the directory of now
  trap "postfix_stop '$dir'; clean_up" EXIT
  # Now and then, on a busy machine, its postlogd is never started, and everything that logs waits for it: once more.
  if ! until_true 10 grep -q 'daemon started' "$dir/log"; then
    postfix_stop "$dir"
    postfix -c "$dir/etc" start >"$dir/start.out" 2>&1 </dev/null || die "Postfix did not start: $(cat "$dir/start.out")"
  fi
  until_true 10 port_open "${listen%:*}" "${listen##*:}" || die "Postfix does not listen: $(cat "$dir/log" "$dir/start.out")"
}

postfix_stop() { postfix -c "$1/etc" stop >/dev/null 2>&1; }

# postfix_queue DIR: how many messages it has.
postfix_queue() { find "$1/spool/incoming" "$1/spool/active" "$1/spool/deferred" -type f 2>/dev/null | wc -l; }
