"""Measurements beyond scripts/compare.sh, each with its target: what a table of puts and gets does not show.

Why: every figure in the docs must be reproducible, and a target is met or missed by a figure, not by an impression.

Usage: scripts/measure.py [FOLDER] [WHAT ...]     results go to FOLDER, with a / in it (default target/measure): measure.jsonl
WHAT is any of these; all of them without it, in about an hour and a half:
  reads        gets from the leader, from a follower and from bare warp
  scrape       gets without and with a scrape of each node a second
  syncs        puts for one sync
  failover     the longest time without a write, by kill -9, SIGTERM and transfer
  five         puts of five nodes beside those of three
  growth       puts over 1 000 and over 1 000 000 keys; memory
  pages        p50 of puts beside clients that read pages, stale and linearizable
  checkpoints  p99.9 of puts at half the highest rate, without and with checkpoints
  joins        a joiner of 1 000 000 keys, without and with load
  restarts     from kill -9 to the first linearizable read, without keys and with 1 000 000
  space        the directory in ten minutes of overwrites of 1 000 000 keys, and at rest
  small        the same with 300 000 keys of 100 bytes
  deleted      the directory after 1 GB is put and deleted
  expired      the directory after 1 GB is put with a ttl and has expired

Variables: SPAN (such as 1s: the length of each measured run instead of its own), ROUNDS (3), KEYS (1000000, of which `small` takes
three tenths), MINUTES (10, of overwrites), REST (120, seconds until the directory is at rest), HUSKV and BARE (binaries to measure
instead of building them).
A figure with a target is followed by it and by whether it was met; with shorter runs or fewer keys that is only a hint.

What it needs: cargo, and 8 GB of disk. Nodes run on loopback ports from 14300 up, under a folder of its own, and exactly
those are stopped.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
BYTES = 256
KEY_BYTES = len("bench-0000000000")
MANY = int(os.environ.get("KEYS", 1_000_000))
ROUNDS = int(os.environ.get("ROUNDS", 3))
MINUTES = float(os.environ.get("MINUTES", 10))
REST = float(os.environ.get("REST", 120))
BATCH = 64
# The size up to which a directory is never too large, whatever it holds.
SPARE_MB = 256


def span(seconds):
    """The length of a run: its own, or SPAN."""
    return float(os.environ["SPAN"].removesuffix("s")) if "SPAN" in os.environ else seconds


@dataclass
class Goal:
    """A figure with its target."""

    figure: float
    most: float = None
    least: float = None

    def met(self):
        return self.figure <= self.most if self.most is not None else self.figure >= self.least

    def target(self):
        return f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"


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
        size = 0
        for folder, _, files in os.walk(self.home):
            for file in files:
                try:
                    size += os.stat(os.path.join(folder, file)).st_blocks * 512
                except FileNotFoundError:
                    pass  # Removed since the folder was read.
        return size / 2**20

    def answers(self):
        """A linearizable read; that there is no such key is an answer too."""
        try:
            return ask(self.address, "/store/bench-0000000001")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return True
            raise


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

    def command(self, *flags, to=None, seconds=5, **options):
        """The command line of a benchmark."""
        to = to or [self.led()]
        command = [self.huskv, "bench", "--to", ",".join(node.address for node in to), "--json", "--no-progress"]
        for name, value in ({"clients": BATCH, "warmup": "1s", "value_bytes": BYTES, "duration": f"{max(1, round(seconds * 1000))}ms"} | options).items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        return [*command, *flags]

    def running(self):
        return [node for node in self.nodes if node.process and node.process.poll() is None]

    def bench(self, *flags, **options):
        pids = ",".join(str(node.process.pid) for node in self.running())
        command = self.command(*flags, "--pids", pids, **options)
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    def load(self, keys, **options):
        self.bench("--op", "get", seconds=1, keys=keys, **options)

    def largest(self, figure):
        """The largest of a figure of all nodes."""
        return max(getattr(node, figure)() for node in self.running())

    def restart_seconds(self):
        """Seconds from a start after kill -9 to the first linearizable read, of a follower."""
        node = self.followers()[0]
        node.end(signal.SIGKILL)
        node.start()
        return until(120, "a restarted node answers", node.answers)[1]


def rate(run):
    return run["ops_per_second"]


def ratio(one, other):
    """One figure in multiples of another; none of a figure of nothing."""
    return one / other if other else float("inf")


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
                for _ in range(ROUNDS):
                    for who, node in (("leader", cluster.led()), ("follower", cluster.followers()[0]), ("warp", alone)):
                        run = cluster.bench("--op", "get", "--no-load", to=[node], clients=clients, seconds=span(3))
                        seen[who].append(rate(run))
                leader, follower, warp = (median(seen[who]) for who in ("leader", "follower", "warp"))
                say(f"gets a second at {clients} clients", leader=leader, follower=follower, bare_warp=warp,
                    follower_to_leader=Goal(follower / leader, least=0.8), leader_to_warp=Goal(leader / warp, least=0.65))
    finally:
        server.kill()
        server.wait()


@contextmanager
def scraped(nodes, took):
    """Scrapes each of the nodes once a second, as Prometheus does; the seconds of each scrape go to `took`."""
    done = threading.Event()

    def scrape_all():
        due = time.monotonic()
        while not done.wait(max(0, due - time.monotonic())):
            due += 1
            for node in nodes:
                request = urllib.request.Request(f"http://{node.address}/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
                begun = time.monotonic()
                with urllib.request.urlopen(request, timeout=5) as answer:
                    answer.read()
                took.append(time.monotonic() - begun)

    thread = threading.Thread(target=scrape_all)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def scrape(huskv, out, say):
    """Gets of 64 clients from the leader without and with a scrape of each node a second, in turns, each first in every other round."""
    with Cluster(huskv, out) as cluster:
        cluster.load(10_000)
        seen, took = {"without": [], "with": []}, []
        for number in range(2 * ROUNDS):
            for how in sorted(seen, reverse=number % 2 == 0):
                with scraped(cluster.nodes if how == "with" else [], took):
                    seen[how].append(rate(cluster.bench("--op", "get", "--no-load", seconds=span(5))))
        bare, busy = median(seen["without"]), median(seen["with"])
        say("gets a second at 64 clients", without=bare, with_a_scrape_a_second=busy, ratio=Goal(busy / bare, least=0.98),
            scrapes=len(took), scrape_ms=1000 * median(took), each_without=seen["without"], each_with=seen["with"])


def syncs(huskv, out, say):
    """Puts per sync, by the nodes' counters."""
    with Cluster(huskv, out) as cluster:
        cluster.load(10_000)
        for clients in (1, 64, 256):
            before = [node.stats() for node in cluster.nodes]
            cluster.bench("--op", "put", clients=clients, seconds=span(5))
            after = [node.stats() for node in cluster.nodes]
            puts = [int(now["applied_index"]) - int(was["applied_index"]) for was, now in zip(before, after)]
            asked = [now["disk_syncs"] - was["disk_syncs"] for was, now in zip(before, after)]
            say(f"puts for one sync at {clients} clients", nodes=[ratio(count, sync) for count, sync in zip(puts, asked)])


