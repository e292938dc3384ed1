#!/usr/bin/env python3
"""Runs segd for a while under clients that come, go, freeze and send garbage, and records its memory, files and
frames each second. Writes soak.csv and soak.svg; ends with an error if memory or files grow, or frames stop.

Usage: scripts/soak.py [--minutes 45] [--segd target/release/segd] [--out soak]
"""

import argparse
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def metrics(port):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values


class Clients:
    """The crowd: each second it does one thing at random."""

    def __init__(self, port, seed):
        self.port, self.random = port, random.Random(seed)
        self.viewers, self.frozen, self.half_open = [], [], []
        self.done = {}

    def viewer(self, transport):
        return subprocess.Popen(
            ["ffmpeg", "-nostdin", "-loglevel", "quiet", "-rtsp_transport", transport]
            + ["-i", f"rtsp://127.0.0.1:{self.port}/segd", "-c", "copy", "-f", "null", "-"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def step(self):
        deed = self.random.choice(["come", "come", "go", "kill", "freeze", "thaw", "half", "garbage", "headers", "rest"])
        self.done[deed] = self.done.get(deed, 0) + 1
        if deed == "come" and len(self.viewers) < 6:
            self.viewers.append(self.viewer(self.random.choice(["tcp", "udp"])))
        elif deed in ("go", "kill") and self.viewers:
            viewer = self.viewers.pop(self.random.randrange(len(self.viewers)))
            viewer.send_signal(signal.SIGINT if deed == "go" else signal.SIGKILL)
            try:
                viewer.wait(5)
            except subprocess.TimeoutExpired:
                viewer.kill()
                viewer.wait()
        elif deed == "freeze" and self.viewers and len(self.frozen) < 3:
            viewer = self.viewers.pop()
            viewer.send_signal(signal.SIGSTOP)
            self.frozen.append((viewer, time.time() + self.random.uniform(5, 60)))
        elif deed == "half":
            for _ in range(self.random.randrange(1, 20)):
                self.connect(b"DESCRIBE rtsp://x RTSP/1.0\r\nCSeq:")
        elif deed == "garbage":
            self.connect(self.random.randbytes(self.random.randrange(1, 65536)))
        elif deed == "headers":
            line = b"X-%d: " % self.random.randrange(1000) + b"y" * 2000 + b"\r\n"
            self.connect(b"OPTIONS * RTSP/1.0\r\n" + line * self.random.randrange(1, 500))
        for viewer, until in self.frozen[:]:
            if time.time() > until:
                viewer.kill()
                viewer.wait()
                self.frozen.remove((viewer, until))
        self.viewers = [v for v in self.viewers if v.poll() is None]
        while len(self.half_open) > 200:
            self.half_open.pop(0).close()

    def connect(self, data):
        try:
            s = socket.create_connection(("127.0.0.1", self.port), timeout=1)
            s.settimeout(0.2)
            s.sendall(data)
            self.half_open.append(s)
        except OSError:
            pass

    def end(self):
        for viewer in self.viewers + [v for v, _ in self.frozen]:
            viewer.kill()
            viewer.wait()
        for s in self.half_open:
            s.close()


def slope(points):
    """Least-squares slope of (seconds, value), per hour."""
    n = len(points)
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    var = sum((x - mx) ** 2 for x, _ in points)
    return 3600 * sum((x - mx) * (y - my) for x, y in points) / var if var else 0.0


def plot(path, series):
    """Small multiples as an SVG: name -> [(seconds, value)]."""
    width, height, pad = 900, 160, 50
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(series)}" '
             'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for row, (name, points) in enumerate(series.items()):
        top = row * height
        xs, ys = [x for x, _ in points], [y for _, y in points]
        low, high = min(0, min(ys)), max(ys) * 1.1 or 1
        to = lambda x, y: (pad + (width - 2 * pad) * (x - xs[0]) / max(1, xs[-1] - xs[0]),
                           top + height - 25 - (height - 50) * (y - low) / (high - low))
        line = " ".join("%.1f,%.1f" % to(x, y) for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8"/>')
        parts.append(f'<text x="{pad}" y="{top + 15}">{name}: {ys[0]:.1f} at first, {ys[-1]:.1f} at last, '
                     f'{max(ys):.1f} at most</text>')
        parts.append(f'<text x="{width - pad}" y="{top + height - 8}" text-anchor="end">{xs[-1] / 60:.0f} min</text>')
    open(path, "w").write("".join(parts) + "</svg>\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--segd", default="target/release/segd")
    parser.add_argument("--out", default="soak")
    parser.add_argument("--input", default="test://?width=320&height=240&fps=15")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rtsp, http = free_port(), free_port()
    log = open(args.out + ".log", "w")
    segd = subprocess.Popen(
        [args.segd, "--input", args.input, "--size", "96", "--max-inferences-per-second", "5"]
        + ["--output", f"rtsp://127.0.0.1:{rtsp}/segd", "--http", f"127.0.0.1:{http}"],
        stderr=log, env={k: v for k, v in os.environ.items() if not k.startswith("SEGD_")})
    crowd, rows, began = Clients(rtsp, args.seed), [], time.time()
    failure = None
    try:
        while time.time() - began < 60:
            try:
                if metrics(http)['segd_frames_composed_total{camera="segd"}'] > 0:
                    break
            except (OSError, KeyError):
                time.sleep(0.5)
        began = time.time()
        while time.time() - began < 60 * args.minutes:
            crowd.step()
            if segd.poll() is not None:
                failure = f"segd has ended with {segd.returncode}"
                break
            m = metrics(http)
            rows.append({
                "seconds": round(time.time() - began, 1),
                "rss_mib": m["process_resident_memory_bytes"] / 2**20,
                "fds": m["process_open_fds"],
                "clients": m['segd_clients{camera="segd"}'],
                "composed": m['segd_frames_composed_total{camera="segd"}'],
                "healthy": m['segd_healthy{camera="segd"}'],
            })
            time.sleep(max(0, began + len(rows) - time.time()))
    finally:
        crowd.end()
        if segd.poll() is None:
            time.sleep(20)
            after = metrics(http)
            segd.terminate()
            segd.wait(10)
    with open(args.out + ".csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    seconds = [r["seconds"] for r in rows]
    series = {k: list(zip(seconds, (r[k] for r in rows))) for k in ("rss_mib", "fds", "clients")}
    series["fps"] = [(b["seconds"], (b["composed"] - a["composed"]) / (b["seconds"] - a["seconds"]))
                     for a, b in zip(rows, rows[10:]) if b["seconds"] > a["seconds"]]
    plot(args.out + ".svg", series)
    # What it settles at counts, not what the first clients cost.
    tail = lambda k: [p for p in series[k] if p[0] > seconds[-1] * 0.4]
    report = {
        "minutes": seconds[-1] / 60,
        "deeds": crowd.done,
        "rss_slope_mib_per_hour": round(slope(tail("rss_mib")), 2),
        "fds_slope_per_hour": round(slope(tail("fds")), 2),
        "rss_mib_at_rest_after": round(after["process_resident_memory_bytes"] / 2**20, 1) if not failure else None,
        "fds_at_rest_after": after["process_open_fds"] if not failure else None,
        "slowest_fps_over_10_s": round(min(y for _, y in series["fps"]), 1),
        "unhealthy_samples": sum(1 for r in rows if not r["healthy"]),
    }
    print(json.dumps(report, indent=2))
    if failure:
        sys.exit(failure)
    if report["slowest_fps_over_10_s"] <= 0:
        sys.exit("no frame for 10 s")
    if after["process_open_fds"] > rows[0]["fds"] + 10:
        sys.exit("files are left open")


main()
