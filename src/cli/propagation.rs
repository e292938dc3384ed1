//! `segd bench --propagation`: what moving masks costs in quality.
//!
//! On a labelled data set the truth is known: windows that pan over stills and zoom into them make short videos
//! whose every pixel has a label. On a video there is no truth; what is measured is how far masks agree with
//! those of inferring every frame, and how much they flicker: labels that change where the picture does not.

use std::path::Path;

use image::RgbImage;
use serde::Serialize;
use tracing::info;

use crate::capture::{Capture, CaptureOptions, Pace, parse_uri};
use crate::cli::args::ModelArgs;
use crate::clock::RealClock;
use crate::metrics::{Metrics, thread_cpu_ns};
use vision::answer::Answer;
use vision::dataset::{Dataset, Format, Labels};
use vision::error::{Error, Result};
use vision::frame::{FrameFormat, ImageRef, LabelMap, PixelFormat};
use vision::pool::FramePool;
use vision::propagate::{Keys, LogitSmoother, Luma, MotionField, Smoothing, Tiles, warp_labels};
use vision::score::ConfusionMatrix;
use vision::segment::Engine;

/// The made videos' size.
const WIDTH: usize = 640;
const HEIGHT: usize = 480;
/// Frames of a made video.
const FRAMES: usize = 13;
/// Frames that are scored: the first has been shown for long enough that every way has a mask.
const SCORED_FROM: usize = 5;
/// Speeds in pixels a frame; of a zoom at the left and right edge.
const SPEEDS: [f32; 3] = [2.0, 4.0, 8.0];

/// How masks between inferences come about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Way {
    /// The network runs on every n-th frame.
    every: usize,
    /// By this many frames a result is late.
    late: usize,
    /// Masks move with the picture, or stay.
    propagate: bool,
    /// Weight of the key before in a key's logits.
    smooth: f32,
    /// What its labels have ahead, in logits.
    hold: f32,
    /// Keys are also made where this share of the picture is not explained by the last, and `every` is the longest
    /// distance.
    changed: Option<f32>,
}

const EVERY_FRAME: Way = Way {
    every: 1,
    late: 0,
    propagate: false,
    smooth: 0.0,
    hold: 0.0,
    changed: None,
};

/// Weight and hold of the key before.
const SMOOTHINGS: [(f32, f32); 4] = [(0.5, 0.0), (0.5, 1.0), (0.5, 2.0), (0.7, 2.0)];

/// The ways that are compared.
fn ways() -> Vec<Way> {
    let mut ways = vec![EVERY_FRAME];
    for (every, late) in [(1, 0), (4, 1), (4, 0), (8, 1), (2, 0)] {
        let hold = Way {
            every,
            late,
            ..EVERY_FRAME
        };
        let propagate = Way {
            propagate: true,
            ..hold
        };
        if every > 1 {
            ways.extend([hold, propagate]);
        }
        ways.extend(SMOOTHINGS.map(|(smooth, hold)| Way {
            smooth,
            hold,
            ..propagate
        }));
    }
    ways.extend([0.02, 0.03, 0.04, 0.06, 0.08].map(|changed| Way {
        every: 8,
        propagate: true,
        changed: Some(changed),
        ..EVERY_FRAME
    }));
    ways
}

/// One inferred frame.
struct Inferred {
    format: FrameFormat,
    data: Vec<u8>,
    answer: Answer,
}

impl Inferred {
    fn image(&self) -> Result<ImageRef<'_>> {
        ImageRef::packed(self.format, &self.data).map_err(Error::fatal)
    }
}

