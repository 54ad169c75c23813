#!/usr/bin/env bash
# The cluster of docker-compose.yml: start, stop, a failover session, and a test of all that.
#
# Usage: scripts/docker.sh run      builds the image, starts the cluster, waits for a leader, prints curl lines and follows
#                                   the logs; Ctrl-C leaves the cluster running
#        scripts/docker.sh stop     stops it; the volumes keep the data
#        scripts/docker.sh session  on the running cluster: stops the leader's container, asks the others, starts it again
#        scripts/docker.sh test [BINARY]
#                                   the session and more on a cluster of its own with any free ports, all of which is
#                                   removed afterwards. BINARY (default target/dist/huskv) is not built inside, and
#                                   the base is what it is linked to, or the image that the variable BASE names
#        scripts/docker.sh able [BINARY]
#                                   whether this machine can run `test`; if not, one line has the reason, with exit code 1
#
# What it needs: a Docker engine, `docker compose` or `docker-compose`; session and test also curl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Every reader of a pipe below reads to the end: a writer that gets SIGPIPE would fail the pipe now and then (pipefail).

# Timeout of one call of the engine in seconds: an engine that blocks must not block the test.
call_limit=240
# Timeout of a condition in seconds, on a busy machine.
readonly wait_limit=90
readonly nodes=(node_1 node_2 node_3)
options=()

say() { printf '%s\n' "$*"; }
fail() {
    printf 'docker.sh: %s\n' "$*" >&2
    exit 1
}

limited() {
    if command -v timeout >/dev/null; then timeout --foreground --kill-after=10 "$call_limit" "$@"; else "$@"; fi
}
engine() { limited docker "$@"; }

compose=()
if limited docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
fi
compose() { limited "${compose[@]}" ${options[@]+"${options[@]}"} "$@"; }

