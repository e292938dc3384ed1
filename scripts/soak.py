#!/usr/bin/env python3
"""Runs segd for a while under clients that come, go, freeze and send garbage, and records its memory, files and
frames each second. Writes OUT.csv, OUT.svg and OUT.json; ends with an error if memory or files grow, frames stop, or
segd does not end well.

The first 40 % of the time is left out of the slopes: what it settles at counts, not what the first clients cost.

SIGTERM ends it before its time, with what was recorded.

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

from monitored import free_port, metrics


class Clients:
    """The crowd: each second it does one thing at random."""

    def __init__(self, port, http, seed):
        self.port, self.http, self.random = port, http, random.Random(seed)
        self.viewers, self.frozen, self.half_open = [], [], []
        self.done, self.came = {}, 0

    def viewer(self, transport):
        return subprocess.Popen(
            ["ffmpeg", "-nostdin", "-loglevel", "quiet", "-rtsp_transport", transport]
            + ["-i", f"rtsp://127.0.0.1:{self.port}/segd", "-c", "copy", "-f", "null", "-"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def step(self):
        deed = self.random.choice(["come", "come", "go", "kill", "freeze", "thaw", "half", "garbage", "headers", "vanish", "rest"])
        self.done[deed] = self.done.get(deed, 0) + 1
        if deed == "come" and len(self.viewers) < 6:
            self.viewers.append(self.viewer(self.random.choice(["tcp", "udp"])))
            self.came += 1
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
        elif deed == "thaw" and self.frozen:
            viewer, _ = self.frozen.pop(0)
            viewer.send_signal(signal.SIGCONT)
            self.viewers.append(viewer)
        elif deed == "half":
            for _ in range(self.random.randrange(1, 20)):
                self.connect(b"DESCRIBE rtsp://x RTSP/1.0\r\nCSeq:")
        elif deed == "garbage":
            self.connect(self.random.randbytes(self.random.randrange(1, 65536)))
            self.connect(self.random.randbytes(self.random.randrange(1, 4096)), self.http)
        elif deed == "headers":
            line = b"X-%d: " % self.random.randrange(1000) + b"y" * 2000 + b"\r\n"
            self.connect(b"OPTIONS * RTSP/1.0\r\n" + line * self.random.randrange(1, 500))
        elif deed == "vanish":
            for _ in range(self.random.randrange(1, 4)):
                self.vanish()
        for viewer, until in self.frozen[:]:
            if time.time() > until:
                viewer.kill()
                viewer.wait()
                self.frozen.remove((viewer, until))
        self.viewers = [v for v in self.viewers if v.poll() is None]
        while len(self.half_open) > 200:
            self.half_open.pop(0).close()

    def connect(self, data, port=None):
        try:
            s = socket.create_connection(("127.0.0.1", port or self.port), timeout=1)
            s.settimeout(0.2)
            s.sendall(data)
            self.half_open.append(s)
        except OSError:
            pass

    def vanish(self):
        """Watches through the RTSP connection and goes in the middle of a packet."""
        url = f"rtsp://127.0.0.1:{self.port}/segd"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as s:
                answers = s.makefile("rb")

                def ask(request):
                    s.sendall(request.encode() + b"\r\n\r\n")
                    lines = {}
                    while line := answers.readline().decode().strip():
                        name, _, value = line.partition(": ")
                        lines[name] = value
                    answers.read(int(lines.get("Content-Length", 0)))
                    return lines

                ask(f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1")
                transport = "RTP/AVP/TCP;unicast;interleaved=0-1"
                session = ask(f"SETUP {url}/stream=0 RTSP/1.0\r\nCSeq: 2\r\nTransport: {transport}").get("Session", "")
                ask(f"PLAY {url} RTSP/1.0\r\nCSeq: 3\r\nSession: {session.split(';')[0]}")
                time.sleep(self.random.uniform(0, 0.1))
        except (OSError, ValueError):
            # Refused: there are as many as may watch.
            pass

    def end(self):
        for viewer in self.viewers + [v for v, _ in self.frozen]:
            viewer.kill()
            viewer.wait()
        for s in self.half_open:
            s.close()


# What memory and files may grow by over the time that counts, by the least-squares line through all samples. Clients
# that come and go move both by more than that, up and down.
MAX_RSS_GROWTH_MIB = 6.0
MAX_FDS_GROWTH = 12.0


def slope(points):
    """Least-squares slope of (seconds, value), per second."""
    n = len(points)
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    var = sum((x - mx) ** 2 for x, _ in points)
    return sum((x - mx) * (y - my) for x, y in points) / var if var else 0.0


def plot(path, series):
    """Small multiples as an SVG: name -> [(seconds, value)]."""
    width, height, pad = 900, 160, 50
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(series)}" '
             'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for row, (name, points) in enumerate(series.items()):
        top = row * height
        xs, ys = [x for x, _ in points], [y for _, y in points]
        low, high = 0, max(ys) * 1.1 or 1
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
        stderr=log,
        env={"ORT_DYLIB_PATH": os.path.abspath(".ort/libonnxruntime.so")}
        | {k: v for k, v in os.environ.items() if not k.startswith("SEGD_")})
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    crowd, rows, began = Clients(rtsp, http, args.seed), [], time.time()
    failures, after = [], None
    try:
        while not rows:
            try:
                if metrics(http)['segd_frames_composed_total{camera="segd"}'] > 0:
                    break
            except (OSError, KeyError):
                pass
            if segd.poll() is not None or time.time() - began > 90:
                sys.exit(f"segd does not start: see {args.out}.log")
            time.sleep(0.5)
        began = time.time()
        at_rest = metrics(http)
        while time.time() - began < 60 * args.minutes:
            crowd.step()
            if segd.poll() is not None:
                failures.append(f"segd has ended with {segd.returncode}")
                break
            try:
                m = metrics(http)
            except OSError as e:
                failures.append(f"no answer over HTTP after {time.time() - began:.0f} s: {e}")
                break
            rows.append({
                "seconds": round(time.time() - began, 1),
                "rss_mib": round(m["process_resident_memory_bytes"] / 2**20, 2),
                "fds": int(m["process_open_fds"]),
                "clients": int(m['segd_clients{camera="segd"}']),
                "composed": int(m['segd_frames_composed_total{camera="segd"}']),
                "healthy": int(m['segd_healthy{camera="segd"}']),
            })
            time.sleep(max(0, began + len(rows) - time.time()))
    except KeyboardInterrupt:
        pass
    finally:
        crowd.end()
        if segd.poll() is None:
            # Sessions of clients that were killed time out after 30 s.
            time.sleep(40)
            try:
                after = metrics(http)
            except OSError as e:
                failures.append(f"no answer over HTTP at the end: {e}")
            segd.terminate()
            try:
                if segd.wait(10) != 0:
                    failures.append(f"segd ended with {segd.returncode}")
            except subprocess.TimeoutExpired:
                segd.kill()
                failures.append("segd did not end within 10 s")
    with open(args.out + ".csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    seconds = [r["seconds"] for r in rows]
    series = {k: list(zip(seconds, (r[k] for r in rows))) for k in ("rss_mib", "fds", "clients")}
    series["fps"] = [(b["seconds"], (b["composed"] - a["composed"]) / (b["seconds"] - a["seconds"]))
                     for a, b in zip(rows, rows[10:]) if b["seconds"] > a["seconds"]]
    plot(args.out + ".svg", series)
    settled = seconds[-1] * 0.4
    growth = {k: slope([p for p in series[k] if p[0] > settled]) * (seconds[-1] - settled) for k in ("rss_mib", "fds")}
    report = {
        "minutes": round(seconds[-1] / 60, 1),
        "deeds": crowd.done,
        "viewers_that_came": crowd.came,
        "rss_mib_first_mean_last": [rows[0]["rss_mib"], round(sum(r["rss_mib"] for r in rows) / len(rows), 1), rows[-1]["rss_mib"]],
        "rss_growth_mib": round(growth["rss_mib"], 2),
        "rss_slope_mib_per_hour": round(3600 * growth["rss_mib"] / (seconds[-1] - settled), 2),
        "fds_growth": round(growth["fds"], 2),
        "slowest_fps_over_10_s": round(min(y for _, y in series["fps"]), 1) if series["fps"] else 0,
        "unhealthy_samples": sum(1 for r in rows if not r["healthy"]),
    }
    if after:
        report["rss_mib_at_rest"] = [round(m["process_resident_memory_bytes"] / 2**20, 1) for m in (at_rest, after)]
        report["fds_at_rest"] = [int(m["process_open_fds"]) for m in (at_rest, after)]
        if after["process_open_fds"] > at_rest["process_open_fds"] + 4:
            failures.append("files are left open")
        if after['segd_clients{camera="segd"}'] > 0:
            failures.append("clients are counted that have gone")
    if growth["rss_mib"] > MAX_RSS_GROWTH_MIB:
        failures.append(f"memory grows: {growth['rss_mib']:.1f} MiB over the last 60 % of the time")
    if growth["fds"] > MAX_FDS_GROWTH:
        failures.append(f"open files grow: {growth['fds']:.1f} over the last 60 % of the time")
    if report["slowest_fps_over_10_s"] <= 0:
        failures.append("no frame for 10 s")
    report["failures"] = failures
    text = json.dumps(report, indent=2)
    open(args.out + ".json", "w").write(text + "\n")
    print(text)
    if failures:
        sys.exit("; ".join(failures))


main()