def meanwhile(cluster, what, seconds, to, delay=2, **options):
    """Runs clients, and calls `what` after the delay; returns both results."""
    done = {}

    def later():
        time.sleep(delay)
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
    for _ in range(ROUNDS):
        for count in seen:
            with Cluster(huskv, out, count) as cluster:
                seen[count].append(rate(cluster.bench("--op", "put", seconds=span(5))))
    say("puts a second at 64 clients", three=median(seen[3]), five=median(seen[5]), ratio=median(seen[5]) / median(seen[3]))


def growth(huskv, out, say):
    """Puts with a thousand keys and with a million; memory and disk with a million."""
    with Cluster(huskv, out) as cluster:
        cluster.load(1_000)
        small = median(rate(cluster.bench("--op", "put", keys=1_000, seconds=span(5))) for _ in range(ROUNDS))
        cluster.load(MANY)
        large = median(rate(cluster.bench("--op", "put", keys=MANY, seconds=span(5))) for _ in range(ROUNDS))
        say("puts a second at 64 clients", keys_1000=small, keys_many=large, ratio=Goal(large / small, least=0.5))
        say(f"a node with {MANY} keys", memory_mb=Goal(cluster.largest("memory_mb"), most=700),
            disk_mb=[node.disk_mb() for node in cluster.nodes], live_mb=live_mb(MANY, BYTES))