# Prints what is missing to use the engine, or nothing.
missing() {
    command -v docker >/dev/null || { say "no docker command"; return; }
    engine version >/dev/null 2>&1 || { say "no Docker engine answers"; return; }
    [ ${#compose[@]} -gt 0 ] || say "neither docker compose nor docker-compose"
}

# The containers by the number of their node; cached, because compose is slow to list them and they keep their ids.
ids=()
find_containers() {
    local node
    for node in "${nodes[@]}"; do
        ids[${node#node_}]=$(compose ps -aq "$node" 2>/dev/null || true)
    done
}
container() { printf '%s' "${ids[${1#node_}]:-none}"; }
runs() { [ "$(engine inspect -f '{{.State.Running}}' "$(container "$1")" 2>/dev/null)" = true ]; }

# Runs `huskv status` in the first container that runs: one line for each node that is asked; fails unless all are ready.
status() {
    local node
    for node in "${nodes[@]}"; do
        if runs "$node"; then
            engine exec "$(container "$node")" /usr/local/bin/huskv status "$@" 2>&1
            return
        fi
    done
    say "no container of the cluster runs"
    return 1
}
status_of_all() { status --endpoints node_1:2221,node_2:2221,node_3:2221; }

# Prints the leader that a running node reports, or nothing.
leader() { { status || true; } | awk '$3 == "leads," { print $2 } $3 == "follows" { sub(",", "", $4); print $4 }'; }
leader_is_not() {
    local leader
    leader=$(leader)
    [ -n "$leader" ] && [ "$leader" != "$1" ]
}
follower() { { status_of_all || true; } | awk '$3 == "follows" && !found++ { print $2 }'; }
follows() { { status --endpoints "$1:2221" || true; } | grep ": $1 follows " >/dev/null; }
all_ready() { status_of_all >/dev/null; }
healthy() { [ "$(engine inspect -f '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]; }

# Waits until the command in the further arguments succeeds; the first argument describes it.
await() {
    local what=$1 from=$SECONDS
    shift
    until "$@"; do
        if ((SECONDS - from > wait_limit)); then
            say "--- nodes"
            status_of_all || true
            say "--- logs"
            compose logs --tail=15 || true
            fail "not within $wait_limit s: $what"
        fi
        sleep 0.3
    done
}

# Prints the address of a node on this machine; the engine may pick another port at every start.
address() { engine port "$(container "$1")" 2221/tcp | sed -n 1p; }

# Prints the body of a node's response; fails on any status but 2xx.
ask() {
    local node=$1 path=$2
    shift 2
    curl --silent --show-error --fail --max-time 30 "$@" "http://$(address "$node")$path"
}
put() { ask "$1" "/store?timeout=20s" -d "{\"key\": \"$2\", \"value\": \"$3\"}" >/dev/null; }
# Whether a node has applied this value (a stale read).
holds() { ask "$1" "/store/$2?consistency=stale" 2>/dev/null | grep "\"value\":\"$3\"" >/dev/null; }
# Prints the raft id of a node; a node whose volume was lost has another one.
identity() { ask "$1" /raft/stats | grep -o '"raft_id":[0-9]*' | sed -n 1p; }
# Whether a linearizable read through a node returns this value.
answers() { ask "$1" "/store/$2?timeout=20s" | grep "\"value\":\"$3\"" >/dev/null; }

run() {
    # Once for all three, without a timeout: a build may take minutes.
    "${compose[@]}" build node_1
    compose up -d
    find_containers
    say "waiting until all three nodes form a cluster ..."
    await "three nodes that know their leader" all_ready
    status_of_all
    local first third
    first=$(address node_1) third=$(address node_3)
    cat <<LINES

$(leader) leads; any node takes any request. Try:
  curl -X POST http://$first/store -d '{"key": "foo", "value": "bar"}'
  curl http://$third/store/foo
  curl -X DELETE http://$third/store/foo
  curl http://$first/raft/stats
  scripts/docker.sh session
The logs follow. Ctrl-C leaves the cluster running; make stop stops it and keeps the data.

LINES
    exec "${compose[@]}" logs -f --tail=10
}

session() {
    command -v curl >/dev/null || fail "the session needs curl"
    find_containers
    await "a leader" leader_is_not none
    local old new node others=() before="before-$RANDOM$RANDOM" during="during-$RANDOM$RANDOM" from
    old=$(leader)
    say "$old leads"
    put "$old" session-before "$before"
    say "wrote session-before=$before through $old"

    from=$SECONDS
    compose stop "$old" >/dev/null 2>&1
    [ "$(engine inspect -f '{{.State.ExitCode}}' "$(container "$old")")" = 0 ] || fail "the container of $old did not exit with 0"
    say "stopped the container of $old within $((SECONDS - from)) s"
    from=$SECONDS
    await "a new leader" leader_is_not "$old"
    new=$(leader)
    say "$new leads, $((SECONDS - from)) s later"
    for node in "${nodes[@]}"; do
        [ "$node" = "$old" ] || others+=("$node")
    done
    for node in "${others[@]}"; do
        answers "$node" session-before "$before" || fail "$node does not answer session-before=$before"
        say "$node answers session-before=$before"
    done
    put "${others[0]}" session-during "$during"
    say "wrote session-during=$during through ${others[0]} while $old is down"

    compose start "$old" >/dev/null 2>&1
    await "$old follows" follows "$old"
    await "$old has what was written while it was down" holds "$old" session-during "$during"
    holds "$old" session-before "$before" || fail "$old has lost session-before=$before"
    say "started $old again: it follows, and has both values"
    status_of_all
}

# Makes the image $base: the binary and its libraries, which is all that a node needs; or the binary on BASE.
make_base() {
    local binary=$1 root=$work/root library
    mkdir -p "$root/usr/local/bin" "$root/etc"
    # Without debug information, most of the size, the image is made much faster.
    strip --strip-debug -o "$root/usr/local/bin/huskv" "$binary" || cp "$binary" "$root/usr/local/bin/huskv"
    if [ -n "${BASE:-}" ]; then
        printf 'FROM %s\nCOPY usr/local/bin/huskv /usr/local/bin/huskv\n' "$BASE" >"$work/Dockerfile"
        engine build --quiet -t "$base" -f "$work/Dockerfile" "$root"
        return
    fi
    ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
    tar -C "$root" -c . | engine import - "$base"
}

# Unique names, and a temporary folder; all of it is removed at the end.
own_names() {
    work=$(mktemp -d)
    readonly work project="huskv-test-$$-$(date +%s)"
    readonly image="$project:node" base="$project:base"
    trap clean EXIT
    trap 'exit 130' INT TERM
}

clean() {
    if [ ${#options[@]} -gt 0 ]; then
        compose down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1 || true
    fi
    engine rm --force --volumes "$project-alone" >/dev/null 2>&1 || true
    engine volume rm "$project-alone" >/dev/null 2>&1 || true
    engine network rm "$project" >/dev/null 2>&1 || true
    engine rmi --force "$image" "$base" >/dev/null 2>&1 || true
    rm -rf "$work"
}

able() {
    local binary=$1
    command -v curl >/dev/null || fail "no curl"
    [ -x "$binary" ] || fail "no $binary; make build makes it"
    own_names
    make_base "$binary" >"$work/said" 2>&1 || fail "the engine takes no image: $(tail -n 1 "$work/said")"
    engine network create "$project" >"$work/said" 2>&1 || fail "the engine makes no network: $(tail -n 1 "$work/said")"
    engine run --rm --user 10001:0 --network "$project" --publish 127.0.0.1:0:2221 "$base" \
        /usr/local/bin/huskv --version >"$work/said" 2>&1 ||
        fail "the engine cannot run $binary: $(tail -n 1 "$work/said")"
    compose --project-name "$project" ps -q >"$work/said" 2>&1 ||
        fail "${compose[*]} does not reach the engine: $(tail -n 1 "$work/said")"
}

build_image() {
    make_base "$1" >"$work/said" 2>&1 || fail "the base: $(tail -n 5 "$work/said")"
    engine build --quiet --target node --build-arg "BASE=$base" -t "$image" . >"$work/said" 2>&1 ||
        fail "docker build: $(tail -n 5 "$work/said")"
}

takes_requests() { engine exec "$1" /usr/local/bin/huskv status >/dev/null 2>&1; }

# Runs one node of the image under this user, with further options for the engine; it must serve, survive a SIGHUP, and
# exit with 0 at a stop.
alone() {
    local user=$1 name="$project-alone" said
    shift
    engine run -d --name "$name" --user "$user" --cap-drop ALL --security-opt no-new-privileges:true "$@" \
        -e RAFT_NODE_ID=alone -e HUSKV_ADVERTISE_HOST=localhost -e HUSKV_NETWORK_INSECURE=true "$image" >/dev/null
    await "a node under $user" takes_requests "$name"
    said=$(engine exec "$name" /usr/local/bin/huskv put key value)
    [ -n "$said" ] || fail "a node under $user takes no write"
    engine kill -s HUP "$name" >/dev/null
    [ "$(engine exec "$name" /usr/local/bin/huskv get key)" = value ] || fail "a node under $user ends at a SIGHUP"
    engine stop -t 30 "$name" >/dev/null
    said=$(engine inspect -f '{{.State.ExitCode}}' "$name")
    [ "$said" = 0 ] || fail "a node under $user ends with $said: $(engine logs --tail=5 "$name" 2>&1)"
    engine rm --force --volumes "$name" >/dev/null
}

any_user() {
    alone 10001:0
    # A uid as OpenShift assigns them, and a plain user of the machine.
    alone 1000670000:0 --read-only --volume "$project-alone:/data"
    alone 4711:4711
    engine volume rm "$project-alone" >/dev/null
    say "a node runs under any user, also where the root is read-only, and ends with 0"
}

# Starts the stopped containers, without a build.
up() {
    local said
    said=$(compose up -d --no-build 2>&1) || fail "compose up: $(tail -n 5 <<<"$said")"
    find_containers
}

test_all() {
    local binary=$1 node from uid before=() after=()
    own_names
    build_image "$binary"
    say "built an image of $(($(engine image inspect -f '{{.Size}}' "$image") / 1000000)) MB"

    any_user

    printf '%s\n' "NODE_IMAGE=$image" NODE_{1,2,3}_PORT=0 NODE_1_SECOND_PORT= HUSKV_RAFT_ELECTION_TICKS=40 >"$work/env"
    options=(--project-name "$project" --file docker-compose.yml --env-file "$work/env")
    up
    from=$SECONDS
    await "three nodes that know their leader" all_ready
    say "three nodes form a cluster, $((SECONDS - from)) s after compose up"
    for node in "${nodes[@]}"; do
        await "$node is healthy" healthy "$node"
        uid=$(engine top "$(container "$node")" -eo uid,pid | awk 'NR == 2 { print $1 }')
        [ "$uid" = 10001 ] || fail "$node runs as user $uid"
    done
    say "all three are healthy, none runs as root"

    session

    for node in "${nodes[@]}"; do
        before+=("$(identity "$node")")
    done
    compose down >/dev/null 2>&1
    up
    await "three nodes that know their leader, after down and up" all_ready
    put node_1 after-down kept
    for node in "${nodes[@]}"; do
        ask "$node" "/store/session-during" | grep '"value":"during-' >/dev/null || fail "$node has lost session-during"
        after+=("$(identity "$node")")
    done
    [ "${before[*]}" = "${after[*]}" ] || fail "a volume did not survive down and up: ${before[*]}, then ${after[*]}"
    say "down and up: the volumes and the data are still there"

    node=$(follower)
    compose rm --stop --force "$node" >/dev/null 2>&1
    engine volume rm "${project}_$node" >/dev/null
    up
    await "$node, whose volume was removed, follows again" follows "$node"
    await "$node has everything again" holds "$node" after-down kept
    say "removed the volume of $node: the cluster took it again, and it has the data"
    say "docker.sh: the test of the containers passed"
}

case "${1:-}" in
run | stop | session | test | able) ;;
*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
why=$(missing)
[ -z "$why" ] || fail "$why"
binary=${2:-${CARGO_TARGET_DIR:-target}/dist/huskv}
case "$1" in
run) run ;;
stop) compose down ;;
session) session ;;
able)
    call_limit=30
    able "$binary"
    ;;
test) test_all "$binary" ;;
esac
