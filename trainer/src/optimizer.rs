//! Optimizers whose whole state can be saved, and the schedules of their learning rates.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::graph::Part;
use crate::weights::Weights;

/// Decays and epsilon of AdamW; Loshchilov and Hutter 2019.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;
/// The power of the polynomial schedule; Chen et al. 2017, DeepLab.
const POWER: f64 = 0.9;

/// How gradients change weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
    /// Stochastic gradient descent with momentum; weight decay is added to the gradient.
    Sgd,
}

/// How learning rates fall after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// `(1 - done)^0.9`
    #[default]
    Poly,
    /// Half a cosine.
    Cosine,
    /// They don't.
    Constant,
}

impl Schedule {
    /// The factor on the learning rates at `step` of `steps`: a linear start, then a fall to zero.
    #[must_use]
    pub fn factor(self, step: u64, warm_up: u64, steps: u64) -> f64 {
        if step < warm_up {
            return (step + 1) as f64 / (warm_up + 1) as f64;
        }
        let done = (step - warm_up) as f64 / steps.saturating_sub(warm_up).max(1) as f64;
        let done = done.min(1.0);
        match self {
            Self::Poly => (1.0 - done).powf(POWER),
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Self::Constant => 1.0,
        }
    }
}

struct Slot {
    name: String,
    part: Part,
    decay: bool,
    parameter: Tensor,
    /// AdamW: running mean and running square of the gradient. SGD: the momentum.
    state: Vec<Tensor>,
}

/// An optimizer with one learning rate for the trunk and one for the head.
pub struct Optimizer {
    slots: Vec<Slot>,
    method: Method,
    momentum: f64,
    weight_decay: f64,
    steps: i64,
}

impl Optimizer {
    /// Starts to follow the gradients of `names`; weights decay, biases and batch normalisation don't.
    ///
    /// `momentum` is that of [`Method::Sgd`].
    #[must_use]
    pub fn new(
        weights: &Weights,
        names: Vec<(String, Part)>,
        method: Method,
        momentum: f64,
        weight_decay: f64,
    ) -> Self {
        let states = state_names(method).len();
        let slots = names
            .into_iter()
            .map(|(name, part)| {
                let parameter = weights.get(&name).set_requires_grad(true);
                Slot {
                    decay: parameter.dim() == 4,
                    name,
                    part,
                    state: (0..states).map(|_| parameter.zeros_like()).collect(),
                    parameter,
                }
            })
            .collect();
        Self {
            slots,
            method,
            momentum,
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
            let decay = if slot.decay { self.weight_decay } else { 0.0 };
            match self.method {
                Method::Adamw => {
                    if decay > 0.0 {
                        let _ = slot.parameter.g_mul_scalar_(1.0 - rate * decay);
                    }
                    let _ = slot.state[0].lerp_(&gradient, 1.0 - BETAS.0);
                    let _ = slot.state[1]
                        .g_mul_scalar_(BETAS.1)
                        .addcmul_(&(&gradient * (1.0 - BETAS.1)), &gradient);
                    let divisor = (&slot.state[1] / corrections.1).sqrt() + EPSILON;
                    let _ = slot
                        .parameter
                        .addcdiv_(&(&slot.state[0] * (-rate / corrections.0)), &divisor);
                }
                Method::Sgd => {
                    if decay > 0.0 {
                        let _ = gradient.g_add_(&(&slot.parameter * decay));
                    }
                    let _ = slot.state[0].g_mul_scalar_(self.momentum).g_add_(&gradient);
                    let _ = slot.parameter.g_sub_(&(&slot.state[0] * rate));
                }
            }
            let _ = gradient.zero_();
        }
    }

    /// The state by name, to be saved.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("steps".to_owned(), Tensor::from(self.steps))];
        for slot in &self.slots {
            for (suffix, tensor) in state_names(self.method).iter().zip(&slot.state) {
                state.push((format!("{}.{suffix}", slot.name), tensor.shallow_clone()));
            }
        }
        state
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// A tensor is missing: the state is of another method or another network.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let get = |name: &str| {
            state
                .get(name)
                .with_context(|| format!("the optimizer's state holds no {name}"))
        };
        self.steps = i64::try_from(get("steps")?)?;
        for slot in &mut self.slots {
            for (suffix, tensor) in state_names(self.method).iter().zip(&mut slot.state) {
                tensor.copy_(get(&format!("{}.{suffix}", slot.name))?);
            }
        }
        Ok(())
    }
}

