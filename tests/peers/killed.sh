#!/usr/bin/env bash
# Killed at random moments, start and recovery included, while clients hand in mail: nothing that was acknowledged is
# lost, and whatever comes twice was named before. Once through a relay, with so few connections that messages go out on the
# heels of others, and once straight to 48 domains that share a host which lets few connections in, so that groups, learned
# windows and what is given back are killed too.
# ROUNDS=200 SEED=7 for a longer one, half of it with domains; MODES=domains for that part alone.
# Rules: Q-1, Q-3, Q-4, Q-8, Q-12, Q-14, Q-16, PRC-6, SC-4, SC-6, RT-7
. "$(dirname "$0")/../tools/lib.sh"
need python3 sqlite3

WORLD_PORT=$(free_port)
ROUNDS=${ROUNDS:-30}
DOMAINS=48
names=('mx.world.test A 127.0.0.1')
for n in $(seq 0 $((DOMAINS - 1))); do names+=("d$n.world.test MX 10 mx.world.test"); done
dns_start "${names[@]}"
# One interval that is longer than a round, or nothing would wait for the next start.
config 's/^intervals = .*/intervals = ["1s"]/' 's/^pid_file/shutdown_grace = "5s"\npid_file/' \
  's/^min_free = .*/min_free = "16MiB"\npoison_limit = 1000/'
cp "$D/posthaste.toml" "$D/before.toml"

# play NAME ROUNDS DOMAINS: with 0 domains all goes to one relay.
play() {
  rm -rf "$D/queue"
  install -d -m 700 -o "$RUN_USER" -g "$RUN_GROUP" "$D/queue"
  mkdir "$D/$1"
  python3 "$ROOT/tests/peers/killed.py" "$BIN/posthasted" "$D/posthaste.toml" "$SMTP_PORT" "$WORLD_PORT" "$D/run/control" "$D/$1" \
    "$2" "${SEED:-1}" "$3" >"$D/out" 2>&1 || die "$1: $(head -n 20 "$D/out")"
  [ "$(sqlite3 "$D/queue/queue.db" 'PRAGMA integrity_check')" = ok ] || die "$1: the database is damaged"
  [ -z "$(sqlite3 "$D/queue/queue.db" 'PRAGMA foreign_key_check')" ] || die "$1: rows without their owners"
  sed "s/^/$1: /" "$D/out"
}

case " ${MODES:-relay domains} " in *" relay "*)
  { printf '[limits]\nconnections = 3\n'; relay_plain; } >>"$D/posthaste.toml"
  play relay "$ROUNDS" 0 ;;
esac
case " ${MODES:-relay domains} " in *" domains "*)
  { cat "$D/before.toml"; printf '[limits]\nconnections = 6\n'; } >"$D/posthaste.toml"
  play domains $(((ROUNDS + 1) / 2)) $DOMAINS ;;
esac
