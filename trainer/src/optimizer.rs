//! AdamW whose whole state can be saved, and the schedule of its learning rate.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tch::Tensor;

use crate::graph::Part;
use crate::weights::Weights;

/// Decays and epsilon; Loshchilov and Hutter 2019.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

struct Slot {
    name: String,
    part: Part,
    decay: bool,
    parameter: Tensor,
    mean: Tensor,
    square: Tensor,
}

/// AdamW with one learning rate for the trunk and one for the head.
pub struct AdamW {
    slots: Vec<Slot>,
    weight_decay: f64,
    steps: i64,
}

impl AdamW {
    /// Starts to follow the gradients of `names`; weights decay, biases and batch normalisation don't.
    #[must_use]
    pub fn new(weights: &Weights, names: Vec<(String, Part)>, weight_decay: f64) -> Self {
        let slots = names
            .into_iter()
            .map(|(name, part)| {
                let parameter = weights.get(&name).set_requires_grad(true);
                let (mean, square) = (parameter.zeros_like(), parameter.zeros_like());
                Slot {
                    decay: parameter.dim() == 4,
                    name,
                    part,
                    parameter,
                    mean,
                    square,
                }
            })
            .collect();
        Self {
            slots,
            weight_decay,
            steps: 0,
        }
    }

    /// One step by the gradients that were gathered, which are cleared.
    pub fn step(&mut self, trunk_rate: f64, head_rate: f64) {
        let _guard = tch::no_grad_guard();
        self.steps += 1;
        let steps = self.steps as f64;
        let corrections = (1.0 - BETAS.0.powf(steps), 1.0 - BETAS.1.powf(steps));
        for slot in &mut self.slots {
            let rate = if slot.part == Part::Head {
                head_rate
            } else {
                trunk_rate
            };
            let mut gradient = slot.parameter.grad();
            if !gradient.defined() {
                continue;
            }
            if slot.decay {
                let _ = slot.parameter.g_mul_scalar_(1.0 - rate * self.weight_decay);
            }
            let _ = slot.mean.lerp_(&gradient, 1.0 - BETAS.0);
            let _ = slot
                .square
                .g_mul_scalar_(BETAS.1)
                .addcmul_(&(&gradient * (1.0 - BETAS.1)), &gradient);
            let divisor = (&slot.square / corrections.1).sqrt() + EPSILON;
            let _ = slot
                .parameter
                .addcdiv_(&(&slot.mean * (-rate / corrections.0)), &divisor);
            let _ = gradient.zero_();
        }
    }

    /// The state by name, to be saved.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("steps".to_owned(), Tensor::from(self.steps))];
        for slot in &self.slots {
            state.push((format!("{}.mean", slot.name), slot.mean.shallow_clone()));
            state.push((format!("{}.square", slot.name), slot.square.shallow_clone()));
        }
        state
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let get = |name: &str| {
            state
                .get(name)
                .with_context(|| format!("the optimizer's state holds no {name}"))
        };
        self.steps = i64::try_from(get("steps")?)?;
        for slot in &mut self.slots {
            slot.mean.copy_(get(&format!("{}.mean", slot.name))?);
            slot.square.copy_(get(&format!("{}.square", slot.name))?);
        }
        Ok(())
    }
}

/// The factor on the learning rates at `step` of `steps`: a linear start, then a polynomial down to zero.
#[must_use]
pub fn schedule(step: u64, warm_up: u64, steps: u64) -> f64 {
    if step < warm_up {
        return (step + 1) as f64 / (warm_up + 1) as f64;
    }
    let done = (step - warm_up) as f64 / steps.saturating_sub(warm_up).max(1) as f64;
    (1.0 - done).max(0.0).powf(0.9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_zero() {
        let rates: Vec<f64> = (0..=100).map(|step| schedule(step, 10, 100)).collect();
        assert!(rates[..=10].windows(2).all(|pair| pair[0] < pair[1]));
        assert!(rates[10..].windows(2).all(|pair| pair[0] > pair[1]));
        assert_eq!(rates[10], 1.0);
        assert_eq!(rates[100], 0.0);
    }
}
