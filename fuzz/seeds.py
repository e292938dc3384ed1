#!/usr/bin/env python3
"""Writes small files of the formats that fuzz targets read: fuzz/corpus/TARGET/seed-*. Usage: fuzz/seeds.py (in fuzz/)."""

import collections
import io
import pickle
import shutil
import struct
import subprocess
import sys
import types
import zipfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def seed(target, name, data):
    folder = ROOT / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


def png(color_type, bits, row):
    """Two rows of four pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    palette = chunk(b"PLTE", bytes(range(48))) if color_type == 3 else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, bits, color_type, 0, 0, 0)) + palette
            + chunk(b"IDAT", zlib.compress(2 * (b"\0" + row))) + chunk(b"IEND", b""))


# What PyTorch's pickles name, without PyTorch.
for name in ["torch", "torch._utils"]:
    sys.modules[name] = types.ModuleType(name)


def torch_name(module, name):
    made = type(name, (), {"__module__": module, "__qualname__": name})
    setattr(sys.modules[module], name, made)
    return made


FloatStorage = torch_name("torch", "FloatStorage")
LongStorage = torch_name("torch", "LongStorage")
rebuild = torch_name("torch._utils", "_rebuild_tensor_v2")


class Storage:
    def __init__(self, kind, key, count):
        self.id = ("storage", kind, key, "cpu", count)


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.parts = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return (rebuild, self.parts)


def pickled(value, legacy):
    out = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if isinstance(item, Storage):
                return (*item.id, None) if legacy else item.id
            return None

    Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def weights():
    floats, longs = Storage(FloatStorage, "7", 6), Storage(LongStorage, "8", 1)
    return collections.OrderedDict(
        a=Tensor(floats, 0, (2, 2), (2, 1)), b=Tensor(floats, 1, (2, 2), (1, 3)), count=Tensor(longs, 0, (), ()))


elements = struct.pack("<6f", *range(6))
seed("pth", "legacy", b"".join([
    pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2),
    pickled(weights(), True), pickle.dumps(["7", "8"], 2),
    struct.pack("<q", 6), elements, struct.pack("<q", 1), struct.pack("<q", 42)]))
archive = io.BytesIO()
with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
    file.writestr("archive/data.pkl", pickled(weights(), False))
    file.writestr("archive/data/7", elements)
    file.writestr("archive/data/8", struct.pack("<q", 42))
seed("pth", "archive", archive.getvalue())

seed("labels", "grey", png(0, 8, bytes([0, 1, 2, 255])))
seed("labels", "grey16", png(0, 16, bytes([0, 1, 0, 2, 0, 3, 0, 255])))
seed("labels", "palette", png(3, 8, bytes([0, 1, 2, 15])))
seed("labels", "palette2", png(3, 2, bytes([0b00011011])))
seed("labels", "rgb", png(2, 8, bytes(range(12))))

classes = """ignore = [255]
ignore_colors = [[0, 0, 0]]
[[classes]]
name = "road"
color = [128, 64, 128]
value = 1
[[classes]]
name = "car"
color = [64, 0, 128]
"""
seed("dataset", "classes", b"\0" + classes.encode())
seed("dataset", "csv", b"\1images,masks\nx/images/a.jpg,labels/a.png\nimages/a.jpg,\"labels/a.png\"\n")
seed("dataset", "names", b"\2# pictures\na\na 1\n")

seed("request", "get", b"GET /snapshot.jpg?camera=door HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n")
fingerprint = ":".join(["AB"] * 32)
seed("whep", "video", "\r\n".join([
    "v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0", "m=video 9 UDP/TLS/RTP/SAVPF 102 103",
    "c=IN IP4 0.0.0.0", "a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuvwx", "a=fingerprint:sha-256 " + fingerprint,
    "a=setup:actpass", "a=mid:0", "a=recvonly", "a=rtcp-mux", "a=rtpmap:102 H264/90000", "a=rtcp-fb:102 nack pli",
    "a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
    "a=rtpmap:103 rtx/90000", "a=fmtp:103 apt=102", ""]).encode())
# Masked with zeros: a ping, a text in two parts, a close.
seed("websocket", "frames", b"\x89\x82\0\0\0\0hi" + b"\x01\x81\0\0\0\0a\x80\x81\0\0\0\0b" + b"\x88\x82\0\0\0\0\x03\xe8")
seed("config", "file", (ROOT / "../systemd/segd.toml").read_bytes())
seed("config", "keys", b"\n".join(
    line.removeprefix(b"#") for line in (ROOT / "../systemd/segd.toml").read_bytes().splitlines()))
for contract in (ROOT / "../models").glob("*/contract.toml"):
    seed("contract", contract.parent.name, contract.read_bytes())

if shutil.which("ffmpeg"):
    for size in ["64x48"]:
        for pixels in ["yuvj420p", "yuvj422p", "yuvj444p"]:
            jpeg = subprocess.run(
                ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", f"testsrc=size={size}", "-frames:v", "1"]
                + ["-pix_fmt", pixels, "-f", "mjpeg", "-"], capture_output=True, check=True).stdout
            seed("mjpeg", f"{size}-{pixels}", jpeg)
