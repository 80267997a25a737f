#!/usr/bin/env bash
# Killed at random moments, start and recovery included, while clients hand in mail: nothing that was acknowledged is
# lost, and whatever comes twice was named before. ROUNDS=200 SEED=7 for a longer one.
# Rules: Q-1, Q-3, Q-4, Q-8, Q-12, Q-14, Q-16, PRC-6
. "$(dirname "$0")/../tools/lib.sh"
need python3 sqlite3

WORLD_PORT=$(free_port)
# One interval that is longer than a round, or nothing would wait for the next start.
config 's/^intervals = .*/intervals = ["1s"]/' 's/^pid_file/shutdown_grace = "5s"\npid_file/' \
  's/^min_free = .*/min_free = "16MiB"\npoison_limit = 1000/'
relay_plain >>"$D/posthaste.toml"
python3 "$(dirname "$0")/killed.py" "$BIN/posthasted" "$D/posthaste.toml" "$SMTP_PORT" "$WORLD_PORT" "$D/run/control" "$D" \
  "${ROUNDS:-30}" "${SEED:-1}" >"$D/out" 2>&1 || die "$(head -n 20 "$D/out")"
[ "$(sqlite3 "$D/queue/queue.db" 'PRAGMA integrity_check')" = ok ] || die "the database is damaged"
[ -z "$(sqlite3 "$D/queue/queue.db" 'PRAGMA foreign_key_check')" ] || die "rows without their owners"
cat "$D/out"
