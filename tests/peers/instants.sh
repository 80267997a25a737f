#!/usr/bin/env bash
# Killed on entry of the system calls that write, sync or speak, during mail, stop, checkpoint, first start, migration and
# recovery (ten times over): nothing is lost, and what comes twice was marked. LONG=1 takes every call, else a sample.
# Rules: Q-1, Q-2, Q-3, Q-4, Q-6, Q-8, Q-10, Q-11, Q-12, Q-13, Q-14, Q-16, Q-27, ST-11, ST-13, PRC-6
# What kill -9 leaves is what the system has, on a disk or not.
[ -w /dev/shm ] && export TMPDIR=/dev/shm
. "$(dirname "$0")/../tools/lib.sh"
need python3 strace
if [ "${LONG:-}" = 1 ]; then share=1; else share=60; fi
POSTHASTED=$BIN/posthasted TMPDIR=$D python3 "$ROOT/tests/torture/sweep.py" --share "${SHARE:-$share}" --seed "${SEED:-1}"
