"""Runs segd and its peers on the same clip, network and machine, in interleaved rounds, and prints a table.

CPU time is that of all processes and threads, decode to encode, from the tenth frame on. Of the rounds each
software's least is taken: what other programs on the machine add is never less than nothing.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / ".cache" / "peers"
MODEL = ROOT / "models" / "voc21"
# OpenVINO has no QLinearConv: it gets the fp32 file. For LiteRT and MediaPipe the int8 file is rewritten as .tflite.
NETWORKS = {
    "onnxruntime": MODEL / "int8.onnx",
    "openvino": MODEL / "fp32.onnx",
    "litert": MODEL / "int8.onnx",
    "mediapipe": MODEL / "int8.onnx",
}
BITRATE_KBPS = 1382


def sh(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, **options)


def make_clips(clip, frames):
    """The clip at 640x480 and 30 frames a second, and a still scene with a camera's noise."""
    street, still = WORK / "street640.mp4", WORK / "still640.mp4"
    encode = ["-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p"]
    if not street.exists():
        sh("ffmpeg", "-loglevel", "error", "-y", "-stream_loop", "-1", "-i", clip, "-vf",
           "scale=640:480,setsar=1,setpts=N/30/TB", "-r", "30", "-frames:v", frames, *encode, street)
    if not still.exists():
        sh("ffmpeg", "-loglevel", "error", "-y", "-i", clip, "-frames:v", "1", "-vf", "scale=640:480,setsar=1", WORK / "one.png")
        sh("ffmpeg", "-loglevel", "error", "-y", "-loop", "1", "-i", WORK / "one.png", "-vf",
           "noise=alls=4:allf=t", "-r", "30", "-frames:v", frames, *encode, still)
    return street, still


def segd(binary, size, *arguments):
    """One run of segd bench: its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        run = sh(binary, "bench", "--json", "--model", MODEL, "--precision", "int8", "--threads", "1", "--size", size,
                 "--output", f"{folder}/out.mkv", "--legend=false", "--bitrate-kbps", BITRATE_KBPS, "--encoder", "x264enc", *arguments,
                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    report = json.loads(run.stdout)
    return {
        "software": "segd " + report["runs_on"],
        "fps": report["fps"],
        # What looks at the threads is the bench's, not the daemon's.
        "cpu_ms_per_frame": report["cpu_ms_per_frame"] - report["threads_cpu_ms_per_frame"].get("bench", 0),
        "rss_mib": report["rss_end_mib"],
        "inferred": report["inferences"] / report["composed"],
        "own_ms": report["own_cpu_ms_per_frame"],
        "mask_age_p99_ms": report["mask_age"]["p99_ms"],
    }


def peer(engine, size, clip):
    run = sh(sys.executable, HERE / "peer.py", "--engine", engine, "--contract", MODEL / "contract.toml", "--model",
             NETWORKS[engine], "--size", size, "--bitrate-kbps", BITRATE_KBPS, "--clip", clip, "--output",
             WORK / f"{engine}.mp4", stdout=subprocess.PIPE)
    return json.loads(run.stdout) | {"inferred": 1.0}


def agreement(binary, size, clip, engines):
    """Share of pixels that have segd's label, on up to 8 pictures of the clip."""
    folder = WORK / "agreement"
    folder.mkdir(exist_ok=True)
    sh("ffmpeg", "-loglevel", "error", "-y", "-i", clip, "-vf", r"select=not(mod(n\,30))", "-fps_mode", "vfr",
       "-frames:v", "8", folder / "p%d.png")
    pictures = sorted(folder.glob("p?.png"))
    sh(binary, "image", *pictures, "-o", f"{folder}/segd/", "--visualize", "labels", "--model", MODEL,
       "--precision", "int8", "--size", size,
       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shares = {}
    for engine in engines:
        sh(sys.executable, HERE / "peer.py", "--engine", engine, "--contract", MODEL / "contract.toml", "--model",
           NETWORKS[engine], "--size", size, "--labels", folder / engine, *pictures)
        same = []
        for picture in pictures:
            ours = next((folder / "segd").glob(f"{picture.stem}*.png"))
            theirs = folder / engine / f"{picture.stem}.png"
            same.append(np.mean(indices(ours) == indices(theirs)))
        shares[engine] = float(np.mean(same))
    return shares


def indices(path):
    """Class indices of a PNG, with a palette or without."""
    return np.array(Image.open(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segd", type=Path, default=ROOT / "target" / "release" / "segd")
    parser.add_argument("--clip", type=Path, default=ROOT / ".cache" / "bikes.mp4")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="run only the ways whose name contains this, and the base")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / ".ort" / "libonnxruntime.so"))
    WORK.mkdir(parents=True, exist_ok=True)
    street, still = make_clips(args.clip, args.frames)
    ways = {
        "Python: OpenCV + ONNX Runtime": lambda: peer("onnxruntime", args.size, street),
        "Python: OpenCV + OpenVINO, fp32": lambda: peer("openvino", args.size, street),
        "Python: OpenCV + LiteRT": lambda: peer("litert", args.size, street),
        "Python: MediaPipe ImageSegmenter": lambda: peer("mediapipe", args.size, street),
        "segd, every frame inferred": lambda: segd(args.segd, args.size, "--input", street, "--no-pace"),
        "segd on ONNX Runtime, every frame": lambda: segd(args.segd, args.size, "--input", street, "--no-pace",
                                                          "--backend", "ort"),
        "segd as it runs (propagation)": lambda: segd(args.segd, args.size, "--input", street, "--live"),
        "segd, every 4th frame inferred": lambda: segd(args.segd, args.size, "--input", street, "--no-pace", "--every", "4"),
        "segd as it runs, still scene": lambda: segd(args.segd, args.size, "--input", still, "--live"),
    }
    base_name = next(iter(ways))
    if args.only:
        ways = {name: run for name, run in ways.items() if name == base_name or args.only in name}
    results = {name: [] for name in ways}
    for number in range(args.rounds):
        for name, run in ways.items():
            print(f"round {number + 1} of {args.rounds}: {name}", file=sys.stderr)
            results[name].append(run())
    least = {name: min(runs, key=lambda r: r["cpu_ms_per_frame"]) for name, runs in results.items()}
    base = least[base_name]["cpu_ms_per_frame"]
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(f"{args.frames} frames of 640x480, network input {args.size} wide, {cpu[1] if cpu else '?'}, {os.cpu_count()} cores")
    print(f"{'':34} {'CPU ms/frame':>12} {'ratio':>6} {'fps':>6} {'inferred':>9} {'RSS MiB':>8}  software")
    for name, run in least.items():
        print(f"{name:34} {run['cpu_ms_per_frame']:12.1f} {run['cpu_ms_per_frame'] / base:6.2f} {run['fps']:6.1f} "
              f"{100 * run['inferred']:8.1f}% {run['rss_mib']:8.0f}  {run['software']}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    sys.stdout.flush()
    for engine, share in agreement(args.segd, args.size, street, list(NETWORKS)).items():
        print(f"labels of segd and of the {engine} loop agree in {100 * share:.2f} % of the pixels")


main()
