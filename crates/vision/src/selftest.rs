//! Does a backend give the answer that it should? One picture tells, before it is trusted.
//!
//! A model carries a picture and the labels that its fp32 file gave for it. For a model without them ONNX
//! Runtime is compared with tract on a made picture. Both run the whole path: preprocess, infer, postprocess.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;

use crate::dataset::decode_index_png;
use crate::error::{Error, Result};
use crate::frame::LabelMap;
use crate::infer::Backend;
use crate::model::contract::{Resize, SelfTest};
use crate::model::load::CONTRACT_FILE;
use crate::model::{Model, Origin};
use crate::picture::{decode_rgb, image_ref, read_rgb, write_index_png, write_whole};
use crate::segment::Engine;
use crate::timing::Untimed;

/// Longer side in pixels of the pictures that are written and made.
const PICTURE_SIDE: u32 = 384;

/// What a self-test found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Share of pixels with the expected label, 0 to 1.
    pub found: f64,
    /// Smallest share that passes.
    pub required: f64,
}

impl Agreement {
    /// Whether the backend may be trusted.
    pub fn passes(&self) -> bool {
        self.found >= self.required
    }
}

/// For example `97.3 % of labels as expected (at least 90 %)`.
impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} % of labels as expected (at least {:.0} %)",
            100.0 * self.found,
            100.0 * self.required
        )
    }
}

/// Runs the model's own test on `backend`; `None` for a model without one.
///
/// # Errors
/// As [`Backend::prepare`]; fatal if the test's files can't be read.
pub fn run(model: &Arc<Model>, backend: &Arc<dyn Backend>) -> Result<Option<Agreement>> {
    let Some(test) = &model.contract.selftest else {
        return Ok(None);
    };
    let picture = decode_rgb(&model.file(&test.image)?, &model.locate(&test.image))?;
    let name = model.locate(&test.labels);
    let expected = decode_index_png(Cursor::new(&model.file(&test.labels)?[..]), Path::new(&name))?;
    let size = (picture.width() as usize, picture.height() as usize);
    if (expected.width, expected.height) != size {
        return Err(Error::fatal(format!(
            "{name} is {}x{}, the picture that it labels is {}x{}",
            expected.width, expected.height, size.0, size.1
        )));
    }
    let labels = label(model, backend, None, &picture)?;
    Ok(Some(Agreement {
        found: share_equal(&labels.labels, &expected.data),
        required: test.agreement,
    }))
}

/// Compares two backends on a made picture, at a small size where the model has no fixed one. Files of the same
/// precision must agree on 97 % of labels; int8 and fp16 on 75 %, since a made picture has many close calls.
///
/// # Errors
/// As [`Backend::prepare`].
pub fn compare(
    model: &Arc<Model>,
    backend: &Arc<dyn Backend>,
    reference: &Arc<dyn Backend>,
    same_precision: bool,
) -> Result<Agreement> {
    let longest = match model.contract.input.resize {
        Resize::Fit => Some(256.min(model.contract.input.width.max(model.contract.input.height))),
        Resize::Stretch | Resize::Letterbox => None,
    };
    let picture = made_picture();
    let expected = label(model, reference, longest, &picture)?;
    let found = label(model, backend, longest, &picture)?;
    Ok(Agreement {
        found: share_equal(&found.labels, &expected.labels),
        required: if same_precision { 0.97 } else { 0.75 },
    })
}

