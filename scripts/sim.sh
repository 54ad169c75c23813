#!/usr/bin/env bash
# The simulator: one seed with its trace, or many fresh seeds, either with a planted bug.
#   scripts/sim.sh SEED               replays one seed and prints its trace
#   scripts/sim.sh --seeds N          runs N fresh seeds, and stops at the first that fails
#   scripts/sim.sh --plant NAME ...   the same, with a planted bug
#   scripts/sim.sh --plant list       lists the planted bugs, and what catches each
# Exit code 0 only where all seeds hold. SIM_RAFT=1 adds raft's own log lines to the trace.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo test --locked --quiet --profile sim --features plant --test sim -- simulate "$@"
