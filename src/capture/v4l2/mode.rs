//! Which of a camera's modes comes nearest to what is wanted.

use std::fmt;

/// A frame interval in seconds, as V4L2 states it: `numerator / denominator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Seconds, times the denominator.
    pub numerator: u32,
    /// Parts of a second, not 0.
    pub denominator: u32,
}

impl Interval {
    /// The interval of `fps` frames per second, exact to a thousandth of a frame.
    pub fn of_rate(fps: f64) -> Self {
        let thousandths = (fps * 1000.0).round().clamp(1.0, f64::from(u32::MAX)) as u32;
        if thousandths.is_multiple_of(1000) {
            Self {
                numerator: 1,
                denominator: thousandths / 1000,
            }
        } else {
            Self {
                numerator: 1000,
                denominator: thousandths,
            }
        }
    }

    /// Frames per second; `None` for an interval of 0, which broken drivers state.
    pub fn rate(&self) -> Option<f64> {
        (self.numerator > 0 && self.denominator > 0)
            .then(|| f64::from(self.denominator) / f64::from(self.numerator))
    }
}

/// How a camera encodes its pictures, cheapest for the pipeline first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// 4:2:0, what encoders take (`YU12`).
    I420,
    /// 4:2:0 with interleaved chroma (`NV12`).
    Nv12,
    /// 4:2:2, a third more bytes (`YUYV`).
    Yuyv,
    /// 4:2:2 with chroma first (`UYVY`): turned into `Yuyv` as it is copied.
    Uyvy,
    /// A JPEG a picture, which has to be decoded (`MJPG`, `JPEG`).
    Mjpeg,
}

impl Encoding {
    /// The encoding of a V4L2 pixel format; `None` for those that segd doesn't read.
    /// (<https://docs.kernel.org/userspace-api/media/v4l/pixfmt.html>)
    pub fn from_fourcc(fourcc: [u8; 4]) -> Option<Self> {
        match &fourcc {
            b"YU12" => Some(Self::I420),
            b"NV12" => Some(Self::Nv12),
            b"YUYV" => Some(Self::Yuyv),
            b"UYVY" => Some(Self::Uyvy),
            b"MJPG" | b"JPEG" => Some(Self::Mjpeg),
            _ => None,
        }
    }
}

/// The sizes that a mode comes in, in pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    /// One size.
    Discrete {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// All sizes from the smallest to the largest in steps: minimum, maximum, step.
    Stepwise {
        /// Pixels a row.
        width: (u32, u32, u32),
        /// Rows.
        height: (u32, u32, u32),
    },
}

impl Sizes {
    /// The size nearest to the wanted one.
    pub fn nearest(&self, width: u32, height: u32) -> (u32, u32) {
        match *self {
            Self::Discrete { width, height } => (width, height),
            Self::Stepwise { width: w, height: h } => (nearest_step(w, width), nearest_step(h, height)),
        }
    }
}

fn nearest_step((min, max, step): (u32, u32, u32), wanted: u32) -> u32 {
    let (max, step) = (max.max(min), step.max(1));
    let steps = (wanted.clamp(min, max) - min + step / 2) / step;
    min + steps.min((max - min) / step) * step
}

/// The rates that a mode comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rates {
    /// The driver doesn't tell.
    Unknown,
    /// These.
    Discrete(Vec<Interval>),
    /// All from the shortest to the longest interval.
    Range {
        /// The shortest: the highest rate.
        min: Interval,
        /// The longest: the lowest rate.
        max: Interval,
    },
}

impl Rates {
    /// The interval nearest to `fps`, if the driver tells any.
    pub fn nearest(&self, fps: f64) -> Option<Interval> {
        match self {
            Self::Unknown => None,
            Self::Discrete(intervals) => intervals
                .iter()
                .filter(|i| i.rate().is_some())
                .min_by(|a, b| rate_gap(Some(**a), fps).total_cmp(&rate_gap(Some(**b), fps)))
                .copied(),
            Self::Range { min, max } => match (min.rate(), max.rate()) {
                (Some(highest), _) if fps >= highest => Some(*min),
                (_, Some(lowest)) if fps <= lowest => Some(*max),
                _ => Some(Interval::of_rate(fps)),
            },
        }
    }
}

/// How far a rate is from the wanted one; within 2 % it is the same, and too few frames are worse than
/// too many. An unknown rate is worse than the right one and better than one that is known to be wrong.
fn rate_gap(interval: Option<Interval>, wanted: f64) -> f64 {
    match interval.and_then(|i| i.rate()) {
        None => 0.05,
        Some(rate) => {
            let relative = (rate - wanted) / wanted;
            if relative.abs() <= 0.02 {
                0.0
            } else if relative < 0.0 {
                -2.0 * relative
            } else {
                relative
            }
        }
    }
}

