//! A PyTorch weights file is read or refused; what is made stays in proportion to it.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The trainer itself needs libtorch.
#[path = "../../trainer/src/import"]
mod import {
    #[allow(dead_code, reason = "made for the trainer")]
    pub mod pth;
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensors) = import::pth::read(bytes) {
        for tensor in tensors.values() {
            let count: i64 = tensor.shape.iter().product();
            assert_eq!(count, tensor.data.len() as i64);
        }
        assert!(tensors.values().map(|tensor| tensor.data.len()).sum::<usize>() <= bytes.len());
    }
});
