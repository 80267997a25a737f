#!/usr/bin/env bash
# `make demo`: mail through a real queue to real receivers, on loopback, to watch. Exit 0 only if every message arrived
# exactly once. Rules shown here: Q-1, Q-13, RT-1, CTL-1, IN-2, IN-20, DV-1, X-2
. "$(dirname "$0")/../tools/lib.sh"
need nc swaks smtp-sink sqlite3

if [ -t 1 ]; then BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' PLAIN=$'\e[0m'; else BOLD='' DIM='' GREEN='' PLAIN=''; fi
step=0
say() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$BOLD" "$step" "$*" "$PLAIN"; }
note() { printf '   %s\n' "$*"; }
# shown COMMAND-TEXT: how one would type it; what follows on standard input is its output, indented.
typed() { printf '   %s$ %s%s\n' "$DIM" "$*" "$PLAIN"; }
indent() { sed -e 's/\r$//' -e 's/^/     /'; }

printf '%sposthaste: a demonstration%s\n' "$BOLD" "$PLAIN"
note "Everything is on loopback and in $D; nothing of it stays."

say "A world: names, and two receivers"
WORLD_PORT=$(free_port)
dns_start \
  'blue.test MX 10 mx.blue.test' 'mx.blue.test A 127.0.0.2' \
  'green.test MX 10 mx.green.test' 'mx.green.test A 127.0.0.3'
sink_start blue 127.0.0.2
sink_start green 127.0.0.3 -r RCPT -b '450 4.2.1 Mailbox busy, come back later'
green_refusing=$SINK_PID
note "blue.test   mx.blue.test  [127.0.0.2]:$WORLD_PORT  takes mail (smtp-sink, from Postfix)"
note "green.test  mx.green.test [127.0.0.3]:$WORLD_PORT  refuses every recipient for now, with a 450"

say "The daemon"
config
typed "posthasted -F -f posthaste.toml &"
daemon_start
note "listens on 127.0.0.1:$SMTP_PORT; its queue is one SQLite file:"
ls -l "$D/queue" | sed 1d | indent

say "Mail by netcat: a text file, piped"
cat >"$D/mail.smtp" <<'MAIL'
EHLO netcat
MAIL FROM:<joe@demo.posthaste.test>
RCPT TO:<ann@blue.test>
DATA
From: Joe <joe@demo.posthaste.test>
To: Ann <ann@blue.test>
Subject: by netcat

Two lines and
..one that begins with a dot.
.
QUIT
MAIL
typed "nc -N 127.0.0.1 $SMTP_PORT < mail.smtp"
sed 's/$/\r/' "$D/mail.smtp" | nc -N 127.0.0.1 "$SMTP_PORT" | indent

say "Mail by swaks, to a receiver that takes it and to one that does not yet"
typed "swaks --server 127.0.0.1:$SMTP_PORT --from joe@demo.posthaste.test --to bob@blue.test,carol@green.test"
swaks --server "127.0.0.1:$SMTP_PORT" --helo swaks --from joe@demo.posthaste.test --to bob@blue.test,carol@green.test \
  --header 'Subject: by swaks' --body 'One message, two recipients.' >"$D/swaks.out" 2>&1 || die "swaks: $(cat "$D/swaks.out")"
grep -E '^<.*(250 2.1.[05]|queued as)' "$D/swaks.out" | indent

say "Mail by the name that programs use"
note "(a link named sendmail reads /etc/posthaste; here the configuration of this run is named instead)"
typed "printf '..' | posthaste -f posthaste.toml sendmail -i -f joe@demo.posthaste.test dave@green.test"
printf 'From: joe@demo.posthaste.test\nTo: dave@green.test\nSubject: by sendmail\n\nLine ends are made right.\n' |
  as_sendmail sendmail -i -f joe@demo.posthaste.test dave@green.test || die "sendmail ended with $?"
note "exit status 0: it is in the queue"

say "What is in the queue, and why: the control socket, by netcat"
until_true 15 at_least 2 || die "blue.test did not get its mail"
# Both attempts at green.test have been made once their replies are in the listing.
until_true 15 eval '[ "$(control list | grep -c "450 4.2.1")" = 2 ]' || die "no reply of green.test in the queue"
typed "printf 'list\\nquit\\n' | nc -U control"
control list | indent

say "The receiver comes to its senses; the mail is tried again by itself"
stop "$green_refusing"
sink_start green 127.0.0.3
note "mx.green.test now accepts. The next attempts are due within seconds (minutes, outside of a demo)."
until_true 60 queue_is_empty || die "the queue is not empty"
typed "printf 'count\\nquit\\n' | nc -U control"
control count | indent

say "What happened to carol's mail, from the log"
grep 'to=<carol@green.test>' "$D/log" | cut -c1-400 | fold -s -w 110 | indent

say "Stop in order, and count"
daemon_stop || die "the daemon ended with $?"
note "exit status 0"
note "who got mail, out of the receivers' own files:"
arrived | sort | uniq -c | indent
for rcpt in ann@blue.test bob@blue.test carol@green.test dave@green.test; do
  [ "$(arrived | grep -c -x "$rcpt")" = 1 ] || die "$rcpt did not get exactly one message"
done
each_once 4 || die "not each message arrived once"
grep -q '^\.one that begins with a dot' "$D/world/blue" || die "the dot line was altered"
printf '\n%severy message arrived exactly once.%s\n' "$GREEN" "$PLAIN"
note "make run starts the same daemon for you to play with."
