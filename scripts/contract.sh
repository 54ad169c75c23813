#!/usr/bin/env bash
# schemathesis against a live node: valid and invalid requests generated from /openapi.json, and every response checked
# against it: no 5xx but 503 and 504, no status, type or body outside the schema.
#
# What it needs: cargo, python3 with venv, and PyPI for its first run (the tool is kept under target/contract).
# Left out: /watch, whose response does not end, and /raft/join, whose addresses would be dialled.
#
# Usage: scripts/contract.sh [SEED]        HUSKV names another binary than the one that is built here
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tool=${CARGO_TARGET_DIR:-target}/contract
if [ ! -x "$tool/bin/schemathesis" ]; then
    python3 -m venv "$tool"
    "$tool/bin/pip" install --quiet schemathesis==4.32.5
fi
[ -n "${HUSKV:-}" ] || cargo build --locked
huskv=${HUSKV:-${CARGO_TARGET_DIR:-target}/debug/huskv}

work=$(mktemp -d)
node=
stop() {
    [ -z "$node" ] || { kill "$node" && wait "$node"; } 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
# A short timeout, for reads that wait for an index that does not come.
HUSKV_LIMITS_REQUEST_TIMEOUT_MS=300 SERVER_PORT=0 RAFT_PORT=0 RAFT_NODE_ID=node1 RAFT_VOL_DIR=$work/node1 "$huskv" 2>"$work/log" &
node=$!
for _ in $(seq 100); do
    [ ! -s "$work/node1/addresses.json" ] || break
    sleep 0.1
done
url=http://$(sed 's/.*"http":"\([^"]*\)".*/\1/' "$work/node1/addresses.json")

# A timeout of 1 ms, or an index that does not come, is a 504 by contract.
cat >"$work/schemathesis.toml" <<'TOML'
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]
TOML

# Only short timeouts: a long one would be waited for at each read of an index that does not come.
"$tool/bin/python" - "$url" "$work/openapi.json" <<'PYTHON'
import json, sys, urllib.request

document = json.load(urllib.request.urlopen(sys.argv[1] + "/openapi.json"))
for name in ("Timeout", "MaxStale"):
    document["components"]["parameters"][name]["schema"]["pattern"] = "^[1-9][0-9]{0,2}ms$"
json.dump(document, open(sys.argv[2], "w"))
PYTHON

"$tool/bin/schemathesis" --config-file "$work/schemathesis.toml" run "$work/openapi.json" --url "$url" \
    --exclude-path /watch --exclude-path /raft/join \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method \
    --max-examples 60 --seed "${1:-$RANDOM}" --workers 1 --no-color
kill -0 "$node" || { echo "contract.sh: the node has ended:" >&2; tail -5 "$work/log" >&2; exit 1; }
