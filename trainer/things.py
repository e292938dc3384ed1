#!/usr/bin/env python3
"""voc21 and YOLOX-Nano in one file: classes of pixels, and boxes of single objects.

    python3 -m venv venv
    venv/bin/pip install onnx==1.23.2 numpy==2.4.6
    venv/bin/python trainer/things.py models/voc21 YOLOX.onnx models/things

YOLOX.onnx is yolox_nano.onnx as Megvii published it (YOLOX 0.1.1rc0, Apache-2.0; COCO, 0.91 million parameters), with SHA-256
695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14.

The classes of COCO that PASCAL VOC has stay; the rest goes. The published network reads blue, green, red from 0 to 255 and takes
every second pixel apart first: both are folded into its first convolution, which reads voc21's input, (RGB - 128) / 128. Its
weights are stored as f16; beside voc21's 8 bits those of large 1x1 kernels as int8 with a scale a channel. Sums are f32 in both.
The contract is voc21's, with what the boxes add and without scores; the self-test is written by

    segd models --write-selftest models/voc21/selftest.jpg models/things

and the scores are those of segd eval --objects voc. Outputs:

    logits      [1, 21, H / 4, W / 4]   of voc21, as they are
    detections  [1, N, 25]              box (centre x, centre y, log width, log height, in cells), how likely there is anything, and
                                        how likely it is each of the 20 classes; cells of strides 8, 16 and 32, row by row
"""
import argparse
import hashlib
import pathlib
import re

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

COCO = """person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter bench bird cat
dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite
baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich
orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote keyboard
cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush""".split()
# In the order of voc21's classes, without the background.
VOC = """airplane bicycle bird boat bottle bus car cat chair cow dining_table dog horse motorcycle person potted_plant sheep couch
train tv""".split()
PREFIX = "boxes."
# Kernels of 1x1 with fewer weights stay in 16 bits.
LARGE = 12_000
# voc21's input is (RGB - MEAN) / DIVISOR.
MEAN = DIVISOR = 128.0
DESCRIPTION = "single objects of 20 classes of PASCAL VOC: voc21 for their pixels, YOLOX-Nano for their boxes"
LICENSE = "Apache-2.0 (voc21, Apache-2.0; YOLOX-Nano of Megvii, Apache-2.0; data: see training.data)"
OUTPUT = """[output]
kind = "boxes"
grid = "half-pixel"
regions = true
score = 0.35
nms = 0.5
detections = "objectness"
boxes = "cells"

[[output.tensors]]
role = "logits"
name = "logits"

[[output.tensors]]
role = "detections"
name = "detections"
"""