fn state_names(method: Method) -> &'static [&'static str] {
    match method {
        Method::Adamw => &["mean", "square"],
        Method::Sgd => &["momentum"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Conv, Graph, Op};
    use tch::{Device, Kind};

    #[test]
    fn rates_rise_then_fall_to_zero() {
        for schedule in [Schedule::Poly, Schedule::Cosine] {
            let rates: Vec<f64> = (0..=100).map(|step| schedule.factor(step, 10, 100)).collect();
            assert!(rates[..=10].windows(2).all(|pair| pair[0] < pair[1]));
            assert!(rates[10..].windows(2).all(|pair| pair[0] > pair[1]));
            assert_eq!(rates[10], 1.0);
            assert!(rates[100].abs() < 1e-12);
        }
        assert!((Schedule::Poly.factor(55, 10, 100) - 0.5f64.powf(0.9)).abs() < 1e-12);
        assert!((Schedule::Cosine.factor(40, 10, 100) - 0.75).abs() < 1e-12);
        assert_eq!(Schedule::Constant.factor(99, 10, 100), 1.0);
    }

    /// A network of one weight and one bias, in the part `part`, both at 1.
    fn one(part: Part, method: Method) -> (Weights, Optimizer) {
        let mut graph = Graph::new(1);
        let conv = Conv {
            bias: true,
            batch_norm: None,
            ..Conv::pointwise(1, 1, 0.0)
        };
        graph.push(part, "a", Op::Conv(conv), &[0]);
        let mut weights = Weights::random(&graph, 0, Device::Cpu);
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        weights.set("a.weight", &ones(&[1, 1, 1, 1])).unwrap();
        weights.set("a.bias", &ones(&[1])).unwrap();
        let names = vec![("a.weight".to_owned(), part), ("a.bias".to_owned(), part)];
        let optimizer = Optimizer::new(&weights, names, method, 0.5, 0.1);
        (weights, optimizer)
    }

    /// Three steps whose gradients are 2 times the weight and -1 at the bias.
    fn three_steps(part: Part, method: Method) -> [f64; 2] {
        let (weights, mut optimizer) = one(part, method);
        for _ in 0..3 {
            let loss = weights.get("a.weight").square().sum(None) - weights.get("a.bias").sum(None);
            loss.backward();
            optimizer.step(0.01, 0.1);
        }
        ["a.weight", "a.bias"].map(|name| weights.get(name).sum(None).double_value(&[]))
    }

    #[test]
    fn momentum_worked_by_hand() {
        // Weight: g = (2 + 0.1) w; v = g + v / 2; w -= 0.1 v.
        let (mut weight, mut velocity) = (1.0, 0.0);
        for _ in 0..3 {
            velocity = 0.5 * velocity + 2.1 * weight;
            weight -= 0.1 * velocity;
        }
        let [found, bias] = three_steps(Part::Head, Method::Sgd);
        assert!((found - weight).abs() < 1e-6, "{found} {weight}");
        // Bias, without decay: velocities 1, 1.5, 1.75.
        assert!((bias - (1.0 + 0.1 * 4.25)).abs() < 1e-6, "{bias}");
        let [_, trunk] = three_steps(Part::Trunk, Method::Sgd);
        assert!((trunk - (1.0 + 0.01 * 4.25)).abs() < 1e-6, "{trunk}");
    }

    #[test]
    fn adamw_worked_by_hand() {
        let (mut weight, mut mean, mut square) = (1.0f64, 0.0, 0.0);
        for step in 1..=3 {
            let gradient = 2.0 * weight;
            weight *= 1.0 - 0.1 * 0.1;
            mean = 0.9 * mean + 0.1 * gradient;
            square = 0.999 * square + 0.001 * gradient * gradient;
            let (m, s) = (
                mean / (1.0 - 0.9f64.powi(step)),
                square / (1.0 - 0.999f64.powi(step)),
            );
            weight -= 0.1 * m / (s.sqrt() + 1e-8);
        }
        let [found, bias] = three_steps(Part::Head, Method::Adamw);
        assert!((found - weight).abs() < 1e-5, "{found} {weight}");
        // A gradient that stays the same moves by the learning rate.
        assert!((bias - 1.3).abs() < 1e-5, "{bias}");
    }

    #[test]
    fn a_state_of_another_method_is_refused() {
        let (_, sgd) = one(Part::Head, Method::Sgd);
        let (_, mut adamw) = one(Part::Head, Method::Adamw);
        let message = adamw
            .restore(&sgd.state().into_iter().collect())
            .unwrap_err()
            .to_string();
        assert!(message.contains("a.weight.mean"), "{message}");
    }
}
