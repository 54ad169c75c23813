"""Measurements beyond scripts/compare.sh: follower reads, syncs, growth, snapshots, joins, restarts, failover, five nodes.

Why: every figure in the docs must be reproducible.

Usage: scripts/measure.py [FOLDER] [WHAT ...]     results go to FOLDER, with a / in it (default target/measure): measure.jsonl
WHAT is any of: reads syncs failover five growth snapshots soak; all of them without it, in about half an hour.

What it needs: cargo, and 4 GB of disk. Nodes run on loopback ports from 14300 up, under a folder of its own, and exactly
those are stopped. HUSKV and BARE name binaries to measure instead of building them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
BYTES = 256
MANY = 1_000_000
BATCH = 64


def built(variable, *cargo):
    """The path of a binary: the one that the variable names, or one that is built."""
    if variable in os.environ:
        return os.environ[variable]
    subprocess.run(["cargo", "build", "--profile", "dist", "--locked", *cargo], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "dist"
    return str(target / "examples" / "bare" if cargo else target / "huskv")


def ask(address, path, body=None, method=None, timeout=5):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def until(seconds, what, attempt):
    """Repeats `attempt` until its result is true; returns the result and the seconds that it took."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        try:
            if found := attempt():
                return found, time.monotonic() - begun
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.01)
    sys.exit(f"measure.py: {what}: not within {seconds} s")


class Node:
    def __init__(self, cluster, number):
        self.name, self.cluster = f"node{number}", cluster
        self.http, self.raft = cluster.base + number, cluster.base + 50 + number
        self.address = f"127.0.0.1:{self.http}"
        self.home = cluster.folder / self.name
        self.process = None

    def start(self, join=""):
        env = os.environ | {
            "SERVER_PORT": str(self.http), "RAFT_NODE_ID": self.name, "RAFT_PORT": str(self.raft),
            "RAFT_VOL_DIR": str(self.home),
        } | ({"HUSKV_JOIN": join} if join else {})
        with open(f"{self.home}.log", "ab") as log:
            self.process = subprocess.Popen([self.cluster.huskv], env=env, stderr=log)

    def end(self, with_signal):
        self.process.send_signal(with_signal)
        self.process.wait()

    def stats(self):
        return ask(self.address, "/raft/stats")["data"]

    def memory_mb(self):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def disk_mb(self):
        files = (path for path in self.home.rglob("*") if path.is_file())
        return sum(path.stat().st_blocks * 512 for path in files) / 2**20

    def answers(self):
        return ask(self.address, "/store/bench-0000000001")


class Cluster:
    """A cluster of `count` nodes; a context manager that stops and removes them."""

    base = 14300

    def __init__(self, huskv, out, count=3):
        self.huskv, self.folder = huskv, Path(tempfile.mkdtemp(prefix="data.", dir=out))
        self.nodes = [Node(self, number + 1) for number in range(count)]

    def __enter__(self):
        join = ",".join(node.address for node in self.nodes)
        for node in self.nodes:
            node.start(join)
        until(30, "a cluster forms", lambda: len(self.voters()) == len(self.nodes))
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.process.kill()
                node.process.wait()
        shutil.rmtree(self.folder)

    def voters(self):
        return [row["node_id"] for row in self.leader().stats()["members"] if row["role"] == "voter"]

    def leader(self):
        for node in self.nodes:
            try:
                if node.process and node.stats()["state"] == "Leader":
                    return node
            except OSError:
                pass
        raise ValueError("there is no leader")

    def led(self):
        return until(10, "a leader", self.leader)[0]

    def followers(self):
        leader = self.led()
        return [node for node in self.nodes if node is not leader and node.process]

    def bench(self, *flags, to=None, seconds=5, **options):
        to = to or [self.led()]
        command = [self.huskv, "bench", "--to", ",".join(node.address for node in to), "--json", "--no-progress"]
        command += ["--duration", f"{seconds}s", "--value-bytes", str(BYTES), *flags]
        command += ["--pids", ",".join(str(node.process.pid) for node in self.nodes if node.process.poll() is None)]
        for name, value in ({"clients": BATCH, "warmup": "1s"} | options).items():
            command += [f"--{name}", str(value)]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    def load(self, keys):
        self.bench("--op", "get", seconds=1, keys=keys)


def rate(run):
    return run["ops_per_second"]


