#!/usr/bin/env bash
# The tools from PyPI that some tests need, kept under target/tools: a generator of clients and a checker of Kubernetes'
# manifests. Where they cannot be had, those tests are ignored and say so.
#
# What it needs: python3 with venv, and PyPI for its first run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly tools=(openapi-python-client==0.29.1 kubernetes-validate==1.37.0)
tool=${CARGO_TARGET_DIR:-target}/tools
if [ "$(cat "$tool/installed" 2>/dev/null)" != "${tools[*]}" ]; then
    rm -rf "$tool"
    python3 -m venv "$tool"
    "$tool/bin/pip" install --quiet --disable-pip-version-check "${tools[@]}"
    echo "${tools[*]}" >"$tool/installed"
fi
