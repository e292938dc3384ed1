//! Terms on the centres of objects: heat and offsets.

use tch::{Kind, Tensor};

use super::{Term, weighted_mean};

/// What a network says of centres, and what it should.
pub struct Centers<'a> {
    /// `[N, 1, H, W]`, logits.
    pub heat: &'a Tensor,
    /// `[N, 2, H, W]`, pixels down and right.
    pub offsets: &'a Tensor,
    /// `[N, 5, H, W]` as [`targets`](crate::objects::targets) has its planes.
    pub targets: &'a Tensor,
}

impl Centers<'_> {
    /// A term's value, without its weight.
    ///
    /// # Panics
    /// The term is none of centres.
    pub(super) fn term(&self, term: &Term) -> Tensor {
        let plane = |first: i64, count: i64| self.targets.narrow(1, first, count);
        let (heat, heat_weights, weights) = (plane(0, 1), plane(3, 1), plane(4, 1));
        match term {
            Term::CenterHeat { .. } => {
                let is_center = heat.eq(1.0).to_kind(Kind::Float);
                let probability = self.heat.sigmoid();
                let doubt: Tensor = 1.0 - &probability;
                let found = doubt.square() * self.heat.log_sigmoid() * &is_center;
                let far: Tensor = 1.0 - &heat;
                let elsewhere = far.square().square()
                    * probability.square()
                    * (-self.heat).log_sigmoid()
                    * (1.0 - &is_center);
                let sum: Tensor = (found + elsewhere) * heat_weights;
                -sum.sum(None) / is_center.sum(None).clamp_min(1.0)
            }
            Term::CenterHeatMse { .. } => {
                weighted_mean(&(self.heat.sigmoid() - heat).square(), &heat_weights)
            }
            Term::CenterOffsets { .. } => {
                let away = (self.offsets - plane(1, 2)).abs();
                weighted_mean(&away.sum_dim_intlist([1i64].as_slice(), true, None), &weights)
            }
            _ => panic!("{term:?} is no term of centres"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// One picture of 1 x 4 cells: a centre, near it, far, and a cell whose heat is not taught; the first two are an object's.
    fn targets() -> Tensor {
        Tensor::from_slice(&[
            1.0f32, 0.5, 0.0, 0.0, // heat
            0.0, 0.0, 0.0, 0.0, // down
            0.0, -4.0, 0.0, 0.0, // right
            1.0, 1.0, 1.0, 0.0, // weight of the heat
            0.5, 0.5, 0.0, 0.0, // weight of the offsets
        ])
        .reshape([1, 5, 1, 4])
    }

    fn value(term: &Term, heat: [f32; 4], offsets: [f32; 8]) -> f64 {
        let (heat, offsets) = (
            Tensor::from_slice(&heat).reshape([1, 1, 1, 4]),
            Tensor::from_slice(&offsets).reshape([1, 2, 1, 4]),
        );
        let centers = Centers {
            heat: &heat,
            offsets: &offsets,
            targets: &targets(),
        };
        centers.term(term).double_value(&[])
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn heat_worked_by_hand() {
        let logits = [0.4f32, -0.3, -1.2, 5.0];
        let p = logits.map(|logit| sigmoid(f64::from(logit)));
        let expected = -((1.0 - p[0]).powi(2) * p[0].ln()
            + 0.5f64.powi(4) * p[1].powi(2) * (1.0 - p[1]).ln()
            + p[2].powi(2) * (1.0 - p[2]).ln());
        let found = value(&Term::CenterHeat { weight: 1.0 }, logits, [0.0; 8]);
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");

        let expected = ((p[0] - 1.0).powi(2) + (p[1] - 0.5).powi(2) + p[2].powi(2)) / 3.0;
        let found = value(&Term::CenterHeatMse { weight: 1.0 }, logits, [0.0; 8]);
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn offsets_count_on_objects_alone() {
        let term = Term::CenterOffsets { weight: 1.0 };
        let offsets = [3.0, -1.0, 100.0, 100.0, 0.0, -2.0, 100.0, 100.0];
        // |3| + |0| and |-1| + |2|, equally weighed.
        assert!((value(&term, [0.0; 4], offsets) - 3.0).abs() < 1e-6);
        assert!(value(&term, [0.0; 4], [0.0, 0.0, 9.0, 9.0, 0.0, -4.0, 9.0, 9.0]).abs() < 1e-9);
    }

    #[test]
    fn a_batch_without_objects_has_a_loss_that_is_a_number() {
        let zeros = |channels| Tensor::zeros([1, channels, 2, 2], (Kind::Float, Device::Cpu));
        let (heat, offsets, targets) = (zeros(1), zeros(2), zeros(5));
        let centers = Centers {
            heat: &heat,
            offsets: &offsets,
            targets: &targets,
        };
        for term in [
            Term::CenterHeat { weight: 1.0 },
            Term::CenterHeatMse { weight: 1.0 },
            Term::CenterOffsets { weight: 1.0 },
        ] {
            assert_eq!(centers.term(&term).double_value(&[]), 0.0, "{term:?}");
        }
    }
}
