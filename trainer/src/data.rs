//! Training pictures in memory, and the random crops made from them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use indicatif::ProgressBar;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use segd::dataset::{IGNORE, Labels, Sample};

/// A picture in memory with its labels.
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `[height, width, 3]`, RGB.
    pub rgb: Vec<u8>,
    /// `[height * width]` class numbers.
    pub labels: Vec<u8>,
}

/// Reads pictures with `threads` threads; those with a side above `longest` are brought down to it.
///
/// # Errors
/// A file can't be read.
pub fn load(
    samples: &[Sample],
    longest: usize,
    threads: usize,
    progress: &ProgressBar,
) -> Result<Vec<Picture>> {
    let next = AtomicUsize::new(0);
    let pictures = Mutex::new(Vec::with_capacity(samples.len()));
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(sample) = samples.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match sample.load() {
                        Ok((image, labels)) => {
                            let picture = shrink(image, labels, longest);
                            pictures
                                .lock()
                                .expect("no panic")
                                .push((sample.name.clone(), picture));
                            progress.inc(1);
                        }
                        Err(error) => {
                            *failed.lock().expect("no panic") = Some(error);
                            next.store(samples.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner()? {
        return Err(error.into());
    }
    let mut pictures = pictures.into_inner()?;
    pictures.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(pictures.into_iter().map(|(_, picture)| picture).collect())
}

fn shrink(image: image::RgbImage, labels: Labels, longest: usize) -> Picture {
    let (width, height) = (labels.width, labels.height);
    let side = width.max(height);
    if side <= longest {
        return Picture {
            width,
            height,
            rgb: image.into_raw(),
            labels: labels.data,
        };
    }
    let scaled = |length: usize| ((length * longest + side / 2) / side).max(1);
    let (width, height) = (scaled(width), scaled(height));
    let image = image::imageops::resize(
        &image,
        width as u32,
        height as u32,
        image::imageops::FilterType::Triangle,
    );
    Picture {
        width,
        height,
        rgb: image.into_raw(),
        labels: labels.resize_nearest(width, height).data,
    }
}

/// How crops are made.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Width and height of a crop in pixels.
    pub crop: usize,
    /// Labels are sampled once every this many pixels.
    pub label_stride: usize,
    /// The picture's longest side at scale 1.
    pub longest: f32,
    /// Smallest and largest scale.
    pub scale: [f32; 2],
    /// The picture's aspect is changed by up to this factor.
    pub aspect: f32,
    /// Largest relative change of brightness, contrast and saturation.
    pub color: f32,
}

/// Crops for one step.
pub struct Batch {
    /// `[count, crop, crop, 3]`, RGB.
    pub rgb: Vec<u8>,
    /// `[count, crop / label_stride, crop / label_stride]`
    pub labels: Vec<u8>,
}

/// The crops of step `step` of a run with seed `seed`: the same for the same arguments.
///
/// `order` names each picture as often as it is to be seen in an epoch.
#[must_use]
pub fn batch(
    pictures: &[Picture],
    order: &[u32],
    augment: &Augment,
    size: usize,
    seed: u64,
    step: u64,
) -> Batch {
    let labels_side = augment.crop / augment.label_stride;
    let mut out = Batch {
        rgb: vec![0; size * augment.crop * augment.crop * 3],
        labels: vec![IGNORE; size * labels_side * labels_side],
    };
    let mut shuffled: Option<(u64, Vec<u32>)> = None;
    let pixels = out.rgb.chunks_exact_mut(augment.crop * augment.crop * 3);
    let labels = out.labels.chunks_exact_mut(labels_side * labels_side);
    for (index, (rgb, labels)) in pixels.zip(labels).enumerate() {
        let position = step * size as u64 + index as u64;
        let (epoch, place) = (
            position / order.len() as u64,
            (position % order.len() as u64) as usize,
        );
        if shuffled.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let mut order = order.to_vec();
            order.shuffle(&mut Pcg64Mcg::seed_from_u64(
                seed ^ (epoch + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ));
            shuffled = Some((epoch, order));
        }
        let picture = shuffled.as_ref().map_or(0, |(_, order)| order[place]) as usize;
        let mut rng = Pcg64Mcg::seed_from_u64(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ position);
        crop(&pictures[picture], augment, &mut rng, rgb, labels);
    }
    out
}

/// Makes one crop: scale, aspect, place, flip and colour in one pass.
fn crop(picture: &Picture, augment: &Augment, rng: &mut impl Rng, rgb: &mut [u8], labels: &mut [u8]) {
    let longest = picture.width.max(picture.height) as f32;
    let scale = between(rng, augment.scale[0].ln(), augment.scale[1].ln()).exp() * augment.longest / longest;
    let aspect = between(rng, -augment.aspect.ln(), augment.aspect.ln())
        .exp()
        .sqrt();
    // Source pixels per crop pixel.
    let step = [1.0 / (scale * aspect), aspect / scale];
    let size = [picture.width as f32, picture.height as f32];
    let side = augment.crop as f32;
    let mut origin = [0.0; 2];
    for axis in 0..2 {
        let slack = size[axis] - side * step[axis];
        // A picture smaller than the crop lies anywhere inside it.
        origin[axis] = between(rng, slack.min(0.0), slack.max(0.0));
    }
    let flip = rng.random_bool(0.5);
    let table = color_table(rng, augment.color);
    let saturation = 1.0 + between(rng, -augment.color, augment.color);

    // Source coordinates of a crop's pixel centres.
    let source = |axis: usize, position: f32| origin[axis] + position * step[axis];
    let column = |x: f32| source(0, if flip { side - x } else { x });
    // Where the picture shrinks much, one bilinear sample would alias.
    let taps: &[f32] = if step[0].max(step[1]) > 1.3 {
        &[0.25, 0.75]
    } else {
        &[0.5]
    };
    let columns: Vec<Sampling> = (0..augment.crop)
        .flat_map(|x| taps.iter().map(move |tap| x as f32 + tap))
        .map(|x| Sampling::new(column(x), picture.width))
        .collect();
    let share = 1.0 / (taps.len() * taps.len()) as f32;
    for (y, row) in rgb.chunks_exact_mut(augment.crop * 3).enumerate() {
        let rows: Vec<Sampling> = taps
            .iter()
            .map(|tap| Sampling::new(source(1, y as f32 + tap), picture.height))
            .collect();
        for (pixel, columns) in row.chunks_exact_mut(3).zip(columns.chunks_exact(taps.len())) {
            let mut sum = [0.0f32; 3];
            for v in &rows {
                for u in columns {
                    let sample = picture.bilinear(u, v);
                    for channel in 0..3 {
                        sum[channel] += sample[channel];
                    }
                }
            }
            let color = sum.map(|value| value * share);
            let grey = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2];
            for (out, value) in pixel.iter_mut().zip(color) {
                let value = (grey + (value - grey) * saturation).round().clamp(0.0, 255.0);
                *out = table[value as usize];
            }
        }
    }
    let labels_side = augment.crop / augment.label_stride;
    let centre = |index: usize| (index as f32 + 0.5) * augment.label_stride as f32;
    for (y, row) in labels.chunks_exact_mut(labels_side).enumerate() {
        let v = source(1, centre(y)).floor();
        for (x, label) in row.iter_mut().enumerate() {
            let u = column(centre(x)).floor();
            let inside = u >= 0.0 && v >= 0.0 && u < size[0] && v < size[1];
            *label = if inside {
                picture.labels[v as usize * picture.width + u as usize]
            } else {
                IGNORE
            };
        }
    }
}

impl Picture {
    fn bilinear(&self, u: &Sampling, v: &Sampling) -> [f32; 3] {
        // Outside the picture is mid-grey, near the mean of what networks are trained on.
        if !(u.inside && v.inside) {
            return [124.0, 117.0, 104.0];
        }
        let at = |x: usize, y: usize| {
            let start = (y * self.width + x) * 3;
            [self.rgb[start], self.rgb[start + 1], self.rgb[start + 2]].map(f32::from)
        };
        let corners = [
            at(u.low, v.low),
            at(u.high, v.low),
            at(u.low, v.high),
            at(u.high, v.high),
        ];
        std::array::from_fn(|c| {
            let top = corners[0][c] + (corners[1][c] - corners[0][c]) * u.weight;
            let bottom = corners[2][c] + (corners[3][c] - corners[2][c]) * u.weight;
            top + (bottom - top) * v.weight
        })
    }
}

/// The two source pixels around a coordinate, and the second one's weight.
struct Sampling {
    low: usize,
    high: usize,
    weight: f32,
    inside: bool,
}

impl Sampling {
    fn new(position: f32, length: usize) -> Self {
        let inside = position >= 0.0 && position < length as f32;
        let centre = (position - 0.5).clamp(0.0, (length - 1) as f32);
        let low = centre as usize;
        Self {
            low,
            high: (low + 1).min(length - 1),
            weight: centre - low as f32,
            inside,
        }
    }
}

/// Brightness and contrast as a table from level to level.
fn color_table(rng: &mut impl Rng, strength: f32) -> [u8; 256] {
    let contrast = 1.0 + between(rng, -strength, strength);
    let brightness = 1.0 + between(rng, -strength, strength);
    std::array::from_fn(|level| {
        let value = (level as f32 * brightness - 120.0) * contrast + 120.0;
        value.round().clamp(0.0, 255.0) as u8
    })
}

fn between(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    low + rng.random::<f32>() * (high - low)
}