/// One of the modes that a camera offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode {
    /// How pictures are encoded.
    pub encoding: Encoding,
    /// The sizes.
    pub sizes: Sizes,
    /// The rates at these sizes.
    pub rates: Rates,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.encoding)?;
        match self.sizes {
            Sizes::Discrete { width, height } => write!(f, "{width}x{height}")?,
            Sizes::Stepwise { width, height } => {
                write!(f, "{}x{} to {}x{}", width.0, height.0, width.1, height.1)?;
            }
        }
        let rate = |interval: &Interval| {
            interval
                .rate()
                .map_or_else(|| "?".to_owned(), |r| format!("{r:.4}"))
        };
        let trim = |text: String| text.trim_end_matches('0').trim_end_matches('.').to_owned();
        match &self.rates {
            Rates::Unknown => Ok(()),
            Rates::Discrete(list) => {
                let rates: Vec<String> = list.iter().map(|i| trim(rate(i))).collect();
                write!(f, " at {} fps", rates.join(", "))
            }
            Rates::Range { min, max } => write!(f, " at {} to {} fps", trim(rate(max)), trim(rate(min))),
        }
    }
}

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames per second, above 0.
    pub fps: f64,
}

/// What to ask the driver for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// How pictures are encoded.
    pub encoding: Encoding,
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The frame interval, if the driver tells any.
    pub interval: Option<Interval>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}x{}", self.encoding, self.width, self.height)?;
        match self.interval.and_then(|i| i.rate()) {
            Some(rate) => write!(f, " at {rate:.4} fps"),
            None => Ok(()),
        }
    }
}

