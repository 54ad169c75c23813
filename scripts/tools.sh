#!/usr/bin/env bash
# Installs the tools from PyPI that some tests need under target/tools: a client generator, a checker of Kubernetes
# manifests, and what drives Chromium and judges a page in it. Without them those tests are ignored, with the reason.
#
# What it needs: python3 with venv, and PyPI for its first run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly tools=(openapi-python-client==0.29.1 kubernetes-validate==1.37.0 playwright==1.65.2 axe-playwright-python==0.1.8)
tool=${CARGO_TARGET_DIR:-target}/tools
if [ "$(cat "$tool/installed" 2>/dev/null)" != "${tools[*]}" ]; then
    rm -rf "$tool"
    python3 -m venv "$tool"
    "$tool/bin/pip" install --quiet --disable-pip-version-check "${tools[@]}"
    echo "${tools[*]}" >"$tool/installed"
fi
