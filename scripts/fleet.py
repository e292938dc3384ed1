#!/usr/bin/env python3
"""What a broker and a Prometheus on this machine take for many segds: starts both, and stand-ins that speak as segd does
(examples/fleet.rs), and measures each for a while. Everything at loopback. Needs mosquitto, mosquitto-clients, prometheus.

    cargo build --release --example fleet
    scripts/fleet.py --counts 10,100,1000 --seconds 60 --svg docs/images/fleet.svg
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BROKER, PROMETHEUS, FIRST = 18831, 18832, 20000
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def broker_counts():
    """Messages and bytes that the broker has had, in and out."""
    names = ["messages/received", "messages/sent", "bytes/received", "bytes/sent"]
    counts = {}
    for name in names:
        out = subprocess.run(["mosquitto_sub", "-p", str(BROKER), "-t", f"$SYS/broker/{name}", "-C", "1", "-W", "10"],
                             capture_output=True, text=True, check=True)
        counts[name] = int(out.stdout)
    return counts


def asked(query):
    """The value of a query that has one."""
    url = f"http://127.0.0.1:{PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=20) as answer:
        result = json.load(answer)["data"]["result"]
    return float(result[0]["value"][1]) if result else float("nan")


def measure(count, args, work):
    """One line of the table."""
    folder = work / str(count)
    folder.mkdir()
    (folder / "mosquitto.conf").write_text(
        f"listener {BROKER} 127.0.0.1\nallow_anonymous true\nsys_interval 1\nlog_type error\nmax_queued_messages 10000\n")
    targets = [f"127.0.0.1:{FIRST + number}" for number in range(count)]
    (folder / "prometheus.json").write_text(json.dumps({
        "global": {"scrape_interval": f"{args.scrape}s"},
        "scrape_configs": [{"job_name": "segd", "static_configs": [{"targets": targets}]},
                           {"job_name": "self", "static_configs": [{"targets": [f"127.0.0.1:{PROMETHEUS}"]}]}]}))
    running = []

    def start(*command, **options):
        running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, **options))
        return running[-1]

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        broker = start("mosquitto", "-c", str(folder / "mosquitto.conf"), **quiet)
        time.sleep(1)
        total = int(args.settle + args.seconds) + 60
        segds = start(str(args.fleet), "--count", str(count), "--first-port", str(FIRST), "--broker", str(BROKER), "--seconds",
                      str(total), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        # One that reads all, as Home Assistant does.
        start("mosquitto_sub", "-p", str(BROKER), "-t", "#", "-q", "1", **quiet)
        line = segds.stdout.readline()
        if line.split() != ["started", str(count)]:
            sys.exit(f"fleet.py: {count} stand-ins did not start: {line!r}")
        prometheus = start("prometheus", f"--config.file={folder / 'prometheus.json'}", f"--storage.tsdb.path={folder / 'tsdb'}",
                           f"--web.listen-address=127.0.0.1:{PROMETHEUS}", **quiet)
        time.sleep(args.settle)
        names = {"broker": broker.pid, "prometheus": prometheus.pid, "segds": segds.pid}
        before = {name: cpu_seconds(pid) for name, pid in names.items()}
        messages, began = broker_counts(), time.monotonic()
        time.sleep(args.seconds)
        after, seconds = broker_counts(), time.monotonic() - began
        row = {"segds": count, "seconds": seconds}
        for name, pid in names.items():
            row[f"{name}_cores"] = (cpu_seconds(pid) - before[name]) / seconds
            row[f"{name}_mib"] = rss_mib(pid)
        row["in_s"] = (after["messages/received"] - messages["messages/received"]) / seconds
        row["out_s"] = (after["messages/sent"] - messages["messages/sent"]) / seconds
        row["kbit_s"] = (after["bytes/received"] - messages["bytes/received"]) * 8 / 1000 / seconds
        row["up"] = asked('sum(up{job="segd"})')
        row["series"] = asked('sum(scrape_samples_post_metric_relabeling{job="segd"})')
        row["scrape_s"] = asked('quantile(0.99, scrape_duration_seconds{job="segd"})')
        if row["up"] != count:
            sys.exit(f"fleet.py: Prometheus reaches {row['up']} of {count}")
        return row
    finally:
        for one in reversed(running):
            one.terminate()
        for one in running:
            one.wait()


def svg(rows, path):
    """CPU of broker and Prometheus by number of segds, both axes logarithmic."""
    import math
    width, height, left, bottom = 640, 360, 70, 50
    lines = [("mosquitto", "broker_cores", "#d62728"), ("Prometheus", "prometheus_cores", "#1f77b4")]
    values = [max(row[key], 1e-4) for row in rows for _, key, _ in lines]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    first, last = math.log10(rows[0]["segds"]), math.log10(rows[-1]["segds"])

    def x(count):
        return left + (width - left - 20) * (math.log10(count) - first) / max(last - first, 1e-9)

    def y(value):
        return 20 + (height - bottom - 20) * (high - math.log10(max(value, 1e-4))) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for power in range(low, high + 1):
        at = y(10.0 ** power)
        out.append(f'<path d="M{left} {at:.1f}H{width - 20}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>')
    for row in rows:
        out.append(f'<text x="{x(row["segds"]):.1f}" y="{height - bottom + 20}" text-anchor="middle">{row["segds"]}</text>')
    out.append(f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">segds</text>')
    out.append(f'<text x="16" y="{height / 2}" text-anchor="middle" transform="rotate(-90 16 {height / 2})">cores</text>')
    for number, (name, key, colour) in enumerate(lines):
        points = " ".join(f"{x(row['segds']):.1f},{y(row[key]):.1f}" for row in rows)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(row["segds"]):.1f}" cy="{y(row[key]):.1f}" r="3.5" fill="{colour}"/>' for row in rows]
        out.append(f'<text x="{left + 16}" y="{40 + 18 * number}" fill="{colour}">{name}</text>')
    path.write_text("\n".join(out + ["</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="10,100,1000", help="how many segds, one table row each")
    parser.add_argument("--seconds", type=float, default=60, help="how long each is measured")
    parser.add_argument("--settle", type=float, default=30, help="how long each runs before that")
    parser.add_argument("--scrape", type=int, default=15, help="seconds between two scrapes of one segd")
    parser.add_argument("--fleet", type=pathlib.Path, default=ROOT / "target/release/examples/fleet", help="the stand-ins' program")
    parser.add_argument("--svg", type=pathlib.Path, help="where to draw a plot")
    args = parser.parse_args()
    counts = [int(one) for one in args.counts.split(",")]
    for tool in ["mosquitto", "mosquitto_sub", "prometheus"]:
        if not shutil.which(tool):
            sys.exit(f"fleet.py: {tool} is missing: apt install mosquitto mosquitto-clients prometheus")
    if not args.fleet.exists():
        sys.exit(f"fleet.py: there is no {args.fleet}: cargo build --release --example fleet")
    # Some ten descriptors each.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for count in counts:
            rows.append(measure(count, args, pathlib.Path(work)))
            print(json.dumps(rows[-1]), file=sys.stderr)
    print("| segds | messages in/s | out/s | in kbit/s | mosquitto, cores | MiB | series | Prometheus, cores | MiB | scrape p99, ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['segds']} | {row['in_s']:.1f} | {row['out_s']:.1f} | {row['kbit_s']:.0f} | {row['broker_cores']:.4f} | "
              f"{row['broker_mib']:.0f} | {row['series']:.0f} | {row['prometheus_cores']:.3f} | {row['prometheus_mib']:.0f} | "
              f"{1000 * row['scrape_s']:.0f} |")
    if args.svg:
        svg(rows, args.svg)


main()
