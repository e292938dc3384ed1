"""Writes a network of segd's (ONNX, QLinearConv form) as a TensorFlow Lite file: same weights, same 8-bit numbers.

Only the operators that segd's exporter writes are known. Activations are u8 in the ONNX file and s8 here, which is a
shift of zero points by 128; weights are s8 in both. The layout changes from NCHW to NHWC; the input's size is fixed.
"""

import argparse
import tomllib
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as tfl
from onnx import numpy_helper

VERSION = 3
# Of each operator the first version that takes 8-bit numbers.
VERSIONS = {"QUANTIZE": 1, "DEPTH_TO_SPACE": 1, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3}


class Writer:
    def __init__(self):
        self.model = tfl.ModelT()
        self.model.version = VERSION
        self.model.buffers = [tfl.BufferT()]
        self.model.operatorCodes = []
        self.graph = tfl.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]

    def tensor(self, name, shape, dtype, data=None, scale=None, zero=None, axis=0):
        tensor = tfl.TensorT()
        tensor.name, tensor.shape = name, [int(side) for side in shape]
        tensor.type = {"f4": tfl.TensorType.FLOAT32, "i1": tfl.TensorType.INT8, "i4": tfl.TensorType.INT32}[dtype]
        tensor.buffer = 0
        if data is not None:
            buffer = tfl.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, np.dtype("<" + dtype)).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if scale is not None:
            quantization = tfl.QuantizationParametersT()
            quantization.scale = np.atleast_1d(scale).astype(np.float32)
            quantization.zeroPoint = np.broadcast_to(np.int64(zero), quantization.scale.shape).copy()
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, name, inputs, output, options_name=None, **options):
        code = getattr(tfl.BuiltinOperator, name)
        codes = [c.builtinCode for c in self.model.operatorCodes]
        if code not in codes:
            entry = tfl.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), VERSIONS.get(name, 2)
            self.model.operatorCodes.append(entry)
            codes.append(code)
        op = tfl.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = codes.index(code), inputs, [output]
        if options_name:
            op.builtinOptionsType = getattr(tfl.BuiltinOptions, options_name)
            op.builtinOptions = getattr(tfl, options_name + "T")()
            for key, value in options.items():
                setattr(op.builtinOptions, key, value)
        self.graph.operators.append(op)
        return output

    def add_metadata(self, data):
        """As MediaPipe looks for it: <https://ai.google.dev/edge/litert/models/metadata>."""
        buffer = tfl.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        entry = tfl.MetadataT()
        entry.name, entry.buffer = "TFLITE_METADATA", len(self.model.buffers) - 1
        self.model.metadata = [entry]

    def bytes(self, inputs, outputs):
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