def live_mb(keys, value_bytes):
    return keys * (KEY_BYTES + value_bytes) / 2**20


def pages(huskv, out, say):
    """The median latency of a lone client's puts beside eight clients that read pages of a thousand keys."""
    seconds, readers = span(5), 8
    with Cluster(huskv, out) as cluster:
        cluster.load(10_000)
        leader = [cluster.led()]

        def put():
            return cluster.bench("--op", "put", to=leader, clients=1, seconds=seconds)

        for kind, flags, most in (("stale", ["--stale"], 3), ("linearizable", [], 5)):
            alone, beside, read = [], [], []
            for _ in range(ROUNDS):
                alone.append(put()["put"]["p50_ms"])
                # They begin before the warm-up of the puts and end after the puts.
                command = cluster.command("--op", "list", "--reverse", "--no-load", *flags, to=leader, clients=readers, seconds=seconds + 2)
                with subprocess.Popen(command, stdout=subprocess.PIPE) as clients:
                    time.sleep(1)
                    beside.append(put()["put"]["p50_ms"])
                    read.append(json.loads(clients.stdout.read()))
            say(f"p50 of a put in ms, 1 client, beside {readers} clients of {kind} reverse pages of 1000 keys", alone=median(alone),
                beside=median(beside), ratio=Goal(ratio(median(beside), median(alone)), most=most),
                pages_per_second=median(rate(run) for run in read), page_p50_ms=median(run["list"]["p50_ms"] for run in read))


def half_rate(cluster):
    """Half of the highest rate that is sustained: it falls for some 40 s, until flushes and sled's cleaner run as often as they will."""
    cluster.bench("--op", "put", keys=MANY, seconds=span(45))
    return max(1, int(rate(cluster.bench("--op", "put", keys=MANY, seconds=span(10))) / 2))


def checkpoints(huskv, out, say):
    """Latency of puts at half the highest rate, without and with checkpoints of all nodes."""
    seconds, count = span(20), 4
    with Cluster(huskv, out) as cluster:
        cluster.load(MANY)
        half = half_rate(cluster)

        def one(node):
            ask(node.address, "/raft/snapshot?timeout=60s", method="POST", timeout=60)

        def several():
            took = []
            for number in range(count):
                begun = time.monotonic()
                threads = [threading.Thread(target=one, args=[node]) for node in cluster.nodes]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                took.append(time.monotonic() - begun)
                if number + 1 < count:
                    time.sleep(max(0, seconds / (count + 1) - took[-1]))
            return max(took)

        quiet, busy, took = [], [], []
        for _ in range(ROUNDS):
            quiet.append(cluster.bench("--op", "put", keys=MANY, rate=half, seconds=seconds)["put"])
            run, longest = meanwhile(cluster, several, seconds, [cluster.led()], delay=0.5 + seconds / (count + 1), keys=MANY, rate=half)
            busy.append(run["put"])
            took.append(longest)
        for quantile, target in (("p99", {}), ("p99_9", {"most": 2})):
            before, during = (median(run[f"{quantile}_ms"] for run in runs) for runs in (quiet, busy))
            over = ratio(during, before)
            say(f"{quantile.replace('_', '.')} of puts in ms at half the rate, {MANY} keys, {count} checkpoints of each node", without=before,
                with_checkpoints=during, ratio=Goal(over, **target) if target else over, checkpoint_s=median(took))


