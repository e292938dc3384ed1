#!/usr/bin/env python3
"""The share of pixels at which two label pictures (8-bit palette or grey PNGs, as `segd image --visualize labels` writes
them) are equal. Usage: same-labels.py A.png B.png LEAST; ends with 1 where the share is below LEAST (0 to 1)."""

import struct
import sys
import zlib


def labels(path):
    """Width, height and the bytes of the pixels."""
    with open(path, "rb") as file:
        data = file.read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", f"{path}: no PNG"
    at, packed, header = 8, b"", None
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at:at + 4]), data[at + 4:at + 8]
        body = data[at + 8:at + 8 + size]
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed += body
        at += size + 12
    width, height, depth, colour, _, _, interlaced = header
    assert depth == 8 and colour in (0, 3) and not interlaced, f"{path}: not 8-bit labels"
    rows, before, raw = [], bytes(width), zlib.decompress(packed)
    for y in range(height):
        kind, row = raw[y * (width + 1)], bytearray(raw[y * (width + 1) + 1:(y + 1) * (width + 1)])
        for x in range(width):
            left, up, corner = (row[x - 1] if x else 0), before[x], (before[x - 1] if x else 0)
            if kind == 1:
                add = left
            elif kind == 2:
                add = up
            elif kind == 3:
                add = (left + up) // 2
            elif kind == 4:
                guess = left + up - corner
                add = min((left, up, corner), key=lambda value: abs(guess - value))
            else:
                add = 0
            row[x] = (row[x] + add) & 255
        rows.append(bytes(row))
        before = row
    return width, height, b"".join(rows)


def main():
    (wa, ha, a), (wb, hb, b) = labels(sys.argv[1]), labels(sys.argv[2])
    if (wa, ha) != (wb, hb):
        sys.exit(f"{sys.argv[1]} is {wa}x{ha}, {sys.argv[2]} {wb}x{hb}")
    share = sum(x == y for x, y in zip(a, b)) / len(a)
    print(f"{100 * share:.3f} % of {len(a)} pixels, {len(set(a))} classes")
    sys.exit(0 if share >= float(sys.argv[3]) else 1)


main()
