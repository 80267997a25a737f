#!/usr/bin/env bash
# A start after a crash is ready within 2 s, with 100 000 finished messages in the history as with none.
# Rules: Q-16, PRC-6
[ -w /dev/shm ] && export TMPDIR=/dev/shm
. "$(dirname "$0")/../tools/lib.sh"
need python3
POSTHASTED=$BIN/posthasted TMPDIR=$D python3 "$ROOT/tests/torture/finished.py" --starts "${STARTS:-5}"
