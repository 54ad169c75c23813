#!/usr/bin/env bash
# A benchmark of huskv beside etcd and beside bare warp, in turns on this machine: tables of medians and ratios, and a chart.
#
# Why: absolute figures vary between machines and minutes; ratios within one run vary less. So every round runs each case
# against all systems one after the other, and the medians over all rounds are compared. etcd is measured through its
# JSON gateway and through its gRPC port. Bare warp (benches/bare.rs) has no store: it shows the cost of HTTP alone.
#
# What it needs: cargo, python3, and `etcd` on PATH (Debian: etcd-server). Without etcd it leaves etcd out.
# It starts three nodes of each system on loopback ports from 14200 up, under a folder of its own, and stops exactly those.
#
# Usage: scripts/compare.sh [FOLDER]     results go to FOLDER (default target/compare): runs.jsonl, table.md, chart.svg
# Variables: ROUNDS (3), SPAN (5s), WARMUP (1s), CLIENTS ("1 64 256"), KEYS (10000), BYTES (256),
# GRPC_CONNECTIONS (1: of 1, 4 and 16 the one with which etcd is fastest and cheapest),
# HUSKV and BARE (binaries to measure instead of building them; BARE=no leaves bare warp out)
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

# Two builds: with the example in the first, the tests' dependencies would choose the features of the node's.
dist=${CARGO_TARGET_DIR:-target}/dist
if [ -z "${HUSKV:-}" ]; then
    cargo build --profile dist --locked --bin huskv
fi
if [ -z "${BARE:-}" ]; then
    cargo build --profile dist --locked --example bare
fi
huskv=${HUSKV:-$dist/huskv} bare=${BARE:-$dist/examples/bare}
command -v python3 >/dev/null || { echo "compare.sh: python3 is needed for the table" >&2; exit 1; }

systems=(huskv)
declare -A flags=([huskv]="--api huskv") processes=()
huskv_to=127.0.0.1:14201,127.0.0.1:14202,127.0.0.1:14203
for n in 1 2 3; do
    SERVER_PORT=1420$n RAFT_NODE_ID=node$n RAFT_PORT=1421$n RAFT_VOL_DIR=$work/node$n HUSKV_JOIN=$huskv_to \
        "$huskv" 2>"$out/huskv$n.log" &
    pids+=($!) processes[huskv]+=${processes[huskv]:+,}$!
done

if command -v etcd >/dev/null; then
    systems+=(etcd etcd-grpc)
    flags[etcd]="--api etcd" flags[etcd-grpc]="--api etcd-grpc --connections ${GRPC_CONNECTIONS:-1}"
    cluster=e1=http://127.0.0.1:14231,e2=http://127.0.0.1:14232,e3=http://127.0.0.1:14233
    for n in 1 2 3; do
        env -i PATH="$PATH" etcd --name e$n --data-dir "$work/e$n" --log-level error \
            --listen-client-urls http://127.0.0.1:1422$n --advertise-client-urls http://127.0.0.1:1422$n \
            --listen-peer-urls http://127.0.0.1:1423$n --initial-advertise-peer-urls http://127.0.0.1:1423$n \
            --initial-cluster "$cluster" 2>"$out/etcd$n.log" &
        pids+=($!) processes[etcd]+=${processes[etcd]:+,}$!
    done
    processes[etcd-grpc]=${processes[etcd]}
else
    echo "compare.sh: no etcd on PATH, so etcd is left out" >&2
fi

if [ "$bare" != no ]; then
    systems+=(warp)
    flags[warp]="--api huskv"
    "$bare" 14241 "$bytes" &
    pids+=($!) processes[warp]=$!
fi

# The clients use the leader only, for all systems, so that no request takes a hop between nodes.
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
            if sys.argv[1] == "warp":
                ask("127.0.0.1:14241", "/health")
                print("127.0.0.1:14241")
                sys.exit(0)
            elif sys.argv[1] == "huskv":
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
                echo "round $round of $rounds: $system, $op, $count clients" >&2
                # The flags of a system are words.
                # shellcheck disable=SC2086
                "$huskv" bench ${flags[$system]} --to "$to" --op "$op" --clients "$count" --duration "$span" \
                    --warmup "$warmup" --keys "$keys" --value-bytes "$bytes" --json --no-progress \
                    --pids "${processes[$system]}" |
                    python3 -c 'import json, sys; print(json.dumps({"system": sys.argv[1], "op": sys.argv[2], **json.load(sys.stdin)}))' \
                        "$system" "$op" >>"$out/runs.jsonl"
            done
        done
    done
done
python3 scripts/compare.py "$out"
cat "$out/table.md"
