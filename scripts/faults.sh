#!/usr/bin/env bash
# The fault suite on the real binary: `scripts/faults.sh --minutes N` runs rounds of fresh seeds for N minutes, prints each
# seed, and stops at the first that fails. `FAULTS_SEED=N scripts/faults.sh` is one round. `scripts/faults.sh --watch N`
# runs the watch suite for N minutes, with kills of minorities, and prints how many events were lost or delivered twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    printf 'usage: scripts/faults.sh --minutes N | --watch N\n       FAULTS_SEED=N [FAULTS_TRACE=1] scripts/faults.sh\n' >&2
    exit 2
}

case "$#${1-}" in
0) [[ -n ${FAULTS_SEED-} ]] || usage ;;
2--minutes) [[ $2 =~ ^[1-9][0-9]*$ ]] || usage; export FAULTS_MINUTES=$2 ;;
2--watch) [[ $2 =~ ^[1-9][0-9]*$ ]] || usage; export FAULTS_WATCH_MINUTES=$2 ;;
*) usage ;;
esac

exec cargo test --locked --quiet --test faults