/// The masks of a video, one way. Gives each frame's, and whether it was inferred.
fn masks_of(
    engine: &mut Engine,
    frames: &[Inferred],
    way: Way,
    propagation_ns: &mut u64,
    mut each: impl FnMut(usize, Option<&LabelMap>, bool),
) -> Result<()> {
    let Some(first) = frames.first() else {
        return Ok(());
    };
    let (width, height) = (first.format.width, first.format.height);
    let mut keys: Keys<(LabelMap, Tiles)> = Keys::new(width, height, 16);
    let mut smoother = LogitSmoother::default();
    let luma = Luma::new(width, height);
    let mut field = MotionField::still(luma.columns(), luma.rows(), luma.scale());
    let mut waiting: Vec<(usize, u64, LabelMap)> = Vec::new();
    let mut moved = LabelMap::zeros(0, 0);
    let mut last_key = 0;
    let smoothing = Smoothing {
        strength: way.smooth,
        hold: way.hold,
    };
    for (t, frame) in frames.iter().enumerate() {
        let start = thread_cpu_ns();
        let cut = way.propagate && keys.advance(&frame.image()?, t as u64);
        *propagation_ns += thread_cpu_ns() - start;
        let surprising = way
            .changed
            .is_some_and(|limit| cut || keys.newest().is_some_and(|k| k.fit.changed > limit));
        let is_key = t == 0 || t - last_key >= way.every || surprising;
        if is_key {
            last_key = t;
            let before = keys.newest().filter(|k| smoothing.is_on() && !k.before_cut);
            let known = before.map(|before| field.copy_from(before.field())).is_some();
            let mut answer = frame.answer.clone();
            if let (Some(grid), Answer::Logits { values, .. }) = (engine.cells(&answer), &mut answer) {
                smoother.mix(values, &grid, known.then_some(&field), smoothing);
            }
            let mut mask = LabelMap::zeros(0, 0);
            engine.decode(&answer, &mut mask, &mut Vec::new());
            keys.start(t as u64, t as u64);
            waiting.push((t + way.late, t as u64, mask));
        }
        while waiting.first().is_some_and(|(due, ..)| *due <= t) {
            let (_, id, mask) = waiting.remove(0);
            let mut tiles = Tiles::default();
            tiles.read(&mask);
            keys.deliver(id, (mask, tiles));
        }
        let shown = keys.shown().filter(|k| !k.before_cut);
        let mask = shown.and_then(|key| key.mask.as_ref().map(|mask| (key, mask)));
        let start = thread_cpu_ns();
        let mask = match mask {
            Some((key, (mask, tiles))) if way.propagate && !key.field().is_still() => {
                warp_labels(mask, tiles, key.field(), &mut moved);
                Some(&moved)
            }
            Some((_, (mask, _))) => Some(mask),
            None => None,
        };
        *propagation_ns += thread_cpu_ns() - start;
        each(t, mask, is_key);
    }
    Ok(())
}

/// How a made video moves over its still.
#[derive(Debug, Clone, Copy)]
enum Motion {
    /// Pixels a frame to the right and down.
    Pan(f32, f32),
    /// Towards the middle by this many pixels a frame at the left and right edge; away from it if negative.
    Zoom(f32),
}

impl Motion {
    fn of(still: usize, speed: f32) -> Self {
        let d = speed * std::f32::consts::FRAC_1_SQRT_2;
        match still % 6 {
            0 => Self::Pan(speed, 0.0),
            1 => Self::Zoom(speed),
            2 => Self::Pan(-d, d),
            3 => Self::Pan(0.0, speed),
            4 => Self::Zoom(-speed),
            _ => Self::Pan(-speed, 0.0),
        }
    }

    /// From a pixel of frame `t` to a place on the window of all frames: offset and size of the frame on it.
    fn window(self, t: usize) -> ([f32; 2], f32) {
        let last = (FRAMES - 1) as f32;
        match self {
            Self::Pan(x, y) => {
                let start = |v: f32| if v < 0.0 { -v * last } else { 0.0 };
                ([start(x) + x * t as f32, start(y) + y * t as f32], 1.0)
            }
            Self::Zoom(v) => {
                let rate = 1.0 + v.abs() / (WIDTH as f32 / 2.0);
                let steps = if v > 0.0 { t as f32 } else { last - t as f32 };
                let size = rate.powf(-steps);
                (
                    [
                        WIDTH as f32 * (1.0 - size) / 2.0,
                        HEIGHT as f32 * (1.0 - size) / 2.0,
                    ],
                    size,
                )
            }
        }
    }

    /// The window of all frames, in frame pixels.
    fn extent(self) -> [f32; 2] {
        let last = (FRAMES - 1) as f32;
        match self {
            Self::Pan(x, y) => [WIDTH as f32 + x.abs() * last, HEIGHT as f32 + y.abs() * last],
            Self::Zoom(_) => [WIDTH as f32, HEIGHT as f32],
        }
    }
}

