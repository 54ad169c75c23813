"""Tables and chart of scripts/compare.sh.

Usage: compare.py FOLDER     reads runs.jsonl and disk.json there, writes table.md and chart.svg
"""

import json
import platform
import sys
from pathlib import Path
from statistics import median

# In the order of the tables; warp has no store, so the chart leaves it out.
SYSTEMS = {"huskv": "#1f6f8b", "etcd": "#c7622b", "etcd-grpc": "#7a4fa3", "warp": None}
NAMES = {"huskv": "huskv", "etcd": "etcd, JSON gateway", "etcd-grpc": "etcd, gRPC", "warp": "bare warp"}


def medians(runs):
    """(system, op, clients) -> figure -> median over the rounds."""
    groups = {}
    for run in runs:
        groups.setdefault((run["system"], run["op"], run["clients"]), []).append(run)
    return {
        key: {
            "rate": median(run["ops_per_second"] for run in group),
            "p99": median(run[key[1]]["p99_ms"] for run in group),
            "cpu": median(run.get("server_cpu_us_per_op", 0) for run in group),
            "threads": by_thread(group),
            "failed": sum(run["failed"] for run in group),
            "busy": any(run["generator_busy"] for run in group),
            "rounds": len(group),
        }
        for key, group in groups.items()
    }


def by_thread(group):
    """Name of the threads -> median of their CPU."""
    each = [run.get("cpu_us_per_op_by_thread", {}) for run in group]
    return {name: median(one.get(name, 0) for one in each) for name in {name for one in each for name in one}}


def ordered(seen):
    place = list(SYSTEMS).index
    return sorted(seen.items(), key=lambda item: (item[0][1] != "put", item[0][2], place(item[0][0])))


def times(one, other, figure):
    """`one` in multiples of `other`."""
    return f"{one[figure] / other[figure]:.2f}x" if one and other and other[figure] else ""


def head(columns):
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def table(seen, disk, runs):
    rounds = max(row["rounds"] for row in seen.values())
    lines = [
        f"Medians of {rounds} rounds of {runs[0]['seconds']:g} s, three nodes and the generator on one machine "
        f"({platform.machine()}, Linux), {runs[0]['keys']} keys, {runs[0]['value_bytes']}-byte values, asking the leader. "
        f"The disk does {disk['disk']['syncs_per_second']:.0f} fdatasync/s.",
        "",
    ]
    lines += head(["", "clients", "op/s", "p99 ms", "server CPU us/op", "op/s against gateway", "p99 against gateway",
                   "op/s against gRPC", "p99 against gRPC"])
    for (system, op, clients), row in ordered(seen):
        ratios = []
        for other in ("etcd", "etcd-grpc"):
            other = seen.get((other, op, clients)) if system == "huskv" else None
            ratios += [times(row, other, "rate"), times(row, other, "p99")]
        notes = f" ({row['failed']} failed)" if row["failed"] else ""
        notes += " (generator busy)" if row["busy"] else ""
        cells = [f"{NAMES[system]}: {op}{notes}", f"{clients}", f"{row['rate']:.0f}", f"{row['p99']:.2f}", f"{row['cpu']:.0f}"]
        lines.append(f"| {' | '.join(cells + ratios)} |")
    return "\n".join(lines + against_warp(seen) + threads(seen)) + "\n"


def against_warp(seen):
    """huskv in multiples of a server without a store, which costs what HTTP costs."""
    rows = []
    for (system, op, clients), row in ordered(seen):
        bare = seen.get(("warp", op, clients))
        if system != "huskv" or not bare or not bare["cpu"]:
            continue
        consensus = row["threads"].get("consensus", 0) / bare["cpu"]
        rate = row["rate"] / bare["rate"]
        rows.append(f"| {op} | {clients} | {times(row, bare, 'cpu')} | {consensus:.2f}x | {100 * rate:.0f} % |")
    if not rows:
        return []
    caption = "huskv against bare warp at the same operation and number of clients:"
    return ["", caption, "", *head(["", "clients", "server CPU", "of it consensus threads", "op/s"]), *rows]


def threads(seen):
    """Server CPU of huskv by thread, each node's together."""
    rows = [(key, row) for key, row in ordered(seen) if key[0] == "huskv" and row["threads"]]
    if not rows:
        return []
    names = {name for _, row in rows for name, cpu in row["threads"].items() if cpu >= 0.01 * row["cpu"]} - {"other"}
    names = sorted(names, key=lambda name: -sum(row["threads"].get(name, 0) for _, row in rows))
    lines = ["", "Server CPU of huskv by thread, us/op:", "", *head(["", "clients", *names, "other"])]
    for (_, op, clients), row in rows:
        named = [row["threads"].get(name, 0) for name in names]
        other = sum(cpu for name, cpu in row["threads"].items() if name not in names)
        lines.append(f"| {op} | {clients} | {' | '.join(f'{cpu:.1f}' for cpu in [*named, other])} |")
    return lines


def shown(number):
    """Formats a number for the end of an axis."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}"


def panel(out, seen, op, figure, title, left, top):
    """One chart: a line for each system over the numbers of clients."""
    width, height = 300, 180
    counts = sorted({key[2] for key in seen if key[1] == op})
    most = max(row[figure] for key, row in seen.items() if key[1] == op) or 1
    out.append(f'<text x="{left}" y="{top - 10}" font-weight="bold">{title}</text>')
    out.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>')
    step = width / max(len(counts) - 1, 1)
    for place, count in enumerate(counts):
        out.append(f'<text x="{left + place * step:.0f}" y="{top + height + 16}" text-anchor="middle">{count}</text>')
    out.append(f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{shown(most)}</text>')
    out.append(f'<text x="{left - 6}" y="{top + height}" text-anchor="end">0</text>')
    for system, colour in SYSTEMS.items():
        points = [
            (left + place * step, top + height * (1 - seen[(system, op, count)][figure] / most))
            for place, count in enumerate(counts)
            if (system, op, count) in seen
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)


def chart(seen):
    seen = {key: row for key, row in seen.items() if SYSTEMS[key[0]]}
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="800" height="580" font-family="sans-serif" font-size="12">']
    out.append('<rect width="800" height="580" fill="white"/>')
    for row, op in enumerate(("put", "get")):
        top = 50 + row * 250
        panel(out, seen, op, "rate", f"{op}: operations a second", 70, top)
        panel(out, seen, op, "p99", f"{op}: p99 in ms", 470, top)
    present = {key[0] for key in seen}
    for place, system in enumerate(system for system in SYSTEMS if system in present):
        out.append(f'<rect x="{70 + place * 140}" y="545" width="14" height="14" fill="{SYSTEMS[system]}"/>')
        out.append(f'<text x="{90 + place * 140}" y="557">{NAMES[system]}</text>')
    out.append('<text x="500" y="557">across: clients</text></svg>')
    return "\n".join(out) + "\n"


def main():
    folder = Path(sys.argv[1])
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    seen = medians(runs)
    (folder / "table.md").write_text(table(seen, json.loads((folder / "disk.json").read_text()), runs))
    (folder / "chart.svg").write_text(chart(seen))


main()
