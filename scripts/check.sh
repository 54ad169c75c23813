#!/usr/bin/env bash
# All checks that a change must pass: format, lints, docs, tests.
# It does not write to the tree: builds go to target/ (or CARGO_TARGET_DIR), and Cargo.lock is not changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

# Without these tools some tests are ignored, which the end of this script reports.
step scripts/tools.sh || echo "check.sh: the tools from PyPI are not available"
step cargo fmt --all --check
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps
if cargo nextest --version >/dev/null 2>&1; then
    step cargo nextest run --locked --profile ci
else
    step cargo test --locked --lib --bins --examples --test '*'
fi
step cargo test --locked --doc
# Licences, sources, duplicate and banned crates. The advisory database comes from GitHub, which may be out of reach.
if cargo deny --version >/dev/null 2>&1; then
    step cargo deny --log-level error check bans licenses sources
    if cargo deny --log-level off fetch db; then
        step cargo deny --log-level error check advisories
    else
        echo "check.sh: the advisory database is not available, so advisories are not checked"
    fi
else
    echo "check.sh: cargo-deny is not installed, so deny.toml is not checked"
fi
# The simulator, optimized, and with each planted bug, which it must catch.
step cargo test --locked --profile sim --features plant --test sim

# The tests that were ignored, each with what this machine lacks.
not_run=$(cargo test --quiet --locked --test cluster --test docker --test faults -- --list --ignored)
[ -z "$not_run" ] || printf '\ncheck.sh: not run on this machine:\n%s\n' "$not_run"

printf '\ncheck.sh: all checks passed\n'