/// The mode nearest to what is wanted: first by size, then by rate, then by what it costs to use.
/// Of two sizes equally far the larger wins. `None` if no mode has a size.
pub fn choose_mode(available: &[Mode], wanted: &Wanted) -> Option<Choice> {
    let fps = if wanted.fps > 0.0 { wanted.fps } else { 30.0 };
    available
        .iter()
        .map(|mode| {
            let (width, height) = mode.sizes.nearest(wanted.width, wanted.height);
            Choice {
                encoding: mode.encoding,
                width,
                height,
                interval: mode.rates.nearest(fps),
            }
        })
        .filter(|choice| choice.width > 0 && choice.height > 0)
        .min_by(|a, b| {
            let distance = |c: &Choice| {
                u64::from(c.width.abs_diff(wanted.width)) + u64::from(c.height.abs_diff(wanted.height))
            };
            let area = |c: &Choice| u64::from(c.width) * u64::from(c.height);
            distance(a)
                .cmp(&distance(b))
                .then_with(|| area(b).cmp(&area(a)))
                .then_with(|| rate_gap(a.interval, fps).total_cmp(&rate_gap(b.interval, fps)))
                .then_with(|| a.encoding.cmp(&b.encoding))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fps(rates: &[u32]) -> Rates {
        let interval = |&denominator: &u32| Interval {
            numerator: 1,
            denominator,
        };
        Rates::Discrete(rates.iter().map(interval).collect())
    }

    fn mode(encoding: Encoding, width: u32, height: u32, rates: &[u32]) -> Mode {
        Mode {
            encoding,
            sizes: Sizes::Discrete { width, height },
            rates: fps(rates),
        }
    }

    /// A common USB 2 webcam (Logitech C920): raw pictures are slow where they are large.
    fn webcam() -> Vec<Mode> {
        use Encoding::{Mjpeg, Yuyv};
        vec![
            mode(Yuyv, 640, 480, &[30, 24, 20, 15, 10, 5]),
            mode(Yuyv, 320, 240, &[30, 24, 20, 15, 10, 5]),
            mode(Yuyv, 1280, 720, &[10, 5]),
            mode(Yuyv, 1920, 1080, &[5]),
            mode(Mjpeg, 640, 480, &[30, 24, 20, 15, 10, 5]),
            mode(Mjpeg, 1280, 720, &[60, 30, 24]),
            mode(Mjpeg, 1920, 1080, &[30, 24]),
        ]
    }

    /// vivid, the kernel's virtual camera: sizes with fractional rates.
    fn vivid() -> Vec<Mode> {
        let ntsc = Interval {
            numerator: 1001,
            denominator: 30000,
        };
        [Encoding::Yuyv, Encoding::Nv12, Encoding::I420]
            .map(|encoding| Mode {
                encoding,
                sizes: Sizes::Discrete {
                    width: 640,
                    height: 360,
                },
                rates: Rates::Discrete(vec![ntsc, Interval::of_rate(15.0)]),
            })
            .to_vec()
    }

    /// A sensor behind an image processor: any size in steps, any rate up to 60.
    fn sensor() -> Vec<Mode> {
        vec![Mode {
            encoding: Encoding::Nv12,
            sizes: Sizes::Stepwise {
                width: (32, 3280, 32),
                height: (32, 2464, 2),
            },
            rates: Rates::Range {
                min: Interval::of_rate(60.0),
                max: Interval::of_rate(1.0),
            },
        }]
    }

    fn choose(modes: &[Mode], width: u32, height: u32, fps: f64) -> String {
        choose_mode(modes, &Wanted { width, height, fps })
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_webcam_gives_raw_pictures_where_they_are_fast_enough() {
        let modes = webcam();
        assert_eq!(choose(&modes, 640, 480, 30.0), "Yuyv 640x480 at 30.0000 fps");
        assert_eq!(choose(&modes, 1280, 720, 30.0), "Mjpeg 1280x720 at 30.0000 fps");
        assert_eq!(choose(&modes, 1280, 720, 10.0), "Yuyv 1280x720 at 10.0000 fps");
        assert_eq!(choose(&modes, 1280, 720, 60.0), "Mjpeg 1280x720 at 60.0000 fps");
        // Sizes that it lacks.
        assert_eq!(choose(&modes, 1300, 740, 30.0), "Mjpeg 1280x720 at 30.0000 fps");
        assert_eq!(choose(&modes, 4096, 2160, 30.0), "Mjpeg 1920x1080 at 30.0000 fps");
        assert_eq!(choose(&modes, 1, 1, 30.0), "Yuyv 320x240 at 30.0000 fps");
        // Rates that it lacks: rather too many frames than too few.
        assert_eq!(choose(&modes, 640, 480, 22.0), "Yuyv 640x480 at 24.0000 fps");
        assert_eq!(choose(&modes, 640, 480, 120.0), "Yuyv 640x480 at 30.0000 fps");
    }

    #[test]
    fn modes_as_text() {
        assert_eq!(webcam()[2].to_string(), "Yuyv 1280x720 at 10, 5 fps");
        assert_eq!(vivid()[0].to_string(), "Yuyv 640x360 at 29.97, 15 fps");
        assert_eq!(sensor()[0].to_string(), "Nv12 32x32 to 3280x2464 at 1 to 60 fps");
    }

    #[test]
    fn fractional_rates_count_as_the_whole_ones() {
        let choice = choose_mode(
            &vivid(),
            &Wanted {
                width: 640,
                height: 480,
                fps: 30.0,
            },
        );
        assert_eq!(
            choice.unwrap(),
            Choice {
                encoding: Encoding::I420,
                width: 640,
                height: 360,
                interval: Some(Interval {
                    numerator: 1001,
                    denominator: 30000
                })
            }
        );
    }

    #[test]
    fn stepwise_sizes_are_rounded_to_a_step() {
        assert_eq!(choose(&sensor(), 640, 480, 30.0), "Nv12 640x480 at 30.0000 fps");
        assert_eq!(choose(&sensor(), 650, 481, 29.97), "Nv12 640x482 at 29.9700 fps");
        assert_eq!(
            choose(&sensor(), 10_000, 10_000, 500.0),
            "Nv12 3264x2464 at 60.0000 fps"
        );
        assert_eq!(choose(&sensor(), 0, 0, 0.5), "Nv12 32x32 at 1.0000 fps");
    }

    #[test]
    fn unknown_rates_lose_to_the_right_one_and_win_over_a_wrong_one() {
        let unknown = Mode {
            encoding: Encoding::Yuyv,
            sizes: Sizes::Discrete {
                width: 640,
                height: 480,
            },
            rates: Rates::Unknown,
        };
        let jpeg = |rate| mode(Encoding::Mjpeg, 640, 480, &[rate]);
        assert_eq!(
            choose(&[unknown.clone(), jpeg(30)], 640, 480, 30.0),
            "Mjpeg 640x480 at 30.0000 fps"
        );
        assert_eq!(choose(&[unknown, jpeg(10)], 640, 480, 30.0), "Yuyv 640x480");
    }

    #[test]
    fn broken_modes_do_no_harm() {
        let zero = Interval {
            numerator: 0,
            denominator: 0,
        };
        assert_eq!(
            choose_mode(
                &[],
                &Wanted {
                    width: 1,
                    height: 1,
                    fps: 1.0
                }
            ),
            None
        );
        let modes = [
            mode(Encoding::Yuyv, 0, 0, &[30]),
            Mode {
                encoding: Encoding::Mjpeg,
                sizes: Sizes::Stepwise {
                    width: (640, 320, 0),
                    height: (480, 480, 0),
                },
                rates: Rates::Discrete(vec![zero]),
            },
        ];
        assert_eq!(choose(&modes, 1, 1, f64::NAN), "Mjpeg 640x480");
    }

    #[test]
    fn rates_as_intervals() {
        assert_eq!(
            Interval::of_rate(30.0),
            Interval {
                numerator: 1,
                denominator: 30
            }
        );
        assert_eq!(
            Interval::of_rate(29.97),
            Interval {
                numerator: 1000,
                denominator: 29970
            }
        );
        assert_eq!(Interval::of_rate(0.5).rate(), Some(0.5));
    }

    proptest! {
        #[test]
        fn a_step_is_one_of_the_steps_and_the_nearest(
            min in 0u32..500, span in 0u32..500, step in 1u32..70, wanted in 0u32..1500
        ) {
            let got = nearest_step((min, min + span, step), wanted);
            let best = (min..=min + span).step_by(step as usize).map(|s| s.abs_diff(wanted)).min().unwrap();
            prop_assert!(got >= min && got <= min + span && (got - min).is_multiple_of(step));
            prop_assert_eq!(got.abs_diff(wanted), best);
        }
    }
}
