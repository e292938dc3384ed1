//! The forward pass against plain torch operations, and the fast paths against the slow ones.

use segd_train::forward::{Mode, forward};
use segd_train::graph::{Conv, Graph, Op, Part};
use segd_train::weights::Weights;
use tch::{Device, Kind, Tensor};

fn close(a: &Tensor, b: &Tensor, limit: f64) {
    assert_eq!(a.size(), b.size());
    let error = (a - b).abs().max().double_value(&[]);
    assert!(error < limit, "off by {error}");
}

/// A graph of one convolution with weights, batch normalisation and statistics at random.
fn single(conv: Conv) -> (Graph, Weights) {
    let mut graph = Graph::new(conv.inputs);
    graph.push(Part::Trunk, "conv", Op::Conv(conv), &[0]);
    let mut weights = Weights::random(&graph, 5, Device::Cpu);
    for name in weights
        .iter()
        .map(|(name, _)| name.to_owned())
        .collect::<Vec<_>>()
    {
        let random = Tensor::rand_like(weights.get(&name)) + 0.5;
        weights.set(&name, &random).unwrap();
    }
    (graph, weights)
}

#[test]
fn dilated_depthwise_convolutions_equal_torch_s() {
    tch::manual_seed(1);
    for (dilation, kernel, height, width) in [
        (2, 5, 16, 16),
        (2, 3, 17, 9),
        (6, 3, 16, 24),
        (9, 3, 12, 18),
        (3, 5, 4, 31),
    ] {
        let mut conv = Conv::depthwise(4, kernel, 1, dilation, 1e-3);
        conv.batch_norm = None;
        let padding = conv.padding[0];
        let (graph, weights) = single(conv);
        let x = Tensor::randn([2, 4, height, width], (Kind::Float, Device::Cpu));
        let expected = x.conv2d::<Tensor>(
            weights.get("conv.weight"),
            None,
            [1, 1],
            [padding; 2],
            [dilation; 2],
            4,
        );
        close(
            &forward(&graph, &weights, &x, Mode::Eval, Kind::Float),
            &expected,
            1e-5,
        );
    }
}

#[test]
fn folded_batch_normalisation_equals_torch_s() {
    tch::manual_seed(2);
    let (graph, weights) = single(Conv {
        kernel: 3,
        padding: [0, 1],
        stride: 2,
        ..Conv::pointwise(3, 5, 1e-3)
    });
    let x = Tensor::randn([2, 3, 12, 14], (Kind::Float, Device::Cpu));
    let y = x.constant_pad_nd([0, 1, 0, 1]).conv2d::<Tensor>(
        weights.get("conv.weight"),
        None,
        [2, 2],
        [0, 0],
        [1, 1],
        1,
    );
    let part = |name: &str| Some(weights.get(&format!("conv.bn.{name}")));
    let expected = y.batch_norm(
        part("weight"),
        part("bias"),
        part("mean"),
        part("var"),
        false,
        0.1,
        1e-3,
        false,
    );
    close(
        &forward(&graph, &weights, &x, Mode::Eval, Kind::Float),
        &expected,
        1e-5,
    );
}

#[test]
fn depth_to_space_puts_channels_where_onnx_does() {
    let mut graph = Graph::new(8);
    graph.push(Part::Head, "up", Op::DepthToSpace, &[0]);
    let weights = Weights::random(&graph, 0, Device::Cpu);
    let x = Tensor::arange(8 * 6, (Kind::Float, Device::Cpu)).reshape([1, 8, 2, 3]);
    let y = forward(&graph, &weights, &x, Mode::Eval, Kind::Float);
    assert_eq!(y.size(), [1, 2, 4, 6]);
    for (i, j, c, h, w) in [(0, 0, 0, 0, 0), (0, 1, 1, 1, 2), (1, 0, 0, 1, 1), (1, 1, 1, 0, 2)] {
        let from = x.double_value(&[0, (2 * i + j) * 2 + c, h, w]);
        assert_eq!(y.double_value(&[0, c, 2 * h + i, 2 * w + j]), from);
    }
}

#[test]
fn an_activation_does_not_change_what_others_read() {
    let mut graph = Graph::new(2);
    let relu = graph.push(Part::Head, "relu", Op::Relu, &[0]);
    graph.push(Part::Head, "sum", Op::Add, &[0, relu]);
    let weights = Weights::random(&graph, 0, Device::Cpu);
    let x = Tensor::from_slice(&[-1.0f32, 2.0]).reshape([1, 2, 1, 1]);
    let y = forward(&graph, &weights, &x, Mode::Eval, Kind::Float);
    assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [-1.0, 4.0]);
    assert_eq!(x.double_value(&[0, 0, 0, 0]), -1.0);
}
