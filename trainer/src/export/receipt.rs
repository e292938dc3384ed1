//! What quantization cost: scores, agreement, sizes and speeds of both precisions.

use std::fmt;

use serde::Serialize;

use crate::quantize::{Method, WeightBits};

/// The receipt of a model's quantization. IoU in percent.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    /// The model.
    pub model: String,
    /// The split that was scored.
    pub split: String,
    /// Its pictures.
    pub images: usize,
    /// Pictures that ranges were found on.
    pub calibrated_on: usize,
    /// Bits of a weight in the int8 file for ONNX Runtime.
    pub weight_bits: WeightBits,
    /// Mean IoU of the f32 file.
    pub mean_iou_fp32: f64,
    /// Mean IoU of the int8 file.
    pub mean_iou_int8: f64,
    /// Mask AP50 of the f32 file's objects, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_ap50_fp32: Option<f64>,
    /// Mask AP50 of the int8 file's objects, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_ap50_int8: Option<f64>,
    /// Points of mean IoU lost, or of mask AP50 if more of them are.
    pub loss: f64,
    /// Points that may be lost.
    pub limit: f64,
    /// No more is lost than may be.
    pub good: bool,
    /// Share of pixels with the same label in both.
    pub agreement: f64,
    /// Size of the f32 file.
    pub bytes_fp32: usize,
    /// Size of the int8 file.
    pub bytes_int8: usize,
    /// CPU time of the network on this machine.
    pub speed: Vec<Speed>,
    /// Scores by class.
    pub classes: Vec<ClassScore>,
    /// What was tried, the best first, fine-tuning last.
    pub candidates: Vec<Candidate>,
}

/// A way to quantize, and the share of probe pixels on which its labels are those of f32.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// How ranges were chosen.
    pub method: Method,
    /// Convolutions were equalised.
    pub equalised: bool,
    /// Biases were corrected.
    pub bias_corrected: bool,
    /// Steps of quantization-aware fine-tuning.
    pub fine_tune: u64,
    /// Share of pixels with the same label.
    pub agreement: f64,
}

/// IoU of a class in both precisions, in percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScore {
    /// The class.
    pub name: String,
    /// In f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iou_fp32: Option<f64>,
    /// In 8 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iou_int8: Option<f64>,
}

/// CPU time of a file on a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// The file.
    pub file: String,
    /// The backend.
    pub backend: String,
    /// Milliseconds of CPU time a picture, the median.
    pub cpu_ms: f64,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        writeln!(f, "{:<20} {:>8} {:>8}", "class", "fp32 %", "int8 %")?;
        for class in &self.classes {
            let (real, small) = (percent(class.iou_fp32), percent(class.iou_int8));
            writeln!(f, "{:<20} {real:>8} {small:>8}", class.name)?;
        }
        writeln!(
            f,
            "{:<20} {:>8.2} {:>8.2}   {} pictures of {}",
            "mean IoU", self.mean_iou_fp32, self.mean_iou_int8, self.images, self.split
        )?;
        if let (Some(fp32), Some(int8)) = (self.mask_ap50_fp32, self.mask_ap50_int8) {
            writeln!(f, "{:<20} {fp32:>8.2} {int8:>8.2}", "mask AP50")?;
        }
        writeln!(
            f,
            "same label           {:.2} % of the pixels",
            100.0 * self.agreement
        )?;
        writeln!(
            f,
            "size                 {:.2} MB fp32, {:.2} MB int8",
            self.bytes_fp32 as f64 / 1e6,
            self.bytes_int8 as f64 / 1e6
        )?;
        for Speed {
            file,
            backend,
            cpu_ms,
        } in &self.speed
        {
            writeln!(f, "{file:<20} {cpu_ms:.1} CPU ms a picture on {backend}")?;
        }
        if let Some(best) = self.candidates.first() {
            let yes = |is: bool| if is { "yes" } else { "no" };
            writeln!(
                f,
                "ranges               {:?}, equalised: {}, biases corrected: {}; best of {} on {} pictures",
                best.method,
                yes(best.equalised),
                yes(best.bias_corrected),
                self.candidates.len(),
                self.calibrated_on
            )?;
        }
        let verdict = if self.good { "good" } else { "not good" };
        write!(
            f,
            "{verdict}: {:.2} points lost, the limit is {}",
            self.loss, self.limit
        )
    }
}