class Converter:
    def __init__(self, path, height, width, metadata):
        graph = onnx.load(path).graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.out = Writer()
        # ONNX name to index, shape (NHWC), scale and zero point (s8).
        self.known = {}
        name = graph.input[0].name
        index = self.out.tensor(name, (1, height, width, 3), "f4")
        self.known[name] = (index, (1, height, width, 3), None, None)
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            getattr(self, node.op_type)(node, attributes)
        result = self.known[graph.output[0].name]
        if metadata:
            self.out.add_metadata(metadata)
        self.data = self.out.bytes([index], [result[0]])

    def scalar(self, name):
        return self.constants[name].ravel()[0]

    def made(self, node, shape, scale=None, zero=None):
        dtype = "f4" if scale is None else "i1"
        index = self.out.tensor(node.output[0], shape, dtype, scale=scale, zero=zero)
        self.known[node.output[0]] = (index, shape, scale, zero)
        return index

    def quantized(self, node, shape, scale, zero):
        return self.made(node, shape, float(self.scalar(scale)), int(self.scalar(zero)) - 128)

    def QuantizeLinear(self, node, _):
        index, shape, *_ = self.known[node.input[0]]
        self.out.op("QUANTIZE", [index], self.quantized(node, shape, node.input[1], node.input[2]), "QuantizeOptions")

    def DequantizeLinear(self, node, _):
        index, shape, *_ = self.known[node.input[0]]
        self.out.op("DEQUANTIZE", [index], self.made(node, shape), "DequantizeOptions")

    def QLinearConv(self, node, attributes):
        weights, scales = self.constants[node.input[3]], self.constants[node.input[4]].ravel()
        assert not self.constants[node.input[5]].any(), "symmetric weights"
        bias = self.constants[node.input[8]] if len(node.input) > 8 else np.zeros(len(weights), np.int32)
        self.conv(node, attributes, node.input[0], weights, bias, scales, (node.input[6], node.input[7]))

    def Conv(self, node, attributes):
        weights, bias = (self.constants[name] for name in node.input[1:3])
        self.conv(node, attributes, node.input[0], weights, bias, None, None)

    def conv(self, node, attributes, source, weights, bias, scales, result):
        index, (_, height, width, channels), scale, zero = self.known[source]
        stride, dilation = attributes["strides"][0], attributes["dilations"][0]
        kernel = weights.shape[2]
        reach = dilation * (kernel - 1) + 1
        sides = [-(-side // stride) for side in (height, width)]
        # What "SAME" would pad in front; where the ONNX file pads more, that is done before.
        pad = [max((out - 1) * stride + reach - side, 0) // 2 for out, side in zip(sides, (height, width))]
        padding = tfl.Padding.SAME
        if kernel > 1 and list(attributes["pads"][:2]) != pad:
            top, left, bottom, right = attributes["pads"]
            amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
            padded = (1, height + top + bottom, width + left + right, channels)
            target = self.out.tensor(source + ".padded", padded, "i1", scale=scale, zero=zero)
            amounts = self.out.tensor(source + ".pads", (4, 2), "i4", amounts)
            index = self.out.op("PAD", [index, amounts], target, "PadOptions")
            padding = tfl.Padding.VALID
        depthwise = attributes["group"] > 1
        dtype = "f4" if scales is None else "i1"
        if depthwise:
            assert weights.shape[1] == 1 and attributes["group"] == channels
            weights, axis = weights.transpose(1, 2, 3, 0), 3
        else:
            weights, axis = weights.transpose(0, 2, 3, 1), 0
        filters = self.out.tensor(node.output[0] + ".weights", weights.shape, dtype, weights, scales, 0, axis)
        bias_scale = None if scales is None else scales * np.float32(scale)
        biases = self.out.tensor(node.output[0] + ".bias", bias.shape, "f4" if scales is None else "i4", bias, bias_scale, 0)
        shape = (1, *sides, len(bias))
        target = self.made(node, shape) if scales is None else self.quantized(node, shape, *result)
        options = {"padding": padding, "strideW": stride, "strideH": stride, "dilationWFactor": dilation,
                   "dilationHFactor": dilation}
        if depthwise:
            self.out.op("DEPTHWISE_CONV_2D", [index, filters, biases], target, "DepthwiseConv2DOptions",
                        depthMultiplier=1, **options)
        else:
            self.out.op("CONV_2D", [index, filters, biases], target, "Conv2DOptions", **options)

    def QLinearAdd(self, node, _):
        a, b = self.known[node.input[0]], self.known[node.input[3]]
        shape = max(a[1], b[1], key=np.prod)
        self.out.op("ADD", [a[0], b[0]], self.quantized(node, shape, node.input[6], node.input[7]), "AddOptions")

    def Concat(self, node, _):
        parts = [self.known[name] for name in node.input]
        assert len({part[2:] for part in parts}) == 1, "parts of one scale"
        shape = (*parts[0][1][:3], sum(part[1][3] for part in parts))
        target = self.made(node, shape, *parts[0][2:])
        self.out.op("CONCATENATION", [part[0] for part in parts], target, "ConcatenationOptions", axis=3)

    def QLinearGlobalAveragePool(self, node, _):
        index, shape, *_ = self.known[node.input[0]]
        axes = self.out.tensor(node.output[0] + ".axes", (2,), "i4", np.array([1, 2]))
        target = self.quantized(node, (1, 1, 1, shape[3]), node.input[3], node.input[4])
        self.out.op("MEAN", [index, axes], target, "ReducerOptions", keepDims=True)

    def DepthToSpace(self, node, attributes):
        index, (_, height, width, channels), scale, zero = self.known[node.input[0]]
        block = attributes["blocksize"]
        assert attributes["mode"] == b"DCR"
        target = self.made(node, (1, height * block, width * block, channels // block**2), scale, zero)
        self.out.op("DEPTH_TO_SPACE", [index], target, "DepthToSpaceOptions", blockSize=block)


def image_metadata(mean, std):
    """What MediaPipe needs to know of the input: RGB, and its normalisation."""
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema

    normalization = schema.NormalizationOptionsT()
    normalization.mean, normalization.std = list(mean), list(std)
    unit = schema.ProcessUnitT()
    unit.optionsType, unit.options = schema.ProcessUnitOptions.NormalizationOptions, normalization
    image = schema.ImagePropertiesT()
    image.colorSpace = schema.ColorSpaceType.RGB
    source, result = schema.TensorMetadataT(), schema.TensorMetadataT()
    source.name, result.name = "input", "logits"
    source.processUnits = [unit]
    source.content = schema.ContentT()
    source.content.contentPropertiesType = schema.ContentProperties.ImageProperties
    source.content.contentProperties = image
    graph = schema.SubGraphMetadataT()
    graph.inputTensorMetadata, graph.outputTensorMetadata = [source], [result]
    model = schema.ModelMetadataT()
    model.subgraphMetadata = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"M001")
    return bytes(builder.Output())


def convert(path, height, width, metadata=None):
    """The file's bytes, for inputs of [1, height, width, 3] (f32, normalised RGB)."""
    return Converter(path, height, width, metadata).data


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("output", type=Path)
    parser.add_argument("--contract", type=Path, help="write MediaPipe's metadata from this contract into the file")
    args = parser.parse_args()
    metadata = None
    if args.contract:
        numbers = tomllib.loads(args.contract.read_text())["input"]
        metadata = image_metadata(numbers["mean"], numbers["std"])
    args.output.write_bytes(convert(args.model, args.height, args.width, metadata))


if __name__ == "__main__":
    main()
