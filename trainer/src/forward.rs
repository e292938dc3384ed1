//! Runs a [`Graph`] in tch.

use tch::{Kind, Tensor};

use crate::graph::{Conv, Graph, LAYER_NORM_EPS, NOTHING, Node, NodeId, Op, Part};
use crate::weights::{Weights, batch_norm_affine};

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Training: the head normalises by the batch's statistics, the stem gets no gradient.
    Train {
        /// How far the head's running statistics move to those of the batch.
        momentum: f64,
    },
    /// Training that keeps every running statistic; the stem gets no gradient.
    Tune,
    /// Inference: every batch normalisation uses its running statistics.
    Eval,
}

/// Runs the network on `input`, `[N, C, H, W]`, computing in `kind`; the logits are f32.
pub fn forward(graph: &Graph, weights: &Weights, input: &Tensor, mode: Mode, kind: Kind) -> Tensor {
    let mut logits = forward_wanted(graph, weights, input, mode, kind, &[graph.output]);
    logits.remove(0)
}

/// The values of the nodes `wanted`, in f32; what they are not made of is not computed.
pub fn forward_wanted(
    graph: &Graph,
    weights: &Weights,
    input: &Tensor,
    mode: Mode,
    kind: Kind,
    wanted: &[NodeId],
) -> Vec<Tensor> {
    run(graph, weights, input, mode, kind, wanted, |_, value| value)
}

/// As [`forward`], showing every node's value to `each`, those of other outputs too.
pub fn forward_each(
    graph: &Graph,
    weights: &Weights,
    input: &Tensor,
    mode: Mode,
    kind: Kind,
    mut each: impl FnMut(NodeId, &Tensor),
) -> Tensor {
    forward_mapped(graph, weights, input, mode, kind, |id, value| {
        each(id, &value);
        value
    })
}

/// As [`forward_each`], every node's value being what `map` makes of it.
pub fn forward_mapped(
    graph: &Graph,
    weights: &Weights,
    input: &Tensor,
    mode: Mode,
    kind: Kind,
    map: impl FnMut(NodeId, Tensor) -> Tensor,
) -> Tensor {
    let outputs: Vec<NodeId> = graph.outputs().collect();
    run(graph, weights, input, mode, kind, &outputs, map).remove(0)
}

fn run(
    graph: &Graph,
    weights: &Weights,
    input: &Tensor,
    mode: Mode,
    kind: Kind,
    wanted: &[NodeId],
    mut map: impl FnMut(NodeId, Tensor) -> Tensor,
) -> Vec<Tensor> {
    let needed = graph.needed(wanted);
    let last_uses = graph.last_uses();
    let mut readers = vec![0; graph.nodes.len()];
    for &input in graph.nodes.iter().flat_map(|node| &node.inputs) {
        readers[input] += 1;
    }
    let mut values: Vec<Option<Tensor>> = Vec::with_capacity(graph.nodes.len());
    for (id, node) in graph.nodes.iter().enumerate() {
        if !needed[id] {
            values.push(None);
            continue;
        }
        // An activation may overwrite a value that nothing else reads.
        let in_place = node
            .inputs
            .first()
            .is_some_and(|&input| input != 0 && readers[input] == 1);
        let value = if mode != Mode::Eval && node.part == Part::Stem {
            tch::no_grad(|| run_node(node, weights, input, &values, mode, kind, in_place))
        } else {
            run_node(node, weights, input, &values, mode, kind, in_place)
        };
        values.push(Some(map(id, value)));
        for &input in &node.inputs {
            if last_uses[input] == id && !wanted.contains(&input) {
                values[input] = None;
            }
        }
    }
    wanted
        .iter()
        .map(|&id| {
            values[id]
                .as_ref()
                .expect("what is wanted is kept")
                .to_kind(Kind::Float)
        })
        .collect()
}