/// Frame `t` of a video over a still: picture (RGB) and labels.
fn make_frame(picture: &RgbImage, labels: &Labels, motion: Motion, t: usize) -> (Vec<u8>, Vec<u8>) {
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    let [extent_x, extent_y] = motion.extent();
    let scale = (w as f32 / extent_x).min(h as f32 / extent_y);
    let middle = [
        (w as f32 - extent_x * scale) / 2.0,
        (h as f32 - extent_y * scale) / 2.0,
    ];
    let ([left, top], size) = motion.window(t);
    let (mut rgb, mut truth) = (vec![0; 3 * WIDTH * HEIGHT], vec![0; WIDTH * HEIGHT]);
    let pixels = picture.as_raw();
    for y in 0..HEIGHT {
        let v = middle[1] + (top + (y as f32 + 0.5) * size) * scale;
        for x in 0..WIDTH {
            let u = middle[0] + (left + (x as f32 + 0.5) * size) * scale;
            let at = y * WIDTH + x;
            let nearest = (v as usize).min(h - 1) * w + (u as usize).min(w - 1);
            truth[at] = labels.data[nearest];
            let (u, v) = (
                (u - 0.5).clamp(0.0, (w - 1) as f32),
                (v - 0.5).clamp(0.0, (h - 1) as f32),
            );
            let (x0, y0) = (u as usize, v as usize);
            let (x1, y1) = ((x0 + 1).min(w - 1), (y0 + 1).min(h - 1));
            let (fx, fy) = (u - x0 as f32, v - y0 as f32);
            for c in 0..3 {
                let p = |x: usize, y: usize| f32::from(pixels[3 * (y * w + x) + c]);
                let upper = p(x0, y0) * (1.0 - fx) + p(x1, y0) * fx;
                let lower = p(x0, y1) * (1.0 - fx) + p(x1, y1) * fx;
                rgb[3 * at + c] = (upper * (1.0 - fy) + lower * fy + 0.5) as u8;
            }
        }
    }
    (rgb, truth)
}

/// One way's figures on made videos or a clip.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    way: Way,
    /// Mean IoU in percent at each speed, then over all; empty for a clip.
    mean_iou: Vec<f64>,
    /// Percent of the pixels that have the label of inferring every frame.
    agreement: f64,
    /// Percent of the pixels at rest whose label changes from frame to frame.
    flicker: f64,
    /// Percent of the frames inferred.
    inferred: f64,
    /// CPU time of motion and warp.
    propagation_ms: f64,
}

#[derive(Debug, Default, Clone)]
struct Sums {
    matrices: Vec<ConfusionMatrix>,
    agree: u64,
    compared: u64,
    flicker: u64,
    at_rest: u64,
    inferred: u64,
    frames: u64,
    ns: u64,
}

/// A square of this many pixels is at rest ...
const SQUARE: usize = 16;
/// ... if its luma changes by less than this a pixel from frame to frame, on average ...
const AT_REST: f32 = 2.0;
/// ... and by less than this part of what a shift by one pixel, to the side or down, would change: flat parts of a
/// moving picture look the same wherever they go, and their labels move rightly.
const OF_A_PIXEL: f32 = 0.25;

/// For each square of a frame, row by row, whether it is seen to be at rest. Squares cut off by the edge are not
/// counted.
fn squares_at_rest(now: &[u8], before: &[u8], width: usize) -> Vec<bool> {
    let (columns, rows) = (width / SQUARE, now.len() / width / SQUARE);
    let squares = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    squares
        .map(|(row, column)| {
            let change = |other: &[u8], shift: usize, side: usize| {
                let lines = (row * SQUARE..row * SQUARE + side).map(|y| y * width + column * SQUARE);
                let sum: u32 = lines
                    .flat_map(|at| {
                        let there = at + shift;
                        now[at..at + side].iter().zip(&other[there..there + side])
                    })
                    .map(|(a, b)| u32::from(a.abs_diff(*b)))
                    .sum();
                sum as f32 / (side * side) as f32
            };
            let changed = change(before, 0, SQUARE);
            // The last row and column have no neighbour within the square.
            let [right, down] = [1, width].map(|shift| change(now, shift, SQUARE - 1));
            changed < AT_REST && changed < OF_A_PIXEL * right.min(down)
        })
        .collect()
}

