#!/usr/bin/env bash
# The simulator by hand: one seed with its trace, many fresh ones, either with a planted bug.
#   scripts/sim.sh SEED               replays one seed and prints what happens
#   scripts/sim.sh --seeds N          runs N fresh ones, stops at the first that fails
#   scripts/sim.sh --plant NAME ...   the same, with a planted bug
#   scripts/sim.sh --plant list       which there are, and what catches each
# Exit code 0 only where all held. SIM_RAFT=1 adds raft's own log lines to the trace.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo test --locked --quiet --profile sim --features plant --test sim -- simulate "$@"