def reads(huskv, out, say):
    """Gets from the leader, from a follower, and from warp with no store behind it, in turns."""
    bare = built("BARE", "--example", "bare")
    server = subprocess.Popen([bare, "14299"])
    try:
        with Cluster(huskv, out) as cluster:
            cluster.load(10_000)
            alone = type("Alone", (), {"address": "127.0.0.1:14299"})()
            until(10, "bare warp answers", lambda: ask(alone.address, "/health"))
            for clients in (64, 256):
                seen = {"leader": [], "follower": [], "warp": []}
                for _ in range(3):
                    for who, node in (("leader", cluster.led()), ("follower", cluster.followers()[0]), ("warp", alone)):
                        seen[who].append(rate(cluster.bench("--op", "get", "--no-load", to=[node], clients=clients, seconds=3)))
                leader, follower, warp = (median(seen[who]) for who in ("leader", "follower", "warp"))
                say(f"gets a second at {clients} clients", leader=leader, follower=follower, bare_warp=warp,
                    follower_to_leader=follower / leader, leader_to_warp=leader / warp)
    finally:
        server.kill()
        server.wait()


def syncs(huskv, out, say):
    """Puts per sync, by the nodes' counters."""
    with Cluster(huskv, out) as cluster:
        cluster.load(10_000)
        for clients in (1, 64, 256):
            before = [node.stats() for node in cluster.nodes]
            cluster.bench("--op", "put", clients=clients)
            after = [node.stats() for node in cluster.nodes]
            puts = [int(now["applied_index"]) - int(was["applied_index"]) for was, now in zip(before, after)]
            asked = [now["disk_syncs"] - was["disk_syncs"] for was, now in zip(before, after)]
            say(f"puts for one sync at {clients} clients", nodes=[count / sync for count, sync in zip(puts, asked)])


def meanwhile(cluster, what, seconds, to, **options):
    """Runs clients, and calls `what` two seconds later; returns both results."""
    done = {}

    def later():
        time.sleep(2)
        done["result"] = what()

    thread = threading.Thread(target=later)
    thread.start()
    run = cluster.bench("--op", "put", to=to, seconds=seconds, warmup="500ms", **options)
    thread.join()
    return run, done["result"]


def failover(huskv, out, say):
    """The longest gap between two successful writes of 64 clients of the other two nodes."""
    with Cluster(huskv, out) as cluster:
        cluster.load(10_000)
        for how, times, back in (("kill -9", 10, signal.SIGKILL), ("SIGTERM", 5, signal.SIGTERM), ("transfer", 5, None)):
            gaps, failed = [], 0
            for _ in range(times):
                leader, others = cluster.led(), cluster.followers()
                if back is None:
                    end = lambda: ask(leader.address, "/raft/transfer", {}, timeout=15)
                else:
                    end = lambda: leader.end(back)
                run, _ = meanwhile(cluster, end, 6, others)
                gaps.append(run["longest_gap_ms"])
                failed += run["failed"]
                if back is not None:
                    leader.start()
                until(30, "it is back", lambda: leader.answers())
            say(f"longest gap in ms, leader ended by {how}", median=median(gaps), each=gaps, failed=failed)


def five(huskv, out, say):
    """Puts of five nodes beside those of three."""
    seen = {3: [], 5: []}
    for _ in range(3):
        for count in seen:
            with Cluster(huskv, out, count) as cluster:
                seen[count].append(rate(cluster.bench("--op", "put")))
    say("puts a second at 64 clients", three=median(seen[3]), five=median(seen[5]), ratio=median(seen[5]) / median(seen[3]))


def growth(huskv, out, say):
    """Puts with a thousand keys and with a million; memory, disk and restart time with a million."""
    with Cluster(huskv, out) as cluster:
        cluster.load(1_000)
        small = median(rate(cluster.bench("--op", "put", keys=1_000)) for _ in range(3))
        cluster.load(MANY)
        large = median(rate(cluster.bench("--op", "put", keys=MANY)) for _ in range(3))
        say("puts a second at 64 clients", keys_1000=small, keys_1000000=large, ratio=large / small)
        say("a node with 1 000 000 keys", memory_mb=[node.memory_mb() for node in cluster.nodes],
            disk_mb=[node.disk_mb() for node in cluster.nodes], live_mb=MANY * (BYTES + 16) / 2**20)

        times = []
        for node in cluster.followers()[:1] * 3:
            node.end(signal.SIGKILL)
            node.start()
            times.append(until(60, "a restarted node answers", node.answers)[1])
        say("seconds from a start after kill -9 to the first linearizable read, 1 000 000 keys", median=median(times), each=times)


