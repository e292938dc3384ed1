#!/usr/bin/env python3
"""A published 8-bit DeepLab as the start of a training: segd-train train --init OUT.

    python3 -m venv venv
    venv/bin/pip install ai-edge-litert==2.3.0 onnx==1.23.2 onnxruntime==1.32.0 pillow==13.0.0
    venv/bin/python trainer/deeplab.py FILE.tflite FOLDER_OF_PICTURES OUT.onnx

The files are those of google-coral/test_data (Apache-2.0), commit 104342d2:

    deeplabv3_mnv2_pascal_quant.tflite                   COCO and PASCAL VOC 2012; trunk mobilenet-v2-deeplab
    deeplabv3_mnv2_dm05_pascal_quant.tflite              the same with half of the channels; mobilenet-v2-deeplab-0.5
    deeplab_mobilenet_edgetpu_slim_cityscapes_quant.tflite   Cityscapes; mobilenet-edgetpu, with the classes of CamVid

Weights become floats. The published network ends at stride 16; deeplabv3-light goes on to stride 4 or 2. Its decoder starts
as one that passes the published logits on, upsampled bilinearly, in as many channels as there are classes; its other channels are random,
of the size that the pictures show, and nothing depends on them yet. So training starts with what the published network knows.

OUT holds tensors under segd-train's names and no graph.
"""
import os
import sys

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ADD, POOL, CONCAT, CONV, DEPTHWISE, RESIZE, QUANTIZE, TILE = 0, 1, 2, 3, 4, 23, 114, 69
RELU, RELU6 = 1, 3
# Strides 2, 4, 8: the odd zero goes after the picture; 16: before it (see trainer/src/nets/mobilenet_v2.rs).
PAD_AFTER = (True, True, True, False)
DECODERS = ("decoder", "decoder4", "decoder2")
# The decoder's ReLU6 lets 0 to 6 through: logits are brought there by this factor.
SCALE = 6 / 56


def mobilenet_v2():
    """Names of MobileNetV2's convolutions in order, and the values that the decoder's skips start from."""
    names = ["features.0.0"]
    for block in range(1, 18):
        layers = ("0.0", "1.0", "2") if block > 1 else ("0.0", "1")
        names += [f"features.{block}.conv.{layer}" for layer in layers]
    return names, ("features.6.conv.2", "features.3.conv.2")


def mobilenet_edgetpu():
    """The same of MobileNetEdgeTPU."""
    project, fused = ("project",), ("expand", "project")
    separable = ("expand", "depthwise", "project")
    blocks = [project] + 8 * [fused] + 13 * [separable]
    names = ["Conv", *(f"expanded_conv.{layer}" for layer in blocks[0])]
    for index, layers in enumerate(blocks[1:], 1):
        names += [f"expanded_conv_{index}.{layer}" for layer in layers]
    return names + ["Conv_1"], ("expanded_conv_8.project", "expanded_conv_4.project", "expanded_conv.project")


# Trunk; channels of the decoder; the published class of each of the network's (None: they are the same); what brings
# the lowest logit to 0; pictures' size.
FORMS = {
    "mnv2": (mobilenet_v2, (64, 32), None, 8, (384, 288)),
    # Sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, cyclist.
    "edgetpu": (mobilenet_edgetpu, (64, 32, 16), (10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12), 18, (480, 352)),
}


def operators(path):
    """Code, options and tensors of each operator of a TFLite file."""
    with open(path, "rb") as file:
        model = schema.Model.GetRootAsModel(file.read(), 0)
    graph = model.Subgraphs(0)
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        code = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        options = {CONV: schema.Conv2DOptions, DEPTHWISE: schema.DepthwiseConv2DOptions}.get(code, lambda: None)()
        if options is not None:
            table = operator.BuiltinOptions()
            options.Init(table.Bytes, table.Pos)
        yield code, options, [int(i) for i in operator.InputsAsNumpy()], int(operator.Outputs(0))


