//! Colours as they are blended: in the samples of the output, Y, U, V or R, G, B.

use crate::frame::{FrameFormat, PixelFormat, Range};

/// How a class changes a sample: `(sample * keep + add + 128) / 256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ink {
    /// 0 to 256.
    pub keep: u16,
    /// For each channel, code times `256 - keep`; at most 65280.
    pub add: [u16; 3],
}

impl Ink {
    /// Leaves the picture as it is.
    pub const COPY: Self = Self {
        keep: 256,
        add: [0; 3],
    };

    /// The colour `code` with an opacity of `opacity` / 256.
    pub fn new(code: [u8; 3], opacity: u16) -> Self {
        let opacity = opacity.min(256);
        Self {
            keep: 256 - opacity,
            add: code.map(|c| u16::from(c) * opacity),
        }
    }

    /// Sample `value` of channel `channel` with this ink on it.
    #[inline(always)]
    pub fn on(&self, value: u8, channel: usize) -> u8 {
        ((u16::from(value) * self.keep + self.add[channel] + 128) >> 8) as u8
    }
}

/// Opacity in 256ths; NaN is 0.
pub fn opacity(alpha: f32) -> u16 {
    (alpha.clamp(0.0, 1.0) * 256.0).round() as u16
}

/// `rgb` in the samples of pictures painted from `format`: R, G, B, or Y, U, V of the format's colorimetry.
pub fn code(format: FrameFormat, rgb: [u8; 3]) -> [u8; 3] {
    if format.pixel == PixelFormat::Rgb24 {
        return rgb;
    }
    let (kr, kb) = format.color.matrix.weights();
    let (black, luma, chroma) = match format.color.range {
        Range::Limited => (16.0, 219.0 / 255.0, 224.0 / 255.0),
        Range::Full => (0.0, 1.0, 1.0),
    };
    let [r, g, b] = rgb.map(f64::from);
    let y = kr * r + (1.0 - kr - kb) * g + kb * b;
    let u = (b - y) / (2.0 * (1.0 - kb));
    let v = (r - y) / (2.0 * (1.0 - kr));
    // Full range: pure blue and red are 255.5, which saturates.
    [black + luma * y, 128.0 + chroma * u, 128.0 + chroma * v].map(|c| c.round().clamp(0.0, 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Colorimetry, Matrix};

    #[test]
    fn colour_bars() {
        let code = |matrix, range, rgb| {
            let color = Colorimetry { matrix, range };
            let format = FrameFormat {
                pixel: PixelFormat::I420,
                width: 1,
                height: 1,
                color,
            };
            super::code(format, rgb)
        };
        assert_eq!(code(Matrix::Bt601, Range::Limited, [255, 0, 0]), [81, 90, 240]);
        assert_eq!(code(Matrix::Bt601, Range::Limited, [0, 255, 0]), [145, 54, 34]);
        assert_eq!(code(Matrix::Bt601, Range::Limited, [0, 0, 255]), [41, 240, 110]);
        assert_eq!(code(Matrix::Bt709, Range::Limited, [255, 0, 0]), [63, 102, 240]);
        assert_eq!(code(Matrix::Bt601, Range::Full, [255, 0, 0]), [76, 85, 255]);
        assert_eq!(code(Matrix::Bt709, Range::Full, [0, 0, 255]), [18, 255, 116]);
        assert_eq!(code(Matrix::Bt709, Range::Limited, [255; 3]), [235, 128, 128]);
        assert_eq!(code(Matrix::Bt709, Range::Limited, [0; 3]), [16, 128, 128]);
    }

    #[test]
    fn opacity_is_clamped() {
        for (alpha, expected) in [
            (-1.0, 0),
            (0.0, 0),
            (0.5, 128),
            (1.0, 256),
            (7.0, 256),
            (f32::NAN, 0),
        ] {
            assert_eq!(opacity(alpha), expected);
        }
    }

    #[test]
    fn ends_of_the_scale_are_exact() {
        for value in [0, 1, 127, 255] {
            assert_eq!(Ink::COPY.on(value, 0), value);
            assert_eq!(Ink::new([9, 0, 255], 256).on(value, 2), 255);
        }
        assert_eq!(Ink::new([255, 0, 0], 128).on(0, 0), 128);
    }
}