/// Runs the comparison and prints it.
///
/// # Errors
/// Usage or fatal, naming the folder or file that can't be used.
pub fn run(path: &Path, model: &ModelArgs, limit: Option<usize>, json: bool) -> Result<()> {
    let chosen = model.options()?.choose()?;
    info!(
        model = chosen.model.contract.name,
        backend = chosen.backend.name(),
        why = chosen.why,
        "model"
    );
    let classes = chosen.model.contract.classes.len();
    let metrics = Metrics::shared();
    let mut engine = Engine::new(chosen.model, chosen.backend, chosen.longest, metrics);
    let ways = ways();
    let rows = if path.is_dir() {
        on_stills(path, &mut engine, classes, &ways, limit)?
    } else {
        on_clip(path, &mut engine, &ways, limit)?
    };
    if json {
        let text = serde_json::to_string_pretty(&rows)
            .map_err(|e| Error::fatal("the report can't be written as JSON").caused_by(e))?;
        println!("{text}");
    } else {
        print(&rows);
    }
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "{:<46} {:>28} {:>9} {:>8} {:>9} {:>8}",
        "", "mIoU at 2, 4, 8 px, all", "agree %", "flicker", "inferred", "ms"
    );
    for row in rows {
        let Way {
            every,
            late,
            propagate,
            smooth,
            hold,
            changed,
        } = row.way;
        let mut name = match every {
            1 => "every frame".to_owned(),
            n => format!("every {n}., {late} late"),
        };
        if let Some(changed) = changed {
            name = format!("changed > {changed}, in time");
        }
        if every > 1 {
            name += if propagate { ", propagated" } else { ", held" };
        }
        if smooth > 0.0 || hold > 0.0 {
            name += &format!(", smoothed {smooth} {hold}");
        }
        let scores: Vec<String> = row.mean_iou.iter().map(|s| format!("{s:6.2}")).collect();
        println!(
            "{name:<46} {:>28} {:>9.2} {:>8.2} {:>8.1}% {:>8.3}",
            scores.join(" "),
            row.agreement,
            row.flicker,
            row.inferred,
            row.propagation_ms
        );
    }
}

fn rows(ways: &[Way], sums: &[Sums]) -> Vec<Row> {
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
    ways.iter()
        .zip(sums)
        .map(|(&way, s)| {
            let mut mean_iou: Vec<f64> = s
                .matrices
                .iter()
                .map(|m| 100.0 * m.mean_iou().unwrap_or(0.0))
                .collect();
            if let Some((first, others)) = s.matrices.split_first() {
                let mut all = first.clone();
                others.iter().for_each(|m| all.merge(m));
                mean_iou.push(100.0 * all.mean_iou().unwrap_or(0.0));
            }
            Row {
                way,
                mean_iou,
                agreement: percent(s.agree, s.compared),
                flicker: percent(s.flicker, s.at_rest),
                inferred: percent(s.inferred, s.frames),
                propagation_ms: s.ns as f64 / 1e6 / s.frames.max(1) as f64,
            }
        })
        .collect()
}

