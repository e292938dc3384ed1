//! Every network's files, in f32 and as TensorRT's 8 bits, have only what TensorRT's parser takes.

use prost::Message;
use segd_train::export::{float, qlinear};
use segd_train::nets::ARCHITECTURES;
use segd_train::quantize::calibrate;
use segd_train::weights::{Weights, fold};
use tch::{Device, Kind, Tensor};
use tract_onnx::pb::ModelProto;
use vision::infer::qdq::from_qlinear;

#[path = "../../tests/common/tensorrt.rs"]
mod tensorrt;

/// A side that every network takes.
const SIDE: i64 = 96;

#[test]
fn tensorrt_takes_what_is_exported() {
    tch::set_num_threads(1);
    tch::manual_seed(6);
    let input = Tensor::randn([1, 3, SIDE, SIDE], (Kind::Float, Device::Cpu));
    for architecture in &ARCHITECTURES {
        let graph = architecture.divided(3, 8).from_scratch();
        let weights = Weights::random(&graph, 9, Device::Cpu);
        let convs = fold(&graph, &weights).unwrap();
        let calibration = calibrate(&graph, &weights, &[input.shallow_clone()]);
        for (bits, file) in [
            (32, float::write("made", &graph, &convs)),
            (
                8,
                from_qlinear(&qlinear::write("made", &graph, &convs, &calibration)).unwrap(),
            ),
        ] {
            let refused = tensorrt::objections(&ModelProto::decode(&*file).unwrap());
            assert!(
                refused.is_empty(),
                "{} in {bits} bits: {refused:#?}",
                architecture.name
            );
        }
    }
}
