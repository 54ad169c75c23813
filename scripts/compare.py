"""Table and chart of scripts/compare.sh.

Usage: compare.py FOLDER     reads runs.jsonl and disk.json there, writes table.md and chart.svg
"""

import json
import platform
import sys
from pathlib import Path
from statistics import median

COLOURS = {"huskv": "#1f6f8b", "etcd": "#c7622b"}


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
            "failed": sum(run["failed"] for run in group),
            "busy": any(run["generator_busy"] for run in group),
            "rounds": len(group),
        }
        for key, group in groups.items()
    }


def table(seen, disk, runs):
    rounds = max(row["rounds"] for row in seen.values())
    lines = [
        f"Medians of {rounds} rounds of {runs[0]['seconds']:g} s, three nodes and the generator on one machine "
        f"({platform.machine()}, Linux), {runs[0]['keys']} keys, {runs[0]['value_bytes']}-byte values, asking the leader. "
        f"etcd through its HTTP/JSON gateway; its gRPC port, which is faster, is not measured here. The disk does {disk['disk']['syncs_per_second']:.0f} fdatasync/s.",
        "",
        "| | clients | op/s | p99 ms | server CPU us/op | op/s against etcd | p99 against etcd |",
        "|---|---|---|---|---|---|---|",
    ]
    for (system, op, clients), row in sorted(seen.items(), key=lambda item: (item[0][1] != "put", item[0][2], item[0][0] != "huskv")):
        other = seen.get(("etcd", op, clients))
        ratios = ["", ""]
        if system == "huskv" and other:
            ratios = [f"{row['rate'] / other['rate']:.2f}x", f"{row['p99'] / other['p99']:.2f}x"]
        notes = f" ({row['failed']} failed)" if row["failed"] else ""
        notes += " (generator busy)" if row["busy"] else ""
        lines.append(
            f"| {system} {op}{notes} | {clients} | {row['rate']:.0f} | {row['p99']:.2f} | {row['cpu']:.0f} | {ratios[0]} | {ratios[1]} |"
        )
    return "\n".join(lines) + "\n"


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
    for system in sorted({key[0] for key in seen}):
        points = [
            (left + place * step, top + height * (1 - seen[(system, op, count)][figure] / most))
            for place, count in enumerate(counts)
            if (system, op, count) in seen
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[system]}" stroke-width="2"/>')
        out.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[system]}"/>' for x, y in points)


def chart(seen):
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="800" height="580" font-family="sans-serif" font-size="12">']
    out.append('<rect width="800" height="580" fill="white"/>')
    for row, op in enumerate(("put", "get")):
        top = 50 + row * 250
        panel(out, seen, op, "rate", f"{op}: operations a second", 70, top)
        panel(out, seen, op, "p99", f"{op}: p99 in ms", 470, top)
    for place, system in enumerate(sorted({key[0] for key in seen})):
        out.append(f'<rect x="{70 + place * 100}" y="545" width="14" height="14" fill="{COLOURS[system]}"/>')
        out.append(f'<text x="{90 + place * 100}" y="557">{system}</text>')
    out.append('<text x="470" y="557">across: clients</text></svg>')
    return "\n".join(out) + "\n"


def main():
    folder = Path(sys.argv[1])
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    seen = medians(runs)
    (folder / "table.md").write_text(table(seen, json.loads((folder / "disk.json").read_text()), runs))
    (folder / "chart.svg").write_text(chart(seen))


main()
