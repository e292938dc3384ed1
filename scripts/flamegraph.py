#!/usr/bin/env python3
"""Draws a flame graph (SVG) of what `perf script` prints: threads below, callers under callees, widths as CPU time.

Usage: perf record -e cpu-clock -F 199 --call-graph dwarf,16384 -p PID -- sleep 20
       perf script --no-inline | scripts/flamegraph.py --title "..." > flame.svg
"""

import argparse
import collections
import html
import re
import sys

WIDTH, ROW = 1000, 15
# Frames that every thread has.
EVERYWHERE = re.compile("^(clone3|__clone|start_thread|std::sys|std::thread|core::ops)")
# Narrower than this share of all samples nothing is drawn: it keeps the file small.
LEAST = 0.004
COLORS = {"network": "#e0803a", "video": "#5b9bd5", "segd": "#69b04c", "system": "#b8b8b8"}
VIDEO = re.compile("x264|avcodec|avutil|swscale|gst|libav|orc|glib|gobject|rtp")


def kind(symbol, library):
    if "onnxruntime" in library or re.match("segd::infer|tract_", symbol):
        return "network"
    if VIDEO.search(library):
        return "video"
    return "segd" if library == "segd" else "system"


def name_of(symbol, library):
    """Without hashes and generic arguments; what has no symbol is its library."""
    symbol = re.sub(r"\+0x[0-9a-f]+$", "", symbol)
    symbol = re.sub(r"::h[0-9a-f]{16}$", "", symbol)
    if symbol == "[unknown]" or "onnxruntime" in library:
        return f"[{library}]"
    symbol = re.sub(r"<(?:impl )?([\w:]+)(?:<.*>)?(?: as [^>]*>*)?>(?=::)", r"\1", symbol)
    while re.search("<[^<>]*>", symbol):
        symbol = re.sub("<[^<>]*>", "", symbol)
    return symbol or f"[{library}]"


def samples(lines):
    """The stacks of `perf script`: [(thread, kind), (function, kind), ...], outermost first."""
    stack, thread = [], None
    for line in lines:
        if not line.strip():
            if thread is not None:
                yield [(thread, "system"), *reversed(stack)]
            stack, thread = [], None
        elif line[0].isspace():
            found = re.match(r"\s+[0-9a-f]+ (.*) \((.*)\)$", line.rstrip())
            if found and found[2] != "[unknown]":
                library = re.sub(r"\.so.*", "", found[2].rsplit("/", 1)[-1])
                symbol = name_of(found[1], library)
                frame = (symbol, kind(symbol, library))
                # Frames in a row of a library without symbols are one.
                if not EVERYWHERE.match(frame[0]) and (not stack or stack[-1] != frame):
                    stack.append(frame)
        else:
            thread = re.sub(r"\s+\d+.*", "", line.strip())
            thread = re.sub(r"[\d:]+$", "", thread)
    if thread is not None:
        yield [(thread, "system"), *reversed(stack)]


class Node:
    def __init__(self):
        self.count, self.parts = 0, collections.defaultdict(Node)

    def depth(self, least):
        below = [part.depth(least) for part in self.parts.values() if part.count >= least]
        return 1 + max(below, default=0)


def draw(node, x, level, height, total, out):
    for (name, what), part in sorted(node.parts.items()):
        width = WIDTH * part.count / total
        if part.count < LEAST * total:
            x += width
            continue
        y = height - (level + 1) * ROW
        text = html.escape(name)
        share = 100 * part.count / total
        room = int(width / 6.2)
        shown = html.escape(name if len(name) <= room else name[: max(0, room - 1)] + "…") if room > 3 else ""
        out.append(f'<g><title>{text}: {share:.1f} %</title><rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.4):.1f}" '
                   f'height="{ROW - 1}" fill="{COLORS[what]}"/><text x="{x + 2:.1f}" y="{y + 11}">{shown}</text></g>')
        draw(part, x, level + 1, height, total, out)
        x += width


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--title", default="CPU time")
    args = parser.parse_args()
    root = Node()
    for stack in samples(sys.stdin):
        node = root
        node.count += 1
        for frame in stack:
            node = node.parts[frame]
            node.count += 1
    if not root.count:
        sys.exit("no samples")
    height = ROW * (root.depth(LEAST * root.count)) + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="10">'
           f'<rect width="100%" height="100%" fill="white"/><text x="4" y="14" font-size="12">{html.escape(args.title)}: '
           f'{root.count} samples; orange the network, blue video, green segd, grey the system</text>']
    draw(root, 0, 0, height, root.count, out)
    print("\n".join(out) + "</svg>")


main()