def published(path):
    """Nodes and weights of the published file, with names of their own."""
    model = onnx.load(path)
    graph = model.graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant":
            weights[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        else:
            nodes.append(node)
    return nodes, weights, graph.output[0].name


def folded_stem(weight, bias):
    """The first convolution on what voc21 reads: [24, 3, 6, 6], stride 2.

    The published one reads [top left, bottom left, top right, bottom right] of each 2x2 pixels, blue, green and red of each.
    """
    outputs, _, size, _ = weight.shape
    spread = np.zeros((outputs, 3, 2 * size, 2 * size), np.float64)
    for part, (down, right) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        for channel in range(3):
            spread[:, 2 - channel, down::2, right::2] = weight[:, 3 * part + channel]
    return (spread * DIVISOR).astype(np.float32), (bias + MEAN * spread.sum((1, 2, 3))).astype(np.float32)


def boxes(path):
    """The detector from `input` to `detections`: nodes, and weights by name."""
    nodes, weights, output = published(path)
    producer = {name: node for node in nodes for name in node.output}
    readers = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    stem = next(node for node in nodes if node.op_type == "Conv")
    assert producer[stem.input[0]].op_type == "Concat", "the published file starts with another layer"
    # Backwards from the output; what only feeds the stem is left out.
    wanted, pending = [], [output]
    seen = set()
    while pending:
        node = producer.get(pending.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        wanted.append(node)
        if node is not stem:
            pending.extend(node.input)
    wanted = [node for node in nodes if id(node) in seen]

    kept = {}
    out = []
    rows = [COCO.index(name) for name in VOC]
    for node in wanted:
        node = onnx.NodeProto.FromString(node.SerializeToString())
        if node.op_type == "Conv":
            weight, bias = weights[node.input[1]], weights[node.input[2]]
            if node.output == stem.output:
                weight, bias = folded_stem(weight, bias)
                attributes = dict(kernel_shape=[6, 6], strides=[2, 2], pads=[2, 2, 2, 2], group=1, dilations=[1, 1])
                del node.attribute[:]
                node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
                node.input[0] = "input"
            elif weight.shape[0] == len(COCO):
                weight, bias = weight[rows], bias[rows]
            kept[node.input[1]], kept[node.input[2]] = weight, bias
        else:
            for name in node.input:
                if name in weights:
                    kept[name] = weights[name]
            if node.op_type == "Reshape":
                kept[node.input[1]] = np.array([1, 5 + len(VOC), -1], np.int64)
        out.append(node)
    return out, kept, output


def renamed(nodes, weights, output):
    names = {"input": "input", output: "detections", "": ""}
    for node in nodes:
        for name in node.output:
            names.setdefault(name, PREFIX + name)
    for name in weights:
        names[name] = PREFIX + name
    for node in nodes:
        node.name = PREFIX + (node.name or node.output[0])
        for field in (node.input, node.output):
            field[:] = [names[name] for name in field]
    return {names[name]: value for name, value in weights.items()}


def stored(nodes, weights, as_int8):
    """Initializers, and the nodes that make f32 of them."""
    initializers, casts = [], []
    conv = {node.input[1] for node in nodes if node.op_type == "Conv"}
    for name, value in weights.items():
        if value.dtype != np.float32 or value.size < 64:
            initializers.append(numpy_helper.from_array(value, name))
        elif as_int8 and name in conv and value.shape[2:] == (1, 1) and value.size >= LARGE:
            scale = np.abs(value).reshape(len(value), -1).max(1) / 127
            scale[scale == 0] = 1
            codes = np.clip(np.round(value / scale[:, None, None, None]), -127, 127).astype(np.int8)
            for part, data in (("codes", codes), ("scale", scale.astype(np.float32)), ("zero", np.zeros(len(value), np.int8))):
                initializers.append(numpy_helper.from_array(data, f"{name}.{part}"))
            inputs = [f"{name}.{part}" for part in ("codes", "scale", "zero")]
            casts.append(helper.make_node("DequantizeLinear", inputs, [name], name, axis=0))
        else:
            initializers.append(numpy_helper.from_array(value.astype(np.float16), f"{name}.f16"))
            casts.append(helper.make_node("Cast", [f"{name}.f16"], [name], name, to=TensorProto.FLOAT))
    return initializers, casts


def multiply_accumulates(model, width, height):
    """Of all convolutions, on an input of that size."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for dimension, side in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (height, width)):
        dimension.dim_value = side
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    kernels = {t.name: t.dims for t in graph.initializer} | shapes
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return sum(int(np.prod(shapes[node.output[0]])) * int(np.prod(kernels[node.input[1]][1:])) for node in convolutions)


def joined(classes, detector, as_int8):
    """The file `classes` with the detector beside it."""
    model = onnx.load(classes)
    graph = model.graph
    assert [i.name for i in graph.input] == ["input"], "voc21's input is called otherwise"
    nodes, weights, output = boxes(detector)
    weights = renamed(nodes, weights, output)
    initializers, casts = stored(nodes, weights, as_int8)
    graph.initializer.extend(initializers)
    graph.node.extend(casts + nodes)
    graph.output.append(helper.make_tensor_value_info("detections", TensorProto.FLOAT, [1, "boxes", 5 + len(VOC)]))
    graph.name = "things"
    onnx.checker.check_model(model, full_check=True)
    return model


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def contract(text, model, hashes):
    """voc21's contract with things, boxes and other files."""

    def replaced(pattern, by, text):
        text, count = re.subn(pattern, lambda _: by, text, flags=re.M | re.S)
        assert count == 1, f"voc21's contract has {count} of {pattern}"
        return text

    # Scores are those of the model as a whole.
    text = text.split("[[scores]]")[0]
    text = replaced(r"^format = 1$", "format = 2", text)
    text = replaced(r'^name = "voc21"$', 'name = "things"', text)
    text = replaced(r"^description = .*?$", f'description = "{DESCRIPTION}"', text)
    text = replaced(r"^license = .*?$", f'license = "{LICENSE}"', text)
    width, height = (int(re.search(rf"^{side} = (\d+)$", text, re.M)[1]) for side in ("width", "height"))
    count = multiply_accumulates(model, width, height)
    text = replaced(r"^multiply_accumulates = \d+$", f"multiply_accumulates = {count}", text)
    text = replaced(r"^\[output\].*?\n\n", OUTPUT + "\n", text)
    text = re.sub(r'(name = "(?!background).*?"\ncolor = \[.*?\]\n)', r"\1thing = true\n", text)
    for old, new in hashes:
        text = replaced(old, new, text)
    text = replaced(r'^data = "', 'data = "Boxes: COCO, by Megvii. Classes: ', text)
    return replaced(r"^recipe = .*?$", 'recipe = "trainer/things.py"', text)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("classes", type=pathlib.Path, help="voc21's folder")
    arguments.add_argument("boxes", type=pathlib.Path, help="YOLOX-Nano as it was published")
    arguments.add_argument("out", type=pathlib.Path, help="the model's folder")
    arguments = arguments.parse_args()

    models = {f"{name}.onnx": joined(arguments.classes / f"{name}.onnx", arguments.boxes, name == "int8") for name in ("fp32", "int8")}
    files = {path: model.SerializeToString() for path, model in models.items()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    hashes = [(sha256((arguments.classes / path).read_bytes()), sha256(data)) for path, data in files.items()]
    text = contract((arguments.classes / "contract.toml").read_text(), models["fp32.onnx"], hashes)
    (arguments.out / "contract.toml").write_text(text)
    for path, data in files.items():
        (arguments.out / path).write_bytes(data)


if __name__ == "__main__":
    main()
