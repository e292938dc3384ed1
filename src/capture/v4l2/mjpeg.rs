//! A camera's JPEG to I420, without a detour through RGB.

use turbojpeg::{Decompressor, Subsamp, YuvImage};

use vision::error::{Error, Result};
use vision::frame::PixelFormat;

/// Decodes pictures of one size. What it allocates it keeps.
#[derive(Debug)]
pub struct MjpegDecoder {
    decompressor: Decompressor,
    width: usize,
    height: usize,
    /// The planes as the JPEG has them, where they are not I420 already.
    scratch: Vec<u8>,
}

/// Horizontal and vertical luma samples a chroma sample; `None` for grey.
fn chroma_factors(subsamp: Subsamp) -> Option<(usize, usize)> {
    match subsamp {
        Subsamp::None => Some((1, 1)),
        Subsamp::Sub2x1 => Some((2, 1)),
        Subsamp::Sub2x2 => Some((2, 2)),
        Subsamp::Sub1x2 => Some((1, 2)),
        Subsamp::Sub4x1 => Some((4, 1)),
        Subsamp::Sub1x4 => Some((1, 4)),
        _ => None,
    }
}

impl MjpegDecoder {
    /// A decoder of pictures of this size.
    ///
    /// # Errors
    /// Fatal, if the JPEG library can't be initialised.
    pub fn new(width: usize, height: usize) -> Result<Self> {
        Ok(Self {
            decompressor: Decompressor::new()
                .map_err(|e| Error::fatal("the JPEG decoder can't be initialised").caused_by(e))?,
            width,
            height,
            scratch: Vec::new(),
        })
    }

    /// Decodes `jpeg` into `out` as I420 in BT.601 full range (JFIF).
    ///
    /// # Errors
    /// A text, if the picture is cut short, damaged, or of another size; `out` is then unspecified.
    ///
    /// # Panics
    /// If `out` is shorter than an I420 picture of the decoder's size.
    pub fn decode(&mut self, jpeg: &[u8], out: &mut [u8]) -> std::result::Result<(), String> {
        let decoded = self.decode_picture(jpeg, out);
        // TurboJPEG goes on with the next picture in the middle of the header that it failed at.
        if decoded.is_err()
            && let Ok(new) = Decompressor::new()
        {
            self.decompressor = new;
        }
        decoded
    }

    fn decode_picture(&mut self, jpeg: &[u8], out: &mut [u8]) -> std::result::Result<(), String> {
        let header = self.decompressor.read_header(jpeg).map_err(|e| e.to_string())?;
        if (header.width, header.height) != (self.width, self.height) {
            return Err(format!(
                "a JPEG of {}x{}, the camera's mode is {}x{}",
                header.width, header.height, self.width, self.height
            ));
        }
        let out = &mut out[..PixelFormat::I420.packed_bytes(self.width, self.height)];
        let (fx, fy) = match (header.subsamp, chroma_factors(header.subsamp)) {
            (_, Some(factors)) => factors,
            (Subsamp::Gray, None) => (1, 1),
            (other, None) => return Err(format!("chroma subsampling {other:?}")),
        };
        // TurboJPEG rounds the planes up to whole chroma samples.
        let (luma_w, luma_h) = (self.width.next_multiple_of(fx), self.height.next_multiple_of(fy));
        if (fx, fy) == (2, 2) && (luma_w, luma_h) == (self.width, self.height) {
            return self.decompress(jpeg, header.subsamp, Target::Out(out));
        }
        let (chroma_w, chroma_h) = (luma_w / fx, luma_h / fy);
        let luma_bytes = luma_w * luma_h;
        let chroma_bytes = if header.subsamp == Subsamp::Gray {
            0
        } else {
            chroma_w * chroma_h
        };
        self.scratch.resize(luma_bytes + 2 * chroma_bytes, 0);
        self.decompress(jpeg, header.subsamp, Target::Scratch)?;

        let (half_w, half_h) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let (luma, chroma) = out.split_at_mut(self.width * self.height);
        for (to, from) in luma
            .chunks_exact_mut(self.width)
            .zip(self.scratch.chunks_exact(luma_w))
        {
            to.copy_from_slice(&from[..self.width]);
        }
        if chroma_bytes == 0 {
            chroma.fill(128);
            return Ok(());
        }
        let planes = self.scratch[luma_bytes..].chunks_exact(chroma_bytes);
        for (to, from) in chroma.chunks_exact_mut(half_w * half_h).zip(planes) {
            resample(from, (chroma_w, chroma_h), (fx, fy), to, half_w);
        }
        Ok(())
    }

