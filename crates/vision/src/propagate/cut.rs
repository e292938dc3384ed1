//! Scene cuts: two pictures in a row that have nothing to do with each other.

use super::luma::Luma;

/// Brightness is counted in this many steps.
const BINS: usize = 32;
/// Mean absolute difference of 255 from which pictures may be of different scenes.
const MEAN_DIFFERENCE: u64 = 25;
/// Share of pixels whose brightness step is another, from which they are.
const HISTOGRAM_DISTANCE: f32 = 0.15;

/// Whether a cut lies between two pictures of the same size: their pixels differ by more than 25 of 255 on
/// average, and so do their histograms, by more than 15 % of the pixels. A fast pan changes the pixels but not
/// the histogram.
pub fn is_cut(before: &Luma, now: &Luma) -> bool {
    let pixels = (now.width() * now.height()) as u64;
    let difference: u64 = (0..now.height())
        .map(|y| {
            let pairs = before.row(y).iter().zip(now.row(y));
            u64::from(pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>())
        })
        .sum();
    if difference <= MEAN_DIFFERENCE * pixels {
        return false;
    }
    let (a, b) = (histogram(before), histogram(now));
    let differing: u32 = a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).sum();
    differing as f32 / 2.0 > HISTOGRAM_DISTANCE * pixels as f32
}

fn histogram(luma: &Luma) -> [u32; BINS] {
    let mut bins = [0; BINS];
    for y in 0..luma.height() {
        for &value in luma.row(y) {
            bins[usize::from(value) * BINS / 256] += 1;
        }
    }
    bins
}

/// Looks for cuts in a row of pictures.
#[derive(Debug, Default)]
pub struct CutDetector {
    before: Option<Luma>,
}

impl CutDetector {
    /// Whether a cut lies between the last picture and this one; the first is none, nor is one of a new size.
    pub fn next(&mut self, luma: &Luma) -> bool {
        let same =
            |b: &Luma| (b.width(), b.height(), b.scale()) == (luma.width(), luma.height(), luma.scale());
        match &mut self.before {
            Some(before) if same(before) => {
                let cut = is_cut(before, luma);
                before.copy_from(luma);
                cut
            }
            before => {
                *before = Some(luma.clone());
                false
            }
        }
    }

    /// The last picture.
    pub fn last(&self) -> Option<&Luma> {
        self.before.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameFormat, ImageRef, PixelFormat};

    fn luma(value: impl Fn(usize, usize) -> u8) -> Luma {
        let format = FrameFormat::new(PixelFormat::I420, 64, 48);
        let mut data = vec![128; format.packed_bytes()];
        for y in 0..48 {
            for x in 0..64 {
                data[y * 64 + x] = value(x, y);
            }
        }
        let mut luma = Luma::new(64, 48);
        luma.read(&ImageRef::packed(format, &data).unwrap());
        luma
    }

    #[test]
    fn a_shift_is_no_cut_and_another_scene_is_one() {
        let stripes = |shift: usize| {
            luma(move |x, _| {
                if ((x + shift) / 8).is_multiple_of(2) {
                    30
                } else {
                    200
                }
            })
        };
        let (a, b) = (stripes(0), stripes(8));
        assert!(
            !is_cut(&a, &b),
            "every pixel differs by 170, but the histogram is the same"
        );
        assert!(is_cut(&a, &luma(|_, y| 90 + y as u8)));
        let mut detector = CutDetector::default();
        assert!(!detector.next(&a), "the first picture");
        assert!(!detector.next(&b));
        assert!(detector.next(&luma(|_, y| 90 + y as u8)));
    }

    #[test]
    fn a_flash_of_little_strength_is_no_cut() {
        assert!(!is_cut(
            &luma(|x, y| (x + y) as u8),
            &luma(|x, y| (x + y + 20) as u8)
        ));
    }
}
