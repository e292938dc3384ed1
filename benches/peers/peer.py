"""The loop that people write: OpenCV decodes, a Python binding runs the network, numpy and OpenCV do the rest,
x264 encodes. Runs one clip and prints one line of JSON; with --labels it writes masks of pictures instead.

The network, its input size and the encoder's settings are segd's, so that only the software around differs.
"""

import argparse
import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import version as version_of
from pathlib import Path

import cv2
import numpy as np

WARM_UP_FRAMES = 10


def as_tflite(args, height, width, *more):
    """The same network for LiteRT; made by a process of its own, whose memory doesn't count."""
    path = Path(tempfile.mkdtemp()) / "network.tflite"
    script = Path(__file__).with_name("tflite.py")
    command = [sys.executable, script, args.model, height, width, path, *more]
    subprocess.run([str(part) for part in command], check=True)
    return path


class OnnxRuntime:
    def __init__(self, args, height, width):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = args.threads
        options.inter_op_num_threads = 1
        # Spinning threads would burn the time of others; it makes this loop look worse.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(str(args.model), options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name
        self.version = f"onnxruntime {ort.__version__}"

    def run(self, tensor):
        return self.session.run(None, {self.name: tensor})[0]


class OpenVino:
    def __init__(self, args, height, width):
        import openvino as ov

        core = ov.Core()
        network = core.read_model(str(args.model))
        network.reshape([1, 3, height, width])
        self.request = core.compile_model(
            network, "CPU", {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY"}
        ).create_infer_request()
        self.version = f"openvino {ov.__version__.split('-')[0]}"

    def run(self, tensor):
        return next(iter(self.request.infer([tensor], share_inputs=True, share_outputs=True).values()))


class LiteRt:
    def __init__(self, args, height, width):
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(str(as_tflite(args, height, width)), num_threads=args.threads)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]
        self.version = f"LiteRT {version_of('ai-edge-litert')}"

    def run(self, tensor):
        # The same preprocessing as for the others; the transposition is a view.
        self.interpreter.set_tensor(self.input, tensor.transpose(0, 2, 3, 1))
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output).transpose(0, 3, 1, 2)


class MediaPipe:
    """Does its own pre- and postprocessing."""

    def __init__(self, args, height, width):
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        model = as_tflite(args, height, width, "--contract", args.contract)
        options = vision.ImageSegmenterOptions(
            base_options=BaseOptions(model_asset_path=str(model)), running_mode=vision.RunningMode.VIDEO,
            output_category_mask=True, output_confidence_masks=False)
        self.segmenter = vision.ImageSegmenter.create_from_options(options)
        # Left to the interpreter's end it fails there.
        atexit.register(self.segmenter.close)
        self.mediapipe = mediapipe
        self.time_ms = 0
        self.version = f"MediaPipe {version_of('mediapipe')}"

    def labels(self, picture):
        rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        image = self.mediapipe.Image(image_format=self.mediapipe.ImageFormat.SRGB, data=rgb)
        result = self.segmenter.segment_for_video(image, self.time_ms)
        self.time_ms += 33
        return result.category_mask.numpy_view().reshape(picture.shape[:2]).copy()


ENGINES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "litert": LiteRt, "mediapipe": MediaPipe}


class Segmenter:
    """Picture (BGR) to labels of its size."""

    def __init__(self, args, contract, size):
        self.width, self.height = size
        scale = args.size / max(size)
        multiple = contract["input"]["multiple"]
        rounded = [max(multiple, round(side * scale / multiple) * multiple) for side in size]
        self.input_size = tuple(rounded)
        self.mean = np.float32(contract["input"]["mean"])
        self.inverse_std = 1 / np.float32(contract["input"]["std"])
        self.engine = ENGINES[args.engine](args, rounded[1], rounded[0])

    def labels(self, picture):
        if hasattr(self.engine, "labels"):
            return self.engine.labels(picture)
        small = cv2.resize(picture, self.input_size, interpolation=cv2.INTER_LINEAR)
        rgb = cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.float32)
        rgb -= self.mean
        rgb *= self.inverse_std
        tensor = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])
        logits = self.engine.run(tensor)[0]
        # A running maximum in OpenCV's vector code: np.argmax over 21 planes takes nine times as long.
        size = (self.width, self.height)
        best = cv2.resize(logits[0], size, interpolation=cv2.INTER_LINEAR)
        labels = np.zeros((self.height, self.width), np.uint8)
        for label in range(1, len(logits)):
            plane = cv2.resize(logits[label], size, interpolation=cv2.INTER_LINEAR)
            wins = cv2.compare(plane, best, cv2.CMP_GT)
            labels = cv2.max(labels, cv2.bitwise_and(wins, label))
            cv2.max(plane, best, dst=best)
        return labels


