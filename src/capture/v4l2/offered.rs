//! The modes that a device offers, asked of its driver.

use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::video::Capture as VideoCapture;
use v4l::{Device, Fraction};

use super::error::EINVAL;
use super::mode::{Encoding, Interval, Mode, Rates, Sizes};

pub(super) fn interval(fraction: Fraction) -> Interval {
    Interval {
        numerator: fraction.numerator,
        denominator: fraction.denominator,
    }
}

/// The modes of a device that segd can read. Stepwise modes state their rates at the size nearest to
/// `width` x `height`.
///
/// # Errors
/// Why there are none.
pub(super) fn modes_of(device: &Device, width: u32, height: u32) -> std::result::Result<Vec<Mode>, String> {
    // Asking for the format tells devices that capture no pictures apart: an empty list doesn't.
    device.format().map_err(|e| match e.raw_os_error() {
        Some(EINVAL) => {
            "it gives no pictures: a metadata node, an encoder, or a multi-planar device".to_owned()
        }
        _ => e.to_string(),
    })?;
    let formats = device.enum_formats().map_err(|e| e.to_string())?;
    let mut modes = Vec::new();
    for description in &formats {
        let Some(encoding) = Encoding::from_fourcc(description.fourcc.repr) else {
            continue;
        };
        let sizes = match device.enum_framesizes(description.fourcc) {
            Ok(sizes) => sizes.into_iter().map(|s| s.size).map(sizes_of).collect(),
            // Drivers that don't tell have the one size that they stand at.
            Err(_) => device.format().map_or_else(
                |_| Vec::new(),
                |f| {
                    vec![Sizes::Discrete {
                        width: f.width,
                        height: f.height,
                    }]
                },
            ),
        };
        for sizes in sizes {
            let (w, h) = sizes.nearest(width, height);
            let rates = device
                .enum_frameintervals(description.fourcc, w, h)
                .map_or(Rates::Unknown, |intervals| {
                    rates_of(intervals.into_iter().map(|i| i.interval))
                });
            modes.push(Mode {
                encoding,
                sizes,
                rates,
            });
        }
    }
    if modes.is_empty() {
        let offered: Vec<String> = formats.iter().map(|f| f.fourcc.to_string()).collect();
        return Err(format!(
            "it offers {}; segd reads YUYV, UYVY, NV12, YU12 and MJPG",
            if offered.is_empty() {
                "no format".to_owned()
            } else {
                offered.join(", ")
            }
        ));
    }
    Ok(modes)
}

fn sizes_of(size: FrameSizeEnum) -> Sizes {
    match size {
        FrameSizeEnum::Discrete(size) => Sizes::Discrete {
            width: size.width,
            height: size.height,
        },
        FrameSizeEnum::Stepwise(s) => Sizes::Stepwise {
            width: (s.min_width, s.max_width, s.step_width),
            height: (s.min_height, s.max_height, s.step_height),
        },
    }
}

fn rates_of(intervals: impl Iterator<Item = FrameIntervalEnum>) -> Rates {
    let mut list = Vec::new();
    for given in intervals {
        match given {
            FrameIntervalEnum::Discrete(fraction) => list.push(interval(fraction)),
            FrameIntervalEnum::Stepwise(step) => {
                return Rates::Range {
                    min: interval(step.min),
                    max: interval(step.max),
                };
            }
        }
    }
    if list.is_empty() {
        Rates::Unknown
    } else {
        Rates::Discrete(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_from_what_the_driver_lists() {
        let list = [(1, 30), (1001, 30000)].map(|(n, d)| FrameIntervalEnum::Discrete(Fraction::new(n, d)));
        assert_eq!(
            rates_of(list.into_iter()),
            Rates::Discrete(vec![
                Interval::of_rate(30.0),
                interval(Fraction::new(1001, 30000))
            ])
        );
        assert_eq!(rates_of(std::iter::empty()), Rates::Unknown);
        let step = v4l::frameinterval::Stepwise {
            min: Fraction::new(1, 60),
            max: Fraction::new(1, 1),
            step: Fraction::new(1, 1),
        };
        assert_eq!(
            rates_of(std::iter::once(FrameIntervalEnum::Stepwise(step))),
            Rates::Range {
                min: Interval::of_rate(60.0),
                max: Interval::of_rate(1.0)
            }
        );
    }
}