def joins(huskv, out, say):
    """How long the join of a node with a million keys to copy takes, and the latency of puts meanwhile."""
    with Cluster(huskv, out) as cluster:
        cluster.load(MANY)
        half = half_rate(cluster)
        fourth = Node(cluster, 4)
        cluster.nodes.append(fourth)

        def fresh():
            fourth.start()
            until(10, "the fourth node starts", lambda: ask(fourth.address, "/health"))

        def join():
            begun = time.monotonic()
            body = {"node_id": fourth.name, "raft_address": f"127.0.0.1:{fourth.raft}"}
            try:
                ask(cluster.led().address, "/raft/join?timeout=60s", body, timeout=90)
            except urllib.error.HTTPError as error:
                if error.code != 504:
                    raise
                # The longest wait of a request is over; the join goes on.
                until(600, "the fourth node is a voter", lambda: fourth.name in cluster.voters())
            return time.monotonic() - begun

        def leave():
            ask(cluster.led().address, "/raft/remove", {"node_id": fourth.name}, timeout=30)
            fourth.end(signal.SIGTERM)
            shutil.rmtree(fourth.home)

        times = []
        for _ in range(ROUNDS):
            fresh()
            times.append(join())
            leave()
        say(f"seconds from asking for a join to a voter, {MANY} keys, idle", median=Goal(median(times), most=15), each=times)

        # The window is as long as the last join, so that it holds little else; the first is a guess.
        pairs, window = [], span(1.5 * median(times))
        for _ in range(ROUNDS):
            quiet = cluster.bench("--op", "put", keys=MANY, rate=half, seconds=max(window, 1))
            fresh()
            busy, took = meanwhile(cluster, join, max(window, 1), [cluster.led()], delay=0.5, keys=MANY, rate=half)
            pairs.append((quiet["put"]["p99_ms"], busy["put"]["p99_ms"], took))
            window = span(took)
            leave()
        before, during, took = (median(column) for column in zip(*pairs))
        say(f"p99 of puts in ms at half the rate, {MANY} keys, while a node joins", before=before, during=during,
            ratio=Goal(ratio(during, before), most=3), join_s=Goal(took, most=60))


def say_restart(cluster, say, what, most):
    times = [cluster.restart_seconds() for _ in range(ROUNDS)]
    say(f"seconds from a start after kill -9 to the first linearizable read, {what}", median=Goal(median(times), most=most), each=times)


def restarts(huskv, out, say):
    """Starts after kill -9, without keys and with a million."""
    with Cluster(huskv, out) as cluster:
        say_restart(cluster, say, "no keys", 1)
        cluster.load(MANY)
        say_restart(cluster, say, f"{MANY} keys", 5)


@contextmanager
def sampled(cluster, interval):
    """Samples (seconds, disk, memory) of the largest node until the end of the block."""
    samples, ended, begun = [], threading.Event(), time.monotonic()

    def sample():
        while not ended.is_set():
            samples.append((time.monotonic() - begun, cluster.largest("disk_mb"), cluster.largest("memory_mb")))
            ended.wait(interval)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def slope(samples):
    """Growth by least squares, a minute."""
    times, sizes = [one[0] / 60 for one in samples], [one[1] for one in samples]
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - middle) ** 2 for at in times)
    return sum((at - middle) * (size - mean) for at, size in zip(times, sizes)) / spread if spread else 0.0


def overwrites(huskv, out, say, keys, value_bytes):
    """The directory through minutes of uniform overwrites at the highest rate, and at rest after them."""
    live, total = live_mb(keys, value_bytes), MINUTES * 60
    with Cluster(huskv, out) as cluster:
        cluster.load(keys, value_bytes=value_bytes)
        runs, begun = [], time.monotonic()
        with sampled(cluster, min(2.0, total / 20)) as samples:
            while (left := total - (time.monotonic() - begun)) > 0.5:
                runs.append(cluster.bench("--op", "put", keys=keys, value_bytes=value_bytes, seconds=min(span(20), left), warmup="0s"))
        end = samples[-1][0]
        disk, last = [one[1] for one in samples], [one for one in samples if one[0] >= 0.7 * end]
        name = f"{keys} keys of {value_bytes} bytes, {MINUTES:g} minutes of overwrites"
        say(f"directory in MB of the largest node, {name}", live=live, most=max(disk), end=disk[-1],
            most_less_256_to_live=Goal((max(disk) - SPARE_MB) / live, most=5), slope_mb_per_minute_of_the_last_three_tenths=slope(last))
        say(f"memory in MB of the largest node, {name}", most=Goal(max(one[2] for one in samples), most=700), end=samples[-1][2])
        p99 = [run["put"]["p99_ms"] for run in runs]
        say(f"puts, {name}, in runs of {span(20):g} s", rate=median(rate(run) for run in runs), p99_median_ms=median(p99), p99_worst_ms=max(p99),
            worst_to_median=Goal(ratio(max(p99), median(p99)), most=2))
        time.sleep(REST)
        rest = cluster.largest("disk_mb")
        say(f"directory in MB of the largest node, {REST:g} s after that", size=rest, less_256_to_live=Goal((rest - SPARE_MB) / live, most=3))
        say_restart(cluster, say, f"after that, {keys} keys", 5)


