#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, docs, all tests.
# It never writes to the tree: builds go to target/ (or CARGO_TARGET_DIR), and Cargo.lock is taken as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

# Without them some tests are ignored, which the end of this script says.
step scripts/tools.sh || echo "check.sh: the tools from PyPI cannot be had"
step cargo fmt --all --check
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps
if cargo nextest --version >/dev/null 2>&1; then
    step cargo nextest run --locked --profile ci
else
    step cargo test --locked --lib --bins --examples --test '*'
fi
step cargo test --locked --doc
# Licences, sources, duplicate and refused crates. The advisory database comes from GitHub, which not every machine reaches.
if cargo deny --version >/dev/null 2>&1; then
    step cargo deny --log-level error check bans licenses sources
    if cargo deny --log-level off fetch db; then
        step cargo deny --log-level error check advisories
    else
        echo "check.sh: the advisory database cannot be had, so advisories are not checked"
    fi
else
    echo "check.sh: cargo-deny is not installed, so deny.toml is not checked"
fi
# The simulator, optimized, and with planted bugs let in, each of which it must catch.
step cargo test --locked --profile sim --features plant --test sim

# The tests that did not run, each with what this machine lacks.
not_run=$(cargo test --quiet --locked --test cluster --test docker --test faults -- --list --ignored)
[ -z "$not_run" ] || printf '\ncheck.sh: not run on this machine:\n%s\n' "$not_run"

printf '\ncheck.sh: all checks passed\n'
