//! What training minimises: a weighted sum of terms on logits and labels.
//!
//! Every term is a mean, so that a learning rate means the same at any picture size, and leaves out pixels labelled
//! [`IGNORE`]. A batch without a labelled pixel has a loss of 0.

mod balance;
mod centers;
mod grids;
#[cfg(test)]
mod tests;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use vision::dataset::IGNORE;

pub use balance::{Balance, ClassStatistics};
pub use centers::Centers;
pub use grids::Grids;

/// One term of a loss, as `[train] loss` lists them: `{ kind = "dice", weight = 0.5 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Term {
    /// `-ln p` of the true class, a weighted mean over the pixels.
    CrossEntropy {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
        /// Weights of the classes.
        #[serde(default)]
        balance: Balance,
    },
    /// Each class against all others through the sigmoid of its logit, a mean over pixels and classes.
    BinaryCrossEntropy {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
    },
    /// `1 - 2 sum(p y) / (sum(p) + sum(y))`, a mean over the classes in the batch (Milletari et al. 2016, without squares).
    Dice {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
    },
    /// Cross entropy times `(1 - p)^gamma`: pixels that are right already count less (Lin et al. 2017).
    Focal {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
        /// How much less.
        #[serde(default = "two")]
        gamma: f64,
        /// Weights of the classes.
        #[serde(default)]
        balance: Balance,
    },
    /// The convex surrogate of `1 - IoU`, a mean over the classes in the batch (Berman et al. 2018).
    LovaszSoftmax {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
    },
    /// Cross entropy over the hard pixels alone: those whose true class has a probability under `threshold`, and at least
    /// the share `keep` of all (online hard example mining, Shrivastava et al. 2016).
    Ohem {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
        /// Pixels under this probability are hard.
        #[serde(default = "seven_tenths")]
        threshold: f64,
        /// Share of the labelled pixels that is kept at least, the hardest first.
        #[serde(default = "sixteenth")]
        keep: f64,
        /// Weights of the classes.
        #[serde(default)]
        balance: Balance,
    },
    /// Of heat at centres: a centre is right, cells far from one are wrong, those near it count less; over the number of
    /// centres (Law and Deng 2018, as Zhou et al. 2019 have it: alpha 2, beta 4).
    CenterHeat {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
    },
    /// The mean squared error of heat, as Panoptic-DeepLab has it (Cheng et al. 2020).
    CenterHeatMse {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
    },
    /// The absolute error of offsets in pixels, a mean over the cells of objects; an object weighs as the square root of its
    /// cells.
    CenterOffsets {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
    },
    /// Of the classes of a grid's cells: each against all others, times `(1 - p)^gamma`, the true ones weighed by `alpha`, the
    /// others by `1 - alpha`; over the number of cells that have an object (Lin et al. 2017).
    CellFocal {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
        /// Weight of cells that have the class.
        #[serde(default = "quarter")]
        alpha: f64,
        /// How much less what is right already counts.
        #[serde(default = "two")]
        gamma: f64,
    },
    /// `1 - 2 sum(p y) / (sum(p^2) + sum(y^2))` of the masks of objects whose pixels are known, a mean over masks (Wang et al.
    /// 2020, SOLO).
    MaskDice {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
    },
    /// The mask, seen from above and from the side, fills the box (Tian et al. 2021): of every object, since boxes are by hand
    /// also where pixels are by a machine or not known.
    BoxProjection {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
    },
    /// Of objects of which the box alone is known: within it, neighbours that look alike are both of the mask, or both not (Tian
    /// et al. 2021).
    BoxAffinity {
        /// Factor of the term.
        #[serde(default = "one")]
        weight: f64,
        /// How alike two must look, 0 to 1: `e^(-d / 2)` of their distance `d` in CIE's Lab.
        #[serde(default = "three_tenths")]
        threshold: f64,
    },
}

/// What a term is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The class of every pixel.
    Classes,
    /// Centres of objects.
    Centers,
    /// Cells of grids that find objects, and the masks they give.
    Grids,
}