fn run_node(
    node: &Node,
    weights: &Weights,
    input: &Tensor,
    values: &[Option<Tensor>],
    mode: Mode,
    kind: Kind,
    in_place: bool,
) -> Tensor {
    let x = |i: usize| {
        values[node.inputs[i]]
            .as_ref()
            .expect("a value lives until its last use")
    };
    match &node.op {
        Op::Input { .. } => input.to_kind(kind),
        Op::Conv(conv) => run_conv(node, conv, weights, x(0), mode, kind),
        Op::Relu6 if in_place => x(0).shallow_clone().relu6_(),
        Op::Relu6 => x(0).relu6(),
        Op::Relu if in_place => x(0).shallow_clone().relu_(),
        Op::Relu => x(0).relu(),
        Op::Add => x(0) + x(1),
        Op::Concat => Tensor::cat(&(0..node.inputs.len()).map(x).collect::<Vec<_>>(), 1),
        Op::GlobalAvgPool => x(0).mean_dim([2i64, 3].as_slice(), true, None),
        Op::DepthToSpace => {
            let (n, c, h, w) = x(0).size4().expect("values are [N, C, H, W]");
            x(0).permute([0, 2, 3, 1])
                .reshape([n, h, w, 2, 2, c / 4])
                .permute([0, 1, 3, 2, 4, 5])
                .reshape([n, 2 * h, 2 * w, c / 4])
                .permute([0, 3, 1, 2])
        }
        Op::MaxPool(pool) => x(0).max_pool2d([pool.kernel(); 2], [2, 2], [pool.padding(); 2], [1, 1], false),
        Op::Unpool => unpool(x(0), x(1), x(2)),
        Op::ConvTranspose(conv) => x(0).conv_transpose2d(
            &weights.get(&format!("{}.weight", node.name)).to_kind(kind),
            conv.bias
                .then(|| weights.get(&format!("{}.bias", node.name)).to_kind(kind)),
            [conv.stride; 2],
            [conv.padding(); 2],
            [0, 0],
            1,
            [1, 1],
        ),
        Op::BinPool { bins } => x(0).adaptive_avg_pool2d([*bins; 2]),
        Op::ResizeLike => {
            let (_, _, h, w) = x(1).size4().expect("values are [N, C, H, W]");
            x(0).upsample_bilinear2d([h, w], false, None, None)
        }
        Op::ResizeTo { side } => x(0).upsample_bilinear2d([*side; 2], false, None, None),
        Op::LayerNorm { channels } => {
            let of = |suffix: &str| Some(weights.get(&format!("{}.{suffix}", node.name)).to_kind(kind));
            x(0).permute([0, 2, 3, 1])
                .layer_norm([*channels], of("weight"), of("bias"), LAYER_NORM_EPS, false)
                .permute([0, 3, 1, 2])
        }
        Op::Gelu => x(0).gelu("none"),
        Op::Attention { heads } => attention(x(0), x(1), x(2), *heads),
        Op::Coordinates { side } => coordinates(*side)
            .to_device(x(0).device())
            .to_kind(kind)
            .expand([x(0).size()[0], 2, *side, *side], false),
        Op::PointsNms => {
            let (_, _, h, w) = x(0).size4().expect("values are [N, C, H, W]");
            let largest = x(0).max_pool2d([2, 2], [1, 1], [1, 1], [1, 1], false);
            let is_largest = largest.narrow(2, 0, h).narrow(3, 0, w).eq_tensor(x(0));
            x(0).where_scalarother(&is_largest, NOTHING)
        }
        Op::Rows => {
            let rows: Vec<Tensor> = (0..node.inputs.len())
                .map(|i| x(i).flatten(2, 3).transpose(1, 2).unsqueeze(1))
                .collect();
            Tensor::cat(&rows, 2)
        }
    }
}

/// [`Op::Attention`] of `query`, `[N, C, H, W]`, to `key` and `value`, both `[N, C, h, w]`.
fn attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: i64) -> Tensor {
    let (n, c, h, w) = query.size4().expect("values are [N, C, H, W]");
    let part = c / heads;
    // `[N, heads, cells, part]`
    let parts = |x: &Tensor| {
        x.permute([0, 2, 3, 1])
            .reshape([n, -1, heads, part])
            .permute([0, 2, 1, 3])
    };
    let products = parts(query).matmul(&parts(key).transpose(2, 3)) / (part as f64).sqrt();
    let kind = products.kind();
    products
        .softmax(-1, kind)
        .matmul(&parts(value))
        .permute([0, 2, 1, 3])
        .reshape([n, h, w, c])
        .permute([0, 3, 1, 2])
}

/// [`Op::Coordinates`] of one picture: `[1, 2, side, side]`.
fn coordinates(side: i64) -> Tensor {
    let along = Tensor::from_slice(&places(side));
    let (right, down) = (along.reshape([1, -1]), along.reshape([-1, 1]));
    let shape = [side, side];
    Tensor::stack(&[right.expand(shape, false), down.expand(shape, false)], 0).unsqueeze(0)
}

/// The middles of `side` cells that reach from 0 to 6.
#[must_use]
pub fn places(side: i64) -> Vec<f32> {
    (0..side)
        .map(|cell| (2 * cell + 1) as f32 * 3.0 / side as f32)
        .collect()
}

