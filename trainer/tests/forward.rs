//! The forward pass against plain torch operations, and the fast paths against the slow ones.

use segd_train::forward::{Mode, forward};
use segd_train::graph::{Conv, ConvTranspose, Graph, Op, Part, Pool};
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

/// What torch's pooling with indices and its unpooling make of `x` and of values at the pooled places.
fn torch_unpool(x: &Tensor, values: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let (pooled, indices) = x.max_pool2d_with_indices([2, 2], [2, 2], [0, 0], [1, 1], false);
    let size = x.size();
    values(&pooled).max_unpool2d(&indices, [size[2], size[3]])
}

/// A pooling whose values are changed and put back.
fn pool_and_unpool(channels: i64) -> Graph {
    let mut graph = Graph::new(channels);
    let pooled = graph.push(Part::Head, "pool", Op::MaxPool(Pool::Cells), &[0]);
    let conv = Conv {
        batch_norm: None,
        ..Conv::depthwise(channels, 1, 1, 1, 1e-5)
    };
    let values = graph.push(Part::Head, "values", Op::Conv(conv), &[pooled]);
    graph.push(Part::Head, "unpool", Op::Unpool, &[values, 0, pooled]);
    graph
}

/// Few levels, so that most cells have several largest values.
fn with_ties(height: i64, width: i64) -> Tensor {
    Tensor::randint(3, [2, 3, height, width], (Kind::Float, Device::Cpu)) - 1.0
}

#[test]
fn unpooling_equals_torch_s_ties_included() {
    tch::manual_seed(6);
    let graph = pool_and_unpool(3);
    let weights = Weights::random(&graph, 1, Device::Cpu);
    for (height, width) in [(2, 2), (8, 6), (16, 32)] {
        for x in [
            with_ties(height, width),
            Tensor::randn([1, 3, height, width], (Kind::Float, Device::Cpu)),
        ] {
            let expected = torch_unpool(&x, |pooled| {
                pooled.conv2d::<Tensor>(weights.get("values.weight"), None, [1, 1], [0, 0], [1, 1], 3)
            });
            assert_eq!(forward(&graph, &weights, &x, Mode::Eval, Kind::Float), expected);
        }
    }
}

#[test]
fn unpooling_s_gradient_equals_torch_s() {
    tch::manual_seed(7);
    let graph = pool_and_unpool(3);
    let weights = Weights::random(&graph, 1, Device::Cpu);
    let weight = weights.get("values.weight").set_requires_grad(true);
    let x = with_ties(8, 6);
    let push = Tensor::randn(x.size(), (Kind::Float, Device::Cpu));
    let gradient = |y: Tensor| {
        (y * &push).sum(None).backward();
        let mut gradient = weight.grad();
        let value = gradient.copy();
        let _ = gradient.zero_();
        value
    };
    let found = gradient(forward(&graph, &weights, &x, Mode::Eval, Kind::Float));
    let expected = gradient(torch_unpool(&x, |pooled| {
        pooled.conv2d::<Tensor>(&weight, None, [1, 1], [0, 0], [1, 1], 3)
    }));
    close(&found, &expected, 1e-5);
}

#[test]
fn a_transposed_convolution_starts_as_bilinear_interpolation() {
    let mut graph = Graph::new(2);
    let conv = ConvTranspose {
        inputs: 2,
        outputs: 2,
        kernel: 4,
        stride: 2,
        bias: false,
        bilinear: true,
    };
    graph.push(Part::Head, "up", Op::ConvTranspose(conv), &[0]);
    let weights = Weights::random(&graph, 0, Device::Cpu);
    let x = Tensor::randn([1, 2, 6, 8], (Kind::Float, Device::Cpu));
    let y = forward(&graph, &weights, &x, Mode::Eval, Kind::Float);
    let expected = x.upsample_bilinear2d([12, 16], false, None, None);
    // At the border, torch repeats the last cell where a transposed convolution has zeros.
    let inner = |t: &Tensor| t.narrow(2, 1, 10).narrow(3, 1, 14);
    close(&inner(&y), &inner(&expected), 1e-5);
}

#[test]
fn part_means_and_resizing_equal_torch_s() {
    let mut graph = Graph::new(2);
    let means = graph.push(Part::Head, "means", Op::BinPool { bins: 3 }, &[0]);
    graph.push(Part::Head, "resize", Op::ResizeLike, &[means, 0]);
    let weights = Weights::random(&graph, 0, Device::Cpu);
    let x = Tensor::randn([1, 2, 6, 12], (Kind::Float, Device::Cpu));
    let y = forward(&graph, &weights, &x, Mode::Eval, Kind::Float);
    let means = x
        .reshape([1, 2, 3, 2, 3, 4])
        .mean_dim([3i64, 5].as_slice(), false, None);
    close(&y, &means.upsample_bilinear2d([6, 12], false, None, None), 1e-5);
}