fn one() -> f64 {
    1.0
}

fn two() -> f64 {
    2.0
}

fn quarter() -> f64 {
    0.25
}

fn three_tenths() -> f64 {
    0.3
}

fn seven_tenths() -> f64 {
    0.7
}

fn sixteenth() -> f64 {
    1.0 / 16.0
}

/// Plain cross entropy: what a recipe that names no loss gets.
#[must_use]
pub fn cross_entropy() -> Vec<Term> {
    vec![Term::CrossEntropy {
        weight: 1.0,
        balance: Balance::None,
    }]
}

impl Term {
    /// The factor of the term.
    #[must_use]
    pub fn weight(&self) -> f64 {
        match *self {
            Self::CrossEntropy { weight, .. }
            | Self::BinaryCrossEntropy { weight }
            | Self::Dice { weight }
            | Self::Focal { weight, .. }
            | Self::LovaszSoftmax { weight }
            | Self::CenterHeat { weight }
            | Self::CenterHeatMse { weight }
            | Self::CenterOffsets { weight }
            | Self::CellFocal { weight, .. }
            | Self::MaskDice { weight }
            | Self::BoxProjection { weight }
            | Self::BoxAffinity { weight, .. }
            | Self::Ohem { weight, .. } => weight,
        }
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::CrossEntropy { .. }
            | Self::BinaryCrossEntropy { .. }
            | Self::Dice { .. }
            | Self::Focal { .. }
            | Self::LovaszSoftmax { .. }
            | Self::Ohem { .. } => Subject::Classes,
            Self::CenterHeat { .. } | Self::CenterHeatMse { .. } | Self::CenterOffsets { .. } => {
                Subject::Centers
            }
            Self::CellFocal { .. }
            | Self::MaskDice { .. }
            | Self::BoxProjection { .. }
            | Self::BoxAffinity { .. } => Subject::Grids,
        }
    }

    fn balance(&self) -> Balance {
        match *self {
            Self::CrossEntropy { balance, .. } | Self::Focal { balance, .. } | Self::Ohem { balance, .. } => {
                balance
            }
            _ => Balance::None,
        }
    }

    /// Checks the term's values.
    ///
    /// # Errors
    /// One of them makes no sense; the message names its key.
    pub fn check(&self) -> Result<()> {
        let weight = self.weight();
        ensure!(
            weight > 0.0 && weight.is_finite(),
            "train.loss: weight is {weight}, expected more than 0"
        );
        match *self {
            Self::Focal { gamma, .. } => {
                ensure!(gamma >= 0.0, "train.loss: gamma is {gamma}, expected 0 or more");
            }
            Self::CellFocal { alpha, gamma, .. } => {
                ensure!(gamma >= 0.0, "train.loss: gamma is {gamma}, expected 0 or more");
                ensure!(
                    alpha > 0.0 && alpha < 1.0,
                    "train.loss: alpha is {alpha}, expected more than 0, less than 1"
                );
            }
            Self::BoxAffinity { threshold, .. } => {
                ensure!(
                    (0.0..1.0).contains(&threshold),
                    "train.loss: threshold is {threshold}, expected 0 or more, less than 1"
                );
            }
            Self::Ohem { threshold, keep, .. } => {
                for (key, value) in [("threshold", threshold), ("keep", keep)] {
                    ensure!(
                        value > 0.0 && value <= 1.0,
                        "train.loss: {key} is {value}, expected more than 0, at most 1"
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A loss with its class weights.
pub struct Loss {
    /// Each term with the weights `[C]` of the classes, f32.
    terms: Vec<(Term, Tensor)>,
}

impl Loss {
    /// The sum of `terms`, balanced by `statistics`.
    #[must_use]
    pub fn new(terms: &[Term], statistics: &ClassStatistics, device: Device) -> Self {
        let terms = terms
            .iter()
            .map(|term| {
                let weights = Tensor::from_slice(&statistics.weights(term.balance()));
                (term.clone(), weights.to_device(device))
            })
            .collect();
        Self { terms }
    }

    /// Whether a term is about `subject`.
    #[must_use]
    pub fn is_of(&self, subject: Subject) -> bool {
        self.terms.iter().any(|(term, _)| term.subject() == subject)
    }

    /// The terms about `subject`, with the weights of the classes.
    fn of(&self, subject: Subject) -> impl Iterator<Item = &(Term, Tensor)> {
        self.terms
            .iter()
            .filter(move |(term, _)| term.subject() == subject)
    }

    /// The loss of `logits`, `[N, C, H, W]`, against `labels`, `[N, H, W]` class numbers; a scalar. Terms about objects are
    /// left out.
    ///
    /// # Panics
    /// The shapes don't fit, a label is neither a class nor [`IGNORE`], or no term is about classes.
    pub fn value(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        let pixels = Pixels::new(logits, labels);
        self.of(Subject::Classes)
            .map(|(term, weights)| pixels.term(term, weights) * term.weight())
            .reduce(|a, b| a + b)
            .expect("a loss has a term")
    }

    /// The loss of centres; a scalar. Terms about others are left out.
    ///
    /// # Panics
    /// The shapes don't fit, or no term is about centres.
    pub fn centers_value(&self, centers: &Centers) -> Tensor {
        self.of(Subject::Centers)
            .map(|(term, _)| centers.term(term) * term.weight())
            .reduce(|a, b| a + b)
            .expect("a loss has a term of centres")
    }

    /// The loss of grids and their masks; a scalar. Terms about others are left out.
    ///
    /// # Panics
    /// The shapes don't fit, or no term is about grids.
    pub fn grids_value(&self, grids: &Grids) -> Tensor {
        let prepared = grids::Prepared::new(grids);
        self.of(Subject::Grids)
            .map(|(term, _)| prepared.term(term) * term.weight())
            .reduce(|a, b| a + b)
            .expect("a loss has a term of grids")
    }
}

/// Logits and labels of a batch in the forms that the terms share.
struct Pixels<'a> {
    /// `[N, C, H, W]`
    logits: &'a Tensor,
    /// `[N, C, H, W]`
    log_probabilities: Tensor,
    /// `[N, 1, H, W]` class numbers, 0 where there is none.
    classes: Tensor,
    /// `[N, 1, H, W]`, 1 where there is a label, else 0.
    labelled: Tensor,
}

impl<'a> Pixels<'a> {
    fn new(logits: &'a Tensor, labels: &Tensor) -> Self {
        let labels = labels.to_kind(Kind::Int64).unsqueeze(1);
        let labelled = labels.not_equal(i64::from(IGNORE));
        Self {
            logits,
            log_probabilities: logits.log_softmax(1, logits.kind()),
            classes: labels * &labelled,
            labelled: labelled.to_kind(logits.kind()),
        }
    }

    fn term(&self, term: &Term, weights: &Tensor) -> Tensor {
        match *term {
            Term::CrossEntropy { .. } => {
                let (surprise, weights) = (self.surprise(), self.pixel_weights(weights));
                weighted_mean(&surprise, &weights)
            }
            Term::Focal { gamma, .. } => {
                let (surprise, weights) = (self.surprise(), self.pixel_weights(weights));
                // 1 - p, kept off 0 where its power has no derivative.
                let doubt = (-surprise.neg().expm1()).clamp_min(1e-12);
                weighted_mean(&(surprise * doubt.pow_tensor_scalar(gamma)), &weights)
            }
            Term::Ohem { threshold, keep, .. } => self.hard_cross_entropy(weights, threshold, keep),
            Term::BinaryCrossEntropy { .. } => {
                let truth = self.one_hot();
                let each = self.logits.binary_cross_entropy_with_logits::<Tensor>(
                    &truth,
                    None,
                    None,
                    tch::Reduction::None,
                );
                weighted_mean(&each.mean_dim([1i64].as_slice(), true, None), &self.labelled)
            }
            Term::Dice { .. } => {
                let truth = self.one_hot();
                let probabilities = self.log_probabilities.exp() * &self.labelled;
                let sum = |x: &Tensor| x.sum_dim_intlist([0i64, 2, 3].as_slice(), false, None);
                let sizes = sum(&truth);
                let both = sum(&(&probabilities * &truth));
                let dice = both * 2.0 / (sum(&probabilities) + &sizes).clamp_min(1e-6);
                weighted_mean(&(1.0 - dice), &sizes.greater(0.0).to_kind(truth.kind()))
            }
            Term::LovaszSoftmax { .. } => self.lovasz_softmax(),
            _ => panic!("{term:?} is a term of objects"),
        }
    }

    /// `[N, 1, H, W]`: `-ln p` of the true class.
    fn surprise(&self) -> Tensor {
        -self.log_probabilities.gather(1, &self.classes, false)
    }

    /// `[N, 1, H, W]`: the weight of the true class, 0 where there is none.
    fn pixel_weights(&self, weights: &Tensor) -> Tensor {
        weights.to_kind(self.logits.kind()).take(&self.classes) * &self.labelled
    }

    /// `[N, C, H, W]`: 1 at the true class, nothing where there is no label.
    fn one_hot(&self) -> Tensor {
        self.log_probabilities
            .zeros_like()
            .scatter_(1, &self.classes, &self.labelled)
    }

    fn hard_cross_entropy(&self, weights: &Tensor, threshold: f64, keep: f64) -> Tensor {
        let surprise = self.surprise();
        let weights = self.pixel_weights(weights);
        // Which pixels are hard is no part of the gradient.
        let hard = tch::no_grad(|| {
            let of_labelled = surprise
                .where_scalarother(&self.labelled.greater(0.0), -1.0)
                .view([-1]);
            let labelled = self.labelled.sum(None).double_value(&[]);
            let least = ((labelled * keep).ceil() as i64).max(1);
            let (hardest, _) = of_labelled.topk(least, 0, true, true);
            // The easiest of those that are kept in any case, and never a pixel without a label.
            let limit = hardest.min().double_value(&[]).min(-threshold.ln()).max(0.0);
            surprise.greater_equal(limit).to_kind(surprise.kind())
        });
        weighted_mean(&surprise, &(weights * hard))
    }

    /// Berman et al. 2018, algorithm 1 and equation 11.
    fn lovasz_softmax(&self) -> Tensor {
        let kind = self.logits.kind();
        let classes = self.logits.size()[1];
        // [pixels, C] of the labelled pixels.
        let labelled = self.labelled.view([-1]).nonzero().view([-1]);
        let probabilities = self
            .log_probabilities
            .exp()
            .permute([0, 2, 3, 1])
            .reshape([-1, classes])
            .index_select(0, &labelled);
        let truth = self.classes.view([-1]).index_select(0, &labelled);
        let mut sum = Tensor::zeros([], (kind, self.logits.device()));
        let mut present = 0;
        for class in 0..classes {
            let is_class = truth.eq(class).to_kind(kind);
            let size = is_class.sum(None).double_value(&[]);
            if size == 0.0 {
                continue;
            }
            present += 1;
            let errors = (&is_class - probabilities.select(1, class)).abs();
            let (errors, order) = errors.sort(0, true);
            let is_class = is_class.index_select(0, &order);
            let intersection = -&is_class.cumsum(0, kind) + size;
            let others = -&is_class + 1.0;
            let union = others.cumsum(0, kind) + size;
            let jaccard: Tensor = 1.0 - intersection / union;
            let steps = jaccard.diff::<Tensor>(1, 0, Some(jaccard.zeros_like().narrow(0, 0, 1)), None);
            sum += errors.dot(&steps);
        }
        sum / f64::from(present.max(1))
    }
}

/// `sum(x w) / sum(w)`, 0 where no weight is above 0.
fn weighted_mean(x: &Tensor, weights: &Tensor) -> Tensor {
    (x * weights).sum(None) / weights.sum(None).clamp_min(1e-12)
}
