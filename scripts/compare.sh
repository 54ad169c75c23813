#!/usr/bin/env bash
# A benchmark of huskv beside etcd, in turns on this machine: a table of medians and ratios, and a chart.
#
# Why: absolute figures vary between machines and minutes; ratios within one run vary less. So every round runs each case
# against both systems one after the other, and the medians over all rounds are compared.
#
# What it needs: cargo, python3, and `etcd` on PATH (Debian: etcd-server). Without etcd it measures huskv alone.
# It starts three nodes of each system on loopback ports from 14200 up, under a folder of its own, and stops exactly those.
#
# Usage: scripts/compare.sh [FOLDER]     results go to FOLDER (default target/compare): runs.jsonl, table.md, chart.svg
# Variables: ROUNDS (3), SPAN (5s), WARMUP (1s), CLIENTS ("1 64 256"), KEYS (10000), BYTES (256),
# HUSKV (a binary to measure instead of building one)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-target/compare}
rounds=${ROUNDS:-3} span=${SPAN:-5s} warmup=${WARMUP:-1s} clients=${CLIENTS:-1 64 256} keys=${KEYS:-10000} bytes=${BYTES:-256}
mkdir -p "$out"
work=$(mktemp -d "$out/data.XXXXXX")
pids=()

stop_all() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

if [ -z "${HUSKV:-}" ]; then
    cargo build --profile dist --locked
fi
huskv=${HUSKV:-${CARGO_TARGET_DIR:-target}/dist/huskv}
command -v python3 >/dev/null || { echo "compare.sh: python3 is needed for the table" >&2; exit 1; }

systems=(huskv)
huskv_to=127.0.0.1:14201,127.0.0.1:14202,127.0.0.1:14203
huskv_pids=()
for n in 1 2 3; do
    SERVER_PORT=1420$n RAFT_NODE_ID=node$n RAFT_PORT=1421$n RAFT_VOL_DIR=$work/node$n HUSKV_JOIN=$huskv_to \
        "$huskv" 2>"$out/huskv$n.log" &
    pids+=($!) huskv_pids+=($!)
done

etcd_pids=()
if command -v etcd >/dev/null; then
    systems+=(etcd)
    cluster=e1=http://127.0.0.1:14231,e2=http://127.0.0.1:14232,e3=http://127.0.0.1:14233
    for n in 1 2 3; do
        env -i PATH="$PATH" etcd --name e$n --data-dir "$work/e$n" --log-level error \
            --listen-client-urls http://127.0.0.1:1422$n --advertise-client-urls http://127.0.0.1:1422$n \
            --listen-peer-urls http://127.0.0.1:1423$n --initial-advertise-peer-urls http://127.0.0.1:1423$n \
            --initial-cluster "$cluster" 2>"$out/etcd$n.log" &
        pids+=($!) etcd_pids+=($!)
    done
else
    echo "compare.sh: no etcd on PATH, so huskv is measured alone" >&2
fi

# The clients use the leader only, for both systems, so that no request takes a hop between nodes.
leader_of() {
    python3 - "$1" <<'PY'
import json, sys, time, urllib.request

def ask(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://{address}{path}", data, timeout=2) as answer:
        return json.load(answer)

deadline = time.time() + 30
while time.time() < deadline:
    for n in (1, 2, 3):
        try:
            if sys.argv[1] == "huskv":
                leader = ask(f"127.0.0.1:1420{n}", "/health")["leader"]
                stats = ask(f"127.0.0.1:1420{n}", "/raft/stats")["data"]
                if leader and stats["num_peers"] == "2" and all(m["role"] == "voter" for m in stats["members"]):
                    print(leader["http_address"])
                    sys.exit(0)
            else:
                status = ask(f"127.0.0.1:1422{n}", "/v3/maintenance/status", {})
                if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                    print(f"127.0.0.1:1422{n}")
                    sys.exit(0)
        except (OSError, ValueError, KeyError):
            pass
    time.sleep(0.3)
sys.exit(f"compare.sh: {sys.argv[1]} has no leader after 30 s")
PY
}

: >"$out/runs.jsonl"
"$huskv" bench --to "$(leader_of huskv)" --disk "$work" --duration 3s --warmup 0s --json --no-progress >"$out/disk.json"
for ((round = 1; round <= rounds; round++)); do
    for op in put get; do
        for count in $clients; do
            for system in "${systems[@]}"; do
                to=$(leader_of "$system")
                declare -n these=${system}_pids
                echo "round $round of $rounds: $system, $op, $count clients" >&2
                "$huskv" bench --api "$system" --to "$to" --op "$op" --clients "$count" --duration "$span" \
                    --warmup "$warmup" --keys "$keys" --value-bytes "$bytes" --json --no-progress \
                    --pids "$(IFS=,; echo "${these[*]}")" |
                    python3 -c 'import json, sys; print(json.dumps({"system": sys.argv[1], "op": sys.argv[2], **json.load(sys.stdin)}))' \
                        "$system" "$op" >>"$out/runs.jsonl"
            done
        done
    done
done
python3 scripts/compare.py "$out"
cat "$out/table.md"
