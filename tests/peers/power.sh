#!/usr/bin/env bash
# Loss of power: disks are rebuilt from a trace of the real daemon's writes, syncs and words, with none, all or some of what was
# not synced, torn at 512 octets and 4 KiB. Each opens, and keeps what had been promised; runs with weaker syncs do not.
# LONG=1 for thousands of disks.
# Rules: Q-1, Q-2, Q-4, Q-7, Q-8, Q-10, Q-11, Q-12, Q-16, Q-27, ST-2, ST-10, ST-11, ST-13, ST-18
# The disks that matter are made here; those under them need not be slow.
[ -w /dev/shm ] && export TMPDIR=/dev/shm
. "$(dirname "$0")/../tools/lib.sh"
need python3 strace
if [ "${LONG:-}" = 1 ]; then size=(--images 6000 --load 18); else size=(--images 160 --load 3); fi
keep=()
[ -n "${KEEP_TRACE:-}" ] && keep=(--keep "$KEEP_TRACE")
POSTHASTED=$BIN/posthasted TMPDIR=$D python3 "$ROOT/tests/torture/power.py" "${size[@]}" "${keep[@]}" --seed "${SEED:-1}"