def read(path, names):
    """The network as floats: weights and biases by name, where each value is cut off, and an ONNX graph of it."""
    interpreter = Interpreter(
        path,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}

    def floats(index):
        quantization = tensors[index]["quantization_parameters"]
        stored = interpreter.get_tensor(index).astype(np.float32)
        return (stored - quantization["zero_points"][0]) * quantization["scales"][0]

    def highest(index):
        scale, zero = tensors[index]["quantization"]
        return (255 - zero) * scale

    names = iter([*names, "aspp.0", "aspp.pool.conv", "aspp.project", "classifier"])
    layers, cut = {}, {}
    nodes, constants = [], [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))]
    values = {interpreter.get_input_details()[0]["index"]: "input"}
    level, last = 0, None

    def convolve(name, entry, weight, bias, stride, dilation, pads):
        groups = weight.shape[0] if weight.shape[1] == 1 and weight.shape[0] > 1 and weight.shape[2] > 1 else 1
        constants.extend(
            numpy_helper.from_array(np.ascontiguousarray(value).astype(np.float32), f"{name}.{kind}")
            for kind, value in (("weight", weight), ("bias", bias))
        )
        nodes.append(
            helper.make_node(
                "Conv", [entry, f"{name}.weight", f"{name}.bias"], [name],
                group=groups, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads, kernel_shape=weight.shape[2:],
            )
        )

    for code, options, inputs, output in operators(path):
        entry = values.get(inputs[0])
        if code in (CONV, DEPTHWISE):
            name = next(names)
            weight, bias = floats(inputs[1]), floats(inputs[2])
            weight = weight.transpose(3, 0, 1, 2) if code == DEPTHWISE else weight.transpose(0, 3, 1, 2)
            stride, dilation = options.StrideH(), options.DilationHFactor()
            half = dilation * (weight.shape[2] // 2)
            pads = [half] * 4
            if stride == 2:
                pads = [half - 1, half - 1, half, half] if PAD_AFTER[level] else pads
                level += 1
            layers[name] = (weight, bias)
            if isinstance(entry, list):
                # The pooled branch is one cell: it is projected by itself and added, which broadcasts.
                width = weight.shape[1] // 2
                layers["aspp.pool.project"] = (weight[:, :width], bias * 0)
                layers[name] = (weight[:, width:], bias)
                convolve("aspp.pool.project", entry[0], *layers["aspp.pool.project"], 1, 1, pads)
                convolve(f"{name}.spatial", entry[1], *layers[name], 1, 1, pads)
                nodes.append(helper.make_node("Add", ["aspp.pool.project", f"{name}.spatial"], [name]))
            else:
                convolve(name, entry, weight, bias, stride, dilation, pads)
            last = name
            if options.FusedActivationFunction() == RELU:
                nodes.append(helper.make_node("Relu", [name], [f"{name}.out"]))
                last = f"{name}.out"
            elif options.FusedActivationFunction() == RELU6:
                nodes.append(helper.make_node("Clip", [name, "zero", "six"], [f"{name}.out"]))
                last = f"{name}.out"
            cut[name] = highest(output)
            values[output] = last
            if name == "classifier":
                break
        elif code == ADD:
            last = f"{last}.added"
            nodes.append(helper.make_node("Add", [entry, values[inputs[1]]], [last]))
            values[output] = last
        elif code == POOL:
            nodes.append(helper.make_node("GlobalAveragePool", [entry], ["pooled"]))
            values[output] = "pooled"
        elif code == CONCAT:
            values[output] = [values[index] for index in inputs]
        elif code in (RESIZE, QUANTIZE, TILE):
            values[output] = entry
        else:
            raise SystemExit(f"{path}: operator {code} is none of DeepLab's")
    graph = helper.make_graph(
        nodes, "deeplab", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)], constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return layers, cut, model