    fn decompress(
        &mut self,
        jpeg: &[u8],
        subsamp: Subsamp,
        target: Target<'_>,
    ) -> std::result::Result<(), String> {
        let image = YuvImage {
            pixels: match target {
                Target::Out(out) => out,
                Target::Scratch => self.scratch.as_mut_slice(),
            },
            width: self.width,
            align: 1,
            height: self.height,
            subsamp,
        };
        match self.decompressor.decompress_to_yuv(jpeg, image) {
            Ok(()) => Ok(()),
            Err(e) => {
                let text = e.to_string();
                // Only a warning, and the picture is whole: many webcams pad their JPEGs.
                if text.contains("extraneous bytes before marker") {
                    Ok(())
                } else {
                    Err(text)
                }
            }
        }
    }
}

enum Target<'a> {
    Out(&'a mut [u8]),
    Scratch,
}

/// Chroma at `1 / (fx, fy)` of the luma's size to half size: the mean of the samples that a 4:2:0 sample
/// covers, or the one that covers it.
fn resample(from: &[u8], (w, h): (usize, usize), (fx, fy): (usize, usize), to: &mut [u8], half_w: usize) {
    let last = |length: usize, at: usize| at.min(length - 1);
    for (cy, row) in to.chunks_exact_mut(half_w).enumerate() {
        let y0 = last(h, 2 * cy / fy);
        let y1 = if fy == 1 { last(h, y0 + 1) } else { y0 };
        let (top, bottom) = (&from[y0 * w..][..w], &from[y1 * w..][..w]);
        if fx == 2 {
            for ((value, &a), &b) in row.iter_mut().zip(top).zip(bottom) {
                *value = (u16::from(a) + u16::from(b)).div_ceil(2) as u8;
            }
            continue;
        }
        for (cx, value) in row.iter_mut().enumerate() {
            let x0 = last(w, 2 * cx / fx);
            let x1 = if fx == 1 { last(w, x0 + 1) } else { x0 };
            let sum: u16 = [top[x0], top[x1], bottom[x0], bottom[x1]]
                .map(u16::from)
                .iter()
                .sum();
            *value = ((sum + 2) / 4) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbojpeg::{Compressor, Image, PixelFormat as TjFormat};

    /// A picture with soft colour gradients, so that subsampling changes little.
    fn jpeg(width: usize, height: usize, subsamp: Subsamp) -> Vec<u8> {
        let pixels: Vec<u8> = (0..height)
            .flat_map(|y| {
                (0..width).flat_map(move |x| [(40 + x) as u8, (200 - y) as u8, (90 + x / 2 + y / 2) as u8])
            })
            .collect();
        let mut compressor = Compressor::new().unwrap();
        compressor.set_subsamp(subsamp).unwrap();
        compressor.set_quality(95).unwrap();
        let image = Image {
            pixels: pixels.as_slice(),
            width,
            pitch: 3 * width,
            height,
            format: TjFormat::RGB,
        };
        compressor.compress_to_vec(image).unwrap()
    }

    fn decode(jpeg: &[u8], width: usize, height: usize) -> std::result::Result<Vec<u8>, String> {
        let mut out = vec![7; PixelFormat::I420.packed_bytes(width, height)];
        MjpegDecoder::new(width, height).unwrap().decode(jpeg, &mut out)?;
        Ok(out)
    }

    /// JFIF's definition of the gradients' Y, Cb, Cr at a place.
    fn truth(x: f64, y: f64) -> [f64; 3] {
        let (r, g, b) = (40.0 + x, 200.0 - y, 90.0 + x / 2.0 + y / 2.0);
        let luma = 0.299 * r + 0.587 * g + 0.114 * b;
        [luma, 128.0 + (b - luma) / 1.772, 128.0 + (r - luma) / 1.402]
    }

    #[test]
    fn every_subsampling_becomes_420() {
        for subsamp in [
            Subsamp::None,
            Subsamp::Sub2x1,
            Subsamp::Sub2x2,
            Subsamp::Sub1x2,
            Subsamp::Sub4x1,
            Subsamp::Gray,
        ] {
            for (width, height) in [(64, 48), (37, 29)] {
                let out = decode(&jpeg(width, height, subsamp), width, height).unwrap();
                let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
                for (x, y) in [(0, 0), (20, 10), (width - 1, height - 1), (7, height - 2)] {
                    let got = f64::from(out[y * width + x]);
                    let want = truth(x as f64, y as f64)[0];
                    assert!(
                        (got - want).abs() < 5.0,
                        "{subsamp:?} {width}x{height} Y {x},{y}: {got} {want}"
                    );
                }
                for (cx, cy) in [(2, 2), (half_w - 3, half_h - 3)] {
                    for plane in 0..2 {
                        let at = width * height + plane * half_w * half_h + cy * half_w + cx;
                        let want = match subsamp {
                            Subsamp::Gray => 128.0,
                            _ => truth(2.0 * cx as f64 + 0.5, 2.0 * cy as f64 + 0.5)[1 + plane],
                        };
                        let got = f64::from(out[at]);
                        assert!(
                            (got - want).abs() < 5.0,
                            "{subsamp:?} {width}x{height} C {cx},{cy}: {got} {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let whole = jpeg(64, 48, Subsamp::Sub2x1);
        assert!(decode(&whole[..whole.len() / 2], 64, 48).is_err(), "cut short");
        assert!(decode(&whole[..20], 64, 48).is_err(), "only a header");
        assert!(decode(&[], 64, 48).is_err());
        assert!(decode(&[0; 5000], 64, 48).is_err());
        assert!(decode(&whole, 32, 48).unwrap_err().contains("64x48"));
    }

    #[test]
    fn after_damage_anywhere_the_next_picture_is_whole() {
        let good = jpeg(32, 16, Subsamp::Sub2x2);
        let expected = decode(&good, 32, 16).unwrap();
        let mut decoder = MjpegDecoder::new(32, 16).unwrap();
        let mut out = vec![0; expected.len()];
        let mut refused = 0;
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 0xff;
            for damaged in [&good[..at], &changed] {
                refused += usize::from(decoder.decode(damaged, &mut out).is_err());
                assert_eq!(
                    decoder.decode(&good, &mut out),
                    Ok(()),
                    "after damage at byte {at}"
                );
                assert_eq!(out, expected, "after damage at byte {at}");
            }
        }
        assert!(refused > good.len(), "{refused} of {}", 2 * good.len());
    }

    #[test]
    fn padding_as_webcams_add_it_is_accepted() {
        let whole = jpeg(64, 48, Subsamp::Sub2x1);
        let good = decode(&whole, 64, 48).unwrap();
        let mut tail = whole.clone();
        tail.extend([0; 3000]);
        assert_eq!(decode(&tail, 64, 48).unwrap(), good, "after the end");
        let mut inside = whole[..whole.len() - 2].to_vec();
        inside.extend([0, 0, 0, 0]);
        inside.extend(&whole[whole.len() - 2..]);
        assert_eq!(decode(&inside, 64, 48).unwrap(), good, "before the end marker");
    }
}