def space(huskv, out, say):
    """Overwrites of a million keys."""
    overwrites(huskv, out, say, MANY, BYTES)


def small(huskv, out, say):
    """Overwrites of 300 000 keys of 100 bytes."""
    overwrites(huskv, out, say, max(1, MANY * 3 // 10), 100)


def deleted(huskv, out, say):
    """The directory after a thousand bytes a key, 1 GB in all, are put and deleted, and the start of what is left."""
    with Cluster(huskv, out) as cluster:
        cluster.load(MANY, value_bytes=1_000)
        full, begun, left = cluster.largest("disk_mb"), time.monotonic(), True
        while left:
            left = ask(cluster.led().address, "/store?prefix=bench-", method="DELETE", timeout=30)["data"]["more"]
        took, at_once = time.monotonic() - begun, cluster.largest("disk_mb")
        time.sleep(REST)
        say(f"directory in MB of the largest node, {MANY * 1_000 / 1e9:g} GB put and deleted", full=full, deleted=at_once, deletion_s=took,
            at_rest=Goal(cluster.largest("disk_mb"), most=SPARE_MB))
        say_restart(cluster, say, "after that, no keys", 1)


def expired(huskv, out, say):
    """The directory after a thousand bytes a key, 1 GB in all, have expired."""
    ttl, batch = 60, 100
    with Cluster(huskv, out) as cluster:
        address = cluster.led().address

        def put(first):
            keys = range(first, min(first + batch, MANY))
            then = [{"op": "put", "key": f"bench-{key:010}", "value": f"{key:01000}", "ttl": ttl} for key in keys]
            ask(address, "/txn", {"then": then}, timeout=60)

        with ThreadPoolExecutor(8) as clients:
            list(clients.map(put, range(0, MANY, batch)))
        full = cluster.largest("disk_mb")
        took = until(ttl + 300, "all keys have expired", lambda: not ask(address, "/store?prefix=bench-&limit=1&keys")["data"]["items"])[1]
        at_once = cluster.largest("disk_mb")
        time.sleep(REST)
        say(f"directory in MB of the largest node, {MANY * 1_000 / 1e9:g} GB put with a ttl of {ttl} s and expired", full=full, expired=at_once,
            from_the_last_put_s=took, at_rest=Goal(cluster.largest("disk_mb"), most=SPARE_MB))


MEASURES = (reads, scrape, syncs, failover, five, growth, pages, checkpoints, joins, restarts, space, small, deleted, expired)


def shown(figure):
    if isinstance(figure, list):
        return [shown(one) for one in figure]
    return round(figure, 3 if abs(figure) < 10 else 0) if isinstance(figure, float) else figure


def main():
    measures = {one.__name__: one for one in MEASURES}
    words = sys.argv[1:]
    out = Path(words.pop(0) if words and "/" in words[0] else ROOT / "target" / "measure")
    if unknown := [word for word in words if word not in measures]:
        sys.exit(f"measure.py: {unknown[0]} is none of {' '.join(measures)}")
    out.mkdir(parents=True, exist_ok=True)
    huskv = built("HUSKV")

    def say(what, **figures):
        line, record = [], {"what": what}
        for name, figure in figures.items():
            goal = figure if isinstance(figure, Goal) else None
            record[name] = shown(float(goal.figure) if goal else figure)
            line.append(f"{name} {record[name]}")
            if goal:
                record |= {f"{name}_target": goal.target(), f"{name}_met": goal.met()}
                line[-1] += f" (target {goal.target()}: {'met' if goal.met() else 'missed'})"
        print(what + ": " + ", ".join(line), flush=True)
        with open(out / "measure.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")

    for word in words or measures:
        measures[word](huskv, out, say)


main()