/// Truth is known.
fn on_stills(
    root: &Path,
    engine: &mut Engine,
    classes: usize,
    ways: &[Way],
    limit: Option<usize>,
) -> Result<Vec<Row>> {
    let mut samples = Dataset::open(Format::Voc, root)?.split("val")?;
    samples.truncate(limit.unwrap_or(usize::MAX).max(1));
    let mut sums = vec![Sums::default(); ways.len()];
    for s in &mut sums {
        s.matrices = vec![ConfusionMatrix::new(classes); SPEEDS.len()];
    }
    let format = FrameFormat::new(PixelFormat::Rgb24, WIDTH, HEIGHT);
    let bar = crate::cli::image::progress(samples.len());
    for (n, sample) in samples.iter().enumerate() {
        let (picture, labels) = sample.load()?;
        for (at, &speed) in SPEEDS.iter().enumerate() {
            let motion = Motion::of(n, speed);
            let (mut frames, mut truths) = (Vec::new(), Vec::new());
            for t in 0..FRAMES {
                let (data, truth) = make_frame(&picture, &labels, motion, t);
                let mut frame = Inferred {
                    format,
                    data,
                    answer: Answer::empty(),
                };
                let mut answer = Answer::empty();
                engine.infer(&frame.image()?, &mut answer)?;
                frame.answer = answer;
                frames.push(frame);
                truths.push(truth);
            }
            for (way, s) in ways.iter().zip(&mut sums) {
                let mut ns = 0;
                masks_of(engine, &frames, *way, &mut ns, |t, mask, is_key| {
                    s.frames += 1;
                    s.inferred += u64::from(is_key);
                    if let (true, Some(mask)) = (t >= SCORED_FROM, mask) {
                        s.matrices[at].add(&truths[t], &mask.labels);
                    }
                })?;
                s.ns += ns;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows(ways, &sums))
}

/// Truth is what inferring each frame gives.
fn on_clip(path: &Path, engine: &mut Engine, ways: &[Way], limit: Option<usize>) -> Result<Vec<Row>> {
    let spec = parse_uri(&path.to_string_lossy())?;
    let options = CaptureOptions {
        pace: Pace::AsFastAsPossible,
        ..CaptureOptions::default()
    };
    let mut source = spec.opener(&options, RealClock::shared())?.open()?;
    let format = source.format();
    let pool = FramePool::new(4, format.packed_bytes());
    let mut frames: Vec<Inferred> = Vec::new();
    while frames.len() < limit.unwrap_or(usize::MAX) {
        match source.next_frame(&pool, std::time::Duration::from_secs(5))? {
            Capture::Frame(frame) => {
                let mut answer = Answer::empty();
                engine.infer(&frame.image(), &mut answer)?;
                frames.push(Inferred {
                    format: frame.format,
                    data: frame.data.to_vec(),
                    answer,
                });
            }
            Capture::Dropped => {}
            Capture::NewFormat | Capture::Timeout | Capture::End => break,
        }
    }
    let luma = |frame: &Inferred| -> Result<Vec<u8>> {
        let image = frame.image()?;
        let rows = (0..image.height()).flat_map(|y| image.plane(0).row(y, image.width()).to_vec());
        Ok(rows.collect())
    };
    let lumas = frames.iter().map(luma).collect::<Result<Vec<_>>>()?;
    let width = frames.first().map_or(1, |f| f.format.width);
    let at_rest: Vec<Vec<bool>> = lumas
        .windows(2)
        .map(|two| squares_at_rest(&two[1], &two[0], width))
        .collect();
    let mut truth: Vec<LabelMap> = Vec::new();
    let mut ns = 0;
    masks_of(engine, &frames, EVERY_FRAME, &mut ns, |_, mask, _| {
        truth.extend(mask.cloned())
    })?;
    let mut sums = vec![Sums::default(); ways.len()];
    for (way, s) in ways.iter().zip(&mut sums) {
        let mut before: Option<LabelMap> = None;
        let mut ns = 0;
        masks_of(engine, &frames, *way, &mut ns, |t, mask, is_key| {
            s.frames += 1;
            s.inferred += u64::from(is_key);
            let Some(mask) = mask else { return };
            let pairs = mask.labels.iter().zip(&truth[t].labels);
            s.agree += pairs.filter(|(a, b)| a == b).count() as u64;
            s.compared += mask.labels.len() as u64;
            if let Some(before) = &before {
                let columns = mask.width / SQUARE;
                for (square, _) in at_rest[t - 1].iter().enumerate().filter(|(_, rest)| **rest) {
                    let (row, column) = (square / columns, square % columns);
                    for y in row * SQUARE..(row + 1) * SQUARE {
                        let at = y * mask.width + column * SQUARE;
                        let labels = mask.labels[at..at + SQUARE]
                            .iter()
                            .zip(&before.labels[at..at + SQUARE]);
                        s.at_rest += SQUARE as u64;
                        s.flicker += labels.filter(|(a, b)| a != b).count() as u64;
                    }
                }
            }
            before = Some(mask.clone());
        })?;
        s.ns = ns;
    }
    Ok(rows(ways, &sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_at_rest_where_a_motion_would_be_seen() {
        let (width, height) = (4 * SQUARE, 2 * SQUARE);
        let textured = |x: usize, y: usize| ((x * 37 + y * 59) ^ (x * y)) as u8;
        let picture = |value: &dyn Fn(usize, usize) -> u8| -> Vec<u8> {
            (0..width * height)
                .map(|at| value(at % width, at / width))
                .collect()
        };
        let still = picture(&textured);
        assert_eq!(squares_at_rest(&still, &still, width), [true; 8]);
        let moved = picture(&|x, y| textured(x + 1, y));
        assert_eq!(squares_at_rest(&moved, &still, width), [false; 8]);
        // Noise is no motion; but where there is nothing else to see, nobody can tell.
        let noisy = picture(&|x, y| textured(x, y).saturating_add(((x + y) % 2) as u8));
        assert_eq!(squares_at_rest(&noisy, &still, width), [true; 8]);
        let flat = picture(&|_, _| 90);
        assert_eq!(squares_at_rest(&flat, &flat, width), [false; 8]);
    }
}
