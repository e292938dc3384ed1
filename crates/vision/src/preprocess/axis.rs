//! Resampling along one axis: which samples make an output sample, and with what weights.

/// Largest box that is averaged; pictures more than this many times larger than the input alias.
const MAX_BOX: usize = 64;

/// One output sample: `(256 - weight)` times box `first` and `weight` times the next, of [`Axis::boxed`] samples
/// each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tap {
    /// Index of the first box.
    pub first: u32,
    /// 0 to 255; 0 at the last box, which has no next.
    pub weight: u32,
}

/// How `taps.len()` output samples are made of `samples` input samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// Input samples.
    pub samples: usize,
    /// Samples averaged before interpolation, at least 1. Box `j` is samples `j * boxed ..`, the last
    /// sample repeated past the end.
    pub boxed: usize,
    /// One entry an output sample.
    pub taps: Vec<Tap>,
}

impl Axis {
    /// From `pixels` pixels, of which one sample covers `step` (1; 2 for halved chroma), to `out` pixels.
    ///
    /// Output `i` lies at `(i + 0.5) * pixels / out - 0.5` pixels (half-pixel centres). A chroma sample lies
    /// in the middle of the pixels that it covers.
    pub fn new(pixels: usize, step: usize, out: usize) -> Self {
        let samples = pixels.div_ceil(step);
        let boxed = (pixels / (out * step)).clamp(1, MAX_BOX);
        let boxes = samples.div_ceil(boxed) as u64;
        let (pixels, period) = (pixels as u64, (out * step * boxed) as u64);
        let taps = (0..out as u64)
            .map(|i| {
                // Position in boxes, in 256ths, rounded: (i + 0.5) * pixels / period - 0.5.
                let at = ((2 * i + 1) * pixels * 256 + period) / (2 * period);
                let at = at.saturating_sub(128).min((boxes - 1) * 256);
                Tap {
                    first: (at / 256) as u32,
                    weight: (at % 256) as u32,
                }
            })
            .collect();
        Self { samples, boxed, taps }
    }

    /// Boxes.
    pub fn boxes(&self) -> usize {
        self.samples.div_ceil(self.boxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(first: u32, weight: u32) -> Tap {
        Tap { first, weight }
    }

    #[test]
    fn equal_sizes_take_each_sample() {
        let axis = Axis::new(3, 1, 3);
        assert_eq!(axis.boxed, 1);
        assert_eq!(axis.taps, [tap(0, 0), tap(1, 0), tap(2, 0)]);
    }

    #[test]
    fn doubling_lies_at_quarters_and_clamps() {
        let axis = Axis::new(2, 1, 4);
        // -0.25 (clamped), 0.25, 0.75, 1.25 (clamped)
        assert_eq!(axis.taps, [tap(0, 0), tap(0, 64), tap(0, 192), tap(1, 0)]);
    }

    #[test]
    fn halving_averages_boxes() {
        let axis = Axis::new(8, 1, 4);
        assert_eq!(axis.boxed, 2);
        assert_eq!(axis.taps[1], tap(1, 0));
        let axis = Axis::new(1280, 1, 384);
        assert_eq!((axis.boxed, axis.boxes()), (3, 427));
    }

    #[test]
    fn chroma_follows_luma() {
        // 4 pixels to 4: chroma samples lie at pixels 0.5 and 2.5.
        let axis = Axis::new(4, 2, 4);
        assert_eq!(axis.samples, 2);
        assert_eq!(axis.taps, [tap(0, 0), tap(0, 64), tap(0, 192), tap(1, 0)]);
        // An odd width keeps the scale of its pixels: the last sample lies at pixel 4.5 of 5.
        let axis = Axis::new(5, 2, 5);
        assert_eq!(axis.taps[4], tap(1, 192));
    }
}