def snapshots(huskv, out, say):
    """Latency during a snapshot and a join, and the duration of a join, with a million keys."""
    with Cluster(huskv, out) as cluster:
        cluster.load(MANY)
        half = int(rate(cluster.bench("--op", "put", keys=MANY)) / 2)
        leader = cluster.led()

        def snapshot():
            begun = time.monotonic()
            ask(leader.address, "/raft/snapshot?timeout=60s", method="POST", timeout=60)
            return time.monotonic() - begun

        pairs = []
        for _ in range(3):
            quiet = cluster.bench("--op", "put", keys=MANY, rate=half, seconds=10)
            busy, took = meanwhile(cluster, snapshot, 10, [leader], keys=MANY, rate=half)
            pairs.append((quiet["put"]["p99_ms"], busy["put"]["p99_ms"], took))
        calm, during, took = (median(column) for column in zip(*pairs))
        say("p99 of puts in ms at half the rate, 1 000 000 keys", quiet=calm, with_a_snapshot=during, ratio=during / calm, snapshot_s=took)

        fourth = Node(cluster, 4)
        cluster.nodes.append(fourth)

        def join():
            begun = time.monotonic()
            ask(cluster.led().address, "/raft/join?timeout=60s",
                {"node_id": fourth.name, "raft_address": f"127.0.0.1:{fourth.raft}"}, timeout=90)
            return time.monotonic() - begun

        def leave():
            ask(cluster.led().address, "/raft/remove", {"node_id": fourth.name}, timeout=30)
            fourth.end(signal.SIGTERM)
            shutil.rmtree(fourth.home)

        times = []
        for _ in range(3):
            fourth.start()
            until(10, "the fourth node starts", lambda: ask(fourth.address, "/health"))
            times.append(join())
            leave()
        say("seconds from asking for a join to a voter, 1 000 000 keys, idle", median=median(times), each=times)

        pairs = []
        for _ in range(3):
            quiet = cluster.bench("--op", "put", keys=MANY, rate=half, seconds=15)
            fourth.start()
            until(10, "the fourth node starts", lambda: ask(fourth.address, "/health"))
            busy, took = meanwhile(cluster, join, 15, [cluster.led()], keys=MANY, rate=half)
            pairs.append((quiet["put"]["p99_ms"], busy["put"]["p99_ms"], took))
            leave()
        calm, during, took = (median(column) for column in zip(*pairs))
        say("p99 of puts in ms at half the rate, 1 000 000 keys", quiet=calm, with_a_join=during, ratio=during / calm, join_s=took)


def soak(huskv, out, say):
    """Ten minutes of puts over a million keys: memory and disk, minute by minute."""
    with Cluster(huskv, out) as cluster:
        cluster.load(MANY)
        memory, disk = [], []
        for _ in range(10):
            cluster.bench("--op", "put", keys=MANY, seconds=59)
            memory.append(max(node.memory_mb() for node in cluster.nodes))
            disk.append(max(node.disk_mb() for node in cluster.nodes))
        say("ten minutes of puts over 1 000 000 keys, the largest node", memory_mb=memory, disk_mb=disk)


def main():
    measures = {one.__name__: one for one in (reads, syncs, failover, five, growth, snapshots, soak)}
    words = sys.argv[1:]
    out = Path(words.pop(0) if words and "/" in words[0] else ROOT / "target" / "measure")
    if unknown := [word for word in words if word not in measures]:
        sys.exit(f"measure.py: {unknown[0]} is none of {' '.join(measures)}")
    out.mkdir(parents=True, exist_ok=True)
    huskv = built("HUSKV")

    def say(what, **figures):
        rounded = {name: shown(figure) for name, figure in figures.items()}
        print(what + ": " + ", ".join(f"{name} {figure}" for name, figure in rounded.items()), flush=True)
        with open(out / "measure.jsonl", "a") as file:
            file.write(json.dumps({"what": what} | rounded) + "\n")

    for word in words or measures:
        measures[word](huskv, out, say)


def shown(figure):
    if isinstance(figure, list):
        return [shown(one) for one in figure]
    return round(figure, 3 if abs(figure) < 10 else 0) if isinstance(figure, float) else figure


main()
