//! A decoded picture, out of GStreamer's memory into ours.

use gstreamer as gst;
use gstreamer_video::{self as gst_video, VideoFrameExt, VideoFrameRef, VideoInfo};

use super::color::colorimetry;
use vision::error::{Error, Result};
use vision::frame::{FrameFormat, ImageRef, PixelFormat, Plane, Range};
use vision::picture::over;

/// The format of pictures with `caps`, in GStreamer's terms and in ours.
///
/// # Errors
/// Fatal, naming the source, for what is no picture that can be read.
pub(super) fn format_of(caps: &gst::CapsRef, name: &str) -> Result<(VideoInfo, FrameFormat)> {
    let info = VideoInfo::from_caps(caps)
        .map_err(|e| Error::fatal(format!("{name}: not a video format: {caps}")).caused_by(e))?;
    let pixel = match info.format() {
        gst_video::VideoFormat::I420 | gst_video::VideoFormat::A420 => PixelFormat::I420,
        gst_video::VideoFormat::Nv12 => PixelFormat::Nv12,
        gst_video::VideoFormat::Yuy2 => PixelFormat::Yuyv,
        other => return Err(Error::fatal(format!("{name}: pictures in {other:?}"))),
    };
    let format = FrameFormat {
        pixel,
        width: info.width() as usize,
        height: info.height() as usize,
        color: colorimetry(caps, &info),
    };
    Ok((info, format))
}

/// Frames per second, if the caps tell.
pub(super) fn rate(info: &VideoInfo) -> Option<f64> {
    let fps = info.fps();
    (fps.numer() > 0 && fps.denom() > 0).then(|| f64::from(fps.numer()) / f64::from(fps.denom()))
}

/// A format in words.
pub(super) fn text(format: &FrameFormat) -> String {
    format!(
        "{:?} {}x{} {:?} {:?}",
        format.pixel, format.width, format.height, format.color.matrix, format.color.range
    )
}

/// Copies the picture out of `GStreamer`'s memory, whose buffers a decoder or camera has few of. Transparent parts are
/// laid onto white.
///
/// # Errors
/// Why it can't be read.
pub(super) fn copy(
    buffer: &gst::BufferRef,
    info: &VideoInfo,
    format: FrameFormat,
    out: &mut [u8],
) -> Result<(), String> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info)
        .map_err(|_| format!("not a {:?} picture", info.format()))?;
    let plane = |index: usize| -> Result<Plane<'_>, String> {
        let stride = frame.plane_stride().get(index).copied().unwrap_or(0);
        Ok(Plane {
            data: frame.plane_data(index as u32).map_err(|e| e.to_string())?,
            stride: usize::try_from(stride).map_err(|_| format!("stride {stride}"))?,
        })
    };
    let mut planes = [Plane { data: &[], stride: 0 }; 3];
    let count = format.pixel.planes();
    for (index, to) in planes.iter_mut().enumerate().take(count) {
        *to = plane(index)?;
    }
    ImageRef::new(format, &planes[..count])?.copy_packed(out);
    if info.format() == gst_video::VideoFormat::A420 {
        let alpha = plane(3)?;
        let needed = alpha.stride * (format.height - 1) + format.width;
        if alpha.stride < format.width || alpha.data.len() < needed {
            return Err("its transparency has too few bytes".to_owned());
        }
        onto_white(format, alpha, out);
    }
    Ok(())
}

/// Lays an I420 picture onto white: one byte of `alpha` for each pixel.
fn onto_white(format: FrameFormat, alpha: Plane<'_>, out: &mut [u8]) {
    let (width, height) = (format.width, format.height);
    let white = match format.color.range {
        Range::Limited => 235,
        Range::Full => 255,
    };
    let (luma, chroma) = out.split_at_mut(width * height);
    for (y, row) in luma.chunks_exact_mut(width).enumerate() {
        for (sample, &alpha) in row.iter_mut().zip(alpha.row(y, width)) {
            *sample = over(*sample, white, alpha);
        }
    }
    let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
    let (us, vs) = chroma.split_at_mut(half_w * half_h);
    for cy in 0..half_h {
        let rows = [2 * cy, (2 * cy + 1).min(height - 1)].map(|y| alpha.row(y, width));
        for cx in 0..half_w {
            let columns = [2 * cx, (2 * cx + 1).min(width - 1)];
            let sum: u32 = rows
                .iter()
                .flat_map(|row| columns.map(|x| u32::from(row[x])))
                .sum();
            let alpha = ((sum + 2) / 4) as u8;
            for plane in [&mut *us, &mut *vs] {
                let sample = &mut plane[cy * half_w + cx];
                *sample = over(*sample, 128, alpha);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparent_parts_become_white() {
        let format = FrameFormat::new(PixelFormat::I420, 3, 3);
        let mut out = vec![50; format.packed_bytes()];
        // The right column and the last row can't be seen; rows are padded by a byte.
        let alpha = [255, 255, 0, 9, 255, 255, 0, 9, 0, 0, 0];
        onto_white(
            format,
            Plane {
                data: &alpha,
                stride: 4,
            },
            &mut out,
        );
        assert_eq!(out[..9], [50, 50, 235, 50, 50, 235, 235, 235, 235]);
        assert_eq!(out[9..], [50, 128, 128, 128, 50, 128, 128, 128]);
        let mut full = format;
        full.color.range = Range::Full;
        let mut out = vec![50; format.packed_bytes()];
        onto_white(
            full,
            Plane {
                data: &[0; 9],
                stride: 3,
            },
            &mut out,
        );
        assert_eq!(out[..9], [255; 9]);
    }
}
