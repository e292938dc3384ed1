#!/usr/bin/env python3
"""Runs segd on a clip in a loop, at its own pace and with one RTSP client, and records memory, frames, drops, the age
of masks and CPU time. Writes OUT.csv and OUT.svg, and prints a summary.

Usage: scripts/steady.py --input CLIP [--minutes 30] [--segd target/release/segd] [--out steady] [segd's arguments ...]
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time

from monitored import free_port, metrics

# The age of the mask shown is looked at this often; all else is written down every PERIOD seconds.
LOOK_S, PERIOD_S = 0.2, 10
CAMERA = '{camera="segd"}'


def dropped(m):
    return sum(value for name, value in m.items() if name.startswith("segd_frames_dropped_total"))


def start(args, rtsp, http):
    command = [args.segd, "--input", args.input, "--loop", "--output", f"rtsp://127.0.0.1:{rtsp}/segd"]
    segd = subprocess.Popen(command + ["--http", f"127.0.0.1:{http}", *args.segd_arguments],
                            stderr=open(args.out + ".log", "w"))
    until = time.time() + 60
    while time.time() < until:
        try:
            if metrics(http)[f"segd_frames_composed_total{CAMERA}"] > 0:
                return segd
        except (OSError, KeyError):
            pass
        if segd.poll() is not None:
            break
        time.sleep(0.2)
    segd.kill()
    sys.exit(f"segd does not start: see {args.out}.log")


def record(args, segd, http, client):
    rows, ages, began, written = [], [], time.time(), time.time()
    before = metrics(http)
    while time.time() - began < 60 * args.minutes:
        time.sleep(LOOK_S)
        if segd.poll() is not None:
            sys.exit(f"segd has ended with {segd.returncode}: see {args.out}.log")
        if client.poll() is not None:
            sys.exit(f"the client has ended with {client.returncode}")
        m = metrics(http)
        # NaN where no mask is shown.
        age_s = m[f"segd_mask_age_last_seconds{CAMERA}"]
        if age_s == age_s:
            ages.append(1000 * age_s)
        passed = time.time() - written
        if passed < PERIOD_S:
            continue
        frames = m[f"segd_frames_composed_total{CAMERA}"] - before[f"segd_frames_composed_total{CAMERA}"]
        inferences = m[f"segd_inferences_total{CAMERA}"] - before[f"segd_inferences_total{CAMERA}"]
        cpu_s = m["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
        rows.append({
            "seconds": round(time.time() - began, 1),
            "rss_mb": round(m["process_resident_memory_bytes"] / 1e6, 2),
            "dropped_total": int(dropped(m)),
            "mask_age_median_ms": round(statistics.median(ages), 1) if ages else 0,
            "mask_age_most_ms": round(max(ages), 1) if ages else 0,
            "frames_per_s": round(frames / passed, 2),
            "inferences_per_s": round(inferences / passed, 2),
            "cpu_ms_per_frame": round(1000 * cpu_s / max(1, frames), 2),
        })
        before, ages, written = m, [], time.time()
    return rows


def plot(path, rows):
    """One curve below the other, from 0 up."""
    width, height, pad = 900, 120, 50
    names = [name for name in rows[0] if name != "seconds"]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(names)}" '
             'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>']
    end = rows[-1]["seconds"]
    for index, name in enumerate(names):
        top, values = index * height, [row[name] for row in rows]
        most = max(values) * 1.1 or 1
        points = " ".join(
            f'{pad + (width - 2 * pad) * row["seconds"] / end:.1f},{top + height - 20 - (height - 45) * row[name] / most:.1f}'
            for row in rows)
        bottom = top + height - 20
        parts.append(f'<path d="M{pad} {bottom}H{width - pad}" stroke="#ccc"/>'
                     f'<polyline points="{points}" fill="none" stroke="#1f5fa8"/>'
                     f'<text x="{pad}" y="{top + 15}">{name.replace("_", " ")}: {values[0]:g} at first, '
                     f'{values[-1]:g} at last, {min(values):g} to {max(values):g}</text>'
                     f'<text x="{width - pad}" y="{bottom + 14}" text-anchor="end">{end / 60:.0f} min</text>')
    with open(path, "w") as file:
        file.write("\n".join(parts) + "</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--segd", default="target/release/segd")
    parser.add_argument("--out", default="steady")
    args, args.segd_arguments = parser.parse_known_args()
    os.environ.setdefault("ORT_DYLIB_PATH", os.path.abspath(".ort/libonnxruntime.so"))
    rtsp, http = free_port(), free_port()
    segd = start(args, rtsp, http)
    client = subprocess.Popen(
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-rtsp_transport", "tcp", "-i", f"rtsp://127.0.0.1:{rtsp}/segd",
         "-c", "copy", "-f", "null", "-"])
    time.sleep(5)
    try:
        rows = record(args, segd, http, client)
        final = metrics(http)
    finally:
        client.kill()
        segd.terminate()
    segd.wait(15)
    with open(args.out + ".csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    plot(args.out + ".svg", rows)
    half = rows[len(rows) // 2:]
    slope = statistics.linear_regression([r["seconds"] for r in half], [r["rss_mb"] for r in half]).slope
    frames = final[f"segd_frames_composed_total{CAMERA}"]
    print(f"{rows[-1]['seconds'] / 60:.0f} min, {frames:.0f} frames, {dropped(final):.0f} dropped; RSS {rows[0]['rss_mb']} MB at first, "
          f"{rows[-1]['rss_mb']} at last, {3600 * slope:+.2f} MB an hour over the second half; exit {segd.returncode}")


main()