def seen(model, wanted, folder, size):
    """Values of `wanted` on forty of the pictures: channels by cells."""
    produced = {output for node in model.graph.node for output in node.output}
    wanted = [next(n for n in (f"{name}.added", f"{name}.out", name) if n in produced) for name in wanted]
    for name in wanted:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [[] for _ in wanted]
    pictures = sorted(os.listdir(folder))
    for name in pictures[:: max(1, len(pictures) // 40)]:
        picture = Image.open(os.path.join(folder, name)).convert("RGB").resize(size)
        normalised = (np.asarray(picture, np.float32) - 128) / 128
        for cells, value in zip(found, session.run(wanted, {"input": normalised.transpose(2, 0, 1)[None]})):
            cells.append(value[0].reshape(value.shape[1], -1)[:, ::7])
    return [np.concatenate(cells, 1) for cells in found]


def decoder(classifier, deep, skips, steps, offset, random):
    """The decoder's layers, and the last classifier's: the first channels pass the logits on."""
    weight, bias = classifier
    classes = len(weight)

    def sized(rows, values, deviation, mean):
        found = rows @ values
        factor = deviation / (found.std(1) + 1e-3)
        return rows * factor[:, None], mean - (found * factor[:, None]).mean(1)

    layers, values = {}, deep
    logits = SCALE * (weight[:, :, 0, 0] @ deep + (bias + offset)[:, None])
    for step, (name, channels) in enumerate(zip(DECODERS, steps)):
        inputs = len(values)
        up, up_bias = np.zeros((4, channels, inputs)), np.zeros((4, channels))
        for cell in range(4):
            rows = random.normal(size=(channels - classes, inputs))
            up[cell, classes:], up_bias[cell, classes:] = sized(rows, values, 0.8, 0.8)
            if step == 0:
                up[cell, :classes], up_bias[cell, :classes] = SCALE * weight[:, :, 0, 0], SCALE * (bias + offset)
            else:
                up[cell, :classes, :classes] = np.eye(classes)
        layers[f"{name}.up"] = (up.reshape(4 * channels, inputs, 1, 1), up_bias.reshape(-1))
        skip, skip_bias = sized(random.normal(size=(channels, len(skips[step]))), skips[step], 0.6, 0.0)
        skip[:classes] *= 0.03
        skip_bias[:classes] *= 0.03
        layers[f"{name}.skip"] = (skip[:, :, None, None], skip_bias)
        # Each cell was repeated four times: this makes bilinear upsampling of it.
        depthwise = random.normal(size=(channels, 1, 3, 3)) * 0.15
        depthwise[classes:, 0, 1, 1] += 0.8
        depthwise[:classes, 0] = np.outer([1, 2, 1], [1, 2, 1]) / 16
        layers[f"{name}.depthwise"] = (depthwise, np.zeros(channels))
        pointwise = random.normal(size=(channels, channels)) * np.sqrt(1 / channels)
        pointwise[:classes] *= 0.02
        pointwise[:classes, :classes] = np.eye(classes)
        level = np.where(np.arange(channels) < classes, 0.0, 0.5)
        layers[f"{name}.pointwise"] = (pointwise[:, :, None, None], level)
        others = random.normal(size=(channels - classes, logits.shape[1])) * 0.6 + 0.6
        values = np.clip(np.concatenate([logits, others]), 0, 6)
    last = random.normal(size=(classes, steps[-1])) * 0.002 / SCALE
    last[:, :classes] = np.eye(classes) / SCALE
    layers["classifier"] = (last[:, :, None, None], np.full(classes, -float(offset)))
    return layers


def main(path, folder, out):
    form = "edgetpu" if "edgetpu" in os.path.basename(path) else "mnv2"
    trunk, steps, classes, offset, size = FORMS[form]
    names, skips = trunk()
    layers, cut, model = read(path, names)
    # ReLUs of the head are cut off where 8 bits end; the network has ReLU6 there.
    for scaled, after in ((("aspp.0",), "aspp.project"), (("aspp.project", "aspp.pool.project"), "classifier")):
        factor = 6 / cut[scaled[0]]
        for name in scaled:
            weight, bias = layers[name]
            layers[name] = (weight * factor, bias * factor)
        weight, bias = layers[after]
        layers[after] = (weight / factor, bias)
    deep, *values = seen(model, ["aspp.project", *skips], folder, size)
    deep = np.clip(deep * 6 / cut["aspp.project"], 0, 6)
    classifier = layers.pop("classifier")
    if classes is not None:
        classifier = tuple(part[list(classes)] for part in classifier)
    layers.update(decoder(classifier, deep, values, steps, offset, np.random.default_rng(7)))
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(value).astype(np.float32), f"{name}.{kind}")
        for name, layer in layers.items()
        for kind, value in zip(("weight", "bias"), layer)
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["logits"])], "weights",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)], constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, out)
    print(f"{out}: {len(layers)} layers, classes {len(classifier[0])}, decoder {list(steps)}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