/// Writes `selftest.jpg` and `selftest-labels.png` into the model's folder, made from the picture in `image`
/// with `reference`, which should run the fp32 file; and names them in `contract.toml` if it has no self-test.
///
/// # Errors
/// Usage if the model is not a folder or has a self-test of other files; fatal if something can't be read or written.
pub fn write(model: &Arc<Model>, reference: &Arc<dyn Backend>, image: &Path) -> Result<()> {
    let Origin::Folder(folder) = &model.origin else {
        return Err(
            Error::usage("the model inside the binary can't be written to").hint("name the model's folder")
        );
    };
    let test = SelfTest {
        image: "selftest.jpg".into(),
        labels: "selftest-labels.png".into(),
        agreement: model.contract.selftest.as_ref().map_or(0.9, |t| t.agreement),
    };
    if let Some(other) = &model.contract.selftest
        && *other != test
    {
        return Err(Error::usage(format!(
            "{} has a self-test of {} and {}",
            model.contract.name, other.image, other.labels
        ))
        .hint("remove [selftest] from contract.toml first"));
    }
    let mut picture = read_rgb(image)?;
    let longest = picture.width().max(picture.height());
    if longest > PICTURE_SIDE {
        let scale = |side: u32| (side * PICTURE_SIDE).div_ceil(longest).max(1);
        picture = image::imageops::resize(
            &picture,
            scale(picture.width()),
            scale(picture.height()),
            FilterType::Triangle,
        );
    }
    let mut jpeg = Vec::new();
    picture
        .write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, 90))
        .map_err(|e| Error::fatal("the self-test's picture can't be encoded").caused_by(e))?;
    // The labels belong to the picture as it comes out of the file.
    let picture = decode_rgb(&jpeg, &test.image)?;
    let labels = label(model, reference, None, &picture)?;
    write_whole(&folder.join(&test.image), &jpeg)?;
    write_index_png(&folder.join(&test.labels), &labels, &model.contract.classes)?;
    if model.contract.selftest.is_none() {
        let path = folder.join(CONTRACT_FILE);
        let mut text = std::fs::read_to_string(&path)
            .map_err(|e| Error::fatal(format!("{}: can't be read", path.display())).caused_by(e))?;
        text.push_str(&format!(
            "\n[selftest]\nimage = {:?}\nlabels = {:?}\nagreement = {:?}\n",
            test.image, test.labels, test.agreement
        ));
        write_whole(&path, text.as_bytes())?;
    }
    Ok(())
}

fn label(
    model: &Arc<Model>,
    backend: &Arc<dyn Backend>,
    longest: Option<usize>,
    picture: &RgbImage,
) -> Result<LabelMap> {
    let mut engine = Engine::new(model.clone(), backend.clone(), longest, Arc::new(Untimed));
    let image = image_ref(picture)?;
    let mut mask = LabelMap::zeros(image.format.width, image.format.height);
    engine.segment(&image, &mut mask)?;
    Ok(mask)
}

fn share_equal(a: &[u8], b: &[u8]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / a.len().max(1) as f64
}

/// Sky, ground, and things on it: smooth areas of several colours with edges between them.
pub fn made_picture() -> RgbImage {
    let (width, height) = (PICTURE_SIDE, PICTURE_SIDE * 3 / 4);
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
        let inside =
            |cx: f64, cy: f64, rx: f64, ry: f64| ((u - cx) / rx).powi(2) + ((v - cy) / ry).powi(2) < 1.0;
        let [r, g, b] = if inside(0.3, 0.45, 0.05, 0.08) {
            [205.0, 160.0, 135.0]
        } else if inside(0.3, 0.72, 0.09, 0.25) {
            [150.0, 40.0, 45.0]
        } else if (0.55..0.9).contains(&u) && (0.5..0.8).contains(&v) {
            [50.0, 60.0, 130.0 + 60.0 * u]
        } else if v < 0.5 {
            [120.0 + 90.0 * v, 160.0 + 60.0 * v, 225.0]
        } else {
            [110.0 - 40.0 * v, 115.0 - 30.0 * v, 100.0 - 45.0 * u]
        };
        // A fine texture, as pictures have.
        let grain = 6.0 * (f64::from(x) * 0.9).sin() * (f64::from(y) * 0.7).cos();
        image::Rgb([r, g, b].map(|c| (c + grain).clamp(0.0, 255.0) as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!(share_equal(&[1, 2, 3, 4], &[1, 2, 0, 4]), 0.75);
        let agreement = Agreement {
            found: 0.75,
            required: 0.9,
        };
        assert!(!agreement.passes());
        assert_eq!(
            agreement.to_string(),
            "75.0 % of labels as expected (at least 90 %)"
        );
    }
}