/// Puts each value of `z` where `pooled` has it from in `x`: [`Op::Unpool`].
///
/// torch's `max_unpool2d` takes no bfloat16 on a CPU and needs indices of 8 bytes a value.
fn unpool(z: &Tensor, x: &Tensor, pooled: &Tensor) -> Tensor {
    let (n, c, h, w) = z.size4().expect("values are [N, C, H, W]");
    let masks = tch::no_grad(|| {
        // `[N, H, W, C]` for each of the four places of a cell.
        let phase = |i: i64, j: i64| {
            x.slice(2, i, 2 * h, 2)
                .slice(3, j, 2 * w, 2)
                .eq_tensor(pooled)
                .permute([0, 2, 3, 1])
        };
        let mut rest = phase(0, 0).ones_like();
        let mut masks = Vec::with_capacity(4);
        for (i, j) in [(0, 0), (0, 1), (1, 0)] {
            let here = phase(i, j).logical_and(&rest);
            rest = rest.logical_and(&here.logical_not());
            masks.push(here);
        }
        masks.push(rest);
        // `[N, H, W, row, column, C]`
        Tensor::stack(&masks, 3).reshape([n, h, w, 2, 2, c])
    });
    (z.permute([0, 2, 3, 1]).reshape([n, h, w, 1, 1, c]) * masks.to_kind(z.kind()))
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([n, 2 * h, 2 * w, c])
        .permute([0, 3, 1, 2])
}

fn run_conv(node: &Node, conv: &Conv, weights: &Weights, x: &Tensor, mode: Mode, kind: Kind) -> Tensor {
    let name = &node.name;
    let weight = weights.get(&format!("{name}.weight"));
    let conv2d = |weight: &Tensor, bias: Option<Tensor>| {
        // Channels last, as the activations are.
        let weight = weight.to_kind(kind);
        let weight = weight.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let bias = bias.map(|bias| bias.to_kind(kind));
        let [before, after] = conv.padding;
        let common = before.min(after);
        let padded = (before != after)
            .then(|| x.constant_pad_nd([before - common, after - common, before - common, after - common]));
        let x = padded.as_ref().unwrap_or(x);
        if conv.dilation > 1 && conv.groups == conv.inputs && conv.stride == 1 {
            return dilated_by_phases(x, &weight, bias.as_ref(), conv);
        }
        x.conv2d(
            &weight,
            bias.as_ref(),
            [conv.stride; 2],
            [common; 2],
            [conv.dilation; 2],
            conv.groups,
        )
    };
    let Some(eps) = conv.batch_norm else {
        let bias = conv
            .bias
            .then(|| weights.get(&format!("{name}.bias")) * conv.scale);
        return conv2d(&(weight * conv.scale), bias);
    };
    if let (Mode::Train { momentum }, Part::Head) = (mode, node.part) {
        let y = conv2d(weight, None);
        let parameter = |suffix: &str| Some(weights.get(&format!("{name}.bn.{suffix}")).shallow_clone());
        return y.batch_norm(
            parameter("weight"),
            parameter("bias"),
            parameter("mean"),
            parameter("var"),
            true,
            momentum,
            eps,
            false,
        );
    }
    // Folded into the weights, batch normalisation costs nothing the size of an activation.
    let (scale, bias) = batch_norm_affine(weights, name, eps);
    conv2d(&(weight * scale.reshape([-1, 1, 1, 1])), Some(bias))
}

/// A dilated depthwise convolution as a plain one on each of the `dilation`^2 phases of the picture.
///
/// The CPU library has no fast dilated depthwise kernel: its gradient took half of a training step.
fn dilated_by_phases(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: &Conv) -> Tensor {
    let (n, c, h, w) = x.size4().expect("values are [N, C, H, W]");
    let d = conv.dilation;
    // The gradient's fast kernel takes no picture of fewer than four rows or columns.
    let (rows, columns) = (((h + d - 1) / d).max(4), ((w + d - 1) / d).max(4));
    let whole = (rows * d, columns * d) == (h, w);
    let padded = (!whole).then(|| x.constant_pad_nd([0, columns * d - w, 0, rows * d - h]));
    let phases = padded
        .as_ref()
        .unwrap_or(x)
        .permute([0, 2, 3, 1])
        .reshape([n, rows, d, columns, d, c])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([n * d * d, rows, columns, c])
        .permute([0, 3, 1, 2]);
    let y = phases.conv2d(weight, bias, [1, 1], [conv.kernel / 2; 2], [1, 1], conv.groups);
    let y = y
        .permute([0, 2, 3, 1])
        .reshape([n, d, d, rows, columns, c])
        .permute([0, 3, 1, 4, 2, 5])
        .reshape([n, rows * d, columns * d, c])
        .permute([0, 3, 1, 2]);
    if whole {
        y
    } else {
        y.narrow(2, 0, h).narrow(3, 0, w)
    }
}