def cpu_seconds_of(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate_control(kbps):
    """As segd sets x264: constant bit rate with a buffer of 300 ms, a key frame every 60 frames."""
    return ["-b:v", f"{kbps}k", "-maxrate", f"{kbps}k", "-bufsize", f"{kbps * 3 // 10}k", "-g", "60", "-bf", "0"]


def run_clip(args, contract):
    capture = cv2.VideoCapture(str(args.clip))
    cv2.setNumThreads(1)
    size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    rate = capture.get(cv2.CAP_PROP_FPS)
    segmenter = Segmenter(args, contract, size)
    palette = np.zeros((1, 256, 3), np.uint8)
    for label, entry in enumerate(contract["classes"]):
        palette[0, label] = entry["color"][::-1]
    encoder = subprocess.Popen(
        ["ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{size[0]}x{size[1]}",
         "-r", str(rate), "-i", "-", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency",
         "-pix_fmt", "yuv420p", "-threads", "1", *rate_control(args.bitrate_kbps), str(args.output)],
        stdin=subprocess.PIPE,
    )
    frames, start = 0, None
    while True:
        more, picture = capture.read()
        if not more:
            break
        labels = segmenter.labels(picture)
        colors = cv2.LUT(cv2.merge([labels, labels, labels]), palette)
        blended = cv2.addWeighted(picture, 0.5, colors, 0.5, 0)
        cv2.copyTo(blended, labels, picture)
        encoder.stdin.write(picture.tobytes())
        frames += 1
        if frames == WARM_UP_FRAMES:
            start = (time.monotonic(), time.process_time(), cpu_seconds_of(encoder.pid))
    own = time.process_time() - start[1]
    encoding = cpu_seconds_of(encoder.pid) - start[2]
    wall = time.monotonic() - start[0]
    encoder.stdin.close()
    encoder.wait()
    measured = frames - WARM_UP_FRAMES
    status = Path("/proc/self/status").read_text()
    rss = int(status.split("VmRSS:")[1].split()[0]) / 1024
    print(json.dumps({
        "software": f"OpenCV {cv2.__version__} + {segmenter.engine.version}, Python {sys.version.split()[0]}",
        "frames": frames,
        "fps": measured / wall,
        "cpu_ms_per_frame": (own + encoding) * 1e3 / measured,
        "encoder_cpu_ms_per_frame": encoding * 1e3 / measured,
        "rss_mib": rss,
    }))


def write_labels(args, contract):
    args.labels.mkdir(parents=True, exist_ok=True)
    for path in args.pictures:
        picture = cv2.imread(str(path))
        segmenter = Segmenter(args, contract, (picture.shape[1], picture.shape[0]))
        cv2.imwrite(str(args.labels / f"{path.stem}.png"), segmenter.labels(picture))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--contract", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True, help="longer side of the network's input")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bitrate-kbps", type=int, default=1382)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--output", type=Path, default="/dev/null")
    parser.add_argument("--labels", type=Path, help="write masks of PICTURES here")
    parser.add_argument("pictures", type=Path, nargs="*")
    args = parser.parse_args()
    contract = tomllib.loads(args.contract.read_text())
    if args.labels:
        write_labels(args, contract)
    else:
        run_clip(args, contract)


main()
